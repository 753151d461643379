"""Rows made by hand, so that words and comparisons are tested on figures that a reader can check."""

from __future__ import annotations

from typing import Any

from nvme_emu.workload.compare_flip import Flip
from nvme_emu.workload.compare_rows import Row


def row(
    mode: str,
    iops: float,
    *,
    depth: int = 1,
    callers: int = 1,
    worker: str | None = None,
    profile: str = "toy",
    mean_ns: float = 10_000.0,
    device_ns: float = 8_000.0,
    call_ns: float | None = None,
    **more: Any,
) -> Row:
    """One row; ``mode`` "sync" or "async" (by the pump, unless ``worker`` says otherwise)."""
    rest = mean_ns - device_ns
    fields: dict[str, Any] = {
        "profile": profile,
        "mode": mode,
        "worker": (worker or "pump") if mode == "async" else None,
        "iodepth": depth,
        "callers": callers,
        "bs": 4096,
        "rw": "randread",
        "ios": 1000,
        "iops": float(iops),
        "bw_bytes": int(iops * 4096),
        "lat_ns": {"mean": mean_ns, "p50": 9_984, "p99": 12_032, "p99_9": 15_040, "max": 16_000},
        "call_ns": mean_ns if call_ns is None else call_ns,
        "caller_blocked": 0.9,
        "cpu_ns_per_io": 4000.0,
        "context_switches": 1.0,
        "doorbells": 1.0,
        "interrupts": 1.0,
        "stages_ns": {
            "worker_list": 0.0,
            "submission": 500.0,
            "device": device_ns,
            "completion": 1000.0,
            "wakeup": rest - 1500.0,
        },
    }
    return Row(**{**fields, **more})


def flip(depth: int, callers: int, winner: str, at_ns: int | None) -> Flip:
    """What a search found about async at ``depth`` against ``callers`` sync callers."""
    return Flip(
        profile="toy", bs=4096, iodepth=depth, callers=callers, winner=winner, at_ns=at_ns, assumed_ns=2_500
    )
