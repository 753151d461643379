"""`nvme-emu tour`: one write, step by step, first sync, then async."""

from __future__ import annotations

import json
import os
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nvme_emu.cli.common import (
    EXIT_USAGE,
    JsonCommand,
    check_output,
    json_option,
    printer,
    quiet_option,
    write_json,
)

if TYPE_CHECKING:
    from nvme_emu.workload.tour import Tour

__all__ = ["tour"]

_EPILOG = """\b
Keys, on a terminal:
  Enter, space, →   the next step
  ←, b              back
  1 … 9 + Enter     go to a step by its number
  q                 quit

docs/tour.md is the same as a page.
"""


@click.command(cls=JsonCommand, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--plain", is_flag=True, help="All steps as plain text, without colours and keys.")
@click.option("--step", "wanted", metavar="N[-M]", help="Only these steps.")
@click.option(
    "--seed", type=click.IntRange(0, (1 << 63) - 1), default=7, show_default=True, help="Seed of the device's scatter."
)
@json_option("The steps as JSON, to standard output or FILE.")
@click.option("--svg", metavar="FILE", help="Write the steps as an SVG.")
@click.option("--trace", metavar="FILE", help="Write every event of both runs to FILE, one JSON object a line.")
@quiet_option()
def tour(
    plain: bool,
    wanted: str | None,
    seed: int,
    json_file: str | None,
    svg: str | None,
    trace: str | None,
    quiet: bool,
) -> int:
    """Follow one write from its caller over nvme1's work list, the command's bytes, the doorbell, the flash, the
    completion and the interrupt back to its caller.

    What it shows is from a real run, made when it is called, on the virtual clock.
    """
    from nvme_emu.workload.tour import make_tour

    try:
        check_output(json_file, json=True)
        for path in (svg, trace):
            check_output(path)
        with _events(trace) as events:
            made = make_tour(seed, events)
        steps = _chosen(wanted, len(made.steps))
    except (ValueError, OSError) as error:
        click.echo(f"nvme-emu: {error}", err=True)
        return EXIT_USAGE
    if json_file is not None:
        _write_json(made, steps, json_file)
    if svg is not None:
        from nvme_emu.workload.tour_show import tour_svg

        drawn = tour_svg([(number, made.steps[number - 1]) for number in steps], len(made.steps))
        Path(svg).write_text(drawn, encoding="utf-8")
    if json_file is None and svg is None:
        if plain or not (sys.stdin.isatty() and sys.stdout.isatty()):
            _print_all(made, steps, plain)
        else:
            _Walk(made, steps).run()
    return 0


def _chosen(wanted: str | None, total: int) -> range:
    """The numbers of the steps asked for. ValueError, naming the text, where it is no range of them."""
    if wanted is None:
        return range(1, total + 1)
    first, _, last = wanted.partition("-")
    if not all(part.isascii() and part.isdigit() for part in (first, last or first)):
        raise ValueError(f"--step {wanted!r}: it must be a number, or two with a - between them")
    low, high = int(first), int(last or first)
    if not 1 <= low <= high <= total:
        raise ValueError(f"--step {wanted!r}: the steps are 1 to {total}")
    return range(low, high + 1)


def _write_json(made: Tour, steps: range, path: str) -> None:
    data = made.to_json()
    data["steps"] = [step for step in data["steps"] if step["number"] in steps]
    write_json(json.dumps(data, indent=1, ensure_ascii=False), path)


@contextmanager
def _events(path: str | None) -> Iterator[Callable[[str, object], None] | None]:
    """What takes the events of both writes for --trace, each with the mode that it is of."""
    if path is None:
        yield None
        return
    from nvme_emu.observe.jsonl import JsonLines

    with JsonLines(path) as lines:

        def write(mode: str, event: object) -> None:
            if lines.extra != {"row": mode}:
                lines.extra = {"row": mode}
            lines(event)

        yield write


def _print_all(made: Tour, steps: range, plain: bool) -> None:

    from nvme_emu.workload.tour_show import WIDTH_MAX, plain_step, show_step

    total = len(made.steps)
    console = printer()
    width = min(console.width, WIDTH_MAX)
    for number in steps:
        if plain or not console.is_terminal:
            click.echo(plain_step(made.steps[number - 1], number, total, width))
        else:
            console.print(show_step(made.steps[number - 1], number, total), width=width)


class _Walk:
    """The steps one by one, by keys."""

    def __init__(self, made: Tour, steps: range) -> None:
        self._made = made
        self._steps = steps

    def run(self) -> None:
        """Until the last step has been left, or q."""
        from rich.text import Text

        from nvme_emu.workload.tour_show import WIDTH_MAX, show_step

        console = printer()
        place = 0
        with _keys(sys.stdin.fileno()) as keys:
            while place < len(self._steps):
                number = self._steps[place]
                shown = show_step(self._made.steps[number - 1], number, len(self._made.steps))
                console.print(shown, width=min(console.width, WIDTH_MAX))
                console.print(Text("Enter next · ← back · number Enter go to · q quit ", style="dim"), end="")
                place = self._next(place, keys)
                console.print()

    def _next(self, place: int, keys: Iterator[str]) -> int:
        """The place that the keys lead to; beyond the end to quit."""
        digits = ""
        for key in keys:
            if key in ("q", "Q", "\x1b"):
                break
            if key in ("\x1b[D", "\x1bOD", "b", "p", "\x7f"):
                return max(0, place - 1)
            if key in ("\r", "\n", " ", "n", "\x1b[C", "\x1bOC"):
                number = int(digits) if digits else 0
                return self._steps.index(number) if number in self._steps else place + 1
            if key.isascii() and key.isdigit():
                digits = (digits + key)[-3:]
        return len(self._steps)


@contextmanager
def _keys(fd: int) -> Iterator[Iterator[str]]:
    """The keys of a terminal one by one, without echo; an arrow is one key. Ends with the terminal, or at Ctrl-D.

    What was typed ahead is kept (click.getchar would drop it), and Ctrl-C interrupts as ever.
    """

    def read() -> Iterator[str]:
        while True:
            typed = os.read(fd, 64).decode("utf-8", "replace")
            if not typed or "\x04" in typed:
                return
            yield from [typed] if typed.startswith("\x1b") else typed

    before = termios.tcgetattr(fd)
    tty.setcbreak(fd, termios.TCSADRAIN)
    try:
        yield read()
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
