"""The command line of `top`: --once, --json, what is refused, and what it must not cost others."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tuihelpers import JOB

import nvme_emu
from nvme_emu.cli.top import VIEWS, top
from nvme_emu.observe.rpc import serve_rpc, watch
from nvme_emu.observe.state import from_json
from nvme_emu.observe.tui.frame import Frame
from nvme_emu.observe.tui.views import VIEWS as PAGES


def call(*args: str) -> Result:
    return CliRunner().invoke(top, list(args), standalone_mode=False)


@pytest.fixture
def job(tmp_path: Path) -> str:
    path = tmp_path / "job.fio"
    path.write_text(JOB)
    return str(path)


def test_once_prints_one_plain_page(job: str) -> None:
    result = call(job, "--once", "--after", "0.5", "--view", "queues")
    assert result.return_value == 0
    lines = result.stdout.splitlines()
    assert "job.fio · tlc" in lines[0] and "virtual" in lines[0]
    assert any(text.startswith("SQ1") for text in lines)
    assert "\x1b" not in result.stdout
    assert not any(" quit" in text for text in lines), "nobody can press keys here"


def test_once_shows_the_instant_that_was_asked_for(job: str) -> None:
    frame = from_json(Frame, json.loads(call(job, "--json", "--after", "0.5").stdout))
    assert 500_000 <= frame.ts_ns < 600_000 + 100_000
    assert frame.clock == "virtual" and frame.driver is not None
    assert frame.stats.read_ios and len(frame.points) > 30


def test_once_of_a_job_that_ends_earlier_shows_its_end(job: str) -> None:
    frame = from_json(Frame, json.loads(call(job, "--json", "--after", "100000").stdout))
    assert frame.play.mode == "ended"
    assert frame.stats.read_ios + frame.stats.write_ios == 1024


def test_once_on_threads(job: str) -> None:
    result = call(job, "--json", "--after", "20", "--clock", "wall", "--profile", "instant")
    frame = from_json(Frame, json.loads(result.stdout))
    assert frame.clock == "wall"
    assert frame.stats.read_ios > 0


def test_once_without_arguments_has_a_workload() -> None:
    result = call("--once", "--after", "0.2")
    assert "a small workload · tlc" in result.stdout


def test_once_of_a_trace_that_top_has_written(job: str, tmp_path: Path) -> None:
    trace = str(tmp_path / "t.jsonl")
    assert call(job, "--once", "--after", "1", "--trace", trace).return_value == 0
    result = call("--replay", trace, "--once", "--view", "trace")
    assert result.return_value == 0
    assert "replay" in result.stdout and "complete_rq" in result.stdout


def test_once_of_a_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "s.sock")
    with nvme_emu.open(size="4M") as ssd, serve_rpc(watch(ssd), path):
        result = call("--attach", path, "--json", "--after", "1")
    assert from_json(Frame, json.loads(result.stdout)).namespaces[0].nbytes == 4 << 20


def test_failed_job_gives_exit_code_1(job: str, tmp_path: Path) -> None:
    rules = tmp_path / "r.toml"
    then = 'then.status = { code = "Invalid Field in Command", dnr = true }'
    rules.write_text(f'version = 1\n[[rules]]\nmatch = {{ opcode = "read" }}\n{then}\n')
    result = call(job, "--once", "--faults", str(rules), "--after", "1000")
    assert result.return_value == 1
    assert "nvme-emu: mixed: " in result.stderr


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ((), "top needs a terminal; --once prints one page"),
        (("--attach", "/nowhere.sock", "--once"), "/nowhere.sock: No such file"),
        (("--replay", "/nowhere.jsonl", "--once"), "No such file"),
        (("/nowhere.fio", "--once"), "/nowhere.fio: cannot read the job file"),
        (("x.fio", "--replay", "y", "--once"), "give one"),
        (("--profile", "unheard-of", "--once"), "unheard-of"),
        (("--set", "bs=potato", "--once"), "potato"),
    ],
)
def test_what_cannot_be_looked_at_is_refused_in_one_line(args: tuple[str, ...], told: str) -> None:
    result = call(*args)
    assert result.return_value == 2
    assert told in result.stderr
    assert result.stderr.count("\n") == 1


def test_views_on_the_command_line_are_the_views_there_are() -> None:
    assert tuple(view.name for view in PAGES) == VIEWS


def test_help_and_other_commands_do_not_import_textual() -> None:
    code = (
        "import sys, nvme_emu.cli as c\n"
        "for args in (['--help'], ['top', '--help'], ['top', '--once', '--after', '0.1']):\n"
        "    try: c.main(args)\n"
        "    except SystemExit as e: assert not e.code, e.code\n"
        "assert 'textual' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, timeout=60)
