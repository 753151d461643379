"""`nvme-emu compare`: sync against async over devices and queue depths, with a verdict."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nvme_emu.cli.checking import check_option, checked_environment
from nvme_emu.cli.common import (
    EXIT_ERRORS,
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    JsonCommand,
    check_output,
    json_option,
    printer,
    quiet_option,
)
from nvme_emu.cli.common import complain as _note

if TYPE_CHECKING:
    from nvme_emu.workload.compare import CompareConfig, Comparison, Progress
    from nvme_emu.workload.compare_baseline import Baseline, Outcome

__all__ = ["compare"]

EXIT_REGRESSION = EXIT_ERRORS

_EPILOG = """\b
Examples:
  nvme-emu compare
  nvme-emu compare --profile tlc,my-ssd.toml --iodepth 1,8,64 --bs 4k,64k
  nvme-emu compare --json now.json --html now.html
  nvme-emu compare --baseline last-release.json --tolerance 3

\b
Exit codes:
  0    done
  1    a regression against --baseline, or an I/O failed
  2    bad usage or input
  130  interrupted; the rows measured so far are printed

docs/compare.md explains every column, the verdict and the assumptions.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """The command line of `compare`."""

    profile: tuple[str, ...]
    clock: str
    bs: str
    iodepth: str
    worker: str
    rw: str
    ios: int | None
    size: str
    seed: int
    cpus: int
    calibrate: bool
    flips: bool
    baseline: str | None
    tolerance: float | None
    output_format: str
    json_file: str | None
    html: str | None
    png: str | None
    svg: str | None
    plots: bool
    trace: str | None
    check: str | None
    quiet: bool

    @property
    def draws(self) -> bool:
        """Whether timelines and heat maps are wanted."""
        return self.plots or any(path is not None for path in (self.html, self.png, self.svg))

    @property
    def json_to_stdout(self) -> bool:
        """Whether standard output is for the JSON alone."""
        return self.json_file == "-" or (self.output_format == "json" and self.json_file is None)


@click.command(cls=JsonCommand, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--profile",
    metavar="NAME|FILE.toml",
    multiple=True,
    default=("instant,optane,tlc,qlc",),
    show_default=True,
    help="Devices, as a comma list or repeated.",
)
@click.option(
    "--clock",
    type=click.Choice(("virtual", "wall")),
    default="virtual",
    show_default=True,
    help="Exact and the same everywhere, or this program's own speed on this machine.",
)
@click.option("--bs", metavar="SIZE,…", default="4k", show_default=True, help="Block sizes.")
@click.option("--iodepth", metavar="N,…", default="1,4,32", show_default=True, help="Queue depths.")
@click.option(
    "--worker",
    metavar="STYLE,…",
    default="pump,per-request",
    show_default=True,
    help="Styles of the nvme1 worker: pump, inline, poll, per-request.",
)
@click.option(
    "--rw", default="randread", show_default=True, help="randread, randwrite, read, write, rw or randrw."
)
@click.option("--ios", type=click.IntRange(1), help="I/Os a row. [default: 5000 virtual, 2000 wall]")
@click.option("--size", metavar="SIZE", default="64M", show_default=True, help="Size of the SSD.")
@click.option(
    "--seed",
    type=click.IntRange(0, (1 << 63) - 1),
    default=0,
    show_default=True,
    help="Seed of everything random.",
)
@click.option(
    "--cpus", type=click.IntRange(1, 1024), default=4, show_default=True, help="CPUs of the virtual host."
)
@click.option(
    "--calibrate", is_flag=True, help="Measure this machine's costs first, and use them on the virtual clock."
)
@click.option(
    "--flips/--no-flips",
    default=True,
    help="Search for the hand-off cost at which the verdict turns (a quarter of the time).",
)
@click.option(
    "--baseline", metavar="OLD.json", help="Exit with 1 where a row is worse than in this earlier JSON."
)
@click.option(
    "--tolerance",
    metavar="PERCENT",
    type=click.FloatRange(0),
    help="What --baseline allows. [default: 5 virtual, 30 wall]",
)
@click.option(
    "-o",
    "--output-format",
    type=click.Choice(("normal", "json")),
    default="normal",
    show_default=True,
    help="What goes to standard output.",
)
@json_option("JSON to standard output, or besides to FILE.")
@click.option("--html", metavar="FILE", help="Write one self-contained page with plots.")
@click.option("--png", metavar="FILE", help="Write the plots as an image.")
@click.option("--svg", metavar="FILE", help="Write the plots as SVG.")
@click.option("--plots", is_flag=True, help="Timelines, latency curves and heat maps in the terminal, too.")
@click.option("--trace", metavar="FILE", help="Write every event to FILE, one JSON object a line.")
@check_option("Have the checker watch the driver in every row (docs/checker.md); an error ends it with exit code 1.")
@quiet_option("No progress and no notes on standard error.")
def compare(**options: Any) -> int:
    """Compare synchronous with asynchronous transfer on emulated SSDs.

    For each device, block size and queue depth N: one sync caller, N sync callers, and one caller that hands its
    requests to the nvme1 kthread_worker. Ends with a verdict in words and what it rests on.
    """
    from nvme_emu.workload.compare_measure import RowError

    chosen = Options(**options)
    try:
        return _run(chosen)
    except BrokenPipeError:
        raise
    except RowError as error:
        _note(error)
        return EXIT_REGRESSION
    except (ValueError, OSError) as error:
        _note(error)
        return EXIT_USAGE
    except MemoryError:
        _note("not enough memory: reduce --iodepth, --bs or --size")
        return EXIT_USAGE


def _run(options: Options) -> int:
    from nvme_emu.workload.compare import CompareInterrupted
    from nvme_emu.workload.compare import compare as measure

    check_output(options.json_file, json=True)
    for path in (options.html, options.png, options.svg, options.trace):
        check_output(path, inputs=[options.baseline])
    config = _config(options)
    baseline = _baseline(options, config)
    if options.calibrate:
        config = _calibrated(config, options)
    interrupted = False
    with _sink(options) as sink, _progress(options) as progress, checked_environment(options.check):
        try:
            comparison = measure(config, progress=progress, sink=sink, pictures=options.draws)
        except CompareInterrupted as interrupt:
            comparison, interrupted = interrupt.partial, True
    if comparison.rows:
        _write(options, comparison)
    for row in comparison.rows:
        for finding in row.found:
            if finding.severity == "error" or not options.quiet:
                _note(f"{row.profile}, {row.label}, depth {row.iodepth}: {finding}")
    if interrupted:
        _note(f"interrupted; {len(comparison.rows)} rows were measured")
        return EXIT_INTERRUPTED
    if baseline is None:
        return 0
    tolerance = None if options.tolerance is None else options.tolerance / 100
    outcome = baseline.compare(comparison, tolerance)
    _tell(outcome, baseline.path, err=options.json_to_stdout)
    return EXIT_REGRESSION if outcome.regressions else 0


# What is asked ---------------------------------------------------------------------------------------


def _words(text: str, name: str) -> tuple[str, ...]:
    words = tuple(word.strip() for word in text.split(","))
    if not all(words):
        raise ValueError(f"--{name} {text!r}: an entry between the commas is empty")
    return words


def _config(options: Options) -> CompareConfig:
    from nvme_emu.core.units import parse_size
    from nvme_emu.workload.compare import CompareConfig

    depths = []
    for word in _words(options.iodepth, "iodepth"):
        if not word.isascii() or not word.isdigit():
            raise ValueError(f"--iodepth {word!r}: it must be a whole number")
        depths.append(int(word))
    return CompareConfig(
        profiles=tuple(name for text in options.profile for name in _words(text, "profile")),
        clock=options.clock,
        bs=tuple(parse_size(word) for word in _words(options.bs, "bs")),
        iodepth=tuple(depths),
        workers=_words(options.worker, "worker"),
        rw=options.rw,
        ios=options.ios,
        size=parse_size(options.size),
        seed=options.seed,
        cpus=options.cpus,
        flips=options.flips,
        processes=0,
    )


def _baseline(options: Options, config: CompareConfig) -> Baseline | None:
    from nvme_emu.workload.compare_baseline import load_baseline
    from nvme_emu.workload.compare_rows import plan_rows

    if options.baseline is None:
        if options.tolerance is not None:
            raise ValueError("--tolerance says what --baseline OLD.json allows; there is no --baseline")
        return None
    if options.tolerance is not None and not math.isfinite(options.tolerance):
        raise ValueError(f"--tolerance {options.tolerance}: a finite percentage is needed, else no row is ever worse")
    baseline = load_baseline(options.baseline)
    baseline.check(config.clock, [spec.key for spec in plan_rows(config)])
    return baseline


def _calibrated(config: CompareConfig, options: Options) -> CompareConfig:
    from nvme_emu.workload.compare_calibrate import calibrate

    if not config.virtual:
        raise ValueError("--calibrate feeds the virtual clock; the wall clock measures the machine itself")
    if not options.quiet:
        _note("measuring this machine's costs …")
    costs, host = calibrate()
    return replace(config, costs=costs, host=host, calibrated=True)


@contextmanager
def _sink(options: Options) -> Iterator[Callable[[Any], Any] | None]:
    """What makes the sink of each row: its events with the row's name in them."""
    if options.trace is None:
        yield None
        return
    from nvme_emu.observe.jsonl import JsonLines

    with JsonLines(options.trace) as lines:

        def sink_of(spec: Any) -> Any:
            lines.extra = {"row": f"{spec.profile.name} {spec.label} depth {spec.iodepth} bs {spec.bs}"}
            return lines

        yield sink_of
        if lines.dropped and not options.quiet:
            _note(f"--trace: {lines.dropped} events were dropped; each row keeps its last {lines.events_max}")


@contextmanager
def _progress(options: Options) -> Iterator[Progress | None]:
    """A bar on standard error, if that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if options.quiet or not console.is_terminal:
        yield None
        return
    columns = (
        BarColumn(24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)

        def tell(done: int, total: int, what: str) -> None:
            bar.update(task, completed=done, total=total, description=what)

        yield tell


# What is told ----------------------------------------------------------------------------------------


def _write(options: Options, comparison: Comparison) -> None:
    """Tables to standard output unless it is for JSON; the files that were asked for."""
    if options.json_to_stdout:
        click.echo(comparison.json_text(), nl=False)
    else:
        from nvme_emu.workload.report_terminal import render

        console = printer()
        console.print(render(comparison))
        if options.plots:
            from nvme_emu.workload.report_terminal_plots import compare_plots

            console.print(compare_plots(comparison.rows))
        if options.json_file is not None:
            Path(options.json_file).write_text(comparison.json_text(), encoding="utf-8")
    if options.html is not None:
        from nvme_emu.workload.report_html import html_page

        Path(options.html).write_text(html_page(comparison), encoding="utf-8")
    for path, kind in ((options.png, "png"), (options.svg, "svg")):
        if path is not None:
            from nvme_emu.workload.report_plots import figure_bytes

            Path(path).write_bytes(figure_bytes(comparison, kind))


def _tell(outcome: Outcome, path: str, *, err: bool) -> None:
    """The comparison with the baseline, in lines."""
    for difference in outcome.differences:
        click.echo(f"differs from {path}: {difference}", err=err)
    for change in outcome.improvements:
        click.echo(f"better: {change.describe()}", err=err)
    for change in outcome.regressions:
        click.echo(f"REGRESSION: {change.describe()}", err=err)
    click.echo(
        f"{outcome.compared} rows compared with {path}: {len(outcome.regressions)} regressions, "
        f"{len(outcome.improvements)} improvements beyond {outcome.tolerance * 100:g} %",
        err=err,
    )
