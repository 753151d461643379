"""What happens as a controller is enabled, reset, shut down or fails: the writes that ask for it, and the work.

The table of states is `pcie.lifecycle`; here is what its actions do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nvme_emu.controller.pcie.lifecycle import TRANSITIONS, Action, Input, State
from nvme_emu.controller.pcie.registers import bad_enable
from nvme_emu.core.errors import DmaError
from nvme_emu.spec.queues import CQE_SIZE, SQE_SIZE
from nvme_emu.spec.registers import AQA, CC, CC_AMS_WRR, CC_SHN_ABRUPT, CC_SHN_NORMAL, Reg

if TYPE_CHECKING:
    from nvme_emu.controller.controller import Controller

__all__ = ["Lifecycle"]

# States in which commands in flight may still end.
_POSTING = frozenset((State.READY, State.STOPPING, State.STOPPED))


class Lifecycle:
    """The ups and downs of a controller. Its time (`state_delay_ns`, `state_deadline_ns`) stands in the controller."""

    def __init__(self, ctrl: Controller) -> None:
        self._ctrl = ctrl

    def write(self, offset: int, value: int) -> None:
        """The host has written a dword of the properties, at ``offset``."""
        ctrl = self._ctrl
        registers = ctrl.registers
        if offset == Reg.CC:
            self._write_cc(value)
        elif offset == Reg.CSTS:
            registers.clear_status(value)
        elif offset == Reg.NSSR:
            if registers.is_subsystem_reset(value):
                ctrl.subsystem.reset(ctrl)
        elif not registers.store(offset, value) and not ctrl.pin.write(offset, value):
            ctrl.note(f"ignored a write of {value:#x} to the property at {offset:#x}")

    def _write_cc(self, value: int) -> None:
        registers = self._ctrl.registers
        old = CC.unpack(registers.cc)
        registers.cc = registers.merge_cc(value)
        new = CC.unpack(registers.cc)
        if new.en and not old.en:
            why = self._bad_enable()
            self.take(Input.ENABLE if why is None else Input.BAD_ENABLE, why or "")
        elif old.en and not new.en:
            # All properties but those of the admin queues go to their defaults (Base 2.1, 3.7.2).
            registers.cc = CC.pack(shn=new.shn)
            registers.interrupt_mask = 0
            self.take(Input.DISABLE)
        if new.shn in (CC_SHN_NORMAL, CC_SHN_ABRUPT) and old.shn != new.shn:
            self.take(Input.SHUTDOWN)
        elif old.shn and not new.shn:
            self.take(Input.RESUME)

    def _bad_enable(self) -> str | None:
        ctrl = self._ctrl
        registers = ctrl.registers
        why = bad_enable(ctrl.config, registers.cc, registers.aqa)
        if why is None:
            sizes = AQA.unpack(registers.aqa)
            try:
                ctrl.memory.find(registers.asq, (sizes.asqs_z + 1) * SQE_SIZE)
                ctrl.memory.find(registers.acq, (sizes.acqs_z + 1) * CQE_SIZE, True)
            except DmaError as error:
                why = f"an admin queue is outside host memory: {error}"
        return why

    # -- what the table asks for ----------------------------------------------------------------------------

    def take(self, what: Input, why: str = "") -> None:
        """Take the transition that the table names, if it names one."""
        ctrl = self._ctrl
        found = TRANSITIONS.get((ctrl.state, what))
        if found is None:
            return
        ctrl.registers.state, action = found
        ctrl.posting = ctrl.state in _POSTING
        ctrl.registers.paused = False
        ctrl.note(f"{ctrl.state.value} ({why or what.value})")
        ctrl.state_delay_ns = ctrl.state_deadline_ns = None
        if action is Action.START:
            ctrl.page_size = ctrl.registers.page_size
            ctrl.arbiter.weighted = CC["ams"].extract(ctrl.registers.cc) == CC_AMS_WRR
            self.start_timer(ctrl.config.ready_ns)
        elif action is Action.OPEN:
            self._open_admin_queues()
        elif action is Action.RESET:
            self._reset(what)
        elif action is Action.SHUT:
            ctrl.running = False
            abrupt = CC["shn"].extract(ctrl.registers.cc) == CC_SHN_ABRUPT
            self.start_timer(0 if abrupt else ctrl.config.shutdown_ns)
        elif action is Action.FLUSH:
            self._flush_media()
        elif action is Action.HALT:
            ctrl.running = False

    def start_timer(self, delay_ns: int) -> None:
        """A transition of CSTS takes this long."""
        if delay_ns:
            self._ctrl.state_delay_ns = delay_ns
        else:
            self.take(Input.TIMER)

    def timer(self) -> None:
        """Start what was to be timed, or end what is due."""
        ctrl = self._ctrl
        if ctrl.state_delay_ns is not None:
            ctrl.state_deadline_ns = ctrl.now_ns + ctrl.state_delay_ns
            ctrl.state_delay_ns = None
        elif ctrl.state_deadline_ns is not None and ctrl.state_deadline_ns <= ctrl.now_ns:
            ctrl.state_deadline_ns = None
            self.take(Input.TIMER)

    def _open_admin_queues(self) -> None:
        ctrl = self._ctrl
        sizes = AQA.unpack(ctrl.registers.aqa)
        try:
            ctrl.rings.open_admin(
                ctrl.registers.asq, sizes.asqs_z + 1, ctrl.registers.acq, sizes.acqs_z + 1
            )
        except DmaError as error:
            ctrl.fail(f"an admin queue is outside host memory: {error}")
            return
        ctrl.running = True
        ctrl.subsystem.in_use()

    def _reset(self, what: Input) -> None:
        """Controller Level Reset (Base 2.1, 3.7.2): no queues, no commands, features back to saved."""
        ctrl = self._ctrl
        ctrl.running = False
        ctrl.drop_commands()
        ctrl.arbiter.clear()
        ctrl.rings.clear()
        if ctrl.shadow is not None:
            ctrl.shadow.close()
            ctrl.shadow = None
        ctrl.coalescer.reset()
        ctrl.interrupts.reset()
        ctrl.features.reset(ctrl.now_ns)
        ctrl.events.reset()
        ctrl.error_log.reset()
        ctrl.ana.reset()
        ctrl.endurance.reset()
        ctrl.logs.reset()
        ctrl.power.reset()
        ctrl.lba_alerts.reset()
        ctrl.subsystem.controller_reset(ctrl, what is Input.SUBSYSTEM_RESET)
        ctrl.apply_features()
        if what is Input.SUBSYSTEM_RESET:
            ctrl.registers.reset_subsystem()
            if ctrl.latency is not None:
                ctrl.latency.reset()
        elif ctrl.state is State.RESETTING:
            self.start_timer(ctrl.config.reset_ns)

    def _flush_media(self) -> None:
        ctrl = self._ctrl
        for namespace in ctrl.namespaces.values():
            try:
                namespace.media.flush()
            except OSError as error:
                ctrl.counters.media_errors += 1
                ctrl.note(f"flushing namespace {namespace.nsid} at shutdown failed: {error}")
        ctrl.subsystem.shut_down()
