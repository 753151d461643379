"""fio's normal output, block by block, as fio 3.33 prints it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence

from nvme_emu.workload.fio_json import (
    Report,
    ReportedJob,
    depth_shares,
    disk_util,
    fio_version,
    group_totals,
    latency_shares,
    runtime_ms,
    share_of_group,
)
from nvme_emu.workload.histogram import Histogram
from nvme_emu.workload.plan import JobPlan
from nvme_emu.workload.stats import DEPTH_NAMES, SUBMIT_NAMES, DirectionStats

__all__ = ["header_lines", "number_text", "report_lines"]

_SI = ("", "k", "M", "G", "T", "P")
_IEC = ("", "Ki", "Mi", "Gi", "Ti", "Pi")


def number_text(number: int, digits: int = 4, *, binary: bool = False, unit: str = "") -> str:
    """A number in at most `digits` digits with a prefix, as fio shortens it: 237k, 8.19MiB/s, 1046.9k."""
    step, prefixes = (1024, _IEC) if binary else (1000, _SI)
    power, remainder = 0, None
    while len(str(number)) > digits and power + 1 < len(prefixes):
        number, remainder = divmod(number, step)
        power += 1
    places = digits - len(str(number))
    if remainder is None:
        text = str(number)
    elif places <= 1:
        text = str(number + (remainder >= step / 2))
    else:
        text = f"{number + remainder / step:.{places - 1}f}"
        if len(text) > digits:
            # Rounding made it a digit longer (9.999 to 10.00): one decimal less says the same.
            text = text[:-1].removesuffix(".")
    return f"{text}{prefixes[power]}{unit}"


def header_lines(plans: Sequence[JobPlan], version: str) -> list[str]:
    """What fio prints before it starts: one line a job, `...` for its further clones, and the version."""
    lines = []
    for plan in plans:
        if plan.clone == 0:
            sizes = ", ".join(
                f"({letter}) {low}B-{high}B" for letter, (low, high) in zip("RWT", plan.bs, strict=True)
            )
            lines.append(
                f"{plan.name}: (g={plan.group}): rw={plan.rw}, bs={sizes}, ioengine={plan.engine}, "
                f"iodepth={plan.iodepth}"
            )
        elif plan.clone == 1:
            lines.append("...")
    lines.append(fio_version(version))
    lines.append(f"Starting {len(plans)} thread{'s' if len(plans) > 1 else ''}")
    return lines


def report_lines(report: Report) -> list[str]:
    """The results of all jobs and the status of all groups."""
    lines = [""]
    for job in report.jobs:
        lines += _job_lines(report, job)
    for group in sorted({job.plan.group for job in report.jobs}):
        lines += _group_lines(report, group)
    lines += ["", "Disk stats (read/write):"]
    for disk in disk_util(report):
        lines.append(
            f"  {disk['name']}: ios={disk['read_ios']}/{disk['write_ios']}, "
            f"merge={disk['read_merges']}/{disk['write_merges']}, "
            f"ticks={disk['read_ticks']}/{disk['write_ticks']}, in_queue={disk['in_queue']}, "
            f"util={disk['util']:3.2f}%"
        )
    return lines


def _job_lines(report: Report, job: ReportedJob) -> Iterator[str]:
    plan, stats = job.plan, job.stats
    error = f"{stats.error:2d}" if not stats.error else f"{stats.error:2d} ({os.strerror(stats.error)})"
    yield (
        f"{plan.name}: (groupid={plan.group}, jobs={stats.members}): err={error}: "
        f"pid={job.pid}: {report.time_text}"
    )
    if plan.description:
        yield f'  Description  : ["{plan.description}"]'
    for number, direction in enumerate(stats.directions):
        if direction.ios:
            yield from _direction_lines(report, job, number, direction)
    yield from _latency_lines(latency_shares(stats))
    if stats.sync.n:
        yield "  fsync/fdatasync/sync_file_range:"
        yield _moments("sync", stats.sync)
        yield from _percentile_lines("sync", stats.sync, plan.percentiles)
    runtime = max(1, stats.runtime_ns)
    yield (
        f"  cpu          : usr={stats.user_ns * 100 / runtime:3.2f}%, "
        f"sys={stats.system_ns * 100 / runtime:3.2f}%, ctx={stats.context_switches}, "
        f"majf={stats.major_faults}, minf={stats.minor_faults}"
    )
    yield f"  IO depths    : {_shares(depth_shares(stats.depth_counts, DEPTH_NAMES, stats.ios))}"
    submit = depth_shares(stats.submit_counts, SUBMIT_NAMES, sum(stats.submit_counts))
    yield f"     submit    : {_shares(submit)}"
    complete = depth_shares(stats.complete_counts, SUBMIT_NAMES, sum(stats.complete_counts))
    yield f"     complete  : {_shares(complete)}"
    totals = ",".join(str(direction.ios) for direction in stats.directions)
    yield f"     issued rwts: total={totals},{stats.sync.n} short=0,0,0,0 dropped=0,0,0,0"
    yield f"     latency   : target=0, window=0, percentile=100.00%, depth={plan.iodepth}"


def _direction_lines(
    report: Report, job: ReportedJob, number: int, direction: DirectionStats
) -> Iterator[str]:
    plan = job.plan
    digits, name = plan.significant_figures, ("read", "write", "trim")[number]
    iops = number_text(int(direction.iops), digits)
    io = number_text(direction.nbytes, digits, binary=True, unit="B")
    tail = "; 0 zone resets" if name == "write" else ""
    yield (
        f"  {name}: IOPS={iops}, BW={_both(direction.bw_bytes, digits, 'B/s')}"
        f"({io}/{runtime_ms(direction)}msec){tail}"
    )
    histograms = (("slat", direction.slat), ("clat", direction.clat), ("lat", direction.lat))
    for label, histogram in histograms:
        if histogram.n:
            yield _moments(f"{label:>4s}", histogram)
    for (label, histogram), shown in zip(histograms, plan.percentiles_of, strict=True):
        if shown and histogram.n:
            yield from _percentile_lines(label, histogram, plan.percentiles)
    yield from _sample_lines(report, job, number, direction)


def _sample_lines(report: Report, job: ReportedJob, number: int, direction: DirectionStats) -> Iterator[str]:
    bw, iops = direction.bw_kib, direction.iops_samples
    if not bw.n:
        return
    scale, unit = (1024, "MiB") if bw.mean > 1024 * 1024 else (1, "KiB")
    yield (
        f"   bw ({unit:>5s}/s): min={bw.min // scale:5d}, max={bw.max // scale:5d}, "
        f"per={share_of_group(report.jobs, job, number):3.2f}%, avg={bw.mean / scale:5.02f}, "
        f"stdev={bw.stddev / scale:5.02f}, samples={bw.n}"
    )
    yield (
        f"   iops        : min={iops.min:5d}, max={iops.max:5d}, avg={iops.mean:5.02f}, "
        f"stdev={iops.stddev:5.02f}, samples={iops.n}"
    )


def _moments(label: str, histogram: Histogram) -> str:
    low, high, mean, deviation = histogram.min, histogram.max, histogram.mean, histogram.stddev
    unit, scale = "nsec", 1
    # fio's rule for when a coarser unit loses nothing worth showing.
    if low > 2_000_000 and high > 99_999_999 and deviation > 1_000_000:
        unit, scale = "msec", 1_000_000
    elif low > 2_000 and high > 99_999 and deviation > 1_000:
        unit, scale = "usec", 1_000
    return (
        f"    {label} ({unit}): min={number_text(low // scale, 6)}, max={number_text(high // scale, 6)}, "
        f"avg={mean / scale:5.02f}, stdev={deviation / scale:5.02f}"
    )


def _percentile_lines(label: str, histogram: Histogram, percents: Sequence[float]) -> Iterator[str]:
    values = histogram.percentiles(percents)
    unit, scale = "nsec", 1
    if min(values) > 2_000_000 and max(values) > 99_999_999:
        unit, scale = "msec", 1_000_000
    elif min(values) > 2_000 and max(values) > 99_999:
        unit, scale = "usec", 1_000
    width = max(5, int(math.log10(max(1, max(values) / scale))) + 1)
    values = [-(-value // scale) for value in values]
    cells = [f"{percent:5.2f}th=[{value:{width}d}]" for percent, value in zip(percents, values, strict=True)]
    per_line = (80 - 7) // (12 + width)
    yield f"    {label} percentiles ({unit}):"
    for start in range(0, len(cells), per_line):
        comma = "," if start + per_line < len(cells) else ""
        yield f"     | {', '.join(cells[start : start + per_line])}{comma}"


def _latency_lines(tables: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    for unit, table in tables.items():
        cells = [f"{name}={share:3.2f}%" for name, share in table.items() if share > 0]
        for start in range(0, len(cells), 5):
            yield f"  lat ({unit[0]}sec)   : {', '.join(cells[start : start + 5])}"


def _shares(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{name}={share:3.1f}%" for name, share in shares.items())


def _both(number: int, digits: int, unit: str) -> str:
    return f"{number_text(number, digits, binary=True, unit=unit)} ({number_text(number, digits, unit=unit)})"


def _group_lines(report: Report, group: int) -> Iterator[str]:
    yield ""
    yield f"Run status group {group} (all jobs):"
    for direction, label in enumerate(("   READ", "  WRITE", "   TRIM")):
        nbytes, bandwidth, parts = group_totals(report.jobs, group, direction)
        if not parts:
            continue
        rates = [part.bw_bytes for part in parts]
        times = [runtime_ms(part) for part in parts]
        digits = next(job.plan.significant_figures for job in report.jobs if job.plan.group == group)

        def texts(value: int, unit: str, digits: int = digits) -> tuple[str, str]:
            return (
                number_text(value, digits, binary=True, unit=unit),
                number_text(value, digits, unit=unit),
            )

        low, low_si = texts(min(rates), "B/s")
        high, high_si = texts(max(rates), "B/s")
        all_, all_si = texts(bandwidth, "B/s")
        io, io_si = texts(nbytes, "B")
        yield (
            f"{label}: bw={all_} ({all_si}), {low}-{high} ({low_si}-{high_si}), io={io} ({io_si}), "
            f"run={min(times)}-{max(times)}msec"
        )
