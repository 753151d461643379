"""The Linux kernel's kthread_worker for Python: on real threads, or in a deterministic simulation.

The names are the kernel's (6.12). docs/kworker.md teaches them step by step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kworker.completion import (
    COMPLETION_ALL,
    Completion,
    complete,
    complete_all,
    completion_done,
    init_completion,
    reinit_completion,
    try_wait_for_completion,
    wait_for_completion,
    wait_for_completion_timeout,
)
from kworker.delayed import (
    DEFINE_KTHREAD_DELAYED_WORK,
    DEFINE_KTHREAD_WORK,
    KthreadDelayedWork,
    kthread_cancel_delayed_work_sync,
    kthread_cancel_work_sync,
    kthread_delayed_work_timer_fn,
    kthread_init_delayed_work,
    kthread_mod_delayed_work,
    kthread_queue_delayed_work,
    to_delayed_work,
)
from kworker.freezer import (
    freeze_processes,
    freezing,
    frozen,
    kthread_freezable_should_stop,
    set_freezable,
    thaw_processes,
    try_to_freeze,
)
from kworker.jiffy import (
    HZ,
    MAX_SCHEDULE_TIMEOUT,
    NSEC_PER_JIFFY,
    jiffies_to_msecs,
    jiffies_to_ns,
    msecs_to_jiffies,
    nsecs_to_jiffies,
    usecs_to_jiffies,
)
from kworker.kthread import (
    IS_ERR,
    PTR_ERR,
    Kthread,
    get_task_struct,
    kthread_bind,
    kthread_bind_mask,
    kthread_complete_and_exit,
    kthread_create,
    kthread_create_on_cpu,
    kthread_data,
    kthread_exit,
    kthread_func,
    kthread_is_per_cpu,
    kthread_park,
    kthread_parkme,
    kthread_probe_data,
    kthread_run,
    kthread_run_on_cpu,
    kthread_set_per_cpu,
    kthread_should_park,
    kthread_should_stop,
    kthread_should_stop_or_park,
    kthread_stop,
    kthread_stop_put,
    kthread_unpark,
    put_task_struct,
)
from kworker.lists import ListHead, ListNode, list_empty
from kworker.misuse import (
    AtomicSleepError,
    KthreadWarning,
    KworkerError,
    ReplayError,
    SimClosedError,
    SimDeadlock,
    SimLivelock,
    SimThreadError,
    is_strict,
    set_failure_hook,
    strict,
)
from kworker.runtime import Runtime, TimerHandle, current, current_runtime, in_interrupt
from kworker.spinlock import (
    Spinlock,
    spin_is_locked,
    spin_lock,
    spin_lock_init,
    spin_lock_irqsave,
    spin_trylock,
    spin_unlock,
    spin_unlock_irqrestore,
)
from kworker.task import (
    PF_EXITING,
    PF_KTHREAD,
    PF_NO_SETAFFINITY,
    PF_NOFREEZE,
    TASK_COMM_LEN,
    TASK_DEAD,
    TASK_FROZEN,
    TASK_INTERRUPTIBLE,
    TASK_NORMAL,
    TASK_PARKED,
    TASK_RUNNING,
    TASK_UNINTERRUPTIBLE,
    TaskStruct,
)
from kworker.threads import ThreadRuntime
from kworker.timer import (
    TimerList,
    add_timer,
    cond_resched,
    del_timer,
    del_timer_sync,
    jiffies,
    mod_timer,
    msleep,
    schedule,
    schedule_timeout,
    set_current_state,
    timer_delete,
    timer_delete_sync,
    timer_pending,
    timer_setup,
    wake_up_process,
)
from kworker.trace import Trace
from kworker.work import (
    KthreadFlushWork,
    KthreadWork,
    KthreadWorker,
    kthread_flush_work,
    kthread_flush_worker,
    kthread_init_work,
    kthread_init_worker,
    kthread_queue_work,
)
from kworker.worker import (
    KTW_FREEZABLE,
    kthread_create_worker,
    kthread_create_worker_on_cpu,
    kthread_destroy_worker,
    kthread_run_worker,
    kthread_run_worker_on_cpu,
    kthread_worker_fn,
)

if TYPE_CHECKING:
    from kworker.inspect import WorkerSnapshot, snapshot
    from kworker.schedulers import Exhaustive, Pct, RandomWalk, Replay, Schedule, Scheduler, explore
    from kworker.simparts import SimCosts
    from kworker.simulation import SimRuntime


__all__ = [
    # completion
    "COMPLETION_ALL",
    "Completion",
    "complete",
    "complete_all",
    "completion_done",
    "init_completion",
    "reinit_completion",
    "try_wait_for_completion",
    "wait_for_completion",
    "wait_for_completion_timeout",
    # delayed
    "DEFINE_KTHREAD_DELAYED_WORK",
    "DEFINE_KTHREAD_WORK",
    "KthreadDelayedWork",
    "kthread_cancel_delayed_work_sync",
    "kthread_cancel_work_sync",
    "kthread_delayed_work_timer_fn",
    "kthread_init_delayed_work",
    "kthread_mod_delayed_work",
    "kthread_queue_delayed_work",
    "to_delayed_work",
    # freezer
    "freeze_processes",
    "freezing",
    "frozen",
    "kthread_freezable_should_stop",
    "set_freezable",
    "thaw_processes",
    "try_to_freeze",
    # inspect
    "WorkerSnapshot",
    "snapshot",
    # jiffy
    "HZ",
    "MAX_SCHEDULE_TIMEOUT",
    "NSEC_PER_JIFFY",
    "jiffies_to_msecs",
    "jiffies_to_ns",
    "msecs_to_jiffies",
    "nsecs_to_jiffies",
    "usecs_to_jiffies",
    # kthread
    "IS_ERR",
    "Kthread",
    "PTR_ERR",
    "get_task_struct",
    "kthread_bind",
    "kthread_bind_mask",
    "kthread_complete_and_exit",
    "kthread_create",
    "kthread_create_on_cpu",
    "kthread_data",
    "kthread_exit",
    "kthread_func",
    "kthread_is_per_cpu",
    "kthread_park",
    "kthread_parkme",
    "kthread_probe_data",
    "kthread_run",
    "kthread_run_on_cpu",
    "kthread_set_per_cpu",
    "kthread_should_park",
    "kthread_should_stop",
    "kthread_should_stop_or_park",
    "kthread_stop",
    "kthread_stop_put",
    "kthread_unpark",
    "put_task_struct",
    # lists
    "ListHead",
    "ListNode",
    "list_empty",
    # misuse
    "AtomicSleepError",
    "KthreadWarning",
    "KworkerError",
    "ReplayError",
    "SimClosedError",
    "SimDeadlock",
    "SimLivelock",
    "SimThreadError",
    "is_strict",
    "set_failure_hook",
    "strict",
    # runtime
    "Runtime",
    "TimerHandle",
    "current",
    "current_runtime",
    "in_interrupt",
    # schedulers
    "Exhaustive",
    "Pct",
    "RandomWalk",
    "Replay",
    "Schedule",
    "Scheduler",
    "explore",
    # simparts
    "SimCosts",
    # simulation
    "SimRuntime",
    # spinlock
    "Spinlock",
    "spin_is_locked",
    "spin_lock",
    "spin_lock_init",
    "spin_lock_irqsave",
    "spin_trylock",
    "spin_unlock",
    "spin_unlock_irqrestore",
    # task
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
    # threads
    "ThreadRuntime",
    # timer
    "TimerList",
    "add_timer",
    "cond_resched",
    "del_timer",
    "del_timer_sync",
    "jiffies",
    "mod_timer",
    "msleep",
    "schedule",
    "schedule_timeout",
    "set_current_state",
    "timer_delete",
    "timer_delete_sync",
    "timer_pending",
    "timer_setup",
    "wake_up_process",
    # trace
    "Trace",
    # worker
    "KTW_FREEZABLE",
    "KthreadFlushWork",
    "KthreadWork",
    "KthreadWorker",
    "kthread_create_worker",
    "kthread_create_worker_on_cpu",
    "kthread_destroy_worker",
    "kthread_flush_work",
    "kthread_flush_worker",
    "kthread_init_work",
    "kthread_init_worker",
    "kthread_queue_work",
    "kthread_run_worker",
    "kthread_run_worker_on_cpu",
    "kthread_worker_fn",
]

# The simulation needs greenlet and dataclasses; who uses threads only shall not wait for their import.
_LAZY = {
    "SimRuntime": "kworker.simulation",
    "SimCosts": "kworker.simparts",
    "snapshot": "kworker.inspect",
    "WorkerSnapshot": "kworker.inspect",
    "Exhaustive": "kworker.schedulers",
    "Pct": "kworker.schedulers",
    "RandomWalk": "kworker.schedulers",
    "Replay": "kworker.schedulers",
    "Schedule": "kworker.schedulers",
    "Scheduler": "kworker.schedulers",
    "explore": "kworker.schedulers",
}


def __getattr__(name: str) -> Any:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module 'kworker' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(module), name)
    globals()[name] = value
    return value
