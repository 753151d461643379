"""Latency: a histogram, and beside it a heat map over time with the same rows; below, the stages."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from rich.text import Text

from nvme_emu.observe.state import LatencyState
from nvme_emu.observe.tui import words
from nvme_emu.observe.tui.frame import Frame
from nvme_emu.observe.tui.ink import (
    ACCENT,
    BORDER,
    BRIGHT,
    DIM,
    GOOD,
    READ,
    VIOLET,
    WARN,
    WRITE,
    Lines,
    fit,
    heat,
    line,
    pad,
    rule,
    runs,
)
from nvme_emu.observe.tui.ui import Ui, View

__all__ = ["LATENCY"]

_STAGE_STYLES = {
    "worker_list": DIM,
    "submission": VIOLET,
    "device": READ,
    "completion": GOOD,
    "wakeup": WARN,
}
LABEL = 9
"""Cells of a row's label."""


def _draw(frame: Frame, ui: Ui, width: int, height: int) -> Lines:
    kinds = [(kind, state) for kind, state in frame.stats.latency.items() if kind != "admin" and state.count]
    lines = [rule("latency", width, right=_told(frame))]
    if not kinds:
        return pad([*lines, line((_nothing(frame), DIM))], width, height)
    for kind, state in kinds:
        lines.append(_summary(kind, state, width))
    stages = _stages(frame, width)
    rows = height - len(lines) - len(stages) - 2
    lines += _maps(frame, width, max(3, rows))
    return pad([fit(text, width) for text in [*lines, *stages]], width, height)


def _summary(kind: str, state: LatencyState, width: int) -> Text:
    """One kind in a line: as many percentiles as there is room for."""
    shown = ("50", "99") if width < 100 else ("50", "90", "99", "99.9")
    text = line(
        (f"{kind:<6}", READ if kind == "read" else WRITE if kind == "write" else ACCENT),
        (f"{words.rate(state.count):>7} ", DIM),
    )
    marks = [("mean", state.mean_ns), *((f"p{p}", state.percentiles[p]) for p in shown if p in state.percentiles)]
    for name, value in [*marks, ("max", state.max_ns)]:
        text.append(f" {name} ", DIM)
        text.append(f"{words.duration(value):<7}", BRIGHT)
    return text


def _told(frame: Frame) -> str:
    sampled = frame.cost.sampled
    return "every command" if sampled >= 0.995 else f"of the {words.share(sampled)} looked at"


def _nothing(frame: Frame) -> str:
    if frame.stats.recording_since_ns is None:
        return "nothing is measured: no recorder is attached"
    return "no command has ended since the measurement began"


# --- histogram and heat map ---------------------------------------------------------------------------------


def _edges(values: Iterable[int], rows: int) -> list[float]:
    """``rows + 1`` limits, evenly spaced in the logarithm, from below the smallest to above the largest."""
    found = [value for value in values if value > 0]
    low = math.log(max(1, min(found, default=1)) * 0.97)
    high = math.log(max(2, max(found, default=2)) * 1.03)
    return [math.exp(low + (high - low) * step / rows) for step in range(rows + 1)]


def _merge(bins: Iterable[tuple[int, int]], edges: Sequence[float]) -> list[int]:
    """The counts of each row; a value of 0 counts in the lowest."""
    rows = len(edges) - 1
    counts = [0] * rows
    low, span = math.log(edges[0]), math.log(edges[-1]) - math.log(edges[0])
    for value, count in bins:
        row = int((math.log(max(value, 1)) - low) / span * rows) if span else 0
        counts[max(0, min(rows - 1, row))] += count
    return counts


def _maps(frame: Frame, width: int, rows: int) -> Lines:
    latency = {kind: state for kind, state in frame.stats.latency.items() if kind != "admin"}
    edges = _edges((value for state in latency.values() for value, _ in state.bins), rows)
    reads = _merge(latency["read"].bins, edges) if "read" in latency else [0] * rows
    others = [0] * rows
    for kind, state in latency.items():
        if kind != "read":
            others = [have + more for have, more in zip(others, _merge(state.bins, edges), strict=True)]
    bar_width = max(12, (width - LABEL) // 3)
    heat_width = width - LABEL - bar_width - 3
    columns = [_merge(column.bins, edges) for column in frame.heat[-heat_width:]]
    brightest = max((max(column) for column in columns), default=0)
    most = max((a + b for a, b in zip(reads, others, strict=True)), default=0)
    lines = [_head(frame, bar_width, heat_width)]
    for row in reversed(range(rows)):
        middle = math.sqrt(edges[row] * edges[row + 1])
        text = line((f"{words.duration(middle):>{LABEL - 2}} ", DIM), ("▕", BORDER))
        text.append_text(_bars(reads[row], others[row], most, bar_width))
        text.append(" ▕", BORDER)
        text.append(" " * (heat_width - len(columns)))
        # The root lifts what is rare: an outlier is what a heat map is looked at for.
        shown = (math.sqrt(column[row] / brightest) if brightest else 0.0 for column in columns)
        lines.append(text.append_text(runs(map(heat, shown))))
    return lines


def _head(frame: Frame, bar_width: int, heat_width: int) -> Text:
    span = frame.heat[-1].ts_ns - frame.heat[0].ts_ns if len(frame.heat) > 1 else 0
    reads = "reads ▬ "
    text = line((" " * LABEL, DIM), (reads, READ), ("others ▬", WRITE))
    text.append(" " * max(1, bar_width + 2 - len(reads) - 8))
    told = f"the last {words.duration(span)}, time →" if span else "time →"
    return text.append(f"{told:>{heat_width}}", DIM)


def _bars(reads: int, others: int, most: int, width: int) -> Text:
    """Reads and others end to end; something is always seen of what is not nothing."""
    if not most:
        return Text(" " * width, end="")
    first = max(1, round(reads / most * width)) if reads else 0
    second = max(1, round(others / most * width)) if others else 0
    first = min(first, width - (1 if second else 0))
    second = min(second, width - first)
    text = Text("█" * first, READ, end="")
    text.append("█" * second, WRITE)
    return text.append(" " * (width - first - second))


# --- stages -------------------------------------------------------------------------------------------------


def _stages(frame: Frame, width: int) -> Lines:
    stages = frame.stats.stages
    total = sum(state.mean_ns for state in stages.values())
    if not total:
        return []
    text = Text(end="")
    # Every stage is seen, and the widest one gives way: together they are as wide as the page.
    cells = {name: max(1, round(state.mean_ns / total * width)) for name, state in stages.items()}
    widest = max(cells, key=lambda name: cells[name])
    cells[widest] = max(1, cells[widest] + width - sum(cells.values()))
    for name, count in cells.items():
        text.append("█" * count, _STAGE_STYLES.get(name, ACCENT))
    names = [Text(end="")]
    for name, state in stages.items():
        mean = words.duration(state.mean_ns).replace(" ", "")
        if names[-1].cell_len + len(name) + len(mean) + 2 > width:
            names.append(Text(end=""))
        names[-1].append("■", _STAGE_STYLES.get(name, ACCENT))
        names[-1].append(f"{name} ", DIM)
        names[-1].append(f"{mean} ", BRIGHT)
    return [text, *names]


def _rows(frame: Frame, ui: Ui) -> list[str]:
    return []


def _detail(frame: Frame, ui: Ui, width: int) -> Lines:
    lines: Lines = []
    for title, found in (("latency by kind", frame.stats.latency), ("latency by stage", frame.stats.stages)):
        lines.append(rule(title, width))
        for name, state in found.items():
            marks = "  ".join(f"p{p} {words.duration(value)}" for p, value in state.percentiles.items())
            lines.append(line((f"{name:<12}", ACCENT), (f"{state.count} commands  {marks}", "")))
    return lines


LATENCY = View(name="latency", draw=_draw, rows=_rows, detail=_detail, selects=False)
