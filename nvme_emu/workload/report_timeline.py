"""The picture of sync against async: who works when, for the first I/Os, on one axis of time.

For each way there are lanes for callers, workers, requests that wait in a queue, interrupts, and the device with
its I/Os side by side. A line follows the first I/O through them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nvme_emu.workload.compare_verdict import duration
from nvme_emu.workload.report_capture import Lane, Timeline, close_up_ns, occupancy
from nvme_emu.workload.report_charts import add_boxes, time_axis
from nvme_emu.workload.report_style import Colour, inline_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["LEGEND", "Course", "course_svg", "draw_courses", "slots", "windows_of"]

LANES_MAX = 4
"""Callers, and workers, that have a lane; further ones are counted in the label of the last."""
LEGEND = (
    ("wakeup", "being woken"),
    ("worker_list", "handed over, not yet at the device"),
    ("device", "the device works"),
    ("completion", "done, not yet taken"),
)
"""Roles and words of what all timelines have; who runs is drawn in the colour of the way."""

Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """One way of doing I/O, with the role of its colour."""

    title: str
    role: str
    timeline: Timeline
    runs: str = ""
    """Who is drawn in that colour, for the legend."""

    @property
    def legend(self) -> tuple[str, str]:
        """The colour's role and its meaning."""
        return self.role, self.runs or f"{self.title} runs"


def windows_of(courses: Sequence[Course]) -> list[tuple[str, int, str]]:
    """The stretches to draw, as (name, ns, title): a close-up, and all that was kept."""
    ios = max(len(course.timeline.requests) for course in courses)
    timelines = [course.timeline for course in courses]
    return [
        ("close-up", close_up_ns(timelines), "Who works when, on one axis of time"),
        ("all", max(1, *(timeline.end_ns for timeline in timelines)), f"The first {ios} I/Os"),
    ]


def slots(timeline: Timeline) -> list[int]:
    """The line on which each request's device time is drawn: the first one that is free."""
    ends: list[int] = []
    places = []
    for _, _, fetched, posted, _ in timeline.requests:
        place = next((i for i, end in enumerate(ends) if end <= fetched), len(ends))
        if place == len(ends):
            ends.append(0)
        ends[place] = posted
        places.append(place)
    return places


def course_svg(name: str, courses: Sequence[Course], window_ns: int, title: str, *, narrow: bool) -> str:
    """The courses as inline SVG, for a phone or for a desktop."""
    height = 0.75 + 0.23 * sum(_height(course.timeline) for course in courses)

    def draw(figure: Figure, colour: Colour) -> None:
        axes = figure.subplots()
        axes.patch.set_alpha(0)
        draw_courses(axes, courses, colour, window_ns, title=title)

    return inline_svg(name, (4.7 if narrow else 13.0, height), draw)


def draw_courses(
    axes: Axes, courses: Sequence[Course], colour: Colour, window_ns: int, *, title: str = ""
) -> None:
    """Draw the first ``window_ns`` of each course below one another."""
    top = sum(_height(course.timeline) for course in courses)
    axes.set_xlim(0, window_ns)
    axes.set_ylim(0, top)
    axes.set_yticks([])
    axes.grid(True, axis="x", color=colour("grid"), linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=colour("faint"))
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(colour("grid"))
    if title:
        axes.set_title(title, loc="left", fontsize=10, color=colour("ink"), fontweight="bold")
    time_axis(axes)
    for course in courses:
        _Drawing(axes, colour, course, window_ns).draw(top)
        top -= _height(course.timeline)


# --- inside ---------------------------------------------------------------------------------------------

HEAD, GAP, LANE, THIN, QUEUE = 1.5, 0.6, 0.8, 0.7, 1.4


def _device_height(timeline: Timeline) -> float:
    lines = max(slots(timeline)) + 1
    return 0.8 if lines == 1 else min(4.0, 1.0 + 0.1 * lines)


def _height(timeline: Timeline) -> float:
    tasks = min(LANES_MAX, len(timeline.callers)) + min(LANES_MAX, len(timeline.workers))
    return HEAD + tasks * (LANE + 0.25) + QUEUE + THIN + _device_height(timeline) + 2 * 0.25 + GAP


class _Drawing:
    """Draws one course from the top down."""

    def __init__(self, axes: Axes, colour: Colour, course: Course, window_ns: int) -> None:
        self.axes, self.colour, self.course, self.window = axes, colour, course, window_ns
        self.timeline = course.timeline
        self.least = window_ns / 900
        """The narrowest mark that can be seen."""

    def draw(self, top: float) -> None:
        timeline = self.timeline
        done = sum(request[4] <= self.window for request in timeline.requests)
        so_far = f"{done} I/Os done in {duration(self.window)}"
        if timeline.end_ns <= self.window:
            so_far = f"{done} I/Os done after {duration(timeline.end_ns)}"
        self.axes.text(
            0, top - 0.55 * HEAD, self.course.title, color=self.colour(self.course.role), fontweight="bold",
            fontsize=9, va="center",
        )  # fmt: skip
        self.axes.text(
            self.window, top - 0.55 * HEAD, so_far, color=self.colour("ink"), ha="right", va="center", fontsize=9
        )
        y = top - HEAD
        caller_y = y - LANE / 2
        for lane, label in _shown(timeline.callers):
            y = self._task(y, lane, label)
        worker_y = y - LANE / 2 if timeline.workers else caller_y
        for lane, label in _shown(timeline.workers):
            y = self._task(y, lane, label)
        y = self._queue(y)
        y = self._interrupts(y)
        device_y = self._device(y)
        queued, setup, fetched, posted, completed = timeline.requests[0]
        path: list[tuple[float, float]] = [(queued, caller_y)]
        if timeline.workers:
            path.append((setup, worker_y))
        path += [(fetched, device_y), (posted, device_y), (completed, worker_y)]
        runs = timeline.callers[0].runs if timeline.callers else ()
        path += [(start, caller_y) for start, _ in runs if start >= completed][:1]
        self.axes.plot(
            [x for x, _ in path], [at for _, at in path], color=self.colour("ink"), linewidth=0.9, marker="o",
            markersize=2.6, clip_on=True, zorder=5,
        )  # fmt: skip

    def _clip(self, spans: Sequence[tuple[int, int]]) -> Iterator[tuple[float, float]]:
        for start, end in spans:
            if start <= self.window:
                yield start, min(self.window, max(end, start + self.least))

    def _label(self, y: float, text: str) -> None:
        self.axes.annotate(
            text, (0, y), xytext=(-5, 0), textcoords="offset points", ha="right", va="center", fontsize=8,
            color=self.colour("faint"), annotation_clip=False,
        )  # fmt: skip

    def _task(self, y: float, lane: Lane, label: str) -> float:
        middle = y - LANE / 2
        self._label(middle, label)
        self.axes.plot([0, self.window], [middle, middle], color=self.colour("grid"), linewidth=0.8, zorder=0.9)
        wakes: list[Box] = [(a, b, middle - 0.18, middle + 0.18) for a, b in self._clip(lane.wakes)]
        runs: list[Box] = [(a, b, y - LANE, y) for a, b in self._clip(lane.runs)]
        add_boxes(self.axes, wakes, self.colour("wakeup"))
        add_boxes(self.axes, runs, self.colour(self.course.role))
        return y - LANE - 0.25

    def _queue(self, y: float) -> float:
        """Requests that wait: on the worker's list (or for the doorbell), and completed ones to be taken."""
        requests = self.timeline.requests
        waiting = occupancy([(r[0], r[2]) for r in requests])
        ended = occupancy([(r[3], r[4]) for r in requests])
        most = max((number for _, _, number in [*waiting, *ended]), default=1)
        bottom = y - QUEUE
        self._label(bottom + QUEUE / 2, f"queues (≤ {most})")
        self.axes.plot([0, self.window], [bottom, bottom], color=self.colour("grid"), linewidth=0.8)
        for steps, role in ((waiting, "worker_list"), (ended, "completion")):
            marks = [
                (a, min(self.window, max(b, a + self.least)), bottom, bottom + QUEUE * number / most)
                for a, b, number in steps
                if a <= self.window
            ]
            add_boxes(self.axes, marks, self.colour(role), 0.85)
        return bottom - 0.25

    def _interrupts(self, y: float) -> float:
        middle = y - THIN / 2
        self._label(middle, "interrupts")
        at = [ts for ts in self.timeline.irqs if ts <= self.window]
        self.axes.plot(
            at, [middle] * len(at), linestyle="", marker="^", markersize=3.2, color=self.colour("wakeup"),
            markeredgewidth=0,
        )  # fmt: skip
        return y - THIN

    def _device(self, y: float) -> float:
        """Draws the device; gives where the first I/O is in it."""
        height = _device_height(self.timeline)
        places = slots(self.timeline)
        lines = max(places) + 1
        each = height / lines
        self._label(y - height / 2, "device")
        marks: list[Box] = []
        for place, (_, _, fetched, posted, _) in zip(places, self.timeline.requests, strict=True):
            for a, b in self._clip([(fetched, posted)]):
                marks.append((a, b, y - (place + 0.86) * each, y - (place + 0.1) * each))
        add_boxes(self.axes, marks, self.colour("device"))
        return y - (places[0] + 0.5) * each


def _shown(lanes: Sequence[Lane]) -> Iterator[tuple[Lane, str]]:
    for place, lane in enumerate(lanes[:LANES_MAX]):
        hidden = len(lanes) - LANES_MAX if place == LANES_MAX - 1 else 0
        yield lane, f"{lane.name} (+{hidden})" if hidden > 0 else lane.name
