"""Where a vfio-user conversation is, what may come, and what is done about it: the table that `Session` follows."""

from __future__ import annotations

from enum import Enum

__all__ = ["TRANSITIONS", "Action", "Input", "State"]


class State(Enum):
    """Where the conversation is."""

    NEW = "waiting for the version"
    OPEN = "open"
    CLOSED = "closed"


class Input(Enum):
    """What the client can send, as far as the state cares."""

    VERSION = "a VERSION command"
    REQUEST = "another command"
    REPLY = "a reply"
    BROKEN = "bytes that are no message"


class Action(Enum):
    """What is done about it."""

    NEGOTIATE = "agree on version and capabilities"
    SERVE = "do what is asked and answer"
    REFUSE = "answer with EINVAL"
    MATCH = "find the request of ours that it answers"
    DROP = "end the conversation"
    NOTHING = "nothing"


TRANSITIONS: dict[tuple[State, Input], tuple[State, Action]] = {
    (State.NEW, Input.VERSION): (State.OPEN, Action.NEGOTIATE),
    (State.NEW, Input.REQUEST): (State.CLOSED, Action.DROP),
    (State.NEW, Input.REPLY): (State.CLOSED, Action.DROP),
    (State.NEW, Input.BROKEN): (State.CLOSED, Action.DROP),
    (State.OPEN, Input.VERSION): (State.OPEN, Action.REFUSE),
    (State.OPEN, Input.REQUEST): (State.OPEN, Action.SERVE),
    (State.OPEN, Input.REPLY): (State.OPEN, Action.MATCH),
    (State.OPEN, Input.BROKEN): (State.CLOSED, Action.DROP),
    **{(State.CLOSED, what): (State.CLOSED, Action.NOTHING) for what in Input},
}
