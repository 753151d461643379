"""The tour: real bytes at the right moments, the ways of showing it, and the page that is made from it."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from nvme_emu.cli import cli
from nvme_emu.spec.queues import CQE, SQE, Cqe, Sqe
from nvme_emu.workload.tour import Step, Tour, make_tour
from nvme_emu.workload.tour_page import readme_steps, tour_page
from nvme_emu.workload.tour_run import NBYTES, PAGE, SLBA, OneWrite, many_writes, one_write, sample
from nvme_emu.workload.tour_show import hex_lines, plain_step, tour_svg

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def tour() -> Tour:
    return make_tour()


@pytest.fixture(scope="module", params=["sync", "async"])
def run(request: pytest.FixtureRequest) -> OneWrite:
    return one_write(request.param, 7)


def invoke(*args: str) -> Result:
    return CliRunner().invoke(cli, ["tour", *args], standalone_mode=False)


def step(tour: Tour, title: str) -> Step:
    return next(step for step in tour.steps if step.title.startswith(title))


# The run ---------------------------------------------------------------------------------------------


def test_run_has_the_command_in_the_ring_when_it_was_built(run: OneWrite) -> None:
    assert run.moment("nvme_queue_rq").sqe == bytes(64)
    sqe = Sqe._make(SQE.unpack(run.moment("nvme_setup_cmd").sqe))
    assert (sqe.opcode, sqe.nsid, sqe.cdw10, sqe.cdw12) == (1, 1, SLBA, NBYTES // 512 - 1)
    assert sqe.prp1 == run.data_addr


def test_run_has_the_prp_list_while_the_command_is_under_way(run: OneWrite) -> None:
    entries = [
        int.from_bytes(run.moment("fetch_cmd").prp_list[place : place + 8], "little")
        for place in range(0, 8 * (NBYTES // PAGE - 1), 8)
    ]
    assert entries == [run.data_addr + PAGE * index for index in range(1, NBYTES // PAGE)]


def test_run_turns_the_phase_with_the_completion(run: OneWrite) -> None:
    before = Cqe._make(CQE.unpack(run.moment("fetch_cmd").cqe))
    after = Cqe._make(CQE.unpack(run.moment("post_cqe").cqe))
    assert before.status_p & 1 == 0 and after.status_p == 1
    assert (after.sqid, after.sqhd) == (1, 1)
    assert run.moment("post_cqe").state.cqs[1].tail == 1


def test_run_stores_the_data_and_gives_a_die_work(run: OneWrite) -> None:
    assert run.stored == sample()[:32].tobytes()
    assert sum(run.moment("fetch_cmd").dies_ns) == 0
    assert [ns for ns in run.moment("post_cqe").dies_ns if ns] == [561_000]


def test_run_goes_through_its_events_in_order(run: OneWrite) -> None:
    names = ["nvme_queue_rq", "nvme_setup_cmd", "nvme_sq", "fetch_cmd", "post_cqe", "raise_irq", "nvme_complete_rq"]
    times = [run.moment(name).ts_ns for name in [*names, "nvme_wake_rq"]]
    assert times == sorted(times) and times[0] == 0
    assert run.moment("nvme_wake_rq").ts_ns == run.known_ns


def test_run_of_async_passes_the_workers_list_and_frees_its_caller() -> None:
    run = one_write("async", 7)
    queued = run.moment("sched_kthread_work_queue_work")
    worker = next(worker for worker in queued.state.workers if worker.name == "nvme1")
    assert [work.name for work in worker.queued] == ["_pump"] and worker.current is None
    assert run.moment("nvme_setup_cmd").who == "nvme1" and queued.who == "app"
    assert run.moment("nvme_setup_cmd").cpu != queued.cpu
    assert run.returned_ns * 10 < run.known_ns


def test_run_of_sync_is_done_by_the_caller_alone() -> None:
    run = one_write("sync", 7)
    assert {moment.who for moment in run.moments} == {"app", "the device", "interrupt handler"}
    assert run.returned_ns == run.known_ns


def test_missing_event_is_named() -> None:
    with pytest.raises(LookupError, match="'nvme_levitate'"):
        one_write("sync", 7).moment("nvme_levitate")


def test_many_writes_share_a_doorbell_in_async_mode() -> None:
    sync, together = many_writes("sync", 7), many_writes("async", 7)
    assert (sync.doorbells, together.doorbells) == (8, 1)
    assert together.elapsed_ns * 3 < sync.elapsed_ns


# The steps -------------------------------------------------------------------------------------------


def test_tour_goes_from_sync_over_async_to_the_outcome(tour: Tour) -> None:
    chapters = [step.chapter for step in tour.steps]
    assert chapters == sorted(chapters, key=["sync", "async", "both"].index)
    for chapter in ("sync", "async"):
        times = [step.ts_ns for step in tour.steps if step.chapter == chapter]
        assert times == sorted(times)
    text = json.dumps(tour.to_json())
    for word in ("kthread_queue_work", "SQ1TDBL", "CQ1HDBL", "prp2", "die 0", "phase", "MSI-X", "worker->work_list"):
        assert word in text


def test_tour_explains_each_field_with_its_clause(tour: Tour) -> None:
    command = step(tour, "The command: 64 bytes")
    fields = {field.name: field for field in command.fields}
    assert fields["nlb_z"].value == "003fh" and "64" in fields["nlb_z"].words
    assert all(field.clause for field in command.fields)
    assert (fields["prp2"].offset, fields["prp2"].length) == (32, 8)
    value = int(fields["prp2"].value.rstrip("h"), 16)
    assert command.dumps[0].data[32:40] == value.to_bytes(8, "little")


def test_tour_parts_of_the_devices_time_are_all_of_it(tour: Tour) -> None:
    facts = dict(step(tour, "Dies").facts)
    run = one_write("sync", 7)
    whole = run.moment("post_cqe").ts_ns - run.moment("fetch_cmd").ts_ns
    assert facts["together"] == f"{whole / 1000:.3g} µs"
    assert not any(value.startswith("-") for value in facts.values())


def test_tour_is_the_same_each_time_and_follows_its_seed(tour: Tour) -> None:
    assert make_tour().to_json() == tour.to_json()
    assert make_tour(8).to_json() != tour.to_json()


# Ways to show it -------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [80, 100])
def test_plain_steps_fit_and_have_no_control_characters(tour: Tour, width: int) -> None:
    for number, each in enumerate(tour.steps, 1):
        text = plain_step(each, number, len(tour.steps), width)
        assert max(len(line) for line in text.splitlines()) <= width
        assert "\x1b" not in text and "…" not in text.replace("ns … t", "")
        assert each.title in text


def test_hex_lines_have_offset_bytes_and_text() -> None:
    assert list(hex_lines(b"AB\x00" * 6)) == [
        (0, "41 42 00 41 42 00 41 42 00 41 42 00 41 42 00 41", "AB.AB.AB.AB.AB.A"),
        (16, "42 00", "B."),
    ]


def test_svg_loads_nothing_and_is_the_same_each_time(tour: Tour) -> None:
    chosen = readme_steps(tour)
    assert len(chosen) == 3
    svg = tour_svg(chosen, len(tour.steps))
    assert svg == tour_svg(chosen, len(tour.steps))
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|@import|@font-face", svg)
    assert "kthread_queue_work" in svg.replace("&#160;", " ")


def test_docs_are_what_the_program_says() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "make_tour.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    readme = (ROOT / "README.md").read_text()
    assert "docs/img/tour.svg" in readme and "docs/tour.md" in readme


def test_page_has_every_step(tour: Tour) -> None:
    page = tour_page(tour)
    for number, each in enumerate(tour.steps, 1):
        assert f"### {number}. {each.title}" in page


def test_command_piped_is_plain_text() -> None:
    result = invoke()
    assert result.return_value == 0 and "\x1b" not in result.stdout
    assert "20/20" in result.stdout
    assert invoke("--plain", "--step", "3").stdout.count("╭") == 1


def test_command_json_and_svg(tmp_path: Path) -> None:
    assert [step["number"] for step in json.loads(invoke("--step", "2-4", "--json").stdout)["steps"]] == [2, 3, 4]
    out, svg = tmp_path / "a.json", tmp_path / "a.svg"
    result = invoke("--json", str(out), "--svg", str(svg))
    assert result.return_value == 0 and result.stdout == ""
    assert len(json.loads(out.read_text())["steps"]) == 20
    assert svg.read_text().startswith("<svg")


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (["--step", "0"], "1 to 20"),
        (["--step", "5-2"], "1 to 20"),
        (["--step", "two"], "two"),
        (["--svg", "/nowhere/a.svg"], "/nowhere/a.svg"),
    ],
)
def test_command_mistakes_are_one_line_and_exit_2(args: list[str], word: str) -> None:
    result = invoke(*args)
    assert result.return_value == 2 and word in result.stderr and result.stderr.count("\n") == 1


def test_command_on_a_terminal_is_led_by_keys() -> None:
    """Next, next, back, go to 20, next: a terminal sees the steps 1, 2, 3, 2, 20, and the program ends."""
    main, side = pty.openpty()
    script = "from nvme_emu.cli import main; main(['tour'])"
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=side, stdout=side, stderr=side, cwd=ROOT,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "90", "LINES": "40"},
    )  # fmt: skip
    os.close(side)
    seen = b""
    try:
        for key in (b"\r", b"\x1b[C", b"\x1b[D", b"20\r", b" "):
            seen += _until(main, b"q quit")
            os.write(main, key)
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.wait()
        os.close(main)
    numbers = re.findall(rb" (\d+)/20 ", re.sub(rb"\x1b\[[0-9;]*m", b"", seen))
    assert numbers == [b"1", b"2", b"3", b"2", b"20"]


def _until(fd: int, words: bytes) -> bytes:
    """What a terminal showed up to ``words``."""
    seen, deadline = b"", time.monotonic() + 30
    while words not in seen:
        ready, _, _ = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"{words!r} was not shown within 30 s, but {seen[-200:]!r}"
        seen += os.read(fd, 65536)
    return seen
