"""Create and Delete I/O queues by command: every field, the order of deletion, what happens to commands."""

from __future__ import annotations

from typing import Any

import pytest
from adminhost import PAGE, AdminHost, Slow, code
from rawhost import RawQueue

from nvme_emu.controller.config import ControllerConfig
from nvme_emu.spec.features import NUMBER_OF_QUEUES, Fid
from nvme_emu.spec.opcodes import AdminOpcode, NvmOpcode
from nvme_emu.spec.status import DNR, MORE, Status

QID_AT, QSIZE_AT, CDW11_AT, CDW11_HIGH_AT, PRP1_AT = (40, 0), (42, 0), (44, 0), (46, 0), (24, 0)


def host(**options: Any) -> AdminHost:
    config = {"io_queues_max": 4, "vectors": 3, "queue_entries_max": 128, **options.pop("config", {})}
    return AdminHost(config=ControllerConfig(**config), **options)


def io_queue(one: AdminHost, qid: int = 1, entries: int = 16) -> RawQueue:
    """A queue pair made by the admin commands."""
    queue = one.queue(qid, entries, entries)
    assert one.create_cq(qid, entries, queue.cq).status == 0
    assert one.create_sq(qid, entries, queue.sq, cqid=qid).status == 0
    return queue


def test_created_queue_pair_carries_commands_and_wraps() -> None:
    one = host()
    queue = io_queue(one, 2, 3)

    done = [queue.run(NvmOpcode.FLUSH, cid=cid) for cid in range(10)]

    assert [(c.cid, c.status, c.sqid) for c in done] == [(cid, 0, 2) for cid in range(10)]
    assert [c.sqhd for c in done] == [(cid + 1) % 3 for cid in range(10)]


def test_create_with_the_largest_size_works() -> None:
    one = host()

    assert one.create_cq(1, 128).status == 0
    assert one.create_sq(1, 128).status == 0
    assert one.ctrl.rings.sqs[1].size == one.ctrl.rings.cqs[1].size == 128


def test_create_with_65536_entries_works_where_mqes_allows() -> None:
    one = AdminHost()

    assert one.create_cq(1, 65536, one.pages(256)).status == 0
    assert one.create_sq(1, 65536, one.pages(1024)).status == 0
    assert one.ctrl.rings.sqs[1].size == 65536


def test_create_ignores_nsid_and_nvm_set() -> None:
    one = host()

    assert (
        one.do(AdminOpcode.CREATE_IO_CQ, nsid=77, prp1=one.pages(), cdw10=15 << 16 | 1, cdw11=1).status == 0
    )
    completion = one.do(
        AdminOpcode.CREATE_IO_SQ, nsid=99, prp1=one.pages(), cdw10=15 << 16 | 1, cdw11=1 << 16 | 1, cdw12=5
    )
    assert completion.status == 0


def test_create_cq_without_interrupts_ignores_the_vector() -> None:
    one = host()

    assert one.create_cq(1, ien=0, iv=0xFFFF).status == 0


@pytest.mark.parametrize("qprio", range(4))
def test_create_sq_takes_any_priority_under_round_robin(qprio: int) -> None:
    one = host()
    one.create_cq(1)

    assert one.create_sq(1, qprio=qprio).status == 0


@pytest.mark.parametrize("kind", ["cq", "sq"])
@pytest.mark.parametrize(
    ("fields", "status", "at"),
    [
        ({"qid": 0}, Status.QID_INVALID, QID_AT),
        ({"qid": 5}, Status.QID_INVALID, QID_AT),
        ({"qid": 0xFFFF}, Status.QID_INVALID, QID_AT),
        ({"qid": 1}, Status.QID_INVALID, QID_AT),  # exists
        ({"entries": 1}, Status.QUEUE_SIZE, QSIZE_AT),
        ({"entries": 129}, Status.QUEUE_SIZE, QSIZE_AT),
        ({"entries": 0, "base": 0x1000}, Status.QUEUE_SIZE, QSIZE_AT),  # 65536
        ({"pc": 0}, Status.INVALID_FIELD, CDW11_AT),
        ({"base": 4}, Status.PRP_INVALID_OFFSET, PRP1_AT),
        ({"base": 0xFFC}, Status.PRP_INVALID_OFFSET, PRP1_AT),
        ({"base": 0xDEAD_0000_0000}, Status.DATA_XFER_ERROR, PRP1_AT),
    ],
)
def test_create_with_a_wrong_field_fails(
    kind: str, fields: dict[str, int], status: Status, at: tuple[int, int]
) -> None:
    one = host()
    io_queue(one, 1)
    before = (set(one.ctrl.rings.sqs), set(one.ctrl.rings.cqs))

    completion = (one.create_cq if kind == "cq" else one.create_sq)(**{"qid": 2, **fields})

    assert completion.status == status | DNR | MORE
    assert (set(one.ctrl.rings.sqs), set(one.ctrl.rings.cqs)) == before
    entry = one.newest_error()
    assert (entry.pel & 0xFF, entry.pel >> 8) == at
    assert entry.status >> 1 == completion.status


@pytest.mark.parametrize("vector", [3, 4, 0xFFFF])
def test_create_cq_with_a_vector_that_does_not_exist_fails(vector: int) -> None:
    one = host()

    assert one.create_cq(1, iv=vector).status == Status.INVALID_VECTOR | DNR | MORE
    pel = one.newest_error().pel
    assert (pel & 0xFF, pel >> 8) == CDW11_HIGH_AT


@pytest.mark.parametrize(
    ("cqid", "status"),
    [
        (0, Status.QID_INVALID),
        (5, Status.QID_INVALID),
        (0xFFFF, Status.QID_INVALID),
        (2, Status.CQ_INVALID),
    ],
)
def test_create_sq_for_a_cq_that_does_not_exist_fails(cqid: int, status: Status) -> None:
    one = host()
    one.create_cq(1)

    assert one.create_sq(1, cqid=cqid).status == status | DNR | MORE
    pel = one.newest_error().pel
    assert (pel & 0xFF, pel >> 8) == CDW11_HIGH_AT


@pytest.mark.parametrize(("sqes", "cqes", "failing"), [(0, 4, "sq"), (6, 0, "cq")])
def test_create_before_the_entry_size_is_set_fails(sqes: int, cqes: int, failing: str) -> None:
    one = host()
    one.ctrl.mmio_write(0x14, 4, 0)
    one.step()
    one.enable(iosqes=sqes, iocqes=cqes)

    results = {"cq": one.create_cq(1)}
    results["sq"] = one.create_sq(1)

    assert results[failing].status == Status.QUEUE_SIZE | DNR | MORE


@pytest.mark.parametrize("kind", ["cq", "sq"])
def test_create_beyond_what_was_granted_fails(kind: str) -> None:
    one = host()
    granted = {"nsq_z": 1, "ncq_z": 2} if kind == "sq" else {"nsq_z": 2, "ncq_z": 1}
    assert one.set_feature(Fid.NUMBER_OF_QUEUES, NUMBER_OF_QUEUES.pack(**granted)).status == 0
    one.create_cq(1)
    create = one.create_cq if kind == "cq" else one.create_sq

    assert create(2).status == 0
    assert create(3).status == Status.QID_INVALID | DNR | MORE


def test_create_sq_for_a_cq_beyond_what_was_granted_is_an_invalid_identifier() -> None:
    one = host()
    one.set_feature(Fid.NUMBER_OF_QUEUES, NUMBER_OF_QUEUES.pack(nsq_z=3, ncq_z=0))

    assert code(one.create_sq(1, cqid=2)) == Status.QID_INVALID


# --- deletion -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opcode", [AdminOpcode.DELETE_IO_SQ, AdminOpcode.DELETE_IO_CQ])
@pytest.mark.parametrize("qid", [0, 2, 5, 0xFFFF])
def test_delete_of_a_queue_that_does_not_exist_fails(opcode: int, qid: int) -> None:
    one = host()
    io_queue(one, 1)

    assert one.do(opcode, cdw10=qid).status == Status.QID_INVALID | DNR | MORE
    assert set(one.ctrl.rings.sqs) == set(one.ctrl.rings.cqs) == {0, 1}


def test_delete_cq_before_its_sqs_fails() -> None:
    one = host()
    io_queue(one, 1)
    one.create_sq(2, cqid=1)

    statuses = [
        code(one.do(opcode, cdw10=qid))
        for opcode, qid in (
            (AdminOpcode.DELETE_IO_CQ, 1),
            (AdminOpcode.DELETE_IO_SQ, 1),
            (AdminOpcode.DELETE_IO_CQ, 1),
            (AdminOpcode.DELETE_IO_SQ, 2),
            (AdminOpcode.DELETE_IO_CQ, 1),
        )
    ]

    assert statuses == [Status.INVALID_QUEUE, 0, Status.INVALID_QUEUE, 0, 0]
    assert set(one.ctrl.rings.cqs) == {0}


def test_delete_sq_then_create_again_starts_fresh() -> None:
    one = host()
    queue = io_queue(one, 1)
    queue.run(NvmOpcode.FLUSH)
    assert one.do(AdminOpcode.DELETE_IO_SQ, cdw10=1).status == 0
    assert one.do(AdminOpcode.DELETE_IO_CQ, cdw10=1).status == 0

    again = io_queue(one, 1)

    assert again.run(NvmOpcode.FLUSH, cid=5)[1:] == (1, 1, 5, 0)


def test_delete_sq_ends_each_command_in_flight_once() -> None:
    one = host(latency=Slow())
    queue, other = io_queue(one, 1), io_queue(one, 2)
    for cid in range(5):
        queue.rw(NvmOpcode.READ, 0, 1, one.data, cid=cid)
    other.rw(NvmOpcode.READ, 0, 1, one.data + PAGE, cid=77)
    queue.ring()
    other.ring()
    one.step()

    assert one.do(AdminOpcode.DELETE_IO_SQ, cdw10=1).status == 0

    ended = queue.reap()
    assert [(c.cid, code(c)) for c in ended] == [(cid, Status.ABORT_QUEUE) for cid in range(5)]
    one.step(one.now_ns + 2_000_000)
    assert queue.reap() == []
    assert [(c.cid, c.status) for c in other.reap()] == [(77, 0)]
    assert one.ctrl.outstanding == {}
    one.audit()


def test_delete_sq_forgets_what_was_not_fetched() -> None:
    one = host()
    queue = io_queue(one, 1)
    queue.put(NvmOpcode.FLUSH, cid=1)
    one.admin.put(AdminOpcode.DELETE_IO_SQ, cdw10=1, cid=2)
    one.admin.ring()
    queue.ring()

    one.step()

    assert [c.cid for c in one.admin.reap()] == [2]
    assert [c.cid for c in queue.reap()] in ([], [1])
    one.audit()


def test_doorbell_of_a_deleted_queue_is_an_invalid_doorbell() -> None:
    one = host()
    queue = io_queue(one, 1)
    one.do(AdminOpcode.DELETE_IO_SQ, cdw10=1)
    assert one.park_aer() == []

    queue.put(NvmOpcode.FLUSH)
    queue.ring()
    one.step()

    (event,) = one.admin.reap()
    assert event.dw0 == 0x01_00_00  # error, write to invalid doorbell register, log page 01h
