"""The parts of the simulation: costs, virtual CPUs, tasks, timers and spinlocks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kworker.misuse import KworkerError
from kworker.runtime import TimerHandle
from kworker.spinlock import Spinlock
from kworker.task import TASK_UNINTERRUPTIBLE, TaskStruct

if TYPE_CHECKING:
    from kworker.simkernel import SimKernel

__all__ = ["HARDWARE", "SimCosts", "SimCpu", "SimSpinlock", "SimTask", "SimTimer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SimCosts:
    """What the host pays, in virtual ns. The defaults are round figures, chosen for a server without
    virtualisation.

    wakeup_ns  for the waker: try_to_wake_up and the interrupt to the other CPU
    switch_ns  between the wake-up and the first instruction of the woken task (lmbench lat_ctx, two
               processes of 0 KiB: 1 to 2 us on current x86)
    irq_ns     entry and exit of one interrupt; a virtual machine pays several times that
    slice_ns   how long a task may keep others of its CPU waiting before it is preempted (Linux' base slice)
    """

    wakeup_ns: int = 1_000
    switch_ns: int = 1_500
    irq_ns: int = 1_000
    slice_ns: int = 3_000_000


HARDWARE = -1
"""The index of the place where devices act by themselves: it runs no task, and its time costs nobody."""


class SimCpu:
    """A virtual CPU: the task that has it, the tasks that wait for it, and its interrupts.

    irq_ns     time spent in interrupts so far
    irq_until  end of the interrupt before, or of the one being served
    """

    __slots__ = ("cur", "index", "irq_live", "irq_ns", "irq_task", "irq_until", "masked", "rq", "stalled")

    def __init__(self, index: int, runtime: SimKernel) -> None:
        self.index = index
        self.cur: SimTask | None = None
        self.rq: deque[SimTask] = deque()
        self.irq_ns = 0
        self.irq_until = 0
        self.irq_task = SimTask(f"irq/{index}", 0, runtime)
        self.irq_task.irq = True
        self.irq_task.on_cpu = self
        # An interrupt that spins for a lock, what it keeps from running, and what waits for its end.
        self.irq_live: SimTask | None = None
        self.stalled: list[SimTask] = []
        self.masked: list[SimTimer] = []


class SimTask(TaskStruct):
    """A task, or an interrupt (`irq`), of the simulation.

    on_cpu     the CPU it has, or had last
    bound      the CPU it must run on, or None
    ready_ns   when it was woken last
    """

    __slots__ = (
        "asleep",
        "bound",
        "cpu_used_ns",
        "entry",
        "error",
        "greenlet",
        "irq",
        "on_cpu",
        "outside",
        "ready_ns",
        "since_ns",
        "steal_ns",
        "switch",
        "switches",
        "switches_forced",
    )

    runtime: SimKernel

    def __init__(self, comm: str, pid: int, runtime: SimKernel) -> None:
        super().__init__(comm, pid, runtime)
        self.asleep = False
        self.bound: SimCpu | None = None
        self.on_cpu: Any = None
        self.cpu_used_ns = 0
        self.entry: Callable[[TaskStruct], None] | None = None
        self.error: BaseException | None = None
        self.greenlet: Any = None
        self.switch: Any = None
        self.irq = False
        self.outside = False
        self.ready_ns = 0
        self.since_ns = 0
        self.steal_ns = 0
        self.switches = 0
        self.switches_forced = 0

    @property
    def cpu_ns(self) -> int:
        runtime = self.runtime
        return self.cpu_used_ns + (runtime._acc if runtime._cur is self else 0)

    @property
    def nvcsw(self) -> int:
        return self.switches

    @property
    def nivcsw(self) -> int:
        return self.switches_forced

    @classmethod
    def sleeping(
        cls, comm: str, pid: int, runtime: SimKernel, entry: Callable[[TaskStruct], None]
    ) -> SimTask:
        """A task that waits for its first wake-up."""
        task = cls(comm, pid, runtime)
        task.state = TASK_UNINTERRUPTIBLE
        task.asleep = True
        task.entry = entry
        task.start_ns = runtime.now_ns
        return task


class SimTimer(TimerHandle):
    """An armed `call_at`. A cancelled one stays in the heap until it is popped or most are dead."""

    __slots__ = ("cpu", "runtime", "spinners")

    def __init__(self, when_ns: int, fn: Callable[[], None], cpu: SimCpu, runtime: SimKernel) -> None:
        self.when_ns = when_ns
        self.fn = fn
        self.pending = True
        self.running = False
        self.cpu = cpu
        self.runtime = runtime
        self.spinners: list[SimTask] | None = None

    def cancel(self) -> bool:
        if not self.pending:
            return False
        self.pending = False
        self.runtime._timer_dropped()
        return True


class SimSpinlock(Spinlock):
    """A spinlock of the simulation. `owner` is the task or interrupt that holds it.

    Its holder may be switched out (at a settle, or by an exploring scheduler); who wants it then spins: its
    CPU stays busy until the release. If the holder only accrued time inside, nobody is switched, but the
    release lies in the future of the others: `free_ns` makes them spin up to it.
    """

    __slots__ = ("free_ns", "name", "owner", "runtime", "waiters")

    runtime: SimKernel

    owner: SimTask | None
    waiters: list[SimTask]
    free_ns: int

    def __new__(cls, *, runtime: SimKernel, name: str = "lock") -> Any:
        self = object.__new__(cls)
        self.runtime = runtime
        self.name = name
        self.owner = None
        self.waiters = []
        self.free_ns = 0
        return self

    def acquire(self) -> bool:
        runtime = self.runtime
        me = runtime._cur
        if self.owner is not None:
            return self._contended(me)
        self.owner = me
        runtime._held.append(self)
        if self.free_ns > runtime._now:
            late = self.free_ns - runtime._now - runtime._acc
            if late > 0:
                runtime._acc += late
        return True

    __enter__ = acquire

    def _contended(self, me: SimTask) -> bool:
        runtime = self.runtime
        runtime._check_thread()
        if self.owner is me:
            raise KworkerError(
                f"spinlock recursion: {me.comm} already holds {self.name!r} and would spin for ever; "
                "release it first or split off a function that expects the lock to be held"
            )
        runtime.settle()
        if self.owner is None:
            return self.acquire()
        runtime._spin(self.waiters, self)
        return True

    def try_acquire(self) -> bool:
        return self.owner is None and self.acquire()

    def release(self) -> None:
        runtime = self.runtime
        held = runtime._held
        if self.owner is not runtime._cur:
            self._foreign_release()
        if held[-1] is self:
            held.pop()
        else:
            held.remove(self)
        if self.waiters:
            heir = self._take_heir()
            self.owner = heir
            held.append(self)
            runtime._unspin(heir)
        else:
            self.owner = None
            if runtime._acc:
                self.free_ns = runtime._now + runtime._acc
        if runtime._nmasked:
            runtime._unmask()
            # The processor takes what was held back before its next instruction. Without this, a task whose
            # time passes only under the lock would hold its interrupts back for ever.
            runtime._sync("unlock")

    def _take_heir(self) -> SimTask:
        """Who waits longest and does spin: not a task whose CPU serves an interrupt that has to spin itself.

        It would get the lock while it cannot run, and the interrupt might wait for that lock, too.
        """
        waiters = self.waiters
        for index, task in enumerate(waiters):
            if task.steal_ns >= 0:
                return waiters.pop(index)
        return waiters.pop(0)

    def __exit__(self, *exc: object) -> None:
        self.release()

    def pass_by(self) -> bool:
        """`acquire` and `release` around what takes no time and cannot be seen half done, both here and now.

        False, and nothing has happened, where that is not all there is to it: then take the lock.
        """
        runtime = self.runtime
        if self.owner is not None or runtime._nmasked:
            return False
        if self.free_ns > runtime._now:
            late = self.free_ns - runtime._now - runtime._acc
            if late > 0:
                runtime._acc += late
        if runtime._acc:
            self.free_ns = runtime._now + runtime._acc
        return True

    def _foreign_release(self) -> None:
        holder = "nobody" if self.owner is None else self.owner.comm
        raise RuntimeError(f"{self.runtime._cur.comm} releases {self.name!r}, which {holder} holds")

    def held(self) -> bool:
        return self.owner is not None and self.owner is self.runtime._cur

    def locked(self) -> bool:
        return self.owner is not None

    def __repr__(self) -> str:
        return f"<Spinlock {self.name!r} owner={self.owner.comm if self.owner else None}>"
