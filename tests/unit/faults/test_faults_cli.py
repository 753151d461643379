"""`nvme-emu faults check` and `run --faults`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nvme_emu.cli import main

GOOD = """version = 1

[[rules]]
id = "third"
match = { opcode = "read" }
when = { nth = 3 }
then.status = { code = "READ_ERROR", dnr = true }
"""
BAD = GOOD.replace("READ_ERROR", "READ_EROR").replace("nth = 3", "nth = 0")
JOB = "[r]\nrw=read\nsize=64k\nbs=4k\nioengine=sync\n"


def call(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(args)
    captured = capsys.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


def test_check_of_right_rules_says_them_and_exits_0(tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "good.toml"
    file.write_text(GOOD)
    code, out, err = call(capsys, "faults", "check", str(file))
    assert (code, err) == (0, "")
    assert f"{file}: rule third: on command, opcode read, nth 3: status code=READ_ERROR dnr=True" in out
    assert out.endswith("1 rule is right\n")
    assert call(capsys, "faults", "check", "--quiet", str(file)) == (0, "", "")


def test_check_of_wrong_rules_names_each_line_and_exits_2(tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(BAD)
    code, out, err = call(capsys, "faults", "check", str(file))
    assert (code, out) == (2, "")
    assert err.splitlines() == [
        f"nvme-emu: {file}:6: rule third when.nth: 0: it must be from 1 to {1 << 62}",
        f"nvme-emu: {file}:7: rule third then.status.code: 'READ_EROR' is no status, did you mean 'READ_ERROR'?",
    ]


def test_check_as_json(tmp_path: Path, capsys: Any) -> None:
    good, bad = tmp_path / "good.toml", tmp_path / "bad.toml"
    good.write_text(GOOD)
    bad.write_text(BAD)
    code, out, _ = call(capsys, "faults", "check", str(good), str(bad), "--json")
    report = json.loads(out)
    assert (code, report["ok"]) == (2, False)
    assert report["files"][0]["rules"][0]["then"] == {"status": {"code": "READ_ERROR", "dnr": True}}
    assert [one["line"] for one in report["files"][1]["problems"]] == [6, 7]
    target = tmp_path / "out.json"
    assert call(capsys, "faults", "check", f"--json={target}", "-q", str(good))[0] == 0
    assert json.loads(target.read_text())["ok"] is True


def test_check_of_a_file_that_is_not_there_exits_2(tmp_path: Path, capsys: Any) -> None:
    code, _, err = call(capsys, "faults", "check", str(tmp_path / "none.toml"))
    assert code == 2
    assert "none.toml:1: No such file or directory" in err


def test_run_with_faults_reports_the_failed_read_and_the_firing(tmp_path: Path, capsys: Any) -> None:
    rules, job = tmp_path / "good.toml", tmp_path / "job.fio"
    rules.write_text(GOOD)
    job.write_text(JOB)
    code, out, err = call(capsys, "run", "--faults", str(rules), "--clock", "virtual", "-o", "json", str(job))
    assert code == 1
    assert "fault rule third: 3 hits, fired 1 times" in err
    assert "Unrecovered Read Error" in err
    assert '"fired" : 1' in out


def test_run_with_wrong_faults_exits_2_by_line(tmp_path: Path, capsys: Any) -> None:
    rules, job = tmp_path / "bad.toml", tmp_path / "job.fio"
    rules.write_text(BAD)
    job.write_text(JOB)
    code, _, err = call(capsys, "run", "--faults", str(rules), str(job))
    assert code == 2
    assert f"{rules}:6: rule third" in err
    assert f"{rules}:7: rule third" in err


def test_run_says_what_the_driver_recovered_from(tmp_path: Path, capsys: Any) -> None:
    rules, job = tmp_path / "rules.toml", tmp_path / "job.fio"
    rules.write_text(GOOD.replace('then.status = { code = "READ_ERROR", dnr = true }', "then.cfs = {}"))
    job.write_text(JOB)
    code, _, err = call(capsys, "run", str(job), "--clock", "virtual", "--faults", str(rules), "--io-timeout", "0.5")
    assert code == 0
    assert "driver (live): 1 timeouts, 1 resets, 1 retries, 1 cancelled" in err


def test_run_refuses_a_time_out_of_nothing(tmp_path: Path, capsys: Any) -> None:
    job = tmp_path / "job.fio"
    job.write_text(JOB)
    assert call(capsys, "run", str(job), "--io-timeout", "0")[0] == 2
