"""Latencies while somebody looks: a sink that measures each command from its events, in bounded memory.

With a driver in the process a command's latency counts from the caller's hand-over to its completion, and is
divided into the stages of :mod:`nvme_emu.observe.stages`:

    nvme_queue_rq ─ worker_list ─► nvme_setup_cmd ─ submission ─► fetch_cmd ─ device ─► post_cqe
                  ─ completion ─► nvme_complete_rq ─ wakeup ─► nvme_wake_rq

Without one (a server whose driver is in a guest) it counts from fetch_cmd to post_cqe, and ``device`` is the
only stage. :class:`~nvme_emu.observe.stages.StageSums` is the exact instrument for a run from idle to idle;
this one may be attached and detached at any time and keeps distributions, the slowest and the failed.
"""

from __future__ import annotations

import heapq
import threading
from collections import OrderedDict, deque
from typing import Any, NamedTuple

from nvme_emu.core.histogram import Histogram
from nvme_emu.core.trace import FetchCmd, NvmeCompleteRq, NvmeQueueRq, NvmeSetupCmd, NvmeWakeRq, PostCqe
from nvme_emu.observe.stages import STAGES
from nvme_emu.observe.state import LatencyState, SampleState
from nvme_emu.spec.opcodes import NvmOpcode, opcode_name
from nvme_emu.spec.status import describe

__all__ = ["Recorder", "latency_state"]

PERCENTILES = (1.0, 10.0, 50.0, 90.0, 95.0, 99.0, 99.9, 99.99)
SAMPLES_MAX = 32
"""How many of the slowest, and how many of the last failed commands are kept."""
PENDING_MAX = 1 << 17
"""Bound of each table of what has begun and not ended; the oldest is forgotten beyond it."""


def latency_state(histogram: Histogram) -> LatencyState:
    """A histogram as a plain state."""
    values = histogram.percentiles(PERCENTILES)
    return LatencyState(
        count=histogram.n,
        min_ns=histogram.min,
        max_ns=histogram.max,
        mean_ns=histogram.mean,
        percentiles={f"{p:g}": value for p, value in zip(PERCENTILES, values, strict=True)},
        bins=tuple((int(value), count) for value, count in histogram.bins().items()),
    )


def kind_of(qid: int, opcode: int) -> str:
    """ "read", "write", "other" or "admin": under which name a command's latency is kept."""
    if not qid:
        return "admin"
    return {NvmOpcode.READ: "read", NvmOpcode.WRITE: "write"}.get(opcode, "other")  # type: ignore[call-overload,no-any-return]


class _Pending(NamedTuple):
    """A command under way: since when, and what its set-up told."""

    start_ns: int
    setup_ns: int | None
    request: int | None
    opcode: int
    slba: int
    nlb: int


class Recorder:
    """A sink for ``machine.trace``; ``started_ns`` is when it was attached. Several threads may emit.

    With ``driver=True`` a command whose set-up was not seen is not measured: where a driver is in the
    process, it was handed over before this began to look, or while it did not (`skip`).
    """

    def __init__(self, started_ns: int, *, driver: bool = False) -> None:
        self.started_ns = started_ns
        self._driver = driver
        self._lock = threading.Lock()
        self._queued: OrderedDict[int, int] = OrderedDict()
        self._pending: OrderedDict[tuple[int, int], _Pending] = OrderedDict()
        self._fetched: OrderedDict[tuple[int, int], int] = OrderedDict()
        self._posted: OrderedDict[tuple[int, int], int] = OrderedDict()
        self._completed: OrderedDict[int, int] = OrderedDict()
        self._latency: dict[str, Histogram] = {}
        self._stages: dict[str, Histogram] = {}
        self._slowest: list[tuple[int, int, SampleState]] = []
        self._failed: deque[SampleState] = deque(maxlen=SAMPLES_MAX)
        self._serial = 0
        self._handlers: dict[type[Any], Any] = {
            NvmeQueueRq: self._queue,
            NvmeSetupCmd: self._setup,
            FetchCmd: self._fetch,
            PostCqe: self._post,
            NvmeCompleteRq: self._complete,
            NvmeWakeRq: self._wake,
        }

    def __call__(self, event: Any) -> None:
        """Take one event; others than those above are ignored."""
        handler = self._handlers.get(event.__class__)
        if handler is not None:
            with self._lock:
                handler(event)

    def skip(self) -> None:
        """Events were left out here: forget what has begun, since its end may have been among them."""
        with self._lock:
            for table in (self._queued, self._pending, self._fetched, self._posted, self._completed):
                table.clear()

    # --- the events, in a command's order -------------------------------------------------------------------

    def _queue(self, event: NvmeQueueRq) -> None:
        _remember(self._queued, event.request, event.ts_ns)

    def _setup(self, event: NvmeSetupCmd) -> None:
        # The hand-over stays in its table: a batch is one request with many commands.
        start_ns = self._queued.get(event.request)
        if start_ns is not None:
            self._stage("worker_list", event.ts_ns - start_ns)
        pending = _Pending(
            event.ts_ns if start_ns is None else start_ns,
            event.ts_ns,
            event.request,
            event.opcode,
            event.slba,
            event.nlb,
        )
        _remember(self._pending, (event.qid, event.cid), pending)

    def _fetch(self, event: FetchCmd) -> None:
        key = (event.sqid, event.cid)
        pending = self._pending.get(key)
        if pending is None:
            if self._driver:
                return
            pending = _Pending(event.ts_ns, None, None, event.opcode, event.slba, event.nlb)
            _remember(self._pending, key, pending)
        elif pending.setup_ns is not None:
            self._stage("submission", event.ts_ns - pending.setup_ns)
        _remember(self._fetched, key, event.ts_ns)

    def _post(self, event: PostCqe) -> None:
        key = (event.sqid, event.cid)
        fetched_ns = self._fetched.pop(key, None)
        if fetched_ns is not None:
            self._stage("device", event.ts_ns - fetched_ns)
        pending = self._pending.get(key)
        if pending is None:
            return
        if pending.setup_ns is None:
            del self._pending[key]
            self._end(event.ts_ns, key, pending, event.status)
        else:
            _remember(self._posted, key, event.ts_ns)

    def _complete(self, event: NvmeCompleteRq) -> None:
        key = (event.qid, event.cid)
        posted_ns = self._posted.pop(key, None)
        if posted_ns is not None:
            self._stage("completion", event.ts_ns - posted_ns)
        pending = self._pending.pop(key, None)
        if pending is not None:
            self._end(event.ts_ns, key, pending, event.status)
        _remember(self._completed, event.request, event.ts_ns)

    def _wake(self, event: NvmeWakeRq) -> None:
        completed_ns = self._completed.pop(event.request, None)
        if completed_ns is not None:
            self._stage("wakeup", event.ts_ns - completed_ns)

    def _stage(self, name: str, ns: int) -> None:
        found = self._stages.get(name)
        if found is None:
            found = self._stages[name] = Histogram()
        found.add(max(0, ns))

    def _end(self, now_ns: int, key: tuple[int, int], pending: _Pending, status: int) -> None:
        latency_ns = max(0, now_ns - pending.start_ns)
        kind = kind_of(key[0], pending.opcode)
        found = self._latency.get(kind)
        if found is None:
            found = self._latency[kind] = Histogram()
        found.add(latency_ns)
        slowest = self._slowest
        slow = len(slowest) < SAMPLES_MAX or latency_ns > slowest[0][0]
        if not slow and not status:
            return
        sample = SampleState(
            ts_ns=now_ns,
            qid=key[0],
            cid=key[1],
            request=pending.request,
            opcode=pending.opcode,
            name=opcode_name(pending.opcode, not key[0]),
            slba=pending.slba,
            nlb=pending.nlb,
            latency_ns=latency_ns,
            status=status,
            words=describe(status),
        )
        if status:
            self._failed.append(sample)
        if slow:
            self._serial += 1
            keep = heapq.heappush if len(slowest) < SAMPLES_MAX else heapq.heappushpop
            keep(slowest, (latency_ns, self._serial, sample))

    # --- reading --------------------------------------------------------------------------------------------

    def start_of(self, qid: int, cid: int | None, request: int | None) -> int | None:
        """When (ns) a command that has not ended began; None if this recorder did not see it begin."""
        with self._lock:
            pending = self._pending.get((qid, cid)) if cid is not None else None
            if pending is not None and pending.request == request:
                return pending.start_ns
            return self._queued.get(request) if request is not None else None

    def latencies(self) -> dict[str, LatencyState]:
        """By kind: "read", "write", "other", "admin"; only kinds that occurred."""
        with self._lock:
            return {kind: latency_state(found) for kind, found in sorted(self._latency.items())}

    def stages(self) -> dict[str, LatencyState]:
        """By stage, in the order in which a command goes through them; only those that occurred."""
        with self._lock:
            return {name: latency_state(self._stages[name]) for name in STAGES if name in self._stages}

    def slowest(self) -> tuple[SampleState, ...]:
        """The slowest commands, the slowest first."""
        with self._lock:
            return tuple(sample for _, _, sample in sorted(self._slowest, key=lambda one: -one[0]))

    def failed(self) -> tuple[SampleState, ...]:
        """The last failed commands, the newest first."""
        with self._lock:
            return tuple(reversed(self._failed))


def _remember(table: OrderedDict[Any, Any], key: Any, value: Any) -> None:
    table[key] = value
    if len(table) > PENDING_MAX:
        table.popitem(last=False)
