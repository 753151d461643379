"""fio's two outputs: numbers as fio shortens them, every key that a real fio has, the text's blocks."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import nvme_emu
from nvme_emu.workload.fio_json import Report, make_report, to_json
from nvme_emu.workload.fio_text import header_lines, number_text, report_lines
from nvme_emu.workload.jobfile import parse_job_text
from nvme_emu.workload.planner import make_plan
from nvme_emu.workload.runner import run_jobs
from nvme_emu.workload.stats import depth_slot, submit_slot

DATA = Path(__file__).parent / "data"


def report(text: str, **machine: Any) -> Report:
    plan = make_plan(parse_job_text(text))
    with nvme_emu.open(size=plan.machine.size, mode=plan.machine.mode, clock="virtual", **machine) as ssd:
        results = run_jobs(ssd, plan.jobs)
        elapsed_ms = ssd.runtime.now_ns // 1_000_000
    return make_report(
        results, version="1.2.3", timestamp_ms=0, time_text="then", elapsed_ms=elapsed_ms,
        global_texts=plan.global_texts,
    )  # fmt: skip


def key_paths(value: Any, path: str = "") -> set[str]:
    if isinstance(value, dict):
        if path.endswith("/bins"):
            return {f"{path}/*"}
        return {found for key, item in value.items() for found in key_paths(item, f"{path}/{key}")} | {path}
    if isinstance(value, list):
        return {found for item in value for found in key_paths(item, f"{path}/[]")} | {path}
    return {path}


@pytest.mark.parametrize("output_format", ["json", "json+"])
def test_json_has_every_key_of_a_real_fio(output_format: str) -> None:
    expected = json.loads((DATA / "fio_json_keys.json").read_text())[output_format]
    data = to_json(report((DATA / "key_tree.fio").read_text()), bins=output_format == "json+")
    assert set(expected) - key_paths(data) == set()
    assert any(path.endswith("/bins/*") for path in key_paths(data)) == (output_format == "json+")


def test_json_figures_agree_with_each_other() -> None:
    text = "[a]\nrw=randrw\nsize=1m\nioengine=libaio\niodepth=8\nfsync=16\ndescription=d\n"
    data = to_json(report(text, profile="tlc"))
    (job,) = data["jobs"]
    assert (job["jobname"], job["groupid"], job["error"], job["desc"]) == ("a", 0, 0, "d")
    assert job["job options"]["iodepth"] == "8"
    for name in ("read", "write"):
        part = job[name]
        assert part["io_bytes"] == part["total_ios"] * 4096 == part["io_kbytes"] * 1024
        assert part["bw"] == part["bw_bytes"] // 1024
        assert part["iops"] == pytest.approx(part["bw_bytes"] / 4096, rel=1e-3)
        assert part["slat_ns"]["N"] == part["clat_ns"]["N"] == part["lat_ns"]["N"] == part["total_ios"]
        assert part["lat_ns"]["mean"] == pytest.approx(part["slat_ns"]["mean"] + part["clat_ns"]["mean"])
        percentiles = list(part["clat_ns"]["percentile"].values())
        assert percentiles == sorted(percentiles)
    assert job["read"]["total_ios"] + job["write"]["total_ios"] == 256
    assert job["sync"]["total_ios"] == job["write"]["total_ios"] // 16
    assert sum(job["iodepth_level"].values()) == pytest.approx(100, abs=1)
    shares = [share for unit in ("ns", "us", "ms") for share in job[f"latency_{unit}"].values()]
    assert sum(shares) == pytest.approx(100, abs=1)
    assert job["latency_depth"] == 8


def test_group_reporting_merges_clones_and_keeps_other_groups_apart() -> None:
    text = "[global]\nsize=64k\nrw=read\n[a]\nnumjobs=3\ngroup_reporting\n[b]\nstonewall\nnumjobs=2\n"
    data = to_json(report(text))
    assert [(job["jobname"], job["groupid"], job["read"]["total_ios"]) for job in data["jobs"]] == [
        ("a", 0, 48), ("b", 1, 16), ("b", 1, 16),
    ]  # fmt: skip
    merged = report_lines(report(text))
    assert any("a: (groupid=0, jobs=3)" in line for line in merged)


def test_version_is_one_that_readers_of_fio_parse() -> None:
    version = to_json(report("[a]\nsize=64k\n"))["fio version"]
    assert re.match(r"fio-(\d+)\.(\d+)", version) and version.endswith("nvme-emu-1.2.3")


@pytest.mark.parametrize(
    ("number", "digits", "binary", "text"),
    [
        (0, 4, False, "0"),
        (9999, 4, False, "9999"),
        (10_000, 4, False, "10.0k"),
        (64_000, 4, False, "64.0k"),
        (237_432, 4, False, "237k"),
        (860_500, 4, False, "861k"),
        (1_046_900, 6, False, "1046.9k"),
        (524_288_000, 4, True, "500Mi"),
        (8_588_000, 4, True, "8387Ki"),
        (38_765_854, 4, True, "37.0Mi"),
        (11 << 30, 4, True, "11.0Gi"),
    ],
)
def test_numbers_are_shortened_as_fio_does(number: int, digits: int, binary: bool, text: str) -> None:
    assert number_text(number, digits, binary=binary) == text


def test_depth_tables_have_fios_bounds() -> None:
    assert [depth_slot(depth) for depth in (1, 2, 3, 4, 8, 16, 32, 63, 64, 1000)] == [
        0,
        1,
        1,
        2,
        3,
        4,
        5,
        5,
        6,
        6,
    ]
    assert [submit_slot(count) for count in (0, 1, 4, 5, 8, 9, 16, 17, 32, 33, 64, 65)] == [
        0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6,
    ]  # fmt: skip


# Lines of a real fio 3.33 with every number replaced; ours, treated the same, must be among them.
FIO_LINES = """\
a: (groupid=N, jobs=N): err= N: pid=N: then
  read: IOPS=N, BW=N (N)(N/Nmsec)
  write: IOPS=N, BW=N (N)(N/Nmsec); N zone resets
    slat (U): min=N, max=N, avg=N, stdev=N
    clat (U): min=N, max=N, avg=N, stdev=N
     lat (U): min=N, max=N, avg=N, stdev=N
    clat percentiles (U):
     |  Nth=[N],  Nth=[N], Nth=[N], Nth=[N],
     | Nth=[N], Nth=[N], Nth=[N], Nth=[N],
     | Nth=[N]
   bw (  KiB/s): min=N, max=N, per=N%, avg=N, stdev=N, samples=N
   bw (  MiB/s): min=N, max=N, per=N%, avg=N, stdev=N, samples=N
   iops        : min=N, max=N, avg=N, stdev=N, samples=N
  fsync/fdatasync/sync_file_range:
    sync (U): min=N, max=N, avg=N, stdev=N
    sync percentiles (U):
  cpu          : usr=N%, sys=N%, ctx=N, majf=N, minf=N
  IO depths    : N=N%, N=N%, N=N%, N=N%, N=N%, N=N%, >=N=N%
     submit    : N=N%, N=N%, N=N%, N=N%, N=N%, N=N%, >=N=N%
     complete  : N=N%, N=N%, N=N%, N=N%, N=N%, N=N%, >=N=N%
     issued rwts: total=N,N,N,N short=N,N,N,N dropped=N,N,N,N
     latency   : target=N, window=N, percentile=N%, depth=N
Run status group N (all jobs):
   READ: bw=N (N), N-N (N-N), io=N (N), run=N-Nmsec
  WRITE: bw=N (N), N-N (N-N), io=N (N), run=N-Nmsec
Disk stats (read/write):
  nvmeNnN: ios=N/N, merge=N/N, ticks=N/N, in_queue=N, util=N%
"""


def _loose(line: str) -> str:
    """Without spaces, numbers and units: what stays is the words and their order."""
    line = re.sub(r"\((nsec|usec|msec|U)\)", "", line)
    return re.sub(r"(N|\d+(\.\d+)?([kKMGT]?i?B?(/s)?)?)", "#", re.sub(r"\s+", "", line))


def test_text_has_the_lines_of_a_real_fio() -> None:
    known = {_loose(line) for line in FIO_LINES.splitlines()}
    lines = report_lines(
        report("[a]\nrw=randrw\nsize=1m\nioengine=libaio\niodepth=8\nfsync=16\n", profile="tlc")
    )
    for line in lines:
        if line and not line.startswith("  lat ("):
            assert _loose(line) in known, line
    seen = {_loose(line) for line in lines}
    # Bandwidth shows in KiB/s or in MiB/s, never in both.
    assert {line for line in known - seen if "bw(MiB/s)" not in line} == set()


def test_text_of_latency_shares_has_five_a_line() -> None:
    lines = [line for line in report_lines(report("[a]\nrw=rw\nsize=4m\nioengine=libaio\niodepth=64\n", profile="tlc"))
             if line.startswith("  lat (")]  # fmt: skip
    shape = re.compile(r"  lat \([num]sec\)   : (>?=?\d+=\d+\.\d\d%(, |$)){1,5}")
    assert lines and all(shape.fullmatch(line) for line in lines)


def test_header_names_each_job_once_with_dots_for_clones() -> None:
    plan = make_plan(parse_job_text("[a]\nsize=64k\nnumjobs=3\n[b]\nsize=64k\nrw=randwrite\nbs=4k,8k\n"))
    assert header_lines(plan.jobs, "1.2.3") == [
        "a: (g=0): rw=read, bs=(R) 4096B-4096B, (W) 4096B-4096B, (T) 4096B-4096B, ioengine=psync, iodepth=1",
        "...",
        "b: (g=0): rw=randwrite, bs=(R) 4096B-4096B, (W) 8192B-8192B, (T) 8192B-8192B, ioengine=psync, iodepth=1",
        "fio-3.33-nvme-emu-1.2.3",
        "Starting 4 threads",
    ]


def test_error_of_a_job_shows_as_fio_shows_it() -> None:
    lines = report_lines(report("[a]\nrw=read\nsize=8k\nverify=crc32c\n"))
    assert any(line.startswith("a: (groupid=0, jobs=1): err=84 (") for line in lines)
