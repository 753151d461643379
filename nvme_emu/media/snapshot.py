"""A copy of media in memory, and media made of it that share what they have not written.

    media ── written pages ──> memfd, sealed ══ MAP_PRIVATE ══> a medium
                                             ══ MAP_PRIVATE ══> another

The kernel copies a page when somebody writes to it, so that a further medium costs a mapping. A page that the copy does
not have costs twice when it is touched: shared memory has no zero page, so one becomes the memfd's, once for all.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import weakref
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import islice
from operator import itemgetter
from typing import Final

import numpy as np
import numpy.typing as npt

from nvme_emu.core.memory import ByteArray
from nvme_emu.media.base import Media, MediaError
from nvme_emu.media.pages import Run, data_runs, touched_pages, true_runs
from nvme_emu.media.ram import RamMedia
from nvme_emu.media.sparse import PAGE, SparseMedia

__all__ = ["CopiedData", "CopiedRam", "CopiedSparse"]

_CHUNK: Final = 1 << 20
_SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_NORESERVE: Final = getattr(mmap, "MAP_NORESERVE", 0x4000)
_SMALL: Final = 1 << 16


class CopiedData:
    """The data of ``media``, one behind the other: ``nbytes`` bytes, of which those are kept that are not zero.

    ``bases`` is where each medium begins. The memory is given back when nobody has this object any more. Raises
    MediaError where the memory cannot be had, or a medium not be read.
    """

    def __init__(self, media: Sequence[Media]) -> None:
        self.bases: list[int] = []
        self.nbytes = 0
        for one in media:
            self.bases.append(self.nbytes)
            self.nbytes += one.nbytes
        try:
            self.fd = os.memfd_create("nvme-emu snapshot", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            weakref.finalize(self, os.close, self.fd)
            os.ftruncate(self.fd, -(-self.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE)
            for one, base in zip(media, self.bases, strict=True):
                _copy(one, self.fd, base)
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, _SEALS)
            # Now: later there are also pages of zeroes, which somebody looked at.
            self._runs = list(data_runs(self.fd, 0, self.nbytes))
        except OSError as error:
            if isinstance(error, MediaError):
                raise
            raise MediaError(error.errno or errno.ENOMEM, f"no memory for a snapshot: {error.strerror}") from error

    def runs(self, start: int = 0, end: int | None = None) -> Iterator[Run]:
        """Where there is data between two offsets; all else is zero."""
        last = self.nbytes if end is None else end
        at = max(0, bisect_right(self._runs, start, key=itemgetter(0)) - 1)
        for begin, nbytes in islice(self._runs, at, None):
            if begin >= last:
                return
            first, after = max(begin, start), min(begin + nbytes, last)
            if first < after:
                yield first, after - first

    def allocated_bytes(self) -> int:
        """What the system has given for it."""
        return os.fstat(self.fd).st_blocks * 512

    def map(self) -> mmap.mmap:
        """All of it, to be written to by the caller alone. MediaError where there is no address space."""
        try:
            nbytes = os.fstat(self.fd).st_size
            return mmap.mmap(
                self.fd, nbytes, flags=mmap.MAP_PRIVATE | _NORESERVE, prot=mmap.PROT_READ | mmap.PROT_WRITE
            )
        except OSError as error:
            raise MediaError(
                error.errno or errno.ENOMEM, f"no address space for a copy of {self.nbytes} bytes: {error.strerror}"
            ) from error


def _copy(media: Media, fd: int, base: int) -> None:
    buffer = np.empty(_CHUNK, np.uint8)
    for start, nbytes in media.written():
        for at in range(start, start + nbytes, _CHUNK):
            count = min(_CHUNK, start + nbytes - at)
            part = buffer[: -(-count // PAGE) * PAGE]
            part[count:] = 0
            media.read_into(at, memoryview(part[:count]))  # type: ignore[arg-type]
            wanted: npt.NDArray[np.bool_] = np.any(part.view(np.uint64).reshape(-1, PAGE // 8), axis=1)
            for first, pages in true_runs(wanted):
                kept = part[first * PAGE : min(count, (first + pages) * PAGE)]
                _write(fd, memoryview(kept), base + at + first * PAGE)  # type: ignore[arg-type]


def _write(fd: int, data: memoryview, offset: int) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(fd, data[done:], offset + done)


class _Remembers:
    """The state that a controller keeps with its data."""

    _state: bytes | None

    def load_state(self) -> bytes | None:
        """What the device remembers besides its data."""
        return self._state

    def store_state(self, contents: bytes) -> None:
        """Remember it; gone with the medium."""
        self._state = contents


class CopiedRam(_Remembers, RamMedia):
    """A `RamMedia` that begins as copied data."""

    def __init__(self, data: CopiedData, state: bytes | None) -> None:
        """Raises MediaError where there is no address space."""
        self._data: CopiedData | None = data
        self._state = state
        super().__init__(data.nbytes)

    def _map(self, nbytes: int) -> ByteArray:
        assert self._data is not None, "it is not closed"
        self._mapping = self._data.map()
        return np.frombuffer(self._mapping, np.uint8, nbytes)

    def zero(self, offset: int, nbytes: int, fua: bool = False) -> None:
        """A large range is given back to the system first: zeroes are stored where the copy has something."""
        self._check_range(offset, nbytes)
        end = offset + nbytes
        first, last = -(-offset // mmap.PAGESIZE) * mmap.PAGESIZE, end // mmap.PAGESIZE * mmap.PAGESIZE
        if self._data is None or last - first < _SMALL:
            self._flat[offset:end] = 0
            return
        self._flat[offset:first] = 0
        self._flat[last:end] = 0
        self._mapping.madvise(mmap.MADV_DONTNEED, first, last - first)
        for start, count in self._data.runs(first, last):
            self._flat[start : start + count] = 0

    def written(self) -> Iterator[Run]:
        """What it was made of, and what was written since."""
        assert self._data is not None, "it is not closed"
        pages = touched_pages(self._flat)
        if pages is None:
            yield 0, self.nbytes
            return
        for start, nbytes in self._data.runs():
            pages[start // mmap.PAGESIZE : -(-(start + nbytes) // mmap.PAGESIZE)] = True
        for first, count in true_runs(pages):
            start = first * mmap.PAGESIZE
            yield start, min(self.nbytes, start + count * mmap.PAGESIZE) - start

    def close(self) -> None:
        super().close()
        self._data = None
        self.__dict__.pop("_mapping", None)


class CopiedSparse(_Remembers, SparseMedia):
    """A `SparseMedia` that begins as copied data."""

    def __init__(self, data: CopiedData, state: bytes | None) -> None:
        """Raises MediaError where there is no address space."""
        self._data: CopiedData | None = data
        self._state = state
        super().__init__(data.nbytes)
        for start, nbytes in data.runs():
            self._present[start // PAGE : -(-(start + nbytes) // PAGE)] = 1
            self._pages_present += -(-(start + nbytes) // PAGE) - start // PAGE

    def _map(self, nbytes: int) -> tuple[mmap.mmap, int]:
        assert self._data is not None, "it is not closed"
        return self._data.map(), 0

    def _drop(self, first: int, last: int) -> None:
        super()._drop(first, last)
        # What is given back shows the copy again.
        assert self._data is not None, "it is not closed"
        end = min(last * PAGE, self.nbytes)
        for start, nbytes in self._data.runs(first * PAGE, end):
            self._flat[start : start + nbytes] = 0

    def close(self) -> None:
        super().close()
        self._data = None
