"""Fused Compare and Write (NVMe Base 2.1, 3.4.2; NVM Command Set 1.1, 3.1): two commands that are one.

They follow each other in one queue: Compare marked as the first, Write as the second, with the same blocks. When
the first is fetched both are executed, with nothing in between; the second finds its outcome when it is fetched.

    Compare     Write      completions
    equal       written    Success, Success
    different   -          Compare Failure, Command Aborted due to Failed Fused Command
    equal       failed     Command Aborted due to Failed Fused Command, the write's status
    alone                  Command Aborted due to Missing Fused Command
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from nvme_emu.controller.command import Command
from nvme_emu.core.errors import CommandError
from nvme_emu.spec.commands import RW_NLB_MASK
from nvme_emu.spec.opcodes import NvmOpcode
from nvme_emu.spec.queues import FUSE_MASK, SQE, SQE_SIZE
from nvme_emu.spec.status import Status

if TYPE_CHECKING:
    from collections.abc import Callable

    from nvme_emu.controller.command import Pending
    from nvme_emu.controller.controller import Controller

__all__ = ["Outcome", "run_fused"]

_FIRST, _SECOND = 1, 2
_FUSE: Final = (1, 0)


class Outcome(NamedTuple):
    """What became of a second command, under which it will be fetched."""

    entry: tuple[int, ...]
    error: CommandError | None
    done_ns: int


def _entry(sq_view: memoryview, slot: int) -> tuple[int, ...]:
    found: tuple[int, ...] = SQE.unpack_from(sq_view, slot * SQE_SIZE)
    return found


def run_fused(
    ctrl: Controller, cmd: Command, execute: Callable[[Controller, Command], int | Pending]
) -> int | Pending:
    """A command with FUSE set; ``execute`` does one without. Raises CommandError."""
    sq = cmd.sq
    if not sq.qid or cmd.fuse not in (_FIRST, _SECOND):
        raise CommandError(Status.INVALID_FIELD, location=_FUSE)
    if cmd.opcode != (NvmOpcode.COMPARE if cmd.fuse == _FIRST else NvmOpcode.WRITE):
        raise CommandError(Status.INVALID_FIELD, location=_FUSE)
    outcome, sq.fused = sq.fused, None
    if cmd.fuse == _SECOND:
        last = (sq.head - 1) % sq.size
        if outcome is None or outcome.entry != _entry(sq.view, last):
            raise CommandError(Status.FUSED_MISSING)
        cmd.done_ns = outcome.done_ns
        if outcome.error is not None:
            raise outcome.error
        return 0
    entry = _entry(sq.view, sq.head) if sq.head != sq.tail else None
    if entry is None or entry[1] & FUSE_MASK != _SECOND:
        raise CommandError(Status.FUSED_MISSING)
    second = Command(sq, entry)  # type: ignore[arg-type]  # a tuple of the fifteen fields
    aborted = CommandError(Status.FUSED_FAIL)
    try:
        _check_pair(cmd, second)
        execute(ctrl, _alone(cmd))
    except CommandError:
        sq.fused = Outcome(entry, aborted, 0)
        raise
    try:
        plain = _alone(second)
        execute(ctrl, plain)
    except CommandError as error:
        sq.fused = Outcome(entry, error, plain.done_ns)
        raise aborted from error
    sq.fused = Outcome(entry, None, plain.done_ns)
    return 0


def _check_pair(first: Command, second: Command) -> None:
    """Raises CommandError unless they are Compare and Write of the same blocks."""
    if second.opcode != NvmOpcode.WRITE:
        raise CommandError(Status.INVALID_FIELD, location=_FUSE)
    one = first.nsid, first.cdw10, first.cdw11, first.cdw12 & RW_NLB_MASK
    other = second.nsid, second.cdw10, second.cdw11, second.cdw12 & RW_NLB_MASK
    if one != other:
        raise CommandError(Status.INVALID_FIELD, location=_FUSE)


def _alone(cmd: Command) -> Command:
    """The command with FUSE cleared: it is executed like any other."""
    cmd.flags &= ~FUSE_MASK
    return cmd
