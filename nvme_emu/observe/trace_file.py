"""Traces read back: records from a file, and the commands that they tell of.

A record is the JSON object of one event (`nvme_emu.core.trace.as_record`). A :class:`Span` is one command with
the time at which each thing happened to it, None where the trace does not tell (it began before the trace, has
not ended in it, or no driver was traced).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

__all__ = ["STAGE_ENDS", "Record", "Span", "follow", "read_trace", "spans_of"]

Record = dict[str, Any]

STAGE_ENDS = (
    ("worker_list", "queued_ns", "setup_ns"),
    ("submission", "setup_ns", "fetch_ns"),
    ("device", "fetch_ns", "post_ns"),
    ("completion", "post_ns", "complete_ns"),
    ("wakeup", "complete_ns", "wake_ns"),
)
"""Each stage of a command, and the times between which it lies."""


def read_trace(path: str) -> Iterator[Record]:
    """The records of a trace file (JSON lines), "-" for standard input.

    OSError if it cannot be read; ValueError, with the line's number, for what is no record.
    """
    if path == "-":
        yield from _records(sys.stdin.buffer, "standard input")
        return
    with Path(path).open("rb") as stream:
        yield from _records(stream, path)


def _records(stream: BinaryIO, name: str) -> Iterator[Record]:
    for number, line in enumerate(stream, 1):
        if line.strip():
            yield _record(line, f"{name}:{number}")


def _record(line: bytes, where: str) -> Record:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError(f"{where}: this is not JSON: {line[:40]!r}") from None
    if not isinstance(found, dict) or type(found.get("ts_ns")) is not int or type(found.get("event")) is not str:
        raise ValueError(f'{where}: an event is an object with "ts_ns" (a whole number) and "event"')
    return found


@dataclass(slots=True, kw_only=True, eq=False)
class Span:
    """One command. ``row`` is the part of the trace that it belongs to, ``worker`` who built it."""

    row: str = ""
    request: int | None = None
    qid: int | None = None
    cid: int | None = None
    opcode: int | None = None
    nsid: int | None = None
    slba: int = 0
    nlb: int = 0
    status: int | None = None
    task: str = ""
    worker: str = ""
    queued_ns: int | None = None
    setup_ns: int | None = None
    doorbell_ns: int | None = None
    fetch_ns: int | None = None
    post_ns: int | None = None
    irq_ns: int | None = None
    complete_ns: int | None = None
    wake_ns: int | None = None

    @property
    def begin_ns(self) -> int | None:
        """The first time that is known."""
        return next((ns for ns in (self.queued_ns, self.setup_ns, self.fetch_ns) if ns is not None), None)

    @property
    def end_ns(self) -> int | None:
        """When it was over for who asked; None if the trace does not tell."""
        return self.complete_ns if self.setup_ns is not None or self.queued_ns is not None else self.post_ns

    @property
    def latency_ns(self) -> int | None:
        """From its begin to its end, if both are known."""
        begin, end = self.begin_ns, self.end_ns
        return None if begin is None or end is None else max(0, end - begin)


class _Follower:
    """Joins the events of each command as they come."""

    def __init__(self) -> None:
        self.row = ""
        self.queued: dict[int, Span] = {}
        self.live: dict[tuple[int, int], Span] = {}
        self.unrung: dict[int, list[Span]] = {}
        self.posted: dict[int, list[Span]] = {}
        self.completed: dict[int, Span] = {}
        self.working: str = ""

    def feed(self, record: Record) -> tuple[Span | None, bool]:
        """(the command that the record is of, whether it begins with it)."""
        row = str(record.get("row", ""))
        if row != self.row:
            self.__init__()  # type: ignore[misc]  # another machine begins, with numbers of its own
            self.row = row
        handler = getattr(self, f"_{record['event']}", None)
        try:
            found: tuple[Span | None, bool] = handler(record) if handler is not None else (None, False)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{record['event']} at {record['ts_ns']} ns: field {error} is missing or wrong") from None
        return found

    def _nvme_queue_rq(self, r: Record) -> tuple[Span | None, bool]:
        span = Span(row=self.row, request=r["request"], opcode=r["opcode"], slba=r["slba"], nlb=r["nlb"])
        span.task, span.queued_ns = r["task"], r["ts_ns"]
        self.queued[r["request"]] = span
        return span, True

    def _nvme_setup_cmd(self, r: Record) -> tuple[Span | None, bool]:
        # A batch is one request with many commands: the first takes the request's span, the others get their own.
        first = self.queued.get(r["request"])
        new = first is None or first.setup_ns is not None
        span = Span(row=self.row, request=r["request"]) if first is None or new else first
        if first is not None and new:
            span.task, span.queued_ns = first.task, first.queued_ns
        span.qid, span.cid, span.opcode, span.nsid = r["qid"], r["cid"], r["opcode"], r["nsid"]
        span.slba, span.nlb, span.setup_ns, span.worker = r["slba"], r["nlb"], r["ts_ns"], self.working
        self.live[r["qid"], r["cid"]] = span
        self.unrung.setdefault(r["qid"], []).append(span)
        return span, new

    def _nvme_dsm_ranges(self, r: Record) -> tuple[Span | None, bool]:
        return self.live.get((r["qid"], r["cid"])), False

    def _nvme_sq(self, r: Record) -> tuple[Span | None, bool]:
        for span in self.unrung.pop(r["qid"], ()):
            span.doorbell_ns = r["ts_ns"]
        return None, False

    def _fetch_cmd(self, r: Record) -> tuple[Span | None, bool]:
        key = r["sqid"], r["cid"]
        span = self.live.get(key)
        new = span is None or span.fetch_ns is not None
        if span is None or new:
            span = self.live[key] = Span(row=self.row, qid=key[0], cid=key[1], opcode=r["opcode"], nsid=r["nsid"])
            span.slba, span.nlb = r["slba"], r["nlb"]
        span.fetch_ns = r["ts_ns"]
        return span, new

    def _post_cqe(self, r: Record) -> tuple[Span | None, bool]:
        span = self.live.get((r["sqid"], r["cid"]))
        if span is not None:
            span.post_ns, span.status = r["ts_ns"], r["status"]
            self.posted.setdefault(r["cqid"], []).append(span)
            if span.setup_ns is None:
                del self.live[r["sqid"], r["cid"]]
        return span, False

    def _raise_irq(self, r: Record) -> tuple[Span | None, bool]:
        # Drivers give each completion queue the vector of its own number.
        for span in self.posted.pop(r["vector"], ()):
            span.irq_ns = r["ts_ns"]
        return None, False

    def _nvme_complete_rq(self, r: Record) -> tuple[Span | None, bool]:
        span = self.live.pop((r["qid"], r["cid"]), None)
        if span is not None:
            span.complete_ns, span.status = r["ts_ns"], r["status"]
            self.completed[r["request"]] = span
        return span, False

    def _nvme_wake_rq(self, r: Record) -> tuple[Span | None, bool]:
        span = self.completed.pop(r["request"], None)
        if span is not None:
            span.wake_ns = r["ts_ns"]
        return span, False

    def _kworker(self, r: Record) -> tuple[Span | None, bool]:
        args = r.get("args") or [""]
        if r.get("what") == "sched_kthread_work_execute_start":
            self.working = str(args[0])
        elif r.get("what") == "sched_kthread_work_execute_end":
            self.working = ""
        return None, False


def follow(records: Iterable[Record]) -> Iterator[tuple[Record, Span | None]]:
    """Each record with the command that it is of. A span is complete when the trace has been read through."""
    follower = _Follower()
    for record in records:
        yield record, follower.feed(record)[0]


def spans_of(records: Iterable[Record]) -> list[Span]:
    """The commands in the order in which they began."""
    follower = _Follower()
    found = []
    for record in records:
        span, new = follower.feed(record)
        if new and span is not None:
            found.append(span)
    return found
