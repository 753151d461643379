"""Memory of the controller's own in BARs: shared with the client where that is safe, else by messages.

    buffer                                the client
    CMB in BAR2 or BAR4, PMR in memory    maps it: a load or a store costs no message
    CMB in BAR0                           by messages: the file of that BAR is the doorbells'
    PMR in a file                         by messages: whoever has the file's descriptor could shrink it under us
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
from collections.abc import Callable
from typing import Protocol

from nvme_emu.spec.vfio_user import RegionIndex

__all__ = ["Buffer", "Buffers", "SharedBars"]

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class Buffer(Protocol):
    """A CMB or a PMR: `nbytes` at `offset` of BAR `bar`; `shareable` unless something else keeps its bytes, and
    `volatile` if they are nobody's after the client."""

    bar: int
    offset: int
    nbytes: int
    volatile: bool

    @property
    def shareable(self) -> bool: ...
    def back(self, view: memoryview) -> None: ...
    def let_go(self) -> None: ...


class Buffers(Protocol):
    """What the controller has of them."""

    @property
    def present(self) -> tuple[Buffer, ...]: ...
    def bar_bytes(self, bar: int, own: int) -> int: ...
    def bar_read(self, bar: int, offset: int, nbytes: int) -> bytes | None: ...
    def bar_write(self, bar: int, offset: int, data: bytes) -> bool: ...
    def function_reset(self) -> None: ...
    def subsystem_reset(self) -> None: ...
    def covers(self, address: int, nbytes: int) -> bool: ...
    def give_way(self, make_way: Callable[[int, int], None], come_back: Callable[[int, int], None]) -> None: ...


class SharedBars:
    """The files behind the buffers of one function. They live as long as it does: each client gets the same."""

    def __init__(self, buffers: Buffers) -> None:
        self._shared: dict[int, tuple[int, int, int]] = {}  # BAR -> (descriptor, offset, bytes)
        self._mapped: list[tuple[Buffer, memoryview, mmap.mmap]] = []
        for buffer in buffers.present:
            if buffer.bar != RegionIndex.BAR0 and buffer.shareable:
                self._share(buffer)

    def _share(self, buffer: Buffer) -> None:
        fd = os.memfd_create("nvme-emu-bar", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, buffer.offset + buffer.nbytes)
        # The client could shrink it otherwise, and end us by a SIGBUS.
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        mapping = mmap.mmap(fd, buffer.nbytes, offset=buffer.offset)
        view = memoryview(mapping)
        buffer.back(view)
        self._mapped.append((buffer, view, mapping))
        self._shared[buffer.bar] = (fd, buffer.offset, buffer.nbytes)

    def close(self) -> None:
        """Nobody gets them any more. A second call does nothing."""
        for buffer, view, mapping in self._mapped:
            buffer.let_go()
            view.release()
            with contextlib.suppress(BufferError):  # who still looks at a part of it keeps it that long
                mapping.close()
        for fd, _, _ in self._shared.values():
            os.close(fd)
        self._mapped.clear()
        self._shared.clear()

    def clear(self) -> None:
        """A client has gone: the next one does not see what it left, but in what is persistent."""
        for buffer, _, mapping in self._mapped:
            if buffer.volatile:
                mapping.madvise(mmap.MADV_REMOVE)

    def of(self, bar: int) -> tuple[tuple[tuple[int, int], ...], int | None]:
        """The areas (offset, bytes) of a BAR that a client may map, and the descriptor to map them with."""
        found = self._shared.get(bar)
        return ((), None) if found is None else (((found[1], found[2]),), found[0])
