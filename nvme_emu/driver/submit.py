"""How a request gets from its caller to the queue pair and back: in the caller, or through the worker.

``SyncPath``        the caller builds the command, rings the doorbell and sleeps until the interrupt.
``PumpPath``        callers append to a list; one work of the queue's worker (``nvme1``) takes all that is on it
                    at each wake-up, rings one doorbell, reaps what is there and completes it.
``PerRequestPath``  each request is a work of its own: how a worker is most often used, for comparison.

The two asynchronous paths need no lock around the rings: only the worker touches them.
"""

from __future__ import annotations

import contextlib
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import kworker
from nvme_emu._core import COMPILED, Lock
from nvme_emu.core.trace import NvmeQueueRq, NvmeWakeRq
from nvme_emu.driver.batch import BatchRequest
from nvme_emu.driver.queue_pair import ANSWERED, DELAYED, UNLISTED_BYTES
from nvme_emu.driver.request import Request

if TYPE_CHECKING:
    from collections.abc import Callable

    from kworker import KthreadWork, KthreadWorker, Runtime
    from nvme_emu.driver.queue_pair import QueueContext, QueuePair

__all__ = ["PerRequestPath", "PumpPath", "SubmitPath", "SyncPath"]

IO_TIMEOUT_NS = 30_000_000_000
"""Linux's io_timeout; the admin queue has twice as much."""

PUMP_ROUNDS_MAX = 64
"""Rounds of one pump run before it queues itself again, so that flush and stop make progress."""

SPIN_NS_MAX = 150_000
"""A sync caller that is alone polls for a completion due this soon: a thread's sleep overshoots by as much."""

_creation = threading.Lock()


class SubmitPath(ABC):
    """What one queue pair offers to its callers."""

    def __init__(self, pair: QueuePair, context: QueueContext, on_timeout: Callable[[Request], None]) -> None:
        self.pair = pair
        self.runtime: Runtime = context.runtime
        self.timeout_ns = IO_TIMEOUT_NS
        self._port = context.port
        self._trace = context.trace
        self._enqueue_ns = context.host.enqueue_ns
        self._consume = context.runtime.consume if context.runtime.virtual else None
        self._on_timeout = on_timeout
        self.exchange: Callable[[int, int, int, int, Any, int], bool] | None = None
        """``pair.exchange_plain`` where it may be called by whoever reads or writes."""
        self.exchange_many: Callable[[int, int, Any, int, int, int, Any], int] | None = None
        """``pair.exchange_many``, likewise."""

    @abstractmethod
    def submit(self, rq: Request) -> None:
        """Take a request; on the sync path it is done when this returns."""

    def open_lane(self) -> None:  # noqa: B027  most paths have none
        """Called when the queues exist: look for a way to do plain commands in one call."""

    def run(self, rq: Request) -> None:
        """Take a request that nobody but the caller sees; on the sync path it is done when this returns."""
        self.submit(rq)

    @abstractmethod
    def submit_many(self, requests: Sequence[Request]) -> None:
        """Take requests in order, with as few doorbells as the path can."""

    @abstractmethod
    def submit_batch(self, batch: BatchRequest) -> None:
        """Take a batch; the caller waits for it as for any request."""

    @abstractmethod
    def interrupt(self) -> None:
        """The queue's MSI-X handler; runs in interrupt context."""

    @abstractmethod
    def pending(self) -> list[Request]:
        """Take back the requests that are not yet on the ring (for cancelling them)."""

    def worker_task(self) -> kworker.TaskStruct | None:
        """The task that completes requests, or None if callers do."""
        return None

    def wait(self, rq: Request, timeout_s: float | None) -> None:
        """Block until the request is done. TimeoutError after ``timeout_s`` seconds."""
        task = self.worker_task()
        if task is not None and self.runtime.current() is task:
            raise RuntimeError(
                f"wait() for {rq.describe()} on {task.comm}, the worker that has to complete it: it would wait "
                "for ever; give the request a callback instead"
            )
        completion = rq._completion
        if completion is None:
            with _creation:
                completion = rq._completion
                if completion is None:
                    completion = kworker.Completion(runtime=self.runtime, name=rq.describe())
                    completion.provider = task
                    rq._completion = completion
        if rq.done:
            return
        if timeout_s is not None:
            if not completion.wait(max(0, int(timeout_s * 1e9))) and not rq.done:
                raise TimeoutError(f"{rq.describe()} is not done after {timeout_s} s; it goes on")
        elif self.runtime.virtual:
            # A simulation in which nothing more can happen says so itself; no timer is needed to find out.
            completion.wait()
        else:
            while not rq.done:
                if not completion.wait(self.timeout_ns):
                    self._on_timeout(rq)
        emit = self._trace.emit
        if emit is not None:
            emit(NvmeWakeRq(self.runtime.now_ns, rq.serial, self._task_name()))

    def _task_name(self) -> str:
        task = self.runtime.current()
        return task.comm if task is not None else threading.current_thread().name

    def _trace_queue(self, rq: Request) -> None:
        emit = self._trace.emit
        if emit is not None:
            emit(NvmeQueueRq(self.runtime.now_ns, rq.serial, rq.opcode, rq.slba, rq.nlb, self._task_name()))


class SyncPath(SubmitPath):
    """Submission in the caller, completion by interrupt; several callers may share the pair.

    The submission lock covers taking a tag up to the doorbell, so that the tail never goes backwards. The
    interrupt handler only marks requests done: a caller's callbacks run in the caller, outside all locks.
    """

    def __init__(self, pair: QueuePair, context: QueueContext, on_timeout: Callable[[Request], None]) -> None:
        super().__init__(pair, context, on_timeout)
        # On threads locks whose state the compiled core can see.
        virtual = self.runtime.virtual
        self.ring_lock: Any = kworker.Spinlock(runtime=self.runtime) if virtual else Lock()
        self._tag_waiters: deque[kworker.Completion] = deque()
        self._reaping = Lock()
        self._reap_again = False

    def submit(self, rq: Request) -> None:
        rq._path = self
        self._trace_queue(rq)
        self._issue(rq)
        self._await(rq)
        if rq._callbacks:
            rq.run_callbacks()

    def open_lane(self) -> None:
        lane = self._port.lane(self.pair.qid)
        handler = None if lane is None else lane.handlers.get(self.pair.qid)
        # The lane does what `interrupt` would: it is right only while the interrupt comes here.
        if lane is None or handler != self.interrupt:
            return
        self.pair.open_lane(*lane.device, lane.handlers, handler, (lane.lock, self.ring_lock, self._reaping))
        self.exchange = self.pair.exchange_plain
        self.exchange_many = self.pair.exchange_many

    def run(self, rq: Request) -> None:
        pair = self.pair
        if pair.outstanding or self._consume is not None or self._trace.emit is not None or rq.nbytes > UNLISTED_BYTES:
            self.submit(rq)
            return
        rq._path = self
        answer = DELAYED
        with self.ring_lock:
            idle = self._reaping.try_acquire()
            if idle:
                try:
                    idle = not pair.outstanding and bool(pair.tags.free)
                    if idle:
                        answer = pair.exchange(rq)
                finally:
                    self._reaping.release()
        if not idle:
            self.submit(rq)
        elif answer != ANSWERED or self._reap_again:
            # Delayed, or something else was in the queue: the ordinary way goes on from here.
            self.interrupt()
            self._await(rq)
        if self._tag_waiters:
            self._wake_tag_waiters()

    def submit_many(self, requests: Sequence[Request]) -> None:
        for rq in requests:
            rq._path = self
            self._trace_queue(rq)
        lock, pair = self.ring_lock, self.pair
        start = 0
        while start < len(requests):
            lock.acquire()
            taken = min(len(pair.tags.free), len(requests) - start)
            for rq in requests[start : start + taken]:
                pair.prepare(rq)
            pair.commit()
            lock.release()
            start += taken
            if start < len(requests):
                # What is on the ring must end before there are tags for the rest.
                self._await(requests[start - 1]) if taken else self._wait_for_tag()
        for rq in requests:
            self._await(rq)
            if rq._callbacks:
                rq.run_callbacks()

    def submit_batch(self, batch: BatchRequest) -> None:
        batch._path = self
        self._trace_queue(batch)
        lock, pair = self.ring_lock, self.pair
        while True:
            lock.acquire()
            complete = pair.prepare_batch(batch)
            pair.commit()
            lock.release()
            if complete:
                break
            if not pair.tags.free:
                self._wait_for_tag()
        self._await(batch)

    def _issue(self, rq: Request) -> None:
        lock, pair = self.ring_lock, self.pair
        while True:
            lock.acquire()
            if pair.tags.free:
                pair.prepare(rq)
                pair.commit()
                lock.release()
                return
            lock.release()
            self._wait_for_tag()

    def _wait_for_tag(self) -> None:
        waiter = kworker.Completion(runtime=self.runtime, name=f"a free tag of queue {self.pair.qid}")
        self._tag_waiters.append(waiter)
        if not self.pair.tags.free:
            waiter.wait(self.timeout_ns)
        # Left on the list, it would take a wake-up that is meant for somebody who sleeps.
        with contextlib.suppress(ValueError):
            self._tag_waiters.remove(waiter)

    def _await(self, rq: Request) -> None:
        """Wait by polling if that is worth it, else by sleeping until the interrupt."""
        if rq.done:
            return
        if not self.runtime.virtual:
            self._spin(rq)
            if rq.done:
                return
        self.wait(rq, None)

    def _spin(self, rq: Request) -> None:
        """Poll the device while the completion is due soon and nobody else needs the processor."""
        runtime, port = self.runtime, self._port
        limit = runtime.now_ns + SPIN_NS_MAX
        while not rq.done:
            due = port.poll()
            if due is None or due > limit or self.pair.outstanding > 1 or runtime.now_ns > limit:
                return

    def interrupt(self) -> None:
        # Several threads may deliver at once, and one thread's simulated handlers may interleave. One reaps;
        # whoever finds it busy makes it look once more. try_acquire, since acquire lets the same thread in again.
        self._reap_again = True
        while self._reap_again and self._reaping.try_acquire():
            try:
                self._reap_again = False
                done = self.pair.reap()
            finally:
                self._reaping.release()
            for rq in done:
                rq.mark_done()
            self._wake_tag_waiters()

    def _wake_tag_waiters(self) -> None:
        """One waiter for each free tag. Two handlers may do this at once, and each wake-up may switch tasks."""
        waiters = self._tag_waiters
        for _ in range(len(self.pair.tags.free) if waiters else 0):
            try:
                waiter = waiters.popleft()
            except IndexError:
                return
            waiter.complete()

    def pending(self) -> list[Request]:
        return []


class _WorkerPath(SubmitPath):
    """What the two asynchronous paths have in common: a worker, and a list of requests without a tag."""

    def __init__(
        self,
        pair: QueuePair,
        context: QueueContext,
        on_timeout: Callable[[Request], None],
        worker: KthreadWorker,
    ) -> None:
        super().__init__(pair, context, on_timeout)
        self.worker = worker
        self.requests: deque[Request] = deque()

    def worker_task(self) -> kworker.TaskStruct | None:
        return self.worker.task

    def pending(self) -> list[Request]:
        taken = []
        while self.requests:
            taken.append(self.requests.popleft())
        return taken

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
        on_timeout: Callable[[Request], None],
        worker: KthreadWorker,
    ) -> None:
        super().__init__(pair, context, on_timeout, worker)
        self._work = kworker.KthreadWork()
        kworker.kthread_init_work(self._work, self._pump)
        self._active = False
        self._interrupted = False

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
        kworker.kthread_queue_work(self.worker, self._work)

    def _pump(self, _work: KthreadWork) -> None:
        requests, free = self.requests, self.pair.tags.free
        for _ in range(PUMP_ROUNDS_MAX):
            if self._interrupted:
                self._interrupted = False
                for rq in self._reap():
                    rq.finish()
            if requests and free:
                self._issue()
            if self._interrupted or self._linger():
                continue
            self._active = False
            if not self._interrupted and not (requests and free):
                return
            self._active = True
        kworker.kthread_queue_work(self.worker, self._work)


    def _reap(self) -> list[Request]:
        return self.pair.reap()

    def _issue(self) -> None:
        """Write what is on the list as far as there are tags, and ring once."""
        pair, requests, free = self.pair, self.requests, self.pair.tags.free
        prepare_plain = pair.prepare_plain
        silent = COMPILED and self._consume is None and self._trace.emit is None
        while requests and free:
            rq = requests[0]
            if silent and prepare_plain(rq):
                requests.popleft()
                continue
            if not isinstance(rq, BatchRequest):
                pair.prepare(rq)
            elif not pair.prepare_batch(rq):
                break
            requests.popleft()
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
        on_timeout: Callable[[Request], None],
        worker: KthreadWorker,
    ) -> None:
        super().__init__(pair, context, on_timeout, worker)
        self._reap_work = kworker.KthreadWork()
        kworker.kthread_init_work(self._reap_work, self._reap)

    def submit(self, rq: Request) -> None:
        self._accept(rq)
        work = RequestWork(rq)
        kworker.kthread_init_work(work, self._start)
        kworker.kthread_queue_work(self.worker, work)

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

    def _issue(self) -> None:
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

    def _reap(self, _work: KthreadWork) -> None:
        for rq in self.pair.reap():
            rq.finish()
        self._issue()
