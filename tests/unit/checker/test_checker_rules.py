"""Each rule has a host that breaks it and one that nearly does; the latter, and a proper end, give no finding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cases_capsules
import cases_commands
import cases_fabrics
import cases_io
import cases_management
import cases_pointers
import cases_queues
import cases_registers
import cases_shadow
import cases_zones
import pytest
from checkedhost import CheckedHost

from nvme_emu.observe.checker import RULES

Case = Callable[[CheckedHost], None]
ALL: dict[str, tuple[list[Case], Case]] = {
    **cases_registers.CASES, **cases_queues.CASES, **cases_commands.CASES, **cases_management.CASES,
    **cases_io.CASES, **cases_pointers.CASES, **cases_zones.CASES, **cases_shadow.CASES,
}  # fmt: skip
OPTIONS: dict[str, dict[str, Any]] = {
    **cases_registers.OPTIONS, **cases_queues.OPTIONS, **cases_commands.OPTIONS, **cases_management.OPTIONS,
    **cases_io.OPTIONS, **cases_shadow.OPTIONS,
}  # fmt: skip
for _rule, _cases in (*cases_management.MORE.items(), *cases_zones.MORE.items()):
    ALL[_rule][0].extend(_cases)
BAD = [pytest.param(rule, bad, id=f"{rule}-{bad.__name__}") for rule, (bads, _) in ALL.items() for bad in bads]
GOOD = [pytest.param(rule, good, id=f"{rule}-{good.__name__}") for rule, (_, good) in ALL.items()]


def host_for(rule: str) -> CheckedHost:
    return CheckedHost(**OPTIONS.get(rule, {}))


def test_every_rule_has_cases() -> None:
    over_tcp = set(cases_fabrics.CASES) | set(cases_capsules.CASES)
    assert set(ALL) | over_tcp == set(RULES)
    assert {ident for ident, rule in RULES.items() if rule.mode == "tcp"} <= over_tcp
    assert len(RULES) >= 40


@pytest.mark.parametrize(("rule", "bad"), BAD)
def test_rule_is_broken_by(rule: str, bad: Case) -> None:
    host = host_for(rule)
    bad(host)
    assert rule in host.broken, [str(one) for one in host.checker.findings]
    finding = next(one for one in host.checker.findings if one.rule == rule)
    assert finding.title == RULES[rule].title
    assert finding.clause == RULES[rule].clause
    assert finding.what


@pytest.mark.parametrize("rule", cases_shadow.THROUGH_THE_PAGE)
def test_rule_is_broken_by_a_shadow_doorbell(rule: str) -> None:
    host = CheckedHost(**cases_shadow.SHADOWED)
    cases_shadow.THROUGH_THE_PAGE[rule](host)
    assert rule in host.broken


@pytest.mark.parametrize(("rule", "good"), GOOD)
def test_rule_is_kept_by(rule: str, good: Case) -> None:
    host = host_for(rule)
    good(host)
    host.down()
    assert host.broken == set(), [str(one) for one in host.checker.findings]


@pytest.mark.parametrize("good", cases_pointers.ALSO_GOOD + cases_management.ALSO_GOOD, ids=lambda case: case.__name__)
def test_no_rule_is_broken_by(good: Case) -> None:
    host = CheckedHost()
    good(host)
    host.down()
    assert host.broken == set(), [str(one) for one in host.checker.findings]
