"""`nvme-emu explore` and `replay`, with worker processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from nvme_emu.cli.explore import explore
from nvme_emu.cli.replay import replay
from nvme_emu.testing.campaign import list_tests

TESTS = '''
import pathlib, time

def deposits(nvme_sim, locked):
    import kworker
    lock, balance = kworker.Spinlock(runtime=nvme_sim.runtime, name="balance"), [0]
    def deposit():
        if locked:
            lock.acquire()
        seen = balance[0]
        nvme_sim.point("seen")
        balance[0] = seen + 1
        if locked:
            lock.release()
    nvme_sim.together(deposit, deposit)
    assert balance[0] == 2, f"balance is {balance[0]}"

def test_racy(nvme_sim):
    deposits(nvme_sim, False)

def test_right(nvme_sim):
    deposits(nvme_sim, True)

def test_slow(nvme_sim):
    time.sleep(0.05)
    pathlib.Path("began").touch()

def test_of_another_kind():
    pass
'''
ENDS = '''
def test_stops(nvme_sim):
    raise KeyboardInterrupt

def test_dies(nvme_sim):
    import os, signal
    os.kill(os.getpid(), signal.SIGKILL)
'''
RACY = "test_it.py::test_racy"


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Calls a command in a directory with a test file."""
    (tmp_path / "test_it.py").write_text(TESTS)
    (tmp_path / "test_end.py").write_text(ENDS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    monkeypatch.chdir(tmp_path)

    def go(command, *arguments: str) -> Result:
        return CliRunner().invoke(command, [*arguments], standalone_mode=False)

    return go


def test_race_is_found_shrunk_and_replayed(call) -> None:
    result = call(explore, RACY, "--seeds", "200", "-j", "1")
    assert result.return_value == 1, result.output
    assert "AssertionError: balance is 1" in result.output
    assert "switch(es) that are needed" in result.output
    assert "is stopped at 'seen'" in result.output
    line = next(line for line in result.output.splitlines() if "--schedule" in line)
    again = call(replay, RACY, "--schedule", line.split()[-1])
    assert again.return_value == 1
    assert "balance is 1" in again.output
    assert "is stopped at 'seen'" in again.output


def test_json_holds_what_was_found_and_the_seed_replays_it(call) -> None:
    result = call(explore, RACY, "--scheduler", "pct", "-j", "1", "--json")
    finding = json.loads(result.output)["tests"][0]["findings"][0]
    again = call(replay, RACY, "--seed", str(finding["seed"]), "--scheduler", "pct")
    assert again.return_value == 1
    assert "balance is 1" in again.output


def test_file_with_several_tests_has_those_that_can_be_explored(call) -> None:
    assert list_tests("test_it.py") == [f"test_it.py::test_{name}" for name in ("racy", "right", "slow")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nosuch.py"], "nosuch.py"),
        (["test_it.py::test_of_another_kind"], "no test that uses the fixture nvme_sim"),
        ([RACY, "--on", "spark://x"], "it is dask://HOST:PORT"),
    ],
)
def test_what_cannot_be_explored_is_a_usage_error(call, arguments: list[str], message: str) -> None:
    result = call(explore, *arguments)
    assert result.return_value == 2
    assert message in result.output


def test_skip_is_no_failure_and_exits_and_fails_in_tasks_are(call, tmp_path: Path) -> None:
    (tmp_path / "test_ends.py").write_text(
        "import sys, pytest\n"
        "def test_skips(nvme_sim):\n    pytest.skip('no luck')\n"
        "def test_exits(nvme_sim):\n    sys.exit(4)\n"
        "def test_task(nvme_sim):\n    nvme_sim.together(lambda: pytest.fail('as it says'), lambda: None)\n"
    )
    skips = call(explore, "test_ends.py::test_skips", "--seeds", "9", "-j", "1")
    assert skips.return_value == 2
    assert "test_ends.py::test_skips skips itself: no luck" in skips.output
    for name, message in (("test_exits", "SystemExit: 4"), ("test_task", "Failed: as it says")):
        ends = call(explore, f"test_ends.py::{name}", "--seeds", "9", "-j", "1")
        assert ends.return_value == 1
        assert ends.output.startswith(message)


def test_replay_wants_a_seed_or_a_schedule(call, tmp_path: Path) -> None:
    assert call(replay, RACY).return_value == 2
    (tmp_path / "x.schedule").write_text("{}")
    result = call(replay, RACY, "--schedule", "x.schedule")
    assert result.return_value == 2
    assert "not a schedule" in result.output


def test_interrupt_shows_what_there_is_and_keeps_it(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-c", "from nvme_emu.cli import main; main()", "explore", "test_it.py::test_slow", "-j1"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        while not (tmp_path / "began").exists():
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on from here" in output
    assert list((tmp_path / ".nvme-explore").glob("*.json"))


def test_another_driver_is_explored_anew(call, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("LOCKED = False\n")
    (tmp_path / "test_mine.py").write_text(
        "import mine\nfrom test_it import deposits\n\ndef test_mine(nvme_sim):\n    deposits(nvme_sim, mine.LOCKED)\n"
    )
    arguments = ("test_mine.py", "--seeds", "40", "-j", "1", "--json")
    found = json.loads(call(explore, *arguments).output)["tests"][0]
    assert len(found["findings"]) == 1
    (tmp_path / "mine.py").write_text("LOCKED = bool('yes, now it is')\n")
    found = json.loads(call(explore, *arguments).output)["tests"][0]
    assert found["resumed"] == 0
    assert found["findings"] == []


@pytest.mark.filterwarnings("ignore")
def test_cluster_of_two_does_the_same(call) -> None:
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None, host="127.0.0.1", protocol="tcp"
    ) as cluster:
        url = cluster.scheduler_address.replace("tcp://", "dask://")
        racy = call(explore, RACY, "--seeds", "100", "--on", url)
        assert racy.return_value == 1
        assert "switch(es) that are needed" in racy.output
        orders = ("--scheduler", "exhaustive", "--switches", "1")
        right = call(explore, "test_it.py::test_right", *orders, "--on", url, "--json")
        alone = call(explore, "test_it.py::test_right", *orders, "-j", "1", "--fresh", "--json")
        assert right.return_value == alone.return_value == 0
        spread, single = (json.loads(one.output)["tests"][0] for one in (right, alone))
        assert spread["complete"]
        assert (spread["runs"], spread["cut"]) == (single["runs"], single["cut"])
        dies = call(explore, "test_end.py::test_dies", "--seeds", "20", "--on", url)
        assert dies.return_value == 2
        assert "test_end.py::test_dies has died: SIGKILL" in dies.output


def test_orders_are_tried_by_several_processes(call) -> None:
    orders = ("test_it.py::test_right", "--scheduler", "exhaustive", "--fresh", "--json", "-j")
    one, three = (json.loads(call(explore, *orders, jobs).output)["tests"][0] for jobs in ("1", "3"))
    assert one["complete"]
    assert three["complete"]
    assert (three["runs"], three["cut"]) == (one["runs"], one["cut"])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("test_stops", "raises KeyboardInterrupt, which ends pytest: such a run cannot be judged"),
        ("test_dies", "has died: SIGKILL, in one of the seeds 0 to 7 (random)"),
    ],
)
def test_test_that_ends_its_process_is_named(name: str, words: str, call) -> None:
    result = call(explore, f"test_end.py::{name}", "--seeds", "8", "-j", "1")
    assert result.return_value == 2
    assert f"test_end.py::{name} {words}" in result.output


def test_file_that_cannot_be_imported_says_why(call, tmp_path: Path) -> None:
    (tmp_path / "test_import.py").write_text("import there_is_no_such_module\n\ndef test_it(nvme_sim):\n    pass\n")
    result = call(explore, "test_import.py")
    assert result.return_value == 2
    assert "No module named 'there_is_no_such_module'" in result.output


@pytest.mark.parametrize("file", ["/nowhere/x.json", "test_it.py"])
def test_json_that_cannot_be_written_is_refused_before_the_first_run(file: str, call) -> None:
    result = call(explore, RACY, "--json", file)
    assert result.return_value == 2
    assert file in result.output
