"""Live control of a machine's fault rules: add, arm, disarm, remove, look at what fired, wait for it.

    handle = ssd.faults.add(fault.when(opcode="read", nth=3).status("Unrecovered Read Error"))
    ...
    ssd.faults.wait(handle, 1)

All methods may be called from any thread or task, on both runtimes; the device does not move meanwhile.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import kworker
from nvme_emu.controller.faults import FaultUnit
from nvme_emu.core.faults import Rule, as_rule, load_rules, named, rule_to_plain

if TYPE_CHECKING:
    from kworker import Runtime
    from nvme_emu.controller import Controller
    from nvme_emu.controller.faults import RuleState
    from nvme_emu.core.trace import FaultFired

__all__ = ["WAIT_TIMEOUT_S", "FaultControl", "FaultHandle", "FaultPort", "Faults", "RuleControl"]

WAIT_TIMEOUT_S = 30.0
"""How long `wait` waits unless told otherwise."""

R = TypeVar("R")


class FaultPort(Protocol):
    """What the rules need of a transport.

    One that carries out kinds of effect itself has besides `fault_kinds`, a frozenset of them, and
    `on_fault(command, effect)`, which is called while a command at which such an effect fires is executed.
    """

    @property
    def lock(self) -> Any:
        """What guards the controller."""
        ...

    def poll(self) -> int | None:
        """Let the device do what is due."""
        ...


class RuleControl(Protocol):
    """A rule that was added, as remote control and `top` use it: `FaultHandle`, or a rule of several hosts."""

    @property
    def id(self) -> str: ...
    @property
    def firings(self) -> list[FaultFired]: ...
    def arm(self) -> None: ...
    def disarm(self) -> None: ...
    def remove(self) -> None: ...
    def fire(self) -> None: ...


class FaultControl(Protocol):
    """The rules of an SSD, as remote control and `top` use them: `Faults`, or those of several hosts."""

    @property
    def firings(self) -> list[FaultFired]: ...
    def add(self, rule: Any) -> RuleControl: ...
    def load(self, source: Any) -> Sequence[RuleControl]: ...
    def clear(self) -> None: ...
    def snapshot(self) -> list[dict[str, Any]]: ...
    def __getitem__(self, rule_id: str) -> RuleControl: ...


class FaultHandle:
    """A rule that was added: `rule` as declared, `hits` and `fired` counted."""

    def __init__(self, faults: Faults, state: RuleState) -> None:
        self._faults = faults
        self._state = state

    @property
    def rule(self) -> Rule:
        """The rule, with its id."""
        return self._state.rule

    @property
    def id(self) -> str:
        """The rule's id."""
        return self._state.id

    @property
    def armed(self) -> bool:
        """Whether it counts hits and fires."""
        return self._state.armed

    @property
    def hits(self) -> int:
        """Occurrences that its match was about while it was armed, inside its time window."""
        return self._state.hits

    @property
    def fired(self) -> int:
        """How often it fired."""
        return self._state.fired

    @property
    def firings(self) -> list[FaultFired]:
        """Its firings among those that are kept (`FIRINGS_KEPT` of all rules)."""
        return [event for event in self._faults.firings if event.rule == self.id]

    def arm(self) -> None:
        """Let it count and fire."""
        self._faults.set_armed(self._state, True)

    def disarm(self) -> None:
        """Let it do neither; its counters stay."""
        self._faults.set_armed(self._state, False)

    def remove(self) -> None:
        """Take it out for good. What it has begun (a delay, a removal) goes on. A second call does nothing."""
        self._faults.remove(self._state)

    def fire(self) -> None:
        """Let its effects on the device happen now. FaultError where they need a command or an access."""
        self._faults.fire(self._state)

    def wait(self, n: int = 1, timeout_s: float = WAIT_TIMEOUT_S) -> list[FaultFired]:
        """As `Faults.wait` for this rule."""
        return self._faults.wait(self, n, timeout_s)

    def __repr__(self) -> str:
        state = self._state
        armed = "armed" if state.armed else "disarmed"
        return f"<FaultHandle {state.id} {armed}, {state.hits} hits, fired {state.fired} times>"


class Faults:
    """The fault rules of one machine, in the order in which they are asked.

    Nothing stands in the controller's way until the first rule is added.
    """

    def __init__(self, controller: Controller, port: FaultPort, runtime: Runtime, seed: int) -> None:
        self._controller = controller
        self._port = port
        self._runtime = runtime
        self._seed = seed
        self._made: FaultUnit | None = None
        self._handles: dict[str, FaultHandle] = {}
        self._waiting: list[tuple[RuleState, int, kworker.Completion]] = []

    @property
    def _unit(self) -> FaultUnit:
        if self._made is None:
            unit = FaultUnit(self._controller, self._stream, lambda: self._runtime.now_ns)
            unit.transport_kinds = getattr(self._port, "fault_kinds", frozenset())
            unit.on_transport = getattr(self._port, "on_fault", None)
            unit.on_fired = self._fired
            self._made = unit
        return self._made

    def _stream(self, rule_id: str) -> random.Random:
        """A stream of its own for each rule: another rule, or another thread's draws, change nothing in it."""
        return random.Random(f"{self._seed}/fault/{rule_id}")

    def exclusively(self, act: Callable[[], R]) -> R:
        """Do `act()` while nobody else touches the controller, then let the device do what is due.

        Every other method reaches the controller through this one.
        """
        with self._port.lock:
            result = act()
        self._port.poll()
        return result

    # -- rules ----------------------------------------------------------------------------------------------

    def add(self, rule: Any) -> FaultHandle:
        """Add a rule (a Rule, a table, or one of `testing.faults`) behind those that are there.

        Raises FaultError for a rule that is wrong, an id that is taken, or what this machine cannot do.
        """
        (one,) = named([as_rule(rule)], self._handles)
        state = self.exclusively(lambda: self._unit.add(one))
        handle = self._handles[one.id] = FaultHandle(self, state)
        return handle

    def load(self, source: Any) -> list[FaultHandle]:
        """Add the rules of a TOML or JSON file, or several rules. Raises FaultError and OSError."""
        return [self.add(rule) for rule in load_rules(source)]

    def clear(self) -> None:
        """Remove all rules."""
        for handle in list(self):
            handle.remove()

    def set_armed(self, state: RuleState, armed: bool) -> None:
        """Arm or disarm a rule."""
        self.exclusively(lambda: self._unit.set_armed(state, armed))

    def remove(self, state: RuleState) -> None:
        """Take a rule out."""
        self.exclusively(lambda: self._unit.remove(state))
        self._handles.pop(state.id, None)

    def fire(self, state: RuleState) -> None:
        """Let a rule's effects on the device happen now."""
        self.exclusively(lambda: self._unit.fire(state))

    def __getitem__(self, rule_id: str) -> FaultHandle:
        """The rule of an id. KeyError when there is none."""
        return self._handles[rule_id]

    def __iter__(self) -> Iterator[FaultHandle]:
        return iter(list(self._handles.values()))

    def __len__(self) -> int:
        return len(self._handles)

    # -- the device -----------------------------------------------------------------------------------------

    @property
    def off(self) -> bool:
        """Whether a rule has removed the device or taken its power, and nothing has brought it back."""
        return self._made is not None and self._made.device.off

    def come_back(self) -> None:
        """Put a removed device back in, or give it power. Does nothing to one that is there."""
        if self.off:
            self.exclusively(self._unit.device.come_back)

    # -- what happened --------------------------------------------------------------------------------------

    @property
    def firings(self) -> list[FaultFired]:
        """The last firings of all rules, oldest first."""
        return [] if self._made is None else list(self._made.firings)

    def wait(self, rule: FaultHandle | str, n: int = 1, timeout_s: float = WAIT_TIMEOUT_S) -> list[FaultFired]:
        """Block until a rule has fired `n` times in all; its firings that are kept.

        Raises TimeoutError after `timeout_s` seconds (virtual ones on the virtual clock), KeyError for an id
        that no rule has.
        """
        handle = self[rule] if isinstance(rule, str) else rule
        state = handle._state
        completion = kworker.Completion(runtime=self._runtime, name=f"firing {n} of fault rule {state.id}")
        waiting = state, n, completion

        def enlist() -> bool:
            if state.fired < n:
                self._waiting.append(waiting)
            return state.fired >= n

        if self.exclusively(enlist):
            return handle.firings
        try:
            if not completion.wait(int(timeout_s * 1e9)) and state.fired < n:
                raise TimeoutError(f"fault rule {state.id} fired {state.fired} of {n} times in {timeout_s} s")
        finally:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
        return handle.firings

    def _fired(self, state: RuleState) -> None:
        """A rule fired; called while the controller is held."""
        for waiting in list(self._waiting):
            if waiting[0] is state and state.fired >= waiting[1]:
                waiting[2].complete()

    def snapshot(self) -> list[dict[str, Any]]:
        """Every rule with its counters, as JSON holds it."""
        return [
            {**rule_to_plain(handle.rule), "armed": handle.armed, "hits": handle.hits, "fired": handle.fired}
            for handle in self
        ]
