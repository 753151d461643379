"""Two ways to hand requests to the worker that cost less than waking it: styles of the pump.

``InlinePumpPath``   who finds the queue idle submits in its own thread, as the kernel's ``spi_sync`` does, and with an
                     instant device completes there as well; anything else goes to the worker.
``PollingPumpPath``  who has nothing to do looks again for ``poll_ns`` before it sleeps: the caller that waits for its
                     request, and the worker between two requests. (Linux: hybrid polling, ``io_poll_delay``.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import kworker
from nvme_emu._core import Lock
from nvme_emu.driver.batch import BatchRequest
from nvme_emu.driver.pump import PumpPath
from nvme_emu.driver.queue_pair import ANSWERED, LOOK, UNLISTED_BYTES
from nvme_emu.driver.submit import OPEN

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kworker import KthreadWorker
    from nvme_emu.driver.queue_pair import QueueContext, QueuePair
    from nvme_emu.driver.recovery import Recovery
    from nvme_emu.driver.request import Request

__all__ = ["POLL_STEP_NS", "InlinePumpPath", "PollingPumpPath"]

POLL_STEP_NS = 500
"""How often a polling processor looks, in virtual time."""


class InlinePumpPath(PumpPath):
    """A pump that is left out while there is nothing for it to put together.

    Callers and the worker both touch the rings here: ``ring_lock`` guards them.
    """

    def __init__(
        self,
        pair: QueuePair,
        context: QueueContext,
        recovery: Recovery,
        worker: KthreadWorker,
    ) -> None:
        super().__init__(pair, context, recovery, worker)
        virtual = self.runtime.virtual
        self.ring_lock: Any = kworker.Spinlock(runtime=self.runtime) if virtual else Lock()
        self._calling = False

    def submit(self, rq: Request) -> None:
        if self._is_busy() or isinstance(rq, BatchRequest) or not self._run_here(rq):
            super().submit(rq)

    def _is_busy(self) -> bool:
        pair = self.pair
        if self._active or self._calling or self.requests:
            return True
        return pair.outstanding > 0 or not pair.tags.free or self.gate != OPEN

    def _run_here(self, rq: Request) -> bool:
        lock, pair = self.ring_lock, self.pair
        if not lock.try_acquire():
            return False
        answer = -1
        raised = False
        try:
            if self._is_busy():
                return False
            self._accept(rq)
            untold = self._consume is None and self._trace.emit is None
            if untold and self._direct and rq.nbytes <= UNLISTED_BYTES:
                answer = pair.exchange(rq)
            else:
                pair.prepare(rq)
                pair.commit()
        except BaseException:
            # A doorbell raised (a checker's CheckError), and kept the message of what the device has answered.
            raised = True
            raise
        finally:
            lock.release()
            if raised:
                self.interrupt()
        if answer == ANSWERED:
            if rq._status:
                rq.done = False
                self._give_back([rq])
            else:
                self._finish_here(rq)
            return True
        if answer >= 0 and not pair.watched:
            pair.watch()
        if answer == LOOK:
            self.interrupt()
        return True

    def _finish_here(self, rq: Request) -> None:
        # A callback that submits goes to the worker: a chain of them done here would be a recursion.
        self._calling = rq._callbacks is not None
        try:
            rq.finish()
        finally:
            self._calling = False

    def _enter_rings(self) -> None:
        super()._enter_rings()
        self.ring_lock.acquire()

    def _leave_rings(self) -> None:
        self.ring_lock.release()

    def _reap(self) -> list[Request]:
        with self.ring_lock:
            return super()._reap()

    def _exchange(self) -> list[Request]:
        with self.ring_lock:
            return super()._exchange()

    def _issue(self) -> None:
        with self.ring_lock:
            super()._issue()


class PollingPumpPath(PumpPath):
    """A pump whose worker and callers poll for ``poll_ns`` before they sleep."""

    def __init__(
        self,
        pair: QueuePair,
        context: QueueContext,
        recovery: Recovery,
        worker: KthreadWorker,
        poll_ns: int,
    ) -> None:
        super().__init__(pair, context, recovery, worker)
        self._poll_ns = poll_ns

    def wait(self, rq: Request, timeout_s: float | None) -> None:
        if timeout_s is None and self.runtime.current() is not self.worker.task:
            if self._consume is None:
                rq.poll(self._poll_ns)
            else:
                self._poll(lambda: rq.done)
        if not rq.done:
            super().wait(rq, timeout_s)

    def submit(self, rq: Request) -> None:
        super().submit(rq)
        self.pair.bell = True

    def submit_many(self, requests: Sequence[Request]) -> None:
        super().submit_many(requests)
        self.pair.bell = True

    def interrupt(self) -> None:
        super().interrupt()
        self.pair.bell = True

    def _linger(self) -> bool:
        pair = self.pair
        pair.bell = False
        # Whoever came before that line has left something to see, whoever comes after it rings.
        if self._has_work():
            return True
        if self._consume is None:
            pair.poll(self._poll_ns)
        else:
            self._poll(self._has_work)
        return self._has_work()

    def _has_work(self) -> bool:
        return self._interrupted or bool(self.requests and self.pair.tags.free and not self.gate)

    def _poll(self, ready: Callable[[], bool]) -> None:
        """The same in virtual time: it costs the processor as long as it takes, in steps."""
        runtime, consume = self.runtime, self.runtime.consume
        end_ns = runtime.now_ns + self._poll_ns
        while not ready() and runtime.now_ns < end_ns:
            consume(POLL_STEP_NS)
            runtime.settle()
