"""struct completion: one task waits until another says that something is done."""

from __future__ import annotations

import _thread
from collections import deque
from typing import TYPE_CHECKING, Any

from kworker.jiffy import jiffies_left, jiffies_to_ns
from kworker.runtime import Runtime, current_runtime
from kworker.task import TASK_RUNNING, TASK_UNINTERRUPTIBLE

if TYPE_CHECKING:
    from kworker.task import TaskStruct

__all__ = [
    "COMPLETION_ALL",
    "Completion",
    "complete",
    "complete_all",
    "completion_done",
    "init_completion",
    "reinit_completion",
    "try_wait_for_completion",
    "wait_for_completion",
    "wait_for_completion_timeout",
]

COMPLETION_ALL = 0xFFFF_FFFF
"""`done` after complete_all: every wait succeeds from then on (kernel: UINT_MAX)."""


class Completion:
    """A counter of announcements. `complete` adds one, `wait` sleeps until there is one and takes it.

    `done` is the kernel's counter. `name` and `provider` (the task or worker that is expected to complete
    it) are for reports only. Waiters are served in order of arrival; a newcomer may overtake a waiter that
    was woken and has not run yet, as in the kernel.
    """

    __slots__ = ("_lock", "_waiters", "done", "name", "provider", "runtime")

    def __init__(self, *, runtime: Runtime | None = None, name: str = "completion") -> None:
        self.runtime = runtime if runtime is not None else current_runtime()
        self.name = name
        self.provider: Any = None
        self.done = 0
        # Held for a few instructions and never across a switch: a plain lock is right in a simulation, too.
        self._lock = _thread.allocate_lock()
        self._waiters: deque[TaskStruct] = deque()

    def complete(self) -> None:
        """Announce one; wakes the first waiter. Allowed in interrupt context."""
        runtime = self.runtime
        if runtime.sync is not None:
            runtime.sync("complete")
        with self._lock:
            if self.done != COMPLETION_ALL:
                self.done += 1
            task = self._waiters.popleft() if self._waiters else None
        if task is not None:
            task.runtime.wake(task)

    def complete_all(self) -> None:
        """Let everybody through, now and later, until `reinit`."""
        runtime = self.runtime
        if runtime.sync is not None:
            runtime.sync("complete_all")
        with self._lock:
            self.done = COMPLETION_ALL
            waiters = list(self._waiters)
            self._waiters.clear()
        for task in waiters:
            task.runtime.wake(task)

    def wait(self, timeout_ns: int | None = None) -> bool:
        """Sleep until completed and take one announcement. False if `timeout_ns` passed first.

        Raises AtomicSleepError in interrupt context; SimDeadlock if nothing in the simulation completes it.
        """
        runtime = self.runtime
        if runtime.sync is not None:
            runtime.sync("wait")
        if self.done and self.try_take():
            return True
        deadline = None if timeout_ns is None else runtime.now_ns + timeout_ns
        task = runtime.current() or runtime.require_task(f"waiting for {self.name!r}")
        return self._sleep(task, deadline)

    def _sleep(self, task: TaskStruct, deadline: int | None) -> bool:
        runtime = self.runtime
        lock, waiters = self._lock, self._waiters
        task.waiting_on = self
        first = True
        try:
            while True:
                with lock:
                    if self.done:
                        if self.done != COMPLETION_ALL:
                            self.done -= 1
                        break
                    if deadline is not None and not first and runtime.now_ns >= deadline:
                        return False
                    # A waiter that was woken is off the queue; if somebody overtook it, it starts again.
                    if first or task not in waiters:
                        waiters.append(task)
                        first = False
                    runtime.prepare(task, TASK_UNINTERRUPTIBLE)
                runtime.schedule(deadline)
            return True
        except BaseException:
            # Thrown out of the sleep (Ctrl-C, a simulation that closes). An announcement that was meant
            # for this task goes to the next one.
            with lock:
                heir = next((t for t in waiters if t is not task), None) if self.done else None
            if heir is not None:
                heir.runtime.wake(heir)
            raise
        finally:
            task.waiting_on = None
            task.state = TASK_RUNNING
            if waiters:
                with lock:
                    if task in waiters:
                        waiters.remove(task)

    def try_take(self) -> bool:
        """Take one announcement if there is one. Never blocks."""
        with self._lock:
            if not self.done:
                return False
            if self.done != COMPLETION_ALL:
                self.done -= 1
            return True

    def reinit(self) -> None:
        """Forget all announcements. Must not run while somebody may still complete or wait."""
        self.done = 0

    def waiters(self) -> list[TaskStruct]:
        """The tasks that wait, in order."""
        with self._lock:
            return list(self._waiters)

    def __repr__(self) -> str:
        return f"<Completion {self.name!r} done={self.done}>"


def init_completion(x: Completion) -> None:
    """Make `x` new: nothing announced, nobody waiting."""
    x.done = 0
    x._waiters.clear()


def reinit_completion(x: Completion) -> None:
    """Forget what was announced, so that `x` can be used again."""
    x.reinit()


def complete(x: Completion) -> None:
    """Announce one; wakes one waiter."""
    x.complete()


def complete_all(x: Completion) -> None:
    """Let all waiters through, now and later."""
    x.complete_all()


def wait_for_completion(x: Completion) -> None:
    """Sleep until `x` is completed."""
    x.wait()


def wait_for_completion_timeout(x: Completion, timeout: int) -> int:
    """Sleep at most `timeout` jiffies. 0 if they passed, else the jiffies left, at least 1."""
    runtime = x.runtime
    deadline = runtime.now_ns + jiffies_to_ns(timeout)
    if not x.wait(jiffies_to_ns(timeout)):
        return 0
    return max(1, jiffies_left(deadline - runtime.now_ns))


def try_wait_for_completion(x: Completion) -> bool:
    """Take one announcement without blocking. True if there was one."""
    runtime = x.runtime
    if runtime.sync is not None:
        runtime.sync("try_wait")
    return x.try_take()


def completion_done(x: Completion) -> bool:
    """True if a wait would not block."""
    return x.done != 0
