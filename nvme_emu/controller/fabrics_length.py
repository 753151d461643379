"""How much data a command moves by its own fields, to hold it against what its SGL offers.

PRPs have no length of their own; an SGL has one, and a command whose SGL is too short must be refused with
Data SGL Length Invalid (NVMe Base 2.1, 4.1.2.1) before anything moves.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from nvme_emu.controller.metadata import host_bytes
from nvme_emu.spec.commands import DSM_NR_MASK, DSM_RANGE_SIZE, log_page_length
from nvme_emu.spec.identify import IDENTIFY_SIZE
from nvme_emu.spec.opcodes import AdminOpcode, NvmOpcode
from nvme_emu.spec.queues import SQE_SIZE
from nvme_emu.spec.zns import ZONE_SEND_CDW13, ZoneSendAction

if TYPE_CHECKING:
    from nvme_emu.controller.controller import Controller

__all__ = ["expected_length"]

# opcode, nsid, cdw10, cdw11, cdw12, cdw13
_FIELDS = struct.Struct("<B3xI32xIIII8x")
assert _FIELDS.size == SQE_SIZE

_BLOCKS = frozenset(
    (int(NvmOpcode.READ), int(NvmOpcode.WRITE), int(NvmOpcode.COMPARE), int(NvmOpcode.ZONE_APPEND))
)
_ZONE_RECEIVE, _ZONE_SEND = int(NvmOpcode.ZONE_MANAGEMENT_RECEIVE), int(NvmOpcode.ZONE_MANAGEMENT_SEND)
_DSM = int(NvmOpcode.DATASET_MANAGEMENT)


def expected_length(ctrl: Controller, qid: int, sqe: memoryview | bytes) -> int | None:
    """Bytes that the command moves; None where only its handler knows, or it will fail for another reason."""
    opcode, nsid, cdw10, cdw11, cdw12, cdw13 = _FIELDS.unpack(sqe)
    if qid:
        if opcode in _BLOCKS:
            namespace = ctrl.namespaces.get(nsid)
            return None if namespace is None else host_bytes(namespace, ctrl.config, cdw12).data
        if opcode == _ZONE_RECEIVE:
            return 4 * (int(cdw12) + 1)
        if opcode == _ZONE_SEND:
            namespace = ctrl.namespaces.get(nsid)
            extends: bool = ZONE_SEND_CDW13["zsa"].extract(cdw13) == ZoneSendAction.SET_EXTENSION
            return int(namespace.zones.config.zdes) if extends and namespace is not None and namespace.zones else None
        return ((cdw10 & DSM_NR_MASK) + 1) * DSM_RANGE_SIZE if opcode == _DSM else None
    if opcode == AdminOpcode.IDENTIFY:
        return IDENTIFY_SIZE
    return log_page_length(cdw10, cdw11) if opcode == AdminOpcode.GET_LOG_PAGE else None
