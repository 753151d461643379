"""SimRuntime: tasks are greenlets, time is virtual, and a run is a pure function of program and seed."""

from __future__ import annotations

import heapq
from _thread import get_ident
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar, cast

from kworker.completion import Completion
from kworker.deadlock import deadlock_report
from kworker.interrupted import asleep_in
from kworker.misuse import KworkerError, SimClosedError, SimDeadlock
from kworker.runtime import context
from kworker.schedulers import Schedule
from kworker.siminterrupted import unwatch, watch
from kworker.simkernel import SimKernel
from kworker.simparts import SimCosts, SimCpu, SimSpinlock, SimTask
from kworker.spinlock import Spinlock
from kworker.task import TASK_DEAD, TASK_RUNNING, TaskStruct
from kworker.trace import TRACE_EVENTS_DEFAULT

if TYPE_CHECKING:
    from kworker.schedulers import Scheduler

__all__ = ["SimRuntime"]

R = TypeVar("R")


class SimRuntime(SimKernel):
    """A simulated machine with `cpus` virtual CPUs and a virtual clock in integer nanoseconds.

    seed       of `rng` and of an exploring scheduler
    scheduler  None or "run-to-block" for the fast gear; "random", "pct" or a Scheduler explores
    costs      what wake-ups, switches and interrupts cost
    trace      True, or a number of events, records `trace`

    It belongs to the OS thread that made it. A blocking call from outside any task runs the simulation
    until the caller can go on. Raises ValueError for a bad number of CPUs or an unknown scheduler.
    """

    def __new__(cls, *args: Any, scheduler: Scheduler | str | None = None, **kwargs: Any) -> SimRuntime:
        if cls is SimRuntime and scheduler not in (None, "run-to-block"):
            from kworker.exploring import ExploreRuntime

            return cast(SimRuntime, super().__new__(ExploreRuntime))
        return super().__new__(cls)

    def __init__(
        self,
        seed: int = 0,
        cpus: int = 2,
        scheduler: Scheduler | str | None = None,
        costs: SimCosts | None = None,
        trace: bool | int = False,
    ) -> None:
        import greenlet

        if cpus < 1:
            raise ValueError(f"cpus={cpus}: a simulation needs at least one CPU")
        super().__init__(cpus, costs)
        self._new_greenlet = greenlet.greenlet
        self.seed = seed
        self.rng = Random(seed)
        self._tasks: dict[int, SimTask] = {}
        self._next_pid = 1
        if trace:
            self.enable_trace(TRACE_EVENTS_DEFAULT if trace is True else trace)
        watch(self)

    # ---- tasks -----------------------------------------------------------------------------------------

    def current(self) -> TaskStruct | None:
        if get_ident() != self._ident:
            self._foreign_thread()
        me = self._cur
        return None if me.irq else me

    def in_interrupt(self) -> bool:
        return self._cur.irq

    def new_task(self, comm: str, entry: Callable[[TaskStruct], None]) -> TaskStruct:
        self._check_thread()
        if self._closed:
            raise SimClosedError(f"the simulation is closed and cannot start {comm!r}")
        task = SimTask.sleeping(comm, self._next_pid, self, entry)
        self._next_pid += 1
        self._tasks[task.pid] = task
        creator = self._getcurrent()

        @asleep_in
        def run(*_: Any) -> None:
            try:
                creator.switch()
            except self._exit_type:
                return  # close() before its first turn
            self._task_main(task)

        # A greenlet's recursion depth starts at that of whoever switches to it first. That has to be its
        # creator: otherwise tasks started by one another's blocking (a hundred callers) would pile up their
        # depths to a RecursionError.
        self._set_greenlet(task, run)
        task.switch()
        return task

    def _set_greenlet(self, task: SimTask, run: Callable[..., None]) -> None:
        top = self._getcurrent()
        while top.parent is not None:
            top = top.parent
        task.greenlet = self._new_greenlet(run, top)
        task.switch = task.greenlet.switch

    def _task_main(self, task: SimTask) -> None:
        entry = task.entry
        assert entry is not None
        try:
            entry(task)
        except self._exit_type:
            return  # close() ends the greenlet and waits for it
        except BaseException as exc:  # Ctrl-C lands in whoever runs; it is meant for the outermost caller
            self._root.error = exc
            self._acc = 0
        try:
            self.settle()
        except self._exit_type:
            return
        task.state = TASK_DEAD
        task.asleep = True
        self._tasks.pop(task.pid, None)
        self._release_cpu(task)
        self._leave()

    def _leave(self) -> None:
        """The current greenlet ends; its parent, which runs next, becomes whoever is due."""
        if self._root.error is not None:
            follower = self._revive_root()
        else:
            follower = self._pick()
        self._getcurrent().parent = follower.greenlet

    def bind(self, task: TaskStruct, cpu: int) -> None:
        task = cast(SimTask, task)
        task.cpu = cpu
        task.bound = self.cpus[cpu] if 0 <= cpu < len(self.cpus) else None

    def reap(self, task: TaskStruct) -> None:
        pass  # a greenlet that announced its end has nothing left that anybody could see

    def tasks(self) -> list[TaskStruct]:
        return [self._tasks[pid] for pid in sorted(self._tasks)]

    def lock(self, name: str = "lock") -> Spinlock:
        return cast(Spinlock, SimSpinlock(runtime=self, name=name))

    @asleep_in
    def run(self, main: Callable[..., R], *args: Any) -> R:
        """Run `main(*args)` as a task and return its result; its exceptions are raised here.

        From outside, `main` runs on the caller's stack, so that a deadlock or Ctrl-C shows where it waits.
        """
        self._check_thread()
        if self._closed:
            raise SimClosedError("the simulation is closed")
        if self._cur is not self._root or not self._root.outside:
            return self._run_inside(main, args)
        root = self._root
        task = SimTask("main", self._next_pid, self)
        self._next_pid += 1
        task.start_ns = task.since_ns = self._now
        task.greenlet = self._getcurrent()
        task.switch = task.greenlet.switch
        self.settle()
        self._tasks[task.pid] = task
        task.on_cpu = root.on_cpu
        root.on_cpu.cur = self._cur = self._root = task
        before, context.runtime = context.runtime, self
        try:
            result = main(*args)
            self.settle()
            return result
        finally:
            context.runtime = before
            self._acc = 0
            task.state = TASK_DEAD
            self._tasks.pop(task.pid, None)
            root.on_cpu = task.on_cpu
            root.on_cpu.cur = self._cur = self._root = root

    @asleep_in
    def _run_inside(self, main: Callable[..., R], args: tuple[Any, ...]) -> R:
        outcome: list[R] = []
        failure: list[BaseException] = []
        done = Completion(runtime=self, name="run(main) has ended")

        def entry(task: TaskStruct) -> None:
            try:
                outcome.append(main(*args))
            except Exception as exc:
                failure.append(exc)
            done.complete()

        task = self.new_task("main", entry)
        done.provider = task
        self.wake(task)
        done.wait()
        if failure:
            raise failure[0]
        return outcome[0]

    # ---- errors and the end ----------------------------------------------------------------------------

    def _stuck(self) -> SimTask:
        """No event is left, and the outermost caller waits: tell it."""
        self._root.error = SimDeadlock(deadlock_report(self, [*self._tasks.values(), self._root]))
        return self._revive_root()

    def _revive_root(self) -> SimTask:
        """Make the outermost caller run, wherever it waits, to raise its `error`."""
        root = self._root
        root.state = TASK_RUNNING
        root.asleep = False
        self._acc = 0
        self._heap = [entry for entry in self._heap if entry[2] is not root]
        heapq.heapify(self._heap)
        for cpu in self.cpus:
            if root in cpu.rq:
                cpu.rq.remove(root)
                self._nqueued -= 1
        if root.on_cpu.cur is not root:
            idle = [cpu for cpu in self.cpus if cpu.cur is None]
            root.on_cpu = idle[0] if idle else SimCpu(len(self.cpus), self)
            root.on_cpu.cur = root
        self._cur = root
        return root

    def _live_interrupts(self) -> list[SimTask]:
        return [cpu.irq_live for cpu in [*self.cpus, self._hardware] if cpu.irq_live is not None]

    @property
    def recorded_schedule(self) -> Schedule:
        """The choices that the scheduler made so far; none in the run-to-block gear."""
        return Schedule(())

    def close(self) -> None:
        """End all tasks: each is thrown out of where it waits. Nothing runs any more afterwards.

        Raises KeyboardInterrupt at the end for a Ctrl-C that nobody has met yet.
        """
        self._check_thread()
        if self._closed:
            return
        if self._cur is not self._root or not self._root.outside:
            raise KworkerError(
                f"close() from inside the simulation (task {self._cur.comm!r}); return from it first"
            )
        self._closed = True
        unwatch(self)
        self.sync = None
        here = self._getcurrent()
        for task in [*self._live_interrupts(), *self._tasks.values()]:
            if task.greenlet is not here and not task.greenlet.dead:
                task.greenlet.parent = here
                self._cur = task
                task.greenlet.throw(self._exit_type)
        self._cur = self._root
        self._tasks.clear()
        self._heap.clear()
        self._held.clear()
        if self.interrupted:
            self.interrupted = False
            raise KeyboardInterrupt
