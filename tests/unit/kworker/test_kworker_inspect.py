"""The snapshot of a worker."""

from __future__ import annotations

from kworker_helpers import Gate, wait_until

from kworker import (
    KTW_FREEZABLE,
    KthreadDelayedWork,
    KthreadWork,
    KthreadWorker,
    Runtime,
    TaskStruct,
    kthread_cancel_delayed_work_sync,
    kthread_cancel_work_sync,
    kthread_create_worker,
    kthread_flush_worker,
    kthread_queue_delayed_work,
    kthread_queue_work,
    kthread_run,
    kthread_stop,
    snapshot,
)
from kworker.inspect import task_snapshot


def test_snapshot_of_a_busy_worker_shows_its_lists_and_waiters(rt: Runtime, worker: KthreadWorker) -> None:
    gate = Gate()

    def transfer(work: KthreadWork) -> None:
        gate(work)

    def later(work: KthreadWork) -> None:
        pass

    work, dwork = KthreadWork(transfer), KthreadDelayedWork(later)
    kthread_queue_work(worker, work)
    gate.entered.wait()
    kthread_queue_work(worker, KthreadWork(later))
    kthread_queue_delayed_work(worker, dwork, 3_600_000)
    canceller = kthread_run(lambda _: kthread_cancel_work_sync(work), None, "canceller")
    wait_until(rt, lambda: work.canceling == 1 and len(worker.work_list) == 2)

    seen = snapshot(worker)
    assert (seen.name, seen.state, seen.pid) == ("nvme1", "running", worker.task.pid)
    assert seen.current is not None
    assert (seen.current.name, seen.current.canceling) == ("transfer", 1)
    assert seen.running_ns >= 0
    assert [queued.name for queued in seen.queued] == ["_kthread_flush_work_fn", "later"]
    assert seen.waiters == ("canceller",)
    assert seen.delayed[0].name == "later"
    assert 0 < seen.delayed[0].left_ns <= 3_600 * 10**9

    gate.go.complete()
    kthread_stop(canceller)
    kthread_cancel_delayed_work_sync(dwork)
    kthread_flush_worker(worker)
    wait_until(rt, lambda: snapshot(worker).state == "idle")
    after = snapshot(worker)
    assert (after.current, after.queued, after.delayed, after.waiters, after.failures) == (None, (), (), (), 0)
    assert after.runs >= 3
    assert after.busy_ns >= 0
    assert after.blocked_ns >= 0


def test_snapshot_names_the_states_of_a_worker(rt: Runtime) -> None:
    fresh = KthreadWorker()
    assert snapshot(fresh).state == "no thread"
    worker = kthread_create_worker(KTW_FREEZABLE, "fz")
    wait_until(rt, lambda: worker.task._freezable)
    rt.freeze()
    wait_until(rt, lambda: snapshot(worker).state == "frozen")
    rt.thaw()
    wait_until(rt, lambda: snapshot(worker).state == "idle")
    kthread_stop(worker.task)
    stopped = snapshot(worker)
    assert (stopped.state, stopped.pid) == ("stopped", None)


def test_snapshot_counts_busy_time_in_virtual_ns() -> None:
    from kworker import SimRuntime

    with SimRuntime() as rt:
        worker = kthread_create_worker(0, "w")
        kthread_queue_work(worker, KthreadWork(lambda work: rt.consume(1_234)))
        kthread_flush_worker(worker)
        assert snapshot(worker).busy_ns >= 1_234
        assert snapshot(worker).busy_ns < 4_000


def test_task_snapshot_of_a_waiter_names_what_it_waits_for_and_who_provides_it(
    rt: Runtime, worker: KthreadWorker
) -> None:
    gate = Gate()
    kthread_queue_work(worker, KthreadWork(gate))
    gate.entered.wait()
    flusher = kthread_run(lambda _: kthread_flush_worker(worker), None, "flusher")
    assert isinstance(flusher, TaskStruct)
    wait_until(rt, lambda: flusher.waiting_on is not None)

    seen = task_snapshot(flusher)

    assert (seen.name, seen.pid, seen.state) == ("flusher", flusher.pid, "uninterruptible sleep")
    assert seen.waits_for.startswith("completion ")
    assert seen.provider == "nvme1"
    gate.go.complete()
    kthread_stop(flusher)
