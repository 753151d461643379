"""Plots of a comparison, by matplotlib: one small chart each for the page, and all of them on one sheet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from nvme_emu.core.units import format_bytes
from nvme_emu.observe.stages import STAGES
from nvme_emu.workload.compare_rows import Row
from nvme_emu.workload.compare_verdict import duration, rate
from nvme_emu.workload.report_charts import Cdf, draw_cdfs, draw_heat, heat_limits
from nvme_emu.workload.report_style import Colour, dress, inline_svg, log_axis, sheet, short
from nvme_emu.workload.report_terminal import SERIES_WORDS, STAGE_WORDS, devices, main_rows, series_of, who
from nvme_emu.workload.report_timeline import Course, draw_courses, windows_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from nvme_emu.workload.compare import Comparison

__all__ = ["CHARTS", "chart_svg", "charts_of", "courses_of", "figure_bytes"]

COLUMNS = 3
"""Charts side by side on a sheet."""
_SERIES_ROLE = {
    "sync 1": "sync-1",
    "sync N": "sync-n",
    "pump": "pump",
    "per-request": "per-request",
    "inline": "inline",
    "poll": "poll",
}
# (marker, its size, filled): hollow ones around small ones, since several are often at the same place.
_MARKER = {
    "sync 1": ("", 0, True),
    "sync N": ("o", 9, False),
    "pump": ("D", 4, True),
    "per-request": ("s", 6.5, False),
    "inline": ("^", 7, False),
    "poll": ("v", 7, False),
}
_DASH = {
    "sync 1": (4.0, 2.0),
    "sync N": (1.0, 0.0),
    "pump": (1.0, 0.0),
    "per-request": (5.0, 1.5),
    "inline": (3.0, 1.0),
    "poll": (1.5, 1.5),
}

Chart = Callable[["Axes", Sequence[Row], Colour], None]


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
    dress(axes, colour, "IOPS")
    _lines(axes, rows, colour, lambda row: row.iops)
    log_axis(axes, lambda value: short(rate(value)))


def latency_chart(axes: Axes, rows: Sequence[Row], colour: Colour) -> None:
    """Mean latency against queue depth, with the 99th percentile as a thin line above it."""
    dress(axes, colour, "Latency: mean, and p99 (thin)")
    _lines(axes, rows, colour, lambda row: row.lat_ns["mean"])
    for name in list(SERIES_WORDS)[1:]:
        mine = sorted((row for row in rows if series_of(row) == name), key=lambda row: row.iodepth)
        ys = [row.lat_ns["p99"] for row in mine]
        axes.plot([row.iodepth for row in mine], ys, color=colour(_SERIES_ROLE[name]), linewidth=0.7)
    log_axis(axes, duration)


def stages_chart(axes: Axes, rows: Sequence[Row], colour: Colour) -> None:
    """Where the time goes: a bar for each main row, as shares, with the mean latency at its end."""
    shown = main_rows(rows)
    dress(axes, colour, "Where the time goes")
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


def _row_series(rows: Sequence[Row]) -> list[Cdf]:
    """A curve for each row: the colour says who, the width how deep."""
    depths = sorted({row.iodepth for row in rows})
    widths = {depth: 0.8 + 1.2 * place / max(1, len(depths) - 1) for place, depth in enumerate(depths)}
    return [
        Cdf(
            bins=row.lat_bins,
            role=_SERIES_ROLE[series_of(row)],
            width=1.9 if series_of(row) == "sync 1" else widths[row.iodepth],
            dashes=_DASH[series_of(row)],
        )
        for row in rows
    ]


def cdf_chart(axes: Axes, rows: Sequence[Row], colour: Colour) -> None:
    """Which share of the I/Os took at most so long: a curve for each row."""
    dress(axes, colour, "I/Os done within a time (wider: deeper)")
    draw_cdfs(axes, _row_series(rows), colour)


def _heat_of(mode: str) -> Chart:
    def draw(axes: Axes, rows: Sequence[Row], colour: Colour) -> None:
        row = next(row for row in rows if row.mode == mode and row.picture is not None)
        assert row.picture is not None
        depth = f", QD {row.iodepth}" if mode == "async" else ""
        dress(axes, colour, f"Latency over time: {who(row)}{depth}")
        limits = heat_limits([r.picture.heat for r in rows if r.picture is not None])
        draw_heat(axes, row.picture.heat, colour(_SERIES_ROLE[series_of(row)]), limits)

    return draw


CHARTS: dict[str, Chart] = {"iops": iops_chart, "latency": latency_chart, "stages": stages_chart}
"""By name; each draws the rows of one device and block size."""


def charts_of(rows: Sequence[Row]) -> dict[str, Chart]:
    """The charts that these rows have the data for."""
    charts = dict(CHARTS)
    if any(row.lat_bins for row in rows):
        charts["cdf"] = cdf_chart
    for mode in ("sync", "async"):
        if any(row.mode == mode and row.picture is not None for row in rows):
            charts[f"heat-{mode}"] = _heat_of(mode)
    return charts


def courses_of(rows: Sequence[Row]) -> list[Course]:
    """The timelines of these rows: one sync caller first, then async."""
    courses = []
    for row in rows:
        if row.picture is not None and row.picture.timeline is not None:
            depth = f", QD {row.iodepth}" if row.mode == "async" else ""
            role = _SERIES_ROLE[series_of(row)]
            courses.append(Course(title=who(row) + depth, role=role, timeline=row.picture.timeline))
    return courses


def chart_svg(name: str, rows: Sequence[Row]) -> str:
    """One chart of :func:`charts_of` as an ``<svg>`` element; see :func:`inline_svg`."""
    prefix = f"{rows[0].profile}-{rows[0].bs}-{name}"

    def draw(figure: Figure, colour: Colour) -> None:
        axes = figure.subplots()
        axes.patch.set_alpha(0)
        charts_of(rows)[name](axes, rows, colour)

    # Sizes in points are pixels of a phone's screen, so that text is as large there as the page's.
    return inline_svg(prefix, (4.7, 3.0), draw)


def figure_bytes(comparison: Comparison, kind: str) -> bytes:
    """All charts on one white sheet, as "png" (200 dots an inch) or "svg"; a block of charts for each device."""
    groups = devices(comparison.rows)
    wide = max((len(charts_of(rows)) for rows in groups), default=3)
    lines = -(-wide // COLUMNS)
    timed = any(courses_of(rows) for rows in groups)
    heights = ([3.2] * lines + ([3.6] if timed else [])) * len(groups)

    def draw(figure: Figure, colour: Colour) -> None:
        if not groups:
            return
        grid = figure.add_gridspec(len(heights), COLUMNS, height_ratios=heights)
        first: dict[int, Axes] = {}
        for block, rows in enumerate(groups):
            top = block * (lines + timed)
            for place, (name, chart) in enumerate(charts_of(rows).items()):
                axes = figure.add_subplot(grid[top + place // COLUMNS, place % COLUMNS])
                chart(axes, rows, colour)
                first.setdefault(place, axes)
                if name == "iops":
                    what = f"{rows[0].profile}, {format_bytes(rows[0].bs)} {rows[0].rw}: IOPS"
                    axes.set_title(what, loc="left", fontsize=10, fontweight="bold", color=colour("ink"))
            courses = courses_of(rows)
            if courses:
                axes = figure.add_subplot(grid[top + lines, :])
                draw_courses(axes, courses, colour, windows_of(courses)[0][1])
        for column in (0, 2):
            handles, labels = first[column].get_legend_handles_labels()
            place_: Any = "outside upper left" if column == 0 else "outside upper right"
            figure.legend(handles, labels, loc=place_, ncols=len(labels), frameon=False, fontsize=8)

    return sheet(kind, (12.5, sum(heights) + 0.5), draw)
