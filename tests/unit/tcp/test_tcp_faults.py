"""Faults that only NVMe/TCP knows: a wrong digest, a PDU that is cut, a connection that is lost."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable

import pytest
from crc32c import crc32c
from tcphelpers import Served
from tcphost import Wire, admin, capsule, connect, io, io_queue, make_target

import nvme_emu
from nvme_emu.cli.serve_faults import HostFaults
from nvme_emu.controller import Controller, ControllerConfig
from nvme_emu.controller.fabrics import FabricsTarget
from nvme_emu.core.errors import NvmeError
from nvme_emu.core.memory import HostMemory
from nvme_emu.testing import fault
from nvme_emu.transports.tcp import InitiatorOptions


def faulty(how: str, size: int = 1 << 20, **options: int) -> FabricsTarget:
    """A target at which the second read goes wrong."""
    rule = fault.when(opcode="read", queue=1, nth=2).tcp(how, **options).named("tcp").rule
    faults = HostFaults(Controller(ControllerConfig(), memory=HostMemory(), namespaces=[]), 0, lambda: 1)
    faults.add(rule)
    return make_target(size, on_association=faults.joined)


def stream(wire: Wire, entry: bytes, data: bytes = b"") -> bytes:
    """The bytes of the answer to a command on a connection with both digests."""
    pdo, plen = (76, 80 + len(data)) if data else (0, 76)
    head = struct.pack("<BBBBI", 4, 3 if data else 1, 72, pdo, plen) + entry
    sent = head + struct.pack("<I", crc32c(head)) + data + (struct.pack("<I", crc32c(data)) if data else b"")
    while sent:
        space = wire.session.space()
        step = min(len(space), len(sent))
        space[:step] = sent[:step]
        wire.session.received(step)
        sent = sent[step:]
    wire.session.pump(1)
    answer = b"".join(bytes(piece) for piece in wire.session.out)
    wire.session.sent()
    return answer


@pytest.mark.parametrize(("how", "at"), [("header_digest", 24), ("data_digest", 28 + 512)])
def test_one_answer_has_a_wrong_digest_and_the_next_ones_are_right(how: str, at: int) -> None:
    target = faulty(how)
    _, cntlid = admin(target)
    wire = Wire(target)
    wire.start(digests=3)
    stream(wire, *connect(1, 1, cntlid))
    good, bad, next_one = (stream(wire, io(2, 5, 0, 1)) for _ in range(3))

    assert good == next_one
    differing = [position for position, (one, other) in enumerate(zip(good, bad, strict=True)) if one != other]
    assert differing == [at + 3]
    assert wire.session.over is None


@pytest.mark.parametrize("how", ["header_digest", "data_digest"])
def test_digest_that_was_not_agreed_on_cannot_be_wrong(how: str) -> None:
    target = faulty(how)
    _, cntlid = admin(target)
    wire = io_queue(target, cntlid)
    answers = [wire.command(io(2, 5, 0, 1)) for _ in range(2)]
    assert answers[0] == answers[1]


@pytest.mark.parametrize(("options", "left"), [({}, (24 + 512) // 2), ({"nbytes": 7}, 7), ({"nbytes": 0}, 0)])
def test_pdu_is_cut_and_nothing_follows(options: dict[str, int], left: int) -> None:
    target = faulty("pdu_cut", **options)
    _, cntlid = admin(target)
    wire = io_queue(target, cntlid)
    wire.command(io(2, 5, 0, 1))
    for cid in (6, 7):
        space = wire.session.space()
        space[:72] = capsule(io(2, cid, 0, 1))
        wire.session.received(72)
    wire.session.pump(1)

    assert sum(len(piece) for piece in wire.session.out) == left
    assert wire.session.over is not None


def test_connection_is_lost_instead_of_an_answer() -> None:
    target = faulty("disconnect")
    _, cntlid = admin(target)
    wire = io_queue(target, cntlid)
    wire.command(io(2, 5, 0, 1))
    assert wire.command(io(2, 6, 0, 1)) == []
    assert wire.session.over is not None


@pytest.mark.parametrize("how", ["header_digest", "data_digest", "pdu_cut", "disconnect"])
def test_our_host_reports_the_lost_command_and_hangs_nowhere(serve: Callable[..., Served], how: str) -> None:
    served = serve(faulty(how, 8 << 20))
    tcp = InitiatorOptions(header_digest=True, data_digest=True)
    with nvme_emu.open(served.url, tcp=tcp, ctrl_loss_tmo=0) as ssd:
        ssd.namespaces[1].write(0, b"\x11" * 512)
        assert bytes(ssd.namespaces[1].read(0, 1)) == b"\x11" * 512
        with pytest.raises(NvmeError) as caught:
            ssd.namespaces[1].read(0, 1)
    assert caught.value.errno in (errno.ENOLINK, errno.EIO)
    with nvme_emu.open(served.url, tcp=tcp) as ssd:
        assert bytes(ssd.namespaces[1].read(0, 1)) == b"\x11" * 512


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("how", ["header_digest", "data_digest", "pdu_cut", "disconnect"])
def test_our_host_connects_again_and_sends_again(serve: Callable[..., Served], how: str, mode: str) -> None:
    served = serve(faulty(how, 8 << 20))
    tcp = InitiatorOptions(header_digest=True, data_digest=True)
    with nvme_emu.open(served.url, tcp=tcp, mode=mode) as ssd:
        ssd.namespaces[1].write(0, b"\x11" * 512)
        for _ in range(4):
            assert bytes(ssd.namespaces[1].read(0, 1)) == b"\x11" * 512
        ssd.driver.recovery.flush()
        assert ssd.driver.recovery.counters.resets >= 1
        assert ssd.driver.state.value == "live"
