"""The capacity of an NVM subsystem: media cut into extents, out of which namespaces are made (NVMe Base 2.1, 3.8).

    media at the start:   [ namespace 1 ........ ][ namespace 2 .. ][ spare ............ ]
    after deleting 1:     [ free ............... ][ namespace 2 .. ][ free ............. ]
    creating a larger 3:  [ 3, first extent .... ][ namespace 2 .. ][ 3, second ][ free  ]

A namespace over one extent is as quick as the medium below; one over several goes piece by piece. Extents are
multiples of `GRANULE`, so that no block and no page lies across a border.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from nvme_emu.controller.namespace import BlockMedia

__all__ = ["GRANULE", "Capacity", "Extent", "ExtentMedia"]

GRANULE: Final = 4096
"""Bytes in which capacity is given out."""


class Extent(NamedTuple):
    """``nbytes`` bytes of a medium from ``start`` on."""

    media: BlockMedia
    start: int
    nbytes: int


class ExtentMedia:
    """A medium made of pieces of others; a `BlockMedia`. It closes none of them."""

    def __init__(self, extents: Sequence[Extent]) -> None:
        self.extents = tuple(extents)
        self.nbytes = sum(extent.nbytes for extent in self.extents)
        self.volatile = all(extent.media.volatile for extent in self.extents)
        self.array: Any = None
        if len(self.extents) == 1:
            media, start, nbytes = self.extents[0]
            if media.array is not None:
                self.array = media.array[start : start + nbytes]

    def _pieces(self, offset: int, nbytes: int) -> Iterator[tuple[BlockMedia, int, int, int]]:
        """(medium, offset in it, offset in the request, length) of each piece."""
        if offset < 0 or nbytes < 0 or offset + nbytes > self.nbytes:
            raise ValueError(f"{nbytes} bytes at {offset} are not in a medium of {self.nbytes} bytes")
        done = 0
        for media, start, length in self.extents:
            if offset >= length:
                offset -= length
                continue
            count = min(length - offset, nbytes - done)
            if count <= 0:
                return
            yield media, start + offset, done, count
            done += count
            offset = 0

    def read_into(self, offset: int, out: memoryview) -> None:
        """Fill `out` with what is stored at `offset`."""
        for media, at, done, count in self._pieces(offset, len(out)):
            media.read_into(at, out[done : done + count])

    def write(self, offset: int, data: memoryview, fua: bool = False) -> None:
        """Store `data` at `offset`."""
        source = memoryview(data)
        for media, at, done, count in self._pieces(offset, len(source)):
            media.write(at, source[done : done + count], fua)

    def zero(self, offset: int, nbytes: int, fua: bool = False) -> None:
        """Make bytes read as zeroes."""
        for media, at, _, count in self._pieces(offset, nbytes):
            media.zero(at, count, fua)

    def discard(self, offset: int, nbytes: int) -> None:
        """Give bytes back."""
        for media, at, _, count in self._pieces(offset, nbytes):
            media.discard(at, count)

    def flush(self) -> None:
        """Make everything durable."""
        for extent in self.extents:
            extent.media.flush()

    def equal(self, offset: int, data: memoryview) -> int:
        """-1 when the bytes at `offset` equal `data`, else the index of the first that differs."""
        source = memoryview(data)
        for media, at, done, count in self._pieces(offset, len(source)):
            found = media.equal(at, source[done : done + count])
            if found >= 0:
                return done + found
        return -1

    def read_rows(self, rows: Any, row_nbytes: int, out: Any) -> None:
        """Rows of one length, gathered."""
        view = memoryview(out).cast("B")
        for number, row in enumerate(rows.tolist()):
            self.read_into(row * row_nbytes, view[number * row_nbytes : (number + 1) * row_nbytes])

    def write_rows(self, rows: Any, row_nbytes: int, data: Any, fua: bool = False) -> None:
        """Rows of one length, scattered."""
        view = memoryview(data).cast("B")
        for number, row in enumerate(rows.tolist()):
            self.write(row * row_nbytes, view[number * row_nbytes : (number + 1) * row_nbytes], fua)

    def allocated_bytes(self) -> int:
        """What holds storage; extents of a larger medium count as a whole."""
        return sum(
            min(nbytes, media.allocated_bytes()) if nbytes == media.nbytes else nbytes
            for media, _, nbytes in self.extents
        )


class Capacity:
    """All bytes of the subsystem, and those that no namespace has."""

    def __init__(self, spare: Sequence[BlockMedia] = ()) -> None:
        self.total = 0
        self._free: list[Extent] = []
        for media in spare:
            self.add(media)
            self.give(media)

    @property
    def unallocated(self) -> int:
        """Bytes that namespaces can still be made of."""
        return sum(extent.nbytes for extent in self._free)

    def add(self, media: BlockMedia) -> None:
        """A medium that belongs to the subsystem, in use or not."""
        self.total += media.nbytes

    def give(self, media: BlockMedia) -> None:
        """A namespace's medium is free now."""
        extents = media.extents if isinstance(media, ExtentMedia) else (Extent(media, 0, media.nbytes),)
        self._free += [extent for extent in extents if extent.nbytes]
        self._merge()

    def claim(self, extents: Sequence[Extent]) -> None:
        """These very pieces are in use. ValueError where they are not all free."""
        for media, start, nbytes in extents:
            for free in self._free:
                if free.media is media and free.start <= start and start + nbytes <= free.start + free.nbytes:
                    break
            else:
                raise ValueError(f"{nbytes} bytes at {start} are not free")
            self._free.remove(free)
            left, right = start - free.start, free.start + free.nbytes - start - nbytes
            if left:
                self._free.append(Extent(media, free.start, left))
            if right:
                self._free.append(Extent(media, start + nbytes, right))

    def take(self, nbytes: int) -> ExtentMedia | None:
        """A medium of at least ``nbytes``, from as few pieces as will do; None if there is not enough."""
        if nbytes > self.unallocated:
            return None
        wanted = min(-(-nbytes // GRANULE) * GRANULE, self.unallocated)
        fitting = [extent for extent in self._free if extent.nbytes >= wanted]
        chosen: list[Extent] = []
        order = [min(fitting, key=lambda one: one.nbytes)] if fitting else list(self._free)
        for extent in order:
            count = min(extent.nbytes, wanted)
            self._free.remove(extent)
            chosen.append(extent._replace(nbytes=count))
            if count < extent.nbytes:
                self._free.append(Extent(extent.media, extent.start + count, extent.nbytes - count))
            wanted -= count
            if not wanted:
                break
        return ExtentMedia(chosen)

    def erase(self) -> None:
        """Sanitizing reaches what no namespace has, too, and durably. Raises OSError."""
        for media, start, nbytes in self._free:
            media.discard(start, nbytes)
        for media in {id(extent.media): extent.media for extent in self._free}.values():
            media.flush()

    def _merge(self) -> None:
        """Neighbours become one extent again."""
        merged: list[Extent] = []
        order = {id(extent.media): number for number, extent in enumerate(self._free)}
        for extent in sorted(self._free, key=lambda one: (order[id(one.media)], one.start)):
            last = merged[-1] if merged else None
            if last is not None and last.media is extent.media and last.start + last.nbytes == extent.start:
                merged[-1] = last._replace(nbytes=last.nbytes + extent.nbytes)
            else:
                merged.append(extent)
        self._free = merged
