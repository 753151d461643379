"""A medium in memory: the fast one."""

from __future__ import annotations

import mmap
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from nvme_emu.core.memory import ByteArray, anonymous_array
from nvme_emu.media.base import Buffer, Media, Offsets, check_size, first_difference
from nvme_emu.media.pages import Run, touched_pages, true_runs

__all__ = ["RamMedia"]

# Below this many bytes comparing copies as bytes is quicker than numpy's way over an array of booleans.
COMPARE_AT_ONCE = 1 << 20


class RamMedia(Media):
    """Memory in transparent huge pages, 2 MiB aligned; costs nothing until it is touched."""

    volatile = True

    def __init__(self, nbytes: int) -> None:
        """Raises ValueError for a size below 1 and OSError (ENOMEM) where the system refuses it."""
        check_size(nbytes)
        self.nbytes = nbytes
        self._flat: ByteArray = self._map(nbytes)
        self.array = self._flat
        self._view = memoryview(self._flat)  # type: ignore[arg-type]

    def _map(self, nbytes: int) -> ByteArray:
        return anonymous_array(nbytes)

    def read_into(self, offset: int, out: memoryview) -> None:
        end = offset + len(out)
        if offset < 0 or end > self.nbytes:
            self._check_range(offset, len(out))
        out[:] = self._view[offset:end]

    def write(self, offset: int, data: Buffer, fua: bool = False) -> None:
        end = offset + len(data)
        if offset < 0 or end > self.nbytes:
            self._check_range(offset, len(data))
        self._view[offset:end] = data

    def zero(self, offset: int, nbytes: int, fua: bool = False) -> None:
        self._check_range(offset, nbytes)
        self._flat[offset : offset + nbytes] = 0

    def discard(self, offset: int, nbytes: int) -> None:
        self.zero(offset, nbytes)

    def flush(self) -> None:
        """Nothing to do: memory is as durable as it gets."""

    def written(self) -> Iterator[Run]:
        """The pages that were touched; everything where the system does not tell."""
        pages = touched_pages(self._flat)
        if pages is None:
            yield 0, self.nbytes
            return
        for first, count in true_runs(pages):
            start = first * mmap.PAGESIZE
            yield start, min(self.nbytes, start + count * mmap.PAGESIZE) - start

    def close(self) -> None:
        self.nbytes = 0
        self.array = None
        self._flat = np.empty(0, np.uint8)
        self._view = memoryview(b"")

    def equal(self, offset: int, data: Buffer) -> int:
        nbytes = len(data)
        self._check_range(offset, nbytes)
        if nbytes <= COMPARE_AT_ONCE and bytes(self._view[offset : offset + nbytes]) == bytes(data):
            return -1
        return first_difference(self._flat[offset : offset + nbytes], np.frombuffer(data, np.uint8))

    def read_rows(self, rows: Offsets, row_nbytes: int, out: ByteArray) -> None:
        self._row_buffer(rows, row_nbytes, out)
        read_rows(self._flat, rows, row_nbytes, out)

    def write_rows(self, rows: Offsets, row_nbytes: int, data: ByteArray, fua: bool = False) -> None:
        self._row_buffer(rows, row_nbytes, data)
        write_rows(self._flat, rows, row_nbytes, data)


def void_rows(flat: ByteArray, row_nbytes: int) -> npt.NDArray[np.void]:
    """The array as rows of opaque items: numpy moves one with one memcpy, and copies uint8 rows twice."""
    return flat[: len(flat) // row_nbytes * row_nbytes].view(f"V{row_nbytes}")


def read_rows(flat: ByteArray, rows: Offsets, row_nbytes: int, out: ByteArray) -> None:
    """Gather rows of a flat array; the rows have been checked."""
    # With mode "clip" and not "raise" numpy writes straight into `out` instead of into a buffer of its own.
    void_rows(flat, row_nbytes).take(rows, 0, void_rows(out.reshape(-1), row_nbytes), "clip")


def write_rows(flat: ByteArray, rows: Offsets, row_nbytes: int, data: ByteArray) -> None:
    """Scatter rows into a flat array; the rows have been checked."""
    void_rows(flat, row_nbytes)[rows] = void_rows(data.reshape(-1), row_nbytes)
