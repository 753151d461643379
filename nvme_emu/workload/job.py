"""A job: its phases, limits, pace, checks and figures. How its I/Os are done is up to its subclasses.

A job is a kthread, so that the same code runs on OS threads and in virtual time; it sleeps, waits and
reads the clock through kworker only.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kworker import Completion
from nvme_emu.core.errors import NvmeError
from nvme_emu.workload.histogram import FLUSH_COUNT
from nvme_emu.workload.pattern import FLUSH, WRITE, Operation, operations
from nvme_emu.workload.rng import U64
from nvme_emu.workload.stats import JobStats
from nvme_emu.workload.verify import Content, Verifier
from nvme_emu.workload.writelog import WriteLog

if TYPE_CHECKING:
    from kworker import Runtime, TaskStruct
    from nvme_emu.driver import Namespace
    from nvme_emu.workload.plan import JobPlan

__all__ = ["FOREVER", "Control", "Job", "aligned_buffers"]

SLEEP_SLICE_NS = 100_000_000
"""Long sleeps are cut into these, so that a stop is noticed."""
FOREVER = 1 << 62
_PAGE = 4096


class Control:
    """Shared by the jobs of a run: `stop` asks all of them to end, `stopped_groups` those of some groups."""

    def __init__(self) -> None:
        self.stop = False
        self.stopped_groups: set[int] = set()


def aligned_buffers(count: int, nbytes: int) -> list[NDArray[np.uint8]]:
    """`count` buffers of `nbytes` each, page-aligned, so that a transfer needs the fewest PRP entries."""
    stride = -(-nbytes // _PAGE) * _PAGE
    raw = np.zeros(count * stride + _PAGE, dtype=np.uint8)
    start = -raw.ctypes.data % _PAGE
    return [raw[start + k * stride : start + k * stride + nbytes] for k in range(count)]


class Job:
    """One job: its phases, limits, pace and figures. Subclasses say how I/Os are done (`_transfer`)."""

    def __init__(
        self, plan: JobPlan, namespace: Namespace, runtime: Runtime, control: Control | None = None
    ) -> None:
        if namespace.lba_size != plan.lba_size:
            raise ValueError(
                f"job {plan.name} was planned for blocks of {plan.lba_size} bytes, "
                f"namespace {namespace.nsid} has {namespace.lba_size}"
            )
        self.plan = plan
        self.ns = namespace
        self.runtime = runtime
        self.control = control if control is not None else Control()
        self.stats = JobStats()
        self.failure: str = ""
        self.exception: BaseException | None = None
        self.finished = Completion(runtime=runtime, name=f"end of job {plan.name}")
        self.task: TaskStruct | None = None
        self.started = False
        self.ramping = plan.ramp_ns > 0
        largest = max(plan.pattern.nlb[direction][1] for direction in plan.pattern.directions)
        self.block_bytes_max = largest * plan.lba_size
        checks = plan.verify.check != "none"
        self.verifier: Verifier | None = None
        if checks:
            self.verifier = Verifier(
                plan.verify, nsid=namespace.nsid, lba_size=plan.lba_size, block_bytes_max=self.block_bytes_max
            )
        self.content = Content(
            pattern=plan.buffer_pattern,
            zero=plan.zero_buffers,
            refill=plan.refill_buffers,
            scramble=plan.scramble_buffers,
            seed=plan.pattern.seed,
        )
        self._writes = plan.pattern.direction != "trim" and WRITE in plan.pattern.directions
        self.log = WriteLog() if checks and self._writes and plan.do_verify else None
        self._generation = 0
        self._timed = plan.replay is not None and plan.replay.timed
        self._paced = self._timed or any(plan.rate_iops) or any(plan.rate_bytes)
        self._loop_start = 0
        self._pace_start = 0
        self._pace_done = [[0, 0], [0, 0], [0, 0]]
        # The property's function without the attribute look-up: the clock is read several times an I/O.
        getter = type(runtime).now_ns.fget  # type: ignore[attr-defined]
        self._now: Callable[[], int] = partial(getter, runtime)
        self._window_start = 0
        self._window: list[tuple[int, int]] = [(0, 0)] * 3
        self._deadline = FOREVER
        self._ramp_end = 0
        self._event = 0
        self.begun_ns = 0

    # --- life ---

    def thread(self, _data: Any = None) -> int:
        """The kthread function: run to the end, account, announce it. Exceptions are kept for the runner."""
        try:
            self.task = self.runtime.current()
            usage = _ThreadUsage(self.runtime)
            if not self._sleep_until(self._now() + self.plan.start_delay_ns):
                return 0
            self.started = True
            try:
                self._run()
            finally:
                self._account(usage)
                if self.plan.exitall:
                    self.control.stopped_groups.add(self.plan.group)
        except NvmeError as error:
            self._fail(error)
        except BaseException as error:  # carried to the runner, which raises it
            self.exception = error
        finally:
            self.finished.complete_all()
        return -self.stats.error

    def _run(self) -> None:
        plan = self.plan
        self._begin()
        stream = iter(operations(plan.pattern))
        loop = 0
        while True:
            if plan.replay is not None:
                stream = plan.replay.batches()
            self._work(stream, time_based=plan.time_based and self.log is None)
            if plan.end_fsync and self._writes and not self.stats.error:
                self._flush()
            if self.log is not None and not self._over():
                self._read_back(self.log)
            loop += 1
            if self._over() or (self._now() >= self._deadline):
                return
            if not plan.time_based and loop >= plan.loops:
                return

    def _begin(self) -> None:
        plan, now = self.plan, self._now()
        self.begun_ns = self._window_start = self._pace_start = now
        self._ramp_end = now + plan.ramp_ns
        if plan.runtime_ns:
            self._deadline = now + plan.ramp_ns + plan.runtime_ns
        self._schedule_event(now)

    def _work(self, stream: Iterator[list[Operation]], *, time_based: bool) -> None:
        """One loop of the job's I/O."""
        plan = self.plan
        nbytes = FOREVER if time_based or not plan.io_bytes else plan.io_bytes
        before = [direction.ios for direction in self.stats.directions]
        # The first loop begins with the job: runtime=2s must not be told as 1999 ms for what came in between.
        begun = self._now() if any(before) else self.begun_ns
        self._loop_start = max(begun, self.begun_ns)
        try:
            self._transfer(stream, nbytes, plan.number_ios or FOREVER, check=self.verifier is not None)
        finally:
            self._end_phase(max(begun, self.begun_ns), before)

    def _read_back(self, log: WriteLog) -> None:
        """The verify phase: read back and check what this loop wrote, whatever the runtime says."""
        deadline, self._deadline = self._deadline, FOREVER
        self._schedule_event(self._now())
        begun, before = self._now(), [direction.ios for direction in self.stats.directions]
        try:
            self._transfer(iter(log.take()), FOREVER, FOREVER, check=True)
        finally:
            self._deadline = deadline
            self._schedule_event(self._now())
            self._end_phase(max(begun, self.begun_ns), before)

    def _transfer(self, batches: Iterable[list[Operation]], nbytes: int, ios: int, *, check: bool) -> None:
        """Do I/Os from `batches` until they end, the limits are reached, time is over or something fails."""
        raise NotImplementedError

    def _over(self) -> bool:
        control = self.control
        return bool(control.stop or (self.stats.error and not self._verify_error_only())
                    or self.plan.group in control.stopped_groups)  # fmt: skip

    def _verify_error_only(self) -> bool:
        return self.stats.error == errno.EILSEQ and not self.plan.verify.fatal

    # --- what happens now and then ---

    def _schedule_event(self, now: int) -> None:
        ramp = self._ramp_end if self.ramping else FOREVER
        self._event = min(self._deadline, ramp, self._window_start + self.plan.sample_ns)

    def _tick(self, now: int) -> bool:
        """Called when `now` has passed `_event`, and after each batch. True if the job has to end."""
        if self.ramping and now >= self._ramp_end:
            self.ramping = False
            self.stats.clear()
            self.begun_ns = self._window_start = now
            self._window = [(0, 0)] * 3
        if now - self._window_start >= self.plan.sample_ns:
            self._sample(now)
        self._flush_buffers()
        self._schedule_event(now)
        return now >= self._deadline or self._over()

    def _flush_buffers(self) -> None:
        for number, direction in enumerate(self.stats.directions):
            if len(direction.clat.buffer) >= FLUSH_COUNT:
                self.stats.flush_latency(number)
                direction.lat.flush()
                direction.slat.flush()

    def _sample(self, now: int) -> None:
        """One sample of bandwidth (KiB/s) and IOPS for each direction that moved in this window."""
        span = now - self._window_start
        for number, direction in enumerate(self.stats.directions):
            ios, nbytes = self._window[number]
            if direction.ios > ios and span > 0:
                direction.bw_kib.values.append((direction.nbytes - nbytes) * 1e9 / 1024 / span)
                direction.iops_samples.values.append((direction.ios - ios) * 1e9 / span)
            self._window[number] = (direction.ios, direction.nbytes)
        self._window_start = now

    def _end_phase(self, begun: int, before: list[int]) -> None:
        now = self._now()
        if self.ramping and now >= self._ramp_end:
            self._tick(now)
        for number, (direction, ios) in enumerate(zip(self.stats.directions, before, strict=True)):
            if direction.ios != ios:
                direction.runtime_ns += max(1, now - max(begun, self.begun_ns))
            # A run shorter than a window still shows one sample.
            if direction.ios and not direction.bw_kib.values and now > self._window_start:
                self._sample(now)
            self.stats.flush_latency(number)
            direction.lat.flush()
            direction.slat.flush()

    def _account(self, usage: _ThreadUsage) -> None:
        stats, task = self.stats, self.task
        stats.runtime_ns = self._now() - self.begun_ns
        user, system, stats.major_faults, stats.minor_faults = usage.since()
        if task is not None:
            stats.cpu_ns, stats.blocked_ns, stats.context_switches = task.cpu_ns, task.blocked_ns, task.nvcsw
        stats.user_ns, stats.system_ns = (stats.cpu_ns, 0) if self.runtime.virtual else (user, system)

    def _fail(self, error: OSError) -> None:
        self.stats.error = self.stats.error or error.errno or errno.EIO
        self.failure = self.failure or str(error)

    def _checked(self, view: NDArray[np.uint8], offset: int, generation: int) -> bool:
        """Check a block that was read; True if the job has to end."""
        assert self.verifier is not None
        if self.verifier.check(view, offset, generation):
            return False
        self.stats.error = self.stats.error or errno.EILSEQ
        return self.plan.verify.fatal

    # --- waiting ---

    def _sleep_until(self, when: int) -> bool:
        """Sleep in slices; a stop or the job's deadline ends it early. False if the job has to end."""
        while (left := min(when, self._deadline) - self._now()) > 0 and not self._over():
            self.runtime.sleep_ns(min(left, SLEEP_SLICE_NS))
        return when < self._deadline and not self._over()

    def _due(self, operation: Operation) -> int:
        """When the next operation may begin, by its recorded time, rate and rate_iops; counts it as begun."""
        direction, _, nlb, tag = operation
        due = self._loop_start + tag if self._timed else self._pace_start
        if direction == FLUSH:
            return due
        plan, nbytes, (ios, total) = self.plan, nlb * self.plan.lba_size, self._pace_done[direction]
        if plan.rate_iops[direction]:
            due = max(due, self._pace_start + ios * 1_000_000_000 // plan.rate_iops[direction])
        if plan.rate_bytes[direction]:
            due = max(due, self._pace_start + total * 1_000_000_000 // plan.rate_bytes[direction])
        self._pace_done[direction][0] += 1
        self._pace_done[direction][1] += nbytes
        return due

    def _flush(self) -> None:
        """An fsync: everything of this job is complete when it begins."""
        begun = self._now()
        self.ns.flush()
        self.stats.sync.add(self._now() - begun)

    def _fill(self, view: NDArray[np.uint8], stamps: U64, slba: int, nlb: int) -> None:
        """Make the content of a write, and note it for the verify phase."""
        self._generation += 1
        if self.verifier is None:
            self.content.fill(view, stamps, slba, self._generation)
        else:
            self.verifier.fill(view, slba * self.plan.lba_size, self._generation)
            if self.log is not None:
                self.log.add(slba, nlb, self._generation)


class _ThreadUsage:
    """getrusage of the calling OS thread, where the system has it."""

    def __init__(self, runtime: Runtime) -> None:
        self._who: int | None = None
        if not runtime.virtual and sys.platform != "win32":
            import resource

            self._who = getattr(resource, "RUSAGE_THREAD", None)
        self._start = self._read()

    def _read(self) -> tuple[int, int, int, int]:
        if self._who is None:
            return (0, 0, 0, 0)
        import resource

        usage = resource.getrusage(self._who)
        return (int(usage.ru_utime * 1e9), int(usage.ru_stime * 1e9), usage.ru_majflt, usage.ru_minflt)

    def since(self) -> tuple[int, int, int, int]:
        """User ns, system ns, major faults, minor faults since the start."""
        user, system, major, minor = (b - a for a, b in zip(self._start, self._read(), strict=True))
        return user, system, major, minor
