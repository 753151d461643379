"""The I/O commands: data, every status with its place in the error log, media that fail, counters."""

from __future__ import annotations

import errno
import struct
from typing import Any

import numpy as np
import pytest
from rawhost import PAGE, RawHost, RawQueue, started

from nvme_emu.controller.config import ControllerConfig
from nvme_emu.controller.controller import Controller
from nvme_emu.core.errors import CommandError, MediaError
from nvme_emu.media.ram import RamMedia
from nvme_emu.spec.opcodes import AdminOpcode, NvmOpcode
from nvme_emu.spec.status import DNR, MORE, STATUS_CODE_MASK, Status

READ, WRITE, FLUSH, COMPARE = NvmOpcode.READ, NvmOpcode.WRITE, NvmOpcode.FLUSH, NvmOpcode.COMPARE
WRITE_ZEROES, DSM = NvmOpcode.WRITE_ZEROES, NvmOpcode.DATASET_MANAGEMENT
FUA, DEAC, NSZ = 1 << 30, 1 << 25, 1 << 23


def _pattern(nbytes: int, seed: int = 1) -> bytes:
    return np.random.default_rng(seed).integers(1, 255, nbytes, dtype=np.uint8).tobytes()


def _code(status: int) -> int:
    return status & STATUS_CODE_MASK


def _rw(queue: RawQueue, opcode: int, slba: int, nlb: int, prp1: int, prp2: int = 0, **more: int) -> int:
    queue.rw(opcode, slba, nlb, prp1, prp2, **more)
    queue.ring()
    queue.host.step()
    (done,) = queue.reap()
    return done.status


def _describe(
    host: RawHost, nbytes: int, offset: int, scatter: bool
) -> tuple[int, int, list[tuple[int, int]]]:
    """PRP1, PRP2 and the runs of a buffer at `offset` in its first page; `scatter` uses every other page."""
    count = -(-(offset + nbytes) // PAGE)
    pages = [host.pages(2 if scatter else 1) for _ in range(count)]
    runs = []
    left, start = nbytes, offset
    for page in pages:
        runs.append((page + start, min(left, PAGE - start)))
        left -= runs[-1][1]
        start = 0
    prp2 = 0
    if count == 2:
        prp2 = pages[1]
    elif count > 2:
        prp2 = host.pages()
        host.memory.write(prp2, struct.pack(f"<{count - 1}Q", *pages[1:]))
    return pages[0] + offset, prp2, runs


@pytest.mark.parametrize("scatter", [False, True])
@pytest.mark.parametrize("offset", [0, 4, 512, 2048, 4092])
@pytest.mark.parametrize("nlb", [1, 2, 7, 8, 9, 16, 17, 40])
def test_read_and_write_move_their_bytes_and_no_others(nlb: int, offset: int, scatter: bool) -> None:
    host, queue = started(pages=512)
    media = np.frombuffer(_pattern(64 * 512, 3), np.uint8)
    host.media[0].array[: len(media)] = media
    nbytes = nlb * 512
    prp1, prp2, runs = _describe(host, nbytes, offset, scatter)
    data = _pattern(nbytes, nlb)
    at = 0
    for addr, length in runs:
        host.memory.write(addr, data[at : at + length])
        at += length
    memory = host.region.array.copy()
    assert _rw(queue, WRITE, 5, nlb, prp1, prp2) == 0
    expected = media.copy()
    expected[5 * 512 : 5 * 512 + nbytes] = np.frombuffer(data, np.uint8)
    assert np.array_equal(host.media[0].array[: len(media)], expected)

    host.media[0].array[5 * 512 : 5 * 512 + nbytes] = ~expected[5 * 512 : 5 * 512 + nbytes]
    assert _rw(queue, READ, 5, nlb, prp1, prp2) == 0
    for addr, length in runs:
        start = addr - host.region.base
        memory[start : start + length] = ~memory[start : start + length]
    for ring in (queue.sq, queue.cq):
        start = ring - host.region.base
        memory[start : start + PAGE] = host.region.array[start : start + PAGE]
    assert np.array_equal(host.region.array, memory)


@pytest.mark.parametrize("lba_size", [512, 4096])
def test_last_block_is_reachable_and_the_next_is_not(lba_size: int) -> None:
    host, queue = started(lba_size=lba_size, media=[RamMedia(64 * 4096 + 100)])
    last = host.ctrl.namespaces[1].nsze - 1
    assert last == 64 * 4096 // lba_size - 1
    assert _rw(queue, WRITE, last, 1, host.pages()) == 0
    for opcode in (READ, WRITE, COMPARE, WRITE_ZEROES):
        for slba, nlb in ((last + 1, 1), (last, 2), ((1 << 64) - 1, 2)):
            assert _rw(queue, opcode, slba, nlb, host.pages()) == Status.LBA_RANGE | DNR | MORE


@pytest.mark.parametrize("opcode", [READ, WRITE, COMPARE])
def test_transfer_above_mdts_is_an_invalid_field(opcode: int) -> None:
    host, queue = started(config=ControllerConfig(mdts=1))
    prp1 = host.pages(4)
    assert _code(_rw(queue, opcode, 0, 16, prp1, prp1 + PAGE)) == 0
    assert _code(_rw(queue, opcode, 0, 17, prp1, prp1 + PAGE)) == Status.INVALID_FIELD


def test_write_zeroes_is_limited_by_wzsl_and_not_by_mdts() -> None:
    _, queue = started(config=ControllerConfig(mdts=1, wzsl=2))
    assert _rw(queue, WRITE_ZEROES, 0, 32, 0) == 0
    assert _code(_rw(queue, WRITE_ZEROES, 0, 33, 0)) == Status.INVALID_FIELD


@pytest.mark.parametrize(
    ("fields", "status", "location"),
    [
        ({"opcode": 0x99}, Status.INVALID_OPCODE, (0, 0)),
        ({"opcode": NvmOpcode.ZONE_APPEND}, Status.INVALID_OPCODE, (0, 0)),
        ({"flags": 0x01}, Status.INVALID_FIELD, (1, 0)),
        ({"flags": 0x02}, Status.INVALID_FIELD, (1, 0)),
        ({"flags": 0xC0}, Status.INVALID_FIELD, (1, 6)),
        ({"flags": 0x40}, Status.SGL_INVALID_DATA, (32, 0)),
        ({"flags": 0x80}, Status.SGL_INVALID_DATA, (32, 0)),
        ({"nsid": 0}, Status.INVALID_NS, (4, 0)),
        ({"nsid": 2}, Status.INVALID_FIELD, (4, 0)),
        ({"nsid": 33}, Status.INVALID_NS, (4, 0)),
        ({"nsid": 0xFFFF_FFFF}, Status.INVALID_NS, (4, 0)),
        ({"cdw11": 1}, Status.LBA_RANGE, (40, 0)),
        ({"cdw12": 0xFFFF}, Status.INVALID_FIELD, (48, 0)),
        ({"prp1_plus": 1}, Status.PRP_INVALID_OFFSET, (24, 0)),
        ({"prp1_plus": 2}, Status.PRP_INVALID_OFFSET, (24, 0)),
        ({"prp1_plus": 1 << 45}, Status.DATA_XFER_ERROR, (24, 0)),
        ({"cdw12": 8, "prp2": 3}, Status.PRP_INVALID_OFFSET, (32, 0)),
        ({"cdw12": 8, "prp2": 1 << 45}, Status.DATA_XFER_ERROR, (32, 0)),
        ({"cdw12": 31, "prp2": 1 << 45}, Status.DATA_XFER_ERROR, (32, 0)),
        ({"opcode": WRITE, "cdw12": 1 << 20}, Status.INVALID_FIELD, (50, 4)),
        ({"opcode": WRITE_ZEROES, "cdw12": NSZ}, Status.INVALID_FIELD, (50, 7)),
    ],
)
def test_wrong_field_ends_with_its_status_dnr_and_error_log_entry(
    fields: dict[str, int], status: Status, location: tuple[int, int]
) -> None:
    host, queue = started(config=ControllerConfig(mdts=4))
    recorded: list[Any] = []
    record = host.ctrl.error_log.record

    def spy(cmd: Any, status_field: int, where: Any, **more: Any) -> Any:
        recorded.append((cmd.cid, status_field & STATUS_CODE_MASK, where))
        return record(cmd, status_field, where, **more)

    host.ctrl.error_log.record = spy  # type: ignore[method-assign]
    fields = dict(fields)
    prp1 = host.pages() + fields.pop("prp1_plus", 0)
    done = queue.run(fields.pop("opcode", READ), cid=0x1234, prp1=prp1, **fields)
    assert done.status == status | DNR | MORE
    assert recorded == [(0x1234, status, location)]
    assert host.csts.cfs == 0


@pytest.mark.parametrize("cdw12", [0xF << 26, 1 << 31, 1 << 24, 0xF << 16])
def test_protection_and_hint_fields_of_a_plain_namespace_are_ignored(cdw12: int) -> None:
    host, queue = started()
    assert _rw(queue, WRITE, 0, 1, host.pages(), cdw12=cdw12) == 0
    assert _rw(queue, READ, 0, 1, host.pages(), cdw12=cdw12) == 0


def test_reserved_flag_bits_and_dwords_are_ignored() -> None:
    host, queue = started()
    for opcode in (READ, WRITE, FLUSH):
        rest = {"cdw2": 5, "cdw3": 6, "cdw13": 7, "cdw14": 8, "cdw15": 9, "mptr": 3}
        done = queue.run(opcode, prp1=host.pages(), flags=0x3C, **rest)
        assert done.status == 0


# -- the other commands ----------------------------------------------------------------------------


def test_compare_tells_equal_from_different() -> None:
    host, queue = started()
    data = _pattern(9 * 512)
    prp1, prp2, runs = _describe(host, len(data), 0, True)
    at = 0
    for addr, length in runs:
        host.memory.write(addr, data[at : at + length])
        at += length
    assert _rw(queue, WRITE, 3, 9, prp1, prp2) == 0
    assert _rw(queue, COMPARE, 3, 9, prp1, prp2) == 0
    host.memory.write(runs[1][0] + 100, bytes([data[PAGE + 100] ^ 1]))
    assert _code(_rw(queue, COMPARE, 3, 9, prp1, prp2)) == Status.COMPARE_FAILED


@pytest.mark.parametrize("deac", [0, DEAC])
def test_write_zeroes_zeroes_its_blocks_and_no_others(deac: int) -> None:
    host, queue = started()
    host.media[0].array[:] = 0xAA
    assert _rw(queue, WRITE_ZEROES, 3, 2, 0, cdw12=deac) == 0
    array = host.media[0].array
    assert not array[3 * 512 : 5 * 512].any()
    assert (array[: 3 * 512] == 0xAA).all()
    assert (array[5 * 512 :] == 0xAA).all()


def _dsm(host: RawHost, queue: RawQueue, ranges: list[tuple[int, int]], cdw11: int = 4) -> int:
    prp1 = host.pages()
    host.memory.write(prp1, b"".join(struct.pack("<IIQ", 0, nlb, slba) for slba, nlb in ranges))
    return queue.run(DSM, prp1=prp1, cdw10=len(ranges) - 1, cdw11=cdw11).status


def test_dataset_management_deallocates_its_ranges() -> None:
    host, queue = started()
    host.media[0].array[:] = 0xAA
    assert _dsm(host, queue, [(1, 2), (10, 0), (8, 1)]) == 0
    zero = np.flatnonzero(host.media[0].array.reshape(-1, 512).max(axis=1) == 0)
    assert zero.tolist() == [1, 2, 8]
    assert _dsm(host, queue, [(20, 2)], cdw11=3) == 0
    assert host.media[0].array[20 * 512] == 0xAA


def test_dataset_management_out_of_range_changes_nothing() -> None:
    host, queue = started()
    host.media[0].array[:] = 0xAA
    assert _code(_dsm(host, queue, [(0, 4), (2047, 2)])) == Status.LBA_RANGE
    assert host.media[0].array.min() == 0xAA
    assert _dsm(host, queue, [(slba, 1) for slba in range(256)]) == 0


@pytest.mark.parametrize(
    ("limits", "ranges"),
    [({"dmrl": 1}, [(0, 1), (1, 1)]), ({"dmrsl": 8}, [(0, 9)]), ({"dmsl": 8}, [(0, 5), (5, 4)])],
)
def test_dataset_management_above_a_limit_says_so(
    limits: dict[str, int], ranges: list[tuple[int, int]]
) -> None:
    host, queue = started(config=ControllerConfig(**limits))
    assert _code(_dsm(host, queue, ranges)) == Status.CMD_SIZE_LIMIT_EXCEEDED


# -- durability and failing media ------------------------------------------------------------------


class DurableMedia(RamMedia):
    """RAM that says it is a disk: notes what was asked, and fails on demand."""

    volatile = False

    def __init__(self, nbytes: int) -> None:
        super().__init__(nbytes)
        self.array = None
        self.asked: list[Any] = []
        self.broken: int | None = None

    def _ask(self, what: Any) -> None:
        if self.broken is not None:
            raise MediaError(self.broken, "broken for the test")
        self.asked.append(what)

    def read_into(self, offset: int, out: memoryview) -> None:
        self._ask("read")
        super().read_into(offset, out)

    def write(self, offset: int, data: Any, fua: bool = False) -> None:
        self._ask(("write", fua))
        super().write(offset, data, fua)

    def zero(self, offset: int, nbytes: int, fua: bool = False) -> None:
        self._ask(("zero", fua))
        super().zero(offset, nbytes, fua)

    def discard(self, offset: int, nbytes: int) -> None:
        self._ask("discard")
        RamMedia.zero(self, offset, nbytes)

    def flush(self) -> None:
        self._ask("flush")

    def equal(self, offset: int, data: Any) -> int:
        self._ask("equal")
        return super().equal(offset, data)


def test_writes_are_durable_with_fua_or_without_the_cache() -> None:
    media = DurableMedia(1 << 16)
    host, queue = started(media=[media])
    prp1 = host.pages()
    _rw(queue, WRITE, 0, 1, prp1)
    _rw(queue, WRITE, 0, 1, prp1, cdw12=FUA)
    _rw(queue, WRITE_ZEROES, 0, 1, prp1, cdw12=FUA)
    assert media.asked == [("write", False), ("write", True), ("zero", True)]
    media.asked.clear()
    assert host.admin.run(AdminOpcode.SET_FEATURES, nsid=0, cdw10=6, cdw11=0).status == 0
    _rw(queue, WRITE, 0, 1, prp1)
    _rw(queue, WRITE_ZEROES, 0, 1, prp1)
    assert _dsm(host, queue, [(0, 1)]) == 0
    assert media.asked == ["flush", ("write", True), ("zero", True), "discard", "flush"]


def test_flush_of_all_namespaces_reaches_each() -> None:
    media = [DurableMedia(1 << 16), DurableMedia(1 << 16)]
    _, queue = started(media=media)
    assert queue.run(FLUSH, nsid=2).status == 0
    assert [one.asked for one in media] == [[], ["flush"]]
    assert queue.run(FLUSH, nsid=0xFFFF_FFFF).status == 0
    assert [one.asked for one in media] == [["flush"], ["flush", "flush"]]
    assert _code(queue.run(FLUSH, nsid=0).status) == Status.INVALID_NS


@pytest.mark.parametrize("broken", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize(
    ("opcode", "status"),
    [
        (READ, Status.READ_ERROR),
        (WRITE, Status.WRITE_FAULT),
        (WRITE_ZEROES, Status.WRITE_FAULT),
        (FLUSH, Status.WRITE_FAULT),
        (COMPARE, Status.READ_ERROR),
    ],
)
def test_medium_that_fails_is_a_media_status_without_dnr(opcode: int, status: Status, broken: int) -> None:
    media = DurableMedia(1 << 16)
    host, queue = started(media=[media])
    media.broken = broken
    for count in (1, 2):
        done = queue.run(opcode, prp1=host.pages())
        assert done.status == (Status.CAP_EXCEEDED if broken == errno.ENOSPC else status) | MORE
        assert host.ctrl.counters.media_errors == count
    media.broken = None
    assert queue.run(opcode, prp1=host.pages()).status == 0
    host.audit()


def test_medium_that_fails_once_is_asked_once() -> None:
    media = DurableMedia(1 << 16)
    host, queue = started(media=[media])
    fails = iter([True, False, False])
    original = media.read_into

    def read_into(offset: int, out: memoryview) -> None:
        if next(fails):
            raise MediaError(errno.EIO, "once")
        original(offset, out)

    media.read_into = read_into  # type: ignore[method-assign]
    for cid in range(3):
        queue.rw(READ, 0, 1, host.pages(), cid=cid)
    queue.ring()
    host.step()
    assert [_code(one.status) for one in queue.reap()] == [Status.READ_ERROR, 0, 0]
    host.audit()


# -- our own mistakes, counters --------------------------------------------------------------------


def _explode(ctrl: Controller, cmd: object) -> int:
    raise ZeroDivisionError("a bug of ours")


def test_exception_of_our_own_sets_fatal_status_and_leaves_only_in_strict_mode() -> None:
    for strict in (False, True):
        host = RawHost(strict=strict)
        host.enable()
        host.ctrl.admin_handlers = {0xC0: _explode}
        host.admin.put(0xC0)
        host.admin.ring()
        if strict:
            with pytest.raises(ZeroDivisionError):
                host.step()
        else:
            host.step()
        assert isinstance(host.ctrl.internal_error, ZeroDivisionError)
        assert host.csts.cfs == 1
        host.write(0x14, 0)
        host.enable()
        assert (host.csts.rdy, host.csts.cfs) == (1, 0)


def test_counters_count_commands_and_data_units() -> None:
    host, queue = started()
    prp1 = host.pages()
    for _ in range(3):
        _rw(queue, READ, 0, 8, prp1)
    _rw(queue, WRITE, 0, 8, prp1)
    _rw(queue, COMPARE, 0, 8, prp1)
    _rw(queue, READ, 1 << 40, 8, prp1)
    counters = host.ctrl.counters
    assert (counters.read_commands, counters.write_commands) == (4, 1)
    assert (counters.read_bytes, counters.write_bytes) == (4 * PAGE, PAGE)
    assert (counters.data_units_read, counters.data_units_written) == (1, 1)
    assert counters.power_cycles == 1
    host.audit()


def test_send_and_receive_check_before_they_move() -> None:
    host, _ = started()
    ctrl = host.ctrl
    caught: list[CommandError] = []

    def handler(_: Controller, cmd: Any) -> int:
        if cmd.cdw10:
            try:
                ctrl.send(cmd, b"x" * 8192)
            except CommandError as error:
                caught.append(error)
                raise
        assert ctrl.receive(cmd, 4) == b"abcd"
        ctrl.send(cmd, b"efgh")
        return 5

    ctrl.admin_handlers = {0xC0: handler}
    prp1 = host.pages()
    host.memory.write(prp1, b"abcd")
    assert host.admin.run(0xC0, prp1=prp1).dw0 == 5
    assert host.memory.read(prp1, 5) == b"efgh\0"
    assert _code(host.admin.run(0xC0, prp1=prp1, prp2=1 << 50, cdw10=1).status) == Status.DATA_XFER_ERROR
    assert host.memory.read(prp1, 5) == b"efgh\0"
    assert caught[0].location == (32, 0)
