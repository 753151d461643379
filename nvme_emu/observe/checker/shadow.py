"""Shadow doorbells: the two pages, what the host writes into them, and the doorbells that it owes for it.

A word that the controller finds is judged as a doorbell's value would be. Whether a doorbell is missing cannot be said
at once: the host may be between its store and its look at EventIdx. It is certain when the host gives up on the entry,
by an Abort or a reset, and the word still lies beyond an EventIdx that it should have passed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nvme_emu.core.trace import Doorbell
from nvme_emu.observe.checker.memory import Span, look, owner
from nvme_emu.spec.commands import ABORT_CDW10
from nvme_emu.spec.opcodes import AdminOpcode
from nvme_emu.spec.queues import SQE_SIZE

if TYPE_CHECKING:
    from nvme_emu.controller.pcie.shadow import ShadowDoorbells
    from nvme_emu.core.trace import EventIdx, ShadowDoorbell
    from nvme_emu.observe.checker.checker import Checker
    from nvme_emu.spec.queues import Sqe

__all__ = ["Shadow"]

_CID_AT = slice(2, 4)


class Shadow:
    """Follows the pages of one host from the command that names them on."""

    def __init__(self, checker: Checker) -> None:
        self._checker = checker
        self._ctrl = checker.controller
        self._pages: ShadowDoorbells | None = None
        self._published: dict[int, int] = {}

    def _current(self) -> ShadowDoorbells | None:
        """The pages that are in use; what was known of others is forgotten."""
        pages = self._ctrl.shadow
        if pages is not self._pages:
            self._pages = pages
            self._published = {}
        return pages

    def spans(self) -> list[Span]:
        """The memory of the pages that are in use."""
        pages = self._ctrl.shadow
        return [] if pages is None else [(pages.shadow_addr, pages.nbytes), (pages.events_addr, pages.nbytes)]

    # -- the admin queue ------------------------------------------------------------------------------------

    def submitted(self, entry: Sqe) -> None:
        """An admin command, when its doorbell was rung."""
        if entry.opcode == AdminOpcode.DOORBELL_BUFFER_CONFIG:
            self._configured(entry)
        elif entry.opcode == AdminOpcode.ABORT and self._current() is not None:
            which = ABORT_CDW10.unpack(entry.cdw10)
            self._check_owed(which.sqid, which.cid, f"Abort of cid {which.cid:#06x}")

    def _configured(self, entry: Sqe) -> None:
        memory, page, report = self._ctrl.memory, self._ctrl.page_size, self._checker.report
        names = {"shadow": entry.prp1, "events": entry.prp2}
        for name, addr in names.items():
            if addr % page:
                report("shadow-memory", f"the {name} page {addr:#x} is not on a page of {page}", qid=0, address=addr)
                return
            if any(owner(memory, at) is None for at in (addr, addr + page - 1)):
                report("shadow-memory", f"the {name} page {addr:#x} is outside host memory", qid=0, address=addr)
                return
            over = [span for span in self._checker.queues.spans() if span[0] < addr + page and addr < sum(span)]
            if over:
                words = f"the {name} page {addr:#x} lies over the ring at {over[0][0]:#x}"
                report("shadow-memory", words, qid=0, address=addr, ring=over[0][0])
        if entry.prp1 == entry.prp2:
            report("shadow-memory", f"both pages are {entry.prp1:#x}", qid=0, address=entry.prp1)

    # -- doorbells ------------------------------------------------------------------------------------------

    def judges(self, event: Doorbell) -> bool:
        """Judge a doorbell of a queue with a word; False where its value counts as ever."""
        pages = self._current()
        if pages is None or not event.qid:
            return False
        self._check_events(pages)
        found = pages.word(event.qid, event.is_cq)
        if found is None:
            return False
        word, counts = found
        kind = "CQ" if event.is_cq else "SQ"
        values = {"value": event.value, "word": word}
        if not counts and word != event.value:
            words = f"{kind} {event.qid} doorbell {event.value}; its word is still {word}"
            self._checker.report("shadow-not-written", words, qid=event.qid, **values)
            return False
        if counts and word != event.value:
            words = f"{kind} {event.qid} doorbell {event.value}, its word is {word}"
            self._checker.report("shadow-differs", words, qid=event.qid, **values)
        return counts

    def found(self, event: ShadowDoorbell) -> None:
        """The controller found a new word."""
        pages = self._current()
        if pages is None:
            return
        self._check_events(pages)
        if event.value >> 16:
            words = f"word {event.value:#x} of {'CQ' if event.is_cq else 'SQ'} {event.qid}"
            self._checker.report("shadow-reserved", words, qid=event.qid, value=event.value)
        value = event.value & 0xFFFF
        rings = self._ctrl.rings
        known = rings.cqs[event.qid].head if event.is_cq else rings.sqs[event.qid].tail
        if value != known:
            self._checker.queues.moved(Doorbell(event.ts_ns, event.qid, event.is_cq, value))

    def published(self, event: EventIdx) -> None:
        """The controller wrote EventIdx."""
        pages = self._current()
        if pages is not None:
            self._check_events(pages, but=2 * event.qid + event.is_cq)
            self._published[2 * event.qid + event.is_cq] = event.value

    def _check_events(self, pages: ShadowDoorbells, but: int = -1) -> None:
        for index, value in self._published.items():
            now = pages.event_idx(index >> 1, bool(index & 1))
            if now != value and index != but:
                words = f"{'CQ' if index & 1 else 'SQ'} {index >> 1}: EventIdx was {value} and is {now}"
                self._published[index] = now
                self._checker.report("event-idx-written", words, qid=index >> 1, old=value, new=now)

    # -- what is owed ---------------------------------------------------------------------------------------

    def given_up(self, why: str) -> None:
        """The host resets or shuts down: whatever it has submitted it has rung for."""
        if self._current() is not None:
            for qid in list(self._ctrl.rings.sqs):
                self._check_owed(qid, None, why)

    def _check_owed(self, qid: int, cid: int | None, why: str) -> None:
        """Whether entries of a queue lie beyond its EventIdx, though no doorbell came for them."""
        pages, sq = self._ctrl.shadow, self._ctrl.rings.sqs.get(qid)
        found = None if pages is None or sq is None or not qid else pages.word(qid, False)
        if pages is None or sq is None or found is None:
            return
        tail, event_idx = found[0] & 0xFFFF, pages.event_idx(qid, False)
        if tail >= sq.size or tail == sq.tail or event_idx != sq.tail:
            return
        added = (tail - sq.tail) % sq.size
        if added + (sq.tail - sq.head) % sq.size >= sq.size:
            return
        if cid is not None and cid not in self._cids(sq.base, sq.size, sq.tail, added):
            return
        words = f"{why}; the word of SQ {qid} is {tail}, past EventIdx {event_idx}, and no doorbell came"
        self._checker.report("shadow-doorbell-missing", words, qid=qid, word=tail, event_idx=event_idx)

    def _cids(self, base: int, size: int, first: int, count: int) -> set[int]:
        entries = (look(self._ctrl.memory, base + (first + n) % size * SQE_SIZE, SQE_SIZE) for n in range(count))
        return {int.from_bytes(raw[_CID_AT], "little") for raw in entries if raw is not None}
