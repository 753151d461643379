"""The command line of the benchmark."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.fio import Fio
from bench.measure import Outcome, Row, idlest_core, run_rounds, select
from bench.report import as_json, footnotes, machine_facts, table

__all__ = ["main"]

MEDIUM_BYTES = 1 << 30
SLICE_S = 0.3
QUICK_SLICE_S = 0.1
ROUNDS = 3


def parser() -> argparse.ArgumentParser:
    """The options."""
    made = argparse.ArgumentParser(
        prog="bench.py",
        description="Measure nvme-emu against fio on a tmpfs file and against memcpy: all rows take turns in "
        "several rounds, the figures are medians. docs/performance.md explains the rows. The exit code is 1 only "
        "if a measurement failed; targets are printed, not enforced.",
    )
    made.add_argument(
        "--json", nargs="?", const="-", metavar="FILE", help="write JSON to FILE, or to standard output"
    )
    made.add_argument("--rounds", type=_positive, metavar="N", help=f"rounds of all rows (default {ROUNDS})")
    made.add_argument("--quick", action="store_true", help="one round of short slices: a look, not a measurement")
    made.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="NAME",
        help="only rows whose name matches or starts so (may be repeated), with the references that they need",
    )
    made.add_argument("--list", action="store_true", help="list the names of the rows")
    made.add_argument("--sweep", action="store_true", help="measure how the cost grows, instead of the table")
    made.add_argument("--plot", type=Path, metavar="FILE.png", help="plot the sweeps (implies --sweep)")
    made.add_argument(
        "--pin",
        default="auto",
        metavar="CORE",
        help="the core to run on, fio too: a number, 'auto' for the idlest (default), 'none'",
    )
    made.add_argument(
        "--dir", type=Path, default=Path("/dev/shm"), help="a tmpfs folder for fio's file (default /dev/shm)"
    )
    return made


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


def main(argv: Sequence[str] | None = None) -> int:
    """Run; returns the exit code: 0, 1 if a measurement failed, 2 for bad usage, 130 if interrupted."""
    arguments = parser()
    options = arguments.parse_args(argv)
    sweeping = options.sweep or options.plot is not None
    # With JSON on standard output the table goes where it does not disturb.
    console = Console(stderr=options.json == "-", highlight=False)
    if not console.is_terminal:
        # A file or a pipe has no width of its own; the table needs one at which nothing is cut.
        console.width = max(console.width, 130)
    try:
        core = _pin(options.pin)
        return _sweep(options, core, console) if sweeping else _table(options, core, console)
    except ValueError as error:
        arguments.error(str(error))
    except KeyboardInterrupt:
        return 130


def _pin(wish: str) -> int | None:
    """Bind this process, and what it starts, to one core. ValueError for a core that is not to be had."""
    if wish == "none":
        return None
    if wish != "auto" and not wish.isdigit():
        raise ValueError(f"--pin {wish}: a number, 'auto' or 'none'")
    core = idlest_core() if wish == "auto" else int(wish)
    if core is None:
        return None
    try:
        os.sched_setaffinity(0, {core})
    except (OSError, AttributeError) as error:
        raise ValueError(f"--pin {wish}: {error}") from error
    return core


@contextlib.contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A folder in the tmpfs (elsewhere if it is not there) that is gone afterwards."""
    where = folder if folder.is_dir() and os.access(folder, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="nvme-emu-bench-", dir=where) as made:
        yield Path(made)


def _table(options: argparse.Namespace, core: int | None, console: Console) -> int:
    from bench.limits import Limits
    from bench.ours import Stage
    from bench.rows import our_rows

    # The compiled gather lies elsewhere: a tmpfs may forbid what is executed.
    with _scratch(options.dir) as shared, tempfile.TemporaryDirectory(prefix="nvme-emu-bench-") as workdir:
        fio = Fio(shared, core)
        stage = Stage(MEDIUM_BYTES)
        try:
            limits = Limits(stage.medium, stage.places, Path(workdir))
            rows = [*fio.rows(), *limits.rows(), *our_rows(stage)]
            if options.list:
                for row in rows:
                    console.print(f"{row.name:24} {row.group}: {row.what}", soft_wrap=True)
                return 0
            chosen = select(rows, options.only)
            outcomes = _measure(chosen, options, console)
        finally:
            stage.close()
    notes = list(fio.notes)
    if limits.kind != "C":
        notes.append("no C compiler: the physical limit was measured with numpy's copies")
    facts = machine_facts(core)
    console.print(table(outcomes))
    _print_notes(console, facts, [*notes, *footnotes(outcomes)])
    _write_json(options.json, as_json(outcomes, facts, notes, []))
    return 1 if any(outcome.failed for outcome in outcomes) else 0


def _measure(rows: Sequence[Row], options: argparse.Namespace, console: Console) -> list[Outcome]:
    rounds = options.rounds or (1 if options.quick else ROUNDS)
    seconds = QUICK_SLICE_S if options.quick else SLICE_S
    with _progress(console) as progress:
        return run_rounds(rows, rounds, seconds, progress)


@contextlib.contextmanager
def _progress(console: Console) -> Iterator[Callable[[str], None]]:
    """A status line on a terminal; nothing elsewhere. It does not move by itself: that would take time."""
    if not console.is_terminal:
        yield lambda _text: None
        return
    yield lambda text: console.print(f"[dim]{text[: console.width - 1]:<{console.width - 1}}[/dim]", end="\r")


def _sweep(options: argparse.Namespace, core: int | None, console: Console) -> int:
    from bench.ours import Stage
    from bench.sweep import plot, run_sweeps

    stage = Stage(MEDIUM_BYTES)
    try:
        with _progress(console) as progress:
            sweeps = run_sweeps(stage, QUICK_SLICE_S if options.quick else SLICE_S, progress)
    finally:
        stage.close()
    for sweep in sweeps:
        shown = Table(title=f"{sweep.name}: {sweep.axis}", title_justify="left", show_edge=False)
        shown.add_column(sweep.axis, justify="right")
        shown.add_column("k IOPS", justify="right")
        shown.add_column("a round, µs", justify="right")
        for point, iops, cost in zip(sweep.points, sweep.iops, sweep.cost_s, strict=True):
            shown.add_row(f"{point:,}", f"{iops / 1e3:.1f}", f"{cost * 1e6:.2f}")
        console.print(shown)
        if len(sweep.points) > 1:
            verdict = "[red]worse than linear[/red]" if sweep.worse_than_linear else "[green]ok[/green]"
            steepest, start = sweep.steepest
            console.print(
                f"grows as n^{sweep.exponent:.2f}, fastest from {start:,} on, as n^{steepest:.2f}: {verdict}\n"
            )
        if sweep.failed:
            console.print(f"[red]failed[/red]: {sweep.failed}\n")
    facts = machine_facts(core)
    _print_notes(console, facts, [])
    if options.plot is not None:
        plot(sweeps, options.plot)
        console.print(f"plotted to {options.plot}")
    _write_json(options.json, as_json([], facts, [], [sweep.as_dict() for sweep in sweeps]))
    return 1 if any(sweep.failed for sweep in sweeps) else 0


def _print_notes(console: Console, facts: dict[str, Any], notes: Sequence[str]) -> None:
    where = "no core in particular" if facts["pinned_to"] is None else f"core {facts['pinned_to']}"
    console.print(
        f"\n{facts['date']}: {facts['cpus']} x {facts['cpu']}, on {where}, load {facts['load']}, "
        f"Linux {facts['kernel']}, Python {facts['python']}, numpy {facts['numpy']}, "
        f"huge pages {facts['huge_pages']}, {facts['core']} core",
        style="dim",
        soft_wrap=True,
    )
    for note in notes:
        console.print(f"· {note}", soft_wrap=True)


def _write_json(target: str | None, data: dict[str, Any]) -> None:
    if target is None:
        return
    text = json.dumps(data, indent=1, ensure_ascii=False) + "\n"
    if target == "-":
        sys.stdout.write(text)
    else:
        Path(target).write_text(text, encoding="utf-8")
