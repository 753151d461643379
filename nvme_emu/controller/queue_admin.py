"""Create and Delete I/O Submission and Completion Queue (NVMe Base 2.1, clauses 5.2.1 to 5.2.4).

The handlers decode and check what belongs to the command; the rings check identifiers, sizes, vectors and
addresses, because they own them. NSID is not used by these commands, and neither is the NVM Set (CDW12 of
Create I/O Submission Queue): this controller associates none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nvme_emu.controller.command import Command
from nvme_emu.controller.locations import location
from nvme_emu.core.errors import CommandError
from nvme_emu.spec.bits import BitLayout
from nvme_emu.spec.commands import (
    CREATE_CQ_CDW11,
    CREATE_QUEUE_CDW10,
    CREATE_SQ_CDW11,
    DELETE_QUEUE_CDW10,
)
from nvme_emu.spec.status import Status

if TYPE_CHECKING:
    from nvme_emu.controller.controller import Controller

__all__ = ["create_io_cq", "create_io_sq", "delete_io_cq", "delete_io_sq"]

_QID = location(10, CREATE_QUEUE_CDW10, "qid")
_CQID = location(11, CREATE_SQ_CDW11, "cqid")


def _check_create(ctrl: Controller, qid: int, granted: int, pc: int, layout: BitLayout) -> None:
    """What both Create commands share: the granted number of queues, and contiguous memory."""
    if not 1 <= qid <= granted:
        raise CommandError(Status.QID_INVALID, location=_QID)
    if not pc and ctrl.config.contiguous_queues:
        # CAP.CQR is set.
        raise CommandError(Status.INVALID_FIELD, location=location(11, layout, "pc"))


def create_io_cq(ctrl: Controller, cmd: Command) -> int:
    """Create I/O Completion Queue (opcode 05h)."""
    queue = CREATE_QUEUE_CDW10.unpack(cmd.cdw10)
    how = CREATE_CQ_CDW11.unpack(cmd.cdw11)
    _check_create(ctrl, queue.qid, ctrl.features.io_cqs_granted, how.pc, CREATE_CQ_CDW11)
    cq = ctrl.rings.create_cq(
        queue.qid, cmd.prp1, queue.qsize_z + 1, how.iv, bool(how.ien), contiguous=bool(how.pc)
    )
    if ctrl.shadow is not None:
        ctrl.shadow.created(cq, True)
    return 0


def create_io_sq(ctrl: Controller, cmd: Command) -> int:
    """Create I/O Submission Queue (opcode 01h)."""
    queue = CREATE_QUEUE_CDW10.unpack(cmd.cdw10)
    how = CREATE_SQ_CDW11.unpack(cmd.cdw11)
    _check_create(ctrl, queue.qid, ctrl.features.io_sqs_granted, how.pc, CREATE_SQ_CDW11)
    if not 1 <= how.cqid <= ctrl.features.io_cqs_granted:
        raise CommandError(Status.QID_INVALID, location=_CQID)
    sq = ctrl.rings.create_sq(
        queue.qid, cmd.prp1, queue.qsize_z + 1, how.cqid, how.qprio, contiguous=bool(how.pc)
    )
    if ctrl.shadow is not None:
        ctrl.shadow.created(sq, False)
    return 0


def delete_io_cq(ctrl: Controller, cmd: Command) -> int:
    """Delete I/O Completion Queue (opcode 04h); Invalid Queue Deletion while submission queues use it."""
    ctrl.rings.delete_cq(DELETE_QUEUE_CDW10["qid"].extract(cmd.cdw10))
    return 0


def delete_io_sq(ctrl: Controller, cmd: Command) -> int:
    """Delete I/O Submission Queue (opcode 00h).

    Commands of the queue that are in flight end with Command Aborted due to SQ Deletion before this command
    does; those that were not fetched are forgotten with the queue (clause 5.2.4).
    """
    qid = DELETE_QUEUE_CDW10["qid"].extract(cmd.cdw10)
    if qid:
        for other in [other for other in ctrl.outstanding.values() if other.sqid == qid]:
            ctrl.complete(other, status=Status.ABORT_QUEUE)
    ctrl.rings.delete_sq(qid)
    return 0
