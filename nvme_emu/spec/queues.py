"""Submission and completion queue entries: the scalar gait (`struct`) and the column gait (numpy dtypes).

`SQE` and `CQE` are the scalar gait: plain `struct.Struct`s, so that one command costs some 0.2 µs.
The layouts (construct: `SQE_LAYOUT`, …) and the dtypes derived from them live in `entries`, and they
are loaded when first asked for: whoever only needs the scalars never imports numpy or construct. Importing
`entries` asserts that all three have the same fields, offsets and sizes.

    SQE (Base 2.1, clause 4.1)                       CQE (Base 2.1, clause 4.2)
     0 opcode, flags (FUSE, PSDT), cid                0 dw0  (command specific)
     4 nsid                                           4 dw1  (command specific)
     8 cdw2, cdw3                                     8 sqhd, sqid
    16 mptr                                          12 cid, status_p (status field over the Phase Tag)
    24 prp1, prp2 (or one SGL descriptor)
    40 cdw10 … cdw15
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, NamedTuple

from .bits import BitLayout, bit

if TYPE_CHECKING:
    from .entries import CQE_DTYPE, CQE_LAYOUT, SQE_DTYPE, SQE_LAYOUT, SQE_WIDE_DTYPE, SQE_WIDE_LAYOUT

__all__ = [
    "ADMIN_QUEUE_ENTRIES_MAX",
    "CQE",
    "CQES_LOG2",
    "CQE_DTYPE",
    "CQE_LAYOUT",
    "CQE_SIZE",
    "FUSE_FIRST",
    "FUSE_MASK",
    "FUSE_SECOND",
    "IO_QUEUE_ENTRIES_MAX",
    "NSID_BROADCAST",
    "PHASE_MASK",
    "PSDT_MASK",
    "PSDT_PRP",
    "PSDT_SGL",
    "PSDT_SGL_MPTR_SGL",
    "QUEUE_ENTRIES_MIN",
    "SQE",
    "SQES_LOG2",
    "SQE_DTYPE",
    "SQE_FLAGS",
    "SQE_FLAGS_RESERVED",
    "SQE_LAYOUT",
    "SQE_WIDE",
    "SQE_WIDE_DTYPE",
    "SQE_WIDE_LAYOUT",
    "SQE_SIZE",
    "STATUS_P",
    "Cqe",
    "Sqe",
    "SqeWide",
    "status_phase",
]

# opcode, flags, cid, nsid, cdw2, cdw3, mptr, prp1, prp2, cdw10 … cdw15
SQE = struct.Struct("<BBHIIIQQQIIIIII")
# The same bytes in fewer fields: opcode, flags, cid, nsid, cdw2_3, mptr, prp1, prp2, slba, cdw12 … cdw15
SQE_WIDE = struct.Struct("<BBHIQQQQQIIII")
# dw0, dw1, sqhd, sqid, cid, status << 1 | phase
CQE = struct.Struct("<IIHHHH")
SQE_SIZE = 64
CQE_SIZE = 16
assert SQE.size == SQE_SIZE
assert SQE_WIDE.size == SQE_SIZE
assert CQE.size == CQE_SIZE

SQES_LOG2 = 6  # what CC.IOSQES and Identify SQES hold for 64-byte entries
CQES_LOG2 = 4
QUEUE_ENTRIES_MIN = 2
ADMIN_QUEUE_ENTRIES_MAX = 4096
IO_QUEUE_ENTRIES_MAX = 65536
NSID_BROADCAST = 0xFFFF_FFFF


class Sqe(NamedTuple):
    """A submission queue entry as `SQE.unpack` gives it: `Sqe._make(SQE.unpack(data))`."""

    opcode: int
    flags: int
    cid: int
    nsid: int
    cdw2: int
    cdw3: int
    mptr: int
    prp1: int
    prp2: int
    cdw10: int
    cdw11: int
    cdw12: int
    cdw13: int
    cdw14: int
    cdw15: int


class SqeWide(NamedTuple):
    """A submission queue entry as `SQE_WIDE.unpack` gives it, with pairs of dwords as one field.

    `slba` is CDW10 and CDW11, low dword first: the Starting LBA of Read, Write and their family.
    """

    opcode: int
    flags: int
    cid: int
    nsid: int
    cdw2_3: int
    mptr: int
    prp1: int
    prp2: int
    slba: int
    cdw12: int
    cdw13: int
    cdw14: int
    cdw15: int


class Cqe(NamedTuple):
    """A completion queue entry as `CQE.unpack` gives it; `status_p` is the status over the Phase Tag."""

    dw0: int
    dw1: int
    sqhd: int
    sqid: int
    cid: int
    status_p: int


SQE_FLAGS = BitLayout(
    "SQE_FLAGS",
    8,
    "Base 2.1 §4.1.1",
    bit("fuse", 2, "Fused Operation", {0: "normal", 1: "first of a fused pair", 2: "second of a fused pair"}),
    bit("rsvd2", 4),
    bit(
        "psdt",
        2,
        "PRP or SGL for Data Transfer",
        {0: "PRPs", 1: "SGLs, metadata in one buffer", 2: "SGLs, metadata by an SGL segment"},
    ),
)
FUSE_MASK = SQE_FLAGS.mask("fuse")
FUSE_FIRST = SQE_FLAGS.pack(fuse=1)
FUSE_SECOND = SQE_FLAGS.pack(fuse=2)
PSDT_MASK = SQE_FLAGS.mask("psdt")
PSDT_PRP = SQE_FLAGS.pack(psdt=0)
PSDT_SGL = SQE_FLAGS.pack(psdt=1)
PSDT_SGL_MPTR_SGL = SQE_FLAGS.pack(psdt=2)
SQE_FLAGS_RESERVED = SQE_FLAGS.reserved_mask

STATUS_P = BitLayout(
    "STATUS_P",
    16,
    "Base 2.1 §4.2.3",
    bit("p", 1, "Phase Tag"),
    bit("sc", 8, "Status Code"),
    bit("sct", 3, "Status Code Type"),
    bit("crd", 2, "Command Retry Delay"),
    bit("m", 1, "More"),
    bit("dnr", 1, "Do Not Retry"),
)
PHASE_MASK = STATUS_P.mask("p")


def status_phase(status_field: int, phase: int) -> int:
    """The last word of a CQE from a 15-bit status field and the Phase Tag (0 or 1)."""
    return status_field << 1 | phase


_LAZY = ("CQE_DTYPE", "CQE_LAYOUT", "SQE_DTYPE", "SQE_LAYOUT", "SQE_WIDE_DTYPE", "SQE_WIDE_LAYOUT")


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from . import entries

        value = getattr(entries, name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
