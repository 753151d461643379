"""Campaigns, shrinking and the exhaustive search, in this process: what workers are asked is answered at once."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

import kworker
from nvme_emu.testing.campaign import Campaign, CampaignError, Plan
from nvme_emu.testing.campaign_worker import Answer, _Server, serve
from nvme_emu.testing.exhaustive import SleepSets, halves, independent, open_choices, search
from nvme_emu.testing.settings import Settings
from nvme_emu.testing.shrink import shrink
from nvme_emu.testing.simulation import NvmeSim, Runner
from nvme_emu.testing.watching import readable, switches_of


def deposits(sim: NvmeSim, *, locked: bool) -> None:
    lock, balance = kworker.Spinlock(runtime=sim.runtime, name="balance"), [0]

    def deposit() -> None:
        if locked:
            lock.acquire()
        seen = balance[0]
        sim.point("seen")
        balance[0] = seen + 1
        if locked:
            lock.release()

    sim.together(deposit, deposit)
    assert balance[0] == 2, f"balance is {balance[0]}"


def racy(sim: NvmeSim) -> None:
    deposits(sim, locked=False)


def right(sim: NvmeSim) -> None:
    deposits(sim, locked=True)


def runner_of(test: Callable[[NvmeSim], None]) -> Runner:
    return Runner(call=test, settings=Settings(options={}))


class Inline:
    """Workers that answer before `ask` returns."""

    count = 2
    chunk_seconds = 0.05

    def __init__(self, test: Callable[[NvmeSim], None]) -> None:
        self.server = _Server(runner_of(test), "test_x.py::test")
        self.asked: list[Answer] = []

    def ask(self, request: Answer, then: Callable[[Answer], None]) -> None:
        self.asked.append(request)
        then(self.server.answer(request))

    def close(self) -> None:
        pass


def nothing() -> None:
    pass


@pytest.mark.parametrize("scheduler", ["random", "pct"])
def test_seeds_are_all_run_and_kept(tmp_path: Path, scheduler: str) -> None:
    state = tmp_path / "state.json"
    for seeds, before in ((30, 0), (50, 30)):
        campaign = Campaign(Plan(test="t", seeds=seeds, scheduler=scheduler), Inline(right), state)
        assert campaign.resumed == before
        campaign.run(nothing)
        assert campaign.runs == seeds
        assert campaign.complete
        assert not campaign.findings


def test_state_of_other_code_or_another_plan_is_left_alone(tmp_path: Path) -> None:
    test = tmp_path / "test_it.py"
    test.write_text("one")
    state = tmp_path / "state.json"
    plan = Plan(test=f"{test}::test", seeds=5)
    Campaign(plan, Inline(right), state).run(nothing)
    assert Campaign(plan, Inline(right), state).resumed == 5
    assert Campaign(Plan(test=f"{test}::test", seeds=5, first=7), Inline(right), state).resumed == 0
    test.write_text("two")
    assert Campaign(plan, Inline(right), state).resumed == 0
    state.write_text("{")
    with pytest.raises(CampaignError, match="not a state of a campaign"):
        Campaign(plan, Inline(right), state)


def test_first_failure_ends_a_campaign_and_keep_going_does_not() -> None:
    stops = Campaign(Plan(test="t", seeds=200), Inline(racy))
    stops.run(nothing)
    assert len(stops.findings) == 1
    assert stops.runs < 200
    goes_on = Campaign(Plan(test="t", seeds=60, keep_going=True), Inline(racy))
    goes_on.run(nothing)
    assert goes_on.runs == 60
    assert len(goes_on.findings) == 1
    assert goes_on.findings[0].seen > 1


def test_exhaustive_campaign_goes_on_where_it_was(tmp_path: Path) -> None:
    """A search in many sessions makes the same runs as one in a single session."""
    plan = Plan(test="t", scheduler="exhaustive", switches=1)
    whole = Campaign(plan, Inline(right))
    whole.run(nothing)
    assert whole.complete

    class Stops(Exception):
        pass

    state = tmp_path / "state.json"
    sessions = 0
    while True:
        workers = Inline(right)
        workers.chunk_seconds = 0.0  # one run a request
        campaign = Campaign(plan, workers, state)
        limit = campaign.runs + 7

        def changed(campaign: Campaign = campaign, limit: int = limit) -> None:
            if campaign.runs >= limit:
                raise Stops

        sessions += 1
        try:
            campaign.run(changed)
        except Stops:
            continue
        break
    assert sessions > 2
    assert campaign.runs == whole.runs
    assert campaign.complete


def test_error_of_a_worker_ends_the_campaign() -> None:
    workers = Inline(right)
    workers.ask = lambda request, then: then({"error": "it has died"})  # type: ignore[method-assign]
    with pytest.raises(CampaignError, match="it has died"):
        Campaign(Plan(test="t"), workers).run(nothing)


@pytest.mark.parametrize("scheduler", ["random", "pct"])
def test_shrunk_schedule_is_small_readable_and_fails_alike(scheduler: str) -> None:
    runner = runner_of(racy)
    seed = next(seed for seed in range(100) if runner.run(seed, scheduler).failure is not None)
    found = runner.run(seed, scheduler, closely=True)
    small = shrink(runner, seed, found, found.slack_ns)
    assert small.switches == len(switches_of(small.outcome.steps)) <= 2
    assert small.outcome.signature == found.signature
    assert any("is stopped at 'seen'" in line for line in readable(small.outcome.steps))


def test_run_is_a_function_of_its_seed() -> None:
    for scheduler in ("random", "pct"):
        one, other = runner_of(racy), runner_of(racy)
        other.run(3, scheduler)
        assert one.run(7, scheduler).schedule == other.run(7, scheduler).schedule


@pytest.mark.parametrize("assume", ["nothing", "named locks", "all locked"])
def test_search_sees_all_orders_of_the_right_and_the_wrong_one_of_the_racy(assume: str) -> None:
    fine = search(runner_of(right), runs_max=5000, switches=1, assume=assume)
    assert fine.complete
    assert fine.failure is None
    found = search(runner_of(racy), runs_max=5000, switches=1, assume=assume)
    assert found.failure is not None
    assert found.failure.signature == "AssertionError in deposits"


def test_more_is_left_out_the_more_may_be_assumed() -> None:
    runs = [
        search(runner_of(right), runs_max=5000, switches=2, assume=assume).runs
        for assume in ("nothing", "named locks", "all locked")
    ]
    assert runs[0] >= runs[1] > runs[2]


@pytest.mark.parametrize(
    ("one", "other", "assume", "expected"),
    [
        ("lock a", "lock b", "nothing", False),
        ("lock a", "lock b", "named locks", True),
        ("lock a", "lock a", "named locks", False),
        ("lock a", "settle", "named locks", True),
        ("settle", "settle", "named locks", False),
        ("lock lock", "lock a", "named locks", False),
        ("anything", "lock a", "named locks", False),
        ("unlock a", "settle", "all locked", True),
        ("seen", "seen", "all locked", False),
        ("seen", "written", "all locked", True),
        ("wait", "complete", "all locked", False),
    ],
)
def test_steps_are_independent_as_far_as_is_assumed(one: str, other: str, assume: str, expected: bool) -> None:
    assert independent(one, other, assume) is expected
    assert independent(other, one, assume) is expected


@pytest.mark.parametrize("assume", ["nothing", "named locks", "all locked"])
@pytest.mark.parametrize("switches", [1, 2])
def test_search_in_parts_makes_the_runs_of_the_whole(assume: str, switches: int) -> None:
    """However it is divided, and whoever is first."""
    whole = search(runner_of(right), runs_max=5000, switches=switches, assume=assume)
    assert whole.complete
    for choose in (0, -1):
        runs, paths = 0, [None]
        while paths:
            part = SleepSets(switches, assume=assume)
            path = paths.pop(choose)
            if path is not None:
                part.load(path)
            found = search(runner_of(right), runs_max=3, scheduler=part)
            runs += found.runs
            if not found.complete:
                rest = json.loads(json.dumps(part.dump()))
                paths += halves(rest) or [rest]
        assert runs == whole.runs


def test_halves_hold_what_is_open_and_a_single_one_stays_whole() -> None:
    scheduler = SleepSets(1)
    search(runner_of(right), runs_max=1, scheduler=scheduler)
    path = scheduler.dump()
    parts = halves(path)
    assert parts is not None
    assert open_choices(parts[0]) + open_choices(parts[1]) + 1 == open_choices(path)
    assert halves(None) is None
    assert open_choices(None) == 0
    while (parts := halves(path)) is not None:
        path = parts[1]
    assert open_choices(path) == 0


class Many(Inline):
    """Workers that answer in an order of their own, when all are busy."""

    count = 5
    chunk_seconds = 0.0

    def __init__(self, test: Callable[[NvmeSim], None]) -> None:
        super().__init__(test)
        self.waiting: list[tuple[Answer, Callable[[Answer], None]]] = []
        self.at_once = 0

    def ask(self, request: Answer, then: Callable[[Answer], None]) -> None:
        self.asked.append(request)
        self.waiting.append((request, then))
        self.at_once = max(self.at_once, len(self.waiting))

    def turn(self) -> None:
        """Answer the one that came last."""
        if self.waiting:
            request, then = self.waiting.pop()
            then(self.server.answer(request))


def test_exhaustive_campaign_is_spread_over_all_workers() -> None:
    plan = Plan(test="t", scheduler="exhaustive", switches=2)
    alone = Campaign(plan, Inline(right))
    alone.run(nothing)
    workers = Many(right)
    spread = Campaign(plan, workers)
    spread.run(workers.turn)
    assert workers.at_once == 5
    assert spread.complete
    assert (spread.runs, spread.cut) == (alone.runs, alone.cut)


def test_exhaustive_campaign_that_keeps_going_sees_the_rest_of_the_orders() -> None:
    first = Campaign(Plan(test="t", scheduler="exhaustive", switches=2), Inline(racy))
    first.run(nothing)
    every = Campaign(Plan(test="t", scheduler="exhaustive", switches=2, keep_going=True), Inline(racy))
    every.run(nothing)
    assert first.runs < every.runs
    assert len(first.findings) == len(every.findings) == 1
    assert every.findings[0].seen > 1


def test_ctrl_c_of_a_test_itself_is_told_of() -> None:
    def stops(sim: NvmeSim) -> None:
        raise KeyboardInterrupt

    answers = io.StringIO()
    request = {"do": "seeds", "scheduler": "random", "first": 0, "count": 1, "seconds": 1}
    serve(runner_of(stops), "test_x.py::test", io.StringIO(json.dumps(request) + "\n"), answers)
    error = json.loads(answers.getvalue())["error"]
    assert error == "test_x.py::test raises KeyboardInterrupt, which ends pytest: such a run cannot be judged"
