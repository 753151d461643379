"""The bugs and subtleties of the kernel's history, one test each, in the order of the reference."""

from __future__ import annotations

import threading
from collections import deque
from errno import EINTR

import pytest
from kworker_helpers import Gate, make_runtime, misuse, wait_until

from kworker import (
    Completion,
    KthreadDelayedWork,
    KthreadWork,
    KthreadWorker,
    Runtime,
    SimRuntime,
    Spinlock,
    TimerList,
    explore,
    in_interrupt,
    kthread_cancel_delayed_work_sync,
    kthread_cancel_work_sync,
    kthread_create_worker,
    kthread_delayed_work_timer_fn,
    kthread_destroy_worker,
    kthread_flush_work,
    kthread_flush_worker,
    kthread_init_work,
    kthread_mod_delayed_work,
    kthread_park,
    kthread_parkme,
    kthread_queue_delayed_work,
    kthread_queue_work,
    kthread_run,
    kthread_should_park,
    kthread_should_stop,
    kthread_stop,
    kthread_unpark,
    kthread_worker_fn,
    list_empty,
    timer_pending,
)

FAR = 3_600_000


def running(worker: KthreadWorker, work: KthreadWork | None = None) -> tuple[Gate, KthreadWork]:
    gate = Gate()
    if work is None:
        work = KthreadWork(gate)
    else:
        work.func = gate
    kthread_queue_work(worker, work)
    gate.entered.wait()
    return gate, work


def hold_in_flight(rt: Runtime, dwork: KthreadDelayedWork) -> threading.Event:
    """Make the timer function of `dwork` stand still at its beginning, in interrupt context, until somebody cancels.

    The returned event is set once it stands there.
    """
    entered = threading.Event()

    def slow(timer: TimerList) -> None:
        assert in_interrupt()
        entered.set()
        # A canceller raises the count before it waits for this very function.
        while not dwork.work.canceling:
            rt.point("in flight")
        kthread_delayed_work_timer_fn(timer)

    dwork.timer.function = slow
    return entered


def test_history_01_requeue_while_running_is_exactly_one_extra_run(worker: KthreadWorker) -> None:
    gate, work = running(worker)
    assert [kthread_queue_work(worker, work) for _ in range(5)] == [True, False, False, False, False]
    gate.go.complete_all()
    kthread_flush_worker(worker)
    assert gate.runs == 2


def test_history_02_stop_leaves_pending_works_and_a_new_thread_drains_them(
    rt: Runtime, worker: KthreadWorker
) -> None:
    gate, _ = running(worker)
    ran: list[KthreadWork] = []
    works = [KthreadWork(ran.append) for _ in range(3)]
    for work in works:
        kthread_queue_work(worker, work)
    first = worker.task
    stopper = kthread_run(lambda _: kthread_stop(first), None, "stopper")
    wait_until(rt, lambda: first.kthread.should_stop)
    gate.go.complete()
    kthread_stop(stopper)
    assert ran == []
    assert list(worker.work_list) == works
    assert kthread_queue_work(worker, works[0]) is False

    second = kthread_run(kthread_worker_fn, worker, "again")
    kthread_flush_worker(worker)
    assert ran == works
    assert worker.task is second
    kthread_stop(second)


def test_history_03_run_then_stop_at_once_may_skip_the_thread_function(rt: Runtime) -> None:
    for _ in range(10):
        ran: list[object] = []
        result = kthread_stop(kthread_run(lambda data, ran=ran: ran.append(data) or 0, 1, "brief"))
        assert (result, ran) in ((-EINTR, []), (0, [1]))
        assert rt.virtual is False or type(rt) is not SimRuntime or result == -EINTR


def test_history_04_timer_callback_does_not_queue_while_canceling(rt_preemptive: Runtime) -> None:
    rt, ran = rt_preemptive, []
    worker = kthread_create_worker(0, "w")
    dwork = KthreadDelayedWork(ran.append)
    kthread_queue_delayed_work(worker, dwork, 1)
    entered = hold_in_flight(rt, dwork)
    wait_until(rt, entered.is_set)
    kthread_cancel_delayed_work_sync(dwork)
    assert list_empty(dwork.work.node), "the callback saw canceling and did not queue"
    kthread_destroy_worker(worker)
    assert ran == []


def test_history_05_mod_delayed_against_cancel_delayed_does_not_deadlock(rt: Runtime, worker: KthreadWorker) -> None:
    dwork = KthreadDelayedWork(lambda work: None)
    gate, _ = running(worker, dwork.work)
    canceller = kthread_run(lambda _: kthread_cancel_delayed_work_sync(dwork), None, "canceller")
    wait_until(rt, lambda: dwork.work.canceling == 1 and len(worker.work_list) == 1)
    assert kthread_mod_delayed_work(worker, dwork, FAR) is True
    assert list_empty(worker.delayed_work_list), "nothing for the barrier to be stranded behind"
    gate.go.complete()
    kthread_stop(canceller)
    assert not timer_pending(dwork.timer)


def test_history_06_mod_returns_true_when_another_canceller_wins(rt: Runtime, worker: KthreadWorker) -> None:
    dwork = KthreadDelayedWork(lambda work: None)
    gate, _ = running(worker, dwork.work)
    canceller = kthread_run(lambda _: kthread_cancel_delayed_work_sync(dwork), None, "canceller")
    wait_until(rt, lambda: dwork.work.canceling == 1)
    assert kthread_mod_delayed_work(worker, dwork, 0) is True
    assert list_empty(dwork.work.node)
    gate.go.complete()
    kthread_stop(canceller)
    kthread_flush_worker(worker)
    assert gate.runs == 1


def test_history_07_cancel_with_the_callback_in_flight_returns_false(rt_preemptive: Runtime) -> None:
    rt, ran = rt_preemptive, []
    worker = kthread_create_worker(0, "w")
    dwork = KthreadDelayedWork(ran.append)
    kthread_queue_delayed_work(worker, dwork, 1)
    entered = hold_in_flight(rt, dwork)
    wait_until(rt, entered.is_set)
    assert kthread_cancel_delayed_work_sync(dwork) is False, "it was pending, but the callback took it off"
    kthread_destroy_worker(worker)
    assert ran == []


def test_history_07_mod_with_the_callback_in_flight_returns_false(rt_preemptive: Runtime) -> None:
    rt, ran = rt_preemptive, []
    worker = kthread_create_worker(0, "w")
    dwork = KthreadDelayedWork(ran.append)
    kthread_queue_delayed_work(worker, dwork, 1)
    entered = hold_in_flight(rt, dwork)
    wait_until(rt, entered.is_set)
    result, texts = misuse(kthread_mod_delayed_work, worker, dwork, FAR)
    assert result is False
    assert "foreign function" in texts[0], "of the test's own slow function"
    assert kthread_cancel_delayed_work_sync(dwork) is True, "armed anew"
    kthread_destroy_worker(worker)
    assert ran == []


def test_history_08_work_freed_or_reused_inside_its_own_function(rt: Runtime, worker: KthreadWorker) -> None:
    stages: list[str] = []
    finished = Completion()

    def start(work: KthreadWork) -> None:
        stages.append("delete SQ")
        kthread_init_work(work, second)
        kthread_queue_work(worker, work)

    def second(work: KthreadWork) -> None:
        stages.append("delete CQ")
        kthread_init_work(work, lambda work: None)
        work.func = None  # "freed": nobody may look at it any more
        finished.complete()

    work = KthreadWork(start)
    kthread_queue_work(worker, work)
    finished.wait()
    kthread_flush_work(work)
    kthread_flush_worker(worker)
    assert stages == ["delete SQ", "delete CQ"]
    assert worker.failures == 0


def test_history_09_work_on_a_second_worker_warns_unless_initialised_again(rt: Runtime) -> None:
    first, second = kthread_create_worker(0, "first"), kthread_create_worker(0, "second")
    work = KthreadWork(lambda work: None)
    kthread_queue_work(first, work)
    kthread_flush_work(work)
    assert "used with the worker 'first'" in misuse(kthread_queue_work, second, work)[1][0]
    kthread_flush_work(work)
    kthread_init_work(work, lambda work: None)
    assert misuse(kthread_queue_work, first, work) == (True, [])
    kthread_destroy_worker(first)
    kthread_destroy_worker(second)


def test_history_10_destroy_with_a_delayed_work_left_warns(rt: Runtime) -> None:
    worker, dwork = kthread_create_worker(0, "w"), KthreadDelayedWork(lambda work: None)
    kthread_queue_delayed_work(worker, dwork, FAR)
    _, texts = misuse(kthread_destroy_worker, worker)
    assert "1 delayed works of 'w' are left" in texts[0]
    kthread_cancel_delayed_work_sync(dwork)


def test_history_11_destroy_with_a_work_that_queues_itself_warns_and_leaves_it(rt: Runtime) -> None:
    worker, runs = kthread_create_worker(0, "w"), []

    def again(work: KthreadWork) -> None:
        runs.append(1)
        kthread_queue_work(worker, work)
        rt.sleep_ns(1000)

    work = KthreadWork(again)
    kthread_queue_work(worker, work)
    _, texts = misuse(kthread_destroy_worker, worker)
    assert "1 works of 'w' are left" in texts[0]
    assert list(worker.work_list) == [work]
    assert runs


def test_history_12_busy_worker_gets_no_spurious_wakes(rt: Runtime, worker: KthreadWorker) -> None:
    gate, _ = running(worker)
    wakes: list[str] = []
    rt.on_event = lambda event, args: wakes.append(args[0]) if event == "sched_wakeup" else None
    for _ in range(5):
        kthread_queue_work(worker, KthreadWork(lambda work: None))
    rt.on_event = None
    gate.go.complete()
    kthread_flush_worker(worker)
    assert "nvme1" not in wakes


def test_history_13_timer_function_runs_in_interrupt_context(rt: Runtime, worker: KthreadWorker) -> None:
    where: list[tuple[bool, bool]] = []
    ran = Completion()

    def fn(work: KthreadWork) -> None:
        where[0] = (where[0][0], in_interrupt())
        ran.complete()

    dwork = KthreadDelayedWork(fn)
    kthread_queue_delayed_work(worker, dwork, 1)

    def function(timer: TimerList) -> None:
        where.append((in_interrupt(), False))
        kthread_delayed_work_timer_fn(timer)

    dwork.timer.function = function
    ran.wait()
    assert where == [(True, False)]


def test_history_14_flush_returns_after_its_work_and_before_the_next(rt: Runtime, worker: KthreadWorker) -> None:
    gate, a = running(worker)
    order: list[str] = []
    hold = Gate()
    b = KthreadWork(lambda work: order.append("b"))
    c = KthreadWork(hold)
    kthread_queue_work(worker, b)
    kthread_queue_work(worker, c)
    flush_b = kthread_run(lambda _: (kthread_flush_work(b), order.append("flush b")), None, "flush_b")
    wait_until(rt, lambda: len(worker.work_list) == 3)
    flush_a = kthread_run(lambda _: (kthread_flush_work(a), order.append("flush a")), None, "flush_a")
    wait_until(rt, lambda: len(worker.work_list) == 4)
    names = [work.name for work in worker.work_list]
    assert names[0] == names[2] == "_kthread_flush_work_fn", "a's barrier heads the list, b's follows b"
    gate.go.complete()
    hold.entered.wait()
    wait_until(rt, lambda: len(order) == 3)
    assert hold.runs == 0, "both flushes returned before c"
    assert order.index("b") < order.index("flush b")
    hold.go.complete()
    kthread_stop(flush_a)
    kthread_stop(flush_b)


def park_and_stop(rt: Runtime, rounds: int) -> None:
    def fn(_: object) -> int:
        while not kthread_should_stop():
            if kthread_should_park():
                kthread_parkme()
            rt.sleep_ns(1000)
        return 1

    task = kthread_run(fn, None, "parker")
    for _ in range(rounds):
        assert kthread_park(task) == 0
        kthread_unpark(task)
    assert kthread_park(task) == 0
    assert kthread_stop(task) in (1, -EINTR)


def test_history_15_stop_and_park_lose_no_wakeups(rt: Runtime) -> None:
    park_and_stop(rt, 30)


@pytest.mark.parametrize("scheduler", ["random", "pct"])
def test_history_15_stop_and_park_lose_no_wakeups_in_any_order(scheduler: str) -> None:
    explore(lambda rt: park_and_stop(rt, 2), scheduler=scheduler, runs_max=150)


def test_history_16_delay_zero_costs_no_tick(rt: Runtime, worker: KthreadWorker) -> None:
    dwork = KthreadDelayedWork(lambda work: None)
    assert kthread_queue_delayed_work(worker, dwork, 0) is True
    assert not timer_pending(dwork.timer)
    kthread_flush_work(dwork.work)
    if rt.virtual:
        assert rt.now_ns < 1_000_000


def test_history_16_delayed_works_run_in_order_of_time_not_of_the_list(rt: Runtime, worker: KthreadWorker) -> None:
    ran: list[int] = []
    done = Completion()

    def fn(work: KthreadWork) -> None:
        ran.append(work.owner)
        done.complete()

    works = [KthreadDelayedWork(fn, owner=delay) for delay in (300, 100, 200)]
    for dwork in works:
        kthread_queue_delayed_work(worker, dwork, dwork.owner)
    assert len(worker.delayed_work_list) == 3
    for _ in works:
        done.wait()
    assert ran == [100, 200, 300]


class Spi:
    """The spi pattern: one worker and one work; messages wait on a list of their own."""

    def __init__(self) -> None:
        self.worker = kthread_create_worker(0, "spi0")
        self.pump = KthreadWork(self._pump)
        self.lock = Spinlock(name="queue")
        self.queue: deque[dict[str, object]] = deque()
        self.sent: list[object] = []

    def _pump(self, work: KthreadWork) -> None:
        with self.lock:
            if not self.queue:
                return
            message = self.queue.popleft()
        self.sent.append(message["data"])
        callback = message.get("complete")
        kthread_queue_work(self.worker, self.pump)
        if callback is not None:
            callback()

    def spi_async(self, message: dict[str, object]) -> None:
        with self.lock:
            self.queue.append(message)
        kthread_queue_work(self.worker, self.pump)

    def spi_sync(self, message: dict[str, object]) -> None:
        done = Completion(name="spi_sync")
        message["complete"] = done.complete
        self.spi_async(message)
        done.wait()
        # Without this a message that is later reused for spi_async calls a completion that is gone.
        message["complete"] = None


def test_history_17_spi_message_reused_after_sync_has_no_stale_callback(rt: Runtime) -> None:
    spi = Spi()
    message: dict[str, object] = {"data": 1}
    spi.spi_sync(message)
    assert message["complete"] is None
    message["data"] = 2
    spi.spi_async(message)
    kthread_flush_worker(spi.worker)  # the pump sends the message and queues itself once more
    kthread_destroy_worker(spi.worker)
    assert spi.sent == [1, 2]
    assert spi.worker.failures == 0


def test_histories_in_exploration_cancel_and_mod_race_without_deadlock() -> None:
    """Histories 4 to 7 in one: mod, cancel and queue of one delayed work in all kinds of orders."""

    def race(rt: SimRuntime) -> None:
        worker = kthread_create_worker(0, "w")
        runs: list[int] = []
        dwork = KthreadDelayedWork(lambda work: runs.append(1))
        moders = [
            kthread_run(lambda _, d=delay: kthread_mod_delayed_work(worker, dwork, d), None, "mod%d", delay)
            for delay in (0, 1)
        ]
        kthread_queue_delayed_work(worker, dwork, 0)
        kthread_cancel_delayed_work_sync(dwork)
        for task in moders:
            kthread_stop(task)
        kthread_cancel_delayed_work_sync(dwork)
        assert kthread_cancel_work_sync(dwork.work) is False
        assert dwork.work.canceling == 0
        assert list_empty(dwork.work.node)
        kthread_destroy_worker(worker)
        assert len(runs) <= 3

    for scheduler in ("random", "pct"):
        explore(race, scheduler=scheduler, runs_max=150)


def test_gears_are_three() -> None:
    assert [type(make_runtime(gear)).__name__ for gear in ("threads", "sim", "explore")] == [
        "ThreadRuntime",
        "SimRuntime",
        "ExploreRuntime",
    ]
