"""Shadow doorbells on the host's side, as Linux has them (``nvme_dbbuf_*`` of drivers/nvme/host/pci.c).

Two pages of the driver's, which the controller is told of with Doorbell Buffer Config (Base 2.1, 5.2.5). A tail or head
goes into the first; the doorbell itself is written only if the value passes the controller's EventIdx in the second.
I/O queues only. Both pages are zeroed before each enable; a controller that refuses is driven without.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nvme_emu._core import memory_barrier
from nvme_emu.core.errors import NvmeError
from nvme_emu.spec.opcodes import AdminOpcode

if TYPE_CHECKING:
    from nvme_emu.core.page_pool import PagePool
    from nvme_emu.driver.device import NvmeDriver
    from nvme_emu.driver.queue_pair import QueuePair

__all__ = ["DoorbellBuffers", "PairBells", "need_event"]

PAGE_SIZE = 4096
_NO_VIEW = memoryview(b"")


def need_event(event_idx: int, new: int, old: int) -> bool:
    """Whether going from ``old`` to ``new`` passes ``event_idx``, in 16 bits (``nvme_dbbuf_need_event``)."""
    return (new - event_idx - 1) & 0xFFFF < (new - old) & 0xFFFF


class PairBells:
    """The words of one queue pair. ``spared`` counts the doorbells that were not written."""

    def __init__(self, words: memoryview, events: memoryview, qid: int, each: int) -> None:
        self.words = words
        self.events = events
        self.sq = 2 * qid * each
        self.cq = self.sq + each
        self.spared = 0

    def update_tail(self, tail: int) -> bool:
        """Publish a submission queue's tail; whether its doorbell has to be written."""
        return self._update(self.sq, tail)

    def update_head(self, head: int) -> bool:
        """The same for a completion queue's head."""
        return self._update(self.cq, head)

    def publish(self, place: int, value: int) -> int:
        """Write a word; what it was. The entries were written before: a store is not seen before an earlier one."""
        old: int = self.words[place]
        self.words[place] = value
        return old

    def passes(self, place: int, value: int, old: int) -> bool:
        """Whether the controller wants to hear of the step from ``old``."""
        return need_event(self.events[place], value, old)

    def _update(self, place: int, value: int) -> bool:
        # nvme_dbbuf_update_and_check_event: the word must be there before EventIdx is looked at.
        old = self.publish(place, value)
        memory_barrier()
        if self.passes(place, value, old):
            return True
        self.spared += 1
        return False

    def both(self, tail: int, head: int) -> None:
        """A lane has gone the whole way: what host and controller tell each other then."""
        self.words[self.sq] = self.events[self.sq] = tail
        self.words[self.cq] = self.events[self.cq] = head


class DoorbellBuffers:
    """The two pages of one controller."""

    pair_bells = PairBells
    """For who tests other ways."""

    def __init__(self, pool: PagePool, stride: int) -> None:
        self._pool = pool
        self._each = stride // 4
        self._addr = pool.alloc(2, zero=True)
        at = self._addr - pool.region.base
        self._words = pool.region.view[at : at + PAGE_SIZE]
        self._events = pool.region.view[at + PAGE_SIZE : at + 2 * PAGE_SIZE]

    def has_room(self, pairs: int) -> bool:
        """Whether the words of as many I/O queue pairs fit."""
        return 8 * (pairs + 1) * self._each <= PAGE_SIZE

    def forget(self, pairs: list[QueuePair]) -> None:
        """Go on with doorbells alone, and empty the pages: a controller that starts must not see what was."""
        for pair in pairs:
            pair.bells = None
            pair.bells_view = pair.events_view = _NO_VIEW
        self._words[:] = self._events[:] = bytes(PAGE_SIZE)

    def configure(self, driver: NvmeDriver, pairs: list[QueuePair]) -> None:
        """Tell the controller (``nvme_dbbuf_set``). Nothing is on its way in the queues; a refusal is only said."""
        try:
            driver.admin.execute(AdminOpcode.DOORBELL_BUFFER_CONFIG, prp1=self._addr, pages=2)
        except NvmeError as error:
            driver.recovery.say(f"unable to set dbbuf: {error}")
            return
        words, events, each = self._words.cast("I"), self._events.cast("I"), self._each
        for pair in pairs:
            start, nbytes = 8 * pair.qid * each, 8 * each
            pair.bells_view = self._words[start : start + nbytes]
            pair.events_view = self._events[start : start + nbytes]
            pair.bells = self.pair_bells(words, events, pair.qid, each)

    def close(self) -> None:
        """Give the pages back; the controller must have forgotten them."""
        self._pool.free(self._addr, 2)
