"""The time-out ladder and the retry rules: every state with all facts, against the rules in other words."""

from __future__ import annotations

import itertools

import pytest

from nvme_emu.driver.aer import ACTIONS, EventAction, action_of
from nvme_emu.driver.ladder import RULES, Action, Facts, climb
from nvme_emu.driver.retry import RULES as RETRY_RULES
from nvme_emu.driver.retry import Disposition, Outcome, decide, delay_ns
from nvme_emu.driver.state import CtrlState
from nvme_emu.spec.status import CRD_SHIFT, DNR, Status

ALL_FACTS = [Facts(*bits) for bits in itertools.product((False, True), repeat=len(Facts._fields))]
S = CtrlState


def expected(state: CtrlState, it: Facts) -> Action:
    """`nvme_timeout`, told as its reader would tell it: by state first."""
    if it.gone:
        return Action.REMOVE
    resetting = state in (S.RESETTING, S.CONNECTING)
    if it.fatal and not resetting:
        return Action.RESET
    if it.posted:
        return Action.POLL
    match state:
        case S.CONNECTING:
            return Action.KILL
        case S.DELETING | S.DELETING_NOIO | S.DEAD:
            return Action.DISABLE
        case S.RESETTING | S.NEW:
            return Action.REARM
    if not it.ready or it.admin or it.aborted:
        return Action.RESET
    return Action.ABORT if it.credit else Action.REARM


@pytest.mark.parametrize("state", CtrlState)
def test_ladder_in_every_state_with_all_facts(state: CtrlState) -> None:
    for facts in ALL_FACTS:
        assert climb(state, facts) is expected(state, facts), facts


def test_every_rule_of_the_ladder_decides_something() -> None:
    deciding = set()
    for state in CtrlState:
        for facts in ALL_FACTS:
            deciding.add(next(why for why, holds, _ in RULES if holds(state, facts)))
    assert deciding == {why for why, _, _ in RULES}
    assert {action for _, _, action in RULES} == set(Action)


def test_nobody_is_aborted_twice() -> None:
    for state in CtrlState:
        for facts in ALL_FACTS:
            if facts.aborted:
                assert climb(state, facts) is not Action.ABORT


STATUSES = [0, *(int(status) for status in Status), 0x7FF]


@pytest.mark.parametrize("dnr", [0, DNR])
@pytest.mark.parametrize("admin", [False, True])
@pytest.mark.parametrize("dying", [False, True])
def test_retry_of_every_status_by_its_bits_alone(dnr: int, admin: bool, dying: bool) -> None:
    for status in STATUSES:
        for retries in range(7):
            outcome = Outcome(status | dnr, retries, 5, admin, dying)
            again = bool(status) and not dnr and not admin and not dying and retries < 5
            if status or not dnr:
                assert decide(outcome) is (Disposition.RETRY if again else Disposition.COMPLETE), outcome


def test_every_retry_rule_decides_something() -> None:
    cases = [
        Outcome(status, retries, 5, admin, dying)
        for status in (0, 0x281, 0x281 | DNR)
        for retries in (0, 5)
        for admin in (False, True)
        for dying in (False, True)
    ]
    deciding = {next(why for why, holds, _ in RETRY_RULES if holds(one)) for one in cases}
    assert deciding == {why for why, _, _ in RETRY_RULES}


@pytest.mark.parametrize(("crd", "crdt", "delay"), [
    (0, (5, 6, 7), 0), (1, (5, 6, 7), 500_000_000), (2, (5, 6, 7), 600_000_000), (3, (5, 6, 7), 700_000_000),
    (3, (), 0), (1, (0, 0, 0), 0),
])  # fmt: skip
def test_command_retry_delay_chooses_one_of_three_times(crd: int, crdt: tuple[int, ...], delay: int) -> None:
    assert delay_ns(0x281 | crd << CRD_SHIFT, crdt) == delay


def test_each_event_type_and_information_has_an_action() -> None:
    for event_type in range(8):
        for info in range(256):
            assert action_of(event_type, info) is ACTIONS.get((event_type, info), EventAction.NOTE)
    assert set(ACTIONS.values()) == set(EventAction) - {EventAction.NOTE}
