"""A comparison for the terminal: rich renderables that fit 80 columns and grow with the window.

The two charts are drawn here and not by a plotting library: a chart of a few depths and a stacked bar are a screen
of code each, follow the width and colours that rich found, and work without colour, each mark having a
shape of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from nvme_emu.core.units import format_bytes
from nvme_emu.observe.stages import STAGES
from nvme_emu.workload.compare import Comparison
from nvme_emu.workload.compare_assumptions import ASSUMPTIONS
from nvme_emu.workload.compare_rows import Row
from nvme_emu.workload.compare_verdict import duration, rate

__all__ = ["IopsChart", "StageBars", "assumptions_table", "render", "rows_table", "verdict_panel"]

WIDE = 104
"""From this width on the tables have more columns."""

STAGE_STYLES = {
    "worker_list": ("▒", "magenta"),
    "submission": ("▚", "cyan"),
    "device": ("█", "blue"),
    "completion": ("▓", "yellow"),
    "wakeup": ("░", "red"),
}
STAGE_WORDS = {
    "worker_list": "in the worker's list",
    "submission": "submission",
    "device": "device",
    "completion": "completion",
    "wakeup": "wake-up",
}
SERIES_MARKS = {
    "sync 1": ("│", "white"),
    "sync N": ("○", "yellow"),
    "per-request": ("◇", "cyan"),
    "pump": ("◆", "green"),
    "inline": ("▲", "magenta"),
    "poll": ("▽", "blue"),
}
SERIES_WORDS = {
    "sync 1": "one sync caller",
    "sync N": "N sync callers",
    "pump": "async, pump",
    "per-request": "async, per-request",
    "inline": "async, inline",
    "poll": "async, poll",
}


_KEY = Text(
    "Latencies and CPU time in µs · blkd: the callers' time in which they were blocked · sw: context switches an "
    "I/O · bold: most IOPS at that depth",
    style="dim",
)


_NEXT = Text(
    "--html FILE draws it, --json FILE keeps it; docs/compare.md explains every figure.", style="dim"
)


def render(comparison: Comparison) -> RenderableType:
    """Everything: tables, charts, assumptions, verdict."""
    parts: list[RenderableType] = [_title(comparison)]
    if comparison.rows:
        parts.append(_KEY)
    for rows in devices(comparison.rows):
        parts += [Text(""), _Responsive(rows)]
    if comparison.rows:
        parts += [Text(""), IopsChart(comparison.rows), Text(""), StageBars(comparison.rows)]
    parts += [Text(""), assumptions_table(comparison)]
    if comparison.verdict:
        parts += [Text(""), verdict_panel(comparison), _NEXT]
    return Group(*parts)


def devices(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows in groups of one device and block size, in order."""
    groups: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.profile, row.bs), []).append(row)
    return list(groups.values())


def series_of(row: Row) -> str:
    """Which of the compared ways a row is: a key of SERIES_WORDS."""
    if row.mode == "async":
        return row.worker or "pump"
    return "sync 1" if row.callers == 1 else "sync N"


def who(row: Row) -> str:
    """Who does the I/O, short enough for a column."""
    if row.mode == "async":
        return f"async {row.worker}"
    return f"sync {row.callers} caller{'s' if row.callers > 1 else ''}"


def _title(comparison: Comparison) -> Text:
    title = Text("Sync against async", style="bold")
    if comparison.clock == "virtual":
        clock = f" · virtual clock, {comparison.assumptions.get('cpus')} CPUs, seed {comparison.seed}"
        origin = comparison.assumptions.get("origin")
        clock += f", host costs {origin}" if origin == "measured here" else ""
    else:
        clock = " · wall clock: the speed of this program on this machine, Python included"
    title.append(clock, style="not bold dim")
    return title


# Tables ----------------------------------------------------------------------------------------------


class _Responsive:
    """The table of a device, with as many columns as there is room for."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield rows_table(self._rows, wide=options.max_width >= WIDE)


def us(ns: float) -> str:
    """Nanoseconds as microseconds in at most four characters or so: ``0.06``, ``4.37``, ``90.8``, ``1250``."""
    value = ns / 1e3
    if value >= 99.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"


def mb_s(nbytes: float) -> str:
    """Bytes a second as MB/s, three digits or more."""
    value = nbytes / 1e6
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}"


def rows_table(rows: Sequence[Row], *, wide: bool = False) -> Table:
    """The rows of one device and block size; the most IOPS at each depth are marked."""
    first = rows[0]
    title = Text.assemble(
        (first.profile, "bold"), f" · {format_bytes(first.bs)} {first.rw} · {first.ios} I/Os a row"
    )
    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        title=title,
        title_justify="left",
        title_style="",
        pad_edge=False,
        padding=0,
    )
    table.add_column("QD", justify="right", no_wrap=True, min_width=4)
    table.add_column("who", no_wrap=True, min_width=17)
    names = ["IOPS", "MB/s", "mean µs", "p50", "p99", "p99.9"]
    names += ["max", "held"] if wide else []
    names += ["blocked", "CPU µs", "switches"]
    names += ["doorbells", "interrupts"] if wide else []
    short = {"mean µs": "mean", "blocked": "blkd", "CPU µs": "CPU", "switches": "sw", "interrupts": "irqs"}
    for name in names:
        table.add_column(
            name if wide else short.get(name, name),
            justify="right",
            no_wrap=True,
            min_width=5 if not wide else None,
        )
    fastest = {
        max((r for r in rows if r.iodepth == depth), key=lambda r: r.iops).key
        for depth in {r.iodepth for r in rows}
    }
    before = None
    for row in rows:
        if before not in (None, row.iodepth):
            table.add_section()
        best = row.key in fastest
        cells = [rate(row.iops), mb_s(row.bw_bytes)]
        cells += [us(row.lat_ns[name]) for name in ("mean", "p50", "p99", "p99_9")]
        cells += [us(row.lat_ns["max"]), us(row.call_ns)] if wide else []
        cells += [f"{row.caller_blocked * 100:.0f}%", us(row.cpu_ns_per_io), f"{row.context_switches:.2f}"]
        cells += [f"{row.doorbells:.2f}", f"{row.interrupts:.2f}"] if wide else []
        depth = str(row.iodepth) if row.iodepth != before else ""
        table.add_row(depth, who(row), *cells, style="bold green" if best else "")
        before = row.iodepth
    return table


def assumptions_table(comparison: Comparison) -> RenderableType:
    """The figures of the host, each with its source; on the wall clock what is measured instead."""
    assumptions = comparison.assumptions
    if comparison.clock != "virtual":
        return Text(f"Assumptions: none of the host. {assumptions['origin']}.", style="dim")
    sources = assumptions["sources"]
    notes: dict[str, int] = {}
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(justify="right", no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for one in ASSUMPTIONS:
        value = assumptions[one.key]
        number = notes.setdefault(sources[one.key], len(notes) + 1)
        shown = duration(value) if one.key.endswith("_ns") else str(value)
        table.add_row(shown, Text.assemble(one.meaning, (f" ({one.key}) [{number}]", "dim")))
    told = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1, 0, 0))
    told.add_column(justify="right", no_wrap=True, style="dim")
    told.add_column(style="dim", overflow="fold")
    for source, number in notes.items():
        told.add_row(f"[{number}]", source)
    devices_said = (
        "Devices: docs/compare.md and profiles.py cite each figure; --profile FILE.toml takes yours."
    )
    return Group(Text("What it rests on", style="bold"), table, told, Text(devices_said, style="dim"))


def verdict_panel(comparison: Comparison) -> RenderableType:
    """The verdict: for each device a headline and its reasons."""
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column()
    for verdict in comparison.verdict:
        if grid.row_count:
            grid.add_row("", "")
        grid.add_row(
            Text("●", style="green" if verdict.async_wins_from is not None else "yellow"),
            Text(verdict.headline, style="bold"),
        )
        for reason in verdict.reasons:
            grid.add_row(Text("·", style="dim"), Text(reason))
    return Panel(grid, title="Verdict", title_align="left", box=box.ROUNDED, padding=(0, 1))


# Charts ----------------------------------------------------------------------------------------------


class IopsChart:
    """IOPS on a logarithmic axis, a line for each device and depth, a mark for each way."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._groups = devices(rows)
        several_bs = len({row.bs for row in rows}) > 1
        self._names = [
            g[0].profile + (f" {format_bytes(g[0].bs)}" if several_bs else "") for g in self._groups
        ]
        rates = [row.iops for row in rows if row.iops > 0] or [1.0]
        self._low = math.floor(math.log10(min(rates)) * 2) / 2
        self._high = max(math.ceil(math.log10(max(rates)) * 2) / 2, self._low + 0.5)
        self._seen = {series_of(row) for row in rows}

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        label = max(len(name) for name in self._names) + 8
        width = max(20, options.max_width - label - 2)
        yield Text("IOPS against queue depth", style="bold")
        yield Text("  ").join(
            Text.assemble(SERIES_MARKS[key], " ", (words, "dim"))
            for key, words in SERIES_WORDS.items()
            if key in self._seen
        )
        yield self._axis(label, width)
        for name, rows in zip(self._names, self._groups, strict=True):
            yield from self._lines(name, rows, label, width)

    def _column(self, iops: float, width: int) -> int:
        share = (math.log10(max(iops, 1e-9)) - self._low) / (self._high - self._low)
        return min(width - 1, max(0, round(share * (width - 1))))

    def _ticks(self, width: int) -> Iterator[tuple[int, str]]:
        for exponent in range(math.ceil(self._low), math.floor(self._high) + 1):
            name = rate(10.0**exponent).replace(".00", "").replace(".0", "")
            yield self._column(10.0**exponent, width), name

    def _axis(self, label: int, width: int) -> Text:
        line = [" "] * (width + 8)
        for column, name in self._ticks(width):
            start = min(max(0, column - len(name) // 2), width - len(name))
            line[start : start + len(name)] = name
        return Text(" " * label + "".join(line)[:width].rstrip(), style="dim")

    def _lines(self, name: str, rows: Sequence[Row], label: int, width: int) -> Iterator[Text]:
        one = [row for row in rows if series_of(row) == "sync 1"]
        order = list(SERIES_MARKS)
        for place, depth in enumerate(sorted({row.iodepth for row in rows})):
            cells: list[tuple[str, str]] = [(" ", "")] * width
            for column, _ in self._ticks(width):
                cells[column] = ("┊", "bright_black")
            # What is at the same place as another mark is drawn over it: the reference first, the pump last.
            here = [row for row in rows if row.iodepth == depth and row not in one]
            drawn = one + sorted(here, key=lambda row: order.index(series_of(row)))
            columns = [self._column(row.iops, width) for row in drawn]
            for column in range(min(columns), max(columns)):
                cells[column] = ("─", "bright_black")
            for column, row in zip(columns, drawn, strict=True):
                cells[column] = SERIES_MARKS[series_of(row)]
            text = Text(f"{name if place == 0 else '':<{label - 7}}QD {depth:<4}"[:label].ljust(label))
            for mark, style in cells:
                text.append(mark, style=style)
            text.rstrip()
            yield text


class StageBars:
    """Where the time goes: a stacked bar for the main rows of each device, each as long as its latency is."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._groups = [main_rows(group) for group in devices(rows)]
        self._several_bs = len({row.bs for row in rows}) > 1

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        label, value = 27, 9
        width = max(16, options.max_width - label - value - 1)
        yield Text("Where the time of an I/O goes", style="bold")
        legend = [Text.assemble(STAGE_STYLES[name], " ", (STAGE_WORDS[name], "dim")) for name in STAGES]
        yield Text("  ").join(legend)
        for rows in self._groups:
            name = rows[0].profile + (f" {format_bytes(rows[0].bs)}" if self._several_bs else "")
            yield Text(name, style="bold")
            for row in rows:
                yield self._line(row, label, width)

    @staticmethod
    def _line(row: Row, label: int, width: int) -> Text:
        text = Text(f"  {who(row)}, QD {row.iodepth}"[:label].ljust(label))
        for name, cells in zip(STAGES, shares([row.stages_ns[name] for name in STAGES], width), strict=True):
            mark, style = STAGE_STYLES[name]
            text.append(mark * cells, style=style)
        text.append(f" {duration(row.lat_ns['mean'])}", style="bold")
        return text


def main_rows(rows: Sequence[Row]) -> list[Row]:
    """One sync caller and the most of them, async at the least depth and each worker at the greatest."""
    async_rows = [row for row in rows if row.mode == "async"]
    chosen = async_rows[:1] + [row for row in async_rows[1:] if row.iodepth == async_rows[-1].iodepth]
    most = max((row.callers for row in rows if row.mode == "sync"), default=1)
    chosen += [row for row in rows if row.mode == "sync" and row.callers in (1, most)]
    return [row for row in rows if row in chosen]


def shares(values: Iterable[float], cells: int) -> list[int]:
    """Whole cells in proportion to the values (negative ones count as 0), together ``cells``; largest remainders."""
    parts = [max(0.0, value) for value in values]
    total = sum(parts)
    if not total:
        return [0] * len(parts)
    exact = [part * cells / total for part in parts]
    whole = [int(share) for share in exact]
    by_rest = sorted(range(len(exact)), key=lambda i: (whole[i] - exact[i], i))
    for index in by_rest[: cells - sum(whole)]:
        whole[index] += 1
    return whole
