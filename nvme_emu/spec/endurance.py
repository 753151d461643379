"""Endurance groups: their log pages, their list and their events (Base 2.1, clauses 3.2.3, 5.1.12.1, 5.1.25)."""

from __future__ import annotations

from .base import Structure, rsvd, table, u8, u16, u64, u128
from .bits import BitLayout, bit

__all__ = [
    "ENDURANCE_GROUP_AGGREGATE",
    "ENDURANCE_GROUP_LIST",
    "ENDURANCE_GROUP_LIST_ENTRIES",
    "ENDURANCE_GROUP_LOG",
    "ENDURANCE_GROUP_WARNING",
    "ENDURANCE_UNIT_BYTES",
]

_LOG = "Base 2.1 §5.1.12.1 (LID 09h)"

ENDURANCE_UNIT_BYTES = 1_000_000_000
"""What the log counts data in: thousand millions of bytes, rounded up."""

ENDURANCE_GROUP_WARNING = BitLayout(
    "ENDURANCE_GROUP_WARNING",
    8,
    _LOG,
    bit("ascbt", 1, "Available Spare Capacity Below Threshold"),
    bit("rsvd1", 1),
    bit("egdr", 1, "Endurance Group Degraded Reliability"),
    bit("egro", 1, "Endurance Group Read-Only"),
    bit("rsvd4", 4),
)
ENDURANCE_GROUP_LOG = Structure(
    "ENDURANCE_GROUP_LOG",
    512,
    _LOG,
    "egcw" / u8 * "Endurance Group Critical Warning",
    "egfeat" / u8 * "Endurance Group Features",
    rsvd(2, 1),
    "avsp" / u8 * "Available Spare (percent)",
    "avspt" / u8 * "Available Spare Threshold (percent)",
    "pused" / u8 * "Percentage Used",
    "did" / u16 * "Domain Identifier",
    rsvd(8, 24),
    "ee" / u128 * "Endurance Estimate (thousand millions of bytes; 0 is not reported)",
    "dur" / u128 * "Data Units Read (thousand millions of bytes)",
    "duw" / u128 * "Data Units Written (thousand millions of bytes)",
    "muw" / u128 * "Media Units Written (thousand millions of bytes)",
    "hrc" / u128 * "Host Read Commands",
    "hwc" / u128 * "Host Write Commands",
    "mdie" / u128 * "Media and Data Integrity Errors",
    "neile" / u128 * "Number of Error Information Log Entries",
    "tegcap" / u128 * "Total Endurance Group Capacity (bytes)",
    "uegcap" / u128 * "Unallocated Endurance Group Capacity (bytes)",
    rsvd(192, 320),
    bits={"egcw": ENDURANCE_GROUP_WARNING},
)

ENDURANCE_GROUP_AGGREGATE = Structure(
    "ENDURANCE_GROUP_AGGREGATE",
    8,
    "Base 2.1 §5.1.12.1 (LID 0Fh)",
    "nent" / u64 * "Number of Entries Available: Endurance Group Identifiers of 16 bits, which follow",
)

ENDURANCE_GROUP_LIST_ENTRIES = 2047
ENDURANCE_GROUP_LIST = Structure(
    "ENDURANCE_GROUP_LIST",
    4096,
    "Base 2.1 §5.1.13.2 (CNS 19h)",
    "numid" / u16 * "Number of Identifiers",
    "endgid" / table(ENDURANCE_GROUP_LIST_ENTRIES, u16) * "Endurance Group Identifiers, ascending",
)
