"""fio's JSON output (json, json+): keys, nesting and units of fio 3.33, so that its readers read ours.

tests/unit/workload/data/fio_json_keys.json holds the key trees of a real fio (made by tools/fio_key_tree.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from nvme_emu.workload.plan import JobPlan
from nvme_emu.workload.runner import JobResult
from nvme_emu.workload.stats import DEPTH_NAMES, LATENCY_NAMES, SUBMIT_NAMES, DirectionStats, JobStats

__all__ = ["FIO_VERSION", "Report", "ReportedJob", "disk_util", "fio_version", "group_totals", "make_report", "to_json"]

FIO_VERSION = "fio-3.33"
"""Whose output this is in form. Readers look for `fio-<major>.<minor>`."""


def fio_version(version: str) -> str:
    """The "fio version" of our output: fio's, with our own behind it, as fio's development builds do."""
    return f"{FIO_VERSION}-nvme-emu-{version}"


@dataclass(frozen=True, slots=True)
class ReportedJob:
    """One entry of a report: a job, or all jobs of a group with group_reporting, merged."""

    plan: JobPlan
    stats: JobStats
    pid: int
    failure: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """Everything that an output shows. `timestamp_ms` is Unix time; 0 in virtual time, where runs repeat."""

    version: str
    timestamp_ms: int
    time_text: str
    elapsed_ms: int
    global_texts: dict[str, str] = field(default_factory=dict)
    jobs: tuple[ReportedJob, ...]
    extra: dict[str, Any] = field(default_factory=dict)
    """What is ours and not fio's, under the key "nvme-emu"."""


def make_report(
    results: Sequence[JobResult],
    *,
    version: str,
    timestamp_ms: int,
    time_text: str,
    elapsed_ms: int,
    global_texts: dict[str, str] | None = None,
    extra: dict[str, Any] | None = None,
) -> Report:
    """Merge what group_reporting asks for. The results' figures are used up: make one report of them."""
    entries: list[ReportedJob] = []
    for result in results:
        if not result.started:
            continue
        last = entries[-1] if entries else None
        if last is not None and result.plan.group_reporting and last.plan.group == result.plan.group:
            last.stats.merge(result.stats)
        else:
            entries.append(ReportedJob(result.plan, result.stats, result.pid, result.failure))
    return Report(
        version=version,
        timestamp_ms=timestamp_ms,
        time_text=time_text,
        elapsed_ms=elapsed_ms,
        global_texts=global_texts or {},
        jobs=tuple(entries),
        extra=extra or {},
    )


def group_totals(
    jobs: Sequence[ReportedJob], group: int, direction: int
) -> tuple[int, int, list[DirectionStats]]:
    """Bytes of a direction in a group, bytes a second (over the longest runtime), the parts that moved."""
    parts = [job.stats.directions[direction] for job in jobs if job.plan.group == group]
    parts = [part for part in parts if part.runtime_ns]
    longest = max((part.runtime_ns for part in parts), default=0)
    nbytes = sum(part.nbytes for part in parts)
    return nbytes, nbytes * 1_000_000_000 // longest if longest else 0, parts


def to_json(report: Report, *, bins: bool = False) -> dict[str, Any]:
    """The report as fio's object; `bins` gives json+."""
    result: dict[str, Any] = {
        "fio version": fio_version(report.version),
        "timestamp": report.timestamp_ms // 1000,
        "timestamp_ms": report.timestamp_ms,
        "time": report.time_text,
    }
    if report.global_texts:
        result["global options"] = _shown(report.global_texts)
    result["jobs"] = [_job(report, job, bins) for job in report.jobs]
    result["disk_util"] = disk_util(report)
    if report.extra:
        result["nvme-emu"] = report.extra
    return result


def disk_util(report: Report) -> list[dict[str, Any]]:
    """The SSD's namespaces as fio shows block devices. Ticks are ms that I/Os took, as the jobs saw them.

    fio reads /sys/block; there is no such place here. `util`, the share of time with an I/O under way, is
    therefore the jobs' latencies over the elapsed time, at most 100 %: exact for a single synchronous job.
    """
    disks = []
    for nsid in sorted({job.plan.nsid for job in report.jobs}):
        jobs = [job.stats for job in report.jobs if job.plan.nsid == nsid]
        read_ms = sum(stats.read.lat.sum for stats in jobs) // 1_000_000
        write_ms = sum(stats.write.lat.sum for stats in jobs) // 1_000_000
        disks.append(
            {
                "name": f"nvme0n{nsid}",
                "read_ios": sum(stats.read.ios for stats in jobs),
                "write_ios": sum(stats.write.ios for stats in jobs),
                "read_merges": 0,
                "write_merges": 0,
                "read_ticks": read_ms,
                "write_ticks": write_ms,
                "in_queue": read_ms + write_ms,
                "util": round(min(100.0, (read_ms + write_ms) * 100 / max(1, report.elapsed_ms)), 6),
            }
        )
    return disks


def _shown(texts: dict[str, str]) -> dict[str, str]:
    # fio leaves out options that were given without a value.
    return {name: text for name, text in texts.items() if text}


def _job(report: Report, job: ReportedJob, bins: bool) -> dict[str, Any]:
    plan, stats = job.plan, job.stats
    result: dict[str, Any] = {"jobname": plan.name, "groupid": plan.group, "error": stats.error, "eta": 0}
    result["elapsed"] = -(-report.elapsed_ms // 1000)
    if plan.description:
        result["desc"] = plan.description
    result["job options"] = _shown(plan.texts)
    for name, number in (("read", 0), ("write", 1), ("trim", 2)):
        result[name] = _direction(report, job, number, bins)
    clat_percentiles = plan.percentiles if any(plan.percentiles_of[1:]) else None
    result["sync"] = {
        "total_ios": stats.sync.n,
        "lat_ns": stats.sync.to_json(clat_percentiles, bins=bins),
    }
    result["job_runtime"] = stats.runtime_ns // 1_000_000
    runtime = max(1, stats.runtime_ns)
    result["usr_cpu"] = round(stats.user_ns * 100 / runtime, 6)
    result["sys_cpu"] = round(stats.system_ns * 100 / runtime, 6)
    result["ctx"] = stats.context_switches
    result["majf"] = stats.major_faults
    result["minf"] = stats.minor_faults
    ios = stats.ios
    result["iodepth_level"] = depth_shares(stats.depth_counts, DEPTH_NAMES, ios)
    result["iodepth_submit"] = depth_shares(stats.submit_counts, SUBMIT_NAMES, sum(stats.submit_counts))
    result["iodepth_complete"] = depth_shares(stats.complete_counts, SUBMIT_NAMES, sum(stats.complete_counts))
    for unit, table in latency_shares(stats).items():
        result[f"latency_{unit}"] = table
    result |= {
        "latency_depth": plan.iodepth,
        "latency_target": 0,
        "latency_percentile": 100.0,
        "latency_window": 0,
    }
    return result


def _direction(report: Report, job: ReportedJob, number: int, bins: bool) -> dict[str, Any]:
    direction, plan = job.stats.directions[number], job.plan
    slat, clat, lat = (plan.percentiles if shown else None for shown in plan.percentiles_of)
    bw, iops = direction.bw_kib, direction.iops_samples
    return {
        "io_bytes": direction.nbytes,
        "io_kbytes": direction.nbytes >> 10,
        "bw_bytes": direction.bw_bytes,
        "bw": direction.bw_bytes >> 10,
        "iops": round(direction.iops, 6),
        "runtime": runtime_ms(direction),
        "total_ios": direction.ios,
        "short_ios": 0,
        "drop_ios": 0,
        "slat_ns": direction.slat.to_json(slat, bins=bins),
        "clat_ns": direction.clat.to_json(clat, bins=bins),
        "lat_ns": direction.lat.to_json(lat, bins=bins),
        "bw_min": bw.min,
        "bw_max": bw.max,
        "bw_agg": round(share_of_group(report.jobs, job, number), 6),
        "bw_mean": round(bw.mean, 6),
        "bw_dev": round(bw.stddev, 6),
        "bw_samples": bw.n,
        "iops_min": iops.min,
        "iops_max": iops.max,
        "iops_mean": round(iops.mean, 6),
        "iops_stddev": round(iops.stddev, 6),
        "iops_samples": iops.n,
    }


def runtime_ms(direction: DirectionStats) -> int:
    """Runtime in whole ms, at least 1 where anything ran (as fio rounds it)."""
    return max(1, direction.runtime_ns // 1_000_000) if direction.runtime_ns else 0


def share_of_group(jobs: Sequence[ReportedJob], job: ReportedJob, direction: int) -> float:
    """The share of the job's mean bandwidth in its group's, in per cent, at most 100."""
    mean = job.stats.directions[direction].bw_kib.mean
    _, bandwidth, _ = group_totals(jobs, job.plan.group, direction)
    if not bandwidth or not mean:
        return 0.0
    return min(100.0, mean * 100 / (bandwidth / 1024))


def depth_shares(counts: Sequence[int], names: Sequence[str], total: int) -> dict[str, float]:
    """Shares in per cent; what is there but below 0.1 shows as 0.1, as in fio."""
    shares = {}
    for name, count in zip(names, counts, strict=True):
        share = count * 100 / total if total else 0.0
        shares[name] = round(max(share, 0.1) if count else 0.0, 6)
    return shares


def latency_shares(stats: JobStats) -> dict[str, dict[str, float]]:
    """Shares of completion latencies by unit (ns, us, ms) and bound; what is there shows as 0.01 at least."""
    total = max(1, int(stats.latency_counts.sum()))
    counts = iter(stats.latency_counts.tolist())
    tables: dict[str, dict[str, float]] = {}
    for unit, names in LATENCY_NAMES.items():
        tables[unit] = {}
        for name in names:
            count = next(counts)
            tables[unit][name] = round(max(count * 100 / total, 0.01) if count else 0.0, 6)
    return tables
