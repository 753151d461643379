"""What the checker knows of a queue beyond what the controller does: what the host has submitted and consumed."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from nvme_emu.observe.checker.memory import Span, is_direct

if TYPE_CHECKING:
    from nvme_emu.controller.pcie.rings import CompletionQueue, SubmissionQueue
    from nvme_emu.core.memory import HostMemory
    from nvme_emu.spec.queues import Sqe

__all__ = ["CqModel", "SqModel"]


class SqModel:
    """A submission queue. `live` maps the identifiers that are submitted and not completed to their entries;
    `known_head` is the newest head that the host can know from a completion; `pending` holds the entries that
    wait to be fetched as they were at their doorbell (empty where the ring is no memory of the host's own)."""

    __slots__ = ("direct", "known_head", "live", "next", "pending", "sq")

    def __init__(self, sq: SubmissionQueue, memory: HostMemory) -> None:
        self.sq = sq
        self.direct = is_direct(memory, sq.base)
        self.live: dict[int, Sqe] = {}
        self.known_head = sq.head
        self.next = sq.head
        self.pending: deque[bytes] = deque()

    @property
    def span(self) -> Span:
        """Where the ring is."""
        return self.sq.base, self.sq.nbytes


class CqModel:
    """A completion queue. `unacked` holds (sqid, cid) of what was posted and not consumed, `total` counts posts."""

    __slots__ = ("cq", "direct", "tail", "total", "unacked")

    def __init__(self, cq: CompletionQueue, memory: HostMemory) -> None:
        self.cq = cq
        self.direct = is_direct(memory, cq.base)
        self.tail = cq.tail
        # A queue that is met late has been through its first pass if its phase has turned.
        self.total = cq.tail if cq.phase else cq.size + cq.tail
        self.unacked: deque[tuple[int, int]] = deque()

    @property
    def span(self) -> Span:
        """Where the ring is."""
        return self.cq.base, self.cq.nbytes
