"""What every command has in common: --json [FILE], --quiet, --trace, exit codes, and how they end. One table."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

import nvme_emu
from nvme_emu.cli import COMMANDS, cli, main
from nvme_emu.cli.common import check_output
from nvme_emu.observe.rpc import RpcClient, serve_rpc, watch

JOB = "[a]\nrw=randread\nbs=4k\nsize=1m\nio_size=64k\n"
RULE = '[[rules]]\nmatch = {opcode = "read"}\nthen = {status = {code = "READ_ERROR"}}\n'
FAST = "--profile instant --iodepth 1 --worker pump --ios 20 --no-flips --size 1M"
SQE = "02000700010000000000000000000000" + "00" * 48
WORDS = [
    "list", "id-ctrl", "id-ns", "smart-log", "error-log", "show-regs", "fw-log", "effects-log", "list-ns", "ns-descs",
    "self-test-log", "sanitize-log", "telemetry-log", "persistent-event-log", "lba-status-log", "resv-notif-log",
    "changed-ns-list-log", "supported-log-pages", "fid-support-effects-log", "get-lba-status", "dir-receive",
    "security-recv",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A command: words that work, words that are bad usage. ``trace`` is why it has no --trace, "" where it has one.

    ``lines``: its JSON is an object a line. ``ends``: it runs until it is told to end. ``code``: of ``good``.
    """

    good: str
    bad: str
    trace: str = ""
    lines: bool = False
    ends: bool = True
    code: int = 0
    json_only: bool = False


NO_COMMANDS = "sends no command to a device"
TRACES = "reads traces"
ROWS = {
    "compare": Row(good=FAST, bad="--iodepth x"),
    "run": Row(good="{job} --clock virtual", bad="/nowhere.fio"),
    "serve": Row(good="--vfio-user {tmp}/s.sock --size 1M", bad="--size 1M", ends=False),
    "top": Row(good="{job} --once --after 0.1", bad="/nowhere.fio --once", json_only=True),
    "tour": Row(good="--step 1", bad="--step 99"),
    "faults check": Row(good="{rule}", bad="/nowhere.toml", trace=NO_COMMANDS),
    "ctl": Row(good="{rpc} system.info", bad="/nowhere.sock system.info", trace="its server's trace is trace.start's"),
    "decode": Row(good=SQE, bad="xyz", trace=NO_COMMANDS),
    "trace show": Row(good="{trace}", bad="/nowhere", trace=TRACES, lines=True),
    "trace convert": Row(good="{trace}", bad="/nowhere", trace=TRACES, json_only=True),
    "trace diff": Row(good="{trace} {trace}", bad="{trace} /nowhere", trace=TRACES),
    "trace stats": Row(good="{trace}", bad="/nowhere", trace=TRACES),
    "dir-send": Row(good="{image} -T 1", bad="{image} -T x", trace=NO_COMMANDS),
    "set-feature": Row(good="{image} -f 4 -V 0x150", bad="{image} -V 1", trace=NO_COMMANDS),
    "get-feature": Row(good="{image} -f 7", bad="{image} -f 7 -s 9", trace=NO_COMMANDS),
    **{word: Row(good="{image}", bad="/nowhere.img", trace=NO_COMMANDS) for word in WORDS},
}


def leaves(group: Any = cli, before: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, by its words."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from leaves(command, f"{before}{name} ")
        else:
            yield before + name, command


LEAVES = dict(leaves())
EACH = pytest.mark.parametrize("name", ROWS)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What the rows' words name."""
    tmp = tmp_path_factory.mktemp("cli")
    found = {name: str(tmp / name) for name in ("job.fio", "rule.toml", "t.jsonl", "disk.img", "rpc.sock")}
    Path(found["job.fio"]).write_text(JOB)
    Path(found["rule.toml"]).write_text(RULE)
    with nvme_emu.open(image=found["disk.img"], size="1M") as ssd, serve_rpc(watch(ssd), found["rpc.sock"]):
        from nvme_emu.observe.jsonl import JsonLines

        with JsonLines(found["t.jsonl"]) as sink:
            ssd.trace.add_sink(sink)
            ssd.namespaces[1].write(0, bytes(512))
            ssd.trace.remove_sink(sink)
        image = tmp / "other.img"
        image.write_bytes(Path(found["disk.img"]).read_bytes())
        yield {
            "job": found["job.fio"], "rule": found["rule.toml"], "trace": found["t.jsonl"], "rpc": found["rpc.sock"],
            "image": str(image), "tmp": str(tmp),
        }  # fmt: skip


@pytest.fixture(autouse=True)
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """`compare` starts processes where there are processors for them; the tests that start programs see those."""
    monkeypatch.setattr(os, "cpu_count", lambda: 1)


@pytest.fixture
def words(places: dict[str, str]) -> Callable[[str, str], list[str]]:
    return lambda name, kind: [*name.split(), *getattr(ROWS[name], kind).format(**places).split()]


def invoke(*words: str) -> Any:
    result = CliRunner().invoke(cli, list(words), standalone_mode=False)
    usage = isinstance(result.exception, click.ClickException)
    assert result.exception is None or usage, result.exception
    return 2 if usage else result.return_value or 0, result


def start(words: list[str], **options: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", "from nvme_emu.cli import main; main()", *words]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, **options)


# --- the options --------------------------------------------------------------------------------------------


def test_every_command_has_a_row() -> None:
    assert set(ROWS) <= set(LEAVES) and len(COMMANDS) <= len(LEAVES)


@pytest.mark.parametrize("name", LEAVES)
def test_command_has_json_quiet_trace_help_and_exit_codes(name: str) -> None:
    command = LEAVES[name]
    options = {word: param for param in command.params for word in param.opts if isinstance(param, click.Option)}
    assert options["--quiet"].opts == ["--quiet", "-q"], f"{name} has no --quiet"
    json_file = options["--json"]
    assert json_file.metavar == "[FILE]" and json_file.name == "json_file", f"{name} has no --json [FILE]"
    if not ROWS.get(name, Row(good="", bad="", trace="-")).trace:
        assert options["--trace"].metavar == "FILE", f"{name} runs a device and has no --trace FILE"
    code, result = invoke(*name.split(), "--help")
    assert code == 0 and "[FILE]" in result.stdout


# --- what they do -------------------------------------------------------------------------------------------


@EACH
def test_json_goes_to_standard_output_or_to_a_file_quietly(
    name: str, words: Callable[[str, str], list[str]], tmp_path: Path
) -> None:
    row, target = ROWS[name], tmp_path / "out.json"
    if not row.ends:
        return  # see the tests of signals
    code, result = invoke(*words(name, "good"), "--json", "--quiet")
    assert (code, result.stderr) == (row.code, "")
    printed = [json.loads(line) for line in result.stdout.splitlines()] if row.lines else json.loads(result.stdout)
    code, result = invoke(*words(name, "good"), f"--json={target}")
    assert code == row.code
    text = target.read_text()
    written = [json.loads(line) for line in text.splitlines()] if row.lines else json.loads(text)
    assert type(written) is type(printed) and text.endswith("\n")
    assert row.json_only or name in ("ctl", "tour") or result.stdout, f"{name} --json=FILE prints nothing else"


@EACH
def test_bad_usage_is_2_with_words(
    name: str, words: Callable[[str, str], list[str]], capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words(name, "bad"))
    out, err = capfd.readouterr()
    assert (ended.value.code, out) == (2, "")
    assert err.strip() and "Traceback" not in err and len(err.splitlines()) < 8


@EACH
def test_trace_is_written(name: str, words: Callable[[str, str], list[str]], tmp_path: Path) -> None:
    if ROWS[name].trace or not ROWS[name].ends:
        return
    target = tmp_path / "t.jsonl"
    assert invoke(*words(name, "good"), "--trace", str(target))[0] == 0
    events = [json.loads(line)["event"] for line in target.read_text().splitlines()]
    assert {"fetch_cmd", "post_cqe"} <= set(events)


@pytest.mark.parametrize("name", ["compare", "run", "top", "tour", "faults check", "ctl", "trace show", "id-ctrl"])
def test_reader_that_has_gone_ends_it_quietly(name: str, words: Callable[[str, str], list[str]]) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    process = start(words(name, "good"), stdout=write_end)
    os.close(write_end)
    _, err = process.communicate(timeout=100)
    assert (process.returncode, err) == (141, b"")


def test_full_disk_is_a_line_and_2(words: Callable[[str, str], list[str]]) -> None:
    with open("/dev/full", "wb") as full:
        process = start(words("decode", "good"), stdout=full)
        _, err = process.communicate(timeout=100)
    assert process.returncode == 2 and b"No space left" in err and b"Traceback" not in err


# --- how they are ended -------------------------------------------------------------------------------------

LONG = {
    "compare": (f"{FAST} --ios 100000000", ""),
    "run": ("{endless} --trace {pipe}", "pipe"),
    "serve": ("--vfio-user {tmp}/i.sock --size 1M --json", "stderr"),
    "ctl": ("{rpc} events.subscribe", "stdout"),
}


@pytest.mark.parametrize("name", LONG)
def test_interrupted_is_130_without_a_traceback(name: str, places: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "endless.fio").write_text("[a]\nrw=randread\nsize=1m\ntime_based\nruntime=1d\n")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    text, sign = LONG[name]
    words = [name, *text.format(**places, endless=tmp_path / "endless.fio", pipe=pipe).split()]
    process = start(words, stdout=subprocess.PIPE)
    assert process.stderr is not None and process.stdout is not None
    if sign == "pipe":
        with open(pipe, "rb") as stream:
            stream.readline()
            process.send_signal(signal.SIGINT)
            while stream.read(1 << 16):
                pass
    else:
        if sign == "stderr":
            process.stderr.readline()
        elif sign == "stdout":
            poke(places["rpc"], process.stdout)
        else:
            wait_until_it_computes(process.pid)
        process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 130, err
    assert b"Traceback" not in err and b"Exception" not in err


def wait_until_it_computes(pid: int) -> None:
    """Until the program has done more than start: it has children, or has had two seconds of processor time."""
    while True:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        if int(fields[11]) + int(fields[12]) >= 200 or Path(f"/proc/{pid}/task/{pid}/children").read_text().strip():
            return


def poke(socket: str, stream: Any) -> None:
    """Give the machine behind a socket events until a line of them has come through the stream."""
    seen = threading.Event()
    reader = threading.Thread(target=lambda: (stream.readline(), seen.set()))
    reader.start()
    with RpcClient(socket) as client:
        kelvins = 300
        while not seen.wait(0.05):
            kelvins = 700 - kelvins
            client.call("health.set", temperature_k=kelvins)
    reader.join()


# --- files that are there -----------------------------------------------------------------------------------


def test_json_before_a_job_file_runs_the_job_and_keeps_it(places: dict[str, str]) -> None:
    code, result = invoke("run", "--clock", "virtual", "--json", places["job"])
    assert code == 0 and json.loads(result.stdout)["jobs"]
    assert Path(places["job"]).read_text() == JOB


@pytest.mark.parametrize("option", ["--json", "--output", "--html", "--png", "--svg", "--trace"])
def test_output_never_replaces_the_job_file(places: dict[str, str], tmp_path: Path, option: str) -> None:
    link = tmp_path / "linked"
    link.symlink_to(places["job"])
    other = tmp_path / "other.txt"
    other.write_text("; a comment\n\n[global]\nrw=read\n")
    for path in (places["job"], link, other):
        code, result = invoke("run", "--clock", "virtual", f"{option}={path}", places["job"])
        assert code == 2 and str(path) in result.stderr and "replace" in result.stderr, result.stderr
    assert Path(places["job"]).read_text() == JOB and "[global]" in other.read_text()


def test_json_replaces_json_and_nothing_else(tmp_path: Path) -> None:
    for number, (text, right) in enumerate(
        [("", True), ('{"a": 1}\n', True), ("[1, 2]", True), ('\n["a"]', True), ("null", False), ("a,b\n", False),
         ("[a]\n", False), ("#!/bin/sh\n", False), ("\x7fELF", False)]
    ):  # fmt: skip
        path = tmp_path / str(number)
        path.write_text(text)
        if right:
            check_output(str(path), json=True)
        else:
            with pytest.raises(ValueError, match="would replace it"):
                check_output(str(path), json=True)


def test_trace_show_does_not_write_over_the_trace(places: dict[str, str]) -> None:
    before = Path(places["trace"]).read_bytes()
    for words in (("show",), ("stats",), ("convert",), ("diff", places["trace"])):
        assert invoke("trace", *words, places["trace"], "--json")[0] == 0
        assert invoke("trace", *words, "--json", places["trace"])[0] == 0
        code, result = invoke("trace", *words, places["trace"], f"--json={places['trace']}")
        assert code == 2 and "would replace" in result.stderr
    assert Path(places["trace"]).read_bytes() == before
