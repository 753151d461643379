"""`top --attach`: a machine behind a socket."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

import nvme_emu
from nvme_emu.observe.rpc import RpcClient, serve_rpc, watch
from nvme_emu.observe.tui.attached import AttachedSource


@pytest.fixture
def socket(tmp_path: Path) -> str:
    return str(tmp_path / "top.sock")


def until(condition: Any) -> None:
    end_s = time.monotonic() + 20
    while time.monotonic() < end_s:
        if condition():
            return
    raise AssertionError("it never came")


def test_attached_frame_shows_the_machine_its_events_and_latencies(socket: str) -> None:
    with nvme_emu.open(size="4M", mode="async") as ssd, serve_rpc(watch(ssd), socket):
        source = AttachedSource(socket)
        source.entries, source.events = 8, 1_000
        for block in range(20):
            ssd.namespaces[1].write(block, bytes(512))
        until(lambda: sum(event.name == "nvme_complete_rq" for event in source.frame().events) >= 20)
        frame = source.frame()
        source.close()
    assert frame.stats.write_ios == 20
    assert frame.stats.latency["write"].count == 20
    assert sum(frame.maps[0].writes) >= 20
    assert len(frame.sqs[-1].entries) == 8
    assert frame.title.startswith("attached to ")
    assert set(frame.play.barred) >= {"step", "slow"}


def test_attached_recorder_is_taken_away_again(socket: str) -> None:
    with nvme_emu.open(size="4M") as ssd, serve_rpc(watched := watch(ssd), socket):
        source = AttachedSource(socket)
        assert watched.recorder is not None
        source.close()
        with RpcClient(socket) as client:
            assert client.call("system.info")["recording"] is False


def test_attached_recorder_of_somebody_else_stays(socket: str) -> None:
    with nvme_emu.open(size="4M") as ssd, serve_rpc(watched := watch(ssd), socket), RpcClient(socket) as client:
        client.call("stats.start")
        AttachedSource(socket).close()
        client.call("stats.get")
        assert watched.recorder is not None


def test_attached_server_that_goes_leaves_its_last_frame(socket: str) -> None:
    with nvme_emu.open(size="4M") as ssd:
        with serve_rpc(watch(ssd), socket):
            source = AttachedSource(socket)
            before = source.frame()
        after = source.frame()
        assert after.play.mode == "ended"
        assert after.note
        assert after.sqs == before.sqs
        source.close()


def test_attached_pause_holds_the_picture_only(socket: str) -> None:
    with nvme_emu.open(size="4M") as ssd, serve_rpc(watch(ssd), socket):
        source = AttachedSource(socket)
        source.toggle_pause()
        ssd.namespaces[1].write(0, bytes(512))
        assert source.frame().stats.write_ios == 0
        assert "the machine goes on" in source.frame().note
        source.toggle_pause()
        assert source.frame().stats.write_ios == 1
        with pytest.raises(ValueError, match="another process"):
            source.step("event")
        source.close()


def test_attached_rule_is_armed_over_the_socket(socket: str) -> None:
    rule = {"id": "slow", "armed": False, "match": {"opcode": "read"}, "then": {"delay": {"ns": 1000}}}
    with nvme_emu.open(size="4M") as ssd:
        ssd.faults.add(rule)
        with serve_rpc(watch(ssd), socket):
            source = AttachedSource(socket)
            assert [one.armed for one in source.frame().faults or ()] == [False]
            source.arm("slow", True)
            assert ssd.faults["slow"].armed
            assert [one.armed for one in source.frame().faults or ()] == [True]
            source.close()


def test_attached_past_is_made_of_the_events_that_arrived(socket: str) -> None:
    with nvme_emu.open(size="4M", mode="async") as ssd, serve_rpc(watch(ssd), socket):
        source = AttachedSource(socket)
        source.events = 100
        with pytest.raises(ValueError, match="no event has arrived"):
            source.travel(-1)
        ssd.namespaces[1].write(0, bytes(512))
        until(lambda: any(event.name == "nvme_complete_rq" for event in source.frame().events))
        source.travel(-1)
        assert source.frame().play.mode == "past"
        source.travel_to("now")
        assert source.frame().play.mode == "running"
        source.close()
