"""A volatile write cache over a medium: what was not flushed is gone when power is lost (Base 2.1, 5.1.25.1.6).

Writes reach the medium at once, and what they overwrite is kept until the next flush. A loss of power puts the
old blocks back; those of a write of at most `atomic_blocks` (AWUPF) together, or none of them. So reads cost what they
did before, and the medium itself needs to know nothing. The cache holds CACHE_BYTES at most; like a real one it
destages its oldest blocks to make room for new ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from nvme_emu.controller.namespace import BlockMedia

    _Bytes = npt.NDArray[np.uint8]
    _Rows = npt.NDArray[np.integer]

__all__ = ["CACHE_BYTES", "VolatileCache"]

CACHE_BYTES = 64 << 20


class VolatileCache:
    """A `BlockMedia` over another one. `block_bytes` is what survives or is lost as a whole."""

    volatile = False
    array: _Bytes | None = None

    def __init__(
        self, medium: BlockMedia, block_bytes: int, cache_bytes: int = CACHE_BYTES, atomic_blocks: int = 1
    ) -> None:
        self.medium = medium
        self.nbytes = medium.nbytes
        self.block_bytes = block_bytes
        self._blocks_max = max(1, cache_bytes // block_bytes)
        # Block number -> what the medium would hold without the cache, in the order of first writing.
        self._durable: dict[int, bytes] = {}
        self._atomic_blocks = atomic_blocks
        # Block number -> the blocks with which it survives or is lost; blocks that are alone are not in it.
        self._together: dict[int, set[int]] = {}
        self._last_end = -1

    def __len__(self) -> int:
        """How many blocks are not durable."""
        return len(self._durable)

    def lose(self, keeps: Callable[[], bool] | None = None) -> int:
        """Power is lost: blocks go back to what is durable, but those for which `keeps()` says otherwise.

        Gives the number of blocks that were lost.
        """
        lost = 0
        fates: dict[int, bool] = {}
        for number, data in self._durable.items():
            unit = self._together.get(number)
            stays = None if unit is None else fates.get(id(unit))
            if stays is None:
                stays = keeps is not None and keeps()
                if unit is not None:
                    fates[id(unit)] = stays
            if not stays:
                self.medium.write(number * self.block_bytes, memoryview(data))
                lost += 1
        self._forget()
        self.medium.flush()
        return lost

    # -- what a namespace asks of its medium ----------------------------------------------------------------

    def read_into(self, offset: int, out: memoryview) -> None:
        """As the medium."""
        self.medium.read_into(offset, out)

    def read_rows(self, rows: _Rows, row_nbytes: int, out: _Bytes) -> None:
        """As the medium."""
        self.medium.read_rows(rows, row_nbytes, out)

    def equal(self, offset: int, data: memoryview) -> int:
        """As the medium."""
        return self.medium.equal(offset, data)

    def allocated_bytes(self) -> int:
        """As the medium."""
        return self.medium.allocated_bytes()

    def write(self, offset: int, data: memoryview, fua: bool = False) -> None:
        """As the medium; without `fua` it is lost with the power."""
        self._before(offset, len(data), fua)
        self.medium.write(offset, data, fua)

    def write_rows(self, rows: _Rows, row_nbytes: int, data: _Bytes, fua: bool = False) -> None:
        """As the medium; without `fua` it is lost with the power."""
        for row in rows.tolist():
            self._before(row * row_nbytes, row_nbytes, fua)
        self.medium.write_rows(rows, row_nbytes, data, fua)

    def zero(self, offset: int, nbytes: int, fua: bool = False) -> None:
        """As the medium; without `fua` it is lost with the power."""
        self._before(offset, nbytes, fua)
        self.medium.zero(offset, nbytes, fua)

    def discard(self, offset: int, nbytes: int) -> None:
        """As the medium; it is lost with the power."""
        self._before(offset, nbytes, False)
        self.medium.discard(offset, nbytes)

    def flush(self) -> None:
        """Everything that was written is durable."""
        self.medium.flush()
        self._forget()

    def _forget(self) -> None:
        self._durable.clear()
        self._together.clear()

    def _before(self, offset: int, nbytes: int, fua: bool) -> None:
        """These bytes are about to change: for good with `fua`, else until power is lost."""
        if not nbytes:
            return
        size, durable = self.block_bytes, self._durable
        blocks = range(offset // size, (offset + nbytes - 1) // size + 1)
        if fua or len(blocks) > self._blocks_max:
            # More than the cache holds goes past it.
            for number in blocks if len(blocks) < len(durable) else [n for n in durable if n in blocks]:
                durable.pop(number, None)
            return
        for number in blocks:
            if number not in durable:
                old = bytearray(min(size, self.nbytes - number * size))
                self.medium.read_into(number * size, memoryview(old))
                durable[number] = bytes(old)
        if len(blocks) <= self._atomic_blocks > 1:
            self._join(blocks)
        while len(durable) > self._blocks_max:
            for number in self._together.get(next(iter(durable)), {next(iter(durable))}):
                durable.pop(number, None)
                self._together.pop(number, None)

    def _join(self, blocks: range) -> None:
        """A write that is atomic: its blocks have one fate, with those of the writes that they were part of.

        A command comes here in as many pieces as its data has in memory; so a write that goes on where the one before
        ended is taken for the same.
        """
        unit = set(blocks)
        for number in (blocks.start - 1, *blocks) if blocks.start == self._last_end else blocks:
            unit.update(self._together.get(number, (number,)))
        self._last_end = blocks.stop
        for number in unit:
            self._together[number] = unit
