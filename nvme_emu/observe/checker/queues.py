"""Doorbells and rings: what the host submits, what it consumes, and the queues that it creates and deletes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nvme_emu.controller.pcie.lifecycle import State
from nvme_emu.observe.checker.memory import Span, look, owner
from nvme_emu.observe.checker.models import CqModel, SqModel
from nvme_emu.spec.queues import CQE_SIZE, FUSE_FIRST, FUSE_MASK, SQE, SQE_SIZE, Sqe
from nvme_emu.spec.registers import CC, CC_SHN_NONE, CSTS_RDY, Reg

if TYPE_CHECKING:
    from nvme_emu.core.trace import Doorbell, FetchCmd, PostCqe
    from nvme_emu.observe.checker.checker import Checker

__all__ = ["Queues"]

_DOORBELLS: Final = int(Reg.DOORBELLS)
_CID_AT: Final = slice(2, 4)
_STATUS_AT: Final = CQE_SIZE - 2
# The names of an entry's dwords, for telling what of it has changed.
_DWORDS: Final = (
    "command dword 0", "NSID", "CDW2", "CDW3", "MPTR", "MPTR", "PRP1", "PRP1", "PRP2", "PRP2", "CDW10", "CDW11",
    "CDW12", "CDW13", "CDW14", "CDW15",
)  # fmt: skip


class Queues:
    """Follows every queue from its creation on."""

    def __init__(self, checker: Checker) -> None:
        self._checker = checker
        self._ctrl = checker.controller
        self._rings = checker.controller.rings
        self.sqs: dict[int, SqModel] = {}
        self.cqs: dict[int, CqModel] = {}
        self._gone: dict[tuple[str, int], bool] = {}
        self.generation = self._ctrl.memory.generation
        """Of host memory, when `check_memory` last looked."""

    # -- which queues there are -----------------------------------------------------------------------------

    def follow(self) -> None:
        """Catch up with the queues that were created and deleted."""
        rings, memory = self._rings, self._ctrl.memory
        if 0 not in rings.sqs and self.sqs:
            self._gone.clear()  # a reset: identifiers start anew
        else:
            self._gone.update({("sq", qid): True for qid in self.sqs.keys() - rings.sqs.keys()})
            self._gone.update({("cq", qid): True for qid in self.cqs.keys() - rings.cqs.keys()})
        self.sqs = {
            qid: model if (model := self.sqs.get(qid)) is not None and model.sq is sq else SqModel(sq, memory)
            for qid, sq in rings.sqs.items()
        }
        for qid, cq in rings.cqs.items():
            known = self.cqs.get(qid)
            if known is None or known.cq is not cq:
                self.cqs[qid] = CqModel(cq, memory)
                if qid and not self.cqs[qid].total:
                    self.check_phases(qid, cq.base, cq.nbytes)
        self.cqs = {qid: self.cqs[qid] for qid in rings.cqs}

    def sq(self, qid: int) -> SqModel | None:
        """The model of a submission queue that exists."""
        sq, model = self._rings.sqs.get(qid), self.sqs.get(qid)
        if sq is not (model.sq if model is not None else None):
            self.follow()
            model = self.sqs.get(qid)
        return model

    def cq(self, qid: int) -> CqModel | None:
        """The model of a completion queue that exists."""
        cq, model = self._rings.cqs.get(qid), self.cqs.get(qid)
        if cq is not (model.cq if model is not None else None):
            self.follow()
            model = self.cqs.get(qid)
        return model

    def spans(self) -> list[Span]:
        """The memory of all queues."""
        rings = self._rings
        return [(sq.base, sq.nbytes) for sq in rings.sqs.values()] + [(cq.base, cq.nbytes) for cq in rings.cqs.values()]

    def outstanding(self) -> dict[int, dict[int, Sqe]]:
        """What is submitted and not completed, by queue and identifier."""
        self.follow()
        return {qid: model.live for qid, model in self.sqs.items()}

    def may_abort(self, sqid: int, cid: int) -> bool:
        """Whether a command is outstanding, as far as the host can know."""
        model = self.sq(sqid)
        if model is None:
            return False
        cq = self.cq(model.sq.cq.qid)
        # A completion that the host has not consumed yet may have crossed the Abort.
        return cid in model.live or (cq is not None and (sqid, cid) in cq.unacked)

    def check_phases(self, qid: int, base: int, nbytes: int) -> None:
        """A completion queue as the controller gets it: all its Phase Tags are 0."""
        raw = look(self._ctrl.memory, base, nbytes)
        if raw is None or not any(raw[_STATUS_AT::CQE_SIZE]):
            return
        slot = next((slot for slot, low in enumerate(raw[_STATUS_AT::CQE_SIZE]) if low & 1), None)
        if slot is not None:
            words = f"slot {slot} of the ring at {base:#x} has its Phase Tag set"
            self._checker.report("cq-phase-init", words, qid=qid, slot=slot, base=base)

    def check_memory(self) -> None:
        """Whether the rings are still where they were; asked when the host has taken memory back."""
        memory = self._ctrl.memory
        self.generation = memory.generation
        for addr, nbytes in self._checker.shadow.spans():
            if owner(memory, addr) is None:
                self._checker.report("shadow-freed", f"the page {addr:#x} is gone", addr=addr, nbytes=nbytes)
        for addr, nbytes in [*self.spans(), *self._checker.registers.draining]:
            if owner(memory, addr) is None or owner(memory, addr + nbytes - 1) is None:
                self._checker.report(
                    "queue-freed", f"the ring at {addr:#x}+{nbytes:#x} is gone", addr=addr, nbytes=nbytes
                )

    def freed(self, addr: int, nbytes: int) -> None:
        """The driver gave these pages back to its allocator."""
        for start, length in self._checker.shadow.spans():
            if start < addr + nbytes and addr < start + length:
                words = f"pages {addr:#x}+{nbytes:#x} freed, where the page {start:#x} of shadow doorbells is"
                self._checker.report("shadow-freed", words, addr=addr, nbytes=nbytes, page=start)
        for start, length in [*self.spans(), *self._checker.registers.draining]:
            if start < addr + nbytes and addr < start + length:
                words = f"pages {addr:#x}+{nbytes:#x} freed, where the ring {start:#x}+{length:#x} is"
                self._checker.report("queue-freed", words, addr=addr, nbytes=nbytes, ring=start)

    # -- doorbells ------------------------------------------------------------------------------------------

    def written(self, offset: int, size: int, value: int) -> None:
        """A write into the doorbells, before the controller takes it apart."""
        report, config = self._checker.report, self._ctrl.config
        if size != 4 or offset & 3:
            report("doorbell-access", f"{size} bytes written at {offset:#x}", offset=offset, size=size)
        elif (offset - _DOORBELLS) % config.doorbell_stride or offset >= config.bar_size:
            report("doorbell-offset", f"no doorbell is at {offset:#x}", offset=offset, stride=config.doorbell_stride)
        elif value >> 16:
            report("doorbell-reserved", f"{value:#x} written at {offset:#x}", offset=offset, value=value)

    def rung(self, event: Doorbell) -> None:
        """A doorbell's new value, before the controller acts on it."""
        registers, report = self._ctrl.registers, self._checker.report
        qid, kind = event.qid, "cq" if event.is_cq else "sq"
        cc = CC.unpack(registers.cc)
        if registers.state in (State.FAILED, State.START_FAILED):
            return  # the host may not have seen CSTS.CFS
        if not cc.en or not registers.csts & CSTS_RDY:
            words = f"{kind.upper()} {qid} doorbell {event.value} while CSTS is {registers.csts:#x}"
            report("doorbell-not-ready", words, qid=qid, value=event.value, csts=registers.csts)
            return
        if not event.is_cq:
            if cc.shn != CC_SHN_NONE:
                report("doorbell-shut-down", f"SQ {qid} tail {event.value}, CC.SHN is {cc.shn}", qid=qid, shn=cc.shn)
                return
            if not self._checker.registers.ready_seen:
                words = f"SQ {qid} tail {event.value}; CSTS.RDY was not seen to be 1"
                report("ready-not-awaited", words, qid=qid, value=event.value)
                self._checker.registers.ready_seen = True  # once is enough
        if not self._checker.shadow.judges(event):
            self.moved(event)

    def moved(self, event: Doorbell) -> None:
        """A new tail or head, wherever the controller learns of it."""
        qid, kind, report = event.qid, "cq" if event.is_cq else "sq", self._checker.report
        model = self.cq(qid) if event.is_cq else self.sq(qid)
        if model is None:
            rule = "doorbell-deleted" if (kind, qid) in self._gone else "doorbell-no-queue"
            report(rule, f"{kind.upper()} {qid} doorbell {event.value}", qid=qid, value=event.value)
        elif isinstance(model, SqModel):
            self._tail(model, event.value)
        else:
            self._head(model, event.value)

    def _tail(self, model: SqModel, tail: int) -> None:
        sq, report = model.sq, self._checker.report
        if tail >= sq.size:
            report("sq-tail-range", f"tail {tail} of {sq.size} entries", qid=sq.qid, tail=tail, size=sq.size)
            return
        if tail == sq.tail:
            report("sq-tail-same", f"tail {tail} again", qid=sq.qid, tail=tail)
            return
        used, added = (sq.tail - model.known_head) % sq.size, (tail - sq.tail) % sq.size
        if used + added >= sq.size:
            words = f"tail from {sq.tail} to {tail} of {sq.size} entries; the newest SQHD is {model.known_head}"
            report("sq-overrun", words, qid=sq.qid, tail=tail, old=sq.tail, sqhd=model.known_head, size=sq.size)
        if (sq.tail - sq.head) % sq.size + added >= sq.size or not model.direct:
            return  # the controller will not take it; or the entries are not to be seen yet
        for index in range(added):
            slot = (sq.tail + index) % sq.size
            raw = bytes(sq.view[slot * SQE_SIZE : (slot + 1) * SQE_SIZE])
            model.pending.append(raw)
            self._submitted(model, raw)
        if sq.qid and raw[1] & FUSE_MASK == FUSE_FIRST:
            words = f"tail {tail} ends with the first of a fused pair"
            report("fused-doorbell", words, qid=sq.qid, cid=int.from_bytes(raw[_CID_AT], "little"), tail=tail)

    def _submitted(self, model: SqModel, raw: bytes) -> None:
        cid = int.from_bytes(raw[_CID_AT], "little")
        if cid in model.live:
            words = f"cid {cid:#06x} is outstanding"
            self._checker.report("cid-reused", words, qid=model.sq.qid, cid=cid)
        model.live[cid] = entry = Sqe(*SQE.unpack(raw))
        if not model.sq.qid:
            self._checker.shadow.submitted(entry)
        self._checker.commands.submitted(model.sq.qid, entry, model.live)

    def _head(self, model: CqModel, head: int) -> None:
        cq, report = model.cq, self._checker.report
        if head >= cq.size:
            report("cq-head-range", f"head {head} of {cq.size} entries", qid=cq.qid, head=head, size=cq.size)
            return
        moved, there = (head - cq.head) % cq.size, (cq.tail - cq.head) % cq.size
        if not moved:
            report("cq-head-same", f"head {head} again", qid=cq.qid, head=head)
        elif moved > there:
            stale = model.total >= cq.size
            words = f"head from {cq.head} to {head}: {moved} consumed, {there} there"
            rule = "cq-stale-phase" if stale else "cq-head-past-tail"
            report(rule, words, qid=cq.qid, head=head, old=cq.head, tail=cq.tail, size=cq.size)
        else:
            for _ in range(min(moved, len(model.unacked))):
                model.unacked.popleft()

    # -- fetched and posted ---------------------------------------------------------------------------------

    def fetched(self, event: FetchCmd) -> None:
        """The controller took an entry."""
        model = self.sq(event.sqid)
        if model is None:
            return
        sq, slot = model.sq, model.next
        model.next = (slot + 1) % sq.size
        raw = bytes(sq.view[slot * SQE_SIZE : (slot + 1) * SQE_SIZE])
        if model.pending:
            before = model.pending.popleft()
            if raw != before:
                self._changed(model, slot, before, raw)
        else:
            self._submitted(model, raw)
        if int.from_bytes(raw[_CID_AT], "little") == event.cid:
            self._checker.commands.fetched(model, SQE.unpack(raw))

    def _changed(self, model: SqModel, slot: int, before: bytes, now: bytes) -> None:
        at = next(at for at in range(0, SQE_SIZE, 4) if before[at : at + 4] != now[at : at + 4])
        was, is_now = (int.from_bytes(raw[at : at + 4], "little") for raw in (before, now))
        words = f"slot {slot}: {_DWORDS[at // 4]} was {was:#x} at the doorbell and {is_now:#x} when it was fetched"
        self._checker.report("sqe-changed", words, qid=model.sq.qid, slot=slot, old=was, new=is_now)
        cid = int.from_bytes(before[_CID_AT], "little")
        model.live.pop(cid, None)
        model.live[int.from_bytes(now[_CID_AT], "little")] = Sqe(*SQE.unpack(now))

    def posted(self, event: PostCqe) -> None:
        """The controller wrote a completion."""
        model = self.sq(event.sqid)
        if model is None or event.cid not in model.live:
            # A device with a fault names another queue: hosts go by the identifier, as this queue's ends here.
            for other in self.sqs.values():
                if other.sq.cq.qid == event.cqid:
                    other.live.pop(event.cid, None)
        if model is not None:
            model.live.pop(event.cid, None)
            model.known_head = event.sqhd % model.sq.size
        cq = self.cq(event.cqid)
        if cq is None:
            return
        cq.tail = (cq.tail + 1) % cq.cq.size
        cq.total += 1
        cq.unacked.append((event.sqid, event.cid))
        if cq.direct:
            self._check_next(cq)
        if cq.cq.ien and event.cqid and not self._checker.vector_mapped(cq.cq.vector):
            words = f"vector {cq.cq.vector}: nobody receives it"
            self._checker.report("vector-unmapped", words, qid=event.cqid, vector=cq.cq.vector)

    def _check_next(self, model: CqModel) -> None:
        """The slot that comes next must not look new to the host."""
        cq = model.cq
        expected = 1 - model.total // cq.size % 2
        if cq.view[model.tail * CQE_SIZE + _STATUS_AT] & 1 == expected:
            words = f"slot {model.tail} has Phase Tag {expected} before a completion is there"
            self._checker.report("cq-scribbled", words, qid=cq.qid, slot=model.tail, phase=expected)
