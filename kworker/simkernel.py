"""The heart of the simulation: virtual time, CPUs, sleeping and waking, spinning, interrupts.

There is no hub. Who blocks looks for the next event himself, on his own stack, and switches straight to the
task that is due, which halves the switches; interrupt callbacks run on the stack of whoever is blocking
(siminterrupts.py). The alternative, a hub greenlet, is simpler to draw and costs 0.3 us more at every block.

This is the *run to block* gear: a task runs until it blocks. What it consumes accrues in `_acc` and is
settled when others could see a difference. `_now + _acc` is the local time of whoever runs; `_acc` is zero
at every switch. exploring.py overrides the parts that differ in the other gear.
"""

from __future__ import annotations

import heapq
from _thread import get_ident
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, NoReturn, cast

from kworker.misuse import AtomicSleepError, SimClosedError, SimThreadError, ends_the_thread
from kworker.runtime import TimerHandle, context
from kworker.siminterrupts import SimInterrupts
from kworker.simparts import HARDWARE, SimCosts, SimCpu, SimSpinlock, SimTask, SimTimer
from kworker.task import TASK_DEAD, TASK_NORMAL, TASK_RUNNING, TaskStruct

__all__ = ["SimKernel"]

_heappush, _heappop = heapq.heappush, heapq.heappop
_LOOK_AGAIN_NS = 1000


class SimKernel(SimInterrupts):
    """What SimRuntime runs on. The event heap holds (time, sequence number, task to resume or timer)."""

    virtual = True

    def __init__(self, cpus: int, costs: SimCosts | None) -> None:
        import greenlet

        super().__init__()
        self._getcurrent = greenlet.getcurrent
        self._exit_type = ends_the_thread(greenlet.GreenletExit)
        self.costs = costs or SimCosts()
        self._wakeup_ns, self._switch_ns = self.costs.wakeup_ns, self.costs.switch_ns
        self._irq_ns = self.costs.irq_ns
        self._ident = get_ident()
        self._now = 0
        self._acc = 0
        self._seq = 0
        self._heap: list[tuple[int, int, Any]] = []
        self._dead = 0
        self._held: list[SimSpinlock] = []
        self._nmasked = 0
        self._nqueued = 0
        self._closed = False
        self.interrupted = False
        self.cpus = [SimCpu(i, self) for i in range(cpus)]
        self._hardware = SimCpu(HARDWARE, self)
        root = self._root = self._cur = SimTask("root", 0, self)
        root.outside = True
        root.on_cpu = self.cpus[0]
        self.cpus[0].cur = root
        self.sync = self._sync

    @abstractmethod
    def _stuck(self) -> SimTask:
        """No event is left: tell the outermost caller, and return it."""

    # ---- time ------------------------------------------------------------------------------------------

    @property
    def now_ns(self) -> int:
        return self._now + self._acc

    def consume(self, ns: int) -> None:
        self._acc += ns

    def _sync(self, name: str) -> None:
        if get_ident() != self._ident:
            self._foreign_thread()
        me = self._cur
        if me.irq:
            return
        heap = self._heap
        if not self._acc and not (heap and heap[0][0] <= self._now and heap[0][2].__class__ is SimTimer):
            return
        # The same as settle(), written out: this runs several times an I/O. An interrupt that is due (the last
        # effect raised it) comes first here even if no time has passed: a processor takes it before the next
        # instruction, so nobody goes to sleep for what has just been completed.
        target = self._now + self._acc
        me.cpu_used_ns += self._acc
        self._acc = 0
        if (not heap or heap[0][0] > target) and not me.on_cpu.rq:
            self._now = target
        else:
            self._settle_slowly(me, target)

    def settle(self) -> None:
        acc = self._acc
        me = self._cur
        if not acc or me.irq:
            return
        self._acc = 0
        me.cpu_used_ns += acc
        target = self._now + acc
        heap = self._heap
        if (not heap or heap[0][0] > target) and not me.on_cpu.rq:
            self._now = target
        else:
            self._settle_slowly(me, target)

    def _settle_slowly(self, me: SimTask, target: int) -> None:
        cpu = me.on_cpu
        if cpu.rq and target - me.since_ns >= self.costs.slice_ns and not self._holds_lock(me):
            # Its time slice is over and others wait for the CPU: to the end of the queue.
            me.switches_forced += 1
            me.ready_ns = target
            follower = cpu.rq.popleft()
            cpu.rq.append(me)
            self._start(cpu, follower, target)
            self._switch_away(me)
        elif self._heap and self._heap[0][0] <= target:
            self._push(target, me)
            self._switch_away(me)
        else:
            self._now = target

    def cpu_id(self) -> int:
        """The CPU of the calling task or interrupt; 0 for what a device does."""
        cpu = self._cur.on_cpu
        if cpu is None:
            return 0
        index: int = cpu.index
        return index if index > 0 else 0

    def call_at(
        self, when_ns: int, fn: Callable[[], None], *, cpu: int | None = None, hardware: bool = False
    ) -> TimerHandle:
        if get_ident() != self._ident:
            self._foreign_thread()
        cpus = self.cpus
        if hardware:
            where = self._hardware
        else:
            where = cpus[(self.cpu_id() if cpu is None else cpu) % len(cpus)]
        timer = SimTimer(when_ns, fn, where, self)
        self._seq = seq = self._seq + 1
        _heappush(self._heap, (when_ns, seq, timer))
        return timer

    def call_again(self, handle: TimerHandle, when_ns: int, cpu: int | None = None) -> None:
        timer: Any = handle  # a SimTimer; a cast would cost a call
        timer.when_ns = when_ns
        timer.pending = True
        if cpu is not None:
            timer.cpu = self.cpus[cpu % len(self.cpus)]
        self._seq = seq = self._seq + 1
        _heappush(self._heap, (when_ns, seq, timer))

    def _push(self, when: int, what: SimTask | SimTimer) -> None:
        self._seq = seq = self._seq + 1
        _heappush(self._heap, (when, seq, what))

    def _timer_dropped(self) -> None:
        self._dead = dead = self._dead + 1
        heap = self._heap
        if dead > 64 and dead * 2 > len(heap):
            heap[:] = [entry for entry in heap if entry[2].__class__ is not SimTimer or entry[2].pending]
            heapq.heapify(heap)
            self._dead = 0

    def wait_callback(self, handle: TimerHandle) -> None:
        timer = cast(SimTimer, handle)
        while timer.running and not self._cur.irq:
            if timer.spinners is None:
                timer.spinners = []
            self._spin(timer.spinners, f"the timer function {getattr(timer.fn, '__name__', '')}")

    # ---- who runs next ---------------------------------------------------------------------------------

    def _pick(self) -> SimTask:
        """Take events until one lets a task run; make it the current one and return it."""
        heap = self._heap
        while heap:
            when, _, what = _heappop(heap)
            if what.__class__ is SimTimer:
                if not what.pending:
                    self._dead -= 1
                    continue
                cpu = what.cpu
                if when < self._now:
                    when = self._now
                if cpu.irq_until > when:
                    self._seq = seq = self._seq + 1
                    _heappush(heap, (cpu.irq_until, seq, what))
                elif self._held:
                    live = self._interrupt_beside_lock(what, cpu, when)
                    if live is not None:
                        return live
                else:
                    self._now = when
                    what.pending = False
                    self._cur = cpu.irq_task
                    self._serve_interrupt(what, cpu, when, cpu.cur)
                continue
            if what.steal_ns:
                self._delay(what, when)
                continue
            if when > self._now:
                self._now = when
            self._cur = what
            return cast(SimTask, what)
        return self._stuck()

    def _delay(self, task: SimTask, when: int) -> None:
        """Its CPU served interrupts meanwhile; -1 means that one still does."""
        if task.steal_ns < 0:
            self._now = max(self._now, when)
            task.ready_ns = when
            task.on_cpu.stalled.append(task)
            return
        steal = task.steal_ns
        task.stolen_ns += steal
        task.steal_ns = 0
        self._seq = seq = self._seq + 1
        _heappush(self._heap, (when + steal, seq, task))

    def _start(self, cpu: SimCpu, task: SimTask, now: int) -> None:
        """Give a free CPU to a ready task, which runs once it is switched in."""
        start = now if now > cpu.irq_until else cpu.irq_until
        ready = task.ready_ns
        if start > ready:
            task.run_delay_ns += start - ready
        else:
            start = ready
        switch = self._switch_ns
        start += switch
        task.cpu_used_ns += switch
        task.since_ns = start
        cpu.cur = task
        task.on_cpu = cpu
        if cpu.irq_live is not None:
            task.steal_ns = -1
        if self.hook is not None:
            self.hook("sched_switch", (cpu.index, task.comm, task.pid, start))
        self._seq = seq = self._seq + 1
        _heappush(self._heap, (start, seq, task))

    def _dispatch(self, cpu: SimCpu) -> None:
        """An idle CPU takes the next task of its queue, or a waiting one of a busy CPU."""
        follower = self._follower(cpu)
        if follower is not None:
            self._nqueued -= 1
            self._start(cpu, follower, self._now)

    def _release_cpu(self, task: SimTask) -> None:
        task.on_cpu.cur = None
        if self._nqueued:
            self._dispatch(task.on_cpu)

    def _follower(self, cpu: SimCpu) -> SimTask | None:
        if cpu.rq:
            return cpu.rq.popleft()
        for other in sorted(self.cpus, key=lambda c: (-len(c.rq), c.index)):
            for task in other.rq:
                if task.bound is None:
                    other.rq.remove(task)
                    return task
        return None

    def _switch_away(self, me: SimTask, follower: SimTask | None = None) -> None:
        """Let others run, `follower` first, until `me` is picked. Raises what was sent to `me` meanwhile."""
        if me.outside:
            self._pump(me, follower)
        else:
            if follower is None:
                follower = self._pick()
            if follower is not me:
                follower.switch()
        if me.error is not None:
            self._raise(me)

    def _raise(self, me: SimTask) -> NoReturn:
        error, me.error = me.error, None
        assert error is not None
        raise error

    def _pump(self, me: SimTask, follower: SimTask | None) -> None:
        """The caller's own greenlet waits: everything that runs meanwhile belongs to this simulation."""
        me.greenlet = self._getcurrent()
        me.switch = me.greenlet.switch
        before, context.runtime = context.runtime, self
        try:
            if follower is None:
                follower = self._pick()
            if follower is not me:
                follower.switch()
        finally:
            context.runtime = before

    # ---- sleep and wake --------------------------------------------------------------------------------

    def schedule(self, deadline_ns: int | None = None) -> None:
        me = self._cur
        if self._acc:
            self.settle()
        if me.irq or self._held or self._closed:
            self._check_may_sleep(me)
        if me.state == TASK_RUNNING:
            self._yield(me)
        elif deadline_ns is None:
            self._sleep(me)
        elif deadline_ns <= self._now:
            me.state = TASK_RUNNING
        else:
            timer = self.call_at(deadline_ns, lambda: self._timed_out(me))
            try:
                self._sleep(me)
            finally:
                if timer.pending:
                    timer.cancel()

    def _timed_out(self, task: SimTask) -> None:
        self.wake(task, ~TASK_DEAD)

    def _sleep(self, me: SimTask) -> None:
        me.asleep = True
        me.switches += 1
        slept = self._now
        cpu = me.on_cpu
        cpu.cur = None
        if self._nqueued:
            self._dispatch(cpu)
        if me.outside:
            self._pump(me, None)
        else:
            follower = self._pick()
            if follower is not me:
                follower.switch()
        me.blocked_ns += self._now - slept - self._switch_ns
        if me.error is not None:
            self._raise(me)

    def _yield(self, me: SimTask) -> None:
        """Let the tasks that wait for this CPU run first, if there are any."""
        cpu = me.on_cpu
        if cpu.rq:
            me.switches += 1
            me.ready_ns = self._now
            follower = cpu.rq.popleft()
            cpu.rq.append(me)
            self._start(cpu, follower, self._now)
            self._switch_away(me)

    def prepare(self, task: TaskStruct, state: int) -> None:
        task.state = state

    def wake(self, task: TaskStruct, states: int = TASK_NORMAL) -> int:
        if not task.state & states:
            return 0
        task.state = TASK_RUNNING
        sleeper: Any = task  # a SimTask; a cast would cost a call
        if not sleeper.asleep:
            return 1
        sleeper.asleep = False
        self._acc = acc = self._acc + self._wakeup_ns
        sleeper.ready_ns = ready = self._now + acc
        if self.hook is not None:
            self.hook("sched_wakeup", (task.comm, task.pid))
        cpu = sleeper.bound
        if cpu is None:
            cpu = sleeper.on_cpu
            if cpu is None or cpu.cur is not None:
                cpu = self._place(cpu)
        if cpu.cur is None:
            self._start(cpu, sleeper, ready)
        else:
            sleeper.on_cpu = cpu
            cpu.rq.append(sleeper)
            self._nqueued += 1
        return 1

    def _place(self, last: SimCpu | None) -> SimCpu:
        """An idle CPU (the lowest), else the one with the fewest waiting tasks."""
        best = self.cpus[0]
        for cpu in self.cpus:
            if cpu.cur is None:
                return cpu
            if len(cpu.rq) < len(best.rq):
                best = cpu
        return last if last is not None and len(last.rq) == len(best.rq) else best

    # ---- Ctrl-C ----------------------------------------------------------------------------------------

    def holds_locks(self) -> bool:
        """Whether anybody holds a spinlock."""
        return bool(self._held)

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt where the outermost caller sleeps, or will, unless `interrupted` is reset before."""
        self.interrupted = True
        self.call_at(self._now, self._interrupt_root, hardware=True)

    def _interrupt_root(self) -> None:
        root = self._root
        if self.interrupted and root.asleep:
            self.interrupted = False
            root.error = KeyboardInterrupt()
            self.wake(root, ~TASK_DEAD)
        elif self.interrupted:
            self.call_at(self._now + _LOOK_AGAIN_NS, self._interrupt_root, hardware=True)

    # ---- checks ----------------------------------------------------------------------------------------

    def _check_may_sleep(self, me: SimTask) -> None:
        if self._closed:
            raise SimClosedError(f"{me.comm} sleeps in a simulation that is closed")
        if me.irq:
            raise AtomicSleepError(
                "sleeping in interrupt context: a timer function must not block; "
                "queue a work and block there"
            )
        if self._holds_lock(me):
            names = ", ".join(repr(lock.name) for lock in self._held if lock.owner is me)
            raise AtomicSleepError(
                f"{me.comm} sleeps while it holds the spinlock {names}; release it first"
            )

    def _check_thread(self) -> None:
        if get_ident() != self._ident:
            self._foreign_thread()

    def _foreign_thread(self) -> NoReturn:
        raise SimThreadError(
            f"OS thread {get_ident()} touches a simulation that belongs to thread {self._ident}; it "
            "runs on the one thread that made it. Make one a thread, or use ThreadRuntime"
        )
