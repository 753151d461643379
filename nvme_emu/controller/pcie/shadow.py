"""Shadow doorbells: two pages of host memory instead of writes to the doorbells (NVMe Base 2.1, 5.2.5 and Annex B.5).

    Shadow Doorbell page   the host's     where it writes each tail and head, one word a doorbell
    EventIdx page          ours           the value after which we want to hear of it, one word a doorbell

    host                                        controller
      shadow = new                                EventIdx = what I know
      barrier                                     barrier
      old < EventIdx + 1 <= new ? MMIO            shadow changed meanwhile ? take it, and once more

So either the host sees that it has to ring, or we see its value: that is why we look again after each EventIdx.

A controller that looks by itself leaves EventIdx behind while it does (``shadow_poll_ns`` after the last news), and
publishes it when it goes to rest. With 0 it publishes after each doorbell, and is told of all that it did not meet.

A word counts as soon as it has changed since its queue came into being. From then on a doorbell of that queue only
says "look": its value may be older than the word. A host that never writes the word goes on with its doorbells alone,
as all do with the admin queue, whose EventIdx therefore always asks for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nvme_emu._core import memory_barrier
from nvme_emu.core.errors import CommandError, DmaError
from nvme_emu.core.trace import EventIdx, ShadowDoorbell
from nvme_emu.spec.status import Status

if TYPE_CHECKING:
    from nvme_emu.controller.command import Command
    from nvme_emu.controller.controller import Controller
    from nvme_emu.controller.pcie.rings import CompletionQueue, SubmissionQueue
    from nvme_emu.controller.subsystem import Timer

__all__ = ["LOOK_NS", "ShadowDoorbells", "doorbell_buffer_config"]

LOOK_NS: Final = 1_000
"""Between two looks of a controller that looks by itself."""

_AGAIN_MAX: Final = 16
"""How often EventIdx is published for a host that is faster than we are, before others have their turn."""

_PRP1, _PRP2 = (24, 0), (32, 0)


def doorbell_buffer_config(ctrl: Controller, cmd: Command) -> int:
    """Doorbell Buffer Config (opcode 7Ch): PRP1 is the Shadow Doorbell page, PRP2 the EventIdx page.

    CommandError Invalid Field for an address that is no page of host memory of our reach, or twice the same.
    """
    page = ctrl.page_size
    for addr, where in ((cmd.prp1, _PRP1), (cmd.prp2, _PRP2)):
        if addr % page or (where == _PRP2 and addr == cmd.prp1):
            raise CommandError(Status.INVALID_FIELD, location=where)
    shadow = ShadowDoorbells(ctrl, cmd.prp1, cmd.prp2)
    for addr, where in ((cmd.prp1, _PRP1), (cmd.prp2, _PRP2)):
        try:
            # Words are looked at all the time: memory that is reached by messages is not for that.
            if not ctrl.memory.region_at(addr, page, where == _PRP2).direct:
                raise CommandError(Status.INVALID_FIELD, location=where)
        except DmaError as error:
            raise CommandError(Status.INVALID_FIELD, location=where) from error
    if ctrl.shadow is not None:
        ctrl.shadow.close()
    ctrl.shadow = shadow
    shadow.open()
    return 0


class ShadowDoorbells:
    """What one host has set up, until the next Controller Level Reset."""

    def __init__(self, ctrl: Controller, shadow: int, events: int) -> None:
        config = ctrl.config
        self.shadow_addr, self.events_addr = shadow, events
        self.nbytes = ctrl.page_size
        self._ctrl = ctrl
        self._rings = ctrl.rings
        self._stride = config.doorbell_stride
        self._words_each = self._stride // 4
        self._used = 2 * (config.io_queues_max + 1) * self._stride
        self._patience_ns = config.shadow_poll_ns
        self._live: dict[int, SubmissionQueue | CompletionQueue] = {}
        self._timer: Timer | None = None
        self._news_ns = 0
        self.looks = self.found = 0
        """How often the page was compared, and how many words had changed."""

    @property
    def _poll_ns(self) -> int:
        """How long to look by itself; not at all while the host has to tell of each head (a level is an interrupt)."""
        return 0 if self._ctrl.wants_heads else self._patience_ns

    def open(self) -> None:
        """Begin: what is in the words now is no news."""
        self.attach()
        self._seen = bytearray(self._bytes[: self._used])
        self._seen_view = memoryview(self._seen)
        self._seen_words = self._seen_view.cast("I")
        for sq in self._rings.sqs.values():
            self._publish(2 * sq.qid, sq)
        for cq in self._rings.cqs.values():
            self._publish(2 * cq.qid + 1, cq)

    def close(self) -> None:
        """A reset: the pages are the host's again."""
        if self._timer is not None:
            self._timer.cancel()

    def attach(self) -> None:
        """Look the pages' memory up. Raises DmaError."""
        memory = self._ctrl.memory
        view, at = memory.pin(self.shadow_addr, self.nbytes)
        self._bytes = view[at : at + self.nbytes]
        self._words = self._bytes.cast("I")
        view, at = memory.pin(self.events_addr, self.nbytes, True)
        self._events = view[at : at + self.nbytes].cast("I")

    def created(self, queue: SubmissionQueue | CompletionQueue, is_cq: bool) -> None:
        """A queue came into being: what its words hold is of the one before."""
        index = 2 * queue.qid + is_cq
        self._live.pop(index, None)
        self._seen_words[index * self._words_each] = self._words[index * self._words_each]
        self._publish(index, queue)

    # -- for who looks on -----------------------------------------------------------------------------------

    def word(self, qid: int, is_cq: bool) -> tuple[int, bool] | None:
        """A queue's word, and whether it is what counts; None without such a queue."""
        queue = (self._rings.cqs if is_cq else self._rings.sqs).get(qid)
        if queue is None:
            return None
        index = 2 * qid + is_cq
        place = index * self._words_each
        word: int = self._words[place]
        return word, self._live.get(index) is queue or word != self._seen_words[place]

    def event_idx(self, qid: int, is_cq: bool) -> int:
        """What is in the EventIdx page."""
        return int(self._events[(2 * qid + is_cq) * self._words_each])

    # -- what the host tells --------------------------------------------------------------------------------

    def rung(self, qid: int, is_cq: bool, value: int) -> int | None:
        """A doorbell was written: the value that counts, None where it is known already."""
        queue = (self._rings.cqs if is_cq else self._rings.sqs).get(qid)
        if queue is None or not qid:
            return value
        index = 2 * qid + is_cq
        place = index * self._words_each
        word = self._words[place]
        if self._live.get(index) is not queue:
            if word == self._seen_words[place]:
                return value
            self._live[index] = queue
        if word != self._seen_words[place]:
            self._seen_words[place] = word
            self._tell(qid, is_cq, word)
        word &= 0xFFFF
        self._news()
        return None if word == (queue.head if is_cq else queue.tail) else word

    def look(self) -> bool:
        """Take every word that has changed; whether any has. Nothing happens while doorbells would be ignored."""
        ctrl = self._ctrl
        used = self._used
        self.looks += 1
        if self._bytes[:used] == self._seen_view or not (ctrl.running or ctrl.registers.paused):
            return False
        if ctrl.rings.generation != ctrl.memory.generation and not ctrl._rings_are_there():
            return False
        # What the host writes from here on is seen by the next look.
        now = bytes(self._bytes[:used])
        words, seen = memoryview(now).cast("I"), self._seen_words
        found = False
        for is_cq, queues in ((True, self._rings.cqs), (False, self._rings.sqs)):
            for qid in list(queues):
                place = (2 * qid + is_cq) * self._words_each
                word = words[place]
                if qid and word != seen[place]:
                    self._live[2 * qid + is_cq] = queues[qid]
                    self._tell(qid, is_cq, word)
                    found = True
                    self._take(qid, is_cq, word & 0xFFFF)
        self._seen[:] = now
        if found:
            self._news()
        return found

    def _take(self, qid: int, is_cq: bool, value: int) -> None:
        """A new value of a queue's word, as if its doorbell had been written."""
        self.found += 1
        if is_cq:
            if value != self._rings.cqs[qid].head:
                self._ctrl.take_head(qid, value)
        elif value != self._rings.sqs[qid].tail:
            self._ctrl.take_tail(qid, value)

    def _tell(self, qid: int, is_cq: bool, word: int) -> None:
        emit = self._ctrl.trace.emit
        if emit is not None:
            emit(ShadowDoorbell(self._ctrl.now_ns, qid, is_cq, word))

    # -- what we tell ---------------------------------------------------------------------------------------

    def _publish(self, index: int, queue: SubmissionQueue | CompletionQueue) -> None:
        value: int = queue.head if index & 1 else queue.tail
        place = index * self._words_each
        if self._events[place] != value:
            self._events[place] = value
            emit = self._ctrl.trace.emit
            if emit is not None:
                emit(EventIdx(self._ctrl.now_ns, index >> 1, bool(index & 1), value))

    def settle(self) -> None:
        """At the end of a step: ask for doorbells, unless the controller looks by itself for a while."""
        if not self._poll_ns:
            self.rest()
            return
        rings = self._rings
        if 0 in rings.sqs:
            # Each of the admin queue's doorbells is wanted, whatever else happens.
            self._publish(0, rings.sqs[0])
            self._publish(1, rings.cqs[0])
        if self._timer is None:
            for cq in rings.cqs.values():
                if self._wants_head(cq):
                    self.rest()
                    return

    def served(self, qid: int, is_cq: bool) -> bool:
        """The same for one queue, whose doorbell was written; True if there is more to be served."""
        if self._poll_ns:
            # It looks now, or asks for what is missing; `_news` has seen to that.
            return bool(self._ctrl.arbiter.line)
        queue = (self._rings.cqs if is_cq else self._rings.sqs).get(qid)
        if queue is None:
            return False
        index = 2 * qid + is_cq
        place = index * self._words_each
        self._publish(index, queue)
        memory_barrier()
        return self._words[place] != self._seen_words[place] and self.rest()

    def rest(self) -> bool:
        """Publish EventIdx, and look once more; True if there was something after all, which is not served yet."""
        rings, events, each = self._rings, self._events, self._words_each
        found = False
        for _ in range(_AGAIN_MAX):
            published = False
            for qid, sq in rings.sqs.items():
                if events[2 * qid * each] != sq.tail:
                    self._publish(2 * qid, sq)
                    published = True
            for qid, cq in rings.cqs.items():
                if events[(2 * qid + 1) * each] != cq.head and (not qid or self._wants_head(cq)):
                    self._publish(2 * qid + 1, cq)
                    published = True
            if not published:
                return found
            memory_barrier()
            if not self.look():
                return found
            if self._poll_ns:
                return True
            found = True
        self._start_looking()
        return True

    def _wants_head(self, cq: CompletionQueue) -> bool:
        """Whether the controller has to hear at once of completions that are taken."""
        return not self._poll_ns or 2 * cq.free < cq.size

    # -- looking by itself ----------------------------------------------------------------------------------

    def _news(self) -> None:
        self._news_ns = self._ctrl.now_ns
        if self._poll_ns:
            self._start_looking()

    def _start_looking(self) -> None:
        if self._timer is None:
            self._timer = self._ctrl.subsystem.at(self._ctrl.now_ns + LOOK_NS, self._look_again)

    def _look_again(self, now_ns: int) -> None:
        self._timer = None
        if self._ctrl.shadow is not self:
            return
        if not self.look() and now_ns - self._news_ns >= self._poll_ns and not self.rest():
            return
        self._start_looking()
