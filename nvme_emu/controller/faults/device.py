"""Faults of the whole device: fatal status, reset by itself, removal, loss of power, temperature, pauses, zones.

A rule may fire in the middle of the controller's work (a command is being fetched). Then the device goes on to
the end of that command, fetches no other, and what the rule asks for happens when the controller's call is
done: no queue disappears under a loop that works it.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from nvme_emu.controller.faults.cache import VolatileCache
from nvme_emu.controller.pcie.lifecycle import Input, State
from nvme_emu.controller.zone_states import ZoneAction
from nvme_emu.controller.zoned_admin import break_zone
from nvme_emu.core.errors import CommandError
from nvme_emu.core.faults.effects import (
    CfsEffect,
    PauseEffect,
    PowerLossEffect,
    RemoveEffect,
    ResetEffect,
    TemperatureEffect,
    ZoneEffect,
)
from nvme_emu.spec.events import AsyncEventType, AsyncNoticeInfo
from nvme_emu.spec.logs import Lid

if TYPE_CHECKING:
    from collections.abc import Callable

    from nvme_emu.controller.faults.trigger import RuleState, Stream
    from nvme_emu.controller.faults.unit import FaultUnit
    from nvme_emu.core.faults import Effect

__all__ = ["DEVICE_KINDS", "Device"]

DEVICE_KINDS: Final = frozenset({"cfs", "reset", "remove", "power_loss", "temperature", "pause", "zone"})
_LOSING: Final = frozenset({"cfs", "reset", "remove", "power_loss"})
"""After these the command at which the rule fired is lost."""

_CACHED: Final = frozenset({"remove", "power_loss"})
_MILLION: Final = 1_000_000
_CLEAN: Final = frozenset({State.STOPPED, State.IDLE_STOPPED})


class Device:
    """What a rule may do to the device as a whole. `off` while it has no power or is not there."""

    def __init__(self, unit: FaultUnit) -> None:
        self._unit = unit
        self._ctrl = unit.ctrl
        self._asked: list[tuple[RuleState, Effect]] = []
        self.off = False
        self.paused_until_ns = 0

    def paused(self, now_ns: int) -> bool:
        """Whether a firmware activation keeps commands from being processed (CSTS.PP)."""
        return now_ns < self.paused_until_ns

    def request(self, rule: RuleState, effect: Effect) -> bool:
        """Have an effect happen as soon as it can; True when the present command is lost with it."""
        self._asked.append((rule, effect))
        if self._unit.in_step:
            self._ctrl.running = False  # no further command in this step
        return effect.kind in _LOSING

    def flush(self) -> None:
        """Let everything happen that was asked for."""
        if not self._asked:
            return
        asked, self._asked = self._asked, []
        for rule, effect in asked:
            self._do(rule, effect)
        self._ctrl.running = self._ctrl.state is State.READY
        self._unit.touch()

    def _do(self, rule: RuleState, effect: Effect) -> None:
        if isinstance(effect, CfsEffect):
            self._ctrl.fail(f"fault rule {rule.id}")
        elif isinstance(effect, ResetEffect):
            self._reset(effect.nssro)
        elif isinstance(effect, RemoveEffect):
            self._lose_power(rule.stream, effect.kept_ppm, effect.return_ns)
        elif isinstance(effect, PowerLossEffect):
            self._lose_power(rule.stream, effect.kept_ppm, effect.off_ns)
        elif isinstance(effect, TemperatureEffect):
            self._ctrl.temperature_k = effect.kelvin
        elif isinstance(effect, PauseEffect):
            self._pause(effect.ns)
        elif isinstance(effect, ZoneEffect):
            action = ZoneAction.BREAK_OFFLINE if effect.state == "offline" else ZoneAction.BREAK_READ_ONLY
            with contextlib.suppress(ValueError, CommandError):
                break_zone(self._ctrl.subsystem, effect.nsid, effect.zone, action)

    def _reset(self, nssro: bool) -> None:
        """Everything that a subsystem reset loses, told in CSTS.NSSRO or not."""
        self._ctrl.lifecycle.take(Input.SUBSYSTEM_RESET)
        if not nssro:
            self._ctrl.registers.nssro = 0
        self.paused_until_ns = 0

    def _pause(self, ns: int) -> None:
        """The notice first (Base 2.1, 8.1.8.1): while paused nothing is completed."""
        notice = AsyncNoticeInfo.FIRMWARE_ACTIVATION_STARTING
        self._ctrl.events.post(AsyncEventType.NOTICE, notice, Lid.FIRMWARE_SLOT)
        self.paused_until_ns = max(self.paused_until_ns, self._unit.now_ns + ns)
        self._unit.later(ns, self._unit.touch)

    # -- power ----------------------------------------------------------------------------------------------

    def _lose_power(self, stream: Stream, kept_ppm: int, back_ns: int | None) -> None:
        if self.off:
            return
        ctrl = self._ctrl
        if ctrl.state not in _CLEAN:
            ctrl.counters.unsafe_shutdowns += 1
        keeps: Callable[[], bool] | None = None
        if kept_ppm:
            keeps = lambda: stream.randrange(_MILLION) < kept_ppm  # noqa: E731  # a def would hide the draw
        for namespace in ctrl.namespaces.values():
            if isinstance(namespace.medium, VolatileCache):
                namespace.medium.lose(keeps)
        self._reset(nssro=False)
        self.off = True
        if back_ns == 0:
            self.come_back()
        elif back_ns is not None:
            self._unit.later(back_ns, self.come_back)

    def come_back(self) -> None:
        """Power is there again, or the device was put back in: it is as after power on."""
        if self.off:
            self.off = False
            self._ctrl.counters.power_cycles += 1
            self._ctrl.subsystem.power_cycle()
            self._unit.touch()

    # -- the cache ------------------------------------------------------------------------------------------

    def lay_caches(self, rules: list[RuleState]) -> None:
        """Put a volatile cache over each medium while a rule may take the power away, and none otherwise."""
        needed = any(_CACHED & set(rule.rule.kinds) for rule in rules)
        for namespace in self._ctrl.namespaces.values():
            media = namespace.medium
            if needed and not isinstance(media, VolatileCache):
                atomic = self._ctrl.config.awupf_z + 1
                namespace.set_media(VolatileCache(media, namespace.row_bytes, atomic_blocks=atomic))
            elif not needed and isinstance(media, VolatileCache):
                namespace.set_media(media.medium)
