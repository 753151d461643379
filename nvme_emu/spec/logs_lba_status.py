"""LBA Status Information, log page 0Eh (NVM Command Set 1.1, clause 4.1.4)."""

from __future__ import annotations

from .base import Structure, rsvd, u8, u16, u32, u64

__all__ = ["LBA_RANGE", "LBA_STATUS_ELEMENT", "LBA_STATUS_LOG"]

_LOG = "NVM 1.1 §4.1.4 (LID 0Eh)"

LBA_STATUS_LOG = Structure(
    "LBA_STATUS_LOG",
    16,
    _LOG,
    "lslplen" / u32 * "LBA Status Log Page Length (bytes)",
    "nlslne" / u32 * "Number of LBA Status Log Namespace Elements",
    "estulb" / u32 * "Estimate of Unrecoverable Logical Blocks",
    rsvd(12, 2),
    "lsgc" / u16 * "LBA Status Generation Counter",
)
LBA_STATUS_ELEMENT = Structure(
    "LBA_STATUS_ELEMENT",
    16,
    _LOG,
    "neid" / u32 * "Namespace Element Identifier (the namespace)",
    "nlrd" / u32 * "Number of LBA Range Descriptors",
    "ratype" / u8 * "Recommended Action Type of Get LBA Status",
    rsvd(9, 7),
)
LBA_RANGE = Structure(
    "LBA_RANGE",
    16,
    _LOG,
    "rslba" / u64 * "Range Starting LBA",
    "rnlb" / u32 * "Range Number of Logical Blocks",
    rsvd(12, 4),
)
