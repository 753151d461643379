"""`nvme-emu run`: exit codes, messages, files, interruption."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import nvme_emu
from nvme_emu.cli import cli, main
from nvme_emu.machine import Machine

JOB = "[a]\nrw=randrw\nsize=64k\nioengine=libaio\niodepth=4\n"


@pytest.fixture
def job(tmp_path: Path) -> Path:
    path = tmp_path / "job.fio"
    path.write_text(JOB)
    return path


def invoke(*args: object) -> tuple[int, Result]:
    """The command's exit code and what it printed."""
    result = CliRunner().invoke(cli, [str(arg) for arg in args], standalone_mode=False)
    if isinstance(result.return_value, int):
        return result.return_value, result
    return result.exit_code, result


def test_run_prints_fios_text(job: Path) -> None:
    code, result = invoke("run", job, "--clock", "virtual")
    assert code == 0
    assert "a: (g=0): rw=randrw" in result.stdout and "Run status group 0 (all jobs):" in result.stdout


@pytest.mark.parametrize("args", [["--output-format", "json"], ["-o", "json"], ["--json"]])
def test_run_json_is_one_object_on_stdout(job: Path, args: list[str]) -> None:
    code, result = invoke("run", job, "--clock", "virtual", *args)
    data = json.loads(result.stdout)
    assert code == 0 and data["jobs"][0]["jobname"] == "a" and data["nvme-emu"]["clock"] == "virtual"


def test_run_json_to_a_file_leaves_the_text_on_stdout(job: Path, tmp_path: Path) -> None:
    code, result = invoke("run", job, "--clock", "virtual", f"--json={tmp_path / 'o.json'}")
    assert code == 0 and "IOPS=" in result.stdout
    assert json.loads((tmp_path / "o.json").read_text())["jobs"]


def test_run_output_goes_to_a_file(job: Path, tmp_path: Path) -> None:
    code, result = invoke("run", job, "--clock", "virtual", "--output", tmp_path / "o.txt")
    assert code == 0 and result.stdout == "" and "IOPS=" in (tmp_path / "o.txt").read_text()


def test_run_in_virtual_time_repeats_byte_for_byte(job: Path) -> None:
    outputs = [invoke("run", job, "--clock", "virtual", "--profile", "tlc", "--seed", seed, "-o", "json+")[1].stdout
               for seed in (7, 7, 8)]  # fmt: skip
    assert outputs[0] == outputs[1] != outputs[2]


def test_run_trace_holds_every_command(job: Path, tmp_path: Path) -> None:
    code, _ = invoke("run", job, "--clock", "virtual", "--trace", tmp_path / "t.jsonl")
    events = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    assert code == 0 and sum(event["event"] == "nvme_complete_rq" for event in events) >= 16


@pytest.mark.parametrize("engine", ["libaio", "psync"])
def test_run_over_protected_blocks_verifies(tmp_path: Path, engine: str) -> None:
    path = tmp_path / "protected.fio"
    path.write_text(f"[a]\nnvme_metadata=ms=8,pi=1\nrw=randwrite\nsize=256k\nverify=crc32c\nioengine={engine}\n")

    code, result = invoke("run", path, "--clock", "virtual", "--json")

    job = json.loads(result.stdout)["jobs"][0]
    assert (code, job["error"], job["read"]["io_bytes"], job["write"]["io_bytes"]) == (0, 0, 1 << 18, 1 << 18)


def test_run_notes_go_to_stderr_and_quiet_silences_them(job: Path) -> None:
    _, loud = invoke("run", job, "--clock", "virtual", "--set", "direct=1")
    _, quiet = invoke("run", job, "--clock", "virtual", "--set", "direct=1", "-q")
    assert "--set direct=1: accepted without effect" in loud.stderr
    assert quiet.stderr == ""


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--set", "bss=4k"], "--set bss=4k: unknown option 'bss'"),
        (["--set", "bs=4q"], "--set bs=4q: bs: '4q' has the unknown unit 'q'"),
        (["--profile", "nosuch"], "nosuch"),
        (["--profile", "/nowhere/x.toml"], "x.toml"),
        (["--output", "/nowhere/x"], "/nowhere/x"),
        (["--trace", "/nowhere/x"], "/nowhere/x"),
        (["--json=/nowhere/x"], "/nowhere/x"),
        (["--set", "nvme_queues=0"], "nvme_queues: 0 is out of range"),
    ],
)
def test_run_with_wrong_input_is_one_line_and_exit_2(job: Path, args: list[str], message: str) -> None:
    code, result = invoke("run", job, "--clock", "virtual", *args)
    assert code == 2
    assert message in result.stderr and len(result.stderr.splitlines()) == 1
    assert "Traceback" not in result.output


def test_run_without_a_file_is_exit_2(tmp_path: Path) -> None:
    code, result = invoke("run", tmp_path / "none.fio")
    assert code == 2 and "cannot read the job file" in result.stderr


@pytest.mark.parametrize(
    "args", [["run"], ["run", "x", "--clock", "sundial"], ["nosuch"], ["run", "x", "--seed", "-1"]]
)
def test_main_with_bad_usage_exits_2(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(args)
    assert caught.value.code == 2
    assert "Error" in capsys.readouterr().err


def test_run_with_a_mismatch_names_it_and_exits_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The medium loses the write to one block."""
    path = tmp_path / "v.fio"
    path.write_text("[v]\nrw=write\nsize=64k\nverify=crc32c\nioengine=libaio\niodepth=4\n")
    real = nvme_emu.open

    def lossy(**options: Any) -> Machine:
        machine = real(**options)
        medium = machine.media[0]
        machine.trace.add_sink(lambda event: medium.zero(41 * 512, 512))
        return machine

    monkeypatch.setattr(nvme_emu, "open", lossy)
    code, result = invoke("run", path, "--clock", "virtual", "-q")
    assert code == 1
    assert "nvme-emu: v: verify: namespace 1 LBA 41 byte" in result.stderr
    assert "expected" in result.stderr and "found 00 00" in result.stderr
    assert "err=84" in result.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("clock", ["wall", "virtual"])
def test_run_interrupted_prints_what_was_measured_and_exits_130(
    tmp_path: Path, clock: str, number: signal.Signals
) -> None:
    path = tmp_path / "long.fio"
    path.write_text(
        "[a]\nrw=randread\nsize=1m\ntime_based\nruntime=1d\n[b]\nrw=randread\nsize=1m\nstartdelay=1d\n"
    )
    # The trace goes into a pipe: the first event that comes out of it says that the jobs do I/O.
    pipe = tmp_path / "trace"
    os.mkfifo(pipe)
    command = [sys.executable, "-c", "from nvme_emu.cli import main; main()", "run", str(path)]
    command += ["--clock", clock, "--trace", str(pipe)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with open(pipe) as events:
        assert "ts_ns" in events.readline()
        process.send_signal(number)
        for _ in events:
            pass
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert re.search(r"a: \(groupid=0.*\n  read: IOPS=[1-9]", output)
    assert "b: (groupid" not in output


def test_help_is_quick_and_imports_no_numpy() -> None:
    code = """if True:
        import sys
        from nvme_emu.cli import main
        try:
            main(["--help"])
        except SystemExit:
            print("numpy" in sys.modules)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "run " in done.stdout and done.stdout.rstrip().endswith("False")


def test_help_of_run_has_an_example_and_the_exit_codes() -> None:
    for flag in ("--help", "-h"):
        _, result = invoke("run", flag)
        assert "nvme-emu run examples/" in result.stdout
        assert all(re.search(rf"\n +{code}  ", result.stdout) for code in (0, 1, 2, 130))


def test_version_is_the_packages() -> None:
    _, result = invoke("--version")
    assert nvme_emu.__version__ in result.stdout
