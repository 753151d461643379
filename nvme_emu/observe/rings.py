"""The queues as they stand, and the commands in them: from the controller's rings and, if there is one, the
driver's view of the same memory.

    where a command is                           who knows
    on the worker's list          listed         driver: the path's ``requests``
    written, doorbell not rung    prepared       driver: between its ``rung_tail`` and its ``tail``
    between doorbell and head     submitted      controller: the submission queue
    fetched                       executing      controller: ``outstanding``, with a time
                                  parked         controller: ``outstanding``, without one
    completion posted, not taken  completed      driver: in flight, but nowhere of the above

Every function here is called where nobody is at work (see `watched`), or copies each table atomically.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from nvme_emu.observe.state import CommandState, CqState, EntryState, SqState
from nvme_emu.spec.commands import join64
from nvme_emu.spec.opcodes import NvmOpcode, opcode_name
from nvme_emu.spec.queues import CQE, CQE_SIZE, PHASE_MASK, SQE, SQE_SIZE, Cqe, Sqe
from nvme_emu.spec.status import describe

if TYPE_CHECKING:
    from nvme_emu.controller.controller import Controller
    from nvme_emu.controller.pcie.rings import CompletionQueue, SubmissionQueue
    from nvme_emu.driver.device import NvmeDriver
    from nvme_emu.driver.queue_pair import QueuePair
    from nvme_emu.driver.request import Request
    from nvme_emu.driver.submit import SubmitPath
    from nvme_emu.observe.recorder import Recorder

__all__ = ["block_range", "commands_state", "cq_states", "entries_of_cq", "entries_of_sq", "in_order", "sq_states"]

_WITH_BLOCKS = frozenset(
    {
        NvmOpcode.READ,
        NvmOpcode.WRITE,
        NvmOpcode.COMPARE,
        NvmOpcode.WRITE_ZEROES,
        NvmOpcode.WRITE_UNCORRECTABLE,
        NvmOpcode.VERIFY,
    }
)


def block_range(sqid: int, opcode: int, cdw10: int, cdw11: int, cdw12: int) -> tuple[int, int]:
    """(slba, nlb) of an I/O command that has them, else (0, 0)."""
    if not sqid or opcode not in _WITH_BLOCKS:
        return 0, 0
    return join64(cdw10, cdw11), (cdw12 & 0xFFFF) + 1


# --- queues -------------------------------------------------------------------------------------------------


def _paths(driver: NvmeDriver | None) -> list[SubmitPath]:
    """The driver's submit paths, the admin queue's first."""
    if driver is None:
        return []
    admin = driver.admin_queue
    return [*([admin.path] if admin is not None else []), *list(driver.paths)]


def _pairs(driver: NvmeDriver | None) -> dict[int, QueuePair]:
    return {path.pair.qid: path.pair for path in _paths(driver)}


def in_order(table: dict[int, Any]) -> list[Any]:
    """The values by ascending key."""
    # sorted() copies the items in one atomic operation: also right while others change the dict.
    return [value for _, value in sorted(table.items())]


def sq_states(ctrl: Controller, driver: NvmeDriver | None, entries_max: int) -> tuple[SqState, ...]:
    """Each submission queue, with its newest ``entries_max`` slots."""
    pairs = _pairs(driver)
    return tuple(_sq_state(ctrl, sq, pairs.get(sq.qid), entries_max) for sq in in_order(ctrl.rings.sqs))


def _sq_state(ctrl: Controller, sq: SubmissionQueue, pair: QueuePair | None, entries_max: int) -> SqState:
    newest = sq.tail if pair is None else pair.tail
    return SqState(
        qid=sq.qid,
        cqid=sq.cq.qid,
        size=sq.size,
        base=sq.base,
        prio=sq.prio,
        head=sq.head,
        tail=sq.tail,
        waiting=sq.waiting(),
        inflight=sq.inflight,
        host_head=None if pair is None else pair.sqhd,
        host_tail=None if pair is None else pair.tail,
        entries=tuple(_sq_entries(ctrl, sq, pair, _newest(newest, sq.size, entries_max))),
    )


def cq_states(ctrl: Controller, driver: NvmeDriver | None, entries_max: int) -> tuple[CqState, ...]:
    """Each completion queue, with its newest ``entries_max`` slots."""
    pairs = _pairs(driver)
    return tuple(_cq_state(cq, pairs.get(cq.qid), entries_max) for cq in in_order(ctrl.rings.cqs))


def _cq_state(cq: CompletionQueue, pair: QueuePair | None, entries_max: int) -> CqState:
    posted = (cq.tail - cq.head) % cq.size
    return CqState(
        qid=cq.qid,
        size=cq.size,
        base=cq.base,
        vector=cq.vector,
        interrupts=cq.ien,
        head=cq.head,
        tail=cq.tail,
        phase=cq.phase,
        posted=posted,
        reserved=max(0, cq.size - 1 - cq.free - posted),
        free=cq.free,
        backlog=len(cq.backlog),
        blocked=tuple(sq.qid for sq in list(cq.blocked)),
        sqs=cq.sqs,
        host_head=None if pair is None else pair.head,
        host_phase=None if pair is None else pair.phase,
        entries=tuple(_cq_entries(cq, _newest(cq.tail, cq.size, entries_max))),
    )


def _newest(tail: int, size: int, count: int) -> Iterable[int]:
    """The ``count`` slots before ``tail``, the oldest first."""
    count = max(0, min(count, size))
    return [(tail - count + i) % size for i in range(count)]


def _window(size: int, start: int, count: int | None) -> Iterable[int]:
    start = max(0, start)
    stop = size if count is None else min(size, start + max(0, count))
    return range(start, stop)


# --- slots --------------------------------------------------------------------------------------------------


def entries_of_sq(
    ctrl: Controller, driver: NvmeDriver | None, qid: int, start: int, count: int | None
) -> tuple[EntryState, ...]:
    """Slots of one submission queue. KeyError if it does not exist."""
    sq = ctrl.rings.sqs[qid]
    return tuple(_sq_entries(ctrl, sq, _pairs(driver).get(qid), _window(sq.size, start, count)))


def entries_of_cq(ctrl: Controller, qid: int, start: int, count: int | None) -> tuple[EntryState, ...]:
    """Slots of one completion queue. KeyError if it does not exist."""
    cq = ctrl.rings.cqs[qid]
    return tuple(_cq_entries(cq, _window(cq.size, start, count)))


def _sq_entries(
    ctrl: Controller, sq: SubmissionQueue, pair: QueuePair | None, slots: Iterable[int]
) -> Iterator[EntryState]:
    size, head, waiting = sq.size, sq.head, sq.waiting()
    prepared = 0 if pair is None else (pair.tail - sq.tail) % size
    for index in slots:
        raw = bytes(sq.view[index * SQE_SIZE : (index + 1) * SQE_SIZE])
        sqe = Sqe._make(SQE.unpack(raw))
        ahead = (index - head) % size
        if ahead < waiting:
            state = "waiting"
        elif ahead < waiting + prepared:
            state = "prepared"
        elif not any(raw):
            state = "empty"
        else:
            live = ctrl.outstanding.get((sq.qid, sqe.cid))
            # The same identifier may be in an older slot too; the one in flight has this opcode and range.
            same = live is not None and (live.opcode, live.prp1) == (sqe.opcode, sqe.prp1)
            state = "inflight" if same else "old"
        yield EntryState(
            index=index,
            state=state,
            phase=None,
            cid=sqe.cid,
            opcode=sqe.opcode,
            status=None,
            words="" if state == "empty" else opcode_name(sqe.opcode, not sq.qid),
            raw=raw.hex(),
        )


def _cq_entries(cq: CompletionQueue, slots: Iterable[int]) -> Iterator[EntryState]:
    posted = (cq.tail - cq.head) % cq.size
    for index in slots:
        raw = bytes(cq.view[index * CQE_SIZE : (index + 1) * CQE_SIZE])
        cqe = Cqe._make(CQE.unpack(raw))
        if (index - cq.head) % cq.size < posted:
            state = "new"
        else:
            state = "old" if any(raw) else "empty"
        status = cqe.status_p >> 1
        yield EntryState(
            index=index,
            state=state,
            phase=cqe.status_p & PHASE_MASK,
            cid=cqe.cid,
            opcode=None,
            status=status,
            words="" if state == "empty" else describe(status),
            raw=raw.hex(),
        )


# --- commands that have not ended ---------------------------------------------------------------------------


def commands_state(
    ctrl: Controller, driver: NvmeDriver | None, now_ns: int, recorder: Recorder | None
) -> tuple[CommandState, ...]:
    """Every command that has not ended, by queue, the furthest along first."""
    found: list[CommandState] = []
    inside: set[tuple[int, int]] = set()
    requests = _requests_in_flight(driver)

    def add(qid: int, cid: int | None, stage: str, what: tuple[int, int, int, int], due_ns: int | None) -> None:
        opcode, nsid, slba, nlb = what
        rq = requests.get((qid, cid)) if cid is not None else None
        serial = rq.serial if rq is not None else None
        began = recorder.start_of(qid, cid, serial) if recorder is not None else None
        found.append(
            CommandState(
                qid=qid,
                cid=cid,
                request=serial,
                opcode=opcode,
                name=opcode_name(opcode, not qid),
                nsid=nsid,
                slba=slba,
                nlb=nlb,
                stage=stage,
                age_ns=None if began is None else max(0, now_ns - began),
                due_ns=due_ns,
            )
        )
        if cid is not None:
            inside.add((qid, cid))

    for (qid, cid), cmd in list(ctrl.outstanding.items()):
        slba, nlb = block_range(qid, cmd.opcode, cmd.cdw10, cmd.cdw11, cmd.cdw12)
        stage = "executing" if cmd.done_ns else "parked"
        due_ns = max(0, cmd.done_ns - now_ns) if cmd.done_ns else None
        add(qid, cid, stage, (cmd.opcode, cmd.nsid, slba, nlb), due_ns)
    for sq in in_order(ctrl.rings.sqs):
        for index in range(sq.waiting()):
            offset = (sq.head + index) % sq.size * SQE_SIZE
            sqe = Sqe._make(SQE.unpack_from(sq.view, offset))
            slba, nlb = block_range(sq.qid, sqe.opcode, sqe.cdw10, sqe.cdw11, sqe.cdw12)
            add(sq.qid, sqe.cid, "submitted", (sqe.opcode, sqe.nsid, slba, nlb), None)
    prepared = _prepared(ctrl, driver)
    for (qid, cid), rq in requests.items():
        if (qid, cid) not in inside:
            stage = "prepared" if (qid, cid) in prepared else "completed"
            add(qid, cid, stage, (rq.opcode, rq.nsid, rq.slba if rq.nlb else 0, rq.nlb), None)
    found += _listed(driver, now_ns, recorder)
    return tuple(sorted(found, key=lambda one: one.qid))


def _requests_in_flight(driver: NvmeDriver | None) -> dict[tuple[int, int], Request]:
    found = {}
    for qid, pair in _pairs(driver).items():
        for tag, rq in enumerate(list(pair.inflight)):
            if rq is not None:
                # A batch is one request with many commands: the tag's own identifier names each.
                found[qid, pair.tags.cid[tag]] = rq
    return found


def _prepared(ctrl: Controller, driver: NvmeDriver | None) -> set[tuple[int, int]]:
    """What the driver has written behind the doorbell."""
    found = set()
    for qid, pair in _pairs(driver).items():
        sq = ctrl.rings.sqs.get(qid)
        for index in range((pair.tail - sq.tail) % sq.size if sq is not None else 0):
            offset = (sq.tail + index) % sq.size * SQE_SIZE if sq is not None else 0
            found.add((qid, Sqe._make(SQE.unpack_from(pair.sq_view, offset)).cid))
    return found


def _listed(driver: NvmeDriver | None, now_ns: int, recorder: Recorder | None) -> Iterator[CommandState]:
    """Requests on a worker's list, which have no command yet."""
    for path in _paths(driver):
        for rq in list(getattr(path, "requests", ())):
            began = recorder.start_of(path.pair.qid, None, rq.serial) if recorder is not None else None
            yield CommandState(
                qid=path.pair.qid,
                cid=None,
                request=rq.serial,
                opcode=rq.opcode,
                name=opcode_name(rq.opcode, rq.admin),
                nsid=rq.nsid,
                slba=rq.slba,
                nlb=rq.nlb,
                stage="listed",
                age_ns=None if began is None else max(0, now_ns - began),
                due_ns=None,
            )
