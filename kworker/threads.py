"""ThreadRuntime: tasks are OS threads, time is the wall clock, interrupts come from one timer thread."""

from __future__ import annotations

import _thread
import heapq
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar, cast

from kworker.interrupted import asleep_in
from kworker.misuse import AtomicSleepError, is_failure, report_failure
from kworker.runtime import Runtime, TimerHandle, context
from kworker.spinlock import Spinlock, ThreadSpinlock
from kworker.task import (
    TASK_COMM_LEN,
    TASK_NORMAL,
    TASK_RUNNING,
    TASK_UNINTERRUPTIBLE,
    TaskStruct,
)
from kworker.token import LockToken, make_token

__all__ = ["ThreadRuntime", "ThreadTask"]

R = TypeVar("R")

_now = time.perf_counter_ns


class ThreadTask(TaskStruct):
    """A task that is an OS thread.

    `_token` is its wake-up (token.py says which kind and why).
    """

    __slots__ = ("_final", "_thread", "_token")

    def __init__(self, comm: str, pid: int, runtime: Runtime) -> None:
        super().__init__(comm, pid, runtime)
        self._token = make_token()
        self._thread: threading.Thread | None = None
        self._final: tuple[int, int, int] | None = None
        self.start_ns = _now()

    def _status(self, field: str) -> int:
        try:
            with open(f"/proc/self/task/{self.pid}/status", encoding="ascii", errors="replace") as status:
                for line in status:
                    if line.startswith(field):
                        return int(line.split()[1])
        except OSError:
            pass  # the thread has just ended, or this is not Linux
        return 0

    @property
    def cpu_ns(self) -> int:
        if self._final is not None:
            return self._final[0]
        thread = self._thread
        if thread is None or thread.ident is None:
            return 0
        if thread.ident == _thread.get_ident():
            return time.thread_time_ns()
        try:
            return time.clock_gettime_ns(time.pthread_getcpuclockid(thread.ident))
        except OSError:
            return 0  # it ended between the check and the call

    @property
    def nvcsw(self) -> int:
        return self._final[1] if self._final is not None else self._status("voluntary_ctxt")

    @property
    def nivcsw(self) -> int:
        return self._final[2] if self._final is not None else self._status("nonvoluntary_ctxt")

    def _close_books(self) -> None:
        """Called by the thread itself, last: its clock and counters vanish with it."""
        self._final = (time.thread_time_ns(), self._status("voluntary_ctxt"), self._status("nonvoluntary"))


def _nothing() -> None:
    """What a cancelled timer would do."""


class _ThreadTimer(TimerHandle):
    __slots__ = ("_owner",)

    def __init__(self, when_ns: int, fn: Callable[[], None], owner: ThreadRuntime) -> None:
        super().__init__(when_ns, fn)
        self._owner = owner

    def cancel(self) -> bool:
        owner = self._owner
        with owner._timer_lock:
            was, self.pending = self.pending, False
            if was:
                # The entry stays in the heap until its time: what the function holds need not.
                self.fn = _nothing
                owner._timer_dropped()
        return was


class ThreadRuntime(Runtime):
    """Each kthread is a daemon thread of the OS, named after it; `now_ns` is `time.perf_counter_ns`.

    There is one per process by default. `with ThreadRuntime():` uses another one, with a timer thread of
    its own that ends with the block. Kthreads are yours to stop; `kthread_stop` also joins the thread.
    """

    def __init__(self) -> None:
        super().__init__()
        self._tasks: dict[int, ThreadTask] = {}
        self._timer_lock = _thread.allocate_lock()
        self._timers: list[tuple[int, int, _ThreadTimer]] = []
        self._timer_seq = 0
        self._timer_dead = 0
        self._timer_kick = LockToken()
        self._timer_thread: threading.Thread | None = None
        self._timer_ident: int | None = None
        self._timer_idle = _thread.allocate_lock()
        self._closing = False

    # ---- time ------------------------------------------------------------------------------------------

    @property
    def now_ns(self) -> int:
        return _now()

    def call_at(
        self, when_ns: int, fn: Callable[[], None], *, cpu: int | None = None, hardware: bool = False
    ) -> TimerHandle:
        timer = _ThreadTimer(when_ns, fn, self)
        with self._timer_lock:
            self._timer_seq += 1
            heapq.heappush(self._timers, (when_ns, self._timer_seq, timer))
            first = self._timers[0][2] is timer
            if self._timer_thread is None:
                self._closing = False
                self._timer_thread = threading.Thread(
                    target=self._timer_main, name="kworker-timer", daemon=True
                )
                self._timer_thread.start()
        if first and _thread.get_ident() != self._timer_ident:
            self._timer_kick.give()
        return timer

    def _timer_dropped(self) -> None:
        """One timer in the heap is cancelled; rebuild when most are, so that they do not pile up."""
        self._timer_dead += 1
        if self._timer_dead > 64 and self._timer_dead * 2 > len(self._timers):
            self._timers = [entry for entry in self._timers if entry[2].pending]
            heapq.heapify(self._timers)
            self._timer_dead = 0

    def _timer_main(self) -> None:
        """The timer thread: interrupt context. It sleeps until the first timer is due or it is kicked."""
        self._timer_ident = _thread.get_ident()
        context.runtime = self
        kick = self._timer_kick
        while not self._closing:
            # `running` is only ever true while `_timer_idle` is held: wait_callback relies on it.
            with self._timer_idle:
                with self._timer_lock:
                    timer, wait_s = self._timer_next()
                if timer is not None:
                    try:
                        timer.fn()
                    except BaseException as exc:
                        if not is_failure(exc):
                            raise
                        report_failure(exc, None, "timer function")
                    timer.running = False
                    continue
            kick.take(wait_s)
        self._timer_ident = None

    def _timer_next(self) -> tuple[_ThreadTimer | None, float | None]:
        """The timer that is due, marked as running; or None and the seconds to sleep (None: until kicked)."""
        timers = self._timers
        while timers:
            when, _, timer = timers[0]
            if not timer.pending:
                heapq.heappop(timers)
                self._timer_dead -= 1
                continue
            left_ns = when - _now()
            if left_ns > 0:
                return None, left_ns / 1e9
            heapq.heappop(timers)
            timer.pending = False
            timer.running = True
            return timer, 0.0
        return None, None

    def wait_callback(self, handle: TimerHandle) -> None:
        if handle.running and _thread.get_ident() != self._timer_ident:
            while handle.running:
                with self._timer_idle:
                    pass

    # ---- tasks -----------------------------------------------------------------------------------------

    def current(self) -> TaskStruct | None:
        task = context.task
        if task is None:
            if _thread.get_ident() == self._timer_ident:
                return None
            task = self._adopt()
        return task

    def _adopt(self) -> ThreadTask:
        """A task for a thread that the program started itself, such as the main thread."""
        thread = threading.current_thread()
        task = ThreadTask(thread.name[: TASK_COMM_LEN - 1], _thread.get_native_id(), self)
        task._thread = thread
        context.task = task
        return task

    def in_interrupt(self) -> bool:
        return _thread.get_ident() == self._timer_ident

    def new_task(self, comm: str, entry: Callable[[TaskStruct], None]) -> TaskStruct:
        task = ThreadTask(comm, 0, self)
        task.state = TASK_UNINTERRUPTIBLE
        thread = threading.Thread(target=self._thread_main, args=(task, entry), name=comm, daemon=True)
        task._thread = thread
        thread.start()
        task.pid = thread.native_id or 0
        self._tasks[task.pid] = task
        _set_os_name(task.pid, comm)
        return task

    def _thread_main(self, task: ThreadTask, entry: Callable[[TaskStruct], None]) -> None:
        context.runtime = self
        context.task = task
        while task.state != TASK_RUNNING:
            task._token.take()
        try:
            entry(task)
        finally:
            task._close_books()
            self._tasks.pop(task.pid, None)

    def prepare(self, task: TaskStruct, state: int) -> None:
        # A wake-up left over from the last sleep must not end this one. A new one that is lost here came
        # before the caller looks at its condition, so it sees what the waker did.
        cast(ThreadTask, task)._token.drop()
        task.state = state

    @asleep_in
    def schedule(self, deadline_ns: int | None = None) -> None:
        task = context.task
        if task is None:
            if _thread.get_ident() == self._timer_ident:
                raise AtomicSleepError(
                    "sleeping in interrupt context: a timer function must not block; "
                    "queue a work and block there"
                )
            task = self._adopt()
        if task.state == TASK_RUNNING:
            time.sleep(0)
            return
        start = _now()
        token = cast(ThreadTask, task)._token
        if deadline_ns is None:
            token.take()
        elif deadline_ns > start:
            token.take((deadline_ns - start) / 1e9)
        task.state = TASK_RUNNING
        task.blocked_ns += _now() - start

    def wake(self, task: TaskStruct, states: int = TASK_NORMAL) -> int:
        if not task.state & states:
            return 0
        task.state = TASK_RUNNING
        cast(ThreadTask, task)._token.give()
        if self.hook is not None:
            self.hook("sched_wakeup", (task.comm, task.pid))
        return 1

    def bind(self, task: TaskStruct, cpu: int) -> None:
        task.cpu = cpu
        # No such CPU, or not Linux: it runs anywhere, as the kernel's fallback does.
        with suppress(OSError, AttributeError, OverflowError, ValueError):
            os.sched_setaffinity(task.pid, {cpu})

    def reap(self, task: TaskStruct) -> None:
        thread = cast(ThreadTask, task)._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def tasks(self) -> list[TaskStruct]:
        return [task for _, task in sorted(self._tasks.copy().items())]

    def run(self, main: Callable[..., R], *args: Any) -> R:
        outcome: list[R] = []
        failure: list[BaseException] = []

        def entry(task: TaskStruct) -> None:
            try:
                outcome.append(main(*args))
            except BaseException as exc:  # everything is raised again in the caller, nothing gets lost
                failure.append(exc)

        task = self.new_task("main", entry)
        self.wake(task)
        self.reap(task)
        if failure:
            raise failure[0]
        return outcome[0]

    def lock(self, name: str = "lock") -> Spinlock:
        return cast(Spinlock, ThreadSpinlock(runtime=self, name=name))

    def close(self) -> None:
        """Stop the timer thread; timers that are still armed never fire."""
        thread = self._timer_thread
        self._closing = True
        self._timer_kick.give()
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        with self._timer_lock:
            self._timer_thread = None
            for _, _, timer in self._timers:
                timer.pending = False
            self._timers.clear()


def _set_os_name(pid: int, comm: str) -> None:
    """Name the thread in the OS (`top -H`, /proc/self/task/*/comm); Linux only."""
    with suppress(OSError), open(f"/proc/self/task/{pid}/comm", "wb") as file:
        file.write(comm.encode(errors="replace")[: TASK_COMM_LEN - 1])
