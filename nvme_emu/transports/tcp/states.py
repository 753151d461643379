"""Which PDU may come when: one table for each end of a connection (TCP 1.1, 3.4 and 3.6.2).

    WAIT_IC ── ICReq / ICResp ──► OPEN ── terminate PDU, end of stream ──► CLOSED

What the table does not name is an error of the peer: a PDU of the other direction or of an unknown type is an
invalid header field, a known one at the wrong time is a sequence error. Neither changes the state.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from nvme_emu.spec.tcp import (
    CMD_SIZE,
    DATA_SIZE,
    FLAG_DDGST,
    FLAG_HDGST,
    FLAG_LAST,
    FLAG_SUCCESS,
    IC_SIZE,
    RESP_SIZE,
    TERM_DATA_MAX,
    TERM_SIZE,
    PduType,
)

__all__ = ["RULES", "TRANSITIONS", "Role", "Rule", "State"]


class Role(Enum):
    """Which end of the connection we are."""

    TARGET = "target"
    INITIATOR = "initiator"


class State(Enum):
    """What the connection waits for."""

    WAIT_IC = "waiting for the connection's initialisation"
    OPEN = "open"
    CLOSED = "closed"


class Rule(NamedTuple):
    """The header of a PDU type: its length, the flags that may be set, and what data may follow.

    `data_max` 0 is none, None is whatever the receiver can take. `digests` says whether digests apply.
    """

    hlen: int
    flags: int
    data_max: int | None
    digests: bool


_DIGESTS = FLAG_HDGST | FLAG_DDGST

RULES: dict[Role, dict[int, Rule]] = {
    Role.TARGET: {
        PduType.IC_REQ: Rule(IC_SIZE, 0, 0, False),
        PduType.H2C_TERM_REQ: Rule(TERM_SIZE, 0, TERM_DATA_MAX, False),
        PduType.CAPSULE_CMD: Rule(CMD_SIZE, _DIGESTS, None, True),
        PduType.H2C_DATA: Rule(DATA_SIZE, _DIGESTS | FLAG_LAST, None, True),
    },
    Role.INITIATOR: {
        PduType.IC_RESP: Rule(IC_SIZE, 0, 0, False),
        PduType.C2H_TERM_REQ: Rule(TERM_SIZE, 0, TERM_DATA_MAX, False),
        PduType.CAPSULE_RESP: Rule(RESP_SIZE, FLAG_HDGST, 0, True),
        PduType.C2H_DATA: Rule(DATA_SIZE, _DIGESTS | FLAG_LAST | FLAG_SUCCESS, None, True),
        PduType.R2T: Rule(DATA_SIZE, FLAG_HDGST, 0, True),
    },
}

TRANSITIONS: dict[Role, dict[tuple[State, int], State]] = {
    Role.TARGET: {
        (State.WAIT_IC, PduType.IC_REQ): State.OPEN,
        (State.WAIT_IC, PduType.H2C_TERM_REQ): State.CLOSED,
        (State.OPEN, PduType.CAPSULE_CMD): State.OPEN,
        (State.OPEN, PduType.H2C_DATA): State.OPEN,
        (State.OPEN, PduType.H2C_TERM_REQ): State.CLOSED,
    },
    Role.INITIATOR: {
        (State.WAIT_IC, PduType.IC_RESP): State.OPEN,
        (State.WAIT_IC, PduType.C2H_TERM_REQ): State.CLOSED,
        (State.OPEN, PduType.CAPSULE_RESP): State.OPEN,
        (State.OPEN, PduType.C2H_DATA): State.OPEN,
        (State.OPEN, PduType.R2T): State.OPEN,
        (State.OPEN, PduType.C2H_TERM_REQ): State.CLOSED,
    },
}
