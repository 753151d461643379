"""Delayed works, and cancelling, which both kinds of work share."""

from __future__ import annotations

from typing import Any

from kworker.jiffy import NSEC_PER_JIFFY, jiffies_to_ns
from kworker.misuse import warn
from kworker.runtime import Runtime
from kworker.timer import TimerList, timer_delete_sync, timer_pending
from kworker.work import (
    KthreadWork,
    KthreadWorker,
    WorkFn,
    check_insert,
    check_same_worker,
    insert_work,
    kthread_flush_work,
    kthread_init_work,
)

__all__ = [
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
]


class KthreadDelayedWork:
    """A work with a timer in front (kernel: struct kthread_delayed_work).

    work, timer   its parts. `work.func` gets `work`; `to_delayed_work(work)` leads back here
    owner         the object that it is part of, if you set it
    """

    __slots__ = ("owner", "timer", "work")

    def __init__(
        self,
        func: WorkFn | None = None,
        *,
        owner: Any = None,
        runtime: Runtime | None = None,
    ) -> None:
        self.work = KthreadWork(func, owner=owner)
        self.work.delayed = self
        self.timer = TimerList(kthread_delayed_work_timer_fn, runtime=runtime)
        self.timer.owner = self
        self.owner = owner

    def __repr__(self) -> str:
        return f"<KthreadDelayedWork {self.work.name}>"


def to_delayed_work(work: KthreadWork) -> KthreadDelayedWork | None:
    """The delayed work that `work` is part of (the kernel's container_of), or None."""
    return work.delayed


def DEFINE_KTHREAD_WORK(fn: WorkFn) -> KthreadWork:
    """An initialised work: `work = DEFINE_KTHREAD_WORK(fn)`."""
    return KthreadWork(fn)


def DEFINE_KTHREAD_DELAYED_WORK(fn: WorkFn) -> KthreadDelayedWork:
    """An initialised delayed work: `dwork = DEFINE_KTHREAD_DELAYED_WORK(fn)`."""
    return KthreadDelayedWork(fn)


def kthread_init_delayed_work(dwork: KthreadDelayedWork, fn: WorkFn) -> None:
    """Make `dwork` new, with the function `fn`. Warns as kthread_init_work does; disarms its timer."""
    kthread_init_work(dwork.work, fn)
    if timer_pending(dwork.timer):
        timer_delete_sync(dwork.timer)
    dwork.timer.function = kthread_delayed_work_timer_fn


def kthread_delayed_work_timer_fn(timer: TimerList) -> None:
    """The timer function, in interrupt context: moves the work to the work list unless it is cancelled."""
    dwork = timer.owner
    assert isinstance(dwork, KthreadDelayedWork)
    work = dwork.work
    worker = work.worker
    if worker is None:
        warn(
            f"the timer of {work.name} fired, but the work belongs to no worker; "
            "was it re-initialised while queued?"
        )
        return
    with worker.lock:
        check_same_worker(worker, work, "kthread_delayed_work_timer_fn")
        if work.node.head is None:
            warn(
                f"the timer of {work.name} fired, but the work is on no list; "
                "was it cancelled with kthread_cancel_work_sync instead of kthread_cancel_delayed_work_sync?"
            )
        work.node.unlink()
        if not work.canceling:
            insert_work(worker, work, worker.work_list.root)


def _queue_delayed(worker: KthreadWorker, dwork: KthreadDelayedWork, delay: int) -> None:
    """Queue now or arm the timer. The caller holds worker.lock and knows that the work may be queued."""
    work, timer = dwork.work, dwork.timer
    if timer.function is not kthread_delayed_work_timer_fn:
        warn(f"{work.name}: its timer has a foreign function; use kthread_init_delayed_work")
    if delay <= 0:
        insert_work(worker, work, worker.work_list.root)
        return
    check_insert(worker, work)
    worker.delayed_work_list.append(work.node)
    work.worker = worker
    runtime = timer.runtime = worker.runtime
    when = runtime.now_ns + jiffies_to_ns(delay)
    timer.expires = when // NSEC_PER_JIFFY
    timer.arm_ns(when)


def kthread_queue_delayed_work(worker: KthreadWorker, dwork: KthreadDelayedWork, delay: int) -> bool:
    """Queue after `delay` jiffies, at once for 0.

    False if it is queued, its timer is pending, or somebody cancels it.
    """
    runtime = worker.runtime
    if runtime.sync is not None:
        runtime.sync("queue_delayed_work")
    work = dwork.work
    with worker.lock:
        if work.node.head is not None or work.canceling:
            return False
        _queue_delayed(worker, dwork, delay)
    return True


def _delete_timer(worker: KthreadWorker, work: KthreadWork, timer: TimerList) -> None:
    """Kill the timer. Called with the lock held, which is dropped meanwhile: the timer function takes it.

    `canceling` keeps the work from being queued while the lock is not held.
    """
    work.canceling += 1
    worker.lock.release()
    try:
        timer_delete_sync(timer)
    finally:
        worker.lock.acquire()
        work.canceling -= 1


def _cancel_pending(work: KthreadWork) -> bool:
    """Take it off its list. True if it was on one. The caller holds the lock."""
    if work.node.head is None:
        return False
    work.node.unlink()
    return True


def kthread_mod_delayed_work(worker: KthreadWorker, dwork: KthreadDelayedWork, delay: int) -> bool:
    """Set the delay anew, or queue it if it is idle. True if it was pending.

    False if it was idle; a work that only runs counts as idle and runs again. While somebody cancels the
    work nothing changes and the result is True, as if the canceller had come right after us.
    """
    runtime = worker.runtime
    if runtime.sync is not None:
        runtime.sync("mod_delayed_work")
    work = dwork.work
    with worker.lock:
        was_pending = False
        if work.worker is not None:
            check_same_worker(worker, work, "kthread_mod_delayed_work")
            _delete_timer(worker, work, dwork.timer)
            if work.canceling:
                return True
            was_pending = _cancel_pending(work)
        _queue_delayed(worker, dwork, delay)
    return was_pending


def kthread_cancel_work_sync(work: KthreadWork) -> bool:
    """Take `work` off the list and wait for it if it runs. True if it was pending.

    The work cannot queue itself again meanwhile. Warns where the kernel would hang or misbehave: from the
    work's own function, on a delayed work whose timer is pending, for the last work of a stopped worker.
    """
    if work.delayed is not None and timer_pending(work.delayed.timer):
        warn(
            f"kthread_cancel_work_sync({work.name}): it is a delayed work whose timer is pending; the timer "
            "stays armed and the work runs later all the same. Use kthread_cancel_delayed_work_sync"
        )
    return _cancel_sync(work, None, f"kthread_cancel_work_sync({work.name})")


def kthread_cancel_delayed_work_sync(dwork: KthreadDelayedWork) -> bool:
    """`kthread_cancel_work_sync`, with the timer killed first."""
    work = dwork.work
    return _cancel_sync(work, dwork.timer, f"kthread_cancel_delayed_work_sync({work.name})")


def _cancel_sync(work: KthreadWork, timer: TimerList | None, what: str) -> bool:
    worker = work.worker
    if worker is None:
        return False
    runtime = worker.runtime
    if runtime.sync is not None:
        runtime.sync("cancel_work_sync")
    runtime.require_task(what)
    with worker.lock:
        check_same_worker(worker, work, what)
        if timer is not None:
            _delete_timer(worker, work, timer)
        was_pending = _cancel_pending(work)
        if worker.current_work is not work:
            return was_pending
        problem = _cancel_problem(worker)
        if not problem:
            work.canceling += 1
    if problem:
        warn(f"{what}: {problem}")
        return was_pending
    try:
        kthread_flush_work(work)
    finally:
        with worker.lock:
            work.canceling -= 1
    return was_pending


def _cancel_problem(worker: KthreadWorker) -> str:
    """Why waiting for the running work would never end; "" if it will."""
    if worker.task is not None and worker.runtime.current() is worker.task:
        return (
            "called from the work's own function, which would wait for its own end; "
            "just do not queue it again, or cancel from another thread"
        )
    if worker.stopped:
        return (
            f"the thread of {worker.name!r} was stopped and this was its last work; the kernel still takes "
            "it for running and waits for ever. Cancel before kthread_stop"
        )
    return ""
