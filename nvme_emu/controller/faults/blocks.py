"""What blocks held before."""

from __future__ import annotations

from nvme_emu.controller.block_set import BlockSet

__all__ = ["HISTORY_BLOCKS_MAX", "BlockSet", "History"]

HISTORY_BLOCKS_MAX = 65_536
"""Blocks whose former contents are kept for stale reads; the oldest are forgotten first."""


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
