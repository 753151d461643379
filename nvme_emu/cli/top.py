"""`nvme-emu top`: the inspector, over a workload that it starts, a running SSD, or a recorded trace."""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import os
import shlex
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nvme_emu.cli.common import (
    EXIT_ERRORS,
    EXIT_USAGE,
    JsonCommand,
    check_output,
    complain,
    json_option,
    printer,
    quiet_option,
    write_json,
)

if TYPE_CHECKING:
    from nvme_emu.observe.tui.frame import Frame
    from nvme_emu.observe.tui.gate import Gate
    from nvme_emu.observe.tui.live import LiveSource
    from nvme_emu.observe.tui.source import Source
    from nvme_emu.observe.watched import Watched
    from nvme_emu.workload.plan import Plan
    from nvme_emu.workload.runner import JobResult, Jobs

__all__ = ["DEFAULT_JOB", "top"]

DEFAULT_JOB = """\
[global]
ioengine=libaio
rw=randrw
rwmixread=70
bs=4k
iodepth=32
size=256m
time_based
runtime=1d
[mixed]
"""
"""What is looked at without arguments: `compare`'s tlc at queue depth 32, with some writes."""

VIRTUAL_CPU_NS_PER_IO = 200
"""As `nvme-emu run`."""
AFTER_MS = 10.0
"""Of the machine's clock, until --once looks."""
LOOKS = 60
"""How often --once looks on its way, so that its curves have points."""
ENTRIES, EVENTS = 128, 400
"""Slots of each ring and events in the frame of --once and --json."""
LEND_S = 0.02
"""How long a simulation waits for a frame to be drawn; see `Gate.ask`."""
SWITCH_S = 0.0005
"""How long a thread keeps the interpreter while others want it."""
VIEWS = ("overview", "queues", "commands", "workers", "media", "latency", "trace", "faults", "checker")

_EPILOG = """\b
Examples:
  nvme-emu top                                       a small workload on the virtual clock
  nvme-emu top examples/randread.fio --profile qlc
  nvme-emu top --attach /tmp/ssd.sock                a running `serve --rpc` or `run --rpc`
  nvme-emu top --replay trace.jsonl                  back and forth through `--trace FILE`
  nvme-emu top --once --view latency                 one plain page for scripts

\b
Exit codes:
  0    done
  1    a job of the workload failed
  2    bad usage or input
  130  interrupted

Keys are shown at the bottom; ? explains them. docs/top.md shows every view.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """The command line of `top`."""

    job_file: str | None
    attach: str | None
    replay: str | None
    once: bool
    json_file: str | None
    view: str
    after_ms: float
    overrides: tuple[str, ...]
    clock: str
    profile: str | None
    seed: int
    faults: str | None
    trace: str | None
    web: str | None = None
    quiet: bool = False
    check: bool = False


@click.command(cls=JsonCommand, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("job_file", metavar="[JOB.fio]", required=False)
@click.option("--attach", metavar="SOCKET", help="Look at a running SSD over its --rpc socket.")
@click.option("--replay", metavar="TRACE", help="Look at a trace (JSON lines) event by event.")
@click.option("--once", is_flag=True, help="Print one page and end.")
@json_option("Print one snapshot as JSON, or write it to FILE.json (any other FILE as --json=FILE), and end.")
@click.option("--view", type=click.Choice(VIEWS), default="overview", show_default=True, help="The first view.")
@click.option(
    "--after",
    "after_ms",
    type=click.FloatRange(0, 3_600_000),
    default=AFTER_MS,
    show_default=True,
    help="With --once and --json: after so many ms of the machine's clock.",
)
@click.option("--set", "overrides", metavar="OPTION=VALUE", multiple=True, help="Override an option in all jobs.")
@click.option(
    "--clock",
    type=click.Choice(("virtual", "wall")),
    default="virtual",
    show_default=True,
    help="The simulation, which can be held and stepped, or real threads.",
)
@click.option("--profile", metavar="NAME|FILE.toml", help="The device; tlc unless the job file names one.")
@click.option("--seed", type=click.IntRange(0, (1 << 63) - 1), default=0, help="Seed of device, scheduler and jobs.")
@click.option("--faults", metavar="FILE", help="Rules that say when the device goes wrong (docs/faults.md).")
@click.option("--check", is_flag=True, help="Have a checker watch the driver: view 9 (docs/checker.md).")
@click.option("--trace", metavar="FILE", help="Write every event to FILE, one JSON object a line.")
@click.option(
    "--web",
    metavar="[HOST:]PORT",
    help="Serve the inspector to browsers; each gets its own. Needs textual-serve (the extra nvme-emu[web]).",
)
@quiet_option()
def top(job_file: str | None, **given: Any) -> int:
    """Watch an SSD at work: registers, queues, commands, workers, media, latencies, events.

    Without arguments a small workload runs on the virtual clock. It ends with the inspector.
    """
    from nvme_emu.observe.rpc_client import RpcError

    options = Options(job_file=job_file, **given)
    if sum(one is not None for one in (job_file, options.attach, options.replay)) > 1:
        complain("JOB.fio, --attach and --replay are three things to look at: give one")
        return EXIT_USAGE
    if options.trace is not None and (options.attach or options.replay):
        complain("--trace is for a workload that top starts; for a running one: nvme-emu ctl SOCKET trace.start file=…")
        return EXIT_USAGE
    try:
        inputs = options.job_file, options.replay, options.faults
        check_output(options.json_file, inputs=inputs, json=True)
        check_output(options.trace, inputs=inputs)
    except (ValueError, OSError) as error:
        complain(error)
        return EXIT_USAGE
    if options.web is not None:
        return _serve_browsers(options, options.web)
    # Textual's driver for browsers stands in for the terminal of a process that --web has started.
    browser = "TEXTUAL_DRIVER" in os.environ
    plain = options.once or options.json_file is not None
    if not plain and not browser and not (sys.stdout.isatty() and sys.stdin.isatty()):
        complain("top needs a terminal; --once prints one page, --json one snapshot")
        return EXIT_USAGE
    try:
        if options.attach is not None:
            return _look_at_socket(options, options.attach)
        if options.replay is not None:
            return _look_at_trace(options, options.replay)
        return _look_at_workload(options)
    except BrokenPipeError:
        raise
    except (ValueError, OSError, RpcError) as error:
        for problem in getattr(error, "problems", None) or [error]:
            complain(problem)
        return EXIT_USAGE


# --- three things to look at --------------------------------------------------------------------------------


def _look_at_socket(options: Options, socket: str) -> int:
    from nvme_emu.observe.tui.attached import AttachedSource

    try:
        source = AttachedSource(socket)
    except OSError as error:
        raise ValueError(f"{socket}: {error.strerror or error}") from error
    with contextlib.closing(source):
        source.entries, source.events = ENTRIES, EVENTS
        if options.once or options.json_file is not None:
            pause = threading.Event()
            frame = source.frame()
            for _ in range(LOOKS):
                pause.wait(options.after_ms / 1e3 / LOOKS)
                frame = source.frame()
            _print(frame, options)
            return 0
        return _open_screen(source, options)


def _look_at_trace(options: Options, path: str) -> int:
    from nvme_emu.observe.tui.replay import ReplaySource

    source = ReplaySource(path)
    if options.once or options.json_file is not None:
        source.entries, source.events = ENTRIES, EVENTS
        _print(source.frame(), options)
        return 0
    return _open_screen(source, options)


def _look_at_workload(options: Options) -> int:
    workload, code = Workload(options, _plan(options)), 0
    with workload.running():
        if options.once or options.json_file is not None:
            _print(workload.after(int(options.after_ms * 1e6)), options)
        else:
            source = workload.source()
            source.lend_s = LEND_S
            code = _open_screen(source, options)
    failed = [result for result in workload.results if not result.ok]
    for result in failed:
        complain(f"{result.plan.name}: {result.failure or f'{result.mismatch_count} mismatches'}")
    return code or (EXIT_ERRORS if failed else 0)


def _plan(options: Options) -> Plan:
    from nvme_emu.workload.jobfile import parse_job_file, parse_job_text
    from nvme_emu.workload.planner import make_plan

    if options.job_file is None:
        parsed = parse_job_text(DEFAULT_JOB, source="the default job", overrides=options.overrides)
    else:
        parsed = parse_job_file(options.job_file, overrides=options.overrides)
    return make_plan(
        parsed, seed=options.seed, cpu_ns_per_io=VIRTUAL_CPU_NS_PER_IO if options.clock == "virtual" else 0
    )


def _serve_browsers(options: Options, address: str) -> int:
    """`top` with the same options for each browser that comes, until Ctrl-C."""
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or not 0 < int(port) < 1 << 16:
        complain(f"--web {address}: [HOST:]PORT is needed, such as 8000")
        return EXIT_USAGE
    try:
        from textual_serve.server import Server
    except ImportError:
        complain("--web needs textual-serve: pip install 'nvme-emu[web]'")
        return EXIT_USAGE
    words = [sys.executable, "-c", "from nvme_emu.cli import main; main()", "top", *_command_line(options)]
    Server(shlex.join(words), host=host or "localhost", port=int(port), title="nvme-emu top").serve()
    return 0


def _command_line(options: Options) -> list[str]:
    """The options of a screen as they are typed, without --web."""
    given = {
        "--attach": options.attach,
        "--replay": options.replay,
        "--view": options.view,
        "--clock": options.clock,
        "--profile": options.profile,
        "--seed": str(options.seed),
        "--faults": options.faults,
    }
    typed = [f"{name}={value}" for name, value in given.items() if value is not None]
    typed += ["--check"] if options.check else []
    typed += [f"--set={override}" for override in options.overrides]
    return typed + (["--", options.job_file] if options.job_file is not None else [])


# --- a workload in a thread of its own ----------------------------------------------------------------------


class Workload:
    """The jobs and their machine, in a thread of their own: a simulation's home is the thread that made it."""

    def __init__(self, options: Options, plan: Plan) -> None:
        self.results: list[JobResult] = []
        self._options = options
        self._plan = plan
        self._ready = threading.Event()
        self._go = threading.Event()
        self._over = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="nvme-emu workload", daemon=True)
        self._watched: Watched
        self._gate: Gate
        self._jobs: Jobs
        self._title = ""

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """The machine stands and the jobs wait for `source` or `after`; at the end all is closed."""
        self._thread.start()
        self._ready.wait()
        if self._error is not None:
            raise self._error
        try:
            yield
        finally:
            self._jobs.control.stop = True
            self._go.set()
            self._gate.close()
            self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            with self._machine() as machine:
                from nvme_emu.observe.tui.gate import Gate
                from nvme_emu.observe.watched import watch
                from nvme_emu.workload.runner import Jobs

                self._watched = watch(machine)
                self._gate = Gate(holds=machine.runtime.virtual)
                job_file = self._options.job_file
                name = Path(job_file).name if job_file is not None else "a small workload"
                self._title = f"{name} · {machine.profile.name}"
                self._jobs = Jobs(machine, self._plan.jobs)
                with self._tracing(machine):
                    machine.trace.add_sink(self._gate)
                    self._ready.set()
                    self._go.wait()
                    try:
                        self.results = self._jobs.run()
                    except Exception as error:  # a deadlock, say: what it looks like can still be seen
                        self._error = error
                    self._over = True
                    self._gate.serve()
        except BaseException as error:  # raised by the thread that waits for this one
            self._error = error
        finally:
            self._over = True
            self._ready.set()

    def _machine(self) -> Any:
        import nvme_emu

        options, plan = self._options, self._plan.machine
        chosen = {"profile": "tlc", **plan.options}
        if options.profile is not None:
            chosen["profile"] = options.profile
        if options.faults is not None:
            chosen["faults"] = options.faults
        if options.check:
            chosen["check"] = "warn"
        return nvme_emu.open(
            size=plan.size,
            mode=plan.mode,
            namespaces=plan.namespaces,
            lba_size=plan.lba_size,
            clock=options.clock,
            seed=options.seed,
            **chosen,
        )

    @contextlib.contextmanager
    def _tracing(self, machine: Any) -> Iterator[None]:
        if self._options.trace is None:
            yield
            return
        from nvme_emu.observe.jsonl import JsonLines

        with JsonLines(self._options.trace) as sink:
            machine.trace.add_sink(sink)
            try:
                yield
            finally:
                machine.trace.remove_sink(sink)

    def source(self, *, exact: bool = False, monotonic_s: Callable[[], float] | None = None) -> LiveSource:
        """Let the jobs go, and look at them."""
        import time

        from nvme_emu.observe.tui.live import LiveSource

        source = LiveSource(
            self._watched,
            self._gate,
            title=self._title,
            ended=lambda: self._over,
            note=lambda: "" if self._error is None else f"the workload failed: {self._error}".partition("\n")[0],
            exact=exact,
            monotonic_s=monotonic_s or time.monotonic,
        )
        self._go.set()
        return source

    def after(self, after_ns: int) -> Frame:
        """How things are so long after now, on the machine's clock; or at the end, if that is earlier."""
        ticks = itertools.count(1.0)
        gate, begun_ns = self._gate, self._watched.clock_ns()
        marks = [begun_ns + after_ns * step // LOOKS for step in range(1, LOOKS + 1)]
        if gate.holds:
            gate.until(marks[0])
        # A clock of looks, not of seconds: each of them makes a point of the curves.
        source = self.source(exact=True, monotonic_s=lambda: next(ticks))
        source.entries, source.events = ENTRIES, EVENTS
        pause = threading.Event()
        frame: Frame | None = None
        for mark in marks:
            if gate.holds:
                if frame is not None and not self._over:
                    gate.until(mark)
                gate.wait_held(lambda: self._over)
            else:
                pause.wait(max(0.0, (mark - self._watched.clock_ns()) / 1e9))
            frame = source.frame()
            if self._over:
                break
        assert frame is not None
        return frame


# --- what comes out -----------------------------------------------------------------------------------------


def _open_screen(source: Source, options: Options) -> int:
    from nvme_emu.observe.tui.app import TopApp

    # A frame passes through some threads, and each hand-over waits until the workload's thread lets the
    # interpreter go: 5 ms by default, six of which are the time of a frame.
    # The collector need not walk through all modules again while fifty thousand events come and go.
    gc.freeze()
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_S)
    try:
        app = TopApp(source, view=options.view)
        app.run()
        return app.return_code or 0
    finally:
        sys.setswitchinterval(before)
        gc.unfreeze()


def _print(frame: Frame, options: Options) -> None:
    if options.json_file is not None:
        from nvme_emu.observe.state import to_json

        write_json(json.dumps(to_json(frame), separators=(",", ":")), str(options.json_file))
        return

    from nvme_emu.observe.tui.screen import CHROME_LINES, HEIGHT_MIN, WIDTH_MIN, screen
    from nvme_emu.observe.tui.ui import Ui

    columns, lines = shutil.get_terminal_size((80, 24))
    width, height = max(WIDTH_MIN, columns), max(HEIGHT_MIN, lines - 1)
    console = printer(width=width, soft_wrap=True)
    page = screen(frame, Ui(view=options.view), width, height + 1)
    # Without the line of keys: nobody is there to press them.
    for text in page[: height + CHROME_LINES - 3]:
        text.rstrip()
        console.print(text, end="\n", soft_wrap=True)
