"""The controller state machine of the driver, as Linux has it (``nvme_change_ctrl_state``).

The table is the whole truth: anything that it does not name is refused and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

__all__ = ["ALLOWED_FROM", "TERMINAL", "CtrlState", "StateMachine"]


class CtrlState(Enum):
    """States of ``enum nvme_ctrl_state``."""

    NEW = "new"
    LIVE = "live"
    RESETTING = "resetting"
    CONNECTING = "connecting"
    DELETING = "deleting"
    DELETING_NOIO = "deleting (no IO)"
    DEAD = "dead"


ALLOWED_FROM: dict[CtrlState, frozenset[CtrlState]] = {
    CtrlState.NEW: frozenset(),
    CtrlState.LIVE: frozenset({CtrlState.CONNECTING}),
    CtrlState.RESETTING: frozenset({CtrlState.NEW, CtrlState.LIVE}),
    CtrlState.CONNECTING: frozenset({CtrlState.NEW, CtrlState.RESETTING}),
    CtrlState.DELETING: frozenset({CtrlState.LIVE, CtrlState.RESETTING, CtrlState.CONNECTING}),
    CtrlState.DELETING_NOIO: frozenset({CtrlState.DELETING, CtrlState.DEAD}),
    CtrlState.DEAD: frozenset({CtrlState.DELETING}),
}
"""For each state, the states from which it may be entered."""

TERMINAL = frozenset({CtrlState.DELETING, CtrlState.DELETING_NOIO, CtrlState.DEAD})
"""States from which the controller never comes back to LIVE."""


class StateMachine:
    """Holds the state; ``on_change(old, new)`` hears of every change that took place."""

    __slots__ = ("_on_change", "state")

    def __init__(self, on_change: Callable[[CtrlState, CtrlState], None] | None = None) -> None:
        self.state = CtrlState.NEW
        self._on_change = on_change

    def change(self, new: CtrlState) -> bool:
        """Enter ``new`` if the table allows it from here; False, and nothing changed, if not."""
        old = self.state
        if old not in ALLOWED_FROM[new]:
            return False
        self.state = new
        if self._on_change is not None:
            self._on_change(old, new)
        return True
