"""What is done about a command that does not end in its time: Linux's ``nvme_timeout`` as a table.

The rules are asked in order and the first that holds decides. One rule is ours: a controller that is not ready any
more (CSTS.RDY is 0 while we believe in it) is reset at once, for it has forgotten every queue and an Abort would
only be lost as well; Linux sends the Abort and resets one time-out later.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

from nvme_emu.driver.state import CtrlState

__all__ = ["RULES", "Action", "Facts", "climb"]


class Action(Enum):
    """What is done with the command, or with the controller for its sake."""

    REMOVE = "the device is gone: end everything"
    RESET = "reset the controller"
    POLL = "take the completion that is there"
    KILL = "give the connecting controller up"
    DISABLE = "end everything"
    REARM = "wait for another time-out"
    ABORT = "send an Abort and wait for another time-out"


class Facts(NamedTuple):
    """What is known when a command's time is over.

    ``gone``: CSTS reads all ones. ``fatal``: CSTS.CFS, or CSTS.NSSRO. ``ready``: CSTS.RDY. ``posted``: a new
    completion lies in its queue, of which no interrupt has told. ``aborted``: an Abort was sent for it before.
    ``credit``: the Abort Command Limit allows one more, and the admin queue has a tag.
    """

    gone: bool = False
    fatal: bool = False
    ready: bool = True
    posted: bool = False
    admin: bool = False
    aborted: bool = False
    credit: bool = True


_BUSY = (CtrlState.RESETTING, CtrlState.CONNECTING)
_ENDING = (CtrlState.DELETING, CtrlState.DELETING_NOIO, CtrlState.DEAD)
_Rule = tuple[str, Callable[[CtrlState, Facts], bool], Action]

RULES: tuple[_Rule, ...] = (
    ("CSTS reads all ones", lambda state, it: it.gone, Action.REMOVE),
    ("CSTS shows CFS or NSSRO", lambda state, it: it.fatal and state not in _BUSY, Action.RESET),
    ("its queue holds a completion", lambda state, it: it.posted, Action.POLL),
    ("connecting", lambda state, it: state is CtrlState.CONNECTING, Action.KILL),
    ("being deleted", lambda state, it: state in _ENDING, Action.DISABLE),
    ("being reset", lambda state, it: state in (CtrlState.RESETTING, CtrlState.NEW), Action.REARM),
    ("CSTS shows RDY 0", lambda state, it: not it.ready, Action.RESET),
    ("administrative, or aborted before", lambda state, it: it.admin or it.aborted, Action.RESET),
    ("no Abort is to be had", lambda state, it: not it.credit, Action.REARM),
    ("first time", lambda state, it: True, Action.ABORT),
)
"""(why, condition, what then), in the order in which they are asked."""


def climb(state: CtrlState, facts: Facts) -> Action:
    """The next rung for a command whose time is over."""
    return next(action for _, holds, action in RULES if holds(state, facts))
