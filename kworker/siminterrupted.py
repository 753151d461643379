"""Ctrl-C in a simulation: it ends what the outermost caller waits for, not the task that happened to run.

Python raises KeyboardInterrupt wherever the main thread is. In a simulation that is in the midst of some task, of an
interrupt or of the scheduler, which would be lost with it: who shuts down afterwards would wait for them. So it is
kept until the outermost caller sleeps, and raised there, as it is on a thread that waits (`interrupted.keep_whole`
names what counts as simulation besides ours); who never sleeps again meets it when the simulation is closed. A second
Ctrl-C is raised at once.
"""

from __future__ import annotations

import threading
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final
from weakref import WeakSet

from kworker import interrupted
from kworker.runtime import Runtime

if TYPE_CHECKING:
    from kworker.simkernel import SimKernel

__all__ = ["unwatch", "watch"]

_FOLDER: Final = str(Path(__file__).parent)
# On the stack of whoever is simulated, with the caller's own function above them.
_CALLERS_OWN: Final = ("run", "_run_inside")
_open: WeakSet[SimKernel] = WeakSet()


def watch(runtime: SimKernel) -> None:
    """Take care of Ctrl-C until `unwatch`, where nobody else does."""
    if threading.current_thread() is threading.main_thread():
        _open.add(runtime)
        interrupted.watch(runtime)


def unwatch(runtime: SimKernel) -> None:
    """The simulation is closed."""
    _open.discard(runtime)
    interrupted.unwatch(runtime)


def _takes(frame: FrameType | None) -> bool | None:
    """Whether a simulation keeps this Ctrl-C for its caller; False where one has kept one: then it is the second."""
    kept = [runtime for runtime in _open if runtime.interrupted]
    for runtime in kept:
        runtime.interrupted = False
    if kept:
        return False
    inside = _inside(frame)
    if inside is not None:
        inside.interrupt()
    return True if inside is not None else None


interrupted.first_ask(_takes)


def _inside(frame: FrameType | None) -> SimKernel | None:
    """The simulation that is at work in `frame` or above it, or has locks held."""
    whole = False
    while frame is not None:
        code = frame.f_code
        whole = whole or any(code.co_filename.startswith(folder) for folder in interrupted.whole)
        if code.co_filename.startswith(_FOLDER) and code.co_name not in _CALLERS_OWN:
            one = frame.f_locals.get("self")
            runtime = one if isinstance(one, Runtime) else getattr(one, "runtime", None)
            for known in _open:
                if known is runtime:
                    return known
        frame = frame.f_back
    # Under a spinlock something is half done, and `with` has a gap before its block.
    return next((known for known in _open if whole or known.holds_locks()), None)
