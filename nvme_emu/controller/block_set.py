"""Sets of logical blocks."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator

__all__ = ["BlockSet"]


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

    def clear(self) -> None:
        """Take all blocks out."""
        self._starts.clear()
        self._ends.clear()

    def ranges(self) -> Iterator[tuple[int, int]]:
        """(first block, number of blocks) of each range, ascending."""
        for start, end in zip(self._starts, self._ends, strict=True):
            yield start, end - start
