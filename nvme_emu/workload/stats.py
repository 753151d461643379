"""What a job has done and how long it took: the figures behind both fio outputs and `compare`."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nvme_emu.workload.histogram import Histogram

__all__ = [
    "DEPTH_NAMES",
    "LATENCY_NAMES",
    "SUBMIT_NAMES",
    "DirectionStats",
    "JobStats",
    "Samples",
    "depth_slot",
    "submit_slot",
]

# The names of fio's tables; a latency or depth counts under the first name that is larger (latency) or
# under the last that it reaches (depth).
LATENCY_NAMES: dict[str, tuple[str, ...]] = {
    "ns": ("2", "4", "10", "20", "50", "100", "250", "500", "750", "1000"),
    "us": ("2", "4", "10", "20", "50", "100", "250", "500", "750", "1000"),
    "ms": ("2", "4", "10", "20", "50", "100", "250", "500", "750", "1000", "2000", ">=2000"),
}
DEPTH_NAMES = ("1", "2", "4", "8", "16", "32", ">=64")
SUBMIT_NAMES = ("0", "4", "8", "16", "32", "64", ">=64")

_SCALE_NS = {"ns": 1, "us": 1_000, "ms": 1_000_000}
LATENCY_EDGES_NS: NDArray[np.int64] = np.array(
    [
        int(name) * _SCALE_NS[unit]
        for unit, names in LATENCY_NAMES.items()
        for name in names
        if name != ">=2000"
    ],
    dtype=np.int64,
)


def depth_slot(depth: int) -> int:
    """Where a queue depth counts in DEPTH_NAMES: 1, 2-3, 4-7, … 64 and more."""
    return min(max(depth, 1).bit_length() - 1, 6)


def submit_slot(count: int) -> int:
    """Where a number of I/Os handled at once counts in SUBMIT_NAMES: 0, 1-4, 5-8, … more than 64."""
    if count <= 4:
        return 1 if count else 0
    return min((count - 1).bit_length() - 1, 6)


@dataclass(slots=True)
class Samples:
    """Samples of bandwidth or IOPS: count, extremes and moments."""

    values: list[float] = field(default_factory=list)

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def min(self) -> int:
        return int(min(self.values, default=0))

    @property
    def max(self) -> int:
        return int(max(self.values, default=0))

    @property
    def mean(self) -> float:
        return sum(self.values) / len(self.values) if self.values else 0.0

    @property
    def stddev(self) -> float:
        if len(self.values) < 2:
            return 0.0
        mean = self.mean
        return float((sum((value - mean) ** 2 for value in self.values) / (len(self.values) - 1)) ** 0.5)


@dataclass(slots=True)
class DirectionStats:
    """One direction of a job. Latencies in ns; `runtime_ns` is how long the job worked in this direction."""

    ios: int = 0
    nbytes: int = 0
    runtime_ns: int = 0
    slat: Histogram = field(default_factory=Histogram)
    clat: Histogram = field(default_factory=Histogram)
    lat: Histogram = field(default_factory=Histogram)
    bw_kib: Samples = field(default_factory=Samples)
    iops_samples: Samples = field(default_factory=Samples)

    @property
    def iops(self) -> float:
        return self.ios * 1e9 / self.runtime_ns if self.runtime_ns else 0.0

    @property
    def bw_bytes(self) -> int:
        """Bytes a second."""
        return self.nbytes * 1_000_000_000 // self.runtime_ns if self.runtime_ns else 0

    def merge(self, other: DirectionStats, *, parallel: bool) -> None:
        """Add another job's direction; jobs that ran side by side share their time, others add it up."""
        self.ios += other.ios
        self.nbytes += other.nbytes
        if parallel:
            self.runtime_ns = max(self.runtime_ns, other.runtime_ns)
        else:
            self.runtime_ns += other.runtime_ns
        self.slat.merge(other.slat)
        self.clat.merge(other.clat)
        self.lat.merge(other.lat)
        self.bw_kib.values += other.bw_kib.values
        self.iops_samples.values += other.iops_samples.values


@dataclass(slots=True)
class JobStats:
    """All of a job (or of a reporting group, after merging)."""

    read: DirectionStats = field(default_factory=DirectionStats)
    write: DirectionStats = field(default_factory=DirectionStats)
    trim: DirectionStats = field(default_factory=DirectionStats)
    sync: Histogram = field(default_factory=Histogram)
    """Latency of flushes."""

    depth_counts: list[int] = field(default_factory=lambda: [0] * 7)
    submit_counts: list[int] = field(default_factory=lambda: [0] * 7)
    complete_counts: list[int] = field(default_factory=lambda: [0] * 7)
    latency_counts: NDArray[np.int64] = field(
        default_factory=lambda: np.zeros(len(LATENCY_EDGES_NS) + 1, dtype=np.int64)
    )

    runtime_ns: int = 0
    """From the start of measuring to the end of the job; summed over merged jobs."""
    user_ns: int = 0
    system_ns: int = 0
    cpu_ns: int = 0
    """CPU time of the job's task; on threads user + system, in virtual time what the task was charged."""
    blocked_ns: int = 0
    """Time in which the job's task was asleep."""
    context_switches: int = 0
    major_faults: int = 0
    minor_faults: int = 0
    error: int = 0
    """errno of the first failure, 0 if there was none."""
    members: int = 1

    @property
    def directions(self) -> tuple[DirectionStats, DirectionStats, DirectionStats]:
        return self.read, self.write, self.trim

    @property
    def ios(self) -> int:
        return sum(direction.ios for direction in self.directions)

    def clear(self) -> None:
        """Forget what was measured so far (the end of ramp_time), in place."""
        for direction in self.directions:
            direction.ios = direction.nbytes = direction.runtime_ns = 0
            for histogram in (direction.slat, direction.clat, direction.lat):
                histogram.clear()
            direction.bw_kib.values.clear()
            direction.iops_samples.values.clear()
        self.sync.clear()
        for counts in (self.depth_counts, self.submit_counts, self.complete_counts):
            counts[:] = [0] * len(counts)
        self.latency_counts[:] = 0

    def flush_latency(self, direction: int) -> None:
        """Count the buffered completion latencies in fio's coarse table, and move them into the histogram."""
        histogram = self.directions[direction].clat
        buffered: array[int] = histogram.buffer
        if buffered:
            values = np.array(buffered, dtype=np.int64)
            slots = np.searchsorted(LATENCY_EDGES_NS, values, side="right")
            self.latency_counts += np.bincount(slots, minlength=len(self.latency_counts))
            histogram.flush()

    def merge(self, other: JobStats) -> None:
        """Add a job that ran side by side with this one."""
        for mine, theirs in zip(self.directions, other.directions, strict=True):
            mine.merge(theirs, parallel=True)
        self.sync.merge(other.sync)
        for mine_counts, their_counts in (
            (self.depth_counts, other.depth_counts),
            (self.submit_counts, other.submit_counts),
            (self.complete_counts, other.complete_counts),
        ):
            mine_counts[:] = [a + b for a, b in zip(mine_counts, their_counts, strict=True)]
        self.latency_counts = self.latency_counts + other.latency_counts
        self.runtime_ns += other.runtime_ns
        self.user_ns += other.user_ns
        self.system_ns += other.system_ns
        self.cpu_ns += other.cpu_ns
        self.blocked_ns += other.blocked_ns
        self.context_switches += other.context_switches
        self.major_faults += other.major_faults
        self.minor_faults += other.minor_faults
        self.error = self.error or other.error
        self.members += other.members
