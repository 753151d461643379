"""MSI-X towards a vfio-user client: its eventfds, the table and the pending bits in BAR4, and who masks what.

A vector's message is held back while any of these says so:

    no eventfd         the client has not (or no longer) said where its messages go
    client mask        SET_IRQS with ACTION_MASK
    table mask         bit 0 of the entry's vector control
    function mask      the MSI-X capability

and is pending meanwhile: the controller keeps it and sends it when the last reason goes. The table's mask
bits count from the first write to an entry on: QEMU keeps the guest's table to itself and
never writes ours, whose entries all start masked, as the specification wants.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from errno import EINVAL, EPERM

from nvme_emu.spec.pci import msix_pba_bytes, msix_table_bytes
from nvme_emu.spec.registers import MSIX_ENTRY_MASKED, MSIX_ENTRY_SIZE
from nvme_emu.transports.vfio_user.ports import NvmeFunction, RequestError

__all__ = ["MsixVectors", "bar4_bytes", "check_eventfd", "pba_offset"]

_PAGE = 4096
_CONTROL = MSIX_ENTRY_SIZE - 4  # where an entry's vector control is


def pba_offset(vectors: int) -> int:
    """Where the pending bits start in BAR4: a page of their own behind the table."""
    return -(-msix_table_bytes(vectors) // _PAGE) * _PAGE


def bar4_bytes(vectors: int) -> int:
    """Bytes of BAR4: a power of two with room for both."""
    return 1 << (pba_offset(vectors) + msix_pba_bytes(vectors) - 1).bit_length()


class MsixVectors:
    """The vectors of one function. `close_fd` closes an eventfd that is no longer used."""

    def __init__(self, controller: NvmeFunction, close_fd: Callable[[int], None] = os.close) -> None:
        self.count = controller.config.vectors
        self.delivered = 0
        self._controller = controller
        self._close_fd = close_fd
        self._fds: dict[int, int] = {}
        self._client_masked: set[int] = set()
        self._function_masked = False
        self._table = bytearray(msix_table_bytes(self.count))
        self._table_used: set[int] = set()
        self._pba_at = pba_offset(self.count)
        self.bar_bytes = bar4_bytes(self.count)
        self.reset_table()
        self._update(range(self.count))

    @property
    def fds_held(self) -> int:
        """Eventfds that are open."""
        return len(self._fds)

    # -- delivery -------------------------------------------------------------------------------------------

    def deliver(self, vectors: Iterable[int]) -> None:
        """Send a message for each vector. A client that has broken its eventfd loses its interrupts."""
        for vector in vectors:
            fd = self._fds.get(vector)
            if fd is None:
                continue
            self.delivered += 1
            with contextlib.suppress(OSError):
                os.eventfd_write(fd, 1)

    def _update(self, vectors: Iterable[int]) -> None:
        for vector in vectors:
            table_mask = (
                vector in self._table_used
                and self._table[vector * MSIX_ENTRY_SIZE + _CONTROL] & MSIX_ENTRY_MASKED
            )
            masked = bool(
                vector not in self._fds
                or vector in self._client_masked
                or self._function_masked
                or table_mask
            )
            self._controller.mask_vector(vector, masked)

    # -- what SET_IRQS asks ---------------------------------------------------------------------------------

    def assign(self, start: int, fds: list[int]) -> None:
        """Send the messages of vectors from `start` to these eventfds, which are ours from now on."""
        for vector, fd in enumerate(fds, start):
            os.set_blocking(fd, False)
            self._drop_fd(vector)
            self._fds[vector] = fd
        self._update(range(start, start + len(fds)))

    def release(self, start: int, count: int) -> None:
        """Send these vectors' messages nowhere."""
        for vector in range(start, start + count):
            self._drop_fd(vector)
        self._update(range(start, start + count))

    def mask(self, vectors: Iterable[int], masked: bool) -> None:
        """The client's own mask."""
        chosen = list(vectors)
        if masked:
            self._client_masked.update(chosen)
        else:
            self._client_masked.difference_update(chosen)
        self._update(chosen)

    def mask_function(self, masked: bool) -> None:
        """The capability's Function Mask."""
        self._function_masked = masked
        self._update(range(self.count))

    def _drop_fd(self, vector: int) -> None:
        fd = self._fds.pop(vector, None)
        if fd is not None:
            self._close_fd(fd)

    def reset_table(self) -> None:
        """Table entries to their initial state: masked, and not yet written."""
        self._table[:] = bytes(len(self._table))
        for vector in range(self.count):
            self._table[vector * MSIX_ENTRY_SIZE + _CONTROL] = MSIX_ENTRY_MASKED
        self._table_used.clear()
        self._function_masked = False
        self._update(range(self.count))

    def close(self) -> None:
        """The client is gone: nothing is sent any more."""
        self._client_masked.clear()
        self.release(0, self.count)
        self.reset_table()

    # -- BAR4 -----------------------------------------------------------------------------------------------

    def read(self, offset: int, count: int) -> bytes:
        """Bytes of the BAR: the table, the pending bits, zeros elsewhere."""
        image = bytearray(self.bar_bytes)
        image[: len(self._table)] = self._table
        for vector in range(self.count):
            if self._controller.interrupts.is_pending(vector):
                image[self._pba_at + vector // 8] |= 1 << vector % 8
        return bytes(image[offset : offset + count])

    def write(self, offset: int, data: bytes) -> None:
        """Write the table: aligned dwords or two of them. The pending bits are read-only."""
        if len(data) not in (4, 8) or offset % 4:
            raise RequestError(EINVAL, f"a write of {len(data)} bytes at {offset:#x} of the MSI-X table")
        end = min(offset + len(data), len(self._table))
        if offset >= end:
            return
        self._table[offset:end] = data[: end - offset]
        first, last = offset // MSIX_ENTRY_SIZE, (end - 1) // MSIX_ENTRY_SIZE
        self._table_used.update(range(first, last + 1))
        self._update(range(first, last + 1))


def check_eventfd(fd: int) -> None:
    """A write to anything else (a pipe that is full) could hold the whole server up."""
    try:
        kind = os.readlink(f"/proc/self/fd/{fd}")
    except OSError as error:
        raise RequestError(EPERM, f"SET_IRQS: a descriptor cannot be looked at: {error}") from error
    if kind != "anon_inode:[eventfd]":
        raise RequestError(EINVAL, f"SET_IRQS: a descriptor is of {kind}, not of an eventfd")
