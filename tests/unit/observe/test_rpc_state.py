"""The snapshot: what a machine's state says, and its way to JSON and back."""

from __future__ import annotations

import dataclasses
import json
import threading
from typing import Any

import pytest

import nvme_emu
from nvme_emu.observe import watched as watched_module
from nvme_emu.observe.snapshot import cq_entries, snapshot, sq_entries, stats_state, watch
from nvme_emu.observe.state import MachineState, RegisterState, StatsState, from_json, rates, to_json
from nvme_emu.spec.queues import SQE


def field(state: MachineState, register: str, name: str) -> int:
    found = next(reg for reg in state.controller.registers if reg.name == register)
    return next(one.value for one in found.fields if one.name == name)


@pytest.mark.parametrize("clock", ["wall", "virtual"])
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_state_goes_through_json_and_back_unchanged(clock: str, mode: str) -> None:
    with nvme_emu.open(size="16M", clock=clock, mode=mode, profile="tlc", namespaces=2) as ssd:
        watched = watch(ssd)
        watched.start_recording()
        ssd.namespaces[1].write(0, bytes(512))
        ssd.namespaces[2].read(0, 1)
        requests = [ssd.namespaces[1].submit_read(at, 1) for at in range(3)]
        state = snapshot(watched, entries_max=64)
        for request in requests:
            request.wait()
    assert from_json(MachineState, json.loads(json.dumps(to_json(state)))) == state
    assert state.clock == clock and len(state.namespaces) == 2
    assert field(state, "CC", "en") == 1 and field(state, "CSTS", "rdy") == 1


def test_entries_and_pointers_of_the_rings_follow_the_commands(ssd: Any) -> None:
    watched = watch(ssd)
    for at in range(5):
        ssd.namespaces[1].read(at, 1)
    state = snapshot(watched, entries_max=8)
    sq, cq = state.sqs[1], state.cqs[1]
    assert (sq.head, sq.tail, sq.waiting, sq.inflight, sq.host_tail, sq.host_head) == (5, 5, 0, 0, 5, 5)
    assert (cq.head, cq.tail, cq.phase, cq.posted, cq.reserved, cq.host_head) == (5, 5, 1, 0, 0, 5)
    assert [entry.index for entry in sq.entries] == [61, 62, 63, 0, 1, 2, 3, 4]
    assert [entry.state for entry in sq.entries] == ["empty"] * 3 + ["old"] * 5
    assert SQE.unpack(bytes.fromhex(sq.entries[-1].raw))[9] == 4
    assert [entry.state for entry in cq.entries] == ["empty"] * 3 + ["old"] * 5
    assert {entry.phase for entry in cq.entries[3:]} == {1}


def test_phase_turns_when_the_ring_wraps(ssd: Any) -> None:
    for at in range(70):
        ssd.namespaces[1].read(at, 1)
    entries = cq_entries(watch(ssd), 1)
    assert len(entries) == 64
    assert [entry.phase for entry in entries] == [0] * 6 + [1] * 58


def test_parts_of_a_ring_can_be_asked_for(ssd: Any) -> None:
    watched = watch(ssd)
    assert [entry.index for entry in sq_entries(watched, 0, 3, 2)] == [3, 4]
    assert sq_entries(watched, 0, 100, 5) == () and len(sq_entries(watched, 0)) == 32
    with pytest.raises(KeyError):
        sq_entries(watched, 7)


def test_commands_show_their_stage_age_and_time_to_go(simulated: Any) -> None:
    watched = watch(simulated)
    watched.start_recording()
    namespace = simulated.namespaces[1]
    stages: dict[int, set[str]] = {}
    states: list[MachineState] = []

    def look(_event: Any) -> None:
        states.append(snapshot(watched, entries_max=0))

    simulated.trace.add_sink(look)
    requests = [namespace.submit_read(at * 8, 8) for at in range(3)]
    for request in requests:
        request.wait()
    simulated.trace.remove_sink(look)
    for state in states:
        for command in state.commands:
            if command.stage == "parked":
                assert command.name == "Asynchronous Event Request" and command.due_ns is None
                continue
            assert command.request is not None and command.name == "Read" and command.nlb == 8
            stages.setdefault(command.request, set()).add(command.stage)
            if command.stage == "executing":
                assert command.due_ns is not None and command.age_ns is not None and command.age_ns >= 0
    assert len(stages) == 3
    for seen in stages.values():
        assert {"listed", "prepared", "executing", "completed"} <= seen
    assert all(command.stage == "parked" for command in snapshot(watched).commands)


def test_statistics_count_and_samples_name_the_slowest_and_the_failed(simulated: Any) -> None:
    watched = watch(simulated)
    before = stats_state(watched)
    watched.start_recording()
    for at in range(40):
        simulated.namespaces[1].read(at * 8, 8)
    with pytest.raises(nvme_emu.NvmeError):
        simulated.namespaces[1].compare(0, b"\x01" * 512)
    after = stats_state(watched)
    assert after.latency["read"].count == 40 and after.latency["other"].count == 1
    assert len(after.slowest) == 32 and after.slowest[0].latency_ns == max(one.latency_ns for one in after.slowest)
    assert [(one.name, "Compare Failure" in one.words) for one in after.failed] == [("Compare", True)]
    found = rates(before, after)
    # SMART counts Compare among the reads.
    assert found.read_iops == pytest.approx(41e9 / found.window_ns) and 0 < found.utilisation <= 1
    assert rates(after, after).read_iops == 0
    watched.stop_recording()
    assert stats_state(watched).recording_since_ns is None


def test_reader_that_cannot_have_the_lock_reads_all_the_same(ssd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched_module, "LOCK_WAIT_S", 0.01)
    watched, found = watch(ssd), []
    with ssd.port.lock:
        thread = threading.Thread(target=lambda: found.append(snapshot(watched)))
        thread.start()
        thread.join()
    assert found[0].consistent is False and found[0].controller.state == "ready"
    assert snapshot(watched).consistent is True


def test_idle_simulation_is_read_from_another_thread(simulated: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched_module, "LOCK_WAIT_S", 0.01)
    watched, found = watch(simulated), []
    thread = threading.Thread(target=lambda: found.append(snapshot(watched)))
    thread.start()
    thread.join()
    assert found[0].workers[0].name == "nvme1" and found[0].consistent is False
    assert simulated.trace.emit is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("clock"), "MachineState.clock is missing"),
        (lambda d: d.update(ts_ns="1"), "MachineState.ts_ns: must be int"),
        (lambda d: d.update(consistent=1), "must be bool"),
        (lambda d: d.update(sqs={}), "must be a list"),
        (lambda d: d["controller"]["registers"].append(3), "must be an object"),
        (lambda d: d["controller"].update(counters=[]), "must be an object"),
    ],
)
def test_json_of_another_form_is_refused_with_the_fields_name(ssd: Any, change: Any, message: str) -> None:
    data = to_json(snapshot(watch(ssd)))
    change(data)
    with pytest.raises(ValueError, match=message):
        from_json(MachineState, data)


def test_fields_of_a_newer_version_are_left_out_and_defaults_filled_in() -> None:
    state = RegisterState(name="CC", offset=20, size=4, value=1, words="w", clause="c", fields=())
    assert from_json(RegisterState, {**to_json(state), "new": 1}) == state
    required = {f.name: 0 for f in dataclasses.fields(StatsState) if f.default is dataclasses.MISSING}
    for name in ("latency", "stages"):
        required.pop(name, None)
    assert from_json(StatsState, required).slowest == ()
