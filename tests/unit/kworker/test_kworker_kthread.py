"""kthread_*: create, stop, park, bind, flags, data, exit, freeze."""

from __future__ import annotations

from errno import EBUSY, EDEADLK, EFAULT, EINTR, ENOMEM, ENOSYS

import pytest
from kworker_helpers import misuse, wait_until

from kworker import (
    KTW_FREEZABLE,
    PF_EXITING,
    PF_KTHREAD,
    TASK_INTERRUPTIBLE,
    TASK_RUNNING,
    Completion,
    KthreadWork,
    KthreadWorker,
    KworkerError,
    Runtime,
    SimRuntime,
    ThreadRuntime,
    current,
    get_task_struct,
    kthread_bind,
    kthread_bind_mask,
    kthread_complete_and_exit,
    kthread_create,
    kthread_create_on_cpu,
    kthread_create_worker,
    kthread_data,
    kthread_destroy_worker,
    kthread_exit,
    kthread_freezable_should_stop,
    kthread_func,
    kthread_is_per_cpu,
    kthread_park,
    kthread_parkme,
    kthread_probe_data,
    kthread_queue_work,
    kthread_run,
    kthread_run_on_cpu,
    kthread_set_per_cpu,
    kthread_should_park,
    kthread_should_stop,
    kthread_should_stop_or_park,
    kthread_stop,
    kthread_stop_put,
    kthread_unpark,
    schedule,
    schedule_timeout,
    set_current_state,
    set_freezable,
    wake_up_process,
)


def sleeper(_: object) -> int:
    """A thread function as the kernel's documentation shows it: sleeps until it is asked to stop or park."""
    while not kthread_should_stop():
        if kthread_should_park():
            kthread_parkme()
        set_current_state(TASK_INTERRUPTIBLE)
        if not kthread_should_stop_or_park():
            schedule()
        set_current_state(TASK_RUNNING)
    return 7


def started(rt: Runtime, name: str = "sleeper"):  # type: ignore[no-untyped-def]
    task = kthread_run(sleeper, None, name)
    wait_until(rt, lambda: task.kthread.started)
    return task


def test_create_does_not_start_until_woken(rt: Runtime) -> None:
    began = Completion()
    task = kthread_create(lambda _: began.complete(), None, "late")
    assert began.wait(1_000_000) is False
    assert wake_up_process(task) == 1
    began.wait()
    kthread_stop(task)


def test_stop_returns_the_result_of_the_thread_function(rt: Runtime) -> None:
    assert kthread_stop(started(rt)) == 7


def test_stop_of_a_thread_that_ended_returns_its_result(rt: Runtime) -> None:
    task = kthread_run(lambda data: data, 5, "short")
    wait_until(rt, lambda: bool(task.flags & PF_EXITING))
    assert kthread_stop(task) == 5


def test_stop_before_the_first_wake_returns_eintr(rt: Runtime) -> None:
    ran: list[object] = []
    task = kthread_create(ran.append, None, "never")
    assert kthread_stop(task) == -EINTR
    assert ran == []


def test_stop_put_drops_the_reference(rt: Runtime) -> None:
    task = get_task_struct(started(rt))
    assert task.usage == 2
    assert kthread_stop_put(task) == 7
    assert task.usage == 1


def test_create_without_threads_returns_enomem(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("can't start new thread")

    with ThreadRuntime() as rt:
        monkeypatch.setattr(rt, "new_task", fail)
        assert kthread_run(sleeper, None, "x") == -ENOMEM  # type: ignore[comparison-overlap]


def test_exit_ends_the_thread_with_its_result(rt: Runtime) -> None:
    def quits(_: object) -> None:
        kthread_exit(42)

    task = kthread_run(quits, None, "quits")
    wait_until(rt, lambda: bool(task.flags & PF_EXITING))
    assert kthread_stop(task) == 42


def test_complete_and_exit_completes_first(rt: Runtime) -> None:
    done = Completion()
    task = kthread_run(lambda _: kthread_complete_and_exit(done, 3), None, "quits")
    done.wait()
    assert kthread_stop(task) == 3


def test_exit_off_a_kthread_is_an_error(rt: Runtime) -> None:
    with pytest.raises(KworkerError, match="not a kthread"):
        kthread_exit(0)


def test_failing_thread_function_is_reported_and_gives_efault(rt: Runtime, failures) -> None:  # type: ignore[no-untyped-def]
    def fail(_: object) -> None:
        raise ValueError("no disk")

    task = kthread_run(fail, None, "fail")
    wait_until(rt, lambda: bool(task.flags & PF_EXITING))
    assert kthread_stop(task) == -EFAULT
    assert [(str(exc), where) for exc, where in failures] == [("no disk", "thread function")]


# ---- flags and data ------------------------------------------------------------------------------------


def test_data_of_a_kthread_is_given_back(rt: Runtime) -> None:
    task = kthread_create(sleeper, "payload", "x")
    assert kthread_func(task) is sleeper
    assert kthread_data(task) == "payload"
    assert kthread_probe_data(task) == "payload"
    assert task.flags & PF_KTHREAD
    kthread_stop(task)


def test_data_off_a_kthread_is_none_and_warns(rt: Runtime) -> None:
    me = current()
    assert kthread_func(me) is None
    assert kthread_probe_data(me) is None
    result, texts = misuse(kthread_data, me)
    assert result is None
    assert "is not a kthread" in texts[0]


@pytest.mark.parametrize("ask", [kthread_should_stop, kthread_should_park])
def test_flag_read_off_a_kthread_is_false_and_warns(rt: Runtime, ask) -> None:  # type: ignore[no-untyped-def]
    result, texts = misuse(ask)
    assert result is False
    assert "not a kthread" in texts[0]


def test_should_stop_or_park_off_a_kthread_is_false_without_a_warning(rt: Runtime) -> None:
    assert misuse(kthread_should_stop_or_park) == (False, [])


# ---- CPUs ----------------------------------------------------------------------------------------------


def test_create_on_cpu_names_and_binds(rt: Runtime) -> None:
    task = kthread_create_on_cpu(sleeper, None, 0, "sl/%u")
    other = kthread_run_on_cpu(sleeper, None, 0, "sm/%u")
    assert (task.comm, task.cpu, other.comm, other.cpu) == ("sl/0", 0, "sm/0", 0)
    kthread_stop(task)
    kthread_stop(other)


def test_bind_before_the_first_wake_takes_effect(rt: Runtime) -> None:
    task = kthread_create(sleeper, None, "x")
    kthread_bind_mask(task, {0})
    assert task.cpu == 0
    kthread_stop(task)


def test_bind_after_the_first_wake_warns_and_has_no_effect(rt: Runtime) -> None:
    task = started(rt)
    _, texts = misuse(kthread_bind, task, 0)
    assert "runs already" in texts[0]
    assert task.cpu is None
    kthread_stop(task)


def test_per_cpu_mark_is_set_and_cleared(rt: Runtime) -> None:
    task = kthread_create_on_cpu(sleeper, None, 0, "x/%u")
    assert not kthread_is_per_cpu(task)
    kthread_set_per_cpu(task, 0)
    assert kthread_is_per_cpu(task)
    kthread_set_per_cpu(task, -1)
    assert not kthread_is_per_cpu(task)
    kthread_stop(task)


def test_bound_task_in_the_simulation_only_runs_on_its_cpu() -> None:
    with SimRuntime(cpus=3) as rt:
        seen: list[int] = []

        def look(_: object) -> None:
            for _ in range(3):
                seen.append(rt.cpu_id())
                rt.sleep_ns(10)

        kthread_stop(_after(rt, kthread_run_on_cpu(look, None, 2, "look/%u")))
        assert seen == [2, 2, 2]


def _after(rt: Runtime, task):  # type: ignore[no-untyped-def]
    wait_until(rt, lambda: bool(task.flags & PF_EXITING))
    return task


# ---- park ----------------------------------------------------------------------------------------------


def test_park_waits_until_parked_and_unpark_goes_on(rt: Runtime) -> None:
    task = started(rt)
    assert kthread_park(task) == 0
    assert task.kthread.should_park
    kthread_unpark(task)
    assert not task.kthread.should_park
    assert kthread_park(task) == 0
    assert kthread_stop(task) == 7, "a stop unparks"


def test_park_twice_returns_ebusy_and_warns(rt: Runtime) -> None:
    task = started(rt)
    kthread_park(task)
    result, texts = misuse(kthread_park, task)
    assert result == -EBUSY
    assert "already" in texts[0]
    kthread_stop(task)


def test_park_of_an_exiting_thread_returns_enosys_and_warns(rt: Runtime) -> None:
    task = kthread_run(lambda _: 0, None, "short")
    wait_until(rt, lambda: bool(task.flags & PF_EXITING))
    result, texts = misuse(kthread_park, task)
    assert result == -ENOSYS
    assert "exiting" in texts[0]
    kthread_stop(task)


def test_park_before_the_first_wake_parks_before_the_thread_function(rt: Runtime) -> None:
    ran: list[object] = []
    task = kthread_create(ran.append, 1, "late")
    assert kthread_park(task) == 0
    assert ran == []
    kthread_unpark(task)
    wait_until(rt, lambda: bool(ran))
    kthread_stop(task)


def test_park_of_oneself_only_sets_the_flag(rt: Runtime) -> None:
    results: list[object] = []

    def parks(_: object) -> None:
        results.append(kthread_park(current()))
        results.append(kthread_should_park())

    task = kthread_run(parks, None, "selfish")
    wait_until(rt, lambda: len(results) == 2)
    kthread_stop(task)
    assert results == [0, True]


def test_unpark_without_park_does_nothing(rt: Runtime) -> None:
    task = started(rt)
    kthread_unpark(task)
    assert kthread_stop(task) == 7


def test_park_of_a_worker_before_its_first_wake_is_allowed(rt: Runtime) -> None:
    from kworker import kthread_worker_fn

    worker = KthreadWorker()
    task = kthread_create(kthread_worker_fn, worker, "w")
    assert kthread_park(task) == 0
    kthread_unpark(task)
    wait_until(rt, lambda: worker.task is task)
    kthread_stop(task)


# ---- freeze --------------------------------------------------------------------------------------------


def test_freezable_worker_freezes_between_works_and_thaws(rt: Runtime) -> None:
    worker, ran = kthread_create_worker(KTW_FREEZABLE, "fz"), []
    kthread_queue_work(worker, KthreadWork(ran.append))
    wait_until(rt, lambda: len(ran) == 1)
    rt.freeze()
    wait_until(rt, lambda: worker.task.frozen)
    kthread_queue_work(worker, KthreadWork(ran.append))
    rt.sleep_ns(1_000_000)
    assert len(ran) == 1
    rt.thaw()
    wait_until(rt, lambda: len(ran) == 2)
    kthread_destroy_worker(worker)


def test_worker_without_the_flag_does_not_freeze(rt: Runtime) -> None:
    worker, ran = kthread_create_worker(0, "nofz"), []
    rt.freeze()
    kthread_queue_work(worker, KthreadWork(ran.append))
    wait_until(rt, lambda: len(ran) == 1)
    rt.thaw()
    kthread_destroy_worker(worker)


def test_freezable_should_stop_is_ended_by_a_stop(rt: Runtime) -> None:
    seen: list[tuple[bool, bool]] = []
    ready = Completion()

    def fn(_: object) -> int:
        set_freezable()
        ready.complete()
        while True:
            seen.append(kthread_freezable_should_stop())
            if seen[-1][0]:
                return 9
            rt.sleep_ns(1000)

    task = kthread_run(fn, None, "fz")
    ready.wait()
    rt.freeze()
    wait_until(rt, lambda: task.waiting_on == "thaw")
    assert kthread_stop(task) == 9
    rt.thaw()
    assert seen[-1] == (True, True)


# ---- misuse of stop ------------------------------------------------------------------------------------


def test_stop_twice_warns_and_returns_the_result(rt: Runtime) -> None:
    task = started(rt)
    kthread_stop(task)
    result, texts = misuse(kthread_stop, task)
    assert result == 7
    assert "stopped already" in texts[0]


def test_stop_of_oneself_warns_and_returns_edeadlk(rt: Runtime) -> None:
    got: list[object] = []

    def suicidal(_: object) -> None:
        got.append(misuse(kthread_stop, current()))
        assert kthread_should_stop()

    task = kthread_run(suicidal, None, "me")
    wait_until(rt, lambda: bool(task.flags & PF_EXITING))
    result, texts = got[0]  # type: ignore[misc]
    assert result == -EDEADLK
    assert "stops itself" in texts[0]
    rt.reap(task)


def test_stop_of_a_frozen_worker_warns_and_it_stops_after_the_thaw(rt: Runtime) -> None:
    worker = kthread_create_worker(KTW_FREEZABLE, "fz")
    task = worker.task
    wait_until(rt, lambda: task._freezable)
    rt.freeze()
    wait_until(rt, lambda: task.frozen)
    result, texts = misuse(kthread_stop, task)
    assert result == -EBUSY
    assert "Thaw first" in texts[0]
    assert not task.flags & PF_EXITING
    rt.thaw()
    wait_until(rt, lambda: bool(task.flags & PF_EXITING))
    rt.reap(task)


# ---- sleeping ------------------------------------------------------------------------------------------


def test_wake_up_process_returns_one_only_for_a_sleeper(rt: Runtime) -> None:
    task = started(rt)
    wait_until(rt, lambda: task.state == TASK_INTERRUPTIBLE)
    assert wake_up_process(current()) == 0
    kthread_stop(task)


def test_wake_between_state_and_schedule_is_not_lost(rt: Runtime) -> None:
    set_current_state(TASK_INTERRUPTIBLE)
    assert wake_up_process(current()) == 1
    schedule()  # would sleep for ever


def test_schedule_timeout_returns_the_jiffies_left(rt: Runtime) -> None:
    set_current_state(TASK_INTERRUPTIBLE)
    assert schedule_timeout(3) == 0
    set_current_state(TASK_INTERRUPTIBLE)
    me = current()
    rt.call_at(rt.now_ns, lambda: wake_up_process(me) and None)
    assert 0 < schedule_timeout(600_000) <= 600_000
