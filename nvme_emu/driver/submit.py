"""How a request gets from its caller to the queue pair and back: in the caller, or through the worker.

``SyncPath``        the caller builds the command, rings the doorbell and sleeps until the interrupt.

The paths through a worker are in pump.py and handoff.py.

Each path has a gate, which recovery closes while it resets the controller: what is to go onto the ring waits there.
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
from nvme_emu.driver.lane import open_caller_lane
from nvme_emu.driver.queue_pair import ANSWERED, DELAYED, UNLISTED_BYTES, QueuePair
from nvme_emu.driver.request import Request
from nvme_emu.driver.reset import HOST_ABORTED

if TYPE_CHECKING:
    from collections.abc import Callable

    from kworker import Runtime
    from nvme_emu.driver.queue_pair import QueueContext
    from nvme_emu.driver.recovery import Recovery

__all__ = ["CLOSED", "DEAD", "LOOK_AGAIN_NS", "OPEN", "CallerPath", "SubmitPath", "SyncPath"]

OPEN, CLOSED, DEAD = range(3)
"""A path's gate: closed while the controller is reset, dead when it will not come back."""

LOOK_AGAIN_NS = 1_000
"""How soon recovery looks again whether somebody has left the rings."""

SPIN_NS_MAX = 150_000
"""A sync caller that is alone polls for a completion due this soon: a thread's sleep overshoots by as much."""

_creation = threading.Lock()


class SubmitPath(ABC):
    """What one queue pair offers to its callers."""

    def __init__(self, pair: QueuePair, context: QueueContext, recovery: Recovery) -> None:
        self.pair = pair
        self.recovery = recovery
        self.runtime: Runtime = context.runtime
        self.suspended = False
        self.gate = OPEN
        self._port = context.port
        self._trace = context.trace
        self._enqueue_ns = context.host.enqueue_ns
        self._consume = context.runtime.consume if context.runtime.virtual else None
        self.timeout_ns = int(recovery.config.io_timeout * 1e9)
        self._direct = False
        self.exchange: Callable[[int, int, int, int, Any, int], bool] | None = None
        """``pair.exchange_plain`` where it may be called by whoever reads or writes."""
        self.exchange_many: Callable[[int, int, Any, int, int, int, Any], int] | None = None
        """``pair.exchange_many``, likewise."""

    @abstractmethod
    def submit(self, rq: Request) -> None:
        """Take a request; on the sync path it is done when this returns."""

    def open_lane(self) -> None:
        """Called when the queues exist: look for a way to do plain commands in one call."""
        # A short cut would pass over what somebody's subclass does otherwise.
        self._direct = type(self.pair) is QueuePair and type(self).__module__.startswith("nvme_emu.driver.")

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

    # Recovery ---------------------------------------------------------------------------------------

    def close_gate(self) -> None:
        """Let nothing more onto the ring until the gate opens. What is there stays there. Never blocks."""
        if self.gate == OPEN:
            self.gate = CLOSED

    def suspend(self) -> None:
        """With the gate closed: wait until nobody is at the rings, and keep interrupts from them until `take_back`.
        May sleep. No doorbell is rung after this (``nvme_suspend_queue``)."""
        self._enter_rings()
        self.suspended = True
        self._leave_rings()

    def open_gate(self) -> None:
        """Let go on what waits at the gate."""
        if self.gate == CLOSED:
            self.gate = OPEN
            self._resume()

    def close_idle(self) -> bool:
        """Close the gate for good; False, and it has to be opened again, if something is on the ring."""
        self.close_gate()
        self._enter_rings()
        idle = not self.pair.outstanding
        self._leave_rings()
        return idle

    def worker_gone(self) -> None:  # noqa: B027  most paths have none
        """The worker was stopped: turn away what still comes in the caller."""

    def kill(self, status: int) -> int:
        """End everything with ``status``, what waits at the gate too, and whatever comes; how many were cancelled."""
        self.gate = DEAD
        cancelled = self.take_back(status)
        self._resume()
        return cancelled

    def take_back(self, status: int) -> int:
        """With the gate closed and the controller disabled: take what was completed, end the rest with ``status``, and
        make the rings new. What may be sent again waits at the gate then. Gives how many requests were cancelled."""
        self._enter_rings()
        try:
            ended = self.pair.collect()
            cancelled = self.pair.cancel_all(status)
            self.pair.start_over()
        finally:
            self.suspended = False
            self._leave_rings()
        self._give_back(ended + cancelled)
        return len(cancelled)

    def unfinished(self) -> Request | None:
        """Some request that was taken and has not ended."""
        return next((rq for rq in list(self.pair.inflight) if rq is not None), None)

    def _parts_to_retry(self, batch: BatchRequest) -> tuple[list[Request], int]:
        """Requests for the commands of a batch that may be sent again, and the longest delay that one asks for."""
        delays: list[int] = []

        def wanted(status: int) -> bool:
            delay_ns = self.recovery.retry_delay(batch, 0, status)
            if delay_ns is not None:
                delays.append(delay_ns)
            return delay_ns is not None

        return batch.parts(wanted), max(delays, default=0)

    @abstractmethod
    def _enter_rings(self) -> None:
        """Keep everybody else from the rings; may sleep."""

    @abstractmethod
    def _leave_rings(self) -> None:
        """Let others at the rings again."""

    @abstractmethod
    def _give_back(self, ended: list[Request]) -> None:
        """Requests have ended otherwise than by ``reap``."""

    @abstractmethod
    def _resume(self) -> None:
        """The gate has opened, or is dead: wake who waits at it."""

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
        deadline_ns = None if timeout_s is None else self.runtime.now_ns + max(0, int(timeout_s * 1e9))
        while True:
            completion = self._completion_of(rq, task)
            if rq.done:
                break
            if deadline_ns is None:
                self._sleep(rq, completion)
            elif not completion.wait(max(0, deadline_ns - self.runtime.now_ns)) and not rq.done:
                raise TimeoutError(f"{rq.describe()} is not done after {timeout_s} s; it goes on")
            if rq.done:
                break
            # That was the end of an attempt that failed, and the next one has begun: it gets a completion of its own.
            with _creation:
                if rq._completion is completion:
                    rq._completion = None
        emit = self._trace.emit
        if emit is not None:
            emit(NvmeWakeRq(self.runtime.now_ns, rq.serial, self._task_name()))

    def _completion_of(self, rq: Request, provider: kworker.TaskStruct | None) -> kworker.Completion:
        """What waiters for the request sleep on."""
        completion: kworker.Completion | None = rq._completion
        if completion is None:
            with _creation:
                completion = rq._completion
                if completion is None:
                    completion = kworker.Completion(runtime=self.runtime, name=rq.describe())
                    completion.provider = provider
                    rq._completion = completion
        return completion

    def _sleep(self, rq: Request, completion: kworker.Completion) -> None:
        """Sleep until it is completed, for ever if need be: a watch looks after the request (watch.py)."""
        completion.wait()

    def _task_name(self) -> str:
        task = self.runtime.current()
        return task.comm if task is not None else threading.current_thread().name

    def _trace_queue(self, rq: Request) -> None:
        emit = self._trace.emit
        if emit is not None:
            emit(NvmeQueueRq(self.runtime.now_ns, rq.serial, rq.opcode, rq.slba, rq.nlb, self._task_name()))


class CallerPath(SubmitPath):
    """What the paths have in common whose callers wait for their requests: who waits sends again."""

    @abstractmethod
    def _issue(self, rq: Request) -> None:
        """Put one request onto the ring, or refuse it at a dead gate; waits for a tag and for the gate."""

    @abstractmethod
    def _await(self, rq: Request) -> None:
        """Wait until the request has ended."""

    def _refuse(self, rq: Request) -> None:
        """The controller will not come back."""
        rq._status = HOST_ABORTED
        rq.done = True

    def _try_again(self, rq: Request, retries: int = 0) -> None:
        """A request has failed, and only the caller knows of it: send it again as often as the rules allow."""
        while rq._status:
            delay_ns = self.recovery.retry_delay(rq, retries)
            if delay_ns is None:
                return
            retries += 1
            if delay_ns:
                self.runtime.sleep_ns(delay_ns)
            rq.done = False
            rq._status = 0
            self._issue(rq)
            self._await(rq)

    def _try_batch_again(self, batch: BatchRequest) -> None:
        """Commands of a batch have failed: those that may be sent again go one by one."""
        parts, delay_ns = self._parts_to_retry(batch)
        if delay_ns:
            self.runtime.sleep_ns(delay_ns)
        for part in parts:
            part._path = self
            self._issue(part)
            self._await(part)
            self._try_again(part, 1)
            part.run_callbacks()


class SyncPath(CallerPath):
    """Submission in the caller, completion by interrupt; several callers may share the pair.

    The submission lock covers taking a tag up to the doorbell, so that the tail never goes backwards. The
    interrupt handler only marks requests done: a caller's callbacks run in the caller, outside all locks.
    """

    def __init__(self, pair: QueuePair, context: QueueContext, recovery: Recovery) -> None:
        super().__init__(pair, context, recovery)
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
        if rq._status:
            self._try_again(rq)
        if rq._callbacks:
            rq.run_callbacks()

    def open_lane(self) -> None:
        super().open_lane()
        lane = self._port.lane(self.pair.qid) if self._direct else None
        handler = None if lane is None else lane.handlers.get(self.pair.qid)
        # The lane does what `interrupt` would: it is right only while the interrupt comes here.
        if lane is None or handler != self.interrupt:
            return
        if COMPILED:
            self.pair.open_lane(*lane.device, lane.handlers, handler, (lane.lock, self.ring_lock, self._reaping))
            self.exchange = self.pair.exchange_plain
            self.exchange_many = self.pair.exchange_many
        else:
            self.exchange, self.exchange_many = open_caller_lane(
                self.pair, lane, handler, self.ring_lock, self._reaping
            )

    def run(self, rq: Request) -> None:
        pair = self.pair
        if not self._direct or pair.outstanding or self._consume is not None or self._trace.emit is not None:
            self.submit(rq)
            return
        if rq.nbytes > UNLISTED_BYTES:
            self.submit(rq)
            return
        rq._path = self
        answer = DELAYED
        try:
            with self.ring_lock:
                idle = self._reaping.try_acquire()
                if idle:
                    try:
                        idle = not pair.outstanding and bool(pair.tags.free) and not self.gate
                        if idle:
                            answer = pair.exchange(rq)
                    finally:
                        self._reaping.release()
        except BaseException:
            # A doorbell raised (a checker's CheckError), and kept the message of what the device has answered.
            self.interrupt()
            raise
        if not idle:
            self.submit(rq)
            return
        if answer != ANSWERED or self._reap_again:
            # Delayed, or something else was in the queue: the ordinary way goes on from here.
            if not pair.watched:
                pair.watch()
            self.interrupt()
            self._await(rq)
        if rq._status:
            self._try_again(rq)
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
            try:
                taken = 0 if self.gate else min(len(pair.tags.free), len(requests) - start)
                for rq in requests[start : start + taken]:
                    pair.prepare(rq)
                pair.commit()
            finally:  # a doorbell may raise: a checker's CheckError
                lock.release()
            start += taken
            if self.gate == DEAD:
                break
            if start < len(requests):
                # What is on the ring must end before there are tags for the rest.
                self._await(requests[start - 1]) if taken else self._wait_for_tag()
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
        lock, pair = self.ring_lock, self.pair
        while True:
            lock.acquire()
            try:
                complete = self.gate == OPEN and pair.prepare_batch(batch)
                pair.commit()
                over = self.gate == DEAD and not complete and pair.abandon(batch, HOST_ABORTED)
            finally:
                lock.release()
            if over:
                batch.mark_done()
            if complete or self.gate == DEAD:
                break
            if not pair.tags.free or self.gate:
                try:
                    self._wait_for_tag()
                except BaseException:
                    # Ctrl-C: nobody issues the rest any more.
                    self._abandon(batch)
                    raise
        self._await(batch)
        if batch._status:
            self._try_batch_again(batch)

    def _abandon(self, batch: BatchRequest) -> None:
        with self.ring_lock:
            over = self.pair.abandon(batch, HOST_ABORTED)
        if over:
            batch.mark_done()

    def _issue(self, rq: Request) -> None:
        lock, pair = self.ring_lock, self.pair
        while True:
            lock.acquire()
            try:
                if pair.tags.free and not self.gate:
                    pair.prepare(rq)
                    pair.commit()
                    return
            finally:
                lock.release()
            if self.gate == DEAD:
                self._refuse(rq)
                return
            self._wait_for_tag()

    def _wait_for_tag(self) -> None:
        waiter = kworker.Completion(runtime=self.runtime, name=f"a free tag of queue {self.pair.qid}")
        self._tag_waiters.append(waiter)
        try:
            if not self.pair.tags.free or self.gate == CLOSED:
                waiter.wait(self.timeout_ns)
        finally:
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
                done = [] if self.suspended else self.pair.reap()
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

    def _enter_rings(self) -> None:
        while not self._reaping.try_acquire():
            self.runtime.sleep_ns(LOOK_AGAIN_NS)
        self.ring_lock.acquire()

    def _leave_rings(self) -> None:
        self.ring_lock.release()
        self._reaping.release()

    def _give_back(self, ended: list[Request]) -> None:
        for rq in ended:
            rq.mark_done()
        self._wake_tag_waiters()

    def _resume(self) -> None:
        for _ in range(len(self._tag_waiters)):
            self._wake_tag_waiters()
