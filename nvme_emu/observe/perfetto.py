"""A trace as Chrome's JSON, which ui.perfetto.dev and chrome://tracing show.

    process     thread (track)                  slices
    callers     each task, a lane per overlap   a request, from hand-over until the caller knows
    workers     each kthread worker             a work, from execute_start to execute_end
    queues      each queue pair                 a command, from set-up to completion
    device      each submission queue           a command, from fetch to the posted completion
    dies        each die                        an array read, a program, an erase, as planned; a lane per overlap
    CPUs        each CPU of the simulation      the task that ran; interrupts as instants

Arrows lead from the caller's slice over the work that took the command, the queue's slice and the device's to
the die, and back to the work that took the completion. Slices of one track never overlap: what overlaps gets
a lane of its own. A trace of several rows has one group of processes a row. Times are microseconds from the
trace's begin, as the format wants.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import Any, Final

from nvme_emu.observe.trace_file import Record, Span, follow
from nvme_emu.spec.opcodes import opcode_name
from nvme_emu.spec.status import describe

__all__ = ["to_perfetto"]

WORKS_LOOKED_AT: Final = 8
"""Works of several workers that may run at one time, of which an arrow's is looked for."""

_GROUPS = ("callers", "workers", "queues", "device", "dies", "CPUs")


class _Tracks:
    """Numbers for processes and threads, with the events that name them."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self._pids: dict[tuple[str, str], int] = {}
        self._tids: dict[tuple[int, str, int], int] = {}
        self._free_at: dict[tuple[int, str], list[int]] = {}

    def pid(self, row: str, group: str) -> int:
        """The process of a group."""
        key = row, group
        if key not in self._pids:
            pid = self._pids[key] = len(self._pids) + 1
            name = f"{row}: {group}" if row else group
            self._meta("process_name", pid, 0, {"name": name})
            order = len({row for row, _ in self._pids}) * len(_GROUPS) + _GROUPS.index(group)
            self._meta("process_sort_index", pid, 0, {"sort_index": order})
        return self._pids[key]

    def tid(self, pid: int, name: str, lane: int = 0) -> int:
        """The thread of that name, or one of its further lanes."""
        key = pid, name, lane
        if key not in self._tids:
            tid = self._tids[key] = len(self._tids) + 1
            self._meta("thread_name", pid, tid, {"name": f"{name} ({lane + 1})" if lane else name})
            self._meta("thread_sort_index", pid, tid, {"sort_index": tid})
        return self._tids[key]

    def lane(self, pid: int, name: str, begin_ns: int, end_ns: int) -> int:
        """The thread for a slice: the first lane that is free. Slices must come in the order of their begin."""
        free_at = self._free_at.setdefault((pid, name), [])
        for lane, free_ns in enumerate(free_at):
            if free_ns <= begin_ns:
                free_at[lane] = end_ns
                return self.tid(pid, name, lane)
        free_at.append(end_ns)
        return self.tid(pid, name, len(free_at) - 1)

    def _meta(self, what: str, pid: int, tid: int, args: dict[str, Any]) -> None:
        self.events.append({"ph": "M", "name": what, "pid": pid, "tid": tid, "args": args})


class _Writer:
    def __init__(self, start_ns: int) -> None:
        self.tracks = _Tracks()
        self.events: list[dict[str, Any]] = []
        self._start_ns = start_ns

    def us(self, ns: int) -> float:
        return (ns - self._start_ns) / 1000

    def slice(
        self, group: str, track: str, name: str, begin_ns: int, end_ns: int, row: str, args: dict[str, Any]
    ) -> tuple[int, int, int]:
        """Add a slice; (pid, tid, begin) is where an arrow may begin or end."""
        end_ns = max(begin_ns, end_ns)
        pid = self.tracks.pid(row, group)
        tid = self.tracks.lane(pid, track, begin_ns, end_ns)
        self.events.append(
            {
                "ph": "X", "name": name, "cat": group, "pid": pid, "tid": tid,
                "ts": self.us(begin_ns), "dur": (end_ns - begin_ns) / 1000, "args": args,
            }
        )  # fmt: skip
        return pid, tid, begin_ns

    def instant(self, group: str, track: str, name: str, at_ns: int, row: str, args: dict[str, Any]) -> None:
        pid = self.tracks.pid(row, group)
        tid = self.tracks.tid(pid, track)
        event = {"ph": "i", "s": "t", "name": name, "cat": group, "pid": pid, "tid": tid, "ts": self.us(at_ns)}
        self.events.append({**event, "args": args})

    def flow(self, ident: int, places: list[tuple[int, int, int]]) -> None:
        """Arrows through the slices at these places."""
        if len(places) < 2:
            return
        phases = ["s", *["t"] * (len(places) - 2), "f"]
        for phase, (pid, tid, at_ns) in zip(phases, places, strict=True):
            event = {"ph": phase, "id": ident, "name": "command", "cat": "flow", "pid": pid, "tid": tid}
            self.events.append({**event, "ts": self.us(at_ns), **({"bp": "e"} if phase == "f" else {})})


def to_perfetto(records: Iterable[Record]) -> dict[str, Any]:
    """The whole trace as one JSON-ready object."""
    spans: list[Span] = []
    seen: dict[int, int] = {}
    kept: list[Record] = []
    # The die's work stands in the trace where its command is fetched: just before fetch_cmd or just behind.
    dies: list[tuple[int | None, Record]] = []
    last: int | None = None
    for record, span in follow(records):
        kept.append(record)
        if span is not None and id(span) not in seen:
            seen[id(span)] = len(spans)
            spans.append(span)
        if record["event"] == "fetch_cmd" and span is not None:
            last = seen[id(span)]
        elif record["event"] == "die_busy":
            fetched = None if last is None else spans[last].fetch_ns
            dies.append((last if fetched == record["ts_ns"] else None, record))
    start_ns = min((record["ts_ns"] for record in kept), default=0)
    writer = _Writer(start_ns)
    works = _write_scheduling(writer, kept)
    _write_spans(writer, spans, works, _write_dies(writer, dies))
    events = sorted(writer.events, key=lambda event: event["ts"])
    return {"displayTimeUnit": "ns", "traceEvents": [*writer.tracks.events, *events]}


_Place = tuple[int, int, int]
_Works = dict[str, list[tuple[int, int, _Place]]]
"""By row: begin, end and place of each work's slice, in the order of their ends."""


def _write_spans(writer: _Writer, spans: list[Span], works: _Works, dies: dict[int, _Place]) -> None:
    places: dict[int, list[_Place]] = {}
    # Lanes are handed out in the order of time, one group after the other.
    for group, begin, end in (
        ("callers", "queued_ns", "wake_ns"),
        ("queues", "setup_ns", "complete_ns"),
        ("device", "fetch_ns", "post_ns"),
    ):
        for number, span in _by_time(spans, begin):
            begin_ns, end_ns = getattr(span, begin), getattr(span, end)
            if end_ns is None and group == "callers":
                end_ns = span.complete_ns
            if end_ns is None:
                continue
            track = span.task or "caller" if group == "callers" else f"q{span.qid}"
            where = writer.slice(group, track, _name(span), begin_ns, end_ns, span.row, _args(span))
            found = places.setdefault(number, [])
            if group == "queues":
                found += _work_at(works, span.row, begin_ns)
            found.append(where)
            if group == "device" and number in dies:
                found.append(dies[number])
            if group == "queues":
                for what, at_ns in (("doorbell", span.doorbell_ns), ("interrupt", span.irq_ns)):
                    if at_ns is not None:
                        writer.events[-1]["args"][f"{what}_us"] = writer.us(at_ns)
    for number, found in places.items():
        done_ns = spans[number].complete_ns
        if done_ns is not None and len(found) > 1:
            found += _work_at(works, spans[number].row, done_ns)
        writer.flow(number + 1, found)


def _work_at(works: _Works, row: str, at_ns: int) -> list[_Place]:
    """The place in the work that ran at that time, if one did: an arrow may begin or end anywhere in a slice."""
    there = works.get(row, [])
    index = bisect_left(there, at_ns, key=lambda one: one[1])
    for begin_ns, end_ns, (pid, tid, _) in there[index : index + WORKS_LOOKED_AT]:
        if begin_ns <= at_ns <= end_ns:
            return [(pid, tid, at_ns)]
    return []


def _write_dies(writer: _Writer, dies: list[tuple[int | None, Record]]) -> dict[int, _Place]:
    """A track a die; the place of each command's first work on one."""
    first: dict[int, _Place] = {}
    for number, record in sorted(dies, key=lambda one: int(one[1].get("begin_ns", 0))):
        try:
            die, what, begin_ns, end_ns = (record[key] for key in ("die", "what", "begin_ns", "end_ns"))
            args = {"channel": record["channel"]}
        except KeyError as error:
            raise ValueError(f"die_busy at {record['ts_ns']} ns: field {error} is missing") from None
        where = writer.slice("dies", f"die {die}", str(what), begin_ns, end_ns, str(record.get("row", "")), args)
        if number is not None:
            first.setdefault(number, where)
    return first


def _by_time(spans: list[Span], attribute: str) -> Iterator[tuple[int, Span]]:
    found = [(getattr(span, attribute), number, span) for number, span in enumerate(spans)]
    for _, number, span in sorted((one for one in found if one[0] is not None), key=lambda one: one[:2]):
        yield number, span


def _name(span: Span) -> str:
    name = "command" if span.opcode is None else opcode_name(span.opcode, span.qid == 0)
    return f"{name} {span.slba}+{span.nlb}" if span.nlb else name


def _args(span: Span) -> dict[str, Any]:
    found: dict[str, Any] = {"request": span.request, "qid": span.qid, "cid": span.cid, "nsid": span.nsid}
    if span.status:
        found["status"] = describe(span.status)
    return {key: value for key, value in found.items() if value is not None}


def _write_scheduling(writer: _Writer, records: list[Record]) -> _Works:
    """Works of the workers, tasks on the CPUs, interrupts."""
    found: _Works = {}
    works: dict[tuple[str, str], tuple[str, int]] = {}
    running: dict[tuple[str, int], tuple[str, int]] = {}
    last_ns = max((record["ts_ns"] for record in records), default=0)
    for record in records:
        row, args = str(record.get("row", "")), record.get("args") or []
        what, at_ns = record.get("what"), record["ts_ns"]
        if record["event"] == "raise_irq":
            writer.instant("device", "interrupts", f"vector {record.get('vector')}", at_ns, row, {})
        elif record["event"] != "kworker" or not args:
            continue
        elif what == "sched_kthread_work_execute_start" and len(args) > 1:
            works[row, str(args[0])] = str(args[1]), at_ns
        elif what == "sched_kthread_work_execute_end":
            work = works.pop((row, str(args[0])), None)
            if work is not None:
                where = writer.slice("workers", str(args[0]), work[0], work[1], at_ns, row, {})
                found.setdefault(row, []).append((work[1], at_ns, where))
        elif what == "sched_switch" and len(args) > 3:
            _end_run(writer, running, row, args[0], args[3])
            running[row, args[0]] = str(args[1]), args[3]
        elif what == "irq_handler_entry":
            writer.instant("CPUs", f"CPU {args[0]}", "interrupt", at_ns, row, {})
    for row, cpu in list(running):
        _end_run(writer, running, row, cpu, last_ns)
    for there in found.values():
        there.sort(key=lambda one: one[1])
    return found


def _end_run(writer: _Writer, running: dict[tuple[str, int], tuple[str, int]], row: str, cpu: int, at_ns: int) -> None:
    """The task that ran on a CPU until now becomes a slice. The simulation does not tell when a CPU goes idle."""
    before = running.pop((row, cpu), None)
    if before is not None:
        task, since_ns = before
        writer.slice("CPUs", f"CPU {cpu}", task, since_ns, at_ns, row, {})
