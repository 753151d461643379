"""The border between a driver and a device: what each may ask of the other, and nothing more.

The driver room and the controller room never import each other. A transport implements :class:`DevicePort`
over whatever lies between them (a function call, a socket), and the machine joins the two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from nvme_emu._core import DeviceState, Lock, SqState
    from nvme_emu.core.memory import HostMemory

__all__ = ["DeviceLane", "DevicePort", "IrqHandler", "Lane", "PassiveDevice", "StreamTap"]


class DeviceLane(NamedTuple):
    """What the compiled core has to find idle on the device's side (``_core/lane.c``).

    ``line`` is the queues that stand in line, ``raised`` the vectors on their way, ``masked`` a flag a vector.
    """

    device: DeviceState
    sq: SqState
    line: Sized
    raised: list[int]
    masked: bytearray


class Lane(NamedTuple):
    """A :class:`DeviceLane` with the transport's part: who handles which vector, and its lock."""

    device: DeviceLane
    handlers: dict[int, IrqHandler]
    lock: Lock


IrqHandler = Callable[[], None]
"""Runs in interrupt context: it must not block."""


@runtime_checkable
class DevicePort(Protocol):
    """A PCI Express NVMe function as its driver sees it (NVM Express PCIe Transport 1.1, clause 3).

    Offsets are bytes within BAR0. Reads of a device that is gone give all ones, as the bus does.
    """

    @property
    def memory(self) -> HostMemory:
        """The address space in which the driver puts queues and data for DMA."""
        ...

    def read32(self, offset: int) -> int:
        """Read a 32-bit property."""
        ...

    def read64(self, offset: int) -> int:
        """Read a 64-bit property."""
        ...

    def write32(self, offset: int, value: int) -> None:
        """Write a 32-bit property."""
        ...

    def write64(self, offset: int, value: int) -> None:
        """Write a 64-bit property."""
        ...

    def map_bar(self, bar: int, offset: int, nbytes: int) -> tuple[int, memoryview] | None:
        """(bus address, bytes) of memory of the controller's own in a BAR; None where there is none to be mapped."""
        ...

    def ring_sq(self, qid: int, tail: int) -> None:
        """Write submission queue ``qid``'s tail doorbell. Completions may arrive before this returns."""
        ...

    def ring_cq(self, qid: int, head: int) -> None:
        """Write completion queue ``qid``'s head doorbell."""
        ...

    def ring_sq_polled(self, qid: int, tail: int, vector: int) -> bool:
        """As ``ring_sq``, for a caller that looks at the completion queue itself when this returns.

        True if the device raised ``vector`` meanwhile: that message was kept from its handler.
        """
        ...

    def lane(self, qid: int) -> Lane | None:
        """What the compiled core needs to reach queue ``qid`` of the device without this port; None without it."""
        ...

    def connect_irq(self, vector: int, handler: IrqHandler) -> None:
        """Have ``handler()`` called for each message of an MSI-X vector."""
        ...

    def mask_irq(self, vector: int, masked: bool) -> None:
        """Set an MSI-X vector's mask bit; a pending message is sent when the mask is cleared."""
        ...

    def poll(self) -> int | None:
        """Let the device do what is due. Gives the time (ns) of its next due work, or None."""
        ...


@runtime_checkable
class PassiveDevice(Protocol):
    """A controller as a transport sees it: it does nothing by itself, and has no clock.

    ``now_ns`` is the last time that it was told of, by ``step`` and its like. A transport may move it on before
    a write, so that what the write causes bears the right time; nothing becomes due by that.
    """

    now_ns: int
    attention: Callable[[], object] | None
    """Called when another controller of the subsystem has left something for this one to tell its host."""

    def mmio_read(self, offset: int, size: int) -> int:
        """Read ``size`` bytes of BAR0."""
        ...

    def mmio_write(self, offset: int, size: int, value: int) -> None:
        """Write ``size`` bytes of BAR0."""
        ...

    def bar_view(self, bar: int, offset: int, nbytes: int) -> memoryview | None:
        """Bytes of a BAR that are memory of the controller's own; None where they are not."""
        ...

    def ring_sq(self, qid: int, tail: int) -> None:
        """What a write of a submission doorbell means."""
        ...

    def ring_cq(self, qid: int, head: int) -> None:
        """What a write of a completion doorbell means."""
        ...

    def step(self, now_ns: int) -> None:
        """Do the work that is due at ``now_ns``."""
        ...

    def next_deadline(self) -> int | None:
        """When accepted work is due next; None when none is."""
        ...

    def doorbell_sq(self, qid: int, tail: int, now_ns: int) -> tuple[Sequence[int], int | None]:
        """``ring_sq`` and ``step``, then what ``take_irqs`` and ``next_deadline`` give."""
        ...

    def doorbell_cq(self, qid: int, head: int, now_ns: int) -> tuple[Sequence[int], int | None] | None:
        """``ring_cq`` and ``step``, as ``doorbell_sq``; None where nothing follows from it."""
        ...

    def due(self, now_ns: int) -> tuple[Sequence[int], int | None]:
        """``step``, then what ``take_irqs`` and ``next_deadline`` give."""
        ...

    def lane(self, qid: int) -> DeviceLane | None:
        """The device's part of a lane to queue ``qid``; None where there is none."""
        ...

    def take_irqs(self) -> Sequence[int]:
        """The vectors raised since the last call."""
        ...

    def mask_vector(self, vector: int, masked: bool) -> None:
        """Set an MSI-X vector's mask bit."""
        ...


class StreamTap(Protocol):
    """Who looks on at one connection's bytes. Nothing of it may raise: I/O goes on without a witness."""

    def passed(self, data: bytes | bytearray | memoryview, *, to_controller: bool) -> None:
        """These bytes went over the connection, or are next to. They may change when this returns."""
        ...

    def closed(self, *, by_controller: bool) -> None:
        """The connection has ended."""
        ...
