"""The *explore* gear: at every lock, unlock, wait, wake-up, interrupt and point somebody else may run.

The time that tasks take is not modelled here: a task may be as slow as the scheduler likes, so any task that
is ready can be next, and the next timer may fire although tasks are ready, if it is due within the
scheduler's `slack_ns`. The number of CPUs still bounds how many contexts can be inside a spinlock or an
interrupt at once: on one CPU nobody runs beside a lock holder.
"""

from __future__ import annotations

import heapq
from typing import Any, cast

from kworker.misuse import ReplayError, SimLivelock, report_failure
from kworker.schedulers import TIMER_KEY, RandomWalk, Schedule, Scheduler, make_scheduler
from kworker.simparts import HARDWARE, SimCosts, SimSpinlock, SimTask, SimTimer
from kworker.simulation import SimRuntime
from kworker.spinlock import Spinlock
from kworker.task import TASK_NORMAL, TASK_RUNNING, TaskStruct

__all__ = ["ExploreRuntime"]


class ExploreSpinlock(SimSpinlock):
    """A spinlock whose taking and releasing are points, called "lock NAME" and "unlock NAME"."""

    __slots__ = ("_lock_point", "_unlock_point")

    _lock_point: str
    _unlock_point: str

    def __new__(cls, *, runtime: SimRuntime, name: str = "lock") -> Any:
        self = super().__new__(cls, runtime=runtime, name=name)
        self._lock_point, self._unlock_point = f"lock {name}", f"unlock {name}"
        return self

    def acquire(self) -> bool:
        runtime = self.runtime
        runtime.point(self._lock_point)
        # As the base does it, without the call: this is the most frequent point.
        if self.owner is not None:
            return self._contended(runtime._cur)
        self.owner = runtime._cur
        runtime._held.append(self)
        if self.free_ns > runtime._now:
            runtime._acc = max(runtime._acc, self.free_ns - runtime._now)
        return True

    __enter__ = acquire

    def release(self) -> None:
        super().release()
        self.runtime.point(self._unlock_point)

    def __exit__(self, *exc: object) -> None:
        self.release()

    def pass_by(self) -> bool:
        return False


class Fiber(SimTask):
    """An interrupt, and the greenlet in which it is served. When that has ended it serves another."""

    __slots__ = ("timer",)

    timer: SimTimer


class ExploreRuntime(SimRuntime):
    """A simulation whose scheduler chooses at every point. Made by SimRuntime(scheduler=...)."""

    def __init__(
        self,
        seed: int = 0,
        cpus: int = 2,
        scheduler: Scheduler | str | None = None,
        costs: SimCosts | None = None,
        trace: bool | int = False,
    ) -> None:
        super().__init__(seed, cpus, None, costs, trace)
        self.scheduler = make_scheduler(scheduler or "random")
        self._ready: list[SimTask] = []
        self._choices: list[int] = []
        self._questions = 0
        self._spinning = 0
        self._irq_pid = TIMER_KEY
        self._live: list[Fiber] = []
        self._fibers: list[Fiber] = []  # without an interrupt to serve
        self.scheduler.begin(self.rng)

    @property
    def recorded_schedule(self) -> Schedule:
        return Schedule(tuple(self._choices))

    @property
    def questions(self) -> int:
        """How often somebody else might have run so far, counting the places where nobody else could."""
        return self._questions

    # ---- choosing --------------------------------------------------------------------------------------

    def _sync(self, name: str) -> None:
        self._check_thread()
        self.point(name)

    def settle(self) -> None:
        if self._acc:
            self._fold()
            self.point("settle")

    def _fold(self) -> None:
        acc, self._acc = self._acc, 0
        self._now += acc
        if not self._cur.irq:
            self._cur.cpu_used_ns += acc

    def point(self, name: str) -> None:
        if self._acc:
            self._fold()
        me = self._cur
        if self._closed or (not self._ready and not self._heap):
            return
        follower = self._decide(name, me)
        if follower is not me:
            self._add_ready(me)
            self._switch_away(me, follower)
        elif me.error is not None:
            self._raise(me)

    def _decide(self, name: str, me: SimTask | None) -> SimTask:
        """Ask the scheduler who runs next and make it current; `me` could go on, unless it is None."""
        scheduler = self.scheduler
        self._questions += 1
        if self._questions > scheduler.steps_max:
            self._root.error = SimLivelock(
                f"no end after {self._questions - 1} choices, at {name!r} of {self._cur.comm}; "
                "does a task poll without ever blocking?"
            )
            return self._revive_root()
        ready, heap = self._ready, self._heap
        pinned: list[SimTask] | None = None
        # As many as could be pinned at most: that they are is rare, and only then worth finding out.
        if (self._held or self._live) and len(self._held) + len(self._live) + self._spinning >= len(self.cpus):
            pinned = self._pinned(me)
        timer: SimTimer | None = None
        if pinned is not None:
            count = len(pinned)
        else:
            count = len(ready) if me is None else len(ready) + 1
            if heap:
                timer = heap[0][2] if heap[0][2].pending else self._next_timer()
                if timer is not None and count and timer.when_ns > self._now + scheduler.slack_ns:
                    timer = None
        total = count if timer is None else count + 1
        if total < 2:
            index = 0
            if not total:
                return self._stuck()
        elif self.hook is None and scheduler.__class__ is RandomWalk:
            # What `_ask` would do, without naming the possibilities to somebody who only counts them.
            index = int(scheduler.random() * total)
            self._choices.append(index)
        else:
            try:
                index = self._ask(name, me, pinned, timer)
            except ReplayError as exc:
                self._root.error = exc
                return self._revive_root()
        if index == count:
            return self._fire(cast(SimTimer, timer))
        if pinned is not None:
            follower = pinned[index]
            if follower is not me:
                ready.remove(follower)
        elif me is None:
            follower = ready.pop(index)
        else:
            follower = ready.pop(index - 1) if index else me
        self._cur = follower
        return follower

    def _ask(self, name: str, me: SimTask | None, pinned: list[SimTask] | None, timer: SimTimer | None) -> int:
        """The scheduler's choice among at least two possibilities. Raises ReplayError if it cannot be repeated."""
        tasks = pinned if pinned is not None else self._ready if me is None else [me, *self._ready]
        keys = [task.pid for task in tasks]
        if timer is not None:
            keys.append(TIMER_KEY)
        index = self.scheduler.choose(name, keys, me is not None and tasks[:1] == [me])
        self._choices.append(index)
        if self.hook is not None:
            self.hook("choose", (name, keys[index], len(keys)))
        return index

    def _pinned(self, me: SimTask | None) -> list[SimTask] | None:
        """Who alone could run next, if all CPUs are kept by what cannot be preempted; None if they are not.

        That is lock holders, spinners and interrupts: each keeps a CPU.
        """
        tasks = self._ready if me is None else [me, *self._ready]
        pinned = [task for task in tasks if task.irq or self._holds_lock(task)]
        return pinned if len(pinned) + self._spinning >= len(self.cpus) else None

    def _next_timer(self) -> SimTimer | None:
        heap = self._heap
        while heap:
            timer = heap[0][2]
            if timer.pending:
                assert isinstance(timer, SimTimer)
                return timer
            heapq.heappop(heap)
            self._dead -= 1
        return None

    def _fire(self, timer: SimTimer) -> SimTask:
        heapq.heappop(self._heap)
        self._now = max(self._now, timer.when_ns)
        return self._interrupt_fiber(timer)

    def _add_ready(self, task: SimTask) -> None:
        """Ready tasks stay sorted by pid, so that a choice means the same in every run."""
        ready = self._ready
        at = len(ready)
        while at and ready[at - 1].pid > task.pid:
            at -= 1
        ready.insert(at, task)

    # ---- what the other gear does with CPUs ------------------------------------------------------------

    def _pick(self) -> SimTask:
        return self._decide("block", None)

    def _release_cpu(self, task: SimTask) -> None:
        pass

    def _sleep(self, me: SimTask) -> None:
        me.asleep = True
        me.switches += 1
        slept = self._now
        try:
            self._switch_away(me)
        finally:
            me.blocked_ns += self._now - slept

    def _yield(self, me: SimTask) -> None:
        self.point("yield")

    def wake(self, task: TaskStruct, states: int = TASK_NORMAL) -> int:
        if not task.state & states:
            return 0
        self._check_thread()
        assert isinstance(task, SimTask)
        task.state = TASK_RUNNING
        if task.asleep:
            task.asleep = False
            if self.hook is not None:
                self.hook("sched_wakeup", (task.comm, task.pid))
            self._add_ready(task)
            self.point("wake")
        return 1

    def _spin(self, waiters: list[SimTask], what: Any) -> None:
        me = self._cur
        if self._acc:
            self._fold()
        waiters.append(me)
        me.waiting_on = what
        self._spinning += 1
        try:
            self._switch_away(me)
        finally:
            me.waiting_on = None

    def _unspin(self, task: SimTask) -> None:
        self._spinning -= 1
        self._add_ready(task)

    def _interrupt_fiber(self, timer: SimTimer) -> SimTask:
        timer.pending = False
        timer.running = True
        self._irq_pid -= 1
        if self._fibers:
            live = self._fibers.pop()
        else:
            live = Fiber("irq", 0, self)
            live.irq = True
            self._set_greenlet(live, lambda *_: self._fiber_main(live))
        live.pid = self._irq_pid
        live.comm = timer.cpu.irq_task.comm
        live.on_cpu = timer.cpu
        live.timer = timer
        self._live.append(live)
        self._cur = live
        return live

    def _fiber_main(self, live: Fiber) -> None:
        """Serve one interrupt after the other, each time that somebody has given us one and switched here."""
        try:
            while True:
                self._serve_timer(live, live.timer)
                self._fibers.append(live)
                follower = self._pick() if self._root.error is None else self._revive_root()
                if follower is not live:
                    follower.greenlet.switch()
        except self._exit_type:
            return

    def _serve_timer(self, live: Fiber, timer: SimTimer) -> None:
        try:
            if self.hook is not None and timer.cpu.index != HARDWARE:
                self.hook("irq_handler_entry", (timer.cpu.index,))
            timer.fn()
        except self._exit_type:
            raise
        except Exception as exc:
            report_failure(exc, None, "timer function")
        except BaseException as exc:  # Ctrl-C: to whoever runs the simulation
            self._root.error = exc
        if self._acc:
            self._fold()
        timer.running = False
        self._live.remove(live)
        spinners, timer.spinners = timer.spinners or (), None
        for spinner in spinners:
            self._unspin(spinner)

    def close(self) -> None:
        super().close()
        while self._fibers:
            fiber = self._fibers.pop()
            fiber.greenlet.parent = self._getcurrent()
            fiber.greenlet.throw(self._exit_type)

    def _revive_root(self) -> SimTask:
        if self._root in self._ready:
            self._ready.remove(self._root)
        return super()._revive_root()

    def _live_interrupts(self) -> list[SimTask]:
        return list(self._live)

    def lock(self, name: str = "lock") -> Spinlock:
        return cast(Spinlock, ExploreSpinlock(runtime=self, name=name))
