"""A run of fio jobs as pictures: one page, one sheet for papers, or plots for the terminal.

    watching = RunWatch(machine)
    with watching:
        results = jobs.run()
    html = run_page(results, watching.view(), "…")

Latency curves come from the jobs' own histograms. Stages, IOPS and latencies over time and the timeline come from
the trace, which costs time on the wall clock: 5 to 20 µs an I/O. On the virtual clock it changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

from matplotlib.ticker import FuncFormatter
from rich.console import Group, RenderableType
from rich.text import Text

from nvme_emu.observe.recorder import Recorder
from nvme_emu.observe.stages import STAGES
from nvme_emu.workload.compare_verdict import duration, rate
from nvme_emu.workload.report_capture import Capture, HeatMap, Picture, close_up_ns, worker_events
from nvme_emu.workload.report_charts import Cdf, add_boxes, draw_cdfs, draw_heat, heat_limits, time_axis
from nvme_emu.workload.report_page import escape, figure, legend, page, timelines
from nvme_emu.workload.report_style import Colour, dress, inline_svg, sheet, short
from nvme_emu.workload.report_terminal import STAGE_WORDS, mb_s, us
from nvme_emu.workload.report_terminal_plots import KEY, HeatPlot, Spread, SpreadPlot, TimelinePlot
from nvme_emu.workload.report_timeline import Course, draw_courses, windows_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from nvme_emu.machine import Machine
    from nvme_emu.workload.runner import JobResult
    from nvme_emu.workload.stats import DirectionStats

__all__ = ["RunView", "RunWatch", "run_page", "run_plots", "run_sheet"]

CURVES_MAX = 12
"""Curves in one chart; jobs beyond them are in the table."""
_ROLES = ("pump", "sync-n", "per-request", "worker_list", "wakeup", "sync-1")
_DASHES = ((1.0, 0.0), (4.0, 1.5))
_STYLES = ("green", "yellow", "cyan", "magenta", "red", "white")

Chart = Callable[["Axes", Colour], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """What was seen of a run: ``stages_ns`` are the means of the stages that occurred."""

    picture: Picture
    stages_ns: Mapping[str, float]


class RunWatch:
    """Watches a machine's trace while it is entered."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._capture = Capture()
        self._recorder = Recorder(machine.runtime.now_ns)
        self._before = machine.runtime.on_event

    def __enter__(self) -> RunWatch:
        machine = self._machine
        if not machine.runtime.virtual:
            machine.runtime.on_event = worker_events(machine)
        machine.trace.add_sink(self._capture)
        machine.trace.add_sink(self._recorder)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._machine.trace.remove_sink(self._recorder)
        self._machine.trace.remove_sink(self._capture)
        self._machine.runtime.on_event = self._before

    def view(self) -> RunView:
        """What was seen."""
        stages = {name: state.mean_ns for name, state in self._recorder.stages().items()}
        return RunView(picture=self._capture.picture(), stages_ns=stages)


# --- what a run has to show -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """A job and a direction in which it did something."""

    name: str
    mode: str
    iodepth: int
    stats: DirectionStats

    @property
    def label(self) -> str:
        return f"{self.name}, {self.mode}, QD {self.iodepth}"


def _lines(results: Sequence[JobResult]) -> list[_Line]:
    lines = []
    for result in results:
        for what, stats in zip(("read", "write", "trim"), result.stats.directions, strict=True):
            if stats.ios:
                plan = result.plan
                depth = plan.iodepth if plan.mode == "async" else 1
                lines.append(_Line(name=f"{plan.name} {what}", mode=plan.mode, iodepth=depth, stats=stats))
    return lines


def _bins(stats: DirectionStats) -> tuple[tuple[int, int], ...]:
    return tuple((int(value), count) for value, count in stats.lat.bins().items())


def _role(place: int) -> str:
    return _ROLES[place % len(_ROLES)]


def _courses(view: RunView) -> list[Course]:
    timeline = view.picture.timeline
    if timeline is None:
        return []
    words = "jobs and workers run"
    return [Course(title="all jobs", role="pump", timeline=timeline, runs=words)]


# --- charts ---------------------------------------------------------------------------------------------


def _cdf(lines: Sequence[_Line]) -> Chart:
    def draw(axes: Axes, colour: Colour) -> None:
        dress(axes, colour, "I/Os done within a time")
        curves = [
            Cdf(bins=_bins(line.stats), role=_role(i), dashes=_DASHES[i // len(_ROLES) % 2])
            for i, line in enumerate(lines[:CURVES_MAX])
        ]
        draw_cdfs(axes, curves, colour)

    return draw


def _depths(lines: Sequence[_Line]) -> Chart:
    def draw(axes: Axes, colour: Colour) -> None:
        dress(axes, colour, "IOPS against queue depth")
        for i, line in enumerate(lines[:CURVES_MAX]):
            axes.plot([line.iodepth], [line.stats.iops], color=colour(_role(i)), marker="o", linestyle="")
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_ylim(0, max(line.stats.iops for line in lines) * 1.1)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(rate(value))))
        axes.set_xlabel("queue depth")

    return draw


def _iops(heat: HeatMap) -> Chart:
    def draw(axes: Axes, colour: Colour) -> None:
        dress(axes, colour, "IOPS over time")
        counts: dict[int, int] = {}
        for column, _, count in heat.cells:
            counts[column] = counts.get(column, 0) + count
        # The last column is not full: its rate would look like a fall.
        last = max(counts)
        columns = range(last) if last else range(1)
        rates = [counts.get(column, 0) * 1e9 / heat.column_ns for column in columns]
        spans = [(x * heat.column_ns, (x + 1) * heat.column_ns, 0.0, y) for x, y in zip(columns, rates, strict=True)]
        add_boxes(axes, spans, colour("pump"), 0.75)
        axes.set_xlim(0, len(columns) * heat.column_ns)
        axes.set_ylim(0, max(rates) * 1.08 or 1)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(rate(value))))
        time_axis(axes)

    return draw


def _heat(heat: HeatMap) -> Chart:
    def draw(axes: Axes, colour: Colour) -> None:
        dress(axes, colour, "Latency over time")
        draw_heat(axes, heat, colour("pump"), heat_limits([heat]))

    return draw


def _stages(stages_ns: Mapping[str, float]) -> Chart:
    def draw(axes: Axes, colour: Colour) -> None:
        dress(axes, colour, "Where the time goes, means")
        names = [name for name in STAGES if name in stages_ns]
        axes.barh(
            [STAGE_WORDS[name] for name in names],
            [stages_ns[name] for name in names],
            height=0.6,
            color=[colour(name) for name in names],
        )
        for place, name in enumerate(names):
            text = f"\u00a0{duration(stages_ns[name])}"
            axes.text(stages_ns[name], place, text, va="center", color=colour("ink"), fontsize=8.5)
        axes.invert_yaxis()
        axes.margins(x=0.2)
        time_axis(axes)
        axes.grid(False, axis="y")
        axes.tick_params(axis="y", length=0)

    return draw


def _charts(lines: Sequence[_Line], view: RunView) -> dict[str, Chart]:
    charts: dict[str, Chart] = {}
    if lines:
        charts["cdf"] = _cdf(lines)
    if len({line.iodepth for line in lines}) > 1:
        charts["iops-depth"] = _depths(lines)
    if view.picture.heat.cells:
        charts["iops"] = _iops(view.picture.heat)
        charts["heat"] = _heat(view.picture.heat)
    if view.stages_ns:
        charts["stages"] = _stages(view.stages_ns)
    return charts


# --- page, sheet, terminal ------------------------------------------------------------------------------


def run_page(results: Sequence[JobResult], view: RunView, under: str) -> str:
    """The run as one self-contained page; ``under`` is the line below the title. Names of jobs are escaped."""
    lines = _lines(results)
    svgs = []
    for name, chart in _charts(lines, view).items():

        def draw(drawing: Figure, colour: Colour, chart: Chart = chart) -> None:
            axes = drawing.subplots()
            axes.patch.set_alpha(0)
            chart(axes, colour)

        svgs.append(figure(name, inline_svg(f"run-{name}", (4.7, 3.0), draw)))
    series = legend([(_role(i), line.label) for i, line in enumerate(lines[:CURVES_MAX])])
    failures = [f"<li>{escape(r.plan.name)}: {escape(r.failure)}</li>" for r in results if r.failure]
    parts = [
        f"<ul>{''.join(failures)}</ul>" if failures else "",
        _table(lines),
        f'{series}<div class="charts">{"".join(svgs)}</div>',
        timelines("run", "run", _courses(view)),
    ]
    return page("A run", under, parts)


def _table(lines: Sequence[_Line]) -> str:
    heads = ("job", "I/Os", "IOPS", "MB/s", "mean µs", "p50", "p99", "p99.9", "max")
    body = []
    for line in lines:
        lat = line.stats.lat
        p50, p99, p99_9 = (min(value, lat.max) for value in lat.percentiles((50.0, 99.0, 99.9)))
        cells = [f"{line.stats.ios}", rate(line.stats.iops), mb_s(line.stats.bw_bytes)]
        cells += [us(value) for value in (lat.mean, p50, p99, p99_9, lat.max)]
        inner = "".join(f"<td>{cell}</td>" for cell in cells)
        body.append(f"<tr><td class=l>{escape(line.label)}</td>{inner}</tr>")
    head = "".join(f"<th{' class=l' if i == 0 else ''}>{name}</th>" for i, name in enumerate(heads))
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
    return f'<div class="scroll">{table}</div>'


def run_sheet(results: Sequence[JobResult], view: RunView, kind: str) -> bytes:
    """The plots on white as "png" or "svg", for papers."""
    lines = _lines(results)
    charts = list(_charts(lines, view).values())
    courses = _courses(view)
    heights = [3.2] * -(-len(charts) // 3) + ([2.8] if courses else [])

    def draw(drawing: Figure, colour: Colour) -> None:
        if not heights:
            return
        grid = drawing.add_gridspec(len(heights), 3, height_ratios=heights)
        for place, chart in enumerate(charts):
            chart(drawing.add_subplot(grid[place // 3, place % 3]), colour)
        if courses:
            _, window_ns, title = windows_of(courses)[0]
            draw_courses(drawing.add_subplot(grid[len(heights) - 1, :]), courses, colour, window_ns, title=title)

    return sheet(kind, (12.5, sum(heights) or 1), draw)


def run_plots(results: Sequence[JobResult], view: RunView) -> RenderableType:
    """The plots for the terminal."""
    spreads = [
        Spread(label=line.label, bins=_bins(line.stats), style=_STYLES[i % len(_STYLES)])
        for i, line in enumerate(_lines(results))
    ]
    parts: list[RenderableType] = [Text(""), SpreadPlot(spreads)]
    timeline = view.picture.timeline
    if timeline is not None:
        parts += [Text(""), Text("Who works when", style="bold"), Text(KEY, style="dim")]
        parts.append(TimelinePlot("the first I/Os", timeline, close_up_ns([timeline]), "green"))
    parts += [Text(""), HeatPlot("Latency over time", view.picture.heat, "green")]
    return Group(*parts)
