"""What pictures need beside the figures: the course of the first I/Os, and latencies over time.

A :class:`Capture` is a sink for ``machine.trace``. It keeps the events of the first hundred I/Os, from which
:func:`timeline_of` makes lanes, and counts all latencies in a map of bounded size. Both come out as plain
values that another process can send.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nvme_emu.core.trace import (
    FetchCmd,
    Kworker,
    NvmeCompleteRq,
    NvmeQueueRq,
    NvmeSetupCmd,
    NvmeSq,
    NvmeWakeRq,
    PostCqe,
    RaiseIrq,
)

if TYPE_CHECKING:
    from nvme_emu.machine import Machine

__all__ = [
    "Capture",
    "HeatMap",
    "Lane",
    "Picture",
    "Timeline",
    "close_up_ns",
    "occupancy",
    "timeline_of",
    "worker_events",
]

EXCERPT_IOS = 100
EXCERPT_EVENTS_MAX = 20_000
"""Events kept at most, should the first hundred I/Os never end."""
COLUMNS = 96
"""Columns of a heat map; when they are full, two become one and each is twice as wide."""
OCTAVE_BITS = 3
"""A row of a heat map is an eighth of a power of two."""
FLUSH_COUNT = 4096
PENDING_MAX = 1 << 16

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Lane:
    """One task: when it ran, and when somebody was waking it (from the wake-up until it ran). ns."""

    name: str
    runs: tuple[Span, ...]
    wakes: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Timeline:
    """The first I/Os of a run; all times in ns after the first hand-over.

    ``requests`` has one (handed over, command built, fetched, completion posted, taken) for each I/O, in the
    order of the hand-overs; ``irqs`` the interrupt messages; ``end_ns`` when the last of the requests was taken.
    """

    callers: tuple[Lane, ...]
    workers: tuple[Lane, ...]
    requests: tuple[tuple[int, int, int, int, int], ...]
    irqs: tuple[int, ...]
    end_ns: int


@dataclass(frozen=True, slots=True)
class HeatMap:
    """Latencies (hand-over to completion taken) over time, as counts.

    ``cells`` are (column, row, count); a column is ``column_ns`` of the run. :meth:`edges_ns` of a row are the
    latencies that it counts.
    """

    column_ns: int
    cells: tuple[tuple[int, int, int], ...]

    @staticmethod
    def edges_ns(row: int) -> tuple[float, float]:
        """The least latency of a row, and the least of the next."""
        return _edge(row), _edge(row + 1)


def _edge(row: int) -> float:
    octave, part = divmod(row, 1 << OCTAVE_BITS)
    return float((1 << octave) * (1 + part / (1 << OCTAVE_BITS)))


@dataclass(frozen=True, slots=True)
class Picture:
    """What a capture saw. ``timeline`` is None if no I/O ended."""

    timeline: Timeline | None
    heat: HeatMap


class Capture:
    """A sink for ``machine.trace``; several threads may emit. ``picture()`` tells what it saw so far."""

    def __init__(self, *, ios: int = EXCERPT_IOS) -> None:
        self._ios = ios
        self._lock = threading.Lock()
        self._excerpt: list[Any] = []
        self._excerpt_ended = 0
        self._excerpt_open = True
        self._queued: dict[int, int] = {}
        self._samples: list[Span] = []
        self._origin: int | None = None
        self._column_ns = 1024
        self._counts: NDArray[np.int64] = np.zeros((COLUMNS, 64 << OCTAVE_BITS), dtype=np.int64)

    def __call__(self, event: Any) -> None:
        """Take one event."""
        with self._lock:
            if self._excerpt_open:
                self._keep(event)
            kind = event.__class__
            if kind is NvmeQueueRq:
                if len(self._queued) < PENDING_MAX:
                    self._queued[event.request] = event.ts_ns
            elif kind is NvmeCompleteRq:
                start = self._queued.pop(event.request, None)
                if start is not None and event.qid:
                    self._samples.append((event.ts_ns, event.ts_ns - start))
                    if len(self._samples) >= FLUSH_COUNT:
                        self._flush()

    def _keep(self, event: Any) -> None:
        self._excerpt.append(event)
        if event.__class__ is NvmeCompleteRq and event.qid:
            self._excerpt_ended += 1
        # A few more than are shown: others overtake the hundredth.
        enough = self._excerpt_ended >= self._ios + self._ios // 4
        self._excerpt_open = not enough and len(self._excerpt) < EXCERPT_EVENTS_MAX

    def _flush(self) -> None:
        if not self._samples:
            return
        samples = np.array(self._samples, dtype=np.int64)
        self._samples.clear()
        ends, latencies = samples[:, 0], np.maximum(samples[:, 1], 1)
        if self._origin is None:
            self._origin = int((ends - latencies).min())
        ages = np.maximum(ends - self._origin, 0)
        while int(ages.max()) >= self._column_ns * COLUMNS:
            self._column_ns *= 2
            half = self._counts.reshape(COLUMNS // 2, 2, -1).sum(axis=1)
            self._counts = np.vstack([half, np.zeros_like(half)])
        octaves = np.frexp(latencies.astype(np.float64))[1].astype(np.int64) - 1
        parts = ((latencies << OCTAVE_BITS) >> octaves) - (1 << OCTAVE_BITS)
        np.add.at(self._counts, (ages // self._column_ns, (octaves << OCTAVE_BITS) + parts), 1)

    def picture(self) -> Picture:
        """The timeline and the heat map."""
        with self._lock:
            self._flush()
            filled = np.argwhere(self._counts)
            cells = tuple((int(x), int(y), int(self._counts[x, y])) for x, y in filled)
            events = list(self._excerpt)
        return Picture(timeline_of(events, ios=self._ios), HeatMap(self._column_ns, cells))


def worker_events(machine: Machine) -> Callable[[str, tuple[Any, ...]], None]:
    """A hook for ``runtime.on_event`` that joins the worker room's events with the machine's trace."""

    def hook(what: str, args: tuple[Any, ...]) -> None:
        emit = machine.trace.emit
        if emit is not None:
            emit(Kworker(machine.runtime.now_ns, what, args))

    return hook


# --- from events to lanes -------------------------------------------------------------------------------


class _Task:
    """A lane in the making."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.runs: list[list[int]] = []
        self.wakes: list[Span] = []
        self.woken_ns: int | None = None
        self.resumes_ns: int | None = None

    def wake(self, ts_ns: int) -> None:
        if self.woken_ns is None:
            self.woken_ns = ts_ns

    def resume(self, ts_ns: int) -> None:
        self.resumes_ns = ts_ns
        if self.woken_ns is not None:
            self.wakes.append((self.woken_ns, max(ts_ns, self.woken_ns)))
            self.woken_ns = None

    def seen(self, ts_ns: int) -> None:
        """It ran at this time: since it was resumed, or since it was seen before."""
        if self.woken_ns is not None:
            self.resume(ts_ns)
        if self.resumes_ns is not None or not self.runs:
            start = ts_ns if self.resumes_ns is None else min(self.resumes_ns, ts_ns)
            self.runs.append([start, ts_ns])
            self.resumes_ns = None
        else:
            self.runs[-1][1] = max(self.runs[-1][1], ts_ns)

    def lane(self, origin: int, end: int) -> Lane:
        runs = [(a - origin, b - origin) for a, b in self.runs]
        wakes = [(a - origin, b - origin) for a, b in self.wakes]
        return Lane(self.name, tuple(_within(runs, end)), tuple(_within(wakes, end)))


def _within(spans: Sequence[Span], end: int) -> Iterator[Span]:
    for start, stop in spans:
        if stop >= 0 and start <= end:
            yield max(0, start), min(end, stop)


class _Course:
    """Follows the events of I/O queues in the order in which they came."""

    def __init__(self) -> None:
        self.tasks: dict[str, _Task] = {}
        self.callers: dict[str, None] = {}
        self.workers: dict[str, None] = {}
        self.active: dict[str, None] = {}
        self.stamps: dict[int, list[int | None]] = {}
        self.by_cid: dict[tuple[int, int], int] = {}
        self.task_of: dict[int, str] = {}
        self.submitter = ""
        self.irqs: list[int] = []
        self._handlers: dict[type[Any], Any] = {
            NvmeQueueRq: self._queue,
            NvmeSetupCmd: self._setup,
            NvmeSq: self._doorbell,
            FetchCmd: lambda event: self._stamp((event.sqid, event.cid), 2, event.ts_ns),
            PostCqe: lambda event: self._stamp((event.sqid, event.cid), 3, event.ts_ns),
            NvmeCompleteRq: self._complete,
            NvmeWakeRq: self._wake,
            RaiseIrq: lambda event: self.irqs.append(event.ts_ns),
            Kworker: self._kworker,
        }

    def take(self, event: Any) -> None:
        handler = self._handlers.get(event.__class__)
        if handler is not None:
            handler(event)

    def _task(self, name: str) -> _Task:
        return self.tasks.setdefault(name, _Task(name))

    def _queue(self, event: NvmeQueueRq) -> None:
        self.callers.setdefault(event.task)
        self.stamps[event.request] = [event.ts_ns, None, None, None, None]
        self.task_of[event.request] = event.task
        self._task(event.task).seen(event.ts_ns)

    def _setup(self, event: NvmeSetupCmd) -> None:
        if not event.qid or event.request not in self.stamps:
            return
        self.by_cid[event.qid, event.cid] = event.request
        self._stamp((event.qid, event.cid), 1, event.ts_ns)
        # Whoever builds commands is a worker at work, or else the caller itself.
        self.submitter = next(reversed(self.active), self.task_of[event.request])
        self._task(self.submitter).seen(event.ts_ns)

    def _doorbell(self, event: NvmeSq) -> None:
        if event.qid and self.submitter:
            self._task(self.submitter).seen(event.ts_ns)

    def _stamp(self, key: tuple[int, int], place: int, ts_ns: int) -> None:
        request = self.by_cid.get(key)
        if request is not None and self.stamps[request][place] is None:
            self.stamps[request][place] = ts_ns

    def _complete(self, event: NvmeCompleteRq) -> None:
        self._stamp((event.qid, event.cid), 4, event.ts_ns)
        self.by_cid.pop((event.qid, event.cid), None)

    def _wake(self, event: NvmeWakeRq) -> None:
        self._task(event.task).resume(event.ts_ns)
        self._task(event.task).seen(event.ts_ns)

    def _kworker(self, event: Kworker) -> None:
        what, args = event.what, event.args
        if what == "sched_kthread_work_queue_work":
            if args[0] not in self.active:
                self._task(args[0]).wake(event.ts_ns)
        elif what == "sched_wakeup":
            self._task(args[0]).wake(event.ts_ns)
        elif what == "sched_switch":
            self._task(args[1]).resume(args[3])
        elif what == "sched_kthread_work_execute_start":
            self.workers.setdefault(args[0])
            self.active[args[0]] = None
            self._task(args[0]).resume(event.ts_ns)
            self._task(args[0]).seen(event.ts_ns)
        elif what == "sched_kthread_work_execute_end" and self.active.pop(args[0], "") is None:
            self._task(args[0]).seen(event.ts_ns)


def timeline_of(events: Sequence[Any], *, ios: int = EXCERPT_IOS) -> Timeline | None:
    """The first ``ios`` I/Os of a trace as lanes; None if none of them ended.

    When a task stops running is no event: its run lasts until the last thing that it was seen to do before it
    was woken again. Without scheduler events (threads tell of no switch) a run begins with what it did first.
    """
    course = _Course()
    for event in events:
        course.take(event)
    ended = [tuple(stamps) for stamps in course.stamps.values() if None not in stamps]
    if not ended:
        return None
    chosen: Any = sorted(sorted(ended, key=lambda stamps: stamps[4] or 0)[:ios])
    origin = chosen[0][0]
    end = max(stamps[4] for stamps in chosen) - origin

    def lanes(names: dict[str, None]) -> tuple[Lane, ...]:
        found = [course.tasks[name].lane(origin, end) for name in names]
        return tuple(lane for lane in found if lane.runs)

    return Timeline(
        callers=lanes(course.callers),
        workers=lanes(course.workers),
        requests=tuple(tuple(value - origin for value in stamps) for stamps in chosen),
        irqs=tuple(ts - origin for ts in sorted(course.irqs) if 0 <= ts - origin <= end),
        end_ns=end,
    )


def close_up_ns(timelines: Sequence[Timeline]) -> int:
    """A stretch in which each can be seen at work: three I/Os of the first, one and a half of the others."""
    wanted = []
    for place, timeline in enumerate(timelines):
        mean = sum(request[4] - request[0] for request in timeline.requests) / len(timeline.requests)
        wanted.append(3 * mean if place == 0 else 1.5 * mean)
    return max(1, min(round(max(wanted)), max(timeline.end_ns for timeline in timelines)))


def occupancy(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """How many of the spans cover each stretch of time, as (from, until, number); nothing where none does."""
    steps: dict[int, int] = {}
    for start, end in spans:
        steps[start] = steps.get(start, 0) + 1
        steps[end] = steps.get(end, 0) - 1
    found, number, before = [], 0, 0
    for at in sorted(steps):
        if number:
            found.append((before, at, number))
        number += steps[at]
        before = at
    return found
