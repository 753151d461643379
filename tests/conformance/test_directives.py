"""Directive Send and Receive: Identify and Streams, over every transport."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

import pytest
from nvmehost import BROADCAST, QUICK, NvmeHost, connected, tcp_host, tcp_target

from nvme_emu.spec.commands import COPY_CDW12, RW_CDW12
from nvme_emu.spec.commands_admin import DIRECTIVE_CDW11
from nvme_emu.spec.directives import (
    DIRECTIVE_PARAMETERS,
    ENABLE_DIRECTIVE_CDW12,
    STREAMS_PARAMETERS,
    DirectiveType,
    IdentifyReceive,
    IdentifySend,
    StreamsReceive,
    StreamsSend,
)
from nvme_emu.spec.identify import IDENTIFY_CONTROLLER, OACS, Cns
from nvme_emu.spec.opcodes import AdminOpcode, NvmOpcode
from nvme_emu.spec.registers import NSSR_MAGIC, Reg
from nvme_emu.spec.status import Status

IDENTIFY, STREAMS = DirectiveType.IDENTIFY, DirectiveType.STREAMS
DATA = bytes(range(256)) * 2


def receive(host: NvmeHost, dtype: int, doper: int, nsid: int = 1, nbytes: int = 4096, cdw12: int = 0) -> Any:
    cdw11 = DIRECTIVE_CDW11.pack(dtype=dtype, doper=doper)
    numd = max(nbytes // 4 - 1, 0)
    return host.admin(
        AdminOpcode.DIRECTIVE_RECEIVE, nsid, cdw10=numd, cdw11=cdw11, cdw12=cdw12, nbytes=nbytes
    )


def send(host: NvmeHost, dtype: int, doper: int, nsid: int = 1, dspec: int = 0, cdw12: int = 0) -> int:
    cdw11 = DIRECTIVE_CDW11.pack(dtype=dtype, doper=doper, dspec=dspec)
    return host.admin(AdminOpcode.DIRECTIVE_SEND, nsid, cdw11=cdw11, cdw12=cdw12).status


def enable(host: NvmeHost, on: bool = True, nsid: int = 1, dtype: int = STREAMS) -> int:
    how = ENABLE_DIRECTIVE_CDW12.pack(endir=int(on), dtype=dtype)
    return send(host, IDENTIFY, IdentifySend.ENABLE_DIRECTIVE, nsid, cdw12=how)


def enabled(host: NvmeHost, nsid: int = 1) -> tuple[int, int]:
    """(supported, enabled): a bit for each directive."""
    found = DIRECTIVE_PARAMETERS.parse(receive(host, IDENTIFY, IdentifyReceive.RETURN_PARAMETERS, nsid).data)
    return int.from_bytes(found.supported, "little"), int.from_bytes(found.enabled, "little")


def streams(host: NvmeHost, nsid: int = 1) -> dict[str, int]:
    answer = receive(host, STREAMS, StreamsReceive.RETURN_PARAMETERS, nsid, 32)
    assert answer.status == 0
    return STREAMS_PARAMETERS.parse(answer.data)


def open_streams(host: NvmeHost, nsid: int = 1) -> list[int]:
    data = receive(host, STREAMS, StreamsReceive.GET_STATUS, nsid, 64).data
    (count,) = struct.unpack_from("<H", data)
    return list(struct.unpack_from(f"<{count}H", data, 2))


def allocate(host: NvmeHost, wanted: int, nsid: int = 1) -> Any:
    return receive(host, STREAMS, StreamsReceive.ALLOCATE_RESOURCES, nsid, 0, cdw12=wanted)


def write(host: NvmeHost, stream: int, slba: int = 0, nsid: int = 1, opcode: int = NvmOpcode.WRITE) -> int:
    data = DATA if opcode == NvmOpcode.WRITE else None
    cdw12 = RW_CDW12.pack(dtype=STREAMS)
    return host.io(opcode, nsid, slba=slba, cdw12=cdw12, cdw13=stream << 16, data=data).status


def test_identify_directive_tells_what_is_there_and_enabled(host: NvmeHost) -> None:
    assert OACS.unpack(IDENTIFY_CONTROLLER.parse(host.identify(Cns.CONTROLLER).data).oacs).dirs == 1
    assert enabled(host) == (0b11, 0b01)

    assert enable(host) == 0

    assert enabled(host) == enabled(host, BROADCAST) == (0b11, 0b11)
    assert enable(host, False) == 0
    assert enabled(host) == (0b11, 0b01)


@pytest.mark.parametrize(
    ("dtype", "doper", "nsid", "status"),
    [
        (2, 1, 1, Status.INVALID_FIELD),
        (IDENTIFY, 2, 1, Status.INVALID_FIELD),
        (STREAMS, 4, 1, Status.INVALID_FIELD),
        (IDENTIFY, 1, 2, Status.INVALID_FIELD),
        (IDENTIFY, 1, 0, Status.INVALID_NS),
        (IDENTIFY, 1, 99, Status.INVALID_NS),
        (STREAMS, StreamsReceive.GET_STATUS, BROADCAST, Status.INVALID_FIELD),
        (STREAMS, StreamsReceive.RETURN_PARAMETERS, 1, Status.INVALID_FIELD),
    ],
)
def test_directive_that_cannot_be_is_refused(
    host: NvmeHost, dtype: int, doper: int, nsid: int, status: Status
) -> None:
    assert receive(host, dtype, doper, nsid, 64).status == status
    if dtype != IDENTIFY or doper != 1:
        assert send(host, dtype, 3 if dtype == STREAMS else doper, nsid) == Status.INVALID_FIELD


def test_directive_that_is_not_streams_cannot_be_enabled(host: NvmeHost) -> None:
    for dtype in (IDENTIFY, DirectiveType.DATA_PLACEMENT, 200):
        assert enable(host, dtype=dtype) == Status.INVALID_FIELD


def test_streams_are_opened_by_writes_and_closed_by_the_host(host: NvmeHost) -> None:
    enable(host)
    before = streams(host)
    assert (before["msl"], before["nssa"], before["nsso"], before["nsa"], before["nso"]) == (16, 16, 0, 0, 0)
    assert before["sws"] * 512 % 4096 == 0
    assert before["sgs"] > 0

    assert [write(host, stream) for stream in (7, 65535, 7, 0)] == [0] * 4
    assert write(host, 9, opcode=NvmOpcode.WRITE_ZEROES) == 0
    assert write(host, 3, slba=90, opcode=NvmOpcode.WRITE_UNCORRECTABLE) == 0

    assert open_streams(host) == [7, 65535, 9, 3]
    after = streams(host)
    assert (after["nsso"], after["nso"]) == (4, 4)
    assert streams(host, BROADCAST)["nso"] == streams(host, BROADCAST)["sws"] == 0
    assert send(host, STREAMS, StreamsSend.RELEASE_IDENTIFIER, dspec=65535) == 0
    assert send(host, STREAMS, StreamsSend.RELEASE_IDENTIFIER, dspec=1234) == 0
    assert open_streams(host) == [7, 9, 3]
    assert send(host, STREAMS, StreamsSend.RELEASE_RESOURCES) == 0
    assert open_streams(host) == []
    assert host.io(NvmOpcode.READ, nbytes=512).data == bytes(512)


def test_copy_may_name_a_stream(host: NvmeHost) -> None:
    enable(host)
    host.io(NvmOpcode.WRITE, slba=5, data=DATA)
    table = struct.pack("<8xQH14x", 5, 0)

    how = COPY_CDW12.pack(dtype=STREAMS)
    assert host.io(NvmOpcode.COPY, slba=50, cdw12=how, cdw13=21 << 16, data=table).status == 0

    assert open_streams(host) == [21]
    assert host.io(NvmOpcode.READ, slba=50, nbytes=512).data == DATA


def test_streams_of_a_namespace_are_its_own(host2: NvmeHost) -> None:
    host = host2
    assert enable(host, nsid=BROADCAST) == 0
    assert write(host, 1, nsid=2) == 0

    assert allocate(host, 4).dw0 == 4

    assert allocate(host, 4).status == Status.INVALID_FIELD
    for stream in range(1, 7):
        assert write(host, stream) == 0
    assert open_streams(host) == [1, 2, 3, 4]
    assert (streams(host)["nsa"], streams(host)["nssa"], streams(host)["nsso"]) == (4, 12, 1)
    assert streams(host, 2)["nsa"] == 0
    assert allocate(host, 65535, 2).dw0 == 12
    assert streams(host, 2)["nssa"] == 0
    assert open_streams(host, 2) == []
    assert send(host, STREAMS, StreamsSend.RELEASE_RESOURCES) == 0
    assert allocate(host, 0).status == Status.STREAM_RESOURCE_FAILED
    assert allocate(host, 9).dw0 == 4
    send(host, STREAMS, StreamsSend.RELEASE_RESOURCES)
    assert enable(host, False, 2) == 0
    assert streams(host)["nssa"] == 16


def test_write_with_a_directive_that_is_not_enabled_is_refused(host2: NvmeHost) -> None:
    host = host2
    for opcode in (NvmOpcode.WRITE, NvmOpcode.WRITE_ZEROES, NvmOpcode.WRITE_UNCORRECTABLE):
        assert write(host, 1, opcode=opcode) == Status.INVALID_FIELD
    enable(host)
    assert write(host, 1) == 0
    assert write(host, 1, nsid=2) == Status.INVALID_FIELD
    placed = RW_CDW12.pack(dtype=DirectiveType.DATA_PLACEMENT)
    assert host.io(NvmOpcode.WRITE, cdw12=placed, data=DATA).status == Status.INVALID_FIELD


def test_directives_end_with_a_reset(host: NvmeHost) -> None:
    enable(host)
    allocate(host, 3)

    host.machine.driver.reset()

    assert enabled(host) == (0b11, 0b01)
    enable(host)
    assert streams(host)["nssa"] == 16


def test_subsystem_reset_ends_directives() -> None:
    with connected("inproc") as host:
        enable(host)
        allocate(host, 3)

        host.machine.port.write32(Reg.NSSR, NSSR_MAGIC)
        host.machine.driver.reset()

        assert enabled(host) == (0b11, 0b01)


@pytest.mark.parametrize("transport", ["inproc", "tcp"])
def test_controller_without_streams_says_so(transport: str) -> None:
    with connected(transport, replace(QUICK, streams_max=0)) as host:
        assert enabled(host) == (0b01, 0b01)
        assert enable(host) == Status.INVALID_FIELD
        assert receive(host, STREAMS, 1).status == Status.INVALID_FIELD


def test_hosts_have_streams_of_their_own() -> None:
    with tcp_target(QUICK) as url, tcp_host(url, 1) as one, tcp_host(url, 2) as two:
        enable(one)
        assert enabled(two) == (0b11, 0b01)
        enable(two)
        write(one, 5)
        assert allocate(two, 10).dw0 == 10

        assert (open_streams(one), open_streams(two)) == ([5], [])
        assert (streams(one)["nsa"], streams(one)["nssa"]) == (0, 6)
        with tcp_host(url, 2) as again:
            assert enabled(again) == (0b11, 0b01)
            assert enable(again) == 0
            assert streams(again)["nsa"] == 10
        assert streams(two)["nsa"] == 10
    with tcp_target(QUICK) as url, tcp_host(url, 1) as one:
        enable(one)
        with tcp_host(url, 2) as two:
            enable(two)
            allocate(two, 16)
        one.until(lambda: streams(one)["nssa"] == 16)
