"""Who waits for whom: the text of a deadlock report."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from kworker.task import TASK_RUNNING, TaskStruct, state_name

if TYPE_CHECKING:
    from kworker.runtime import Runtime

__all__ = ["deadlock_report", "describe_wait", "provider_of"]


def _worker_text(worker: Any) -> str:
    if worker.task is None:
        return f"worker {worker.name!r}, which has no thread"
    return f"worker {worker.name!r} (task {worker.task.comm!r})"


def describe_wait(what: Any) -> str:
    """What a task waits for and who should provide it, in words."""
    if what is None:
        return "a wake-up (wake_up_process); nothing says from whom"
    if isinstance(what, str):
        return what
    if hasattr(what, "work_list"):
        return "works (an idle worker)"
    if hasattr(what, "owner"):
        holder = "nobody" if what.owner is None else repr(what.owner.comm)
        return f"spinlock {what.name!r}, held by {holder}"
    provider = what.provider
    if provider is None:
        return f"completion {what.name!r}; nothing says who completes it"
    who = _worker_text(provider) if hasattr(provider, "work_list") else f"task {provider.comm!r}"
    return f"completion {what.name!r}, to come from {who}"


def provider_of(what: Any) -> TaskStruct | None:
    """The task that would end the wait, if it is known."""
    if what is None or isinstance(what, str) or hasattr(what, "work_list"):
        return None
    provider = what.owner if hasattr(what, "owner") else what.provider
    if hasattr(provider, "work_list"):
        provider = provider.task
    return provider if isinstance(provider, TaskStruct) else None


def _cycle(start: TaskStruct) -> list[TaskStruct]:
    """The tasks that wait for each other in a ring, beginning with `start`; empty if there is none."""
    path = [start]
    task = provider_of(start.waiting_on)
    while task is not None and task not in path:
        path.append(task)
        task = provider_of(task.waiting_on)
    return path if task is start else []


def deadlock_report(runtime: Runtime, tasks: Iterable[TaskStruct]) -> str:
    """A table of all tasks and their waits, and the ring if they wait in one."""
    unique = list({id(task): task for task in tasks}.values())
    lines = [f"deadlock at {runtime.now_ns} ns: no task can run and no event is due"]
    rings: list[str] = []
    for task in unique:
        wait = describe_wait(task.waiting_on) if task.state != TASK_RUNNING or task.waiting_on else "nothing"
        lines.append(f"  {task.comm} (pid {task.pid}, {state_name(task.state)}) waits for {wait}")
        ring = _cycle(task)
        if ring and task is min(ring, key=lambda t: t.pid):
            rings.append(" -> ".join(t.comm for t in [*ring, ring[0]]))
    lines += [f"  in a ring: {ring}" for ring in rings]
    return "\n".join(lines)
