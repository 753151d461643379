"""Queues in a list of pages, where CAP.CQR is 0 (NVMe Base 2.1, 5.2.1 and 5.2.2: Physically Contiguous cleared).

PRP1 names a list of pages instead of the queue. Everything that works on a ring sees one run of bytes all the same:

    submission queue    a copy, into which entries go when they are first looked at after their doorbell
    completion queue    a copy, out of which completions go when the tail moves over them, Phase Tag last

A controller that offers such queues works in Python only: C knows nothing of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nvme_emu.controller.pcie.rings import CompletionQueue, SubmissionQueue
from nvme_emu.core.errors import CommandError, DmaError
from nvme_emu.spec.queues import CQE_SIZE, SQE_SIZE
from nvme_emu.spec.status import Status

if TYPE_CHECKING:
    from nvme_emu.core.memory import HostMemory

__all__ = ["ScatteredCq", "ScatteredSq"]

_ENTRY = 8
_PRP1 = (24, 0)
_STATUS_AT = CQE_SIZE - 2


def _pages(memory: HostMemory, addr: int, nbytes: int, page: int, write: bool) -> list[memoryview]:
    """The pages of a queue of ``nbytes`` whose list begins at ``addr``.

    CommandError for an offset in an entry, DmaError for what host memory does not own or what is reached by messages.
    """
    needed = -(-nbytes // page)
    pages: list[memoryview] = []
    while needed:
        room = page // _ENTRY
        count = min(needed, room)
        raw = memory.read(addr, count * _ENTRY)
        entries = [int.from_bytes(raw[at : at + _ENTRY], "little") for at in range(0, len(raw), _ENTRY)]
        chained = needed > room
        if any(entry % page for entry in entries):
            raise CommandError(Status.PRP_INVALID_OFFSET, location=_PRP1)
        for entry in entries[:-1] if chained else entries:
            if not memory.region_at(entry, page, write).direct:
                raise DmaError(entry, page, "the page of a queue is reached by messages")
            view, at = memory.pin(entry, page, write)
            pages.append(view[at : at + page])
            needed -= 1
        if chained:
            addr = entries[-1]
    return pages


class ScatteredSq(SubmissionQueue):
    """A submission queue in pages of ``page`` bytes; ``base`` is where their list is."""

    __slots__ = ("_copy", "_page", "_ring_pages", "_taken")

    def __init__(self, qid: int, base: int, size: int, cq: CompletionQueue, prio: int, page: int) -> None:
        self._ring_pages: list[memoryview] = []
        self._page = page
        self._copy = memoryview(bytearray(size * SQE_SIZE))
        self._taken = 0
        super().__init__(qid, base, size, cq, prio)

    @property
    def nbytes(self) -> int:
        """Bytes of the list, which is what lies at ``base``."""
        return -(-self.size * SQE_SIZE // self._page) * _ENTRY

    def attach(self, memory: HostMemory) -> None:
        """Look the pages up. Raises DmaError and CommandError."""
        self._ring_pages = _pages(memory, self.base, self.size * SQE_SIZE, self._page, False)

    @property
    def view(self) -> memoryview:
        """The ring, with all entries up to the tail."""
        page = self._page
        while self._taken != self.tail:
            at = self._taken * SQE_SIZE
            place = at % page
            self._copy[at : at + SQE_SIZE] = self._ring_pages[at // page][place : place + SQE_SIZE]
            self._taken = (self._taken + 1) % self.size
        return self._copy

    @view.setter
    def view(self, value: Any) -> None:
        """What a queue starts with; a scattered one has its own."""


class ScatteredCq(CompletionQueue):
    """A completion queue in pages of ``page`` bytes; ``base`` is where their list is."""

    __slots__ = ("_at", "_page", "_ring_pages")

    def __init__(self, qid: int, base: int, size: int, vector: int, ien: bool, page: int) -> None:
        self._ring_pages: list[memoryview] = []
        self._page = page
        self._at = 0
        super().__init__(qid, base, size, vector, ien)
        self.view = memoryview(bytearray(size * CQE_SIZE))
        self.words = self.view.cast("H")

    @property
    def nbytes(self) -> int:
        """Bytes of the list, which is what lies at ``base``."""
        return -(-self.size * CQE_SIZE // self._page) * _ENTRY

    def attach(self, memory: HostMemory) -> None:
        """Look the pages up. Raises DmaError and CommandError."""
        self._ring_pages = _pages(memory, self.base, self.size * CQE_SIZE, self._page, True)

    @property
    def tail(self) -> int:
        """Where the next completion goes; what it moves over is published."""
        return self._at

    @tail.setter
    def tail(self, value: int) -> None:
        page = self._page
        while self._at != value and self._ring_pages:
            at = self._at * CQE_SIZE
            place = at % page
            ring = self._ring_pages[at // page]
            ring[place : place + _STATUS_AT] = self.view[at : at + _STATUS_AT]
            ring.cast("H")[(place + _STATUS_AT) // 2] = self.words[(at + _STATUS_AT) // 2]
            self._at = (self._at + 1) % self.size
        self._at = value
