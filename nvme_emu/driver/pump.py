"""The ways to a queue pair that lead through its worker.

``PumpPath``        callers append to a list; one work of the queue's worker (``nvme1``) takes all that is on it
                    at each wake-up, rings one doorbell, reaps what is there and completes it.
``PerRequestPath``  each request is a work of its own: how a worker is most often used, for comparison.

They need no lock around the rings: only the worker touches them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

import kworker
from nvme_emu._core import COMPILED
from nvme_emu.driver.batch import BatchRequest
from nvme_emu.driver.lane import open_worker_lane
from nvme_emu.driver.queue_pair import PAGE_SIZE
from nvme_emu.driver.reset import HOST_ABORTED
from nvme_emu.driver.submit import DEAD, LOOK_AGAIN_NS, SubmitPath

if TYPE_CHECKING:
    from collections.abc import Callable

    from kworker import KthreadWork, KthreadWorker
    from nvme_emu.driver.queue_pair import QueueContext, QueuePair
    from nvme_emu.driver.recovery import Recovery
    from nvme_emu.driver.request import Request

__all__ = ["PerRequestPath", "PumpPath"]

PUMP_ROUNDS_MAX = 64
"""Rounds of one pump run before it queues itself again, so that flush and stop make progress."""


class _WorkerPath(SubmitPath):
    """What the two asynchronous paths have in common: a worker, and a list of requests without a tag."""

    def __init__(
        self,
        pair: QueuePair,
        context: QueueContext,
        recovery: Recovery,
        worker: KthreadWorker,
    ) -> None:
        super().__init__(pair, context, recovery)
        self.worker = worker
        self.requests: deque[Request] = deque()
        self._touching = False
        self._given_back: deque[Request] = deque()
        self._retries: dict[int, int] = {}
        self._delayed: dict[int, Request] = {}
        self._gone = False

    def worker_task(self) -> kworker.TaskStruct | None:
        return self.worker.task

    # Recovery. The worker alone touches the rings, and says so while it does: recovery closes the gate and waits until
    # the worker has let go. A lock would do the same, and cost the simulation's interrupts their time.

    def _enter_rings(self) -> None:
        while self._touching:
            self.runtime.sleep_ns(LOOK_AGAIN_NS)

    def _leave_rings(self) -> None:
        pass

    def _give_back(self, ended: list[Request]) -> None:
        self._given_back.extend(ended)
        self.interrupt()

    def _resume(self) -> None:
        self.interrupt()

    def worker_gone(self) -> None:
        self.gate = DEAD
        self._gone = True
        self._turn_away()

    def unfinished(self) -> Request | None:
        waiting = [*self.requests, *self._given_back, *self._delayed.values()]
        return super().unfinished() or next(iter(waiting), None)

    def _reap(self) -> list[Request]:
        """What has ended, by ``pair.reap`` or otherwise."""
        self._touching = True
        try:
            done = [] if self.gate else self.pair.reap()
        finally:
            self._touching = False
        if self._given_back or self.gate == DEAD:
            done += self._take_given_back()
        return done

    def _issue(self) -> None:
        """Write what is on the list as far as there are tags, and ring once."""
        self._touching = True
        try:
            if not self.gate:
                self._write_and_ring()
        finally:
            self._touching = False
        if self.gate == DEAD:
            self._turn_away()

    @abstractmethod
    def _write_and_ring(self) -> None:
        """Write what is on the list as far as there are tags, and ring."""

    def _turn_away(self) -> None:
        """The controller will not come back: end what came to a dead gate."""
        for rq in self._take_given_back():
            rq.finish()

    def _take_given_back(self) -> list[Request]:
        ended: list[Request] = []
        while self._given_back:
            ended.append(self._given_back.popleft())
        while self.gate == DEAD and self.requests:
            try:
                rq = self.requests.popleft()
            except IndexError:  # without a worker several callers do this at once
                break
            if not isinstance(rq, BatchRequest):
                rq._status = HOST_ABORTED
            elif not self.pair.abandon(rq, HOST_ABORTED):
                continue
            ended.append(rq)
        return ended

    def _end(self, rq: Request) -> None:
        """A request has failed, or has succeeded after others have failed: finish it, or send it again."""
        retries = self._retries.pop(rq.serial, 0)
        if rq._status:
            if isinstance(rq, BatchRequest):
                parts, delay_ns = self._parts_to_retry(rq)
                for part in parts:
                    self._send_again(part, 1, delay_ns)
                if parts:
                    return
            else:
                delay = self.recovery.retry_delay(rq, retries)
                if delay is not None:
                    self._send_again(rq, retries + 1, delay)
                    return
        rq.finish()

    def _send_again(self, rq: Request, retries: int, delay_ns: int) -> None:
        rq._path = self
        rq._status = 0
        self._retries[rq.serial] = retries
        if not delay_ns:
            self.requests.append(rq)
            return
        self._delayed[rq.serial] = rq

        def now() -> None:
            self.requests.append(rq)
            del self._delayed[rq.serial]
            self.interrupt()

        self.runtime.call_at(self.runtime.now_ns + delay_ns, now)

    def _accept(self, rq: Request) -> None:
        rq._path = self
        if self._consume is not None:
            self._consume(self._enqueue_ns)
        self._trace_queue(rq)


class PumpPath(_WorkerPath):
    """One work pumps the queue pair: submit everything, one doorbell, reap, complete, until there is nothing.

    ``_active`` is True from when the work is queued until the pump decides to end. A caller that finds it True
    need not queue it: the pump clears it and *then* looks at the list once more.
    """

    def __init__(
        self,
        pair: QueuePair,
        context: QueueContext,
        recovery: Recovery,
        worker: KthreadWorker,
    ) -> None:
        super().__init__(pair, context, recovery, worker)
        self._work = kworker.KthreadWork()
        kworker.kthread_init_work(self._work, self._pump)
        self._active = False
        self._interrupted = False
        self._lane: Callable[[deque[Request]], list[Request]] | None = None
        """Does plain requests of the list at once; see driver/lane.py. Where C does its part there is none."""

    def open_lane(self) -> None:
        super().open_lane()
        lane = self._port.lane(self.pair.qid) if self._direct and not COMPILED else None
        handler = None if lane is None else lane.handlers.get(self.pair.qid)
        # The lane leaves the interrupt out: it is right only while the interrupt comes here.
        self._lane = None
        if lane is not None and handler == self.interrupt:
            self._lane = open_worker_lane(self.pair, lane, handler)

    def submit(self, rq: Request) -> None:
        # As _accept, without its frames: this is once an I/O.
        rq._path = self
        if self._consume is not None:
            self._consume(self._enqueue_ns)
        if self._trace.emit is not None:
            self._trace_queue(rq)
        self.requests.append(rq)
        if not self._active:
            self._kick()

    def submit_many(self, requests: Sequence[Request]) -> None:
        for rq in requests:
            self._accept(rq)
        self.requests.extend(requests)
        if not self._active:
            self._kick()

    def submit_batch(self, batch: BatchRequest) -> None:
        self.submit(batch)

    def interrupt(self) -> None:
        self._interrupted = True
        if not self._active:
            self._kick()

    def _kick(self) -> None:
        self._active = True
        if self._gone:
            # In this order, whoever appends from now on comes here as well.
            self._active = False
            self._turn_away()
        else:
            kworker.kthread_queue_work(self.worker, self._work)

    def worker_gone(self) -> None:
        self._gone = True
        self._active = False
        super().worker_gone()

    def _pump(self, _work: KthreadWork) -> None:
        requests, free, retries = self.requests, self.pair.tags.free, self._retries
        for _ in range(PUMP_ROUNDS_MAX):
            if self._interrupted:
                self._interrupted = False
                for rq in self._reap():
                    if rq._status or retries:
                        self._end(rq)
                    else:
                        rq.finish()
            if requests and free:
                if self._lane is None or self.pair.outstanding or not (ended := self._exchange()):
                    self._issue()
                else:
                    for rq in ended:
                        self._end(rq) if retries else rq.finish()
            if self._interrupted or self._linger():
                continue
            self._active = False
            if not self._interrupted and (self.gate or not (requests and free)):
                return
            self._active = True
        kworker.kthread_queue_work(self.worker, self._work)

    def _exchange(self) -> list[Request]:
        """What of the list the lane has done: all of it with success."""
        assert self._lane is not None
        self._touching = True
        try:
            return [] if self.gate else self._lane(self.requests)
        finally:
            self._touching = False

    def _write_and_ring(self) -> None:
        pair, requests, free = self.pair, self.requests, self.pair.tags.free
        prepare_plain = pair.prepare_plain
        silent = COMPILED and self._trace.emit is None
        written = pages = 0
        while requests and free:
            rq = requests[0]
            if silent and prepare_plain(rq):
                requests.popleft()
                written += 1
                pages += rq.nbytes // PAGE_SIZE
                continue
            if not isinstance(rq, BatchRequest):
                pair.prepare(rq)
            elif not pair.prepare_batch(rq):
                break
            requests.popleft()
        if written and self._consume is not None:
            self._consume(pair.cost_ns(written, pages))
        pair.commit()

    def _linger(self) -> bool:
        """Whether more has come, for a style that waits a little before it ends."""
        return False


class RequestWork(kworker.KthreadWork):
    """The work of one request: what ``container_of`` would find around it."""

    __slots__ = ("rq",)

    def __init__(self, rq: Request) -> None:
        super().__init__()
        self.rq = rq


class PerRequestPath(_WorkerPath):
    """A work for each request and one for reaping; a doorbell for each command."""

    def __init__(
        self,
        pair: QueuePair,
        context: QueueContext,
        recovery: Recovery,
        worker: KthreadWorker,
    ) -> None:
        super().__init__(pair, context, recovery, worker)
        self._reap_work = kworker.KthreadWork()
        kworker.kthread_init_work(self._reap_work, self._reap_all)

    def submit(self, rq: Request) -> None:
        self._accept(rq)
        work = RequestWork(rq)
        kworker.kthread_init_work(work, self._start)
        kworker.kthread_queue_work(self.worker, work)
        if self._gone and kworker.kthread_cancel_work_sync(work):
            self._start(work)

    def worker_gone(self) -> None:
        super().worker_gone()
        for work in list(self.worker.work_list):
            if isinstance(work, RequestWork) and kworker.kthread_cancel_work_sync(work):
                self._start(work)

    def unfinished(self) -> Request | None:
        # Behind this, no request is a work that has not begun.
        kworker.kthread_flush_worker(self.worker)
        return super().unfinished()

    def submit_many(self, requests: Sequence[Request]) -> None:
        for rq in requests:
            self.submit(rq)

    def submit_batch(self, batch: BatchRequest) -> None:
        self.submit(batch)

    def interrupt(self) -> None:
        kworker.kthread_queue_work(self.worker, self._reap_work)

    def _start(self, work: KthreadWork) -> None:
        assert isinstance(work, RequestWork)
        # Behind others that wait for a tag, so that requests keep their order.
        self.requests.append(work.rq)
        self._issue()

    def _write_and_ring(self) -> None:
        pair, requests, free = self.pair, self.requests, self.pair.tags.free
        while requests and free:
            rq = requests[0]
            if not isinstance(rq, BatchRequest):
                pair.prepare(rq)
            elif not pair.prepare_batch(rq):
                pair.commit()
                return
            requests.popleft()
            pair.commit()

    def _reap_all(self, _work: KthreadWork) -> None:
        for rq in self._reap():
            self._end(rq)
        self._issue()
