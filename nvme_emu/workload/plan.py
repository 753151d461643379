"""What the engine runs: jobs with their ranges of a namespace, and the machine that they need."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from nvme_emu.workload.histogram import DEFAULT_PERCENTILES
from nvme_emu.workload.pattern import PatternSpec
from nvme_emu.workload.replay import Replay
from nvme_emu.workload.verify import VerifySpec

__all__ = ["BlockSizes", "JobPlan", "MachinePlan", "Plan"]

BlockSizes = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
"""(minimum, maximum) in bytes for reads, writes and trims."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JobPlan:
    """One job (one clone) as the engine runs it. Times in ns, sizes in bytes unless a name says otherwise."""

    name: str
    mode: str
    pattern: PatternSpec
    replay: Replay | None = None
    """What a replaying job does; `pattern` then only bounds its places and sizes."""
    nsid: int = 1
    lba_size: int = 512
    iodepth: int = 1
    group: int = 0
    clone: int = 0
    stonewall: bool = False
    exitall: bool = False

    io_bytes: int = 0
    """Bytes of one loop; 0 for no limit."""
    loops: int = 1
    number_ios: int = 0
    runtime_ns: int = 0
    time_based: bool = False
    ramp_ns: int = 0
    start_delay_ns: int = 0
    rate_iops: tuple[int, int, int] = (0, 0, 0)
    rate_bytes: tuple[int, int, int] = (0, 0, 0)
    thinktime_ns: int = 0
    thinktime_blocks: int = 1
    fsync_every: int = 0
    end_fsync: bool = False
    sample_ns: int = 500_000_000

    verify: VerifySpec = field(default_factory=VerifySpec)
    do_verify: bool = True
    buffer_pattern: bytes = b""
    zero_buffers: bool = False
    refill_buffers: bool = False
    scramble_buffers: bool = True
    cpu_ns_per_io: int = 0
    """What the job's own code costs an I/O in virtual time."""

    # what only the reports need
    engine: str = "psync"
    rw: str = "read"
    bs: BlockSizes = ((4096, 4096), (4096, 4096), (4096, 4096))
    size: int = 0
    description: str = ""
    group_reporting: bool = False
    percentiles: tuple[float, ...] = DEFAULT_PERCENTILES
    percentiles_of: tuple[bool, bool, bool] = (False, True, False)
    """Whether slat, clat and lat get percentiles."""
    significant_figures: int = 4
    texts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class MachinePlan:
    """The SSD that the jobs need; `options` are further keyword arguments of nvme_emu.open."""

    size: int
    mode: str
    lba_size: int = 512
    namespaces: int = 1
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    machine: MachinePlan
    jobs: tuple[JobPlan, ...]
    global_texts: dict[str, str]
    notes: tuple[str, ...]
