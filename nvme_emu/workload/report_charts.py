"""Charts that both `compare` and `run` draw: latency curves, and latency over time as a heat map."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from nvme_emu.workload.compare_verdict import duration
from nvme_emu.workload.report_capture import HeatMap
from nvme_emu.workload.report_style import Colour, log_axis, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Cdf", "add_boxes", "boxes", "draw_cdfs", "draw_heat", "heat_limits", "nines", "time_axis"]

LEVELS = 6
"""Shades of a heat map."""
CELLS = (64, 40)
"""Columns and rows of a heat map as it is drawn."""
# A share p stands at -log10(1 - p): the body of the distribution and its tail are both seen.
NINES = (0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cdf:
    """A curve: ``bins`` are (ns, count), ascending."""

    bins: Sequence[tuple[int, int]]
    role: str
    width: float = 1.6
    dashes: tuple[float, float] = (1.0, 0.0)
    label: str = ""


def boxes(spans: Sequence[tuple[float, float, float, float]]) -> Path:
    """Rectangles (left, right, bottom, top) as one path: one element in an SVG, however many they are."""
    n = len(spans)
    corners = np.asarray(spans, dtype=float).reshape(n, 4)
    vertices = corners[:, [0, 2, 1, 2, 1, 3, 0, 3, 0, 2]].reshape(n * 5, 2)
    codes = np.tile([Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY], n)
    return Path(vertices, codes)


def add_boxes(
    axes: Axes, spans: Sequence[tuple[float, float, float, float]], colour: str, alpha: float | None = None
) -> None:
    """Fill rectangles (left, right, bottom, top)."""
    if spans:
        axes.add_patch(PathPatch(boxes(spans), facecolor=colour, edgecolor="none", alpha=alpha))


def nines(share: float, n: int) -> float:
    """Where a share stands on the axis; all of ``n`` stand half an I/O below 1."""
    return -math.log10(max(1 - share, 0.5 / n))


def draw_cdfs(axes: Axes, curves: Sequence[Cdf], colour: Colour) -> None:
    """Shares of I/Os against latency; the share's axis has as much room from 99 to 99.9 % as up to 90 %."""
    top = 1.0
    # Few stand over many: a curve that is one vertical line is drawn last.
    for curve in sorted(curves, key=lambda c: -len(c.bins)):
        if not curve.bins:
            continue
        counts = np.cumsum([count for _, count in curve.bins])
        n = int(counts[-1])
        xs = [max(1, curve.bins[0][0]), *(max(1, value) for value, _ in curve.bins)]
        ys = [0.0, *(nines(count / n, n) for count in counts)]
        top = max(top, ys[-1])
        axes.plot(
            xs,
            ys,
            drawstyle="steps-post",
            color=colour(curve.role),
            linewidth=curve.width,
            dashes=curve.dashes,
            label=curve.label or None,
        )
    axes.set_ylim(0, top * 1.02)
    axes.yaxis.set_major_locator(FixedLocator([nines(share, 10**9) for share in NINES]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{100 * (1 - 10**-y):.6g} %"))
    log_axis(axes, lambda value: short(duration(value)), "x")


def heat_limits(maps: Sequence[HeatMap]) -> tuple[float, float]:
    """The least and greatest latency of some heat maps, so that they have one axis."""
    rows = [row for heat in maps for _, row, _ in heat.cells]
    if not rows:
        return 1.0, 10.0
    return HeatMap.edges_ns(min(rows))[0], HeatMap.edges_ns(max(rows))[1]


def draw_heat(axes: Axes, heat: HeatMap, colour: str, limits: tuple[float, float]) -> None:
    """Latency (up) over time (right); the darker, the more I/Os, each shade a multiple of the one below."""
    low, high = limits[0] / 1.05, limits[1] * 1.05
    columns = 1 + max((x for x, _, _ in heat.cells), default=0)
    merged = -(-columns // CELLS[0])
    counts: dict[tuple[int, int], int] = {}
    # Rows of the map are finer than what is drawn where the axis is long.
    octaves = math.log2(high / low)
    per_cell = max(1, math.ceil(octaves * 8 / CELLS[1]))
    for x, y, count in heat.cells:
        cell = (x // merged, y // per_cell)
        counts[cell] = counts.get(cell, 0) + count
    most = max(counts.values(), default=1)
    shades: list[list[tuple[float, float, float, float]]] = [[] for _ in range(LEVELS)]
    width_ns = heat.column_ns * merged
    for (x, y), count in sorted(counts.items()):
        level = LEVELS - 1 if most == 1 else int((LEVELS - 1) * math.log(count) / math.log(most) + 1e-9)
        bottom, top = HeatMap.edges_ns(y * per_cell)[0], HeatMap.edges_ns((y + 1) * per_cell)[0]
        shades[level].append((x * width_ns, (x + 1) * width_ns, bottom, top))
    axes.set_xlim(0, columns * heat.column_ns)
    axes.set_ylim(low, high)
    log_axis(axes, lambda value: short(duration(value)))
    for level, cells in enumerate(shades):
        add_boxes(axes, cells, colour, 0.16 + 0.84 * level / (LEVELS - 1))
    time_axis(axes)
    axes.grid(False, axis="x")


def time_axis(axes: Axes) -> None:
    """A linear axis of times from 0."""
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(duration(value)) if value else "0"))
