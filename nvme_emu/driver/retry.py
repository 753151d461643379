"""Which commands are sent again, and when (``nvme_decide_disposition`` and ``nvme_retry_req``).

The rules are asked in order and the first that holds decides. The class of the status plays no part: an Invalid
Opcode without Do Not Retry is sent six times, as Linux does. Administrative commands are never sent again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import NamedTuple

from nvme_emu.spec.status import CRD_SHIFT, DNR

__all__ = ["RULES", "Disposition", "Outcome", "decide", "delay_ns"]

CRD_MASK = 3
CRDT_UNIT_NS = 100_000_000


class Disposition(Enum):
    """What becomes of a command that has ended."""

    COMPLETE = "complete"
    RETRY = "retry"


class Outcome(NamedTuple):
    """A command that has ended: its 15-bit status field, how often it was sent again, and its circumstances."""

    status: int
    retries: int
    retries_max: int
    admin: bool = False
    dying: bool = False


RULES: tuple[tuple[str, Callable[[Outcome], bool], Disposition], ...] = (
    ("it has succeeded", lambda it: it.status == 0, Disposition.COMPLETE),
    ("administrative commands are never retried", lambda it: it.admin, Disposition.COMPLETE),
    ("Do Not Retry is set", lambda it: bool(it.status & DNR), Disposition.COMPLETE),
    ("it was retried max_retries times", lambda it: it.retries >= it.retries_max, Disposition.COMPLETE),
    ("the queue is dying", lambda it: it.dying, Disposition.COMPLETE),
    ("any other status", lambda it: True, Disposition.RETRY),
)
"""(why, condition, what then), in the order in which they are asked."""


def decide(outcome: Outcome) -> Disposition:
    """What becomes of a command that has ended so."""
    return next(disposition for _, holds, disposition in RULES if holds(outcome))


def delay_ns(status: int, crdt: Sequence[int]) -> int:
    """How long to wait before the next attempt: Command Retry Delay chooses one of ``crdt`` (100 ms units).

    ``crdt`` is CRDT1 to CRDT3 of Identify Controller, or empty where the host has not enabled them (ACRE).
    """
    index = status >> CRD_SHIFT & CRD_MASK
    if not index or index > len(crdt):
        return 0
    return int(crdt[index - 1]) * CRDT_UNIT_NS
