"""Commands that go wrong: failed, dropped, on bad blocks, with corrupted data or a patched answer.

While a rule looks at the commands of a queue they are taken one by one, here. Nothing else changes: what no
rule wants is executed by `dispatch.run_one` as ever, with the same result.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from nvme_emu.controller.command import PENDING, Command, Pending
from nvme_emu.controller.data_pointer import data_buffers
from nvme_emu.controller.dispatch import execute_command, run_one, run_turn
from nvme_emu.controller.faults.blocks import History
from nvme_emu.controller.faults.completions import COMPLETION_KINDS, Plan
from nvme_emu.controller.faults.device import DEVICE_KINDS
from nvme_emu.controller.faults.trigger import CommandView
from nvme_emu.controller.latency import Op
from nvme_emu.controller.metadata import RowMedia
from nvme_emu.core.errors import CommandError, DmaError
from nvme_emu.core.faults.effects import (
    CorruptEffect,
    DropEffect,
    MediaErrorEffect,
    PayloadEffect,
    StatusEffect,
)
from nvme_emu.spec.commands import (
    DSM_AD,
    DSM_NR_MASK,
    DSM_RANGE,
    DSM_RANGE_SIZE,
    RW_FUA,
    log_page_offset,
)
from nvme_emu.spec.opcodes import AdminOpcode, NvmOpcode
from nvme_emu.spec.status import CRD_SHIFT, SCT_MASK, SCT_MEDIA, SCT_SHIFT, Status

if TYPE_CHECKING:
    from nvme_emu.controller.controller import Controller
    from nvme_emu.controller.faults.trigger import RuleState
    from nvme_emu.controller.faults.unit import FaultUnit
    from nvme_emu.controller.pcie.rings import SubmissionQueue
    from nvme_emu.core.faults import Effect

__all__ = ["Commands"]

_READS: Final = frozenset({NvmOpcode.READ, NvmOpcode.COMPARE, NvmOpcode.VERIFY})
_HEALERS: Final = frozenset({NvmOpcode.WRITE, NvmOpcode.WRITE_ZEROES})
_ANSWERING: Final = frozenset({AdminOpcode.IDENTIFY, AdminOpcode.GET_LOG_PAGE, AdminOpcode.GET_FEATURES})
_DWORD: Final = 0xFFFF_FFFF


class Commands:
    """Takes the commands of queues that a rule looks at."""

    def __init__(self, unit: FaultUnit) -> None:
        self._unit = unit
        self._ctrl = unit.ctrl
        self.rules: tuple[RuleState, ...] = ()
        self._watchers: tuple[RuleState, ...] = ()
        self._stale_reads: tuple[RuleState, ...] = ()
        self._wanted: dict[int, bool] = {}
        self.history = History()
        self._forgotten: list[Command] = []

    def look_for(self, rules: tuple[RuleState, ...]) -> None:
        """The armed rules on commands, in order."""
        self.rules = rules
        self._watchers = tuple(rule for rule in rules if rule.watches_writes)
        self._stale_reads = tuple(rule for rule in self._watchers if rule.corrupt is not None)
        if not self._stale_reads:
            self.history.clear()
        self._wanted.clear()

    def _wants(self, qid: int) -> bool:
        wanted = self._wanted.get(qid)
        if wanted is None:
            wanted = any(rule.may_want(qid) for rule in self.rules) or bool(qid and self._watchers)
            self._wanted[qid] = wanted
        return wanted

    def run_turn(self, ctrl: Controller, sq: SubmissionQueue, budget: int) -> int:
        """In place of `dispatch.run_turn`: one by one where a rule may want a command of the queue."""
        if not self._wants(sq.qid):
            return run_turn(ctrl, sq, budget)
        done = 0
        while done < budget and sq.head != sq.tail and sq.cq.free and ctrl.running:
            self._run(sq)
            done += 1
        return done

    # -- which rules ----------------------------------------------------------------------------------------

    def _run(self, sq: SubmissionQueue) -> None:
        ctrl = self._ctrl
        view = CommandView(sq, ctrl.namespaces)
        self._unit.completions.plans.pop((view.qid, view.cid), None)
        if sq.inflight and (view.qid, view.cid) in ctrl.outstanding:
            run_one(ctrl, sq)  # Command ID Conflict: no rule sees a command that is none
            return
        plan = self._plan(view)
        if plan is None and not self._watchers:
            run_one(ctrl, sq)
            return
        run_one(ctrl, sq, partial(self._execute, view, plan))
        for cmd in self._forgotten:
            ctrl.inflight.remove(cmd, ctrl.now_ns)
            ctrl.counters.dropped += 1
        self._forgotten.clear()

    def _plan(self, view: CommandView) -> Plan | None:
        """Ask the rules in order: the first that fires has its kinds of effect, later ones what is left."""
        effects: dict[str, tuple[RuleState, Effect]] = {}
        fired: list[tuple[RuleState, list[str]]] = []
        now_ns = self._unit.now_ns
        for rule in self.rules:
            if not rule.wants(view) or not self._applies(rule, view):
                continue
            grown = rule.media_error is not None and rule.media_error.grown
            bad_already = grown and rule.bad_blocks(view.nsid).first(view.slba, view.nlb) is not None
            if not bad_already and not rule.hit(now_ns):
                continue
            kinds = [effect.kind for effect in rule.rule.effects if effect.kind not in effects]
            if kinds:
                effects.update((effect.kind, (rule, effect)) for effect in rule.rule.effects if effect.kind in kinds)
                fired.append((rule, kinds))
                if grown:
                    rule.bad_blocks(view.nsid).add(view.slba, view.nlb)
        if not fired:
            return None
        plan = Plan(effects)
        self._choose_bits(plan, view)
        for rule, kinds in fired:
            self._unit.record(rule, kinds, view, plan.detail if "corrupt" in kinds else "")
        return plan

    def _applies(self, rule: RuleState, view: CommandView) -> bool:
        """What an effect needs of a command beyond what the match says."""
        if rule.media_error is not None:
            if not view.qid or view.opcode not in _READS or view.namespace is None:
                return False
            if not rule.media_error.grown and rule.bad_blocks(view.nsid).first(view.slba, view.nlb) is None:
                return False
        if rule.corrupt is not None:
            if view.opcode not in (NvmOpcode.READ, NvmOpcode.WRITE) or view.namespace is None or not view.qid:
                return False
            if rule.corrupt.how == "stale" and view.opcode == NvmOpcode.READ:
                blocks = range(view.slba, view.slba + view.nlb)
                return any(self.history.block(view.nsid, lba) is not None for lba in blocks)
        if rule.rule.effect("payload") is not None:
            return not view.qid and view.opcode in _ANSWERING
        return True

    def _choose_bits(self, plan: Plan, view: CommandView) -> None:
        found = plan.effects.get("corrupt")
        if found is None:
            return
        rule, effect = found
        assert isinstance(effect, CorruptEffect)
        nbits = view.nbytes * 8
        if effect.how != "bit_flip" or not nbits:
            plan.detail = effect.how
            return
        if effect.at_bit is not None:
            chosen = {(effect.at_bit + more) % nbits for more in range(min(effect.bits, nbits))}
        else:
            chosen = set()
            while len(chosen) < min(effect.bits, nbits):
                chosen.add(rule.stream.randrange(nbits))
        plan.flips = tuple(sorted(chosen))
        plan.detail = "bits " + ", ".join(map(str, plan.flips))

    # -- what they do ---------------------------------------------------------------------------------------

    def _execute(self, view: CommandView, plan: Plan | None, ctrl: Controller, cmd: Command) -> int | Pending:
        if plan is None:
            return self._execute_watched(view, cmd, None)
        lost = self._act(plan, cmd)
        drop: DropEffect | None = plan.get("drop")
        if lost or (drop is not None and not drop.executed):
            return self._drop(cmd, drop)
        if COMPLETION_KINDS & plan.effects.keys():
            self._unit.completions.expect(cmd, plan)
        status: StatusEffect | None = plan.get("status")
        if status is not None and not status.executed:
            return self._fail(status)
        media_error: MediaErrorEffect | None = plan.get("media_error")
        if media_error is not None:
            self._fail_medium(media_error, plan.effects["media_error"][0], view, cmd)
        answer = self._execute_watched(view, cmd, plan)
        if isinstance(answer, Pending):
            return answer
        if drop is not None:
            self._unit.completions.plans.pop(cmd.key, None)
            return self._drop(cmd, drop)
        return answer if status is None else self._fail(status)

    def _act(self, plan: Plan, cmd: Command) -> bool:
        """Ask for what happens to the whole device; True when the command is lost with it."""
        lost = False
        for kind, (rule, effect) in plan.effects.items():
            if kind in DEVICE_KINDS:
                lost |= self._unit.device.request(rule, effect)
            elif kind == "tcp":
                self._unit.transport_fault(cmd, effect)
        return lost

    def _drop(self, cmd: Command, drop: DropEffect | None) -> Pending:
        if drop is not None and not drop.abortable:
            self._forgotten.append(cmd)
        return PENDING

    def _fail(self, effect: StatusEffect) -> int:
        """End the command with the rule's status, which `Completions.post` makes exact."""
        if not effect.code:
            return 0
        if (effect.code & SCT_MASK) >> SCT_SHIFT == SCT_MEDIA:
            self._ctrl.counters.media_errors += 1
        raise CommandError(effect.code | effect.crd << CRD_SHIFT, dnr=effect.dnr)

    def _fail_medium(self, effect: MediaErrorEffect, rule: RuleState, view: CommandView, cmd: Command) -> None:
        ctrl, namespace = self._ctrl, view.namespace
        assert namespace is not None
        if view.slba + view.nlb > namespace.nsze:
            return  # LBA Out of Range comes first
        ctrl.delay(cmd, Op.READ, view.slba << namespace.lba_shift, view.nbytes)
        ctrl.counters.media_errors += 1
        code = Status.READ_ERROR if effect.code is None else effect.code
        lba = rule.bad_blocks(view.nsid).first(view.slba, view.nlb)
        raise CommandError(code, dnr=effect.dnr, lba=lba)

    def _execute_watched(self, view: CommandView, cmd: Command, plan: Plan | None) -> int | Pending:
        """Execute it, with its data corrupted or patched, and let writes heal what they cover."""
        corrupt: CorruptEffect | None = None if plan is None else plan.get("corrupt")
        payload: PayloadEffect | None = None if plan is None else plan.get("payload")
        if self._stale_reads and view.qid and view.opcode == NvmOpcode.WRITE:
            self._remember(view)
        if payload is not None:
            answer = self._execute_patched(payload, cmd)
        elif corrupt is not None and plan is not None and self._in_range(view):
            answer = self._execute_corrupted(corrupt, plan, view, cmd)
        else:
            answer = execute_command(self._ctrl, cmd)
        if view.qid and self._watchers:
            self._heal(view, cmd)
        return answer

    def _in_range(self, view: CommandView) -> bool:
        return view.namespace is not None and view.slba + view.nlb <= view.namespace.nsze

    def _heal(self, view: CommandView, cmd: Command) -> None:
        extents = []
        if view.opcode in _HEALERS:
            extents = [(view.slba, view.nlb)]
        elif view.opcode == NvmOpcode.DATASET_MANAGEMENT and cmd.cdw11 & DSM_AD:
            try:
                data = self._ctrl.receive(cmd, ((cmd.cdw10 & DSM_NR_MASK) + 1) * DSM_RANGE_SIZE)
            except (CommandError, DmaError):
                return  # the host has taken the list away since the command was executed
            extents = [(slba, nlb) for _, nlb, slba in DSM_RANGE.iter_unpack(data) if nlb]
        for slba, nlb in extents:
            for rule in self._watchers:
                rule.heal(view.nsid, slba, nlb)

    # -- data -----------------------------------------------------------------------------------------------

    def _stored(self, view: CommandView) -> bytearray:
        """What the medium holds where the command points."""
        namespace = view.namespace
        assert namespace is not None
        data = bytearray(view.nbytes)
        try:
            namespace.media.read_into(view.slba << namespace.lba_shift, memoryview(data))
        except OSError as error:
            raise CommandError(Status.INTERNAL, dnr=False) from error
        return data

    def _remember(self, view: CommandView) -> None:
        if self._in_range(view) and any(self._covers(rule, view) for rule in self._stale_reads):
            assert view.namespace is not None
            self.history.remember(view.nsid, view.slba, bytes(self._stored(view)), view.namespace.lba_size)

    def _covers(self, rule: RuleState, view: CommandView) -> bool:
        match = rule.rule.match
        if match.nsid is not None and view.nsid not in match.nsid:
            return False
        return match.lba is None or (view.slba <= match.lba[1] and view.slba + view.nlb > match.lba[0])

    def _execute_corrupted(
        self, effect: CorruptEffect, plan: Plan, view: CommandView, cmd: Command
    ) -> int | Pending:
        if effect.how == "misdirected":
            return self._execute_elsewhere(effect, view, cmd)
        ctrl = self._ctrl
        keep = view.nbytes // 2 if effect.nbytes is None else min(effect.nbytes, view.nbytes)
        if view.opcode == NvmOpcode.READ:
            try:
                views = data_buffers(ctrl, cmd, view.nbytes, True)
            except (CommandError, DmaError):
                return execute_command(ctrl, cmd)  # which finds the same, with the right answer
            before = b"".join(views)
            answer = execute_command(ctrl, cmd)
            data = bytearray(b"".join(views))
            if effect.how == "torn":
                data[keep:] = before[keep:]
            elif effect.how == "stale":
                self._put_old(view, data)
            self._scatter(_flipped(data, plan.flips), views)
            return answer
        assert view.namespace is not None
        if effect.how == "stale" and isinstance(media := view.namespace.media, RowMedia):
            return self._execute_lost(media, view, cmd)
        stored = self._stored(view)
        answer = execute_command(ctrl, cmd)
        if effect.how == "bit_flip":
            stored = _flipped(self._stored(view), plan.flips)
        first = keep if effect.how == "torn" else 0
        self._store(view, cmd, first, stored)
        return answer

    def _execute_lost(self, media: RowMedia, view: CommandView, cmd: Command) -> int | Pending:
        """A write of blocks with metadata is acknowledged and lost, metadata included."""
        fua = bool(cmd.cdw12 & RW_FUA) or self._ctrl.write_through
        try:
            rows = media.read_blocks(view.slba, view.nlb)
            answer = execute_command(self._ctrl, cmd)
            media.write_blocks(view.slba, rows, fua)
        except OSError as error:
            raise CommandError(Status.WRITE_FAULT, dnr=False) from error
        return answer

    def _execute_elsewhere(self, effect: CorruptEffect, view: CommandView, cmd: Command) -> int | Pending:
        namespace = view.namespace
        assert namespace is not None
        distance = view.nlb if effect.distance is None else effect.distance
        slba = (view.slba + distance) % (namespace.nsze - view.nlb + 1)
        cmd.cdw10, cmd.cdw11 = slba & _DWORD, slba >> 32
        return execute_command(self._ctrl, cmd)

    def _put_old(self, view: CommandView, data: bytearray) -> None:
        assert view.namespace is not None
        size = view.namespace.lba_size
        for number in range(view.nlb):
            old = self.history.block(view.nsid, view.slba + number)
            if old is not None:
                data[number * size : (number + 1) * size] = old

    def _scatter(self, data: bytearray, views: list[memoryview]) -> None:
        at = 0
        for view in views:
            view[:] = data[at : at + len(view)]
            at += len(view)

    def _store(self, view: CommandView, cmd: Command, first: int, data: bytearray) -> None:
        """Put `data` from byte `first` on where the command wrote."""
        namespace = view.namespace
        assert namespace is not None
        fua = bool(cmd.cdw12 & RW_FUA) or self._ctrl.write_through
        try:
            namespace.media.write((view.slba << namespace.lba_shift) + first, memoryview(data)[first:], fua)
        except OSError as error:
            raise CommandError(Status.WRITE_FAULT, dnr=False) from error

    def _execute_patched(self, effect: PayloadEffect, cmd: Command) -> int | Pending:
        """Run the command with a `send` that patches what is sent."""
        ctrl = self._ctrl
        skipped = log_page_offset(cmd.cdw12, cmd.cdw13) if cmd.opcode == AdminOpcode.GET_LOG_PAGE else 0

        def send(cmd: Command, data: bytes | bytearray | memoryview) -> None:
            patched = bytearray(data)
            for offset, patch in effect.patches:
                for at, byte in enumerate(patch, offset - skipped):
                    if 0 <= at < len(patched):
                        patched[at] = byte
            type(ctrl).send(ctrl, cmd, patched)

        with self._unit.replaced(ctrl, "send", send):
            return execute_command(ctrl, cmd)


def _flipped(data: bytearray, bits: tuple[int, ...]) -> bytearray:
    for bit in bits:
        data[bit // 8] ^= 1 << bit % 8
    return data
