"""What a row is, and how one is measured: a slice in each round, all rows taking turns, medians at the end.

Noise on a shared machine comes in spells longer than a slice, so a row measured in one go could meet a spell
that its reference missed. Taking turns spreads each spell over all rows, and the median drops it.
"""

from __future__ import annotations

import fnmatch
import gc
import os
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = [
    "Outcome",
    "Row",
    "RowUnavailable",
    "Sample",
    "Target",
    "Verdict",
    "idlest_core",
    "judge",
    "paused_gc",
    "run_rounds",
    "select",
    "timed",
]


class RowUnavailable(Exception):
    """The row cannot be measured here, and why: a reference that is missing is no failure of ours."""


class Sample(NamedTuple):
    """One slice of a row: its figure in the row's unit, the share of a core that it got (None: unknown)."""

    value: float
    cpu_share: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The row must reach ``ratio`` times the figure of row ``reference`` (at most, where less is better).

    Without a reference the ratio is an absolute figure in the row's own unit.
    """

    ratio: float
    reference: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table.

    ``run(seconds)`` measures one slice of about that long and may raise RowUnavailable. ``check()`` proves
    once that the work is really done; it raises AssertionError where it is not. ``unit`` is one of "IOPS",
    "B/s", "pages/s", "s", "B". ``compare_with`` rows are shown as ratios besides those of the targets.
    """

    name: str
    group: str
    what: str
    unit: str
    run: Callable[[float], Sample]
    check: Callable[[], None] | None = None
    targets: tuple[Target, ...] = ()
    compare_with: tuple[str, ...] = ()
    less_is_better: bool = False
    once: bool = False

    @property
    def references(self) -> tuple[str, ...]:
        """The rows that this one is set against, each once."""
        named = [target.reference for target in self.targets if target.reference is not None]
        return tuple(dict.fromkeys([*named, *self.compare_with]))


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What came of a row: its samples, or why there are none. ``failed`` counts for the exit code."""

    row: Row
    samples: list[Sample] = field(default_factory=list)
    note: str = ""
    failed: bool = False
    unavailable: bool = False

    @property
    def value(self) -> float | None:
        """The median of the samples; None without any."""
        if self.failed or not self.samples:
            return None
        return statistics.median(sample.value for sample in self.samples)

    @property
    def cpu_share(self) -> float | None:
        """The median share of a core that the row got while it ran."""
        shares = [sample.cpu_share for sample in self.samples if sample.cpu_share is not None]
        return statistics.median(shares) if shares else None


class Verdict(NamedTuple):
    """A row against one target or reference. ``ok`` is None where nothing is demanded or known."""

    reference: str | None
    ratio: float | None
    wanted: float | None
    ok: bool | None


def judge(outcome: Outcome, by_name: dict[str, Outcome]) -> list[Verdict]:
    """The row against each of its targets, then against what else it is compared with."""
    row, value = outcome.row, outcome.value
    verdicts = []
    for target in row.targets:
        base: float | None = 1.0
        if target.reference is not None:
            other = by_name.get(target.reference)
            base = other.value if other is not None else None
        ratio = value / base if value is not None and base else None
        reached = None
        if ratio is not None:
            reached = ratio <= target.ratio if row.less_is_better else ratio >= target.ratio
        verdicts.append(Verdict(target.reference, ratio, target.ratio, reached))
    with_target = {target.reference for target in row.targets}
    for name in row.compare_with:
        other = by_name.get(name)
        if name not in with_target and other is not None and other.value and value is not None:
            verdicts.append(Verdict(name, value / other.value, None, None))
    return verdicts


class paused_gc:
    """A statement, ``with paused_gc():``. Inside it no garbage is collected; what there is goes first."""

    def __enter__(self) -> None:
        gc.collect()
        self._was_enabled = gc.isenabled()
        gc.disable()

    def __exit__(self, *_exc: object) -> None:
        if self._was_enabled:
            gc.enable()


def timed(chunk: Callable[[], int], seconds: float, scale: float = 1.0) -> Sample:
    """Call ``chunk`` until ``seconds`` are over; the operations a second that it returns, times ``scale``.

    A chunk should take a few milliseconds, so that looking at the clock costs nothing. One chunk runs before
    the clock starts.
    """
    with paused_gc():
        chunk()
        done = 0
        cpu_start, start = time.process_time(), time.perf_counter()
        end = start + seconds
        while True:
            done += chunk()
            now = time.perf_counter()
            if now >= end:
                break
        cpu = time.process_time() - cpu_start
    return Sample(done * scale / (now - start), cpu / (now - start))


def select(rows: Iterable[Row], patterns: Sequence[str]) -> list[Row]:
    """The rows whose name matches a pattern (or starts with one), and the references that they need.

    Without patterns, all. ValueError for a pattern that no row matches.
    """
    rows = list(rows)
    if not patterns:
        return rows
    wanted: set[str] = set()
    for pattern in patterns:
        found = {row.name for row in rows if fnmatch.fnmatch(row.name, pattern) or row.name.startswith(pattern)}
        if not found:
            raise ValueError(f"no row is called {pattern!r}; there are: {', '.join(row.name for row in rows)}")
        wanted |= found
    needed = {name for row in rows if row.name in wanted for name in row.references}
    return [row for row in rows if row.name in wanted | needed]


def run_rounds(
    rows: Sequence[Row],
    rounds: int,
    seconds: float,
    progress: Callable[[str], None] = lambda _text: None,
) -> list[Outcome]:
    """Check each row once, then measure a slice of each in every round. A row that fails is left out from then."""
    outcomes = [Outcome(row=row) for row in rows]
    for turn in range(rounds):
        for outcome in outcomes:
            row = outcome.row
            if outcome.failed or outcome.unavailable or (row.once and turn):
                continue
            progress(f"round {turn + 1} of {rounds}: {row.what}")
            try:
                if not turn and row.check is not None:
                    row.check()
                outcome.samples.append(row.run(seconds))
            except RowUnavailable as reason:
                outcome.unavailable = True
                outcome.note = str(reason)
            except Exception as error:
                outcome.failed = True
                outcome.note = f"{type(error).__name__}: {error}"
    return outcomes


def idlest_core(seconds: float = 0.2) -> int | None:
    """The core that others used least during ``seconds``; None where the system does not tell."""
    try:
        allowed = os.sched_getaffinity(0)
        before = _busy_ticks()
        time.sleep(seconds)
        after = _busy_ticks()
    except (OSError, AttributeError):
        return None
    # Of equals the last: interrupts of a virtual machine mostly go to the first.
    return min(allowed, key=lambda core: (after.get(core, 0) - before.get(core, 0), -core))


def _busy_ticks() -> dict[int, int]:
    """core -> clock ticks that were not idle, from /proc/stat."""
    busy = {}
    with open("/proc/stat", encoding="ascii") as file:
        for line in file:
            name, *fields = line.split()
            if name.startswith("cpu") and name != "cpu":
                ticks = [int(text) for text in fields]
                busy[int(name[3:])] = sum(ticks) - ticks[3] - ticks[4]
    return busy
