"""The features whose value is a data structure in host memory (Base 2.1, clause 5.1.25)."""

from __future__ import annotations

from .base import Structure, raw, rsvd, table, u8, u16, u48, u64
from .bits import BitLayout, bit

__all__ = ["APST_ENTRY", "APST_TABLE", "HOST_BEHAVIOR", "HOST_IDENTIFIER", "TIMESTAMP", "TIMESTAMP_ATTRIBUTES"]

_TIMESTAMP = "Base 2.1 §5.1.25 (FID 0Eh)"

TIMESTAMP_ATTRIBUTES = BitLayout(
    "TIMESTAMP_ATTRIBUTES",
    8,
    _TIMESTAMP,
    bit("synch", 1, "Synch", {0: "counted without a stop", 1: "may have stopped counting"}),
    bit("torg", 3, "Timestamp Origin", {0: "zero at a Controller Level Reset", 1: "Set Features"}),
    bit("rsvd4", 4),
)
TIMESTAMP = Structure(
    "TIMESTAMP",
    8,
    _TIMESTAMP,
    "timestamp" / u48 * "Milliseconds since 1970-01-01 00:00 UTC",
    "attributes" / u8 * "Attributes (Get only)",
    rsvd(7, 1),
    bits={"attributes": TIMESTAMP_ATTRIBUTES},
)

_APST = "Base 2.1 §5.1.25 (FID 0Ch)"

APST_ENTRY = BitLayout(
    "APST_ENTRY",
    64,
    _APST,
    bit("rsvd0", 3),
    bit("itps", 5, "Idle Transition Power State"),
    bit("itpt", 24, "Idle Time Prior to Transition (milliseconds; 0 is no transition)"),
    bit("rsvd32", 32),
)
APST_TABLE = Structure("APST_TABLE", 256, _APST, "entries" / table(32, u64) * "From each power state")

HOST_BEHAVIOR = Structure(
    "HOST_BEHAVIOR",
    512,
    "Base 2.1 §5.1.25 (FID 16h)",
    "acre" / u8 * "Advanced Command Retry Enable",
    "etdas" / u8 * "Extended Telemetry Data Area 4 Supported",
    "lbafee" / u8 * "LBA Format Extension Enable",
    "hdisns" / u8 * "Host Dispersed Namespace Support",
    "cdfe" / u16 * "Copy Descriptor Formats Enable",
    rsvd(6, 506),
)

HOST_IDENTIFIER = Structure(
    "HOST_IDENTIFIER",
    16,
    "Base 2.1 §5.1.25 (FID 81h)",
    "hostid" / raw(16) * "Host Identifier (8 bytes of it unless EXHID is set)",
)
