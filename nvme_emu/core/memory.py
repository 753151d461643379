"""Host memory as the device sees it: an address space of regions over numpy arrays.

Nothing is reachable that no region owns. Every access is checked against the regions, in Python integers
(which do not wrap), so an address near 2**64 plus a length is an error and not address zero.

    memory = HostMemory()
    region = memory.add_region(np.zeros(8192, np.uint8))        # at an address that memory picks
    view, offset = memory.find(region.base + 16, 64)            # view[offset:offset + 64] is the data
"""

from __future__ import annotations

import mmap
import threading
from bisect import bisect_right
from collections.abc import Callable
from typing import Any

import numpy.typing as npt

from nvme_emu._core import MemoryState
from nvme_emu.core.errors import DmaError
from nvme_emu.core.regions import (
    HUGE_PAGE,
    WINDOW,
    WINDOW_SHIFT,
    ByteArray,
    Region,
    Window,
    Windows,
    anonymous_array,
    map_anonymous,
)

__all__ = ["HUGE_PAGE", "ByteArray", "HostMemory", "Region", "Window", "Windows", "anonymous_array", "map_anonymous"]

ADDRESS_SPACE = 1 << 64


def _base_of(region: Region) -> int:
    return region.base


def _as_bytes(view: memoryview) -> memoryview:
    if not view.c_contiguous:
        raise ValueError(f"a region needs a C-contiguous buffer, not strides {view.strides}")
    if view.nbytes == 0:
        raise ValueError("a region needs at least one byte, the buffer is empty")
    return view.cast("B")


class HostMemory(MemoryState):
    """The address space that PRPs, SGLs and queue addresses point into; 64 bits, empty at first.

    Look-ups and changes may come from several threads.
    """

    transfer_bytes_max: int | None = None
    """The most that one command's data may have; None: memory sets no bound."""

    def __init__(self) -> None:
        super().__init__()
        # `_sorted` is the truth, in order of address. `_windows` is a cache of it: for each 4 GiB window the
        # region that was hit there last. A change of `_sorted` and the cache entries it makes wrong, or a
        # miss that refills the cache, happen under the lock; a hit takes no lock.
        self._sorted: list[Region] = []
        self._windows: dict[int, Region] = {}
        self._next_base = WINDOW
        self._lock = threading.Lock()
        self.generation = 0
        """Counts removals of pinned regions: who keeps views of them looks them up again when it moves."""
        self.on_pool: Callable[[int, int, bool], None] | None = None
        """Hears of pages that a PagePool hands out and takes back: (address, bytes, handed out)."""

    @property
    def regions(self) -> tuple[Region, ...]:
        """All regions in order of address."""
        return tuple(self._sorted)

    # -- regions ------------------------------------------------------------------------------------------

    def add_region(
        self,
        buffer: npt.NDArray[Any] | memoryview | bytearray | mmap.mmap,
        *,
        base: int | None = None,
        writable: bool = True,
        name: str = "",
    ) -> Region:
        """Give the device access to the bytes of `buffer`; no copy is made, the region keeps it alive.

        `buffer` is C-contiguous and holds at least a byte; a read-only one becomes a read-only region.
        With `base` None memory picks a 4 GiB-aligned address which it will not pick again until the
        address space has been used up, so that a stale address faults. Raises ValueError for a buffer
        that is empty or not contiguous, and for a base where the region would overlap another or leave
        the 64-bit address space.
        """
        view = memoryview(buffer)  # type: ignore[arg-type]
        if view.ndim != 1 or view.format != "B" or not view.c_contiguous:
            view = _as_bytes(view)
        size = len(view)
        if size == 0:
            raise ValueError("a region needs at least one byte, the buffer is empty")
        with self._lock:
            if base is None:
                region = Region(self._take_base(size), view, writable and not view.readonly, name)
                self._insert(region)
            else:
                region = Region(base, view, writable and not view.readonly, name)
                self._check_free(region)
                self._insert(region)
        return region

    def allocate(self, nbytes: int, name: str) -> Region:
        """A region of fresh zeroed memory, for what a driver keeps there."""
        return self.add_region(anonymous_array(nbytes, huge=nbytes >= HUGE_PAGE), name=name)

    def add_windows(self, count: int, name: str = "") -> Windows:
        """Take `count` windows of addresses, none of them open. ValueError as `add_region`."""
        if count < 1:
            raise ValueError(f"{count} windows: at least 1 is needed")
        with self._lock:
            windows = Windows(self._take_base(count << WINDOW_SHIFT), count, name)
            self._insert(windows)
        return windows

    def open_window(self, windows: Windows, index: int) -> Window:
        """The window `index` of `windows`, made if it is not there yet; it shows nothing at first."""
        with self._lock:
            window = windows.opened[index]
            if window is None:
                base = windows.base + (index << WINDOW_SHIFT)
                window = Window(self, base, f"{windows.name} {index}")
                self._windows[base >> WINDOW_SHIFT] = window
                self._table_window(base)
                windows.opened[index] = window
        return window

    def insert(self, region: Region) -> None:
        """Give the device access to a region made by the caller. Raises ValueError as `add_region` does."""
        with self._lock:
            self._check_free(region)
            self._insert(region)

    def take_base(self, size: int) -> int:
        """The address that a region of `size` bytes would get, for a buffer that is gone before anybody looks."""
        with self._lock:
            return self._take_base(size)

    def _take_base(self, size: int) -> int:
        base = self._next_base
        top = self._sorted[-1].end if self._sorted else 0
        if base < top or base + size > ADDRESS_SPACE - WINDOW:
            base = self._pick_base(size)
        # Beyond the last window _pick_base is asked anyway.
        self._next_base = min(base + (size + WINDOW - 1 & -WINDOW), ADDRESS_SPACE - WINDOW)
        return base

    def _pick_base(self, size: int) -> int:
        """The next free address that has `size` bytes; the way when fixed regions or the top are in it."""
        base = self._next_base
        # Two turns round the address space meet each region at most twice, so this ends.
        for _ in range(2 * len(self._sorted) + 2):
            if base + size > ADDRESS_SPACE:
                base = WINDOW
            hit = self._first_overlap(base, size)
            if hit is None:
                return base
            base = hit.end + WINDOW - 1 & -WINDOW
        raise ValueError(f"no free addresses for a region of {size} bytes")

    def _first_overlap(self, base: int, size: int) -> Region | None:
        regions = self._sorted
        index = bisect_right(regions, base, key=_base_of)
        for region in regions[max(index - 1, 0) : index + 1]:
            if region.base < base + size and base < region.end:
                return region
        return None

    def _check_free(self, region: Region) -> None:
        if region.base < 0 or region.end > ADDRESS_SPACE:
            raise ValueError(f"{region!r} leaves the 64-bit address space")
        other = self._first_overlap(region.base, region.size)
        if other is not None:
            raise ValueError(f"{region!r} overlaps {other!r}")

    def _insert(self, region: Region) -> None:
        regions = self._sorted
        if not regions or regions[-1].base < region.base:
            regions.append(region)
        else:
            regions.insert(bisect_right(regions, region.base, key=_base_of), region)
        if region.direct:
            self._windows[region.base >> WINDOW_SHIFT] = region
            self._table_add(region.base, region.view, region.writable)

    def remove_region(self, region: Region) -> None:
        """Take a region back: its addresses fault from now on. ValueError if memory does not hold it."""
        with self._lock:
            regions = self._sorted
            if regions and regions[-1] is region:
                regions.pop()
            else:
                index = bisect_right(regions, region.base, key=_base_of) - 1
                if index < 0 or regions[index] is not region:
                    raise ValueError(f"{region!r} is not a region of this memory")
                del regions[index]
            if isinstance(region, Windows):
                for opened in region.opened:
                    if opened is not None:
                        opened.hide()
                        self._forget(opened, opened.base >> WINDOW_SHIFT)
            else:
                self._forget(region, region.end - 1 >> WINDOW_SHIFT)
            if region.pinned:
                self.generation += 1

    def _forget(self, region: Region, last: int) -> None:
        """Take a region out of what is looked at first, up to 4 GiB window `last`."""
        windows = self._windows
        for window in range(region.base >> WINDOW_SHIFT, last + 1):
            if windows.get(window) is region:
                del windows[window]
        if region.direct:
            self._table_remove(region.base)

    # -- access -------------------------------------------------------------------------------------------

    def find(self, addr: int, length: int, write: bool = False) -> tuple[memoryview, int]:
        """The bytes [addr, addr + length) as (view, offset in it). The hot path.

        Raises DmaError when they are not all in one region, when `length` is below 1, and with `write`
        when the region is read-only. `read` and `write` also handle spans over adjacent regions.
        """
        region = self._windows.get(addr >> WINDOW_SHIFT)
        if region is not None:
            offset = addr - region.base
            if offset >= 0 and 0 < length <= region.size - offset and (not write or region.writable):
                return region.view, offset
        region = self.region_at(addr, length, write)
        return region.view, addr - region.base

    def pin(self, addr: int, length: int, write: bool = False) -> tuple[memoryview, int]:
        """As `find`, for who keeps the view: the region's removal will be seen in `generation`."""
        region = self.region_at(addr, length, write)
        region.pinned = True
        return region.view, addr - region.base

    def region_at(self, addr: int, length: int, write: bool = False) -> Region:
        """The one region that holds [addr, addr + length). Raises DmaError as `find` does."""
        region = self._region_from(addr, length, write)
        if addr + length > region.end:
            raise DmaError(addr, length, f"runs over the end of {region!r}")
        if not region.direct:
            region.touch(addr - region.base, length, write)
        return region

    def _region_from(self, addr: int, length: int, write: bool) -> Region:
        """The region that holds the byte at `addr`, after all checks but that of the end."""
        if length < 1:
            raise DmaError(addr, length, "the length must be at least 1")
        if addr < 0 or addr + length > ADDRESS_SPACE:
            raise DmaError(addr, length, "leaves the 64-bit address space")
        with self._lock:
            index = bisect_right(self._sorted, addr, key=_base_of) - 1
            region = self._sorted[index] if index >= 0 else None
            if region is not None and isinstance(region, Windows) and addr < region.end:
                region = region.at(addr)
            if region is None or addr >= region.end:
                raise DmaError(addr, length, "no region owns this address")
            if region.direct:  # the others are never hit without a look-up, which touches them
                self._windows[addr >> WINDOW_SHIFT] = region
        if write and not region.writable:
            raise DmaError(addr, length, f"{region!r} is read-only for the device")
        return region

    def pieces(self, addr: int, length: int, write: bool = False) -> list[memoryview]:
        """The bytes [addr, addr + length) as views, one for each of the adjacent regions they lie in.

        Raises DmaError, before anything can be touched, when a byte of them is not owned (or is read-only and
        `write` was asked for).
        """
        views = []
        end = addr + length
        while True:
            region = self._region_from(addr, end - addr, write)
            stop = min(end, region.end)
            if not region.direct:
                region.touch(addr - region.base, stop - addr, write)
            views.append(region.view[addr - region.base : stop - region.base])
            if stop == end:
                return views
            addr = stop

    def read(self, addr: int, n: int) -> bytes:
        """A copy of `n` bytes from `addr`, also across adjacent regions. Raises DmaError."""
        return b"".join(self.pieces(addr, n))

    def write(self, addr: int, data: bytes | bytearray | memoryview) -> None:
        """Store `data` at `addr`, also across adjacent regions: all of it or, with a DmaError, nothing."""
        source = memoryview(data).cast("B")
        done = 0
        for view in self.pieces(addr, len(source), write=True):
            view[:] = source[done : done + len(view)]
            done += len(view)
