"""What is known of blocks: allocated or not (DULBE), lost or suspect (LBA Status Information), over every transport."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from nvmehost import BROADCAST, QUICK, SIZE, TRANSPORTS, NvmeHost, connected

import nvme_emu
from nvme_emu.spec.commands import COPY_CDW12, DSM_AD, WZ_DEAC
from nvme_emu.spec.commands_admin import GET_LBA_STATUS_CDW13, SANITIZE_CDW10, SanitizeAction
from nvme_emu.spec.features import ASYNC_EVENT_CONFIG, ERROR_RECOVERY, LBA_STATUS_ATTRIBUTES, Fid
from nvme_emu.spec.identify import DLFEAT, IDENTIFY_NAMESPACE, NSFEAT, Cns
from nvme_emu.spec.logs import LBA_STATUS_DESCRIPTOR, LBA_STATUS_LIST_HEADER, Lid
from nvme_emu.spec.logs_lba_status import LBA_RANGE, LBA_STATUS_ELEMENT, LBA_STATUS_LOG
from nvme_emu.spec.opcodes import AdminOpcode, NvmOpcode
from nvme_emu.spec.status import Status

BLOCKS = SIZE // 512
CONFIG = replace(QUICK, track_allocation=True)
DATA = bytes(range(256)) * 2
DULBE = ERROR_RECOVERY.pack(dulbe=1)


@pytest.fixture(params=TRANSPORTS)
def tracked(request: pytest.FixtureRequest) -> Iterator[NvmeHost]:
    """A namespace whose blocks' allocation is tracked."""
    with connected(request.param, CONFIG) as one:
        yield one


def status(host: NvmeHost, atype: int, slba: int = 0, rl: int = 0, nsid: int = 1) -> list[tuple[int, int]]:
    how = GET_LBA_STATUS_CDW13.pack(rl=rl, atype=atype)
    answer = host.admin(
        AdminOpcode.GET_LBA_STATUS, nsid, cdw10=slba, cdw12=1023, cdw13=how, nbytes=4096
    )
    assert answer.status == 0
    header = LBA_STATUS_LIST_HEADER.parse(answer.data)
    found = [LBA_STATUS_DESCRIPTOR.parse(answer.data[8 + 16 * n :]) for n in range(header.nlsd)]
    return [(one.dslba, one.nlb) for one in found]


def in_use(host: NvmeHost) -> int:
    return int(IDENTIFY_NAMESPACE.parse(host.identify(Cns.NAMESPACE, 1).data).nuse)


def write(host: NvmeHost, slba: int, blocks: int = 1) -> None:
    assert host.io(NvmOpcode.WRITE, slba=slba, cdw12=blocks - 1, data=DATA * blocks).status == 0


def test_namespace_says_whether_it_knows_its_blocks(tracked: NvmeHost) -> None:
    data = IDENTIFY_NAMESPACE.parse(tracked.identify(Cns.NAMESPACE, 1).data)

    assert NSFEAT.unpack(data.nsfeat).dae == 1
    assert DLFEAT.unpack(data.dlfeat).drb == 1
    assert (data.nsze, data.nuse) == (BLOCKS, 0)


def test_allocated_blocks_are_those_that_were_written(tracked: NvmeHost) -> None:
    assert status(tracked, 0x02) == []
    write(tracked, 10, 4)
    write(tracked, 14)
    tracked.io(NvmOpcode.WRITE_ZEROES, slba=100, cdw12=9)
    tracked.io(NvmOpcode.WRITE_ZEROES, slba=104, cdw12=1 | WZ_DEAC)
    copied = struct.pack("<8xQH14x", 10, 1)
    assert tracked.io(NvmOpcode.COPY, slba=300, cdw12=COPY_CDW12.pack(), data=copied).status == 0
    tracked.io(NvmOpcode.WRITE_UNCORRECTABLE, slba=400)

    everything = [(10, 5), (100, 4), (106, 4), (300, 2), (400, 1)]
    assert status(tracked, 0x02) == everything
    assert status(tracked, 0x02, 12, 90) == [(12, 3), (100, 2)]
    assert in_use(tracked) == 16
    gone = struct.pack("<IIQ", 0, 2, 11) + struct.pack("<IIQ", 0, 200, 299)
    assert tracked.io(NvmOpcode.DATASET_MANAGEMENT, cdw10=1, cdw11=DSM_AD, data=gone).status == 0
    assert status(tracked, 0x02) == [(10, 1), (13, 2), (100, 4), (106, 4)]


def test_reading_unwritten_blocks_fails_where_the_host_wants_that(tracked: NvmeHost) -> None:
    host = tracked
    write(host, 10, 4)
    assert host.io(NvmOpcode.READ, slba=9, cdw12=1, nbytes=1024).data == bytes(512) + DATA
    assert host.feature(Fid.ERROR_RECOVERY, nsid=1).dw0 == 0

    assert host.set_feature(Fid.ERROR_RECOVERY, DULBE, nsid=1).status == 0

    assert host.feature(Fid.ERROR_RECOVERY, nsid=1).dw0 == DULBE
    assert host.io(NvmOpcode.READ, slba=10, cdw12=3, nbytes=2048).data == DATA * 4
    for opcode, more in (
        (NvmOpcode.READ, {"nbytes": 1024}),
        (NvmOpcode.VERIFY, {}),
        (NvmOpcode.COMPARE, {"data": bytes(512) + DATA}),
    ):
        assert host.io(opcode, slba=9, cdw12=1, **more).status == Status.UNWRITTEN_BLOCK
    copied = struct.pack("<8xQH14x", 13, 1)
    assert host.io(NvmOpcode.COPY, slba=300, data=copied).status == Status.UNWRITTEN_BLOCK
    gone = struct.pack("<IIQ", 0, 1, 12)
    assert host.io(NvmOpcode.DATASET_MANAGEMENT, cdw11=DSM_AD, data=gone).status == 0
    assert host.io(NvmOpcode.READ, slba=12, nbytes=512).status == Status.UNWRITTEN_BLOCK
    write(host, 12)
    assert host.io(NvmOpcode.READ, slba=12, nbytes=512).data == DATA
    assert host.set_feature(Fid.ERROR_RECOVERY, 0, nsid=1).status == 0
    assert host.io(NvmOpcode.READ, slba=9, nbytes=512).data == bytes(512)


def test_format_and_sanitize_deallocate_everything(tracked: NvmeHost) -> None:
    host = tracked
    write(host, 10, 4)
    assert host.admin(AdminOpcode.FORMAT_NVM, 1).status == 0
    assert status(host, 0x02) == []
    write(host, 3)
    how = SANITIZE_CDW10.pack(sanact=SanitizeAction.BLOCK_ERASE)
    assert host.admin(AdminOpcode.SANITIZE, cdw10=how).status == 0
    host.until(lambda: host.io(NvmOpcode.READ, nbytes=512).status == 0)
    assert status(host, 0x02) == []
    how = SANITIZE_CDW10.pack(sanact=SanitizeAction.OVERWRITE, owpass=1, ndas=1)
    assert host.admin(AdminOpcode.SANITIZE, cdw10=how).status == 0
    host.until(lambda: host.io(NvmOpcode.READ, nbytes=512).status == 0)
    assert status(host, 0x02) == [(0, BLOCKS)]


def test_namespace_that_is_not_tracked_has_no_such_errors(host: NvmeHost) -> None:
    assert NSFEAT.unpack(IDENTIFY_NAMESPACE.parse(host.identify(Cns.NAMESPACE, 1).data).nsfeat).dae == 0
    for nsid in (1, BROADCAST):
        assert host.set_feature(Fid.ERROR_RECOVERY, DULBE, nsid=nsid).status == Status.INVALID_FIELD
    assert host.set_feature(Fid.ERROR_RECOVERY, ERROR_RECOVERY.pack(tler=7), nsid=1).status == 0
    assert host.feature(Fid.ERROR_RECOVERY, nsid=1).dw0 == 7
    assert status(host, 0x02, 5) == [(5, BLOCKS - 5)]


def test_allocation_lasts_with_the_data(tmp_path: Path) -> None:
    options: dict[str, Any] = {"image": tmp_path / "ssd.img", "size": SIZE, "controller": CONFIG}
    with nvme_emu.open(**options) as machine:
        host = NvmeHost(machine)
        write(host, 10, 4)
        gone = struct.pack("<IIQ", 0, 1, 12)
        host.io(NvmOpcode.DATASET_MANAGEMENT, cdw11=DSM_AD, data=gone)

    with nvme_emu.open(**options) as machine:
        assert status(NvmeHost(machine), 0x02) == [(10, 2), (13, 1)]
    with nvme_emu.open(**{**options, "controller": QUICK}) as machine:
        host = NvmeHost(machine)
        assert status(host, 0x02) == [(0, BLOCKS)]
        write(host, 200)
    with nvme_emu.open(**options) as machine:
        assert status(NvmeHost(machine), 0x02) == [(0, BLOCKS)]


# --- LBA Status Information ---------------------------------------------------------------------------------


def lba_log(host: NvmeHost, nbytes: int = 512) -> tuple[Any, dict[int, list[tuple[int, int]]]]:
    """The header, and the ranges of each namespace."""
    data = host.log(Lid.LBA_STATUS, nbytes)
    head = LBA_STATUS_LOG.parse(data)
    at, found = LBA_STATUS_LOG.size, {}
    for _ in range(head.nlslne):
        element = LBA_STATUS_ELEMENT.parse(data[at:])
        assert element.ratype == 0x11
        at += LBA_STATUS_ELEMENT.size
        rows = [LBA_RANGE.parse(data[at + 16 * n :]) for n in range(element.nlrd)]
        found[element.neid] = [(row.rslba, row.rnlb) for row in rows]
        at += 16 * element.nlrd
    assert at == head.lslplen
    return head, found


def test_log_lists_the_blocks_that_are_lost(host2: NvmeHost) -> None:
    host = host2
    head, found = lba_log(host)
    assert (head.lslplen, head.nlslne, head.estulb, found) == (16, 0, 0, {})

    host.io(NvmOpcode.WRITE_UNCORRECTABLE, 1, slba=10, cdw12=3)
    host.io(NvmOpcode.WRITE_UNCORRECTABLE, 2, slba=7)
    host.io(NvmOpcode.WRITE_UNCORRECTABLE, 2, slba=9)

    head, found = lba_log(host)
    assert (head.estulb, found) == (6, {1: [(10, 4)], 2: [(7, 1), (9, 1)]})
    host.io(NvmOpcode.WRITE, 2, slba=7, cdw12=2, data=DATA * 3)
    assert lba_log(host)[1] == {1: [(10, 4)]}
    assert status(host, 0x11) == status(host, 0x10) == [(10, 4)]


def test_attributes_are_kept_and_the_poll_interval_is_the_controllers(host: NvmeHost) -> None:
    assert host.feature(Fid.LBA_STATUS_REPORT_INTERVAL).dw0 == 0
    value = LBA_STATUS_ATTRIBUTES.pack(lsiri=50, lsipi=99)

    assert host.set_feature(Fid.LBA_STATUS_REPORT_INTERVAL, value).status == 0

    assert host.feature(Fid.LBA_STATUS_REPORT_INTERVAL).dw0 == LBA_STATUS_ATTRIBUTES.pack(lsiri=50)


@pytest.mark.parametrize("transport", ["inproc", "inproc-pure", "inproc-virtual"])
def test_block_that_the_medium_cannot_read_is_suspect_until_it_is_written(transport: str) -> None:
    with connected(transport) as host:
        events: list[Any] = []
        emitted = events.append
        host.machine.trace.add_sink(emitted)
        host.set_feature(Fid.ASYNC_EVENT_CONFIG, ASYNC_EVENT_CONFIG.pack(lsian=1))
        host.machine.faults.add({"match": {"lba": [20, 21]}, "then": {"media_error": {}}})
        assert host.io(NvmOpcode.READ, slba=20, nbytes=512).status == Status.READ_ERROR
        assert host.io(NvmOpcode.READ, slba=20, nbytes=512).status == Status.READ_ERROR
        host.machine.faults.clear()

        assert status(host, 0x11) == [(20, 1)]
        head, found = lba_log(host)
        assert (head.estulb, head.lsgc, found) == (1, 1, {1: [(20, 1)]})
        assert host.io(NvmOpcode.READ, slba=20, nbytes=512).status == 0
        write(host, 20)
        assert status(host, 0x11) == []
        host.machine.trace.remove_sink(emitted)
        told = [one for one in events if getattr(one, "log_page", None) == Lid.LBA_STATUS]
        assert len(told) == 1
