"""An emulated SSD as a PCI function, for a driver of your own: registers, memory for DMA, interrupts, time.

    with RawDevice(size="64M", clock="virtual") as ssd:
        queue = ssd.dma_alloc(4096)
        ssd.write64(0x28, queue.addr)                    # ASQ
        irq = ssd.connect_irq(0)
        ...
        irq.wait(timeout_ns=1_000_000_000)

On the wall clock the device answers in the calling thread; on the virtual one it takes the time of its profile,
and time passes only while somebody sleeps, waits or polls. What the device does with what a driver tells it is the
driver's affair (and the checker's); what is wrong with a call itself raises RawDeviceError at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

import kworker
from nvme_emu.driver import NvmeDriver
from nvme_emu.machine import Machine, MachineConfig
from nvme_emu.testing.settings import SIZE_DEFAULT

if TYPE_CHECKING:
    from nvme_emu.controller import Controller
    from nvme_emu.core.memory import ByteArray, HostMemory, Region
    from nvme_emu.observe.faults import Faults

__all__ = ["DmaBuffer", "Interrupt", "RawDevice", "RawDeviceError"]

FREED_BYTE = 0x6B  # as Linux's slab allocator (POISON_FREE)
DMA_BYTES_MAX = 1 << 31
DMA_TOTAL_MAX = 1 << 33  # more, in all, is a driver that gives nothing back


class RawDeviceError(RuntimeError):
    """A call of the raw interface that no bus or allocator would allow; it has done nothing."""


class _Nobody(NvmeDriver):
    """A driver that leaves the device alone."""

    def probe(self) -> None:
        self._pool.close()

    def shutdown(self) -> None:
        pass


class DmaBuffer:
    """Memory that the device reaches: ``addr`` is what to tell it, ``view`` and ``array`` are the bytes.

    No other buffer lies in the same 4 GiB, so that a wrong address or length reaches nothing. Zeroed at first.
    """

    __slots__ = ("_array", "_region", "addr", "name", "nbytes")

    def __init__(self, region: Region, array: ByteArray, name: str) -> None:
        self.addr = region.base
        self.nbytes = region.size
        self.name = name
        self._region: Region | None = region
        self._array = array

    @property
    def freed(self) -> bool:
        """Whether it was given back."""
        return self._region is None

    @property
    def array(self) -> ByteArray:
        """The bytes as a 1-D uint8 array. RawDeviceError after the buffer was freed."""
        if self._region is None:
            raise RawDeviceError(f"{self!r} is used after it was freed")
        return self._array

    @property
    def view(self) -> memoryview:
        """The bytes as a memoryview. RawDeviceError after the buffer was freed."""
        return memoryview(self.array.data).cast("B")

    def __bytes__(self) -> bytes:
        return self.array.tobytes()

    def __repr__(self) -> str:
        return f"<DmaBuffer {self.name} {self.addr:#x}+{self.nbytes}{' freed' if self.freed else ''}>"


class Interrupt:
    """A connected vector. ``count`` is how many messages have come; `wait` takes one of them.

    With a handler, ``handler()`` is called at each message, in interrupt context: it must not block.
    """

    def __init__(self, device: RawDevice, vector: int, handler: Callable[[], object] | None) -> None:
        self.vector = vector
        self.count = 0
        self._device = device
        self._handler = handler
        self._messages = kworker.Completion(runtime=device.runtime, name=f"an interrupt on vector {vector}")

    def fire(self) -> None:
        """A message has come."""
        self.count += 1
        if self._handler is not None:
            self._device.call_in_interrupt(self._handler)
        self._messages.complete()

    def wait(self, timeout_ns: int | None = None) -> bool:
        """Sleep until a message comes that nobody has waited for yet. False when ``timeout_ns`` passed first.

        On the virtual clock a wait without a time limit for what can never come raises kworker.SimDeadlock.
        """
        self._device.check_may_sleep("Interrupt.wait")
        return self._messages.wait(timeout_ns)


class RawDevice:
    """An SSD without a driver. The options are those of `nvme_emu.open`: size, profile, clock, seed, faults, check …

    ``machine`` (and through it ``controller``, ``trace``, ``faults``, ``checker``) is for looking inside.
    """

    def __init__(self, **options: Any) -> None:
        if "driver_class" in options:
            raise RawDeviceError("driver_class: a RawDevice has no driver; use nvme_emu.open for one")
        self.machine = Machine(MachineConfig(**{"size": SIZE_DEFAULT, **options, "driver_class": _Nobody}))
        self._port = self.machine.port
        self._buffers: dict[int, DmaBuffer] = {}
        self._allocated = 0
        self._interrupts: dict[int, Interrupt] = {}
        self._context = threading.local()
        self._closed = False

    @property
    def controller(self) -> Controller:
        """The device, for looking inside."""
        return self.machine.controller

    @property
    def memory(self) -> HostMemory:
        """The address space that the device reaches."""
        return self.machine.memory

    @property
    def runtime(self) -> Any:
        """What it runs on: a kworker runtime (``runtime.now_ns``, ``runtime.point``)."""
        return self.machine.runtime

    @property
    def faults(self) -> Faults:
        """The device's fault rules."""
        return self.machine.faults

    @property
    def bar_size(self) -> int:
        """Bytes of BAR0: the properties, and doorbells for each queue identifier."""
        return self.controller.config.bar_size

    @property
    def vectors(self) -> int:
        """How many MSI-X vectors there are."""
        return self.controller.config.vectors

    # -- registers ----------------------------------------------------------------------------------------

    def read32(self, offset: int) -> int:
        """Read 4 bytes of BAR0 at a multiple of 4."""
        self._check_access(offset, 4)
        return self._port.read32(offset)

    def read64(self, offset: int) -> int:
        """Read 8 bytes of BAR0 at a multiple of 8."""
        self._check_access(offset, 8)
        return self._port.read64(offset)

    def write32(self, offset: int, value: int) -> None:
        """Write 4 bytes of BAR0 at a multiple of 4. Doorbells are written like this, too."""
        self._check_access(offset, 4, value)
        self._port.write32(offset, value)

    def write64(self, offset: int, value: int) -> None:
        """Write 8 bytes of BAR0 at a multiple of 8."""
        self._check_access(offset, 8, value)
        self._port.write64(offset, value)

    def _check_access(self, offset: int, size: int, value: int = 0) -> None:
        self._check_open()
        if not 0 <= offset <= self.bar_size - size:
            raise RawDeviceError(f"offset {offset:#x}: BAR0 has {self.bar_size:#x} bytes")
        if offset % size:
            raise RawDeviceError(f"offset {offset:#x}: a {8 * size}-bit access is at a multiple of {size}")
        if not 0 <= value < 1 << 8 * size:
            raise RawDeviceError(f"value {value:#x} at offset {offset:#x}: it does not fit into {8 * size} bits")

    # -- memory -------------------------------------------------------------------------------------------

    def dma_alloc(self, nbytes: int, name: str = "buffer") -> DmaBuffer:
        """Zeroed memory at a page-aligned bus address; ``name`` shows in reports."""
        self._check_open()
        self.check_may_sleep("dma_alloc")
        if not 1 <= nbytes <= DMA_BYTES_MAX:
            raise RawDeviceError(f"dma_alloc({nbytes}): 1 to {DMA_BYTES_MAX} bytes")
        if self._allocated + nbytes > DMA_TOTAL_MAX:
            raise RawDeviceError(
                f"dma_alloc({nbytes}): out of memory: {len(self._buffers)} buffers, {self._allocated} bytes, not freed"
            )
        array = np.zeros(nbytes, np.uint8)
        buffer = DmaBuffer(self.memory.add_region(array, name=name), array, name)
        self._buffers[buffer.addr] = buffer
        self._allocated += nbytes
        return buffer

    def dma_free(self, buffer: DmaBuffer) -> None:
        """Give memory back: the device faults on it from now on. RawDeviceError if it was freed, or is foreign."""
        if not isinstance(buffer, DmaBuffer):
            raise RawDeviceError(f"{buffer!r} is no buffer of dma_alloc")
        if buffer.freed:
            raise RawDeviceError(f"{buffer!r} is freed twice")
        if self._buffers.get(buffer.addr) is not buffer:
            raise RawDeviceError(f"{buffer!r} is not a buffer of this device")
        del self._buffers[buffer.addr]
        self._allocated -= buffer.nbytes
        assert buffer._region is not None
        buffer._array[:] = FREED_BYTE
        self.memory.remove_region(buffer._region)
        buffer._region = None

    @property
    def buffers(self) -> list[DmaBuffer]:
        """What was allocated and not freed yet."""
        return list(self._buffers.values())

    # -- interrupts ---------------------------------------------------------------------------------------

    def connect_irq(self, vector: int, handler: Callable[[], object] | None = None) -> Interrupt:
        """Listen to an MSI-X vector. RawDeviceError if there is none of this number, or somebody listens."""
        self._check_open()
        if not 0 <= vector < self.vectors:
            raise RawDeviceError(f"vector {vector}: the device has {self.vectors}")
        if vector in self._interrupts:
            raise RawDeviceError(f"vector {vector} is connected already")
        interrupt = self._interrupts[vector] = Interrupt(self, vector, handler)
        self._port.connect_irq(vector, interrupt.fire)
        return interrupt

    def disconnect_irq(self, interrupt: Interrupt) -> None:
        """Listen no more; messages of the vector are lost."""
        if self._interrupts.get(interrupt.vector) is not interrupt:
            raise RawDeviceError(f"vector {interrupt.vector} is not connected")
        del self._interrupts[interrupt.vector]
        self._port.connect_irq(interrupt.vector, lambda: None)

    def mask_irq(self, vector: int, masked: bool) -> None:
        """Set or clear the vector's mask bit; a message that was held back comes when it is cleared."""
        self._check_open()
        if not 0 <= vector < self.vectors:
            raise RawDeviceError(f"vector {vector}: the device has {self.vectors}")
        self._port.mask_irq(vector, masked)

    def call_in_interrupt(self, handler: Callable[[], object]) -> None:
        """Call ``handler`` as an interrupt: what blocks raises in it."""
        before = getattr(self._context, "interrupt", False)
        self._context.interrupt = True
        try:
            handler()
        finally:
            self._context.interrupt = before

    def check_may_sleep(self, what: str) -> None:
        """RawDeviceError in interrupt context."""
        if getattr(self._context, "interrupt", False) or self.runtime.in_interrupt():
            raise RawDeviceError(f"{what} in an interrupt handler: it must not block")

    # -- time ---------------------------------------------------------------------------------------------

    @property
    def now_ns(self) -> int:
        """The machine's clock."""
        return int(self.runtime.now_ns)

    def sleep_ns(self, duration_ns: int) -> None:
        """Sleep; the device goes on."""
        if duration_ns < 0:
            raise RawDeviceError(f"sleep_ns({duration_ns}): time does not run backwards")
        self._check_open()
        self.check_may_sleep("sleep_ns")
        self._port.poll()
        self.runtime.sleep_ns(duration_ns)

    # -- the end ------------------------------------------------------------------------------------------

    def leaks(self) -> list[str]:
        """What the driver has not given back: buffers, vectors."""
        found = [f"{buffer!r} was not freed" for buffer in self.buffers]
        return found + [f"vector {vector} was not disconnected" for vector in sorted(self._interrupts)]

    def close(self, *, strict: bool = True) -> None:
        """The device is gone. With ``strict`` RawDeviceError if something was not given back."""
        if self._closed:
            return
        self._closed = True
        leaks = self.leaks()
        if strict:
            self.machine.close()
        else:
            for media in self.machine.media:
                media.close()
        if strict and leaks:
            raise RawDeviceError("at the end " + "; ".join(leaks))

    def _check_open(self) -> None:
        if self._closed:
            raise RawDeviceError("the device is closed")

    def __enter__(self) -> RawDevice:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(strict=kind is None)
