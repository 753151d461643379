"""The tour as a page of the documentation: docs/tour.md, written by tools/make_tour.py."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich.console import Console

from nvme_emu.workload.report_capture import Timeline
from nvme_emu.workload.report_terminal_plots import KEY, TimelinePlot
from nvme_emu.workload.tour import Dump, Field, Step, Tour, bytes_of
from nvme_emu.workload.tour_show import hex_lines

__all__ = ["readme_steps", "tour_page"]

_HEAD = """# A tour: one write from its caller to the flash and back

    nvme-emu tour

<!-- Written by tools/make_tour.py from a run. Do not edit: change nvme_emu/workload/tour_*.py and run it again. -->

This is what the command shows, as a page. A task called *app* writes 32 KiB to a drive with the profile *{profile}*,
first in sync mode, then in async mode, each time as the first command of a new queue pair. Every byte, address and
time is of a real run on the virtual clock (seed {seed}), read from the rings and lists at that moment. Functions have
the names that they have in Linux, where Linux has them. Times count from the hand-over of the request.

"""
_CHAPTERS = {"sync": "Sync: the caller does it all", "async": "Async: the worker nvme1 does it", "both": "The outcome"}


def tour_page(tour: Tour) -> str:
    """The whole page in Markdown; the same text for the same tour."""
    parts = [_HEAD.format(profile=tour.profile, seed=tour.seed)]
    chapter = ""
    for number, step in enumerate(tour.steps, 1):
        if step.chapter != chapter:
            chapter = step.chapter
            parts.append(f"## {_CHAPTERS[chapter]}\n\n")
        parts.append(_step(step, number))
    return "".join(parts).rstrip() + "\n"


def _step(step: Step, number: int) -> str:
    lines = [f"### {number}. {step.title}", ""]
    if step.where:
        lines += [f"**{step.where}**" + (f" — `{step.calls}`" if step.calls else ""), ""]
    for paragraph in step.text:
        lines += [paragraph, ""]
    for dump in step.dumps:
        lines += [*_dump(dump), ""]
    if step.fields:
        lines += [*_fields(step.fields), ""]
    if step.zero:
        lines += [f"Zero: {step.zero}.", ""]
    if step.facts:
        lines += [*(f"- {label}: {value}" for label, value in step.facts), ""]
    if step.timelines:
        lines += ["```text", _timelines(step.timelines), "```", ""]
    if step.event:
        lines += [f"In the trace: `{step.event}`", ""]
    return "\n".join(lines) + "\n"


def _dump(dump: Dump) -> list[str]:
    place = f" at {dump.addr:x}h" if dump.addr is not None else ""
    lines = [f"{dump.label}{place}:", "", "```text"]
    readable = dump.addr is None or all(32 <= byte < 127 for byte in dump.data)
    for start, line, printable in hex_lines(dump.data):
        text = f"  {printable}" if readable and any(char != "." for char in printable) else ""
        lines.append(f"{start:02x}  {line[:23]:<23}  {line[24:]:<23}{text}".rstrip())
    return [*lines, "```"]


def _fields(fields: Sequence[Field]) -> list[str]:
    lines = ["| bytes | field | value | meaning | clause |", "|---|---|---|---|---|"]
    for field in fields:
        name = field.name if field.offset >= 0 else f"· {field.name}"
        lines.append(f"| {bytes_of(field)} | {name} | {field.value} | {field.words} | {field.clause} |")
    return lines


def _timelines(timelines: Sequence[tuple[str, Timeline]]) -> str:
    console = Console(width=96, file=io.StringIO(), record=True, color_system=None)
    window_ns = max(timeline.end_ns for _, timeline in timelines)
    console.print(KEY)
    for name, timeline in timelines:
        console.print(TimelinePlot(name, timeline, window_ns, ""))
    return "\n".join(line.rstrip() for line in console.export_text().splitlines())


def readme_steps(tour: Tour) -> list[tuple[int, Step]]:
    """The steps that the README shows, with their numbers: the worker's list, and what it buys."""
    wanted = {"The command: 64 bytes", "kthread_queue_work(nvme1, pump)", "What it costs and what it buys"}
    return [(number, step) for number, step in enumerate(tour.steps, 1) if step.title in wanted]
