"""A simulated machine looked at, held and stepped; and one on threads, which cannot be."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path
from typing import Any

import pytest
from tuihelpers import options

from nvme_emu.cli.top import Workload, _plan
from nvme_emu.core.trace import FetchCmd, NvmeCompleteRq
from nvme_emu.observe import snapshot
from nvme_emu.observe.state import to_json
from nvme_emu.observe.tui.gate import SPEEDS, Gate, GateClosed
from nvme_emu.observe.tui.live import SAMPLE_MAX, LiveSource


def held(workload: Workload) -> LiveSource:
    """The source of a workload that is held at its first event."""
    workload._gate.pause()
    source = workload.source(monotonic_s=itertools.count().__next__)
    workload._gate.wait_held(lambda: workload._over)
    source.entries, source.events = 64, 50
    return source


def settle(workload: Workload) -> None:
    workload._gate.wait_held(lambda: workload._over)


def test_step_event_goes_on_by_exactly_one_event(workload: Workload) -> None:
    source = held(workload)
    before = workload._gate.seen
    for count in range(1, 20):
        source.step("event")
        settle(workload)
        assert workload._gate.seen == before + count
        assert source.frame().events[-1].number == before + count


def test_step_command_stops_where_one_has_completed(workload: Workload) -> None:
    source = held(workload)
    for _ in range(5):
        posted = sum(event.__class__ is NvmeCompleteRq for event in workload._gate.events)
        source.step("command")
        settle(workload)
        events = list(workload._gate.events)
        assert events[-1].__class__ is NvmeCompleteRq and events[-1].qid
        assert sum(event.__class__ is NvmeCompleteRq for event in events) == posted + 1


def test_frame_while_held_is_consistent_and_stands_still(workload: Workload) -> None:
    source = held(workload)
    source.step("command")
    settle(workload)
    one, two = source.frame(), source.frame()
    assert one.note == ""
    assert one.play.mode == "paused"
    assert (one.ts_ns, one.commands, one.sqs) == (two.ts_ns, two.commands, two.sqs)


def test_run_that_was_stepped_and_looked_at_ends_like_one_that_was_not(tmp_path: Path) -> None:
    def trace_of(steer: Any) -> list[Any]:
        made = Workload(opts := options(tmp_path, after_ms=0), _plan(opts))
        with made.running():
            steer(made)
            while not made._over:
                threading.Event().wait(0.005)
            return [to_json(tuple(result.stats.read.lat.counts.tolist() for result in made.results)), made._gate.seen]

    def watched(made: Workload) -> None:
        source = held(made)
        for what in ("event", "command", "event", "command"):
            source.step(what)
            settle(made)
            source.frame()
        source.toggle_pause()

    assert trace_of(watched) == trace_of(lambda made: made.source())


def test_slow_motion_takes_the_reader_s_time(workload: Workload) -> None:
    source = held(workload)
    source.slow(len(SPEEDS))  # the slowest there is: 1 us of virtual time a second
    source.toggle_pause()
    before = source.frame().ts_ns
    threading.Event().wait(0.15)
    frame = source.frame()
    assert frame.play.mode == "slow" and frame.play.speed == "1 µs/s"
    assert frame.ts_ns - before < 10_000
    source.slow(-len(SPEEDS))
    assert source.frame().play.speed == ""


def test_going_back_shows_the_rings_as_they_were(workload: Workload) -> None:
    source = held(workload)
    for _ in range(20):
        source.step("command")
        settle(workload)
    # A recording has what was set up, rung, fetched and posted; the driver's own tail is not in it.
    known = [(sq.qid, sq.head, sq.tail) for sq in source.frame().sqs if sq.qid]
    completions = [(cq.qid, cq.tail, cq.phase) for cq in source.frame().cqs if cq.qid]
    for _ in range(30):
        source.step("event")
        settle(workload)
    source.travel(-29)
    source.travel(-1)
    past = source.frame()
    assert past.play.mode == "past" and past.play.position == past.play.total - 30
    assert [(sq.qid, sq.head, sq.tail) for sq in past.sqs if sq.qid] == known
    assert [(cq.qid, cq.tail, cq.phase) for cq in past.cqs if cq.qid] == completions
    source.travel_to("now")
    assert source.frame().play.mode == "paused"


def test_commands_in_the_past_are_those_that_the_snapshot_had(workload: Workload) -> None:
    source = held(workload)
    for _ in range(12):
        source.step("command")
        settle(workload)
    now = {(one.qid, one.cid, one.stage) for one in source.frame().commands if one.qid and one.cid is not None}
    source.travel(-1)
    source.travel(1)
    past = {(one.qid, one.cid, one.stage) for one in source.frame().commands if one.cid is not None}
    assert past == now


def test_forth_beyond_the_last_event_is_the_present(workload: Workload) -> None:
    source = held(workload)
    source.step("command")
    settle(workload)
    source.travel(-3)
    assert source.frame().play.mode == "past"
    source.travel(3)
    source.travel(1)
    assert source.frame().play.mode == "paused"


def test_ended_workload_can_still_be_looked_at(workload: Workload) -> None:
    source = workload.source()
    while not workload._over:
        threading.Event().wait(0.005)
    frame = source.frame()
    assert frame.play.mode == "ended"
    assert frame.stats.read_ios + frame.stats.write_ios == 1024
    with pytest.raises(ValueError, match="has ended"):
        source.step("event")


def test_fault_rule_is_armed_while_the_simulation_is_held(tmp_path: Path) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text(
        'version = 1\n[[rules]]\nid = "slow"\narmed = false\nmatch = { opcode = "read" }\nthen.delay = { ns = "1ms" }\n'
    )
    opts = options(tmp_path, faults=str(rules))
    made = Workload(opts, _plan(opts))
    with made.running():
        source = held(made)
        source.step("command")
        settle(made)
        assert [one.armed for one in source.frame().faults or ()] == [False]
        source.arm("slow", True)
        for _ in range(20):
            source.step("command")
            settle(made)
        fault = (source.frame().faults or ())[0]
        assert fault.armed and fault.fired > 0
        with pytest.raises(ValueError, match="no fault rule 'none'"):
            source.arm("none", True)


def test_figures_of_a_burst_come_from_a_sample_and_say_so(workload: Workload) -> None:
    source = held(workload)
    source.frame()
    workload._gate.until(300_000_000_000)
    settle(workload)  # to the end: far more events than a frame looks at
    assert workload._gate.seen > 3 * SAMPLE_MAX
    frame = source.frame()
    assert frame.cost.sampled < 1
    measured = sum(state.count for kind, state in frame.stats.latency.items() if kind != "admin")
    assert 0 < measured < 1024
    assert frame.stats.read_ios + frame.stats.write_ios == 1024  # counted, not sampled


def test_exact_source_measures_every_command(workload: Workload) -> None:
    frame = workload.after(1_000_000_000_000)
    measured = {kind: state.count for kind, state in frame.stats.latency.items()}
    assert measured["read"] == frame.stats.read_ios
    assert measured["write"] == frame.stats.write_ios
    assert frame.cost.sampled == 1.0


def test_maps_count_where_the_commands_went(workload: Workload) -> None:
    frame = workload.after(1_000_000_000_000)
    fetched = [event for event in workload._gate.events if event.__class__ is FetchCmd and event.sqid]
    assert sum(frame.maps[0].reads) >= sum(event.opcode == 2 for event in fetched) > 0
    assert sum(frame.maps[0].writes) >= sum(event.opcode == 1 for event in fetched) > 0


# --- threads ------------------------------------------------------------------------------------------------


def test_machine_on_threads_says_what_cannot_be_done(tmp_path: Path) -> None:
    opts = options(tmp_path, clock="wall", profile="instant")
    made = Workload(opts, _plan(opts))
    with made.running():
        source = made.source()
        assert set(source.barred) == {"step", "slow"}
        with pytest.raises(ValueError, match="real threads cannot be held"):
            source.step("event")
        with pytest.raises(ValueError, match="real threads cannot be held"):
            source.slow(1)


def test_pause_on_threads_keeps_the_picture_while_work_goes_on(tmp_path: Path) -> None:
    job = "[a]\nioengine=libaio\nrw=randread\nbs=4k\niodepth=4\nsize=4m\ntime_based\nruntime=60\n"
    opts = options(tmp_path, job, clock="wall", profile="instant")
    made = Workload(opts, _plan(opts))
    with made.running():
        source = made.source()
        while source.frame().stats.read_ios < 10:
            pass
        source.toggle_pause()
        still = source.frame()
        before = snapshot.stats_state(made._watched).read_ios
        while snapshot.stats_state(made._watched).read_ios < before + 10:
            pass
        assert source.frame() is still
        assert still.play.mode == "paused" and "the workload goes on" in still.note
        source.toggle_pause()
        assert source.frame().stats.read_ios > still.stats.read_ios


# --- the gate by itself -------------------------------------------------------------------------------------


def test_gate_on_threads_refuses_to_hold() -> None:
    gate = Gate(holds=False)
    for steer in (gate.pause, gate.resume, gate.step_event, gate.step_command):
        with pytest.raises(ValueError, match="real threads cannot be held"):
            steer()


def test_gate_answers_while_it_serves_and_refuses_when_closed() -> None:
    gate = Gate(holds=True)
    thread = threading.Thread(target=gate.serve)
    thread.start()
    assert gate.ask(threading.get_ident) == thread.ident
    with pytest.raises(ZeroDivisionError):
        gate.ask(lambda: 1 // 0)
    gate.close()
    thread.join()
    with pytest.raises(GateClosed):
        gate.ask(lambda: 1)


def test_question_to_a_silent_simulation_times_out() -> None:
    with pytest.raises(TimeoutError, match="no event in"):
        Gate(holds=True).ask(lambda: 1, timeout_s=0.01)


def test_gate_keeps_the_last_events_only() -> None:
    gate = Gate(holds=False, events_kept=3)
    event = FetchCmd(1, 1, 1, 2, 1, 0, 8)
    for ts_ns in range(10):
        gate(event._replace(ts_ns=ts_ns))
    assert [one.ts_ns for one in gate.events] == [7, 8, 9]
    assert gate.seen == 10


def test_frames_of_two_runs_of_one_seed_are_the_same(tmp_path: Path) -> None:
    def once() -> Any:
        opts = options(tmp_path)
        made = Workload(opts, _plan(opts))
        with made.running():
            frame = to_json(made.after(1_000_000))
        # A process counts its requests across all machines.
        return {name: frame[name] for name in ("ts_ns", "sqs", "cqs", "points", "heat", "maps", "smart", "cost")}

    assert once() == once()
