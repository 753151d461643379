"""kthread_*: create, run, stop, park and bind threads, as Linux 6.12 kernel/kthread.c does.

An error is returned as the kernel's ERR_PTR does it: a negative errno in the place of the pointer, tested
with `IS_ERR`. It is typed as what it stands for, so that a program reads like its original in C.
"""

from __future__ import annotations

import _thread
import errno
import re
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, NoReturn, cast

from kworker.completion import Completion
from kworker.misuse import KworkerError, ends_the_thread, is_failure, report_failure, warn
from kworker.runtime import Runtime, current, current_runtime
from kworker.task import (
    PF_EXITING,
    PF_KTHREAD,
    PF_NO_SETAFFINITY,
    PF_NOFREEZE,
    TASK_COMM_LEN,
    TASK_DEAD,
    TASK_PARKED,
    TASK_RUNNING,
    TaskStruct,
)

__all__ = [
    "IS_ERR",
    "PTR_ERR",
    "Kthread",
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
]

ThreadFn = Callable[[Any], Any]


class Kthread:
    """The kthread part of a task (kernel: struct kthread).

    threadfn, data   what it runs
    result           what threadfn returned, or what kthread_exit was given; -EINTR if it never ran
    full_name        the name before it was cut to 15 characters
    """

    __slots__ = (
        "cpu",
        "data",
        "exited",
        "full_name",
        "is_per_cpu",
        "lock",
        "parked",
        "parkings",
        "result",
        "should_park",
        "should_stop",
        "started",
        "stoppers",
        "threadfn",
    )

    def __init__(self, threadfn: ThreadFn, data: Any, full_name: str, runtime: Runtime) -> None:
        self.threadfn = threadfn
        self.data = data
        self.full_name = full_name
        self.should_stop = False
        self.should_park = False
        self.parkings = 0
        self.is_per_cpu = False
        self.cpu: int | None = None
        self.result = 0
        self.started = False
        self.stoppers = 0
        # Decides "parked before it started, or started?"; held for a few instructions, never across a switch.
        self.lock = _thread.allocate_lock()
        self.parked = Completion(runtime=runtime, name=f"{full_name} is parked")
        self.exited = Completion(runtime=runtime, name=f"{full_name} has ended")


class ServiceRules(NamedTuple):
    """What kthread_* must know about a thread function that serves an object (kthread_worker_fn).

    created(data) and ended(data, task) keep count of its threads; `why_no_park` says why it cannot be parked.
    """

    created: Callable[[Any], None]
    ended: Callable[[Any, TaskStruct], None]
    why_no_park: str


services: dict[ThreadFn, ServiceRules] = {}


@ends_the_thread
class _KthreadExit(BaseException):
    """Carries kthread_exit out of the thread function. Not an Exception: `except Exception` lets it pass."""

    def __init__(self, result: int) -> None:
        super().__init__(result)
        self.result = result


def IS_ERR(pointer: object) -> bool:
    """True if a function returned an error (a negative errno) in place of an object."""
    return isinstance(pointer, int) and pointer < 0


def PTR_ERR(pointer: object) -> int:
    """The negative errno in `pointer`; 0 if it is an object."""
    return pointer if isinstance(pointer, int) and pointer < 0 else 0


_LENGTH_MODIFIER = re.compile(r"%([-+ #0]*\d*(?:\.\d+)?)(?:hh|h|ll|l|z|j|t)([diuxXc])")


def format_name(namefmt: str, args: tuple[Any, ...]) -> str:
    """The kernel's printf-like names: %d, %u, %s, %x, length modifiers (%lu, %zu) are dropped."""
    return _LENGTH_MODIFIER.sub(r"%\1\2", namefmt) % args


# ---- create and run ------------------------------------------------------------------------------------


def kthread_create(
    threadfn: ThreadFn, data: Any, namefmt: str, *args: Any, runtime: Runtime | None = None
) -> TaskStruct:
    """A kthread named `namefmt % args`, stopped; `wake_up_process` starts `threadfn(data)`.

    Returns -ENOMEM in place of the task if the system has no more threads (test with IS_ERR). Without
    `runtime` it runs where `data` lives (a worker knows), else on the current runtime.
    """
    name = format_name(namefmt, args)
    if runtime is None:
        runtime = getattr(data, "runtime", None) or current_runtime()
    kthread = Kthread(threadfn, data, name, runtime)
    try:
        task = runtime.new_task(name[: TASK_COMM_LEN - 1], _main)
    except (RuntimeError, OSError) as exc:
        if isinstance(exc, KworkerError):
            raise
        return cast(TaskStruct, -errno.ENOMEM)
    task.flags |= PF_KTHREAD | PF_NOFREEZE
    task.kthread = kthread
    kthread.parked.provider = kthread.exited.provider = task
    rules = services.get(threadfn)
    if rules is not None:
        rules.created(data)
    return task


def kthread_run(
    threadfn: ThreadFn, data: Any, namefmt: str, *args: Any, runtime: Runtime | None = None
) -> TaskStruct:
    """`kthread_create`, then wake it."""
    task = kthread_create(threadfn, data, namefmt, *args, runtime=runtime)
    if not IS_ERR(task):
        task.runtime.wake(task)
    return task


def kthread_create_on_cpu(
    threadfn: ThreadFn, data: Any, cpu: int, namefmt: str, *, runtime: Runtime | None = None
) -> TaskStruct:
    """`kthread_create` bound to `cpu`; `namefmt` takes the CPU as its one argument ("nvme/%u")."""
    task = kthread_create(threadfn, data, namefmt, cpu, runtime=runtime)
    if not IS_ERR(task):
        kthread_bind(task, cpu)
        _of(task).cpu = cpu
    return task


def kthread_run_on_cpu(
    threadfn: ThreadFn, data: Any, cpu: int, namefmt: str, *, runtime: Runtime | None = None
) -> TaskStruct:
    """`kthread_create_on_cpu`, then wake it."""
    task = kthread_create_on_cpu(threadfn, data, cpu, namefmt, runtime=runtime)
    if not IS_ERR(task):
        task.runtime.wake(task)
    return task


def _main(task: TaskStruct) -> None:
    """The body of every kthread. A stop that comes first skips threadfn, and the result is -EINTR."""
    kthread = _of(task)
    result = -errno.EINTR
    try:
        if not kthread.should_stop:
            _park_before_start(task, kthread)
            result = kthread.threadfn(kthread.data)
    except _KthreadExit as exit_:
        result = exit_.result
    except BaseException as exc:
        if not is_failure(exc):
            raise
        report_failure(exc, task, "thread function")
        result = -errno.EFAULT
    kthread.result = 0 if result is None else result
    task.flags |= PF_EXITING
    rules = services.get(kthread.threadfn)
    if rules is not None:
        rules.ended(kthread.data, task)
    task.state = TASK_DEAD
    kthread.exited.complete_all()


def _park_before_start(task: TaskStruct, kthread: Kthread) -> None:
    while True:
        with kthread.lock:
            if not kthread.should_park:
                kthread.started = True
                return
        _parkme(task, kthread)


# ---- stop ----------------------------------------------------------------------------------------------


def kthread_stop(k: TaskStruct) -> int:
    """Ask `k` to stop, wake it, wait for its end and return its result (-EINTR if it never ran).

    Warns and does not wait: a second stop (returns the result), stopping oneself (-EDEADLK), stopping a
    task that is frozen (-EBUSY; it stops once it is thawed).
    """
    kthread = k.kthread
    if kthread is None:
        warn(f"kthread_stop: {k.comm!r} is not a kthread; only threads from kthread_create can be stopped")
        return -errno.EINVAL
    runtime = k.runtime
    if runtime.sync is not None:
        runtime.sync("kthread_stop")
    with kthread.lock:
        kthread.stoppers += 1
        again = kthread.stoppers > 1
    if again:
        warn(
            f"kthread_stop: {k.comm!r} was stopped already; the kernel would wait for ever, because its end "
            "is announced once. Stop a thread once and keep the result"
        )
        return kthread.result
    if k is runtime.current():
        warn(
            f"kthread_stop: {k.comm!r} stops itself and would wait for its own end; "
            "return from the thread function instead"
        )
        kthread.should_stop = True
        return -errno.EDEADLK
    hook = runtime.hook
    if hook is not None:
        hook("sched_kthread_stop", (k.comm, k.pid))
    kthread.should_stop = True
    kthread_unpark(k)
    runtime.wake(k)
    if k.frozen or (runtime.freezing and k._freezable and kthread.threadfn in services):
        warn(
            f"kthread_stop: {k.comm!r} is frozen and only ends after a thaw; the kernel would wait for it. "
            "Thaw first (runtime.thaw()), then stop"
        )
        return -errno.EBUSY
    kthread.exited.wait()
    runtime.reap(k)
    if hook is not None:
        hook("sched_kthread_stop_ret", (kthread.result,))
    return kthread.result


def kthread_stop_put(k: TaskStruct) -> int:
    """`kthread_stop`, then drop the reference to the task."""
    result = kthread_stop(k)
    put_task_struct(k)
    return result


def get_task_struct(task: TaskStruct) -> TaskStruct:
    """Take a reference. Python keeps the object alive anyway; the count is for transcribed programs."""
    task.usage += 1
    return task


def put_task_struct(task: TaskStruct) -> None:
    """Drop a reference."""
    task.usage -= 1


def kthread_exit(result: int) -> NoReturn:
    """End the calling kthread with `result`. Never returns; it raises through the thread function."""
    _self("kthread_exit", required=True)
    raise _KthreadExit(result)


def kthread_complete_and_exit(comp: Completion | None, code: int) -> NoReturn:
    """Complete `comp`, if there is one, and end the calling kthread with `code`."""
    _self("kthread_complete_and_exit", required=True)
    if comp is not None:
        comp.complete()
    raise _KthreadExit(code)


# ---- flags and data ------------------------------------------------------------------------------------


def kthread_should_stop() -> bool:
    """True once somebody called kthread_stop on the calling kthread."""
    kthread = _self("kthread_should_stop")
    return kthread is not None and kthread.should_stop


def kthread_should_park() -> bool:
    """True once somebody called kthread_park on the calling kthread."""
    kthread = _self("kthread_should_park")
    return kthread is not None and kthread.should_park


def kthread_should_stop_or_park() -> bool:
    """Either of the two; False, without a warning, if the caller is not a kthread."""
    task = current()
    kthread = task.kthread if task is not None else None
    return kthread is not None and (kthread.should_stop or kthread.should_park)


def kthread_func(k: TaskStruct) -> ThreadFn | None:
    """The thread function of `k`; None if it is not a kthread."""
    return k.kthread.threadfn if k.kthread is not None else None


def kthread_data(k: TaskStruct) -> Any:
    """The data of `k`. Warns and gives None if it is not a kthread."""
    if k.kthread is None:
        warn(f"kthread_data: {k.comm!r} is not a kthread; kthread_probe_data may be asked about any task")
        return None
    return k.kthread.data


def kthread_probe_data(k: TaskStruct) -> Any:
    """The data of `k`; None if it is not a kthread."""
    return k.kthread.data if k.kthread is not None else None


# ---- CPUs ----------------------------------------------------------------------------------------------


def kthread_bind(k: TaskStruct, cpu: int) -> None:
    """Bind `k` to one CPU. Only before its first wake-up; later it warns and does nothing."""
    if not _inactive(k):
        warn(f"kthread_bind: {k.comm!r} runs already; bind between kthread_create and wake_up_process")
        return
    k.runtime.bind(k, cpu)
    k.flags |= PF_NO_SETAFFINITY


def kthread_bind_mask(k: TaskStruct, mask: set[int] | frozenset[int]) -> None:
    """Bind `k` to the lowest CPU of `mask`. Only before its first wake-up, as kthread_bind."""
    kthread_bind(k, min(mask))


def kthread_set_per_cpu(k: TaskStruct, cpu: int) -> None:
    """Mark `k` as the thread of one CPU, to which unparking binds it again; cpu < 0 clears the mark."""
    kthread = k.kthread
    if kthread is None:
        warn(f"kthread_set_per_cpu: {k.comm!r} is not a kthread")
        return
    if not k.flags & PF_NO_SETAFFINITY:
        warn(f"kthread_set_per_cpu: {k.comm!r} is not bound; call kthread_bind first")
    if cpu < 0:
        kthread.is_per_cpu = False
        return
    kthread.cpu = cpu
    kthread.is_per_cpu = True


def kthread_is_per_cpu(k: TaskStruct) -> bool:
    """True if `k` is marked as the thread of one CPU."""
    return k.kthread is not None and k.kthread.is_per_cpu


def _inactive(k: TaskStruct) -> bool:
    return k.kthread is not None and not k.kthread.started and k.state != TASK_RUNNING


# ---- park ----------------------------------------------------------------------------------------------


def kthread_park(k: TaskStruct) -> int:
    """Ask `k` to park and wait until it has. 0, -ENOSYS (it is exiting), -EBUSY (asked already).

    Only a thread that calls kthread_parkme can park. For a running kthread_worker_fn, which never does,
    the kernel waits for ever: here it warns and returns -EDEADLK.
    """
    kthread = k.kthread
    if kthread is None:
        warn(f"kthread_park: {k.comm!r} is not a kthread")
        return -errno.ENOSYS
    if k.flags & PF_EXITING:
        warn(f"kthread_park: {k.comm!r} is exiting and will not park")
        return -errno.ENOSYS
    rules = services.get(kthread.threadfn)
    with kthread.lock:
        again, cannot = kthread.should_park, rules is not None and kthread.started
        if not again and not cannot:
            kthread.should_park = True
            kthread.parkings += 1
    if again:
        warn(f"kthread_park: {k.comm!r} was asked to park already; unpark it first")
        return -errno.EBUSY
    if cannot and rules is not None:
        warn(f"kthread_park: {k.comm!r} {rules.why_no_park}")
        return -errno.EDEADLK
    if k is not k.runtime.current():
        k.runtime.wake(k)
        kthread.parked.wait()
    return 0


def kthread_unpark(k: TaskStruct) -> None:
    """Let a parked kthread go on; nothing happens unless it was asked to park."""
    kthread = k.kthread
    if kthread is None or not kthread.should_park:
        return
    if kthread.is_per_cpu and kthread.cpu is not None:
        k.runtime.bind(k, kthread.cpu)
    kthread.should_park = False
    k.runtime.wake(k, TASK_PARKED)


def kthread_parkme() -> None:
    """Park the calling kthread for as long as it is asked to."""
    kthread = _self("kthread_parkme")
    task = current()
    if kthread is not None and task is not None:
        _parkme(task, kthread)


def _parkme(task: TaskStruct, kthread: Kthread) -> None:
    runtime = task.runtime
    answered = -1
    while True:
        # The state comes before the look at the flag: an unpark in between makes schedule() return.
        runtime.prepare(task, TASK_PARKED)
        if not kthread.should_park:
            break
        if kthread.parkings != answered:
            # Once for each kthread_park, also if a spurious wake-up brings us here again.
            answered = kthread.parkings
            kthread.parked.complete()
        task.waiting_on = "kthread_unpark"
        runtime.schedule()
    task.waiting_on = None
    task.state = TASK_RUNNING


# ---- helpers -------------------------------------------------------------------------------------------


def _of(task: TaskStruct) -> Kthread:
    kthread = task.kthread
    assert kthread is not None
    return kthread


def _self(what: str, required: Literal[True] | None = None) -> Kthread | None:
    """The calling kthread. Warns if the caller is none; raises KworkerError if it is required."""
    task = current()
    kthread = task.kthread if task is not None else None
    if kthread is None:
        who = "interrupt context" if task is None else repr(task.comm)
        message = f"{what}: called from {who}, which is not a kthread"
        if required:
            raise KworkerError(message)
        warn(message)
    return kthread
