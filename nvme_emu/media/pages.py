"""Which pages of memory, or of a file, may hold anything but zeroes: asked of the system, not read."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from nvme_emu.core.memory import ByteArray

__all__ = ["Run", "data_runs", "touched_pages", "true_runs"]

Run = tuple[int, int]
"""(offset, bytes)"""

# An entry of /proc/PID/pagemap (the kernel's admin-guide/mm/pagemap).
_IN_MEMORY: Final = np.uint64(1 << 63 | 1 << 62)
_OF_A_FILE: Final = np.uint64(1 << 61)


def true_runs(flags: npt.NDArray[np.bool_]) -> Iterator[Run]:
    """(index, count) of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], flags, [False]))))
    for first, last in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        yield first, last - first


def data_runs(fd: int, start: int, end: int) -> Iterator[Run]:
    """The runs of a file between two offsets that are no holes; all of it where the file system does not tell."""
    at = start
    while at < end:
        try:
            first = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                yield at, end - at
            return
        if first >= end:
            return
        at = min(os.lseek(fd, first, os.SEEK_HOLE), end)
        yield first, at - first


def touched_pages(flat: ByteArray) -> npt.NDArray[np.bool_] | None:
    """For each page under ``flat``, which begins at a page: whether it is anonymous memory that was ever touched.

    None where the system does not tell (no /proc, or one that says nothing).
    """
    try:
        fd = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        # It has to know at least of a page that is certainly there.
        known = np.ones(2 * mmap.PAGESIZE, np.uint8)
        if not _read(fd, known.ctypes.data + mmap.PAGESIZE, 1).all():
            return None
        return _read(fd, flat.ctypes.data, -(-flat.nbytes // mmap.PAGESIZE))
    except (OSError, ValueError):
        return None
    finally:
        os.close(fd)


def _read(fd: int, address: int, pages: int) -> npt.NDArray[np.bool_]:
    wanted, at = pages * 8, address // mmap.PAGESIZE * 8
    found = bytearray()
    while len(found) < wanted:
        more = os.pread(fd, wanted - len(found), at + len(found))
        if not more:
            raise ValueError("the page map ends early")
        found += more
    entries = np.frombuffer(found, np.uint64)
    found_pages: npt.NDArray[np.bool_] = ((entries & _IN_MEMORY) != 0) & ((entries & _OF_A_FILE) == 0)
    return found_pages
