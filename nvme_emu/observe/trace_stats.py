"""Figures of a trace: latency by kind of command, and by stage; and where two traces part."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import zip_longest
from typing import Any, NamedTuple

from nvme_emu.core.histogram import Histogram
from nvme_emu.observe.recorder import latency_state
from nvme_emu.observe.state import to_json
from nvme_emu.observe.trace_file import STAGE_ENDS, Record, Span, spans_of
from nvme_emu.spec.opcodes import opcode_name

__all__ = ["Divergence", "bars", "first_divergence", "trace_stats"]


class _Figures:
    """Histograms of one part of a trace."""

    def __init__(self) -> None:
        self.commands = 0
        self.unfinished = 0
        self.failed = 0
        self.total = Histogram()
        self.by_name: dict[str, Histogram] = {}
        self.stages: dict[str, Histogram] = {}

    def add(self, span: Span) -> None:
        self.commands += 1
        self.failed += bool(span.status)
        latency_ns = span.latency_ns
        if latency_ns is None:
            self.unfinished += 1
        else:
            name = "unknown" if span.opcode is None else opcode_name(span.opcode, span.qid == 0)
            self.by_name.setdefault(name, Histogram()).add(latency_ns)
            self.total.add(latency_ns)
        for stage, begin, end in STAGE_ENDS:
            begin_ns, end_ns = getattr(span, begin), getattr(span, end)
            if begin_ns is not None and end_ns is not None:
                self.stages.setdefault(stage, Histogram()).add(max(0, end_ns - begin_ns))

    def as_dict(self) -> dict[str, Any]:
        order = [stage for stage, _, _ in STAGE_ENDS if stage in self.stages]
        return {
            "commands": self.commands,
            "unfinished": self.unfinished,
            "failed": self.failed,
            "latency": {name: to_json(latency_state(found)) for name, found in sorted(self.by_name.items())},
            "stages": {name: to_json(latency_state(self.stages[name])) for name in order},
            "all": to_json(latency_state(self.total)),
        }


def trace_stats(records: Iterable[Record]) -> dict[str, Any]:
    """JSON-ready figures: events by name, and under "parts" those of each row ("" for a plain run's)."""
    events: dict[str, int] = {}
    dropped = 0

    def counted() -> Iterator[Record]:
        nonlocal dropped
        for record in records:
            events[record["event"]] = events.get(record["event"], 0) + 1
            if record["event"] == "trace_dropped":
                dropped += int(record.get("dropped", 0))
            yield record

    parts: dict[str, _Figures] = {}
    for span in spans_of(counted()):
        parts.setdefault(span.row, _Figures()).add(span)
    return {
        "events": dict(sorted(events.items())),
        "dropped": dropped,
        "parts": {row: figures.as_dict() for row, figures in parts.items()},
    }


def bars(bins: Iterable[tuple[int, int]], width: int = 40) -> list[tuple[int, int, int]]:
    """(lower end in ns, count, length of the bar) by powers of two, for a histogram in text."""
    groups: dict[int, int] = {}
    for value, count in bins:
        groups[value.bit_length()] = groups.get(value.bit_length(), 0) + count
    if not groups:
        return []
    most = max(groups.values())
    span = range(min(groups), max(groups) + 1)
    return [
        (1 << bits >> 1, groups.get(bits, 0), -(-groups.get(bits, 0) * width // most))
        for bits in span
    ]  # fmt: skip


class Divergence(NamedTuple):
    """Where two traces part: the number of the event (from 0), and both records (None: it has ended)."""

    at: int
    left: Record | None
    right: Record | None
    before: tuple[Record, ...]


class _Normal:
    """Records with what may differ between two equal runs taken out: the serial numbers of requests."""

    def __init__(self, ignore: frozenset[str]) -> None:
        self._ignore = ignore
        self._serials: dict[Any, int] = {}

    def __call__(self, record: Record) -> Record:
        found = {key: value for key, value in record.items() if key not in self._ignore}
        if "request" in found:
            found["request"] = self._serials.setdefault(found["request"], len(self._serials) + 1)
        return found


def first_divergence(
    left: Iterable[Record], right: Iterable[Record], *, ignore: frozenset[str] = frozenset(), context: int = 3
) -> Divergence | None:
    """The first event in which two traces differ; None if there is none.

    Requests are numbered anew in the order in which they appear. ``ignore`` names fields that do not count, such
    as "ts_ns". The records given are as they are in the files.
    """
    normal_left, normal_right = _Normal(ignore), _Normal(ignore)
    before: list[Record] = []
    for index, (one, other) in enumerate(zip_longest(left, right)):
        if one is None or other is None or normal_left(one) != normal_right(other):
            return Divergence(index, one, other, tuple(before))
        before = [*before, one][-context:] if context else []
    return None
