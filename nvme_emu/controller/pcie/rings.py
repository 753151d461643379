"""Submission and completion queues in host memory (NVMe Base 2.1, 3.3; PCIe Transport 1.1, 3.1.2).

    submission queue                              completion queue
      head ─► fetched next (ours)                   tail ─► written next (ours), with `phase`
      tail ─► the host's doorbell                   head ─► the host's doorbell
      empty: head == tail                           full: tail + 1 == head

A queue is physically contiguous and its memory is looked up once, when it is created. `free` counts the slots
of a completion queue that are neither occupied nor reserved: one is reserved before a command is fetched, so
that a full queue is back-pressure and never a lost answer. A command that is parked (an Asynchronous Event
Request) gives its slot back, and its completion waits in `backlog` if none is free when it ends.

The words of a completion are written first and the one that holds the Phase Tag last, in a store of its own.
"""

from __future__ import annotations

import struct
import sys
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from nvme_emu._core import CqState, RingsState, SqState
from nvme_emu.core.errors import CommandError, DmaError
from nvme_emu.spec.queues import (
    CQE,
    CQE_SIZE,
    CQES_LOG2,
    IO_QUEUE_ENTRIES_MAX,
    QUEUE_ENTRIES_MIN,
    SQE_SIZE,
    SQES_LOG2,
)
from nvme_emu.spec.registers import CC
from nvme_emu.spec.status import Status

if TYPE_CHECKING:
    from nvme_emu.controller.fused import Outcome
    from nvme_emu.controller.pcie.registers import RegisterFile
    from nvme_emu.controller.pcie.shadow import ShadowDoorbells
    from nvme_emu.core.memory import HostMemory

__all__ = [
    "CQE_BODY",
    "CQE_STATUS_WORD",
    "CQE_WORDS",
    "CompletionQueue",
    "LateCompletion",
    "Rings",
    "SubmissionQueue",
]

if sys.byteorder != "little":
    raise ImportError("completion words are stored through native 16-bit views: little-endian machines only")

# A completion without its last word, and where that word is in a view of 16-bit words.
CQE_BODY = struct.Struct("<IIHHH")
CQE_WORDS = CQE_SIZE // 2
CQE_STATUS_WORD = CQE_BODY.size // 2
assert CQE_BODY.size == CQE.size - 2

# (byte, bit) of the fields that Create and Delete I/O Queue can get wrong, for the error log.
_PRP1, _QID, _QSIZE, _CDW11, _CDW11_HIGH = (24, 0), (40, 0), (42, 0), (44, 0), (46, 0)


class LateCompletion(NamedTuple):
    """A completion that waits for a slot."""

    sq: SubmissionQueue
    cid: int
    status: int
    dw0: int


class CompletionQueue(CqState):
    """A ring of 16-byte completions. ``size`` counts from one; ``vector`` is used if ``ien``."""

    __slots__ = ("words",)

    def __init__(self, qid: int, base: int, size: int, vector: int, ien: bool) -> None:
        super().__init__()
        self.qid = qid
        self.base = base
        self.size = size
        self.vector = vector
        self.ien = ien
        self.head = 0
        self.tail = 0
        self.phase = 1
        self.free = size - 1
        self.sqs = 0
        self.blocked: deque[SubmissionQueue] = deque()
        self.backlog: deque[LateCompletion] = deque()
        self.words = memoryview(b"")

    @property
    def nbytes(self) -> int:
        """Bytes of the ring."""
        return self.size * CQE_SIZE

    def attach(self, memory: HostMemory) -> None:
        """Look the ring's memory up. Raises DmaError."""
        view, offset = memory.pin(self.base, self.nbytes, True)
        self.view = view[offset : offset + self.nbytes]
        self.words = self.view.cast("H")

    def write(self, sq: SubmissionQueue, cid: int, status: int, dw0: int) -> None:
        """Write the next completion; its slot must have been taken from ``free``. ``dw0`` above 32 bits is dword 1."""
        tail = self.tail
        CQE_BODY.pack_into(self.view, tail * CQE_SIZE, dw0 & 0xFFFF_FFFF, dw0 >> 32, sq.head, sq.qid, cid)
        self.words[tail * CQE_WORDS + CQE_STATUS_WORD] = status << 1 | self.phase
        tail += 1
        if tail == self.size:
            tail = 0
            self.phase ^= 1
        self.tail = tail

    def move_head(self, head: int) -> bool:
        """The host's doorbell: False for a value that frees no slot or more than there are completions."""
        if not 0 <= head < self.size:
            return False
        moved = (head - self.head) % self.size
        if not 0 < moved <= (self.tail - self.head) % self.size:
            return False
        self.head = head
        self.free += moved
        return True


class SubmissionQueue(SqState):
    """A ring of 64-byte commands. ``inflight`` counts its commands that are parked or timed."""

    __slots__ = ("fused", "prio")
    cq: CompletionQueue

    def __init__(self, qid: int, base: int, size: int, cq: CompletionQueue, prio: int = 0) -> None:
        super().__init__()
        self.qid = qid
        self.base = base
        self.size = size
        self.cq = cq
        self.prio = prio
        self.fused: Outcome | None = None
        """What became of the second of two fused commands, which is fetched next."""
        self.head = 0
        self.tail = 0
        self.inflight = 0
        self.in_line = False
        self.live = True

    @property
    def nbytes(self) -> int:
        """Bytes of the ring."""
        return self.size * SQE_SIZE

    def attach(self, memory: HostMemory) -> None:
        """Look the ring's memory up. Raises DmaError."""
        view, offset = memory.pin(self.base, self.nbytes)
        self.view = view[offset : offset + self.nbytes].toreadonly()

    def waiting(self) -> int:
        """Commands that the host has submitted and nobody has fetched."""
        return (self.tail - self.head) % self.size

    def move_tail(self, tail: int) -> bool:
        """The host's doorbell: False for a value that adds no command or more than there is room for."""
        size = self.size
        if not 0 <= tail < size or tail == self.tail:
            return False
        if (self.tail - self.head) % size + (tail - self.tail) % size >= size:
            return False
        self.tail = tail
        return True


class Rings(RingsState):
    """All queues that exist. Identifier 0 is the admin pair, which the registers create.

    ``on_delete`` is told of each submission queue that is deleted, to end what of it is in flight.
    """

    sqs: dict[int, SubmissionQueue]
    cqs: dict[int, CompletionQueue]

    def __init__(
        self,
        memory: HostMemory,
        registers: RegisterFile,
        vectors: int,
        on_delete: Callable[[SubmissionQueue], None],
    ) -> None:
        super().__init__()
        self._on_delete = on_delete
        self._memory = memory
        self._registers = registers
        self._vectors = vectors
        self.generation = memory.generation
        self.io_queues_max = registers.config.io_queues_max
        self.sqs = {}
        self.cqs = {}

    def open_admin(self, asq: int, sq_size: int, acq: int, cq_size: int) -> None:
        """Create the admin pair. Raises DmaError when host memory does not own it."""
        cq = CompletionQueue(0, acq, cq_size, 0, True)
        cq.attach(self._memory)
        sq = SubmissionQueue(0, asq, sq_size, cq)
        sq.attach(self._memory)
        cq.sqs = 1
        self.cqs[0] = cq
        self.sqs[0] = sq

    def create_cq(
        self, qid: int, base: int, size: int, vector: int, ien: bool, *, contiguous: bool = True
    ) -> CompletionQueue:
        """Create I/O Completion Queue (Base 2.1, 5.2.1). Raises CommandError with the field that is wrong."""
        self._check(qid, qid in self.cqs, base, size, self._entry_size("iocqes", CQES_LOG2))
        if ien and vector >= self._vectors:
            raise CommandError(Status.INVALID_VECTOR, location=_CDW11_HIGH)
        if contiguous:
            cq = CompletionQueue(qid, base, size, vector, ien)
        else:
            from nvme_emu.controller.pcie.scattered import ScatteredCq

            cq = ScatteredCq(qid, base, size, vector, ien, self._registers.page_size)
        self._registers.buffers.check_queue(base, cq.nbytes, True)
        self._attach(cq)
        self.cqs[qid] = cq
        return cq

    def create_sq(
        self, qid: int, base: int, size: int, cqid: int, prio: int = 0, *, contiguous: bool = True
    ) -> SubmissionQueue:
        """Create I/O Submission Queue (Base 2.1, 5.2.2). Raises CommandError with the field that is wrong."""
        self._check(qid, qid in self.sqs, base, size, self._entry_size("iosqes", SQES_LOG2))
        if not 0 < cqid <= self.io_queues_max:
            raise CommandError(Status.QID_INVALID, location=_CDW11_HIGH)
        cq = self.cqs.get(cqid)
        if cq is None:
            raise CommandError(Status.CQ_INVALID, location=_CDW11_HIGH)
        if contiguous:
            sq = SubmissionQueue(qid, base, size, cq, prio)
        else:
            from nvme_emu.controller.pcie.scattered import ScatteredSq

            sq = ScatteredSq(qid, base, size, cq, prio, self._registers.page_size)
        self._registers.buffers.check_queue(base, sq.nbytes, False)
        self._attach(sq)
        cq.sqs += 1
        self.sqs[qid] = sq
        return sq

    def delete_cq(self, qid: int) -> CompletionQueue:
        """Delete I/O Completion Queue (5.2.3): Invalid Queue Deletion while a submission queue uses it."""
        cq = self.cqs.get(qid) if qid else None
        if cq is None:
            raise CommandError(Status.QID_INVALID, location=_QID)
        if cq.sqs:
            raise CommandError(Status.INVALID_QUEUE, location=_QID)
        del self.cqs[qid]
        return cq

    def delete_sq(self, qid: int) -> SubmissionQueue:
        """Delete I/O Submission Queue (5.2.4): what waits in it is not fetched any more."""
        sq = self.sqs.get(qid) if qid else None
        if sq is None:
            raise CommandError(Status.QID_INVALID, location=_QID)
        self._on_delete(sq)
        sq.live = False
        del self.sqs[qid]
        sq.cq.sqs -= 1
        return sq

    def clear(self) -> None:
        """A reset: all queues are gone."""
        for sq in self.sqs.values():
            sq.live = False
        self.sqs.clear()
        self.cqs.clear()

    def lost(self, shadow: ShadowDoorbells | None = None) -> str | None:
        """What the host took the memory of away from under a queue or its doorbells, if anything; None normally.

        Views keep memory alive, so nothing freed is ever touched; but the host has taken it back.
        """
        try:
            for cq in self.cqs.values():
                cq.attach(self._memory)
            for sq in self.sqs.values():
                sq.attach(self._memory)
            if shadow is not None:
                shadow.attach()
        except (DmaError, CommandError) as error:
            return f"the memory of a queue was removed: {error}"
        self.generation = self._memory.generation
        return None

    def _entry_size(self, field: str, log2: int) -> bool:
        return CC[field].extract(self._registers.cc) == log2

    def _check(self, qid: int, taken: bool, base: int, size: int, entry_size_set: bool) -> None:
        if not 0 < qid <= self.io_queues_max or taken:
            raise CommandError(Status.QID_INVALID, location=_QID)
        limit = min(self._registers.config.queue_entries_max, IO_QUEUE_ENTRIES_MAX)
        if not QUEUE_ENTRIES_MIN <= size <= limit or not entry_size_set:
            raise CommandError(Status.QUEUE_SIZE, location=_QSIZE)
        if base % self._registers.page_size:
            raise CommandError(Status.PRP_INVALID_OFFSET, location=_PRP1)

    def _attach(self, queue: CompletionQueue | SubmissionQueue) -> None:
        try:
            queue.attach(self._memory)
        except DmaError as error:
            raise CommandError(Status.DATA_XFER_ERROR, location=_PRP1) from error
