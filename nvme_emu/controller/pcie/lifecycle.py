"""The life of a controller as one table: state x input -> state and action (NVMe Base 2.1, 3.5 to 3.7).

CSTS.RDY, CSTS.SHST and CSTS.CFS are functions of the state alone (``OUTPUTS``). What the table does not name
is not an error: the input changes nothing, as a device ignores what its host should not have done.

    DISABLED --ENABLE--> STARTING --TIMER--> READY --SHUTDOWN--> STOPPING --TIMER--> STOPPED
        ^                                      |                                        |
        +--------- TIMER --- RESETTING <-------+------------- DISABLE ------------------+

A shutdown may also be asked of a disabled controller (IDLE_STOPPING, IDLE_STOPPED). FAILED and START_FAILED
show CSTS.CFS; only a reset leaves them.
"""

from __future__ import annotations

from enum import Enum

from nvme_emu.spec.registers import CSTS, CSTS_SHST_COMPLETE, CSTS_SHST_NORMAL, CSTS_SHST_OCCURRING

__all__ = ["OUTPUTS", "TRANSITIONS", "Action", "Input", "State", "csts_of"]


class State(Enum):
    """Where in its life the controller is."""

    DISABLED = "disabled"
    STARTING = "starting"
    READY = "ready"
    STOPPING = "shutting down"
    STOPPED = "shut down"
    IDLE_STOPPING = "shutting down while disabled"
    IDLE_STOPPED = "shut down while disabled"
    RESETTING = "resetting"
    START_FAILED = "failed to start"
    FAILED = "failed"


class Input(Enum):
    """What can happen to it."""

    ENABLE = "CC.EN 0 to 1"
    BAD_ENABLE = "CC.EN 0 to 1 with invalid settings"
    DISABLE = "CC.EN 1 to 0"
    SHUTDOWN = "CC.SHN set"
    RESUME = "CC.SHN cleared"
    TIMER = "the time that the state takes is over"
    FATAL = "a fatal error"
    SUBSYSTEM_RESET = "NSSR written with 'NVMe'"


class Action(Enum):
    """What the controller does on the way. Those that take time start the state's timer."""

    NOTHING = "nothing"
    START = "start the ready timer"
    OPEN = "open the admin queues"
    RESET = "drop queues and commands, start the reset timer"
    SHUT = "stop fetching, start the shutdown timer"
    FLUSH = "make the media durable"
    HALT = "stop; commands in flight stay unanswered"


_S, _I, _A = State, Input, Action

TRANSITIONS: dict[tuple[State, Input], tuple[State, Action]] = {
    (_S.DISABLED, _I.ENABLE): (_S.STARTING, _A.START),
    (_S.DISABLED, _I.BAD_ENABLE): (_S.START_FAILED, _A.HALT),
    (_S.DISABLED, _I.SHUTDOWN): (_S.IDLE_STOPPING, _A.SHUT),
    (_S.STARTING, _I.TIMER): (_S.READY, _A.OPEN),
    (_S.STARTING, _I.DISABLE): (_S.DISABLED, _A.RESET),
    (_S.STARTING, _I.SHUTDOWN): (_S.STOPPING, _A.SHUT),
    (_S.STARTING, _I.FATAL): (_S.START_FAILED, _A.HALT),
    (_S.READY, _I.DISABLE): (_S.RESETTING, _A.RESET),
    (_S.READY, _I.SHUTDOWN): (_S.STOPPING, _A.SHUT),
    (_S.READY, _I.FATAL): (_S.FAILED, _A.HALT),
    (_S.STOPPING, _I.TIMER): (_S.STOPPED, _A.FLUSH),
    (_S.STOPPING, _I.DISABLE): (_S.RESETTING, _A.RESET),
    (_S.STOPPING, _I.FATAL): (_S.FAILED, _A.HALT),
    (_S.STOPPED, _I.DISABLE): (_S.RESETTING, _A.RESET),
    (_S.STOPPED, _I.FATAL): (_S.FAILED, _A.HALT),
    (_S.IDLE_STOPPING, _I.TIMER): (_S.IDLE_STOPPED, _A.FLUSH),
    (_S.IDLE_STOPPING, _I.ENABLE): (_S.STARTING, _A.START),
    (_S.IDLE_STOPPING, _I.BAD_ENABLE): (_S.START_FAILED, _A.HALT),
    (_S.IDLE_STOPPED, _I.ENABLE): (_S.STARTING, _A.START),
    (_S.IDLE_STOPPED, _I.BAD_ENABLE): (_S.START_FAILED, _A.HALT),
    (_S.IDLE_STOPPED, _I.RESUME): (_S.DISABLED, _A.NOTHING),
    (_S.RESETTING, _I.TIMER): (_S.DISABLED, _A.NOTHING),
    (_S.RESETTING, _I.ENABLE): (_S.STARTING, _A.START),
    (_S.RESETTING, _I.BAD_ENABLE): (_S.START_FAILED, _A.HALT),
    (_S.RESETTING, _I.SHUTDOWN): (_S.IDLE_STOPPING, _A.SHUT),
    (_S.START_FAILED, _I.DISABLE): (_S.DISABLED, _A.RESET),
    (_S.FAILED, _I.DISABLE): (_S.RESETTING, _A.RESET),
    **{(state, _I.SUBSYSTEM_RESET): (_S.DISABLED, _A.RESET) for state in State},
}

OUTPUTS: dict[State, tuple[int, int, int]] = {
    #                     RDY SHST                 CFS
    _S.DISABLED:           (0, CSTS_SHST_NORMAL,    0),
    _S.STARTING:           (0, CSTS_SHST_NORMAL,    0),
    _S.READY:              (1, CSTS_SHST_NORMAL,    0),
    _S.STOPPING:           (1, CSTS_SHST_OCCURRING, 0),
    _S.STOPPED:            (1, CSTS_SHST_COMPLETE,  0),
    _S.IDLE_STOPPING:      (0, CSTS_SHST_OCCURRING, 0),
    _S.IDLE_STOPPED:       (0, CSTS_SHST_COMPLETE,  0),
    _S.RESETTING:          (1, CSTS_SHST_NORMAL,    0),
    _S.START_FAILED:       (0, CSTS_SHST_NORMAL,    1),
    _S.FAILED:             (1, CSTS_SHST_NORMAL,    1),
}  # fmt: skip


def csts_of(state: State) -> int:
    """CSTS.RDY, SHST and CFS of a state, in place."""
    rdy, shst, cfs = OUTPUTS[state]
    return CSTS.pack(rdy=rdy, shst=shst, cfs=cfs)
