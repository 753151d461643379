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
from kworker.schedulers import TIMER_KEY, Schedule, Scheduler, make_scheduler
from kworker.simparts import HARDWARE, SimCosts, SimSpinlock, SimTask, SimTimer
from kworker.simulation import SimRuntime
from kworker.spinlock import Spinlock
from kworker.task import TASK_NORMAL, TASK_RUNNING, TaskStruct

__all__ = ["ExploreRuntime"]


class ExploreSpinlock(SimSpinlock):
    """A spinlock whose taking and releasing are points."""

    __slots__ = ()

    def acquire(self) -> bool:
        self.runtime.point("lock")
        return super().acquire()

    __enter__ = acquire

    def release(self) -> None:
        super().release()
        self.runtime.point("unlock")

    def __exit__(self, *exc: object) -> None:
        self.release()

    def pass_by(self) -> bool:
        return False


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
        self._live: list[SimTask] = []
        self.scheduler.begin(self.rng)

    @property
    def recorded_schedule(self) -> Schedule:
        return Schedule(tuple(self._choices))

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
        self._questions += 1
        if self._questions > self.scheduler.steps_max:
            self._root.error = SimLivelock(
                f"no end after {self._questions - 1} choices, at {name!r} of {self._cur.comm}; "
                "does a task poll without ever blocking?"
            )
            return self._revive_root()
        tasks, timer = self._possible(me)
        keys = [task.pid for task in tasks]
        if timer is not None:
            keys.append(TIMER_KEY)
        if not keys:
            return self._stuck()
        index = 0
        if len(keys) > 1:
            try:
                index = self.scheduler.choose(name, keys, me is not None and tasks[:1] == [me])
            except ReplayError as exc:
                self._root.error = exc
                return self._revive_root()
            self._choices.append(index)
            if self.hook is not None:
                self.hook("choose", (name, keys[index], len(keys)))
        if index == len(tasks):
            assert timer is not None
            return self._fire(timer)
        follower = tasks[index]
        if follower is not me:
            self._ready.remove(follower)
        self._cur = follower
        return follower

    def _possible(self, me: SimTask | None) -> tuple[list[SimTask], SimTimer | None]:
        """The tasks that could run next, and the timer that could fire instead."""
        tasks = self._ready if me is None else [me, *self._ready]
        timer = self._next_timer()
        if self._held or self._live:
            # Lock holders, spinners and interrupts cannot be preempted: each keeps a CPU.
            pinned = [task for task in tasks if task.irq or self._holds_lock(task)]
            if len(pinned) + self._spinning >= len(self.cpus):
                return pinned, None
        if timer is not None and tasks and timer.when_ns > self._now + self.scheduler.slack_ns:
            timer = None
        return tasks, timer

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
        live = SimTask(f"irq/{timer.cpu.index}", self._irq_pid, self)
        live.irq = True
        live.on_cpu = timer.cpu
        self._set_greenlet(live, lambda *_: self._interrupt_main(live, timer))
        self._live.append(live)
        self._cur = live
        return live

    def _interrupt_main(self, live: SimTask, timer: SimTimer) -> None:
        try:
            if self.hook is not None and timer.cpu.index != HARDWARE:
                self.hook("irq_handler_entry", (timer.cpu.index,))
            timer.fn()
        except self._exit_type:
            return
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
        self._leave()

    def _revive_root(self) -> SimTask:
        if self._root in self._ready:
            self._ready.remove(self._root)
        return super()._revive_root()

    def _live_interrupts(self) -> list[SimTask]:
        return self._live

    def lock(self, name: str = "lock") -> Spinlock:
        return cast(Spinlock, ExploreSpinlock(runtime=self, name=name))
