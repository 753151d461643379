"""What can be looked at, and how to look without getting in the way.

A machine on threads is read under the lock that guards its controller, for a millisecond at most. When
the lock is not to be had within ``LOCK_WAIT_S`` (somebody stepping through a trace holds it) the state is
read all the same, and says that it is not consistent: every table is copied in one atomic operation of the
interpreter, so that no reader ever fails.

A simulation has one thread, and its locks are not for others. Whoever asks from another thread leaves the
question behind; the simulation's own thread answers it at its next event, between two of its steps. While it
makes none for ``LOCK_WAIT_S`` nothing is moving, and the asking thread reads by itself. A server's loop has
one thread too, and takes calls (``inside``).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from nvme_emu.observe.recorder import Recorder

if TYPE_CHECKING:
    from nvme_emu.controller.controller import Controller
    from nvme_emu.core.trace import TraceHub
    from nvme_emu.driver.device import NvmeDriver
    from nvme_emu.observe.checker.ledger import Ledger
    from nvme_emu.observe.faults import FaultControl

__all__ = ["Guard", "Watched", "watch"]

LOCK_WAIT_S = 0.1
CHANGE_WAIT_S = 5.0

_T = TypeVar("_T")


class Guard(Protocol):
    """The lock around a controller: ``threading.Lock``, ``RLock`` and kworker's Spinlock are ones."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> Any: ...
    def release(self) -> None: ...


class _MachineLike(Protocol):
    """What `watch` needs of a `Machine` (which this room cannot import)."""

    controller: Any
    driver: Any
    runtime: Any
    port: Any
    trace: Any


class _Question(Generic[_T]):
    """Something to be done once, by whichever thread takes it first, or withdrawn."""

    def __init__(self, fn: Callable[[], _T], then: Callable[[], object] | None = None) -> None:
        self._fn = fn
        self._then = then
        self._turn = threading.Lock()
        self._done = threading.Event()
        self._answer: tuple[_T] | None = None
        self._error: Exception | None = None

    def __call__(self) -> None:
        """Answer it, unless somebody has taken it."""
        if not self._turn.acquire(blocking=False):
            return
        try:
            self._answer = (self._fn(),)
            if self._then is not None:
                self._then()
        except Exception as error:
            self._error = error
        self._done.set()

    def wait(self, timeout_s: float) -> bool:
        """Whether it is answered in time."""
        return self._done.wait(timeout_s)

    def withdraw(self) -> bool:
        """Take it back; False if somebody is answering it."""
        return self._turn.acquire(blocking=False)

    def result(self) -> _T:
        """The answer, once it is there; raises what answering it has raised."""
        self._done.wait()
        if self._error is not None:
            raise self._error
        assert self._answer is not None
        return self._answer[0]


@dataclass(kw_only=True, eq=False)
class Watched:
    """A controller, what guards it, and what stands around it.

    ``clock_ns`` gives the machine's time, ``clock`` is "wall" or "virtual". ``driver`` is the driver of this
    process, None for a server; ``faults`` the fault rules and ``checker`` who watches the host, if any.
    ``poke`` lets the transport deliver what a change from outside has raised.
    ``inside`` hands a function to the thread that works the device, where there is one; then no lock is needed.
    ``home`` is the thread of a simulation or a loop: the one that made this object.
    ``recorder`` measures latencies while it is attached (`start_recording`).
    """

    controller: Controller
    trace: TraceHub
    lock: Guard | None
    clock_ns: Callable[[], int]
    clock: str = "wall"
    driver: NvmeDriver | None = None
    poke: Callable[[], object] | None = None
    inside: Callable[[Callable[[], object]], None] | None = None
    faults: FaultControl | None = None
    checker: Ledger | None = None
    recorder: Recorder | None = None
    home: int = field(default_factory=threading.get_ident)
    _recording: threading.Lock = field(default_factory=threading.Lock)

    @property
    def virtual(self) -> bool:
        """Whether this is a simulation."""
        return self.clock == "virtual"

    @property
    def at_home(self) -> bool:
        """Whether the caller is the thread that made this object."""
        return threading.get_ident() == self.home

    def controllers(self) -> list[Controller]:
        """Every controller of the SSD: several where it is a subsystem that several hosts use."""
        own = self.controller
        return list(own.subsystem.controllers.values()) or [own]

    @contextlib.contextmanager
    def guarded(self) -> Iterator[bool]:
        """Hold what guards the controller, if it can be had in time; gives whether it is held."""
        lock = None if self.virtual else self.lock
        held = lock is not None and bool(lock.acquire(timeout=LOCK_WAIT_S))
        try:
            yield held
        finally:
            if held and lock is not None:
                lock.release()

    def read(self, fn: Callable[[bool], _T]) -> _T:
        """``fn(consistent)`` where it may look at everything; it must not block, change or keep anything."""
        if self.inside is not None:
            return self._ask(fn, self.inside)
        if not self.virtual:
            with self.guarded() as held:
                return fn(held or self.lock is None)
        if threading.get_ident() == self.home:
            return fn(True)
        return self._ask_simulation(fn)

    def change(self, fn: Callable[[], _T]) -> _T:
        """``fn()`` under the controller's lock, then what it raised is delivered.

        TimeoutError when the lock is not to be had within ``CHANGE_WAIT_S``; ValueError for a simulation: its
        runs are a function of configuration and seed, and a change from outside would make them another's.
        """
        if self.virtual:
            raise ValueError("this machine runs on the virtual clock: it can be looked at, not changed")
        if self.inside is not None:
            return self._change_inside(fn, self.inside)
        lock = self.lock
        if lock is not None and not lock.acquire(timeout=CHANGE_WAIT_S):
            raise TimeoutError(f"the controller was not to be had within {CHANGE_WAIT_S} s")
        try:
            result = fn()
        finally:
            if lock is not None:
                lock.release()
        if self.poke is not None:
            self.poke()
        return result

    def _change_inside(self, fn: Callable[[], _T], inside: Callable[[Callable[[], object]], None]) -> _T:
        question: _Question[_T] = _Question(fn, self.poke)
        inside(question)
        if not question.wait(CHANGE_WAIT_S) and question.withdraw():
            raise TimeoutError(f"the device's thread did not answer within {CHANGE_WAIT_S} s")
        return question.result()

    def _ask(self, fn: Callable[[bool], _T], inside: Callable[[Callable[[], object]], None]) -> _T:
        question: _Question[_T] = _Question(lambda: fn(True))
        inside(question)
        if not question.wait(LOCK_WAIT_S) and question.withdraw():
            return fn(False)
        return question.result()

    def _ask_simulation(self, fn: Callable[[bool], _T]) -> _T:
        question: _Question[_T] = _Question(lambda: fn(True))

        def answer(_event: object) -> None:
            if threading.get_ident() == self.home:
                question()

        self.trace.add_sink(answer)
        try:
            if not question.wait(LOCK_WAIT_S) and question.withdraw():
                return fn(False)
            return question.result()
        finally:
            self.trace.remove_sink(answer)

    def start_recording(self) -> Recorder:
        """Attach a recorder, or give the one that is attached. It costs some microseconds an I/O."""
        with self._recording:
            if self.recorder is None:
                self.recorder = Recorder(self.clock_ns())
                self.trace.add_sink(self.recorder)
            return self.recorder

    def stop_recording(self) -> None:
        """Detach the recorder and forget what it measured. Nothing happens when none is attached."""
        with self._recording:
            if self.recorder is not None:
                self.trace.remove_sink(self.recorder)
                self.recorder = None


def watch(machine: _MachineLike) -> Watched:
    """What can be looked at in a :class:`nvme_emu.Machine`. For a simulation: call it on its own thread."""
    runtime = machine.runtime
    return Watched(
        controller=machine.controller,
        trace=machine.trace,
        lock=machine.port.lock,
        clock_ns=lambda: int(runtime.now_ns),
        clock="virtual" if runtime.virtual else "wall",
        driver=machine.driver,
        poke=machine.port.poll,
        faults=getattr(machine, "faults", None),
        checker=getattr(machine, "checker", None),
    )
