"""Freezing tasks for a suspend: a freezable task stops between two works until it is thawed."""

from __future__ import annotations

from kworker.kthread import kthread_should_stop
from kworker.runtime import Runtime, current, current_runtime
from kworker.task import PF_NOFREEZE, TASK_FROZEN, TASK_RUNNING, TaskStruct

__all__ = [
    "freeze_processes",
    "freezing",
    "frozen",
    "kthread_freezable_should_stop",
    "set_freezable",
    "thaw_processes",
    "try_to_freeze",
]


def set_freezable() -> bool:
    """Make the calling kthread freezable; freezes at once if that is asked. True if it did."""
    task = current_runtime().require_task("set_freezable")
    task.flags &= ~PF_NOFREEZE
    task._freezable = True
    return try_to_freeze()


def freezing(task: TaskStruct) -> bool:
    """True if `task` is asked to freeze."""
    return task.runtime.freezing and task._freezable


def frozen(task: TaskStruct) -> bool:
    """True while `task` is frozen."""
    return task.frozen


def try_to_freeze() -> bool:
    """Freeze if asked, until thawed; a stop does not break it. True if it froze."""
    task = current()
    if task is None or not freezing(task):
        return False
    return _refrigerator(task, False)


def kthread_freezable_should_stop() -> tuple[bool, bool]:
    """(should the kthread stop, did it freeze). Freezes if asked; a stop ends the freeze."""
    task = current_runtime().require_task("kthread_freezable_should_stop")
    was_frozen = freezing(task) and _refrigerator(task, True)
    return kthread_should_stop(), was_frozen


def _refrigerator(task: TaskStruct, check_stop: bool) -> bool:
    runtime = task.runtime
    was_frozen = False
    try:
        while True:
            runtime.prepare(task, TASK_FROZEN if not check_stop else TASK_FROZEN | 1)
            if not runtime.freezing or (check_stop and kthread_should_stop()):
                return was_frozen
            was_frozen = True
            task.waiting_on = "thaw"
            # A freeze that a stop may end is no trap for kthread_stop, so only the other one shows.
            task.frozen = not check_stop
            runtime.schedule()
    finally:
        task.frozen = False
        task.waiting_on = None
        task.state = TASK_RUNNING


def freeze_processes(runtime: Runtime | None = None) -> None:
    """Ask every freezable task of the runtime to freeze."""
    (runtime or current_runtime()).freeze()


def thaw_processes(runtime: Runtime | None = None) -> None:
    """Let them go on."""
    (runtime or current_runtime()).thaw()
