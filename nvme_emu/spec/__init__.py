"""Every byte that crosses a border: registers, queue entries, commands, statuses, Identify, logs, features.

The names below load the module they live in when first used: opcodes, statuses, registers, commands, features
and the scalar queue entries need neither numpy nor construct, so a program that only asks for those starts
quickly. The rest is imported from its module: `from nvme_emu.spec.identify import IDENTIFY_CONTROLLER`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import (
        base,
        bits,
        commands,
        decode,
        entries,
        errors,
        events,
        features,
        identify,
        logs,
        opcodes,
        queues,
        registers,
        status,
    )
    from .base import Structure
    from .bits import BitLayout
    from .decode import Decoded, decode_cqe, decode_register, decode_sqe
    from .errors import LayoutError
    from .events import AsyncEventType
    from .features import Fid
    from .identify import Cns
    from .logs import Lid
    from .opcodes import AdminOpcode, NvmOpcode, opcode_name
    from .queues import CQE, CQE_DTYPE, CQE_SIZE, SQE, SQE_DTYPE, SQE_SIZE, SQE_WIDE, SQE_WIDE_DTYPE, Cqe, Sqe
    from .registers import AQA, CAP, CC, CRTO, CSTS, VS, Reg, doorbell_at, doorbell_offset
    from .status import CRD_SHIFT, DNR, MORE, Status, describe

__all__ = [
    # modules
    "base",
    "bits",
    "commands",
    "decode",
    "entries",
    "errors",
    "events",
    "features",
    "identify",
    "logs",
    "opcodes",
    "queues",
    "registers",
    "status",
    # declarations
    "BitLayout",
    "LayoutError",
    "Structure",
    # opcodes and identifiers
    "AdminOpcode",
    "AsyncEventType",
    "Cns",
    "Fid",
    "Lid",
    "NvmOpcode",
    "opcode_name",
    # queues
    "CQE",
    "CQE_DTYPE",
    "CQE_SIZE",
    "Cqe",
    "SQE",
    "SQE_DTYPE",
    "SQE_SIZE",
    "SQE_WIDE",
    "SQE_WIDE_DTYPE",
    "Sqe",
    # registers
    "AQA",
    "CAP",
    "CC",
    "CRTO",
    "CSTS",
    "Reg",
    "VS",
    "doorbell_at",
    "doorbell_offset",
    # status
    "CRD_SHIFT",
    "DNR",
    "MORE",
    "Status",
    "describe",
    # explanations
    "Decoded",
    "decode_cqe",
    "decode_register",
    "decode_sqe",
]

# Which module each of the names above is in; the names that are not here are the modules themselves.
_HOME = {
    name: module
    for module, names in {
        "base": "Structure",
        "bits": "BitLayout",
        "decode": "Decoded decode_cqe decode_register decode_sqe",
        "errors": "LayoutError",
        "events": "AsyncEventType",
        "features": "Fid",
        "identify": "Cns",
        "logs": "Lid",
        "opcodes": "AdminOpcode NvmOpcode opcode_name",
        "queues": "CQE CQE_DTYPE CQE_SIZE Cqe SQE SQE_DTYPE SQE_SIZE SQE_WIDE SQE_WIDE_DTYPE Sqe",
        "registers": "AQA CAP CC CRTO CSTS Reg VS doorbell_at doorbell_offset",
        "status": "CRD_SHIFT DNR MORE Status describe",
    }.items()
    for name in names.split()
}


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is not None:
        value = getattr(import_module(f".{home}", __name__), name)
    elif name in __all__:
        value = import_module(f".{name}", __name__)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
