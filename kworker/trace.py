"""A bounded record of what a runtime did, with a stable text form."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

__all__ = ["TRACE_EVENTS_DEFAULT", "Trace", "TraceEvent"]

TRACE_EVENTS_DEFAULT = 100_000
"""Events that a trace keeps if no number is given; older ones are dropped."""

TraceEvent = tuple[int, str, str, tuple[Any, ...]]
"""(time in ns, name of the task or "irq", event, arguments). Arguments are numbers and strings only."""


class Trace:
    """A ring of events. `text()` and `bytes(trace)` are the same for the same run of a simulation."""

    def __init__(self, events_max: int = TRACE_EVENTS_DEFAULT) -> None:
        self.events: deque[TraceEvent] = deque(maxlen=events_max)
        self.dropped = 0

    def add(self, event: TraceEvent) -> None:
        """Append one event; a full ring drops its oldest."""
        if len(self.events) == self.events.maxlen:
            self.dropped += 1
        self.events.append(event)

    def clear(self) -> None:
        """Forget all events."""
        self.events.clear()
        self.dropped = 0

    def __len__(self) -> int:
        return len(self.events)

    def __iter__(self) -> Iterator[TraceEvent]:
        return iter(self.events)

    def text(self) -> str:
        """One line an event: time in ns, task, event and arguments."""
        lines = [f"# {self.dropped} older events dropped"] if self.dropped else []
        for when, who, event, args in self.events:
            lines.append(f"{when:>14} {who:<15} {event}({', '.join(map(str, args))})")
        return "\n".join(lines) + ("\n" if lines else "")

    def __bytes__(self) -> bytes:
        return self.text().encode()
