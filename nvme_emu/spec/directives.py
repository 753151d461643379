"""Directives: types, operations and the data that they answer with (Base 2.1, clauses 5.1.6, 5.1.7 and 8.1.8)."""

from __future__ import annotations

from enum import IntEnum

from .base import Structure, raw, rsvd, u8, u16, u32
from .bits import BitLayout, bit
from .words import Worded

__all__ = [
    "DIRECTIVE_PARAMETERS",
    "ENABLE_DIRECTIVE_CDW12",
    "STREAMS_ALLOCATE_CDW12",
    "STREAMS_CAPABILITY",
    "STREAMS_PARAMETERS",
    "STREAM_IDS_MAX",
    "DirectiveType",
    "IdentifyReceive",
    "IdentifySend",
    "StreamsReceive",
    "StreamsSend",
]

_DIRECTIVES = "Base 2.1 §8.1.8"


class DirectiveType(Worded):
    """DIRECTIVE_CDW11.dtype, and DTYPE of the I/O commands that write."""

    IDENTIFY = 0x00, "Identify"
    STREAMS = 0x01, "Streams"
    DATA_PLACEMENT = 0x02, "Data Placement"


class IdentifyReceive(IntEnum):
    """DIRECTIVE_CDW11.doper of Directive Receive for Identify."""

    RETURN_PARAMETERS = 0x01


class IdentifySend(IntEnum):
    """DIRECTIVE_CDW11.doper of Directive Send for Identify."""

    ENABLE_DIRECTIVE = 0x01


class StreamsReceive(IntEnum):
    """DIRECTIVE_CDW11.doper of Directive Receive for Streams."""

    RETURN_PARAMETERS = 0x01
    GET_STATUS = 0x02
    ALLOCATE_RESOURCES = 0x03


class StreamsSend(IntEnum):
    """DIRECTIVE_CDW11.doper of Directive Send for Streams."""

    RELEASE_IDENTIFIER = 0x01
    RELEASE_RESOURCES = 0x02


STREAM_IDS_MAX = 65_535
"""Stream identifiers are 1 to FFFFh; 0 is a write without a stream."""

ENABLE_DIRECTIVE_CDW12 = BitLayout(
    "ENABLE_DIRECTIVE_CDW12",
    32,
    _DIRECTIVES,
    bit("endir", 1, "Enable Directive", {0: "disable", 1: "enable"}),
    bit("rsvd1", 7),
    bit("dtype", 8, "Directive Type"),
    bit("rsvd16", 16),
)
STREAMS_ALLOCATE_CDW12 = BitLayout(
    "STREAMS_ALLOCATE_CDW12",
    32,
    _DIRECTIVES,
    bit("nsr", 16, "Namespace Streams Requested"),
    bit("rsvd16", 16),
)

# Each of the three is a bit for each directive type.
DIRECTIVE_PARAMETERS = Structure(
    "DIRECTIVE_PARAMETERS",
    4096,
    _DIRECTIVES,
    "supported" / raw(32) * "Directives Supported",
    "enabled" / raw(32) * "Directives Enabled",
    "persistent" / raw(32) * "Directives Persistent Across Controller Level Resets",
    rsvd(96, 4000),
)

STREAMS_CAPABILITY = BitLayout(
    "STREAMS_CAPABILITY",
    8,
    _DIRECTIVES,
    bit("ssid", 1, "Stream Identifiers are shared by hosts"),
    bit("rsvd1", 7),
)
STREAMS_PARAMETERS = Structure(
    "STREAMS_PARAMETERS",
    32,
    _DIRECTIVES,
    "msl" / u16 * "Max Streams Limit of the subsystem",
    "nssa" / u16 * "NVM Subsystem Streams Available: not given to a namespace alone",
    "nsso" / u16 * "NVM Subsystem Streams Open: of those",
    "nssc" / u8 * "NVM Subsystem Streams Capability",
    rsvd(7, 9),
    "sws" / u32 * "Stream Write Size (logical blocks)",
    "sgs" / u16 * "Stream Granularity Size (in Stream Write Sizes)",
    "nsa" / u16 * "Namespace Streams Allocated, to this host",
    "nso" / u16 * "Namespace Streams Open, of this host",
    rsvd(26, 6),
    bits={"nssc": STREAMS_CAPABILITY},
)
