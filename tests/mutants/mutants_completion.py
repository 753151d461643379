"""Bugs on the way back: phase, head, interrupts, and which request a completion belongs to."""

from __future__ import annotations

from typing import Any

from mutants_base import MutantPair, mutant

from nvme_emu.driver.pump import PumpPath
from nvme_emu.driver.submit import SyncPath
from nvme_emu.driver.tags import GENERATION, TAG_MASK
from nvme_emu.spec.queues import CQE, CQE_SIZE


class PlainReap(MutantPair):
    """`reap` with its steps as methods, which mutants change."""

    def reap(self) -> list[Any]:
        done: list[Any] = []
        for _ in range(self.depth):
            dw0, _dw1, sqhd, _sqid, cid, word = CQE.unpack_from(self.cq_view, self.head * CQE_SIZE)
            if word & 1 != self.phase:
                break
            self.sqhd = sqhd
            self.advance()
            self._take(cid, dw0, word >> 1, done)
        if done:
            self.tell()
        return done

    def advance(self) -> None:
        self.head += 1
        if self.head == self.depth:
            self.head = 0
            self.phase ^= 1

    def tell(self) -> None:
        self._port.ring_cq(self.qid, self.head)


class PhaseLate(PlainReap):
    """The phase is inverted one entry after the end of the queue."""

    wrapped = False

    def advance(self) -> None:
        self.head += 1
        if self.wrapped:
            self.phase ^= 1
            self.wrapped = False
        if self.head == self.depth:
            self.head = 0
            self.wrapped = True


class HeadTooFar(PlainReap):
    """The head doorbell tells of one completion more than were taken."""

    def tell(self) -> None:
        self._port.ring_cq(self.qid, (self.head + 1) % self.depth)


class HeadSeldom(PlainReap):
    """The head doorbell is written only when the queue wraps."""

    def tell(self) -> None:
        if self.head == 0:
            super().tell()


class EntryThenHead(PlainReap):
    """Entries are taken first, and the head is moved on afterwards: a second handler takes them again."""

    def reap(self) -> list[Any]:
        done: list[Any] = []
        head, phase = self.head, self.phase
        for _ in range(self.depth):
            dw0, _dw1, _sqhd, _sqid, cid, word = CQE.unpack_from(self.cq_view, head * CQE_SIZE)
            if word & 1 != phase:
                break
            self.pause("entry read, head not moved")
            self._take(cid, dw0, word >> 1, done)
            head += 1
            if head == self.depth:
                head, phase = 0, phase ^ 1
        self.head, self.phase = head, phase
        if done:
            self.tell()
        return done


class UnguardedPath(SyncPath):
    """Two interrupt handlers may reap at the same time."""

    def interrupt(self) -> None:
        for rq in self.pair.reap():
            rq.mark_done()
        self._wake_tag_waiters()


class TagBeforeRequest(PlainReap):
    """The tag is given back before the request is looked up: it may be another one's by then."""

    def _take(self, cid: int, dw0: int, status: int, done: list[Any]) -> None:
        tag = cid & TAG_MASK
        self.tags.free.append(tag)
        self.pause("tag free, request not looked up")
        if tag in self.tags.free:
            self.tags.free.remove(tag)
        super()._take(self.tags.cid[tag], dw0, status, done)


class StatusLater(PlainReap):
    """A request is marked done before its status is stored."""

    def _take(self, cid: int, dw0: int, status: int, done: list[Any]) -> None:
        rq = self.inflight[cid & TAG_MASK]
        super()._take(cid, dw0, 0, done)
        if rq is not None and status:
            rq.mark_done()
            self.pause("done, status not stored")
            rq._status = status


class SameGeneration(PlainReap):
    """The generation in the identifier never changes."""

    def _take(self, cid: int, dw0: int, status: int, done: list[Any]) -> None:
        super()._take(cid, dw0, status, done)
        tag = cid & TAG_MASK
        self.tags.cid[tag] = (self.tags.cid[tag] - GENERATION) & 0xFFFF


class MissedInterrupt(SyncPath):
    """Who finds another handler at work leaves it at that, though that one may have looked already."""

    def interrupt(self) -> None:
        if not self._reaping.try_acquire():
            return
        try:
            done = self.pair.reap()
        finally:
            self._reaping.release()
        for rq in done:
            rq.mark_done()
        self._wake_tag_waiters()


class FlagClearedLate(PumpPath):
    """The pump clears the interrupt's flag after it has reaped, and with it what came meanwhile."""

    def _reap(self) -> list[Any]:
        done = super()._reap()
        self.runtime.point("reaped, flag not cleared")
        self._interrupted = False
        return done


PHASE_OFF_BY_ONE = mutant("PhaseOffByOne", pair=PhaseLate)
HEAD_BEYOND_TAIL = mutant("HeadBeyondTail", pair=HeadTooFar)
HEAD_NOT_TOLD = mutant("HeadNotTold", pair=HeadSeldom)
COMPLETED_TWICE = mutant("CompletedTwice", pair=EntryThenHead, path=UnguardedPath)
STALE_CALLBACK = mutant("StaleCallback", pair=TagBeforeRequest)
DONE_BEFORE_STATUS = mutant("DoneBeforeStatus", pair=StatusLater)
MISSED_INTERRUPT = mutant("MissedInterruptDriver", pair=PlainReap, path=MissedInterrupt)
FLAG_CLEARED_LATE = mutant("FlagClearedLateDriver", path=FlagClearedLate)
