"""Trace files: the ring, reading back, spans, show, convert, diff, stats."""

from __future__ import annotations

import json
import os
import threading
import typing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import nvme_emu
from kworker import kthread_flush_worker
from nvme_emu.cli import cli
from nvme_emu.core.trace import PostCqe, as_record
from nvme_emu.observe.jsonl import JsonLines
from nvme_emu.observe.perfetto import to_perfetto
from nvme_emu.observe.trace_file import Span, follow, read_trace, spans_of
from nvme_emu.observe.trace_stats import bars, first_divergence, trace_stats
from nvme_emu.observe.trace_words import Filter, opcodes_of, parse_time_ns, select, words_of


def recorded(path: Path, clock: str = "virtual", mode: str = "async", seed: int = 1) -> list[dict[str, Any]]:
    """A trace of a few reads and writes, one of them failing."""
    with nvme_emu.open(size="16M", mode=mode, clock=clock, profile="tlc", seed=seed) as ssd, JsonLines(path) as sink:
        ssd.trace.add_sink(sink)
        namespace = ssd.namespaces[1]
        requests = [namespace.submit_write(at * 8, bytes(4096)) for at in range(4)]
        requests += [namespace.submit_read(at * 8, 8) for at in range(4)]
        for request in requests:
            request.wait()
        with pytest.raises(nvme_emu.NvmeError):
            namespace.compare(0, b"\x01" * 512)
        if clock == "wall":
            # Who waited goes on while the work that woke it still runs; its end belongs to the trace.
            for worker in ssd.workers:
                kthread_flush_worker(worker)
        ssd.trace.remove_sink(sink)
    return list(read_trace(str(path)))


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[dict[str, Any]]]:
    path = tmp_path_factory.mktemp("trace") / "t.jsonl"
    return str(path), recorded(path)


def invoke(*args: str, text: str | None = None) -> Any:
    return CliRunner().invoke(cli, ["trace", *args], input=text, standalone_mode=False)


# --- writing ------------------------------------------------------------------------------------------------


def test_ring_keeps_the_last_events_and_says_how_many_were_dropped(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    with JsonLines(path, events_max=10) as sink:
        for ts_ns in range(25):
            sink(PostCqe(ts_ns, 1, 1, 1, 0, 0))
        assert (sink.kept, sink.dropped) == (10, 15)
    records = list(read_trace(str(path)))
    assert records[0] == {"ts_ns": 15, "event": "trace_dropped", "dropped": 15}
    assert [record["ts_ns"] for record in records[1:]] == list(range(15, 25))
    assert (sink.kept, sink.dropped) == (10, 15)


def test_each_part_of_a_trace_has_a_ring_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    with JsonLines(path, events_max=3) as sink:
        for row in ("one", "two"):
            sink.extra = {"row": row}
            for ts_ns in range(5):
                sink(PostCqe(ts_ns, 1, 1, 1, 0, 0))
    records = list(read_trace(str(path)))
    assert [record["row"] for record in records] == ["one"] * 4 + ["two"] * 4
    assert [r["dropped"] for r in records if r["event"] == "trace_dropped"] == [2, 2]
    assert sink.dropped == 4


def test_pipe_gets_each_event_when_it_happens(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(pipe.read_text().splitlines()))
    reader.start()
    with JsonLines(pipe, events_max=1) as sink:
        for ts_ns in range(5):
            sink(PostCqe(ts_ns, 1, 1, 1, 0, 0))
    reader.join()
    assert len(lines) == 5 and sink.dropped == 0


def test_no_room_for_events_is_a_value_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="events_max=0"):
        JsonLines(tmp_path / "t", events_max=0)


# --- reading ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clock", ["virtual", "wall"])
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_spans_have_every_stage_in_order(tmp_path: Path, clock: str, mode: str) -> None:
    spans = spans_of(recorded(tmp_path / "t.jsonl", clock, mode))
    assert len(spans) == 9
    for span in spans:
        times = [span.queued_ns, span.setup_ns, span.doorbell_ns, span.fetch_ns, span.post_ns, span.complete_ns]
        assert None not in times and times == sorted(times)  # type: ignore[type-var]
        assert span.latency_ns == span.complete_ns - span.queued_ns  # type: ignore[operator]
    assert [bool(span.status) for span in spans] == [False] * 8 + [True]
    assert {span.qid for span in spans} == {1} and spans[0].slba == 0 and spans[0].nlb == 8


def test_device_without_a_driver_gives_spans_too(trace: Any) -> None:
    device = [record for record in trace[1] if record["event"] in ("fetch_cmd", "post_cqe")]
    spans = spans_of(device)
    assert len(spans) == 9 and all(span.latency_ns == span.post_ns - span.fetch_ns for span in spans)  # type: ignore[operator]


def test_every_prefix_and_suffix_of_a_trace_is_understood(trace: Any) -> None:
    records = trace[1]
    for cut in range(0, len(records), 7):
        for part in (records[:cut], records[cut:]):
            trace_stats(part)
            to_perfetto(part)


def test_batches_are_one_request_with_many_commands(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    with nvme_emu.open(size="16M", mode="async", clock="virtual") as ssd, JsonLines(path) as sink:
        ssd.trace.add_sink(sink)
        ssd.namespaces[1].read_many(list(range(0, 64 * 8, 8)), 8)
        ssd.trace.remove_sink(sink)
    spans = spans_of(read_trace(str(path)))
    assert len(spans) == 64 and len({span.request for span in spans}) == 1
    assert [span.slba for span in spans] == list(range(0, 512, 8))


@pytest.mark.parametrize(
    ("line", "message"),
    [("nonsense", "not JSON"), ("[]", "an event is"), ("{}", "an event is"), ('{"ts_ns":true,"event":"x"}', "an event"),
     ('{"ts_ns":1,"event":"fetch_cmd"}', "fetch_cmd at 1 ns: field 'sqid'")],
)  # fmt: skip
def test_broken_line_is_named_and_exit_code_2(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"ts_ns":0,"event":"raise_irq","vector":1}\n' + line + "\n")
    for command in ("show", "stats", "convert"):
        result = invoke(command, str(path))
        assert result.return_value == 2 and message in result.stderr
    assert invoke("show", "/nowhere").return_value == 2


# --- show ---------------------------------------------------------------------------------------------------


def test_show_tells_a_command_from_hand_over_to_completion(trace: Any) -> None:
    result = invoke("show", trace[0], "--request", str(spans_of(trace[1])[0].request))
    words = [line.split("  ")[-1] for line in result.stdout.splitlines()]
    assert result.return_value == 0
    assert "hands over request" in words[0] and "becomes a command" in words[1] and "fetches" in words[2]
    assert "completes" in words[3] and "ends: Successful" in words[4]


@pytest.mark.parametrize(
    ("wanted", "commands"),
    [
        (Filter(opcodes=opcodes_of("read")), 4),
        (Filter(opcodes=opcodes_of("write")), 4),
        (Filter(opcodes=opcodes_of("0x05")), 1),
        (Filter(lba=(8, 8)), 2),
        (Filter(lba=(7, 8)), 4),
        (Filter(lba=(0, 8)), 5),
        (Filter(failed=True), 1),
        (Filter(qid=1), 9),
        (Filter(qid=0), 0),
        (Filter(), 9),
    ],
)
def test_filter_chooses_commands_by_all_their_events(trace: Any, wanted: Filter, commands: int) -> None:
    found = [record["event"] for _, record in select(trace[1], wanted)]
    for event in ("nvme_queue_rq", "nvme_setup_cmd", "fetch_cmd", "post_cqe", "nvme_complete_rq"):
        assert found.count(event) == commands


def test_filter_by_time_and_event(trace: Any) -> None:
    at_ns = [at for at, _ in select(trace[1], Filter(from_ns=1000, to_ns=50_000))]
    assert at_ns and min(at_ns) >= 1000 and max(at_ns) <= 50_000
    assert {r["event"] for _, r in select(trace[1], Filter(events=frozenset({"raise_irq"})))} == {"raise_irq"}
    assert invoke("show", trace[0], "--time", "1us-50us", "--json").stdout.count("\n") == len(at_ns)
    assert len(invoke("show", trace[0], "--limit", "3").stdout.splitlines()) == 3


@pytest.mark.parametrize(
    ("args", "message"),
    [(["--time", "x"], "not a time"), (["--time", "5us-1us"], "before the begin"), (["--lba", "a-b"], "--lba"),
     (["--opcode", "fly"], "no command")],
)  # fmt: skip
def test_bad_filter_is_one_line(trace: Any, args: list[str], message: str) -> None:
    result = invoke("show", trace[0], *args)
    assert result.return_value == 2 and message in result.stderr


def test_times_and_opcodes_are_understood() -> None:
    assert [parse_time_ns(text) for text in ("7", "1.5us", "2µs", "3ms", "1s")] == [7, 1500, 2000, 3_000_000, 10**9]
    assert opcodes_of("Get Log Page") == opcodes_of("get-log-page") == frozenset({(True, 2)})
    assert opcodes_of("2") == frozenset({(True, 2), (False, 2)})


def test_every_event_type_has_words() -> None:
    import nvme_emu.core.trace as events

    for name in events.__all__:
        kind = getattr(events, name)
        if isinstance(kind, type) and hasattr(kind, "_fields"):
            hints = typing.get_type_hints(kind).values()
            values = [0 if hint in (int, bool) else "x" if hint is str else () for hint in hints]
            words = words_of(json.loads(json.dumps(as_record(kind(*values)), default=str)))
            assert words and len(words) < 200


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(["opcode", "qid", "args", "what", "status", "request", "task"]),
                       st.none() | st.integers() | st.text(max_size=5) | st.lists(st.integers(), max_size=2)),
       st.sampled_from(["nvme_queue_rq", "fetch_cmd", "kworker", "register_write", "unknown"]))  # fmt: skip
def test_words_of_any_record_never_raise(fields: dict[str, Any], event: str) -> None:
    assert isinstance(words_of({"ts_ns": 1, "event": event, **fields}), str)


# --- convert ------------------------------------------------------------------------------------------------


def slices(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [event for event in found["traceEvents"] if event["ph"] == "X"]


@pytest.mark.parametrize("clock", ["virtual", "wall"])
def test_perfetto_slices_of_a_track_never_overlap_and_tracks_are_named(tmp_path: Path, clock: str) -> None:
    found = to_perfetto(recorded(tmp_path / "t.jsonl", clock))
    tracks: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for event in slices(found):
        begin = round(event["ts"] * 1000)
        tracks.setdefault((event["pid"], event["tid"]), []).append((begin, begin + round(event["dur"] * 1000)))
    for spans in tracks.values():
        for (_, end), (begin, _) in zip(sorted(spans), sorted(spans)[1:], strict=False):
            assert end <= begin
    names = {(e["pid"], e["tid"]): e["args"]["name"] for e in found["traceEvents"] if e["name"] == "thread_name"}
    assert set(tracks) <= set(names)
    processes = {e["args"]["name"] for e in found["traceEvents"] if e["name"] == "process_name"}
    expected = {"callers", "queues", "device"} | ({"workers", "CPUs"} if clock == "virtual" else set())
    assert expected <= processes


def test_convert_writes_a_file_and_refuses_to_replace_the_trace(trace: Any, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    assert invoke("convert", trace[0], "-o", str(out)).return_value == 0
    assert json.loads(out.read_text())["traceEvents"]
    result = invoke("convert", trace[0], "-o", trace[0])
    assert result.return_value == 2 and "replace what is read here" in result.stderr
    assert invoke("convert", "-", text=Path(trace[0]).read_text()).stdout == out.read_text()


# --- diff and stats -----------------------------------------------------------------------------------------


def test_two_virtual_runs_of_one_seed_are_equal_and_of_two_are_not(trace: Any, tmp_path: Path) -> None:
    same, other = tmp_path / "same.jsonl", tmp_path / "other.jsonl"
    recorded(same)
    recorded(other, mode="sync")
    equal = invoke("diff", trace[0], str(same))
    assert equal.return_value == 0 and "equal" in equal.stdout
    differs = invoke("diff", trace[0], str(other), "--ignore", "ts_ns")
    assert differs.return_value == 1 and "part at event" in differs.stdout
    assert json.loads(invoke("diff", trace[0], str(other), "--json").stdout)["at"] >= 0


def test_divergence_is_the_first_difference_with_what_came_before() -> None:
    one = [{"ts_ns": i, "event": "raise_irq", "vector": 1} for i in range(10)]
    other = [*one[:6], {"ts_ns": 6, "event": "raise_irq", "vector": 2}, *one[7:]]
    found = first_divergence(one, other, context=2)
    assert found is not None and found.at == 6 and found.before == (one[4], one[5])
    assert first_divergence(one, one) is None
    shorter = first_divergence(one, one[:4])
    assert shorter is not None and shorter.at == 4 and shorter.right is None
    assert first_divergence(one, other, ignore=frozenset({"vector"})) is None


def test_stats_count_commands_by_name_and_stages_add_up(trace: Any) -> None:
    found = trace_stats(trace[1])["parts"][""]
    assert {name: one["count"] for name, one in found["latency"].items()} == {"Read": 4, "Write": 4, "Compare": 1}
    assert found["failed"] == 1 and found["unfinished"] == 0
    before_wakeup = [one["mean_ns"] for name, one in found["stages"].items() if name != "wakeup"]
    assert sum(before_wakeup) == pytest.approx(found["all"]["mean_ns"])
    text = invoke("stats", trace[0]).stdout
    assert "Compare" in text and "worker_list" in text and "█" in text
    assert json.loads(invoke("stats", trace[0], "--json").stdout)["parts"][""]["commands"] == 9


def test_bars_are_scaled_to_the_longest() -> None:
    assert bars([(100, 1), (120, 1), (1000, 4)], width=8) == [(64, 2, 4), (128, 0, 0), (256, 0, 0), (512, 4, 8)]
    assert bars([]) == []


def test_rows_of_compare_are_kept_apart() -> None:
    def row(name: str, start: int) -> list[dict[str, Any]]:
        return [
            {"ts_ns": start, "event": "fetch_cmd", "row": name, "sqid": 1, "cid": 1, "opcode": 2, "nsid": 1, "slba": 0,
             "nlb": 1},
            {"ts_ns": start + 5, "event": "post_cqe", "row": name, "cqid": 1, "sqid": 1, "cid": 1, "status": 0,
             "sqhd": 1},
        ]  # fmt: skip

    records = [*row("a", 0)[:1], *row("b", 100)]
    found = trace_stats(records)["parts"]
    assert found["a"]["unfinished"] == 1 and found["b"]["all"]["max_ns"] == 5
    processes = {e["args"]["name"] for e in to_perfetto(records)["traceEvents"] if e["name"] == "process_name"}
    assert processes == {"b: device"}
    assert next(span for _, span in follow(records)) is not None and isinstance(spans_of(records)[0], Span)


@pytest.mark.parametrize("clock", ["virtual", "wall"])
def test_perfetto_has_every_kind_of_track_and_arrows_through_all_of_them(tmp_path: Path, clock: str) -> None:
    found = to_perfetto(recorded(tmp_path / "t.jsonl", clock))["traceEvents"]
    groups = {event["pid"]: event["args"]["name"] for event in found if event["name"] == "process_name"}
    tracks = {(event["pid"], event["tid"]): event["args"]["name"] for event in found if event["name"] == "thread_name"}
    spans: dict[tuple[int, int], list[tuple[float, float, str]]] = {}
    for event in found:
        if event["ph"] == "X":
            where = event["pid"], event["tid"]
            spans.setdefault(where, []).append((event["ts"], event["ts"] + event["dur"], event["name"]))
    named = {(groups[pid], tracks[pid, tid]) for pid, tid in spans}
    assert ("workers", "nvme1") in named
    assert any(group == "dies" and name.startswith("die ") for group, name in named)
    kinds = {"callers", "workers", "queues", "device", "dies"} | ({"CPUs"} if clock == "virtual" else set())
    assert {group for group, _ in named} == kinds
    flows: dict[int, list[dict[str, Any]]] = {}
    for event in found:
        if event["ph"] in "stf":
            flows.setdefault(event["id"], []).append(event)
            # Each end of an arrow lies in a slice of its track, else Perfetto draws none.
            slices = spans[event["pid"], event["tid"]]
            assert any(begin <= event["ts"] <= end for begin, end, _ in slices), event
    assert len(flows) == 9
    ways = {tuple(groups[event["pid"]] for event in sorted(flow, key=lambda one: "stf".index(one["ph"])))
            for flow in flows.values()}  # fmt: skip
    assert ("callers", "workers", "queues", "device", "dies", "workers") in ways
    assert all(way[0] == "callers" and way[-1] == "workers" for way in ways)


def test_perfetto_die_slices_are_the_array_times_of_the_profile(tmp_path: Path) -> None:
    from nvme_emu.controller.profiles import load_profile

    profile = load_profile("tlc")
    with nvme_emu.open(size="16M", clock="virtual", profile="tlc") as ssd, JsonLines(tmp_path / "t") as sink:
        ssd.trace.add_sink(sink)
        for at in range(8):
            ssd.namespaces[1].read(at * 1024, 8)
        ssd.trace.remove_sink(sink)
    dies = [event for event in slices(to_perfetto(read_trace(str(tmp_path / "t")))) if event["cat"] == "dies"]
    assert len(dies) == 8 and {event["name"] for event in dies} == {"read"}
    assert {round(event["dur"] * 1000) for event in dies} <= set(profile.read_ns)
    assert all(0 <= event["args"]["channel"] < profile.channels for event in dies)
