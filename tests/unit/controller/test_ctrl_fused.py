"""Fused Compare and Write: both or neither, with nothing in between."""

from __future__ import annotations

import pytest
from rawhost import PAGE, Completion, FixedLatency, RawHost, RawQueue

from nvme_emu.spec.opcodes import NvmOpcode
from nvme_emu.spec.status import STATUS_CODE_MASK, Status

COMPARE, WRITE, READ = NvmOpcode.COMPARE, NvmOpcode.WRITE, NvmOpcode.READ
FIRST, SECOND = 1, 2


def started(latency: FixedLatency | None = None) -> tuple[RawHost, RawQueue, int]:
    host = RawHost(latency=latency)
    host.enable()
    return host, host.io_queue(size=8), host.pages(2)


def codes(done: list[Completion]) -> list[int]:
    return [one.status & STATUS_CODE_MASK for one in done]


def pair(queue: RawQueue, data: int, slba: int = 3, second_slba: int | None = None) -> None:
    queue.rw(COMPARE, slba, 1, data, cid=1, flags=FIRST)
    queue.rw(WRITE, slba if second_slba is None else second_slba, 1, data + PAGE, cid=2, flags=SECOND)


def run(host: RawHost, queue: RawQueue) -> list[int]:
    queue.ring()
    host.step()
    return codes(queue.reap())


@pytest.mark.parametrize("compiled", [False, True])
def test_equal_blocks_are_written_and_different_ones_are_not(compiled: bool) -> None:
    host, queue, data = started()
    host.ctrl.compiled = compiled and host.ctrl.compiled
    host.memory.write(data + PAGE, b"n" * 512)

    pair(queue, data)
    assert run(host, queue) == [0, 0]
    pair(queue, data)
    assert run(host, queue) == [Status.COMPARE_FAILED, Status.FUSED_FAIL]

    host.memory.write(data, bytes(512))
    queue.rw(READ, 3, 1, data, cid=3)
    assert run(host, queue) == [0]
    assert host.memory.read(data, 512) == b"n" * 512
    host.audit()


def test_pair_wraps_around_the_end_of_the_ring() -> None:
    host, queue, data = started()
    for cid in range(7):
        queue.rw(READ, 0, 1, data, cid=cid)
        run(host, queue)

    pair(queue, data)

    assert run(host, queue) == [0, 0]


def test_half_a_pair_is_refused_and_the_queue_goes_on() -> None:
    host, queue, data = started()

    queue.rw(COMPARE, 3, 1, data, cid=1, flags=FIRST)
    assert run(host, queue) == [Status.FUSED_MISSING]
    queue.rw(WRITE, 3, 1, data, cid=2, flags=SECOND)
    assert run(host, queue) == [Status.FUSED_MISSING]
    queue.rw(COMPARE, 3, 1, data, cid=1, flags=FIRST)
    queue.rw(READ, 3, 1, data, cid=2)
    assert run(host, queue) == [Status.FUSED_MISSING, 0]


@pytest.mark.parametrize(
    ("first", "second", "second_slba", "expected"),
    [
        (READ, WRITE, 3, [Status.INVALID_FIELD, Status.FUSED_MISSING]),
        (COMPARE, READ, 3, [Status.INVALID_FIELD, Status.INVALID_FIELD]),
        (COMPARE, WRITE, 4, [Status.INVALID_FIELD, Status.FUSED_FAIL]),
    ],
)
def test_other_pairs_are_refused(first: int, second: int, second_slba: int, expected: list[int]) -> None:
    host, queue, data = started()
    queue.rw(first, 3, 1, data, cid=1, flags=FIRST)
    queue.rw(second, second_slba, 1, data + PAGE, cid=2, flags=SECOND)

    assert run(host, queue) == expected


def test_second_that_fails_takes_the_first_with_it() -> None:
    host, queue, data = started()
    queue.rw(COMPARE, 3, 1, data, cid=1, flags=FIRST)
    queue.rw(WRITE, 3, 1, 1 << 45, cid=2, flags=SECOND)

    assert run(host, queue) == [Status.FUSED_FAIL, Status.DATA_XFER_ERROR]


def test_pair_on_a_device_that_takes_time_ends_once_each() -> None:
    host, queue, data = started(FixedLatency(500, 700))

    pair(queue, data)
    queue.ring()
    host.step()
    host.step(host.now_ns + 10_000)

    assert codes(queue.reap()) == [0, 0]
    host.audit()
