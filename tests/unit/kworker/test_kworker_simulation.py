"""The simulation: virtual time, CPUs, costs, interrupts, accounting, deadlocks, determinism, its end."""

from __future__ import annotations

import gc
import threading

import greenlet
import pytest

from kworker import (
    AtomicSleepError,
    Completion,
    KthreadWork,
    KworkerError,
    SimClosedError,
    SimCosts,
    SimDeadlock,
    SimRuntime,
    SimThreadError,
    Spinlock,
    current,
    kthread_create_worker,
    kthread_flush_work,
    kthread_flush_worker,
    kthread_queue_work,
    kthread_run,
    kthread_run_on_cpu,
    kthread_stop,
    msleep,
)

FREE = SimCosts(wakeup_ns=0, switch_ns=0, irq_ns=0)
COSTS = SimCosts(wakeup_ns=100, switch_ns=10, irq_ns=1)


# ---- time ----------------------------------------------------------------------------------------------


def test_clock_jumps_over_sleeps() -> None:
    with SimRuntime(costs=FREE) as rt:
        msleep(3_600_000)
        assert rt.now_ns == 3_600 * 10**9


def test_consume_accrues_and_settle_advances() -> None:
    with SimRuntime() as rt:
        rt.consume(700)
        rt.consume(50)
        assert rt.now_ns == 750
        rt.settle()
        assert rt.now_ns == 750
        assert current().cpu_ns == 750


def test_settle_runs_what_is_due_before_first() -> None:
    with SimRuntime(costs=FREE) as rt:
        seen: list[int] = []
        for when in (10, 90, 200):
            rt.call_at(when, lambda: seen.append(rt.now_ns))
        rt.consume(100)
        assert seen == []
        rt.settle()
        assert seen == [10, 90]
        assert rt.now_ns == 100


def test_two_cpus_consume_at_the_same_time_and_one_does_not() -> None:
    def elapsed(cpus: int) -> int:
        with SimRuntime(cpus=cpus, costs=FREE) as rt:

            def burn(_: object) -> None:
                rt.consume(1_000)

            def main() -> int:
                tasks = [kthread_run(burn, None, "b%d", i) for i in range(2)]
                rt.sleep_ns(1)
                for task in tasks:
                    kthread_stop(task)
                return rt.now_ns

            return rt.run(main)

    assert elapsed(1) == 2_000
    assert elapsed(3) == 1_000


# ---- costs ---------------------------------------------------------------------------------------------


def test_wake_costs_the_waker_and_switch_the_woken() -> None:
    with SimRuntime(cpus=2, costs=COSTS) as rt:
        started, x = [], Completion()

        def waiter(_: object) -> None:
            x.wait()
            started.append(rt.now_ns)

        def main() -> tuple[int, int]:
            task = kthread_run(waiter, None, "w")  # its first wake-up costs main 100
            rt.sleep_ns(1_000)
            begin = rt.now_ns
            x.complete()
            after = rt.now_ns - begin
            kthread_stop(task)
            return begin, after

        begin, after = rt.run(main)
        assert after == 100
        assert started == [begin + 110]


def test_task_that_goes_on_without_sleeping_pays_nothing() -> None:
    with SimRuntime(costs=COSTS) as rt:

        def main() -> int:
            x = Completion()
            x.complete()
            x.wait()
            return current().nvcsw

        assert rt.run(main) == 0
        assert rt.now_ns == 0


def test_accounting_is_exact_in_virtual_time() -> None:
    with SimRuntime(cpus=2, costs=COSTS) as rt:

        def burn(_: object) -> None:
            rt.consume(500)
            rt.sleep_ns(2_000)
            rt.consume(300)

        def main():  # type: ignore[no-untyped-def]
            task = kthread_run(burn, None, "burn")
            rt.sleep_ns(10_000)
            kthread_stop(task)
            return task

        task = rt.run(main)
        # First switch in, 500, asleep until 2000 later (1 for the interrupt, 100 for its wake), switch in, 300.
        assert task.cpu_ns == 10 + 500 + 10 + 300
        assert task.blocked_ns == 2_000 + 1 + 100
        assert (task.nvcsw, task.nivcsw) == (1, 0)


def test_cpu_time_and_blocked_time_add_up_to_the_lifetime() -> None:
    with SimRuntime(cpus=1, costs=COSTS) as rt:

        def main() -> tuple[int, int]:
            me = current()
            worker = kthread_create_worker(0, "w")
            for i in range(20):
                work = KthreadWork(lambda work: rt.consume(70))
                kthread_queue_work(worker, work)
                rt.consume(33 * i)
                kthread_flush_work(work)
            kthread_stop(worker.task)
            rt.settle()
            return me.cpu_ns + me.blocked_ns + me.stolen_ns, rt.now_ns - me.start_ns

        parts, whole = rt.run(main)
        assert parts == whole


# ---- CPUs ----------------------------------------------------------------------------------------------


def test_woken_tasks_go_to_idle_cpus_first_then_queue() -> None:
    with SimRuntime(cpus=3, costs=FREE) as rt:
        where: dict[str, int] = {}

        def burn(name: str) -> None:
            where[name] = rt.cpu_id()
            rt.consume(1_000)

        def main() -> list[int]:
            tasks = [kthread_run(burn, name, name) for name in "abc"]
            rt.consume(10)
            rt.settle()
            assert where == {"a": 1, "b": 2}, "main has CPU 0, c waits"
            rt.sleep_ns(5_000)
            return [kthread_stop(task) for task in tasks]

        assert rt.run(main) == [0, 0, 0]
        assert where["c"] == 0, "the CPU that main left"


def test_idle_cpu_takes_a_waiting_task_of_a_busy_one() -> None:
    with SimRuntime(cpus=2, costs=FREE) as rt:
        ends: list[tuple[str, int]] = []

        def burn(data: tuple[str, int]) -> None:
            rt.consume(data[1])
            rt.settle()
            ends.append((data[0], rt.now_ns))

        def main() -> None:
            tasks = [kthread_run(burn, ("long", 5_000), "long"), kthread_run(burn, ("short", 100), "short")]
            tasks.append(kthread_run(burn, ("third", 100), "third"))
            rt.sleep_ns(20_000)
            for task in tasks:
                kthread_stop(task)

        rt.run(main)
        assert ends == [("short", 100), ("third", 200), ("long", 5_000)]


def test_time_slice_preempts_only_if_somebody_waits() -> None:
    costs = SimCosts(wakeup_ns=0, switch_ns=0, irq_ns=0, slice_ns=1_000)
    with SimRuntime(cpus=1, costs=costs) as rt:

        def poll(_: object) -> None:
            for _ in range(10):
                rt.consume(400)
                rt.settle()

        def main() -> list[int]:
            tasks = [kthread_run(poll, None, "p%d", i) for i in range(2)]
            rt.sleep_ns(100_000)
            for task in tasks:
                kthread_stop(task)
            return [task.nivcsw for task in tasks]

        forced = rt.run(main)
        assert forced[0] == 3
        assert forced[1] <= 3


# ---- interrupts ----------------------------------------------------------------------------------------


def test_interrupt_steals_from_the_task_on_its_cpu_only() -> None:
    with SimRuntime(cpus=2, costs=COSTS) as rt:

        def burn(_: object) -> int:
            begin = rt.now_ns
            rt.consume(10_000)
            rt.settle()
            return rt.now_ns - begin

        def main() -> list[tuple[int, int]]:
            tasks = [kthread_run_on_cpu(burn, None, cpu, "b/%u") for cpu in (0, 1)]
            rt.call_at(5_000, lambda: rt.consume(40), cpu=1)
            rt.sleep_ns(100_000)
            return [(kthread_stop(task), task.stolen_ns) for task in tasks]

        assert rt.run(main) == [(10_000, 0), (10_041, 41)]
        assert rt.cpus[1].irq_ns >= 41


def test_consume_in_an_interrupt_delays_what_it_wakes() -> None:
    with SimRuntime(cpus=1, costs=COSTS) as rt:
        x = Completion()

        def irq() -> None:
            rt.consume(500)
            x.complete()
            rt.consume(50)

        def main() -> int:
            rt.call_at(1_000, irq)
            x.wait()
            return rt.now_ns

        # Entry 1, 500, wake 100, 50 until the CPU is free again, switch 10.
        assert rt.run(main) == 1_000 + 1 + 500 + 100 + 50 + 10


def test_interrupts_of_one_cpu_follow_one_another() -> None:
    with SimRuntime(cpus=1, costs=COSTS) as rt:
        seen: list[int] = []

        def irq() -> None:
            seen.append(rt.now_ns)
            rt.consume(300)

        for _ in range(3):
            rt.call_at(1_000, irq)
        rt.sleep_ns(5_000)
        assert seen == [1_001, 1_302, 1_603]


def test_device_acts_beside_the_cpus() -> None:
    with SimRuntime(cpus=1, costs=COSTS) as rt:
        seen: list[int] = []

        def device() -> None:
            seen.append(rt.now_ns)
            rt.consume(300)

        def main() -> int:
            for _ in range(3):
                rt.call_at(1_000, device, hardware=True)
            rt.consume(2_000)
            rt.settle()
            return rt.now_ns

        assert rt.run(main) == 2_000, "nothing was stolen"
        assert seen == [1_000, 1_000, 1_000]


def test_interrupt_waits_while_its_cpu_holds_a_spinlock() -> None:
    with SimRuntime(cpus=1, costs=FREE) as rt:
        seen: list[int] = []
        rt.call_at(100, lambda: seen.append(rt.now_ns))
        with Spinlock():
            rt.consume(1_000)
            rt.settle()
            assert seen == []
        rt.settle()
        rt.sleep_ns(1)
        assert seen == [1_000]


def test_interrupt_spins_for_a_lock_held_on_another_cpu() -> None:
    with SimRuntime(cpus=2, costs=FREE) as rt:
        lock, seen = Spinlock(name="shared"), []

        def holder(_: object) -> None:
            with lock:
                rt.consume(1_000)
                rt.settle()

        def irq() -> None:
            with lock:
                seen.append(rt.now_ns)
                rt.consume(10)

        def main() -> int:
            task = kthread_run_on_cpu(holder, None, 1, "h/%u")
            rt.call_at(300, irq, cpu=0)
            rt.consume(600)
            rt.settle()
            end = rt.now_ns
            kthread_stop(task)
            return end

        end = rt.run(main)
        assert seen == [1_000], "it spun from 300 to 1000"
        assert end == 1_010, "and kept its CPU from main"


def test_task_spins_for_a_lock_whose_holder_is_switched_out() -> None:
    with SimRuntime(cpus=2, costs=FREE) as rt:
        lock = Spinlock(name="shared")

        def holder(_: object) -> None:
            with lock:
                rt.consume(1_000)
                rt.settle()

        def main() -> tuple[int, int, int]:
            task = kthread_run_on_cpu(holder, None, 1, "h/%u")
            rt.consume(200)
            rt.settle()
            with lock:
                got = rt.now_ns
            kthread_stop(task)
            return got, current().cpu_ns, current().nvcsw

        assert rt.run(main) == (1_000, 1_000, 0)


def test_lock_released_in_the_future_makes_the_next_one_spin_up_to_it() -> None:
    with SimRuntime(cpus=2, costs=FREE) as rt:
        lock, ends = Spinlock(), []

        def use(_: object) -> None:
            with lock:
                rt.consume(100)
            ends.append(rt.now_ns)

        def main() -> None:
            tasks = [kthread_run(use, None, "u%d", i) for i in range(3)]
            rt.sleep_ns(1_000)
            for task in tasks:
                kthread_stop(task)

        rt.run(main)
        assert ends == [100, 200, 300]


def test_sleeping_in_an_interrupt_is_reported(failures) -> None:  # type: ignore[no-untyped-def]
    with SimRuntime() as rt:
        rt.call_at(10, lambda: rt.sleep_ns(10))
        rt.sleep_ns(100)
    assert isinstance(failures[0][0], AtomicSleepError)


# ---- deadlocks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheduler", [None, "random"])
def test_deadlock_names_every_task_and_what_it_waits_for(scheduler: str | None) -> None:
    with SimRuntime(scheduler=scheduler) as rt:

        def main() -> None:
            worker = kthread_create_worker(0, "nvme%d", 1)
            never = Completion(name="CQE of cid 7")
            work = KthreadWork(lambda work: never.wait())
            kthread_queue_work(worker, work)
            kthread_flush_worker(worker)

        with pytest.raises(SimDeadlock) as caught:
            rt.run(main)
        text = str(caught.value)
        assert "no task can run and no event is due" in text
        assert "nvme1 (pid 2, uninterruptible sleep) waits for completion 'CQE of cid 7'" in text
        assert "main (pid 1" in text
        assert "completion 'flush of nvme1', to come from worker 'nvme1' (task 'nvme1')" in text


def test_deadlock_shows_the_ring() -> None:
    with SimRuntime() as rt:

        def main() -> None:
            ready = Completion()
            tasks = {}

            def a(_: object) -> None:
                ready.wait()
                kthread_stop(tasks["b"])

            def b(_: object) -> None:
                ready.wait()
                kthread_stop(tasks["a"])

            tasks["a"] = kthread_run(a, None, "a")
            tasks["b"] = kthread_run(b, None, "b")
            rt.sleep_ns(100)
            ready.complete_all()
            Completion(name="the end").wait()

        with pytest.raises(SimDeadlock, match="in a ring: a -> b -> a"):
            rt.run(main)


def test_deadlock_from_outside_is_raised_at_the_call_that_waits() -> None:
    with SimRuntime() as rt:
        x = Completion(name="nobody")
        with pytest.raises(SimDeadlock, match=r"root .* waits for completion 'nobody'"):
            x.wait()
        assert x.waiters() == []
        assert rt.run(lambda: 3) == 3, "the simulation goes on"


def test_idle_worker_is_no_deadlock() -> None:
    with SimRuntime() as rt:
        worker = kthread_create_worker(0, "idle")
        rt.sleep_ns(10)
        kthread_flush_worker(worker)


# ---- determinism ---------------------------------------------------------------------------------------


def busy_program(rt: SimRuntime) -> None:
    workers = [kthread_create_worker(0, "w%d", i) for i in range(3)]
    done = Completion()
    for i in range(30):
        work = KthreadWork(lambda work: (rt.consume(rt.rng.randrange(900)), done.complete()))
        kthread_queue_work(workers[i % 3], work)
        if i % 4 == 0:
            rt.sleep_ns(rt.rng.randrange(2_000))
    for _ in range(30):
        done.wait()
    for worker in workers:
        kthread_stop(worker.task)


def trace_of(seed: int, scheduler: str | None) -> bytes:
    with SimRuntime(seed=seed, scheduler=scheduler, trace=True) as rt:
        rt.run(busy_program, rt)
        return bytes(rt.trace)


@pytest.mark.parametrize("scheduler", [None, "random", "pct"])
def test_same_seed_gives_the_same_trace_byte_for_byte(scheduler: str | None) -> None:
    first, second = trace_of(11, scheduler), trace_of(11, scheduler)
    assert len(first) > 1_000
    assert first == second


@pytest.mark.parametrize("scheduler", ["random", "pct"])
def test_other_seeds_give_other_traces(scheduler: str) -> None:
    assert len({trace_of(seed, scheduler) for seed in range(5)}) == 5


def test_trace_is_bounded_and_off_by_default() -> None:
    with SimRuntime(trace=10) as rt:
        rt.run(busy_program, rt)
        assert len(rt.trace) == 10
        assert rt.trace.text().startswith(f"# {rt.trace.dropped} older events dropped\n")
        rt.trace.clear()
        assert bytes(rt.trace) == b""
    with SimRuntime() as rt:
        rt.run(busy_program, rt)
        assert len(rt.trace) == 0
        assert rt.hook is None


def test_event_hook_and_trace_both_see_events() -> None:
    events: list[str] = []
    with SimRuntime(trace=True) as rt:
        rt.on_event = lambda event, args: events.append(event)
        rt.run(busy_program, rt)
        assert [event for _, _, event, _ in rt.trace] == events
        rt.on_event = None
        assert rt.on_event is None


# ---- borders -------------------------------------------------------------------------------------------


def test_blocking_call_from_outside_runs_the_simulation() -> None:
    with SimRuntime() as rt:
        x = Completion()
        rt.call_at(5_000, x.complete)
        assert x.wait() is True
        assert rt.now_ns > 5_000


def test_objects_remember_their_simulation_outside_of_it() -> None:
    rt = SimRuntime()
    worker = kthread_create_worker(0, "far", runtime=rt)
    ran: list[object] = []
    kthread_queue_work(worker, KthreadWork(lambda work: ran.append(Completion().runtime)))
    kthread_flush_worker(worker)
    assert ran == [rt]
    assert Completion().runtime is not rt
    rt.close()


def test_second_os_thread_gets_a_clear_error() -> None:
    with SimRuntime() as rt:
        worker = kthread_create_worker(0, "w")
        errors: list[BaseException] = []

        def intrude() -> None:
            for action in (
                lambda: kthread_queue_work(worker, KthreadWork(lambda work: None)),
                lambda: Completion(runtime=rt).wait(),
                lambda: rt.call_at(0, lambda: None),
                lambda: rt.run(lambda: 1),
                rt.current,
            ):
                try:
                    action()
                except SimThreadError as exc:
                    errors.append(exc)

        thread = threading.Thread(target=intrude)
        thread.start()
        thread.join()
    assert len(errors) == 5
    assert "runs on the one thread that made it" in str(errors[0])


@pytest.mark.parametrize("scheduler", [None, "random"])
def test_close_leaves_no_greenlet_behind(scheduler: str | None) -> None:
    gc.collect()
    before = sum(isinstance(o, greenlet.greenlet) and not o.dead for o in gc.get_objects())
    cleaned: list[str] = []
    with SimRuntime(scheduler=scheduler) as rt:
        lock = Spinlock()

        def stuck(name: str) -> None:
            try:
                Completion(name=name).wait()
            finally:
                with lock:
                    cleaned.append(name)

        tasks = [kthread_run(stuck, name, name) for name in ("a", "b")]
        kthread_run(stuck, "c", "c")
        rt.sleep_ns(100_000)
        late = kthread_run(stuck, "late", "late")
        del tasks
    assert set(cleaned) >= {"a", "b", "c"}
    assert rt.tasks() == []
    del late
    gc.collect()
    after = sum(isinstance(o, greenlet.greenlet) and not o.dead for o in gc.get_objects())
    assert after == before
    rt.close()
    with pytest.raises(SimClosedError):
        rt.run(lambda: None)
    with pytest.raises(SimClosedError):
        kthread_run(stuck, "d", "d", runtime=rt)
    with pytest.raises(SimClosedError):
        rt.sleep_ns(1)


def test_close_from_inside_is_an_error() -> None:
    with SimRuntime() as rt, pytest.raises(KworkerError, match="from inside"):
        rt.run(rt.close)


def test_keyboard_interrupt_in_a_task_reaches_the_caller() -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    with SimRuntime() as rt:

        def main() -> None:
            kthread_run(interrupted, None, "x")
            Completion().wait()

        with pytest.raises(KeyboardInterrupt):
            rt.run(main)


def test_bad_arguments_are_value_errors() -> None:
    with pytest.raises(ValueError, match="at least one CPU"):
        SimRuntime(cpus=0)
    with pytest.raises(ValueError, match="'pct'"):
        SimRuntime(scheduler="fair")


@pytest.mark.parametrize("scheduler", [None, "random"])
def test_a_thousand_tasks_that_first_run_in_a_row_have_the_whole_stack_each(scheduler: str | None) -> None:
    deep: list[int] = []

    def recurse(levels: int) -> int:
        return 0 if not levels else 1 + recurse(levels - 1)

    def sleeper(_: object) -> int:
        deep.append(recurse(500))
        msleep(10)
        return 0

    def main() -> None:
        for number in range(1000):
            kthread_run(sleeper, None, "t%d", number)
        msleep(1000)

    with SimRuntime(scheduler=scheduler) as rt:
        rt.run(main)
    assert deep == [500] * 1000


def test_simulation_inside_a_simulation_is_its_own_world() -> None:
    with SimRuntime() as outer:

        def main() -> tuple[int, int]:
            with SimRuntime(costs=FREE) as inner:
                inner.sleep_ns(777)
                return inner.now_ns, outer.now_ns

        assert outer.run(main) == (777, 0)
