"""An input as a source of decisions: a target asks, the bytes answer, and when they are used up the answer is 0.

So every string of bytes is a valid input, a shorter one is a simpler case, and an engine that is guided by
coverage can work on the bytes without knowing what they mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

__all__ = ["Source"]

T = TypeVar("T")


class Source:
    """Decisions out of `data`."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> bool:
        """Whether there is something left to decide by."""
        return self._at < len(self._data)

    def bytes(self, count: int) -> bytes:
        """`count` bytes, filled up with zeroes."""
        piece = self._data[self._at : self._at + count]
        self._at += count
        return piece.ljust(count, b"\0")

    def bits(self, count: int) -> int:
        """An integer of up to `count` bits."""
        return int.from_bytes(self.bytes(-(-count // 8)), "little") & ((1 << count) - 1)

    def below(self, limit: int) -> int:
        """An integer from 0 up to, but not, `limit`."""
        return self.bits(max(8, (limit - 1).bit_length() + 8)) % limit

    def pick(self, choices: Sequence[T]) -> T:
        """One of `choices`."""
        return choices[self.below(len(choices))]

    def one_in(self, times: int) -> bool:
        """True once in so many times."""
        return self.below(times) == times - 1

    def number(self, bits: int) -> int:
        """An integer of `bits` bits, most often one where mistakes are made."""
        kind = self.below(8)
        if kind < 3:
            return self.below(16)
        if kind < 5:
            return self.bits(bits)
        power = 1 << self.below(bits)
        return max(0, min((1 << bits) - 1, power + self.below(3) - 1)) if kind < 7 else (1 << bits) - 1 - self.below(2)
