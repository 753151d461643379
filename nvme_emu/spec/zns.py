"""The Zoned Namespace Command Set: Identify data, commands, zone descriptors, Changed Zone List.

Source: Zoned Namespace Command Set 1.2; names and values as in Linux's nvme.h and libnvme's types.h. ZRWA is declared
where Identify has fields for it, and not offered.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from .base import Structure, raw, rsvd, table, u8, u16, u32, u64
from .bits import BitLayout, bit
from .commands_zns import (
    ZONE_APPEND_CDW12,
    ZONE_RECEIVE_CDW13,
    ZONE_SEND_CDW13,
    ReportOption,
    ZoneReceiveAction,
    ZoneSendAction,
)
from .words import Worded

__all__ = [
    "CHANGED_ZONES_MAX",
    "CHANGED_ZONES_OVERFLOW",
    "CHANGED_ZONE_LIST",
    "IDENTIFY_ZNS_CONTROLLER",
    "IDENTIFY_ZNS_NAMESPACE",
    "LBAFE",
    "NO_LIMIT",
    "OZCS",
    "REPORT_HEADER_BYTES",
    "WP_INVALID",
    "ZA",
    "ZDES_UNIT",
    "ZNS_NS_MANAGEMENT",
    "ZNS_NS_MANAGEMENT_AT",
    "ZOC",
    "ZONE_APPEND_CDW12",
    "ZONE_DESCRIPTOR",
    "ZONE_DESCRIPTOR_BYTES",
    "ZONE_RECEIVE_CDW13",
    "ZONE_SEND_CDW13",
    "ZT_SEQUENTIAL_WRITE_REQUIRED",
    "ReportOption",
    "ZoneDescriptor",
    "ZoneReceiveAction",
    "ZoneSendAction",
    "ZoneState",
    "build_zone_report",
    "parse_zone_report",
]

_IDENTIFY_NS = "ZNS 1.2 §4.1.5.1"
_IDENTIFY_CTRL = "ZNS 1.2 §4.1.5.2"
_RECEIVE = "ZNS 1.2 §3.4.2"
_CHANGED = "ZNS 1.2 §4.1.4"
_MANAGEMENT = "ZNS 1.2 §4.1.6"

NO_LIMIT = 0xFFFF_FFFF
"""MAR and MOR, which else are zero-based."""
ZDES_UNIT = 64
"""Bytes of a zone descriptor extension that ZDES counts."""
WP_INVALID = (1 << 64) - 1
"""What stands for the write pointer of a zone that has none: Full, Read Only, Offline."""


class ZoneState(Worded):
    """Zone State, bits 7:4 of byte 1 of a zone descriptor."""

    EMPTY = 0x1, "Empty"
    IMPLICITLY_OPENED = 0x2, "Implicitly Opened"
    EXPLICITLY_OPENED = 0x3, "Explicitly Opened"
    CLOSED = 0x4, "Closed"
    READ_ONLY = 0xD, "Read Only"
    FULL = 0xE, "Full"
    OFFLINE = 0xF, "Offline"


# --- Identify -----------------------------------------------------------------------------------------------

ZOC = BitLayout(
    "ZOC",
    16,
    _IDENTIFY_NS,
    bit("vzc", 1, "Variable Zone Capacity"),
    bit("zae", 1, "Zone Active Excursions"),
    bit("rsvd2", 14),
)
OZCS = BitLayout(
    "OZCS",
    16,
    _IDENTIFY_NS,
    bit("razb", 1, "Read Across Zone Boundaries"),
    bit("zrwasup", 1, "Zone Random Write Area Support"),
    bit("rsvd2", 14),
)
LBAFE = Structure(
    "LBAFE",
    16,
    _IDENTIFY_NS,
    "zsze" / u64 * "Zone Size (logical blocks)",
    "zdes" / u8 * "Zone Descriptor Extension Size (64 bytes)",
    rsvd(9, 7),
)
IDENTIFY_ZNS_NAMESPACE = Structure(
    "IDENTIFY_ZNS_NAMESPACE",
    4096,
    _IDENTIFY_NS,
    "zoc" / u16 * "Zone Operation Characteristics",
    "ozcs" / u16 * "Optional Zoned Command Support",
    "mar" / u32 * "Maximum Active Resources (zero-based; FFFFFFFFh is no limit)",
    "mor" / u32 * "Maximum Open Resources (zero-based; FFFFFFFFh is no limit)",
    "rrl" / u32 * "Reset Recommended Limit (seconds)",
    "frl" / u32 * "Finish Recommended Limit (seconds)",
    "rrl1" / u32 * "Reset Recommended Limit 1",
    "rrl2" / u32 * "Reset Recommended Limit 2",
    "rrl3" / u32 * "Reset Recommended Limit 3",
    "frl1" / u32 * "Finish Recommended Limit 1",
    "frl2" / u32 * "Finish Recommended Limit 2",
    "frl3" / u32 * "Finish Recommended Limit 3",
    "numzrwa" / u32 * "Number of ZRWA Resources",
    "zrwafg" / u16 * "ZRWA Flush Granularity",
    "zrwasz" / u16 * "ZRWA Size",
    "zrwacap" / u8 * "ZRWA Capability",
    rsvd(53, 2763),
    "lbafe" / table(64, LBAFE) * "LBA Format Extensions",
    "vs" / raw(256) * "Vendor Specific",
    bits={"zoc": ZOC, "ozcs": OZCS},
)
IDENTIFY_ZNS_CONTROLLER = Structure(
    "IDENTIFY_ZNS_CONTROLLER",
    4096,
    _IDENTIFY_CTRL,
    "zasl" / u8 * "Zone Append Size Limit (log2 of minimum memory pages; 0 is MDTS)",
    rsvd(1, 4095),
)

# What the host adds to Namespace Management's data structure for a zoned namespace, from byte 499 on.
ZNS_NS_MANAGEMENT_AT = 499
ZNS_NS_MANAGEMENT = struct.Struct("<BIII")
"""ZNSCO, RAR, ROR, RNUMZRWA: requested active, open and ZRWA resources."""
assert ZNS_NS_MANAGEMENT.size == 13

# --- zone descriptors ---------------------------------------------------------------------------------------

ZT_SEQUENTIAL_WRITE_REQUIRED = 0x2
ZA = BitLayout(
    "ZA",
    8,
    _RECEIVE,
    bit("zfc", 1, "Zone Finished by Controller"),
    bit("fzr", 1, "Finish Zone Recommended"),
    bit("rzr", 1, "Reset Zone Recommended"),
    bit("zrwav", 1, "ZRWA Valid"),
    bit("rsvd4", 3),
    bit("zdev", 1, "Zone Descriptor Extension Valid"),
)
# ZT, ZS, ZA, ZAI; ZCAP, ZSLBA, WP; the rest is reserved.
ZONE_DESCRIPTOR = struct.Struct("<BBBB4xQQQ32x")
ZONE_DESCRIPTOR_BYTES = 64
REPORT_HEADER_BYTES = 64
assert ZONE_DESCRIPTOR.size == ZONE_DESCRIPTOR_BYTES


class ZoneDescriptor(NamedTuple):
    """A zone as Zone Management Receive reports it; blocks. ``extension`` is b"" unless asked for and valid."""

    state: ZoneState
    capacity: int
    start: int
    wp: int
    attributes: int = 0
    extension: bytes = b""
    zone_type: int = ZT_SEQUENTIAL_WRITE_REQUIRED

    def build(self, extension_bytes: int = 0) -> bytes:
        """The descriptor's 64 bytes, and as many of the extension."""
        head = ZONE_DESCRIPTOR.pack(
            self.zone_type, self.state << 4, self.attributes, 0, self.capacity, self.start, self.wp
        )
        return head + self.extension.ljust(extension_bytes, b"\0")


def build_zone_report(total: int, zones: list[ZoneDescriptor], extension_bytes: int = 0) -> bytes:
    """The header with the number of zones, and descriptors."""
    header = total.to_bytes(8, "little").ljust(REPORT_HEADER_BYTES, b"\0")
    return header + b"".join(zone.build(extension_bytes) for zone in zones)


def parse_zone_report(data: bytes, extension_bytes: int = 0) -> tuple[int, list[ZoneDescriptor]]:
    """(number of zones in the header, the descriptors that are there). ValueError for an unknown zone state."""
    total = int.from_bytes(data[:8], "little")
    stride = ZONE_DESCRIPTOR_BYTES + extension_bytes
    found = []
    count = min(total, max(0, len(data) - REPORT_HEADER_BYTES) // stride)
    for at in range(REPORT_HEADER_BYTES, REPORT_HEADER_BYTES + count * stride, stride):
        kind, state, attributes, _, capacity, start, wp = ZONE_DESCRIPTOR.unpack_from(data, at)
        extension = data[at + ZONE_DESCRIPTOR_BYTES : at + stride] if attributes & ZA.mask("zdev") else b""
        found.append(ZoneDescriptor(ZoneState(state >> 4), capacity, start, wp, attributes, extension, kind & 0xF))
    return total, found


# --- Changed Zone List (BFh) --------------------------------------------------------------------------------

CHANGED_ZONES_MAX = 511
CHANGED_ZONES_OVERFLOW = 0xFFFF
"""NRZID when more zones have changed than the list holds."""
CHANGED_ZONE_LIST = Structure(
    "CHANGED_ZONE_LIST",
    4096,
    _CHANGED,
    "nrzid" / u16 * "Number of Zone Identifiers",
    rsvd(2, 6),
    "zid" / table(CHANGED_ZONES_MAX, u64) * "Zone Identifiers: their start LBAs",
)
