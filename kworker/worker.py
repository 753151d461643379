"""kthread_worker: one thread that takes works off a list, first come first served.

The order of steps and every return value are those of Linux 6.12. Where the kernel would hang without a word, the
call warns (kworker.misuse), says what to do instead, and returns without waiting.
"""

from __future__ import annotations

from typing import Any, cast

from kworker.freezer import freezing, set_freezable, try_to_freeze
from kworker.kthread import IS_ERR, ServiceRules, kthread_bind, kthread_create, kthread_stop, services
from kworker.misuse import is_failure, report_failure, warn
from kworker.runtime import Runtime
from kworker.task import TASK_INTERRUPTIBLE, TASK_RUNNING, TaskStruct
from kworker.work import KthreadFlushWork, KthreadWork, KthreadWorker, WorkFn, kthread_flush_worker

__all__ = [
    "KTW_FREEZABLE",
    "kthread_create_worker",
    "kthread_create_worker_on_cpu",
    "kthread_destroy_worker",
    "kthread_run_worker",
    "kthread_run_worker_on_cpu",
    "kthread_worker_fn",
]

KTW_FREEZABLE = 1


# ---- the thread ----------------------------------------------------------------------------------------


def kthread_worker_fn(worker: KthreadWorker) -> int:
    """The thread function that serves `worker`: kthread_run(kthread_worker_fn, worker, "name").

    Runs works until the thread is asked to stop, then returns 0; what is on the lists stays there.
    An exception of a work goes to the failure hook and the worker goes on.
    """
    runtime = worker.runtime
    task = runtime.require_task("kthread_worker_fn")
    kthread = task.kthread
    if kthread is None:
        warn("kthread_worker_fn: runs on a thread that is not a kthread; start it with kthread_run")
        return 0
    with worker.lock:
        other = worker.task
        if other is None or other is task:
            worker.task = task
            worker.stopped = False
            worker.name = kthread.full_name
    if other is not None and other is not task:
        warn(
            f"kthread_worker_fn: {worker.name!r} already has the task {other.comm!r}; "
            "two threads would run its works at once. Use one worker a thread"
        )
        worker.task = task
    if worker.flags & KTW_FREEZABLE:
        set_freezable()
    try:
        _serve(worker, task, runtime)
    finally:
        task.state = TASK_RUNNING
        task.waiting_on = None
    return 0


def _serve(worker: KthreadWorker, task: TaskStruct, runtime: Runtime) -> None:
    kthread = task.kthread
    assert kthread is not None
    lock, works, prepare = worker.lock, worker.work_list, runtime.prepare
    while True:
        if kthread.should_stop:
            _detach(worker)
            return
        if runtime.sync is not None:
            runtime.sync("worker")
        with lock:
            work = works.pop_first()
            worker.current_work = work
            if work is None:
                # Under the lock: who queues now sees no current work and a task that is about to sleep,
                # and wakes it. (The kernel sets the state before it takes the lock; the result is the same
                # and a busy worker never pays for it.)
                prepare(task, TASK_INTERRUPTIBLE)
        if work is not None:
            _run(worker, task, work, runtime)
        elif not freezing(task) and not kthread.should_stop:
            task.waiting_on = worker
            runtime.schedule()
            task.waiting_on = None
        if runtime.freezing:
            try_to_freeze()


def _run(worker: KthreadWorker, task: TaskStruct, work: KthreadWork, runtime: Runtime) -> None:
    """Run one work. Afterwards the work is not touched: its function may have freed or reused it."""
    func = work.func
    hook = runtime.hook
    name = work.name if hook is not None else ""
    worker.running_since_ns = start = runtime.now_ns
    if hook is not None:
        hook("sched_kthread_work_execute_start", (worker.name, name))
    try:
        cast(WorkFn, func)(work)
    except BaseException as exc:
        if not is_failure(exc):
            raise
        worker.failures += 1
        report_failure(exc, task, f"work function {getattr(func, '__name__', func)}")
    if hook is not None:
        hook("sched_kthread_work_execute_end", (worker.name, name))
    worker.runs += 1
    worker.busy_ns += runtime.now_ns - start
    # A function that fell asleep half way would otherwise leave its state behind.
    task.state = TASK_RUNNING


def _detach(worker: KthreadWorker) -> None:
    """The thread stops: let go of the worker. What is on its lists stays there."""
    with worker.lock:
        worker.task = None
    if worker.threads == 0:
        # Served from a thread function that only calls kthread_worker_fn, so nobody else tells.
        _abandon(worker)


def _abandon(worker: KthreadWorker) -> None:
    """Nobody serves the worker any more: release the barriers, whose waiters would sleep for ever."""
    with worker.lock:
        worker.stopped = True
        stranded = [work for work in worker.work_list if isinstance(work.owner, KthreadFlushWork)]
        for work in stranded:
            work.node.unlink()
    for work in stranded:
        work.owner.abandoned = True
        work.owner.done.complete()


def _created(worker: KthreadWorker) -> None:
    worker.threads += 1
    worker.stopped = False
    worker.destroyed = False


def _ended(worker: KthreadWorker, task: TaskStruct) -> None:
    worker.threads -= 1
    if worker.task is task:
        # The thread function never ran (-EINTR); in the kernel this pointer would dangle.
        with worker.lock:
            worker.task = None
    if worker.threads == 0:
        _abandon(worker)


services[kthread_worker_fn] = ServiceRules(
    _created,
    _ended,
    "runs kthread_worker_fn, which has no place where it parks: the kernel would wait for ever. "
    "Flush the worker and queue nothing instead, or stop it",
)


# ---- create and destroy --------------------------------------------------------------------------------


def _create_worker(
    cpu: int | None, flags: int, namefmt: str, args: tuple[Any, ...], runtime: Runtime | None
) -> KthreadWorker:
    worker = KthreadWorker(runtime=runtime)
    task = kthread_create(kthread_worker_fn, worker, namefmt, *args, runtime=worker.runtime)
    if IS_ERR(task):
        return cast(KthreadWorker, task)
    assert task.kthread is not None
    worker.name = task.kthread.full_name
    if cpu is not None:
        kthread_bind(task, cpu)
    worker.flags = flags
    worker.task = task
    worker.runtime.wake(task)
    return worker


def kthread_create_worker(
    flags: int, namefmt: str, *args: Any, runtime: Runtime | None = None
) -> KthreadWorker:
    """A worker with a running thread named `namefmt % args`; -ENOMEM (IS_ERR) without a thread."""
    return _create_worker(None, flags, namefmt, args, runtime)


def kthread_create_worker_on_cpu(
    cpu: int, flags: int, namefmt: str, *args: Any, runtime: Runtime | None = None
) -> KthreadWorker:
    """`kthread_create_worker` with its thread bound to `cpu`."""
    return _create_worker(cpu, flags, namefmt, args, runtime)


kthread_run_worker = kthread_create_worker


def kthread_run_worker_on_cpu(
    cpu: int, flags: int, namefmt: str, *, runtime: Runtime | None = None
) -> KthreadWorker:
    """The name from 6.14; `namefmt` takes the CPU as its one argument."""
    return _create_worker(cpu, flags, namefmt, (cpu,), runtime)


def kthread_destroy_worker(worker: KthreadWorker) -> None:
    """Flush, stop the thread, and give the worker up.

    Warns if it has no task (and does nothing), and if works are left: a work that requeues itself, or a
    delayed work whose timer still runs. Cancel those first.
    """
    task = worker.task
    if task is None:
        warn(f"kthread_destroy_worker: {worker.name!r} has no task; it was stopped or never started")
        return
    if worker.runtime.current() is task:
        warn(f"kthread_destroy_worker: called from a work of {worker.name!r}, which would wait for itself")
        return
    kthread_flush_worker(worker)
    kthread_stop(task)
    worker.destroyed = True
    delayed, works = len(worker.delayed_work_list), len(worker.work_list)
    if delayed:
        warn(
            f"kthread_destroy_worker: {delayed} delayed works of {worker.name!r} are left with their timers "
            "running; kthread_cancel_delayed_work_sync them first"
        )
    if works:
        warn(
            f"kthread_destroy_worker: {works} works of {worker.name!r} are left (does one queue itself "
            "again?); kthread_cancel_work_sync it first"
        )
