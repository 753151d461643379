"""Exploring schedulers, recorded schedules and the search over them."""

from __future__ import annotations

import pytest

from kworker import (
    Exhaustive,
    Pct,
    RandomWalk,
    Replay,
    ReplayError,
    Schedule,
    SimLivelock,
    SimRuntime,
    Spinlock,
    current,
    explore,
    kthread_run,
    kthread_stop,
)


def lost_update(rt: SimRuntime, lock: bool) -> None:
    """Two tasks add 1; without the lock an update can get lost."""
    counter = [0]
    guard = Spinlock(name="counter")

    def add(_: object) -> int:
        if lock:
            guard.acquire()
        value = counter[0]
        rt.point("between read and write")
        counter[0] = value + 1
        if lock:
            guard.release()
        return 1

    tasks = [kthread_run(add, None, "add%d", i) for i in range(2)]
    rt.sleep_ns(1_000)
    assert sum(max(0, kthread_stop(task)) for task in tasks) == counter[0], "lost update"


@pytest.mark.parametrize("scheduler", ["random", "pct", "exhaustive"])
def test_race_is_found_and_the_note_replays_it(scheduler: str) -> None:
    with pytest.raises(AssertionError, match="lost update") as caught:
        explore(lambda rt: lost_update(rt, lock=False), scheduler=scheduler, runs_max=2_000)
    note = caught.value.__notes__[0]
    assert "replay it with" in note
    text = note.split("Replay('")[1].split("'")[0]
    with SimRuntime(scheduler=Replay(text)) as rt, pytest.raises(AssertionError, match="lost update"):
        rt.run(lost_update, rt, False)


@pytest.mark.parametrize("scheduler", ["random", "pct"])
@pytest.mark.parametrize("cpus", [1, 2, 3])
def test_correct_program_passes_all_runs(scheduler: str, cpus: int) -> None:
    result = explore(lambda rt: lost_update(rt, lock=True), scheduler=scheduler, runs_max=100, cpus=cpus)
    assert (result.runs, result.complete) == (100, False)
    assert result.choices > 100


def test_exhaustive_search_ends_and_says_so() -> None:
    result = explore(lambda rt: lost_update(rt, lock=True), scheduler=Exhaustive(preemptions=1), runs_max=20_000)
    assert result.complete
    assert result.runs > 20


def test_exhaustive_search_sees_every_order_once() -> None:
    seen: list[str] = []

    def test(rt: SimRuntime) -> None:
        order: list[str] = []

        def step(name: str) -> None:
            order.append(name)

        tasks = [kthread_run(step, name, name) for name in "abc"]
        rt.sleep_ns(10)
        seen.append("".join(order))
        for task in tasks:
            kthread_stop(task)

    result = explore(test, scheduler=Exhaustive(preemptions=0), runs_max=5_000)
    assert result.complete
    assert {"abc", "acb", "bac", "bca", "cab", "cba"} <= set(seen)


def test_exhaustive_search_of_a_program_that_is_not_deterministic_is_an_error() -> None:
    calls = [0]

    def test(rt: SimRuntime) -> None:
        calls[0] += 1
        tasks = [kthread_run(lambda _: rt.point("x"), None, "t%d", i) for i in range(2 + calls[0] % 2)]
        rt.sleep_ns(10)
        for task in tasks:
            kthread_stop(task)

    with pytest.raises(ReplayError, match="not deterministic"):
        explore(test, scheduler=Exhaustive(preemptions=3), runs_max=100)


def test_recorded_schedule_replayed_gives_the_same_trace() -> None:
    with SimRuntime(seed=5, scheduler="random", trace=True) as rt:
        rt.run(lost_update, rt, True)
        first, schedule = bytes(rt.trace), rt.recorded_schedule
    with SimRuntime(seed=99, scheduler=Replay(schedule), trace=True) as rt:
        rt.run(lost_update, rt, True)
        assert bytes(rt.trace) == first
        assert rt.recorded_schedule == schedule


def test_replay_of_another_program_is_an_error() -> None:
    with SimRuntime(scheduler=Replay("kw1:7")) as rt, pytest.raises(ReplayError, match=r"choice 0 .* is 7"):
        rt.run(lost_update, rt, True)


def test_replay_beyond_its_end_runs_to_block() -> None:
    with SimRuntime(scheduler=Replay("kw1:")) as rt:
        rt.run(lost_update, rt, False)
        assert set(rt.recorded_schedule.choices) == {0}


@pytest.mark.parametrize("choices", [(), (0,), (0, 0, 0), (1, 0, 0, 2, 2), (3, 1, 1, 1, 12)])
def test_schedule_text_reads_back(choices: tuple[int, ...]) -> None:
    assert Schedule.parse(str(Schedule(choices))) == Schedule(choices)


def test_schedule_text_is_short() -> None:
    assert str(Schedule((0,) * 12 + (1, 0, 0, 2))) == "kw1:0*12.1.0*2.2"


@pytest.mark.parametrize("text", ["", "0.1", "kw2:0", "kw1:a", "kw1:1*", "kw1:1*x", "kw1:-1"])
def test_schedule_text_bad_is_an_error(text: str) -> None:
    if text == "kw1:1*":
        assert Schedule.parse(text).choices == (1,)
        return
    with pytest.raises(ReplayError, match="not a schedule"):
        Schedule.parse(text)


def test_run_to_block_records_no_choices() -> None:
    with SimRuntime() as rt:
        rt.run(lost_update, rt, True)
        assert rt.recorded_schedule == Schedule(())


def test_endless_polling_is_named_a_livelock() -> None:
    class Impatient(RandomWalk):
        steps_max = 500

    def poll(_: object) -> None:
        while True:
            rt.point("poll")

    with SimRuntime(scheduler=Impatient()) as rt:

        def main() -> None:
            kthread_run(poll, None, "poller")
            poll(None)

        with pytest.raises(SimLivelock, match="no end after 500 choices"):
            rt.run(main)


def test_far_timer_does_not_fire_while_tasks_can_run() -> None:
    def test(rt: SimRuntime) -> None:
        fired: list[int] = []
        rt.call_at(30 * 10**9, lambda: fired.append(1))
        for _ in range(50):
            rt.point("work")
            assert fired == []

    explore(test, runs_max=20)


def test_near_timer_may_fire_while_tasks_can_run() -> None:
    early: list[int] = []

    def test(rt: SimRuntime) -> None:
        before = len(early)
        rt.call_at(50_000, lambda: early.append(1))
        for _ in range(5):
            rt.point("work")
        if len(early) == before:
            early.append(0)

    explore(test, runs_max=30)
    assert set(early) == {0, 1}


def test_one_cpu_never_switches_inside_a_spinlock() -> None:
    def test(rt: SimRuntime) -> None:
        inside: list[str] = []
        lock = Spinlock()

        def fn(_: object) -> None:
            with lock:
                inside.append(current().comm)
                rt.point("inside")
                rt.point("inside")
                assert inside == [current().comm]
                inside.clear()

        def bystander(_: object) -> None:
            assert inside == []

        tasks = [kthread_run(fn, None, "f%d", i) for i in range(2)]
        tasks.append(kthread_run(bystander, None, "by"))
        rt.call_at(rt.now_ns, lambda: bystander(None))
        rt.sleep_ns(100_000)
        for task in tasks:
            kthread_stop(task)

    explore(test, runs_max=100, cpus=1)


@pytest.mark.parametrize("arguments", [{"depth": 0}, {"steps": 0}, {"patience": 0}])
def test_pct_bad_arguments_are_value_errors(arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Pct(**arguments)
