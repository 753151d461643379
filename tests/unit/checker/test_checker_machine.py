"""The checker in a machine: who hears of findings, when it raises, and that it costs nothing when it is off."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
from checkedhost import CheckedHost
from rawhost import FixedLatency

import nvme_emu
from nvme_emu.core.trace import CheckFinding
from nvme_emu.observe.checker import RULES, SCOPES, Checker, CheckError, CheckerWarning
from nvme_emu.observe.checker.ledger import FINDINGS_MAX
from nvme_emu.observe.checker.report import as_json, as_sarif, as_text, summary_line, write_report
from nvme_emu.observe.rpc_checker import CheckerMethods
from nvme_emu.observe.watched import watch

STYLES = [("sync", "pump"), ("async", "pump"), ("async", "inline"), ("async", "poll"), ("async", "per-request")]


@pytest.mark.parametrize("clock", ["wall", "virtual"])
@pytest.mark.parametrize(("mode", "worker"), STYLES)
def test_our_driver_keeps_every_rule(mode: str, worker: str, clock: str) -> None:
    options = {"mode": mode, "worker": worker, "clock": clock, "queues": 2, "depth": 16}
    profile = "tlc" if clock == "virtual" else "instant"
    with nvme_emu.open(size="8M", check="error", profile=profile, **options) as ssd:
        ns = ssd.namespaces[1]
        for lba in range(40):
            ns.write(lba, bytes([lba]) * 512)
        for request in [ns.submit_read(lba, 8) for lba in range(60)]:
            request.wait()
        ns.write(0, bytes(1 << 20))
        ns.read(0, 2048)
        ns.read_many(list(range(0, 640, 8)), 8)
        ns.flush()
        ns.discard([(0, 8), (16, 8)])
    assert ssd.checker is not None
    assert ssd.checker.findings == ()


def test_error_is_raised_by_the_call_that_breaks_the_rule() -> None:
    with nvme_emu.open(size="1M", check="error") as ssd:
        with pytest.raises(CheckError, match=r"doorbell-no-queue.*SQ 9 doorbell 1") as caught:
            ssd.port.ring_sq(9, 1)
        assert [one.rule for one in caught.value.findings] == ["doorbell-no-queue"]
        ssd.namespaces[1].read(0, 1)  # said once
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)


def test_what_a_worker_does_is_raised_by_close(monkeypatch: pytest.MonkeyPatch) -> None:
    ssd = nvme_emu.open(size="1M", check="error")
    monkeypatch.setattr(ssd, "_caller", lambda: None)
    ssd.controller.ring_sq(9, 1)
    with pytest.raises(CheckError, match="doorbell-no-queue"):
        ssd.close()


def test_warn_collects_and_warns_at_the_end() -> None:
    ssd = nvme_emu.open(size="1M", check="warn")
    ssd.port.ring_sq(9, 1)
    assert ssd.checker is not None
    assert [one.rule for one in ssd.checker.findings] == ["doorbell-no-queue"]
    with pytest.warns(CheckerWarning, match=r"doorbell-no-queue \(1\)"):
        ssd.close()


def test_check_off_leaves_the_controller_alone() -> None:
    with nvme_emu.open(size="1M", check="off") as ssd:
        assert ssd.checker is None
        assert ssd.controller.trace is ssd.trace
        assert not {"mmio_read", "defer", "checker"} & vars(ssd.controller).keys()


def test_environment_says_what_open_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVME_EMU_CHECK", "warn")
    with nvme_emu.open(size="1M") as ssd:
        assert ssd.checker is not None
        assert ssd.checker.level == "warn"
    with pytest.raises(ValueError, match="check='always'"):
        nvme_emu.open(size="1M", check="always")


def test_detached_checker_gives_everything_back() -> None:
    host = CheckedHost()
    host.checker.detach()
    assert not {"mmio_read", "defer", "checker"} & vars(host.ctrl).keys()
    host.doorbell(9, 1)
    assert host.broken == set()
    Checker(host.ctrl).attach()
    with pytest.raises(ValueError, match="checker already"):
        Checker(host.ctrl).attach()


def test_findings_of_one_rule_are_bounded_and_counted() -> None:
    host = CheckedHost()
    host.ready()
    for _ in range(FINDINGS_MAX + 5):
        host.doorbell(9, 1)
    assert len(host.checker.findings) == FINDINGS_MAX
    assert host.checker.summaries[0].count == FINDINGS_MAX + 5
    assert "doorbell-no-queue: 5 more" in as_text(host.checker)


def test_history_holds_the_last_events_of_that_queue() -> None:
    host = CheckedHost(latency=FixedLatency(0))
    host.ready()
    for cid in range(20):
        host.do(cid=cid)
    host.doorbell(1, 99)
    finding = host.checker.findings[-1]
    assert len(finding.history) == 32
    assert finding.history[-1].value == 99
    assert all(getattr(event, "sqid", getattr(event, "qid", 1)) == 1 for event in finding.history)


@pytest.mark.parametrize("scope", SCOPES)
def test_rules_that_cannot_be_judged_are_told_and_not_reported(scope: str) -> None:
    host = CheckedHost(scope=scope)
    host.ready()
    host.do()
    host.io.ring()  # the same tail again: seen only where each write is
    seen = scope in ("inproc", "trapped")
    assert ("sq-tail-same" in host.broken) is seen
    assert ("sq-tail-same" in host.checker.not_judged) is (scope == "mmap")  # over TCP there are no rings at all


def test_reports_hold_the_finding(tmp_path: Path) -> None:
    host = CheckedHost()
    host.ready()
    host.doorbell(9, 1)
    assert summary_line(host.checker) == "checker: 1 error(s), 0 warning(s): doorbell-no-queue 1"
    assert as_json(host.checker)["findings"][0]["history"][-1]["event"] == "doorbell"
    (run,) = as_sarif([host.checker])["runs"]
    assert run["results"][0]["ruleId"] == run["tool"]["driver"]["rules"][0]["id"] == "doorbell-no-queue"
    for name in ("r.json", "r.sarif", "r.txt"):
        write_report([host.checker], tmp_path / name)
        assert "doorbell-no-queue" in (tmp_path / name).read_text()
    json.loads((tmp_path / "r.json").read_text())


def test_finding_is_an_event_and_an_answer_of_the_socket() -> None:
    with nvme_emu.open(size="1M", check="error") as ssd:
        heard: list[object] = []
        ssd.trace.add_sink(heard.append)
        with pytest.raises(CheckError):
            ssd.port.ring_sq(9, 1)
        assert any(isinstance(event, CheckFinding) for event in heard)
        assert ssd.checker is not None
        methods = CheckerMethods(watch(ssd), ssd.checker)
        assert methods.summary()[0]["rule"] == "doorbell-no-queue"
        assert methods.findings(rule="doorbell-no-queue")[0]["qid"] == 9
        assert len(methods.rules()) == len(RULES)
        assert methods.report()["errors"] == 1
        assert methods.clear() == 1
        assert methods.findings() == []


def test_checker_that_breaks_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    host = CheckedHost()
    monkeypatch.setattr(host.checker.queues, "written", None)
    monkeypatch.setattr("nvme_emu.observe.checker.checker.report_failure", lambda *args: None)
    host.doorbell(0, 1)
    assert isinstance(host.checker.internal_error, TypeError)
    with pytest.raises(RuntimeError, match="did not judge everything"):
        host.checker.raise_new()
