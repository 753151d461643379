"""Which submission queue is served next: round robin, plain or weighted (NVMe Base 2.1, 3.4.4).

Plain: all queues are equal, the admin queue included. Weighted, with urgent class (CC.AMS):

    the admin queue ─► urgent queues ─► high, medium, low: as many commands of each class a round as its weight

Each turn takes up to the Arbitration Burst of feature 01h.
Only queues with work stand in line, so that a turn costs nothing for the idle ones. A queue whose completion
queue is full leaves the line, and comes back when the host has taken completions.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from nvme_emu.spec.commands import QPRIO_HIGH, QPRIO_LOW, QPRIO_MEDIUM, QPRIO_URGENT

if TYPE_CHECKING:
    from nvme_emu.controller.pcie.rings import CompletionQueue, SubmissionQueue

__all__ = ["RoundRobin"]

_WEIGHTED = (QPRIO_HIGH, QPRIO_MEDIUM, QPRIO_LOW)


class RoundRobin:
    """The line of submission queues that have something to fetch. ``burst`` 0 means no limit."""

    def __init__(self, burst: int = 0) -> None:
        self.burst = burst
        self.line: deque[SubmissionQueue] = deque()
        self.weights: dict[int, int] = dict.fromkeys(_WEIGHTED, 1)
        """Commands of each priority class in a round; feature 01h."""
        self.weighted = False
        """Whether classes count at all: CC.AMS of the running controller."""
        self._credits: dict[int, int] = {}
        self._turn: SubmissionQueue | None = None

    def __bool__(self) -> bool:
        return bool(self.line)

    def add(self, sq: SubmissionQueue) -> None:
        """A queue got work: it goes to the end of the line, if it does not stand there or wait for its CQ."""
        if not sq.in_line:
            sq.in_line = True
            self.line.append(sq)

    def next(self) -> SubmissionQueue:
        """Take the queue whose turn it is out of the line."""
        if self.weighted:
            sq = self._choose()
            self.line.remove(sq)
        else:
            sq = self.line.popleft()
        sq.in_line = False
        return sq

    def turn_length(self, budget: int) -> int:
        """Commands in a turn, when others wait for theirs."""
        length = min(self.burst, budget) if self.burst else budget
        sq = self._turn
        if self.weighted and sq is not None and sq.qid and sq.prio in self._credits:
            length = min(length, self._credits[sq.prio])
            self._credits[sq.prio] -= min(length, sq.waiting())
        return length

    def _choose(self) -> SubmissionQueue:
        """The queue of the highest class that has something left in this round."""
        first: dict[int, SubmissionQueue] = {}
        for sq in self.line:
            if not sq.qid:
                self._turn = sq
                return sq
            first.setdefault(sq.prio, sq)
        self._turn = first.get(QPRIO_URGENT)
        if self._turn is None:
            if not any(self._credits.get(prio, 0) > 0 for prio in first):
                self._credits = dict(self.weights)
            prio = next(prio for prio in _WEIGHTED if prio in first and self._credits[prio] > 0)
            self._turn = first[prio]
        return self._turn

    def park(self, sq: SubmissionQueue) -> None:
        """Its completion queue has no slot: it waits there."""
        sq.in_line = True
        sq.cq.blocked.append(sq)

    def unpark(self, cq: CompletionQueue) -> None:
        """Slots became free: the queues that waited for them stand in line again."""
        blocked = cq.blocked
        while blocked:
            self.line.append(blocked.popleft())

    def remove(self, sq: SubmissionQueue) -> None:
        """The queue is deleted."""
        if sq.in_line:
            sq.in_line = False
            if sq in sq.cq.blocked:
                sq.cq.blocked.remove(sq)
            else:
                self.line.remove(sq)

    def clear(self) -> None:
        """All queues are gone."""
        self.line.clear()
        self._credits.clear()
        self._turn = None
