"""Which submission queue is served next: round robin with a burst (NVMe Base 2.1, 3.4.4.1).

All queues are equal, the admin queue included. Each turn takes up to the Arbitration Burst of feature 01h.
Only queues with work stand in line, so that a turn costs nothing for the idle ones. A queue whose completion
queue is full leaves the line, and comes back when the host has taken completions.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nvme_emu.controller.pcie.rings import CompletionQueue, SubmissionQueue

__all__ = ["RoundRobin"]


class RoundRobin:
    """The line of submission queues that have something to fetch. ``burst`` 0 means no limit."""

    def __init__(self, burst: int = 0) -> None:
        self.burst = burst
        self.line: deque[SubmissionQueue] = deque()

    def __bool__(self) -> bool:
        return bool(self.line)

    def add(self, sq: SubmissionQueue) -> None:
        """A queue got work: it goes to the end of the line, if it does not stand there or wait for its CQ."""
        if not sq.in_line:
            sq.in_line = True
            self.line.append(sq)

    def next(self) -> SubmissionQueue:
        """Take the queue whose turn it is out of the line."""
        sq = self.line.popleft()
        sq.in_line = False
        return sq

    def turn_length(self, budget: int) -> int:
        """Commands in a turn, when others wait for theirs."""
        return min(self.burst, budget) if self.burst else budget

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
