"""Many runs of one test on many processors: what `nvme-emu explore` does, without its words.

A campaign hands out chunks of seeds (or, for the exhaustive search, of time) to workers, keeps what came back in a
file, so that it can go on later, and has each new kind of failure shrunk.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import queue
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from nvme_emu.testing.campaign_worker import Answer, command, death_of, environment, run_once
from nvme_emu.testing.exhaustive import halves, open_choices

__all__ = ["Campaign", "CampaignError", "DaskWorkers", "Finding", "LocalWorkers", "Plan", "find_tests", "list_tests"]

STATE_VERSION = 2
PIECES_PER_WORKER = 2
"""Parts of an exhaustive search that are under way or wait, for each worker, as far as it can be divided."""
CHUNK_SECONDS = 1.0
CHUNK_RUNS_MAX = 1000


class CampaignError(RuntimeError):
    """The test cannot be run, a worker has died, or the state file cannot be used."""


def list_tests(tests: str) -> list[str]:
    """The node ids of the tests that use nvme_sim. CampaignError where pytest finds none."""
    return find_tests(tests)[0]


def find_tests(tests: str) -> tuple[list[str], tuple[str, ...]]:
    """The node ids of the tests that use nvme_sim, and the files of the modules that they have imported.

    CampaignError where pytest finds none.
    """
    done = subprocess.run([*command(tests), "--list"], capture_output=True, text=True, env=environment(), check=False)
    lines = done.stdout.splitlines()
    answer: Answer = json.loads(lines[0]) if lines else {"error": done.stderr.strip()}
    if "error" in answer:
        raise CampaignError(answer["error"])
    if not answer["tests"]:
        raise CampaignError(f"{tests}: no test that uses the fixture nvme_sim")
    return list(answer["tests"]), tuple(answer["sources"])


# -- who does the runs -----------------------------------------------------------------------------------------


class Workers(Protocol):
    """Where requests are carried out; each answer goes to ``then``, on whatever thread it arrives."""

    count: int
    chunk_seconds: float

    def ask(self, request: Answer, then: Callable[[Answer], None]) -> None: ...
    def close(self) -> None: ...


class LocalWorkers:
    """Processes of this machine, each of which stays and takes one request after the other."""

    chunk_seconds = CHUNK_SECONDS

    def __init__(self, test: str, count: int | None = None) -> None:
        self.count = count or len(os.sched_getaffinity(0))
        self._test = test
        self._mine = threading.local()
        self._processes: list[subprocess.Popen[str]] = []
        self._closed = False
        self._threads = ThreadPoolExecutor(self.count, thread_name_prefix="explore")

    def ask(self, request: Answer, then: Callable[[Answer], None]) -> None:
        """Have a request carried out by whichever process is free."""
        self._threads.submit(self._carry_out, request, then)

    def _carry_out(self, request: Answer, then: Callable[[Answer], None]) -> None:
        try:
            answer = self._exchange(request)
        except (OSError, ValueError) as error:
            answer = {"error": f"the process that ran {self._test} has died: {error}"}
        if not self._closed:
            then(answer)

    def _exchange(self, request: Answer) -> Answer:
        process: subprocess.Popen[str] | None = getattr(self._mine, "process", None)
        if process is None:
            process = subprocess.Popen(
                command(self._test), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
            )
            self._mine.process = process
            self._processes.append(process)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            raise ValueError(death_of(process.wait(), request))
        answer: Answer = json.loads(line)
        return answer

    def close(self) -> None:
        """End the processes, whatever they are doing."""
        self._closed = True
        for process in self._processes:
            process.kill()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for process in self._processes:
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()


class DaskWorkers:
    """The machines of a dask cluster, ``dask://HOST:PORT`` of its scheduler.

    Each needs nvme-emu and the test at the same place as here. A request starts a process there.
    """

    chunk_seconds = 10 * CHUNK_SECONDS

    def __init__(self, test: str, url: str) -> None:
        try:
            import distributed
        except ImportError:
            raise CampaignError('--on dask://… needs dask: pip install "nvme-emu[dask]"') from None
        address = "tcp://" + url.removeprefix("dask://").rstrip("/")
        try:
            client: Any = distributed.Client
            self._client = client(address, timeout="10s")
        except (OSError, ValueError) as error:
            raise CampaignError(f"{url}: there is no dask scheduler: {error}") from None
        self.count = max(1, sum(self._client.nthreads().values()))
        self._test = test

    def ask(self, request: Answer, then: Callable[[Answer], None]) -> None:
        """Have a request carried out by whichever machine is free."""
        future = self._client.submit(run_once, self._test, request, os.getcwd(), pure=False)

        def done(finished: Any) -> None:
            try:
                then(finished.result())
            except Exception as error:  # whatever went wrong over there
                then({"error": f"dask: {type(error).__name__}: {error}"})

        future.add_done_callback(done)

    def close(self) -> None:
        """Leave the cluster; it goes on."""
        self._client.close()


# -- what is done ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to run: ``seeds`` runs from ``first`` on; or all orders with up to ``switches`` switches."""

    test: str
    scheduler: str = "random"
    seeds: int = 1000
    first: int = 0
    switches: int = 2
    assume: str = "named locks"
    keep_going: bool = False
    sources: tuple[str, ...] = ()
    """What the test is made of besides its own file: with another text of one of them a campaign begins anew."""


@dataclass(slots=True, kw_only=True)
class Finding:
    """A kind of failure: the first run that showed it, how often it was seen, and its shrunk schedule."""

    signature: str
    seed: int
    message: str
    schedule: str
    slack_ns: int
    scheduler: str
    run: int
    seen: int = 1
    switches_before: int = 0
    switches: int = 0
    lines: list[str] = field(default_factory=list)
    text: str = ""
    traceback: str = ""
    report: str = ""
    shrunk: bool = False


def fingerprint(test: str, more: Iterable[str] = ()) -> str:
    """Changes when the test's file, one of `more`, C beside them or the package does."""
    digest = hashlib.sha256()
    package = Path(__file__).parents[1]
    sources = [*sorted(package.rglob("*.py")), *sorted(package.parent.glob("kworker/*.py"))]
    own = [Path(test.partition("::")[0]), *(Path(name) for name in more)]
    beside = sorted({path for folder in {one.parent for one in own} for path in folder.glob("*.[ch]")})
    for path in (*own, *beside, *sources):
        with contextlib.suppress(OSError):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


class Campaign:
    """Runs a plan; ``changed()`` is called whenever there is something new to show.

    ``runs`` done, with those of earlier sessions; ``total`` of them, None where it is not known; ``findings`` so far.
    ``complete`` says whether everything that was planned has been done.
    """

    def __init__(self, plan: Plan, workers: Workers, state: Path | None = None) -> None:
        self.plan = plan
        self.findings: list[Finding] = []
        self.runs = self.resumed = self.choices = self.cut = 0
        self.complete = False
        self.level = 0
        self._workers = workers
        self._state = state
        self._done: list[list[int]] = []
        self._paths: list[Any] | None = None
        """Where the parts of the search of this level are; None before it has begun."""
        self._under_way: list[Any] = []
        self._answers: queue.Queue[tuple[Answer, Answer]] = queue.Queue()
        self._rate = 0.0
        self._fingerprint = fingerprint(plan.test, plan.sources)
        if state is not None and state.exists():
            self._load(state)

    @property
    def total(self) -> int | None:
        """Runs when all is done; None for an exhaustive search."""
        return None if self.plan.scheduler == "exhaustive" else self.plan.seeds

    def run(self, changed: Callable[[], None]) -> None:
        """To the end, or the first failure. CampaignError where the test cannot be run."""
        try:
            if self.plan.scheduler == "exhaustive":
                self._run_levels(changed)
            else:
                self._run_seeds(changed)
        finally:
            self.save()

    # -- seeds ------------------------------------------------------------------------------------------------

    def _run_seeds(self, changed: Callable[[], None]) -> None:
        waiting = self._gaps()
        under_way = 0
        more = True
        while more or under_way:
            while more and under_way < self._workers.count:
                request = next(waiting, None)
                if request is None:
                    more = False
                    break
                self._ask(request)
                under_way += 1
            if not under_way:
                break
            request, answer = self._next(changed)
            under_way -= 1
            if request["do"] == "look":
                self._looked(request, answer)
                continue
            self._ran(request["first"], answer)
            left = request["count"] - answer["runs"]
            look = self._found(answer)
            if look is not None:
                self._ask(look)
                under_way += 1
            if self.findings and not self.plan.keep_going:
                more = False
            elif left:
                self._ask(self._seeds(request["first"] + answer["runs"], left))
                under_way += 1
        self.complete = sum(count for _, count in self._done) >= self.plan.seeds

    def _gaps(self) -> Iterator[Answer]:
        """Requests for the seeds that were not run yet, sized by how fast runs have been so far."""
        seed, end = self.plan.first, self.plan.first + self.plan.seeds
        while seed < end:
            covered = next((first + count for first, count in self._done if first <= seed < first + count), None)
            if covered is not None:
                seed = covered
                continue
            count = max(1, min(CHUNK_RUNS_MAX, int(self._rate * self._workers.chunk_seconds) or 8))
            stop = min([end, seed + count, *(first for first, _ in self._done if first > seed)])
            yield self._seeds(seed, stop - seed)
            seed = stop

    def _seeds(self, first: int, count: int) -> Answer:
        seconds = 2 * self._workers.chunk_seconds
        return {"do": "seeds", "scheduler": self.plan.scheduler, "first": first, "count": count, "seconds": seconds}

    def _ran(self, first: int, answer: Answer) -> None:
        self.runs += answer["runs"]
        self.choices += answer["choices"]
        if answer["took_s"] > 0:
            self._rate = answer["runs"] / answer["took_s"]
        self._done = _merged([*self._done, [first, answer["runs"]]])

    # -- all orders -------------------------------------------------------------------------------------------

    def _run_levels(self, changed: Callable[[], None]) -> None:
        """First the order as it comes, then all with one switch, two, … : the simplest failure comes first."""
        while self.level <= self.plan.switches and not self._is_enough:
            if self._paths is None:
                self._paths = [None]
            self._run_level(self._paths, changed)
            if not self._paths:
                self.level, self._paths = self.level + 1, None
            self.save()
        self.complete = self.level > self.plan.switches and not self.findings

    @property
    def _is_enough(self) -> bool:
        return bool(self.findings) and not self.plan.keep_going

    def _run_level(self, paths: list[Any], changed: Callable[[], None]) -> None:
        """The searches from `paths`, where what is left of them stays: a part for each worker, and more to choose from.

        None is the search that has not begun. It makes a single run, after which it can be divided.
        """
        under_way = looking = 0
        while (paths and not self._is_enough) or under_way or looking:
            while paths and not self._is_enough and under_way < self._workers.count:
                self._divide(paths, PIECES_PER_WORKER * self._workers.count - under_way)
                self._ask(self._orders(paths.pop(0)))
                under_way += 1
            # What is under way is not lost when the wait is interrupted.
            request, answer = self._next(changed)
            if request["do"] == "look":
                looking -= 1
                self._looked(request, answer)
                continue
            under_way -= 1
            self._under_way.remove(request["path"])
            self.runs += answer["runs"]
            self.cut += answer["cut"]
            if answer["path"] is not None:
                paths.append(answer["path"])
            look = self._found(answer)
            if look is not None:
                self._ask(look)
                looking += 1
            self.save()

    def _orders(self, path: Any) -> Answer:
        self._under_way.append(path)
        return {
            "do": "exhaustive",
            "switches": self.level,
            "assume": self.plan.assume,
            "path": path,
            "count": 1 if path is None else 1 << 30,
            "seconds": self._workers.chunk_seconds,
        }

    @staticmethod
    def _divide(paths: list[Any], wanted: int) -> None:
        """Take searches apart until there are as many as are wanted, or none that can be."""
        while len(paths) < wanted:
            at = max(range(len(paths)), key=lambda one: open_choices(paths[one]))
            parts = halves(paths[at])
            if parts is None:
                return
            paths[at : at + 1] = parts

    # -- both -------------------------------------------------------------------------------------------------

    def _ask(self, request: Answer) -> None:
        self._workers.ask(request, lambda answer: self._answers.put((request, answer)))

    def _next(self, changed: Callable[[], None]) -> tuple[Answer, Answer]:
        changed()
        while True:
            try:
                # With a timeout, since a wait without one cannot be interrupted on every platform.
                request, answer = self._answers.get(timeout=0.2)
                break
            except queue.Empty:
                changed()
        if "error" in answer:
            raise CampaignError(answer["error"])
        return request, answer

    def _found(self, answer: Answer) -> Answer | None:
        """Take a failure down; the request to look at it closely if it is a new one."""
        failure = answer["failure"]
        if failure is None:
            return None
        for finding in self.findings:
            if finding.signature == failure["signature"]:
                finding.seen += 1
                return None
        names = ("signature", "seed", "message", "schedule", "slack_ns")
        known = {name: failure[name] for name in names}
        self.findings.append(Finding(**known, scheduler=self.plan.scheduler, run=self.runs))
        return {"do": "look", "shrink": True, **known}

    def _looked(self, request: Answer, answer: Answer) -> None:
        finding = next(one for one in self.findings if one.signature == request["signature"])
        failure = answer["failure"]
        if failure is None:
            finding.text = "the run did not fail when it was repeated: the test depends on more than its schedule"
            return
        finding.schedule, finding.text, finding.traceback = failure["schedule"], failure["text"], failure["traceback"]
        finding.switches, finding.switches_before = answer["switches"], answer["switches_before"]
        finding.lines, finding.report, finding.shrunk = answer["lines"], answer["report"], True
        # A schedule of switches fires timers as the search that found it did.
        finding.slack_ns = failure["slack_ns"]

    # -- the state file ---------------------------------------------------------------------------------------

    def _load(self, path: Path) -> None:
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
            same = state["version"] == STATE_VERSION and state["fingerprint"] == self._fingerprint
            if not same or state["plan"] != self._identity():
                return
            self._done, self.findings = state["done"], [Finding(**one) for one in state["findings"]]
            self.runs = self.resumed = state["runs"]
            self.choices, self.cut, self.level, self._paths = (
                state["choices"], state["cut"], state["level"], state["paths"],
            )  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CampaignError(f"{path}: not a state of a campaign: {error}; --fresh begins anew") from None

    def _identity(self) -> Answer:
        plan = asdict(self.plan)
        return {name: plan[name] for name in ("test", "scheduler", "first", "assume")}

    def save(self) -> None:
        """Write the state, if there is a file for it."""
        if self._state is None:
            return
        state = {
            "version": STATE_VERSION,
            "fingerprint": self._fingerprint,
            "plan": self._identity(),
            "done": self._done,
            "findings": [asdict(finding) for finding in self.findings],
            "runs": self.runs,
            "choices": self.choices,
            "cut": self.cut,
            "level": self.level,
            # What was under way is done again.
            "paths": None if self._paths is None else [*self._paths, *self._under_way],
        }
        try:
            self._state.parent.mkdir(parents=True, exist_ok=True)
            part = self._state.with_suffix(".part")
            part.write_text(json.dumps(state), encoding="utf-8")
            part.replace(self._state)
        except OSError as error:
            raise CampaignError(f"{self._state}: what was done cannot be kept: {error.strerror}") from None


def _merged(ranges: list[list[int]]) -> list[list[int]]:
    """Ranges of (first, count), those that touch put together."""
    merged: list[list[int]] = []
    for first, count in sorted(ranges):
        if merged and first <= merged[-1][0] + merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], first + count - merged[-1][0])
        else:
            merged.append([first, count])
    return merged
