"""What a failure report shows of an SSD: its queues as they stand, and the last events in words."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from nvme_emu.core.trace import as_record
from nvme_emu.observe.rings import cq_states, sq_states
from nvme_emu.observe.trace_words import words_of

if TYPE_CHECKING:
    from nvme_emu.machine import Machine

__all__ = ["EventLog", "machine_report", "queue_lines"]

ENTRIES_SHOWN = 4


class EventLog:
    """The last events of a machine. ``attach`` begins; it costs what any sink costs.

    Without ``wakeups`` the events of kworker (which task was woken, who ran) are left out.
    """

    def __init__(self, events_max: int, *, wakeups: bool = False) -> None:
        self._events: deque[Any] = deque(maxlen=events_max)
        self._wakeups = wakeups
        self.seen = 0

    def attach(self, machine: Machine) -> None:
        """Listen to this machine from now on."""
        machine.trace.add_sink(self._hear)

    def _hear(self, event: Any) -> None:
        if event.name == "kworker" and not self._wakeups:
            return
        self.seen += 1
        self._events.append(event)

    def lines(self) -> list[str]:
        """The events kept, oldest first: time in ns and words."""
        older = self.seen - len(self._events)
        lines = [f"({older} earlier events)"] if older else []
        return [*lines, *(f"{event.ts_ns:>12} ns  {words_of(as_record(event))}" for event in list(self._events))]


def queue_lines(machine: Machine) -> list[str]:
    """Each queue with both sides' pointers, and its newest entries."""
    ctrl = machine.controller
    driver = machine.driver
    lines: list[str] = []
    for sq in sq_states(ctrl, driver, ENTRIES_SHOWN):
        host = "" if sq.host_tail is None else f", the driver writes at {sq.host_tail}"
        lines.append(
            f"SQ {sq.qid} ({sq.size} entries): head {sq.head}, tail doorbell {sq.tail}{host}; "
            f"{sq.waiting} waiting, {sq.inflight} in flight"
        )
        lines += [
            f"    [{entry.index}] {entry.state}: cid {entry.cid:#06x} {entry.words}"
            for entry in sq.entries
            if entry.state != "empty"
        ]
    for cq in cq_states(ctrl, driver, ENTRIES_SHOWN):
        host = "" if cq.host_head is None else f", the driver reads at {cq.host_head} for phase {cq.host_phase}"
        lines.append(
            f"CQ {cq.qid} ({cq.size} entries): head doorbell {cq.head}, tail {cq.tail} with phase {cq.phase}{host}; "
            f"{cq.posted} not taken"
        )
        lines += [
            f"    [{entry.index}] {entry.state}: cid {entry.cid:#06x} phase {entry.phase} {entry.words}"
            for entry in cq.entries
            if entry.state != "empty"
        ]
    return lines or ["no queues: the controller is not enabled"]


def machine_report(machine: Machine, log: EventLog | None) -> str:
    """Queues, findings of the checker, events; whatever state the machine is in, this raises nothing."""
    lines: list[str] = []
    try:
        lines += queue_lines(machine)
    except Exception as error:  # what a broken driver leaves behind may be anything
        lines.append(f"the queues cannot be read: {type(error).__name__}: {error}")
    checker = machine.checker
    if checker is not None and checker.findings:
        lines += ["", "what the checker found:", *(str(finding) for finding in checker.findings)]
    if log is not None:
        lines += ["", "last events:", *(log.lines() or ["none"])]
    return "\n".join(lines)
