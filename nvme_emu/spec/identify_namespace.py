"""Identify Namespace data of the NVM Command Set, and what every command set says of a namespace.

CNS 00h (NVM Command Set 1.1 clause 4.1.5.1), CNS 05h (clause 4.1.5.3), CNS 08h (Base 2.1 clause 5.1.13.2.8),
the list of active namespaces (02h) and the identification descriptors (03h). Import them from `identify`.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import NamedTuple

from .base import Structure, raw, rsvd, table, u8, u16, u32, u64, u128
from .bits import BitLayout, bit
from .errors import LayoutError
from .identify_controller import IDENTIFY_SIZE

__all__ = [
    "DLFEAT",
    "DPC",
    "DPS",
    "ELBAF",
    "FLBAS",
    "FPI",
    "IDENTIFY_INDEPENDENT_NAMESPACE",
    "IDENTIFY_NAMESPACE",
    "IDENTIFY_NVM_NAMESPACE",
    "LBAF",
    "LBAF_COUNT_MAX",
    "LBA_FORMAT",
    "MC",
    "NAMESPACE_LIST",
    "NAMESPACE_LIST_ENTRIES",
    "NMIC",
    "NSATTR",
    "NSFEAT",
    "NSTAT",
    "NS_DESCRIPTOR_HEADER",
    "NS_MANAGEMENT",
    "RESCAP",
    "Nidt",
    "NsDescriptor",
    "build_ns_descriptors",
    "flbas_index",
    "namespace_list",
    "parse_ns_descriptors",
]

_NS = "NVM 1.1 §4.1.5.1"
_NVM_NS = "NVM 1.1 §4.1.5.3"
_INDEPENDENT = "Base 2.1 §5.1.13.2.8"
_DESCRIPTORS = "Base 2.1 §5.1.13.2.3"

LBAF_COUNT_MAX = 64
NAMESPACE_LIST_ENTRIES = 1024

NSFEAT = BitLayout(
    "NSFEAT",
    8,
    _NS,
    bit("thinp", 1, "Thin Provisioning"),
    bit("nsabp", 1, "Namespace Supported Atomic Boundary and Power (NAWUN, NAWUPF, NACWU)"),
    bit("dae", 1, "Deallocated or Unwritten Logical Block error"),
    bit("uidreuse", 1, "NGUID and EUI64 never reused"),
    bit("optperf", 2, "Optimal Performance fields (NPWG, NPWA, NPDG, NPDA, NOWS) defined"),
    bit("mam", 1, "Multiple Atomicity Mode"),
    bit("optrperf", 1, "Optimal Read Performance fields defined"),
)
FLBAS = BitLayout(
    "FLBAS",
    8,
    _NS,
    bit("fidxl", 4, "Format Index Lower"),
    bit("mcdb", 1, "Metadata at the end of the data (extended LBA)"),
    bit("fidxu", 2, "Format Index Upper"),
    bit("rsvd7", 1),
)
MC = BitLayout(
    "MC",
    8,
    _NS,
    bit("mtelba", 1, "Metadata as part of an extended data LBA"),
    bit("mtsmb", 1, "Metadata as a separate buffer"),
    bit("rsvd2", 6),
)
DPC = BitLayout(
    "DPC",
    8,
    _NS,
    bit("pit1s", 1, "Protection Information Type 1"),
    bit("pit2s", 1, "Protection Information Type 2"),
    bit("pit3s", 1, "Protection Information Type 3"),
    bit("piimf", 1, "Protection Information in the first bytes of metadata"),
    bit("piiml", 1, "Protection Information in the last bytes of metadata"),
    bit("rsvd5", 3),
)
DPS = BitLayout(
    "DPS",
    8,
    _NS,
    bit("pit", 3, "Protection Information Type", {0: "disabled", 1: "Type 1", 2: "Type 2", 3: "Type 3"}),
    bit("pip", 1, "Protection Information Position", {0: "last bytes", 1: "first bytes"}),
    bit("rsvd4", 4),
)
NMIC = BitLayout(
    "NMIC",
    8,
    _NS,
    bit("shrns", 1, "Shared Namespace"),
    bit("disns", 1, "Dispersed Namespace"),
    bit("rsvd2", 6),
)
RESCAP = BitLayout(
    "RESCAP",
    8,
    _NS,
    bit("ptpl", 1, "Persist Through Power Loss"),
    bit("wer", 1, "Write Exclusive"),
    bit("ear", 1, "Exclusive Access"),
    bit("wero", 1, "Write Exclusive - Registrants Only"),
    bit("earo", 1, "Exclusive Access - Registrants Only"),
    bit("wear", 1, "Write Exclusive - All Registrants"),
    bit("eaar", 1, "Exclusive Access - All Registrants"),
    bit("iekr", 1, "Ignore Existing Key as in revision 1.3"),
)
DLFEAT = BitLayout(
    "DLFEAT",
    8,
    _NS,
    bit("drb", 3, "Deallocated blocks read as", {0: "not reported", 1: "all bytes 00h", 2: "all bytes FFh"}),
    bit("wzds", 1, "Write Zeroes Deallocation Support"),
    bit("gds", 1, "Guard Deallocation Status"),
    bit("rsvd5", 3),
)
FPI = BitLayout(
    "FPI",
    8,
    _NS,
    bit("fpil", 7, "Percentage of the format that remains"),
    bit("fpis", 1, "Format Progress Indicator Supported"),
)
NSATTR = BitLayout("NSATTR", 8, _NS, bit("cwp", 1, "Currently Write Protected"), bit("rsvd1", 7))
NSTAT = BitLayout(
    "NSTAT",
    8,
    _INDEPENDENT,
    bit("nrdy", 1, "Namespace Ready"),
    bit("rsvd1", 7),
)
# One LBA format as an integer (bytes 3:0 of an entry): for those who have the dword at hand.
LBAF = BitLayout(
    "LBAF",
    32,
    _NS,
    bit("ms", 16, "Metadata Size (bytes)"),
    bit("lbads", 8, "LBA Data Size (log2; 9 and more)"),
    bit("rp", 2, "Relative Performance", {0: "best", 1: "better", 2: "good", 3: "degraded"}),
    bit("rsvd26", 6),
)
ELBAF = BitLayout(
    "ELBAF",
    32,
    _NVM_NS,
    bit("sts", 7, "Storage Tag Size (bits)"),
    bit("pif", 2, "Protection Information Format", {0: "16-bit guard", 1: "32-bit guard", 2: "64-bit guard"}),
    bit("qpif", 4, "Qualified Protection Information Format"),
    bit("rsvd13", 19),
)

LBA_FORMAT = Structure(
    "LBA_FORMAT",
    4,
    _NS,
    "ms" / u16 * "Metadata Size (bytes)",
    "lbads" / u8 * "LBA Data Size (log2; 9 and more)",
    "rp" / u8 * "Relative Performance (bits 1:0)",
)

IDENTIFY_NAMESPACE = Structure(
    "IDENTIFY_NAMESPACE",
    IDENTIFY_SIZE,
    _NS,
    "nsze" / u64 * "Namespace Size (logical blocks)",
    "ncap" / u64 * "Namespace Capacity (logical blocks)",
    "nuse" / u64 * "Namespace Utilization (logical blocks)",
    "nsfeat" / u8 * "Namespace Features",
    "nlbaf_z" / u8 * "Number of LBA Formats (zero-based)",
    "flbas" / u8 * "Formatted LBA Size",
    "mc" / u8 * "Metadata Capabilities",
    "dpc" / u8 * "End-to-end Data Protection Capabilities",
    "dps" / u8 * "End-to-end Data Protection Type Settings",
    "nmic" / u8 * "Namespace Multi-path I/O and Namespace Sharing Capabilities",
    "rescap" / u8 * "Reservation Capabilities",
    "fpi" / u8 * "Format Progress Indicator",
    "dlfeat" / u8 * "Deallocate Logical Block Features",
    "nawun_z" / u16 * "Namespace Atomic Write Unit Normal (zero-based)",
    "nawupf_z" / u16 * "Namespace Atomic Write Unit Power Fail (zero-based)",
    "nacwu_z" / u16 * "Namespace Atomic Compare and Write Unit (zero-based)",
    "nabsn_z" / u16 * "Namespace Atomic Boundary Size Normal (zero-based)",
    "nabo" / u16 * "Namespace Atomic Boundary Offset",
    "nabspf_z" / u16 * "Namespace Atomic Boundary Size Power Fail (zero-based)",
    "noiob" / u16 * "Namespace Optimal I/O Boundary (logical blocks)",
    "nvmcap" / u128 * "NVM Capacity (bytes)",
    "npwg_z" / u16 * "Namespace Preferred Write Granularity (zero-based)",
    "npwa_z" / u16 * "Namespace Preferred Write Alignment (zero-based)",
    "npdg_z" / u16 * "Namespace Preferred Deallocate Granularity (zero-based)",
    "npda_z" / u16 * "Namespace Preferred Deallocate Alignment (zero-based)",
    "nows_z" / u16 * "Namespace Optimal Write Size (zero-based)",
    "mssrl" / u16 * "Maximum Single Source Range Length (logical blocks)",
    "mcl" / u32 * "Maximum Copy Length (logical blocks)",
    "msrc_z" / u8 * "Maximum Source Range Count (zero-based)",
    "kpios" / u8 * "Key Per I/O Status",
    "nulbaf" / u8 * "Number of Unique Attribute LBA Formats",
    rsvd(83, 1),
    "kpiodaag" / u32 * "Key Per I/O Data Access Alignment and Granularity",
    rsvd(88, 4),
    "anagrpid" / u32 * "ANA Group Identifier",
    rsvd(96, 3),
    "nsattr" / u8 * "Namespace Attributes",
    "nvmsetid" / u16 * "NVM Set Identifier",
    "endgid" / u16 * "Endurance Group Identifier",
    "nguid" / raw(16) * "Namespace Globally Unique Identifier",
    "eui64" / raw(8) * "IEEE Extended Unique Identifier",
    "lbaf" / table(LBAF_COUNT_MAX, LBA_FORMAT) * "LBA Formats",
    "vs" / raw(3712) * "Vendor Specific",
    bits={
        "nsfeat": NSFEAT,
        "flbas": FLBAS,
        "mc": MC,
        "dpc": DPC,
        "dps": DPS,
        "nmic": NMIC,
        "rescap": RESCAP,
        "fpi": FPI,
        "dlfeat": DLFEAT,
        "nsattr": NSATTR,
    },
)

IDENTIFY_NVM_NAMESPACE = Structure(
    "IDENTIFY_NVM_NAMESPACE",
    IDENTIFY_SIZE,
    _NVM_NS,
    "lbstm" / u64 * "Logical Block Storage Tag Mask",
    "pic" / u8 * "Protection Information Capabilities",
    "pifa" / u8 * "Protection Information Format Attribute",
    rsvd(10, 2),
    "elbaf" / table(LBAF_COUNT_MAX, u32) * "Extended LBA Formats",
    "npdgl" / u32 * "Namespace Preferred Deallocate Granularity Large",
    "nprg" / u32 * "Namespace Preferred Read Granularity",
    "npra" / u32 * "Namespace Preferred Read Alignment",
    "nors" / u32 * "Namespace Optimal Read Size",
    "npdal" / u32 * "Namespace Preferred Deallocate Alignment Large",
    "lbapss" / u32 * "LBA Format Placement Shard Size",
    "tlbaag" / u32 * "Tracked LBA Allocation Granularity",
    rsvd(296, 3800),
)

IDENTIFY_INDEPENDENT_NAMESPACE = Structure(
    "IDENTIFY_INDEPENDENT_NAMESPACE",
    IDENTIFY_SIZE,
    _INDEPENDENT,
    "nsfeat" / u8 * "Common Namespace Features",
    "nmic" / u8 * "Namespace Multi-path I/O and Namespace Sharing Capabilities",
    "rescap" / u8 * "Reservation Capabilities",
    "fpi" / u8 * "Format Progress Indicator",
    "anagrpid" / u32 * "ANA Group Identifier",
    "nsattr" / u8 * "Namespace Attributes",
    rsvd(9, 1),
    "nvmsetid" / u16 * "NVM Set Identifier",
    "endgid" / u16 * "Endurance Group Identifier",
    "nstat" / u8 * "Namespace Status",
    "kpios" / u8 * "Key Per I/O Status",
    "maxkt" / u16 * "Maximum Key Tag",
    rsvd(18, 2),
    "rgrpid" / u32 * "Reachability Group Identifier",
    rsvd(24, 4072),
    bits={"nmic": NMIC, "rescap": RESCAP, "nsattr": NSATTR, "nstat": NSTAT},
)

# What Namespace Management (create) sends: the fields of Identify Namespace that a host chooses.
NS_MANAGEMENT = Structure(
    "NS_MANAGEMENT",
    IDENTIFY_SIZE,
    "NVM 1.1 §4.1.6",
    "nsze" / u64 * "Namespace Size (logical blocks)",
    "ncap" / u64 * "Namespace Capacity (logical blocks)",
    rsvd(16, 10),
    "flbas" / u8 * "Formatted LBA Size",
    rsvd(27, 2),
    "dps" / u8 * "End-to-end Data Protection Type Settings",
    "nmic" / u8 * "Namespace Multi-path I/O and Namespace Sharing Capabilities",
    rsvd(31, 61),
    "anagrpid" / u32 * "ANA Group Identifier",
    rsvd(96, 4),
    "nvmsetid" / u16 * "NVM Set Identifier",
    "endgid" / u16 * "Endurance Group Identifier",
    rsvd(104, 280),
    "lbstm" / u64 * "Logical Block Storage Tag Mask",
    "nphndls" / u16 * "Number of Placement Handles",
    rsvd(394, 3702),
    bits={"flbas": FLBAS, "dps": DPS, "nmic": NMIC},
)

NAMESPACE_LIST = Structure(
    "NAMESPACE_LIST",
    IDENTIFY_SIZE,
    "Base 2.1 §4.6.2",
    "nsid" / table(NAMESPACE_LIST_ENTRIES, u32) * "Namespace Identifiers, ascending; unused entries are zero",
)


def namespace_list(nsids: Iterable[int], *, after: int = 0) -> bytes:
    """The 4096 bytes of a namespace list: the first 1024 of `nsids` above `after`, ascending."""
    chosen = sorted(nsid for nsid in nsids if nsid > after)[:NAMESPACE_LIST_ENTRIES]
    return NAMESPACE_LIST.build(nsid=chosen)


def flbas_index(flbas: int) -> int:
    """Which LBA format a namespace uses: FLBAS bits 6:5 over bits 3:0."""
    return FLBAS["fidxu"].extract(flbas) << 4 | FLBAS["fidxl"].extract(flbas)


class Nidt(IntEnum):
    """Namespace Identifier Types of the identification descriptors (CNS 03h)."""

    EUI64 = 1
    NGUID = 2
    UUID = 3
    CSI = 4


_NID_LENGTH: dict[int, int] = {Nidt.EUI64: 8, Nidt.NGUID: 16, Nidt.UUID: 16, Nidt.CSI: 1}

NS_DESCRIPTOR_HEADER = Structure(
    "NS_DESCRIPTOR_HEADER",
    4,
    _DESCRIPTORS,
    "nidt" / u8 * "Namespace Identifier Type",
    "nidl" / u8 * "Namespace Identifier Length",
    rsvd(2, 2),
)


class NsDescriptor(NamedTuple):
    """One Namespace Identification Descriptor."""

    nidt: int
    nid: bytes


def build_ns_descriptors(descriptors: Iterable[NsDescriptor]) -> bytes:
    """The 4096 bytes of CNS 03h. LayoutError for an unknown type, a wrong length or too many of them."""
    parts: list[bytes] = []
    for nidt, nid in descriptors:
        if len(nid) != _NID_LENGTH.get(nidt):
            raise LayoutError(f"namespace identifier type {nidt}: {len(nid)} bytes ({_DESCRIPTORS})")
        parts.append(NS_DESCRIPTOR_HEADER.build(nidt=nidt, nidl=len(nid)) + bytes(nid))
    data = b"".join(parts)
    if len(data) > IDENTIFY_SIZE:
        raise LayoutError(f"{len(parts)} namespace descriptors do not fit in {IDENTIFY_SIZE} bytes")
    return data.ljust(IDENTIFY_SIZE, b"\0")


def parse_ns_descriptors(data: bytes | bytearray | memoryview) -> list[NsDescriptor]:
    """The descriptors in CNS 03h data, up to the first empty one. LayoutError for one that is cut off."""
    found: list[NsDescriptor] = []
    view = bytes(data)
    offset = 0
    while offset + NS_DESCRIPTOR_HEADER.size <= len(view):
        nidt, nidl = view[offset], view[offset + 1]
        if nidl == 0:
            break
        start = offset + NS_DESCRIPTOR_HEADER.size
        if start + nidl > len(view):
            raise LayoutError(f"namespace descriptor at byte {offset} is cut off ({_DESCRIPTORS})")
        found.append(NsDescriptor(nidt, view[start : start + nidl]))
        offset = start + nidl
    return found
