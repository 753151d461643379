"""Ctrl-C in a simulation, at every place: it ends what the caller waits for, and nothing else."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any
from weakref import WeakSet

import pytest

import kworker
import nvme_emu
from kworker import interrupted as interrupted_module
from kworker.interrupted import interrupted


@pytest.fixture(autouse=True)
def handler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Python's own handler before, and after; machines that earlier tests have left open do not count."""
    monkeypatch.setattr(interrupted_module, "_watchers", WeakSet())
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    left = signal.signal(signal.SIGINT, before)
    assert left is signal.default_int_handler


def ctrl_c(*_: Any) -> None:
    signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("scheduler", [None, "random"])
def test_ctrl_c_in_a_work_is_raised_where_the_caller_waits_and_the_worker_lives(scheduler: str | None) -> None:
    with kworker.SimRuntime(scheduler=scheduler):
        worker = kworker.kthread_create_worker(0, "victim")
        work = kworker.KthreadWork()
        kworker.kthread_init_work(work, ctrl_c)
        kworker.kthread_queue_work(worker, work)
        with pytest.raises(KeyboardInterrupt):
            kworker.kthread_flush_worker(worker)
        done: list[int] = []
        kworker.kthread_init_work(work, lambda _: done.append(1))
        kworker.kthread_queue_work(worker, work)
        kworker.kthread_flush_worker(worker)
        assert done == [1]
        kworker.kthread_destroy_worker(worker)


def test_second_ctrl_c_is_raised_at_once() -> None:
    met: list[str] = []

    def twice(_: Any) -> None:
        ctrl_c()
        try:
            ctrl_c()
        except KeyboardInterrupt:
            met.append("here")

    with kworker.SimRuntime():
        worker = kworker.kthread_create_worker(0, "victim")
        work = kworker.KthreadWork()
        kworker.kthread_init_work(work, twice)
        kworker.kthread_queue_work(worker, work)
        kworker.kthread_flush_worker(worker)
        assert met == ["here"]
        kworker.kthread_destroy_worker(worker)


def test_ctrl_c_that_nobody_met_is_raised_when_the_simulation_is_closed() -> None:
    with pytest.raises(KeyboardInterrupt), kworker.SimRuntime() as runtime:
        runtime.interrupt()


def test_ctrl_c_in_the_callers_own_code_is_raised_there() -> None:
    with kworker.SimRuntime() as runtime, pytest.raises(KeyboardInterrupt):
        runtime.run(ctrl_c)


def test_somebody_elses_handler_stays() -> None:
    mine = signal.signal(signal.SIGINT, signal.SIG_IGN)
    with kworker.SimRuntime():
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    signal.signal(signal.SIGINT, mine)
    with kworker.SimRuntime(), kworker.SimRuntime():
        assert signal.getsignal(signal.SIGINT) is interrupted


class Nth:
    """Ctrl-C at the nth call of a function; `met` tells whether there were as many."""

    def __init__(self, n: int) -> None:
        self.left, self.met = n, False

    def __call__(self, frame: FrameType, event: str, arg: Any) -> None:
        self.left -= event == "call"
        if not self.left and not self.met:
            self.met = True
            ctrl_c()


@pytest.mark.parametrize("profile", ["instant", "tlc"])
@pytest.mark.parametrize("mode", ["sync", "pump", "per-request", "inline", "poll"])
def test_machine_works_on_and_closes_wherever_ctrl_c_has_been(mode: str, profile: str) -> None:
    options = {"mode": "sync"} if mode == "sync" else {"mode": "async", "worker": mode}
    n, met = 1, True
    while met:
        with nvme_emu.open(size="1M", clock="virtual", profile=profile, **options) as ssd:
            namespace = ssd.namespaces[1]
            nth = Nth(n)
            try:
                sys.setprofile(nth)
                try:
                    for request in [namespace.submit_read(at, 1) for at in range(3)]:
                        request.wait()
                finally:
                    sys.setprofile(None)
                ssd.runtime.interrupted = False  # who never sleeps again hears of it at the end; not in this test
            except KeyboardInterrupt:
                pass
            assert not namespace.read(0, 8).any()
            met = nth.met
        n += max(7, n // 10)
    assert n > 50


def test_simulation_is_watched_though_somebody_left_a_machine_open() -> None:
    left_open = kworker.SimRuntime()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with kworker.SimRuntime():
        assert signal.getsignal(signal.SIGINT) is interrupted
    left_open.close()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
