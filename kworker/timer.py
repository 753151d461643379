"""timer_list and the sleeping functions: delays in jiffies on the runtime's clock."""

from __future__ import annotations

from collections.abc import Callable

from kworker.jiffy import (
    MAX_SCHEDULE_TIMEOUT,
    NSEC_PER_JIFFY,
    jiffies_left,
    jiffies_to_ns,
    msecs_to_jiffies,
)
from kworker.misuse import warn
from kworker.runtime import Runtime, TimerHandle, current_runtime
from kworker.task import TASK_RUNNING, TASK_UNINTERRUPTIBLE, TaskStruct

__all__ = [
    "TimerList",
    "add_timer",
    "cond_resched",
    "del_timer",
    "del_timer_sync",
    "jiffies",
    "mod_timer",
    "msleep",
    "schedule",
    "schedule_timeout",
    "set_current_state",
    "timer_delete",
    "timer_delete_sync",
    "timer_pending",
    "timer_setup",
    "wake_up_process",
]


class TimerList:
    """A timer: `function(timer)` runs once in interrupt context when the clock reaches `expires` (jiffies).

    `owner` is what it is part of, if anything (the kernel would use from_timer). Unlike the kernel's it does
    not wait for a tick: it fires at the nanosecond.
    """

    __slots__ = ("_handle", "expires", "function", "owner", "runtime")

    def __init__(
        self, function: Callable[[TimerList], None] | None = None, *, runtime: Runtime | None = None
    ) -> None:
        self.function = function
        self.expires = 0
        self.owner: object = None
        self.runtime = runtime if runtime is not None else current_runtime()
        self._handle: TimerHandle | None = None

    def _fire(self) -> None:
        function = self.function
        if function is None:
            warn("a timer fired that has no function; call timer_setup before add_timer")
            return
        function(self)

    def arm_ns(self, when_ns: int) -> None:
        """Arm it for `when_ns` on the runtime's clock. The caller made sure that it is not armed."""
        self._handle = self.runtime.call_at(when_ns, self._fire)

    def left_ns(self) -> int:
        """Nanoseconds until it fires; 0 if it is not armed or due."""
        handle = self._handle
        if handle is None or not handle.pending:
            return 0
        return max(0, handle.when_ns - self.runtime.now_ns)


def jiffies(runtime: Runtime | None = None) -> int:
    """The clock in jiffies (milliseconds)."""
    return (runtime or current_runtime()).now_ns // NSEC_PER_JIFFY


def timer_setup(timer: TimerList, function: Callable[[TimerList], None], flags: int = 0) -> None:
    """Give an idle timer its function."""
    if timer_pending(timer):
        warn("timer_setup on an armed timer; timer_delete_sync it first")
        timer_delete(timer)
    timer.function = function


def timer_pending(timer: TimerList) -> bool:
    """True while armed."""
    return timer._handle is not None and timer._handle.pending


def add_timer(timer: TimerList) -> None:
    """Arm an idle timer for `timer.expires` (jiffies). Warns and does nothing if it is armed."""
    if timer_pending(timer):
        warn("add_timer on an armed timer; use mod_timer to move it")
        return
    timer.arm_ns(jiffies_to_ns(timer.expires))


def mod_timer(timer: TimerList, expires: int) -> int:
    """Arm for `expires` (jiffies), whether armed or not. 1 if it was armed, else 0."""
    was = timer_delete(timer)
    timer.expires = expires
    timer.arm_ns(jiffies_to_ns(expires))
    return was


def timer_delete(timer: TimerList) -> int:
    """Disarm. 1 if it was armed. Its function may be running still."""
    handle = timer._handle
    return 1 if handle is not None and handle.cancel() else 0


def timer_delete_sync(timer: TimerList) -> int:
    """Disarm, and wait for the function if it is running. 1 if it was armed."""
    was = timer_delete(timer)
    if not was and timer._handle is not None and timer._handle.running:
        timer.runtime.wait_callback(timer._handle)
    return was


del_timer = timer_delete
del_timer_sync = timer_delete_sync


# ---- sleeping ------------------------------------------------------------------------------------------


def wake_up_process(task: TaskStruct) -> int:
    """Wake `task` from a normal sleep. 1 if it slept (or was about to), 0 if it was running."""
    runtime = task.runtime
    if runtime.sync is not None:
        runtime.sync("wake_up_process")
    return runtime.wake(task)


def set_current_state(state: int) -> None:
    """Say that the caller is about to sleep in `state` (or, TASK_RUNNING, that it is not)."""
    runtime = current_runtime()
    if runtime.sync is not None:
        runtime.sync("set_current_state")
    task = runtime.require_task("set_current_state")
    if state == TASK_RUNNING:
        task.state = state
    else:
        runtime.prepare(task, state)


def schedule() -> None:
    """Sleep in the state that was set until woken; only yield the CPU if it is TASK_RUNNING."""
    current_runtime().schedule()


def cond_resched() -> None:
    """Yield the CPU if somebody else waits for it."""
    current_runtime().schedule()


def schedule_timeout(timeout: int) -> int:
    """`schedule` for at most `timeout` jiffies. Returns the jiffies left, 0 if they passed."""
    runtime = current_runtime()
    if timeout >= MAX_SCHEDULE_TIMEOUT:
        runtime.schedule()
        return MAX_SCHEDULE_TIMEOUT
    deadline = runtime.now_ns + jiffies_to_ns(timeout)
    runtime.schedule(deadline)
    return jiffies_left(deadline - runtime.now_ns)


def msleep(msecs: int) -> None:
    """Sleep `msecs` milliseconds, whoever tries to wake the caller meanwhile."""
    runtime = current_runtime()
    deadline = runtime.now_ns + jiffies_to_ns(msecs_to_jiffies(msecs))
    while runtime.now_ns < deadline:
        task = runtime.require_task("msleep")
        runtime.prepare(task, TASK_UNINTERRUPTIBLE)
        runtime.schedule(deadline)
