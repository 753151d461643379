"""Measuring one row: a machine of its own, the engine's loops on it, and the books of CPU time and stages."""

from __future__ import annotations

import resource
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import kworker
from nvme_emu.driver import NvmeDriver
from nvme_emu.machine import Machine, MachineConfig
from nvme_emu.observe.checker.finding import CheckError, CheckerWarning
from nvme_emu.observe.stages import StageSums
from nvme_emu.workload.compare_rows import LBA_SIZE, CompareConfig, Row, RowSpec
from nvme_emu.workload.histogram import Histogram
from nvme_emu.workload.pattern import Extent, PatternSpec
from nvme_emu.workload.plan import JobPlan
from nvme_emu.workload.report_capture import Capture, worker_events
from nvme_emu.workload.rng import mix64
from nvme_emu.workload.runner import Jobs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nvme_emu.workload.engine import Job

__all__ = ["RowError", "Sink", "measure_row"]

Sink = Callable[[Any], None]
PAGE = 4096
QUEUE_DEPTH = 1024
WATCHED_IOS_WALL = 400
"""I/Os of the run of a row that is watched, on the wall clock."""


class RowError(RuntimeError):
    """An I/O of a row failed, so that the row says nothing; names the row and the failure."""


def measure_row(
    config: CompareConfig,
    spec: RowSpec,
    *,
    ios: int | None = None,
    costs: kworker.SimCosts | None = None,
    driver_class: type[NvmeDriver] = NvmeDriver,
    sink: Sink | None = None,
    picture: bool = False,
) -> Row:
    """Measure one row; on the virtual clock a pure function of its arguments.

    ``ios`` and ``costs`` replace the configuration's (the search for a flip varies them); ``sink`` gets the
    events of the row's I/O; ``picture`` adds what timelines and heat maps are drawn from.

    RowError if an I/O fails, what :class:`Machine` raises if it cannot be made.
    """
    capture = Capture() if picture else None
    count = ios or config.row_ios
    if config.virtual:
        row = _measure(config, spec, count, costs, driver_class, (sink, capture))
    else:
        # On the wall clock who looks is felt. The figures are of a run that nobody watches; in which proportions
        # its time went where, and the picture, are of one more, which is short unless every event is wanted.
        row = _measure(config, spec, count, costs, driver_class, None)
        watched = count if sink is not None else min(count, WATCHED_IOS_WALL)
        seen = _measure(config, spec, watched, costs, driver_class, (sink, capture))
        row = replace(
            row, stages_ns=_scaled(seen, row), doorbells=seen.doorbells, interrupts=seen.interrupts
        )
    return row if capture is None else replace(row, picture=capture.picture())


def _scaled(seen: Row, row: Row) -> dict[str, float]:
    """The stages of a watched row in their proportions, as parts of an unwatched row's mean latency."""
    whole = sum(seen.stages_ns.values())
    factor = row.lat_ns["mean"] / whole if whole else 0.0
    return {name: round(value * factor, 1) for name, value in seen.stages_ns.items()}


def _measure(
    config: CompareConfig,
    spec: RowSpec,
    ios: int,
    costs: kworker.SimCosts | None,
    driver_class: type[NvmeDriver],
    watching: Sequence[Sink | None] | None,
) -> Row:
    """One run. ``watching`` None leaves it alone: its stages, doorbells and interrupts are then not known."""
    machine = Machine(
        MachineConfig(
            size=config.size,
            profile=spec.profile,
            mode=spec.mode,
            worker=spec.worker or "pump",
            clock=config.clock,
            seed=config.seed,
            depth=QUEUE_DEPTH,
            # Linux gives each CPU a queue pair, so sync callers do not share one before CPUs run out.
            queues=min(spec.callers, config.cpus),
            cpus=config.cpus,
            host=config.host,
            costs=config.costs if costs is None else costs,
            driver_class=driver_class,
        )
    )
    where = f"{spec.profile.name}, {spec.label}, depth {spec.iodepth}"
    with warnings.catch_warnings():
        # What is found goes with the row, and the process that shows rows tells of it.
        warnings.simplefilter("ignore", CheckerWarning)
        try:
            with machine:
                row = _run(machine, config, spec, ios, watching, where)
        except CheckError as error:
            raise RowError(f"{where}: {error}") from error
    return row if machine.checker is None else replace(row, found=machine.checker.findings)


def _run(
    machine: Machine, config: CompareConfig, spec: RowSpec, ios: int, watching: Sequence[Sink | None] | None, where: str
) -> Row:
    plans = _job_plans(config, spec, machine.namespaces[1].nlb, ios)
    jobs = Jobs(machine, plans)
    sums = StageSums(threads=not config.virtual)
    books = _Books(machine, jobs.jobs)
    listeners: list[Sink] = []
    if watching is not None:
        listeners = [sums, *(sink for sink in watching if sink is not None)]
    with _worker_events(machine, wanted=len(listeners) > 1):
        for listener in listeners:
            machine.trace.add_sink(listener)
        try:
            results = jobs.run()
        finally:
            for listener in listeners:
                machine.trace.remove_sink(listener)
    cpu_ns, switches = books.since()
    failure = next((result.failure for result in results if result.failure), "")
    if failure:
        raise RowError(f"{where}: {failure}")
    return _row(config, spec, jobs.jobs, sums, cpu_ns, switches)


@contextmanager
def _worker_events(machine: Machine, *, wanted: bool) -> Iterator[None]:
    """Have the worker room's own events in the trace, or not: making them costs a tenth of the time."""
    runtime = machine.runtime
    before = runtime.on_event
    runtime.on_event = worker_events(machine) if wanted else None
    try:
        yield
    finally:
        runtime.on_event = before


def _job_plans(config: CompareConfig, spec: RowSpec, blocks: int, ios: int) -> list[JobPlan]:
    """One job a caller. The same seed on every row: all see the same addresses in the same order."""
    nlb = spec.bs // LBA_SIZE
    direction = {"r": "read", "w": "write"}[spec.rw.removeprefix("rand")[0]]
    if spec.rw in ("rw", "randrw"):
        direction = "rw"
    is_random = spec.rw.startswith("rand")
    plans = []
    for caller in range(spec.callers):
        # Sequential callers have a stretch each, as fio's jobs have a file each.
        share = blocks if is_random else blocks // spec.callers // nlb * nlb
        start = 0 if is_random else caller * share
        if share < nlb:
            raise RowError(
                f"{spec.callers} callers do not fit into {blocks} blocks with {spec.bs} bytes each"
            )
        plans.append(
            JobPlan(
                name=f"caller{caller}" if spec.callers > 1 else "caller",
                mode=spec.mode,
                iodepth=spec.iodepth if spec.mode == "async" else 1,
                number_ios=max(1, ios // spec.callers),
                lba_size=LBA_SIZE,
                rw=spec.rw,
                cpu_ns_per_io=config.caller_ns,
                zero_buffers=True,
                pattern=PatternSpec(
                    direction=direction,
                    random=is_random,
                    random_map=False,
                    extents=(Extent(slba=start, nlb=share),),
                    nlb=((nlb, nlb),) * 3,
                    seed=mix64(config.seed + caller),
                ),
            )
        )
    return plans


class _Books:
    """CPU time and context switches of callers, workers and interrupts, from now until :meth:`since`."""

    def __init__(self, machine: Machine, jobs: Sequence[Job]) -> None:
        self._machine = machine
        self._jobs = jobs
        self._before = self._read(with_jobs=False)

    def since(self) -> tuple[int, int]:
        """ns of CPU time, and context switches."""
        now = self._read(with_jobs=True)
        return now[0] - self._before[0], now[1] - self._before[1]

    def _read(self, *, with_jobs: bool) -> tuple[int, int]:
        runtime = self._machine.runtime
        if not isinstance(runtime, kworker.SimRuntime):
            # On threads the timer thread and all helpers belong to it: the process as a whole.
            usage = resource.getrusage(resource.RUSAGE_SELF)
            return time.process_time_ns(), usage.ru_nvcsw + usage.ru_nivcsw
        tasks = [worker.task for worker in self._machine.workers if worker.task is not None]
        if with_jobs:
            # The callers did not exist before, so all that they have is of this row.
            tasks += [job.task for job in self._jobs if job.task is not None]
        cpu_ns = sum(task.cpu_ns for task in tasks) + sum(cpu.irq_ns for cpu in runtime.cpus)
        return cpu_ns, sum(task.nvcsw + task.nivcsw for task in tasks)


def _row(
    config: CompareConfig, spec: RowSpec, jobs: Sequence[Job], sums: StageSums, cpu_ns: int, switches: int
) -> Row:
    lat, slat = Histogram(), Histogram()
    blocked_ns = run_ns = 0
    for job in jobs:
        stats = job.stats
        for direction in stats.directions:
            lat.merge(direction.lat)
            slat.merge(direction.slat)
        blocked_ns += stats.blocked_ns
        run_ns += stats.runtime_ns
    ios = lat.n
    # From the first caller's start to the last one's end: with more callers than CPUs they do not begin together.
    elapsed_ns = max(job.begun_ns + job.stats.runtime_ns for job in jobs) - min(job.begun_ns for job in jobs)
    host = config.host
    stages = sums.means(
        latency_ns=lat.mean,
        handover_ns=host.enqueue_ns if config.virtual and spec.mode == "async" else 0,
        build_ns=host.submit_ns + host.map_page_ns * (spec.bs // PAGE) if config.virtual else 0,
        has_list=spec.mode == "async",
    )
    # A percentile is the middle of its bin, which may lie above the largest value in it.
    p50, p99, p99_9 = (min(value, lat.max) for value in lat.percentiles((50.0, 99.0, 99.9)))
    return Row(
        profile=spec.profile.name,
        mode=spec.mode,
        worker=spec.worker,
        iodepth=spec.iodepth,
        callers=spec.callers,
        bs=spec.bs,
        rw=spec.rw,
        ios=ios,
        iops=round(ios * 1e9 / elapsed_ns, 1) if elapsed_ns else 0.0,
        bw_bytes=ios * spec.bs * 1_000_000_000 // elapsed_ns if elapsed_ns else 0,
        lat_ns={"mean": round(lat.mean, 1), "p50": p50, "p99": p99, "p99_9": p99_9, "max": lat.max},
        call_ns=round((slat if spec.mode == "async" else lat).mean, 1),
        caller_blocked=round(min(1.0, blocked_ns / run_ns), 4) if run_ns else 0.0,
        cpu_ns_per_io=round(cpu_ns / ios, 1),
        context_switches=round(switches / ios, 3),
        doorbells=round(sums.doorbells / ios, 3),
        interrupts=round(sums.interrupts / ios, 3),
        stages_ns={name: round(value, 1) + 0.0 for name, value in stages.items()},
        lat_bins=tuple((int(name), count) for name, count in lat.bins().items()),
    )
