"""`--check` and `--check-report` of each command that has them: exit codes, reports, JSON and SARIF."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tcphost import HOST, NQN

import nvme_emu
from nvme_emu.cli import cli
from nvme_emu.driver.fabrics import FabricsHost
from nvme_emu.observe.checker import RULES
from nvme_emu.observe.rpc import RpcClient
from nvme_emu.transports.inproc import InprocTransport

JOB = "[a]\nioengine=libaio\niodepth=4\nrw=randwrite\nbs=4k\nsize=1m\nio_size=64k\n"
COMPARE = "compare --profile instant --iodepth 1 --worker pump --ios 20 --no-flips --size 1M"
WRONG = "reg-access"


@pytest.fixture
def job(tmp_path: Path) -> str:
    path = tmp_path / "job.fio"
    path.write_text(JOB)
    return str(path)


@pytest.fixture
def wrong_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """The third I/O doorbell of each machine is followed by a look at half a property."""
    real = InprocTransport.ring_sq

    def ring_sq(self: Any, qid: int, tail: int) -> None:
        real(self, qid, tail)
        rung = vars(self)["rung"] = vars(self).get("rung", 0) + (qid > 0)
        if rung == 3 and qid:
            self._controller.mmio_read(8, 2)

    # Processes of their own would not have it.
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    monkeypatch.setattr(InprocTransport, "ring_sq", ring_sq)


def call(*words: str) -> Result:
    return CliRunner().invoke(cli, [*words], standalone_mode=False)


# -- run ------------------------------------------------------------------------------------------------------


def test_run_of_a_clean_driver_ends_with_0_and_says_so(job: str) -> None:
    result = call("run", job, "--check")
    assert result.return_value == 0
    assert re.search(r"checker: nothing found \((\d+) of \1 rules could be judged\)", result.stderr)


def test_run_is_quiet_about_a_clean_driver(job: str) -> None:
    result = call("run", job, "--check", "--quiet")
    assert result.return_value == 0
    assert result.stderr == ""


@pytest.mark.parametrize(("option", "code"), [("--check", 1), ("--check=error", 1), ("--check=warn", 0)])
def test_run_of_a_wrong_driver_is_reported_and_fails_as_it_is_asked_to(
    option: str, code: int, job: str, wrong_driver: None
) -> None:
    result = call("run", job, option)
    assert result.return_value == code
    assert f"error: {WRONG}: read of 2 bytes at 0x8" in result.stderr
    assert "checker: 1 error(s)" in result.stderr


def test_run_without_check_is_not_looked_at(job: str, wrong_driver: None) -> None:
    result = call("run", job)
    assert result.return_value == 0
    assert "checker" not in result.stderr


@pytest.mark.parametrize("suffix", [".json", ".sarif", ".txt"])
def test_run_writes_a_report_which_alone_only_warns(suffix: str, job: str, tmp_path: Path, wrong_driver: None) -> None:
    report = tmp_path / f"found{suffix}"
    result = call("run", job, "--check-report", str(report))
    assert result.return_value == 0
    text = report.read_text()
    assert WRONG in text
    if suffix == ".json":
        (found,) = json.loads(text)
        assert (found["version"], found["errors"], found["counts"][WRONG]) == (1, 1, 1)
        assert {one["event"] for one in found["findings"][0]["history"]} == {"register_write", "controller_state"}
    elif suffix == ".sarif":
        check_sarif(json.loads(text))


def test_run_has_what_was_found_in_its_json(job: str, wrong_driver: None) -> None:
    result = call("run", job, "--check=warn", "--json", "--quiet")
    (found,) = json.loads(result.stdout)["nvme-emu"]["checkers"]
    assert found["counts"] == {WRONG: 1}
    assert "checkers" not in json.loads(call("run", job, "--json", "--quiet").stdout)["nvme-emu"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--check=often"], "'often' is not one of 'warn', 'error'"),
        (["--check-report", "/nowhere/x.json"], "there is no folder /nowhere"),
        (["--check-report", "JOB"], "the output would replace what is read here"),
    ],
)
def test_bad_options_are_usage_errors(words: list[str], said: str, job: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "nvme_emu", "run", job, *[job if word == "JOB" else word for word in words]],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert said in done.stderr


def check_sarif(log: dict[str, Any]) -> None:
    """What SARIF 2.1.0 demands of a log, as far as ours has it (its schema needs a network to be had)."""
    assert log["version"] == "2.1.0"
    assert log["$schema"].startswith("https://")
    assert log["runs"]
    for run in log["runs"]:
        driver = run["tool"]["driver"]
        assert driver["name"]
        ids = [rule["id"] for rule in driver["rules"]]
        assert len(set(ids)) == len(ids)
        for rule in driver["rules"]:
            assert rule["shortDescription"]["text"]
            assert rule["help"]["text"]
            assert rule["defaultConfiguration"]["level"] in ("none", "note", "warning", "error")
        for result in run["results"]:
            assert result["ruleId"] in ids
            assert ids[result["ruleIndex"]] == result["ruleId"]
            assert result["level"] in ("none", "note", "warning", "error")
            assert result["message"]["text"]
            for place in result["locations"]:
                for logical in place["logicalLocations"]:
                    assert logical["fullyQualifiedName"]


# -- compare --------------------------------------------------------------------------------------------------


def test_compare_of_a_clean_driver_ends_with_0() -> None:
    assert call(*COMPARE.split(), "--check", "--quiet").return_value == 0


def test_compare_of_a_wrong_driver_ends_with_the_rule(wrong_driver: None) -> None:
    result = call(*COMPARE.split(), "--check")
    assert result.return_value == 1
    assert f"error: {WRONG}" in result.stderr
    assert "Traceback" not in result.stderr


def test_compare_that_only_warns_goes_on_and_tells_of_each_row(wrong_driver: None) -> None:
    result = call(*COMPARE.split(), "--check=warn", "--quiet")
    assert result.return_value == 0
    assert f"instant, sync, 1 caller, depth 1: error: {WRONG}: read of 2 bytes at 0x8" in result.stderr
    assert "CheckerWarning" not in result.stderr


def test_compare_tells_of_what_processes_of_its_own_have_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machines are in other processes, where nobody can be made wrong: a clean one is all there is to see."""
    result = call(*COMPARE.split(), "--check=warn", "--quiet")
    assert result.return_value == 0
    assert result.stderr == ""


# -- serve ----------------------------------------------------------------------------------------------------

Start = Callable[..., "Served"]


class Served:
    """`nvme-emu serve` in a process."""

    def __init__(self, *words: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "nvme_emu", "serve", "--size", "16M", *words],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.lines: list[str] = []
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            if "listening" in line:
                break
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.lines.extend(self.process.stderr)

    @property
    def url(self) -> str:
        found = re.search(r":(\d+): listening", "".join(self.lines))
        assert found is not None
        return f"nvme-tcp://127.0.0.1:{found[1]}/{NQN}"

    def end(self) -> tuple[int, str, str]:
        """(exit code, standard output, standard error)."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.stdout is not None
        out = self.process.stdout.read()
        code = self.process.wait(30)
        self._reader.join(30)
        self.process.stdout.close()
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code, out, "".join(self.lines)


@pytest.fixture
def start() -> Iterator[Start]:
    running: list[Served] = []

    def begin(*words: str) -> Served:
        running.append(Served(*words))
        return running[-1]

    yield begin
    for one in running:
        if one.process.poll() is None:
            one.end()


TCP = ("--tcp", "127.0.0.1:0", "--nqn", NQN)


def good_host(url: str) -> None:
    with nvme_emu.open(url) as ssd:
        ssd.namespaces[1].write(0, bytes(512))


def bad_host(url: str) -> None:
    """Its Reads reach behind the namespace, which our namespaces would not let it."""
    with nvme_emu.open(url, identity=FabricsHost(nqn=HOST, identifier=bytes(range(16)))) as ssd:
        ns = ssd.namespaces[1]
        ns.nlb += 100
        with pytest.raises(nvme_emu.NvmeError):
            ns.read(ns.nlb - 8, 8)


def test_serve_tcp_of_a_good_host_ends_with_0(start: Start) -> None:
    served = start(*TCP, "--check", "--json")
    good_host(served.url)
    code, out, err = served.end()
    assert code == 0
    assert "checker: nothing found" in err
    (report,) = json.loads(out)["checkers"]
    assert (report["scope"], report["errors"], report["findings"]) == ("tcp", 0, [])


@pytest.mark.parametrize(("option", "code"), [("--check", 1), ("--check=warn", 0)])
def test_serve_tcp_reports_what_a_host_does_wrong(option: str, code: int, start: Start, tmp_path: Path) -> None:
    report = tmp_path / "found.sarif"
    served = start(*TCP, option, "--json", "--check-report", str(report))
    bad_host(served.url)
    ended, out, err = served.end()
    assert ended == code
    assert f"error: lba-range: {HOST} (controller 1) q1 cid" in err
    (summary,) = json.loads(out)["checkers"]
    assert set(summary["counts"]) == {"lba-range"}
    check_sarif(json.loads(report.read_text()))
    (result,) = json.loads(report.read_text())["runs"][0]["results"][:1]
    place = result["locations"][0]["logicalLocations"][0]["fullyQualifiedName"]
    assert place.startswith(f"{HOST} (controller 1) queue 1 cid")


def test_what_a_host_does_wrong_can_be_asked_for_while_it_is_there(start: Start) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        socket = f"{folder}/rpc"
        served = start(*TCP, "--check=warn", "--rpc", socket)
        bad_host(served.url)
        with RpcClient(socket) as client:
            (row,) = [one for one in client.call("checker.summary") if one["severity"] == "error"]
            rules = client.call("checker.rules")
        assert row["rule"] == "lba-range"
        assert {one["id"] for one in rules if one["judged"]} == {
            ident for ident, rule in RULES.items() if rule.mode in ("any", "tcp")
        }


def test_serve_of_both_kinds_has_a_report_for_each(start: Start) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        served = start("--vfio-user", f"{folder}/ssd", *TCP, "--check", "--json")
        code, out, _ = served.end()
    assert code == 0
    assert [one["scope"] for one in json.loads(out)["checkers"]] == ["mmap", "tcp"]
