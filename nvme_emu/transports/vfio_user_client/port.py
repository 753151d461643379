"""Our driver's way to an NVMe function behind a vfio-user socket: registers, doorbells, interrupts.

    registers   messages                       doorbells   stores where the server lets us map them, else messages
    memory      files that both sides map      interrupts  eventfds, which a thread waits for

A server that has gone reads as all ones, as a function that was pulled out does.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import threading
from typing import TYPE_CHECKING

from nvme_emu.core.regions import Region
from nvme_emu.spec.pci import COMMAND, MSIX_CONTROL, CapId, Header
from nvme_emu.spec.registers import CAP, Reg, doorbell_offset
from nvme_emu.spec.vfio_user import (
    DEVICE_INFO,
    DMA_MAP,
    DMA_UNMAP,
    IRQ_INFO,
    IRQ_SET,
    REGION_ACCESS,
    REGION_ACCESS_BYTES,
    REGION_INFO,
    SPARSE_AREA,
    SPARSE_MMAP,
    SPARSE_MMAP_ID,
    Command,
    DeviceFlag,
    DmaFlag,
    IrqIndex,
    IrqSetFlag,
    RegionFlag,
    RegionIndex,
)
from nvme_emu.transports.vfio_user_client.messages import Messages
from nvme_emu.transports.vfio_user_client.shared import SharedMemory
from nvme_emu.transports.watcher import Watcher

if TYPE_CHECKING:
    from collections.abc import Callable

    from nvme_emu.core.memory import HostMemory
    from nvme_emu.core.ports import DevicePort, IrqHandler, Lane

__all__ = ["VfioUserPort"]

_CAPS_MAX = 48
"""Capabilities of four bytes and more fit into the 192 bytes behind the header: a longer chain is a circle."""
_REPLY_BYTES = 4096


class VfioUserPort:
    """A :class:`~nvme_emu.core.ports.DevicePort` onto the function at a socket.

    ``when_gone`` says who is told when the server goes away unasked. Raises OSError when the server cannot be reached,
    does not speak the protocol, or when its device is no PCI function with MSI-X.
    """

    def __init__(self, path: str) -> None:
        self._memory = SharedMemory()
        self._handlers: dict[int, IrqHandler] = {}
        self._eventfds: list[int] = []
        self._on_gone: Callable[[], None] | None = None
        self._lost = False
        self._losing = threading.Lock()
        self._page: mmap.mmap | None = None
        self._words: memoryview | None = None
        self._words_at = 0
        self._bars: dict[tuple[int, int], Region] = {}
        self._watcher: Watcher | None = None
        with contextlib.ExitStack() as undo:
            undo.callback(self._close_files)
            self._messages = Messages(path, self._memory, self._went)
            undo.callback(self._messages.close)
            self._memory.attach(self._dma_map, self._dma_unmap)
            try:
                self._look()
            except ValueError as error:
                raise OSError(errno.EPROTO, f"an answer cannot be read: {error}", path) from error
            self._watcher = Watcher("vfio-user interrupts")
            undo.pop_all()

    def close(self) -> None:
        """Hang up; the device is reset by that. A second call does nothing."""
        self._messages.close()
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.stop()
        self._close_files()

    def _close_files(self) -> None:
        while self._eventfds:
            os.close(self._eventfds.pop())
        if self._words is not None and self._page is not None:
            self._words.release()
            self._page.close()
            self._words = self._page = None

    # -- what the device is ---------------------------------------------------------------------------------

    def _look(self) -> None:
        """Find the function's parts, and let it reach memory."""
        info = DEVICE_INFO.parse(
            self._ask(Command.DEVICE_GET_INFO, DEVICE_INFO.build(argsz=DEVICE_INFO.size))[: DEVICE_INFO.size]
        )
        if not info.flags & DeviceFlag.PCI:
            raise OSError(errno.ENODEV, "the device is no PCI function", self._messages.path)
        self._map_doorbells()
        irqs = self._ask(Command.DEVICE_GET_IRQ_INFO, IRQ_INFO.build(argsz=IRQ_INFO.size, index=IrqIndex.MSIX))
        self._vectors = IRQ_INFO.parse(irqs[: IRQ_INFO.size]).count
        at = self._find_msix()
        if not self._vectors or at is None:
            raise OSError(errno.ENODEV, "the function has no MSI-X", self._messages.path)
        control = int.from_bytes(self._region_read(RegionIndex.CONFIG, at + 2, 2), "little")
        self._config_write(at + 2, MSIX_CONTROL.replace(control, mxe=1))
        self._config_write(Header.CMD, COMMAND.pack(mse=1, bme=1))
        self._dstrd = CAP.unpack(self.read64(Reg.CAP)).dstrd

    def _find_msix(self) -> int | None:
        at = self._region_read(RegionIndex.CONFIG, Header.CAP, 1)[0]
        for _ in range(_CAPS_MAX):
            if not at:
                return None
            kind, after = self._region_read(RegionIndex.CONFIG, at, 2)
            if kind == CapId.MSIX:
                return at
            at = after
        return None

    def _map_doorbells(self) -> None:
        """Where the server lets us map them, a doorbell is a store."""
        self._page = self._map_area(RegionIndex.BAR0, Reg.DOORBELLS, None)
        if self._page is not None:
            self._words = memoryview(self._page).cast("I")

    def _map_area(self, bar: int, offset: int, nbytes: int | None) -> mmap.mmap | None:
        """The area of a BAR that starts at `offset`, if the server lets us map it, and it has so many bytes."""
        question = REGION_INFO.build(argsz=_REPLY_BYTES, index=bar)
        data, fds = self._messages.request(Command.DEVICE_GET_REGION_INFO, question)
        try:
            info = REGION_INFO.parse(data[: REGION_INFO.size])
            at = info.cap_offset
            if not fds or not info.flags & RegionFlag.MMAP or not at:
                return None
            sparse = SPARSE_MMAP.parse(data[at : at + SPARSE_MMAP.size])
            if sparse.id != SPARSE_MMAP_ID or sparse.nr_areas < 1:
                return None
            area = SPARSE_AREA.parse(data[at + SPARSE_MMAP.size : at + SPARSE_MMAP.size + SPARSE_AREA.size])
            if area.offset != offset or not area.size or area.size < (nbytes or 0):
                return None
            return mmap.mmap(fds[0], nbytes or area.size, offset=info.offset + area.offset)
        finally:
            for fd in fds:
                os.close(fd)

    def map_bar(self, bar: int, offset: int, nbytes: int) -> tuple[int, memoryview] | None:
        """See :class:`~nvme_emu.core.ports.DevicePort`; None where the server does not share it."""
        region = self._bars.get((bar, offset))
        if region is None or region.size != nbytes:
            try:
                mapping = self._map_area(bar, offset, nbytes)
            except OSError:
                mapping = None
            if mapping is None:
                return None
            # Memory of the device's own: found at its address by us, and not given to the device.
            region = Region(self._memory.take_base(nbytes), memoryview(mapping), True, f"BAR{bar}")
            self._memory.insert(region)
            self._bars[bar, offset] = region
        return region.base, region.view

    # -- messages -------------------------------------------------------------------------------------------

    def _ask(self, command: int, payload: bytes, fds: tuple[int, ...] = ()) -> bytes:
        data, found = self._messages.request(command, payload, fds)
        for fd in found:
            os.close(fd)
        return data

    def _region_read(self, region: int, offset: int, count: int) -> bytes:
        data = self._ask(Command.REGION_READ, REGION_ACCESS.pack(offset, region, count))[REGION_ACCESS_BYTES:]
        if len(data) != count:
            raise OSError(errno.EPROTO, f"{len(data)} bytes where {count} were asked for", self._messages.path)
        return data

    def _region_write(self, region: int, offset: int, data: bytes) -> None:
        self._ask(Command.REGION_WRITE, REGION_ACCESS.pack(offset, region, len(data)) + data)

    def _config_write(self, offset: int, value: int) -> None:
        self._region_write(RegionIndex.CONFIG, offset, value.to_bytes(2, "little"))

    def _dma_map(self, address: int, size: int, fd: int) -> None:
        flags = int(DmaFlag.READ | DmaFlag.WRITE)
        self._ask(Command.DMA_MAP, DMA_MAP.build(argsz=DMA_MAP.size, flags=flags, address=address, size=size), (fd,))

    def _dma_unmap(self, address: int, size: int) -> None:
        # A server that has gone has nothing of ours.
        with contextlib.suppress(ConnectionResetError):
            self._ask(Command.DMA_UNMAP, DMA_UNMAP.build(argsz=DMA_UNMAP.size, address=address, size=size))

    def when_gone(self, tell: Callable[[], None]) -> None:
        """Have ``tell()`` called once when the server has gone; at once if it has. It must not block."""
        with self._losing:
            self._on_gone = tell
            lost = self._lost
        if lost:
            tell()

    def _went(self, why: str) -> None:
        with self._losing:
            self._lost = True
            tell = self._on_gone
        if tell is not None:
            tell()

    # -- registers and doorbells ----------------------------------------------------------------------------

    @property
    def memory(self) -> HostMemory:
        """What the device reaches by DMA."""
        return self._memory

    def read32(self, offset: int) -> int:
        """Read a 32-bit property; all ones when the server is gone."""
        return self._read(offset, 4)

    def read64(self, offset: int) -> int:
        """Read a 64-bit property."""
        return self._read(offset, 8)

    def write32(self, offset: int, value: int) -> None:
        """Write a 32-bit property."""
        self._write(offset, 4, value)

    def write64(self, offset: int, value: int) -> None:
        """Write a 64-bit property."""
        self._write(offset, 8, value)

    def _read(self, offset: int, size: int) -> int:
        try:
            return int.from_bytes(self._region_read(RegionIndex.BAR0, offset, size), "little")
        except OSError:
            if not self._messages.gone:
                raise
            return (1 << 8 * size) - 1

    def _write(self, offset: int, size: int, value: int) -> None:
        try:
            self._region_write(RegionIndex.BAR0, offset, value.to_bytes(size, "little"))
        except OSError:
            if not self._messages.gone:
                raise

    def ring_sq(self, qid: int, tail: int) -> None:
        """Write a submission doorbell."""
        self._ring(doorbell_offset(qid, False, self._dstrd), tail)

    def ring_cq(self, qid: int, head: int) -> None:
        """Write a completion doorbell."""
        self._ring(doorbell_offset(qid, True, self._dstrd), head)

    def _ring(self, offset: int, value: int) -> None:
        words = self._words
        place = (offset - Reg.DOORBELLS) // 4
        if words is None or place >= len(words):
            self._write(offset, 4, value)
        else:
            words[place] = value

    def ring_sq_polled(self, qid: int, tail: int, vector: int) -> bool:
        """As ``ring_sq``: the message of ``vector`` comes by its eventfd."""
        self.ring_sq(qid, tail)
        return False

    def lane(self, qid: int) -> Lane | None:
        """None: there is a process between."""
        return None

    def poll(self) -> int | None:
        """The device looks after itself."""
        return None

    # -- interrupts -----------------------------------------------------------------------------------------

    def connect_irq(self, vector: int, handler: IrqHandler) -> None:
        """Have ``handler()`` called by the thread that waits for interrupts. OSError for a vector beyond the table."""
        known = vector in self._handlers
        self._handlers[vector] = handler
        if known:
            return
        if vector >= self._vectors:
            raise OSError(errno.EINVAL, f"vector {vector} of {self._vectors}", self._messages.path)
        assert self._watcher is not None
        fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._eventfds.append(fd)
        self._watcher.add(fd, lambda: self._message(fd, vector), once=False)
        self._set_irqs(IrqSetFlag.DATA_EVENTFD | IrqSetFlag.ACTION_TRIGGER, vector, (fd,))

    def mask_irq(self, vector: int, masked: bool) -> None:
        """Set or clear a vector's mask."""
        action = IrqSetFlag.ACTION_MASK if masked else IrqSetFlag.ACTION_UNMASK
        with contextlib.suppress(ConnectionResetError):
            self._set_irqs(IrqSetFlag.DATA_NONE | action, vector, ())

    def _set_irqs(self, flags: int, vector: int, fds: tuple[int, ...]) -> None:
        head = IRQ_SET.build(argsz=IRQ_SET.size, flags=int(flags), index=IrqIndex.MSIX, start=vector, count=1)
        self._ask(Command.DEVICE_SET_IRQS, head, fds)

    def _message(self, fd: int, vector: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(fd)
        self._handlers[vector]()


def _is_a_port(port: VfioUserPort) -> DevicePort:
    """Checked by mypy: it offers the whole border."""
    return port
