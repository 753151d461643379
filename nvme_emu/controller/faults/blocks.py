"""Sets of logical blocks, and what blocks held before."""

from __future__ import annotations

from bisect import bisect_right

__all__ = ["HISTORY_BLOCKS_MAX", "BlockSet", "History"]

HISTORY_BLOCKS_MAX = 65_536
"""Blocks whose former contents are kept for stale reads; the oldest are forgotten first."""


class BlockSet:
    """Logical blocks as disjoint half-open ranges, ascending."""

    __slots__ = ("_ends", "_starts")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def __bool__(self) -> bool:
        return bool(self._starts)

    def add(self, slba: int, nlb: int) -> None:
        """Put `nlb` blocks from `slba` on into the set."""
        start, end = slba, slba + nlb
        first = bisect_right(self._ends, start - 1)
        last = bisect_right(self._starts, end)
        if first < last:
            start = min(start, self._starts[first])
            end = max(end, self._ends[last - 1])
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]

    def remove(self, slba: int, nlb: int) -> None:
        """Take `nlb` blocks from `slba` on out of the set."""
        start, end = slba, slba + nlb
        first = bisect_right(self._ends, start)
        last = bisect_right(self._starts, end - 1)
        if first >= last:
            return
        left, right = self._starts[first], self._ends[last - 1]
        pieces = [(left, start)] * (left < start) + [(end, right)] * (end < right)
        self._starts[first:last] = [piece[0] for piece in pieces]
        self._ends[first:last] = [piece[1] for piece in pieces]

    def first(self, slba: int, nlb: int) -> int | None:
        """The first of these blocks that is in the set; None when none is."""
        at = bisect_right(self._ends, slba)
        if at == len(self._starts) or self._starts[at] >= slba + nlb:
            return None
        return max(slba, self._starts[at])


class History:
    """What blocks held before they were last written, for those that were."""

    def __init__(self) -> None:
        self._old: dict[tuple[int, int], bytes] = {}

    def remember(self, nsid: int, slba: int, data: bytes, lba_size: int) -> None:
        """These blocks are about to be written; `data` is what they hold."""
        old = self._old
        for at in range(0, len(data), lba_size):
            key = nsid, slba + at // lba_size
            old.pop(key, None)  # so that it goes to the end of the line
            old[key] = data[at : at + lba_size]
        while len(old) > HISTORY_BLOCKS_MAX:
            del old[next(iter(old))]

    def block(self, nsid: int, lba: int) -> bytes | None:
        """The former contents of a block; None when it was not written."""
        return self._old.get((nsid, lba))

    def clear(self) -> None:
        """Forget everything."""
        self._old.clear()
