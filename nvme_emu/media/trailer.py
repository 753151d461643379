"""The block behind the data of an image file that says that the file is one of ours.

The data starts at offset 0, so that other tools can use the file as a raw disk. Behind the last byte of
data follows one block of 4096 bytes (integers little-endian, the rest of the block zeroes):

    offset  size  field
         0     8  magic, "NVMEEMU\\n"
         8     4  version of this layout, 1
        12     4  logical block size in bytes
        16     8  bytes of data in front of the trailer
        24    16  UUID of the image
        40     4  CRC-32 (zlib) of the 40 bytes in front of it
        64  2016  first state slot
      2080  2016  second state slot

A state slot holds what the device remembers besides its data (namespaces, saved features, firmware …; the controller
says what is in it). The two are written in turn, so that a write that is torn leaves the one before:

         0     4  magic, "STAT"
         4     4  sequence number; the valid slot with the higher one counts
         8     4  bytes of contents
        12     4  CRC-32 (zlib) of the 12 bytes in front of it and the contents
        16  2000  contents (zlib), then zeroes
"""

from __future__ import annotations

import struct
import uuid
import zlib
from typing import NamedTuple

__all__ = [
    "SLOT_BYTES",
    "STATE_BYTES_MAX",
    "TRAILER_BYTES",
    "Trailer",
    "TrailerError",
    "build_state",
    "foreign_format",
    "newest_state",
]

TRAILER_BYTES = 4096
MAGIC = b"NVMEEMU\n"
VERSION = 1

_FIELDS = struct.Struct("<8sIIQ16s")
_CHECKSUM = struct.Struct("<I")

SLOTS = (64, 2080)
SLOT_BYTES = 2016
STATE_BYTES_MAX = 2000
"""Compressed bytes of state that a slot holds."""
_STATE_MAGIC = b"STAT"
_STATE = struct.Struct("<4sIII")

# (offset, bytes there, name) of what people try to open by mistake.
FOREIGN_FORMATS = (
    (0, b"QFI\xfb", "a qcow2 image"),
    (0, b"QED\0", "a QED image"),
    (0, b"KDMV", "a VMDK image"),
    (0, b"# Disk DescriptorFile", "a VMDK descriptor"),
    (0, b"vhdxfile", "a VHDX image"),
    (0, b"conectix", "a VHD image"),
    (0x40, b"\x7f\x10\xda\xbe", "a VDI image"),
    (0x8001, b"CD001", "an ISO 9660 image"),
    (0, b"\x1f\x8b", "gzip data"),
    (0, b"\x28\xb5\x2f\xfd", "zstd data"),
    (0, b"\xfd7zXZ\0", "xz data"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"\x7fELF", "an ELF file"),
)
FOREIGN_PROBE_BYTES = 0x8008


class TrailerError(ValueError):
    """A block is no valid trailer; the message says why."""


class Trailer(NamedTuple):
    """What the trailer says: bytes of data, bytes in a logical block, the image's UUID."""

    data_nbytes: int
    lba_size: int
    uuid: uuid.UUID

    def build(self) -> bytes:
        """The trailer's 4096 bytes."""
        fields = _FIELDS.pack(MAGIC, VERSION, self.lba_size, self.data_nbytes, self.uuid.bytes)
        return (fields + _CHECKSUM.pack(zlib.crc32(fields))).ljust(TRAILER_BYTES, b"\0")

    @classmethod
    def parse(cls, block: bytes) -> Trailer:
        """The trailer in a block of 4096 bytes. Raises TrailerError."""
        if len(block) != TRAILER_BYTES:
            raise TrailerError(f"it has {len(block)} bytes and not {TRAILER_BYTES}")
        magic, version, lba_size, data_nbytes, identifier = _FIELDS.unpack_from(block)
        if magic != MAGIC:
            raise TrailerError("it does not end with the trailer of an nvme-emu image")
        (checksum,) = _CHECKSUM.unpack_from(block, _FIELDS.size)
        expected = zlib.crc32(block[: _FIELDS.size])
        if checksum != expected:
            raise TrailerError(f"its trailer's checksum is {checksum:#010x} and must be {expected:#010x}")
        if version != VERSION:
            raise TrailerError(f"its trailer has version {version}, this program knows version {VERSION}")
        return cls(data_nbytes, lba_size, uuid.UUID(bytes=identifier))


def build_state(sequence: int, contents: bytes) -> tuple[int, bytes]:
    """(offset in the trailer, the slot) for contents. ValueError when they do not fit."""
    packed = zlib.compress(contents, 9)
    if len(packed) > STATE_BYTES_MAX:
        raise ValueError(f"a state of {len(packed)} compressed bytes does not fit in {STATE_BYTES_MAX}")
    head = struct.pack("<4sII", _STATE_MAGIC, sequence, len(packed))
    slot = head + _CHECKSUM.pack(zlib.crc32(head + packed)) + packed
    return SLOTS[sequence % len(SLOTS)], slot.ljust(SLOT_BYTES, b"\0")


def newest_state(block: bytes) -> tuple[int, bytes] | None:
    """(sequence, contents) of the newest good slot of a trailer; None when there is none."""
    found: list[tuple[int, bytes]] = []
    for offset in SLOTS:
        magic, sequence, length, checksum = _STATE.unpack_from(block, offset)
        packed = block[offset + _STATE.size : offset + _STATE.size + length]
        head = block[offset : offset + _STATE.size - _CHECKSUM.size]
        if magic != _STATE_MAGIC or length > STATE_BYTES_MAX or zlib.crc32(head + packed) != checksum:
            continue
        try:
            found.append((sequence, zlib.decompress(packed)))
        except zlib.error:
            continue
    return max(found, default=None)


def foreign_format(head: bytes) -> str | None:
    """The name of the format that a file starts with, where it is a well-known one."""
    for offset, signature, name in FOREIGN_FORMATS:
        if head[offset : offset + len(signature)] == signature:
            return name
    return None
