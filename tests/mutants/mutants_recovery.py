"""Bugs of recovery, of events and of the end."""

from __future__ import annotations

from typing import Any

from mutants_base import Mutant, mutant

from nvme_emu.driver.admin import AdminQueue
from nvme_emu.driver.aer import EventHandler
from nvme_emu.driver.recovery import Recovery
from nvme_emu.driver.reset import HOST_ABORTED
from nvme_emu.driver.submit import SyncPath
from nvme_emu.spec.registers import CC, Reg


def give_up(path: Any, rq: Any, cid: int, *, new_generation: bool) -> None:
    """End a request by the driver's own decision, its command still being with the device."""
    pair = path.pair
    tag = cid & 0xFFF
    pair._unmap(tag)
    pair.inflight[tag] = None
    pair.outstanding -= 1
    if new_generation:
        pair.tags.release(tag)
    else:
        pair.tags.free.append(tag)
    rq._status = HOST_ABORTED
    rq.mark_done()


class ReuseAfterAbort(Recovery):
    """The identifier is free as soon as the Abort was sent."""

    def expired(self, path: Any, rq: Any, cid: int, seen: Any) -> None:
        self.send_abort(path.pair.qid, cid)
        give_up(path, rq, cid, new_generation=False)


class EndAtTimeout(Recovery):
    """A command that takes too long is ended, and its completion comes all the same."""

    def expired(self, path: Any, rq: Any, cid: int, seen: Any) -> None:
        give_up(path, rq, cid, new_generation=True)


class CancelBeforeDisable(Recovery):
    """A reset ends what is outstanding while the controller still works on it."""

    def tear_down(self) -> None:
        for path in self.driver.all_paths():
            path.close_gate()
        self.cancel_outstanding()
        self.runtime.point("cancelled, not disabled")
        self.driver.disable()


class NoRetryOfGate(SyncPath):
    """Submission goes on during a reset."""

    def close_gate(self) -> None:
        pass


class AskOnce(EventHandler):
    """After the first event nobody asks for another."""

    def handle(self, dw0: int) -> None:
        super().handle(dw0)
        self.driver.admin.request_event = lambda: None  # type: ignore[method-assign]


class ImpatientReset(Mutant):
    """CC.EN is set again without waiting until CSTS.RDY has gone."""

    def disable(self) -> None:
        port = self._port
        port.write32(Reg.CC, CC.replace(port.read32(Reg.CC), en=0, shn=0))


class CqBeforeSq(AdminQueue):
    """Deletes the completion queue first."""

    def delete_queues(self, qid: int) -> None:
        from nvme_emu.spec.opcodes import AdminOpcode

        self.execute(AdminOpcode.DELETE_IO_CQ, cdw10=qid)
        self.execute(AdminOpcode.DELETE_IO_SQ, cdw10=qid)


class DeletesInWrongOrder(Mutant):
    def shutdown(self) -> None:
        self.admin.__class__ = CqBeforeSq
        super().shutdown()


CID_AFTER_ABORT = mutant("CidAfterAbort", recovery_class=ReuseAfterAbort)
COMPLETION_AFTER_TIMEOUT = mutant("CompletionAfterTimeout", recovery_class=EndAtTimeout)
DOUBLE_ON_RESET = mutant("DoubleOnReset", recovery_class=CancelBeforeDisable)
SUBMIT_DURING_RESET = mutant("SubmitDuringReset", path=NoRetryOfGate)
EVENT_NOT_REARMED = mutant("EventNotRearmed", events_class=AskOnce)
RESET_TOO_FAST = ImpatientReset
CQ_DELETED_FIRST = DeletesInWrongOrder
