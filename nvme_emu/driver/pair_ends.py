"""What a queue pair offers to recovery: a look for completions, the end of everything outstanding, a new start."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nvme_emu._core import PairState
from nvme_emu.driver.batch import BatchRequest
from nvme_emu.spec.queues import CQE, CQE_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

    from nvme_emu.core.memory import HostMemory
    from nvme_emu.driver.request import Request
    from nvme_emu.driver.tags import Tags

__all__ = ["PairEnds"]


def _nobody_watches() -> None:
    """What is called where no watch looks after a pair."""


class PairEnds(PairState):
    """The part of a queue pair that normal running does not need.

    ``watched`` is false while nobody looks after the commands that are about to go out; then whoever rings the doorbell
    calls ``watch``.
    """

    tags: Tags
    watched: bool = True
    watch: Callable[[], None] = staticmethod(_nobody_watches)
    _memory: HostMemory
    _tag_index: np.ndarray

    if TYPE_CHECKING:

        def _take(self, cid: int, dw0: int, status: int, done: list[Request], dw1: int = 0) -> None: ...

        def _unmap(self, tag: int) -> None: ...

    def has_completion(self, cid: int) -> bool:
        """Whether a new completion of ``cid`` lies in the queue; changes nothing, anybody may ask at any time."""
        head, phase = self.head, self.phase
        for _ in range(self.depth):
            *_, found, word = CQE.unpack_from(self.cq_view, head * CQE_SIZE)
            if word & 1 != phase:
                return False
            if found == cid:
                return True
            head += 1
            if head == self.depth:
                head = 0
                phase ^= 1
        return False

    def collect(self) -> list[Request]:
        """``reap`` of a controller that is disabled: no doorbell is rung."""
        done: list[Request] = []
        for _ in range(self.depth):
            dw0, dw1, _sqhd, _sqid, cid, word = CQE.unpack_from(self.cq_view, self.head * CQE_SIZE)
            if word & 1 != self.phase:
                break
            self.head += 1
            if self.head == self.depth:
                self.head = 0
                self.phase ^= 1
            self._take(cid, dw0, word >> 1, done, dw1)
        return done

    def cancel_all(self, status: int) -> list[Request]:
        """End every outstanding command with ``status``, and give the requests that end by that; only while the
        controller is disabled. A completion of such a command that came later would carry an old generation."""
        done: list[Request] = []
        for tag, rq in enumerate(self.inflight):
            if rq is None:
                continue
            self.inflight[tag] = None
            self.outstanding -= 1
            self.tags.release(tag)
            if isinstance(rq, BatchRequest):
                rq.fail(int(self._tag_index[tag]), status)
                rq.left -= 1
                if not rq.left:
                    rq.unmap(self._memory)
                    done.append(rq)
            else:
                self._unmap(tag)
                rq._status = status
                done.append(rq)
        self._batched = 0
        return done

    def start_over(self) -> None:
        """Empty rings, as new, for a controller that is about to create the queues again."""
        self.cq_view[:] = bytes(len(self.cq_view))
        self.tail = self.rung_tail = self.head = self.sqhd = 0
        self.phase = 1

    def abandon(self, batch: BatchRequest, status: int) -> bool:
        """End what was not issued of a batch; True if it is done with that."""
        return batch.abandon(self._memory, status)
