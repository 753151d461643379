"""A plain picture of a worker at one instant, for inspectors and tests. Data only; it prints nothing."""

from __future__ import annotations

from dataclasses import dataclass

from kworker.deadlock import describe_wait, provider_of
from kworker.lists import ListHead
from kworker.task import TASK_RUNNING, TaskStruct, state_name
from kworker.work import KthreadFlushWork, KthreadWork, KthreadWorker

__all__ = [
    "DelayedSnapshot",
    "TaskSnapshot",
    "WorkSnapshot",
    "WorkerSnapshot",
    "snapshot",
    "snapshot_locked",
    "task_snapshot",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkSnapshot:
    """A queued or running work. `waiter` is the name of the task that waits for it, if it is a barrier."""

    name: str
    canceling: int
    waiter: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DelayedSnapshot:
    """A delayed work whose timer is pending, and the time until it fires."""

    name: str
    left_ns: int
    canceling: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSnapshot:
    """state is "running", "idle", "frozen", "parked", "no thread" or "stopped"; times are in ns.

    current is the work that runs now, running_ns how long already; queued and delayed are the two lists;
    waiters the names of the tasks that wait for this worker in a flush or cancel, in order; runs, failures
    and busy_ns count finished works.
    """

    name: str
    state: str
    pid: int | None
    current: WorkSnapshot | None
    running_ns: int
    queued: tuple[WorkSnapshot, ...]
    delayed: tuple[DelayedSnapshot, ...]
    waiters: tuple[str, ...]
    runs: int
    failures: int
    busy_ns: int
    cpu_ns: int
    nvcsw: int
    blocked_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSnapshot:
    """A task and what it waits for: `waits_for` in words, "" while it runs.

    `provider` is the name of the task that would end the wait, None where nobody is known.
    """

    name: str
    pid: int
    state: str
    waits_for: str
    provider: str | None


def task_snapshot(task: TaskStruct) -> TaskSnapshot:
    """The state of `task` now; read without a lock, so that its parts may be an instant apart."""
    state, waiting_on = task.state, task.waiting_on
    waits = state != TASK_RUNNING or waiting_on is not None
    provider = provider_of(waiting_on)
    return TaskSnapshot(
        name=task.comm,
        pid=task.pid,
        state=state_name(state),
        waits_for=describe_wait(waiting_on) if waits else "",
        provider=provider.comm if provider is not None else None,
    )


def _work(work: KthreadWork) -> WorkSnapshot:
    barrier = work.owner if isinstance(work.owner, KthreadFlushWork) else None
    waiter = barrier.waiter.comm if barrier is not None and barrier.waiter is not None else None
    return WorkSnapshot(name=work.name, canceling=work.canceling, waiter=waiter)


def _delayed(works: ListHead) -> tuple[DelayedSnapshot, ...]:
    found = [
        DelayedSnapshot(name=work.name, left_ns=work.delayed.timer.left_ns(), canceling=work.canceling)
        for work in works
        if work.delayed is not None
    ]
    # The kernel's list has no order; the nearest first is what a reader wants.
    return tuple(sorted(found, key=lambda d: (d.left_ns, d.name)))


def _state(worker: KthreadWorker, running: bool) -> str:
    task = worker.task
    if task is None:
        return "stopped" if worker.stopped else "no thread"
    if running:
        return "running"
    if task.frozen:
        return "frozen"
    return "parked" if state_name(task.state) == "parked" else "idle"


def snapshot(worker: KthreadWorker) -> WorkerSnapshot:
    """The state of `worker` now, consistent under its lock. Do not call it with the lock held."""
    with worker.lock:
        return snapshot_locked(worker)


def snapshot_locked(worker: KthreadWorker) -> WorkerSnapshot:
    """As `snapshot`, for a caller that holds the lock, or that runs where no task of a simulation can run."""
    task = worker.task
    running = worker.current_work if task is not None else None
    current = _work(running) if running is not None else None
    queued = tuple(_work(work) for work in worker.work_list)
    barriers = [current] if current is not None else []
    return WorkerSnapshot(
        name=worker.name,
        state=_state(worker, running is not None),
        pid=task.pid if task is not None else None,
        current=current,
        running_ns=max(0, worker.runtime.now_ns - worker.running_since_ns) if running is not None else 0,
        queued=queued,
        delayed=_delayed(worker.delayed_work_list),
        waiters=tuple(work.waiter for work in [*barriers, *queued] if work.waiter is not None),
        runs=worker.runs,
        failures=worker.failures,
        busy_ns=worker.busy_ns,
        cpu_ns=task.cpu_ns if task is not None else 0,
        nvcsw=task.nvcsw if task is not None else 0,
        blocked_ns=task.blocked_ns if task is not None else 0,
    )
