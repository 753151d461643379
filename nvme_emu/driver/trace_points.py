"""Trace points that more than one kind of queue pair has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nvme_emu.core.trace import NvmeDsmRanges, NvmeSetupCmd, Sink
from nvme_emu.spec.commands import DSM_RANGE
from nvme_emu.spec.opcodes import NvmOpcode

if TYPE_CHECKING:
    from nvme_emu.driver.request import Request

__all__ = ["emit_setup"]

_DSM = int(NvmOpcode.DATASET_MANAGEMENT)


def emit_setup(emit: Sink, now_ns: int, rq: Request, qid: int, cid: int) -> None:
    """A command was built. The ranges of Dataset Management are data and get an event of their own."""
    emit(NvmeSetupCmd(now_ns, rq.serial, qid, cid, rq.opcode, rq.nsid, rq.slba, rq.nlb))
    if rq.opcode == _DSM and qid and rq.data is not None:
        ranges = tuple((slba, nlb) for _, nlb, slba in DSM_RANGE.iter_unpack(rq.data))
        emit(NvmeDsmRanges(now_ns, rq.serial, qid, cid, rq.nsid, ranges))
