"""Queue entries and what commands carry in bulk, as construct declares them, with their dtypes."""

from __future__ import annotations

import struct

from .base import Structure, u8, u16, u32, u64
from .commands import DSM_CONTEXT, DSM_RANGE, DSM_RANGE_SIZE
from .queues import CQE, CQE_SIZE, SQE, SQE_FLAGS, SQE_SIZE, SQE_WIDE, STATUS_P, Cqe, Sqe, SqeWide

__all__ = [
    "CQE_DTYPE",
    "CQE_LAYOUT",
    "DSM_RANGE_DTYPE",
    "DSM_RANGE_LAYOUT",
    "SQE_DTYPE",
    "SQE_LAYOUT",
    "SQE_WIDE_DTYPE",
    "SQE_WIDE_LAYOUT",
]

SQE_LAYOUT = Structure(
    "SQE",
    SQE_SIZE,
    "Base 2.1 §4.1",
    "opcode" / u8 * "Opcode",
    "flags" / u8 * "Fused Operation and PRP or SGL for Data Transfer",
    "cid" / u16 * "Command Identifier",
    "nsid" / u32 * "Namespace Identifier",
    "cdw2" / u32 * "Command Dword 2",
    "cdw3" / u32 * "Command Dword 3",
    "mptr" / u64 * "Metadata Pointer",
    "prp1" / u64 * "PRP Entry 1",
    "prp2" / u64 * "PRP Entry 2",
    "cdw10" / u32 * "Command Dword 10",
    "cdw11" / u32 * "Command Dword 11",
    "cdw12" / u32 * "Command Dword 12",
    "cdw13" / u32 * "Command Dword 13",
    "cdw14" / u32 * "Command Dword 14",
    "cdw15" / u32 * "Command Dword 15",
    bits={"flags": SQE_FLAGS},
)

# The same bytes with pairs of dwords as one field: SLBA is whole, in CDW10 and CDW11, low dword first.
SQE_WIDE_LAYOUT = Structure(
    "SQE_WIDE",
    SQE_SIZE,
    "NVM 1.1 §3.3",
    "opcode" / u8 * "Opcode",
    "flags" / u8 * "Fused Operation and PRP or SGL for Data Transfer",
    "cid" / u16 * "Command Identifier",
    "nsid" / u32 * "Namespace Identifier",
    "cdw2_3" / u64 * "Command Dwords 2 and 3",
    "mptr" / u64 * "Metadata Pointer",
    "prp1" / u64 * "PRP Entry 1",
    "prp2" / u64 * "PRP Entry 2",
    "slba" / u64 * "Starting LBA",
    "cdw12" / u32 * "Command Dword 12",
    "cdw13" / u32 * "Command Dword 13",
    "cdw14" / u32 * "Command Dword 14",
    "cdw15" / u32 * "Command Dword 15",
    bits={"flags": SQE_FLAGS},
)

CQE_LAYOUT = Structure(
    "CQE",
    CQE_SIZE,
    "Base 2.1 §4.2",
    "dw0" / u32 * "Command specific result",
    "dw1" / u32 * "Command specific result",
    "sqhd" / u16 * "SQ Head Pointer",
    "sqid" / u16 * "SQ Identifier",
    "cid" / u16 * "Command Identifier",
    "status_p" / u16 * "Status field over the Phase Tag",
    bits={"status_p": STATUS_P},
)

DSM_RANGE_LAYOUT = Structure(
    "DSM_RANGE",
    DSM_RANGE_SIZE,
    "NVM 1.1 §3.3.3",
    "cattr" / u32 * "Context Attributes",
    "nlb" / u32 * "Length in logical blocks (not zero-based)",
    "slba" / u64 * "Starting LBA",
    bits={"cattr": DSM_CONTEXT},
)

SQE_DTYPE = SQE_LAYOUT.dtype
SQE_WIDE_DTYPE = SQE_WIDE_LAYOUT.dtype
DSM_RANGE_DTYPE = DSM_RANGE_LAYOUT.dtype
CQE_DTYPE = CQE_LAYOUT.dtype


def _assert_same_layout(layout: Structure, scalar: struct.Struct, names: tuple[str, ...]) -> None:
    """The scalar gait and the column gait agree on the name, offset and size of every field."""
    assert layout.dtype.names == names, layout
    offset = 0
    for (name, at), code in zip(layout.offsets(), scalar.format[1:], strict=True):
        assert at == offset, f"{layout.name}.{name}"
        offset += struct.calcsize("<" + code)
    assert offset == layout.size, layout


_assert_same_layout(SQE_LAYOUT, SQE, Sqe._fields)
_assert_same_layout(SQE_WIDE_LAYOUT, SQE_WIDE, SqeWide._fields)
_assert_same_layout(CQE_LAYOUT, CQE, Cqe._fields)
_assert_same_layout(DSM_RANGE_LAYOUT, DSM_RANGE, ("cattr", "nlb", "slba"))
