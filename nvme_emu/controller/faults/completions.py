"""Completions that go wrong: late, twice, out of order, with wrong fields, torn, without their interrupt.

What happens to a completion was decided when its command was fetched, in a `Plan`. It is carried out when the
controller would write the completion. A completion that waits stays in flight like any command whose time has
not come, with its slot: Abort, Delete I/O Submission Queue and a reset find it there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from nvme_emu.controller.pcie.rings import CQE_BODY, CQE_STATUS_WORD, CQE_WORDS
from nvme_emu.core.faults.effects import (
    CqeEffect,
    DelayEffect,
    DuplicateEffect,
    InterruptEffect,
    ReorderEffect,
    StatusEffect,
    TornCqeEffect,
)
from nvme_emu.core.trace import PostCqe
from nvme_emu.spec.queues import CQE_SIZE
from nvme_emu.spec.status import CRD_SHIFT, DNR, MORE, STATUS_CODE_MASK

if TYPE_CHECKING:
    from nvme_emu.controller.command import Command
    from nvme_emu.controller.faults.trigger import RuleState
    from nvme_emu.controller.faults.unit import FaultUnit
    from nvme_emu.controller.pcie.rings import CompletionQueue, SubmissionQueue
    from nvme_emu.core.faults import Effect

__all__ = ["COMPLETION_KINDS", "Completions", "Plan", "status_field"]

COMPLETION_KINDS: Final = frozenset(
    {"status", "delay", "duplicate", "reorder", "cqe", "torn_cqe", "interrupt"}
)


def status_field(effect: StatusEffect, logged: int = 0) -> int:
    """The status field that a rule asks for; `logged` gives the More bit where the rule leaves it open."""
    more = effect.more if effect.more is not None else bool(logged & MORE)
    return effect.code | effect.crd << CRD_SHIFT | (DNR if effect.dnr else 0) | (MORE if more else 0)


class Plan:
    """What the rules that fired at a command do with it: kind -> (rule, effect)."""

    __slots__ = ("cmd", "detail", "effects", "flips", "waited")

    def __init__(self, effects: dict[str, tuple[RuleState, Effect]]) -> None:
        self.effects = effects
        self.cmd: Command | None = None
        self.waited = False
        self.flips: tuple[int, ...] = ()
        self.detail = ""

    def get(self, kind: str) -> Any:
        """The effect of a kind; None when there is none."""
        found = self.effects.get(kind)
        return None if found is None else found[1]

    def delay_ns(self) -> int:
        """How long the completion is delayed; draws the jitter."""
        effect: DelayEffect | None = self.get("delay")
        if effect is None:
            return 0
        jitter = self.effects["delay"][0].stream.randrange(effect.jitter_ns + 1) if effect.jitter_ns else 0
        return effect.ns + jitter


class Completions:
    """Stands in for the controller's posting of completions while there are plans."""

    def __init__(self, unit: FaultUnit) -> None:
        self._unit = unit
        self._ctrl = unit.ctrl
        self.plans: dict[tuple[int, int], Plan] = {}
        self._held: list[tuple[Plan, int, int, list[int]]] = []  # plan, status, dw0, [others to wait for]

    @property
    def busy(self) -> bool:
        """Whether a plan or a held completion waits."""
        return bool(self.plans) or bool(self._held)

    def expect(self, cmd: Command, plan: Plan) -> None:
        """The completion of this command is to be treated by `plan`."""
        plan.cmd = cmd
        self.plans[cmd.key] = plan

    def forget(self) -> None:
        """Drop plans and holds of queues that a reset or a deletion has taken."""
        sqs = self._ctrl.rings.sqs
        self.plans = {
            key: plan
            for key, plan in self.plans.items()
            if plan.cmd is not None and sqs.get(plan.cmd.sq.qid) is plan.cmd.sq
        }
        self._held = [one for one in self._held if one[0].cmd is not None and self._is_live(one[0].cmd)]

    def _is_live(self, cmd: Command) -> bool:
        return self._ctrl.inflight.is_live(cmd)

    def post(self, sq: SubmissionQueue, cid: int, status: int, dw0: int) -> None:
        """In place of the controller's own: write the completion as its command's plan says."""
        plan = self.plans.pop((sq.qid, cid), None)
        cmd = None if plan is None else plan.cmd
        if plan is None or cmd is None or cmd.sq is not sq:
            self._unit.post(sq, cid, status, dw0)
            self._count_down(sq.cq)
            return
        effect: StatusEffect | None = plan.get("status")
        if effect is not None and status & STATUS_CODE_MASK == effect.code:
            status = status_field(effect, status)
        if not plan.waited and self._wait(plan, cmd, status, dw0):
            return
        self._write(plan, sq, cid, status, dw0)
        self._count_down(sq.cq)

    # -- later ----------------------------------------------------------------------------------------------

    def _wait(self, plan: Plan, cmd: Command, status: int, dw0: int) -> bool:
        """Put the completion off if it is to be delayed or overtaken."""
        reorder: ReorderEffect | None = plan.get("reorder")
        wait_ns = plan.delay_ns()
        if reorder is not None:
            wait_ns = max(wait_ns, reorder.hold_ns)
        # From when the device was done, not from when somebody came to step it.
        due_ns = (cmd.done_ns or self._ctrl.now_ns) + wait_ns
        if due_ns <= self._ctrl.now_ns or not self._ctrl.posting:
            return False
        plan.waited = True
        self.plans[cmd.key] = plan
        self._ctrl.defer(cmd, due_ns, status, dw0)
        if reorder is not None:
            self._held.append((plan, status, dw0, [reorder.behind]))
        return True

    def _count_down(self, cq: CompletionQueue) -> None:
        """A completion was written: whatever waited for it to overtake comes closer."""
        if not self._held:
            return
        ready = []
        for one in self._held:
            cmd, left = one[0].cmd, one[3]
            if cmd is not None and cmd.sq.cq is cq and self._is_live(cmd):
                left[0] -= 1
                if not left[0]:
                    ready.append(one)
        self._held = [one for one in self._held if one[3][0] and one[0].cmd and self._is_live(one[0].cmd)]
        for plan, status, dw0, _ in ready:
            cmd = plan.cmd
            if cmd is not None:
                self._ctrl.inflight.remove(cmd, self._ctrl.now_ns)
                self.post(cmd.sq, cmd.cid, status, dw0)

    # -- written --------------------------------------------------------------------------------------------

    def _write(self, plan: Plan, sq: SubmissionQueue, cid: int, status: int, dw0: int) -> None:
        ctrl, cq = self._ctrl, sq.cq
        if not ctrl.posting or not self._unit.rings_are_there():
            ctrl.counters.dropped += 1
            return
        self._publish(plan, sq, cid, status, dw0)
        ctrl.counters.posted += 1
        self._interrupt(plan, cq)
        duplicate: DuplicateEffect | None = plan.get("duplicate")
        if duplicate is None:
            return
        if duplicate.after_ns:
            again = plan, sq, cid, status, dw0
            self._unit.later(duplicate.after_ns, lambda: self._again(*again))
        else:
            self._again(plan, sq, cid, status, dw0)

    def _again(self, plan: Plan, sq: SubmissionQueue, cid: int, status: int, dw0: int) -> None:
        """The same completion once more, if its queue is there and has room."""
        cq = sq.cq
        if not self._is_there(cq) or not cq.free:
            return
        cq.free -= 1
        self._publish(plan, sq, cid, status, dw0)
        self._interrupt(plan, cq)

    def _is_there(self, cq: CompletionQueue) -> bool:
        return self._ctrl.posting and self._ctrl.rings.cqs.get(cq.qid) is cq

    def _publish(self, plan: Plan, sq: SubmissionQueue, cid: int, status: int, dw0: int) -> None:
        """Write the entry with what is wrong about it, its last word last."""
        cq, tail = sq.cq, sq.cq.tail
        wrong: CqeEffect | None = plan.get("cqe")
        torn: TornCqeEffect | None = plan.get("torn_cqe")
        sqid, sqhd, phase = sq.qid, sq.head, cq.phase
        if wrong is not None:
            cid = (cid if wrong.cid is None else wrong.cid) ^ wrong.cid_xor
            sqid = sqid if wrong.sqid is None else wrong.sqid
            sqhd = sqhd if wrong.sqhd is None else wrong.sqhd
            dw0 = dw0 if wrong.dw0 is None else wrong.dw0
            phase ^= wrong.phase
        body = CQE_BODY.pack(dw0 & 0xFFFF_FFFF, dw0 >> 32, sqhd, sqid, cid)
        at = tail * CQE_SIZE
        stale = 0 if torn is None else torn.stale_bytes
        cq.view[at + stale : at + len(body)] = body[stale:]
        cq.words[tail * CQE_WORDS + CQE_STATUS_WORD] = status << 1 | phase
        if torn is not None:
            self._unit.later(torn.after_ns, lambda: self._mend(cq, at, body[:stale]))
        cq.tail = tail + 1
        if cq.tail == cq.size:
            cq.tail = 0
            cq.phase ^= 1
        emit = self._ctrl.trace.emit
        if emit is not None:
            emit(PostCqe(self._ctrl.now_ns, cq.qid, sqid, cid, status, sqhd))

    def _mend(self, cq: CompletionQueue, at: int, missing: bytes) -> None:
        """The rest of a torn entry arrives."""
        if self._is_there(cq):
            cq.view[at : at + len(missing)] = missing

    def _interrupt(self, plan: Plan, cq: CompletionQueue) -> None:
        effect: InterruptEffect | None = plan.get("interrupt")
        raise_vector = self._ctrl.interrupts.raise_vector
        if effect is not None and effect.how == "spurious" and effect.vector is not None:
            raise_vector(effect.vector)
        if not cq.ien or (effect is not None and effect.how == "lost"):
            return
        if effect is not None and effect.how == "late":
            vector = cq.vector
            self._unit.later(effect.ns, lambda: raise_vector(vector) if self._is_there(cq) else None)
        else:
            raise_vector(cq.vector)
