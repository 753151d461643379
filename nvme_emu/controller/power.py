"""The power state that a controller is in, and what that does to its time (NVMe Base 2.1, 8.1.17 and 8.1.18).

    Set Features 02h        go to a state; in one that is not operational until the next I/O command
    an I/O command          back to the last operational state, which takes EXLAT + ENLAT; the command waits for it
    feature 0Ch             go by itself to ITPS after ITPT ms without I/O commands
    feature 10h             above TMT1 a little, above TMT2 much slower (SMART counts both)

While the controller is in a state in which it cannot do I/O, or on its way, its namespaces are *held* (`holds`): so
their commands meet their handlers, and those meet `wake`. Nothing of this is looked at otherwise. Whether I/O
commands came meanwhile is seen by looking at the queues four times within ITPT, so that the transition may come up to
a quarter late and never early.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nvme_emu.controller.holds import Hold
from nvme_emu.spec.features import HOST_THERMAL_MANAGEMENT, POWER_MANAGEMENT, Fid

if TYPE_CHECKING:
    from nvme_emu.controller.controller import Controller
    from nvme_emu.controller.namespace import Namespace
    from nvme_emu.controller.power_states import PowerState
    from nvme_emu.controller.subsystem import Timer

__all__ = ["Power"]

_NS_PER_US: Final = 1000
_NS_PER_MS: Final = 1_000_000
_NS_PER_S: Final = 1_000_000_000
_LOOKS: Final = 4
_LIGHT_PACE_PCT, _HEAVY_PACE_PCT = 150, 400
"""How long commands take while the controller keeps itself cool, in percent."""




class Power:
    """Power state, idle transitions and thermal management of one controller."""

    def __init__(self, ctrl: Controller) -> None:
        self._ctrl = ctrl
        self._states: tuple[PowerState, ...] = ctrl.config.power_states
        self.state = 0
        self.workload_hint = 0
        self.transitions = 0
        """How often the state has changed."""
        self._operational = 0
        self._pace_pct = 100
        self.ready_ns = 0
        """When the controller is or was through with its last transition."""
        self._idle: Timer | None = None
        self._through: Timer | None = None
        self._idle_since_ns = 0
        self._seen: tuple[object, ...] = ()
        self.throttle = 0
        """0; 1 above TMT1, 2 above TMT2."""
        self.throttle_counts = [0, 0, 0]
        self.throttle_ns = [0, 0, 0]
        self._throttle_since_ns: int | None = None

    @property
    def asleep(self) -> bool:
        """Whether the state is one without I/O."""
        return bool(self._states) and not self._states[self.state].operational

    # -- transitions ----------------------------------------------------------------------------------------

    def set(self, value: int) -> None:
        """Feature 02h was set."""
        fields = POWER_MANAGEMENT.unpack(value)
        self.workload_hint = int(fields.wh)
        self._go(int(fields.ps))

    def _go(self, state: int) -> None:
        """To another state: the exit latency of the old one and the entry latency of the new one."""
        now_ns = self._ctrl.now_ns
        if not self._states:
            self.state = state
            return
        if state != self.state:
            old, new = self._states[self.state], self._states[state]
            self.transitions += 1
            self.ready_ns = max(self.ready_ns, now_ns) + (old.exit_us + new.entry_us) * _NS_PER_US
            self.state = state
            if new.operational:
                self._operational = state
            self._pace()
            self._wait()
        self._idle_since_ns = max(now_ns, self.ready_ns)
        self._arm()

    def wake(self) -> None:
        """An I/O command: it needs an operational state, and the end of a transition."""
        if self.asleep:
            self._go(self._operational)

    def attached(self, namespace: Namespace) -> None:
        """A namespace has become active: its commands, too, have to wake the controller."""
        if self.asleep or self.ready_ns > self._ctrl.now_ns:
            namespace.hold(Hold.POWER)

    def _wait(self) -> None:
        """Hold the namespaces until I/O may go on; for good in a state without it."""
        ctrl = self._ctrl
        if self._through is not None:
            self._through.cancel()
            self._through = None
        if not self.asleep and self.ready_ns <= ctrl.now_ns:
            self._let_go()
            return
        for namespace in ctrl.subsystem.namespaces.values():
            namespace.hold(Hold.POWER)
        if not self.asleep:
            if ctrl.latency is not None:
                ctrl.latency.busy_until(self.ready_ns)
            self._through = ctrl.subsystem.at(self.ready_ns, self._is_through)

    def _is_through(self, now_ns: int) -> None:
        self._through = None
        self._wait()

    def _let_go(self) -> None:
        """Free the namespaces, unless another controller needs them held."""
        subsystem, now_ns = self._ctrl.subsystem, self._ctrl.now_ns
        others = (one.power for one in subsystem.controllers.values() if one is not self._ctrl)
        if not any(one.asleep or one.ready_ns > now_ns for one in others):
            for namespace in subsystem.namespaces.values():
                namespace.free(Hold.POWER)

    def _pace(self) -> None:
        pct = self._states[self._operational].pace_pct if self._states else 100
        pct = pct * (100, _LIGHT_PACE_PCT, _HEAVY_PACE_PCT)[self.throttle] // 100
        if pct != self._pace_pct and self._ctrl.latency is not None:
            self._ctrl.latency.pace(pct)
        self._pace_pct = pct

    def reset(self) -> None:
        """Controller Level Reset: where feature 02h says, at once; what was on its way is there."""
        self.stop()
        self.state = self._operational = 0
        self.set(self._ctrl.features.current(Fid.POWER_MANAGEMENT))
        self._pace()
        self.look_at_temperature()

    def stop(self) -> None:
        """The controller is gone, or is being reset: nothing waits for it."""
        for timer in (self._idle, self._through):
            if timer is not None:
                timer.cancel()
        self._idle = self._through = None
        if self.asleep or self.ready_ns > self._ctrl.now_ns:
            self.state, self.ready_ns = self._operational, self._ctrl.now_ns
            self._let_go()

    # -- transitions of its own -----------------------------------------------------------------------------

    def configure_idle(self) -> None:
        """Feature 0Ch was set: idleness counts from now."""
        self._idle_since_ns = max(self._ctrl.now_ns, self.ready_ns)
        self._arm()

    def _entry(self) -> tuple[int, int]:
        """(ITPS, ITPT in ns) of the present state; a time of 0 is no transition."""
        enabled, table = self._ctrl.features.idle_transitions
        if not enabled:
            return 0, 0
        itps, itpt_ms = table[self.state]
        return itps, itpt_ms * _NS_PER_MS

    def _arm(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        _, itpt_ns = self._entry()
        if itpt_ns:
            self._seen = self._activity()
            self._idle = self._ctrl.subsystem.at(self._ctrl.now_ns + max(1, itpt_ns // _LOOKS), self._look)

    def _activity(self) -> tuple[object, ...]:
        """What changes when I/O commands are processed."""
        return tuple((qid, sq.head) for qid, sq in self._ctrl.rings.sqs.items() if qid)

    def _busy(self) -> bool:
        if self._ctrl.inflight.light:
            return True
        return any(qid and (sq.inflight or sq.head != sq.tail) for qid, sq in self._ctrl.rings.sqs.items())

    def _look(self, now_ns: int) -> None:
        """Go on if there was no I/O for long enough, else look again."""
        self._idle = None
        itps, itpt_ns = self._entry()
        if not itpt_ns:
            return
        seen = self._activity()
        if seen != self._seen or self._busy():
            self._seen, self._idle_since_ns = seen, now_ns
        if now_ns - self._idle_since_ns >= itpt_ns:
            self._go(itps)
            return
        step = max(1, itpt_ns // _LOOKS)
        due_ns = min(now_ns + step, self._idle_since_ns + itpt_ns)
        self._idle = self._ctrl.subsystem.at(max(due_ns, now_ns + 1), self._look)

    # -- temperature ----------------------------------------------------------------------------------------

    def look_at_temperature(self) -> None:
        """The temperature, or feature 10h, has changed."""
        self.tick()
        fields = HOST_THERMAL_MANAGEMENT.unpack(self._ctrl.features.current(Fid.HOST_CONTROLLED_THERMAL_MANAGEMENT))
        kelvins = self._ctrl.logs.health.temperature_k
        level = 2 if fields.tmt2 and kelvins >= fields.tmt2 else 1 if fields.tmt1 and kelvins >= fields.tmt1 else 0
        if level != self.throttle:
            if level > self.throttle:
                self.throttle_counts[level] += 1
            self.throttle = level
            self._pace()

    def tick(self) -> None:
        """Account for the time that went by in the present throttle."""
        now_ns = self._ctrl.now_ns
        since_ns = self._throttle_since_ns
        if since_ns is not None:
            self.throttle_ns[self.throttle] += max(0, now_ns - since_ns)
        self._throttle_since_ns = now_ns

    def smart_fields(self) -> dict[str, int]:
        """What SMART reports of thermal management: transitions, and seconds."""
        self.tick()
        return {
            "tmt1tc": self.throttle_counts[1],
            "tmt2tc": self.throttle_counts[2],
            "tttmt1": self.throttle_ns[1] // _NS_PER_S,
            "tttmt2": self.throttle_ns[2] // _NS_PER_S,
        }
