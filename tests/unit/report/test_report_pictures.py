"""What pictures are made from, and the pages: lanes, heat maps, terminal plots, `run --html`."""

from __future__ import annotations

import io
import pickle
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from nvme_emu.cli import cli
from nvme_emu.core.trace import Kworker, NvmeCompleteRq, NvmeQueueRq
from nvme_emu.workload.compare import CompareConfig, Comparison, compare
from nvme_emu.workload.report_capture import Capture, HeatMap, Timeline, close_up_ns, occupancy, timeline_of
from nvme_emu.workload.report_charts import boxes, nines
from nvme_emu.workload.report_html import html_page
from nvme_emu.workload.report_plots import charts_of, courses_of
from nvme_emu.workload.report_style import short
from nvme_emu.workload.report_terminal_plots import HeatPlot, TimelinePlot, compare_plots
from nvme_emu.workload.report_timeline import slots


@pytest.fixture(scope="module")
def pictured() -> Comparison:
    return compare(CompareConfig(profiles=("tlc",), iodepth=(1, 8), ios=300, flips=False), pictures=True)


def timeline(comparison: Comparison, mode: str) -> Timeline:
    picture = next(row.picture for row in comparison.rows if row.mode == mode and row.picture is not None)
    assert picture.timeline is not None
    return picture.timeline


# Timelines -------------------------------------------------------------------------------------------


def test_pictures_change_no_figure(pictured: Comparison) -> None:
    plain = compare(CompareConfig(profiles=("tlc",), iodepth=(1, 8), ios=300, flips=False))
    assert plain.json_text() == pictured.json_text()
    assert all(row.picture is None for row in plain.rows)
    assert [row.label for row in pictured.rows if row.picture] == ["sync, 1 caller", "async, pump"]


def test_timeline_of_sync_has_one_io_under_way_and_no_worker(pictured: Comparison) -> None:
    course = timeline(pictured, "sync")
    assert len(course.requests) == 100
    assert [lane.name for lane in course.callers] == ["caller"] and course.workers == ()
    assert len(course.irqs) == 100
    assert set(slots(course)) == {0}
    for before, after in zip(course.requests, course.requests[1:], strict=False):
        assert before[4] <= after[0]
    for stamps in course.requests:
        assert list(stamps) == sorted(stamps)


def test_timeline_of_sync_runs_only_between_wake_and_doorbell(pictured: Comparison) -> None:
    course = timeline(pictured, "sync")
    (caller,) = course.callers
    # While the device works at the I/O, its caller sleeps.
    for _, _, fetched, posted, _ in course.requests:
        assert not any(start < posted and end > fetched for start, end in caller.runs)
    assert len(caller.wakes) == 99


def test_timeline_of_async_overlaps_and_hands_over_to_the_worker(pictured: Comparison) -> None:
    course = timeline(pictured, "async")
    assert [lane.name for lane in course.workers] == ["nvme1"]
    assert max(slots(course)) == 7
    (worker,) = course.workers
    # The hand-off of the first I/O: 1 µs of waking, 1.5 µs of switching.
    assert worker.wakes[0] == (0, 2500) and worker.runs[0][0] == 2500
    assert course.end_ns < timeline(pictured, "sync").end_ns / 4
    assert close_up_ns([timeline(pictured, "sync"), course]) < course.end_ns * 3


def test_timeline_of_threads_has_lanes_too() -> None:
    config = CompareConfig(profiles=("instant",), clock="wall", iodepth=(4,), workers=("pump",), ios=60)
    rows = compare(config, pictures=True).rows
    pictures = {row.mode: row.picture for row in rows if row.picture is not None}
    assert set(pictures) == {"sync", "async"}
    course = pictures["async"].timeline
    assert course is not None and len(course.requests) >= 60
    assert [lane.name for lane in course.workers] == ["nvme1"]


def test_timeline_without_an_ended_io_is_none() -> None:
    assert timeline_of([]) is None
    assert timeline_of([NvmeQueueRq(5, 1, 2, 0, 8, "caller"), Kworker(6, "sched_wakeup", ("nobody", 7))]) is None


def test_row_with_a_picture_can_be_sent(pictured: Comparison) -> None:
    rows = pickle.loads(pickle.dumps(pictured.rows))
    assert [row.picture for row in rows] == [row.picture for row in pictured.rows]


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)).map(sorted).map(tuple), max_size=12))
@settings(max_examples=60)
def test_occupancy_counts_what_covers_each_instant(spans: list[tuple[int, int]]) -> None:
    steps = occupancy(spans)
    for instant in range(51):
        counted = sum(number for start, end, number in steps if start <= instant < end)
        assert counted == sum(start <= instant < end for start, end in spans)


# Heat maps -------------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.integers(0, 10**9), st.integers(1, 10**10)), min_size=1, max_size=60),
)
@settings(max_examples=60)
def test_heat_map_counts_each_io_once_at_its_latency(ios: list[tuple[int, int]]) -> None:
    capture = Capture()
    for request, (start, latency) in enumerate(ios):
        capture(NvmeQueueRq(start, request, 2, 0, 8, "caller"))
        capture(NvmeCompleteRq(start + latency, request, 1, request, 0))
    heat = capture.picture().heat
    assert sum(count for _, _, count in heat.cells) == len(ios)
    latencies = sorted(latency for _, latency in ios)
    rows = sorted(row for _, row, count in heat.cells for _ in range(count))
    for latency, row in zip(latencies, rows, strict=True):
        low, high = HeatMap.edges_ns(row)
        assert low <= latency < high
    assert max(column for column, _, _ in heat.cells) < 96


def test_heat_map_halves_its_columns_and_forgets_nothing() -> None:
    capture = Capture()
    for request in range(20_000):
        capture(NvmeQueueRq(request * 1000, request, 2, 0, 8, "caller"))
        capture(NvmeCompleteRq(request * 1000 + 500, request, 1, 0, 0))
    heat = capture.picture().heat
    assert sum(count for _, _, count in heat.cells) == 20_000
    per_column = [count for column, _, count in sorted(heat.cells)]
    assert max(per_column[:-1]) - min(per_column[:-1]) <= 1


def test_capture_counts_no_admin_command() -> None:
    capture = Capture()
    capture(NvmeQueueRq(0, 1, 6, 0, 0, "caller"))
    capture(NvmeCompleteRq(100, 1, 0, 0, 0))
    assert capture.picture().heat.cells == ()


# Charts and pages ------------------------------------------------------------------------------------


def test_nines_axis_gives_equal_room_to_each_nine() -> None:
    assert nines(0.9, 10**6) == pytest.approx(1)
    assert nines(0.999, 10**6) == pytest.approx(3)
    assert nines(1.0, 500) == pytest.approx(3)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("10.0k", "10k"), ("3.50k", "3.5k"), ("100.5 µs", "100.5 µs"), ("200 µs", "200 µs"), ("1.05M", "1.05M")],
)
def test_short_takes_zeros_behind_the_point_only(text: str, expected: str) -> None:
    assert short(text) == expected


def test_boxes_are_one_path() -> None:
    path = boxes([(0, 1, 2, 3), (4, 5, 6, 7)])
    assert np.array_equal(path.vertices[:4], [(0, 2), (1, 2), (1, 3), (0, 3)])
    assert len(path.vertices) == 10


def test_page_has_curves_heat_maps_and_timelines_for_phone_and_desktop(pictured: Comparison) -> None:
    page = html_page(pictured)
    assert list(charts_of(pictured.rows)) == ["iops", "latency", "stages", "cdf", "heat-sync", "heat-async"]
    assert [course.title for course in courses_of(pictured.rows)] == ["sync 1 caller", "async pump, QD 8"]
    assert page.count("<svg") == 6 + 4
    assert page.count("class=narrow") == page.count("class=wide") == 2
    assert "The first 100 I/Os" in page
    assert len(page) < 750_000  # four devices stay below 3 MB


@pytest.mark.parametrize("width", [60, 80, 140])
def test_terminal_plots_fit_the_width(pictured: Comparison, width: int) -> None:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(compare_plots(pictured.rows))
    text = console.export_text()
    assert max(len(line) for line in text.splitlines()) <= width
    for word in ("nvme1", "caller", "interrupts", "async pump, QD 8", "Latency over time"):
        assert word in text


def test_terminal_timeline_shows_the_sleep_of_a_sync_caller(pictured: Comparison) -> None:
    console = Console(width=120, record=True, file=io.StringIO())
    course = timeline(pictured, "sync")
    console.print(TimelinePlot("sync", course, course.requests[0][4], "white"))
    lines = console.export_text().splitlines()
    caller = next(line for line in lines if line.startswith("  caller"))
    assert caller.count("─") > 80 and "█" in caller


def test_heat_plot_of_one_io_is_one_line() -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(HeatPlot("heat", HeatMap(1024, ((0, 40, 1),)), "green"))
    assert sum("█" in line or "▓" in line for line in console.export_text().splitlines()) == 1


# run -------------------------------------------------------------------------------------------------

JOBS = """[global]
size=1M
bs=4k
number_ios=60
[reader<b>]
rw=randread
ioengine=libaio
iodepth=8
[writer]
rw=write
ioengine=psync
"""


class _Loads(HTMLParser):
    """Whatever in a page a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "srcset", "data") and not (value or "").startswith("#"):
                self.loads.append(f"{tag} {name}={value}")
            if name == "id":
                self.ids.append(value or "")
        if tag in ("script", "link", "iframe", "img", "object"):
            self.loads.append(tag)


def run(tmp_path: Path, *args: str) -> Result:
    path = tmp_path / "job.fio"
    path.write_text(JOBS)
    return CliRunner().invoke(cli, ["run", str(path), "--quiet", *args], standalone_mode=False)


def test_run_html_is_one_page_that_loads_nothing(tmp_path: Path) -> None:
    out = tmp_path / "run.html"
    result = run(tmp_path, "--clock", "virtual", "--profile", "optane", "--html", str(out))
    assert result.exception is None and result.return_value == 0
    page = out.read_text()
    parser = _Loads()
    parser.feed(page)
    assert parser.loads == [] and len(parser.ids) == len(set(parser.ids))
    assert not re.search(r"https?://|@import|url\((?!#)|#0102[0-9a-f]{2}", page)
    assert "<b>" not in page and "reader&lt;b&gt; read, async, QD 8" in page
    for word in ("IOPS over time", "Latency over time", "IOPS against queue depth", "Where the time goes", "nvme1"):
        assert word in page


def test_run_html_of_one_seed_is_the_same_bytes(tmp_path: Path) -> None:
    pages = []
    for name in ("a.html", "b.html"):
        run(tmp_path, "--clock", "virtual", "--profile", "tlc", "--seed", "3", "--html", str(tmp_path / name))
        pages.append((tmp_path / name).read_bytes())
    assert pages[0] == pages[1]


def test_run_pictures_on_the_wall_clock(tmp_path: Path) -> None:
    png, svg = tmp_path / "a.png", tmp_path / "a.svg"
    result = run(tmp_path, "--plots", "--png", str(png), "--svg", str(svg))
    assert result.exception is None and result.return_value == 0
    assert png.read_bytes().startswith(b"\x89PNG") and svg.read_bytes().startswith(b"<?xml")
    assert "Who works when" in result.stdout and "Latency over time" in result.stdout


def test_run_pictures_leave_json_alone(tmp_path: Path) -> None:
    plain = run(tmp_path, "--clock", "virtual", "--json")
    drawn = run(tmp_path, "--clock", "virtual", "--plots", "--html", str(tmp_path / "a.html"), "--json")
    assert plain.stdout == drawn.stdout


def test_run_picture_that_cannot_be_written_is_found_out_before_the_run(tmp_path: Path) -> None:
    result = run(tmp_path, "--html", "/nowhere/a.html")
    assert result.return_value == 2 and "/nowhere/a.html" in result.stderr
    assert "READ" not in result.stdout
