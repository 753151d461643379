"""The fault unit of a controller: it holds the rules and puts itself in the controller's way while one is armed.

A controller without rules knows nothing of it and pays nothing: the unit replaces methods of the one
controller object (`FaultUnit._reach`) only while an armed rule needs them, and gives them back afterwards.

    rules on            what is replaced
    any                 mmio_read, mmio_write, ring_sq, ring_cq, doorbell_sq, doorbell_cq, step, next_deadline
    command             run_turn and _post
    interrupt           interrupts.raise_vector
    enable … shutdown   lifecycle.start_timer

Time and randomness come in from outside, so that a run is a function of the seed on any clock.
"""

from __future__ import annotations

import contextlib
import heapq
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from nvme_emu.controller.faults.border import Border
from nvme_emu.controller.faults.commands import Commands
from nvme_emu.controller.faults.completions import Completions
from nvme_emu.controller.faults.device import DEVICE_KINDS, Device
from nvme_emu.controller.faults.trigger import RuleState, Stream
from nvme_emu.core.faults import FaultError
from nvme_emu.core.faults.effects import InterruptEffect
from nvme_emu.core.faults.match import OCCURRENCES
from nvme_emu.core.trace import FaultFired

if TYPE_CHECKING:
    from nvme_emu.controller.command import Command
    from nvme_emu.controller.controller import Controller
    from nvme_emu.controller.faults.trigger import CommandView
    from nvme_emu.controller.pcie.rings import SubmissionQueue
    from nvme_emu.core.faults import Effect, Match, Rule

__all__ = ["FIRINGS_KEPT", "FaultUnit"]

FIRINGS_KEPT: Final = 4096
"""Firings that are kept; the oldest are forgotten first. `RuleState.fired` counts all."""

_MISSING: Final = object()
_TRANSITIONS: Final = ("enable", "disable", "shutdown")

Effects = dict[str, tuple[RuleState, "Effect"]]


class FaultUnit:
    """The rules of one controller, in the order in which they are asked: the first that fires wins a kind.

    `stream(id)` gives a rule's seeded random stream, `clock()` the time in ns (the controller's own when it
    is None). `transport_kinds` are the kinds of effect that the transport carries out itself: it is told of
    them through `on_transport(command, effect)`. `on_fired(rule)` hears of each firing.
    The caller holds the controller's lock for every method.
    """

    def __init__(
        self, ctrl: Controller, stream: Callable[[str], Stream], clock: Callable[[], int] | None = None
    ) -> None:
        self.ctrl = ctrl
        self.rules: list[RuleState] = []
        self.firings: deque[FaultFired] = deque(maxlen=FIRINGS_KEPT)
        self.on_fired: Callable[[RuleState], None] | None = None
        self.transport_kinds: frozenset[str] = frozenset()
        self.on_transport: Callable[[Command, Effect], None] | None = None
        self.in_step = False
        self._stream = stream
        self._clock = clock
        self._timers: list[tuple[int, int, Callable[[], None]]] = []
        self._sequence = 0
        self._active: dict[str, tuple[RuleState, ...]] = {}
        self._replaced: dict[tuple[int, str], tuple[Any, str, Any, Any]] = {}
        self._touched = False
        self.completions = Completions(self)
        self.device = Device(self)
        self.commands = Commands(self)
        self.border = Border(self)

    @property
    def now_ns(self) -> int:
        """The time."""
        return self.ctrl.now_ns if self._clock is None else self._clock()

    # -- rules ----------------------------------------------------------------------------------------------

    def add(self, rule: Rule) -> RuleState:
        """Add a rule behind the others. Raises FaultError for a taken id or what this device cannot do."""
        if not rule.id or any(one.id == rule.id for one in self.rules):
            raise FaultError(f"{rule.id!r} names no rule or two", ("id",))
        effect = rule.effect("tcp")
        if effect is not None and "tcp" not in self.transport_kinds:
            raise FaultError(f"rule {rule.id}: a tcp fault needs a controller that is reached over NVMe/TCP")
        interrupt = rule.effect("interrupt")
        if isinstance(interrupt, InterruptEffect) and (interrupt.vector or 0) >= self.ctrl.config.vectors:
            raise FaultError(
                f"rule {rule.id}: vector {interrupt.vector}: there are {self.ctrl.config.vectors} of them"
            )
        state = RuleState(rule, self._stream(rule.id), self.now_ns)
        self.rules.append(state)
        if rule.match.on == "time":
            self.later(rule.when.from_ns, lambda: self._strike(state))
        self._reach()
        return state

    def remove(self, state: RuleState) -> None:
        """Take a rule out. What it has begun goes on. A second call does nothing."""
        if state in self.rules:
            self.rules.remove(state)
        self._reach()

    def set_armed(self, state: RuleState, armed: bool) -> None:
        """Arm or disarm a rule; a disarmed one counts no hits."""
        state.armed = armed
        self._reach()

    def fire(self, state: RuleState) -> None:
        """Let a rule's effects happen now, whatever it matches. FaultError for effects that need a command."""
        unable = [kind for kind in state.rule.kinds if kind not in DEVICE_KINDS | {"interrupt"}]
        interrupt = state.rule.effect("interrupt")
        if unable or (isinstance(interrupt, InterruptEffect) and interrupt.how != "spurious"):
            kind = unable[0] if unable else "interrupt"
            raise FaultError(f"rule {state.id}: its {kind} needs something that it happens to")
        self._carry_out(state, list(state.rule.effects), "manual")
        self.device.flush()
        self._reach()

    def touch(self) -> None:
        """Something may have ended: look at the end of this call whether the unit is still in the way."""
        self._touched = True

    def settle(self) -> None:
        """At the end of a call from outside."""
        self.device.flush()
        if self._touched:
            self._reach()

    # -- firing ---------------------------------------------------------------------------------------------

    def occur(self, on: str, wanted: Callable[[Match], bool]) -> Effects:
        """Something other than a command happened: what the rules do about it, by kind.

        Effects on the device and spurious interrupts are carried out here.
        """
        effects: Effects = {}
        now_ns = self.now_ns
        for state in self._active.get(on, ()):
            if not wanted(state.rule.match) or not state.hit(now_ns):
                continue
            mine = [effect for effect in state.rule.effects if effect.kind not in effects]
            if mine:
                effects.update((effect.kind, (state, effect)) for effect in mine)
                self._carry_out(state, mine, on)
        return effects

    def _carry_out(self, state: RuleState, effects: list[Effect], on: str) -> None:
        self.record(state, [effect.kind for effect in effects], None, "", on)
        for effect in effects:
            if effect.kind in DEVICE_KINDS:
                self.device.request(state, effect)
            elif isinstance(effect, InterruptEffect) and effect.vector is not None:
                self.raise_vector(effect.vector)

    def record(
        self, state: RuleState, kinds: Iterable[str], view: CommandView | None, detail: str, on: str = "command"
    ) -> None:
        """A rule fired."""
        state.fired += 1
        qid, cid, opcode, slba = -1, -1, -1, -1
        if view is not None:
            qid, cid, opcode, slba = view.qid, view.cid, view.opcode, view.slba
        event = FaultFired(self.now_ns, state.id, on, ",".join(kinds), qid, cid, opcode, slba, detail)
        self.firings.append(event)
        emit = self.ctrl.trace.emit
        if emit is not None:
            emit(event)
        if state.spent:
            self.touch()
        if self.on_fired is not None:
            self.on_fired(state)

    def _strike(self, state: RuleState) -> None:
        """The time of a rule on = "time" has come."""
        if state not in self.rules:
            return
        when = state.rule.when
        if state.armed and state.hit(self.now_ns):
            self._carry_out(state, list(state.rule.effects), "time")
        if when.period_ns is not None and not state.spent:
            due_ns = self.now_ns + when.period_ns - state.added_ns
            if when.until_ns is None or due_ns < when.until_ns:
                self.later(when.period_ns, lambda: self._strike(state))
                return
        state.over = True
        self.touch()

    def transport_fault(self, cmd: Command, effect: Effect) -> None:
        """Hand an effect to the transport that declared its kind."""
        if self.on_transport is not None:
            self.on_transport(cmd, effect)

    # -- time -----------------------------------------------------------------------------------------------

    def later(self, delay_ns: int, act: Callable[[], None]) -> None:
        """Have `act` called after `delay_ns`, in a step of the controller."""
        self._sequence += 1
        heapq.heappush(self._timers, (self.now_ns + delay_ns, self._sequence, act))

    def run_timers(self, now_ns: int) -> None:
        """Do what is due."""
        self.ctrl.now_ns = now_ns
        timers = self._timers
        if timers and timers[0][0] <= now_ns:
            while timers and timers[0][0] <= now_ns:
                heapq.heappop(timers)[2]()
            self.touch()

    def next_timer_ns(self) -> int | None:
        """When `run_timers` has something to do."""
        return self._timers[0][0] if self._timers else None

    # -- in the controller's way ----------------------------------------------------------------------------

    def post(self, sq: SubmissionQueue, cid: int, status: int, dw0: int) -> None:
        """The controller's own posting of a completion."""
        type(self.ctrl)._post(self.ctrl, sq, cid, status, dw0)

    def rings_are_there(self) -> bool:
        """Whether host memory still has the queues; CSTS.CFS if not."""
        return self.ctrl._rings_are_there() and self.ctrl.posting

    def raise_vector(self, vector: int) -> None:
        """The interrupt block's own raising of a vector."""
        interrupts = self.ctrl.interrupts
        type(interrupts).raise_vector(interrupts, vector)

    def _reach(self) -> None:
        """Replace exactly the methods that the armed rules need now."""
        self._touched = False
        self.device.lay_caches(self.rules)
        armed = [state for state in self.rules if state.armed and not state.spent]
        self._active = {
            on: tuple(state for state in armed if state.rule.match.on == on) for on in OCCURRENCES
        }
        active, completions, device = self._active, self.completions, self.device
        self.commands.look_for(active["command"])
        completions.forget()
        lingers = bool(self._timers) or device.off or device.paused(self.now_ns) or completions.busy
        border = self.border
        ctrl = self.ctrl
        # The compiled core looks at this one before it goes its own way.
        ctrl.faults = self if armed or lingers else None
        for name in border.NAMES:
            self._place(ctrl, name, getattr(border, name), bool(armed) or lingers)
        self._place(ctrl, "run_turn", self.commands.run_turn, bool(active["command"]))
        self._place(ctrl, "_post", completions.post, bool(active["command"]) or completions.busy)
        self._place(ctrl.interrupts, "raise_vector", border.raise_vector, bool(active["interrupt"]))
        stalls = any(active[on] for on in _TRANSITIONS)
        self._place(ctrl.lifecycle, "start_timer", border.start_timer, stalls)
        # The compiled core knows nothing of replaced methods: it stays away while there are any.
        ctrl.faults = self if self._replaced else None
        # Plans, holds and pauses end without a call to here: look again after the next step.
        self._touched = lingers and not armed

    def _place(self, target: Any, name: str, mine: Any, wanted: bool) -> None:
        """Put a method of ours in, or take it out. One that somebody else has wrapped since stays."""
        key = (id(target), name)
        own = vars(target)
        if wanted and key not in self._replaced:
            self._replaced[key] = target, name, own.get(name, _MISSING), mine
            own[name] = mine
        elif not wanted and key in self._replaced and own.get(name) is self._replaced[key][3]:
            before = self._replaced.pop(key)[2]
            if before is _MISSING:
                del own[name]
            else:
                own[name] = before

    def beneath(self, target: Any, name: str) -> Any:
        """The method that was there before ours was placed."""
        found = self._replaced.get((id(target), name))
        if found is None:
            return getattr(target, name)  # ours was taken out in the middle of a call to it
        return getattr(type(target), name).__get__(target) if found[2] is _MISSING else found[2]

    @contextlib.contextmanager
    def replaced(self, target: Any, name: str, mine: Any) -> Iterator[None]:
        """A method of `target` replaced for a while."""
        own = vars(target)
        before = own.get(name, _MISSING)
        own[name] = mine
        try:
            yield
        finally:
            if before is _MISSING:
                del own[name]
            else:
                own[name] = before
