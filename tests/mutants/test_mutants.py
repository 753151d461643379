"""The tools find every known bug within its bound, and nothing in the driver as it is."""

from __future__ import annotations

import re
from pathlib import Path

import mutant_scenarios as scenarios
import pytest
from mutant_catalogue import BUGS, SCHEDULERS, Bug, hunt, runner_of

from nvme_emu.driver.device import NvmeDriver
from nvme_emu.testing.exhaustive import search

DOCS = Path(__file__).resolve().parents[2] / "docs" / "simulation.md"
SCENARIOS = {
    "callers": (scenarios.callers, {}),
    "callers, async": (scenarios.callers, {"mode": "async"}),
    "callers, inline": (scenarios.callers, {"mode": "async", "worker": "inline"}),
    "callers, a work each": (scenarios.callers, {"mode": "async", "worker": "per-request"}),
    "callers, shadow doorbells": (scenarios.callers, scenarios.SHADOWED),
    "callers, async, shadow doorbells": (scenarios.callers, {"mode": "async", **scenarios.SHADOWED}),
    "reset, shadow doorbells": (scenarios.reset_while_busy, scenarios.SHADOWED),
    "bursts": (scenarios.bursts, {"profile": "optane"}),
    "errors": (scenarios.errors, {}),
    "slow command": (scenarios.slow_command, {}),
    "reset": (scenarios.reset_while_busy, {}),
    "reset, async": (scenarios.reset_while_busy, {"mode": "async"}),
    "events": (scenarios.two_events, {}),
    "down": (scenarios.down, {}),
}


def test_there_are_twenty_and_each_has_its_own_name() -> None:
    assert len({bug.name for bug in BUGS}) == len(BUGS) >= 20


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_bug_is_found_within_its_bound(bug: Bug) -> None:
    found = hunt(bug, bug.by, bug.bound)
    assert found.runs is not None, f"not found in {bug.bound} runs by {bug.by}"


@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("scheduler", ["random", "pct"])
def test_driver_as_it_is_passes(name: str, scheduler: str) -> None:
    scenario, options = SCENARIOS[name]
    found = hunt(Bug(name=name, what="", driver=NvmeDriver, scenario=scenario, options=options), scheduler, 8)
    if found.outcome is not None:
        raise AssertionError(f"seed {found.outcome.seed}") from found.outcome.failure


@pytest.mark.parametrize("bug", [bug for bug in BUGS if bug.by == "exhaustive"], ids=lambda bug: bug.name)
def test_driver_as_it_is_passes_all_orders_in_which_a_bug_was_found(bug: Bug) -> None:
    found = search(runner_of(bug, NvmeDriver), runs_max=bug.bound, switches=1)
    assert found.failure is None


def test_table_of_the_documentation_has_each_bug() -> None:
    """Made by tools/mutant_table; the numbers change with the simulation, the rows only with the catalogue."""
    rows = re.findall(r"^\| ([^|]+?) \| ([^|]+?) \| (\S+) \| (\S+) \| (\S+) \|", DOCS.read_text(), re.MULTILINE)
    table = {name: (what, counts) for name, what, *counts in rows}
    for bug in BUGS:
        assert bug.name in table, f"{bug.name}: run tools/mutant_table"
        what, counts = table[bug.name]
        assert what == bug.what
        assert len(counts) == len(SCHEDULERS)
        assert any(count.isdecimal() for count in counts), f"no tool finds {bug.name}"
