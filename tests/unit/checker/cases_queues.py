"""How each rule about doorbells and queues is broken, and how it is nearly broken."""

from __future__ import annotations

from checkedhost import CheckedHost
from rawhost import PAGE

from nvme_emu.controller.config import ControllerConfig
from nvme_emu.core.page_pool import PagePool
from nvme_emu.spec.opcodes import AdminOpcode
from nvme_emu.spec.queues import CQE_SIZE, SQE_SIZE

DELETE_SQ, DELETE_CQ = int(AdminOpcode.DELETE_IO_SQ), int(AdminOpcode.DELETE_IO_CQ)
STATUS_AT = CQE_SIZE - 2


def several(h: CheckedHost, count: int, first: int = 0) -> None:
    """That many commands, one after the other."""
    for cid in range(first, first + count):
        h.do(cid=cid)


def bad_no_queue(h: CheckedHost) -> None:
    h.ready()
    h.doorbell(9, 1)


def good_no_queue(h: CheckedHost) -> None:
    h.ready()
    h.io = h.pair(2)
    several(h, 3)


def bad_deleted(h: CheckedHost) -> None:
    h.ready()
    h.admin_command(DELETE_SQ, cdw10=1)
    h.doorbell(1, 1)


def good_deleted(h: CheckedHost) -> None:
    h.ready()
    h.admin_command(DELETE_SQ, cdw10=1)
    h.io.tail = 0
    h.memory.write(h.io.sq, bytes(PAGE))
    h.create_sq(1, h.io.sq)
    h.do()


def bad_tail_range(h: CheckedHost) -> None:
    h.ready()
    h.doorbell(1, 16)


def good_tail_range(h: CheckedHost) -> None:
    h.ready()
    for cid in range(15):
        h.put(cid=cid)
    h.io.ring()
    h.end()


def bad_tail_same(h: CheckedHost) -> None:
    h.ready()
    h.do()
    h.io.ring()


def good_tail_same(h: CheckedHost) -> None:
    h.ready(4)
    several(h, 9)


def bad_overrun(h: CheckedHost) -> None:
    """SQHD has told of no entry yet, though all of them have been fetched."""
    h.ready(4)
    h.begin(cid=1)
    h.begin(cid=2)
    h.begin(cid=3)
    h.begin(cid=4)


def backwards(h: CheckedHost) -> None:
    h.ready()
    for cid in range(3):
        h.begin(cid=cid)
    h.doorbell(1, 2)


def bad_head_range(h: CheckedHost) -> None:
    h.ready()
    h.doorbell(1, 16, cq=True)


def bad_head_same(h: CheckedHost) -> None:
    h.ready()
    h.do()
    h.doorbell(1, h.io.head, cq=True)


def good_head(h: CheckedHost) -> None:
    h.ready(4)
    for cid in range(6):
        h.begin(cid=cid)
        h.step(h.now_ns + 10_000)
        h.io.reap(ring=False)
        h.doorbell(1, h.io.head, cq=True)


def bad_past_tail(h: CheckedHost) -> None:
    h.ready()
    h.do()
    h.doorbell(1, 3, cq=True)


def good_past_tail(h: CheckedHost) -> None:
    h.ready()
    for cid in range(3):
        h.begin(cid=cid)
    h.step(h.now_ns + 10_000)
    h.io.reap(ring=False)
    h.io.ring_cq()


def bad_stale(h: CheckedHost) -> None:
    h.ready(4)
    several(h, 5)
    h.doorbell(1, 2, cq=True)


def bad_sqe_changed(h: CheckedHost) -> None:
    h.ready()
    h.put(cid=1)
    h.io.ring()
    h.memory.write(h.io.sq + 40, b"\1")
    h.end()


def good_sqe_changed(h: CheckedHost) -> None:
    h.ready()
    h.put(cid=1)
    h.memory.write(h.io.sq + 40, b"\1")
    h.io.ring()
    h.step()
    h.memory.write(h.io.sq, bytes(SQE_SIZE))  # fetched: it is the host's again
    h.end()


def bad_phases(h: CheckedHost) -> None:
    h.up()
    h.number_of_queues()
    queue = h.queue(1, 16, 16)
    h.memory.write(queue.cq + 3 * CQE_SIZE + STATUS_AT, b"\1")
    h.create_cq(1, queue.cq)


def bad_admin_phases(h: CheckedHost) -> None:
    h.set_admin()
    h.memory.write(h.admin.cq + STATUS_AT, b"\1")
    h.cc()


def good_phases(h: CheckedHost) -> None:
    h.up()
    h.number_of_queues()
    queue = h.queue(1, 16, 16)
    h.memory.write(queue.cq, (b"\xff" * STATUS_AT + b"\xfe\xff") * 16)  # all but the Phase Tags
    h.create_cq(1, queue.cq)


def bad_scribbled(h: CheckedHost) -> None:
    h.ready()
    h.do(cid=1)
    h.memory.write(h.io.cq + 2 * CQE_SIZE + STATUS_AT, b"\1")
    h.do(cid=2)


def good_scribbled(h: CheckedHost) -> None:
    h.ready(4)
    for cid in range(8):
        h.do(cid=cid)
        consumed = (h.io.head - 1) % 4
        h.memory.write(h.io.cq + consumed * CQE_SIZE, bytes(12))  # hosts may clear what they have taken


def bad_queue_freed(h: CheckedHost) -> None:
    h.ready()
    h.memory.remove_region(h.region)
    h.doorbell(1, 1)


def freed_to_pool(h: CheckedHost) -> None:
    h.up()
    h.number_of_queues()
    pool = PagePool(h.memory, 8)
    cq = pool.alloc(zero=True)
    h.create_cq(1, cq)
    pool.free(cq)


def freed_before_reset_is_over(h: CheckedHost) -> None:
    pool = PagePool(h.memory, 8)
    h.up()
    h.number_of_queues()
    cq = pool.alloc(zero=True)
    h.create_cq(1, cq)
    h.cc(en=0)
    pool.free(cq)


def good_queue_freed(h: CheckedHost) -> None:
    pool = PagePool(h.memory, 8)
    h.up()
    h.number_of_queues()
    cq = pool.alloc(zero=True)
    h.create_cq(1, cq)
    h.cc(en=0)
    h.see()
    pool.free(cq)


def bad_exists(h: CheckedHost) -> None:
    h.ready()
    h.create_cq(1, h.pages())


def good_created(h: CheckedHost) -> None:
    h.ready()
    h.pair(2, iv=2)
    h.pair(4, ien=0, iv=0)


def bad_identifier(h: CheckedHost) -> None:
    h.ready()
    h.create_cq(5, h.pages())


def bad_size(h: CheckedHost) -> None:
    h.ready()
    h.create_cq(2, h.pages(), 1)


def good_size(h: CheckedHost) -> None:
    h.ready()
    h.create_cq(2, h.pages(), 2)


def bad_contiguous(h: CheckedHost) -> None:
    h.ready()
    h.create_cq(2, h.pages(), pc=0)


def bad_memory(h: CheckedHost) -> None:
    h.ready()
    h.create_cq(2, h.pages() + 64)


def no_memory(h: CheckedHost) -> None:
    h.ready()
    h.create_cq(2, 0xDEAD_0000_0000)


def bad_overlap(h: CheckedHost) -> None:
    h.ready()
    h.create_cq(2, h.io.cq)


def bad_unknown(h: CheckedHost) -> None:
    h.ready()
    h.admin_command(DELETE_SQ, cdw10=2)


def deleted_twice(h: CheckedHost) -> None:
    h.ready()
    h.admin_command(DELETE_SQ, cdw10=1)
    h.admin_command(DELETE_SQ, cdw10=1)


def good_delete(h: CheckedHost) -> None:
    h.ready()
    h.admin_command(DELETE_SQ, cdw10=1)
    h.admin_command(DELETE_CQ, cdw10=1)
    h.pair(1)


def bad_without_cq(h: CheckedHost) -> None:
    h.ready()
    h.create_sq(2, h.pages(), cqid=3)


def good_without_cq(h: CheckedHost) -> None:
    h.ready()
    h.create_sq(2, h.pages(), cqid=1)


def bad_cq_first(h: CheckedHost) -> None:
    h.ready()
    h.admin_command(DELETE_CQ, cdw10=1)


def bad_vector(h: CheckedHost) -> None:
    h.ready()
    h.create_cq(2, h.pages(), iv=h.config.vectors)


def good_vector(h: CheckedHost) -> None:
    h.ready()
    h.create_cq(2, h.pages(), ien=0, iv=0)


def bad_mapped(h: CheckedHost) -> None:
    h.ready()
    h.vectors.discard(1)
    h.do()


def good_mapped(h: CheckedHost) -> None:
    h.ready()
    h.vectors.clear()
    h.io = h.pair(2, ien=0)
    h.do()


def bad_unasked(h: CheckedHost) -> None:
    h.up()
    h.pair(1)


def bad_late(h: CheckedHost) -> None:
    h.ready()
    h.number_of_queues()


def good_late(h: CheckedHost) -> None:
    h.up()
    h.number_of_queues()
    h.number_of_queues()
    h.pair(1)


CASES = {
    "doorbell-no-queue": ([bad_no_queue], good_no_queue),
    "doorbell-deleted": ([bad_deleted], good_deleted),
    "sq-tail-range": ([bad_tail_range], good_tail_range),
    "sq-tail-same": ([bad_tail_same], good_tail_same),
    "sq-overrun": ([bad_overrun, backwards], good_tail_range),
    "cq-head-range": ([bad_head_range], good_head),
    "cq-head-same": ([bad_head_same], good_head),
    "cq-head-past-tail": ([bad_past_tail], good_past_tail),
    "cq-stale-phase": ([bad_stale], good_head),
    "sqe-changed": ([bad_sqe_changed], good_sqe_changed),
    "cq-phase-init": ([bad_phases, bad_admin_phases], good_phases),
    "cq-scribbled": ([bad_scribbled], good_scribbled),
    "queue-freed": ([bad_queue_freed, freed_to_pool, freed_before_reset_is_over], good_queue_freed),
    "queue-exists": ([bad_exists], good_created),
    "queue-identifier": ([bad_identifier], good_created),
    "queue-size": ([bad_size], good_size),
    "queue-contiguous": ([bad_contiguous], good_created),
    "queue-memory": ([bad_memory, no_memory], good_created),
    "queue-overlap": ([bad_overlap], good_created),
    "queue-unknown": ([bad_unknown, deleted_twice], good_delete),
    "sq-without-cq": ([bad_without_cq], good_without_cq),
    "cq-deleted-first": ([bad_cq_first], good_delete),
    "cq-vector": ([bad_vector], good_vector),
    "vector-unmapped": ([bad_mapped], good_mapped),
    "queues-unasked": ([bad_unasked], good_late),
    "number-of-queues-late": ([bad_late], good_late),
}

OPTIONS = {"queue-freed": {"config": ControllerConfig(reset_ns=10_000)}}
