"""From an SGL to the memory it describes (NVMe Base 2.1, clause 4.3.2).

    map_sgl(memory, (address, length, identifier), nbytes, write) -> [memoryview, …]

The first descriptor stands in the command. It is the data itself, or points at a segment; each segment but the
last ends with a pointer to the next. What Bit Bucket descriptors ask for is shown as memory that nobody reads.

Every list ends: a segment holds a descriptor at least, and no more than SGL_DESCRIPTORS_MAX are looked at, a loop of
segments among them. Nothing is given before all that is needed of the list was found good.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from nvme_emu.core.errors import CommandError, DmaError
from nvme_emu.core.memory import HostMemory
from nvme_emu.spec.sgl import (
    SGL_BIT_BUCKET,
    SGL_BYTES,
    SGL_DATA_BLOCK,
    SGL_DESCRIPTOR,
    SGL_LAST_SEGMENT,
    SGL_SEGMENT,
)
from nvme_emu.spec.status import Status

__all__ = ["SGL_AT", "SGL_DESCRIPTORS_MAX", "Descriptor", "map_sgl", "walk_sgl"]

Descriptor = tuple[int, int, int]
"""(address, length in bytes, SGL identifier)."""

SGL_DESCRIPTORS_MAX: Final = 16_384
"""Descriptors of one list, in all its segments. A bound of this emulator: Linux sends 128 at most."""

SGL_AT: Final = (24, 0)
"""Where SGL1 is in a submission queue entry, as (byte, bit), for the error log."""
_IDENTIFIER_OFFSET: Final = 15
_LENGTH_OFFSET: Final = 8

_SEGMENTS = frozenset((SGL_SEGMENT, SGL_LAST_SEGMENT))
_BUCKET = memoryview(bytearray(1 << 16))
"""Where bytes go that the host does not want. Nobody reads it."""


def walk_sgl(memory: HostMemory, first: Descriptor, at: tuple[int, int] = SGL_AT) -> Iterator[Descriptor]:
    """Every descriptor of a list but the pointers to segments, in order, of whatever type they are.

    `at` is where the first one stands in the command. Raises CommandError: Invalid SGL Segment Descriptor for a
    pointer that cannot be, Invalid Number of SGL Descriptors for one that is not the last of its segment or a list that
    is too long, Data Transfer Error for a segment that host memory does not own.
    """
    if first[2] not in _SEGMENTS:
        yield first
        return
    left = SGL_DESCRIPTORS_MAX
    address, length, kind = first
    while True:
        if address & 7 or not length or length % SGL_BYTES:
            raise CommandError(Status.SGL_INVALID_LAST, location=at)
        left -= length // SGL_BYTES
        if left < 0:
            raise CommandError(Status.SGL_INVALID_COUNT, location=at)
        try:
            entries = list(SGL_DESCRIPTOR.iter_unpack(memory.read(address, length)))
        except DmaError as error:
            raise CommandError(Status.DATA_XFER_ERROR, location=at) from error
        pointers = [number for number, entry in enumerate(entries) if entry[2] in _SEGMENTS]
        if kind == SGL_LAST_SEGMENT:
            if pointers:
                raise CommandError(Status.SGL_INVALID_LAST, location=at)
            yield from entries
            return
        if pointers and pointers[0] != len(entries) - 1:
            raise CommandError(Status.SGL_INVALID_COUNT, location=at)
        if not pointers:
            # Not the last, but nothing follows it.
            raise CommandError(Status.SGL_INVALID_LAST, location=at)
        address, length, kind = entries.pop()
        yield from entries


def map_sgl(
    memory: HostMemory,
    first: Descriptor,
    nbytes: int,
    write: bool = False,
    *,
    dwords: bool = False,
    metadata: bool = False,
    at: tuple[int, int] = SGL_AT,
) -> list[memoryview]:
    """The `nbytes` bytes that an SGL describes: views to copy from, or with `write` into.

    A list may describe more than that (Identify Controller SGLS.SLDLTD): the rest is not looked at. A Bit Bucket takes
    bytes on their way to the host and is passed over on their way from it. With `dwords` blocks must start and end on
    dwords. Raises CommandError as `walk_sgl`, and: SGL Descriptor Type Invalid, SGL Data Block Granularity Invalid,
    Data SGL Length Invalid (of `metadata`: Metadata SGL Length Invalid), Data Transfer Error for what host memory does
    not own.
    """
    views: list[memoryview] = []
    left = nbytes
    if left <= 0:
        return views
    for address, length, identifier in walk_sgl(memory, first, at):
        if identifier == SGL_DATA_BLOCK:
            if dwords and (address | length) & 3:
                raise CommandError(Status.SGL_INVALID_GRANULARITY, location=at)
            taken = min(length, left)
            if taken:
                views += _block(memory, address, taken, write, at)
        elif identifier == SGL_BIT_BUCKET:
            taken = min(length, left) if write else 0
            views += [_BUCKET[: taken - start] for start in range(0, taken, len(_BUCKET))]
        else:
            raise CommandError(Status.SGL_INVALID_TYPE, location=(at[0] + _IDENTIFIER_OFFSET, 0))
        left -= taken
        if not left:
            return views
    status = Status.SGL_INVALID_METADATA if metadata else Status.SGL_INVALID_DATA
    raise CommandError(status, location=(at[0] + _LENGTH_OFFSET, 0))


def _block(memory: HostMemory, address: int, length: int, write: bool, at: tuple[int, int]) -> list[memoryview]:
    try:
        view, offset = memory.find(address, length, write)
    except DmaError:
        try:
            return memory.pieces(address, length, write)
        except DmaError as error:
            raise CommandError(Status.DATA_XFER_ERROR, location=at) from error
    return [view[offset : offset + length]]
