"""`serve --faults`: the rules of served devices, reached in the thread of the loop that works them."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import kworker
from nvme_emu.controller.faults import FaultUnit
from nvme_emu.observe.faults import Faults

if TYPE_CHECKING:
    from nvme_emu.controller.fabrics import Association
    from nvme_emu.core.faults import Rule
    from nvme_emu.observe.watched import Watched

__all__ = ["ServedFaults", "rules_of_each_host"]

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


def rules_of_each_host(
    rules: Sequence[Rule], seed: int, clock: Callable[[], int]
) -> Callable[[Association], None] | None:
    """What gives each host's controller over TCP the rules, with counters and streams of its own."""
    if not rules:
        return None

    def add(association: Association) -> None:
        host = f"{seed}/{association.cntlid}"
        unit = FaultUnit(association.controller, lambda rule_id: random.Random(f"{host}/fault/{rule_id}"), clock)
        unit.transport_kinds = frozenset({"tcp"})
        unit.on_transport = association.spoil
        for rule in rules:
            unit.add(rule)

    return add

