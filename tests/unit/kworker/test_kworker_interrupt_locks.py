"""Locks that interrupts and tasks share, in the gear in which tasks run until they block."""

from __future__ import annotations

import pytest

import kworker
from kworker import SimCosts, SimRuntime, kthread_flush_worker, kthread_queue_work, kthread_run_worker


def _shared_lock(rt: SimRuntime, works: int) -> list[int]:
    """Two workers, `works` interrupts on two CPUs and a caller, who all take one lock for a while."""
    lock = rt.lock("shared")
    ends: list[int] = []

    def fn(_work: kworker.KthreadWork) -> None:
        rt.consume(700)
        with lock:
            rt.consume(300)
            rt.settle()
        ends.append(rt.now_ns)

    workers = [kthread_run_worker(0, "even"), kthread_run_worker(0, "odd")]
    todo = []
    for _ in range(works):
        work = kworker.KthreadWork()
        kworker.kthread_init_work(work, fn)
        todo.append(work)

    def interrupt(number: int) -> None:
        rt.consume(200)
        with lock:
            rt.consume(50)
        kthread_queue_work(workers[number % 2], todo[number])

    for number in range(works):
        rt.call_at(rt.now_ns + number * 450, lambda number=number: interrupt(number), cpu=number % 2)
    for _ in range(works):
        rt.consume(500)
        rt.settle()
        with lock:
            rt.consume(100)
        rt.sleep_ns(700)
    for worker in workers:
        kthread_flush_worker(worker)
        kworker.kthread_destroy_worker(worker)
    return ends


@pytest.mark.parametrize("cpus", [1, 2, 3, 4])
@pytest.mark.parametrize("costs", [SimCosts(), SimCosts(wakeup_ns=0, switch_ns=0, irq_ns=0, slice_ns=1000)])
def test_interrupt_that_spins_on_the_cpu_of_a_spinning_task_gets_the_lock_before_it(
    cpus: int, costs: SimCosts
) -> None:
    with SimRuntime(cpus=cpus, costs=costs) as rt:
        ends = rt.run(_shared_lock, rt, 40)
    assert len(ends) == 40
