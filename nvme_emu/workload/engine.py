"""The loops that drive a namespace: what `run` and `compare` measure with.

`SyncJob` does one I/O after the other in its own thread. `AsyncJob` keeps `iodepth` requests outstanding.

Latencies as in fio: *slat* from taking an I/O up to the return of its submission (async only), *clat* from
there to the moment the job sees it complete, *lat* from beginning to end.

The loops are written out with local names, because Python pays for each attribute and call: about 1 µs an
I/O is spent here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nvme_emu.core.errors import NvmeError
from nvme_emu.workload.engine_async import AsyncJob
from nvme_emu.workload.job import Control, Job, aligned_buffers
from nvme_emu.workload.pattern import READ, TRIM, WRITE, Operation
from nvme_emu.workload.rng import U64
from nvme_emu.workload.verify import stamps_of

if TYPE_CHECKING:
    from kworker import Runtime
    from nvme_emu.driver import Namespace
    from nvme_emu.workload.plan import JobPlan

__all__ = ["AsyncJob", "Control", "Job", "SyncJob", "make_job"]


class SyncJob(Job):
    """One I/O at a time, in the job's own thread (`ns.read`, `ns.write`)."""

    def _transfer(self, batches: Iterable[list[Operation]], nbytes: int, ios: int, *, check: bool) -> None:
        plan, ns, now, stats = self.plan, self.ns, self._now, self.stats
        read, write, discard = ns.read, ns.write, ns.discard
        # At least 1 ns, so that the clock moves also where nothing else takes time.
        lba_size, charge, paced = plan.lba_size, max(1, plan.cpu_ns_per_io), self._paced
        runtime, virtual = self.runtime, self.runtime.virtual
        think, fsync = plan.thinktime_ns, plan.fsync_every
        fills = self.verifier is not None or self.content.fills
        buffer = aligned_buffers(1, self.block_bytes_max)[0]
        self.content.prepare(buffer)
        views: dict[int, tuple[NDArray[np.uint8], U64]] = {}
        totals = stats.directions
        clat = [direction.clat.buffer.append for direction in totals]
        lat = [direction.lat.buffer.append for direction in totals]
        since_sync = since_pause = done = 0
        for batch in batches:
            before = done
            for direction, slba, nlb, tag in batch:
                if nbytes <= 0 or ios <= 0:
                    break
                if virtual:
                    # What this job has used up so far becomes visible, and what is due on its CPU happens.
                    # A job whose I/Os never put it to sleep would else run ahead of all others.
                    runtime.consume(charge)
                    runtime.settle()
                size = nlb * lba_size
                if paced and not self._sleep_until(self._due((direction, slba, nlb, tag))):
                    nbytes = 0
                    break
                pair = views.get(nlb)
                if pair is None:
                    pair = views[nlb] = (buffer[:size], stamps_of(buffer[:size]))
                view, stamps = pair
                start = issued = now()
                try:
                    if direction == READ:
                        read(slba, nlb, view)
                    elif direction == WRITE:
                        if fills:
                            self._fill(view, stamps, slba, nlb)
                            issued = now()
                        write(slba, view)
                    elif direction == TRIM:
                        discard(slba, nlb)
                    else:
                        self._flush()
                        ios -= 1
                        if now() >= self._event and self._tick(now()):
                            nbytes = 0
                        continue
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
                        if not self._sleep_until(now() + plan.thinktime_ns):
                            nbytes = 0
                if end >= self._event and self._tick(end):
                    nbytes = 0
            stats.depth_counts[0] += done - before
            stats.submit_counts[1] += done - before
            stats.complete_counts[1] += done - before
            if nbytes <= 0 or ios <= 0 or self._tick(now()):
                return


def make_job(plan: JobPlan, namespace: Namespace, runtime: Runtime, control: Control | None = None) -> Job:
    """The job for a plan, by its mode."""
    kind = AsyncJob if plan.mode == "async" else SyncJob
    return kind(plan, namespace, runtime, control)
