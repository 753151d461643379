"""The loop that serves sockets and steps devices, for every front end of one process.

    loop = Loop()
    loop.watch(socket, EVENT_READ, on_readable)
    loop.add_task(device)               # work() when next_deadline() says so
    loop.run()                          # until loop.stop(), which any thread or signal handler may call

One thread; nothing in it may block. Waits are exact to some ten microseconds where the platform's own timeout
counts in milliseconds, as epoll's does, and very short ones are spent looking.
"""

from __future__ import annotations

import contextlib
import os
import select
import selectors
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from selectors import EVENT_READ, EVENT_WRITE
from typing import Any, Protocol

from kworker.interrupted import asleep_in

__all__ = ["EVENT_READ", "EVENT_WRITE", "Loop", "Task"]

SPIN_NS = 10_000
"""Below this a wait is not worth giving the processor away. Longer spinning loses more than it gains where there
are more runnable threads than processors: the scheduler then takes the processor away when it is needed."""

TIMER_SLACK_NS = 1_000
"""How late the kernel may be with a wait of ours, to save wake-ups; its own value is 50 µs."""

FINE_NS = 3_000_000
"""Below this the millisecond of epoll's timeout would show."""


class Task(Protocol):
    """Something with deadlines of its own."""

    def work(self) -> None:
        """Called after each round of socket events in which its deadline has come."""

    def next_deadline(self) -> int | None:
        """When (ns of the loop's clock) `work` must be called; None for not at all.

        Asked at the start of every round; `work` may come although the deadline has moved meanwhile.
        """


class Loop:
    """Sockets by readiness, tasks by deadline."""

    def __init__(self, clock: Callable[[], int] = time.perf_counter_ns) -> None:
        self.clock = clock
        self.rounds = 0
        self._selector = selectors.DefaultSelector()
        self._tasks: list[Task] = []
        self._stopping = False
        self._calls: deque[Callable[[], object]] = deque()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self.watch(self._wake_read, EVENT_READ, self._woken)

    def watch(self, file: Any, events: int, callback: Callable[[int], None]) -> None:
        """Call `callback(ready events)` when `file` is ready. KeyError if it is watched already."""
        self._selector.register(file, events, callback)

    def change(self, file: Any, events: int) -> None:
        """Watch for other events, at least one. KeyError if it is not watched."""
        key = self._selector.get_key(file)
        if key.events != events:
            self._selector.modify(file, events, key.data)

    def unwatch(self, file: Any) -> None:
        """Watch no more; nothing if it was not watched."""
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(file)

    def is_watched(self, file: Any) -> bool:
        """Whether any event of `file` is waited for."""
        return file in self._selector.get_map()

    def add_task(self, task: Task) -> None:
        """Have a task's deadlines kept."""
        self._tasks.append(task)

    def remove_task(self, task: Task) -> None:
        """Keep its deadlines no more. ValueError if it was not added."""
        self._tasks.remove(task)

    def stop(self) -> None:
        """Let `run` return after the present round. For any thread, and for signal handlers."""
        self._stopping = True
        self._wake()

    @property
    def wake_fd(self) -> int:
        """Writing a byte here ends the wait of a round; non-blocking, for `signal.set_wakeup_fd`."""
        return self._wake_write

    def call_soon(self, fn: Callable[[], object]) -> None:
        """Have `fn()` called in the loop's thread, between the events of a round. For any thread.

        It must neither block nor raise. Calls that come after the loop has ended are never made.
        """
        self._calls.append(fn)
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake_write, b"\0")

    def _woken(self, events: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_read, 4096)
        # Those that a call adds have woken the loop again: they wait for the next round.
        for _ in range(len(self._calls)):
            self._calls.popleft()()

    def run(self) -> None:
        """Serve until `stop`."""
        with contextlib.suppress(OSError):  # not Linux: then waits are as exact as they are
            Path("/proc/self/timerslack_ns").write_text(str(TIMER_SLACK_NS))
        while not self._stopping:
            self.round()
        self._stopping = False

    def round(self, timeout_ns: int | None = None) -> None:
        """Wait for events or the next deadline, `timeout_ns` at most, and serve what came."""
        self.rounds += 1
        tasks = [(task.next_deadline(), task) for task in self._tasks]
        first = min((due for due, _ in tasks if due is not None), default=None)
        wait_ns = timeout_ns
        if first is not None:
            wait_ns = max(first - self.clock(), 0)
            if timeout_ns is not None and timeout_ns < wait_ns:
                wait_ns = timeout_ns
        for key, events in self._ready(wait_ns):
            # A callback before this one may have closed the file.
            if self._selector.get_map().get(key.fd) is not None:
                key.data(events)
        if first is None:
            return
        now = self.clock()
        for due, task in tasks:
            if due is not None and due <= now:
                task.work()

    @asleep_in
    def _ready(self, wait_ns: int | None) -> list[tuple[selectors.SelectorKey, int]]:
        if wait_ns is None:
            return self._selector.select(None)
        if wait_ns < SPIN_NS:
            return self._selector.select(0)
        if wait_ns < FINE_NS and hasattr(self._selector, "fileno"):
            select.select([self._selector], [], [], wait_ns / 1e9)
            return self._selector.select(0)
        return self._selector.select(wait_ns / 1e9)

    def close(self) -> None:
        """Give the loop's own descriptors back."""
        self._selector.close()
        os.close(self._wake_read)
        os.close(self._wake_write)
