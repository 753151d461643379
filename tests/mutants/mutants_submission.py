"""Bugs on the way to the device: tags, entries, doorbells, and who wakes whom to write them."""

from __future__ import annotations

from collections import deque
from typing import Any

from mutants_base import Mutant, MutantPair, mutant

import kworker
from nvme_emu.driver.dbbuf import DoorbellBuffers, PairBells
from nvme_emu.driver.pump import PUMP_ROUNDS_MAX, PumpPath
from nvme_emu.driver.submit import SyncPath
from nvme_emu.spec.queues import SQE_SIZE

# --- shadow doorbells -----------------------------------------------------------------------------------------


class LookThenTell(PairBells):
    """EventIdx is looked at before the tail is there: the controller may go to rest in between."""

    point: Any = None

    def update_tail(self, tail: int) -> bool:
        asked = self.passes(self.sq, tail, self.words[self.sq])
        self.point("EventIdx read, tail not written")
        self.publish(self.sq, tail)
        return asked


class LookFirst(DoorbellBuffers):
    """Pages whose words are `LookThenTell`."""

    pair_bells = LookThenTell

    def configure(self, driver: Any, pairs: Any) -> None:
        super().configure(driver, pairs)
        for pair in pairs:
            pair.bells.point = driver.runtime.point


# --- entries and doorbells ------------------------------------------------------------------------------------


class DoorbellFirst(MutantPair):
    """The doorbell is rung as soon as the slot is known, and the entry written after it."""

    def prepare(self, rq: Any) -> None:
        at = self.tail * SQE_SIZE
        before = bytes(self.sq_view[at : at + SQE_SIZE])
        super().prepare(rq)
        entry = bytes(self.sq_view[at : at + SQE_SIZE])
        self.sq_view[at : at + SQE_SIZE] = before
        self.commit()
        self.pause("rung, not written")
        self.sq_view[at : at + SQE_SIZE] = entry


class SharedSlot(MutantPair):
    """The tail is read, and moved on only after the entry was written: two writers get the same slot."""

    def prepare(self, rq: Any) -> None:
        tail = self.tail
        self.pause("tail read")
        self.tail = tail
        super().prepare(rq)


class UnlockedPath(SyncPath):
    """Submits without ``ring_lock``."""

    def _issue(self, rq: Any) -> None:
        while not self.pair.tags.free:
            self._wait_for_tag()
        self.pair.prepare(rq)
        self.pair.commit()


class OldTail(MutantPair):
    """The doorbell is written with the tail of a moment ago: the last write wins, and may be the older one."""

    def commit(self) -> None:
        tail = self.tail
        if tail == self.rung_tail:
            return
        self.pause("tail about to be written")
        self.rung_tail = tail
        self._port.ring_sq(self.qid, tail)


class LateRing(UnlockedPath):
    """As `UnlockedPath`: what it takes for two doorbell writes to overtake each other."""


# --- tags ---------------------------------------------------------------------------------------------------


class TagTakenTwice(MutantPair):
    """The free tag is looked at first and taken off the list later."""

    def prepare(self, rq: Any) -> None:
        free = self.tags.free
        tag = free[-1]
        self.pause("tag looked at")
        if tag in free:
            free.remove(tag)
        free.append(tag)
        super().prepare(rq)


class CidWithoutGeneration(MutantPair):
    """A failed command keeps its tag for ever."""

    def _take(self, cid: int, dw0: int, status: int, done: list[Any]) -> None:
        super()._take(cid, dw0, status, done)
        if status and self.tags.free:
            self.tags.free.pop()


class LostTagWaiter(SyncPath):
    """Who waits for a tag looks first, and puts itself on the list of waiters afterwards."""

    def _wait_for_tag(self) -> None:
        waiter = kworker.Completion(runtime=self.runtime, name=f"a free tag of queue {self.pair.qid}")
        if self.pair.tags.free:
            return
        self.runtime.point("no tag, not yet on the list")
        self._tag_waiters.append(waiter)
        waiter.wait(self.timeout_ns)


# --- the worker ---------------------------------------------------------------------------------------------


class LostWakeUp(PumpPath):
    """The pump looks at its list, and only then says that it ends: who came in between is not seen."""

    def _pump(self, _work: Any) -> None:
        requests, free = self.requests, self.pair.tags.free
        for _ in range(PUMP_ROUNDS_MAX):
            if self._interrupted:
                self._interrupted = False
                for rq in self._reap():
                    rq.finish()
            if requests and free:
                self._issue()
            if self._interrupted:
                continue
            self.runtime.point("nothing left")
            self._active = False
            return
        kworker.kthread_queue_work(self.worker, self._work)


class FlushUnderMutex(PumpPath):
    """A caller that finds the list long flushes the worker, holding the mutex that the worker's work wants, too."""

    def _mutex(self) -> Any:
        if not hasattr(self, "the_mutex"):
            self.the_mutex = kworker.Completion(runtime=self.runtime, name="the driver's mutex")
            self.the_mutex.complete()
        return self.the_mutex

    def submit(self, rq: Any) -> None:
        super().submit(rq)
        if len(self.requests) > 1:
            mutex = self._mutex()
            mutex.wait()
            kworker.kthread_flush_worker(self.worker)
            mutex.complete()

    def _reap(self) -> list[Any]:
        mutex = self._mutex()
        mutex.wait()
        done = super()._reap()
        mutex.complete()
        return done


class ListSwapped(PumpPath):
    """The pump works on a copy of the list and empties the list afterwards."""

    def _write_and_ring(self) -> None:
        taken = deque(self.requests)
        self.runtime.point("copied, not emptied")
        self.requests.clear()
        mine, self.requests = self.requests, taken
        try:
            super()._write_and_ring()
        finally:
            mine.extendleft(reversed(taken))
            self.requests = mine


SHADOW_RACE = mutant("ShadowRace", bells_class=LookFirst)
DOORBELL_BEFORE_SQE = mutant("DoorbellBeforeSqe", pair=DoorbellFirst)
TAIL_WITHOUT_LOCK = mutant("TailWithoutLock", pair=SharedSlot, path=UnlockedPath)
DOORBELL_OVERTAKEN = mutant("DoorbellOvertaken", pair=OldTail, path=LateRing)
TAG_TAKEN_TWICE = mutant("TagTakenTwice", pair=TagTakenTwice, path=UnlockedPath)
TAG_LEAK = mutant("TagLeak", pair=CidWithoutGeneration)
TAG_WAITER_LOST = mutant("TagWaiterLost", path=LostTagWaiter)
LOST_WAKE_UP = mutant("LostWakeUpDriver", path=LostWakeUp)
FLUSH_DEADLOCK = mutant("FlushDeadlock", path=FlushUnderMutex)
REQUEST_LOST = mutant("RequestLost", path=ListSwapped)

__all__ = [
    "DOORBELL_BEFORE_SQE", "DOORBELL_OVERTAKEN", "FLUSH_DEADLOCK", "LOST_WAKE_UP", "REQUEST_LOST", "TAG_LEAK",
    "TAG_TAKEN_TWICE", "TAG_WAITER_LOST", "TAIL_WITHOUT_LOCK", "Mutant",
]  # fmt: skip
