"""Rules over `serve --tcp --rpc`: they hold for every host's controller, and for those that come later."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
from tcphost import make_target
from tcprpc import RemoteServed, eventually

from nvme_emu.cli.serve_faults import HostFaults
from nvme_emu.controller import Controller, ControllerConfig, Namespace
from nvme_emu.controller.fabrics import Association, FabricsTarget
from nvme_emu.controller.faults import VolatileCache
from nvme_emu.core.errors import NvmeError
from nvme_emu.core.faults import FaultError
from nvme_emu.core.memory import HostMemory
from nvme_emu.media import RamMedia
from nvme_emu.observe.rpc import RpcError
from nvme_emu.observe.tui.attached import AttachedSource

READS_FAIL = {"id": "bad", "match": {"opcode": "read"}, "then": {"status": {"code": "READ_ERROR", "dnr": True}}}


def rule(served: RemoteServed) -> dict[str, Any]:
    """The only rule, as the server tells it."""
    (one,) = served.client.call("faults.list")
    assert isinstance(one, dict)
    return one


def fails(ssd: Any) -> bool:
    try:
        ssd.namespaces[1].read(0, 1)
    except NvmeError as error:
        assert error.errno == errno.ENODATA
        return True
    return False


def test_rule_holds_for_hosts_that_are_there_and_for_those_that_come(served: RemoteServed) -> None:
    with served.host("a") as a:
        assert not fails(a)
        assert served.client.call("faults.add", rule=READS_FAIL)["hits"] == 0
        assert fails(a) and fails(a)
        with served.host("b") as b:
            assert fails(b)
            (one, other) = served.hosts()
            told = rule(served)
            assert (told["hits"], told["fired"], told["armed"]) == (3, 3, True)
            assert told["hosts"] == [
                {"cntlid": one["cntlid"], "hits": 2, "fired": 2}, {"cntlid": other["cntlid"], "hits": 1, "fired": 1}
            ]  # fmt: skip
        eventually(lambda: len(served.hosts()) == 1)
        assert rule(served)["fired"] == 3 and len(rule(served)["hosts"]) == 1
        assert [event["rule"] for event in served.client.call("faults.firings", id="bad")] == ["bad"] * 3


def test_disarmed_and_removed_rules_do_nothing_for_any_host(served: RemoteServed) -> None:
    served.client.call("faults.add", rule=READS_FAIL)
    with served.host("a") as a, served.host("b") as b:
        assert fails(a) and fails(b)
        assert served.client.call("faults.disarm", id="bad")["armed"] is False
        with served.host("c") as c:
            assert not any(map(fails, (a, b, c)))
            served.client.call("faults.arm", id="bad")
            assert all(map(fails, (a, b, c)))
            assert served.client.call("faults.remove", id="bad")["fired"] == 5
            assert not any(map(fails, (a, b, c)))
        assert served.client.call("faults.list") == []


def test_firing_is_an_event_and_top_shows_and_arms_the_rule(served: RemoteServed) -> None:
    served.client.call("faults.add", rule=READS_FAIL)
    served.client.call("events.subscribe", events=["fault_fired"])
    source = AttachedSource(served.socket)
    try:
        with served.host() as ssd:
            assert fails(ssd)
            batch = served.client.events(timeout_s=60)
            assert batch is not None and batch["events"][0]["rule"] == "bad"
            source._faults_due_s = 0.0
            (shown,) = source.frame().faults or ()
            assert (shown.rule, shown.armed, shown.fired) == ("bad", True, 1)
            source.arm("bad", False)
            (shown,) = source.frame().faults or ()
            assert not shown.armed and not fails(ssd)
    finally:
        source.close()


def test_effects_on_the_device_can_be_fired_at_every_host(served: RemoteServed) -> None:
    hot = {"id": "hot", "match": {"on": "manual"}, "then": {"temperature": {"kelvin": 350}}}
    served.client.call("faults.add", rule=hot)
    with pytest.raises(RpcError, match="no host"):
        served.client.call("faults.fire", id="hot")
    with served.host("a"), served.host("b"):
        assert served.client.call("faults.fire", id="hot")["fired"] == 2
        for one in served.hosts():
            served.client.call("hosts.watch", cntlid=one["cntlid"])
            assert served.state().smart.composite_temperature == 350


def test_tcp_rule_is_taken_over_rpc_and_a_wrong_one_is_not(served: RemoteServed, tmp_path: Path) -> None:
    file = tmp_path / "lost.toml"
    file.write_text(
        '[[rules]]\nid = "lost"\nmatch = {opcode = "read"}\nwhen = {nth = 2}\nthen = {tcp = {how = "disconnect"}}\n'
    )
    with pytest.raises(RpcError):
        served.client.call("faults.add", rule={"match": {}, "then": {"interrupt": {"how": "spurious", "vector": 9999}}})
    assert [one["id"] for one in served.client.call("faults.load", file=str(file))] == ["lost"]
    with served.host() as ssd:
        for _ in range(2):
            assert bytes(ssd.namespaces[1].read(0, 1)) == bytes(512)
        assert ssd.driver.recovery.counters.resets >= 1
    assert rule(served)["fired"] >= 1
    assert len(served.client.call("faults.clear")) == 1 and served.client.call("faults.list") == []


def test_write_cache_lies_over_the_media_while_a_rule_needs_it_also_without_a_host() -> None:
    namespace = Namespace(1, RamMedia(1 << 20), 512)
    own = Controller(ControllerConfig(), memory=HostMemory(), namespaces=[namespace])
    faults = HostFaults(own, 0, lambda: 1)
    one = faults.add({"id": "dark", "match": {"on": "manual"}, "then": {"power_loss": {}}})
    assert isinstance(namespace.media, VolatileCache)
    with pytest.raises(FaultError):
        faults.add({"id": "dark", "match": {"on": "manual"}, "then": {"power_loss": {}}})
    one.remove()
    one.remove()
    assert not isinstance(namespace.media, VolatileCache) and faults.snapshot() == []


def test_hosts_that_have_gone_are_forgotten_and_what_they_counted_is_not() -> None:
    faults = HostFaults(Controller(ControllerConfig(), memory=HostMemory(), namespaces=[]), 0, lambda: 1)
    target: FabricsTarget = make_target(on_association=faults.joined)
    (subsystem,) = target.subsystems.values()
    one = faults.add({"id": "hot", "match": {"on": "manual"}, "then": {"temperature": {"kelvin": 350}}})
    for cntlid in (1, 2, 3):
        host = Association(target, subsystem, cntlid, "nqn.2024-01.org.example:host", bytes(16))
        one.fire()
        host.end("gone")
    (told,) = faults.snapshot()
    assert (told["fired"], told["hosts"], len(one.firings)) == (3, [], 3)
    assert list(faults._units) == list(one.states) == [0]
