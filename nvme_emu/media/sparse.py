"""A medium of any size that costs what was written to it."""

from __future__ import annotations

import contextlib
import errno
import mmap
from collections.abc import Iterator

import numpy as np

from nvme_emu.core.memory import ByteArray, map_anonymous
from nvme_emu.media.base import Buffer, Media, MediaError, Offsets, check_size, first_difference
from nvme_emu.media.pages import Run, true_runs
from nvme_emu.media.ram import read_rows, void_rows, write_rows

__all__ = ["SparseMedia"]

PAGE = 4096
PAGE_SHIFT = 12
MARKS_AT_ONCE = 1 << 20

# The bytes themselves are one anonymous mapping without reserved swap and without huge pages: the system
# gives 4 KiB a touched page and takes them back on MADV_DONTNEED (measured: a mapped TiB adds nothing to the
# resident size, 10 MiB written at random add 10 MiB). What it does not give is cheap reading of what was
# never written: that maps the zero page and needs a page table for each 2 MiB looked at (measured: 360 MiB
# of them after 100 000 random reads of a TiB). Hence `_present`, a byte for each page, in memory of the same
# kind: absent pages are answered with zeroes without being touched, and counted.


class SparseMedia(Media):
    """Memory that exists in pages of 4 KiB from their first write to their discard."""

    volatile = True

    def __init__(self, nbytes: int) -> None:
        """Raises ValueError for a size below 1, MediaError where the system refuses so much address space."""
        check_size(nbytes)
        self.nbytes = nbytes
        pages = -(-nbytes // PAGE)
        try:
            self._mapping, self._start = self._map(nbytes)
            self._present_mapping, self._present_start = map_anonymous(pages, huge=False, sparse=True)
        except (OSError, OverflowError) as error:
            raise MediaError(
                errno.ENOMEM,
                f"no address space for a sparse medium of {nbytes} bytes ({error}); "
                "vm.overcommit_memory=2 or a limit on the address space (ulimit -v) forbid it",
            ) from error
        self._flat: ByteArray = np.frombuffer(self._mapping, np.uint8, nbytes, self._start)
        self._view = memoryview(self._flat)  # type: ignore[arg-type]
        self._present: ByteArray = np.frombuffer(
            self._present_mapping, np.uint8, pages, self._present_start
        )
        self._present_view = memoryview(self._present)  # type: ignore[arg-type]
        self._pages_present = 0

    def _map(self, nbytes: int) -> tuple[mmap.mmap, int]:
        return map_anonymous(nbytes, huge=False, sparse=True)

    def read_into(self, offset: int, out: memoryview) -> None:
        nbytes = len(out)
        end = offset + nbytes
        if offset < 0 or end > self.nbytes:
            self._check_range(offset, nbytes)
        present = bytes(self._present_view[offset >> PAGE_SHIFT : (end + PAGE - 1) >> PAGE_SHIFT])
        if 0 not in present:
            out[:] = self._view[offset:end]
            return
        out[:] = bytes(nbytes)
        at = present.find(1)
        while at >= 0:
            stop = present.find(0, at)
            stop = len(present) if stop < 0 else stop
            first = max(offset, (offset >> PAGE_SHIFT) + at << PAGE_SHIFT)
            last = min(end, (offset >> PAGE_SHIFT) + stop << PAGE_SHIFT)
            out[first - offset : last - offset] = self._view[first:last]
            at = present.find(1, stop)

    def write(self, offset: int, data: Buffer, fua: bool = False) -> None:
        end = offset + len(data)
        if offset < 0 or end > self.nbytes:
            self._check_range(offset, len(data))
        if end == offset:
            return
        self._view[offset:end] = data
        pages = slice(offset >> PAGE_SHIFT, (end + PAGE - 1) >> PAGE_SHIFT)
        absent = bytes(self._present_view[pages]).count(0)
        if absent:
            self._present[pages] = 1
            self._pages_present += absent

    def zero(self, offset: int, nbytes: int, fua: bool = False) -> None:
        """As `discard`: zeroes are what an absent page reads as, so storing them would only cost memory."""
        self.discard(offset, nbytes)

    def discard(self, offset: int, nbytes: int) -> None:
        self._check_range(offset, nbytes)
        end = offset + nbytes
        # Pages that are covered in part stay; the end of the medium counts as the end of its last page.
        first = -(-offset // PAGE)
        last = -(-end // PAGE) if end == self.nbytes else end // PAGE
        if first >= last:
            self._clear(offset, end)
            return
        self._clear(offset, first * PAGE)
        self._clear(last * PAGE, end)
        self._drop(first, last)

    def _clear(self, start: int, end: int) -> None:
        """Zero part of a page, or the neighbouring parts of two, without making absent pages present."""
        while start < end:
            stop = min(end, (start >> PAGE_SHIFT) + 1 << PAGE_SHIFT)
            if self._present_view[start >> PAGE_SHIFT]:
                self._flat[start:stop] = 0
            start = stop

    def _drop(self, first: int, last: int) -> None:
        """Give the whole pages [first, last) back to the system."""
        if not self._pages_present:
            return
        dropped = int(np.count_nonzero(self._present[first:last]))
        if not dropped:
            return
        self._pages_present -= dropped
        self._mapping.madvise(mmap.MADV_DONTNEED, self._start + first * PAGE, (last - first) * PAGE)
        # The marks of a large discard are pages themselves.
        inner = slice(-(-first // PAGE) * PAGE, last // PAGE * PAGE)
        if inner.start < inner.stop:
            at, size = self._present_start + inner.start, inner.stop - inner.start
            self._present_mapping.madvise(mmap.MADV_DONTNEED, at, size)
            self._present[first : inner.start] = 0
            self._present[inner.stop : last] = 0
        else:
            self._present[first:last] = 0

    def flush(self) -> None:
        """Nothing to do: memory is as durable as it gets."""

    def close(self) -> None:
        self.nbytes = 0
        self._pages_present = 0
        self._flat = self._present = np.empty(0, np.uint8)
        self._view = self._present_view = memoryview(b"")
        for mapping in (self._mapping, self._present_mapping):
            # Somebody may still hold a view; the memory then goes with the last of them.
            with contextlib.suppress(BufferError):
                mapping.close()

    def equal(self, offset: int, data: Buffer) -> int:
        expected = np.frombuffer(data, np.uint8)
        stored = np.empty(len(expected), np.uint8)
        self.read_into(offset, memoryview(stored))  # type: ignore[arg-type]
        return first_difference(stored, expected)

    def written(self) -> Iterator[Run]:
        """The pages that are present."""
        for at in range(0, len(self._present), MARKS_AT_ONCE):
            for first, count in true_runs(self._present[at : at + MARKS_AT_ONCE].view(np.bool_)):
                start = at + first << PAGE_SHIFT
                yield start, min(self.nbytes, start + (count << PAGE_SHIFT)) - start

    def allocated_bytes(self) -> int:
        return min(self.nbytes, self._pages_present * PAGE)

    def read_rows(self, rows: Offsets, row_nbytes: int, out: ByteArray) -> None:
        flat = self._row_buffer(rows, row_nbytes, out)
        if PAGE % row_nbytes:
            super().read_rows(rows, row_nbytes, out)
            return
        present = self._present[rows * row_nbytes >> PAGE_SHIFT].view(np.bool_)
        if present.all():
            read_rows(self._flat, rows, row_nbytes, out)
            return
        flat[:] = 0
        void_rows(flat, row_nbytes)[present] = void_rows(self._flat, row_nbytes)[rows[present]]

    def write_rows(self, rows: Offsets, row_nbytes: int, data: ByteArray, fua: bool = False) -> None:
        self._row_buffer(rows, row_nbytes, data)
        if PAGE % row_nbytes:
            super().write_rows(rows, row_nbytes, data, fua)
            return
        write_rows(self._flat, rows, row_nbytes, data)
        pages = rows * row_nbytes >> PAGE_SHIFT
        absent = pages[self._present[pages] == 0]
        if len(absent):
            self._present[absent] = 1
            self._pages_present += len(np.unique(absent))
