"""Completions, spinlocks, timers and sleeping."""

from __future__ import annotations

import threading

import pytest
from kworker_helpers import misuse, wait_until

from kworker import (
    COMPLETION_ALL,
    HZ,
    MAX_SCHEDULE_TIMEOUT,
    AtomicSleepError,
    Completion,
    KworkerError,
    Runtime,
    SimRuntime,
    Spinlock,
    ThreadRuntime,
    TimerList,
    add_timer,
    complete,
    complete_all,
    completion_done,
    del_timer_sync,
    in_interrupt,
    init_completion,
    jiffies,
    kthread_run,
    kthread_stop,
    mod_timer,
    msecs_to_jiffies,
    msleep,
    nsecs_to_jiffies,
    reinit_completion,
    spin_is_locked,
    spin_lock,
    spin_lock_irqsave,
    spin_trylock,
    spin_unlock,
    spin_unlock_irqrestore,
    timer_delete,
    timer_pending,
    timer_setup,
    try_wait_for_completion,
    usecs_to_jiffies,
    wait_for_completion,
    wait_for_completion_timeout,
)


def test_completion_counts_announcements(rt: Runtime) -> None:
    x = Completion()
    assert (completion_done(x), try_wait_for_completion(x)) == (False, False)
    complete(x)
    complete(x)
    assert x.done == 2
    wait_for_completion(x)
    assert try_wait_for_completion(x) is True
    assert (x.done, completion_done(x)) == (0, False)


def test_complete_all_lets_everybody_through_until_reinit(rt: Runtime) -> None:
    x = Completion()
    through: list[int] = []
    tasks = [kthread_run(lambda i: (x.wait(), through.append(i)), i, "w%d", i) for i in range(3)]
    wait_until(rt, lambda: len(x.waiters()) == 3)
    complete_all(x)
    for task in tasks:
        kthread_stop(task)
    assert sorted(through) == [0, 1, 2]
    wait_for_completion(x)
    complete(x)
    assert x.done == COMPLETION_ALL
    reinit_completion(x)
    assert not completion_done(x)
    x.complete()
    init_completion(x)
    assert x.done == 0


def test_complete_wakes_waiters_in_their_order(rt: Runtime) -> None:
    x = Completion()
    through: list[int] = []
    tasks = []
    for i in range(3):
        tasks.append(kthread_run(lambda i: (x.wait(), through.append(i)), i, "w%d", i))
        wait_until(rt, lambda i=i: len(x.waiters()) == i + 1)
    for i in range(3):
        x.complete()
        wait_until(rt, lambda i=i: len(through) == i + 1)
    for task in tasks:
        kthread_stop(task)
    assert through == [0, 1, 2]


def test_wait_with_timeout_returns_false_and_leaves_no_waiter(rt: Runtime) -> None:
    x = Completion()
    start = rt.now_ns
    assert x.wait(2_000_000) is False
    assert rt.now_ns - start >= 2_000_000
    assert x.waiters() == []
    assert x.wait(0) is False
    x.complete()
    assert x.wait(0) is True


def test_wait_timeout_returns_jiffies(rt: Runtime) -> None:
    x = Completion()
    assert wait_for_completion_timeout(x, 2) == 0
    x.complete()
    assert wait_for_completion_timeout(x, 600_000) > 590_000
    rt.call_at(rt.now_ns + 1_000_000, x.complete)
    assert 0 < wait_for_completion_timeout(x, 600_000) <= 600_000
    x.complete()
    assert wait_for_completion_timeout(x, 0) == 1, "done already, so at least 1"


def test_complete_from_an_interrupt_wakes_the_waiter(rt: Runtime) -> None:
    x = Completion()
    where: list[bool] = []

    def irq() -> None:
        where.append(in_interrupt())
        x.complete()

    rt.call_at(rt.now_ns + 1_000, irq)
    x.wait()
    assert where == [True]
    assert not in_interrupt()


def test_wait_in_an_interrupt_is_an_error(rt: Runtime, failures) -> None:  # type: ignore[no-untyped-def]
    rt.call_at(rt.now_ns, lambda: Completion(runtime=rt, name="nvme").wait())
    wait_until(rt, lambda: bool(failures))
    exc, where = failures[0]
    assert isinstance(exc, AtomicSleepError)
    assert "waiting for 'nvme' in interrupt context" in str(exc)
    assert where == "timer function"


def test_failing_timer_function_is_reported(rt: Runtime, failures) -> None:  # type: ignore[no-untyped-def]
    rt.call_at(rt.now_ns, lambda: 1 // 0 and None)
    wait_until(rt, lambda: bool(failures))
    assert isinstance(failures[0][0], ZeroDivisionError)


def test_failure_without_a_hook_goes_to_threading_excepthook(rt: Runtime, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    seen: list[str] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: seen.append(args.thread.name))
    rt.call_at(rt.now_ns, lambda: 1 // 0 and None)
    wait_until(rt, lambda: bool(seen))
    assert seen == ["timer function"]


# ---- spinlocks -----------------------------------------------------------------------------------------


def test_spinlock_excludes(rt: Runtime) -> None:
    lock, counter = Spinlock(name="counter"), [0]

    def add(_: object) -> None:
        for _ in range(200):
            with lock:
                value = counter[0]
                rt.point("between")
                counter[0] = value + 1

    tasks = [kthread_run(add, None, "add%d", i) for i in range(2)]
    wait_until(rt, lambda: all(task.kthread.started for task in tasks))
    for task in tasks:
        kthread_stop(task)
    assert counter == [400]


def test_spinlock_functions_mirror_the_kernels(rt: Runtime) -> None:
    lock = Spinlock()
    spin_lock(lock)
    assert (spin_is_locked(lock), lock.held(), spin_trylock(lock)) == (True, True, False)
    spin_unlock(lock)
    assert not spin_is_locked(lock)
    flags = spin_lock_irqsave(lock)
    spin_unlock_irqrestore(lock, flags)
    assert spin_trylock(lock) is True
    spin_unlock(lock)


def test_spinlock_recursion_is_an_error(rt: Runtime) -> None:
    lock = Spinlock(name="sq")
    spin_lock(lock)
    with pytest.raises(KworkerError, match=r"recursion.*'sq'"):
        spin_lock(lock)
    spin_unlock(lock)


def test_spinlock_release_by_another_is_an_error(rt: Runtime) -> None:
    with pytest.raises(RuntimeError):
        spin_unlock(Spinlock())


def test_sleep_with_a_spinlock_held_is_an_error_in_the_simulation() -> None:
    with SimRuntime() as rt:
        lock = Spinlock(name="sq")
        with lock, pytest.raises(AtomicSleepError, match="root sleeps while it holds the spinlock 'sq'"):
            rt.sleep_ns(1)


# ---- timers --------------------------------------------------------------------------------------------


def test_timer_fires_once_in_interrupt_context(rt: Runtime) -> None:
    fired: list[bool] = []
    timer = TimerList(owner_fn := (lambda t: fired.append(in_interrupt())))
    assert timer.function is owner_fn
    timer.expires = jiffies() + 2
    add_timer(timer)
    assert timer_pending(timer)
    wait_until(rt, lambda: bool(fired))
    assert fired == [True]
    assert not timer_pending(timer)
    assert timer_delete(timer) == 0


def test_timer_deleted_never_fires(rt: Runtime) -> None:
    fired: list[int] = []
    timer = TimerList()
    timer_setup(timer, lambda t: fired.append(1))
    assert mod_timer(timer, jiffies() + 5) == 0
    assert mod_timer(timer, jiffies() + 3) == 1
    assert del_timer_sync(timer) == 1
    rt.sleep_ns(5_000_000)
    assert fired == []


def test_timer_added_twice_is_named(rt: Runtime) -> None:
    timer = TimerList(lambda t: None)
    timer.expires = jiffies() + 600_000
    add_timer(timer)
    assert "use mod_timer" in misuse(add_timer, timer)[1][0]
    assert "timer_delete_sync it first" in misuse(timer_setup, timer, lambda t: None)[1][0]
    assert not timer_pending(timer)


def test_timer_without_a_function_is_named(rt: Runtime) -> None:
    assert "has no function" in misuse(TimerList()._fire)[1][0]


def test_call_at_in_order_of_time_then_of_arming(rt: Runtime) -> None:
    ran: list[str] = []
    held = threading.Event()
    if not rt.virtual:
        # The timer thread stands still until all are armed, however long that takes.
        rt.call_at(rt.now_ns, lambda: held.wait(60) and None)
    base = rt.now_ns
    for name, when in (("c", 2), ("a", 1), ("d", 2), ("b", 1)):
        rt.call_at(base + when, lambda name=name: ran.append(name))
    held.set()
    wait_until(rt, lambda: len(ran) == 4)
    assert ran == ["a", "b", "c", "d"]


def test_call_at_cancelled_many_times_does_not_pile_up(rt: Runtime) -> None:
    heap = rt._heap if rt.virtual else None
    for _ in range(1_000):
        assert rt.call_at(rt.now_ns + 10**12, lambda: None).cancel() is True
    entries = len(heap) if heap is not None else len(rt._timers)
    assert entries < 200
    handle = rt.call_at(rt.now_ns + 10**12, lambda: None)
    assert (handle.pending, handle.cancel(), handle.pending, handle.cancel()) == (True, True, False, False)


def test_delete_sync_waits_for_a_running_function(rt_preemptive: Runtime) -> None:
    rt, state = rt_preemptive, {"entered": False, "left": False}
    go = threading.Event()

    def function(timer: TimerList) -> None:
        state["entered"] = True
        for _ in range(1_000_000):
            if go.is_set():
                break
            rt.point("busy")
        state["left"] = True

    timer = TimerList(function)
    timer.arm_ns(rt.now_ns)
    wait_until(rt, lambda: state["entered"])
    go.set()
    del_timer_sync(timer)
    assert state["left"]


def test_closed_runtime_fires_no_timers() -> None:
    fired: list[int] = []
    with ThreadRuntime() as rt:
        rt.call_at(rt.now_ns + 10**12, lambda: fired.append(1))
    rt.close()
    assert fired == []
    ran = threading.Event()
    rt.call_at(rt.now_ns, ran.set)
    assert ran.wait(30), "a runtime can be used again after close()"
    rt.close()


# ---- jiffies and sleeping ------------------------------------------------------------------------------


def test_jiffies_are_milliseconds() -> None:
    assert HZ == 1000
    assert [msecs_to_jiffies(m) for m in (0, 1, 250, -1)] == [0, 1, 250, MAX_SCHEDULE_TIMEOUT]
    assert [usecs_to_jiffies(u) for u in (0, 1, 1000, 1001)] == [0, 1, 1, 2]
    assert [nsecs_to_jiffies(n) for n in (999_999, 1_000_000)] == [0, 1]


def test_msleep_takes_at_least_its_time(rt: Runtime) -> None:
    start = rt.now_ns
    msleep(3)
    assert rt.now_ns - start >= 3_000_000


def test_run_gives_the_result_and_raises_what_main_raises(rt: Runtime) -> None:
    assert rt.run(lambda a, b: a + b, 2, 3) == 5
    with pytest.raises(ZeroDivisionError):
        rt.run(lambda: 1 // 0)


def test_run_inside_a_task_runs_another_task(rt: Runtime) -> None:
    def outer() -> tuple[str, str, int]:
        from kworker import current

        return current().comm, rt.run(lambda: current().comm), rt.run(lambda: 4)

    assert rt.run(outer) == ("main", "main", 4)


def test_announcement_for_a_waiter_that_is_thrown_out_goes_to_the_next() -> None:
    with SimRuntime() as rt:
        x, got = Completion(), []

        def waiter(name: str) -> None:
            try:
                x.wait()
            except KeyboardInterrupt:
                got.append(f"{name} thrown out")
            else:
                got.append(name)

        def main() -> None:
            a, b = (kthread_run(waiter, name, name) for name in "ab")
            rt.sleep_ns(100_000)
            x.complete()
            a.error = KeyboardInterrupt()  # Ctrl-C while it is on its way to run
            kthread_stop(b)
            kthread_stop(a)

        rt.run(main)
        assert got == ["a thrown out", "b"]
