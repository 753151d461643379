"""Plots of a comparison, by matplotlib: one small chart each for the page, and all of them on one sheet.

Charts for the page carry colour *roles*: each role is drawn in a colour of its own that occurs nowhere else, and is
replaced in the SVG by a CSS variable, so that the page can show it light or dark.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from nvme_emu.core.units import format_bytes
from nvme_emu.observe.stages import STAGES
from nvme_emu.workload.compare_rows import Row
from nvme_emu.workload.compare_verdict import duration, rate
from nvme_emu.workload.report_terminal import SERIES_WORDS, STAGE_WORDS, devices, main_rows, series_of, who

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from nvme_emu.workload.compare import Comparison

__all__ = ["CHARTS", "ROLES", "chart_svg", "figure_bytes"]

# role: (light, dark). The hues are Okabe and Ito's, which colour-blind readers can tell apart.
ROLES: dict[str, tuple[str, str]] = {
    "ink": ("#1f2430", "#e6e8ee"),
    "faint": ("#6b7280", "#9aa3b2"),
    "grid": ("#d9dde5", "#343b49"),
    "sync-1": ("#5b6270", "#b4bccb"),
    "sync-n": ("#c97a00", "#f0a63a"),
    "pump": ("#0b7a5c", "#35c79b"),
    "per-request": ("#0069b4", "#5fb4f0"),
    "worker_list": ("#b0518a", "#dd86bb"),
    "submission": ("#3d9bd6", "#6dbdf0"),
    "device": ("#3c4a63", "#74839f"),
    "completion": ("#d9a400", "#f0c94a"),
    "wakeup": ("#c8501a", "#f0824e"),
}
# A colour for each role that no other drawing uses: matplotlib writes it as #0102xx.
_STAND_IN = {role: f"#0102{index + 16:02x}" for index, role in enumerate(ROLES)}
_SERIES_ROLE = {"sync 1": "sync-1", "sync N": "sync-n", "pump": "pump", "per-request": "per-request"}
# (marker, its size, filled): hollow ones around small ones, since several are often at the same place.
_MARKER = {
    "sync 1": ("", 0, True),
    "sync N": ("o", 9, False),
    "pump": ("D", 4, True),
    "per-request": ("s", 6.5, False),
}
_DASH = {"sync 1": (4.0, 2.0), "sync N": (1.0, 0.0), "pump": (1.0, 0.0), "per-request": (5.0, 1.5)}

Colour = Callable[[str], str]
Chart = Callable[["Axes", Sequence[Row], Colour], None]


def _settings(fonttype: str, salt: str) -> Any:
    """The settings of a figure; ``salt`` makes the ids in an SVG the same each time."""
    return {
        "svg.hashsalt": salt,
        "font.size": 9,
        "font.family": "sans-serif",
        "svg.fonttype": fonttype,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }


def _dress(axes: Axes, colour: Colour, title: str, ylabel: str = "") -> None:
    axes.set_title(title, loc="left", fontsize=10, color=colour("ink"), fontweight="bold")
    axes.set_ylabel(ylabel, color=colour("faint"))
    axes.xaxis.label.set_color(colour("faint"))
    axes.tick_params(colors=colour("faint"), which="both")
    for spine in axes.spines.values():
        spine.set_color(colour("grid"))
    axes.grid(True, color=colour("grid"), linewidth=0.6)
    axes.set_axisbelow(True)


def _depth_axis(axes: Axes, rows: Sequence[Row]) -> list[int]:
    depths = sorted({row.iodepth for row in rows})
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(depths))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _position: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("queue depth")
    if len(depths) == 1:
        axes.set_xlim(depths[0] / 2, depths[0] * 2)
    return depths


def _log_axis(axes: Axes, words: Callable[[float], str]) -> None:
    """A logarithmic axis that has names also where it spans less than a power of ten."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _position: words(value)))


def _lines(axes: Axes, rows: Sequence[Row], colour: Colour, value_of: Callable[[Row], float]) -> None:
    depths = _depth_axis(axes, rows)
    for name in SERIES_WORDS:
        mine = sorted((row for row in rows if series_of(row) == name), key=lambda row: row.iodepth)
        if not mine:
            continue
        if name == "sync 1":
            # One caller is one row, and what all others are compared with: a line across.
            ends = [depths[0], depths[-1]] if len(depths) > 1 else [depths[0] / 2, depths[0] * 2]
            points = [(ends[0], value_of(mine[0])), (ends[1], value_of(mine[0]))]
        else:
            points = [(row.iodepth, value_of(row)) for row in mine]
        marker, size, filled = _MARKER[name]
        axes.plot(
            [x for x, _ in points],
            [y for _, y in points],
            color=colour(_SERIES_ROLE[name]),
            marker=marker,
            markersize=size,
            fillstyle="full" if filled else "none",
            linewidth=1.6,
            dashes=_DASH[name],
            label=SERIES_WORDS[name],
        )


def iops_chart(axes: Axes, rows: Sequence[Row], colour: Colour) -> None:
    """IOPS against queue depth, both logarithmic."""
    _dress(axes, colour, "IOPS")
    _lines(axes, rows, colour, lambda row: row.iops)
    _log_axis(axes, lambda value: _short(rate(value)))


def latency_chart(axes: Axes, rows: Sequence[Row], colour: Colour) -> None:
    """Mean latency against queue depth, with the 99th percentile as a thin line above it."""
    _dress(axes, colour, "Latency: mean, and p99 (thin)")
    _lines(axes, rows, colour, lambda row: row.lat_ns["mean"])
    for name in list(SERIES_WORDS)[1:]:
        mine = sorted((row for row in rows if series_of(row) == name), key=lambda row: row.iodepth)
        ys = [row.lat_ns["p99"] for row in mine]
        axes.plot([row.iodepth for row in mine], ys, color=colour(_SERIES_ROLE[name]), linewidth=0.7)
    _log_axis(axes, duration)


def stages_chart(axes: Axes, rows: Sequence[Row], colour: Colour) -> None:
    """Where the time goes: a bar for each main row, as shares, with the mean latency at its end."""
    shown = main_rows(rows)
    _dress(axes, colour, "Where the time goes")
    axes.grid(False, axis="y")
    names = [f"{who(row)}\nQD {row.iodepth}" for row in shown]
    left = [0.0] * len(shown)
    for stage in STAGES:
        parts = []
        for row in shown:
            total = sum(max(0.0, value) for value in row.stages_ns.values()) or 1.0
            parts.append(100 * max(0.0, row.stages_ns[stage]) / total)
        axes.barh(names, parts, left=left, height=0.62, color=colour(stage), label=STAGE_WORDS[stage])
        left = [before + part for before, part in zip(left, parts, strict=True)]
    for place, row in enumerate(shown):
        text = duration(row.lat_ns["mean"])
        axes.text(101.5, place, text, va="center", color=colour("ink"), fontsize=8.5)
    axes.set_xlim(0, 100)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _position: f"{value:.0f} %"))
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0, labelsize=8)


def _short(text: str) -> str:
    """``10.0k`` as ``10k``, for an axis."""
    return re.sub(r"\.0+(?=\D|$)", "", text)


CHARTS: dict[str, Chart] = {"iops": iops_chart, "latency": latency_chart, "stages": stages_chart}
"""By name; each draws the rows of one device and block size."""


def chart_svg(name: str, rows: Sequence[Row]) -> str:
    """One chart as an ``<svg>`` element whose colours are CSS variables ``--ROLE``; nothing is loaded by it.

    Text stays text, in the page's font. Ids are prefixed, so that several charts fit in one page.
    """
    prefix = re.sub(r"\W", "-", f"{rows[0].profile}-{rows[0].bs}-{name}")
    # Sizes in points are pixels of a phone's screen, so that text is as large there as the page's.
    with mpl.rc_context(_settings("none", prefix)):
        figure = Figure(figsize=(4.7, 3.0), layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.subplots()
        axes.patch.set_alpha(0)
        CHARTS[name](axes, rows, _STAND_IN.__getitem__)
        buffer = io.StringIO()
        figure.savefig(
            buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # Namespaces are implied in HTML; without them the page has not one address in it.
    text = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", text)
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.S)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r'(href="#|url\(#)', rf"\1{prefix}-", text)
    for role, stand_in in _STAND_IN.items():
        text = text.replace(stand_in, f"var(--{role})")
    return text.strip()


def figure_bytes(comparison: Comparison, kind: str) -> bytes:
    """All charts on one white sheet, as "png" (200 dots an inch) or "svg"; a line of charts for each device."""
    groups = devices(comparison.rows)
    with mpl.rc_context(_settings("path", "compare")):
        figure = Figure(figsize=(12.5, 3.2 * max(1, len(groups)) + 0.5), layout="constrained")
        if groups:
            grid = figure.subplots(len(groups), len(CHARTS), squeeze=False)
            for line, rows in zip(grid, groups, strict=True):
                for axes, draw in zip(line, CHARTS.values(), strict=True):
                    draw(axes, rows, lambda role: ROLES[role][0])
                what = f"{rows[0].profile}, {format_bytes(rows[0].bs)} {rows[0].rw}: IOPS"
                line[0].set_title(what, loc="left", fontsize=10, fontweight="bold", color=ROLES["ink"][0])
            for column in (0, 2):
                handles, labels = grid[0][column].get_legend_handles_labels()
                place: Any = "outside upper left" if column == 0 else "outside upper right"
                figure.legend(handles, labels, loc=place, ncols=len(labels), frameon=False, fontsize=8)
        buffer = io.BytesIO()
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        figure.savefig(buffer, format=kind, dpi=200, facecolor="white", metadata=metadata)
    return buffer.getvalue()
