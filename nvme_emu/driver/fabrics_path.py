"""Submit paths of queues over messages.

Synchronous callers share a queue as follows: whoever finds nobody reading becomes the *reader*, takes every
completion that comes until its own, and then hands the reading on to one who still waits. So a caller that is
alone pays for one call to send and one to receive.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

import kworker
from nvme_emu.driver.batch import BatchRequest
from nvme_emu.driver.fabrics_pair import FabricsPair, as_pair
from nvme_emu.driver.pump import PumpPath
from nvme_emu.driver.reset import HOST_ABORTED
from nvme_emu.driver.submit import CLOSED, DEAD, LOOK_AGAIN_NS, OPEN, CallerPath

if TYPE_CHECKING:
    from kworker import KthreadWorker
    from nvme_emu.driver.queue_pair import QueueContext
    from nvme_emu.driver.recovery import Recovery
    from nvme_emu.driver.request import Request

__all__ = ["FabricsPumpPath", "FabricsSyncPath"]

LOOK_NS = 250_000_000
"""How long one look at the connection waits."""
PUMP_LOOK_NS = 100_000
"""How long the pump looks for an answer before it sleeps: most come sooner, and a wake-up costs as much."""


class FabricsSyncPath(CallerPath):
    """Submission and completion in the caller."""

    def __init__(self, pair: FabricsPair, context: QueueContext, recovery: Recovery) -> None:
        super().__init__(as_pair(pair), context, recovery)
        self.ring_lock = threading.Lock()
        self.wires = pair
        self._reading = threading.Lock()
        self._followers: deque[kworker.Completion] = deque()

    def submit(self, rq: Request) -> None:
        rq._path = self
        self._trace_queue(rq)
        self._issue(rq)
        self._await(rq)
        if rq._status:
            self._try_again(rq)
        if rq._callbacks:
            rq.run_callbacks()

    def _shut_out(self) -> bool:
        """Whether the caller has to wait at the gate. Who connects again passes."""
        return self.gate != OPEN and (self.gate == DEAD or self.recovery.connecting is not self.runtime.current())

    def _issue(self, rq: Request) -> None:
        pair = self.wires
        while True:
            with self.ring_lock:
                if pair.tags.free and not (self.gate and self._shut_out()):
                    pair.prepare(rq)
                    pair.commit()
                    return
            if self.gate == DEAD:
                self._refuse(rq)
                return
            self._look_once()

    def submit_many(self, requests: Sequence[Request]) -> None:
        pair = self.wires
        for rq in requests:
            rq._path = self
            self._trace_queue(rq)
        start = 0
        while start < len(requests) and self.gate != DEAD:
            with self.ring_lock:
                taken = 0 if self.gate else min(len(pair.tags.free), len(requests) - start)
                for rq in requests[start : start + taken]:
                    pair.prepare(rq)
                pair.commit()
            start += taken
            if start < len(requests):
                self._look_once()
        for rq in requests[start:]:
            self._refuse(rq)
        for rq in requests:
            self._await(rq)
            if rq._status:
                self._try_again(rq)
            if rq._callbacks:
                rq.run_callbacks()

    def submit_batch(self, batch: BatchRequest) -> None:
        batch._path = self
        self._trace_queue(batch)
        pair = self.wires
        while True:
            with self.ring_lock:
                complete = self.gate == OPEN and pair.prepare_batch(batch)
                pair.commit()
                over = self.gate == DEAD and not complete and pair.abandon(batch, HOST_ABORTED)
            if over:
                batch.mark_done()
            if complete or self.gate == DEAD:
                break
            self._look_once()
        self._await(batch)
        if batch._status:
            self._try_batch_again(batch)

    def wait(self, rq: Request, timeout_s: float | None) -> None:
        """See `SubmitPath.wait`; a waiting caller reads."""
        if timeout_s is None:
            self._await(rq)
            return
        deadline = self.runtime.now_ns + int(timeout_s * 1e9)
        while not rq.done:
            if self.runtime.now_ns >= deadline:
                raise TimeoutError(f"{rq.describe()} is not done after {timeout_s} s; it goes on")
            self._look_once()

    def _await(self, rq: Request) -> None:
        """Read, or wait for who reads, until the request is done."""
        reading = self._reading
        started_ns = 0
        while not rq.done:
            if self.gate and self._shut_out():
                self._follow(rq)
            elif reading.acquire(False):
                try:
                    while not rq.done and not (self.gate and self._shut_out()):
                        if not self._read(LOOK_NS) and not rq.done:
                            now_ns = self.runtime.now_ns
                            started_ns = started_ns or now_ns
                            if now_ns - started_ns >= self.timeout_ns:
                                self.recovery.wire_expired(rq)
                                started_ns = 0
                finally:
                    reading.release()
                if self._followers:
                    self._hand_on()
                if self.wires.rearm:
                    self.wires.channel.rearm()
            else:
                self._follow(rq)

    def _read(self, timeout_ns: int) -> bool:
        """Take what has ended and tell who waits for it; the caller is the reader."""
        done = self.wires.reap(timeout_ns)
        for rq in done:
            rq.mark_done()
        return bool(done)

    def _follow(self, rq: Request) -> None:
        """Somebody else reads: sleep until it has read for us, or hands the reading on."""
        follower = kworker.Completion(runtime=self.runtime, name=rq.describe())
        self._followers.append(follower)
        # The reader looks at this list after it has let go: one of the two sees the other.
        if not rq.done and (self._reading.locked() or self.gate):
            follower.wait(LOOK_NS)
        with contextlib.suppress(ValueError):
            self._followers.remove(follower)

    def _hand_on(self) -> None:
        """Wake all who wait: those that are done go, and one of the others becomes the reader."""
        while self._followers:
            try:
                self._followers.popleft().complete()
            except IndexError:
                return

    def _look_once(self) -> None:
        """Wait for anything to end: there is no tag, or not for ever."""
        if not (self.gate and self._shut_out()) and self._reading.acquire(False):
            try:
                self._read(LOOK_NS)
            finally:
                self._reading.release()
            self._hand_on()
        else:
            follower = kworker.Completion(runtime=self.runtime, name=f"queue {self.pair.qid}")
            self._followers.append(follower)
            if self._reading.locked() or self.gate == CLOSED:
                follower.wait(LOOK_NS)
            with contextlib.suppress(ValueError):
                self._followers.remove(follower)

    def interrupt(self) -> None:
        """The watcher: something came while nobody was known to read."""
        if self.gate == OPEN and self._reading.acquire(False):
            try:
                self._read(0)
            finally:
                self._reading.release()
            self._hand_on()
            self.wires.channel.rearm()

    def _enter_rings(self) -> None:
        while not self._reading.acquire(False):
            self.runtime.sleep_ns(LOOK_AGAIN_NS)
        self.ring_lock.acquire()

    def _leave_rings(self) -> None:
        self.ring_lock.release()
        self._reading.release()

    def _give_back(self, ended: list[Request]) -> None:
        for rq in ended:
            rq.mark_done()
        self._hand_on()

    def _resume(self) -> None:
        self._hand_on()


class FabricsPumpPath(PumpPath):
    """The pump of an asynchronous queue: it looks for answers itself for a short while before it sleeps.

    The watcher is armed only when the pump ends with commands out, so that it wakes nobody who is awake.
    """

    def __init__(
        self,
        pair: FabricsPair,
        context: QueueContext,
        recovery: Recovery,
        worker: KthreadWorker,
    ) -> None:
        super().__init__(as_pair(pair), context, recovery, worker)
        self.wires = pair

    def _write_and_ring(self) -> None:
        pair, requests, free = self.wires, self.requests, self.wires.tags.free
        while requests and free:
            rq = requests[0]
            if not isinstance(rq, BatchRequest):
                pair.prepare(rq)
            elif not pair.prepare_batch(rq):
                break
            requests.popleft()
        pair.commit()

    def _linger(self) -> bool:
        pair = self.wires
        if not pair.outstanding or self.gate:
            return False
        self._touching = True
        try:
            done = [] if self.gate else pair.reap(PUMP_LOOK_NS)
        finally:
            self._touching = False
        for rq in done:
            self._end(rq)
        if not done and pair.outstanding and not self.gate:
            pair.channel.rearm()
        return bool(done)
