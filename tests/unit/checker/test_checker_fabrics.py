"""The checker behind NVMe/TCP: each rule that can be judged there is broken by a host and nearly broken by another."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import cases_capsules
import cases_fabrics
import pytest
from capsulehost import CapsuleHost
from tcphost import NQN, make_target

import nvme_emu
from nvme_emu.cli.serve_faults import HostFaults
from nvme_emu.controller import Controller, ControllerConfig
from nvme_emu.core.memory import HostMemory
from nvme_emu.driver.fabrics import FabricsHost
from nvme_emu.observe.checker import RULES, SCOPES, FabricsChecker
from nvme_emu.observe.checker.report import as_json, as_text
from nvme_emu.transports.loop import Loop
from nvme_emu.transports.tcp import InitiatorOptions, TcpServer, TcpServerConfig

CASES = {**cases_fabrics.CASES, **cases_capsules.CASES}
Case = Callable[[CapsuleHost], None]
BAD = [
    pytest.param(rule, bad, id=f"{rule}-{number}")
    for rule, (bads, _) in CASES.items()
    for number, bad in enumerate(bads)
]
GOOD = [pytest.param(rule, good, id=rule) for rule, (_, good) in CASES.items()]


def host_for(rule: str, **more: Any) -> CapsuleHost:
    return CapsuleHost(**cases_capsules.OPTIONS.get(rule, {}), **more)


def test_every_rule_that_can_be_judged_has_cases() -> None:
    assert set(CASES) == {ident for ident, rule in RULES.items() if rule.mode in SCOPES["tcp"]}


@pytest.mark.parametrize(("rule", "bad"), BAD)
def test_rule_is_broken_by(rule: str, bad: Case) -> None:
    host = host_for(rule, **cases_fabrics.BAD_OPTIONS.get(rule, {}))
    try:
        bad(host)
    except OverflowError:
        assert rule == "queue-full"
    assert rule in host.broken, [str(one) for one in host.checker.findings]


@pytest.mark.parametrize(("rule", "good"), GOOD)
def test_rule_is_kept_by(rule: str, good: Case) -> None:
    host = host_for(rule)
    good(host)
    host.down()
    assert host.broken == set(), [str(one) for one in host.checker.findings]


def test_finding_names_the_host_and_its_last_commands() -> None:
    host = CapsuleHost()
    host.ready()
    host.rw()
    host.rw(slba=5000)
    (finding,) = host.checker.findings
    assert finding.host == "nqn.2024-01.org.example:host (controller 1)"
    assert str(finding).startswith("error: lba-range: nqn.2024-01.org.example:host (controller 1) q1 cid ")
    assert [type(event).__name__ for event in finding.history][-2:] == ["PostCqe", "FetchCmd"]
    assert finding.history[-1].cid == finding.cid
    assert json.loads(json.dumps(as_json(host.checker)))["findings"][0]["host"] == finding.host


def test_findings_of_all_hosts_are_kept_when_they_have_gone() -> None:
    host = CapsuleHost()
    for _ in range(3):
        host.ready()
        host.rw(slba=5000)
        host.down()
    assert not host.target.associations
    (summary,) = host.checker.summaries
    assert (summary.rule, summary.count) == ("lba-range", 3)
    assert summary.last.host.endswith("(controller 3)")


def test_checker_that_breaks_is_told_of_and_disturbs_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    host = CapsuleHost()
    host.ready()
    monkeypatch.setattr("nvme_emu.observe.checker.fabrics.report_failure", lambda *args: None)
    monkeypatch.setattr("nvme_emu.observe.checker.capsules.SGL", None)
    host.rw()
    assert isinstance(host.checker.internal_error, AttributeError)
    assert "did not judge everything" in as_text(host.checker)


def test_detached_checker_gives_everything_back() -> None:
    target = make_target()
    checker = FabricsChecker(target).attach()
    checker.detach()
    checker.detach()
    assert "open" not in vars(target)
    assert all(one.on_association is None for one in (*target.subsystems.values(), target.discovery))


@pytest.fixture
def checked() -> Iterator[tuple[str, FabricsChecker]]:
    """(where a served SSD is, who watches its hosts)."""
    loop, target = Loop(), make_target(size=8 << 20)
    checker = FabricsChecker(target).attach()
    server = TcpServer(loop, target, TcpServerConfig(port=0), log=lambda line: None)
    thread = threading.Thread(target=loop.run)
    thread.start()
    yield f"nvme-tcp://127.0.0.1:{server.address[1]}/{NQN}", checker
    loop.stop()
    thread.join(10)
    checker.host_is_there = True
    server.close()
    loop.close()
    assert server.internal_error is None
    assert checker.internal_error is None


@pytest.mark.parametrize(("mode", "worker"), [("sync", "pump"), ("async", "pump"), ("async", "per-request")])
@pytest.mark.parametrize("digests", [False, True])
def test_our_initiator_keeps_every_rule(
    mode: str, worker: str, digests: bool, checked: tuple[str, FabricsChecker]
) -> None:
    url, checker = checked
    options = InitiatorOptions(header_digest=digests, data_digest=digests)
    with nvme_emu.open(url, mode=mode, worker=worker, queues=2, depth=16, tcp=options) as ssd:
        ns = ssd.namespaces[1]
        for lba in range(40):
            ns.write(lba, bytes([lba]) * 512)
        for request in [ns.submit_read(lba, 8) for lba in range(60)]:
            request.wait()
        ns.write(0, bytes(1 << 18))
        ns.read(0, 512)
        ns.read_many(list(range(0, 640, 8)), 8)
        ns.flush()
        ns.discard([(0, 8), (16, 8)])
        ns.write_zeroes(0, 8)
    assert checker.findings == (), as_text(checker)


def test_our_initiator_keeps_every_rule_after_a_reset(checked: tuple[str, FabricsChecker]) -> None:
    url, checker = checked
    with nvme_emu.open(url, identity=FabricsHost(kato_ms=60_000), reconnect_delay=0.01) as ssd:
        ssd.namespaces[1].write(0, bytes(512))
        ssd.driver.reset()
        ssd.namespaces[1].write(0, bytes(512))
    assert [one for one in checker.findings if one.rule != "left-without-shutdown"] == [], as_text(checker)


def test_fault_that_cuts_the_connection_is_not_the_hosts_doing() -> None:
    host = CapsuleHost()
    faults = HostFaults(Controller(ControllerConfig(), memory=HostMemory()), 0, lambda: host.now_ns)
    (subsystem,) = host.target.subsystems.values()
    watching = subsystem.on_association
    assert watching is not None
    subsystem.on_association = lambda association: (watching(association), faults.joined(association))  # type: ignore
    host.ready()
    faults.add({"match": {"opcode": "keep_alive"}, "then": {"tcp": {"how": "disconnect"}}})
    host.do(0x18)
    assert host.admin.session.over == "a fault rule ends the connection"
    host.leave()
    assert host.broken == set()
