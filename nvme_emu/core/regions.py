"""Runs of addresses over buffers, and memory from the system to put behind them.

`Region`    a buffer at an address, for as long as both sides need it.
`Windows`   a block of addresses, cut into windows of 4 GiB each of which shows one buffer after the other: what a
            driver maps for the life of a command. That costs a few stores, where a region has to be added and removed.
"""

from __future__ import annotations

import contextlib
import mmap

import numpy as np
import numpy.typing as npt

from nvme_emu._core import COMPILED, MemoryState

__all__ = [
    "HUGE_PAGE",
    "WINDOW",
    "WINDOW_SHIFT",
    "ByteArray",
    "Region",
    "Window",
    "Windows",
    "anonymous_array",
    "map_anonymous",
]

ByteArray = npt.NDArray[np.uint8]

HUGE_PAGE = 2 << 20

# Addresses that memory picks itself start on windows of their own, so that one dictionary look-up on the
# high bits finds the region, and so that running off a region's end never lands in another one.
WINDOW_SHIFT = 32
WINDOW = 1 << WINDOW_SHIFT

_NOTHING = memoryview(b"")


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


class Window(Region):
    """A region whose bytes change: from its base on it shows a buffer, then another, or nothing (size 0).

    Only who prepares and completes the command that uses it calls `show` and `hide`; the device looks in between.
    """

    __slots__ = ("_memory",)

    def __init__(self, memory: MemoryState, base: int, name: str) -> None:
        super().__init__(base, _NOTHING, False, name)
        self._memory = memory

    def show(self, view: memoryview, writable: bool) -> None:
        """From now on the device sees `view`, flat bytes; it may store there if `writable`."""
        self.view = view
        self.writable = writable and not view.readonly
        self._array = None
        # Last: until there is a size nobody looks at the rest.
        self.size = len(view)
        if COMPILED:
            self._memory._table_show(self.base, view, writable)

    def hide(self) -> None:
        """Every address of the window faults from now on."""
        self.size = 0
        self.view = _NOTHING
        self._array = None
        if COMPILED:
            self._memory._table_hide(self.base)


class Windows(Region):
    """`count` windows, one after the other from `base`; each is made when it is first opened.

    `opened` is the windows by number, None where there is none yet. (See `HostMemory.add_windows`.)
    """

    __slots__ = ("opened",)

    def __init__(self, base: int, count: int, name: str) -> None:
        super().__init__(base, _NOTHING, False, name)
        self.size = count << WINDOW_SHIFT
        # What lies in it is found by the window's own entry among the regions that were hit.
        self.direct = False
        self.opened: list[Window | None] = [None] * count

    def at(self, addr: int) -> Region | None:
        """The window that shows the byte at `addr`, if one does."""
        window = self.opened[addr - self.base >> WINDOW_SHIFT]
        return window if window is not None and addr < window.end else None
