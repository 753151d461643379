"""Why a namespace is not plain: what its commands have to be looked at for."""

from __future__ import annotations

from enum import Enum

__all__ = ["Hold", "WriteProtection"]


class Hold(Enum):
    """Why a namespace's commands need more than a copy."""

    FORMAT = "being formatted"
    SANITIZE = "sanitizing"
    PROTECTED = "write protected"
    RESERVED = "reserved"
    MARKED = "blocks marked as unrecoverable"
    METADATA = "has metadata"
    TRACKED = "each block's allocation is known"
    ZONED = "is zoned"
    ANA = "in an ANA group that not every controller reaches"
    MEDIA = "the media are read-only"
    POWER = "the controller is in a power state without I/O, or on its way"


class WriteProtection(Enum):
    """FID 84h (Base 2.1, 8.1.16): the numbers are those of WRITE_PROTECTION.wps."""

    NONE = 0
    PROTECTED = 1
    UNTIL_POWER_CYCLE = 2
    PERMANENT = 3
