"""The loops that drive a namespace: what `run` and `compare` measure with.

A job is a kthread, so that the same code runs on OS threads and in virtual time; it sleeps, waits and
reads the clock through kworker only. `SyncJob` does one I/O after the other in its own thread. `AsyncJob`
keeps `iodepth` requests outstanding: it submits until there is no free slot, takes whatever has completed
at each wake-up, and refills. With `refill_in_callback` the completing thread refills at once, and the
job's thread only waits.

Latencies as in fio: *slat* from taking an I/O up to the return of its submission (async only), *clat* from
there to the moment the job sees it complete, *lat* from beginning to end.

The loops are written out with local names, because Python pays for each attribute and call: about 1 µs an
I/O is spent here.
"""

from __future__ import annotations

import errno
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kworker import Completion
from nvme_emu.core.errors import NvmeError
from nvme_emu.workload.histogram import FLUSH_COUNT
from nvme_emu.workload.pattern import READ, TRIM, WRITE, Operation, operations
from nvme_emu.workload.stats import JobStats, depth_slot, submit_slot
from nvme_emu.workload.verify import Content, Verifier
from nvme_emu.workload.writelog import WriteLog

if TYPE_CHECKING:
    from kworker import Runtime, TaskStruct
    from nvme_emu.driver import Namespace
    from nvme_emu.workload.plan import JobPlan

__all__ = ["AsyncJob", "Control", "Job", "SyncJob", "make_job"]

SLEEP_SLICE_NS = 100_000_000
"""Long sleeps are cut into these, so that a stop is noticed."""
_FOREVER = 1 << 62
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

    def __init__(self, plan: JobPlan, namespace: Namespace, runtime: Runtime, control: Control | None = None) -> None:
        if namespace.lba_size != plan.lba_size:
            raise ValueError(
                f"job {plan.name} was planned for blocks of {plan.lba_size} bytes, namespace {namespace.nsid} has "
                f"{namespace.lba_size}"
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
        self._paced = any(plan.rate_iops) or any(plan.rate_bytes)
        self._pace_start = 0
        self._pace_done = [[0, 0], [0, 0], [0, 0]]
        # In virtual time Python's speed plays no part: an I/O costs the job what the plan says.
        self._charge = plan.cpu_ns_per_io if runtime.virtual else 0
        # The property's function without the attribute look-up: the clock is read several times an I/O.
        getter = type(runtime).now_ns.fget  # type: ignore[attr-defined]
        self._now: Callable[[], int] = partial(getter, runtime)
        self._window_start = 0
        self._window: list[tuple[int, int]] = [(0, 0)] * 3
        self._deadline = _FOREVER
        self._ramp_end = 0
        self._event = 0
        self._epoch = 0

    # --- life ---

    def thread(self, _data: Any = None) -> int:
        """The kthread function: run to the end, account, announce it. Exceptions are kept for the runner."""
        try:
            self.task = self.runtime.current()
            usage = _ThreadUsage(self.runtime)
            self._sleep_until(self._now() + self.plan.start_delay_ns)
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
        self._epoch = self._window_start = self._pace_start = now
        self._ramp_end = now + plan.ramp_ns
        if plan.runtime_ns:
            self._deadline = now + plan.ramp_ns + plan.runtime_ns
        self._schedule_event(now)

    def _work(self, stream: Iterator[list[Operation]], *, time_based: bool) -> None:
        """One loop of the job's I/O."""
        plan = self.plan
        nbytes = _FOREVER if time_based or not plan.io_bytes else plan.io_bytes
        begun, before = self._now(), [direction.ios for direction in self.stats.directions]
        try:
            self._transfer(stream, nbytes, plan.number_ios or _FOREVER, check=self.verifier is not None)
        finally:
            self._end_phase(max(begun, self._epoch), before)

    def _read_back(self, log: WriteLog) -> None:
        """The verify phase: read every block that this loop wrote, whatever the runtime says, and check it."""
        deadline, self._deadline = self._deadline, _FOREVER
        self._schedule_event(self._now())
        begun, before = self._now(), [direction.ios for direction in self.stats.directions]
        try:
            self._transfer(iter(log.take()), _FOREVER, _FOREVER, check=True)
        finally:
            self._deadline = deadline
            self._schedule_event(self._now())
            self._end_phase(max(begun, self._epoch), before)

    def _transfer(self, batches: Iterable[list[Operation]], nbytes: int, ios: int, *, check: bool) -> None:
        """Do I/Os from `batches` until they end, the limits are reached, time is over or something fails."""
        raise NotImplementedError

    def _over(self) -> bool:
        control = self.control
        return bool(control.stop or self.stats.error and not self._verify_error_only()
                    or self.plan.group in control.stopped_groups)  # fmt: skip

    def _verify_error_only(self) -> bool:
        return self.stats.error == errno.EILSEQ and not self.plan.verify.fatal

    # --- what happens now and then ---

    def _schedule_event(self, now: int) -> None:
        ramp = self._ramp_end if self.ramping else _FOREVER
        self._event = min(self._deadline, ramp, self._window_start + self.plan.sample_ns)

    def _tick(self, now: int) -> bool:
        """Called when `now` has passed `_event`, and after each batch. True if the job has to end."""
        if self.ramping and now >= self._ramp_end:
            self.ramping = False
            self.stats.clear()
            self._epoch = self._window_start = now
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
                direction.runtime_ns += max(1, now - max(begun, self._epoch))
            # A run shorter than a window still shows one sample.
            if direction.ios and not direction.bw_kib.values and now > self._window_start:
                self._sample(now)
            self.stats.flush_latency(number)
            direction.lat.flush()
            direction.slat.flush()

    def _account(self, usage: _ThreadUsage) -> None:
        stats, task = self.stats, self.task
        stats.runtime_ns = self._now() - self._epoch
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

    def _sleep_until(self, when: int) -> None:
        """Sleep in slices; a stop or the job's deadline ends it early."""
        while (left := min(when, self._deadline) - self._now()) > 0 and not self._over():
            self.runtime.sleep_ns(min(left, SLEEP_SLICE_NS))

    def _due(self, direction: int, nbytes: int) -> int:
        """When the next I/O in this direction may begin, by rate and rate_iops; counts it as begun."""
        plan, (ios, total) = self.plan, self._pace_done[direction]
        due = self._pace_start
        if plan.rate_iops[direction]:
            due = self._pace_start + ios * 1_000_000_000 // plan.rate_iops[direction]
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

    def _fill(self, view: NDArray[np.uint8], slba: int, nlb: int) -> None:
        """Make the content of a write, and note it for the verify phase."""
        self._generation += 1
        if self.verifier is not None:
            self.verifier.fill(view, slba * self.plan.lba_size, self._generation)
            if self.log is not None:
                self.log.add(slba, nlb, self._generation)
        elif self.content.fills:
            self.content.fill(view, slba, self._generation)


class SyncJob(Job):
    """One I/O at a time, in the job's own thread (`ns.read`, `ns.write`)."""

    def _transfer(self, batches: Iterable[list[Operation]], nbytes: int, ios: int, *, check: bool) -> None:
        plan, ns, now, stats = self.plan, self.ns, self._now, self.stats
        read, write, discard = ns.read, ns.write, ns.discard
        lba_size, charge, paced = plan.lba_size, self._charge, self._paced
        think, fsync = plan.thinktime_ns, plan.fsync_every
        fills = self.verifier is not None or self.content.fills
        buffer = aligned_buffers(1, self.block_bytes_max)[0]
        self.content.prepare(buffer)
        views: dict[int, NDArray[np.uint8]] = {}
        totals = stats.directions
        clat = [direction.clat.buffer.append for direction in totals]
        lat = [direction.lat.buffer.append for direction in totals]
        since_sync = since_pause = done = 0
        for batch in batches:
            before = done
            for direction, slba, nlb, tag in batch:
                if nbytes <= 0 or ios <= 0:
                    break
                if charge:
                    self.runtime.consume(charge)
                size = nlb * lba_size
                if paced:
                    self._sleep_until(self._due(direction, size))
                view = views.get(nlb)
                if view is None:
                    view = views[nlb] = buffer[:size]
                start = issued = now()
                try:
                    if direction == READ:
                        read(slba, nlb, view)
                    elif direction == WRITE:
                        if fills:
                            self._fill(view, slba, nlb)
                            issued = now()
                        write(slba, view)
                    else:
                        discard(slba, nlb)
                except NvmeError as error:
                    self._fail(error)
                    return
                end = now()
                clat[direction](end - issued)
                lat[direction](end - start)
                total = totals[direction]
                total.ios += 1
                total.nbytes += size
                nbytes -= size
                ios -= 1
                done += 1
                if check and direction == READ and self._checked(view, slba * lba_size, tag):
                    return
                if fsync and direction == WRITE:
                    since_sync += 1
                    if since_sync == fsync:
                        since_sync = 0
                        self._flush()
                if think:
                    since_pause += 1
                    if since_pause == plan.thinktime_blocks:
                        since_pause = 0
                        self._sleep_until(now() + plan.thinktime_ns)
                if end >= self._event and self._tick(end):
                    nbytes = 0
            stats.depth_counts[0] += done - before
            stats.submit_counts[1] += done - before
            stats.complete_counts[1] += done - before
            if nbytes <= 0 or ios <= 0 or self._tick(now()):
                return


class _Slot:
    """A place for one outstanding request: its buffer, its times, and the callback that brings it back."""

    __slots__ = ("buffer", "callback", "direction", "issued", "request", "size", "slba", "start", "tag", "view", "views")

    def __init__(self, buffer: NDArray[np.uint8], completed: Callable[[_Slot], None]) -> None:
        self.buffer = buffer
        self.views: dict[int, NDArray[np.uint8]] = {}
        self.view = buffer
        self.request: Any = None
        self.direction = self.slba = self.size = self.tag = self.start = self.issued = 0

        def callback(request: Any) -> None:
            self.request = request
            completed(self)

        self.callback = callback


class AsyncJob(Job):
    """`iodepth` requests outstanding, through `ns.submit_read` and `ns.submit_write`."""

    def __init__(
        self,
        plan: JobPlan,
        namespace: Namespace,
        runtime: Runtime,
        control: Control | None = None,
        *,
        refill_in_callback: bool = False,
    ) -> None:
        super().__init__(plan, namespace, runtime, control)
        if refill_in_callback and (plan.thinktime_ns or plan.fsync_every or self._paced or self.verifier):
            raise ValueError("refill_in_callback cannot be combined with pauses, rates, fsync or verify")
        self.refill_in_callback = refill_in_callback
        self._done: deque[_Slot] = deque()
        self._asleep = False
        self._wake = Completion(runtime=runtime, name=f"an I/O of job {plan.name}")
        self._slots: list[_Slot] = []
        self._free: list[_Slot] = []
        # Writes of the same place must not overtake each other while they are to be verified.
        self._serialize = self.verifier is not None and self._writes and plan.iodepth > 1
        self._inflight: set[int] = set()

    def _completed(self, slot: _Slot) -> None:
        """Runs on the completing thread."""
        self._done.append(slot)
        # The job sets _asleep before it looks at _done for the last time, so one of the two sees the other.
        if self._asleep:
            self._asleep = False
            self._wake.complete()

    def _wait(self, until: int | None = None) -> None:
        """Sleep until a request has completed, or the clock shows `until`."""
        while not self._done:
            self._asleep = True
            if self._done:
                self._asleep = False
                return
            timeout = None if until is None else max(0, until - self._now())
            woken = self._wake.wait(timeout)
            self._asleep = False
            # An announcement that came late from an earlier round wakes for nothing: look again.
            if not woken and until is not None:
                return

    def _prepare_slots(self) -> None:
        if not self._slots:
            buffers = aligned_buffers(self.plan.iodepth, self.block_bytes_max)
            self._slots = [_Slot(buffer, self._completed) for buffer in buffers]
            for slot in self._slots:
                self.content.prepare(slot.buffer)
        self._free = list(reversed(self._slots))

    def _transfer(self, batches: Iterable[list[Operation]], nbytes: int, ios: int, *, check: bool) -> None:
        self._prepare_slots()
        feed = _Feed(self, batches, nbytes, ios)
        if self.refill_in_callback:
            _CallbackLoop(self, feed).run()
            return
        depth, free, done = self.plan.iodepth, self._free, self._done
        try:
            while True:
                if not feed.ended:
                    self._submit(feed)
                if not done:
                    if len(free) == depth:
                        if feed.ended:
                            return
                        self._at_barrier(feed)
                        continue
                    self._wait(feed.due if feed.held is not None and feed.due and free else None)
                if done and self._reap(check):
                    feed.ended = True
                now = self._now()
                if now >= self._event and self._tick(now):
                    feed.ended = True
        finally:
            # Whatever went wrong, no request may outlive the buffers that it points to.
            while len(free) < depth:
                self._wait()
                self._reap(False)

    def _submit(self, feed: _Feed) -> None:
        """Fill the free slots."""
        free, slat = self._free, [direction.slat.buffer.append for direction in self.stats.directions]
        now, depth, depth_counts = self._now, self.plan.iodepth, self.stats.depth_counts
        ns, lba_size, charge = self.ns, self.plan.lba_size, self._charge
        submit_read, submit_write = ns.submit_read, ns.submit_write
        fills = self.verifier is not None or self.content.fills
        count = 0
        while free:
            operation = feed.next()
            if operation is None:
                break
            direction, slba, nlb, tag = operation
            if charge:
                self.runtime.consume(charge)
            slot = free.pop()
            slot.start = now()
            slot.direction, slot.slba, slot.tag = direction, slba, tag
            slot.size = nlb * lba_size
            view = slot.views.get(nlb)
            if view is None:
                view = slot.views[nlb] = slot.buffer[: slot.size]
            slot.view = view
            try:
                if direction == READ:
                    submit_read(slba, nlb, view, callback=slot.callback)
                elif direction == WRITE:
                    if fills:
                        self._fill(view, slba, nlb)
                    submit_write(slba, view, callback=slot.callback)
                else:
                    ns.submit_discard(slba, nlb, callback=slot.callback)
            except BaseException:
                free.append(slot)
                feed.ended = True
                raise
            slot.issued = now()
            slat[direction](slot.issued - slot.start)
            depth_counts[depth_slot(depth - len(free))] += 1
            count += 1
        if count:
            self.stats.submit_counts[submit_slot(count)] += 1

    def _reap(self, check: bool) -> bool:
        """Take what has completed; True if the job has to end."""
        done, free, totals = self._done, self._free, self.stats.directions
        clat = [direction.clat.buffer.append for direction in totals]
        lat = [direction.lat.buffer.append for direction in totals]
        end, count, stop = self._now(), 0, False
        while done:
            slot = done.popleft()
            count += 1
            request, direction = slot.request, slot.direction
            if self._serialize and direction == WRITE:
                self._release(slot)
            slot.request = None
            if request.status:
                self._fail(request.error)
                free.append(slot)
                stop = True
                continue
            # The completing thread may be done before the submission has returned here.
            issued = slot.issued if slot.issued >= slot.start else end
            clat[direction](end - issued)
            lat[direction](end - slot.start)
            total = totals[direction]
            total.ios += 1
            total.nbytes += slot.size
            if check and direction == READ:
                stop |= self._checked(slot.view, slot.slba * self.plan.lba_size, slot.tag)
            free.append(slot)
        self.stats.complete_counts[submit_slot(count)] += 1
        return stop

    # --- overlapping writes ---

    def _granules(self, slba: int, nlb: int) -> range:
        granule = self.plan.pattern.granule
        return range(slba // granule, (slba + nlb - 1) // granule + 1)

    def collides(self, slba: int, nlb: int) -> bool:
        """Whether a write would overlap one in flight; if not, it is entered as in flight."""
        granules = self._granules(slba, nlb)
        if any(granule in self._inflight for granule in granules):
            return True
        self._inflight.update(granules)
        return False

    def _release(self, slot: _Slot) -> None:
        self._inflight.difference_update(self._granules(slot.slba, slot.size // self.plan.lba_size))

    def _at_barrier(self, feed: _Feed) -> None:
        """Nothing is outstanding: do what had to wait for that."""
        if feed.wants_flush:
            feed.wants_flush = False
            self._flush()
        if feed.wants_pause:
            feed.wants_pause = False
            self._sleep_until(self._now() + self.plan.thinktime_ns)
        if feed.held is not None and feed.due:
            self._sleep_until(feed.due)
        if self._tick(self._now()):
            feed.ended = True


class _Feed:
    """Hands out operations one by one and says when to hold back: rate, pause, flush, overlap, limits."""

    def __init__(self, job: AsyncJob, batches: Iterable[list[Operation]], nbytes: int, ios: int) -> None:
        self._job = job
        self._batches = iter(batches)
        self._batch: Iterator[Operation] = iter(())
        self._nbytes = nbytes
        self._ios = ios
        plan = job.plan
        self._lba_size = plan.lba_size
        self._plain = not (job._paced or plan.thinktime_ns or plan.fsync_every or job._serialize)
        self._since_sync = self._since_pause = 0
        self.held: Operation | None = None
        self.due = 0
        self.wants_flush = False
        self.wants_pause = False
        self.ended = False

    def next(self) -> Operation | None:
        """The next operation, None if there is none or it has to wait."""
        if self._plain:
            return self._draw()
        if self.ended or self.wants_flush or self.wants_pause:
            return None
        operation, job = self.held, self._job
        if operation is None:
            operation = self._draw()
            if operation is None:
                return None
            self.due = job._due(operation[0], operation[2] * self._lba_size) if job._paced else 0
        self.held = operation
        if self.due and job._now() < self.due:
            return None
        if job._serialize and operation[0] == WRITE and job.collides(operation[1], operation[2]):
            return None
        self.held = None
        plan = job.plan
        if plan.fsync_every and operation[0] == WRITE:
            self._since_sync += 1
            if self._since_sync == plan.fsync_every:
                self._since_sync, self.wants_flush = 0, True
        if plan.thinktime_ns:
            self._since_pause += 1
            if self._since_pause == plan.thinktime_blocks:
                self._since_pause, self.wants_pause = 0, True
        return operation

    def _draw(self) -> Operation | None:
        if self.ended or self._nbytes <= 0 or self._ios <= 0:
            self.ended = True
            return None
        for operation in self._batch:
            self._nbytes -= operation[2] * self._lba_size
            self._ios -= 1
            return operation
        batch = next(self._batches, None)
        if batch is None or self._job._tick(self._job._now()):
            self.ended = True
            return None
        self._batch = iter(batch)
        return self._draw()


class _CallbackLoop:
    """Refill on the completing thread. The token is taken by popping from a deque, which is atomic: whoever
    has it drains and refills; who finds it taken has put its slot on the list, which the holder looks at
    again after giving the token back."""

    def __init__(self, job: AsyncJob, feed: _Feed) -> None:
        self._job = job
        self._feed = feed
        self._token: deque[int] = deque([1])
        self._failure: BaseException | None = None
        self._end = Completion(runtime=job.runtime, name=f"the last I/O of job {job.plan.name}")

    def run(self) -> None:
        job = self._job
        for slot in job._slots:
            slot.callback = partial(self._callback, slot)
        try:
            self._turn()
            self._end.wait()
        finally:
            job._slots = []
        if self._failure is not None:
            raise self._failure

    def _callback(self, slot: _Slot, request: Any) -> None:
        slot.request = request
        self._job._done.append(slot)
        self._turn()

    def _turn(self) -> None:
        job, feed = self._job, self._feed
        while True:
            try:
                self._token.pop()
            except IndexError:
                return
            ended = False
            try:
                if job._done and job._reap(False):
                    feed.ended = True
                now = job._now()
                if now >= job._event and job._tick(now):
                    feed.ended = True
                if not feed.ended:
                    job._submit(feed)
                ended = feed.ended and len(job._free) == job.plan.iodepth
            except BaseException as error:  # raised in the job's own thread
                feed.ended, self._failure = True, self._failure or error
            self._token.append(1)
            if ended:
                self._end.complete_all()
            if not job._done or ended:
                return


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


def make_job(plan: JobPlan, namespace: Namespace, runtime: Runtime, control: Control | None = None) -> Job:
    """The job for a plan, by its mode."""
    kind = AsyncJob if plan.mode == "async" else SyncJob
    return kind(plan, namespace, runtime, control)


assert (READ, WRITE, TRIM) == (0, 1, 2), "directions index the lists of the loops"
