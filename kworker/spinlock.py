"""spinlock_t under the kernel's names. Every spinlock here behaves as the kernel's irqsave flavour."""

from __future__ import annotations

import _thread
from typing import TYPE_CHECKING, Any

from kworker.misuse import KworkerError

if TYPE_CHECKING:
    from types import TracebackType

    from kworker.runtime import Runtime

__all__ = [
    "Spinlock",
    "ThreadSpinlock",
    "spin_is_locked",
    "spin_lock",
    "spin_lock_init",
    "spin_lock_irqsave",
    "spin_trylock",
    "spin_unlock",
    "spin_unlock_irqrestore",
]


class Spinlock:
    """A lock that is held for a short time and never while sleeping. Use `with lock:` or `spin_lock`.

    `Spinlock(runtime=rt, name="…")` makes the kind that the runtime needs; without `runtime` that of the
    current task, else the entered runtime, else threads. `name` shows in deadlock reports.
    """

    __slots__ = ()
    name: str
    runtime: Runtime

    def __new__(cls, *, runtime: Runtime | None = None, name: str = "lock") -> Any:
        if cls is not Spinlock:
            return super().__new__(cls)
        if runtime is None:
            from kworker.runtime import current_runtime

            runtime = current_runtime()
        return runtime.lock(name)

    def __init__(self, *, runtime: Runtime | None = None, name: str = "lock") -> None:
        # __new__ has made the lock complete: Python calls __init__ again on what it returned.
        pass

    def acquire(self) -> Any:
        """Take the lock; spins while another task or interrupt holds it."""
        raise NotImplementedError

    def try_acquire(self) -> bool:
        """Take the lock if it is free. True if it was."""
        raise NotImplementedError

    def release(self) -> None:
        """Give the lock back. Only its holder may."""
        raise NotImplementedError

    def held(self) -> bool:
        """True if the caller holds the lock (lockdep_assert_held is `assert lock.held()`)."""
        raise NotImplementedError

    def locked(self) -> bool:
        """True if anybody holds the lock."""
        raise NotImplementedError

    def __enter__(self) -> Any:
        return self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class ThreadSpinlock(_thread.RLock, Spinlock):  # type: ignore[misc]  # final only in the stub
    """A spinlock between OS threads.

    Python threads must not spin (the holder needs the interpreter lock to go on), so the waiter sleeps.
    The C recursive lock is the base because its `with` costs 45 ns and it knows its owner; a Python class
    around a plain lock costs three times that. Recursion is refused in `spin_lock`.
    """

    __slots__ = ("name", "runtime")

    def __new__(cls, *, runtime: Runtime, name: str = "lock") -> Any:
        self = _thread.RLock.__new__(cls)
        self.name = name
        self.runtime = runtime
        return self

    def try_acquire(self) -> bool:
        return not self.held() and self.acquire(blocking=False)

    def held(self) -> bool:
        return bool(self._is_owned())  # type: ignore[attr-defined]

    def locked(self) -> bool:
        if self.held():
            return True
        if self.acquire(blocking=False):
            self.release()
            return False
        return True

    def __repr__(self) -> str:
        return f"<Spinlock {self.name!r}>"


def spin_lock_init(lock: Spinlock) -> None:
    """Nothing to do, a new Spinlock is unlocked; kept so that transcribed programs read the same."""
    if lock.locked():
        raise KworkerError(f"spin_lock_init: {lock.name!r} is held; initialise a lock before it is used")


def spin_lock(lock: Spinlock) -> None:
    """Take `lock`. Raises KworkerError if the caller holds it already: it would spin for ever."""
    if lock.held():
        raise KworkerError(
            f"spinlock recursion: the caller already holds {lock.name!r} and would spin for ever; "
            "release it first or split off a function that expects the lock to be held"
        )
    lock.acquire()


def spin_unlock(lock: Spinlock) -> None:
    """Give `lock` back. Raises RuntimeError if the caller does not hold it."""
    lock.release()


def spin_trylock(lock: Spinlock) -> bool:
    """Take `lock` if it is free. True if it was."""
    return lock.try_acquire()


def spin_is_locked(lock: Spinlock) -> bool:
    """True if anybody holds `lock`."""
    return lock.locked()


def spin_lock_irqsave(lock: Spinlock) -> int:
    """Take `lock`; the returned flags belong into `spin_unlock_irqrestore`."""
    spin_lock(lock)
    return 0


def spin_unlock_irqrestore(lock: Spinlock, flags: int) -> None:
    """Give `lock` back."""
    lock.release()
