"""How much data a command moves by its own fields, to hold it against what its SGL offers.

PRPs have no length of their own; an SGL has one, and a command whose SGL is too short must be refused with
Data SGL Length Invalid (NVMe Base 2.1, 4.1.2.1) before anything moves.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from nvme_emu.spec.commands import DSM_NR_MASK, DSM_RANGE_SIZE, RW_NLB_MASK, log_page_length
from nvme_emu.spec.identify import IDENTIFY_SIZE
from nvme_emu.spec.opcodes import AdminOpcode, NvmOpcode
from nvme_emu.spec.queues import SQE_SIZE

if TYPE_CHECKING:
    from nvme_emu.controller.controller import Controller

__all__ = ["expected_length"]

# opcode, nsid, cdw10, cdw11, cdw12
_FIELDS = struct.Struct("<B3xI32xIII12x")
assert _FIELDS.size == SQE_SIZE

_BLOCKS = frozenset((int(NvmOpcode.READ), int(NvmOpcode.WRITE), int(NvmOpcode.COMPARE)))
_DSM = int(NvmOpcode.DATASET_MANAGEMENT)


def expected_length(ctrl: Controller, qid: int, sqe: memoryview | bytes) -> int | None:
    """Bytes that the command moves; None where only its handler knows, or it will fail for another reason."""
    opcode, nsid, cdw10, cdw11, cdw12 = _FIELDS.unpack(sqe)
    if qid:
        if opcode in _BLOCKS:
            namespace = ctrl.namespaces.get(nsid)
            return None if namespace is None else (cdw12 & RW_NLB_MASK) + 1 << namespace.lba_shift
        return ((cdw10 & DSM_NR_MASK) + 1) * DSM_RANGE_SIZE if opcode == _DSM else None
    if opcode == AdminOpcode.IDENTIFY:
        return IDENTIFY_SIZE
    return log_page_length(cdw10, cdw11) if opcode == AdminOpcode.GET_LOG_PAGE else None
