"""The program of the reference, names in the OS, and the package as a whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from kworker_helpers import Gate

import kworker
from kworker import (
    KthreadWork,
    KthreadWorker,
    Runtime,
    ThreadRuntime,
    current,
    kthread_create_worker,
    kthread_destroy_worker,
    kthread_flush_worker,
    kthread_init_work,
    kthread_init_worker,
    kthread_queue_work,
    kthread_run,
    kthread_stop,
    kthread_worker_fn,
)


def test_program_of_the_issue_transcribed_runs_as_it_reads(rt: Runtime) -> None:
    ran = []

    def xxx_work_fn(work: KthreadWork) -> None:
        ran.append((work, current().comm))

    hi_worker = KthreadWorker()
    kthread_init_worker(hi_worker)
    kworker_task = kthread_run(kthread_worker_fn, hi_worker, "nvme%d", 1)
    hi_work = KthreadWork()
    kthread_init_work(hi_work, xxx_work_fn)
    kthread_queue_work(hi_worker, hi_work)
    kthread_flush_worker(hi_worker)
    result = kthread_stop(kworker_task)

    assert ran == [(hi_work, "nvme1")]
    assert kworker_task.comm == "nvme1"
    assert result == 0


def test_structs_new_have_the_kernels_fields(rt: Runtime) -> None:
    worker, work = KthreadWorker(), KthreadWork()
    flush = kworker.KthreadFlushWork(rt, "x")
    delayed = kworker.KthreadDelayedWork()

    assert (worker.flags, worker.task, worker.current_work) == (0, None, None)
    assert kworker.list_empty(worker.work_list)
    assert kworker.list_empty(worker.delayed_work_list)
    assert not kworker.spin_is_locked(worker.lock)
    assert (work.func, work.worker, work.canceling) == (None, None, 0)
    assert kworker.list_empty(work.node)
    assert flush.work.func is not None
    assert flush.done.done == 0
    assert kworker.to_delayed_work(delayed.work) is delayed
    assert not kworker.timer_pending(delayed.timer)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="thread names are read from Linux' /proc")
def test_thread_name_in_proc_is_the_formatted_name() -> None:
    with ThreadRuntime():
        worker = kthread_create_worker(0, "nvme%dq%u", 1, 2)
        names = {int(d.name): (d / "comm").read_text().strip() for d in Path("/proc/self/task").iterdir()}
        pid = worker.task.pid
        kthread_destroy_worker(worker)

    assert names[pid] == "nvme1q2"


@pytest.mark.parametrize(
    ("namefmt", "args", "comm", "full"),
    [
        ("nvme%d", (1,), "nvme1", "nvme1"),
        ("nvme%uq%lu", (1, 2), "nvme1q2", "nvme1q2"),
        ("%s/%zu", ("spi", 3), "spi/3", "spi/3"),
        ("a_very_long_worker_name%02d", (7,), "a_very_long_wor", "a_very_long_worker_name07"),
        ("100%%", (), "100%", "100%"),
    ],
)
def test_name_formatted_is_cut_to_fifteen_characters(
    rt: Runtime, namefmt: str, args: tuple[object, ...], comm: str, full: str
) -> None:
    worker = kthread_create_worker(0, namefmt, *args)
    task = worker.task
    kthread_destroy_worker(worker)

    assert (task.comm, task.kthread.full_name) == (comm, full)


def test_threads_stopped_leave_no_os_thread_behind() -> None:
    import threading

    before = threading.active_count()
    with ThreadRuntime() as rt:
        workers = [kthread_create_worker(0, "w%d", i) for i in range(3)]
        rt.sleep_ns(1000)
        rt.call_at(rt.now_ns, lambda: None)
        for worker in workers:
            kthread_destroy_worker(worker)
    assert threading.active_count() == before


def test_import_alone_does_not_load_greenlet() -> None:
    code = "import sys, kworker; sys.exit('greenlet' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_strict_environment_variable_raises_the_warning() -> None:
    code = (
        "import kworker\n"
        "try:\n    kworker.kthread_should_stop()\n"
        "except kworker.KthreadWarning as e:\n    print('raised', e)\n"
    )
    env = {"KWORKER_STRICT": "1", "PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(kworker.__file__).parent.parent)}
    out = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert out.stdout.startswith("raised kthread_should_stop")


def test_all_names_exist_and_are_documented() -> None:
    for name in kworker.__all__:
        value = getattr(kworker, name)
        if callable(value):
            assert value.__doc__, name


def test_runtime_of_new_objects_is_the_one_of_the_current_task(rt: Runtime) -> None:
    inside = []
    worker = kthread_create_worker(0, "w")
    kthread_queue_work(worker, KthreadWork(lambda work: inside.append(kworker.Completion().runtime)))
    kthread_destroy_worker(worker)

    assert worker.runtime is rt
    assert inside == [rt]


def test_runtime_without_any_entered_is_one_thread_runtime() -> None:
    first, second = kworker.Completion(), KthreadWorker()
    assert isinstance(first.runtime, ThreadRuntime)
    assert first.runtime is second.runtime


def test_busy_worker_queued_on_wakes_nobody(rt: Runtime, worker: KthreadWorker) -> None:
    gate = Gate()
    kthread_queue_work(worker, KthreadWork(gate))
    gate.entered.wait()
    wakes: list[str] = []
    rt.on_event = lambda event, args: wakes.append(args[0]) if event == "sched_wakeup" else None
    for _ in range(10):
        kthread_queue_work(worker, KthreadWork(lambda work: None))
    rt.on_event = None
    gate.go.complete()
    kthread_flush_worker(worker)

    assert wakes == []
    assert worker.runs >= 11
