"""Host memory that a device in another process reaches: every byte of it lies in files that both map.

A caller's buffer cannot be given to another process, so the data of a command passes through a *slot* of shared
memory: copied there before the command goes, and back when it has ended (a bounce buffer, as Linux's swiotlb is one).
Queues and PRP lists are shared from the start.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from nvme_emu.core.memory import HostMemory
from nvme_emu.core.regions import ByteArray, Region, Window, Windows

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["SLOT_BYTES", "SharedMemory"]

PAGE_BYTES = 4096
SLOT_BYTES = 1 << 20
"""The most that one command moves; untouched slots cost nothing."""

Map = Callable[[int, int, int], None]
"""(address, bytes, descriptor): give the device the file's bytes at this address."""
Unmap = Callable[[int, int], None]


class _Slots(list[Window | None]):
    """The windows by tag. Not quite a list, so that the compiled core, which shows buffers itself, leaves it alone."""


class _Slot(Window):
    """A window whose bytes are shared; what it shows is copied in, and out again."""

    __slots__ = ("_data", "_shared")

    def __init__(self, memory: HostMemory, base: int, shared: memoryview, name: str) -> None:
        super().__init__(memory, base, name)
        self._shared = shared
        self._data: memoryview | None = None

    def show(self, view: memoryview, writable: bool) -> None:
        """Copy a command's data where the device finds it. ValueError for more than SLOT_BYTES."""
        if len(view) > SLOT_BYTES:
            raise ValueError(f"{len(view)} bytes in one command: {SLOT_BYTES} can be shared")
        # Also what the device is to overwrite: it may store less.
        self._shared[: len(view)] = view
        self._data = view
        self.writable = writable and not view.readonly

    def hide(self) -> None:
        """The command has ended: its caller gets what the device has stored."""
        data, self._data = self._data, None
        if data is not None and self.writable:
            data[:] = self._shared[: len(data)]


class _SharedRegion(Region):
    """A caller's buffer, and the shared copy of it that the device sees."""

    __slots__ = ("data",)

    def __init__(self, base: int, shared: memoryview, writable: bool, name: str, data: memoryview) -> None:
        super().__init__(base, shared, writable, name)
        self.data = data


class _SharedWindows(Windows):
    """One shared run of slots, a tag each."""

    __slots__ = ()

    def __init__(self, base: int, count: int, name: str, shared: memoryview) -> None:
        super().__init__(base, count, name)
        self.view = shared
        self.size = len(shared)
        self.direct = True
        self.writable = True
        self.opened = _Slots([None] * count)

    def at(self, addr: int) -> Region | None:
        """The run itself: all of it is there."""
        return self


class SharedMemory(HostMemory):
    """A `HostMemory` whose regions another process maps. `attach` says how; nothing can be added before it."""

    transfer_bytes_max = SLOT_BYTES

    def __init__(self) -> None:
        super().__init__()
        self._map: Map | None = None
        self._unmap: Unmap | None = None

    def attach(self, map_: Map, unmap: Unmap) -> None:
        """Regions are given to the device by `map_` and taken from it by `unmap`, which may raise OSError."""
        self._map, self._unmap = map_, unmap

    def allocate(self, nbytes: int, name: str) -> Region:
        """Zeroed memory for the driver's own use."""
        return self._share(nbytes, lambda base, view: Region(base, view, True, name))

    def add_region(
        self,
        buffer: npt.NDArray[Any] | memoryview | bytearray | mmap.mmap,
        *,
        base: int | None = None,
        writable: bool = True,
        name: str = "",
    ) -> Region:
        """As `HostMemory.add_region`: the device sees a copy, and `remove_region` copies back what it has stored."""
        if base is not None:
            raise ValueError(f"base={base:#x}: shared memory picks its addresses itself")
        data = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        region = self._share(
            len(data), lambda base, view: _SharedRegion(base, view, writable and not data.readonly, name, data)
        )
        region.view[: len(data)] = data
        return region

    def add_windows(self, count: int, name: str = "") -> Windows:
        """A slot for each of `count` commands."""
        made = self._share(count * SLOT_BYTES, lambda base, view: _SharedWindows(base, count, name, view))
        assert isinstance(made, Windows)
        return made

    def open_window(self, windows: Windows, index: int) -> Window:
        """The slot `index`."""
        slot = windows.opened[index]
        if slot is None:
            at = index * SLOT_BYTES
            shared = windows.view[at : at + SLOT_BYTES]
            slot = windows.opened[index] = _Slot(self, windows.base + at, shared, f"{windows.name} {index}")
        return slot

    def remove_region(self, region: Region) -> None:
        """Take it from the device, and give the caller what was stored."""
        assert self._unmap is not None
        self._unmap(region.base, region.size)
        with self._lock:
            self._sorted.remove(region)
            self._forget(region, region.end - 1 >> 32)
        if isinstance(region, _SharedRegion) and region.writable:
            region.data[:] = region.view[: len(region.data)]

    def _share(self, nbytes: int, make: Callable[[int, memoryview], Region]) -> Region:
        """A region over fresh memory that the device has been given too. OSError where it cannot be."""
        assert self._map is not None, "attach comes first"
        if nbytes < 1:
            raise ValueError(f"{nbytes} bytes cannot be shared: the length must be at least 1")
        whole = -(-nbytes // PAGE_BYTES) * PAGE_BYTES
        fd = os.memfd_create("nvme-emu-host", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, whole)
            shared: ByteArray = np.frombuffer(mmap.mmap(fd, whole), np.uint8)
            base = self.take_base(whole)
            self._map(base, whole, fd)
        finally:
            os.close(fd)
        region = make(base, memoryview(shared))  # type: ignore[arg-type]
        self.insert(region)
        return region
