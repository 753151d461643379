"""Fault rules of served devices (`--faults`, `--rpc`), reached in the thread of the loop that works them."""

from __future__ import annotations

import contextlib
import random
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import kworker
from nvme_emu.controller.faults import FaultUnit
from nvme_emu.controller.faults.unit import FIRINGS_KEPT
from nvme_emu.core.faults import FaultError, as_rule, load_rules, named, rule_to_plain
from nvme_emu.observe.faults import Faults

if TYPE_CHECKING:
    from nvme_emu.controller import Controller
    from nvme_emu.controller.fabrics import Association
    from nvme_emu.controller.faults import RuleState
    from nvme_emu.core.faults import Rule
    from nvme_emu.core.trace import FaultFired
    from nvme_emu.observe.watched import Watched

__all__ = ["HostFaults", "HostRule", "ServedFaults"]

R = TypeVar("R")


class _Loop:
    """A device without a lock: one thread works it."""

    fault_kinds: frozenset[str] = frozenset()

    def __init__(self, poke: Callable[[], object]) -> None:
        self.lock: Any = contextlib.nullcontext()
        self._poke = poke

    def poll(self) -> int | None:
        """Let the device do what is due."""
        self._poke()
        return None


class ServedFaults(Faults):
    """The rules of a device that a loop works: changes from other threads are made in the loop's.

    Made in the thread that will run the loop, before it runs.
    """

    def __init__(self, watched: Watched, poke: Callable[[], object], seed: int) -> None:
        super().__init__(watched.controller, _Loop(poke), kworker.current_runtime(), seed)
        self._watched = watched

    def exclusively(self, act: Callable[[], R]) -> R:
        """In the loop's thread: at once from there, else between two events."""
        return super().exclusively(act) if self._watched.at_home else self._watched.change(act)


class HostRule:
    """A rule of an SSD that several hosts use: one state for each host's controller, armed and removed together."""

    def __init__(self, faults: HostFaults, rule: Rule) -> None:
        self._faults = faults
        self.rule = rule
        self.armed = rule.armed
        self.states: dict[int, RuleState] = {}
        """By controller ID, of the hosts that are there; 0 is the SSD's own controller, which has no commands."""
        self.gone_hits = self.gone_fired = 0

    @property
    def id(self) -> str:
        """The rule's id."""
        return self.rule.id

    @property
    def hits(self) -> int:
        """Of all hosts, also of those that have gone."""
        return self.gone_hits + sum(state.hits for state in list(self.states.values()))

    @property
    def fired(self) -> int:
        """How often it fired for all hosts, also for those that have gone."""
        return self.gone_fired + sum(state.fired for state in list(self.states.values()))

    @property
    def firings(self) -> list[FaultFired]:
        """Its firings among those that are kept."""
        return [event for event in self._faults.firings if event.rule == self.id]

    def forget(self, cntlid: int) -> None:
        """A host has gone: what it counted stays."""
        state = self.states.pop(cntlid, None)
        if state is not None:
            self.gone_hits += state.hits
            self.gone_fired += state.fired

    def arm(self) -> None:
        """Let it count and fire for every host."""
        self._faults.set_armed(self, True)

    def disarm(self) -> None:
        """Let it do neither; its counters stay."""
        self._faults.set_armed(self, False)

    def remove(self) -> None:
        """Take it out for good. What it has begun goes on. A second call does nothing."""
        self._faults.remove(self)

    def fire(self) -> None:
        """Let its effects happen now to the controller of every host that is there. FaultError if there is none."""
        self._faults.fire(self)

    def snapshot(self) -> dict[str, Any]:
        """The rule with its counters, in all and of each host that is there, as JSON holds it."""
        hosts = [
            {"cntlid": cntlid, "hits": state.hits, "fired": state.fired}
            for cntlid, state in sorted(self.states.copy().items())
            if cntlid
        ]
        counted = {"hits": self.hits, "fired": self.fired, "hosts": hosts}
        return {**rule_to_plain(self.rule), "armed": self.armed, **counted}


class HostFaults:
    """The rules of an SSD behind NVMe/TCP: a fault unit for each host's controller, with streams of its own.

    A rule holds for the hosts that are there and for those that come (`joined`). The SSD's `own` controller has
    a unit too. It executes nothing, so nothing fires there; it says what rules this SSD can have while no host is
    there, and keeps the write cache over the media as long as a rule needs one.
    """

    def __init__(self, own: Controller, seed: int, clock: Callable[[], int]) -> None:
        self.watched: Watched | None = None
        """Through which changes from other threads reach the loop's; None: every caller is the loop's thread."""
        self._seed = seed
        self._clock = clock
        self._rules: dict[str, HostRule] = {}
        self._hosts: dict[int, Association] = {}
        self._firings: deque[FaultFired] = deque(maxlen=FIRINGS_KEPT)
        self._units = {0: self._unit(0, own)}

    def _unit(self, cntlid: int, controller: Controller) -> FaultUnit:
        host = f"{self._seed}/{cntlid}"
        unit = FaultUnit(controller, lambda rule_id: random.Random(f"{host}/fault/{rule_id}"), self._clock)
        unit.transport_kinds = frozenset({"tcp"})
        unit.on_fired = lambda state: self._firings.append(unit.firings[-1])
        return unit

    def _exclusively(self, act: Callable[[], R]) -> R:
        """In the loop's thread, with the hosts that are there now."""

        def among_the_living() -> R:
            self._forget_the_gone()
            return act()

        watched = self.watched
        return among_the_living() if watched is None or watched.at_home else watched.change(among_the_living)

    def _forget_the_gone(self) -> None:
        for cntlid in [cntlid for cntlid, host in self._hosts.items() if host.ended]:
            del self._hosts[cntlid], self._units[cntlid]
            for one in self._rules.values():
                one.forget(cntlid)

    def joined(self, association: Association) -> None:
        """A host has made a controller: the rules hold there, too."""
        self._forget_the_gone()
        unit = self._unit(association.cntlid, association.controller)
        unit.on_transport = association.spoil
        self._hosts[association.cntlid] = association
        self._units[association.cntlid] = unit
        for one in self._rules.values():
            state = one.states[association.cntlid] = unit.add(one.rule)
            if state.armed != one.armed:
                unit.set_armed(state, one.armed)

    # -- rules ----------------------------------------------------------------------------------------------

    def add(self, rule: Any) -> HostRule:
        """Add a rule behind those that are there. Raises FaultError as `Faults.add` does."""

        def act() -> HostRule:
            (named_rule,) = named([as_rule(rule)], self._rules)
            one = HostRule(self, named_rule)
            for cntlid, unit in self._units.items():
                one.states[cntlid] = unit.add(named_rule)
            self._rules[one.id] = one
            return one

        return self._exclusively(act)

    def load(self, source: Any) -> list[HostRule]:
        """Add the rules of a TOML or JSON file, or several rules. Raises FaultError and OSError."""
        return [self.add(rule) for rule in load_rules(source)]

    def clear(self) -> None:
        """Remove all rules."""
        for one in list(self._rules.values()):
            self.remove(one)

    def set_armed(self, one: HostRule, armed: bool) -> None:
        """Arm or disarm a rule for every host."""

        def act() -> None:
            one.armed = armed
            for cntlid, state in one.states.items():
                self._units[cntlid].set_armed(state, armed)

        self._exclusively(act)

    def remove(self, one: HostRule) -> None:
        """Take a rule out for every host."""

        def act() -> None:
            if self._rules.get(one.id) is one:
                del self._rules[one.id]
                for cntlid, state in one.states.items():
                    self._units[cntlid].remove(state)

        self._exclusively(act)

    def fire(self, one: HostRule) -> None:
        """Let a rule's effects happen now to every host's controller."""

        def act() -> None:
            if not self._hosts:
                raise FaultError(f"rule {one.id}: no host is there that it could happen to")
            for cntlid in self._hosts:
                self._units[cntlid].fire(one.states[cntlid])

        self._exclusively(act)

    def __getitem__(self, rule_id: str) -> HostRule:
        """The rule of an id. KeyError when there is none."""
        return self._rules[rule_id]

    # -- what happened --------------------------------------------------------------------------------------

    @property
    def firings(self) -> list[FaultFired]:
        """The last firings of all rules for all hosts, oldest first."""
        return list(self._firings.copy())

    def snapshot(self) -> list[dict[str, Any]]:
        """Every rule with its counters, as JSON holds it."""

        def look(_: bool) -> list[dict[str, Any]]:
            self._forget_the_gone()
            return [one.snapshot() for one in list(self._rules.values())]

        watched = self.watched
        return look(True) if watched is None or watched.at_home else watched.read(look)
