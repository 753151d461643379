"""Random programs: against a reference model one step at a time, and by invariants in all kinds of orders."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kworker import (
    KthreadDelayedWork,
    KthreadWork,
    KthreadWorker,
    SimCosts,
    SimRuntime,
    explore,
    kthread_cancel_delayed_work_sync,
    kthread_create_worker,
    kthread_destroy_worker,
    kthread_flush_work,
    kthread_flush_worker,
    kthread_mod_delayed_work,
    kthread_queue_delayed_work,
    kthread_queue_work,
    kthread_run,
    kthread_stop,
    kthread_worker_fn,
    list_empty,
    snapshot,
    timer_pending,
)

WORKS = 4


class Model:
    """What a worker must do, with works that take no time: lists, timers and a log; no threads."""

    def __init__(self) -> None:
        self.now = 0
        self.queue: list[int] = []
        self.timers: dict[int, int] = {}
        self.log: list[int] = []
        self.alive = True

    def pending(self, i: int) -> bool:
        return i in self.queue or i in self.timers

    def drain(self) -> None:
        if self.alive:
            self.log += self.queue
            self.queue.clear()

    def queue_work(self, i: int, delay: int) -> bool:
        if self.pending(i):
            return False
        if delay:
            self.timers[i] = self.now + delay
        else:
            self.queue.append(i)
        return True

    def cancel(self, i: int) -> bool:
        was = self.pending(i)
        self.timers.pop(i, None)
        if i in self.queue:
            self.queue.remove(i)
        return was

    def mod(self, i: int, delay: int) -> bool:
        was = self.cancel(i)
        self.queue_work(i, delay)
        return was

    def advance(self, jiffies: int) -> None:
        self.drain()
        end = self.now + jiffies
        for i, when in sorted(self.timers.items(), key=lambda item: item[1]):
            if when <= end:
                del self.timers[i]
                self.queue.append(i)
                self.drain()
        self.now = end


STEP = st.tuples(
    st.sampled_from(
        ["queue", "queue", "delayed", "mod", "cancel", "flush", "flush_worker", "advance", "stop", "start"]
    ),
    st.integers(0, WORKS - 1),
    st.integers(0, 5),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(STEP, max_size=40))
def test_sequential_program_agrees_with_the_model(steps: list[tuple[str, int, int]]) -> None:
    model = Model()
    with SimRuntime(costs=SimCosts(wakeup_ns=0, switch_ns=0, irq_ns=0)) as rt:
        log: list[int] = []
        worker = KthreadWorker()
        works = [KthreadDelayedWork(lambda work: log.append(work.owner), owner=i) for i in range(WORKS)]
        task = kthread_run(kthread_worker_fn, worker, "w")
        rt.sleep_ns(1)
        # Arming order breaks ties of one instant; the model keeps it by using distinct instants.
        for n, (what, i, delay) in enumerate(steps):
            dwork = works[i]
            delay = 0 if delay == 0 else 1000 * delay + n
            if what == "queue":
                assert kthread_queue_work(worker, dwork.work) == model.queue_work(i, 0)
            elif what == "delayed":
                assert kthread_queue_delayed_work(worker, dwork, delay) == model.queue_work(i, delay)
            elif what == "mod":
                assert kthread_mod_delayed_work(worker, dwork, delay) == model.mod(i, delay)
            elif what == "cancel":
                assert kthread_cancel_delayed_work_sync(dwork) == model.cancel(i)
            elif what == "flush" and model.alive and i not in model.timers:
                if i in model.queue:
                    model.drain()
                kthread_flush_work(dwork.work)
            elif what == "flush_worker" and model.alive:
                model.drain()
                kthread_flush_worker(worker)
            elif what == "advance":
                model.advance(1000 * delay)
                rt.sleep_ns(1000 * delay * 1_000_000 + 1)
            elif what == "stop" and model.alive:
                # The thread may finish what it was woken for, so let it become idle first.
                model.drain()
                rt.sleep_ns(1)
                assert kthread_stop(task) == 0
                model.alive = False
            elif what == "start" and not model.alive:
                model.alive = True
                task = kthread_run(kthread_worker_fn, worker, "w")
                model.drain()
                rt.sleep_ns(1)
            queued = [work.owner for work in worker.work_list if work.owner in range(WORKS)]
            if not model.alive:
                assert queued == model.queue
            assert sorted(work.owner for work in worker.delayed_work_list) == sorted(model.timers)
            assert all(timer_pending(w.timer) == (w.work.owner in model.timers) for w in works)
        model.drain()
        rt.sleep_ns(1)
        assert log == model.log


class Audit:
    """Counts what a work was promised and what it got.

    The methods take the result of a call: `promised[i] += queue()` would read the count before the call,
    which lets others run, and lose their updates.
    """

    def __init__(self, rt: SimRuntime, works: int) -> None:
        self.rt = rt
        self.running: list[int] = []
        self.begun = [0] * works
        self.promised = [0] * works
        self.taken_back = [0] * works
        self.requeue_left = [2] * works

    def promise(self, i: int, queued: bool) -> None:
        self.promised[i] += queued

    def take_back(self, i: int, cancelled: bool) -> None:
        self.taken_back[i] += cancelled

    def __call__(self, work: KthreadWork) -> None:
        i = work.owner
        assert self.running == [], "two works of one worker at once"
        self.running.append(i)
        self.begun[i] += 1
        self.rt.point("inside the work")
        self.rt.consume(50)
        self.rt.point("inside the work")
        if self.requeue_left[i] and i % 2:
            self.requeue_left[i] -= 1
            self.promise(i, kthread_queue_work(work.worker, work))
        self.running.remove(i)


def random_client(
    rt: SimRuntime, audit: Audit, worker: KthreadWorker, dworks: list[KthreadDelayedWork], seed: int
) -> None:
    rng = Random(seed)
    for _ in range(12):
        i = rng.randrange(len(dworks))
        dwork = dworks[i]
        what = rng.randrange(6)
        if what == 0:
            audit.promise(i, kthread_queue_work(worker, dwork.work))
        elif what == 1:
            audit.promise(i, kthread_queue_delayed_work(worker, dwork, rng.randrange(2)))
        elif what == 2:
            # True: it was pending and still is, or a canceller won. False: promised anew.
            audit.promise(i, not kthread_mod_delayed_work(worker, dwork, rng.randrange(2)))
        elif what == 3:
            audit.take_back(i, kthread_cancel_delayed_work_sync(dwork))
        elif what == 4 and not timer_pending(dwork.timer):
            flush_now(dwork)
        else:
            rt.sleep_ns(rng.randrange(2_000_000))


def flush_now(dwork: KthreadDelayedWork) -> None:
    """Flush, unless another client armed the timer meanwhile: that is refused with a warning."""
    import warnings

    from kworker import KthreadWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", KthreadWarning)
        kthread_flush_work(dwork.work)


def storm(rt: SimRuntime) -> None:
    worker = kthread_create_worker(0, "w")
    audit = Audit(rt, WORKS)
    dworks = [KthreadDelayedWork(audit, owner=i) for i in range(WORKS)]
    base = rt.seed * 100
    clients = [
        kthread_run(lambda n: random_client(rt, audit, worker, dworks, base + n), n, "client%d", n)
        for n in range(3)
    ]
    rt.sleep_ns(10_000_000_000)
    for client in clients:
        result = kthread_stop(client)
        assert result == 0, "no client failed or got stuck"
    for dwork in dworks:
        audit.take_back(dwork.owner, kthread_cancel_delayed_work_sync(dwork))
    assert audit.running == []
    for i, dwork in enumerate(dworks):
        assert dwork.work.canceling == 0
        assert list_empty(dwork.work.node)
        assert not timer_pending(dwork.timer)
        # A cancel or mod that meets the timer function on its way takes a promise back without saying so.
        assert audit.begun[i] <= audit.promised[i] - audit.taken_back[i]
    kthread_destroy_worker(worker)
    assert snapshot(worker).queued == ()
    assert worker.failures == 0


@pytest.mark.parametrize("cpus", [1, 2, 4])
def test_concurrent_programs_keep_the_invariants_run_to_block(cpus: int) -> None:
    for seed in range(40):
        with SimRuntime(seed=seed, cpus=cpus) as rt:
            rt.run(storm, rt)


@pytest.mark.parametrize("scheduler", ["random", "pct"])
@pytest.mark.parametrize("cpus", [1, 3])
def test_concurrent_programs_keep_the_invariants_in_any_order(scheduler: str, cpus: int) -> None:
    explore(storm, scheduler=scheduler, runs_max=40, cpus=cpus)
