"""Plots for the terminal: who works when, how latencies are spread, and how they go over time.

Each is a rich renderable that takes the width it is given; without colour the marks still differ.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.text import Text

from nvme_emu.core.units import format_bytes
from nvme_emu.workload.compare_rows import Row
from nvme_emu.workload.compare_verdict import duration
from nvme_emu.workload.report_capture import HeatMap, Timeline, close_up_ns, occupancy
from nvme_emu.workload.report_terminal import SERIES_MARKS, devices, series_of, who

__all__ = ["KEY", "HeatPlot", "Spread", "SpreadPlot", "TimelinePlot", "compare_plots"]

BLOCKS = " ▁▂▃▄▅▆▇█"
SHADES = " ░▒▓█"
HEAT_LINES = 10
LABEL = 26
"""Columns of the labels on the left."""

Bins = Sequence[tuple[int, int]]


def compare_plots(rows: Sequence[Row]) -> RenderableType:
    """All plots of a comparison, a block for each device and block size."""
    parts: list[RenderableType] = []
    for group in devices(rows):
        title = f"{group[0].profile}, {format_bytes(group[0].bs)} {group[0].rw}"
        lines = [
            Spread(label=f"{who(row)}, QD {row.iodepth}", bins=row.lat_bins, style=SERIES_MARKS[series_of(row)][1])
            for row in group
            if row.lat_bins
        ]
        parts += [Text(""), Text(title, style="bold underline"), Text(""), SpreadPlot(lines)]
        drawn = [row for row in group if row.picture is not None]
        courses = [
            (f"{who(row)}, QD {row.iodepth}", row.picture.timeline, SERIES_MARKS[series_of(row)][1])
            for row in drawn
            if row.picture is not None and row.picture.timeline is not None
        ]
        if courses:
            window_ns = close_up_ns([timeline for _, timeline, _ in courses])
            parts += [Text(""), Text("Who works when", style="bold"), Text(KEY, style="dim")]
            parts += [TimelinePlot(name, timeline, window_ns, style) for name, timeline, style in courses]
        for row in drawn:
            if row.picture is not None:
                style = SERIES_MARKS[series_of(row)][1]
                name = f"Latency over time: {who(row)}, QD {row.iodepth}"
                parts += [Text(""), HeatPlot(name, row.picture.heat, style)]
    return Group(*parts)


KEY = "█ runs · ░ is being woken · bars: how many, of the most there were · ▲ interrupts"


def _axis(width: int, ticks: Sequence[tuple[int, str]]) -> Text:
    line = [" "] * (width + 12)
    free = 0
    for column, name in ticks:
        start = min(max(0, column - len(name) // 2), max(0, width - len(name)))
        if start >= free:
            line[start : start + len(name)] = name
            free = start + len(name) + 1
    return Text(" " * LABEL + "".join(line)[:width].rstrip(), style="dim")


def _log_ticks(low: float, high: float, width: int) -> Iterator[tuple[int, str]]:
    for exponent in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1):
        for part in (1, 2, 5):
            value = part * 10.0**exponent
            if low <= value <= high:
                share = math.log(value / low) / math.log(high / low)
                yield round(share * (width - 1)), duration(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """A line of a :class:`SpreadPlot`: ``bins`` are (ns, count), ascending."""

    label: str
    bins: Bins
    style: str


class SpreadPlot:
    """How latencies are spread: a line of bars for each row, all on one logarithmic axis."""

    def __init__(self, lines: Sequence[Spread]) -> None:
        self._lines = [line for line in lines if line.bins]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if not self._lines:
            return
        width = max(16, options.max_width - LABEL - 1)
        low = max(1, min(line.bins[0][0] for line in self._lines)) / 1.02
        high = max(line.bins[-1][0] for line in self._lines) * 1.02 + 1
        yield Text.assemble(("How latencies are spread", "bold"), (" · each step up: three times as many", "dim"))
        yield _axis(width, list(_log_ticks(low, high, width)))
        for line in self._lines:
            counts = [0] * width
            for value, count in line.bins:
                share = math.log(max(value, low) / low) / math.log(high / low)
                counts[min(width - 1, int(share * width))] += count
            most = max(counts)
            text = Text(line.label[: LABEL - 1].ljust(LABEL))
            for count in counts:
                text.append(BLOCKS[_level(count, most)], style=line.style)
            text.rstrip()
            yield text


def _level(count: int, most: int) -> int:
    """Bars count orders of two: what is rare is still seen."""
    if not count:
        return 0
    return max(1, 8 - round(math.log2(most / count) / 1.5))


class TimelinePlot:
    """Callers, workers, queues, interrupts and the device over the first ``window_ns`` of a timeline."""

    def __init__(self, title: str, timeline: Timeline, window_ns: int, style: str) -> None:
        self._title, self._timeline, self._window, self._style = title, timeline, window_ns, style

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = max(16, options.max_width - LABEL - 1)
        timeline, window = self._timeline, self._window
        done = sum(request[4] <= window for request in timeline.requests)
        so_far = f"after {duration(timeline.end_ns)}" if timeline.end_ns <= window else f"in {duration(window)}"
        yield Text(f"{self._title}: {done} I/Os done {so_far}", style=f"bold {self._style}")
        for lane in (*timeline.callers[:4], *timeline.workers[:4]):
            cells = [("─", "bright_black")] * width
            for busy, mark, style in ((lane.wakes, "░", "red"), (lane.runs, "█", self._style)):
                for first, last in self._cells(busy, width):
                    cells[first : last + 1] = [(mark, style)] * (last + 1 - first)
            yield self._line(f"  {lane.name}", cells)
        requests = timeline.requests
        for name, spans, style in (
            ("handed over", [(r[0], r[2]) for r in requests], "magenta"),
            ("at the device", [(r[2], r[3]) for r in requests], "blue"),
            ("done, not taken", [(r[3], r[4]) for r in requests], "yellow"),
        ):
            levels = self._levels(spans, width)
            most = max((number for _, _, number in occupancy(spans)), default=1)
            cells = [(BLOCKS[min(8, math.ceil(8 * level / most))], style) for level in levels]
            yield self._line(f"  {name} (≤ {most})", cells)
        marks = [(" ", "")] * width
        for first, _ in self._cells([(ts, ts) for ts in timeline.irqs], width):
            marks[first] = ("▲", "red")
        yield self._line("  interrupts", marks)
        ticks = [(round(part * (width - 1) / 4), duration(window * part / 4) if part else "0") for part in range(5)]
        yield _axis(width, ticks)

    def _cells(self, spans: Sequence[tuple[int, int]], width: int) -> Iterator[tuple[int, int]]:
        for start, end in spans:
            if start <= self._window:
                yield start * (width - 1) // self._window, min(width - 1, end * (width - 1) // self._window)

    def _levels(self, spans: Sequence[tuple[int, int]], width: int) -> list[int]:
        levels = [0] * width
        for start, end, number in occupancy(spans):
            for first, last in self._cells([(start, end)], width):
                for cell in range(first, last + 1):
                    levels[cell] = max(levels[cell], number)
        return levels

    @staticmethod
    def _line(label: str, cells: Sequence[tuple[str, str]]) -> Text:
        text = Text(label[: LABEL - 1].ljust(LABEL))
        for mark, style in cells:
            text.append(mark, style=style)
        text.rstrip()
        return text


class HeatPlot:
    """Latencies (up) over time (right); a denser mark stands for more I/Os."""

    def __init__(self, title: str, heat: HeatMap, style: str) -> None:
        self._title, self._heat, self._style = title, heat, style

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        cells = self._heat.cells
        if not cells:
            return
        width = max(16, options.max_width - LABEL - 1)
        columns = 1 + max(x for x, _, _ in cells)
        low, high = min(y for _, y, _ in cells), 1 + max(y for _, y, _ in cells)
        lines = min(HEAT_LINES, high - low)
        counts = [[0] * width for _ in range(lines)]
        for x, y, count in cells:
            line = (y - low) * lines // (high - low)
            # A column may be wider than a character: it fills all that it covers.
            for cell in range(x * width // columns, max(x * width // columns + 1, (x + 1) * width // columns)):
                counts[line][cell] += count
        most = max(max(line) for line in counts)
        yield Text(self._title, style="bold")
        for place in range(lines - 1, -1, -1):
            edge = HeatMap.edges_ns(low + place * (high - low) // lines)[0]
            text = Text(f"≥ {duration(edge)}".rjust(LABEL - 1) + " ", style="dim")
            for count in counts[place]:
                level = 0 if not count else 1 + int(3 * math.log(count + 1) / math.log(most + 1))
                text.append(SHADES[level], style=f"not dim {self._style}")
            text.rstrip()
            yield text
        span = columns * self._heat.column_ns
        ticks = [(round(part * (width - 1) / 4), duration(span * part / 4) if part else "0") for part in range(5)]
        yield _axis(width, ticks)
