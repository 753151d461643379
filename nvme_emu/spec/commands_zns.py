"""The dwords of the Zoned Namespace Command Set's commands (Zoned Namespace Command Set 1.2, clause 3.4)."""

from __future__ import annotations

from .bits import BitLayout, bit
from .words import Worded

__all__ = [
    "ZONE_APPEND_CDW12",
    "ZONE_RECEIVE_CDW13",
    "ZONE_SEND_CDW13",
    "ReportOption",
    "ZoneReceiveAction",
    "ZoneSendAction",
]

_SEND = "ZNS 1.2 §3.4.3"
_RECEIVE = "ZNS 1.2 §3.4.2"
_APPEND = "ZNS 1.2 §3.4.1"


class ZoneSendAction(Worded):
    """ZONE_SEND_CDW13.zsa."""

    CLOSE = 0x01, "Close Zone"
    FINISH = 0x02, "Finish Zone"
    OPEN = 0x03, "Open Zone"
    RESET = 0x04, "Reset Zone"
    OFFLINE = 0x05, "Offline Zone"
    SET_EXTENSION = 0x10, "Set Zone Descriptor Extension"
    FLUSH_ZRWA = 0x11, "Flush ZRWA"


class ZoneReceiveAction(Worded):
    """ZONE_RECEIVE_CDW13.zra."""

    REPORT = 0x00, "Report Zones"
    EXTENDED_REPORT = 0x01, "Extended Report Zones"


class ReportOption(Worded):
    """ZONE_RECEIVE_CDW13.zrasf of a report: which zones."""

    ALL = 0x0, "all zones"
    EMPTY = 0x1, "zones in the Empty state"
    IMPLICITLY_OPENED = 0x2, "zones in the Implicitly Opened state"
    EXPLICITLY_OPENED = 0x3, "zones in the Explicitly Opened state"
    CLOSED = 0x4, "zones in the Closed state"
    FULL = 0x5, "zones in the Full state"
    READ_ONLY = 0x6, "zones in the Read Only state"
    OFFLINE = 0x7, "zones in the Offline state"


ZONE_APPEND_CDW12 = BitLayout(
    "ZONE_APPEND_CDW12",
    32,
    _APPEND,
    bit("nlb_z", 16, "Number of Logical Blocks (zero-based)"),
    bit("rsvd16", 4),
    bit("dtype", 4, "Directive Type"),
    bit("stc", 1, "Storage Tag Check"),
    bit("piremap", 1, "Protection Information Remap"),
    bit("prinfo", 4, "Protection Information"),
    bit("fua", 1, "Force Unit Access"),
    bit("lr", 1, "Limited Retry"),
)
ZONE_SEND_CDW13 = BitLayout(
    "ZONE_SEND_CDW13",
    32,
    _SEND,
    bit("zsa", 8, "Zone Send Action", {int(one): one.words for one in ZoneSendAction}),
    bit("select_all", 1, "Select All"),
    bit("zsaso", 1, "Zone Send Action Specific Option"),
    bit("rsvd10", 22),
)
ZONE_RECEIVE_CDW13 = BitLayout(
    "ZONE_RECEIVE_CDW13",
    32,
    _RECEIVE,
    bit("zra", 8, "Zone Receive Action", {int(one): one.words for one in ZoneReceiveAction}),
    bit("zrasf", 8, "Zone Receive Action Specific Field", {int(one): one.words for one in ReportOption}),
    bit("partial", 1, "Partial Report"),
    bit("rsvd17", 15),
)
