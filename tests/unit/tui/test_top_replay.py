"""Traces looked at: read back from JSON lines, moved through, rebuilt into rings and commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tuihelpers import JOB, options

from nvme_emu.cli.top import Workload, _plan
from nvme_emu.core.trace import (
    Doorbell,
    FetchCmd,
    Kworker,
    NvmeCompleteRq,
    NvmeQueueRq,
    NvmeSetupCmd,
    NvmeSq,
    PostCqe,
    as_record,
)
from nvme_emu.observe.tui.frame import PlayState
from nvme_emu.observe.tui.replay import Recording, ReplaySource
from nvme_emu.observe.tui.replay_model import Model, estimate
from nvme_emu.observe.tui.trace_events import event_of, event_state, read_trace

ONE_READ = [
    NvmeQueueRq(100, 7, 2, 64, 8, "job"),
    Kworker(110, "sched_kthread_work_queue_work", ("nvme1", "_pump")),
    Kworker(120, "sched_kthread_work_execute_start", ("nvme1", "_pump")),
    NvmeSetupCmd(130, 7, 1, 0x1003, 2, 1, 64, 8),
    NvmeSq(140, 1, 6, 1),
    Doorbell(141, 1, False, 6),
    FetchCmd(150, 1, 0x1003, 2, 1, 64, 8),
    PostCqe(70_150, 1, 1, 0x1003, 0x281, 6),
    NvmeCompleteRq(71_000, 7, 1, 0x1003, 0x281),
    Doorbell(71_010, 1, True, 6),
    Kworker(71_020, "sched_kthread_work_execute_end", ("nvme1", "_pump")),
]


def at(events: list[Any], count: int) -> Model:
    model = Model(estimate(events, {1: 8}))
    for event in events[:count]:
        model.feed(event)
    return model


@pytest.mark.parametrize(
    ("count", "stage"),
    [(0, None), (1, "listed"), (3, "listed"), (4, "prepared"), (5, "submitted"), (7, "executing"),
     (8, "completed"), (9, None)],
)  # fmt: skip
def test_command_goes_through_its_stages(count: int, stage: str | None) -> None:
    assert [one.stage for one in at(ONE_READ, count).commands()] == ([stage] if stage else [])


def test_age_counts_from_the_hand_over() -> None:
    (one,) = at(ONE_READ, 8).commands()
    assert one.age_ns == 70_050
    assert (one.request, one.cid, one.name, one.slba, one.nlb) == (7, 0x1003, "Read", 64, 8)


def test_rings_move_as_their_doorbells_say() -> None:
    # One command before tail 6 and one completion before head 6: both rings stood at 5.
    assert [(sq.head, sq.tail, sq.host_tail) for sq in at(ONE_READ, 0).sqs(4)] == [(5, 5, None)]
    assert [(sq.head, sq.tail, sq.host_tail) for sq in at(ONE_READ, 4).sqs(4)] == [(5, 5, 6)]
    assert [(sq.waiting, sq.inflight) for sq in at(ONE_READ, 6).sqs(4)] == [(1, 0)]
    assert [(sq.waiting, sq.inflight) for sq in at(ONE_READ, 7).sqs(4)] == [(0, 1)]
    assert [(cq.head, cq.tail, cq.posted) for cq in at(ONE_READ, 8).cqs(4)] == [(5, 6, 1)]
    assert [(cq.head, cq.tail, cq.posted) for cq in at(ONE_READ, 10).cqs(4)] == [(6, 6, 0)]


def test_slots_are_rebuilt_from_what_the_events_record() -> None:
    from nvme_emu.spec.decode import decode_cqe, decode_sqe

    slot = at(ONE_READ, 7).sqs(1)[0].entries[0]
    assert (slot.index, slot.state) == (5, "inflight")
    decoded = decode_sqe(bytes.fromhex(slot.raw), False)
    assert (decoded.find("slba").value, decoded.find("nlb_z").value, decoded.find("cid").value) == (64, 7, 0x1003)
    done = at(ONE_READ, 8).cqs(1)[0].entries[0]
    assert (done.index, done.state, done.phase, done.status) == (5, "new", 1, 0x281)
    assert decode_cqe(bytes.fromhex(done.raw)).find("sqhd").value == 6


def test_phase_turns_where_the_ring_begins_anew() -> None:
    events = [PostCqe(at_ns, 1, 1, at_ns, 0, 0) for at_ns in range(10)]
    model = at(events, 10)
    (ring,) = model.cqs(8)
    assert (ring.tail, ring.phase) == (2, 0)
    assert {entry.index: entry.phase for entry in ring.entries} == {**dict.fromkeys(range(2, 8), 1), 0: 0, 1: 0}


def test_worker_runs_and_idles_as_the_trace_says() -> None:
    assert [len(one.queued) for one in at(ONE_READ, 2).workers()] == [1]
    (running,) = at(ONE_READ, 5).workers()
    assert (running.state, running.queued) == ("running", ())
    assert running.current is not None and running.current.name == "_pump"
    (idle,) = at(ONE_READ, 11).workers()
    assert (idle.state, idle.runs, idle.busy_ns) == ("idle", 1, 70_900)


def test_trace_of_a_server_has_no_driver_and_is_rebuilt_from_fetches() -> None:
    events = [event for event in ONE_READ if type(event) in (FetchCmd, PostCqe, Doorbell)]
    assert [one.stage for one in at(events, 2).commands()] == ["executing"]
    assert [one.stage for one in at(events, 3).commands()] == []
    frame = Recording(events).frame(PlayState(mode="replay"), entries=4, events=9)
    assert frame.stats.latency["read"].count == 1
    assert frame.stats.failed[0].status == 0x281


def test_any_event_survives_its_record() -> None:
    for event in ONE_READ:
        assert event_of(json.loads(json.dumps(as_record(event)))) == event
        assert event_state(1, event).words


@pytest.fixture
def trace_file(tmp_path: Path) -> str:
    """Four hundred commands of a simulated machine."""
    path = tmp_path / "trace.jsonl"
    opts = options(tmp_path, JOB.replace("size=4m", "size=4m\nnumber_ios=400"), trace=str(path))
    made = Workload(opts, _plan(opts))
    with made.running():
        made.after(1_000_000_000)
    return str(path)


def test_back_and_forth_through_a_file_gives_the_same_frames(trace_file: str) -> None:
    source = ReplaySource(trace_file)
    source.entries, source.events = 32, 20
    total = source.frame().play.total
    assert total > 2_000
    forth = []
    source.travel_to("first")
    for _ in range(6):
        source.travel(401)
        forth.append(source.frame())
    back = []
    for _ in range(6):
        back.append(source.frame())
        source.travel(-401)
    assert back[::-1] == forth
    assert source.frame().play.position == 1


def test_last_frame_of_a_file_has_all_commands(trace_file: str) -> None:
    frame = ReplaySource(trace_file).frame()
    assert frame.stats.read_ios + frame.stats.write_ios == 400
    assert sum(state.count for kind, state in frame.stats.latency.items() if kind != "admin") == 400
    assert frame.commands == ()
    assert len(frame.points) > 50
    assert {"worker_list", "submission", "device", "completion"} <= set(frame.stats.stages)


def test_replay_steps_to_the_next_completion(trace_file: str) -> None:
    source = ReplaySource(trace_file)
    source.events = 1
    source.travel_to("first")
    for _ in range(3):
        source.step("command")
        assert source.frame().events[-1].name == "nvme_complete_rq"
    before = source.frame().play.position
    source.step("event")
    assert source.frame().play.position == before + 1


def test_replay_plays_by_itself_to_the_end(trace_file: str) -> None:
    source = ReplaySource(trace_file)
    source.toggle_pause()
    modes = [source.frame().play.mode for _ in range(2_000)]
    assert modes[0] == "running" and modes[-1] == "replay"
    assert source.frame().play.position == source.frame().play.total
    with pytest.raises(ValueError, match="recording"):
        source.slow(1)


def test_file_that_is_no_trace_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    good = json.dumps(as_record(ONE_READ[0]))
    for bad in ("{", "[]", '{"ts_ns": 1}', '{"ts_ns": "x", "event": "fetch_cmd"}'):
        path.write_text(f"{good}\n{bad}\n")
        with pytest.raises(ValueError, match=r"bad\.jsonl:2"):
            read_trace(str(path))
    path.write_text(good + '\n{"ts_ns": 1, "event": "fetch_cmd", "sqid": 1}\n')
    with pytest.raises(ValueError, match=r"fetch_cmd at 1 ns: field 'cid'"):
        read_trace(str(path))
    path.write_text("")
    with pytest.raises(ValueError, match="no events"):
        ReplaySource(str(path))


def test_what_a_trace_has_lost_is_said(tmp_path: Path) -> None:
    path = tmp_path / "ring.jsonl"
    records = [{"ts_ns": 1, "event": "trace_dropped", "dropped": 12}, *map(as_record, ONE_READ)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert "12 older events were dropped" in ReplaySource(str(path)).frame().note


def test_events_of_kinds_that_are_not_known_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "new.jsonl"
    path.write_text('{"ts_ns": 1, "event": "from_the_future", "x": 1}\n' + json.dumps(as_record(ONE_READ[0])) + "\n")
    events, _ = read_trace(str(path))
    assert events == ONE_READ[:1]
