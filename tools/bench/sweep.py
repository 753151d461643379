"""How the cost grows: IOPS against queue depth, queues, block size, size of the namespace, outstanding requests.

Each sweep states what "n times as much" costs: the time of one round over everything that is counted, and the
exponent with which it grows. Nothing may grow worse than linearly, so that an exponent above 1 (and what
noise explains) is flagged: over all points, and over each few neighbours, for a blow-up in one place does not show in
the whole. A sweep that would be flagged is measured once more, and each point's better figure counts: noise only
ever takes, and does not strike twice in one place.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import nvme_emu
from bench.measure import Sample, paused_gc
from bench.ours import BLOCK, PAGE, Resubmitted, SingleReads, Stage, Work, fill_pages, open_on, page_aligned
from nvme_emu.media import SparseMedia

__all__ = ["EXPONENT_MAX", "SWEEPS", "Sweep", "growth_exponent", "plot", "run_sweeps"]

EXPONENT_MAX = 1.15
"""Linear, and what noise adds to a fit over a few points."""

NEAR_POINTS = 4
DEPTHS = tuple(1 << n for n in range(11))
QUEUES = tuple(1 << n for n in range(7))
BLOCK_SIZES = tuple(1 << n for n in range(9, 21))
SIZES = tuple(1 << n for n in range(20, 41, 4))
OUTSTANDING = tuple(1 << n for n in range(6, 17, 2))
SPARSE_PAGES = 256


@dataclass(slots=True, kw_only=True)
class Sweep:
    """Figures over one parameter. ``iops[i]`` belongs to ``points[i]``.

    ``per_round`` says how many I/Os one round over n of them has: n for depths, queues and outstanding
    requests, 1 where the parameter is a size.
    """

    name: str
    axis: str
    per_round_is_n: bool
    points: list[int] = field(default_factory=list)
    iops: list[float] = field(default_factory=list)
    failed: str = ""

    @property
    def cost_s(self) -> list[float]:
        """Seconds for one round at each point."""
        return [
            (point if self.per_round_is_n else 1) / iops for point, iops in zip(self.points, self.iops, strict=True)
        ]

    @property
    def exponent(self) -> float:
        """The growth exponent over all points."""
        return growth_exponent(self.points, self.cost_s)

    @property
    def steepest(self) -> tuple[float, int]:
        """(exponent, first point) of the NEAR_POINTS neighbours over which the cost grows fastest."""
        costs, count = self.cost_s, len(self.points)
        starts = range(max(count - NEAR_POINTS, 0) + 1)
        windows = [slice(start, start + NEAR_POINTS) for start in starts]
        exponents = [growth_exponent(self.points[some], costs[some]) for some in windows]
        worst = max(starts, key=exponents.__getitem__)
        return exponents[worst], self.points[worst]

    @property
    def worse_than_linear(self) -> bool:
        """Whether either exponent is above EXPONENT_MAX."""
        return max(self.exponent, self.steepest[0]) > EXPONENT_MAX

    def take_better(self, again: Sweep) -> None:
        """Keep the better figure of this and a second measurement of the same points."""
        self.iops = [max(pair) for pair in zip(self.iops, again.iops, strict=True)]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        measured = len(self.points) > 1
        return {
            "name": self.name,
            "axis": self.axis,
            "points": self.points,
            "iops": self.iops,
            "exponent": round(self.exponent, 3) if measured else None,
            "steepest_exponent": round(self.steepest[0], 3) if measured else None,
            "steepest_from": self.steepest[1] if measured else None,
            "worse_than_linear": self.worse_than_linear if measured else None,
            "failed": self.failed,
        }


def growth_exponent(points: Sequence[float], costs: Sequence[float]) -> float:
    """The slope of log(cost) over log(point), by least squares; 0 for fewer than two points."""
    if len(points) < 2:
        return 0.0
    xs, ys = [math.log(p) for p in points], [math.log(c) for c in costs]
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((x - mean_x) ** 2 for x in xs)
    return sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / spread


def _depths(stage: Stage, seconds: float, sweep: Sweep) -> None:
    machine = stage.machine(mode="async")
    for depth in DEPTHS:
        _add(sweep, depth, Resubmitted(machine, stage.medium, stage.places, depth=depth), seconds)


def _queues(stage: Stage, seconds: float, sweep: Sweep) -> None:
    """64 requests outstanding in all, spread over the queues: more queues, not more work."""
    for queues in QUEUES:
        with open_on(stage.media, mode="async", queues=queues, depth=64) as machine:
            assert len(machine.workers) == queues
            _add(sweep, queues, SpreadOut(machine, stage, depth=64), seconds)


def _block_sizes(stage: Stage, seconds: float, sweep: Sweep) -> None:
    machine = stage.machine(mode="sync")
    for nbytes in BLOCK_SIZES:
        _add(sweep, nbytes, SizedReads(machine, stage, nbytes), seconds)


def _sizes(_stage: Stage, seconds: float, sweep: Sweep) -> None:
    """Reads of written pages scattered over sparse namespaces: 1 MiB to 1 TiB."""
    for nbytes in SIZES:
        with open_on(SparseMedia(nbytes), mode="sync") as machine:
            _add(sweep, nbytes, ScatteredReads(machine, nbytes), seconds)


def _outstanding(stage: Stage, seconds: float, sweep: Sweep) -> None:
    """Requests submitted before any is waited for, also far more than the queue has tags."""
    machine = stage.machine(mode="async")
    for count in OUTSTANDING:
        _add(sweep, count, Floods(machine, stage, count), seconds)


SWEEPS: dict[str, tuple[str, bool, Callable[[Stage, float, Sweep], None]]] = {
    "depth": ("queue depth", True, _depths),
    "queues": ("queues, 64 requests in all", False, _queues),
    "block": ("block size, bytes", False, _block_sizes),
    "size": ("namespace, bytes (sparse)", False, _sizes),
    "outstanding": ("requests submitted at once", True, _outstanding),
}


def run_sweeps(stage: Stage, seconds: float, progress: Callable[[str], None]) -> list[Sweep]:
    """All sweeps. One that fails says why and keeps the points it has."""
    sweeps = []
    for name, (axis, per_round_is_n, measure) in SWEEPS.items():
        progress(f"sweep over {axis}")
        sweep, again = (Sweep(name=name, axis=axis, per_round_is_n=per_round_is_n) for _ in range(2))
        try:
            measure(stage, seconds, sweep)
            if sweep.worse_than_linear:
                progress(f"sweep over {axis}, once more")
                measure(stage, seconds, again)
                sweep.take_better(again)
        except Exception as error:
            sweep.failed = f"{type(error).__name__}: {error}"
        sweeps.append(sweep)
    return sweeps


def _add(sweep: Sweep, point: int, work: Work, seconds: float) -> None:
    work.check()
    sweep.iops.append(max(work.run(seconds / 2).value for _ in range(2)))
    sweep.points.append(point)


class SizedReads(Work):
    """Reads of ``nbytes`` at random multiples of it."""

    def __init__(self, machine: nvme_emu.Machine, stage: Stage, nbytes: int) -> None:
        super().__init__(machine, stage.medium)
        self._nlb = nbytes // BLOCK
        self._out = page_aligned(nbytes)
        count = max(16, min(1024, (32 << 20) // nbytes))
        places = np.random.default_rng(5).integers(0, len(stage.medium) // nbytes, count)
        self._slbas = (places * self._nlb).tolist()

    def chunk(self) -> int:
        read, nlb, out = self.ns.read, self._nlb, self._out
        for slba in self._slbas:
            read(slba, nlb, out)
        return len(self._slbas)

    def spoil(self) -> None:
        self._out[:] = 0

    def prove(self) -> None:
        start = self._slbas[-1] * BLOCK
        self.expect(np.array_equal(self._out, self.medium[start : start + len(self._out)]), "read")


class ScatteredReads(SingleReads):
    """Reads of SPARSE_PAGES pages anywhere in a namespace that has nothing else written."""

    def __init__(self, machine: nvme_emu.Machine, nbytes: int) -> None:
        places = np.unique(np.random.default_rng(3).integers(0, nbytes // PAGE, SPARSE_PAGES))
        stored = np.empty(len(places) * PAGE, np.uint8)
        fill_pages(stored)
        machine.namespaces[1].write_many(places * (PAGE // BLOCK), stored, PAGE // BLOCK)
        super().__init__(machine, stored, places, into=True, count=len(places))

    def prove(self) -> None:
        # The chunk ends with the last place, whose page is the last that was stored.
        self.expect(np.array_equal(self._last, self.pages[-1]), "read of a sparse namespace")


class Floods(Work):
    """``count`` reads submitted at once, then waited for."""

    def __init__(self, machine: nvme_emu.Machine, stage: Stage, count: int) -> None:
        super().__init__(machine, stage.medium)
        self._slbas = (stage.places[:count] * (PAGE // BLOCK)).tolist()
        # A few buffers for all: what is measured is the bookkeeping, not the memory.
        self._buffers = list(page_aligned(64 * PAGE).reshape(64, PAGE)) * (count // 64)

    def chunk(self) -> int:
        submit = self.ns.submit_read
        requests = [submit(slba, 8, out) for slba, out in zip(self._slbas, self._buffers, strict=True)]
        for rq in requests:
            rq.wait()
        return len(requests)

    def spoil(self) -> None:
        for out in self._buffers[:64]:
            out[:] = 0

    def prove(self) -> None:
        for slba, out in zip(self._slbas[-64:], self._buffers, strict=False):
            self.expect(np.array_equal(out, self.pages[slba // 8]), "read")


class SpreadOut(Work):
    """``depth`` reads outstanding over all queues, started by a thread for each queue: a queue is its caller's."""

    def __init__(self, machine: nvme_emu.Machine, stage: Stage, *, depth: int) -> None:
        super().__init__(machine, stage.medium)
        parts = np.array_split(stage.places, len(machine.workers))
        each = depth // len(parts)
        self._loops = [Resubmitted(machine, stage.medium, part, depth=each, count=2048) for part in parts]

    def chunk(self) -> int:
        return self._all_until(0.0)

    def _all_until(self, end: float) -> int:
        """Every loop in a thread of its own, chunk after chunk until ``end`` (at least one); operations done."""
        done: list[int] = []

        def work(loop: Resubmitted) -> None:
            while True:
                done.append(loop.chunk())
                if time.perf_counter() >= end:
                    return

        threads = [threading.Thread(target=work, args=(loop,)) for loop in self._loops]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(done)

    def spoil(self) -> None:
        for loop in self._loops:
            loop.spoil()

    def prove(self) -> None:
        for loop in self._loops:
            loop.prove()

    def run(self, seconds: float) -> Sample:
        self.spoil()
        with paused_gc():
            start = time.perf_counter()
            done = self._all_until(start + seconds)
            sample = Sample(done / (time.perf_counter() - start))
        self.prove()
        return sample


def plot(sweeps: Sequence[Sweep], file: Path) -> None:
    """IOPS over each parameter, both axes logarithmic, with the exponent in the title; a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(sweeps), figsize=(4 * len(sweeps), 3.6), squeeze=False)
    for sweep, panel in zip(sweeps, axes[0], strict=True):
        panel.set_title(f"{sweep.name}: cost grows as n^{sweep.exponent:.2f}")
        panel.loglog(sweep.points, sweep.iops, "o-", base=10)
        panel.set_xlabel(sweep.axis)
        panel.set_ylabel("IOPS")
        # A decade around the points, so that noise does not fill the panel.
        if sweep.iops:
            panel.set_ylim(min(sweep.iops) / 3, max(sweep.iops) * 3)
        panel.grid(True, which="both", alpha=0.3)
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    plt.close(figure)
