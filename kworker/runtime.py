"""The runtime: what blocks, wakes, locks, tells the time and interrupts.

Everything above (completions, kthreads, workers, timers) is written once against `Runtime`. Two implement
it: `ThreadRuntime` (threads.py) with OS threads and the wall clock, `SimRuntime` (simulation.py) with
greenlets and a virtual clock.

Sleeping follows the kernel's protocol, which has no lost wake-ups: a task says that it is about to sleep
(`prepare`), looks at its condition once more, and calls `schedule`. A wake-up in between makes `schedule`
return at once. Every sleeper re-checks its condition in a loop, since spurious wake-ups are allowed.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from kworker.task import TASK_NORMAL, TASK_UNINTERRUPTIBLE, TaskStruct
from kworker.trace import TRACE_EVENTS_DEFAULT, Trace

if TYPE_CHECKING:
    from kworker.spinlock import Spinlock

__all__ = ["EventHook", "Runtime", "TimerHandle", "context", "current", "current_runtime", "in_interrupt"]

R = TypeVar("R")
EventHook = Callable[[str, tuple[Any, ...]], None]


class _Context(threading.local):
    """Per OS thread: the runtime that is entered or running here, and the thread's own task."""

    runtime: Runtime | None = None
    task: TaskStruct | None = None


context = _Context()
_default: Runtime | None = None
_default_lock = threading.Lock()


def current_runtime() -> Runtime:
    """The runtime of the current task, else the entered one, else the process-wide thread runtime."""
    runtime = context.runtime
    return runtime if runtime is not None else _default_runtime()


def _default_runtime() -> Runtime:
    global _default
    with _default_lock:
        if _default is None:
            from kworker.threads import ThreadRuntime

            _default = ThreadRuntime()
        return _default


def current() -> TaskStruct | None:
    """The kernel's `current`: the task that calls, None in interrupt context."""
    return current_runtime().current()


def in_interrupt() -> bool:
    """True inside a timer function or another callback of `Runtime.call_at`."""
    return current_runtime().in_interrupt()


class TimerHandle(ABC):
    """One armed `call_at`. `pending` until it fires or is cancelled, `running` while its function runs."""

    __slots__ = ("fn", "pending", "running", "when_ns")

    def __init__(self, when_ns: int, fn: Callable[[], None]) -> None:
        self.when_ns = when_ns
        self.fn = fn
        self.pending = True
        self.running = False

    @abstractmethod
    def cancel(self) -> bool:
        """Disarm. True if the function had not started and now never will."""


class Runtime(ABC):
    """How tasks run, block and are woken; the clock; the interrupts.

    virtual   True if the clock is virtual
    hook      what emits: called with (event, args) if not None. Set through `on_event` and `enable_trace`
    sync      None, or called with a name before an effect that others can see: the simulation lets its
              clock catch up and, when it explores, lets the scheduler choose. Hot paths test it for None
    """

    virtual: bool = False
    sync: Callable[[str], None] | None = None

    def __init__(self) -> None:
        self.hook: EventHook | None = None
        self.freezing = False
        self._on_event: EventHook | None = None
        self._trace: Trace | None = None
        self._outer: list[Runtime | None] = []

    # ---- time ------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def now_ns(self) -> int:
        """The clock, in ns. It never goes backwards; only differences mean anything."""

    @abstractmethod
    def call_at(
        self, when_ns: int, fn: Callable[[], None], *, cpu: int | None = None, hardware: bool = False
    ) -> TimerHandle:
        """Call `fn()` once in interrupt context at `when_ns` (at once if that is past).

        `fn` must not block: blocking calls raise AtomicSleepError there. Its exceptions go to the failure
        hook. `cpu` says which CPU is interrupted (simulation only; default: the CPU that arms). With
        `hardware` no CPU is: `fn` is what a device does by itself, and takes no CPU time.
        """

    def call_again(self, handle: TimerHandle, when_ns: int, cpu: int | None = None) -> None:
        """Arm a handle that has fired once more: another `call_at` of its function, at a lower price.

        In simulations only, and for handles that nobody waits for (`wait_callback`): its function may still be
        running, or be what calls this. `cpu` None leaves it where it was.
        """
        raise NotImplementedError(f"{type(self).__name__}: use call_at")

    @abstractmethod
    def wait_callback(self, handle: TimerHandle) -> None:
        """Return when the function of `handle`, if it is running, has ended."""

    def cpu_id(self) -> int:
        """The CPU that the caller runs on (kernel: smp_processor_id); 0 on threads, where the OS knows."""
        return 0

    def consume(self, ns: int) -> None:  # noqa: B027  doing nothing is right for a real clock
        """Charge `ns` of CPU time to the calling task or interrupt. No-op on threads."""

    def settle(self) -> None:  # noqa: B027
        """Make consumed time visible: the clock catches up with it, and others run meanwhile."""

    def point(self, name: str) -> None:  # noqa: B027
        """Here the order of tasks may matter: an exploring simulation may switch. No-op otherwise."""

    # ---- tasks -----------------------------------------------------------------------------------------

    @abstractmethod
    def current(self) -> TaskStruct | None:
        """The calling task; a plain caller gets a task, too. None in interrupt context."""

    @abstractmethod
    def in_interrupt(self) -> bool:
        """True in interrupt context."""

    @abstractmethod
    def new_task(self, comm: str, entry: Callable[[TaskStruct], None]) -> TaskStruct:
        """A task that sleeps uninterruptibly and runs `entry(task)` after its first wake-up.

        Raises RuntimeError or OSError if the system has no more threads.
        """

    @abstractmethod
    def prepare(self, task: TaskStruct, state: int) -> None:
        """The calling `task` is about to sleep in `state` (kernel: set_current_state)."""

    @abstractmethod
    def schedule(self, deadline_ns: int | None = None) -> None:
        """Sleep in the prepared state until woken, or until `deadline_ns`. Only yields if still running.

        Raises AtomicSleepError in interrupt context and, in a simulation, with a spinlock held.
        """

    @abstractmethod
    def wake(self, task: TaskStruct, states: int = TASK_NORMAL) -> int:
        """Wake `task` if it sleeps in one of `states`. 1 if it did, else 0."""

    @abstractmethod
    def bind(self, task: TaskStruct, cpu: int) -> None:
        """Let `task` run on `cpu` only. A CPU that does not exist leaves it unbound, as the kernel does."""

    @abstractmethod
    def reap(self, task: TaskStruct) -> None:
        """Called once a task has announced its end: returns when nothing of it runs any more."""

    @abstractmethod
    def tasks(self) -> list[TaskStruct]:
        """The tasks that have not ended, by pid."""

    @abstractmethod
    def run(self, main: Callable[..., R], *args: Any) -> R:
        """Run `main(*args)` as a task and return its result; its exceptions are raised here."""

    @abstractmethod
    def lock(self, name: str = "lock") -> Spinlock:
        """A new spinlock. `name` shows in reports."""

    def sleep_ns(self, duration_ns: int) -> None:
        """Sleep for `duration_ns`; a negative duration returns at once."""
        self.sleep_until(self.now_ns + duration_ns)

    def sleep_until(self, when_ns: int) -> None:
        """Sleep until the clock shows `when_ns`."""
        if self.sync is not None:
            self.sync("sleep")
        while self.now_ns < when_ns:
            task = self.require_task("sleep")
            task.waiting_on = "its own time-out"
            self.prepare(task, TASK_UNINTERRUPTIBLE)
            self.schedule(when_ns)
            task.waiting_on = None

    def require_task(self, what: str) -> TaskStruct:
        """The calling task. Raises AtomicSleepError in interrupt context, naming `what` was tried."""
        task = self.current()
        if task is None:
            from kworker.misuse import AtomicSleepError

            raise AtomicSleepError(
                f"{what} in interrupt context: a timer function must not block; "
                "queue a work and block there"
            )
        return task

    # ---- events ----------------------------------------------------------------------------------------

    @property
    def on_event(self) -> EventHook | None:
        """Called with (event, args) for everything that happens; None switches it off."""
        return self._on_event

    @on_event.setter
    def on_event(self, hook: EventHook | None) -> None:
        self._on_event = hook
        self.hook = hook if self._trace is None else self._record

    def enable_trace(self, events_max: int = TRACE_EVENTS_DEFAULT) -> Trace:
        """Start recording events (the last `events_max`) and return the trace."""
        self._trace = Trace(events_max)
        self.hook = self._record
        return self._trace

    @property
    def trace(self) -> Trace:
        """The recorded events; empty unless `enable_trace` was called (or `SimRuntime(trace=True)`)."""
        return self._trace if self._trace is not None else Trace(1)

    def _record(self, event: str, args: tuple[Any, ...]) -> None:
        trace = self._trace
        if trace is not None:
            task = self.current()
            trace.add((self.now_ns, "irq" if task is None else task.comm, event, args))
        if self._on_event is not None:
            self._on_event(event, args)

    # ---- freezer ---------------------------------------------------------------------------------------

    def freeze(self) -> None:
        """Ask all freezable tasks to freeze, as before a suspend. They do so between works."""
        self.freezing = True
        for task in self.tasks():
            if task._freezable:
                self.wake(task)

    def thaw(self) -> None:
        """Let frozen tasks go on."""
        from kworker.task import TASK_FROZEN

        self.freezing = False
        for task in self.tasks():
            self.wake(task, TASK_FROZEN)

    # ---- lifetime --------------------------------------------------------------------------------------

    @abstractmethod
    def close(self) -> None:
        """End what the runtime itself started. Closing twice is allowed."""

    def __enter__(self) -> Any:
        self._outer.append(context.runtime)
        context.runtime = self
        return self

    def __exit__(self, *exc: object) -> None:
        context.runtime = self._outer.pop()
        self.close()
