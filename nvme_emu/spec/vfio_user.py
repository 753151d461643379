"""vfio-user 0.x: a PCI device in another process, over a UNIX socket (QEMU's docs/interop/vfio-user).

A message is a 16-byte header and a payload, in the machine's byte order (little-endian here). Each command is
answered by a reply with its id, unless its No_reply flag is set; a reply with the Error flag is the header
alone, with an errno. File descriptors travel beside the bytes (SCM_RIGHTS).

The structures are declared once; `HEADER` and `REGION_ACCESS` are the scalar gait for the two that come with
every register access.
"""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag

from .base import Structure, rsvd, u16, u32, u64

__all__ = [
    "DEFAULT_DATA_BYTES_MAX",
    "DEFAULT_DMA_MAPS_MAX",
    "DEFAULT_MSG_FDS_MAX",
    "DEFAULT_PAGE_SIZES",
    "DEVICE_INFO",
    "DMA_ACCESS",
    "DMA_ACCESS_SCALAR",
    "DMA_MAP",
    "DMA_UNMAP",
    "HEADER",
    "HEADER_BYTES",
    "IRQ_INFO",
    "IRQ_SET",
    "MAJOR",
    "MESSAGE_HEADER",
    "MINOR",
    "REGION_ACCESS",
    "REGION_ACCESS_BYTES",
    "REGION_ACCESS_STRUCTURE",
    "REGION_INFO",
    "REGION_IO_FDS",
    "SPARSE_AREA",
    "SPARSE_MMAP",
    "SPARSE_MMAP_ID",
    "TYPE_MASK",
    "VERSION",
    "WRITE_MULTI_COUNT",
    "WRITE_MULTI_ITEM",
    "WRITE_MULTI_ITEM_BYTES",
    "Command",
    "DeviceFlag",
    "DmaFlag",
    "IrqIndex",
    "IrqInfoFlag",
    "IrqSetFlag",
    "MessageFlag",
    "RegionFlag",
    "RegionIndex",
    "command_name",
]

MAJOR, MINOR = 0, 1

# What holds when the version data does not say otherwise.
DEFAULT_MSG_FDS_MAX = 1
DEFAULT_DATA_BYTES_MAX = 1 << 20
DEFAULT_DMA_MAPS_MAX = 65535
DEFAULT_PAGE_SIZES = 4096

_DOC = "vfio-user"


class Command(IntEnum):
    """What a message asks. DMA_READ and DMA_WRITE go from the server to the client."""

    VERSION = 1
    DMA_MAP = 2
    DMA_UNMAP = 3
    DEVICE_GET_INFO = 4
    DEVICE_GET_REGION_INFO = 5
    DEVICE_GET_REGION_IO_FDS = 6
    DEVICE_GET_IRQ_INFO = 7
    DEVICE_SET_IRQS = 8
    REGION_READ = 9
    REGION_WRITE = 10
    DMA_READ = 11
    DMA_WRITE = 12
    DEVICE_RESET = 13
    REGION_WRITE_MULTI = 15
    DEVICE_FEATURE = 16
    MIG_DATA_READ = 17
    MIG_DATA_WRITE = 18


def command_name(value: int) -> str:
    """A command's name; unknown ones are values."""
    return Command(value).name if value in Command._value2member_map_ else f"command {value}"


TYPE_MASK = 0xF


class MessageFlag(IntFlag):
    """Header flags. Bits 3:0 are the type: 0 a command, 1 a reply."""

    COMMAND = 0
    REPLY = 1
    NO_REPLY = 1 << 4
    ERROR = 1 << 5


MESSAGE_HEADER = Structure(
    "MESSAGE_HEADER", 16, _DOC, "id" / u16, "command" / u16, "size" / u32, "flags" / u32, "error" / u32
)
HEADER = struct.Struct("<HHIII")
HEADER_BYTES = HEADER.size
assert MESSAGE_HEADER.size == HEADER_BYTES

VERSION = Structure("VERSION", 4, _DOC, "major" / u16, "minor" / u16)


class DmaFlag(IntFlag):
    """What the device may do with mapped memory; and, in DMA_UNMAP, that everything goes."""

    READ = 1 << 0
    WRITE = 1 << 1
    UNMAP_ALL = 1 << 1


DMA_MAP = Structure(
    "DMA_MAP", 32, _DOC, "argsz" / u32, "flags" / u32, "offset" / u64, "address" / u64, "size" / u64
)
DMA_UNMAP = Structure("DMA_UNMAP", 24, _DOC, "argsz" / u32, "flags" / u32, "address" / u64, "size" / u64)


class DeviceFlag(IntFlag):
    """What kind of device it is."""

    RESET = 1 << 0
    PCI = 1 << 1


DEVICE_INFO = Structure(
    "DEVICE_INFO", 16, _DOC, "argsz" / u32, "flags" / u32, "num_regions" / u32, "num_irqs" / u32
)


class RegionIndex(IntEnum):
    """The regions of a PCI device (enum of <linux/vfio.h>)."""

    BAR0 = 0
    BAR1 = 1
    BAR2 = 2
    BAR3 = 3
    BAR4 = 4
    BAR5 = 5
    ROM = 6
    CONFIG = 7
    VGA = 8


class RegionFlag(IntFlag):
    """What can be done with a region."""

    READ = 1 << 0
    WRITE = 1 << 1
    MMAP = 1 << 2
    CAPS = 1 << 3


REGION_INFO = Structure(
    "REGION_INFO",
    32,
    _DOC,
    "argsz" / u32,
    "flags" / u32,
    "index" / u32,
    "cap_offset" / u32,
    "size" / u64,
    "offset" / u64,
)

# struct vfio_region_info_cap_sparse_mmap with its header; `areas` of SPARSE_AREA follow.
SPARSE_MMAP = Structure(
    "SPARSE_MMAP",
    16,
    "<linux/vfio.h>",
    "id" / u16,
    "version" / u16,
    "next" / u32,
    "nr_areas" / u32,
    rsvd(12, 4),
)
SPARSE_MMAP_ID = 1
SPARSE_AREA = Structure("SPARSE_AREA", 16, "<linux/vfio.h>", "offset" / u64, "size" / u64)

REGION_IO_FDS = Structure(
    "REGION_IO_FDS", 16, _DOC, "argsz" / u32, "flags" / u32, "index" / u32, "count" / u32
)


class IrqIndex(IntEnum):
    """The kinds of interrupts of a PCI device (enum of <linux/vfio.h>)."""

    INTX = 0
    MSI = 1
    MSIX = 2
    ERR = 3
    REQ = 4


class IrqInfoFlag(IntFlag):
    """What can be done with a kind of interrupt."""

    EVENTFD = 1 << 0
    MASKABLE = 1 << 1
    AUTOMASKED = 1 << 2
    NORESIZE = 1 << 3


IRQ_INFO = Structure("IRQ_INFO", 16, _DOC, "argsz" / u32, "flags" / u32, "index" / u32, "count" / u32)


class IrqSetFlag(IntFlag):
    """One kind of data and one action."""

    DATA_NONE = 1 << 0
    DATA_BOOL = 1 << 1
    DATA_EVENTFD = 1 << 2
    ACTION_MASK = 1 << 3
    ACTION_UNMASK = 1 << 4
    ACTION_TRIGGER = 1 << 5


IRQ_SET = Structure(
    "IRQ_SET",
    20,
    _DOC,
    "argsz" / u32,
    "flags" / u32,
    "index" / u32,
    "start" / u32,
    "count" / u32,
)

REGION_ACCESS_STRUCTURE = Structure("REGION_ACCESS", 16, _DOC, "offset" / u64, "region" / u32, "count" / u32)
REGION_ACCESS = struct.Struct("<QII")
REGION_ACCESS_BYTES = REGION_ACCESS.size
assert REGION_ACCESS_STRUCTURE.size == REGION_ACCESS_BYTES

DMA_ACCESS = Structure("DMA_ACCESS", 16, _DOC, "address" / u64, "count" / u64)
DMA_ACCESS_SCALAR = struct.Struct("<QQ")
assert DMA_ACCESS_SCALAR.size == DMA_ACCESS.size

# REGION_WRITE_MULTI: a count, then items of (offset, region, count, data in 8 bytes).
WRITE_MULTI_COUNT = struct.Struct("<Q")
WRITE_MULTI_ITEM = struct.Struct("<QII8s")
WRITE_MULTI_ITEM_BYTES = WRITE_MULTI_ITEM.size
