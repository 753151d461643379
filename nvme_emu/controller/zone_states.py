"""The states of a zone as one table (Zoned Namespace Command Set 1.2, clause 2.1.1.4).

    Empty ──write, append──► Implicitly Opened ──full──► Full
      │                        ▲   │ the controller needs the resource, Close
      │                  write │   ▼
      ├──set extension──►     Closed  ◄──Close── Explicitly Opened ◄──Open── Empty, Closed, Implicitly Opened
      └──Finish──► Full       any but Read Only and Offline ──Reset──► Empty

A zone that is *open* has an open resource, one that is open or Closed an active resource. What the table does not
hold is refused; `REFUSALS` says how a write is.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from nvme_emu.spec.status import Status
from nvme_emu.spec.zns import ZoneState

__all__ = ["ACTIVE", "OPEN", "REFUSALS", "WITHOUT_POINTER", "ZONE_TRANSITIONS", "ZoneAction"]


class ZoneAction(Enum):
    """What can happen to a zone."""

    WRITE = "blocks are written at the write pointer"
    FILL = "the write pointer reaches the zone's capacity"
    OPEN = "Open Zone"
    CLOSE = "Close Zone"
    FINISH = "Finish Zone"
    RESET = "Reset Zone"
    OFFLINE = "Offline Zone"
    SET_EXTENSION = "Set Zone Descriptor Extension"
    YIELD = "the controller needs the open resource for another zone"
    POWER_LOSS = "power was lost; the zone has data or a descriptor extension"
    POWER_LOSS_UNUSED = "power was lost; the zone has neither"
    ERASE = "Format NVM, or a sanitize operation"
    BREAK_READ_ONLY = "the medium can no more be written"
    BREAK_OFFLINE = "the medium can no more be read"


_S, _A = ZoneState, ZoneAction

OPEN: Final = frozenset({_S.IMPLICITLY_OPENED, _S.EXPLICITLY_OPENED})
ACTIVE: Final = OPEN | {_S.CLOSED}
WITHOUT_POINTER: Final = frozenset({_S.FULL, _S.READ_ONLY, _S.OFFLINE})
"""States in which the write pointer is not valid."""

ZONE_TRANSITIONS: Final[dict[tuple[ZoneState, ZoneAction], ZoneState]] = {
    (_S.EMPTY, _A.WRITE): _S.IMPLICITLY_OPENED,
    (_S.EMPTY, _A.OPEN): _S.EXPLICITLY_OPENED,
    (_S.EMPTY, _A.FINISH): _S.FULL,
    (_S.EMPTY, _A.RESET): _S.EMPTY,
    (_S.EMPTY, _A.SET_EXTENSION): _S.CLOSED,
    (_S.EMPTY, _A.ERASE): _S.EMPTY,
    (_S.EMPTY, _A.BREAK_READ_ONLY): _S.READ_ONLY,
    (_S.EMPTY, _A.BREAK_OFFLINE): _S.OFFLINE,
    (_S.IMPLICITLY_OPENED, _A.WRITE): _S.IMPLICITLY_OPENED,
    (_S.IMPLICITLY_OPENED, _A.FILL): _S.FULL,
    (_S.IMPLICITLY_OPENED, _A.OPEN): _S.EXPLICITLY_OPENED,
    (_S.IMPLICITLY_OPENED, _A.CLOSE): _S.CLOSED,
    (_S.IMPLICITLY_OPENED, _A.FINISH): _S.FULL,
    (_S.IMPLICITLY_OPENED, _A.RESET): _S.EMPTY,
    (_S.IMPLICITLY_OPENED, _A.YIELD): _S.CLOSED,
    (_S.IMPLICITLY_OPENED, _A.POWER_LOSS): _S.CLOSED,
    (_S.IMPLICITLY_OPENED, _A.POWER_LOSS_UNUSED): _S.EMPTY,
    (_S.IMPLICITLY_OPENED, _A.ERASE): _S.EMPTY,
    (_S.IMPLICITLY_OPENED, _A.BREAK_READ_ONLY): _S.READ_ONLY,
    (_S.IMPLICITLY_OPENED, _A.BREAK_OFFLINE): _S.OFFLINE,
    (_S.EXPLICITLY_OPENED, _A.WRITE): _S.EXPLICITLY_OPENED,
    (_S.EXPLICITLY_OPENED, _A.FILL): _S.FULL,
    (_S.EXPLICITLY_OPENED, _A.OPEN): _S.EXPLICITLY_OPENED,
    (_S.EXPLICITLY_OPENED, _A.CLOSE): _S.CLOSED,
    (_S.EXPLICITLY_OPENED, _A.FINISH): _S.FULL,
    (_S.EXPLICITLY_OPENED, _A.RESET): _S.EMPTY,
    (_S.EXPLICITLY_OPENED, _A.POWER_LOSS): _S.CLOSED,
    (_S.EXPLICITLY_OPENED, _A.POWER_LOSS_UNUSED): _S.EMPTY,
    (_S.EXPLICITLY_OPENED, _A.ERASE): _S.EMPTY,
    (_S.EXPLICITLY_OPENED, _A.BREAK_READ_ONLY): _S.READ_ONLY,
    (_S.EXPLICITLY_OPENED, _A.BREAK_OFFLINE): _S.OFFLINE,
    (_S.CLOSED, _A.WRITE): _S.IMPLICITLY_OPENED,
    (_S.CLOSED, _A.OPEN): _S.EXPLICITLY_OPENED,
    (_S.CLOSED, _A.CLOSE): _S.CLOSED,
    (_S.CLOSED, _A.FINISH): _S.FULL,
    (_S.CLOSED, _A.RESET): _S.EMPTY,
    (_S.CLOSED, _A.POWER_LOSS): _S.CLOSED,
    (_S.CLOSED, _A.POWER_LOSS_UNUSED): _S.EMPTY,
    (_S.CLOSED, _A.ERASE): _S.EMPTY,
    (_S.CLOSED, _A.BREAK_READ_ONLY): _S.READ_ONLY,
    (_S.CLOSED, _A.BREAK_OFFLINE): _S.OFFLINE,
    (_S.FULL, _A.FINISH): _S.FULL,
    (_S.FULL, _A.RESET): _S.EMPTY,
    (_S.FULL, _A.ERASE): _S.EMPTY,
    (_S.FULL, _A.BREAK_READ_ONLY): _S.READ_ONLY,
    (_S.FULL, _A.BREAK_OFFLINE): _S.OFFLINE,
    (_S.READ_ONLY, _A.OFFLINE): _S.OFFLINE,
    (_S.READ_ONLY, _A.BREAK_OFFLINE): _S.OFFLINE,
    (_S.OFFLINE, _A.OFFLINE): _S.OFFLINE,
}
"""(state, what happens) → next state."""

REFUSALS: Final[dict[ZoneState, Status]] = {
    _S.FULL: Status.ZONE_FULL,
    _S.READ_ONLY: Status.ZONE_READ_ONLY,
    _S.OFFLINE: Status.ZONE_OFFLINE,
}
"""What a write to a zone ends with whose state allows none. Zone Management ends with Invalid Zone State Transition."""
