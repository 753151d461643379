"""Rows for whole processes: how long starting takes, and how much memory things take."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bench.measure import Row, Sample, Target

__all__ = ["process_rows"]

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 60
STARTS = 3

EMPTY_TIB = """
import json, sys
import numpy as np
def rss():
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * 4096
before = rss()
import nvme_emu
with nvme_emu.open(size="1T") as ssd:
    print(json.dumps({"bytes": rss() - before}))
"""

# Requests that are all at the device: a profile whose reads take a tenth of a second of virtual time. The
# callers' buffers exist and are touched beforehand, so that what is added is everything besides the data.
OUTSTANDING = """
import gc, json, sys, tracemalloc
from dataclasses import replace
import numpy as np
import nvme_emu
from nvme_emu.controller.profiles import load_profile
def rss():
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * 4096
N, traced = 1000, sys.argv[1] == "objects"
slow = replace(load_profile("tlc"), name="slow", read_overhead_ns=100_000_000)
with nvme_emu.open(size="64M", clock="virtual", profile=slow, mode="async", depth=1024) as ssd:
    ns = ssd.namespaces[1]
    buffers = list(np.ones((N, 4096), np.uint8))
    requests = [None] * N
    ns.submit_read(0, 8, buffers[0]).wait()
    gc.collect()
    if traced:
        tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0] if traced else rss()
    for i in range(N):
        requests[i] = ns.submit_read(i * 8, 8, buffers[i])
    ssd.runtime.sleep_ns(50_000_000)
    waiting = sum(not rq.done for rq in requests)
    assert waiting == N == ssd.driver.paths[0].pair.outstanding, (waiting, N)
    after = tracemalloc.get_traced_memory()[0] if traced else rss()
    print(json.dumps({"bytes": (after - before) / N}))
    for rq in requests:
        rq.wait()
"""


def _run(command: list[str]) -> str:
    """Output of a process; RuntimeError with its last words if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, cwd=ROOT)
    if done.returncode:
        words = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise RuntimeError(f"{' '.join(command)[:60]!r} failed: {words[-1] if words else done.returncode}")
    return done.stdout


def _run_once(command: list[str]) -> None:
    _run(command)


def _start_time(command: list[str]) -> Callable[[float], Sample]:
    def run(_seconds: float) -> Sample:
        times = []
        for _ in range(STARTS):
            start = time.perf_counter()
            _run(command)
            times.append(time.perf_counter() - start)
        return Sample(statistics.median(times))

    return run


def _measured_bytes(script: str, *args: str) -> Callable[[float], Sample]:
    def run(_seconds: float) -> Sample:
        return Sample(float(json.loads(_run([sys.executable, "-c", script, *args]))["bytes"]))

    return run


def _help_command() -> list[str]:
    script = Path(sys.executable).with_name("nvme-emu")
    if script.exists():
        return [str(script), "--help"]
    return [sys.executable, "-c", "from nvme_emu.cli import main; main(['--help'])"]


def process_rows() -> list[Row]:
    """Starting times against `import numpy`, resident memory of an empty TiB, memory of an outstanding I/O."""
    python = sys.executable
    rows = []
    starts: list[tuple[str, str, list[str], float | None]] = [
        ("start_numpy", "python -c 'import numpy'", [python, "-c", "import numpy"], None),
        ("start_help", "nvme-emu --help", _help_command(), 1.5),
        ("start_import", "python -c 'import nvme_emu'", [python, "-c", "import nvme_emu"], 0.5),
    ]
    for name, what, command, ratio in starts:
        rows.append(
            Row(
                name=name,
                group="start-up",
                what=what,
                unit="s",
                # The first start reads the files from the disk and writes bytecode: not measured.
                check=partial(_run_once, command),
                run=_start_time(command),
                targets=() if ratio is None else (Target(ratio=ratio, reference="start_numpy"),),
                less_is_better=True,
            )
        )
    for name, what, run, limit in (
        ("mem_empty_1t", "empty 1 TiB namespace, resident above import numpy", _measured_bytes(EMPTY_TIB), 60e6),
        (
            "mem_per_io",
            "each outstanding I/O: Python objects besides its data",
            _measured_bytes(OUTSTANDING, "objects"),
            2048.0,
        ),
        (
            "mem_per_io_rss",
            "each outstanding I/O: resident besides its data",
            _measured_bytes(OUTSTANDING, "resident"),
            2048.0,
        ),
    ):
        rows.append(
            Row(
                name=name,
                group="memory use",
                what=what,
                unit="B",
                run=run,
                targets=(Target(ratio=limit),),
                less_is_better=True,
                once=True,
            )
        )
    return rows
