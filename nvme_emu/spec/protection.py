"""Blocks with metadata, and protection information in it (NVM Command Set 1.1, clauses 5.2 and 5.3).

A *row* is a logical block with its metadata behind it, as an extended LBA lies in memory. Eight of the metadata's bytes
are protection information, at its start or at its end; integers are big-endian:

    offset  size  field
         0     2  Guard: CRC-16 T10-DIF of the data, and of what of the metadata is before the protection information
         2     2  Application Tag
         4     4  Reference Tag

    type    Reference Tag                                     an Application Tag of FFFFh
    1       of the first block as the command says, which is  the block is not checked
            the low half of its LBA; one more a block
    2       the same, of the first block whatever the host    the block is not checked
            wants
    3       the host's, the same in all blocks; not checked   not checked if the Reference Tag is FFFFFFFFh too

Both ends use this: the controller, and the driver where Linux has its block integrity layer. Only the 16-bit guard is
here; 32 and 64-bit guards and storage tags (extended LBA formats) are not offered.
"""

from __future__ import annotations

from enum import IntEnum
from functools import cache
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from .commands import COPY_CDW12, RW_CDW12, RW_PRACT
from .status import Status

__all__ = [
    "CHECK_ALL",
    "CHECK_APP",
    "CHECK_GUARD",
    "CHECK_REF",
    "PI_BYTES",
    "BlockFormat",
    "PiType",
    "Prinfo",
    "crc16_t10dif",
    "prinfo_bits",
    "prinfo_of",
    "prinfor_of",
]

PI_BYTES: Final = 8
CHECK_REF, CHECK_APP, CHECK_GUARD = 1, 2, 4
"""PRCHK, as in PRINFO: bits 2:0."""
CHECK_ALL: Final = CHECK_REF | CHECK_APP | CHECK_GUARD
_PRINFO_LSB: Final = RW_CDW12["prchk_ref"].lsb
NO_APP: Final = 0xFFFF
NO_REF: Final = 0xFFFF_FFFF

_POLYNOMIAL: Final = 0x8BB7
_ROW_BYTES_MAX: Final = 4096 + 64
_AT_ONCE: Final = 1 << 16
"""Bytes that are looked up at a time: the indexes are eight times as many, and stay in the cache."""

Rows = npt.NDArray[np.uint8]
_Words = npt.NDArray[np.uint16]
_TUPLE = np.dtype([("guard", ">u2"), ("app", ">u2"), ("ref", ">u4")])
assert _TUPLE.itemsize == PI_BYTES


@cache
def _tables() -> tuple[_Words, npt.NDArray[np.intp]]:
    """What each value of a byte adds to the CRC, by its distance from the end, and where in that a distance begins.

    The CRC begins with 0 and is linear: that of a row is the exclusive or over its bytes, each by itself.
    """
    byte = np.arange(256, dtype=np.uint32) << 8
    for _ in range(8):
        byte = np.where(byte & 0x8000, byte << 1 ^ _POLYNOMIAL, byte << 1) & 0xFFFF
    last = byte.astype(np.uint16)
    table = np.empty((_ROW_BYTES_MAX, 256), np.uint16)
    table[-1] = last
    for at in range(_ROW_BYTES_MAX - 2, -1, -1):
        after = table[at + 1]
        table[at] = (after << 8) ^ last[after >> 8]
    return table.reshape(-1), np.arange(_ROW_BYTES_MAX, dtype=np.intp) * 256


def crc16_t10dif(rows: Rows) -> _Words:
    """The CRC-16 (polynomial 8BB7h, from 0) of each row of a (rows, bytes) array, of at most 4160 bytes a row."""
    count, nbytes = rows.shape
    table, starts = _tables()
    table, starts = table[(_ROW_BYTES_MAX - nbytes) * 256 :], starts[:nbytes]
    found = np.empty(count, np.uint16)
    step = max(1, _AT_ONCE // max(1, nbytes))
    for at in range(0, count, step):
        index = rows[at : at + step] + starts
        # With mode "clip" and not "raise" numpy does not look at the indexes once more, which cannot be out of range.
        np.bitwise_xor.reduce(table.take(index, mode="clip"), axis=1, out=found[at : at + step])
    return found


class PiType(IntEnum):
    """DPS.PIT, Format NVM PI: the end-to-end data protection type."""

    NONE = 0
    TYPE_1 = 1
    TYPE_2 = 2
    TYPE_3 = 3


class BlockFormat(NamedTuple):
    """A block: bytes of data and of metadata, and what protection information is in the metadata, ``first`` or last."""

    lba_size: int
    ms: int
    pi: PiType = PiType.NONE
    first: bool = False

    @property
    def row_bytes(self) -> int:
        """Bytes of a block with its metadata."""
        return self.lba_size + self.ms

    @property
    def counts(self) -> bool:
        """Whether each block's Reference Tag is one more than the one before."""
        return self.pi != PiType.TYPE_3

    @property
    def pi_at(self) -> int:
        """Where in a row the protection information begins."""
        return self.lba_size if self.first else self.row_bytes - PI_BYTES

    def rows(self, nlb: int) -> Rows:
        """Memory for some rows."""
        return np.empty((nlb, self.row_bytes), np.uint8)

    def flip(self, rows: Rows) -> None:
        """Invert the protection information: as media keep it, so that what was never written reads as FFh there."""
        if self.pi:
            rows[:, self.pi_at : self.pi_at + PI_BYTES] ^= 0xFF

    def guards(self, rows: Rows) -> _Words:
        """What the Guard of each row has to be."""
        return crc16_t10dif(rows[:, : self.pi_at])

    def references(self, first: int, nlb: int) -> npt.NDArray[np.uint32]:
        """The Reference Tags of blocks of which the first has this one."""
        if not self.counts:
            return np.full(nlb, first, np.uint32)
        return (np.arange(first, first + nlb, dtype=np.uint64) & np.uint64(NO_REF)).astype(np.uint32)

    def generate(self, rows: Rows, app: int, ref: int) -> None:
        """Write protection information into the rows."""
        made = np.empty(len(rows), _TUPLE)
        made["guard"], made["app"], made["ref"] = self.guards(rows), app, self.references(ref, len(rows))
        rows[:, self.pi_at : self.pi_at + PI_BYTES] = made.view(np.uint8).reshape(len(rows), PI_BYTES)

    def check(self, rows: Rows, checks: int, app: int, mask: int, ref: int) -> tuple[int, Status] | None:
        """(number, status) of the first row whose protection information is wrong; None if none is.

        ``checks`` are bits CHECK_GUARD, CHECK_APP (``app`` under ``mask``) and CHECK_REF (of the first row: ``ref``).
        """
        if not checks:
            return None
        found = np.ascontiguousarray(rows[:, self.pi_at : self.pi_at + PI_BYTES]).view(_TUPLE).reshape(-1)
        wrong = np.zeros(len(rows), np.uint16)
        if checks & CHECK_REF and self.counts:
            wrong[found["ref"] != self.references(ref, len(rows))] = Status.REFTAG_CHECK
        if checks & CHECK_APP:
            wrong[found["app"] & mask != app & mask] = Status.APPTAG_CHECK
        if checks & CHECK_GUARD:
            wrong[found["guard"] != self.guards(rows)] = Status.GUARD_CHECK
        if not wrong.any():
            return None
        escaped = found["app"] == NO_APP
        if not self.counts:
            escaped &= found["ref"] == NO_REF
        wrong[escaped] = 0
        number = int((wrong != 0).argmax())
        return (number, Status(int(wrong[number]))) if wrong[number] else None


class Prinfo(NamedTuple):
    """PRINFO of a command: which checks (PRCHK, bits CHECK_…), and whether the controller inserts or strips (PRACT)."""

    checks: int
    pract: bool


def prinfo_of(cdw12: int) -> Prinfo:
    """PRINFO of Read, Write, Compare, Verify and Write Zeroes, and PRINFOW of Copy."""
    return Prinfo(cdw12 >> _PRINFO_LSB & CHECK_ALL, bool(cdw12 & RW_PRACT))


def prinfo_bits(checks: int, pract: bool = False) -> int:
    """The same for CDW12."""
    return checks << _PRINFO_LSB | (RW_PRACT if pract else 0)


def prinfor_of(cdw12: int) -> Prinfo:
    """PRINFOR of Copy: how the sources are read."""
    field: int = COPY_CDW12["prinfor"].extract(cdw12)
    return Prinfo(field & CHECK_ALL, bool(field & ~CHECK_ALL))
