"""Works and the list of a worker: what is queued, in which order, and who waits for it.

The order of steps and every return value are those of Linux 6.12. Where the kernel would hang or corrupt a
list without a word, the call warns (kworker.misuse), says what to do instead, and returns without waiting.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from kworker.completion import Completion
from kworker.lists import ListHead, ListNode
from kworker.misuse import warn
from kworker.runtime import Runtime, current_runtime
from kworker.task import TaskStruct

if TYPE_CHECKING:
    from kworker.delayed import KthreadDelayedWork

__all__ = [
    "KthreadFlushWork",
    "KthreadWork",
    "KthreadWorker",
    "kthread_flush_work",
    "kthread_flush_worker",
    "kthread_init_work",
    "kthread_init_worker",
    "kthread_queue_work",
]

WorkFn = Callable[["KthreadWork"], object]


class KthreadWorker:
    """A list of works and the task that serves it (kernel: struct kthread_worker).

    flags              KTW_FREEZABLE or 0
    lock               protects all of the below
    work_list          works to run, in order
    delayed_work_list  delayed works whose timer is pending, in no particular order
    task               the task that serves it, or None
    current_work       the work that runs now (or ran last before a stop), or None
    runs, failures     executed works, and those that raised (ours)
    busy_ns            time spent in works (ours)
    """

    __slots__ = (
        "busy_ns",
        "current_work",
        "delayed_work_list",
        "destroyed",
        "failures",
        "flags",
        "lock",
        "name",
        "running_since_ns",
        "runs",
        "runtime",
        "stopped",
        "task",
        "threads",
        "work_list",
    )

    def __init__(self, *, runtime: Runtime | None = None, name: str = "worker") -> None:
        self.runtime = runtime if runtime is not None else current_runtime()
        self.name = name
        self.threads = 0
        self._reset()

    def _reset(self) -> None:
        self.flags = 0
        self.lock = self.runtime.lock(f"{self.name}.lock")
        self.work_list = ListHead()
        self.delayed_work_list = ListHead()
        self.task: TaskStruct | None = None
        self.current_work: KthreadWork | None = None
        self.runs = 0
        self.failures = 0
        self.busy_ns = 0
        self.running_since_ns = 0
        self.stopped = False
        self.destroyed = False

    def __repr__(self) -> str:
        works, delayed = len(self.work_list), len(self.delayed_work_list)
        return f"<KthreadWorker {self.name!r} works={works} delayed={delayed}>"


class KthreadWork:
    """Something to do: `func(work)` on a worker's thread (kernel: struct kthread_work).

    node       its place on a worker's list; `node.head` is that list or None
    func       called with the work itself
    worker     the worker it was last queued on
    canceling  how many cancellers wait for it; while above 0 it cannot be queued
    owner      the object that the work is part of, if you set it (the kernel uses container_of)
    """

    __slots__ = ("canceling", "delayed", "func", "node", "owner", "worker")

    def __init__(self, func: WorkFn | None = None, *, owner: Any = None) -> None:
        self.node = ListNode(self)
        self.func = func
        self.worker: KthreadWorker | None = None
        self.canceling = 0
        self.owner = owner
        self.delayed: KthreadDelayedWork | None = None

    @property
    def name(self) -> str:
        """The name of its function."""
        return getattr(self.func, "__name__", None) or repr(type(self.func).__name__)

    def __repr__(self) -> str:
        return f"<KthreadWork {self.name}>"


class KthreadFlushWork:
    """A barrier: a work that completes `done` (kernel: struct kthread_flush_work)."""

    __slots__ = ("abandoned", "done", "waiter", "work")

    def __init__(self, runtime: Runtime, name: str) -> None:
        self.work = KthreadWork(_kthread_flush_work_fn, owner=self)
        self.done = Completion(runtime=runtime, name=name)
        self.waiter: TaskStruct | None = None
        self.abandoned = False

    def wait(self, worker: KthreadWorker, what: str) -> None:
        """Sleep until the barrier ran. Warns if the worker was stopped meanwhile and left it behind."""
        self.done.provider = worker
        self.done.wait()
        if self.abandoned:
            warn(
                f"{what}: {worker.name!r} was stopped before it came to this barrier; the kernel would wait "
                "for ever. Flush before kthread_stop, or use kthread_destroy_worker, which does both"
            )


def _kthread_flush_work_fn(work: KthreadWork) -> None:
    work.owner.done.complete()


# ---- initialise ----------------------------------------------------------------------------------------


def kthread_init_worker(worker: KthreadWorker) -> None:
    """Make `worker` empty and without a task. Warns if it has works or a thread: they would be lost."""
    if worker.task is not None or worker.work_list.count or worker.delayed_work_list.count:
        warn(
            f"kthread_init_worker: {worker.name!r} is in use ({len(worker.work_list)} works, "
            f"{len(worker.delayed_work_list)} delayed); its works would be lost. Stop and drain it first"
        )
        for head in (worker.work_list, worker.delayed_work_list):
            while head.count:
                head.pop_first()
    worker._reset()


def kthread_init_work(work: KthreadWork, fn: WorkFn) -> None:
    """Make `work` new, with the function `fn`. A running work may do this to itself.

    Warns if the work is queued (in the kernel the list is corrupted and the worker spins for ever; here it
    is taken off first) or if somebody waits in a cancel (in the kernel it could never be queued again; here
    the count of cancellers is kept).
    """
    if work.node.head is not None:
        warn(
            f"kthread_init_work: {work.name} is still queued; re-initialising it corrupts the worker's list, "
            "and the worker spins for ever. Cancel it first (kthread_cancel_work_sync)"
        )
        _unlink_locked(work)
    if work.canceling:
        warn(
            f"kthread_init_work: somebody waits in a cancel of {work.name}; re-initialising makes canceling "
            "-1, and the work can never be queued again. Wait until the cancel has returned"
        )
    work.node = ListNode(work)
    work.func = fn
    work.worker = None


def _unlink_locked(work: KthreadWork) -> None:
    if work.worker is not None:
        with work.worker.lock:
            work.node.unlink()
    else:
        work.node.unlink()


# ---- queue ---------------------------------------------------------------------------------------------


def kthread_queue_work(worker: KthreadWorker, work: KthreadWork) -> bool:
    """Append `work` to the worker's list. False if it is on a list already or being cancelled.

    True also while it runs: it then runs once more. Wakes the worker only if it has nothing to do. Any
    context, interrupts included.
    """
    runtime = worker.runtime
    if runtime.sync is not None:
        runtime.sync("queue_work")
    with worker.lock:
        if work.node.head is not None or work.canceling:
            return False
        insert_work(worker, work, worker.work_list.root)
    return True


def insert_work(worker: KthreadWorker, work: KthreadWork, pos: ListNode) -> None:
    """Link `work` in front of `pos` and wake an idle worker. The caller holds worker.lock."""
    check_insert(worker, work)
    worker.work_list.insert_before(work.node, pos)
    work.worker = worker
    runtime = worker.runtime
    if runtime.hook is not None:
        runtime.hook("sched_kthread_work_queue_work", (worker.name, work.name))
    if worker.current_work is None and worker.task is not None:
        runtime.wake(worker.task)


def check_insert(worker: KthreadWorker, work: KthreadWork) -> None:
    """What the kernel WARNs about when a work goes onto a list (and then goes on)."""
    if work.node.head is not None:
        warn(f"{work.name} is inserted while it is on a list")
        work.node.unlink()
    if work.worker is not worker and work.worker is not None:
        warn(
            f"{work.name} was used with the worker {work.worker.name!r} and is now queued on "
            f"{worker.name!r}; a flush or cancel may then look at the wrong one. "
            "kthread_init_work it before it changes worker"
        )
    if worker.destroyed:
        warn(f"{work.name} is queued on {worker.name!r}, which was destroyed; it will never run")


# ---- flush ---------------------------------------------------------------------------------------------


_STOPPED = (
    "the worker's thread was stopped and nobody runs its works any more; {}, "
    "or start a new thread with kthread_run(kthread_worker_fn, worker, ...)"
)


def kthread_flush_work(work: KthreadWork) -> None:
    """Wait until the queued execution of `work`, or the running one, has ended. Nothing to do: returns.

    A barrier goes right behind the queued work; if it only runs, to the head of the list. Warns and returns
    where the kernel would wait for ever: from a work of the same worker, for a delayed work whose timer is
    pending, after the worker was stopped.
    """
    worker = work.worker
    if worker is None:
        return
    runtime = worker.runtime
    if runtime.sync is not None:
        runtime.sync("flush_work")
    what = f"kthread_flush_work({work.name})"
    barrier = KthreadFlushWork(runtime, f"flush of {work.name}")
    with worker.lock:
        check_same_worker(worker, work, "kthread_flush_work")
        node = work.node
        if node.head is None and worker.current_work is not work:
            return
        barrier.waiter = runtime.require_task(what)
        problem = _flush_problem(worker, work, barrier.waiter)
        if not problem:
            pos = node.next if node.head is not None else worker.work_list.root.next
            insert_work(worker, barrier.work, pos)
    if problem:
        warn(f"{what}: {problem}")
        return
    barrier.wait(worker, what)


def _flush_problem(worker: KthreadWorker, work: KthreadWork, caller: TaskStruct) -> str:
    """Why waiting for this work, which is queued or running, would never end; "" if it will."""
    if worker.task is caller:
        return (
            f"called from a work of the same worker {worker.name!r}, whose thread would wait for itself; "
            "flush from another thread, or queue what has to come afterwards"
        )
    if work.node.head is worker.delayed_work_list:
        return (
            "its timer is still pending; the kernel puts the barrier onto the list of timers, where nobody "
            "runs it. Use kthread_mod_delayed_work(worker, dwork, 0) and then flush, or "
            "kthread_cancel_delayed_work_sync"
        )
    if worker.stopped:
        return _STOPPED.format("flush before kthread_stop")
    return ""


def kthread_flush_worker(worker: KthreadWorker) -> None:
    """Wait until all works that are queued now have run. Delayed works with a pending timer do not count.

    Warns and returns from a work of the same worker, and after the worker was stopped.
    """
    what = f"kthread_flush_worker({worker.name})"
    runtime = worker.runtime
    if runtime.sync is not None:
        runtime.sync("flush_worker")
    barrier = KthreadFlushWork(runtime, f"flush of {worker.name}")
    barrier.waiter = runtime.require_task(what)
    problem = ""
    with worker.lock:
        if worker.task is barrier.waiter:
            problem = (
                "called from a work of this worker, whose thread would wait for itself; "
                "flush from another thread"
            )
        elif worker.stopped:
            problem = _STOPPED.format("flush before kthread_stop")
        else:
            insert_work(worker, barrier.work, worker.work_list.root)
    if problem:
        warn(f"{what}: {problem}")
        return
    barrier.wait(worker, what)


def check_same_worker(worker: KthreadWorker, work: KthreadWork, what: str) -> None:
    """The kernel's WARN that a work must not change its worker. The caller holds the lock of `worker`."""
    if work.worker is not worker:
        now = "none" if work.worker is None else repr(work.worker.name)
        warn(f"{what}: {work.name} moved from {worker.name!r} to {now} meanwhile; use one worker a work")
