"""The catalogue: known bugs of drivers, what is done to find each, and within how many runs it has to be found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import mutant_scenarios as scenarios
import mutants_completion as completion
import mutants_recovery as recovery
import mutants_submission as submission

from nvme_emu.driver.device import NvmeDriver
from nvme_emu.testing import NvmeSim
from nvme_emu.testing.exhaustive import search
from nvme_emu.testing.settings import Settings
from nvme_emu.testing.simulation import Outcome, Runner

SCHEDULERS = ("random", "pct", "exhaustive")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bug:
    """A mutant. The tests give ``by`` at most ``bound`` runs to find it."""

    name: str
    what: str
    driver: type[NvmeDriver]
    scenario: Callable[..., None]
    options: Mapping[str, Any] = field(default_factory=dict)
    by: str = "random"
    bound: int = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Hunt:
    """How it went: the runs that it took (None: not found), and the failure."""

    runs: int | None
    outcome: Outcome | None


def runner_of(bug: Bug, driver: type[NvmeDriver] | None = None) -> Runner:
    """The runs of a bug's scenario, by default with the bug."""

    def call(sim: NvmeSim) -> None:
        bug.scenario(sim, driver_class=driver or bug.driver, **bug.options)

    return Runner(call=call, settings=Settings(options={}), options={"check": "error"})


def hunt(bug: Bug, scheduler: str, runs_max: int) -> Hunt:
    """Seeds 0, 1, … (or one schedule after the other) until the bug shows."""
    runner = runner_of(bug)
    if scheduler == "exhaustive":
        runs = 0
        for switches in range(3):
            found = search(runner, runs_max=runs_max - runs, switches=switches)
            runs += found.runs
            if found.failure is not None:
                return Hunt(runs=runs, outcome=found.failure)
            if runs >= runs_max:
                break
        return Hunt(runs=None, outcome=None)
    for seed in range(runs_max):
        outcome = runner.run(seed, scheduler)
        if outcome.failure is not None:
            return Hunt(runs=seed + 1, outcome=outcome)
    return Hunt(runs=None, outcome=None)


ASYNC = {"mode": "async"}

BUGS = (
    Bug(name="doorbell before entry", what="the doorbell is rung before the entry is written",
        driver=submission.DOORBELL_BEFORE_SQE, scenario=scenarios.callers),
    Bug(name="tail without lock", what="two callers write the same slot",
        driver=submission.TAIL_WITHOUT_LOCK, scenario=scenarios.callers),
    Bug(name="doorbell overtaken", what="an older tail is written after a newer one",
        driver=submission.DOORBELL_OVERTAKEN, scenario=scenarios.callers),
    Bug(name="tag taken twice", what="a free tag is looked at, and taken later",
        driver=submission.TAG_TAKEN_TWICE, scenario=scenarios.callers),
    Bug(name="tag leak", what="a command that fails keeps its tag",
        driver=submission.TAG_LEAK, scenario=scenarios.errors),
    Bug(name="tag waiter lost", what="who waits for a tag looks before it is on the list of waiters",
        driver=submission.TAG_WAITER_LOST, scenario=scenarios.callers, options={"depth": 2, "rounds": 1},
        by="exhaustive", bound=100),
    Bug(name="lost wake-up", what="the pump looks at its list before it says that it ends",
        driver=submission.LOST_WAKE_UP, scenario=scenarios.callers, options={**ASYNC, "tasks": 1}),
    Bug(name="flush deadlock", what="the worker is flushed under a mutex that its work takes",
        driver=submission.FLUSH_DEADLOCK, scenario=scenarios.bursts),
    Bug(name="request lost", what="the list is emptied after it was copied",
        driver=submission.REQUEST_LOST, scenario=scenarios.bursts),
    Bug(name="shadow doorbell race", what="EventIdx is looked at before the shadow doorbell is written",
        driver=submission.SHADOW_RACE, scenario=scenarios.callers, options=scenarios.SHADOWED, by="pct"),
    Bug(name="phase off by one", what="the phase is inverted one entry late",
        driver=completion.PHASE_OFF_BY_ONE, scenario=scenarios.callers),
    Bug(name="head beyond tail", what="the head doorbell is one too far",
        driver=completion.HEAD_BEYOND_TAIL, scenario=scenarios.callers),
    Bug(name="head not told", what="the head doorbell is written once a round",
        driver=completion.HEAD_NOT_TOLD, scenario=scenarios.callers),
    Bug(name="completed twice", what="two handlers take the same completion",
        driver=completion.COMPLETED_TWICE, scenario=scenarios.callers),
    Bug(name="stale callback", what="the tag is free before its request was looked up",
        driver=completion.STALE_CALLBACK, scenario=scenarios.callers),
    Bug(name="done before status", what="a request is marked done before its status is there",
        driver=completion.DONE_BEFORE_STATUS, scenario=scenarios.errors),
    Bug(name="missed interrupt", what="an interrupt that finds another at work is dropped",
        driver=completion.MISSED_INTERRUPT, scenario=scenarios.callers),
    Bug(name="flag cleared late", what="the interrupt's flag is cleared after reaping",
        driver=completion.FLAG_CLEARED_LATE, scenario=scenarios.bursts, options={"profile": "optane"}),
    Bug(name="identifier after abort", what="the identifier is used again once the Abort was sent",
        driver=recovery.CID_AFTER_ABORT, scenario=scenarios.slow_command),
    Bug(name="completion after time-out", what="a late command is ended, and its completion comes",
        driver=recovery.COMPLETION_AFTER_TIMEOUT, scenario=scenarios.slow_command),
    Bug(name="double completion on reset", what="commands are cancelled before the controller is disabled",
        driver=recovery.DOUBLE_ON_RESET, scenario=scenarios.reset_while_busy),
    Bug(name="I/O during reset", what="submission is not held up by a reset",
        driver=recovery.SUBMIT_DURING_RESET, scenario=scenarios.reset_while_busy),
    Bug(name="event not asked for", what="after an event nobody asks for the next",
        driver=recovery.EVENT_NOT_REARMED, scenario=scenarios.two_events),
    Bug(name="reset too fast", what="CC.EN is set before CSTS.RDY has gone",
        driver=recovery.RESET_TOO_FAST, scenario=scenarios.reset_while_busy),
    Bug(name="queue deleted in the wrong order", what="the completion queue goes before its submission queue",
        driver=recovery.CQ_DELETED_FIRST, scenario=scenarios.down),
)  # fmt: skip
