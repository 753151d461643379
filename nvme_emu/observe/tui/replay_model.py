"""The machine as its events tell it: rings, commands and workers, moved on event by event.

A trace does not say everything. Ring sizes are those of ``sizes``, or estimated (`estimate`); an entry's bytes
are built again from what its events record, with zeroes for the rest.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from nvme_emu.core.trace import (
    Doorbell,
    FetchCmd,
    Kworker,
    NvmeCompleteRq,
    NvmeQueueRq,
    NvmeSetupCmd,
    NvmeSq,
    PostCqe,
)
from nvme_emu.observe.state import CommandState, CqState, EntryState, SqState, WorkerSnapshot, WorkSnapshot
from nvme_emu.spec.opcodes import NvmOpcode, opcode_name
from nvme_emu.spec.queues import CQE, SQE
from nvme_emu.spec.status import describe

__all__ = ["Model", "QueueStart", "estimate"]

LISTED_MAX = 1 << 16
"""Bound of the requests that wait for their command; a trace that lost events may never end them."""


@dataclass(frozen=True, slots=True)
class QueueStart:
    """A queue pair where the trace begins: its sizes, and where the next entries go."""

    size: int
    sq_tail: int
    cq_tail: int


def estimate(events: Iterable[Any], sizes: dict[int, int]) -> dict[int, QueueStart]:
    """Where each queue pair stood before the first event; sizes that are not known are powers of two."""
    tops: dict[int, int] = {}
    built: dict[int, int] = {}
    fetched: dict[int, int] = {}
    ended: dict[int, int] = {}
    posted: dict[int, int] = {}
    sq_first: dict[int, int] = {}
    cq_first: dict[int, int] = {}
    for event in events:
        kind = event.__class__
        if kind is NvmeSetupCmd:
            built[event.qid] = built.get(event.qid, 0) + 1
        elif kind is NvmeSq:
            sq_first.setdefault(event.qid, event.tail - built.get(event.qid, 0))
            tops[event.qid] = max(tops.get(event.qid, 0), event.tail)
        elif kind is FetchCmd:
            fetched[event.sqid] = fetched.get(event.sqid, 0) + 1
        elif kind is NvmeCompleteRq:
            ended[event.qid] = ended.get(event.qid, 0) + 1
        elif kind is PostCqe:
            posted[event.cqid] = posted.get(event.cqid, 0) + 1
            if not built.get(event.sqid):
                sq_first.setdefault(event.sqid, event.sqhd - fetched.get(event.sqid, 0))
        elif kind is Doorbell:
            tops[event.qid] = max(tops.get(event.qid, 0), event.value)
            if event.is_cq:
                taken = ended.get(event.qid, posted.get(event.qid, 0))
                cq_first.setdefault(event.qid, event.value - taken)
    starts = {}
    for qid in sorted({*tops, *fetched, *built, *posted}):
        size = sizes.get(qid) or max(2, 1 << tops.get(qid, 1).bit_length())
        starts[qid] = QueueStart(size, sq_first.get(qid, 0) % size, cq_first.get(qid, 0) % size)
    return starts


@dataclass(slots=True)
class _Command:
    request: int | None
    opcode: int
    nsid: int
    slba: int
    nlb: int
    stage: str
    start_ns: int


@dataclass(slots=True)
class _Pair:
    """A queue pair. ``sq`` and ``cq`` hold the slots that were written: index to (cid, opcode, raw)."""

    size: int
    host_tail: int
    doorbell: int
    head: int
    cq_tail: int
    cq_head: int
    phase: int = 1
    built: bool = False
    sq: dict[int, tuple[int, int, bytes]] = field(default_factory=dict)
    cq: dict[int, tuple[int, int, bytes]] = field(default_factory=dict)


@dataclass(slots=True)
class _Worker:
    current: str | None = None
    since_ns: int = 0
    queued: list[str] = field(default_factory=list)
    runs: int = 0
    busy_ns: int = 0


class Model:
    """The state after the events that were fed to it. ``copy.deepcopy`` gives a checkpoint."""

    def __init__(self, starts: dict[int, QueueStart]) -> None:
        self.now_ns = 0
        self.reads = self.writes = self.read_blocks = self.write_blocks = self.fetched = self.posted = 0
        self._pairs = {
            qid: _Pair(one.size, one.sq_tail, one.sq_tail, one.sq_tail, one.cq_tail, one.cq_tail)
            for qid, one in starts.items()
        }
        self._commands: dict[tuple[int, int], _Command] = {}
        self._listed: dict[int, NvmeQueueRq] = {}
        self._workers: dict[str, _Worker] = {}

    def feed(self, event: Any) -> None:
        """One event further."""
        self.now_ns = max(self.now_ns, event.ts_ns)
        handler = _HANDLERS.get(event.__class__)
        if handler is not None:
            handler(self, event)

    # --- the events -----------------------------------------------------------------------------------------

    def _queue(self, event: NvmeQueueRq) -> None:
        if len(self._listed) < LISTED_MAX:
            self._listed[event.request] = event

    def _setup(self, event: NvmeSetupCmd) -> None:
        began = self._listed.get(event.request)
        start_ns = event.ts_ns if began is None else began.ts_ns
        if began is not None and began.nlb <= event.nlb:
            del self._listed[event.request]
        self._commands[event.qid, event.cid] = _Command(
            event.request, event.opcode, event.nsid, event.slba, event.nlb, "prepared", start_ns
        )
        pair = self._pairs[event.qid]
        pair.built = True
        self._write_sqe(pair, event)

    @staticmethod
    def _write_sqe(pair: _Pair, event: NvmeSetupCmd | FetchCmd) -> None:
        slba, nlb = event.slba, event.nlb
        low, high, count = (slba & 0xFFFF_FFFF, slba >> 32, (nlb - 1) & 0xFFFF) if nlb else (0, 0, 0)
        dwords = (low, high, count, 0, 0, 0)
        raw = SQE.pack(event.opcode & 0xFF, 0, event.cid & 0xFFFF, event.nsid & 0xFFFF_FFFF, *(0,) * 5, *dwords)
        pair.sq[pair.host_tail] = (event.cid, event.opcode, raw)
        pair.host_tail = (pair.host_tail + 1) % pair.size

    def _sq(self, event: NvmeSq) -> None:
        pair = self._pairs[event.qid]
        pair.host_tail = pair.doorbell = event.tail % pair.size
        for (qid, _), command in self._commands.items():
            if qid == event.qid and command.stage == "prepared":
                command.stage = "submitted"

    def _fetch(self, event: FetchCmd) -> None:
        pair = self._pairs[event.sqid]
        if not pair.built:
            self._write_sqe(pair, event)
            pair.doorbell = pair.host_tail
        pair.head = (pair.head + 1) % pair.size
        command = self._commands.get((event.sqid, event.cid))
        if command is None:
            command = _Command(None, event.opcode, event.nsid, event.slba, event.nlb, "executing", event.ts_ns)
            self._commands[event.sqid, event.cid] = command
        command.stage = "executing"
        self.fetched += 1
        if event.sqid and event.opcode == NvmOpcode.READ:
            self.reads += 1
            self.read_blocks += event.nlb
        elif event.sqid and event.opcode == NvmOpcode.WRITE:
            self.writes += 1
            self.write_blocks += event.nlb

    def _post(self, event: PostCqe) -> None:
        pair = self._pairs.get(event.cqid)
        if pair is not None:
            status_p = (event.status << 1 | pair.phase) & 0xFFFF
            raw = CQE.pack(0, 0, event.sqhd & 0xFFFF, event.sqid & 0xFFFF, event.cid & 0xFFFF, status_p)
            pair.cq[pair.cq_tail] = (event.cid, event.status, raw)
            pair.cq_tail = (pair.cq_tail + 1) % pair.size
            pair.phase ^= not pair.cq_tail
        self.posted += 1
        command = self._commands.get((event.sqid, event.cid))
        if command is not None and command.request is None:
            del self._commands[event.sqid, event.cid]
        elif command is not None:
            command.stage = "completed"

    def _complete(self, event: NvmeCompleteRq) -> None:
        self._commands.pop((event.qid, event.cid), None)
        self._listed.pop(event.request, None)

    def _doorbell(self, event: Doorbell) -> None:
        pair = self._pairs.get(event.qid)
        if pair is None:
            return
        if event.is_cq:
            pair.cq_head = event.value % pair.size
        else:
            pair.doorbell = event.value % pair.size

    def _kworker(self, event: Kworker) -> None:
        what, args = event.what, event.args
        if not what.startswith("sched_kthread_work_") or len(args) < 2:
            return
        worker = self._workers.setdefault(str(args[0]), _Worker())
        work = str(args[1])
        if what.endswith("queue_work"):
            worker.queued.append(work)
            del worker.queued[:-LISTED_MAX]
        elif what.endswith("execute_start"):
            if work in worker.queued:
                worker.queued.remove(work)
            worker.current, worker.since_ns = work, event.ts_ns
        elif what.endswith("execute_end"):
            if worker.current is not None:
                worker.runs += 1
                worker.busy_ns += max(0, event.ts_ns - worker.since_ns)
            worker.current = None

    # --- as states ------------------------------------------------------------------------------------------

    def commands(self) -> tuple[CommandState, ...]:
        """Those that have not ended."""
        made = [
            self._command(qid, cid, one.request, one.stage, one.start_ns, one)
            for (qid, cid), one in self._commands.items()
        ]
        made += [self._command(1, None, one.request, "listed", one.ts_ns, one) for one in self._listed.values()]
        return tuple(made)

    def _command(
        self, qid: int, cid: int | None, request: int | None, stage: str, start_ns: int, what: Any
    ) -> CommandState:
        return CommandState(
            qid=qid,
            cid=cid,
            request=request,
            opcode=what.opcode,
            name=opcode_name(what.opcode, not qid),
            nsid=getattr(what, "nsid", 0),
            slba=what.slba,
            nlb=what.nlb,
            stage=stage,
            age_ns=max(0, self.now_ns - start_ns),
            due_ns=None,
        )

    def sqs(self, entries: int) -> tuple[SqState, ...]:
        """The submission queues with their newest slots."""
        return tuple(self._sq_state(qid, pair, entries) for qid, pair in self._pairs.items())

    def _sq_state(self, qid: int, pair: _Pair, entries: int) -> SqState:
        live = {cid for (sqid, cid), one in self._commands.items() if sqid == qid and one.stage == "executing"}
        waiting, prepared = (pair.doorbell - pair.head) % pair.size, (pair.host_tail - pair.doorbell) % pair.size

        def state(index: int, cid: int) -> str:
            ahead = (index - pair.head) % pair.size
            if ahead < waiting:
                return "waiting"
            if ahead < waiting + prepared:
                return "prepared"
            return "inflight" if cid in live else "old"

        slots = []
        for index in _newest(pair.host_tail, pair.size, entries):
            cid, opcode, raw = pair.sq.get(index, (0, 0, b""))
            slots.append(
                EntryState(
                    index=index,
                    state=state(index, cid) if raw else "empty",
                    phase=None,
                    cid=cid,
                    opcode=opcode if raw else None,
                    status=None,
                    words=opcode_name(opcode, not qid) if raw else "",
                    raw=raw.hex(),
                )
            )
        return SqState(
            qid=qid,
            cqid=qid,
            size=pair.size,
            base=0,
            prio=0,
            head=pair.head,
            tail=pair.doorbell,
            waiting=waiting,
            inflight=len(live),
            host_head=None,
            host_tail=pair.host_tail if pair.built else None,
            entries=tuple(slots),
        )

    def cqs(self, entries: int) -> tuple[CqState, ...]:
        """The completion queues with their newest slots."""
        return tuple(self._cq_state(qid, pair, entries) for qid, pair in self._pairs.items())

    def _cq_state(self, qid: int, pair: _Pair, entries: int) -> CqState:
        posted = (pair.cq_tail - pair.cq_head) % pair.size
        slots = []
        for index in _newest(pair.cq_tail, pair.size, entries):
            cid, status, raw = pair.cq.get(index, (0, 0, b""))
            fresh = (index - pair.cq_head) % pair.size < posted
            slots.append(
                EntryState(
                    index=index,
                    state=("new" if fresh else "old") if raw else "empty",
                    phase=raw[14] & 1 if raw else 0,
                    cid=cid,
                    opcode=None,
                    status=status,
                    words=describe(status) if raw else "",
                    raw=raw.hex(),
                )
            )
        return CqState(
            qid=qid,
            size=pair.size,
            base=0,
            vector=qid,
            interrupts=True,
            head=pair.cq_head,
            tail=pair.cq_tail,
            phase=pair.phase,
            posted=posted,
            reserved=0,
            free=pair.size - 1 - posted,
            backlog=0,
            blocked=(),
            sqs=1,
            host_head=None,
            host_phase=None,
            entries=tuple(slots),
        )

    def workers(self) -> tuple[WorkerSnapshot, ...]:
        """The workers that the events name, as far as they tell of them."""
        return tuple(self._worker_state(name, one) for name, one in sorted(self._workers.items()))

    def _worker_state(self, name: str, one: _Worker) -> WorkerSnapshot:
        def work(found: str) -> WorkSnapshot:
            return WorkSnapshot(name=found, canceling=0, waiter=None)

        return WorkerSnapshot(
            name=name,
            state="idle" if one.current is None else "running",
            pid=None,
            current=None if one.current is None else work(one.current),
            running_ns=0 if one.current is None else max(0, self.now_ns - one.since_ns),
            queued=tuple(map(work, one.queued)),
            delayed=(),
            waiters=(),
            runs=one.runs,
            failures=0,
            busy_ns=one.busy_ns,
            cpu_ns=0,
            nvcsw=0,
            blocked_ns=0,
        )


def _newest(tail: int, size: int, count: int) -> list[int]:
    count = min(count, size)
    return [(tail - count + at) % size for at in range(count)]


_HANDLERS: dict[type[Any], Any] = {
    NvmeQueueRq: Model._queue,
    NvmeSetupCmd: Model._setup,
    NvmeSq: Model._sq,
    FetchCmd: Model._fetch,
    PostCqe: Model._post,
    NvmeCompleteRq: Model._complete,
    Doorbell: Model._doorbell,
    Kworker: Model._kworker,
}
