"""The simulation's interrupts, and the spinning that locks and interrupts cause.

An interrupt callback runs on the stack of whoever looks for the next event. Only when somebody who is switched
out holds a spinlock does it get a greenlet of its own, since it may have to spin; if its own CPU holds the lock
or serves an interrupt already, it is held back (`masked`) until that is over.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from kworker.misuse import report_failure
from kworker.runtime import Runtime
from kworker.simparts import SimCosts, SimCpu, SimSpinlock, SimTask, SimTimer

__all__ = ["SimInterrupts"]


class SimInterrupts(Runtime):
    """The part of SimKernel that serves interrupts; what it needs of the rest is named here."""

    costs: SimCosts
    cpus: list[SimCpu]
    _hardware: SimCpu
    _irq_ns: int
    _now: int
    _acc: int
    _held: list[SimSpinlock]
    _nmasked: int
    _cur: SimTask
    _root: SimTask
    _exit_type: type[BaseException]

    @abstractmethod
    def _push(self, when: int, what: SimTask | SimTimer) -> None:
        """Put an event on the heap."""

    @abstractmethod
    def _switch_away(self, me: SimTask, follower: SimTask | None = None) -> None:
        """Let others run."""

    @abstractmethod
    def _set_greenlet(self, task: SimTask, run: Callable[..., None]) -> None:
        """Give `task` a greenlet that will call `run`."""

    @abstractmethod
    def _leave(self) -> None:
        """The current greenlet is about to end: arrange that whoever is due runs next."""

    # ---- spinning --------------------------------------------------------------------------------------

    def _spin(self, waiters: list[SimTask], what: Any) -> None:
        """Busy-wait, keeping the CPU, until `_unspin`."""
        me = self._cur
        local = self._now + self._acc
        self._acc = 0
        start = self._now
        waiters.append(me)
        me.waiting_on = what
        try:
            self._switch_away(me)
        finally:
            me.waiting_on = None
        if me.irq:
            self._acc = max(0, local - self._now)
        else:
            me.cpu_used_ns += self._now - start

    def _unspin(self, task: SimTask) -> None:
        self._push(self._now + self._acc, task)

    def _holds_lock(self, task: SimTask | None) -> bool:
        return task is not None and any(lock.owner is task for lock in self._held)

    def _unmask(self) -> None:
        """A lock was released: interrupts that its CPU held back may come now."""
        when = self._now + self._acc
        for cpu in self.cpus:
            if cpu.masked and not self._holds_lock(cpu.cur):
                for timer in cpu.masked:
                    self._push(when, timer)
                self._nmasked -= len(cpu.masked)
                cpu.masked.clear()

    # ---- interrupts ------------------------------------------------------------------------------------

    def _interrupt_beside_lock(self, timer: SimTimer, cpu: SimCpu, when: int) -> SimTask | None:
        """Somebody who is switched out holds a lock: the interrupt waits for it, or gets a stack of its own."""
        if cpu.irq_live is not None or self._holds_lock(cpu.cur):
            cpu.masked.append(timer)
            self._nmasked += 1
            return None
        self._now = when
        return self._interrupt_fiber(timer)

    def _serve_interrupt(self, timer: SimTimer, cpu: SimCpu, begin: int, victim: SimTask | None) -> None:
        """Run the callback as the current context, then charge it to the CPU and to who was running there."""
        is_device = cpu is self._hardware
        self._acc = 0 if is_device else self._irq_ns
        timer.running = True
        if self.hook is not None and not is_device:
            self.hook("irq_handler_entry", (cpu.index,))
        try:
            timer.fn()
        except Exception as exc:
            report_failure(exc, None, "timer function")
        finally:
            end = self._now + self._acc
            self._acc = 0
            timer.running = False
            if not is_device:
                # Devices act side by side; interrupts of one CPU follow one another.
                cpu.irq_until = end
            cpu.irq_ns += end - begin
            cur = cpu.cur
            if cur is not None and cur.steal_ns >= 0:
                # A task that the interrupt itself woke here waits from its wake-up to the interrupt's end.
                cur.steal_ns += end - (begin if cur is victim else cur.ready_ns)

    def _interrupt_fiber(self, timer: SimTimer) -> SimTask:
        """An interrupt that may have to spin, because somebody who is switched out holds a lock."""
        cpu = timer.cpu
        timer.pending = False
        kernel: Any = self
        live = SimTask(f"irq/{cpu.index}", 0, kernel)
        live.irq = True
        live.on_cpu = cpu
        self._set_greenlet(live, lambda *_: self._interrupt_main(live, timer))
        cpu.irq_live = live
        if cpu.cur is not None:
            cpu.cur.steal_ns = -1
        self._cur = live
        return live

    def _interrupt_main(self, live: SimTask, timer: SimTimer) -> None:
        cpu = timer.cpu
        try:
            self._serve_interrupt(timer, cpu, self._now, None)
        except self._exit_type:
            return
        except BaseException as exc:  # Ctrl-C: to whoever runs the simulation
            self._root.error = exc
        cpu.irq_live = None
        if cpu.cur is not None and cpu.cur.steal_ns < 0:
            cpu.cur.steal_ns = 0
        for task in cpu.stalled:
            self._push(max(cpu.irq_until, task.ready_ns), task)
        cpu.stalled.clear()
        spinners, timer.spinners = timer.spinners or (), None
        for spinner in spinners:
            self._push(cpu.irq_until, spinner)
        self._nmasked -= len(cpu.masked)
        for masked in cpu.masked:
            self._push(cpu.irq_until, masked)
        cpu.masked.clear()
        self._leave()
