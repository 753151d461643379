"""Controller registers (properties) in BAR0, their bits, doorbells and the MSI-X table.

    offset  size  register                       offset  size  register
    00h      8    CAP                            48h      8    BPMBL
    08h      4    VS                             50h      8    CMBMSC
    0Ch      4    INTMS                          58h      4    CMBSTS
    10h      4    INTMC                          5Ch      4    CMBEBS
    14h      4    CC                             60h      4    CMBSWTP
    1Ch      4    CSTS                           64h      4    NSSD
    20h      4    NSSR                           68h      4    CRTO
    24h      4    AQA                            E00h     4    PMRCAP, E04h PMRCTL, E08h PMRSTS, E0Ch PMREBS,
    28h      8    ASQ                                          E10h PMRSWTP, E14h PMRMSCL, E18h PMRMSCU
    30h      8    ACQ                            1000h    4    doorbells: SQ 0 tail, CQ 0 head, SQ 1 tail, …
    38h      4    CMBLOC
    3Ch      4    CMBSZ, 40h BPINFO, 44h BPRSEL

Sources: NVM Express Base 2.1 clause 3.1.4, PCIe Transport 1.1 clause 3.1 (doorbells), PCI Express Base
clause 7.7.2 (MSI-X). Zero-based fields end in `_z`.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

from .bits import BitLayout, bit
from .memory_buffers import CMBEBS, CMBSWTP, PMREBS, PMRMSCL, PMRMSCU, PMRSWTP

__all__ = [
    "AQA",
    "BAR0_REGISTERS_SIZE",
    "BPINFO",
    "BPRSEL",
    "CAP",
    "CAP_CSS_ADMIN",
    "CAP_CSS_IOCS",
    "CAP_CSS_NVM",
    "CAP_TO_UNIT_MS",
    "CC",
    "CAP_AMS_WRR",
    "CC_AMS_RR",
    "CC_AMS_VENDOR",
    "CC_AMS_WRR",
    "CC_CSS_ADMIN",
    "CC_CSS_IOCS",
    "CC_CSS_NVM",
    "CC_EN",
    "CC_SHN",
    "CC_SHN_ABRUPT",
    "CC_SHN_NONE",
    "CC_SHN_NORMAL",
    "CMBLOC",
    "CMBMSC",
    "CMBSTS",
    "CMBSZ",
    "CRTO",
    "CRTO_UNIT_MS",
    "CSTS",
    "CSTS_CFS",
    "CSTS_NSSRO",
    "CSTS_PP",
    "CSTS_RDY",
    "CSTS_SHST",
    "CSTS_SHST_COMPLETE",
    "CSTS_SHST_NORMAL",
    "CSTS_SHST_OCCURRING",
    "CSTS_ST",
    "MSIX_ENTRY",
    "MSIX_ENTRY_MASKED",
    "MSIX_ENTRY_SIZE",
    "MSIX_VECTORS_MAX",
    "NSSR_MAGIC",
    "PAGE_SIZE_SHIFT_BASE",
    "PMRCAP",
    "PMRCTL",
    "PMRSTS",
    "QUEUE_BASE_MASK",
    "REGISTER_BITS",
    "VS",
    "VS_1_4",
    "VS_2_0",
    "VS_2_1",
    "Doorbell",
    "Reg",
    "cc_page_size",
    "doorbell_at",
    "doorbell_offset",
    "doorbell_stride",
    "register_at",
]


class Reg(IntEnum):
    """BAR0 offset of each register, with its size in bytes, words and clause."""

    size: int
    words: str
    clause: str

    def __new__(cls, value: int, size: int = 4, words: str = "", clause: str = "") -> Reg:
        member = int.__new__(cls, value)
        member._value_ = value
        member.size = size
        member.words = words
        member.clause = clause
        return member

    CAP = 0x00, 8, "Controller Capabilities", "Base 2.1 §3.1.4.1"
    VS = 0x08, 4, "Version", "Base 2.1 §3.1.4.2"
    INTMS = 0x0C, 4, "Interrupt Mask Set", "Base 2.1 §3.1.4.3"
    INTMC = 0x10, 4, "Interrupt Mask Clear", "Base 2.1 §3.1.4.4"
    CC = 0x14, 4, "Controller Configuration", "Base 2.1 §3.1.4.5"
    CSTS = 0x1C, 4, "Controller Status", "Base 2.1 §3.1.4.6"
    NSSR = 0x20, 4, "NVM Subsystem Reset", "Base 2.1 §3.1.4.7"
    AQA = 0x24, 4, "Admin Queue Attributes", "Base 2.1 §3.1.4.8"
    ASQ = 0x28, 8, "Admin Submission Queue Base Address", "Base 2.1 §3.1.4.9"
    ACQ = 0x30, 8, "Admin Completion Queue Base Address", "Base 2.1 §3.1.4.10"
    CMBLOC = 0x38, 4, "Controller Memory Buffer Location", "Base 2.1 §3.1.4.11"
    CMBSZ = 0x3C, 4, "Controller Memory Buffer Size", "Base 2.1 §3.1.4.12"
    BPINFO = 0x40, 4, "Boot Partition Information", "Base 2.1 §3.1.4.13"
    BPRSEL = 0x44, 4, "Boot Partition Read Select", "Base 2.1 §3.1.4.14"
    BPMBL = 0x48, 8, "Boot Partition Memory Buffer Location", "Base 2.1 §3.1.4.15"
    CMBMSC = 0x50, 8, "Controller Memory Buffer Memory Space Control", "Base 2.1 §3.1.4.16"
    CMBSTS = 0x58, 4, "Controller Memory Buffer Status", "Base 2.1 §3.1.4.17"
    CMBEBS = 0x5C, 4, "Controller Memory Buffer Elasticity Buffer Size", "Base 2.1 §3.1.4.18"
    CMBSWTP = 0x60, 4, "Controller Memory Buffer Sustained Write Throughput", "Base 2.1 §3.1.4.19"
    NSSD = 0x64, 4, "NVM Subsystem Shutdown", "Base 2.1 §3.1.4.20"
    CRTO = 0x68, 4, "Controller Ready Timeouts", "Base 2.1 §3.1.4.21"
    PMRCAP = 0xE00, 4, "Persistent Memory Region Capabilities", "Base 2.1 §3.1.4.22"
    PMRCTL = 0xE04, 4, "Persistent Memory Region Control", "Base 2.1 §3.1.4.23"
    PMRSTS = 0xE08, 4, "Persistent Memory Region Status", "Base 2.1 §3.1.4.24"
    PMREBS = 0xE0C, 4, "Persistent Memory Region Elasticity Buffer Size", "Base 2.1 §3.1.4.25"
    PMRSWTP = 0xE10, 4, "Persistent Memory Region Sustained Write Throughput", "Base 2.1 §3.1.4.26"
    PMRMSCL = 0xE14, 4, "Persistent Memory Region Memory Space Control Lower", "Base 2.1 §3.1.4.27"
    PMRMSCU = 0xE18, 4, "Persistent Memory Region Memory Space Control Upper", "Base 2.1 §3.1.4.28"
    DOORBELLS = 0x1000, 4, "Doorbells", "PCIe Transport 1.1 §3.1.2"


BAR0_REGISTERS_SIZE = 0x1000  # the doorbells begin after this page
NSSR_MAGIC = 0x4E56_4D65  # "NVMe": the only value of NSSR that resets
PAGE_SIZE_SHIFT_BASE = 12  # MPS, MPSMIN and MPSMAX count from 4 KiB
CAP_TO_UNIT_MS = 500
CRTO_UNIT_MS = 500
QUEUE_BASE_MASK = 0xFFFF_FFFF_FFFF_F000  # ASQ.ASQB and ACQ.ACQB: bits 11:0 are reserved

CAP = BitLayout(
    "CAP",
    64,
    Reg.CAP.clause,
    bit("mqes_z", 16, "Maximum Queue Entries Supported (zero-based)"),
    bit("cqr", 1, "Contiguous Queues Required"),
    bit("ams", 2, "Arbitration Mechanism Supported", {1: "weighted round robin with urgent class"}),
    bit("rsvd19", 5),
    bit("to", 8, "Timeout (500 ms units)"),
    bit("dstrd", 4, "Doorbell Stride (4 << DSTRD bytes)"),
    bit("nssrs", 1, "NVM Subsystem Reset Supported"),
    bit("css", 8, "Command Sets Supported"),
    bit("bps", 1, "Boot Partition Support"),
    bit("cps", 2, "Controller Power Scope", {0: "not reported", 1: "controller", 2: "domain", 3: "NVMS"}),
    bit("mpsmin", 4, "Memory Page Size Minimum (4 KiB << MPSMIN)"),
    bit("mpsmax", 4, "Memory Page Size Maximum (4 KiB << MPSMAX)"),
    bit("pmrs", 1, "Persistent Memory Region Supported"),
    bit("cmbs", 1, "Controller Memory Buffer Supported"),
    bit("nsss", 1, "NVM Subsystem Shutdown Supported"),
    bit("crwms", 1, "Controller Ready With Media Support"),
    bit("crims", 1, "Controller Ready Independent of Media Support"),
    bit("nsses", 1, "NVM Subsystem Shutdown Enhancements Supported"),
    bit("rsvd62", 2),
)
# Values of CAP.CSS: a bit for each choice.
CAP_CSS_NVM = 1 << 0
CAP_CSS_IOCS = 1 << 6
CAP_CSS_ADMIN = 1 << 7

VS = BitLayout(
    "VS",
    32,
    Reg.VS.clause,
    bit("ter", 8, "Tertiary Version Number"),
    bit("mnr", 8, "Minor Version Number"),
    bit("mjr", 16, "Major Version Number"),
)
VS_1_4 = VS.pack(mjr=1, mnr=4)
VS_2_0 = VS.pack(mjr=2, mnr=0)
VS_2_1 = VS.pack(mjr=2, mnr=1)

CC = BitLayout(
    "CC",
    32,
    Reg.CC.clause,
    bit("en", 1, "Enable"),
    bit("rsvd1", 3),
    bit(
        "css",
        3,
        "I/O Command Set Selected",
        {0: "NVM Command Set", 6: "all supported I/O command sets", 7: "Admin Command Set only"},
    ),
    bit("mps", 4, "Memory Page Size (4 KiB << MPS)"),
    bit(
        "ams",
        3,
        "Arbitration Mechanism Selected",
        {0: "round robin", 1: "weighted round robin with urgent class", 7: "vendor specific"},
    ),
    bit("shn", 2, "Shutdown Notification", {0: "none", 1: "normal", 2: "abrupt", 3: "reserved"}),
    bit("iosqes", 4, "I/O Submission Queue Entry Size (log2)"),
    bit("iocqes", 4, "I/O Completion Queue Entry Size (log2)"),
    bit("crime", 1, "Controller Ready Independent of Media Enable"),
    bit("rsvd25", 7),
)
CC_EN = CC.mask("en")
CC_SHN = CC.mask("shn")
# Values of single fields of CC, not in place.
CC_CSS_NVM = 0
CC_CSS_IOCS = 6
CC_CSS_ADMIN = 7
CAP_AMS_WRR = 1  # in CAP.AMS
CC_AMS_RR = 0
CC_AMS_WRR = 1
CC_AMS_VENDOR = 7
CC_SHN_NONE = 0
CC_SHN_NORMAL = 1
CC_SHN_ABRUPT = 2

CSTS = BitLayout(
    "CSTS",
    32,
    Reg.CSTS.clause,
    bit("rdy", 1, "Ready"),
    bit("cfs", 1, "Controller Fatal Status"),
    bit(
        "shst",
        2,
        "Shutdown Status",
        {0: "normal operation", 1: "shutdown processing occurring", 2: "shutdown complete", 3: "reserved"},
    ),
    bit("nssro", 1, "NVM Subsystem Reset Occurred"),
    bit("pp", 1, "Processing Paused"),
    bit("st", 1, "Shutdown Type", {0: "controller shutdown", 1: "NVM subsystem shutdown"}),
    bit("rsvd7", 25),
)
CSTS_RDY = CSTS.mask("rdy")
CSTS_CFS = CSTS.mask("cfs")
CSTS_SHST = CSTS.mask("shst")
CSTS_NSSRO = CSTS.mask("nssro")
CSTS_PP = CSTS.mask("pp")
CSTS_ST = CSTS.mask("st")
# Values of CSTS.SHST, not in place.
CSTS_SHST_NORMAL = 0
CSTS_SHST_OCCURRING = 1
CSTS_SHST_COMPLETE = 2

AQA = BitLayout(
    "AQA",
    32,
    Reg.AQA.clause,
    bit("asqs_z", 12, "Admin Submission Queue Size (zero-based)"),
    bit("rsvd12", 4),
    bit("acqs_z", 12, "Admin Completion Queue Size (zero-based)"),
    bit("rsvd28", 4),
)

CRTO = BitLayout(
    "CRTO",
    32,
    Reg.CRTO.clause,
    bit("crwmt", 16, "Controller Ready With Media Timeout (500 ms units)"),
    bit("crimt", 16, "Controller Ready Independent of Media Timeout (500 ms units)"),
)

CMBLOC = BitLayout(
    "CMBLOC",
    32,
    Reg.CMBLOC.clause,
    bit("bir", 3, "Base Indicator Register"),
    bit("cqmms", 1, "CMB Queue Mixed Memory Support"),
    bit("cqpds", 1, "CMB Queue Physically Discontiguous Support"),
    bit("cdpmls", 1, "CMB Data Pointer Mixed Locations Support"),
    bit("cdpcils", 1, "CMB Data Pointer and Command Independent Locations Support"),
    bit("cdmmms", 1, "CMB Data Metadata Mixed Memory Support"),
    bit("cqda", 1, "CMB Queue Dword Alignment"),
    bit("rsvd9", 3),
    bit("ofst", 20, "Offset (in units of CMBSZ.SZU)"),
)
CMBSZ = BitLayout(
    "CMBSZ",
    32,
    Reg.CMBSZ.clause,
    bit("sqs", 1, "Submission Queue Support"),
    bit("cqs", 1, "Completion Queue Support"),
    bit("lists", 1, "PRP SGL List Support"),
    bit("rds", 1, "Read Data Support"),
    bit("wds", 1, "Write Data Support"),
    bit("rsvd5", 3),
    bit("szu", 4, "Size Units", {0: "4 KiB", 1: "64 KiB", 2: "1 MiB", 3: "16 MiB", 4: "256 MiB", 5: "4 GiB"}),
    bit("sz", 20, "Size (in units of SZU)"),
)
CMBMSC = BitLayout(
    "CMBMSC",
    64,
    Reg.CMBMSC.clause,
    bit("cre", 1, "Capabilities Registers Enabled"),
    bit("cmse", 1, "Controller Memory Space Enable"),
    bit("rsvd2", 10),
    bit("cba", 52, "Controller Base Address (bits 63:12)"),
)
CMBSTS = BitLayout(
    "CMBSTS", 32, Reg.CMBSTS.clause, bit("cbai", 1, "Controller Base Address Invalid"), bit("rsvd1", 31)
)
BPINFO = BitLayout(
    "BPINFO",
    32,
    Reg.BPINFO.clause,
    bit("bpsz", 15, "Boot Partition Size (128 KiB units)"),
    bit("rsvd15", 9),
    bit("brs", 2, "Boot Read Status", {0: "none requested", 1: "in progress", 2: "completed", 3: "error"}),
    bit("rsvd26", 5),
    bit("abpid", 1, "Active Boot Partition ID"),
)
BPRSEL = BitLayout(
    "BPRSEL",
    32,
    Reg.BPRSEL.clause,
    bit("bprsz", 10, "Boot Partition Read Size (4 KiB units)"),
    bit("bprof", 20, "Boot Partition Read Offset (4 KiB units)"),
    bit("rsvd30", 1),
    bit("bpid", 1, "Boot Partition Identifier"),
)
PMRCAP = BitLayout(
    "PMRCAP",
    32,
    Reg.PMRCAP.clause,
    bit("rsvd0", 3),
    bit("rds", 1, "Read Data Support"),
    bit("wds", 1, "Write Data Support"),
    bit("bir", 3, "Base Indicator Register"),
    bit("pmrtu", 2, "PMR Time Units", {0: "500 milliseconds", 1: "minutes"}),
    bit("pmrwbm", 4, "PMR Write Barrier Mechanisms"),
    bit("rsvd14", 2),
    bit("pmrto", 8, "PMR Timeout (in units of PMRTU)"),
    bit("cmss", 1, "Controller Memory Space Supported"),
    bit("rsvd25", 7),
)
PMRCTL = BitLayout("PMRCTL", 32, Reg.PMRCTL.clause, bit("en", 1, "Enable"), bit("rsvd1", 31))
PMRSTS = BitLayout(
    "PMRSTS",
    32,
    Reg.PMRSTS.clause,
    bit("err", 8, "Error"),
    bit("nrdy", 1, "Not Ready"),
    bit("hsts", 3, "Health Status", {0: "normal", 1: "restore error", 2: "read only", 3: "unreliable"}),
    bit("cbai", 1, "Controller Base Address Invalid"),
    bit("rsvd13", 19),
)

# The registers that are divided into fields; the others hold one value.
REGISTER_BITS: dict[Reg, BitLayout] = {
    Reg.CAP: CAP,
    Reg.VS: VS,
    Reg.CC: CC,
    Reg.CSTS: CSTS,
    Reg.AQA: AQA,
    Reg.CRTO: CRTO,
    Reg.CMBLOC: CMBLOC,
    Reg.CMBSZ: CMBSZ,
    Reg.CMBMSC: CMBMSC,
    Reg.CMBSTS: CMBSTS,
    Reg.CMBEBS: CMBEBS,
    Reg.CMBSWTP: CMBSWTP,
    Reg.BPINFO: BPINFO,
    Reg.BPRSEL: BPRSEL,
    Reg.PMRCAP: PMRCAP,
    Reg.PMRCTL: PMRCTL,
    Reg.PMRSTS: PMRSTS,
    Reg.PMREBS: PMREBS,
    Reg.PMRSWTP: PMRSWTP,
    Reg.PMRMSCL: PMRMSCL,
    Reg.PMRMSCU: PMRMSCU,
}
assert all(layout.nbits == 8 * reg.size for reg, layout in REGISTER_BITS.items())

# One MSI-X table entry: message address, message data, vector control.
MSIX_ENTRY = struct.Struct("<QII")
MSIX_ENTRY_SIZE = 16
MSIX_ENTRY_MASKED = 1 << 0  # in vector control
MSIX_VECTORS_MAX = 2048
assert MSIX_ENTRY.size == MSIX_ENTRY_SIZE


class Doorbell(NamedTuple):
    """Which doorbell an offset is: a submission queue's tail or a completion queue's head."""

    qid: int
    is_cq: bool


def doorbell_stride(dstrd: int) -> int:
    """Bytes between one doorbell and the next for CAP.DSTRD."""
    return 4 << dstrd


def doorbell_offset(qid: int, is_cq: bool, dstrd: int = 0) -> int:
    """BAR0 offset of a queue's doorbell: 1000h + (2 * QID + is_cq) * (4 << DSTRD)."""
    return int(Reg.DOORBELLS) + (2 * qid + (1 if is_cq else 0)) * (4 << dstrd)


def doorbell_at(offset: int, dstrd: int = 0) -> Doorbell | None:
    """The doorbell at a BAR0 offset; None below the doorbells or between two of them."""
    index, rest = divmod(offset - int(Reg.DOORBELLS), 4 << dstrd)
    if index < 0 or rest:
        return None
    return Doorbell(index // 2, bool(index % 2))


def register_at(offset: int) -> tuple[Reg, int] | None:
    """The register that holds the byte at a BAR0 offset, and the byte's place in it.

    None where the specification defines none; a doorbell is `doorbell_at`'s to find.
    """
    return _REGISTER_BYTES.get(offset)


def cc_page_size(cc: int) -> int:
    """The host's memory page size in bytes, from a value of CC."""
    return 1 << (PAGE_SIZE_SHIFT_BASE + CC["mps"].extract(cc))


_REGISTER_BYTES = {
    int(reg) + byte: (reg, byte) for reg in Reg if reg is not Reg.DOORBELLS for byte in range(reg.size)
}
