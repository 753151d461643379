"""All orders of a small scenario, without those that must end as one that was seen: sleep sets.

Two steps of different tasks are *independent* if it makes no difference which of them comes first. Of the orders that
differ only in independent steps one is enough. What a step touches cannot be seen from outside, so something has to be
assumed, and the caller says how much:

    "nothing"       every order is tried
    "named locks"   data under a spinlock with a name of its own is touched under that lock only: steps that begin by
                    taking different named locks are independent of each other, and of steps that take no lock
    "all locked"    tasks share nothing but what they touch under locks, behind completions, in interrupts, and in
                    the step after a point of the same name: nobody is stopped at other places at all

A driver with flags outside locks (ours has them) is not for the last. Where devices read memory (under locks without a
name) and interrupts run, every order is tried at each level.

After Godefroid, "Partial-Order Methods for the Verification of Concurrent Systems" (1996), chapters 4 and 5. The bound
is on *switches*: answers other than "who runs goes on; else the first that can". Few bugs need more than two of them
(Emmi, Qadeer and Rakamaric, "Delay-Bounded Scheduling", POPL 2011). With a bound, sleep sets may leave out an order
whose twin needs one switch more; without one (``switches`` None) nothing is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from kworker.schedulers import TIMER_KEY
from nvme_emu.testing.simulation import STEPS_MAX, Outcome, Runner
from nvme_emu.testing.watching import Watcher

__all__ = ["ASSUMPTIONS", "SWITCHES", "Found", "SleepSets", "halves", "independent", "open_choices", "search"]

SWITCHES = 2
ASSUMPTIONS = ("nothing", "named locks", "all locked")
_LOCK = "lock "
_UNNAMED = "lock lock"
_ANYTHING = "anything"
_PRIVATE = ("unlock ", "settle", "wake", "yield", "block")
_ANNOUNCING = ("wait", "try_wait", "complete", "complete_all")


def independent(one: str, other: str, assume: str) -> bool:
    """Whether two operations (the points at which tasks wait to go on) may change places."""
    if assume == "nothing" or _ANYTHING in (one, other) or _UNNAMED in (one, other):
        return False
    locks = one.startswith(_LOCK), other.startswith(_LOCK)
    if assume == "named locks":
        return any(locks) and one != other
    if one.startswith(_PRIVATE) or other.startswith(_PRIVATE):
        return True
    return one != other and not (one in _ANNOUNCING and other in _ANNOUNCING)


@dataclass(slots=True)
class _Node:
    """A choice on the path: the possibilities left to try, in order, and those that were tried, with operations."""

    keys: tuple[int, ...]
    operations: dict[int, str]
    sleeping: dict[int, str]
    todo: list[int]
    tried: list[int]

    @property
    def chosen(self) -> int:
        return self.tried[-1]


class SleepSets(Watcher):
    """Depth-first search over all schedules. Use one object for all runs, and `advance` between them."""

    def __init__(self, switches: int | None = SWITCHES, *, assume: str = "named locks") -> None:
        if assume not in ASSUMPTIONS:
            raise ValueError(f"assume={assume!r}: it is one of {', '.join(map(repr, ASSUMPTIONS))}")
        self.switches = switches
        self.assume = assume
        self.steps_max = STEPS_MAX
        self.cut = False
        self.runs_cut = 0
        self._path: list[_Node] = []

    def begin(self, rng: Random) -> None:
        super().begin(rng)
        self._at = 0
        self._used = 0
        self.cut = False
        self._asked_before = 0
        self._sleeping: dict[int, str] = {}
        self._pending: dict[int, str] = {}

    def choose(self, point: str, keys: Sequence[int], running: bool) -> int:
        if self.cut:
            return 0
        asked = self._runtime.questions
        if asked != self._asked_before + 1:
            # Steps without an alternative came between: nobody asked here, and nobody knows what they touched.
            self._sleeping = {}
        self._asked_before = asked
        operations = self._operations(point, keys, running)
        if self._at == len(self._path):
            self._push(keys, operations, running)
            if self.cut:
                return 0
        node = self._path[self._at]
        if node.keys != tuple(keys):
            raise RuntimeError(
                f"at {point!r} (choice {self._at}) the possibilities were {node.keys} and are now {tuple(keys)}; "
                "the test is not deterministic: does it use time, ids, or a set's order?"
            )
        self._at += 1
        key = node.chosen
        if key != keys[0]:
            self._used += 1
        self._sleeping = self._wakened(node, key)
        self._pending.pop(key, None)
        return keys.index(key)

    def _operations(self, point: str, keys: Sequence[int], running: bool) -> dict[int, str]:
        """What each possibility is about to do: the point at which it stands."""
        if running:
            self._pending[keys[0]] = point
        operations = {key: self._pending.get(key, _ANYTHING) for key in keys}
        if TIMER_KEY in operations:
            operations[TIMER_KEY] = _ANYTHING
        return operations

    def _push(self, keys: Sequence[int], operations: dict[int, str], running: bool) -> None:
        sleeping = {key: op for key, op in self._sleeping.items() if key in operations}
        bound = self.switches
        offered = keys
        private = running and self.assume == "all locked" and operations[keys[0]].startswith(_PRIVATE)
        if private or (bound is not None and self._used >= bound):
            offered = keys[:1]
        todo = [key for key in offered if key not in sleeping]
        if not todo:
            # Whatever could come next was tried elsewhere, before what led here: an equivalent run exists.
            self.cut = True
            self.runs_cut += 1
            return
        self._path.append(_Node(tuple(keys), operations, sleeping, todo[1:], todo[:1]))

    def _wakened(self, node: _Node, key: int) -> dict[int, str]:
        """Who still sleeps after ``key`` has run: the earlier siblings and sleepers that it does not touch."""
        asleep = dict(node.sleeping)
        asleep.update({tried: node.operations[tried] for tried in node.tried[:-1]})
        operation, assume = node.operations[key], self.assume
        return {other: op for other, op in asleep.items() if other != key and independent(op, operation, assume)}

    def dump(self) -> list[Any]:
        """The path to the schedule that comes next, as JSON holds it."""
        return [
            [node.keys, list(node.operations.items()), list(node.sleeping.items()), node.todo, node.tried]
            for node in self._path
        ]

    def load(self, path: list[Any]) -> None:
        """Go on where another one, of the same settings, was when it gave this path."""
        self._path = [
            _Node(tuple(keys), dict(operations), dict(sleeping), list(todo), list(tried))
            for keys, operations, sleeping, todo, tried in path
        ]

    def advance(self) -> bool:
        """Go to the next schedule. False if all have been run."""
        del self._path[self._at :]
        while self._path:
            node = self._path[-1]
            if node.todo:
                node.tried.append(node.todo.pop(0))
                return True
            self._path.pop()
        return False


def open_choices(path: list[Any] | None) -> int:
    """How many choices a search that is at `path` has met and not tried; 0 for one that has not begun."""
    return 0 if path is None else sum(len(todo) for *_, todo, _ in path)


def halves(path: list[Any] | None) -> tuple[list[Any], list[Any]] | None:
    """A search that is at `path` (of `SleepSets.dump`) in two, which together make its runs; None for a single one.

    Who sleeps below a choice depends on which of its siblings come earlier in the list, not on when they are run: they
    only have to be run by somebody. So both halves go the way of the whole.
    """
    open_nodes = [at for at, (*_, todo, _) in enumerate(path or ()) if todo]
    if path is None or not open_nodes:
        return None
    # The shallow choices have more below them: they go away, half of those that are open, one at least.
    last = open_nodes[(len(open_nodes) - 1) // 2]
    stays = [[*node[:3], [] if at <= last else node[3], node[4]] for at, node in enumerate(path)]
    keys, operations, sleeping, todo, tried = path[last]
    goes = [*path[:last], [keys, operations, sleeping, todo[1:], [*tried, todo[0]]]]
    return stays, goes


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a search did: runs (``cut`` of them ended early as twins), whether all was seen, the first failure."""

    runs: int
    cut: int
    complete: bool
    failure: Outcome | None


def search(
    runner: Runner,
    *,
    runs_max: int,
    switches: int | None = SWITCHES,
    assume: str = "named locks",
    seed: int = 0,
    go_on: Callable[[int], bool] | None = None,
    scheduler: SleepSets | None = None,
) -> Found:
    """Run the test under one schedule after the other until it fails, all were seen, or ``runs_max`` is reached.

    ``go_on(runs)`` is asked after each run. A scheduler of an earlier search goes on where that one stopped.
    """
    chosen = scheduler if scheduler is not None else SleepSets(switches, assume=assume)
    runs = 0
    while runs < runs_max:
        outcome = runner.attempt(seed, chosen)
        runs += 1
        if outcome.failure is not None:
            return Found(runs=runs, cut=chosen.runs_cut, complete=False, failure=outcome)
        if not chosen.advance():
            return Found(runs=runs, cut=chosen.runs_cut, complete=True, failure=None)
        if go_on is not None and not go_on(runs):
            break
    return Found(runs=runs, cut=chosen.runs_cut, complete=False, failure=None)
