"""The client's memory: what DMA_MAP gives the device, in one of three ways.

    with a descriptor that cannot shrink (a sealed memfd)   mapped: its bytes are a numpy region of host memory
    with any other descriptor                               read and written through it, range by range
    without a descriptor                                    read and written by messages to the client

A file that can shrink is never mapped: an access behind its end would be a SIGBUS that ends the whole server,
at a time of the client's choosing. A memfd is sealed against shrinking when its client has not forbidden it.

The last two ways keep a *copy* that exists only while work is done: a range is fetched when the device looks
it up, and what the device stores is carried back, data before completions, by `carry_back`. A range that will
be stored to is fetched too, so that a transfer that fails half-way, or a ring that is only attached, carries
back what was there.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from errno import EACCES, EEXIST, EINVAL, ENOENT, ENOMEM, ENOSPC
from typing import Protocol

from nvme_emu.core.errors import DmaError
from nvme_emu.core.memory import HostMemory, Region
from nvme_emu.spec.vfio_user import DmaFlag
from nvme_emu.transports.vfio_user.ports import RequestError

__all__ = ["DMA_MAPS_MAX", "PAGE_BYTES", "CopiedRegion", "DescriptorAccess", "DmaMaps", "RemoteAccess"]

PAGE_BYTES = 4096
DMA_MAPS_MAX = 512
"""Maps a client may have; each holds a descriptor at most. QEMU needs a dozen, and one a memory module."""

_ADDRESS_SPACE = 1 << 64
_COPY_KEPT_BYTES = 16 << 20
"""How much of the copies may stay in our own memory between two steps."""


class RemoteAccess(Protocol):
    """How a copied region's bytes are reached. Addresses are the client's; DmaError when it refuses."""

    def read(self, address: int, nbytes: int) -> bytes: ...

    def write(self, pieces: list[tuple[int, memoryview]]) -> None:
        """Store all pieces (address, bytes) in this order; done when it returns."""


class DescriptorAccess:
    """Memory behind a file descriptor, which it owns."""

    def __init__(self, fd: int, base: int, offset: int, close_fd: Callable[[int], None]) -> None:
        self._fd = fd
        self._shift = offset - base
        self._close_fd = close_fd

    def read(self, address: int, nbytes: int) -> bytes:
        try:
            data = os.pread(self._fd, nbytes, address + self._shift)
        except OSError as error:
            raise DmaError(address, nbytes, f"the client's file cannot be read: {error}") from error
        if len(data) != nbytes:
            raise DmaError(address, nbytes, "the client's file has become shorter than its map")
        return data

    def write(self, pieces: list[tuple[int, memoryview]]) -> None:
        for address, data in pieces:
            try:
                done = os.pwrite(self._fd, data, address + self._shift)
            except OSError as error:
                raise DmaError(address, len(data), f"the client's file cannot be written: {error}") from error
            if done != len(data):
                raise DmaError(address, len(data), "the client's file is full")

    def close(self) -> None:
        self._close_fd(self._fd)


class CopiedRegion(Region):
    """A region whose bytes are elsewhere. `stored` is what must be carried back, in order.

    Outside a step a look-up is only that (a queue's place is checked when it is created): nothing moves.
    """

    __slots__ = ("_mapping", "access", "fetched_bytes", "in_step", "stored")

    def __init__(self, base: int, size: int, writable: bool, access: RemoteAccess, name: str) -> None:
        # Reserves addresses and no memory; pages cost something from when they are touched on.
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0x4000)
        self._mapping = mmap.mmap(-1, size, flags=flags)
        super().__init__(base, memoryview(self._mapping), writable, name)
        self.direct = False
        self.access = access
        self.stored: list[tuple[int, int]] = []
        self.fetched_bytes = 0
        self.in_step = False

    def touch(self, offset: int, length: int, write: bool) -> None:
        """Fetch the range, after carrying back what this step stored in it."""
        if not self.in_step:
            return
        if any(at < offset + length and offset < at + n for at, n in self.stored):
            self.carry_back()
        self.view[offset : offset + length] = self.access.read(self.base + offset, length)
        self.fetched_bytes += length
        if write:
            self.stored.append((offset, length))

    def carry_back(self) -> None:
        """Give the client what was stored."""
        stored, self.stored = self.stored, []
        if stored:
            self.access.write([(self.base + at, self.view[at : at + n]) for at, n in stored])

    def forget(self) -> None:
        """The step is over, and nothing of the copy counts: give its memory back when it is much."""
        self.in_step = False
        self.stored.clear()
        if self.fetched_bytes > _COPY_KEPT_BYTES:
            self.fetched_bytes = 0
            self._mapping.madvise(mmap.MADV_DONTNEED)


def _never(address: int, nbytes: int) -> bool:
    return False


class DmaMaps:
    """All maps of one client, as regions of `memory`."""

    def __init__(
        self,
        memory: HostMemory,
        close_fd: Callable[[int], None] = os.close,
        maps_max: int = DMA_MAPS_MAX,
    ) -> None:
        self.messages: RemoteAccess | None = None
        """How memory without a descriptor is reached; the client's, so new with each."""
        self._memory = memory
        self._close_fd = close_fd
        self._maps_max = maps_max
        self._regions: dict[int, Region] = {}
        self.copied: list[CopiedRegion] = []
        """The regions that are not mapped."""
        self.covered: Callable[[int, int], bool] = _never
        """Whether these addresses are memory of the function's own: QEMU maps the BARs that it has mapped, too."""
        self._hidden: list[CopiedRegion] = []

    def __len__(self) -> int:
        return len(self._regions)

    @property
    def by_message(self) -> bool:
        """Whether some of the memory can be reached only by asking the client."""
        return any(region.access is self.messages for region in self.copied)

    def map(self, address: int, size: int, flags: int, fds: list[int], offset: int) -> Region:
        """DMA_MAP. Takes `fds` out of the list when they are ours. RequestError when it cannot be."""
        if flags & ~int(DmaFlag.READ | DmaFlag.WRITE) or not flags:
            raise RequestError(EINVAL, f"DMA_MAP flags {flags:#x}")
        if size <= 0 or size % PAGE_BYTES or address % PAGE_BYTES or offset % PAGE_BYTES:
            raise RequestError(EINVAL, f"DMA_MAP of {address:#x}+{size:#x} at {offset:#x}: not whole pages")
        if address + size > _ADDRESS_SPACE:
            raise RequestError(EINVAL, f"DMA_MAP of {address:#x}+{size:#x}: leaves the address space")
        if len(fds) > 1:
            raise RequestError(EINVAL, f"DMA_MAP with {len(fds)} descriptors")
        if len(self._regions) >= self._maps_max:
            raise RequestError(ENOSPC, f"DMA_MAP: there are {self._maps_max} maps already")
        for region in self._regions.values():
            if region.base < address + size and address < region.end:
                raise RequestError(EEXIST, f"DMA_MAP of {address:#x}+{size:#x}: overlaps {region!r}")
        region = self._make(address, size, flags, fds, offset)
        self._regions[address] = region
        return region

    def _make(self, address: int, size: int, flags: int, fds: list[int], offset: int) -> Region:
        writable = bool(flags & DmaFlag.WRITE)
        try:
            if not fds:
                if self.messages is None:
                    raise RequestError(EINVAL, "DMA_MAP without a descriptor, and nobody to ask")
                return self._copy(CopiedRegion(address, size, writable, self.messages, "by message"))
            fd = fds[0]
            _check_file(fd, size, offset, writable)
            if _cannot_shrink(fd):
                prot = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
                mapping = mmap.mmap(fd, size, flags=mmap.MAP_SHARED, prot=prot, offset=offset)
                return self._memory.add_region(mapping, base=address, writable=writable, name="mapped")
            access = DescriptorAccess(fd, address, offset, self._close_fd)
            region = self._copy(CopiedRegion(address, size, writable, access, "by descriptor"))
            fds.pop()
            return region
        except (OSError, OverflowError, ValueError) as error:
            number = getattr(error, "errno", None) or (ENOMEM if not fds else EINVAL)
            raise RequestError(number, f"DMA_MAP of {address:#x}+{size:#x}: {error}") from error

    def make_way(self, base: int, nbytes: int) -> None:
        """These addresses become memory of the function's own: what the client has mapped of them is not looked at."""
        for region in list(self.copied):
            if base <= region.base and region.end <= base + nbytes:
                self._memory.remove_region(region)
                self.copied.remove(region)
                self._hidden.append(region)

    def come_back(self, base: int, nbytes: int) -> None:
        """They are the client's again."""
        for region in list(self._hidden):
            if base <= region.base and region.end <= base + nbytes:
                self._hidden.remove(region)
                self._copy(region)

    def _copy(self, region: CopiedRegion) -> CopiedRegion:
        if self.covered(region.base, region.size):
            self._hidden.append(region)
            return region
        self._memory.insert(region)
        self.copied.append(region)
        return region

    def unmap(self, address: int, size: int) -> None:
        """DMA_UNMAP of exactly one earlier map."""
        region = self._regions.get(address)
        if region is None or region.size != size:
            raise RequestError(ENOENT, f"DMA_UNMAP of {address:#x}+{size:#x}: there is no such map")
        self._remove(region)

    def clear(self) -> None:
        """Every map goes."""
        for region in list(self._regions.values()):
            self._remove(region)

    def _remove(self, region: Region) -> None:
        del self._regions[region.base]
        hidden = region in self._hidden
        if not hidden:
            self._memory.remove_region(region)
        if isinstance(region, CopiedRegion):
            (self._hidden if hidden else self.copied).remove(region)
            if isinstance(region.access, DescriptorAccess):
                region.access.close()

    # -- around a step of the controller --------------------------------------------------------------------

    def fetch(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Bring these ranges (address, length) of the copies up to date. DmaError."""
        for address, nbytes in ranges:
            for region, start, end in self._copies_in(address, nbytes):
                region.touch(start - region.base, end - start, False)

    def carry_back(self, completions: Iterable[tuple[int, int]]) -> None:
        """Carry what was stored to the client, then these ranges of completion queues. DmaError."""
        for region in list(self.copied):
            region.carry_back()
        for address, nbytes in completions:
            for region, start, end in self._copies_in(address, nbytes):
                region.stored.append((start - region.base, end - start))
                region.carry_back()

    def begin(self) -> None:
        """A step begins."""
        for region in self.copied:
            region.in_step = True

    def end(self) -> None:
        """The step is over."""
        for region in self.copied:
            region.forget()

    def _copies_in(self, address: int, nbytes: int) -> Iterator[tuple[CopiedRegion, int, int]]:
        for region in list(self.copied):
            start, end = max(address, region.base), min(address + nbytes, region.end)
            if start < end:
                yield region, start, end


def _check_file(fd: int, size: int, offset: int, writable: bool) -> None:
    """Whether the file has the bytes that the map promises. RequestError."""
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode):
        raise RequestError(EINVAL, "DMA_MAP: the descriptor is not of a file that can be mapped")
    if offset + size > info.st_size:
        raise RequestError(EINVAL, f"DMA_MAP of {size:#x} at {offset:#x} of a file of {info.st_size:#x}")
    mode = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE
    if mode == os.O_WRONLY or (writable and mode != os.O_RDWR):
        raise RequestError(EACCES, "DMA_MAP: the descriptor does not allow what the flags say")


def _cannot_shrink(fd: int) -> bool:
    """Whether the file is sealed against shrinking; seals it where that is allowed."""
    with contextlib.suppress(OSError):
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    try:
        return bool(fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK)
    except OSError:
        return False  # not a memfd
