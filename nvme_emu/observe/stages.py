"""Where the time of a request goes: five stages from the caller's hand-over until the caller knows the outcome.

    nvme_queue_rq ─ worker_list ─► taken up ─ submission ─► fetch_cmd ─ device ─► post_cqe
                  ─ completion ─► nvme_complete_rq ─ wakeup ─► the caller runs with the outcome

The mean of a difference is the difference of the means. So nothing is kept per request: one sum and one count
for each kind of event give the exact means, in constant memory, as long as every request that enters the
window also leaves it. The counts prove that, and :meth:`StageSums.means` refuses to answer when they differ.
"""

from __future__ import annotations

import threading
from typing import Any

from nvme_emu.core.trace import (
    FetchCmd,
    NvmeCompleteRq,
    NvmeQueueRq,
    NvmeSetupCmd,
    NvmeSq,
    PostCqe,
    RaiseIrq,
)

__all__ = ["STAGES", "StageError", "StageSums"]

STAGES = ("worker_list", "submission", "device", "completion", "wakeup")
"""In the order in which a request goes through them."""

_QUEUED, _SET_UP, _FETCHED, _POSTED, _COMPLETED, _DOORBELL, _INTERRUPT = range(7)

# For each event: its kind, and the position of the queue in it (0 is the admin queue, which does not count).
# Positions, not names: this runs seven times an I/O, and an index costs less than an attribute. None where
# the event names no queue.
_KINDS: dict[type[Any], tuple[int, int | None]] = {
    NvmeQueueRq: (_QUEUED, None),
    NvmeSetupCmd: (_SET_UP, NvmeSetupCmd._fields.index("qid")),
    NvmeSq: (_DOORBELL, NvmeSq._fields.index("qid")),
    FetchCmd: (_FETCHED, FetchCmd._fields.index("sqid")),
    PostCqe: (_POSTED, PostCqe._fields.index("sqid")),
    RaiseIrq: (_INTERRUPT, None),
    NvmeCompleteRq: (_COMPLETED, NvmeCompleteRq._fields.index("qid")),
}


class StageError(RuntimeError):
    """Requests entered the window that did not leave it, or the other way round."""


class StageSums:
    """A sink for ``machine.trace``: sums the times of the events of I/O queues.

        sums = StageSums()
        machine.trace.add_sink(sums)
        ...                                    # I/O, from idle to idle, and no admin commands
        machine.trace.remove_sink(sums)
        sums.means(latency_ns=mean)            # {"worker_list": …, …} in ns

    ``threads=True`` guards the sums by a lock; without it all events must come from one thread at a time, as
    they do in a simulation.
    """

    __slots__ = ("_counts", "_lock", "_sums_ns")

    def __init__(self, *, threads: bool = False) -> None:
        self._lock = threading.Lock() if threads else None
        self._counts = [0] * 7
        self._sums_ns = [0] * 7

    def __call__(self, event: Any) -> None:
        """Count one event."""
        found = _KINDS.get(event.__class__)
        if found is None:
            return
        kind, queue = found
        if queue is not None and not event[queue]:
            return
        if self._lock is None:
            self._counts[kind] += 1
            self._sums_ns[kind] += event[0]
            return
        with self._lock:
            self._counts[kind] += 1
            self._sums_ns[kind] += event[0]

    @property
    def requests(self) -> int:
        """Requests that were completed."""
        return self._counts[_COMPLETED]

    @property
    def doorbells(self) -> int:
        """Writes of submission doorbells."""
        return self._counts[_DOORBELL]

    @property
    def interrupts(self) -> int:
        """Interrupt messages that the device sent."""
        return self._counts[_INTERRUPT]

    def means(
        self, *, latency_ns: float, handover_ns: float = 0, build_ns: float = 0, has_list: bool = True
    ) -> dict[str, float]:
        """The mean of each stage in ns; together they are ``latency_ns``, the mean that the callers measured.

        Two steps of the driver lie on the other side of their event and are moved by what they cost, if that
        is known: ``handover_ns`` from the call to ``nvme_queue_rq`` goes to the list, and ``build_ns`` of
        building the command, at whose end ``nvme_setup_cmd`` stands, goes from the list to the submission.
        Where they are not known (0, on threads) the first counts as wake-up and the second as list. On a path
        without a list (sync: ``has_list=False``) all until the doorbell is submission. StageError if
        requests were under way at an end of the window.
        """
        counts = self._counts[: _COMPLETED + 1]
        if len(set(counts)) != 1:
            names = ("queued", "set up", "fetched", "posted", "completed")
            seen = ", ".join(f"{count} {name}" for count, name in zip(counts, names, strict=True))
            raise StageError(f"the window must begin and end idle, but it saw {seen}")
        n = counts[0]
        if not n:
            return dict.fromkeys(STAGES, 0.0)
        queued, setup, fetched, posted, completed = self._sums_ns[: _COMPLETED + 1]
        listed = (setup - queued) / n - build_ns + handover_ns if has_list else 0.0
        submission = (fetched - queued) / n + handover_ns - listed
        device = (posted - fetched) / n
        completion = (completed - posted) / n
        wakeup = latency_ns - (listed + submission + device + completion)
        if wakeup < 0:
            # Who looks without sleeping may see the outcome before the interrupt handler tells of it: for the
            # caller, completion ended then.
            completion, wakeup = completion + wakeup, 0.0
        return dict(zip(STAGES, (listed, submission, device, completion, wakeup), strict=True))
