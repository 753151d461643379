"""`nvme-emu compare` as a user types it: outputs, exit codes, mistakes."""

from __future__ import annotations

import io
import json
import multiprocessing
import re
import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rich.console import Console
from synthetic import row

from nvme_emu.cli import cli
from nvme_emu.cli import compare as cli_compare
from nvme_emu.workload import compare as workload_compare
from nvme_emu.workload.compare import CompareConfig, Comparison, compare
from nvme_emu.workload.compare_baseline import BaselineError, load_baseline
from nvme_emu.workload.compare_rows import plan_rows
from nvme_emu.workload.report_html import html_page
from nvme_emu.workload.report_plots import figure_bytes
from nvme_emu.workload.report_terminal import render, shares

FAST = ["--profile", "optane", "--iodepth", "1,4", "--ios", "60", "--no-flips"]


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred small runs: starting processes for each would cost more than they do."""
    monkeypatch.setattr(workload_compare.os, "cpu_count", lambda: 1)


def invoke(*args: str) -> Result:
    result = CliRunner().invoke(cli, ["compare", *args], standalone_mode=False)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def small() -> Comparison:
    return compare(CompareConfig(profiles=("tlc", "instant"), iodepth=(1, 4), ios=200, flips=False))


# Output ----------------------------------------------------------------------------------------------


def test_json_goes_alone_to_standard_output() -> None:
    for how in (["--json"], ["-o", "json"]):
        result = invoke(*FAST, *how)
        assert result.return_value == 0
        assert json.loads(result.stdout)["rows"][0]["profile"] == "optane"


def test_json_file_is_written_beside_the_tables(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    result = invoke(*FAST, "--json", str(path), "--html", str(tmp_path / "a.html"))
    assert result.return_value == 0
    assert "Verdict" in result.stdout
    assert json.loads(path.read_text())["clock"] == "virtual"
    assert (tmp_path / "a.html").read_text().startswith("<!doctype html>")


def test_trace_has_the_events_of_every_row(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    assert invoke("--profile", "tlc", "--iodepth", "2", "--ios", "10", "--trace", str(path)).return_value == 0
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert {record["row"].split(" depth")[0] for record in records} == {
        "tlc sync, 1 caller", "tlc sync, 2 callers", "tlc async, pump", "tlc async, per-request",
    }  # fmt: skip
    assert {"nvme_setup_cmd", "fetch_cmd", "post_cqe", "nvme_complete_rq"} <= {record["event"] for record in records}


@pytest.mark.parametrize("width", [80, 120])
def test_terminal_report_fits_the_width_and_tells_all(small: Comparison, width: int) -> None:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(render(small))
    text = console.export_text()
    assert max(len(line) for line in text.splitlines()) <= width
    for word in ("tlc", "instant", "sync 4 callers", "async per-request", "IOPS against queue depth", "wakeup_ns"):
        assert word in text
    assert "…" not in text
    assert text.count("│ ●") == 2
    assert ("interrupts" in text.split("IOPS against")[0]) == (width == 120)


def test_terminal_report_of_no_rows_is_only_the_assumptions(small: Comparison) -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(render(replace(small, rows=(), verdict=())))
    assert "What it rests on" in console.export_text()


def test_shares_fill_the_bar_exactly() -> None:
    assert shares([1, 1, 1], 10) == [4, 3, 3]
    assert shares([0, 0, 0], 10) == [0, 0, 0]
    assert shares([-5, 3, 1], 8) == [0, 6, 2]
    assert sum(shares([0.1, 99, 0.2, 3, 7.7], 43)) == 43


class _Loads(HTMLParser):
    """Everything in a page that a browser would fetch, and whether tags are closed."""

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


def test_html_is_self_contained(small: Comparison) -> None:
    page = html_page(small)
    parser = _Loads()
    parser.feed(page)
    assert parser.loads == []
    assert not re.search(r"https?://|@import|url\((?!#)", page)
    assert len(parser.ids) == len(set(parser.ids))
    for reference in re.findall(r"url\(#([^)]+)\)", page):
        assert reference in parser.ids
    assert page.count("<svg") == 8
    assert "prefers-color-scheme: dark" in page
    assert not re.search(r"#0102[0-9a-f]{2}", page), "a colour was not replaced by its role"


def test_html_escapes_the_name_of_a_profile() -> None:
    nasty = '<script>alert("x")</script>'
    comparison = Comparison(
        seed=0, clock="wall", assumptions={"origin": "wall", "queues": "q", "profiles": {nasty: {"a": nasty}}},
        rows=[row("sync", 1000, profile=nasty), row("async", 2000, profile=nasty)],
    )  # fmt: skip
    page = html_page(comparison)
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_html_of_the_same_comparison_is_the_same_bytes(small: Comparison) -> None:
    assert html_page(small) == html_page(small)


@pytest.mark.parametrize(("kind", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_figure_files_are_images(small: Comparison, kind: str, start: bytes) -> None:
    assert figure_bytes(small, kind).startswith(start)


# Baseline --------------------------------------------------------------------------------------------


def written(tmp_path: Path, change: Callable[[dict], object] | None = None) -> str:
    path = tmp_path / "old.json"
    invoke(*FAST, "--json", str(path))
    data = json.loads(path.read_text())
    if change is not None:
        change(data)
    path.write_text(json.dumps(data))
    return str(path)


def test_baseline_of_the_same_run_passes(tmp_path: Path) -> None:
    result = invoke(*FAST, "--baseline", written(tmp_path))
    assert result.return_value == 0
    assert "6 rows compared" in result.stdout and "0 regressions" in result.stdout


def test_baseline_that_was_faster_is_a_regression(tmp_path: Path) -> None:
    def faster(data: dict) -> None:
        data["rows"][1]["iops"] *= 1.5

    path = written(tmp_path, faster)
    result = invoke(*FAST, "--baseline", path)
    assert result.return_value == 1
    assert re.search(r"REGRESSION: optane, async, pump, depth 1, .*IOPS .*→.*\(-33\.3 %\)", result.stdout)
    assert invoke(*FAST, "--baseline", path, "--tolerance", "40").return_value == 0


def test_baseline_that_was_slower_is_an_improvement(tmp_path: Path) -> None:
    def slower(data: dict) -> None:
        data["rows"][0]["lat_ns"]["p99"] *= 2

    result = invoke(*FAST, "--baseline", written(tmp_path, slower))
    assert result.return_value == 0
    assert "better: optane, sync, 1 caller, depth 1" in result.stdout


def test_baseline_differences_are_named(tmp_path: Path) -> None:
    def other(data: dict) -> None:
        data["assumptions"]["wakeup_ns"] = 7
        data["assumptions"]["profiles"]["optane"]["channels"] = 3
        del data["rows"][-1]

    result = invoke(*FAST, "--baseline", written(tmp_path, other))
    assert "wakeup_ns: was 7, is 1000" in result.stdout
    assert "profiles.optane.channels: was 3, is 7" in result.stdout
    assert "not in the baseline: optane, async, per-request, depth 4" in result.stdout


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda data: data.update(clock="wall"), "wall clock"),
        (lambda data: data.update(version=99), "version 99"),
        (lambda data: data["rows"][0].pop("iops"), "row 0: key 'iops' is missing"),
        (lambda data: [r.update(profile="mars") for r in data["rows"]], "none of its 6 rows"),
        (lambda data: data.update(rows=5), "rows must be a list"),
    ],
)
def test_baseline_that_cannot_be_used_exits_2_before_measuring(
    tmp_path: Path, change: Callable[[dict], object], word: str
) -> None:
    result = invoke(*FAST, "--baseline", written(tmp_path, change))
    assert result.return_value == 2
    assert word in result.stderr
    assert result.stdout == ""


def test_baseline_junk_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "junk.json"
    for text in ("", "[1", "null", "{}", "[" * 100_000):
        path.write_text(text)
        with pytest.raises(BaselineError, match=r"junk\.json") as caught:
            load_baseline(path)
        assert "\n" not in str(caught.value)


def test_baseline_key_of_plan_and_row_agree(small: Comparison) -> None:
    specs = plan_rows(CompareConfig(profiles=("tlc", "instant"), iodepth=(1, 4)))
    assert [spec.key for spec in specs] == [row.key for row in small.rows]


# Mistakes and Ctrl-C ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (["--profile", "floppy"], "floppy"),
        (["--profile", "missing.toml"], "missing.toml"),
        (["--profile", "tlc,,qlc"], "empty"),
        (["--iodepth", "0"], "iodepth 0"),
        (["--iodepth", "two"], "two"),
        (["--iodepth", "4096"], "4096"),
        (["--bs", "1000"], "1000"),
        (["--bs", "4q"], "4q"),
        (["--worker", "turbo"], "turbo"),
        (["--rw", "trim"], "trim"),
        (["--size", "1"], "larger than the SSD"),
        (["--tolerance", "3"], "no --baseline"),
        (["--baseline", "/nowhere/old.json"], "/nowhere/old.json"),
        (["--html", "/nowhere/a.html"], "/nowhere"),
        (["--json", "/"], "it is a folder"),
        (["--clock", "wall", "--calibrate"], "--calibrate"),
    ],
)
def test_mistake_is_one_line_and_exit_2(args: list[str], word: str) -> None:
    result = invoke(*args)
    assert result.return_value == 2
    assert word in result.stderr
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.output


def test_profile_file_is_a_device(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('base = "optane"\nread_overhead_ns = 100000\n')
    result = invoke("--profile", f"optane,{path}", "--iodepth", "1", "--ios", "20", "--json")
    rows = json.loads(result.stdout)["rows"]
    assert {row["profile"] for row in rows} == {"optane", "mine"}
    assert rows[3]["lat_ns"]["mean"] > rows[0]["lat_ns"]["mean"] + 99_000


def test_interrupt_prints_what_was_measured_and_exits_130(monkeypatch: pytest.MonkeyPatch) -> None:
    measure, calls = workload_compare.measure_row, []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return measure(*args, **kwargs)

    monkeypatch.setattr(workload_compare, "measure_row", interrupted)
    result = invoke(*FAST, "--json")
    assert result.return_value == cli_compare.EXIT_INTERRUPTED == 130
    assert len(json.loads(result.stdout)["rows"]) == 2
    assert "interrupted; 2 rows were measured" in result.stderr


def test_processes_of_a_comparison_leave_ctrl_c_to_the_parent_from_their_first_instruction() -> None:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        with workload_compare._sigint_held():
            mask = pool.submit(signal.pthread_sigmask, signal.SIG_BLOCK, [])
        assert signal.SIGINT in mask.result()
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


@pytest.mark.parametrize("tolerance", ["nan", "inf"])
def test_tolerance_that_is_not_finite_is_bad_usage(tmp_path: Path, tolerance: str) -> None:
    result = invoke(*FAST, "--baseline", written(tmp_path, lambda data: None), "--tolerance", tolerance)
    assert result.return_value == 2
    assert "finite" in result.stderr


def test_failing_io_names_the_row_and_exits_1(monkeypatch: pytest.MonkeyPatch) -> None:
    from nvme_emu.workload import compare_measure

    class Broken(compare_measure.Jobs):
        def run(self):
            return [replace(result, failure="Read: Input/output error") for result in super().run()]

    monkeypatch.setattr(compare_measure, "Jobs", Broken)
    result = invoke(*FAST)
    assert result.return_value == 1
    assert "optane, sync, 1 caller, depth 1: Read: Input/output error" in result.stderr


def test_help_shows_an_example_and_the_exit_codes() -> None:
    text = CliRunner().invoke(cli, ["compare", "--help"]).output
    assert "nvme-emu compare --baseline" in text
    for code in (0, 1, 2, 130):
        assert re.search(rf"^ +{code} {{2,}}\S", text, re.MULTILINE), code


def test_calibrated_costs_are_said_to_be_measured_here() -> None:
    result = invoke(*FAST, "--calibrate", "--json", "--quiet")
    assumptions = json.loads(result.stdout)["assumptions"]
    assert assumptions["origin"] == "measured here"
    assert "--calibrate" in assumptions["sources"]["switch_ns"]
    # A hand-off is measured as a whole and divided; on a busy machine one part may come out as nothing.
    assert assumptions["wakeup_ns"] + assumptions["switch_ns"] > 0 and assumptions["submit_ns"] > 0
