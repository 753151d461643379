"""The brake of a simulation: a sink that keeps the last events and can hold the simulation between two.

A simulation has one thread. While a sink does not return, nothing in it moves, and its clock is virtual: so a
run that was held, stepped and slowed gives the same bytes as one that was not. On real threads that would be
a lie, since the clock goes on and timeouts expire; there the gate only keeps events.

The thread that is held answers questions meanwhile (`ask`), so that a state is always read on the
simulation's own thread, between two of its steps.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from nvme_emu.core.trace import NvmeCompleteRq, PostCqe

__all__ = ["EVENTS_KEPT", "SPEEDS", "Gate", "GateClosed"]

EVENTS_KEPT = 50_000
"""Events kept for looking back."""
SPEEDS = (0, 100_000_000, 10_000_000, 1_000_000, 100_000, 10_000, 1_000)
"""Virtual nanoseconds a second of the reader's time, from full speed (0) downwards."""

_T = TypeVar("_T")


class GateClosed(Exception):
    """The gate was closed while somebody asked."""


def _any_event(event: Any) -> bool:
    return True


class Gate:
    """A sink for ``machine.trace``. ``events`` are the last, ``seen`` counts all (on threads: about).

    ``holds`` says whether the emitting thread may be stopped: True for a simulation only.
    """

    def __init__(self, *, holds: bool, events_kept: int = EVENTS_KEPT) -> None:
        self.events: deque[Any] = deque(maxlen=events_kept)
        self.seen = 0
        self.holds = holds
        self._append = self.events.append
        self._changed = threading.Condition()
        # One flag, so that a gate that stands open costs a test an event.
        self._busy = False
        self._stop_at: Callable[[Any], bool] | None = None
        self._held = False
        self._lent_until_s = 0.0
        self._speed = 0
        self._anchor: tuple[int, float] | None = None
        self._asked: deque[Callable[[], None]] = deque()
        self._closed = False

    def __call__(self, event: Any) -> None:
        """Take an event, and hold who emitted it where that is wanted."""
        self._append(event)
        self.seen += 1
        if self._busy:
            self._slowly(event)

    # --- steering, from the reader's thread ----------------------------------------------------------------

    @property
    def paused(self) -> bool:
        """Whether the simulation is held, or will be at its next event."""
        return self._held or self._stop_at is not None

    @property
    def speed(self) -> int:
        """Virtual nanoseconds a second; 0 is full speed."""
        return self._speed

    def pause(self) -> None:
        """Hold at the next event."""
        self._steer(stop_at=_any_event)

    def resume(self) -> None:
        """Go on."""
        self._steer(stop_at=None, go=True)

    def step_event(self) -> None:
        """Go on to the next event."""
        self._steer(stop_at=_any_event, go=True)

    def step_command(self, *, driver: bool = True) -> None:
        """Go on until an I/O command has ended: for its driver, or where there is none for the device."""
        kind = NvmeCompleteRq if driver else PostCqe
        queue = "qid" if driver else "sqid"
        self._steer(stop_at=lambda event: event.__class__ is kind and bool(getattr(event, queue)), go=True)

    def until(self, ts_ns: int) -> None:
        """Go on and hold at the first event at or after this time."""
        self._steer(stop_at=lambda event: bool(event.ts_ns >= ts_ns), go=True)

    def wait_held(self, over: Callable[[], bool]) -> None:
        """Wait until the simulation is held, or ``over()``."""
        with self._changed:
            while not self._held and not over():
                self._changed.wait(0.02)

    def slow(self, speed: int) -> None:
        """So many virtual nanoseconds a second from now on; 0 for as fast as it can."""
        with self._changed:
            self._speed, self._anchor = speed, None
            self._settle()

    def _steer(self, *, stop_at: Callable[[Any], bool] | None, go: bool = False) -> None:
        if not self.holds:
            raise ValueError("real threads cannot be held: their clock goes on")
        with self._changed:
            self._stop_at = stop_at
            if go:
                self._held = False
                self._anchor = None
            self._settle()

    def _settle(self) -> None:
        self._busy = bool(self._stop_at or self._held or self._speed or self._asked) and not self._closed
        self._changed.notify_all()

    def close(self) -> None:
        """Hold nobody any more. Whoever asks gets GateClosed."""
        with self._changed:
            self._closed, self._held, self._stop_at, self._speed = True, False, None, 0
            self._settle()

    # --- questions ------------------------------------------------------------------------------------------

    def ask(self, fn: Callable[[], _T], *, timeout_s: float = 2.0, lend_s: float = 0.0) -> _T:
        """``fn()`` on the thread that emits, between two of its events.

        That thread then waits for `give_back`, ``lend_s`` at most: the interpreter is the asker's, who else
        would wait for it at every step. TimeoutError when it emits none and does not wait in `serve` or here;
        GateClosed at the end.
        """
        answer: deque[tuple[Any, BaseException | None]] = deque()
        done = threading.Event()

        def run() -> None:
            try:
                answer.append((fn(), None))
            except BaseException as error:  # carried to whoever asked
                answer.append((None, error))
            self._lent_until_s = time.monotonic() + lend_s if lend_s else 0.0
            done.set()

        with self._changed:
            if self._closed:
                raise GateClosed
            self._asked.append(run)
            self._settle()
        if not done.wait(timeout_s):
            with self._changed:
                if run in self._asked:
                    self._asked.remove(run)
                    self._settle()
                    raise TimeoutError(f"the simulation came to no event in {timeout_s:g} s")
            done.wait()
        result, failed = answer[0]
        if failed is not None:
            raise failed
        return result  # type: ignore[no-any-return]

    def give_back(self) -> None:
        """Let the thread that was lent go on."""
        with self._changed:
            self._lent_until_s = 0.0
            self._changed.notify_all()

    def serve(self) -> None:
        """Answer questions until `close`: for the simulation's thread when its work is done."""
        with self._changed:
            self._held, self._stop_at = False, None
            while not self._closed:
                self._answer()
                self._changed.wait(0.5)

    # --- on the thread that emits ---------------------------------------------------------------------------

    def _slowly(self, event: Any) -> None:
        with self._changed:
            self._answer()
            if not self.holds:
                return
            if self._stop_at is not None and self._stop_at(event):
                self._stop_at, self._held = None, True
                self._changed.notify_all()
            while (wait_s := 0.1 if self._held else min(0.1, max(self._lent(), self._early(event)))) > 0:
                self._changed.wait(wait_s)
                self._answer()

    def _lent(self) -> float:
        """For how many seconds this thread is still lent."""
        return self._lent_until_s - time.monotonic() if self._lent_until_s else 0.0

    def _early(self, event: Any) -> float:
        """For how many seconds this event is to be held, at the speed that is wanted."""
        if not self._speed or self._closed:
            return 0.0
        now_s = time.monotonic()
        if self._anchor is None:
            self._anchor = (event.ts_ns, now_s)
        begun_ns, begun_s = self._anchor
        left_s: float = begun_s + (event.ts_ns - begun_ns) / self._speed - now_s
        return max(0.0, left_s)

    def _answer(self) -> None:
        while self._asked:
            self._asked.popleft()()
        self._settle_quietly()

    def _settle_quietly(self) -> None:
        self._busy = bool(self._stop_at or self._held or self._speed) and not self._closed
