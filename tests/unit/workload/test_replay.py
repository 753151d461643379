"""read_iolog: logs of each format, what is replayed and when, and errors that name the line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import nvme_emu
from nvme_emu.cli import cli
from nvme_emu.core.trace import NvmeDsmRanges, NvmeSetupCmd
from nvme_emu.observe.jsonl import JsonLines
from nvme_emu.workload import JobFileError, JobResult, Plan, make_plan, parse_job_text, run_jobs
from nvme_emu.workload.pattern import FLUSH, READ, TRIM, WRITE
from nvme_emu.workload.replay import Recorded, ReplayError, read_recording

FIO_3 = Path(__file__).parent / "data" / "fio_iolog_v3.log"
"""Written by fio 3.33: --rw=randrw --size=64k --fsync=4 --write_iolog, cut short."""

FIO_2 = """\
fio version 2 iolog
/tmp/f.dat add
/tmp/f.dat open
/tmp/f.dat write 0 4096
/tmp/f.dat wait 2 0
/tmp/f.dat read 4096 8192
/tmp/f.dat datasync 0 0
/tmp/f.dat wait 5 0
/tmp/f.dat trim 4096 512
/tmp/f.dat close
"""

BLKPARSE = """\
Input file sda.blktrace.0 added
  8,0    1        1     5.000000000  1200  Q   R 64 + 8 [cat]
  8,0    1        2     5.000001500  1200  P   N [cat]
  8,0    1        3     5.000002000  1200  D   R 64 + 8 [cat]
  8,0    0        1     5.000100000     0  C   R 64 + 8 [0]
  8,0    1        4     5.000202000  1200  D FWS 128 + 16 [kworker/1:1]
  8,0    1        5     5.000302000  1200  D  FF [kworker/1:1H]
  8,0    1        6     5.000402000  1200  D  DS 256 + 8 [fstrim]
  8,0    1        7     5.000502000  1200  m   N cfq1200S / alloced
  8,0    1        8     5.000602000  1200  D  RA 0 + 8 [cat]
CPU0 (8,0):
 Reads Queued:           1,        4KiB  Writes Queued:           0,        0KiB
Total (8,0):
"""

MODES = pytest.mark.parametrize("engine", ["psync", "libaio"])
CLOCKS = pytest.mark.parametrize("clock", ["virtual", "wall"])


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def operations(path: Path, lba_size: int = 512) -> list[tuple[int, int, int, int]]:
    found = read_recording(path, lba_size).operations
    return [(one.at_ns, one.direction, one.offset, one.nbytes) for one in found]


def plan(log: Path, *lines: str) -> Plan:
    return make_plan(parse_job_text("\n".join(["[a]", f"read_iolog={log}", *lines]), source="job.fio"))


def replay(planned: Plan, clock: str = "virtual", sink: Any = None) -> tuple[JobResult, list[NvmeSetupCmd]]:
    """Run the plan; its result and the commands that were sent."""
    seen: list[NvmeSetupCmd] = []

    def note(event: Any) -> None:
        if isinstance(event, NvmeSetupCmd) and event.qid:
            seen.append(event)

    machine = planned.machine
    with nvme_emu.open(size=machine.size, mode=machine.mode, lba_size=machine.lba_size, clock=clock) as ssd:
        for one in (note, sink):
            if one is not None:
                ssd.trace.add_sink(one)
        (result,) = run_jobs(ssd, planned.jobs)
    return result, seen


def commands(seen: list[NvmeSetupCmd]) -> list[tuple[int, int, int]]:
    return [(event.opcode, event.slba, event.nlb) for event in seen]


# --- formats --------------------------------------------------------------------------------------------


def test_iolog_3_has_microseconds_since_its_first_line() -> None:
    found = operations(FIO_3)
    assert len(found) == 11
    assert found[0] == (134_000, READ, 0, 4096)
    assert found[3] == (648_000, WRITE, 28672, 4096)
    assert found[9] == (831_000, FLUSH, 0, 0)


def test_iolog_2_waits_until_milliseconds_of_the_start(tmp_path: Path) -> None:
    recording = read_recording(write(tmp_path / "log", FIO_2), 512)
    assert recording.files == ["/tmp/f.dat"]
    assert recording.operations == [
        Recorded(0, WRITE, 0, 0, 4096, 4),
        Recorded(2_000_000, READ, 0, 4096, 8192, 6),
        Recorded(2_000_000, FLUSH, 0, 0, 0, 7),
        Recorded(5_000_000, TRIM, 0, 4096, 512, 9),
    ]


def test_blkparse_takes_issue_events(tmp_path: Path) -> None:
    assert operations(write(tmp_path / "log", BLKPARSE)) == [
        (0, READ, 32768, 4096),
        (200_000, FLUSH, 0, 0),
        (200_000, WRITE, 65536, 8192),
        (300_000, FLUSH, 0, 0),
        (400_000, TRIM, 131072, 4096),
        (600_000, READ, 0, 4096),
    ]


def test_blkparse_without_issue_events_takes_queue_events(tmp_path: Path) -> None:
    queued = "".join(line + "\n" for line in BLKPARSE.splitlines() if "  D " not in line)
    assert operations(write(tmp_path / "log", queued)) == [(0, READ, 32768, 4096)]


def test_trace_counts_blocks_and_leaves_out_what_it_does_not_tell(tmp_path: Path) -> None:
    head = {"event": "nvme_setup_cmd", "request": 1, "cid": 0, "nsid": 1}
    rows = [
        {"ts_ns": 1, "event": "trace_dropped", "dropped": 3},
        {"ts_ns": 5, **head, "qid": 0, "opcode": 6, "slba": 1, "nlb": 0},
        {"ts_ns": 10, **head, "qid": 1, "opcode": 2, "slba": 3, "nlb": 2},
        {"ts_ns": 30, **head, "qid": 2, "opcode": 9, "slba": 1 << 34, "nlb": 0},
        {"ts_ns": 20, **head, "qid": 2, "opcode": 0, "slba": 0, "nlb": 0},
        {"ts_ns": 40, **head, "qid": 2, "opcode": 1, "slba": 0, "nlb": 1},
    ]
    log = write(tmp_path / "log", "".join(json.dumps(row) + "\n" for row in rows))
    recording = read_recording(log, 4096)
    assert [one[:5] for one in recording.operations] == [
        (0, READ, 0, 12288, 8192),
        (10, FLUSH, 0, 0, 0),
        (30, WRITE, 0, 0, 4096),
    ]
    assert recording.files == ["/dev/nvme0n1"]
    lost, left_out = recording.notes
    assert "lost its first 3 events" in lost and left_out.endswith("Dataset Management (1 times)")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "log: the log is empty"),
        ("hello\n", "log:1: 'hello' does not begin a log"),
        ("fio version 1 iolog\n", "log:1: fio iolog version 1"),
        ("fio version 2 iolog\nf add\n", "log: the log has no read, write, trim or flush"),
        ("fio version 2 iolog\n\nf jump 0 512\n", "log:3: 'f jump 0 512' is not FILE ACTION"),
        ("fio version 2 iolog\nf read 0 -5\n", "log:2: length '-5' is not a number"),
        ("fio version 2 iolog\nf read 0 0\n", "log:2: an operation of 0 bytes"),
        ("fio version 3 iolog\nf read 0 512\n", "log:2: time 'f' is not a number"),
        ("fio version 3 iolog\n1 f wait 5 0\n", "log:2: version 3 of fio's iolog has no 'wait'"),
        ("fio version 3 iolog\n1 f read ٣ 512\n", "log:2: offset '٣' is not a number"),
        ("8,0 1 1 0.5 R\n", "log:1: '8,0 1 1 0.5 R' is not a line of blkparse's default format"),
        ('{"event":"nvme_setup_cmd"\n', "log:1: '{\"event\":\"nvme_setup_cmd\"' is not a JSON object"),
        ('{"event":"x"}\nhello\n', "log:2: 'hello' is not a JSON object"),
        ('{"event":"nvme_setup_cmd","ts_ns":"a"}\n', "log:1: nvme_setup_cmd: ts_ns is 'a', not a number"),
    ],
)
def test_unreadable_log_names_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ReplayError) as caught:
        read_recording(write(tmp_path / "log", text), 512)
    assert str(caught.value).startswith(f"{tmp_path}/{message}")


def test_binary_log_hints_at_blkparse(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"\x07\x41\x61\x65\xff")
    with pytest.raises(ReplayError, match="turned into text by blkparse"):
        read_recording(tmp_path / "log", 512)


# --- plans ----------------------------------------------------------------------------------------------


def test_plan_without_size_is_as_large_as_the_log_reaches(tmp_path: Path) -> None:
    log = write(tmp_path / "log", f"fio version 2 iolog\nf write {5 << 20} 4096\n")
    planned = plan(log)
    assert planned.machine.size == 6 << 20
    assert planned.jobs[0].rw == "write" and planned.jobs[0].bs[1] == (4096, 4096)


def test_plan_lays_out_the_files_of_the_log(tmp_path: Path) -> None:
    log = write(tmp_path / "log", "fio version 2 iolog\na write 0 512\nb read 512 512\na read 0 512\n")
    (job,) = plan(log).jobs
    assert job.replay is not None
    assert [operation[:3] for operation in job.replay.operations] == [
        (WRITE, 0, 1),
        (READ, 2049, 1),
        (READ, 0, 1),
    ]
    (job,) = plan(log, "replay_redirect=c").jobs
    assert job.replay is not None and [operation[1] for operation in job.replay.operations] == [0, 1, 0]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["size=4k"], "{log}:6: read of 8192 bytes at byte 4096 leaves /tmp/f.dat, which has 4096 bytes"),
        (["nvme_lba_size=4096"], "{log}:9: length 512 is not a multiple of the logical block of 4096 bytes"),
        (["verify=crc32c"], "job.fio:3: verify cannot be combined with read_iolog"),
        (["offset=1m"], "job.fio:3: offset cannot be combined with read_iolog"),
        (["replay_skip=read,write,trim,sync"], "job.fio:3: replay_skip leaves nothing of {log} to replay"),
        (["replay_skip=seek"], "job.fio:3: replay_skip: 'seek' is not one of read, write, trim, sync"),
        (["filename=a:b"], "job.fio:3: filename: a log is replayed on one file"),
        (["read_iolog=nowhere"], "job.fio:3: read_iolog: there is no file 'nowhere'"),
    ],
)
def test_plan_that_cannot_be_replayed_names_the_place(
    tmp_path: Path, lines: list[str], message: str
) -> None:
    log = write(tmp_path / "log", FIO_2)
    with pytest.raises(JobFileError) as caught:
        plan(log, *lines)
    assert caught.value.problems[0].startswith(message.format(log=log))


def test_plan_for_a_trace_of_two_namespaces_asks_for_one(tmp_path: Path) -> None:
    row = {"ts_ns": 1, "event": "nvme_setup_cmd", "qid": 1, "opcode": 2, "slba": 0, "nlb": 1}
    log = write(tmp_path / "log", "".join(json.dumps({**row, "nsid": nsid}) + "\n" for nsid in (1, 2)))
    with pytest.raises(JobFileError, match="one namespace; these are /dev/nvme0n1, /dev/nvme0n2"):
        plan(log)
    (job,) = plan(log, "filename=/dev/nvme0n2").jobs
    assert job.nsid == 2 and job.replay is not None and len(job.replay.operations) == 2


def test_plan_applies_scale_align_time_and_skip(tmp_path: Path) -> None:
    log = write(tmp_path / "log", FIO_2.replace("read 4096", "read 20480"))
    options = ["replay_scale=2", "replay_align=4k", "replay_time_scale=200", "replay_skip=write,sync"]
    (job,) = plan(log, *options).jobs
    assert job.replay is not None
    assert job.replay.operations == ((READ, 16, 16, 1_000_000), (TRIM, 0, 1, 2_500_000))


# --- runs -----------------------------------------------------------------------------------------------


@CLOCKS
@MODES
def test_replay_keeps_order_and_times(tmp_path: Path, engine: str, clock: str) -> None:
    log = write(tmp_path / "log", FIO_2)
    result, seen = replay(plan(log, f"ioengine={engine}", "iodepth=4"), clock)
    assert result.ok
    assert [event.opcode for event in seen] == [1, 2, 0, 9]
    assert commands(seen)[:2] == [(1, 0, 8), (2, 8, 16)]
    stats = result.stats
    assert stats.runtime_ns >= 5_000_000
    assert [part.ios for part in stats.directions] == [1, 1, 1] and stats.sync.n == 1


@MODES
def test_replay_in_virtual_time_begins_each_at_its_time(engine: str) -> None:
    _, seen = replay(plan(FIO_3, f"ioengine={engine}"))
    due = [at_ns for at_ns, *_ in operations(FIO_3)]
    late = [event.ts_ns - seen[0].ts_ns - (at_ns - due[0]) for event, at_ns in zip(seen, due, strict=True)]
    assert len(late) == 11 and all(-5_000 < one < 5_000 for one in late)


@MODES
def test_replay_without_stall_does_not_wait(tmp_path: Path, engine: str) -> None:
    log = write(tmp_path / "log", FIO_2)
    _, seen = replay(plan(log, f"ioengine={engine}", "replay_no_stall=1"))
    assert [event.opcode for event in seen] == [1, 2, 0, 9]
    assert seen[-1].ts_ns - seen[0].ts_ns < 100_000


@MODES
def test_replay_repeats_with_loops_and_ends_with_number_ios_or_runtime(engine: str) -> None:
    job = f"ioengine={engine}"
    _, seen = replay(plan(FIO_3, job, "loops=2"))
    assert commands(seen[:11]) == commands(seen[11:]) and len(seen) == 22
    assert seen[11].ts_ns - seen[10].ts_ns > 100_000
    assert len(replay(plan(FIO_3, job, "number_ios=3"))[1]) == 3
    assert len(replay(plan(FIO_3, job, "runtime=600us"))[1]) == 3


@MODES
def test_recorded_run_replayed_sends_the_same_commands_in_order(tmp_path: Path, engine: str) -> None:
    text = f"[a]\nrw=randrw\nbs=4k,8k\nsize=256k\nfsync=5\nioengine={engine}\niodepth=4\n"
    trace = tmp_path / "trace.jsonl"
    with JsonLines(trace) as sink:
        _, recorded = replay(make_plan(parse_job_text(text)), sink=sink)
    for options in ([], ["replay_no_stall=1"]):
        result, seen = replay(plan(trace, f"ioengine={engine}", "iodepth=4", *options))
        assert result.ok and len(seen) > 40
        assert commands(seen) == commands(recorded)


@CLOCKS
@MODES
def test_recorded_trims_are_replayed_with_their_ranges(tmp_path: Path, engine: str, clock: str) -> None:
    text = f"[a]\nrw=randtrim\nbs=4k\nsize=128k\nioengine={engine}\niodepth=4\n"
    trace = tmp_path / "trace.jsonl"
    with nvme_emu.open(size="1M", mode="async", clock=clock) as ssd, JsonLines(trace) as sink:
        ssd.trace.add_sink(sink)
        namespace = ssd.namespaces[1]
        namespace.write(0, bytes(4096))
        namespace.discard([(64, 8), (256, 1), (1024, 64)])
        namespace.submit_discard(8, 8).wait()
        ssd.trace.remove_sink(sink)
    trims = [(64, 8), (256, 1), (1024, 64), (8, 8)]
    recording = read_recording(trace, 512)
    assert recording.notes == []
    found = [(one.direction, one.offset // 512, one.nbytes // 512) for one in recording.operations]
    assert found == [(WRITE, 0, 8), *((TRIM, slba, nlb) for slba, nlb in trims)]
    planned, ranges = plan(trace, f"ioengine={engine}", "iodepth=4"), []
    machine = planned.machine
    with nvme_emu.open(size=machine.size, mode=machine.mode, lba_size=machine.lba_size, clock=clock) as ssd:
        ssd.trace.add_sink(lambda event: ranges.extend(event.ranges) if isinstance(event, NvmeDsmRanges) else None)
        (result,) = run_jobs(ssd, planned.jobs)
    assert result.ok and [part.ios for part in result.stats.directions] == [0, 1, 4]
    assert ranges == trims
    with JsonLines(trace) as sink:
        replay(make_plan(parse_job_text(text)), sink=sink)
    assert sum(one.direction == TRIM for one in read_recording(trace, 512).operations) == 32


@pytest.mark.parametrize("ranges", [None, 5, [5], [[1]], [[1, -2]], [["a", 1]], [[True, 1]]])
def test_trim_of_a_damaged_trace_names_its_line(tmp_path: Path, ranges: Any) -> None:
    record = {"ts_ns": 1, "event": "nvme_dsm_ranges", "request": 1, "qid": 1, "cid": 0, "nsid": 1, "ranges": ranges}
    log = write(tmp_path / "log", json.dumps(record) + "\n")
    with pytest.raises(ReplayError, match=r"log:1: nvme_dsm_ranges: .*\bnot\b"):
        read_recording(log, 512)


def test_run_takes_a_log_beside_the_job_file_and_from_set(tmp_path: Path) -> None:
    write(tmp_path / "sda.txt", BLKPARSE)
    job = write(tmp_path / "job.fio", "[a]\nioengine=libaio\nread_iolog=sda.txt\n")
    args = ["run", str(job), "--clock", "virtual", "--json"]
    for more in ([], ["--set", f"read_iolog={FIO_3}"]):
        result = CliRunner().invoke(cli, [*args, *more], standalone_mode=False)
        assert result.return_value == 0, result.output
        figures = json.loads(result.stdout)["jobs"][0]
        assert figures["read"]["total_ios"] == (6 if more else 2)
        assert figures["sync"]["total_ios"] == (1 if more else 2)


def test_run_with_a_damaged_log_is_bad_usage(tmp_path: Path) -> None:
    log = write(tmp_path / "log", "fio version 3 iolog\n5 f read 0 x\n")
    job = write(tmp_path / "job.fio", f"[a]\nread_iolog={log}\n")
    result = CliRunner().invoke(cli, ["run", str(job)], standalone_mode=False)
    assert result.return_value == 2
    assert result.stderr == f"nvme-emu: {log}:2: length 'x' is not a number\n"
