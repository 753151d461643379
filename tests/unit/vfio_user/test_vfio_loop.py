"""The loop: deadlines kept, sockets served, stopped from elsewhere."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import pytest

from nvme_emu.transports.loop import EVENT_READ, Loop


class Once:
    """A task with one deadline."""

    def __init__(self, loop: Loop, after_ns: int) -> None:
        self.loop = loop
        self.due_ns: int | None = loop.clock() + after_ns
        self.done_ns = 0

    def next_deadline(self) -> int | None:
        return self.due_ns

    def work(self) -> None:
        self.done_ns, self.due_ns = self.loop.clock(), None
        self.loop.stop()


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


@pytest.mark.parametrize("after_ns", [0, 20_000, 300_000, 5_000_000])
def test_deadline_is_kept_and_never_early(loop: Loop, after_ns: int) -> None:
    task = Once(loop, after_ns)
    due_ns = task.due_ns
    assert due_ns is not None
    loop.add_task(task)
    loop.run()
    assert 0 <= task.done_ns - due_ns < 50_000_000


def test_short_deadline_is_not_rounded_up_to_a_millisecond(loop: Loop) -> None:
    late = []
    for _ in range(15):
        task = Once(loop, 100_000)
        due_ns = task.due_ns or 0
        loop.add_task(task)
        loop.run()
        loop.remove_task(task)
        late.append(task.done_ns - due_ns)
    assert sorted(late)[3] < 700_000


def test_stop_from_another_thread_ends_a_wait_without_deadline(loop: Loop) -> None:
    thread = threading.Timer(0.02, loop.stop)
    thread.start()
    started = time.monotonic()
    loop.run()
    thread.join()
    assert time.monotonic() - started < 10


def test_file_closed_by_an_earlier_callback_is_not_called(loop: Loop) -> None:
    pipes = [os.pipe() for _ in range(2)]
    called: list[int] = []

    def callback(mine: int, other: int) -> None:
        called.append(mine)
        loop.unwatch(other)

    (a, wa), (b, wb) = pipes
    loop.watch(a, EVENT_READ, lambda events: callback(a, b))
    loop.watch(b, EVENT_READ, lambda events: callback(b, a))
    for write in (wa, wb):
        os.write(write, b"x")
    loop.round(0)
    assert len(called) == 1
    for fd in (a, b, wa, wb):
        os.close(fd)


def test_unwatch_of_what_is_not_watched_does_nothing(loop: Loop) -> None:
    loop.unwatch(0)
    assert not loop.is_watched(0)
