"""The tour in the terminal: a step as rich renderables, in any width from 60 columns on."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from nvme_emu.workload.report_capture import Timeline
from nvme_emu.workload.report_terminal_plots import TimelinePlot
from nvme_emu.workload.tour import Dump, Field, Step, bytes_of

__all__ = ["WIDTH_MAX", "hex_lines", "plain_step", "show_step", "tour_svg"]

WIDTH_MAX = 100
"""Wider lines are harder to read."""
CHAPTER_STYLES = {"sync": "yellow", "async": "green", "both": "cyan"}
# Bytes are shown in the colour of their field.
COLOURS = ("cyan", "magenta", "yellow", "green", "bright_blue", "bright_red")


def hex_lines(data: bytes, width: int = 16) -> Iterator[tuple[int, str, str]]:
    """(offset, hexadecimal, printable) for each line of a dump."""
    for start in range(0, len(data), width):
        line = data[start : start + width]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in line)
        yield start, line.hex(" "), text


def show_step(step: Step, number: int, total: int) -> RenderableType:
    """One step in a frame."""
    style = CHAPTER_STYLES[step.chapter]
    parts: list[RenderableType] = []
    if step.calls:
        parts.append(Text(step.calls, style="italic dim"))
    parts += [_markup(paragraph) for paragraph in step.text]
    colours = _colours(step.fields)
    parts += [_dump(dump, colours if index == len(step.dumps) - 1 else {}) for index, dump in enumerate(step.dumps)]
    if step.fields:
        parts.append(_fields(step.fields, colours))
    if step.zero:
        parts.append(Text(f"zero: {step.zero}", style="dim"))
    if step.facts:
        parts.append(_facts(step.facts))
    if step.timelines:
        parts.append(_timelines(step.timelines))
    if step.event:
        parts.append(Text(f"trace  {step.event}", style="dim"))
    spaced: list[RenderableType] = []
    for part in parts:
        spaced += [part, Text("")]
    title = Text.assemble(
        (f" {number}/{total} ", "bold reverse " + style), (f" {step.chapter} ", style), (f" {step.title} ", "bold")
    )
    where = Text(f" {step.where} ", style=style) if step.where else None
    return Panel(
        Group(*spaced[:-1]), title=title, title_align="left", subtitle=where, subtitle_align="right",
        box=box.ROUNDED, border_style=style, padding=(1, 2),
    )  # fmt: skip


def _markup(text: str) -> Text:
    """Words between asterisks are emphasised, as in Markdown."""
    result = Text()
    for index, part in enumerate(text.split("*")):
        result.append(part, style="italic" if index % 2 else "")
    return result


def _colours(fields: Sequence[Field]) -> dict[int, str]:
    """The colour of each byte that belongs to a field that is shown."""
    colours: dict[int, str] = {}
    for index, field in enumerate(field for field in fields if field.offset >= 0):
        for place in range(field.offset, field.offset + field.length):
            colours[place] = COLOURS[index % len(COLOURS)]
    return colours


def _dump(dump: Dump, colours: dict[int, str]) -> RenderableType:
    text = Text(dump.label, style="bold")
    if dump.addr is not None:
        text.append(f"  at {dump.addr:x}h", style="not bold dim")
    for start, line, printable in hex_lines(dump.data):
        text.append(f"\n  {start:02x}  ", style="not bold dim")
        for place, byte in enumerate(line.split(), start):
            text.append(byte, style=f"not bold {colours.get(place, 'dim' if byte == '00' else '')}".strip())
            # A wider gap in the middle, as hexdump has it.
            text.append("  " if place % 8 == 7 and place % 16 != 15 else " ")
        if any(byte not in "." for byte in printable) and not colours:
            text.append(f" {printable}", style="not bold dim")
    return text


def _fields(fields: Sequence[Field], colours: dict[int, str]) -> RenderableType:
    table = Table(box=None, show_header=True, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("bytes", justify="right", no_wrap=True, style="dim")
    table.add_column("field", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("meaning")
    table.add_column("clause", style="dim", no_wrap=True)
    for field in fields:
        style = colours.get(field.offset, "") if field.offset >= 0 else ""
        name = Text(field.name if field.offset >= 0 else f"  {field.name}", style=style)
        table.add_row(bytes_of(field), name, Text(field.value, style=style), field.words, field.clause)
    return table


def _facts(facts: Sequence[tuple[str, str]]) -> RenderableType:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="bold")
    table.add_column()
    for label, value in facts:
        table.add_row(label, value)
    return table


def _timelines(timelines: Sequence[tuple[str, Timeline]]) -> RenderableType:
    window_ns = max(timeline.end_ns for _, timeline in timelines)
    plots = [TimelinePlot(name, timeline, window_ns, CHAPTER_STYLES[name]) for name, timeline in timelines]
    return Padding(Group(*plots), (0, 0, 0, 0))


def plain_step(step: Step, number: int, total: int, width: int = 80) -> str:
    """A step as plain text: no colours, no control characters."""
    console = Console(width=width, file=io.StringIO(), record=True, color_system=None, highlight=False)
    console.print(show_step(step, number, total))
    return "\n".join(line.rstrip() for line in console.export_text().splitlines())


# Rich's own format names a font that is fetched from the network; this one takes what there is.
_SVG = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, SFMono-Regular, Menlo, "DejaVu Sans Mono", Consolas, monospace;
  font-size: {char_height}px; line-height: {line_height}px; font-variant-east-asian: full-width; }}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: system-ui, sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/>
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def tour_svg(steps: Sequence[tuple[int, Step]], total: int, *, width: int = 92) -> str:
    """Steps, each with its number, as an SVG made by rich's recorder; the same each time, and it loads nothing."""
    console = Console(
        width=width, file=io.StringIO(), record=True, force_terminal=True, color_system="truecolor", highlight=False
    )
    console.print(Text("$ nvme-emu tour", style="bold"))
    for number, step in steps:
        console.print(show_step(step, number, total))
    svg = console.export_svg(title="nvme-emu tour", code_format=_SVG, unique_id="tour")
    return "\n".join(line.rstrip() for line in svg.splitlines()) + "\n"
