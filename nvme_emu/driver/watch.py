"""Who waits too long: a look at a queue's outstanding commands every eighth of the time-out.

Commands carry no time: that would cost each of them a clock. Instead a timer looks which commands are there, and
which of them were there at the looks before. So a command's time is over after one to one and an eighth of the
time-out, and a command that ends in time costs nothing at all. The timer runs while the queue has commands: the
doorbell arms it, and a look that finds the queue empty leaves it off, so that an idle program is not woken and a
simulation in which nothing can happen any more says so.

In a simulation the look takes no processor time: fault-free runs are the same with it and without.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from kworker import Runtime, TimerHandle
    from nvme_emu.driver.queue_pair import QueuePair
    from nvme_emu.driver.request import Request

__all__ = ["LOOKS", "Seen", "TimeoutWatch"]

LOOKS = 8
"""Looks in one time-out."""

PERIOD_NS_MIN = 100_000


class Seen:
    """A command that was there at a look: the look's time, and what was done about it since."""

    __slots__ = ("aborted", "polled", "since_ns")

    def __init__(self, since_ns: int) -> None:
        self.since_ns = since_ns
        self.aborted = False
        self.polled = False


class _Key(NamedTuple):
    """One use of a tag. The tag alone is used again; the identifier repeats after 16 uses; of a batch, which has many
    commands, the number left tells that it goes on."""

    serial: int
    cid: int
    left: int


class TimeoutWatch:
    """Calls ``expired(request, cid, seen)`` in interrupt context for each command of ``pair`` that takes too long.

    The callee sets ``seen.since_ns`` if it wants to hear of the command again after another time-out.
    """

    def __init__(
        self,
        pair: QueuePair,
        runtime: Runtime,
        timeout_ns: int,
        expired: Callable[[Request, int, Seen], None],
    ) -> None:
        self._pair = pair
        self._runtime = runtime
        self._timeout_ns = timeout_ns
        self._period_ns = max(timeout_ns // LOOKS, PERIOD_NS_MIN)
        self._expired = expired
        self._seen: dict[_Key, Seen] = {}
        self._timer: TimerHandle | None = None
        self._stopped = False
        pair.watch = self.arm
        pair.watched = False

    def arm(self) -> None:
        """Commands go out: look after a while, if nobody does."""
        if not self._pair.watched:
            self._pair.watched = True
            self._start()

    def _start(self) -> None:
        if self._stopped:
            return
        self._timer = self._runtime.call_at(self._runtime.now_ns + self._period_ns, self._look, hardware=True)

    def stop(self) -> None:
        """Look no more."""
        self._stopped = True
        self._pair.watched = True
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        pair = self._pair
        now_ns = self._runtime.now_ns
        before, self._seen = self._seen, {}
        late: list[tuple[Request, int, Seen]] = []
        for tag, rq in enumerate(list(pair.inflight)):
            if rq is None:
                continue
            cid = pair.tags.cid[tag]
            key = _Key(rq.serial, cid, getattr(rq, "left", 0))
            seen = self._seen[key] = before.get(key) or Seen(now_ns)
            if now_ns - seen.since_ns >= self._timeout_ns:
                late.append((rq, cid, seen))
        for one in late:
            self._expired(*one)
        if self._seen:
            self._start()
            return
        # Whoever rings the doorbell after this line arms; whoever rang it before has left commands to see.
        pair.watched = False
        if pair.outstanding:
            self.arm()
