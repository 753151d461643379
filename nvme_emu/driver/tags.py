"""Command identifiers: a tag in the low 12 bits and a generation in the high 4 (``nvme_cid``).

The generation changes each time a tag is used again, so that a completion which comes late or twice is told
from the one that is awaited.
"""

from __future__ import annotations

__all__ = ["GENERATION", "GENERATIONS", "TAG_BITS", "TAG_MASK", "Tags"]

TAG_BITS = 12
TAG_MASK = (1 << TAG_BITS) - 1
GENERATION = 1 << TAG_BITS
GENERATIONS = 16


class Tags:
    """The free tags of a queue, last freed first, and the identifier that each will use next.

    ``free`` and ``cid`` are plain lists so that a queue's hot path can use them without a call;
    ValueError for a count outside 1 … 4095.
    """

    __slots__ = ("cid", "count", "free")

    def __init__(self, count: int) -> None:
        if not 1 <= count <= TAG_MASK:
            raise ValueError(f"{count} tags: a queue has 1 to {TAG_MASK}")
        self.count = count
        self.free = list(range(count - 1, -1, -1))
        self.cid = list(range(count))

    def take(self) -> int:
        """A tag that is free; IndexError if none is."""
        return self.free.pop()

    def release(self, tag: int) -> None:
        """Give a tag back and change its generation."""
        self.cid[tag] = (self.cid[tag] + GENERATION) & 0xFFFF
        self.free.append(tag)
