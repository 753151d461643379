"""Schedules that people can read, and schedulers that take part of a schedule.

A recorded schedule is a list of choices, each an index into what was possible at that moment. Drop one and all
that follow mean something else. A *switch* says the same by name: when this task comes to its nth question, that
one runs. Switches can be dropped one by one, which is what shrinking does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from kworker.schedulers import TIMER_KEY, Scheduler

if TYPE_CHECKING:
    from kworker.exploring import ExploreRuntime

__all__ = ["Gate", "Question", "Sparse", "Step", "Switches", "Watcher", "Watching", "readable", "switches_of"]


class Question(NamedTuple):
    """A place in a run: the nth time that task ``pid`` (0: an interrupt) came to a point of this name.

    Points are counted by name, so that leaving out a switch changes little of what later questions are called.
    """

    pid: int
    point: str
    occurrence: int


Switches = Mapping[Question, int]
"""Where a run leaves the default (go on; else the first that can), and the key of who runs instead."""


class Step(NamedTuple):
    """One question and its answer; ``forced`` when the task could not have gone on."""

    question: Question
    at_ns: int
    task: str
    point: str
    forced: bool
    answer: int
    key: int
    follower: str


class Watcher(Scheduler):
    """What needs to know who is asking. `watch(runtime)` comes before the first question."""

    def watch(self, runtime: ExploreRuntime) -> None:
        """The runtime that will ask."""
        self._runtime = runtime
        self._asked: dict[tuple[int, str], int] = {}

    def begin(self, rng: Random) -> None:
        self._asked = {}

    def _question(self, point: str) -> Question:
        task = self._runtime.current()
        pid = 0 if task is None else task.pid
        nth = self._asked[pid, point] = self._asked.get((pid, point), 0) + 1
        return Question(pid, point, nth)


class Gate(Watcher):
    """The outermost scheduler of a run: while ``calm`` everybody runs to block and nobody else is asked.

    ``choices`` are the answers of the times in between, which are the run's schedule.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self.slack_ns = scheduler.slack_ns
        self.steps_max = scheduler.steps_max
        self.calm = False
        self.choices: list[int] = []

    def watch(self, runtime: ExploreRuntime) -> None:
        super().watch(runtime)
        if isinstance(self._scheduler, Watcher):
            self._scheduler.watch(runtime)

    def begin(self, rng: Random) -> None:
        self._scheduler.begin(rng)

    def choose(self, point: str, keys: Sequence[int], running: bool) -> int:
        if self.calm:
            return 0
        index = self._scheduler.choose(point, keys, running)
        self.choices.append(index)
        return index


class Watching(Watcher):
    """Passes each question on to another scheduler and keeps it with its answer."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self.slack_ns = scheduler.slack_ns
        self.steps_max = scheduler.steps_max
        self.steps: list[Step] = []

    def watch(self, runtime: ExploreRuntime) -> None:
        super().watch(runtime)
        if isinstance(self._scheduler, Watcher):
            self._scheduler.watch(runtime)

    def begin(self, rng: Random) -> None:
        super().begin(rng)
        self._scheduler.begin(rng)
        self.steps = []

    def choose(self, point: str, keys: Sequence[int], running: bool) -> int:
        index = self._scheduler.choose(point, keys, running)
        runtime = self._runtime
        task = runtime.current()
        self.steps.append(
            Step(
                self._question(point),
                runtime.now_ns,
                "interrupt" if task is None else task.comm,
                point,
                not running,
                index,
                keys[index],
                self._name(keys[index]),
            )
        )
        return index

    def _name(self, key: int) -> str:
        if key == TIMER_KEY:
            return "the next timer or interrupt"
        if key < TIMER_KEY:
            return f"interrupt {-key - 1}"
        return next((task.comm for task in self._runtime.tasks() if task.pid == key), f"pid {key}")


class Sparse(Watcher):
    """Runs to block, but for some switches. A switch to who cannot run at that moment is left out.

    ``slack_ns`` must be that of the scheduler which found the switches: it decides which timers may fire.
    """

    def __init__(self, switches: Switches, slack_ns: int, steps_max: int) -> None:
        self.switches = switches
        self.slack_ns = slack_ns
        self.steps_max = steps_max

    def choose(self, point: str, keys: Sequence[int], running: bool) -> int:
        key = self.switches.get(self._question(point))
        return keys.index(key) if key is not None and key in keys else 0


def switches_of(steps: Sequence[Step]) -> dict[Question, int]:
    """The answers that were not the default."""
    return {step.question: step.key for step in steps if step.answer}


def readable(steps: Sequence[Step], *, lines_max: int = 60) -> list[str]:
    """The context switches of a run, one a line, those that the scheduler forced upon a running task marked.

    Stretches of defaults in which tasks only block and take turns are one line.
    """
    lines: list[str] = []
    quiet = 0
    for step in steps:
        preempted = not step.forced and step.answer
        if not preempted and not step.answer:
            quiet += 1
            continue
        if quiet:
            lines.append(f"{'':>12}     … {quiet} choice(s) as they come")
            quiet = 0
        if preempted:
            lines.append(f"{step.at_ns:>12} ns  {step.task} is stopped at {step.point!r}; {step.follower} runs")
        else:
            lines.append(f"{step.at_ns:>12} ns  {step.task} blocks; {step.follower} runs, out of turn")
    if quiet:
        lines.append(f"{'':>12}     … {quiet} choice(s) as they come, to the end")
    if len(lines) > lines_max:
        cut, half = len(lines) - lines_max, lines_max // 2
        lines = [*lines[:half], f"{'':>12}     … {cut} more lines …", *lines[-half:]]
    return lines

