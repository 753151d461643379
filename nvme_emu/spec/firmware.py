"""The firmware images that this emulator takes. The specification leaves their contents to the vendor.

    0     8          16       20      24       64
    magic revision   length   CRC-32  reserved payload …

The length counts the payload's bytes; the CRC-32 covers it. What the last download rounded up is ignored.
"""

from __future__ import annotations

import zlib

from .base import Structure, ascii_text, raw, rsvd, u32

__all__ = ["FIRMWARE_HEADER", "FIRMWARE_MAGIC", "build_firmware", "firmware_revision"]

FIRMWARE_MAGIC = b"NVMEEMUF"
FIRMWARE_HEADER = Structure(
    "FIRMWARE_HEADER",
    64,
    "vendor specific (Base 2.1 §3.11)",
    "magic" / raw(8) * "Magic",
    "revision" / ascii_text(8) * "Firmware Revision",
    "length" / u32 * "Payload bytes",
    "crc" / u32 * "CRC-32 of the payload",
    rsvd(24, 40),
)


def build_firmware(revision: str, payload: bytes = b"") -> bytes:
    """An image of a revision (1 to 8 printable ASCII characters), filled up to 4 KiB. ValueError otherwise."""
    if not 1 <= len(revision) <= 8 or not revision.isascii() or not revision.isprintable():
        raise ValueError(f"revision={revision!r}: 1 to 8 printable ASCII characters (Identify Controller FR)")
    header = FIRMWARE_HEADER.build(
        magic=FIRMWARE_MAGIC, revision=revision, length=len(payload), crc=zlib.crc32(payload)
    )
    image = header + payload
    return image.ljust(-(-len(image) // 4096) * 4096, b"\0")


def firmware_revision(image: bytes | bytearray) -> str | None:
    """The revision of a good image; None for anything else."""
    if len(image) < FIRMWARE_HEADER.size:
        return None
    header = FIRMWARE_HEADER.parse(image)
    payload = bytes(image[FIRMWARE_HEADER.size : FIRMWARE_HEADER.size + header.length])
    good = header.magic == FIRMWARE_MAGIC and len(payload) == header.length and zlib.crc32(payload) == header.crc
    revision: str = header.revision
    return revision if good and revision.strip() and revision.isascii() and revision.isprintable() else None
