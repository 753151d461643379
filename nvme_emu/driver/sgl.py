"""A queue pair that describes data with SGLs where Linux's driver would (``nvme_map_data``, ``nvme_pci_use_sgls``).

    up to two pages     PRPs, which need no list
    one segment         SGL1 is its Data Block
    several             a list of them if they have ``sgl_threshold`` bytes on average, else PRPs

A request's data has one address here, whatever its length. ``max_segment_size`` cuts it into segments, as the memory of
a host without an IOMMU is. Lists stand in pages of the driver's pool; the last entry of a full page points at the next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nvme_emu.driver.queue_pair import PAGE_SIZE, UNLISTED_BYTES, QueuePair
from nvme_emu.driver.trace_points import emit_setup
from nvme_emu.spec.queues import PSDT_SGL, SQE_SIZE, SQE_WIDE
from nvme_emu.spec.sgl import SGL_BYTES, SGL_DESCRIPTOR, SGL_LAST_SEGMENT, SGL_SEGMENT

if TYPE_CHECKING:
    from nvme_emu.driver.batch import BatchRequest
    from nvme_emu.driver.request import Request

__all__ = ["ENTRIES_PER_PAGE", "SglQueuePair", "list_pages_needed", "uses_sgl"]

ENTRIES_PER_PAGE = PAGE_SIZE // SGL_BYTES
_ENTRY = np.dtype([("address", "<u8"), ("length", "<u4"), ("reserved", "u1", 3), ("identifier", "u1")])
_IDENTIFIER_SHIFT, _FLAGS_SHIFT = 56, 8
assert _ENTRY.itemsize == SGL_BYTES


def uses_sgl(nbytes: int, segments: int, threshold: int) -> bool:
    """Whether a command of an I/O queue takes an SGL; ``threshold`` 0 is never."""
    if not threshold or nbytes <= UNLISTED_BYTES:
        return False
    return segments == 1 or -(-nbytes // segments) >= threshold


def list_pages_needed(entries: int) -> int:
    """How many pages hold a list of so many data blocks; each but the last gives one place to the pointer."""
    return 1 if entries <= ENTRIES_PER_PAGE else -(-(entries - 1) // (ENTRIES_PER_PAGE - 1))


class SglQueuePair(QueuePair):
    """A queue pair of a controller that offers SGLs."""

    def __init__(self, *arguments: Any, threshold: int, max_segment_size: int) -> None:
        super().__init__(*arguments)
        self.threshold = threshold
        self.max_segment_size = max_segment_size

    def segments(self, nbytes: int) -> int:
        """In how many segments so many bytes lie."""
        return -(-nbytes // self.max_segment_size) if self.max_segment_size else 1

    def prepare(self, rq: Request) -> None:
        """As `QueuePair.prepare`."""
        nbytes = rq.nbytes
        if rq.iova is not None or not uses_sgl(nbytes, self.segments(nbytes), self.threshold):
            super().prepare(rq)
            return
        self._prepare_sgl(rq)
        if self._consume is not None:
            self._consume(self.cost_ns(1, nbytes // PAGE_SIZE))
        emit = self._trace.emit
        if emit is not None:
            emit_setup(emit, self._now.now_ns, rq, self.qid, rq.cid)

    def _prepare_sgl(self, rq: Request) -> None:
        tags = self.tags
        tag = tags.free.pop()
        cid = tags.cid[tag]
        rq.qid, rq.cid = self.qid, cid
        self.inflight[tag] = rq
        self.outstanding += 1
        window = self._opened[tag] or self._open(tag)
        window.show(rq.data, not rq.to_device)  # type: ignore[arg-type]
        address, length, identifier = self._describe(tag, window.base, rq.nbytes)
        SQE_WIDE.pack_into(
            self.sq_view, self.tail * SQE_SIZE, rq.opcode, PSDT_SGL, cid, rq.nsid, 0, 0, address,
            length | identifier << _IDENTIFIER_SHIFT, rq.slba, rq.cdw12, rq.cdw13, rq.cdw14, rq.cdw15,
        )  # fmt: skip
        self.tail = (self.tail + 1) % self.depth

    def _describe(self, tag: int, base: int, nbytes: int) -> tuple[int, int, int]:
        """SGL1 of data at ``base``; lists that it needs are the tag's until the command has ended."""
        count = self.segments(nbytes)
        if count == 1:
            return base, nbytes, 0
        entries = np.zeros(count, _ENTRY)
        entries["address"] = base + np.arange(count, dtype=np.uint64) * np.uint64(self.max_segment_size)
        entries["length"] = self.max_segment_size
        entries["length"][-1] = nbytes - (count - 1) * self.max_segment_size
        pages = tuple(self._pool.alloc() for _ in range(list_pages_needed(count)))
        self._lists[tag] = pages
        return self._write_lists(entries, pages)

    def _write_lists(self, entries: np.ndarray, pages: tuple[int, ...]) -> tuple[int, int, int]:
        """Store the lists from the last page to the first; what points at the first."""
        starts = range(0, len(pages) * (ENTRIES_PER_PAGE - 1), ENTRIES_PER_PAGE - 1)
        pointer: tuple[int, int, int] | None = None
        for page, start in reversed(list(zip(pages, starts, strict=True))):
            room = ENTRIES_PER_PAGE if pointer is None else ENTRIES_PER_PAGE - 1
            data = entries[start : start + room].tobytes()
            if pointer is not None:
                data += SGL_DESCRIPTOR.pack(*pointer)
            self._ring_view(page, PAGE_SIZE)[: len(data)] = data
            pointer = page, len(data), SGL_LAST_SEGMENT if pointer is None else SGL_SEGMENT
        assert pointer is not None
        return pointer

    def _write_columns(self, batch: BatchRequest, start: int, cids: np.ndarray) -> None:
        """A batch's buffers are one segment each: the address is PRP1's, and the length takes the place of PRP2."""
        wanted = self.segments(batch.width) == 1 and uses_sgl(batch.width, 1, self.threshold)
        if wanted:
            batch.prp2 = np.full(len(batch.slbas), batch.width, np.uint64)
        first = self.tail
        super()._write_columns(batch, start, cids)
        if wanted:
            self._sq_words[(first + np.arange(len(cids))) % self.depth, 0] |= np.uint64(PSDT_SGL << _FLAGS_SHIFT)
