"""The transport in one process: a function call is the bus.

Whoever touches the device steps it, under the one lock that guards the controller, so an instant device has
answered before a doorbell write returns. Work that ends later is brought to its end by a timer of the
runtime: on the virtual clock an event at that very nanosecond, on threads the timer thread (and anyone who
polls meanwhile).

Interrupts are delivered outside the lock. On threads the handler runs in the thread that made the device
raise it, as on a processor that is interrupted where it stands; in a simulation it is an interrupt of its
own, which costs processor time.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import kworker
from nvme_emu._core import Lock
from nvme_emu.core.ports import Lane

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kworker import Runtime, TimerHandle
    from nvme_emu.core.memory import HostMemory
    from nvme_emu.core.ports import DevicePort, IrqHandler, PassiveDevice

__all__ = ["InprocTransport"]


class InprocTransport:
    """A :class:`~nvme_emu.core.ports.DevicePort` onto a controller in the same process."""

    def __init__(
        self, controller: PassiveDevice, memory: HostMemory, runtime: Runtime, *, lock: Any = None
    ) -> None:
        """``lock`` is that of another transport, where their controllers are of one subsystem."""
        self._controller = controller
        self._memory = memory
        self._runtime = runtime
        self._virtual = runtime.virtual
        # On threads a lock whose state the compiled core can see.
        self._lock: Any = lock or (kworker.Spinlock(runtime=runtime) if runtime.virtual else Lock())
        # A thread runtime's clock without the way through its property.
        self._clock: Callable[[], int] = (
            time.perf_counter_ns if isinstance(runtime, kworker.ThreadRuntime) else lambda: runtime.now_ns
        )
        self._handlers: dict[int, IrqHandler] = {}
        self._bars: dict[int, int] = {}  # BARs that were mapped, and where on the bus they are
        # Like blk-mq's affinity: a queue's interrupt goes to the CPU that submitted to it last.
        self._irq_cpu: dict[int, int] = {}
        self._timer: TimerHandle | None = None
        # Timers of a simulation that have fired, to be used again: the device's, and one for each vector.
        self._fired: TimerHandle | None = None
        self._messages: dict[int, TimerHandle] = {}
        self._armed_ns: int | None = None

    @property
    def memory(self) -> HostMemory:
        """The address space that the device reaches by DMA."""
        return self._memory

    @property
    def lock(self) -> Any:
        """What guards the controller (a Spinlock, or what serves as one): observers hold it while they read."""
        return self._lock

    def attend(self) -> None:
        """Also see to what other controllers of the subsystem leave for this one to tell its host."""
        self._controller.attention = lambda: self._arm(self._clock())

    def read32(self, offset: int) -> int:
        """Read a 32-bit property."""
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

    def map_bar(self, bar: int, offset: int, nbytes: int) -> tuple[int, memoryview] | None:
        """See :class:`~nvme_emu.core.ports.DevicePort`; a BAR keeps the address that it gets here."""
        view = self._controller.bar_view(bar, offset, nbytes)
        if view is None:
            return None
        base = self._bars.setdefault(bar, 0) or self._memory.take_base(offset + nbytes)
        self._bars[bar] = base
        return base + offset, view

    def ring_sq(self, qid: int, tail: int) -> None:
        """Write a submission doorbell, and let the device fetch."""
        runtime = self._runtime
        if self._virtual:
            runtime.settle()
            self._irq_cpu[qid] = runtime.cpu_id()
        controller, lock = self._controller, self._lock
        if self._virtual and lock.pass_by():
            irqs, due = controller.doorbell_sq(qid, tail, runtime.now_ns)
        else:
            lock.acquire()
            try:
                irqs, due = controller.doorbell_sq(qid, tail, runtime.now_ns)
            finally:
                lock.release()
        if due != self._armed_ns:
            self._arm(due)
        if irqs:
            self._deliver(irqs)

    def ring_sq_polled(self, qid: int, tail: int, vector: int) -> bool:
        """As ``ring_sq``; the message of ``vector`` is kept from its handler, and True tells of it."""
        if self._virtual:
            # A handler costs time of its own there, which must be charged: nothing is kept from it.
            self.ring_sq(qid, tail)
            return False
        controller, lock = self._controller, self._lock
        lock.acquire()
        try:
            irqs, due = controller.doorbell_sq(qid, tail, self._clock())
        finally:
            lock.release()
        if due != self._armed_ns:
            self._arm(due)
        if len(irqs) == 1 and irqs[0] == vector:
            return True
        if irqs:
            self._deliver([other for other in irqs if other != vector])
        return vector in irqs

    def ring_cq(self, qid: int, head: int) -> None:
        """Write a completion doorbell; a queue that was full may move on."""
        controller, lock = self._controller, self._lock
        if self._virtual and lock.pass_by():
            follows = controller.doorbell_cq(qid, head, self._clock())
        else:
            lock.acquire()
            try:
                follows = controller.doorbell_cq(qid, head, self._clock())
            finally:
                lock.release()
        if follows is None:
            return
        irqs, due = follows
        if due != self._armed_ns:
            self._arm(due)
        if irqs:
            self._deliver(irqs)

    def lane(self, qid: int) -> Lane | None:
        """See :class:`~nvme_emu.core.ports.DevicePort`; None in a simulation, where each step costs time."""
        if self._virtual or type(self) is not InprocTransport:
            return None
        with self._lock:
            device = self._controller.lane(qid)
        return None if device is None else Lane(device, self._handlers, self._lock)

    def connect_irq(self, vector: int, handler: IrqHandler) -> None:
        """Have ``handler()`` called for each message of a vector."""
        self._handlers[vector] = handler
        self._messages.pop(vector, None)

    def receives(self, vector: int) -> bool:
        """Whether a handler is connected to the vector."""
        return vector in self._handlers

    def mask_irq(self, vector: int, masked: bool) -> None:
        """Set or clear a vector's mask bit."""
        with self._lock:
            self._controller.mask_vector(vector, masked)
            irqs = self._controller.take_irqs()
        self._deliver(irqs)

    def poll(self) -> int | None:
        """Let the device do what is due; the time of its next due work, or None."""
        lock = self._lock
        if self._virtual and lock.pass_by():
            irqs, due = self._controller.due(self._runtime.now_ns)
        else:
            lock.acquire()
            try:
                irqs, due = self._controller.due(self._runtime.now_ns)
            finally:
                lock.release()
        if due != self._armed_ns:
            self._arm(due)
        if irqs:
            self._deliver(irqs)
        return due

    # Inside -----------------------------------------------------------------------------------------

    def _read(self, offset: int, size: int) -> int:
        if self._virtual:
            self._runtime.settle()
        with self._lock:
            return self._controller.mmio_read(offset, size)

    def _write(self, offset: int, size: int, value: int) -> None:
        if self._virtual:
            self._runtime.settle()
        with self._lock:
            self._controller.now_ns = self._clock()
            self._controller.mmio_write(offset, size, value)
        self.poll()

    def _arm(self, due: int | None) -> None:
        """Have the device stepped at ``due``. A timer that is too early is left: it finds nothing to do."""
        armed = self._armed_ns
        if due is None or (armed is not None and armed <= due):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._armed_ns = due
        fired = self._fired
        if fired is not None:
            self._fired = None
            self._runtime.call_again(fired, due)
            self._timer = fired
        else:
            self._timer = self._runtime.call_at(due, self._due, hardware=True)

    def _due(self) -> None:
        timer = self._timer
        self._armed_ns = None
        self._timer = None
        if not self._virtual or timer is None or timer.pending or not self._lock.pass_by():
            if self._virtual and timer is not None and not timer.pending:
                self._fired = timer
            self.poll()
            return
        # `poll` and `_arm` in one: this is a simulation's most frequent event.
        irqs, due = self._controller.due(self._runtime.now_ns)
        if due is None:
            self._fired = timer
        else:
            self._armed_ns = due
            self._timer = timer
            self._runtime.call_again(timer, due)
        if irqs:
            self._deliver(irqs)

    def _deliver(self, irqs: Sequence[int]) -> None:
        handlers = self._handlers
        for vector in irqs:
            handler = handlers.get(vector)
            if handler is None:
                continue
            if not self._virtual:
                handler()
                continue
            # In a simulation it is an interrupt of the CPU that submitted last.
            runtime, cpu = self._runtime, self._irq_cpu.get(vector, 0)
            message = self._messages.get(vector)
            if message is None or message.pending:
                self._messages[vector] = runtime.call_at(runtime.now_ns, handler, cpu=cpu)
            else:
                runtime.call_again(message, runtime.now_ns, cpu)


def _is_a_port(transport: InprocTransport) -> DevicePort:
    """Checked by mypy: the transport offers the whole border."""
    return transport
