"""Pages of host memory for what a driver keeps there: queues and PRP lists."""

from __future__ import annotations

import threading
from collections.abc import Callable

from nvme_emu.core.memory import HostMemory

__all__ = ["POISON_BYTE", "PagePool", "PoolError", "UseAfterFree"]

# What a freed page is filled with: the byte that Linux's slab allocator uses (POISON_FREE). Read as a PRP
# entry it is an unaligned address which no region owns.
POISON_BYTE = 0x6B


class PoolError(ValueError):
    """A page was given back that was not taken like that: freed twice, foreign, or of another length."""


class UseAfterFree(RuntimeError):
    """A page was written to after it had been freed, by the device or through a stale pointer."""


class PagePool:
    """Pages for queues and PRP lists, out of one region of their own.

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
        self.region = memory.allocate(pages * page_size, name)
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
            if self._memory.on_pool is not None:
                self._memory.on_pool(addr, npages * self.page_size, True)
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
            if self._memory.on_pool is not None:
                self._memory.on_pool(addr, npages * self.page_size, False)
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
