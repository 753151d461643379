"""The asynchronous loop: `iodepth` requests outstanding.

It submits until there is no free slot, takes whatever has completed at each wake-up, and refills. With
`refill_in_callback` the completing thread refills at once, and the job's thread only waits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kworker import Completion
from nvme_emu.workload.job import Control, Job, aligned_buffers
from nvme_emu.workload.pattern import FLUSH, READ, TRIM, WRITE, Operation
from nvme_emu.workload.rng import U64
from nvme_emu.workload.stats import depth_slot, submit_slot
from nvme_emu.workload.verify import stamps_of

if TYPE_CHECKING:
    from kworker import Runtime
    from nvme_emu.driver import Namespace
    from nvme_emu.workload.plan import JobPlan

__all__ = ["AsyncJob"]


class _Slot:
    """A place for one outstanding request: its buffer, its times, and the callback that brings it back."""

    __slots__ = (
        "buffer",
        "callback",
        "direction",
        "issued",
        "request",
        "size",
        "slba",
        "start",
        "tag",
        "view",
        "views",
    )

    def __init__(self, buffer: NDArray[np.uint8], completed: Callable[[_Slot], None]) -> None:
        self.buffer = buffer
        self.views: dict[int, tuple[NDArray[np.uint8], U64]] = {}
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
        # Where a depth counts, by the number of slots that are free.
        self._depth_slots = [depth_slot(plan.iodepth - free) for free in range(plan.iodepth)]
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
                self.runtime.settle()
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
        now, depth_counts, depth_slots = self._now, self.stats.depth_counts, self._depth_slots
        draw = feed.draw
        ns, lba_size, charge = self.ns, self.plan.lba_size, self.plan.cpu_ns_per_io
        consume = self.runtime.consume
        submit_read, submit_write = ns.submit_read, ns.submit_write
        fills = self.verifier is not None or self.content.fills
        count = 0
        while free:
            operation = draw()
            if operation is None:
                break
            direction, slba, nlb, tag = operation
            if charge:
                consume(charge)
            slot = free.pop()
            slot.start = now()
            slot.direction, slot.slba, slot.tag = direction, slba, tag
            slot.size = nlb * lba_size
            pair = slot.views.get(nlb)
            if pair is None:
                view = slot.buffer[: slot.size]
                pair = slot.views[nlb] = (view, stamps_of(view))
            view, stamps = pair
            slot.view = view
            try:
                if direction == READ:
                    submit_read(slba, nlb, view, callback=slot.callback)
                elif direction == WRITE:
                    if fills:
                        self._fill(view, stamps, slba, nlb)
                    submit_write(slba, view, callback=slot.callback)
                elif direction == TRIM:
                    ns.submit_discard(slba, nlb, callback=slot.callback)
                else:
                    ns.submit_flush(callback=slot.callback)
            except BaseException:
                free.append(slot)
                feed.ended = True
                raise
            slot.issued = now()
            if direction != FLUSH:
                slat[direction](slot.issued - slot.start)
            depth_counts[depth_slots[len(free)]] += 1
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
            if direction == FLUSH:
                self.stats.sync.add(end - slot.start)
                free.append(slot)
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
        plan = job.plan
        self._lba_size = plan.lba_size
        self._stream = self._operations(batches, nbytes, ios)
        plain = not (job._paced or plan.thinktime_ns or plan.fsync_every or job._serialize)
        self.draw: Callable[[], Operation | None] = (
            partial(next, self._stream, None) if plain else self._held_back
        )
        """The next operation, or None: there is none, or it has to wait."""
        self._since_sync = self._since_pause = 0
        self.held: Operation | None = None
        self.due = 0
        self.wants_flush = False
        self.wants_pause = False
        self.ended = False

    def _held_back(self) -> Operation | None:
        """The next operation, None if there is none or it has to wait."""
        if self.ended or self.wants_flush or self.wants_pause:
            return None
        operation, job = self.held, self._job
        if operation is None:
            operation = self._draw()
            if operation is None:
                return None
            self.due = job._due(operation) if job._paced else 0
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
        return next(self._stream, None)

    def _operations(self, batches: Iterable[list[Operation]], nbytes: int, ios: int) -> Iterator[Operation]:
        """The operations within the limits. A generator keeps its counters in locals, which is cheap."""
        lba_size, job = self._lba_size, self._job
        for batch in batches:
            for operation in batch:
                if self.ended or nbytes <= 0 or ios <= 0:
                    self.ended = True
                    return
                nbytes -= operation[2] * lba_size
                ios -= 1
                yield operation
            if nbytes <= 0 or job._tick(job._now()):
                break
        self.ended = True


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
