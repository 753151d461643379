"""`serve --tcp --rpc`: what is shown is the controller that serves, whichever host has it."""

from __future__ import annotations

import pytest
from tcprpc import NQN, RemoteServed, eventually

from nvme_emu.observe.rpc import RpcError
from nvme_emu.observe.target import RpcTarget
from nvme_emu.observe.tui.attached import AttachedSource
from nvme_emu.spec.identify import IDENTIFY_CONTROLLER, Cns
from nvme_emu.spec.logs import SMART_HEALTH, Lid


def test_queues_and_commands_are_those_of_the_host_that_is_there(served: RemoteServed) -> None:
    assert served.hosts() == [] and served.state().sqs == ()
    with served.host(mode="async", queues=2) as ssd:
        ssd.namespaces[1].write(0, bytes(4096))
        (one,) = served.hosts()
        assert one["hostnqn"].endswith("host-a") and one["qids"] == [0, 1, 2] and one["watched"]
        state = served.state()
        assert state.consistent and state.controller.state == "ready"
        assert [sq.qid for sq in state.sqs] == [cq.qid for cq in state.cqs] == [0, 1, 2]
        assert [command.name for command in state.commands if command.stage == "parked"]
        written = [entry for sq in state.sqs[1:] for entry in sq.entries if entry.words == "Write"]
        assert len(written) == 1 and state.stats.write_ios == 1
        who = IDENTIFY_CONTROLLER.parse(RpcTarget(served.client).identify(Cns.CONTROLLER))
        assert (who.cntlid, who.subnqn) == (one["cntlid"], NQN)
    eventually(lambda: served.hosts() == [])
    assert served.state().sqs == () and served.state().stats.write_ios == 1


def test_newest_host_is_shown_unless_another_is_chosen(served: RemoteServed) -> None:
    with served.host("a", queues=1), served.host("b", queues=2):
        first, second = served.hosts()
        assert [first["watched"], second["watched"]] == [False, True] and len(served.state().sqs) == 3
        served.client.call("hosts.watch", cntlid=first["cntlid"])
        assert [one["watched"] for one in served.hosts()] == [True, False] and len(served.state().sqs) == 2
        with pytest.raises(RpcError, match="no such controller"):
            served.client.call("hosts.watch", cntlid=999)
        served.client.call("hosts.watch")
        assert [one["watched"] for one in served.hosts()] == [False, True]


def test_health_is_that_of_the_ssd_for_every_host(served: RemoteServed) -> None:
    def temperature() -> int:
        return int(SMART_HEALTH.parse(RpcTarget(served.client).log(Lid.SMART_HEALTH, 512)).composite_temperature)

    with served.host("a"):
        served.client.call("health.set", temperature_k=333)
        with served.host("b"):
            for one in served.hosts():
                served.client.call("hosts.watch", cntlid=one["cntlid"])
                assert temperature() == 333
    eventually(lambda: served.hosts() == [])
    assert temperature() == 333


def test_top_attached_shows_the_queues_of_the_host(served: RemoteServed) -> None:
    source = AttachedSource(served.socket)
    try:
        with served.host(mode="async") as ssd:
            ssd.namespaces[1].read(0, 8)
            frame = source.frame()
            assert [sq.qid for sq in frame.sqs] == [0, 1]
            assert frame.stats.read_ios == 1
    finally:
        source.close()
