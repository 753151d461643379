"""Who runs next: schedulers for an exploring simulation, schedules that replay, and the search over them.

At every point with more than one possibility the simulation asks `choose`. Possibility 0 is "the running
task goes on" if it can, then come the other tasks by pid, then "the next timer fires". The answers of a
run are its `Schedule`; zeros everywhere would be run to block.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from kworker.misuse import ReplayError

if TYPE_CHECKING:
    from kworker.simulation import SimRuntime

__all__ = [
    "Exhaustive",
    "Exploration",
    "Pct",
    "RandomWalk",
    "Replay",
    "Schedule",
    "Scheduler",
    "TIMER_KEY",
    "explore",
    "make_scheduler",
]

_PREFIX = "kw1:"
_NOTE_MAX = 10_000  # characters of a schedule in a failure's note; a longer one comes from a livelock

TIMER_KEY = -1
"""The key under which "the next timer fires" is offered to a scheduler."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """The choices of one run. `str` gives a short text ("kw1:0*12.1.0*3.2"), `parse` reads it."""

    choices: tuple[int, ...]

    def __str__(self) -> str:
        parts: list[str] = []
        i = 0
        while i < len(self.choices):
            j = i
            while j < len(self.choices) and self.choices[j] == self.choices[i]:
                j += 1
            parts.append(f"{self.choices[i]}*{j - i}" if j - i > 1 else str(self.choices[i]))
            i = j
        return _PREFIX + ".".join(parts)

    @classmethod
    def parse(cls, text: str) -> Schedule:
        """The schedule that `str` wrote. Raises ReplayError for any other text."""
        text = text.strip()
        if not text.startswith(_PREFIX):
            raise ReplayError(f"not a schedule: {text[:40]!r} does not begin with {_PREFIX!r}")
        choices: list[int] = []
        for part in text[len(_PREFIX) :].split("."):
            value, _, count = part.partition("*")
            if part and not (value.isdecimal() and (not count or count.isdecimal())):
                raise ReplayError(f"not a schedule: {part!r} is no choice")
            if part:
                choices += [int(value)] * int(count or 1)
        return cls(tuple(choices))


class Scheduler(ABC):
    """Answers the questions of an exploring run.

    slack_ns   how far in the future a timer may be and still fire while tasks can run: how late tasks may be
    steps_max  choices after which the run is given up as a livelock
    """

    slack_ns: int = 100_000
    steps_max: int = 1_000_000

    @abstractmethod
    def begin(self, rng: Random) -> None:
        """A run starts; `rng` comes from its seed."""

    @abstractmethod
    def choose(self, point: str, keys: Sequence[int], running: bool) -> int:
        """An index into `keys`: pids of tasks, TIMER_KEY for the next timer, lower for interrupts.

        `running` says that the first is the running task, which can go on; `point` is what it is about to do.
        """


class RandomWalk(Scheduler):
    """Each possibility with the same probability."""

    def begin(self, rng: Random) -> None:
        self.random = rng.random

    def choose(self, point: str, keys: Sequence[int], running: bool) -> int:
        return int(self.random() * len(keys))


class Pct(Scheduler):
    """Probabilistic concurrency testing (Burckhardt et al., ASPLOS 2010).

    Every task gets a random priority and the highest one runs; at `depth` - 1 random steps of about
    `steps` the one that would run drops to the lowest. Finds a bug of that depth with a probability of at
    least 1/(tasks * steps^(depth-1)), so `steps` should be near the truth: an object that is used for several
    runs learns it from the longest. Who has waited for `patience` choices runs once, whatever its priority:
    otherwise a task that sleeps and polls would starve the one that it waits for.
    """

    def __init__(self, depth: int = 3, steps: int = 50, patience: int = 200) -> None:
        if depth < 1 or steps < 1 or patience < 1:
            raise ValueError(f"depth={depth}, steps={steps}, patience={patience}: all must be at least 1")
        self.depth = depth
        self.steps = steps
        self.patience = patience
        self._longest = 0
        self._step = 0

    def begin(self, rng: Random) -> None:
        self._longest = max(self._longest, self._step)
        self.steps = self._longest or self.steps
        self._rng = rng
        self._priority: dict[int, float] = {}
        self._changes = {rng.randrange(self.steps) for _ in range(self.depth - 1)}
        self._step = 0
        self._lowest = 0.0
        self._chosen: dict[int, int] = {}

    def choose(self, point: str, keys: Sequence[int], running: bool) -> int:
        for key in keys:
            if key not in self._priority:
                self._priority[key] = 1.0 + self._rng.random()
        best = max(range(len(keys)), key=lambda i: self._priority[keys[i]])
        if self._step in self._changes:
            self._lowest -= 1.0
            self._priority[keys[best]] = self._lowest
            best = max(range(len(keys)), key=lambda i: self._priority[keys[i]])
        starved = min(range(len(keys)), key=lambda i: self._chosen.setdefault(keys[i], self._step))
        if self._step - self._chosen[keys[starved]] >= self.patience:
            best = starved
        self._chosen[keys[best]] = self._step
        self._step += 1
        return best


class Replay(Scheduler):
    """Repeats a recorded schedule (a `Schedule` or its text); after its end, tasks run to block."""

    def __init__(self, schedule: Schedule | str) -> None:
        self.schedule = Schedule.parse(schedule) if isinstance(schedule, str) else schedule

    def begin(self, rng: Random) -> None:
        self._at = 0

    def choose(self, point: str, keys: Sequence[int], running: bool) -> int:
        choices = self.schedule.choices
        index = choices[self._at] if self._at < len(choices) else 0
        if index >= len(keys):
            raise ReplayError(
                f"choice {self._at} of the schedule is {index}, but at {point!r} there are only {len(keys)} "
                "possibilities; the program is not the one that was recorded"
            )
        self._at += 1
        return index


class Exhaustive(Scheduler):
    """Depth-first search over all schedules with at most `preemptions` switches from a task that could go on.

    Use one object for all runs; `advance()` moves to the next schedule and is False after the last.
    Timers fire in order and only when no task can run, unless `slack_ns` is set above 0.
    """

    def __init__(self, preemptions: int = 2, slack_ns: int = 0) -> None:
        self.preemptions = preemptions
        self.slack_ns = slack_ns
        self._path: list[tuple[int, int]] = []

    def begin(self, rng: Random) -> None:
        self._at = 0
        self._used = 0

    def choose(self, point: str, keys: Sequence[int], running: bool) -> int:
        limit = 1 if running and self._used >= self.preemptions else len(keys)
        if self._at == len(self._path):
            self._path.append((0, limit))
        index, known = self._path[self._at]
        if known != limit:
            raise ReplayError(
                f"at {point!r} (choice {self._at}) there were {known} possibilities and now {limit}; "
                "the program under test is not deterministic"
            )
        self._at += 1
        if running and index:
            self._used += 1
        return index

    def advance(self) -> bool:
        """Go to the next schedule. False if all have been run."""
        del self._path[self._at :]
        while self._path:
            index, limit = self._path.pop()
            if index + 1 < limit:
                self._path.append((index + 1, limit))
                return True
        return False


_NAMES: dict[str, Callable[[], Scheduler]] = {"random": RandomWalk, "pct": Pct, "exhaustive": Exhaustive}


def make_scheduler(which: Scheduler | str) -> Scheduler:
    """A scheduler from its name ("random", "pct", "exhaustive"). Raises ValueError for another name."""
    if isinstance(which, Scheduler):
        return which
    if which not in _NAMES:
        raise ValueError(f"scheduler={which!r}: known are 'run-to-block', {', '.join(map(repr, _NAMES))}")
    return _NAMES[which]()


@dataclass(frozen=True, slots=True, kw_only=True)
class Exploration:
    """What `explore` did: the number of runs, whether it saw every schedule, and the number of choices."""

    runs: int
    complete: bool
    choices: int


def explore(
    test: Callable[[SimRuntime], Any],
    *,
    scheduler: Scheduler | str = "random",
    runs_max: int = 100,
    seed: int = 0,
    **options: Any,
) -> Exploration:
    """Run `test(rt)` under many schedules; the first failure is raised with a note on how to replay it.

    `scheduler` "random" and "pct" use the seeds `seed`, `seed + 1`, ...; "exhaustive" goes through all
    schedules. `options` go to SimRuntime. `runs_max` bounds the number of runs.
    """
    chosen = make_scheduler(scheduler)
    choices = runs = 0
    for number in _runs(chosen, runs_max):
        from kworker.simulation import SimRuntime

        with SimRuntime(seed=seed + number, scheduler=chosen, **options) as rt:
            try:
                rt.run(test, rt)
            except BaseException as exc:
                exc.add_note(_how_to_replay(number, seed + number, rt.recorded_schedule))
                raise
            finally:
                choices += len(rt.recorded_schedule.choices)
        runs += 1
    exhausted = isinstance(chosen, Exhaustive) and runs < runs_max
    return Exploration(runs=runs, complete=exhausted, choices=choices)


def _how_to_replay(number: int, seed: int, schedule: Schedule) -> str:
    text = str(schedule)
    if len(text) > _NOTE_MAX:
        text = f"{text[:_NOTE_MAX]}... (cut: {len(schedule.choices)} choices)"
    return (
        f"found in run {number + 1}, seed {seed}; replay it with\n"
        f"    SimRuntime(seed={seed}, scheduler=Replay({text!r}))"
    )


def _runs(scheduler: Scheduler, runs_max: int) -> Iterator[int]:
    for number in range(runs_max):
        yield number
        if isinstance(scheduler, Exhaustive) and not scheduler.advance():
            return
