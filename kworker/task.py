"""task_struct: one thread of control, with its state and its accounting."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kworker.kthread import Kthread
    from kworker.runtime import Runtime

__all__ = [
    "PF_EXITING",
    "PF_KTHREAD",
    "PF_NOFREEZE",
    "PF_NO_SETAFFINITY",
    "TASK_COMM_LEN",
    "TASK_DEAD",
    "TASK_FROZEN",
    "TASK_INTERRUPTIBLE",
    "TASK_NORMAL",
    "TASK_PARKED",
    "TASK_RUNNING",
    "TASK_UNINTERRUPTIBLE",
    "TaskStruct",
    "state_name",
]

# States and flags have the kernel's values (include/linux/sched.h): a state is a bit, a wake-up a mask.
TASK_RUNNING = 0x0000
TASK_INTERRUPTIBLE = 0x0001
TASK_UNINTERRUPTIBLE = 0x0002
TASK_PARKED = 0x0040
TASK_DEAD = 0x0080
TASK_FROZEN = 0x8000
TASK_NORMAL = TASK_INTERRUPTIBLE | TASK_UNINTERRUPTIBLE

PF_EXITING = 0x0000_0004
PF_NOFREEZE = 0x0000_8000
PF_KTHREAD = 0x0020_0000
PF_NO_SETAFFINITY = 0x0400_0000

TASK_COMM_LEN = 16
"""Size of `comm` with its terminating zero: a name has at most 15 characters."""

_STATES = {
    TASK_RUNNING: "running",
    TASK_INTERRUPTIBLE: "interruptible sleep",
    TASK_UNINTERRUPTIBLE: "uninterruptible sleep",
    TASK_PARKED: "parked",
    TASK_DEAD: "dead",
    TASK_FROZEN: "frozen",
}


def state_name(state: int) -> str:
    """A task state in words."""
    return _STATES.get(state, f"state {state:#x}")


class TaskStruct:
    """A task. Made by `kthread_create` and by the runtimes, never by hand.

    comm         name, at most 15 characters (the whole one is `kthread.full_name`)
    pid          the OS thread's id on threads; 1, 2, 3, ... in a simulation
    runtime      the runtime that it runs on
    state        TASK_RUNNING, TASK_INTERRUPTIBLE, ...
    flags        PF_KTHREAD, PF_EXITING, ...
    kthread      its kthread part; None for a task that is not a kthread
    waiting_on   what it sleeps for (a Completion, a Spinlock, a worker), None while it runs
    start_ns     when it was made
    blocked_ns   how long it has slept, in ns, until it ran again
    stolen_ns    how long interrupts took its CPU away from it, in ns (simulation; 0 on threads)
    run_delay_ns how long it was ready but had no CPU, in ns (simulation; 0 on threads)
    """

    __slots__ = (
        "__weakref__",
        "_freezable",
        "blocked_ns",
        "comm",
        "cpu",
        "flags",
        "frozen",
        "kthread",
        "pid",
        "run_delay_ns",
        "runtime",
        "start_ns",
        "state",
        "stolen_ns",
        "usage",
        "waiting_on",
    )

    def __init__(self, comm: str, pid: int, runtime: Runtime) -> None:
        self.comm = comm
        self.pid = pid
        self.runtime = runtime
        self.state = TASK_RUNNING
        self.flags = 0
        self.kthread: Kthread | None = None
        self.waiting_on: Any = None
        self.cpu: int | None = None
        self.frozen = False
        self._freezable = False
        self.usage = 1
        self.start_ns = 0
        self.blocked_ns = 0
        self.stolen_ns = 0
        self.run_delay_ns = 0

    @property
    def cpu_ns(self) -> int:
        """CPU time that it has consumed, in ns."""
        raise NotImplementedError

    @property
    def nvcsw(self) -> int:
        """Voluntary context switches: how often it blocked."""
        raise NotImplementedError

    @property
    def nivcsw(self) -> int:
        """Involuntary context switches: how often it was preempted."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<TaskStruct {self.comm!r} pid {self.pid} {state_name(self.state)}>"
