"""Many reads or writes of one length as one request: the column gait of the driver.

``read_many`` and ``write_many`` make no object a command. The commands of a batch are written to the ring as
columns, their completions are taken as columns, and only what is out of the ordinary (a failed command, a
completion of somebody else in between) is looked at one by one. The meaning is that of single requests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nvme_emu.driver.prp import ENTRY_BYTES
from nvme_emu.driver.request import Request

if TYPE_CHECKING:
    from collections.abc import Callable

    from nvme_emu.core.memory import HostMemory, Region

__all__ = ["BATCH_MIN", "BatchRequest", "fits_columns"]

BATCH_MIN = 24
"""Below this many commands single requests are quicker."""

PAGE_SIZE = 4096
ENTRIES_PER_PAGE = PAGE_SIZE // ENTRY_BYTES


def fits_columns(count: int, nbytes: int) -> bool:
    """Whether ``count`` commands of ``nbytes`` each can be built as columns.

    Their PRPs must be computable in one go: at most a page that does not straddle, or whole pages with a list
    that fits a page.
    """
    if count < BATCH_MIN:
        return False
    if nbytes % PAGE_SIZE:
        return PAGE_SIZE % nbytes == 0
    return nbytes // PAGE_SIZE - 1 <= ENTRIES_PER_PAGE


class BatchRequest(Request):
    """``len(slbas)`` commands of ``nlb`` blocks over one buffer, the i-th at ``buffer[i * nlb * lba_size:]``.

    ``issued`` commands are on the ring or done, ``left`` have not ended, ``failed`` is {number: status}. The batch is
    done when all have ended; its status is that of the failed command that comes first in the batch.
    """

    __slots__ = (
        "_first_failed", "_lists", "columns", "failed", "issued", "left", "parts_left", "prp1", "prp2", "slbas",
        "width",
    )  # fmt: skip

    def __init__(
        self,
        opcode: int,
        nsid: int,
        slbas: np.ndarray,
        nlb: int,
        width: int,
        data: memoryview,
        to_device: bool,
    ) -> None:
        super().__init__(opcode, nsid, 0, nlb, nlb - 1, data, to_device)
        self.batch = True
        self.slbas = slbas.astype(np.uint64, copy=False)
        self.width = width
        self.issued = 0
        self.left = len(slbas)
        self._first_failed = len(slbas)
        self.failed: dict[int, int] = {}
        self.parts_left: list[int] = []
        self._lists: Region | None = None
        self.prp1 = self.prp2 = np.zeros(0, np.uint64)

    def map(self, memory: HostMemory) -> None:
        """Give the device the buffer, and compute every command's PRP1 and PRP2."""
        self.region = memory.add_region(
            np.frombuffer(self.data, np.uint8),  # type: ignore[arg-type]
            writable=not self.to_device,
            name="batch",
        )
        count, width = len(self.slbas), self.width
        base = self.region.base
        self.prp1 = base + np.arange(count, dtype=np.uint64) * np.uint64(width)
        pages = -(-width // PAGE_SIZE)
        if pages == 1:
            self.prp2 = np.zeros(count, np.uint64)
        elif pages == 2:
            self.prp2 = self.prp1 + np.uint64(PAGE_SIZE)
        else:
            self.prp2 = self._build_lists(memory, count, pages)

    def _build_lists(self, memory: HostMemory, count: int, pages: int) -> np.ndarray:
        """A list for each command, as many as fit in a page and none across two, so that none needs a chain."""
        entries = pages - 1
        per_page = ENTRIES_PER_PAGE // entries
        list_pages = -(-count // per_page)
        padded = list_pages * per_page
        first = self.prp1[0] + np.arange(padded, dtype=np.uint64)[:, None] * np.uint64(self.width)
        column = np.arange(1, pages, dtype=np.uint64)[None, :] * np.uint64(PAGE_SIZE)
        lists = np.zeros((list_pages, ENTRIES_PER_PAGE), np.uint64)
        lists[:, : per_page * entries] = (first + column).reshape(list_pages, per_page * entries)
        self._lists = memory.add_region(lists, writable=False, name="batch lists")
        index = np.arange(count, dtype=np.uint64)
        page, slot = index // np.uint64(per_page), index % np.uint64(per_page)
        offset = page * np.uint64(PAGE_SIZE) + slot * np.uint64(entries * ENTRY_BYTES)
        return np.uint64(self._lists.base) + offset

    def unmap(self, memory: HostMemory) -> None:
        """Take the buffer and the lists back."""
        if self.region is not None:
            memory.remove_region(self.region)
            self.region = None
        if self._lists is not None:
            memory.remove_region(self._lists)
            self._lists = None

    def fail(self, index: int, status: int) -> None:
        """Command ``index`` ended with a status that is not success."""
        self.failed[index] = status
        if index < self._first_failed:
            self._first_failed = index
            self._status = status
            self.slba = int(self.slbas[index])

    def abandon(self, memory: HostMemory | None, status: int) -> bool:
        """End the commands that were not issued with ``status``. True if the batch is done with that.

        ``memory`` is where it is mapped, if it is.
        """
        for index in range(self.issued, len(self.slbas)):
            self.fail(index, status)
        self.left -= len(self.slbas) - self.issued
        self.issued = len(self.slbas)
        if self.left:
            return False
        if memory is not None:
            self.unmap(memory)
        return True

    def parts(self, wanted: Callable[[int], bool]) -> list[Request]:
        """Requests of their own for the failed commands whose status is ``wanted``; once all of the batch has ended.

        The outcome of each is told with ``part_ended``.
        """
        assert self.data is not None
        found: list[Request] = []
        width = self.width
        for index, status in sorted(self.failed.items()):
            if wanted(status):
                piece = self.data[index * width : (index + 1) * width]
                part = Request(
                    self.opcode, self.nsid, int(self.slbas[index]), self.nlb, self.cdw12, piece, self.to_device
                )
                part.add_callback(lambda rq, index=index: self._part_ended(index, rq))  # type: ignore[misc]
                found.append(part)
        self.parts_left = list(range(len(found)))
        return found

    def _part_ended(self, index: int, part: Request) -> None:
        """Of several ends at once exactly one draws the 0, as in a SplitRequest; it makes the sum."""
        if part._status:
            self.failed[index] = part._status
        else:
            del self.failed[index]
        if self.parts_left.pop() == 0:
            first = min(self.failed, default=None)
            self._status = 0 if first is None else self.failed[first]
            self.slba = int(self.slbas[first or 0])
            self.finish()
