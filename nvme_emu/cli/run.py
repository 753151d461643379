"""`nvme-emu run JOB.fio`: fio's job files on an emulated SSD, with fio's output."""

from __future__ import annotations

import contextlib
import json
import secrets
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from nvme_emu.cli.checking import check_option, quiet_checker, report_option, tell
from nvme_emu.cli.common import (
    EXIT_ERRORS,
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    JsonCommand,
    check_output,
    json_option,
    quiet_option,
    write_json,
)
from nvme_emu.cli.run_plots import Pictures

if TYPE_CHECKING:
    from nvme_emu.machine import Machine
    from nvme_emu.workload.fio_json import Report
    from nvme_emu.workload.plan import Plan
    from nvme_emu.workload.runner import JobResult, Jobs

__all__ = ["run"]

VIRTUAL_CPU_NS_PER_IO = 200
"""What a job's own code costs an I/O in virtual time: fio's null engine does 4 to 11 million a second."""

_FORMATS = ("normal", "json", "json+")

_EPILOG = """\b
Examples:
  nvme-emu run examples/randread.fio
  nvme-emu run verify.fio --set runtime=2s --profile tlc
  nvme-emu run job.fio --clock virtual --seed 7 --output-format json+ | jq .jobs[0].read.iops

\b
Exit codes:
  0    all jobs ended without errors
  1    an I/O failed, verify found a mismatch (named with its LBA), or --check an error of the driver
  2    bad usage: an unknown option or value in the job file, an unknown profile …
  130  interrupted; what was measured so far is printed

docs/fio.md lists the options and tells how files become ranges of the SSD.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """The command line of `run`."""

    job_file: str
    overrides: tuple[str, ...]
    clock: str
    profile: str | None
    seed: int
    output_format: str
    output: str | None
    json_file: str | None
    html: str | None
    png: str | None
    svg: str | None
    plots: bool
    trace: str | None
    rpc: str | None
    faults: str | None
    check: str | None
    check_report: str | None
    io_timeout: float | None
    quiet: bool

    @property
    def pictures(self) -> Pictures:
        """What is to be drawn."""
        text = self.output_format == "normal" and self.json_file != "-"
        return Pictures(html=self.html, png=self.png, svg=self.svg, terminal=self.plots and text)


@click.command(cls=JsonCommand, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("job_file", metavar="JOB.fio")
@click.option(
    "--set", "overrides", metavar="OPTION=VALUE", multiple=True, help="Override an option in all jobs."
)
@click.option(
    "--clock",
    type=click.Choice(("wall", "virtual")),
    default="wall",
    show_default=True,
    help="Real threads and time, or the seeded simulation.",
)
@click.option(
    "--profile", metavar="NAME|FILE.toml", help="The device: instant, optane, tlc, qlc or a TOML file."
)
@click.option(
    "--seed", type=click.IntRange(0, (1 << 63) - 1), default=0, help="Seed of device, scheduler and jobs."
)
@click.option(
    "--output-format",
    "-o",
    "output_format",
    type=click.Choice(_FORMATS),
    default="normal",
    show_default=True,
    help="fio's output formats.",
)
@click.option("--output", metavar="FILE", help="Write the output to FILE and not to standard output.")
@json_option("JSON to standard output, or besides to FILE.json (any other FILE as --json=FILE).")
@click.option("--html", metavar="FILE", help="Write one self-contained page with plots.")
@click.option("--png", metavar="FILE", help="Write the plots as an image.")
@click.option("--svg", metavar="FILE", help="Write the plots as SVG.")
@click.option("--plots", is_flag=True, help="Timeline, latency curves and heat map in the terminal, too.")
@click.option("--trace", metavar="FILE", help="Write every event to FILE, one JSON object a line.")
@click.option("--faults", metavar="FILE", help="Rules that say when the device goes wrong (docs/faults.md).")
@check_option("Watch what the driver does wrong (docs/checker.md); with error, the default, that is exit code 1.")
@report_option()
@click.option(
    "--io-timeout",
    metavar="SECONDS",
    type=click.FloatRange(0, min_open=True),
    help="How long the driver waits for an I/O before it aborts it and resets the device (default 30).",
)
@click.option("--rpc", metavar="SOCKET", help="Answer `nvme-emu ctl SOCKET` and `top --attach SOCKET`.")
@quiet_option("No notes and no progress on standard error.")
def run(job_file: str, **options: Any) -> int:
    """Run a fio job file on an emulated SSD and print what fio would.

    The SSD is as large as the jobs need. Sync-like ioengines wait in the caller, async-like ones go through
    the nvme1 worker. JOB.fio may be - for standard input.
    """
    from nvme_emu.core.faults import FaultFileError
    from nvme_emu.workload.jobfile import JobFileError

    chosen = Options(job_file=job_file, **options)
    try:
        return _run(chosen)
    except (JobFileError, FaultFileError) as error:
        for problem in error.problems:
            click.echo(f"nvme-emu: {problem}", err=True)
        return EXIT_USAGE
    except BrokenPipeError:
        raise
    except (ValueError, OSError) as error:
        click.echo(f"nvme-emu: {_one_line(error)}", err=True)
        return EXIT_USAGE
    except MemoryError:
        click.echo(
            "nvme-emu: not enough memory for the jobs' buffers: reduce iodepth, bs or numjobs", err=True
        )
        return EXIT_USAGE


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _run(options: Options) -> int:
    from nvme_emu.workload.jobfile import parse_job_file
    from nvme_emu.workload.planner import make_plan
    from nvme_emu.workload.runner import Jobs

    virtual = options.clock == "virtual"
    inputs = options.job_file, options.faults
    check_output(options.json_file, inputs=inputs, json=True)
    for path in (options.output, options.html, options.png, options.svg, options.trace, options.check_report):
        check_output(path, inputs=inputs)
    parsed = parse_job_file(options.job_file, overrides=options.overrides)
    plan = make_plan(
        parsed,
        seed=options.seed,
        # In virtual time a run is a function of its seed, also where the job asks for randrepeat=0.
        entropy=None if virtual else lambda: secrets.randbits(63),
        cpu_ns_per_io=VIRTUAL_CPU_NS_PER_IO if virtual else 0,
    )
    if not options.quiet:
        for note in plan.notes:
            click.echo(note, err=True)
    with (
        _outputs(options) as output,
        quiet_checker(),
        _open_machine(plan, options) as machine,
        _tracing(machine, options),
    ):
        jobs = Jobs(machine, plan.jobs)
        with _interruptible(jobs):
            if options.output_format == "normal" and options.json_file != "-":
                _print_header(plan, output)
            begun_ns = machine.runtime.now_ns
            watch = options.pictures.watch(machine)
            with _remote_control(machine, options), _progress(jobs, options), watch as watching:
                results = jobs.run()
        elapsed_ns = machine.runtime.now_ns - begun_ns
        report = _report(machine, plan, results, options, elapsed_ns, jobs.control.stop)
        _print_report(report, options, output)
        options.pictures.draw(results, watching, machine, options.job_file, output)
        if not options.quiet:
            for rule in machine.faults:
                click.echo(f"fault rule {rule.id}: {rule.hits} hits, fired {rule.fired} times", err=True)
            counters = machine.driver.recovery.counters.as_dict()
            if any(counters.values()):
                said = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counters.items() if count)
                click.echo(f"driver ({machine.driver.state.value}): {said}", err=True)
    _print_errors(results)
    wrong = not all(result.ok for result in results)
    if machine.checker is not None and (options.check or options.check_report):
        level = options.check or "warn"
        wrong |= tell([machine.checker], level=level, report=options.check_report, quiet=options.quiet)
    if jobs.control.stop:
        return EXIT_INTERRUPTED
    return EXIT_ERRORS if wrong else 0


def _open_machine(plan: Plan, options: Options) -> Machine:
    import nvme_emu

    chosen = dict(plan.machine.options)
    if options.profile is not None:
        chosen["profile"] = options.profile
    if options.faults is not None:
        chosen["faults"] = options.faults
    if options.check is not None or options.check_report is not None:
        # The run goes on to its end, and the report tells of all of it.
        chosen["check"] = "warn"
    if options.io_timeout is not None:
        chosen["io_timeout"] = options.io_timeout
    return nvme_emu.open(
        size=plan.machine.size,
        mode=plan.machine.mode,
        namespaces=plan.machine.namespaces,
        lba_size=plan.machine.lba_size,
        clock=options.clock,
        seed=options.seed,
        **chosen,
    )


@contextlib.contextmanager
def _outputs(options: Options) -> Iterator[Any]:
    """The stream that the report goes to; files that cannot be written are found out before the run."""
    if options.json_file not in (None, "-"):
        Path(str(options.json_file)).touch()
    for path in options.pictures.files:
        Path(path).touch()
    if options.output is None:
        yield sys.stdout
        return
    with open(options.output, "w", encoding="utf-8") as stream:
        yield stream


@contextlib.contextmanager
def _tracing(machine: Machine, options: Options) -> Iterator[None]:
    if options.trace is None:
        yield
        return
    from nvme_emu.observe.jsonl import JsonLines

    with JsonLines(options.trace) as sink:
        machine.trace.add_sink(sink)
        try:
            yield
        finally:
            machine.trace.remove_sink(sink)
        if sink.dropped and not options.quiet:
            note = f"--trace: {sink.dropped} events were dropped; the last {sink.kept} are in the file"
            click.echo(f"nvme-emu: {note}", err=True)


@contextlib.contextmanager
def _remote_control(machine: Machine, options: Options) -> Iterator[None]:
    """The socket of --rpc, open while the jobs run."""
    if options.rpc is None:
        yield
        return
    from nvme_emu.observe.rpc import serve_rpc, watch

    with serve_rpc(watch(machine), options.rpc):
        yield


@contextlib.contextmanager
def _interruptible(jobs: Jobs) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM asks the jobs to end, and what they measured is printed; the second one raises."""

    def stop(number: int, frame: FrameType | None) -> None:
        if jobs.control.stop:
            raise KeyboardInterrupt
        jobs.control.stop = True

    if threading.current_thread() is not threading.main_thread():
        # Python delivers signals to the main thread only; whoever calls us elsewhere has a handler there.
        yield
        return
    previous = {one: signal.signal(one, stop) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for one, handler in previous.items():
            signal.signal(one, handler)


# --- what is printed ------------------------------------------------------------------------------------


@contextlib.contextmanager
def _progress(jobs: Jobs, options: Options) -> Iterator[None]:
    """A line on standard error that says how far the jobs are; only on a terminal."""
    if options.quiet or not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    started = time.monotonic()

    def line() -> Text:
        running = sum(job.started and not job.finished.done for job in jobs.jobs)
        ended = sum(bool(job.finished.done) for job in jobs.jobs)
        reads = sum(job.stats.read.ios for job in jobs.jobs)
        writes = sum(job.stats.write.ios for job in jobs.jobs)
        nbytes = sum(part.nbytes for job in jobs.jobs for part in job.stats.directions)
        seconds = max(1e-3, time.monotonic() - started)
        text = (
            f"jobs: {running} running, {ended} of {len(jobs.jobs)} done · {nbytes / 1048576:,.0f} MiB · "
            f"{reads:,} reads, {writes:,} writes · {(reads + writes) / seconds:,.0f} IOPS · {seconds:.0f} s"
        )
        return Text(text, no_wrap=True, overflow="ellipsis")

    with Live(get_renderable=line, console=Console(stderr=True), refresh_per_second=4, transient=True):
        yield


def _print_header(plan: Plan, output: Any) -> None:
    from nvme_emu import __version__
    from nvme_emu.workload.fio_text import header_lines

    for line in header_lines(plan.jobs, __version__):
        click.echo(line, file=output)


def _report(
    machine: Machine,
    plan: Plan,
    results: list[JobResult],
    options: Options,
    elapsed_ns: int,
    interrupted: bool,
) -> Report:
    from nvme_emu import __version__
    from nvme_emu.observe.checker.report import as_json
    from nvme_emu.workload.fio_json import make_report

    checker = machine.checker if options.check or options.check_report else None
    # In virtual time the wall clock has no place in the output: two runs of one seed are the same bytes.
    timestamp_ms = 0 if machine.runtime.virtual else time.time_ns() // 1_000_000
    return make_report(
        results,
        version=__version__,
        timestamp_ms=timestamp_ms,
        time_text=time.strftime("%a %b %d %H:%M:%S %Y", time.gmtime(timestamp_ms // 1000)),
        elapsed_ms=elapsed_ns // 1_000_000,
        global_texts=plan.global_texts,
        extra={
            "clock": options.clock,
            "seed": options.seed,
            "mode": plan.machine.mode,
            "profile": machine.profile.name,
            "namespaces": plan.machine.namespaces,
            "namespace_bytes": plan.machine.size // plan.machine.namespaces,
            "lba_size": plan.machine.lba_size,
            "interrupted": interrupted,
            "errors": [line for result in results for line in _error_lines(result)],
            **({} if options.faults is None else {"faults": machine.faults.snapshot()}),
            **({} if checker is None else {"checkers": [as_json(checker)]}),
        },
    )


def _print_report(report: Report, options: Options, output: Any) -> None:
    from nvme_emu.workload.fio_json import to_json
    from nvme_emu.workload.fio_text import report_lines

    if options.json_file == "-" or options.output_format != "normal":
        text = json.dumps(
            to_json(report, bins=options.output_format == "json+"), indent=2, separators=(",", " : ")
        )
    else:
        text = "\n".join(report_lines(report))
    click.echo(text, file=output)
    if options.json_file not in (None, "-"):
        data = to_json(report, bins=options.output_format == "json+")
        write_json(json.dumps(data, indent=2, separators=(",", " : ")), str(options.json_file))


def _error_lines(result: JobResult) -> list[str]:
    lines = []
    if result.failure:
        lines.append(f"{result.plan.name}: {result.failure}")
    lines += [f"{result.plan.name}: verify: {mismatch.describe()}" for mismatch in result.mismatches]
    more = result.mismatch_count - len(result.mismatches)
    if more > 0:
        lines.append(f"{result.plan.name}: verify: {more} more mismatches")
    return lines


def _print_errors(results: list[JobResult]) -> None:
    for result in results:
        for line in _error_lines(result):
            click.echo(f"nvme-emu: {line}", err=True)
