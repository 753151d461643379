"""NVMe over Fabrics: the Fabrics commands, SGL descriptors, and the discovery log (NVMe Base 2.1).

A Fabrics command is opcode 7Fh with its type in byte 4 (clause 6). Its fields stand at other places than
those of other commands, so each has a structure of its own for the whole submission queue entry.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, Final

from .base import Structure, raw, rsvd, text, u8, u16, u32, u64
from .bits import BitLayout, bit
from .sgl import SGL_DESCRIPTOR, SGL_IN_CAPSULE, SGL_TRANSPORT
from .words import Worded

__all__ = [
    "CATTR",
    "CNTLID_ANY",
    "CONNECT",
    "CONNECT_DATA",
    "CONNECT_DATA_SIZE",
    "CONNECT_SUCCESS",
    "DISCONNECT",
    "DISCOVERY_ENTRY",
    "DISCOVERY_HEADER",
    "DISCOVERY_NQN",
    "NQN_MAX",
    "OFCS",
    "PROPERTY_GET",
    "PROPERTY_SET",
    "SGL",
    "SGL_IN_CAPSULE",
    "SGL_OFFSET",
    "SGL_TRANSPORT",
    "SQHD_NO_FLOW_CONTROL",
    "Adrfam",
    "SubsystemType",
    "Trtype",
    "check_nqn",
    "discovery_log",
    "invalid_parameter",
]

DISCOVERY_NQN: Final = "nqn.2014-08.org.nvmexpress.discovery"
NQN_MAX: Final = 223
CNTLID_ANY: Final = 0xFFFF
"""Connect of an admin queue: any controller (the dynamic controller model)."""
SQHD_NO_FLOW_CONTROL: Final = 0xFFFF
"""SQHD of the answer to Connect where submission queue flow control is off."""
CONNECT_DATA_SIZE: Final = 1024

# SGL1 within a submission queue entry.
SGL = SGL_DESCRIPTOR
SGL_OFFSET: Final = 24

CATTR = BitLayout(
    "CATTR",
    8,
    "Base 2.1 §6.3",
    bit("prioclass", 2, "Priority Class"),
    bit("dissqfc", 1, "Disable SQ Flow Control"),
    bit("iqdel", 1, "Individual I/O Queue Deletion"),
    bit("rsvd4", 4),
)
OFCS = BitLayout(
    "OFCS",
    16,
    "Base 2.1 §5.1.13.2.1",
    bit("discc", 1, "Disconnect command supported"),
    bit("rsvd1", 15),
)

CONNECT = Structure(
    "CONNECT",
    64,
    "Base 2.1 §6.3",
    "opcode" / u8 * "Opcode (7Fh)",
    "flags" / u8 * "PSDT and FUSE",
    "cid" / u16 * "Command Identifier",
    "fctype" / u8 * "Fabrics Command Type (01h)",
    rsvd(5, 19),
    "sgl1" / raw(16) * "SGL Descriptor 1",
    "recfmt" / u16 * "Record Format",
    "qid" / u16 * "Queue ID",
    "sqsize_z" / u16 * "Submission Queue Size (zero-based)",
    "cattr" / u8 * "Connect Attributes",
    rsvd(47, 1),
    "kato" / u32 * "Keep Alive Timeout (milliseconds)",
    rsvd(52, 12),
    bits={"cattr": CATTR},
)
CONNECT_DATA = Structure(
    "CONNECT_DATA",
    CONNECT_DATA_SIZE,
    "Base 2.1 §6.3",
    "hostid" / raw(16) * "Host Identifier",
    "cntlid" / u16 * "Controller ID",
    rsvd(18, 238),
    "subnqn" / text(256) * "NVM Subsystem NVMe Qualified Name",
    "hostnqn" / text(256) * "Host NVMe Qualified Name",
    rsvd(768, 256),
)
# Dwords 0 and 1 of a successful Connect's completion: cntlid, authentication requirements.
CONNECT_SUCCESS = struct.Struct("<HHI")

PROPERTY_SET = Structure(
    "PROPERTY_SET",
    64,
    "Base 2.1 §6.6",
    "opcode" / u8 * "Opcode (7Fh)",
    "flags" / u8 * "PSDT and FUSE",
    "cid" / u16 * "Command Identifier",
    "fctype" / u8 * "Fabrics Command Type (00h)",
    rsvd(5, 35),
    "attrib" / u8 * "Attributes (bits 2:0: 0 is 4 bytes, 1 is 8 bytes)",
    rsvd(41, 3),
    "ofst" / u32 * "Offset",
    "value" / u64 * "Value",
    rsvd(56, 8),
)
PROPERTY_GET = Structure(
    "PROPERTY_GET",
    64,
    "Base 2.1 §6.5",
    "opcode" / u8 * "Opcode (7Fh)",
    "flags" / u8 * "PSDT and FUSE",
    "cid" / u16 * "Command Identifier",
    "fctype" / u8 * "Fabrics Command Type (04h)",
    rsvd(5, 35),
    "attrib" / u8 * "Attributes (bits 2:0: 0 is 4 bytes, 1 is 8 bytes)",
    rsvd(41, 3),
    "ofst" / u32 * "Offset",
    rsvd(48, 16),
)
DISCONNECT = Structure(
    "DISCONNECT",
    64,
    "Base 2.1 §6.4",
    "opcode" / u8 * "Opcode (7Fh)",
    "flags" / u8 * "PSDT and FUSE",
    "cid" / u16 * "Command Identifier",
    "fctype" / u8 * "Fabrics Command Type (08h)",
    rsvd(5, 35),
    "recfmt" / u16 * "Record Format",
    rsvd(42, 22),
)


class Trtype(Worded):
    """Transport Type of a discovery log entry."""

    RDMA = 1, "RDMA"
    FC = 2, "Fibre Channel"
    TCP = 3, "TCP"


class Adrfam(Worded):
    """Address Family of a discovery log entry."""

    IPV4 = 1, "IPv4"
    IPV6 = 2, "IPv6"


class SubsystemType(Worded):
    """SUBTYPE of a discovery log entry."""

    REFERRAL = 1, "referral to another discovery subsystem"
    NVM = 2, "NVM subsystem"
    CURRENT = 3, "the current discovery subsystem"


DISCOVERY_HEADER = Structure(
    "DISCOVERY_HEADER",
    1024,
    "Base 2.1 §5.1.12.3.1",
    "genctr" / u64 * "Generation Counter",
    "numrec" / u64 * "Number of Records",
    "recfmt" / u16 * "Record Format",
    rsvd(18, 1006),
)
DISCOVERY_ENTRY = Structure(
    "DISCOVERY_ENTRY",
    1024,
    "Base 2.1 §5.1.12.3.1",
    "trtype" / u8 * "Transport Type",
    "adrfam" / u8 * "Address Family",
    "subtype" / u8 * "Subsystem Type",
    "treq" / u8 * "Transport Requirements",
    "portid" / u16 * "Port ID",
    "cntlid" / u16 * "Controller ID",
    "asqsz" / u16 * "Admin Max SQ Size",
    "eflags" / u16 * "Entry Flags",
    rsvd(12, 20),
    "trsvcid" / raw(32) * "Transport Service Identifier",
    rsvd(64, 192),
    "subnqn" / text(256) * "NVM Subsystem Qualified Name",
    "traddr" / raw(256) * "Transport Address",
    "tsas" / raw(256) * "Transport Specific Address Subtype",
)

TREQ_SECURE_CHANNEL = 1
"""Transport Requirements: a secure channel is required."""
SECTYPE_TLS13 = 2
"""The first byte of TSAS, for TCP: TLS 1.3 (TCP 1.1, 3.1.1)."""


def discovery_log(genctr: int, entries: Sequence[dict[str, Any]]) -> bytes:
    """The Discovery log page: its header, then an entry of 1024 bytes for each of `entries`."""
    head = DISCOVERY_HEADER.build(genctr=genctr, numrec=len(entries))
    return head + b"".join(DISCOVERY_ENTRY.build(**entry) for entry in entries)


def invalid_parameter(offset: int, in_data: bool) -> int:
    """Dword 0 of Connect's completion with Connect Invalid Parameters: where the wrong field is."""
    return offset | int(in_data) << 16


def check_nqn(nqn: str) -> str:
    """`nqn` if it can be an NVMe Qualified Name (Base 2.1, 4.7). ValueError otherwise."""
    encoded = nqn.encode()
    if not nqn.startswith("nqn.") or not 11 <= len(encoded) <= NQN_MAX or "\0" in nqn:
        raise ValueError(f"{nqn!r} is no NVMe Qualified Name: nqn.… of 11 to {NQN_MAX} bytes (Base 2.1, 4.7)")
    return nqn
