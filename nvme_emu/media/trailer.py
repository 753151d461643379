"""What stands behind the data of an image file: two slots for the device's state, and a block that says what it is.

The data starts at offset 0, so that other tools can use the file as a raw disk. All integers are little-endian, and
what is not named is zero. Version 2 of the layout, with D the bytes of data rounded up to 4096:

    offset          size     what
    0               data     the logical blocks
    D               1 MiB    first state slot
    D + 1 MiB       1 MiB    second state slot
    D + 2 MiB       4096     the trailer; the file ends with it

The trailer is written once, when the image is made:

         0     8  magic, "NVMEEMU\\n"
         8     4  version of this layout
        12     4  logical block size in bytes
        16     8  bytes of data
        24    16  UUID of the image
        40     4  CRC-32 (zlib) of the 40 bytes in front of it

A state slot holds what the device remembers besides its data (namespaces, saved features, firmware …; the controller
says what is in it). The two are written in turn, so that a write that is torn leaves the one before. No block of
4096 bytes has bytes of two of these parts, so that no write to one of them makes the system write another again.

         0     4  magic, "STAT"
         4     4  CRC-32 (zlib) of what follows, to the end of the contents
         8     8  sequence number; the valid slot with the higher one counts
        16     4  bytes of contents, compressed
        20     4  bytes of contents
        24     …  contents (zlib)

A new image has a first slot with sequence number 0 and no contents. So one slot at least is good at any time, and an
image in which none is has been damaged.

Version 1, which is read and written as well, had it all in the trailer's block: its slots are the 2016 bytes from
64 and from 2080 on, with a head of magic, sequence number (4 bytes), bytes of contents compressed, CRC-32 of all else.
"""

from __future__ import annotations

import struct
import uuid
import zlib
from typing import Final, NamedTuple

__all__ = [
    "CONTENTS_BYTES_MAX",
    "TRAILER_BYTES",
    "VERSION",
    "Slot",
    "StateTooLargeError",
    "Trailer",
    "TrailerError",
    "build_slot",
    "foreign_format",
    "parse_slot",
]

TRAILER_BYTES: Final = 4096
VERSION: Final = 2
MAGIC: Final = b"NVMEEMU\n"

CONTENTS_BYTES_MAX: Final = 16 << 20
"""Bytes of state, not compressed: what a reader has to be ready for."""

_FIELDS = struct.Struct("<8sIIQ16s")
_CHECKSUM = struct.Struct("<I")

_SLOT_BYTES: Final = {1: 2016, 2: 1 << 20}
_STATE_MAGIC: Final = b"STAT"
_HEAD_1 = struct.Struct("<4sIII")
_HEAD_2 = struct.Struct("<4sIQII")
_CHECKED_FROM: Final = 8
_SEQUENCE_MAX_1: Final = 0xFFFF_FFFF

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


class StateTooLargeError(ValueError):
    """A state does not fit into a slot."""


class Trailer(NamedTuple):
    """What the trailer says: bytes of data, bytes in a logical block, the image's UUID, the layout's version."""

    data_nbytes: int
    lba_size: int
    uuid: uuid.UUID
    version: int = VERSION

    @property
    def slot_bytes(self) -> int:
        """Bytes of a state slot."""
        return _SLOT_BYTES[self.version]

    @property
    def slots(self) -> tuple[int, int]:
        """Where in the file the two state slots are."""
        first = self.data_nbytes + 64 if self.version == 1 else _round_up(self.data_nbytes)
        return first, first + self.slot_bytes

    @property
    def offset(self) -> int:
        """Where in the file the trailer is."""
        return self.data_nbytes if self.version == 1 else self.slots[1] + self.slot_bytes

    @property
    def file_bytes(self) -> int:
        """Bytes of the whole file."""
        return self.offset + TRAILER_BYTES

    def build(self) -> bytes:
        """The trailer's 4096 bytes."""
        fields = _FIELDS.pack(MAGIC, self.version, self.lba_size, self.data_nbytes, self.uuid.bytes)
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
        if version not in _SLOT_BYTES:
            raise TrailerError(f"its trailer has version {version}, this program knows versions 1 to {VERSION}")
        return cls(data_nbytes, lba_size, uuid.UUID(bytes=identifier), version)


def _round_up(nbytes: int) -> int:
    return -(-nbytes // TRAILER_BYTES) * TRAILER_BYTES


class Slot(NamedTuple):
    """What a state slot holds: its sequence number and the contents, not compressed; or why it is not good.

    `why` is "" for a good slot, "empty" for one that was never written.
    """

    sequence: int
    contents: bytes
    why: str = ""

    @property
    def good(self) -> bool:
        """Whether the contents are what was written."""
        return not self.why


def build_slot(version: int, sequence: int, contents: bytes) -> bytes:
    """The bytes to write at the start of a slot. StateTooLargeError where they do not fit, with what the bound is."""
    if len(contents) > CONTENTS_BYTES_MAX:
        raise StateTooLargeError(
            f"a state of {len(contents)} bytes is larger than the {CONTENTS_BYTES_MAX} that an image may have"
        )
    packed = zlib.compress(contents, 6)
    head = _HEAD_1 if version == 1 else _HEAD_2
    room = _SLOT_BYTES[version] - head.size
    if len(packed) > room or (version == 1 and sequence > _SEQUENCE_MAX_1):
        raise StateTooLargeError(f"a state of {len(packed)} compressed bytes does not fit in {room}")
    if version == 1:
        front = struct.pack("<4sII", _STATE_MAGIC, sequence, len(packed))
        return (front + _CHECKSUM.pack(zlib.crc32(front + packed)) + packed).ljust(_SLOT_BYTES[1], b"\0")
    checked = struct.pack("<QII", sequence, len(packed), len(contents)) + packed
    return _STATE_MAGIC + _CHECKSUM.pack(zlib.crc32(checked)) + checked


def parse_slot(version: int, slot: bytes) -> Slot:
    """What is in the bytes of a slot."""
    head = _HEAD_1 if version == 1 else _HEAD_2
    if not any(slot[: head.size]):
        return Slot(0, b"", "empty")
    if version == 1:
        magic, sequence, length, checksum = _HEAD_1.unpack_from(slot)
        size = CONTENTS_BYTES_MAX
    else:
        magic, checksum, sequence, length, size = _HEAD_2.unpack_from(slot)
    if magic != _STATE_MAGIC:
        return Slot(0, b"", f"its magic is {magic!r} and must be {_STATE_MAGIC!r}")
    if length > len(slot) - head.size or size > CONTENTS_BYTES_MAX:
        return Slot(0, b"", f"it says that it has {length} compressed bytes, and {size} in all: more than it may")
    packed = slot[head.size : head.size + length]
    if version == 1:
        expected = zlib.crc32(slot[: head.size - _CHECKSUM.size] + packed)
    else:
        expected = zlib.crc32(slot[_CHECKED_FROM : head.size] + packed)
    if checksum != expected:
        return Slot(0, b"", f"its checksum is {checksum:#010x} and must be {expected:#010x}")
    try:
        unpacking = zlib.decompressobj()
        contents = unpacking.decompress(packed, size + 1)
        whole = unpacking.eof and (version == 1 or len(contents) == size)
    except zlib.error as error:
        return Slot(0, b"", f"its contents cannot be unpacked: {error}")
    if not whole:
        return Slot(0, b"", f"its contents are not the {size} bytes that it promises")
    return Slot(sequence, contents)


def foreign_format(head: bytes) -> str | None:
    """The name of the format that a file starts with, where it is a well-known one."""
    for offset, signature, name in FOREIGN_FORMATS:
        if head[offset : offset + len(signature)] == signature:
            return name
    return None
