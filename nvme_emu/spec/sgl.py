"""SGL descriptors (NVMe Base 2.1, clause 4.3.2).

    byte    Data Block, Segment, Last Segment           Bit Bucket
     0..7   address of the data or of the segment       reserved
     8..11  length in bytes                             length in bytes
    12..14  reserved                                    reserved
    15      SGL identifier: type in bits 7:4, subtype in bits 3:0

A segment is an array of descriptors. Only its last one may point at another segment; a Last Segment descriptor
says that the segment it points at contains no further pointer.
"""

from __future__ import annotations

import struct
from typing import Final

from .words import Worded

__all__ = [
    "SGL_BIT_BUCKET",
    "SGL_BYTES",
    "SGL_DATA_BLOCK",
    "SGL_DESCRIPTOR",
    "SGL_IN_CAPSULE",
    "SGL_LAST_SEGMENT",
    "SGL_SEGMENT",
    "SGL_TRANSPORT",
    "SglSubtype",
    "SglType",
    "sgl_descriptor",
    "sgl_identifier",
    "sgl_words",
]


class SglType(Worded):
    """SGL Descriptor Type, bits 7:4 of the identifier."""

    DATA_BLOCK = 0x0, "Data Block"
    BIT_BUCKET = 0x1, "Bit Bucket"
    SEGMENT = 0x2, "Segment"
    LAST_SEGMENT = 0x3, "Last Segment"
    KEYED_DATA_BLOCK = 0x4, "Keyed Data Block"
    TRANSPORT_DATA_BLOCK = 0x5, "Transport Data Block"
    VENDOR = 0xF, "Vendor Specific"


class SglSubtype(Worded):
    """SGL Descriptor Sub Type, bits 3:0: what the address is."""

    ADDRESS = 0x0, "address"
    OFFSET = 0x1, "offset"
    TRANSPORT = 0xA, "transport specific"


# address (or offset), length, three reserved bytes, identifier
SGL_DESCRIPTOR = struct.Struct("<QI3xB")
SGL_BYTES: Final = 16
assert SGL_DESCRIPTOR.size == SGL_BYTES


def sgl_identifier(kind: int, subtype: int = SglSubtype.ADDRESS) -> int:
    """Byte 15 of a descriptor."""
    return kind << 4 | subtype


SGL_DATA_BLOCK: Final = sgl_identifier(SglType.DATA_BLOCK)
SGL_BIT_BUCKET: Final = sgl_identifier(SglType.BIT_BUCKET)
SGL_SEGMENT: Final = sgl_identifier(SglType.SEGMENT)
SGL_LAST_SEGMENT: Final = sgl_identifier(SglType.LAST_SEGMENT)
SGL_IN_CAPSULE: Final = sgl_identifier(SglType.DATA_BLOCK, SglSubtype.OFFSET)
"""The address is an offset into the capsule's data."""
SGL_TRANSPORT: Final = sgl_identifier(SglType.TRANSPORT_DATA_BLOCK, SglSubtype.TRANSPORT)
"""The transport brings or fetches the data."""


def sgl_descriptor(address: int, length: int, identifier: int = SGL_DATA_BLOCK) -> bytes:
    """The 16 bytes of a descriptor."""
    return SGL_DESCRIPTOR.pack(address, length, identifier)


def sgl_words(descriptor: bytes) -> str:
    """A descriptor in words: "Data Block 0x1000 +512"."""
    address, length, identifier = SGL_DESCRIPTOR.unpack(descriptor)
    kind = SglType.name_of(identifier >> 4) or f"type {identifier >> 4:X}h"
    subtype = identifier & 0xF
    of = "" if subtype == SglSubtype.ADDRESS else f" ({SglSubtype.name_of(subtype) or f'subtype {subtype:X}h'})"
    if identifier == SGL_BIT_BUCKET:
        return f"{kind} of {length} bytes"
    return f"{kind}{of} {address:#x} +{length}"
