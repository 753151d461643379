"""A command as it was fetched, and what its handler may answer.

A handler is called once for each command, in fetch order. It moves the command's data and gives dword 0 of
the completion, raises :class:`~nvme_emu.core.errors.CommandError` to fail the command, or gives ``PENDING``
to keep it: then :meth:`Controller.complete` ends it later, exactly once.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    from nvme_emu.controller.controller import Controller
    from nvme_emu.controller.pcie.rings import SubmissionQueue

__all__ = ["PENDING", "Command", "Handler", "Pending", "SqeFields"]

SqeFields = tuple[int, int, int, int, int, int, int, int, int, int, int, int, int, int, int]
"""What ``spec.queues.SQE.unpack_from`` gives."""


class Pending(Enum):
    """The type of ``PENDING``, the answer of a handler that keeps its command."""

    PENDING = "pending"


PENDING: Final = Pending.PENDING


class Command:
    """One submission queue entry (NVMe Base 2.1, 4.1), fetched once: the host cannot change it any more.

    ``done_ns`` is when the device will have done it, in the controller's time; 0 means at once. ``sequence``
    counts the commands that came in flight, from 1.
    """

    __slots__ = (
        "cdw2", "cdw3", "cdw10", "cdw11", "cdw12", "cdw13", "cdw14", "cdw15", "cid", "done_ns", "flags",
        "mptr", "nsid", "opcode", "prp1", "prp2", "sequence", "sq",
    )  # fmt: skip

    def __init__(self, sq: SubmissionQueue, fields: SqeFields) -> None:
        self.sq = sq
        self.done_ns = 0
        self.sequence = 0
        (
            self.opcode, self.flags, self.cid, self.nsid, self.cdw2, self.cdw3, self.mptr,
            self.prp1, self.prp2, self.cdw10, self.cdw11, self.cdw12, self.cdw13, self.cdw14, self.cdw15,
        ) = fields  # fmt: skip

    @property
    def sqid(self) -> int:
        """The submission queue it came from; 0 is the admin queue."""
        return self.sq.qid

    @property
    def key(self) -> tuple[int, int]:
        """(sqid, cid): what names a command in flight, as in the Abort command."""
        return self.sq.qid, self.cid

    @property
    def psdt(self) -> int:
        """PRP or SGL for Data Transfer (CDW0 bits 15:14)."""
        return self.flags >> 6

    @property
    def fuse(self) -> int:
        """Fused Operation (CDW0 bits 09:08)."""
        return self.flags & 3

    def __repr__(self) -> str:
        return f"<Command sqid {self.sq.qid} cid {self.cid} opcode {self.opcode:#04x} nsid {self.nsid:#x}>"


Handler = Callable[["Controller", Command], int | Literal[Pending.PENDING]]
