"""What is reported to the user: warnings for misuse, errors of the runtimes, failures of user functions.

The kernel's WARN_ON becomes a `KthreadWarning`. The same class names what the kernel does not notice at all:
calls that would hang for ever or corrupt a list. In strict mode (`strict(True)` or KWORKER_STRICT=1) it is
raised, otherwise it goes through the `warnings` module and the call returns without waiting.
"""

from __future__ import annotations

import os
import sys
import threading
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kworker.task import TaskStruct

__all__ = [
    "AtomicSleepError",
    "KthreadWarning",
    "KworkerError",
    "ReplayError",
    "SimClosedError",
    "SimDeadlock",
    "SimLivelock",
    "SimThreadError",
    "ends_the_thread",
    "is_failure",
    "is_strict",
    "report_failure",
    "set_failure_hook",
    "strict",
    "warn",
]

FailureHook = Callable[[BaseException, "TaskStruct | None", str], None]


class KthreadWarning(RuntimeWarning):
    """A misuse of the kthread API: what the kernel WARNs about, or silently hangs or corrupts on."""


class KworkerError(RuntimeError):
    """Base of the errors that the runtimes themselves raise."""


class AtomicSleepError(KworkerError):
    """Something tried to sleep in interrupt context or while it held a spinlock."""


class SimDeadlock(KworkerError):
    """Nothing can run, no event is due and somebody waits. The message says who waits for whom."""


class SimLivelock(KworkerError):
    """The exploring scheduler made its maximum number of choices and the run had not ended."""


class SimThreadError(KworkerError):
    """A second OS thread touched a simulation; a simulation belongs to the thread that made it."""


class SimClosedError(KworkerError):
    """The simulation was closed and can no longer run anything."""


class ReplayError(KworkerError):
    """A recorded schedule does not fit the program that it is replayed on."""


_strict = os.environ.get("KWORKER_STRICT", "") not in ("", "0")
_package = os.path.dirname(os.path.abspath(__file__)) + os.sep


def strict(on: bool = True) -> bool:
    """Raise `KthreadWarning` (True) or only warn (False). Returns the setting before."""
    global _strict
    before, _strict = _strict, on
    return before


def is_strict() -> bool:
    """True while a misuse is raised and not only warned about."""
    return _strict


def warn(message: str) -> None:
    """Report one misuse, at the line outside this package that caused it."""
    if _strict:
        raise KthreadWarning(message)
    level = 2
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_package):
        frame = frame.f_back
        level += 1
    warnings.warn(message, KthreadWarning, stacklevel=level)


class _NamedThread:
    """Stands for a task in `threading.excepthook`, which only wants a name."""

    def __init__(self, name: str) -> None:
        self.name = name


def _to_threading(exc: BaseException, task: TaskStruct | None, where: str) -> None:
    # threading.excepthook is the one hook that prints by default, that pytest listens to and that
    # can be fed from Python (sys.unraisablehook insists on an object only the interpreter can make).
    name = where if task is None else f"{task.comm} ({where})"
    args = (type(exc), exc, exc.__traceback__, _NamedThread(name))
    threading.excepthook(threading.ExceptHookArgs(args))


_hook: FailureHook = _to_threading


def set_failure_hook(hook: FailureHook | None) -> FailureHook:
    """Install `hook(exception, task or None, where)` for exceptions of user functions.

    Called when a work function, a timer function or a thread function raises. None restores the
    default, which hands the exception to `threading.excepthook`. Returns the hook before.
    """
    global _hook
    before, _hook = _hook, hook or _to_threading
    return before


_endings: set[type[BaseException]] = set()


def ends_the_thread(kind: type[BaseException]) -> type[BaseException]:
    """Say that exceptions of this class end the thread that they are raised on (class decorator)."""
    _endings.add(kind)
    return kind


def is_failure(exc: BaseException) -> bool:
    """Whether an exception of a user's function is to be reported while its thread goes on.

    Not those that are meant for the thread itself: kthread_exit, a simulation that closes, Ctrl-C (which Python
    raises on the main thread only). Others that are no Exception (a test's failure, a cancelled task of asyncio)
    must not take a thread along that others wait for.
    """
    if isinstance(exc, KeyboardInterrupt):
        return threading.current_thread() is not threading.main_thread()
    return not isinstance(exc, tuple(_endings))


def report_failure(exc: BaseException, task: TaskStruct | None, where: str) -> None:
    """Hand an exception of a user function to the failure hook. A failing hook is printed, too."""
    try:
        _hook(exc, task, where)
    except Exception as second:
        # The hook is the user's. If it fails, both exceptions still have to be seen.
        second.__context__ = exc
        sys.excepthook(type(second), second, second.__traceback__)
