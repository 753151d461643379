"""Host memory as the device sees it: an address space of regions over numpy arrays, and a page pool.

Nothing is reachable that no region owns. Every access is checked against the regions, in Python integers
(which do not wrap), so an address near 2**64 plus a length is an error and not address zero.

    memory = HostMemory()
    region = memory.add_region(np.zeros(8192, np.uint8))        # at an address that memory picks
    view, offset = memory.find(region.base + 16, 64)            # view[offset:offset + 64] is the data
"""

from __future__ import annotations

import contextlib
import mmap
import threading
from bisect import bisect_right
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from nvme_emu._core import MemoryState
from nvme_emu.core.errors import DmaError

__all__ = [
    "HUGE_PAGE",
    "POISON_BYTE",
    "ByteArray",
    "HostMemory",
    "PagePool",
    "PoolError",
    "Region",
    "UseAfterFree",
    "anonymous_array",
]

ByteArray = npt.NDArray[np.uint8]

HUGE_PAGE = 2 << 20
ADDRESS_SPACE = 1 << 64

# Addresses that memory picks itself start on windows of their own, so that one dictionary look-up on the
# high bits finds the region, and so that running off a region's end never lands in another one.
WINDOW_SHIFT = 32
WINDOW = 1 << WINDOW_SHIFT

# What a freed page is filled with: the byte that Linux's slab allocator uses (POISON_FREE). Read as a PRP
# entry it is an unaligned address which no region owns.
POISON_BYTE = 0x6B


def anonymous_array(nbytes: int, *, huge: bool = True, sparse: bool = False) -> ByteArray:
    """Zeroed memory of `nbytes` bytes from the system, aligned to 2 MiB; pages cost nothing until touched.

    `huge` asks for transparent huge pages (about 25 % on random 4 KiB access to a gigabyte), otherwise they
    are refused, so that touching a byte costs 4 KiB. `sparse` also keeps the system from reserving swap
    for all of it. Raises ValueError for a length below 1 and OSError where the system refuses.
    """
    mapping, offset = map_anonymous(nbytes, huge=huge, sparse=sparse)
    return np.frombuffer(mapping, np.uint8, nbytes, offset)


def map_anonymous(nbytes: int, *, huge: bool, sparse: bool) -> tuple[mmap.mmap, int]:
    """The mapping under `anonymous_array`, and the offset in it of its first 2 MiB boundary."""
    if nbytes < 1:
        raise ValueError(f"cannot allocate {nbytes} bytes: the length must be at least 1")
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    if sparse:
        flags |= getattr(mmap, "MAP_NORESERVE", 0x4000)  # Python 3.11 has no name for it
    # 2 MiB of slack for the alignment, and whole huge pages, so that the last one can be huge as well.
    mapping = mmap.mmap(-1, -(-nbytes // HUGE_PAGE) * HUGE_PAGE + HUGE_PAGE, flags=flags)
    start = np.frombuffer(mapping, np.uint8, 1).ctypes.data
    advice = getattr(mmap, "MADV_HUGEPAGE" if huge else "MADV_NOHUGEPAGE", None)
    if advice is not None:
        # A kernel without transparent huge pages refuses: the memory is right, only not as fast.
        with contextlib.suppress(OSError):
            mapping.madvise(advice)
    return mapping, -start % HUGE_PAGE


class Region:
    """A run of addresses [base, base + size) over a buffer.

    `view` is the bytes as a memoryview, `array` the same as a 1-D uint8 array; `writable` says whether the
    device may write there.

    A transport whose host's memory cannot be mapped subclasses it: with `direct` False the buffer is only a
    copy, and `touch` is called each time a range of it is looked up.

    `pinned` says that somebody keeps views of it between accesses (a queue does): its removal counts in
    `HostMemory.generation`.
    """

    __slots__ = ("_array", "base", "direct", "name", "pinned", "size", "view", "writable")

    def __init__(self, base: int, view: memoryview, writable: bool, name: str) -> None:
        self.base = base
        self.size = len(view)
        self.view = view
        self.writable = writable
        self.name = name
        self.direct = True
        self.pinned = False
        self._array: ByteArray | None = None

    def touch(self, offset: int, length: int, write: bool) -> None:
        """Called before these bytes are used, if `direct` is False: bring the copy up to date.

        With `write` they will be stored to, and have to be carried to the host later. May raise DmaError.
        """

    @property
    def array(self) -> ByteArray:
        """The bytes as an array, made when first asked for: most mapped buffers live for one command."""
        if self._array is None:
            self._array = np.frombuffer(self.view, np.uint8)
        return self._array

    @property
    def end(self) -> int:
        """The first address behind the region."""
        return self.base + self.size

    def __repr__(self) -> str:
        mode = "rw" if self.writable else "ro"
        return f"<Region {self.name or 'unnamed'} {self.base:#x}+{self.size:#x} {mode}>"


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
                base = self._next_base
                top = self._sorted[-1].end if self._sorted else 0
                if base < top or base + size > ADDRESS_SPACE - WINDOW:
                    base = self._pick_base(size)
                # Beyond the last window _pick_base is asked anyway.
                self._next_base = min(base + (size + WINDOW - 1 & -WINDOW), ADDRESS_SPACE - WINDOW)
                region = Region(base, view, writable and not view.readonly, name)
                self._insert(region)
            else:
                region = Region(base, view, writable and not view.readonly, name)
                self._check_free(region)
                self._insert(region)
        return region

    def insert(self, region: Region) -> None:
        """Give the device access to a region made by the caller. Raises ValueError as `add_region` does."""
        with self._lock:
            self._check_free(region)
            self._insert(region)

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
        if region.direct:
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
            windows = self._windows
            window = region.base >> WINDOW_SHIFT
            last = region.end - 1 >> WINDOW_SHIFT
            while window <= last:
                if windows.get(window) is region:
                    del windows[window]
                window += 1
            if region.direct:
                self._table_remove(region.base)
            if region.pinned:
                self.generation += 1

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


class PoolError(ValueError):
    """A page was given back that was not taken like that: freed twice, foreign, or of another length."""


class UseAfterFree(RuntimeError):
    """A page was written to after it had been freed, by the device or through a stale pointer."""


class PagePool:
    """Pages for queues, PRP lists and bounce buffers, out of one region of their own.

    `alloc(n)` gives the address of n contiguous pages; single pages take constant time. With `poison`
    freed pages are filled with POISON_BYTE and checked when they are handed out again: a write in between is
    reported to `on_use_after_free` (which gets the UseAfterFree), or raised where none is set. May be
    called from several threads.
    """

    def __init__(
        self,
        memory: HostMemory,
        pages: int,
        page_size: int = 4096,
        poison: bool = True,
        *,
        name: str = "page pool",
    ) -> None:
        """Raises ValueError for less than a page or a page size that is no power of two of at least 512."""
        if pages < 1:
            raise ValueError(f"a pool needs at least 1 page, not {pages}")
        if page_size < 512 or page_size & (page_size - 1):
            raise ValueError(f"the page size must be a power of two of at least 512, not {page_size}")
        self.page_size = page_size
        self.pages = pages
        self.poison = poison
        self.region = memory.add_region(
            anonymous_array(pages * page_size, huge=pages * page_size >= HUGE_PAGE), name=name
        )
        self.on_use_after_free: Callable[[UseAfterFree], None] | None = None
        self._memory = memory
        self._view = self.region.view
        self._poison_page = bytes([POISON_BYTE]) * page_size
        # `_stack` holds free pages, the lowest on top. A run taken out of the middle leaves its pages on the
        # stack: they are skipped when popped (`_used`), and `_stacked` keeps a page from being pushed twice.
        self._stack = list(range(pages - 1, -1, -1))
        self._stacked = bytearray(b"\1") * pages
        self._used = bytearray(pages)
        self._poisoned = bytearray(pages)
        self._lengths: dict[int, int] = {}  # first page of an allocation -> pages in it
        self._lock = threading.Lock()

    @property
    def used_pages(self) -> int:
        """How many pages are handed out."""
        return sum(self._lengths.values())

    @property
    def allocations(self) -> dict[int, int]:
        """What is handed out, as {address: pages}; for leak reports."""
        base, size = self.region.base, self.page_size
        with self._lock:
            return {base + first * size: n for first, n in sorted(self._lengths.items())}

    def alloc(self, npages: int = 1, *, zero: bool = False) -> int:
        """The address of `npages` contiguous pages, page-aligned; zeroed if `zero`, else of any content.

        Raises MemoryError when no such run is free, ValueError for less than one page, and UseAfterFree
        (see the class) when a page of it was written to while it was free.
        """
        with self._lock:
            first = self._take_page() if npages == 1 else self._take_run(npages)
            self._lengths[first] = npages
        offset = first * self.page_size
        addr = self.region.base + offset
        if self.poison:
            for page in range(first, first + npages):
                if self._poisoned[page]:
                    self._check(page, addr, npages)
                else:
                    self._fill(page)
        if zero:
            self._view[offset : offset + npages * self.page_size] = bytes(npages * self.page_size)
        return addr

    def _take_page(self) -> int:
        stack, used = self._stack, self._used
        while stack:
            page = stack.pop()
            self._stacked[page] = 0
            if not used[page]:
                used[page] = 1
                return page
        raise MemoryError(f"all {self.pages} pages of {self.region.name} are in use")

    def _take_run(self, npages: int) -> int:
        if npages < 1:
            raise ValueError(f"cannot allocate {npages} pages: at least 1")
        # Runs come from the high end and single pages from the low one, which keeps long runs whole.
        first = self._used.rfind(bytes(npages))
        if first < 0:
            free = self._used.count(0)
            raise MemoryError(
                f"no run of {npages} pages is free in {self.region.name} ({free} of {self.pages} free)"
            )
        self._used[first : first + npages] = b"\1" * npages
        return first

    def free(self, addr: int, npages: int = 1) -> None:
        """Give back what `alloc(npages)` returned. Raises PoolError for anything else."""
        first, rest = divmod(addr - self.region.base, self.page_size)
        with self._lock:
            if self._lengths.get(first) != npages or rest:
                raise PoolError(self._free_complaint(addr, npages, first, rest))
            del self._lengths[first]
            # Poison before the page can be taken again by another thread.
            if self.poison:
                for page in range(first, first + npages):
                    self._fill(page)
                    self._poisoned[page] = 1
            for page in range(first + npages - 1, first - 1, -1):
                self._used[page] = 0
                if not self._stacked[page]:
                    self._stacked[page] = 1
                    self._stack.append(page)

    def _free_complaint(self, addr: int, npages: int, first: int, rest: int) -> str:
        what = f"free of {npages} page(s) at {addr:#x}"
        if not 0 <= first < self.pages:
            return f"{what}: the address is not of {self.region!r}"
        if rest:
            return f"{what}: the address is not at the start of a page of {self.page_size} bytes"
        if first in self._lengths:
            return f"{what}: {self._lengths[first]} page(s) were allocated there"
        if self._used[first]:
            return f"{what}: the page is inside an allocation, not at its start"
        return f"{what}: the page is not allocated (freed twice?)"

    def _fill(self, page: int) -> None:
        start = page * self.page_size
        self._view[start : start + self.page_size] = self._poison_page

    def _check(self, page: int, addr: int, npages: int) -> None:
        """Report a page of the new allocation at `addr` that was written to while it was free."""
        self._poisoned[page] = 0
        start = page * self.page_size
        found = bytes(self._view[start : start + self.page_size])
        if found == self._poison_page:
            return
        at = next(i for i, byte in enumerate(found) if byte != POISON_BYTE)
        error = UseAfterFree(
            f"page {self.region.base + start:#x} of {self.region.name} was written to after it was freed: "
            f"byte {at} is {found[at]:#04x} and not {POISON_BYTE:#04x}"
        )
        if self.on_use_after_free is None:
            self.free(addr, npages)
            raise error
        self.on_use_after_free(error)

    def audit(self) -> list[int]:
        """Addresses of free pages that were written to since they were freed (with `poison`)."""
        size = self.page_size
        with self._lock:
            return [
                self.region.base + page * size
                for page in range(self.pages)
                if self._poisoned[page]
                and not self._used[page]
                and bytes(self._view[page * size : (page + 1) * size]) != self._poison_page
            ]

    def close(self) -> None:
        """Take the pool's region out of memory: every address of it faults from now on."""
        self._memory.remove_region(self.region)
