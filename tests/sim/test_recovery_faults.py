"""The table in docs/faults.md in random interleavings: no hang, no lost or doubled end, no silent damage."""

from __future__ import annotations

import dataclasses

import pytest

from nvme_emu.core.faults import EFFECTS
from nvme_emu.workload.fault_matrix import CASES, Case, Outcome, run_case

pytestmark = pytest.mark.breaks_rules  # a device that resets itself or lies makes a driver look wrong

STYLES = [
    ("sync", "pump"), ("async", "pump"), ("async", "inline"), ("async", "per-request"), ("async", "poll"),
]  # fmt: skip
SCHEDULERS = ["random", "pct"]
HARMLESS = {"delay", "duplicate", "reorder", "interrupt", "status", "drop", "doorbell", "stall", "cfs", "reset"}
"""Kinds after which no block may be damaged or old."""


def check(outcome: Outcome, case: Case) -> None:
    assert outcome.is_clean, outcome
    assert outcome.fired, outcome
    if case.kind in HARMLESS:
        assert not outcome.damaged and not outcome.stale, outcome


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_fault_ends_every_request_once_in_any_interleaving(case: Case) -> None:
    seed = sum(case.name.encode())
    for number, (mode, worker) in enumerate(STYLES):
        scheduler = SCHEDULERS[(seed + number) % 2]
        check(run_case(case, mode, seed=seed + number, scheduler=scheduler, worker=worker), case)


@pytest.mark.parametrize(("mode", "worker"), STYLES)
def test_fault_free_run_with_other_latencies_sees_nothing(mode: str, worker: str) -> None:
    outcome = run_case(Case("none", "none", ()), mode, worker=worker, profile="tlc")
    assert outcome.is_clean and outcome.words() == "nothing to be seen"


@pytest.mark.parametrize("name", ["no completion, and no Abort", "fatal status (CSTS.CFS)"])
@pytest.mark.parametrize("style", STYLES)
def test_requests_that_wait_for_tags_survive_a_reset(name: str, style: tuple[str, str]) -> None:
    """The same with two queues and few entries, where requests wait for tags when the reset comes."""
    case = next(case for case in CASES if case.name == name)
    mode, worker = style
    for seed in range(3):
        outcome = run_case(
            case, mode, seed=seed, scheduler="random", worker=worker, queues=2, depth=4, profile="tlc"
        )
        check(outcome, case)


def test_table_has_every_kind_of_fault_but_the_connections() -> None:
    kinds = {kind for case in CASES for rule in case.rules for kind in rule["then"]}
    assert kinds == set(EFFECTS) - {"tcp", "zone"}  # zones: tests/unit/faults/test_faults_zoned.py
    assert all(case.kind in {kind for rule in case.rules for kind in rule["then"]} for case in CASES)
    assert len({case.name for case in CASES}) == len(CASES)


def test_outcome_that_hangs_or_loses_requests_says_so() -> None:
    good = Outcome("x", "sync", requests=3, ended=3)
    for bad in (
        dataclasses.replace(good, ended=2),
        dataclasses.replace(good, ended_twice=1),
        dataclasses.replace(good, hang="deadlock"),
    ):
        assert not bad.is_clean and "HANGS OR LOSES" in bad.words()
