"""The driver's state machine: every state against every event."""

from __future__ import annotations

import itertools

import pytest

from nvme_emu.driver.state import ALLOWED_FROM, TERMINAL, CtrlState, StateMachine

S = CtrlState
LEGAL = {
    (S.CONNECTING, S.LIVE),
    (S.NEW, S.RESETTING),
    (S.LIVE, S.RESETTING),
    (S.NEW, S.CONNECTING),
    (S.RESETTING, S.CONNECTING),
    (S.LIVE, S.DELETING),
    (S.RESETTING, S.DELETING),
    (S.CONNECTING, S.DELETING),
    (S.DELETING, S.DELETING_NOIO),
    (S.DEAD, S.DELETING_NOIO),
    (S.DELETING, S.DEAD),
}


@pytest.mark.parametrize(("old", "new"), list(itertools.product(S, S)), ids=lambda s: s.name)
def test_change_follows_linux_table(old: CtrlState, new: CtrlState) -> None:
    heard: list[tuple[CtrlState, CtrlState]] = []
    machine = StateMachine(lambda a, b: heard.append((a, b)))
    machine.state = old

    allowed = machine.change(new)

    assert allowed is ((old, new) in LEGAL)
    assert machine.state is (new if allowed else old)
    assert heard == ([(old, new)] if allowed else [])


def test_terminal_states_never_reach_live() -> None:
    reachable = set(TERMINAL)
    while True:
        more = {new for new, olds in ALLOWED_FROM.items() if olds & reachable} - reachable
        if not more:
            break
        reachable |= more
    assert S.LIVE not in reachable
