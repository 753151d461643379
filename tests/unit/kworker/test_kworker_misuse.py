"""What the kernel WARNs about, and what hangs or corrupts silently there: each is named, none hangs here."""

from __future__ import annotations

from errno import EDEADLK

import pytest
from kworker_helpers import Gate, misuse, wait_until

import kworker
from kworker import (
    KthreadDelayedWork,
    KthreadWarning,
    KthreadWork,
    KthreadWorker,
    Runtime,
    kthread_cancel_delayed_work_sync,
    kthread_cancel_work_sync,
    kthread_create_worker,
    kthread_delayed_work_timer_fn,
    kthread_destroy_worker,
    kthread_flush_work,
    kthread_flush_worker,
    kthread_init_delayed_work,
    kthread_init_work,
    kthread_init_worker,
    kthread_park,
    kthread_queue_delayed_work,
    kthread_queue_work,
    kthread_run,
    kthread_stop,
    kthread_worker_fn,
    list_empty,
    timer_pending,
)

FAR = 3_600_000


def nothing(work: KthreadWork) -> None:
    pass


def in_a_work(worker: KthreadWorker, function, *args):  # type: ignore[no-untyped-def]
    """What `misuse` gives when a work of `worker` calls the function."""
    got: list[tuple[object, list[str]]] = []
    work = KthreadWork(lambda work: got.append(misuse(function, *(work if a is Ellipsis else a for a in args))))
    kthread_queue_work(worker, work)
    kthread_flush_worker(worker)
    return got[0]


# ---- hangs ---------------------------------------------------------------------------------------------


def test_flush_of_a_timer_pending_work_is_named_and_does_not_wait(worker: KthreadWorker) -> None:
    dwork = KthreadDelayedWork(nothing)
    kthread_queue_delayed_work(worker, dwork, FAR)
    _, texts = misuse(kthread_flush_work, dwork.work)
    assert len(texts) == 1
    assert "its timer is still pending" in texts[0]
    assert "kthread_mod_delayed_work(worker, dwork, 0)" in texts[0]
    assert list(worker.delayed_work_list) == [dwork.work], "no barrier was stranded"
    kthread_cancel_delayed_work_sync(dwork)


def test_cancel_from_the_works_own_function_is_named(worker: KthreadWorker) -> None:
    result, texts = in_a_work(worker, kthread_cancel_work_sync, ...)
    assert result is False
    assert "own function" in texts[0]


def test_cancel_from_its_own_function_while_pending_returns_true(worker: KthreadWorker) -> None:
    def requeue_and_cancel(work: KthreadWork) -> bool:
        kthread_queue_work(worker, work)
        return kthread_cancel_work_sync(work)

    result, texts = in_a_work(worker, requeue_and_cancel, ...)
    assert result is True
    assert "own function" in texts[0]


def test_flush_work_of_itself_is_named(worker: KthreadWorker) -> None:
    _, texts = in_a_work(worker, kthread_flush_work, ...)
    assert "whose thread would wait for itself" in texts[0]


def test_flush_of_a_work_queued_behind_oneself_is_named(worker: KthreadWorker) -> None:
    other = KthreadWork(nothing)

    def queue_and_flush() -> None:
        kthread_queue_work(worker, other)
        kthread_flush_work(other)

    _, texts = in_a_work(worker, queue_and_flush)
    assert "from a work of the same worker" in texts[0]


def test_flush_worker_from_a_work_of_that_worker_is_named(worker: KthreadWorker) -> None:
    _, texts = in_a_work(worker, kthread_flush_worker, worker)
    assert "called from a work of this worker" in texts[0]


def test_destroy_from_a_work_of_that_worker_is_named(worker: KthreadWorker) -> None:
    _, texts = in_a_work(worker, kthread_destroy_worker, worker)
    assert "would wait for itself" in texts[0]
    assert worker.task is not None


def test_flush_worker_after_stop_is_named(worker: KthreadWorker) -> None:
    kthread_stop(worker.task)
    _, texts = misuse(kthread_flush_worker, worker)
    assert "thread was stopped" in texts[0]
    assert list_empty(worker.work_list)


def test_flush_of_the_last_work_after_stop_is_named(rt: Runtime, worker: KthreadWorker) -> None:
    work = stale(rt, worker)
    _, texts = misuse(kthread_flush_work, work)
    assert "thread was stopped" in texts[0]


def test_cancel_of_the_last_work_after_stop_is_named(rt: Runtime, worker: KthreadWorker) -> None:
    work = stale(rt, worker)
    result, texts = misuse(kthread_cancel_work_sync, work)
    assert result is False
    assert "this was its last work" in texts[0]
    assert work.canceling == 0


def stale(rt: Runtime, worker: KthreadWorker) -> KthreadWork:
    """Stop the worker so that `current_work` still names the work that ran last."""
    gate = Gate()
    work = KthreadWork(gate)
    kthread_queue_work(worker, work)
    gate.entered.wait()
    task = worker.task
    stopper = kthread_run(lambda _: kthread_stop(task), None, "stopper")
    wait_until(rt, lambda: task.kthread.should_stop)
    gate.go.complete()
    kthread_stop(stopper)
    assert worker.current_work is work
    return work


def test_flush_pending_when_the_worker_is_stopped_is_released_and_named(rt: Runtime, worker: KthreadWorker) -> None:
    gate = Gate()
    kthread_queue_work(worker, KthreadWork(gate))
    gate.entered.wait()
    got: list[tuple[object, list[str]]] = []
    flusher = kthread_run(lambda _: got.append(misuse(kthread_flush_worker, worker)), None, "flusher")
    wait_until(rt, lambda: len(worker.work_list) == 1)
    task = worker.task
    stopper = kthread_run(lambda _: kthread_stop(task), None, "stopper")
    wait_until(rt, lambda: task.kthread.should_stop)
    gate.go.complete()
    kthread_stop(stopper)
    kthread_stop(flusher)
    assert "was stopped before it came to this barrier" in got[0][1][0]
    # A thread that serves the worker later does not find the barrier of somebody who has gone.
    assert len(worker.work_list) == 0


def test_park_of_a_running_worker_is_named(rt: Runtime, worker: KthreadWorker) -> None:
    wait_until(rt, lambda: worker.task.kthread.started)
    result, texts = misuse(kthread_park, worker.task)
    assert result == -EDEADLK
    assert "no place where it parks" in texts[0]
    assert not worker.task.kthread.should_park


# ---- corruption ----------------------------------------------------------------------------------------


def test_init_of_a_queued_work_is_named_and_takes_it_off(worker: KthreadWorker) -> None:
    gate, ran = Gate(), []
    kthread_queue_work(worker, KthreadWork(gate))
    gate.entered.wait()
    first, second = KthreadWork(ran.append), KthreadWork(ran.append)
    kthread_queue_work(worker, first)
    kthread_queue_work(worker, second)
    _, texts = misuse(kthread_init_work, first, nothing)
    gate.go.complete()
    kthread_flush_worker(worker)
    assert "still queued" in texts[0]
    assert ran == [second], "the rest of the list is intact"


def test_init_during_a_cancel_is_named_and_the_work_can_be_queued_again(rt: Runtime, worker: KthreadWorker) -> None:
    gate = Gate()
    work = KthreadWork(gate)
    kthread_queue_work(worker, work)
    gate.entered.wait()
    canceller = kthread_run(lambda _: kthread_cancel_work_sync(work), None, "canceller")
    wait_until(rt, lambda: work.canceling == 1)
    _, texts = misuse(kthread_init_work, work, nothing)
    gate.go.complete()
    kthread_stop(canceller)
    assert "somebody waits in a cancel" in texts[0]
    assert work.canceling == 0
    assert kthread_queue_work(worker, work) is True


def test_plain_cancel_of_a_delayed_work_is_named_and_it_runs_later(rt: Runtime, worker: KthreadWorker) -> None:
    ran: list[KthreadWork] = []
    dwork = KthreadDelayedWork(ran.append)
    kthread_queue_delayed_work(worker, dwork, FAR)
    result, texts = misuse(kthread_cancel_work_sync, dwork.work)
    assert result is True
    assert "Use kthread_cancel_delayed_work_sync" in texts[0]
    assert timer_pending(dwork.timer), "as in the kernel, the timer stays armed"
    _, texts = misuse(kthread_delayed_work_timer_fn, dwork.timer)
    assert "is on no list" in texts[0]
    kthread_flush_worker(worker)
    assert ran == [dwork.work]
    kthread_cancel_delayed_work_sync(dwork)


def test_init_of_a_delayed_work_with_a_pending_timer_is_named(worker: KthreadWorker) -> None:
    dwork = KthreadDelayedWork(nothing)
    kthread_queue_delayed_work(worker, dwork, FAR)
    _, texts = misuse(kthread_init_delayed_work, dwork, nothing)
    assert "still queued" in texts[0]
    assert not timer_pending(dwork.timer)
    assert list_empty(worker.delayed_work_list)


def test_init_of_a_worker_in_use_is_named(worker: KthreadWorker) -> None:
    other = KthreadWorker()
    kthread_queue_work(other, KthreadWork(nothing))
    _, texts = misuse(kthread_init_worker, other)
    assert "is in use (1 works, 0 delayed)" in texts[0]
    assert list_empty(other.work_list)


# ---- what the kernel WARNs about -----------------------------------------------------------------------


def test_second_task_on_a_worker_is_named(rt: Runtime, worker: KthreadWorker) -> None:
    wait_until(rt, lambda: worker.task.kthread.started)
    first = worker.task
    kthread_flush_worker(worker)
    got: list[tuple[object, list[str]]] = []

    def second(_: object) -> None:
        kworker.current().kthread.should_stop = True
        got.append(misuse(kthread_worker_fn, worker))

    task = kthread_run(second, None, "second")
    wait_until(rt, lambda: bool(got))
    kthread_stop(task)
    assert "already has the task 'nvme1'" in got[0][1][0]
    kthread_stop(first)


def test_worker_fn_off_a_kthread_is_named(rt: Runtime) -> None:
    _, texts = misuse(kthread_worker_fn, KthreadWorker())
    assert "not a kthread" in texts[0]


def test_work_on_a_second_worker_is_named_and_still_runs(rt: Runtime, worker: KthreadWorker) -> None:
    ran: list[KthreadWork] = []
    other, work = kthread_create_worker(0, "other"), KthreadWork(ran.append)
    kthread_queue_work(worker, work)
    kthread_flush_work(work)
    result, texts = misuse(kthread_queue_work, other, work)
    assert result is True
    assert "was used with the worker 'nvme1'" in texts[0]
    kthread_flush_worker(other)
    assert len(ran) == 2
    assert work.worker is other
    kthread_destroy_worker(other)


def test_foreign_timer_function_is_named(worker: KthreadWorker) -> None:
    dwork = KthreadDelayedWork(nothing)
    dwork.timer.function = lambda timer: None
    _, texts = misuse(kthread_queue_delayed_work, worker, dwork, FAR)
    assert "foreign function" in texts[0]
    kthread_cancel_delayed_work_sync(dwork)


def test_timer_without_a_worker_is_named(rt: Runtime) -> None:
    dwork = KthreadDelayedWork(nothing)
    _, texts = misuse(kthread_delayed_work_timer_fn, dwork.timer)
    assert "belongs to no worker" in texts[0]


def test_destroy_without_a_task_is_named(worker: KthreadWorker) -> None:
    kthread_stop(worker.task)
    _, texts = misuse(kthread_destroy_worker, worker)
    assert "has no task" in texts[0]


def test_queue_on_a_destroyed_worker_is_named(rt: Runtime) -> None:
    worker = kthread_create_worker(0, "w")
    kthread_destroy_worker(worker)
    _, texts = misuse(kthread_queue_work, worker, KthreadWork(nothing))
    assert "was destroyed" in texts[0]


# ---- strict --------------------------------------------------------------------------------------------


def test_strict_mode_raises_and_returns_the_setting_before(worker: KthreadWorker) -> None:
    dwork = KthreadDelayedWork(nothing)
    kthread_queue_delayed_work(worker, dwork, FAR)
    assert kworker.strict(True) is False
    with pytest.raises(KthreadWarning, match="timer is still pending"):
        kthread_flush_work(dwork.work)
    assert kworker.strict(False) is True
    kthread_cancel_delayed_work_sync(dwork)


def test_warning_points_at_the_line_of_the_caller(worker: KthreadWorker) -> None:
    kthread_stop(worker.task)
    with pytest.warns(KthreadWarning) as caught:
        kthread_flush_worker(worker)
    assert caught[0].filename == __file__
