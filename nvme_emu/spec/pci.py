"""PCI configuration space: the type 0 header and the capabilities an NVMe function needs.

Facts are from the PCI Express Base Specification (7.5 configuration space, 7.7.2 MSI-X, 7.9.3 Device Serial
Number) and the NVMe PCIe Transport 1.1, clause 3.8 (which values an NVMe function shows). An NVMe function
maps its properties with BAR0 and BAR1 as one 64-bit address.

    header ──capabilities pointer──► capability ──next──► … ──next──► 0        (the first 256 bytes)
    100h: extended capability ──next──► …                                       (PCI Express: up to 4096 bytes)
"""

from __future__ import annotations

from enum import IntEnum

from .base import Structure, raw, rsvd, table, u8, u16, u24, u32, u64
from .bits import BitLayout, bit
from .registers import MSIX_ENTRY_SIZE

__all__ = [
    "BAR_64BIT",
    "BAR_PREFETCHABLE",
    "BARS",
    "CLASS_NVME",
    "COMMAND",
    "CONFIG_BYTES",
    "CONFIG_BYTES_CONVENTIONAL",
    "DEVICE_CAP",
    "DEVICE_CONTROL",
    "DEVICE_SERIAL_NUMBER",
    "EXPRESS_CAP",
    "EXPRESS_CAPABILITY",
    "HEADER_TYPE0",
    "LINK_CAP",
    "LINK_STATUS",
    "MSIX_CAPABILITY",
    "MSIX_CONTROL",
    "MSIX_PLACE",
    "PM_CAP",
    "PM_CAPABILITY",
    "PM_CONTROL",
    "STATUS",
    "CapId",
    "ExtCapId",
    "Header",
    "bar_mask",
    "msix_pba_bytes",
    "msix_table_bytes",
]

CONFIG_BYTES = 4096
CONFIG_BYTES_CONVENTIONAL = 256
BARS = 6

CLASS_NVME = 0x010802
"""Mass storage, non-volatile memory, NVM Express I/O controller."""

BAR_64BIT = 0b100
"""Bits 3:0 of a memory BAR: 64-bit address, not prefetchable."""
BAR_PREFETCHABLE = 0b1000
"""Bit 3: loads have no effect, as of memory."""


class CapId(IntEnum):
    """Capability identifiers."""

    POWER_MANAGEMENT = 0x01
    EXPRESS = 0x10
    MSIX = 0x11


class ExtCapId(IntEnum):
    """Extended capability identifiers."""

    DEVICE_SERIAL_NUMBER = 0x0003


COMMAND = BitLayout(
    "COMMAND",
    16,
    "PCIe 7.5.1.1.3",
    bit("iose", 1, "I/O Space Enable"),
    bit("mse", 1, "Memory Space Enable"),
    bit("bme", 1, "Bus Master Enable"),
    bit("sce", 1, "Special Cycle Enable"),
    bit("mwie", 1, "Memory Write and Invalidate Enable"),
    bit("vga", 1, "VGA Palette Snooping Enable"),
    bit("pee", 1, "Parity Error Response Enable"),
    bit("rsvd7", 1),
    bit("see", 1, "SERR# Enable"),
    bit("fbe", 1, "Fast Back-to-Back Enable"),
    bit("id", 1, "Interrupt Disable"),
    bit("rsvd11", 5),
)

STATUS = BitLayout(
    "STATUS",
    16,
    "PCIe 7.5.1.1.4",
    bit("rsvd0", 3),
    bit("is_", 1, "Interrupt Status"),
    bit("cl", 1, "Capabilities List"),
    bit("c66", 1, "66 MHz Capable"),
    bit("rsvd6", 1),
    bit("fbc", 1, "Fast Back-to-Back Capable"),
    bit("dpd", 1, "Master Data Parity Error Detected"),
    bit("devt", 2, "DEVSEL# Timing"),
    bit("sta", 1, "Signalled Target-Abort"),
    bit("rta", 1, "Received Target-Abort"),
    bit("rma", 1, "Received Master-Abort"),
    bit("sse", 1, "Signalled System Error"),
    bit("dpe", 1, "Detected Parity Error"),
)

HEADER_TYPE0 = Structure(
    "HEADER_TYPE0",
    64,
    "PCIe 7.5.1",
    "vid" / u16,
    "did" / u16,
    "cmd" / u16,
    "sts" / u16,
    "rid" / u8,
    "cc" / u24,
    "cls" / u8,
    "mlt" / u8,
    "htype" / u8,
    "bist" / u8,
    "bar" / table(BARS, u32),
    "ccptr" / u32,
    "ssvid" / u16,
    "ssid" / u16,
    "erom" / u32,
    "cap" / u8,
    rsvd(53, 7),
    "iline" / u8,
    "ipin" / u8,
    "mgnt" / u8,
    "mlat" / u8,
    bits={"cmd": COMMAND, "sts": STATUS},
)


class Header(IntEnum):
    """Where the fields that change stand in the header."""

    CMD = 0x04
    STS = 0x06
    CLS = 0x0C
    BAR0 = 0x10
    CAP = 0x34
    ILINE = 0x3C


assert all(HEADER_TYPE0.offset_of("bar" if m is Header.BAR0 else m.name.lower()) == m for m in Header)

PM_CAP = BitLayout(
    "PM_CAP",
    16,
    "PCIe 7.5.2.1",
    bit("vs", 3, "Version"),
    bit("pmec", 1, "PME Clock"),
    bit("rsvd4", 1),
    bit("dsi", 1, "Device Specific Initialization"),
    bit("auxc", 3, "Aux Current"),
    bit("d1s", 1, "D1 Support"),
    bit("d2s", 1, "D2 Support"),
    bit("psup", 5, "PME Support"),
)

PM_CONTROL = BitLayout(
    "PM_CONTROL",
    16,
    "PCIe 7.5.2.2",
    bit("ps", 2, "Power State", {0: "D0", 3: "D3hot"}),
    bit("rsvd2", 1),
    bit("nsfrst", 1, "No Soft Reset"),
    bit("rsvd4", 4),
    bit("pmee", 1, "PME Enable"),
    bit("dse", 4, "Data Select"),
    bit("dsc", 2, "Data Scale"),
    bit("pmes", 1, "PME Status"),
)

PM_CAPABILITY = Structure(
    "PM_CAPABILITY",
    8,
    "PCIe 7.5.2",
    "id" / u8,
    "next" / u8,
    "pc" / u16,
    "pmcs" / u16,
    rsvd(6, 2),
    bits={"pc": PM_CAP, "pmcs": PM_CONTROL},
)

MSIX_CONTROL = BitLayout(
    "MSIX_CONTROL",
    16,
    "PCIe 7.7.2.2",
    bit("ts_z", 11, "Table Size, zero-based"),
    bit("rsvd11", 3),
    bit("fm", 1, "Function Mask"),
    bit("mxe", 1, "MSI-X Enable"),
)

MSIX_PLACE = BitLayout(
    "MSIX_PLACE",
    32,
    "PCIe 7.7.2.3",
    bit("bir", 3, "BAR that holds the table (or the pending bits)"),
    bit("offset", 29, "Offset in it, in units of 8 bytes"),
)

MSIX_CAPABILITY = Structure(
    "MSIX_CAPABILITY",
    12,
    "PCIe 7.7.2",
    "id" / u8,
    "next" / u8,
    "mxc" / u16,
    "mtab" / u32,
    "mpba" / u32,
    bits={"mxc": MSIX_CONTROL, "mtab": MSIX_PLACE, "mpba": MSIX_PLACE},
)


def msix_table_bytes(vectors: int) -> int:
    """Bytes of an MSI-X table with that many vectors."""
    return vectors * MSIX_ENTRY_SIZE


def msix_pba_bytes(vectors: int) -> int:
    """Bytes of its pending bit array: whole 64-bit words."""
    return -(-vectors // 64) * 8


EXPRESS_CAP = BitLayout(
    "EXPRESS_CAP",
    16,
    "PCIe 7.5.3.2",
    bit("ver", 4, "Capability Version"),
    bit("dpt", 4, "Device/Port Type", {0: "PCI Express Endpoint"}),
    bit("si", 1, "Slot Implemented"),
    bit("imn", 5, "Interrupt Message Number"),
    bit("rsvd14", 2),
)

DEVICE_CAP = BitLayout(
    "DEVICE_CAP",
    32,
    "PCIe 7.5.3.3",
    bit("mps", 3, "Max_Payload_Size Supported", {0: "128 bytes", 1: "256 bytes"}),
    bit("pfs", 2, "Phantom Functions Supported"),
    bit("etfs", 1, "Extended Tag Field Supported"),
    bit("l0sl", 3, "Endpoint L0s Acceptable Latency"),
    bit("l1l", 3, "Endpoint L1 Acceptable Latency"),
    bit("rsvd12", 3),
    bit("rer", 1, "Role-Based Error Reporting"),
    bit("rsvd16", 2),
    bit("csplv", 8, "Captured Slot Power Limit Value"),
    bit("cspls", 2, "Captured Slot Power Limit Scale"),
    bit("flrc", 1, "Function Level Reset Capability"),
    bit("rsvd29", 3),
)

DEVICE_CONTROL = BitLayout(
    "DEVICE_CONTROL",
    16,
    "PCIe 7.5.3.4",
    bit("cere", 1, "Correctable Error Reporting Enable"),
    bit("nfere", 1, "Non-Fatal Error Reporting Enable"),
    bit("fere", 1, "Fatal Error Reporting Enable"),
    bit("urre", 1, "Unsupported Request Reporting Enable"),
    bit("ero", 1, "Enable Relaxed Ordering"),
    bit("mps", 3, "Max_Payload_Size"),
    bit("ete", 1, "Extended Tag Enable"),
    bit("pfe", 1, "Phantom Functions Enable"),
    bit("appme", 1, "Aux Power PM Enable"),
    bit("ens", 1, "Enable No Snoop"),
    bit("mrrs", 3, "Max_Read_Request_Size", {2: "512 bytes"}),
    bit("iflr", 1, "Initiate Function Level Reset"),
)

LINK_CAP = BitLayout(
    "LINK_CAP",
    32,
    "PCIe 7.5.3.6",
    bit("sls", 4, "Max Link Speed", {3: "8 GT/s"}),
    bit("mlw", 6, "Maximum Link Width"),
    bit("aspms", 2, "ASPM Support"),
    bit("l0sel", 3, "L0s Exit Latency"),
    bit("l1el", 3, "L1 Exit Latency"),
    bit("cpm", 1, "Clock Power Management"),
    bit("sderc", 1, "Surprise Down Error Reporting Capable"),
    bit("dllla", 1, "Data Link Layer Link Active Reporting Capable"),
    bit("lbnc", 1, "Link Bandwidth Notification Capability"),
    bit("aoc", 1, "ASPM Optionality Compliance"),
    bit("rsvd23", 1),
    bit("pn", 8, "Port Number"),
)

LINK_STATUS = BitLayout(
    "LINK_STATUS",
    16,
    "PCIe 7.5.3.8",
    bit("cls", 4, "Current Link Speed"),
    bit("nlw", 6, "Negotiated Link Width"),
    bit("rsvd10", 1),
    bit("lt", 1, "Link Training"),
    bit("scc", 1, "Slot Clock Configuration"),
    bit("dllla", 1, "Data Link Layer Link Active"),
    bit("lbms", 1, "Link Bandwidth Management Status"),
    bit("labs", 1, "Link Autonomous Bandwidth Status"),
)

EXPRESS_CAPABILITY = Structure(
    "EXPRESS_CAPABILITY",
    60,
    "PCIe 7.5.3",
    "id" / u8,
    "next" / u8,
    "pxcap" / u16,
    "pxdcap" / u32,
    "pxdc" / u16,
    "pxds" / u16,
    "pxlcap" / u32,
    "pxlc" / u16,
    "pxls" / u16,
    "slots" / raw(16),
    "pxdcap2" / u32,
    "pxdc2" / u16,
    "pxds2" / u16,
    "pxlcap2" / u32,
    "pxlc2" / u16,
    "pxls2" / u16,
    "slots2" / raw(8),
    bits={
        "pxcap": EXPRESS_CAP,
        "pxdcap": DEVICE_CAP,
        "pxdc": DEVICE_CONTROL,
        "pxlcap": LINK_CAP,
        "pxls": LINK_STATUS,
    },
)

DEVICE_SERIAL_NUMBER = Structure(
    "DEVICE_SERIAL_NUMBER",
    12,
    "PCIe 7.9.3",
    "header" / u32,
    "dsn" / u64,
)


def bar_mask(nbytes: int) -> int:
    """The writable bits of a BAR for a region of that size (a power of two): what sizing reads back."""
    return ~(nbytes - 1) & 0xFFFF_FFFF_FFFF_FFF0
