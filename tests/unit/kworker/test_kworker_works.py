"""Works and delayed works: return values, order, lists."""

from __future__ import annotations

from kworker_helpers import Gate, wait_until

from kworker import (
    DEFINE_KTHREAD_DELAYED_WORK,
    DEFINE_KTHREAD_WORK,
    IS_ERR,
    PTR_ERR,
    KthreadDelayedWork,
    KthreadWork,
    KthreadWorker,
    Runtime,
    ThreadRuntime,
    kthread_cancel_delayed_work_sync,
    kthread_cancel_work_sync,
    kthread_create_worker,
    kthread_create_worker_on_cpu,
    kthread_destroy_worker,
    kthread_flush_work,
    kthread_flush_worker,
    kthread_mod_delayed_work,
    kthread_queue_delayed_work,
    kthread_queue_work,
    kthread_run,
    kthread_run_worker,
    kthread_run_worker_on_cpu,
    kthread_stop,
    kthread_worker_fn,
    list_empty,
    timer_pending,
)

FAR = 3_600_000  # jiffies: an hour, so that the timer is still pending when the test is over


def busy(worker: KthreadWorker) -> tuple[Gate, KthreadWork]:
    """Make the worker run a work that waits for its gate."""
    gate = Gate()
    work = KthreadWork(gate)
    kthread_queue_work(worker, work)
    gate.entered.wait()
    return gate, work


# ---- kthread_queue_work --------------------------------------------------------------------------------


def test_queue_idle_returns_true(worker: KthreadWorker) -> None:
    assert kthread_queue_work(worker, KthreadWork(lambda work: None)) is True


def test_queue_pending_returns_false(worker: KthreadWorker) -> None:
    gate, _ = busy(worker)
    work = KthreadWork(lambda work: None)
    results = [kthread_queue_work(worker, work), kthread_queue_work(worker, work)]
    gate.go.complete()
    assert results == [True, False]


def test_queue_running_returns_true_and_runs_again(worker: KthreadWorker) -> None:
    gate, work = busy(worker)
    results = [kthread_queue_work(worker, work), kthread_queue_work(worker, work)]
    gate.go.complete_all()
    kthread_flush_worker(worker)
    assert results == [True, False]
    assert gate.runs == 2


def test_queue_with_pending_timer_returns_false(worker: KthreadWorker) -> None:
    dwork = DEFINE_KTHREAD_DELAYED_WORK(lambda work: None)
    assert kthread_queue_delayed_work(worker, dwork, FAR) is True
    assert kthread_queue_work(worker, dwork.work) is False
    assert kthread_queue_delayed_work(worker, dwork, 0) is False
    assert kthread_cancel_delayed_work_sync(dwork) is True


def test_queue_order_is_first_in_first_out(worker: KthreadWorker) -> None:
    gate, _ = busy(worker)
    ran: list[int] = []
    for i in range(20):
        kthread_queue_work(worker, KthreadWork(lambda work: ran.append(work.owner), owner=i))
    gate.go.complete()
    kthread_flush_worker(worker)
    assert ran == list(range(20))


def test_queue_without_thread_collects_works(rt: Runtime) -> None:
    worker, ran = KthreadWorker(), []
    works = [KthreadWork(lambda work: ran.append(work)) for _ in range(3)]
    assert all(kthread_queue_work(worker, work) for work in works)
    assert list(worker.work_list) == works
    task = kthread_run(kthread_worker_fn, worker, "late")
    kthread_flush_worker(worker)
    assert kthread_stop(task) == 0
    assert ran == works


def test_queue_from_the_work_itself_runs_it_again(worker: KthreadWorker) -> None:
    runs = []

    def again(work: KthreadWork) -> None:
        runs.append(work)
        if len(runs) < 5:
            assert kthread_queue_work(worker, work) is True

    work = KthreadWork(again)
    kthread_queue_work(worker, work)
    wait_until(worker.runtime, lambda: len(runs) == 5)
    kthread_flush_worker(worker)
    assert len(runs) == 5


# ---- flush ---------------------------------------------------------------------------------------------


def test_flush_never_queued_returns_at_once(worker: KthreadWorker) -> None:
    kthread_flush_work(DEFINE_KTHREAD_WORK(lambda work: None))


def test_flush_idle_work_does_not_wait_for_others(worker: KthreadWorker) -> None:
    done = KthreadWork(lambda work: None)
    kthread_queue_work(worker, done)
    kthread_flush_work(done)
    gate, _ = busy(worker)
    kthread_flush_work(done)
    assert gate.runs == 0
    gate.go.complete()


def test_flush_work_that_requeues_itself_waits_for_one_run(worker: KthreadWorker) -> None:
    runs, stop = [], []

    def again(work: KthreadWork) -> None:
        runs.append(1)
        if not stop:
            kthread_queue_work(worker, work)
            worker.runtime.sleep_ns(1000)

    work = KthreadWork(again)
    kthread_queue_work(worker, work)
    kthread_flush_work(work)
    stop.append(1)
    assert runs
    kthread_flush_worker(worker)


def test_flush_worker_does_not_wait_for_pending_timers(worker: KthreadWorker) -> None:
    dwork = KthreadDelayedWork(lambda work: None)
    kthread_queue_delayed_work(worker, dwork, FAR)
    kthread_flush_worker(worker)
    assert timer_pending(dwork.timer)
    kthread_cancel_delayed_work_sync(dwork)


# ---- cancel --------------------------------------------------------------------------------------------


def test_cancel_never_queued_returns_false(worker: KthreadWorker) -> None:
    assert kthread_cancel_work_sync(KthreadWork(lambda work: None)) is False


def test_cancel_pending_returns_true_and_it_never_runs(worker: KthreadWorker) -> None:
    gate, _ = busy(worker)
    ran: list[KthreadWork] = []
    work = KthreadWork(ran.append)
    kthread_queue_work(worker, work)
    assert kthread_cancel_work_sync(work) is True
    assert list_empty(work.node)
    gate.go.complete()
    kthread_flush_worker(worker)
    assert ran == []


def test_cancel_finished_returns_false(worker: KthreadWorker) -> None:
    work = KthreadWork(lambda work: None)
    kthread_queue_work(worker, work)
    kthread_flush_work(work)
    assert kthread_cancel_work_sync(work) is False
    assert work.worker is worker


def test_cancel_running_waits_and_returns_false(rt: Runtime, worker: KthreadWorker) -> None:
    gate, work = busy(worker)
    results: list[tuple[bool, int]] = []
    canceller = kthread_run(lambda _: results.append((kthread_cancel_work_sync(work), gate.runs)), None, "canceller")
    wait_until(rt, lambda: work.canceling == 1)
    assert kthread_queue_work(worker, work) is False
    assert results == []
    gate.go.complete()
    kthread_stop(canceller)
    assert results == [(False, 1)]
    assert work.canceling == 0


def test_cancel_running_and_pending_returns_true(rt: Runtime, worker: KthreadWorker) -> None:
    gate, work = busy(worker)
    kthread_queue_work(worker, work)
    results: list[bool] = []
    canceller = kthread_run(lambda _: results.append(kthread_cancel_work_sync(work)), None, "canceller")
    wait_until(rt, lambda: work.canceling == 1)
    gate.go.complete_all()
    kthread_stop(canceller)
    assert results == [True]
    assert gate.runs == 1


def test_cancel_twice_at_once_counts_to_two_and_back(rt: Runtime, worker: KthreadWorker) -> None:
    gate, work = busy(worker)
    cancellers = [kthread_run(lambda _: kthread_cancel_work_sync(work), None, "c%d", i) for i in range(2)]
    wait_until(rt, lambda: work.canceling == 2)
    gate.go.complete_all()
    for canceller in cancellers:
        kthread_stop(canceller)
    assert work.canceling == 0
    assert kthread_queue_work(worker, work) is True
    kthread_flush_work(work)
    assert gate.runs == 2


def test_cancel_while_the_work_requeues_itself_ends_it(rt: Runtime, worker: KthreadWorker) -> None:
    gate, requeued = Gate(), []

    def again(work: KthreadWork) -> None:
        gate(work)
        requeued.append(kthread_queue_work(worker, work))

    work = KthreadWork(again)
    kthread_queue_work(worker, work)
    gate.entered.wait()
    canceller = kthread_run(lambda _: kthread_cancel_work_sync(work), None, "canceller")
    wait_until(rt, lambda: work.canceling == 1)
    gate.go.complete()
    kthread_stop(canceller)
    assert requeued == [False]
    assert list_empty(work.node)


# ---- delayed works -------------------------------------------------------------------------------------


def test_delayed_work_runs_after_its_delay(rt: Runtime, worker: KthreadWorker) -> None:
    when: list[int] = []
    dwork = KthreadDelayedWork(lambda work: when.append(rt.now_ns))
    start = rt.now_ns
    assert kthread_queue_delayed_work(worker, dwork, 5) is True
    assert list(worker.delayed_work_list) == [dwork.work]
    wait_until(rt, lambda: bool(when))
    assert when[0] - start >= 5_000_000
    assert list_empty(worker.delayed_work_list)


def test_cancel_delayed_pending_returns_true_and_kills_the_timer(worker: KthreadWorker) -> None:
    dwork = KthreadDelayedWork(lambda work: None)
    kthread_queue_delayed_work(worker, dwork, FAR)
    assert kthread_cancel_delayed_work_sync(dwork) is True
    assert not timer_pending(dwork.timer)
    assert list_empty(dwork.work.node)
    assert kthread_cancel_delayed_work_sync(dwork) is False


def test_mod_idle_returns_false_and_queues(rt: Runtime, worker: KthreadWorker) -> None:
    gate = Gate()
    dwork = KthreadDelayedWork(gate)
    assert kthread_mod_delayed_work(worker, dwork, 0) is False
    gate.entered.wait()
    assert kthread_mod_delayed_work(worker, dwork, 0) is False, "running but not pending counts as idle"
    assert kthread_mod_delayed_work(worker, dwork, 0) is True, "pending"
    gate.go.complete_all()
    kthread_flush_work(dwork.work)
    assert gate.runs == 2


def test_mod_pending_returns_true_and_moves_the_timer(worker: KthreadWorker) -> None:
    ran: list[KthreadWork] = []
    dwork = KthreadDelayedWork(ran.append)
    kthread_queue_delayed_work(worker, dwork, FAR)
    assert kthread_mod_delayed_work(worker, dwork, 2 * FAR) is True
    assert dwork.timer.left_ns() > FAR * 1_000_000
    assert kthread_mod_delayed_work(worker, dwork, 0) is True
    kthread_flush_work(dwork.work)
    assert ran == [dwork.work]


# ---- workers -------------------------------------------------------------------------------------------


def test_create_worker_starts_its_thread(rt: Runtime) -> None:
    for create in (kthread_create_worker, kthread_run_worker):
        worker = create(0, "w%d", 3)
        assert worker.task is not None
        assert worker.task.comm == "w3"
        kthread_destroy_worker(worker)
        assert worker.task is None


def test_create_worker_on_cpu_binds_its_thread(rt: Runtime) -> None:
    first = kthread_create_worker_on_cpu(0, 0, "w/%u", 0)
    second = kthread_run_worker_on_cpu(0, 0, "v/%u")
    assert (first.task.comm, first.task.cpu) == ("w/0", 0)
    assert (second.task.comm, second.task.cpu) == ("v/0", 0)
    for worker in (first, second):
        kthread_destroy_worker(worker)


def test_create_worker_without_threads_returns_enomem(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    def fail(*args: object) -> None:
        raise RuntimeError("can't start new thread")

    with ThreadRuntime() as rt:
        monkeypatch.setattr(rt, "new_task", fail)
        worker = kthread_create_worker(0, "w")
    assert IS_ERR(worker)
    assert PTR_ERR(worker) == -12


def test_destroy_runs_what_is_queued_first(rt: Runtime) -> None:
    worker, ran = kthread_create_worker(0, "w"), []
    for i in range(5):
        kthread_queue_work(worker, KthreadWork(lambda work: ran.append(work.owner), owner=i))
    kthread_destroy_worker(worker)
    assert ran == [0, 1, 2, 3, 4]


def test_failing_work_is_reported_and_the_worker_lives(  # type: ignore[no-untyped-def]
    worker: KthreadWorker, failures
) -> None:
    def fail(work: KthreadWork) -> None:
        raise ValueError("bad block")

    ran: list[KthreadWork] = []
    kthread_queue_work(worker, KthreadWork(fail))
    kthread_queue_work(worker, KthreadWork(ran.append))
    kthread_flush_worker(worker)
    assert [(str(exc), where) for exc, where in failures] == [("bad block", "work function fail")]
    assert worker.failures == 1
    assert len(ran) == 1
