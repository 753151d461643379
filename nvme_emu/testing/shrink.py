"""Making a failing schedule small: which of its switches are needed for the failure?

Delta debugging over the set of switches (Zeller and Hildebrandt, 2002): leave out halves, quarters, …, single ones, as
long as the run fails in the same way. What is left is 1-minimal: without any one of them the failure is gone
(unless the budget ran out before). A small set that is no subset of the found one is missed by that; so, where many
are left, the orders with no, one and two switches are tried for a while as well.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from kworker.schedulers import Replay, Schedule
from nvme_emu.testing.exhaustive import search
from nvme_emu.testing.simulation import STEPS_MAX, Outcome, Runner
from nvme_emu.testing.watching import Question, Sparse, switches_of

__all__ = ["Shrunk", "shrink"]

RUNS_MAX = 400
FEW_SWITCHES = 2
AFRESH_RUNS_MAX = 300
SECONDS_MAX = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Shrunk:
    """A failing run with few switches; ``outcome`` was observed closely. ``runs`` is what finding it took."""

    outcome: Outcome
    schedule: Schedule
    switches: int
    switches_before: int
    runs: int


def shrink(runner: Runner, seed: int, found: Outcome, slack_ns: int, *, runs_max: int = RUNS_MAX) -> Shrunk:
    """The failure of ``found`` (observed closely) with as few switches as can be found.

    If the run cannot even be repeated by its switches, ``found`` itself is what comes back.
    """
    work = _Search(runner, seed, found.signature, slack_ns, runs_max)
    everything = switches_of(found.steps)
    first = work.fails(everything)
    if first is None:
        return Shrunk(
            outcome=found,
            schedule=found.schedule,
            switches=len(everything),
            switches_before=len(everything),
            runs=work.runs,
        )
    best = work.minimise(switches_of(first.steps))
    if len(switches_of(best.steps)) > FEW_SWITCHES:
        best = min(best, work.afresh() or best, key=lambda one: len(switches_of(one.steps)))
    return Shrunk(
        outcome=best,
        schedule=best.schedule,
        switches=len(switches_of(best.steps)),
        switches_before=len(everything),
        runs=work.runs,
    )


class _Search:
    def __init__(self, runner: Runner, seed: int, signature: str, slack_ns: int, runs_max: int) -> None:
        self._runner = runner
        self._seed = seed
        self._signature = signature
        self._slack_ns = slack_ns
        self._runs_max = runs_max
        self._until = time.monotonic() + SECONDS_MAX
        self._best: Outcome | None = None
        self.runs = 0

    def fails(self, switches: dict[Question, int]) -> Outcome | None:
        """The run under these switches if it fails in the same way, else None."""
        self.runs += 1
        scheduler = Sparse(switches, self._slack_ns, STEPS_MAX)
        outcome = self._runner.attempt(self._seed, scheduler, closely=True)
        if outcome.failure is None or outcome.signature != self._signature:
            return None
        self._best = outcome
        return outcome

    def afresh(self) -> Outcome | None:
        """The same failure, found in simple orders; minimised."""
        for switches in (0, 1, 2):
            found = search(
                self._runner,
                runs_max=AFRESH_RUNS_MAX,
                switches=switches,
                seed=self._seed,
                go_on=lambda _: time.monotonic() < self._until,
            )
            self.runs += found.runs
            failure = found.failure
            if failure is not None and failure.signature == self._signature:
                replay = Replay(failure.schedule)
                replay.slack_ns, replay.steps_max = failure.slack_ns, STEPS_MAX
                self._slack_ns, self._runs_max = failure.slack_ns, self.runs + RUNS_MAX
                self._best = self._runner.attempt(self._seed, replay, closely=True)
                return self.minimise(switches_of(self._best.steps))
        return None

    def minimise(self, switches: dict[Question, int]) -> Outcome:
        if switches and self.fails({}) is None:
            parts = 2
            while len(switches) > 1 and self._may_go_on():
                smaller = self._reduce(switches, parts)
                if smaller is not None:
                    switches, parts = smaller, max(2, parts - 1)
                elif parts >= len(switches):
                    break
                else:
                    parts = min(len(switches), 2 * parts)
        assert self._best is not None
        return self._best

    def _may_go_on(self) -> bool:
        return self.runs < self._runs_max and time.monotonic() < self._until

    def _reduce(self, switches: dict[Question, int], parts: int) -> dict[Question, int] | None:
        """Without one of ``parts`` equal pieces; what the failing run really did, or None if all are needed."""
        items = list(switches.items())
        size = -(-len(items) // parts)
        for start in range(0, len(items), size):
            if not self._may_go_on():
                return None
            before = self._best
            outcome = self.fails(dict(items[:start] + items[start + size :]))
            if outcome is not None:
                left = switches_of(outcome.steps)
                if len(left) < len(switches):
                    return left
                self._best = before
        return None


