"""A process that runs one test under many schedules, as `nvme-emu explore` asks it to.

    python -m nvme_emu.testing.campaign_worker TEST        (a pytest node id; the working directory is pytest's)

One request a line of JSON comes on standard input, one answer a line goes to standard output: `serve` has the kinds.
pytest runs around it as always, with its fixtures and its configuration; what it prints comes back only if the test
cannot be run at all.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nvme_emu.testing.simulation import Outcome, Runner

__all__ = ["Answer", "command", "death_of", "environment", "main", "run_once", "serve"]

Answer = dict[str, Any]

OUTPUT_LINES_MAX = 40


def command(test: str) -> list[str]:
    """How to start a worker for a test."""
    return [sys.executable, "-m", "nvme_emu.testing.campaign_worker", test]


def environment() -> dict[str, str]:
    """A campaign may take longer than any single test: pytest-timeout is told so, if it is there."""
    return {**os.environ, "PYTEST_TIMEOUT": "0"}


def run_once(test: str, request: Answer, cwd: str | None = None) -> Answer:
    """One request in a worker of its own; what a cluster's machines are sent."""
    done = subprocess.run(
        command(test),
        input=json.dumps(request) + "\n",
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment(),
        check=False,
    )
    lines = done.stdout.splitlines()
    if not lines:
        why = done.stderr.strip() or death_of(done.returncode, request)
        return {"error": f"the process that ran {test} has died: {why}"}
    answer: Answer = json.loads(lines[0])
    return answer


def death_of(code: int, request: Answer) -> str:
    """How a process ended, and which runs it was about: a driver in C may have taken it along."""
    how = f"exit code {code}"
    if code < 0:
        import signal

        with contextlib.suppress(ValueError):
            how = signal.Signals(-code).name
    if request["do"] != "seeds":
        return how
    last = request["first"] + request["count"] - 1
    return f"{how}, in one of the seeds {request['first']} to {last} ({request['scheduler']})"


# -- requests --------------------------------------------------------------------------------------------------


class _Server:
    """Answers requests about one test."""

    def __init__(self, runner: Runner, nodeid: str) -> None:
        self._runner = runner
        self._nodeid = nodeid

    def answer(self, request: Answer) -> Answer:
        """``do``: "seeds", "exhaustive" or "look"."""
        kinds: dict[str, Callable[[Answer], Answer]] = {
            "seeds": self._seeds,
            "exhaustive": self._exhaustive,
            "look": self._look,
        }
        return {"test": self._nodeid, **kinds[request["do"]](request)}

    def _seeds(self, request: Answer) -> Answer:
        """Seeds ``first`` … under ``scheduler``: at most ``count``, for ``seconds`` or so, up to the first failure."""
        begin = time.monotonic()
        choices = runs = 0
        failure: Answer | None = None
        first = request["first"]
        for seed in range(first, first + request["count"]):
            outcome = self._runner.run(seed, request["scheduler"])
            _refuse_skipped(outcome, self._nodeid)
            runs += 1
            choices += len(outcome.schedule.choices)
            if outcome.failure is not None:
                failure = _failure(outcome)
                break
            if time.monotonic() - begin > request["seconds"]:
                break
        return {"runs": runs, "choices": choices, "failure": failure, "took_s": time.monotonic() - begin}

    def _exhaustive(self, request: Answer) -> Answer:
        """The search from ``path`` on (None: the beginning); ``path`` to go on from, None at the end."""
        from nvme_emu.testing.exhaustive import SleepSets, search

        scheduler = SleepSets(request["switches"], assume=request["assume"])
        if request["path"] is not None:
            scheduler.load(request["path"])
        until = time.monotonic() + request["seconds"]
        found = search(
            self._runner, runs_max=request["count"], scheduler=scheduler, go_on=lambda _: time.monotonic() < until
        )
        if found.failure is not None:
            _refuse_skipped(found.failure, self._nodeid)
        ended = found.complete or (found.failure is not None and not scheduler.advance())
        path = None if ended else scheduler.dump()
        failure = None if found.failure is None else _failure(found.failure)
        return {"runs": found.runs, "cut": found.cut, "path": path, "failure": failure, "choices": 0}

    def _look(self, request: Answer) -> Answer:
        """A run by its ``schedule``, or by seed and ``scheduler``, closely; with ``shrink`` made small first."""
        from kworker.schedulers import Replay
        from nvme_emu.testing.shrink import shrink
        from nvme_emu.testing.simulation import STEPS_MAX
        from nvme_emu.testing.watching import readable, switches_of

        runner, seed = self._runner, request["seed"]
        if "schedule" in request:
            replay = Replay(request["schedule"])
            replay.slack_ns, replay.steps_max = request["slack_ns"], STEPS_MAX
            outcome = runner.attempt(seed, replay, closely=True)
        else:
            outcome = runner.run(seed, request["scheduler"], closely=True)
        _refuse_skipped(outcome, self._nodeid)
        switches = len(switches_of(outcome.steps))
        answer: Answer = {"switches_before": switches, "switches": switches, "shrink_runs": 0}
        if request["shrink"] and outcome.failure is not None:
            small = shrink(runner, seed, outcome, outcome.slack_ns)
            outcome = small.outcome
            answer |= {"switches": small.switches, "shrink_runs": small.runs}
        return {
            **answer,
            "failure": None if outcome.failure is None else _failure(outcome, whole=True),
            "lines": readable(outcome.steps),
            "report": outcome.report,
        }


class _SkippedError(Exception):
    """The test has skipped itself: nothing can be said about it."""


def _refuse_skipped(outcome: Outcome, nodeid: str) -> None:
    import pytest

    if isinstance(outcome.failure, pytest.skip.Exception):
        raise _SkippedError(f"{nodeid} skips itself: {outcome.failure}")


def _failure(outcome: Outcome, *, whole: bool = False) -> Answer:
    import traceback

    error = outcome.failure
    assert error is not None
    text = str(error) or type(error).__name__
    answer: Answer = {
        "seed": outcome.seed,
        "schedule": str(outcome.schedule),
        "slack_ns": outcome.slack_ns,
        "signature": outcome.signature,
        "message": f"{type(error).__name__}: {text.splitlines()[0]}",
    }
    if whole:
        everything = traceback.extract_tb(error.__traceback__)
        frames = [frame for frame in everything if "nvme_emu/testing" not in frame.filename]
        answer["traceback"] = "".join(traceback.format_list(frames)[-6:])
        answer["text"] = f"{type(error).__name__}: {text}"
    return answer


def serve(runner: Runner, nodeid: str, requests: IO[str], answers: IO[str]) -> None:
    """Answer requests until there are no more."""
    server = _Server(runner, nodeid)
    for line in requests:
        try:
            answer = server.answer(json.loads(line))
        except _SkippedError as error:
            answer = {"error": str(error)}
        except KeyboardInterrupt:
            # Ctrl-C is not for this process (see `main`), so it was the test's own.
            answer = {"error": f"{nodeid} raises KeyboardInterrupt, which ends pytest: such a run cannot be judged"}
        except Exception as error:  # the one who asked must hear of it, whatever it is
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


# -- pytest around it ------------------------------------------------------------------------------------------


class _Guest:
    """A pytest plugin that takes the first test with nvme_sim, and serves with it."""

    def __init__(self, answers: IO[str], only_list: bool) -> None:
        self.served = False
        self._answers = answers
        self._only_list = only_list

    def pytest_configure(self, config: Any) -> None:
        from nvme_emu.testing.plugin import campaign_key

        config.stash[campaign_key] = self._campaign

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items[:] = [item for item in items if "nvme_sim" in getattr(item, "fixturenames", ())]
        if self._only_list:
            found = {"tests": [item.nodeid for item in items], "sources": _sources()}
            if items:
                self._answers.write(json.dumps(found) + "\n")
                self._answers.flush()
                self.served = True
            items[:] = []
        del items[1:]

    def _campaign(self, runner: Runner, item: Any) -> None:
        self.served = True
        serve(runner, item.nodeid, sys.stdin, self._answers)


def _sources() -> list[str]:
    """The files of what has been imported, but for what is installed and for this package."""
    installed = tuple(
        os.path.join(os.path.realpath(path), "")
        for path in {*sysconfig.get_paths().values(), os.path.dirname(os.path.dirname(__file__))}
    )
    files = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    return sorted(name for name in files if name and not os.path.realpath(name).startswith(installed))


def main(arguments: list[str]) -> int:
    """Serve one test (``TEST``), or say which tests there are (``TEST --list``)."""
    import signal

    import pytest

    # Ctrl-C is for who started us: it ends the campaign, and us with it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    only_list = "--list" in arguments
    tests = [one for one in arguments if one != "--list"]
    answers = os.fdopen(os.dup(1), "w")
    requests = os.fdopen(os.dup(0))
    with tempfile.TemporaryFile("w+") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
        guest = _Guest(answers, only_list)
        options = ["-q", "-x", "-p", "no:cacheprovider", "--capture=no", "--nvme-runs=1"]
        # This module is part of the plugin's package, and here before pytest: nothing to warn of.
        options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
        if importlib.util.find_spec("xdist") is not None:
            options.append("-n0")
        if os.environ.get("PYTEST_DISABLE_PLUGIN_AUTOLOAD"):
            options += ["-p", "nvme_emu.testing.plugin"]
        sys.stdin = requests
        code = pytest.main([*tests, *options], plugins=[guest])
        if not guest.served:
            sys.stdout.flush()
            output.seek(0)
            lines = [line for line in output.read().splitlines() if line.strip()]
            why = "\n".join(lines[-OUTPUT_LINES_MAX:]) or f"pytest ended with exit code {int(code)}"
            if int(code) in (0, 5):
                why = f"{' '.join(tests)}: no test that uses the fixture nvme_sim"
            answers.write(json.dumps({"error": why}) + "\n")
            answers.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
