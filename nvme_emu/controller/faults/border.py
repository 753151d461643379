"""What the host does at the device's border, seen through the rules: properties, doorbells, vectors, time.

Each method stands in for the controller's of the same name while the unit is in its way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from nvme_emu.controller.lifecycle_actions import Lifecycle
from nvme_emu.controller.pcie.lifecycle import State
from nvme_emu.core.faults.effects import DoorbellEffect, InterruptEffect, RegisterEffect, StallEffect
from nvme_emu.spec.registers import CSTS_PP, Reg

if TYPE_CHECKING:
    from nvme_emu.controller.faults.unit import FaultUnit
    from nvme_emu.core.faults import Match

__all__ = ["Border"]

_DOORBELLS = int(Reg.DOORBELLS)
_TRANSITION_OF_STATE = {
    State.STARTING: "enable",
    State.RESETTING: "disable",
    State.STOPPING: "shutdown",
    State.IDLE_STOPPING: "shutdown",
}


class Border:
    """The methods that a transport calls, and two that the controller calls inside."""

    NAMES: ClassVar[tuple[str, ...]] = (
        "mmio_read", "mmio_write", "ring_sq", "ring_cq", "doorbell_sq", "doorbell_cq", "step", "next_deadline",
    )  # fmt: skip

    def __init__(self, unit: FaultUnit) -> None:
        self._unit = unit
        self._ctrl = unit.ctrl

    def _beneath(self, name: str) -> Any:
        return self._unit.beneath(self._ctrl, name)

    # -- properties -----------------------------------------------------------------------------------------

    def mmio_read(self, offset: int, size: int) -> int:
        """A read of a property: all ones from a device that is not there, else what the rules make of it."""
        unit = self._unit
        effects = unit.occur("register", lambda match: _is_access(match, "read", offset, size, 0))
        unit.settle()
        if unit.device.off:
            return (1 << 8 * size) - 1
        value: int = self._beneath("mmio_read")(offset, size)
        if unit.device.paused(unit.now_ns):
            value |= _laid_over(CSTS_PP, Reg.CSTS, offset, size)
        found = effects.get("register")
        if found is not None and isinstance(found[1], RegisterEffect):
            value = _lie(found[1], Reg[str(found[0].rule.match.register)], offset, size, value)
        return value

    def mmio_write(self, offset: int, size: int, value: int) -> None:
        """A write of a property or doorbell."""
        unit = self._unit
        if offset < _DOORBELLS:
            effects = unit.occur("register", lambda match: _is_access(match, "write", offset, size, value))
            unit.device.flush()
            found = effects.get("register")
            if found is not None and isinstance(found[1], RegisterEffect):
                if found[1].ignore:
                    unit.settle()
                    return
                value = _lie(found[1], Reg[str(found[0].rule.match.register)], offset, size, value)
        if not unit.device.off:
            self._beneath("mmio_write")(offset, size, value)
        unit.settle()

    # -- doorbells ------------------------------------------------------------------------------------------

    def ring_sq(self, qid: int, tail: int) -> None:
        """A submission doorbell."""
        self._ring("ring_sq", "sq", qid, tail)

    def ring_cq(self, qid: int, head: int) -> None:
        """A completion doorbell."""
        self._ring("ring_cq", "cq", qid, head)

    def _ring(self, name: str, which: str, qid: int, value: int) -> None:
        unit = self._unit

        def wanted(match: Match) -> bool:
            return match.doorbell in (None, which) and (match.queue is None or qid in match.queue)

        effects = unit.occur("doorbell", wanted)
        unit.device.flush()
        found = effects.get("doorbell")
        beneath = self._beneath(name)
        if found is not None and isinstance(found[1], DoorbellEffect):
            if found[1].how == "late":
                unit.later(found[1].ns, lambda: None if unit.device.off else beneath(qid, value))
        elif not unit.device.off:
            beneath(qid, value)
        unit.settle()

    def doorbell_sq(self, qid: int, tail: int, now_ns: int) -> tuple[tuple[int, ...], int | None]:
        """The same as one call, by the long way."""
        return self._one_call(self._ctrl.ring_sq, qid, tail, now_ns)

    def doorbell_cq(self, qid: int, head: int, now_ns: int) -> tuple[tuple[int, ...], int | None]:
        """The same as one call, by the long way."""
        return self._one_call(self._ctrl.ring_cq, qid, head, now_ns)

    def _one_call(self, ring: Any, qid: int, value: int, now_ns: int) -> tuple[tuple[int, ...], int | None]:
        ctrl = self._ctrl
        ctrl.now_ns = now_ns
        ring(qid, value)
        ctrl.step(now_ns)
        return ctrl.take_irqs(), ctrl.next_deadline()

    # -- time -----------------------------------------------------------------------------------------------

    def step(self, now_ns: int) -> None:
        """The device's own work, unless it is away or paused, and what rules have put off."""
        unit = self._unit
        beneath = self._beneath("step")
        try:
            unit.run_timers(now_ns)
            unit.device.flush()
        except Exception as error:
            self._ctrl.broken(error)
        if not unit.device.off and not unit.device.paused(now_ns):
            unit.in_step = True
            try:
                beneath(now_ns)
            finally:
                unit.in_step = False
        unit.settle()

    def next_deadline(self) -> int | None:
        """When the device, or something that was put off, wants to be stepped."""
        unit = self._unit
        timer_ns = unit.next_timer_ns()
        if unit.device.off or unit.device.paused(unit.now_ns):
            return timer_ns
        due_ns: int | None = self._beneath("next_deadline")()
        if due_ns is None or (timer_ns is not None and timer_ns < due_ns):
            return timer_ns
        return due_ns

    # -- what the controller calls --------------------------------------------------------------------------

    def start_timer(self, delay_ns: int) -> None:
        """A transition of CSTS begins: it takes longer, or never ends."""
        unit = self._unit
        on = _TRANSITION_OF_STATE.get(self._ctrl.state)
        effects = {} if on is None else unit.occur(on, lambda match: True)
        found = effects.get("stall")
        if found is not None and isinstance(found[1], StallEffect):
            if found[1].ns is None:
                return
            delay_ns += found[1].ns
        Lifecycle.start_timer(self._ctrl.lifecycle, delay_ns)

    def raise_vector(self, vector: int) -> None:
        """A message is due: it is lost, or comes late."""
        unit = self._unit
        effects = unit.occur("interrupt", lambda match: match.vector is None or vector in match.vector)
        found = effects.get("interrupt")
        if found is not None and isinstance(found[1], InterruptEffect):
            if found[1].how == "lost":
                return
            if found[1].how == "late":
                unit.later(found[1].ns, lambda: unit.raise_vector(vector))
                return
        unit.raise_vector(vector)


def _is_access(match: Match, access: str, offset: int, size: int, value: int) -> bool:
    """Whether an access touches the match's property, with the bits that it wants written."""
    reg = Reg[str(match.register)]
    if offset >= reg + reg.size or offset + size <= reg or match.access not in (None, access):
        return False
    if match.value is None and match.bits is None:
        return True
    bits = match.bits if match.bits is not None else (1 << 8 * reg.size) - 1
    return not (_laid_over(value, offset, reg, reg.size) ^ (match.value or 0)) & bits


def _laid_over(value: int, at: int, offset: int, size: int) -> int:
    """The bits of `value`, which stands at byte `at`, as a window of `size` bytes at `offset` shows them."""
    shift = 8 * (at - offset)
    moved = value << shift if shift >= 0 else value >> -shift
    return moved & ((1 << 8 * size) - 1)


def _lie(effect: RegisterEffect, reg: Reg, offset: int, size: int, value: int) -> int:
    mask = _laid_over(effect.mask, reg, offset, size)
    return value & ~mask | _laid_over(effect.value, reg, offset, size) & mask
