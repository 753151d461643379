"""What is compared: the configuration, the plan of rows made from it, and a measured row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import kworker
from nvme_emu.controller.profiles import DeviceProfile, load_profile
from nvme_emu.core.units import format_bytes, parse_size
from nvme_emu.driver import HostModel
from nvme_emu.driver.config import WORKER_STYLES
from nvme_emu.observe.checker.finding import Finding
from nvme_emu.observe.stages import STAGES
from nvme_emu.workload.report_capture import Picture

__all__ = ["RW_NAMES", "WORKERS", "CompareConfig", "Row", "RowSpec", "pictured", "plan_rows"]

RW_NAMES = ("randread", "randwrite", "read", "write", "rw", "randrw")
"""fio's words; the mixed ones are half reads."""
WORKERS = ("pump", "per-request")
"""The styles that are compared unless others are asked for."""
CLOCKS = ("virtual", "wall")
IODEPTH_MAX = 1023
IOS_VIRTUAL = 5_000
IOS_WALL = 2_000
LBA_SIZE = 512
BS_MAX = 16 << 20
CALLER_NS = 200
"""What a caller's own code costs an I/O in virtual time: fio's null engine does 4 to 11 million a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareConfig:
    """A comparison. ValueError, naming the value and the rule, where something is wrong.

    ``profiles`` names, TOML files or DeviceProfiles; ``bs`` bytes (or text such as "4k") and ``iodepth`` lists;
    ``workers`` styles of the async mode; ``rw`` one of RW_NAMES; ``ios`` I/Os a row (None: 5000 in virtual time, so
    that 5 of them lie above p99.9; 2000 on the wall clock); ``size`` of the SSD. ``cpus``, ``costs`` and ``host`` are
    the virtual host: four CPUs are the smallest host on which callers, worker and interrupts do not stand in each
    other's way at depth 1, and few enough that 32 callers have to share. ``flips`` False leaves out the search for
    the hand-off cost at which the verdict turns. ``processes`` share the rows on the virtual clock (0: one a
    processor); 1 measures here, as a driver class that cannot be pickled and the wall clock always do.
    """

    profiles: tuple[str | Path | DeviceProfile, ...] = ("instant", "optane", "tlc", "qlc")
    clock: str = "virtual"
    bs: tuple[int | str, ...] = (4096,)
    iodepth: tuple[int, ...] = (1, 4, 32)
    workers: tuple[str, ...] = WORKERS
    rw: str = "randread"
    ios: int | None = None
    size: int | str = "64M"
    seed: int = 0
    cpus: int = 4
    costs: kworker.SimCosts = field(default_factory=kworker.SimCosts)
    host: HostModel = field(default_factory=HostModel)
    caller_ns: int = CALLER_NS
    calibrated: bool = False
    """Whether ``costs`` and ``host`` were measured on this machine (said in the assumptions)."""
    flips: bool = True
    processes: int = 1

    def __post_init__(self) -> None:
        _one_of("clock", self.clock, CLOCKS)
        _one_of("rw", self.rw, RW_NAMES)
        for name in ("profiles", "bs", "iodepth", "workers"):
            _check_list(name, getattr(self, name))
        for worker in self.workers:
            _one_of("worker", worker, WORKER_STYLES)
        for depth in self.iodepth:
            _check_number("iodepth", depth, 1, IODEPTH_MAX)
        nbytes = parse_size(self.size)
        for bs in self.bs:
            _check_bs(bs, nbytes)
        if self.ios is not None:
            _check_number("ios", self.ios, 1, 1 << 40)
        _check_number("cpus", self.cpus, 1, 1024)
        _check_number("caller_ns", self.caller_ns, 0, 1_000_000_000)
        _check_number("processes", self.processes, 0, 1024)
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise ValueError(f"seed={self.seed!r}: it must be a whole number")
        names = [profile.name for profile in self.device_profiles()]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"profile {name!r} is given twice: every device needs a name of its own")

    def device_profiles(self) -> tuple[DeviceProfile, ...]:
        """The devices, loaded. ProfileError (a ValueError) for one that cannot be."""
        return tuple(p if isinstance(p, DeviceProfile) else load_profile(p) for p in self.profiles)

    @property
    def virtual(self) -> bool:
        """Whether the clock is virtual."""
        return self.clock == "virtual"

    @property
    def row_ios(self) -> int:
        """I/Os a row."""
        return self.ios if self.ios is not None else IOS_VIRTUAL if self.virtual else IOS_WALL


def _one_of(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} {value!r} is unknown: it must be one of {', '.join(allowed)}")


def _check_list(name: str, values: Any) -> None:
    if not isinstance(values, tuple) or not values:
        raise ValueError(f"{name}={values!r}: at least one is needed, in a tuple")
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"{name}: {value!r} is given twice")


def _check_number(name: str, value: Any, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{name} {value!r}: it must be a whole number from {low} to {high}")


def _check_bs(bs: int | str, size: int) -> None:
    nbytes = parse_size(bs)
    if nbytes % LBA_SIZE or nbytes > BS_MAX:
        raise ValueError(
            f"bs {bs!r}: it must be a multiple of {LBA_SIZE} bytes, at most {format_bytes(BS_MAX)}"
        )
    if nbytes > size:
        raise ValueError(f"bs {bs!r} is larger than the SSD ({format_bytes(size)})")


@dataclass(frozen=True, slots=True, kw_only=True)
class RowSpec:
    """One row to measure: who does what on which device. ``worker`` is None in sync mode."""

    profile: DeviceProfile
    mode: str
    worker: str | None
    iodepth: int
    callers: int
    bs: int
    rw: str

    @property
    def label(self) -> str:
        """Who does the I/O, in words."""
        return label_of(self.mode, self.worker, self.callers)

    @property
    def key(self) -> tuple[str, str, str, int, int, int, str]:
        """The key that its row will have."""
        return (self.profile.name, self.mode, self.worker or "", self.iodepth, self.callers, self.bs, self.rw)


def label_of(mode: str, worker: str | None, callers: int) -> str:
    """``sync, 1 caller`` · ``sync, 32 callers`` · ``async, pump``."""
    if mode == "sync":
        return f"sync, {callers} caller{'s' if callers != 1 else ''}"
    return f"async, {worker}"


def plan_rows(config: CompareConfig) -> list[RowSpec]:
    """The rows in the order in which they are shown.

    A sync caller has one I/O under way, so one caller is one row however deep the others go; it is
    measured even if depth 1 is not asked for, since everything else is compared with it. Depth N is async at N,
    and sync by N callers.
    """
    rows = []
    for profile in config.device_profiles():
        for bs in config.bs:
            common: dict[str, Any] = {"profile": profile, "bs": parse_size(bs), "rw": config.rw}
            rows.append(RowSpec(mode="sync", worker=None, iodepth=1, callers=1, **common))
            for depth in sorted(config.iodepth):
                if depth > 1:
                    rows.append(RowSpec(mode="sync", worker=None, iodepth=depth, callers=depth, **common))
                rows += [
                    RowSpec(mode="async", worker=worker, iodepth=depth, callers=1, **common)
                    for worker in config.workers
                ]
    return rows


def pictured(specs: Sequence[RowSpec]) -> set[int]:
    """Which rows are drawn as timelines: of each device and block size one sync caller, and async at its deepest."""
    chosen: dict[tuple[str, int, str], int] = {}
    for index, spec in enumerate(specs):
        group = (spec.profile.name, spec.bs, spec.mode)
        before = chosen.get(group)
        if before is None or (spec.mode == "async" and spec.iodepth > specs[before].iodepth):
            chosen[group] = index
    return set(chosen.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A measured row.

    ``lat_ns`` from the call until the caller has the outcome: mean, p50, p99, p99_9 (names of json+ bins, so at
    most 1/64 off), max. ``call_ns`` mean time until the call returns: in sync mode the whole latency, in async mode
    the hand-over. ``caller_blocked`` the share of the callers' time in which they slept. ``cpu_ns_per_io`` CPU time
    of callers, worker and interrupts an I/O; ``context_switches``, ``doorbells`` and ``interrupts`` theirs an I/O.
    ``stages_ns`` the mean of each stage; together they are the mean latency.

    Not in the JSON, and no part of what makes two rows equal: ``lat_bins``, the histogram behind ``lat_ns`` as (ns,
    count), ``picture``, there where one was asked for, and what the checker found of the driver, if it looked.
    """

    profile: str
    mode: str
    worker: str | None
    iodepth: int
    callers: int
    bs: int
    rw: str
    ios: int
    iops: float
    bw_bytes: int
    lat_ns: Mapping[str, float]
    call_ns: float
    caller_blocked: float
    cpu_ns_per_io: float
    context_switches: float
    doorbells: float
    interrupts: float
    stages_ns: Mapping[str, float]
    lat_bins: tuple[tuple[int, int], ...] = field(default=(), compare=False, repr=False)
    picture: Picture | None = field(default=None, compare=False, repr=False)
    found: tuple[Finding, ...] = field(default=(), compare=False, repr=False)

    @property
    def label(self) -> str:
        """Who does the I/O, in words."""
        return label_of(self.mode, self.worker, self.callers)

    @property
    def key(self) -> tuple[str, str, str, int, int, int, str]:
        """What makes two rows the same measurement."""
        return (self.profile, self.mode, self.worker or "", self.iodepth, self.callers, self.bs, self.rw)

    def to_json(self) -> dict[str, Any]:
        """The row as docs/compare.md describes it; a JSON-ready mapping in a fixed order."""
        return {
            "profile": self.profile,
            "mode": self.mode,
            "worker": self.worker,
            "iodepth": self.iodepth,
            "callers": self.callers,
            "bs": self.bs,
            "rw": self.rw,
            "ios": self.ios,
            "iops": self.iops,
            "bw_bytes": self.bw_bytes,
            "lat_ns": dict(self.lat_ns),
            "call_ns": self.call_ns,
            "caller_blocked": self.caller_blocked,
            "cpu_ns_per_io": self.cpu_ns_per_io,
            "context_switches": self.context_switches,
            "doorbells": self.doorbells,
            "interrupts": self.interrupts,
            "stages_ns": dict(self.stages_ns),
        }

    @classmethod
    def from_json(cls, data: Any) -> Row:
        """Read a row back. ValueError, naming the key, if one is missing or has the wrong type."""
        if not isinstance(data, dict):
            raise ValueError(f"a row must be an object, not {type(data).__name__}")
        kinds: dict[str, tuple[type, ...]] = {
            "profile": (str,),
            "mode": (str,),
            "worker": (str, type(None)),
            "iodepth": (int,),
            "callers": (int,),
            "bs": (int,),
            "rw": (str,),
            "ios": (int,),
            "bw_bytes": (int,),
        }
        values: dict[str, Any] = {}
        for key, kind in kinds.items():
            values[key] = _typed(data, key, kind)
        for key in ("iops", "caller_blocked", "cpu_ns_per_io", "context_switches"):
            values[key] = _typed(data, key, (int, float))
        for key in ("call_ns", "doorbells", "interrupts"):
            values[key] = _typed({key: 0.0, **data}, key, (int, float))
        for key, names in (("lat_ns", ("mean", "p50", "p99", "p99_9", "max")), ("stages_ns", STAGES)):
            inner = _typed(data, key, (dict,))
            values[key] = {name: _typed(inner, name, (int, float)) for name in names}
        return cls(**values)


def _typed(data: Mapping[str, Any], key: str, kinds: tuple[type, ...]) -> Any:
    if key not in data:
        raise ValueError(f"key {key!r} is missing")
    value = data[key]
    if (
        not isinstance(value, kinds)
        or isinstance(value, bool)
        or (isinstance(value, float) and not math.isfinite(value))
    ):
        raise ValueError(f"key {key!r} is {value!r}")
    return value
