"""Queues: wrap, phase, back-pressure, sharing, doorbells, memory that goes away, commands in flight."""

from __future__ import annotations

import numpy as np
import pytest
from rawhost import PAGE, FixedLatency, RawHost, RawQueue, started

from nvme_emu.controller.command import PENDING, Command
from nvme_emu.controller.config import ControllerConfig
from nvme_emu.controller.controller import Controller
from nvme_emu.controller.pcie.rings import CompletionQueue, SubmissionQueue
from nvme_emu.core.errors import CommandError
from nvme_emu.spec.opcodes import AdminOpcode, NvmOpcode
from nvme_emu.spec.queues import CQE_SIZE
from nvme_emu.spec.registers import CC, Reg
from nvme_emu.spec.status import DNR, STATUS_CODE_MASK, Status

READ, WRITE, FLUSH = NvmOpcode.READ, NvmOpcode.WRITE, NvmOpcode.FLUSH


@pytest.mark.parametrize("size", [2, 3, 7, 64, 257])
def test_ring_of_any_size_wraps_and_keeps_phase_and_head(size: int) -> None:
    host = RawHost()
    host.enable()
    queue = host.io_queue(1, size)
    buffer = host.pages()
    sent = 0
    for turn in range(3 * size):
        batch = min(size - 1, turn % 5 + 1)
        for _ in range(batch):
            queue.rw(READ, 0, 1, buffer, cid=sent & 0xFFFF)
            sent += 1
        queue.ring()
        host.step()
        done = queue.reap()
        assert [one.cid for one in done] == [cid & 0xFFFF for cid in range(sent - batch, sent)]
        assert done[-1].sqhd == queue.tail
        assert {(one.status, one.sqid, one.dw0) for one in done} == {(0, 1, 0)}
    host.audit()


def test_ring_of_65536_entries_can_be_filled() -> None:
    host = RawHost(pages=2048)
    host.enable()
    queue = host.io_queue(1, 65536)
    buffer = host.pages()
    host.ctrl.now_ns = 1
    for cid in range(65535):
        queue.rw(READ, 0, 1, buffer, cid=cid)
    queue.ring()
    host.step()
    assert [one.cid for one in queue.reap()] == list(range(65535))


def test_full_completion_queue_holds_commands_back_until_the_host_reaps() -> None:
    host = RawHost()
    host.enable()
    queue = host.io_queue(1, 64, 4)
    buffer = host.pages()
    for cid in range(10):
        queue.rw(READ, 0, 1, buffer, cid=cid)
    queue.ring()
    seen: list[int] = []
    for expected in (3, 3, 3, 1, 0):
        host.step()
        assert host.ctrl.next_deadline() is None
        done = queue.reap()
        assert len(done) == expected
        seen += [one.cid for one in done]
    assert seen == list(range(10))
    host.audit()


def test_head_doorbell_frees_only_what_was_taken() -> None:
    host = RawHost()
    host.enable()
    queue = host.io_queue(1, 64, 4)
    for cid in range(6):
        queue.rw(READ, 0, 1, host.pages(), cid=cid)
    queue.ring()
    host.step()
    host.ctrl.ring_cq(1, 1)
    host.step()
    assert host.ctrl.counters.fetched == 4
    assert [one.cid for one in queue.reap(ring=False)] == [0, 1, 2, 3]


def test_many_submission_queues_share_one_completion_queue() -> None:
    host, first = started()
    others = [host.shared_queue(qid, first) for qid in (2, 3)]
    for queue in (first, *others):
        for cid in range(3):
            queue.rw(READ, 0, 1, host.pages(), cid=cid)
        queue.ring()
    host.step()
    done = first.reap()
    assert sorted(one[2:4] for one in done) == [(qid, cid) for qid in (1, 2, 3) for cid in range(3)]
    assert [one.sqhd for one in done if one.sqid == 2] == [1, 2, 3]
    with pytest.raises(CommandError) as caught:
        host.ctrl.rings.delete_cq(1)
    assert caught.value.status == Status.INVALID_QUEUE


def test_completion_is_published_by_its_phase_alone() -> None:
    """All words but the last are there before the phase turns: the slot's old status word is untouched."""
    host, queue = started()
    host.ctrl.compiled = False
    stores: list[str] = []

    class Watch:
        def __init__(self, view: memoryview) -> None:
            self.view = view

        def __setitem__(self, index: int, value: int) -> None:
            raw = host.memory.read(queue.cq, CQE_SIZE)
            stores.append(f"cid {int.from_bytes(raw[12:14], 'little')} phase {raw[14] & 1}")
            self.view[index] = value

    cq = host.ctrl.rings.cqs[1]
    cq.words = Watch(cq.words)  # type: ignore[assignment]
    queue.rw(READ, 0, 1, host.pages(), cid=77)
    queue.put(FLUSH, cid=78)
    queue.ring()
    host.step()
    assert stores[0] == "cid 77 phase 0"
    assert [one.cid for one in queue.reap()] == [77, 78]


# -- doorbells -------------------------------------------------------------------------------------


def _event(host: RawHost) -> int | None:
    """Info of the next error event, None if there is none."""
    host.admin.put(AdminOpcode.ASYNC_EVENT_REQUEST, cid=99)
    host.admin.ring()
    host.step()
    done = host.admin.reap()
    return done[0].dw0 >> 8 & 0xFF if done else None


@pytest.mark.parametrize(
    ("qid", "is_cq", "value", "info"),
    [
        (2, False, 1, 0),
        (2, True, 1, 0),
        (64, False, 1, 0),
        (1, False, 64, 1),
        (1, False, 0xFFFF, 1),
        (1, False, 0, 1),
        (1, True, 64, 1),
        (1, True, 1, 1),
        (1, True, 0, 1),
    ],
)
def test_wild_doorbell_is_ignored_and_reported(qid: int, is_cq: bool, value: int, info: int) -> None:
    host, queue = started()
    host.ctrl.mmio_write(0x1000 + (2 * qid + is_cq) * 4, 4, value)
    host.step()
    assert _event(host) == info
    queue.rw(READ, 0, 1, host.pages(), cid=5)
    queue.ring()
    host.step()
    assert [one.cid for one in queue.reap()] == [5]


def test_every_doorbell_value_against_a_walk_round_the_ring() -> None:
    """The host may go forward, slot by slot, as far as there are completions, or as there is room for commands."""

    def forward(start: int, most: int, size: int) -> set[int]:
        return {(start + by) % size for by in range(1, most + 1)}

    for size in (2, 3, 5):
        for head in range(size):
            for tail in range(size):
                used = (tail - head) % size
                for value in range(-1, size + 2):
                    cq = CompletionQueue(1, 0, size, 0, False)
                    cq.head, cq.tail, cq.free = head, tail, size - 1 - used
                    sq = SubmissionQueue(1, 0, size, cq)
                    sq.head, sq.tail = head, tail
                    where = f"size {size} head {head} tail {tail} value {value}"
                    taken = cq.move_head(value)
                    assert taken == (value in forward(head, used, size)), where
                    assert cq.head == (value if taken else head), where
                    assert cq.free == size - 1 - (tail - cq.head) % size, where
                    sent = sq.move_tail(value)
                    assert sent == (value in forward(tail, size - 1 - used, size)), where
                    assert sq.tail == (value if sent else tail), where


def test_tail_that_overruns_what_waits_is_reported() -> None:
    host, queue = started(config=ControllerConfig(step_commands_max=1))
    for cid in range(10):
        queue.rw(READ, 0, 1, host.pages(), cid=cid)
    queue.ring()
    host.ctrl.step(1)
    host.ctrl.ring_sq(1, 5)  # 4 forward of the head, but 59 forward of the tail with 9 waiting
    assert _event(host) == 1


def test_doorbell_while_disabled_does_nothing() -> None:
    host = RawHost()
    host.ctrl.mmio_write(0x1000, 4, 1)
    host.ctrl.mmio_write(0x1004, 4, 1)
    host.step()
    assert host.read(Reg.CSTS) == 0


# -- memory ----------------------------------------------------------------------------------------


def test_queue_memory_removed_under_the_controller_is_fatal_and_not_touched() -> None:
    host, _ = started()
    ring = np.zeros(PAGE, np.uint8)
    region = host.memory.add_region(ring)
    host.ctrl.rings.create_cq(2, region.base, 64, 0, True)
    other = host.queue(2, 64, 64, cq=region.base)
    host.ctrl.rings.create_sq(2, other.sq, 64, 2)
    host.memory.remove_region(region)
    other.rw(READ, 0, 1, host.pages(), cid=1)
    other.ring()
    host.step()
    assert host.csts.cfs == 1
    assert not ring.any()
    host.write(Reg.CC, 0)
    host.enable()
    assert (host.csts.rdy, host.csts.cfs) == (1, 0)
    host.audit()


def test_unrelated_region_removed_changes_nothing() -> None:
    host, queue = started()
    host.memory.remove_region(host.memory.add_region(np.zeros(PAGE, np.uint8)))
    assert queue.run(READ, prp1=host.pages(), nsid=1).status == 0


@pytest.mark.parametrize(
    ("qid", "base_offset", "size", "vector", "status", "byte"),
    [
        (0, 0, 16, 0, Status.QID_INVALID, 40),
        (65, 0, 16, 0, Status.QID_INVALID, 40),
        (1, 0, 16, 0, Status.QID_INVALID, 40),
        (2, 0, 1, 0, Status.QUEUE_SIZE, 42),
        (2, 0, 1025, 0, Status.QUEUE_SIZE, 42),
        (2, 0, 16, 65, Status.INVALID_VECTOR, 46),
        (2, 8, 16, 0, Status.PRP_INVALID_OFFSET, 24),
        (2, 1 << 40, 16, 0, Status.DATA_XFER_ERROR, 24),
    ],
)
def test_create_cq_with_a_wrong_field_says_which(
    qid: int, base_offset: int, size: int, vector: int, status: Status, byte: int
) -> None:
    host, _ = started(config=ControllerConfig(queue_entries_max=1024))
    with pytest.raises(CommandError) as caught:
        host.ctrl.rings.create_cq(qid, host.pages() + base_offset, size, vector, True)
    assert caught.value.status == status
    assert caught.value.location is not None
    assert caught.value.location[0] == byte


@pytest.mark.parametrize(
    ("cqid", "status"), [(0, Status.QID_INVALID), (65, Status.QID_INVALID), (2, Status.CQ_INVALID)]
)
def test_create_sq_for_a_wrong_completion_queue_says_so(cqid: int, status: Status) -> None:
    host, _ = started()
    with pytest.raises(CommandError) as caught:
        host.ctrl.rings.create_sq(2, host.pages(), 16, cqid)
    assert caught.value.status == status


def test_create_queue_with_entry_size_unset_fails() -> None:
    host = RawHost()
    host.enable(iosqes=0, iocqes=0)
    with pytest.raises(CommandError) as caught:
        host.ctrl.rings.create_cq(1, host.pages(), 16, 0, True)
    assert caught.value.status == Status.QUEUE_SIZE
    host.write(Reg.CC, CC.pack(en=1, iosqes=6, iocqes=4))
    host.ctrl.rings.create_cq(1, host.pages(), 16, 0, True)


# -- commands in flight ----------------------------------------------------------------------------


def _flushes(host: RawHost, queue: RawQueue, count: int) -> None:
    for cid in range(count):
        queue.put(FLUSH, cid=cid)
    queue.ring()
    host.step()


def test_timed_commands_complete_in_order_of_their_time() -> None:
    host, queue = started(latency=FixedLatency(300, 100, 200))
    _flushes(host, queue, 3)
    assert queue.reap() == []
    start = host.now_ns
    assert host.ctrl.next_deadline() == start + 100
    for at, cid in ((100, 1), (200, 2), (300, 0)):
        host.step(start + at - 1)
        assert queue.reap() == []
        host.step(start + at)
        assert [(one.cid, one.sqhd) for one in queue.reap()] == [(cid, 3)]
    assert host.ctrl.next_deadline() is None
    assert host.ctrl.counters.busy_ns == 300
    host.audit()


def test_timed_reads_ask_the_model_with_their_extent() -> None:
    latency = FixedLatency(50)
    host, queue = started(latency=latency)
    queue.rw(READ, 8, 8, host.pages(), cid=1)
    queue.rw(WRITE, 16, 8, host.pages(), cid=2, cdw12=1 << 30)
    queue.ring()
    host.step()
    assert latency.asked == [("read", 8 * 512, PAGE, False), ("write", 16 * 512, PAGE, True)]
    host.step(host.now_ns + 50)
    assert [one.cid for one in queue.reap()] == [1, 2]


def test_timed_commands_reserve_their_slots() -> None:
    host = RawHost(latency=FixedLatency(10))
    host.enable()
    queue = host.io_queue(1, 64, 4)
    _flushes(host, queue, 5)
    assert len(host.ctrl.outstanding) == 3
    host.step(host.now_ns + 10)
    assert [one.cid for one in queue.reap()] == [0, 1, 2]
    host.step()
    host.step(host.now_ns + 10)
    assert [one.cid for one in queue.reap()] == [3, 4]
    host.audit()


def test_command_identifier_in_flight_used_again_is_a_conflict() -> None:
    host, queue = started(latency=FixedLatency(1000))
    queue.put(FLUSH, cid=4)
    queue.put(FLUSH, cid=4)
    queue.rw(READ, 0, 1, host.pages(), cid=4)
    queue.ring()
    host.step()
    done = queue.reap()
    assert [one.status & STATUS_CODE_MASK for one in done] == [Status.CMDID_CONFLICT] * 2
    host.step(host.now_ns + 1000)
    assert [one.status for one in queue.reap()] == [0]
    host.audit()


def test_complete_of_a_timed_command_ends_it_once_and_frees_its_time() -> None:
    host, queue = started(latency=FixedLatency(1000))
    _flushes(host, queue, 1)
    cmd = host.ctrl.outstanding[1, 0]
    host.ctrl.complete(cmd, Status.ABORT_REQ | DNR)
    host.ctrl.complete(cmd)
    assert [one.status for one in queue.reap()] == [Status.ABORT_REQ | DNR]
    assert host.ctrl.next_deadline() is None
    host.step(host.now_ns + 5000)
    assert queue.reap() == []
    host.audit()


def test_parked_commands_hold_no_slot_and_their_completion_waits_for_one() -> None:
    parked: list[Command] = []

    def keep(ctrl: Controller, cmd: Command) -> object:
        parked.append(cmd)
        return PENDING

    host = RawHost()
    host.enable(cq_size=2)
    host.ctrl.admin_handlers = {**host.ctrl.admin_handlers, 0xC0: keep}  # type: ignore[dict-item]
    for cid in (1, 2):
        host.admin.put(0xC0, cid=cid)
    host.admin.put(AdminOpcode.IDENTIFY, cid=3, prp1=host.pages(), cdw10=1)
    host.admin.ring()
    host.step()
    for cmd in parked:
        host.ctrl.complete(cmd, dw0=cmd.cid)
    host.audit()
    assert [one.cid for one in host.admin.reap()] == [3]
    assert [one.cid for one in host.admin.reap()] == [1]
    assert [one.dw0 for one in host.admin.reap()] == [2]
    host.audit()


def test_reset_drops_what_is_in_flight_and_counts_it() -> None:
    host, queue = started(latency=FixedLatency(1000))
    _flushes(host, queue, 5)
    host.write(Reg.CC, 0)
    host.step(host.now_ns + 5000)
    assert queue.reap(ring=False) == []
    assert host.ctrl.counters.dropped == 5
    assert host.ctrl.counters.busy_ns == 0
    host.audit()


def test_delete_sq_ends_what_is_in_flight_and_forgets_what_waits() -> None:
    host = RawHost(latency=FixedLatency(1000))
    host.enable()
    queue = host.io_queue(1, 64, 3)
    _flushes(host, queue, 3)
    assert host.admin.run(AdminOpcode.DELETE_IO_SQ, cdw10=1).status == 0
    done = [(one.cid, one.status & STATUS_CODE_MASK) for one in queue.reap()]
    assert done == [(0, Status.ABORT_QUEUE), (1, Status.ABORT_QUEUE)]
    host.step(host.now_ns + 5000)
    assert queue.reap() == []
    assert host.admin.run(AdminOpcode.DELETE_IO_CQ, cdw10=1).status == 0
    host.audit()


def test_step_is_bounded_and_says_that_there_is_more() -> None:
    host, queue = started(config=ControllerConfig(step_commands_max=4))
    for cid in range(10):
        queue.rw(READ, 0, 1, host.pages(), cid=cid)
    queue.ring()
    for expected in (4, 4, 2):
        host.ctrl.step(50)
        assert len(queue.reap()) == expected
    assert host.ctrl.next_deadline() is None


@pytest.mark.parametrize(
    ("past", "status"), [(-1, Status.INVALID_FIELD), (0, Status.INVALID_FIELD), (1, Status.INVALID_NS)]
)
def test_the_last_nsid_that_there_can_be_is_inactive_and_the_next_is_none(past: int, status: Status) -> None:
    host, queue = started(config=ControllerConfig(namespaces_max=16))
    queue.put(READ, nsid=16 + past, cid=3, prp1=host.pages())
    queue.ring()
    host.step()
    (done,) = queue.reap()
    assert done.status & STATUS_CODE_MASK == status
