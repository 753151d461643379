"""Every byte that crosses a border: registers, queue entries, commands, statuses, Identify, logs, features.

The names below load the module they live in when first used: opcodes, statuses, registers and the scalar
queue entries need neither numpy nor construct, and a program that only asks for those starts quickly.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import base, bits, entries, errors, opcodes, queues, registers, status
    from .errors import LayoutError
    from .opcodes import AdminOpcode, NvmOpcode, opcode_name
    from .queues import CQE, CQE_DTYPE, CQE_SIZE, SQE, SQE_DTYPE, SQE_SIZE, Cqe, Sqe
    from .registers import AQA, CAP, CC, CRTO, CSTS, VS, Reg, doorbell_at, doorbell_offset
    from .status import CRD_SHIFT, DNR, MORE, Status, describe

__all__ = [
    # modules
    "base",
    "bits",
    "entries",
    "errors",
    "opcodes",
    "queues",
    "registers",
    "status",
    # errors
    "LayoutError",
    # opcodes
    "AdminOpcode",
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
]

_HOME = {
    **dict.fromkeys(["LayoutError"], "errors"),
    **dict.fromkeys(["AdminOpcode", "NvmOpcode", "opcode_name"], "opcodes"),
    **dict.fromkeys(
        ["CQE", "CQE_DTYPE", "CQE_SIZE", "Cqe", "SQE", "SQE_DTYPE", "SQE_SIZE", "Sqe"], "queues"
    ),
    **dict.fromkeys(
        ["AQA", "CAP", "CC", "CRTO", "CSTS", "Reg", "VS", "doorbell_at", "doorbell_offset"], "registers"
    ),
    **dict.fromkeys(["CRD_SHIFT", "DNR", "MORE", "Status", "describe"], "status"),
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
