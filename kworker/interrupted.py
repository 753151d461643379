"""Ctrl-C ends what the caller waits for, and nothing that is half done.

Python raises KeyboardInterrupt wherever the main thread is. A kernel thread is told of a signal where it sleeps or
returns to its program, never between two stores to a list; ours are written the same way, and would leave a request
between a queue and a ring, or a lock held. So while somebody `watch`es, Ctrl-C within code that is kept whole waits:

    main thread          what happens
    in the program       KeyboardInterrupt, there
    asleep in our code   KeyboardInterrupt, out of the sleep
    at work in it        KeyboardInterrupt when it returns to the program, or falls asleep
    in what `never` is   the same, but for the sleep: a device is being shut down
    a second Ctrl-C      KeyboardInterrupt at once

The return is seen by tracing the program's frame, which costs nothing before Ctrl-C; the sleep by a thread that asks
again every millisecond. Where somebody else traces (a debugger, a coverage tool), that thread is all there is.
Simulations, which have their own idea of sleep, answer first (`siminterrupted`).
"""

from __future__ import annotations

import _thread
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final, TypeVar
from weakref import WeakSet

__all__ = ["asleep_in", "first_ask", "keep_whole", "never", "unwatch", "watch"]

ASK_AGAIN_S: Final = 0.001

F = TypeVar("F", bound=Callable[..., Any])

_OURS: Final = str(Path(__file__).parent)
whole: list[str] = []
"""The folders whose code is kept whole, besides this package."""

_asleep: set[CodeType] = set()
_never: set[CodeType] = set()
_askers: list[Callable[[FrameType | None], bool | None]] = []
_watchers: WeakSet[object] = WeakSet()


class _Kept:
    """A Ctrl-C that waits. `asking` says that the next signal is the thread's question, not another Ctrl-C."""

    pending = False
    asking = False


def keep_whole(folder: str) -> None:
    """Ctrl-C waits until the main thread has left the code in `folder`, or sleeps in it."""
    whole.append(folder)


def asleep_in(fn: F) -> F:
    """A decorator: within this function itself, and what it calls outside of our code, the caller sleeps."""
    _asleep.add(fn.__code__)
    return fn


def never(fn: F) -> F:
    """A decorator: while this function runs Ctrl-C waits, even if it sleeps."""
    _never.add(fn.__code__)
    return fn


def first_ask(asker: Callable[[FrameType | None], bool | None]) -> None:
    """Have `asker(frame)` called first at each Ctrl-C: True if it takes care of it, False if it is to be raised."""
    _askers.append(asker)


def watch(owner: object) -> None:
    """Take care of Ctrl-C until `unwatch(owner)`, where nobody else does. Only the main thread can ask for it."""
    if threading.current_thread() is threading.main_thread():
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, interrupted)
        _watchers.add(owner)


def unwatch(owner: object) -> None:
    """Python's own handler comes back with the last one."""
    _watchers.discard(owner)
    here = threading.current_thread() is threading.main_thread()
    if here and not _watchers and signal.getsignal(signal.SIGINT) is interrupted:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def interrupted(number: int, frame: FrameType | None) -> None:
    """The handler of SIGINT."""
    asked, _Kept.asking = _Kept.asking, False
    if asked and not _Kept.pending:
        return  # it was raised while the question was on its way
    words = [] if asked or _Kept.pending else [ask(frame) for ask in _askers]
    if True in words:
        return
    if False not in words and (asked or not _Kept.pending) and _is_at_work(frame):
        if not asked:
            _Kept.pending = True
            _wait_for_return(frame)
            _thread.start_new_thread(_ask_again, ())
        return
    _over()
    signal.default_int_handler(number, frame)


def _over() -> None:
    _Kept.pending = False
    if sys.gettrace() is _trace_nobody:
        sys.settrace(None)


def _trace_nobody(frame: FrameType, event: str, arg: Any) -> None:
    """Tracing is on for one frame alone."""


def _back_in_program(frame: FrameType, event: str, arg: Any) -> None:
    """The program's frame goes on."""
    frame.f_trace = None
    frame.f_trace_opcodes = False
    if _Kept.pending:
        _over()
        raise KeyboardInterrupt


def _wait_for_return(frame: FrameType | None) -> None:
    """Have the program told when it goes on."""
    program: FrameType | None = None
    while frame is not None:
        if _is_ours(frame.f_code):
            program = frame.f_back
        frame = frame.f_back
    if program is not None and sys.gettrace() is None:
        program.f_trace = _back_in_program
        program.f_trace_opcodes = True
        sys.settrace(_trace_nobody)


def _is_ours(code: CodeType) -> bool:
    return any(code.co_filename.startswith(folder) for folder in (_OURS, *whole))


def _ask_again() -> None:
    main = threading.main_thread().ident
    while _Kept.pending and main is not None:
        time.sleep(ASK_AGAIN_S)
        if _Kept.pending:
            _Kept.asking = True
            # A signal, since what sleeps in the system has to wake up for it.
            signal.pthread_kill(main, signal.SIGINT)


def _is_at_work(frame: FrameType | None) -> bool:
    """Whether something may be half done where the main thread stands."""
    inner = True
    at_work = False
    while frame is not None:
        code = frame.f_code
        if code in _never:
            return True
        if inner and _is_ours(code):
            inner = False
            at_work = code not in _asleep
        frame = frame.f_back
    return at_work
