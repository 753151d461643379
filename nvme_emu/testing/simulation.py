"""One test under many schedules: what a run is, and what the fixture ``nvme_sim`` gives.

A *run* is one call of a test in a simulation of its own, in which a scheduler chooses who runs at every lock,
doorbell, wake-up, interrupt and point. It is a pure function of the test, the seed and the scheduler, so it can be
repeated for looking closer: exploring runs record nothing but their choices.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import greenlet

import kworker
from kworker.exploring import ExploreRuntime
from kworker.schedulers import Pct, RandomWalk, Replay, Schedule, Scheduler
from nvme_emu.machine import Machine, MachineConfig
from nvme_emu.observe.checker import CheckError
from nvme_emu.testing.audit import close_and_audit
from nvme_emu.testing.report import EventLog, machine_report
from nvme_emu.testing.settings import SIZE_DEFAULT, Settings
from nvme_emu.testing.watching import Gate, Watching

__all__ = ["STEPS_MAX", "NvmeSim", "Outcome", "Runner", "make_scheduler", "signature_of"]

STEPS_MAX = 200_000
"""Choices after which a run is given up as a livelock: some ten times what a scenario of a test makes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run ended: what it raised (None: nothing), the choices made, and a report if one was asked for."""

    failure: BaseException | None
    schedule: Schedule
    seed: int
    slack_ns: int
    signature: str = ""
    report: str = ""
    steps: tuple[Any, ...] = ()


def signature_of(failure: BaseException) -> str:
    """What tells one kind of failure from another: its type, and where the test's or driver's code raised it."""
    kind = type(failure).__name__
    if isinstance(failure, CheckError):
        return f"{kind} {failure.findings[0].rule}"
    if isinstance(failure, kworker.SimDeadlock | kworker.SimLivelock):
        return kind
    frames = traceback.extract_tb(failure.__traceback__)
    if not frames:
        return kind
    last = frames[-1]
    return f"{kind} in {last.name}"


class NvmeSim:
    """A simulated host for one run, and what a test makes in it. The fixture ``nvme_sim``.

    seed      of this run: feed your own random choices from it (``rng`` is a stream made of it)
    runtime   the SimRuntime of this run
    machines  what `open` has made
    """

    def __init__(
        self, seed: int, runtime: ExploreRuntime, gate: Gate, runner: Runner, log: EventLog | None
    ) -> None:
        self.seed = seed
        self.runtime = runtime
        self.machines: list[Machine] = []
        self._gate = gate
        self._runner = runner
        self._log = log
        self._failures: list[BaseException] = []

    @property
    def rng(self) -> Any:
        """The run's stream of random numbers, which the scheduler also draws from."""
        return self.runtime.rng

    def open(self, *, explore_probe: bool = False, **options: Any) -> Machine:
        """As `nvme_emu.open`, in this simulation; 16 MiB unless ``size`` says more. Closed and audited at the end.

        The options of the test's ``@pytest.mark.nvme`` hold where ``options`` say nothing. So that the schedules are
        spent on what the test does, the probe goes as it comes, and so does the shutdown after the test;
        ``explore_probe`` explores the probe, too, and a test that closes the machine itself the shutdown.
        """
        runner = self._runner
        chosen = {"size": SIZE_DEFAULT, **runner.settings.options, **runner.options, **options}
        config = MachineConfig(**{**chosen, "clock": "virtual", "seed": self.seed})
        machine: Machine = Machine(config) if explore_probe else self.calmly(lambda: Machine(config))
        self.machines.append(machine)
        if self._log is not None:
            self._log.attach(machine)
        return machine

    def together(self, *functions: Callable[[], Any]) -> list[Any]:
        """Call each function in a task of its own, all at the same time; their results in order.

        The first exception of one of them is raised here when all have ended.
        """
        results: list[Any] = [None] * len(functions)
        failures: list[BaseException] = []
        ended = [kworker.Completion(runtime=self.runtime, name=f"end of task{n}") for n in range(len(functions))]

        def main(number: int) -> int:
            try:
                results[number] = functions[number]()
            except (KeyboardInterrupt, greenlet.GreenletExit):
                raise
            except BaseException as error:  # pytest.fail and its like are BaseExceptions
                failures.append(error)
            finally:
                ended[number].complete()
            return 0

        tasks = [
            kworker.kthread_run(main, number, "task%d", number, runtime=self.runtime)
            for number in range(len(functions))
        ]
        for task, end in zip(tasks, ended, strict=True):
            end.provider = task
            end.wait()
        for task in tasks:
            kworker.kthread_stop(task)
        if failures:
            raise failures[0]
        return results

    def point(self, name: str) -> None:
        """Here somebody else may run."""
        self.runtime.point(name)

    def heard(self, error: BaseException, _task: Any, where: str) -> None:
        """Take an exception that a work, a timer or a thread function raised: it fails the run."""
        error.add_note(f"raised in a {where}")
        self._failures.append(error)

    def calmly(self, function: Callable[[], Any]) -> Any:
        """Call ``function`` while nobody is preempted: for preparations that are not what is tested."""
        self._gate.calm = True
        try:
            return function()
        finally:
            self._gate.calm = False

    def why(self, failure: BaseException | None) -> BaseException | None:
        """What the checker found, where a test has failed and the driver had broken a rule: that comes first."""
        if not isinstance(failure, Exception) or isinstance(failure, CheckError):
            return failure
        for machine in self.machines:
            found = [one for one in machine.checker.findings if one.severity == "error"] if machine.checker else []
            if found:
                error = CheckError(found)
                error.add_note(f"after that the test failed: {type(failure).__name__}: {failure}")
                return error.with_traceback(failure.__traceback__)
        return failure

    def first_heard(self) -> BaseException | None:
        """The first exception of a work, a timer or a thread, if there was one."""
        return self._failures[0] if self._failures else None

    def finish(self, failure: BaseException | None) -> BaseException | None:
        """Close what was opened, in reverse; the failure of the run, if there is one."""
        failure = failure or self.first_heard()
        self._gate.calm = True
        for machine in reversed(self.machines):
            try:
                close_and_audit(machine, strict=failure is None)
            except Exception as error:
                failure = failure or error
        return failure or self.first_heard()


def make_scheduler(which: str, steps: int) -> Scheduler:
    """A fresh scheduler by name; ``steps`` is how many choices a run makes, which PCT has to know.

    A scheduler that learned from earlier runs would make a run depend on more than its seed.
    """
    scheduler: Scheduler
    if which == "random":
        scheduler = RandomWalk()
    elif which == "pct":
        scheduler = Pct(depth=3, steps=max(1, steps))
    elif which == "run-to-block":
        scheduler = Replay(Schedule(()))
    else:
        raise ValueError(f"scheduler={which!r}: known are 'random', 'pct', 'exhaustive', 'run-to-block'")
    scheduler.steps_max = STEPS_MAX
    return scheduler


@dataclass(slots=True, kw_only=True)
class Runner:
    """Runs one test again and again. ``call(sim)`` calls the test with the fixtures that it wants.

    ``options`` (what the command line says) win over the settings of the markers, and what the test says over both.
    """

    call: Callable[[NvmeSim], Any]
    settings: Settings
    options: Mapping[str, Any] = field(default_factory=dict)
    _steps: int | None = None

    def steps(self) -> int:
        """How many choices the test makes when nobody is preempted; measured once."""
        if self._steps is None:
            self._steps = len(self.attempt(0, make_scheduler("run-to-block", 0)).schedule.choices)
        return self._steps

    def run(self, seed: int, scheduler: str, *, closely: bool = False) -> Outcome:
        """One run under a scheduler by name."""
        steps = self.steps() if scheduler == "pct" else 0
        return self.attempt(seed, make_scheduler(scheduler, steps), closely=closely)

    def attempt(self, seed: int, scheduler: Scheduler, *, closely: bool = False) -> Outcome:
        """One run. With ``closely`` its events and each choice are recorded, which changes nothing else."""
        log = EventLog(self.settings.events, wakeups=False) if closely and self.settings.events else None
        watching = Watching(scheduler) if closely else None
        gate = Gate(watching or scheduler)
        host = {name: value for name, value in self.settings.options.items() if name in ("cpus", "costs")}
        runtime = ExploreRuntime(seed=seed, scheduler=gate, **host)
        gate.watch(runtime)
        sim = NvmeSim(seed, runtime, gate, self, log)
        hook = kworker.set_failure_hook(sim.heard)
        failure: BaseException | None = None
        report = ""
        try:
            with runtime:
                try:
                    failure = runtime.run(self._body, sim)
                    if failure is not None and closely:
                        report = "\n\n".join(machine_report(machine, log) for machine in sim.machines)
                except KeyboardInterrupt:
                    raise
                except BaseException as error:  # a deadlock at the very end, pytest's own outcomes
                    failure = error
        finally:
            kworker.set_failure_hook(hook)
        return Outcome(
            failure=failure,
            schedule=Schedule(tuple(gate.choices)),
            seed=seed,
            slack_ns=scheduler.slack_ns,
            signature="" if failure is None else signature_of(failure),
            report=report,
            steps=() if watching is None else tuple(watching.steps),
        )

    def _body(self, sim: NvmeSim) -> BaseException | None:
        __tracebackhide__ = True
        failure: BaseException | None = None
        try:
            self.call(sim)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # pytest.fail and its like are BaseExceptions
            failure = error
        if isinstance(failure, kworker.SimDeadlock | kworker.SimLivelock):
            # A work that ended by an exception is why the others wait for ever.
            failure = sim.first_heard() or failure
        return sim.finish(sim.why(failure))

