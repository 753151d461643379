"""Ctrl-C on the wall clock, at every place: the call ends, and the machine works on and closes."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any
from weakref import WeakSet

import numpy as np
import pytest

import kworker
import nvme_emu
from kworker import interrupted

MODES = ["sync", "pump", "per-request", "inline", "poll"]


def ctrl_c(*_: Any) -> None:
    signal.raise_signal(signal.SIGINT)


@pytest.fixture(autouse=True)
def handler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Python's own handler before, and after; machines that earlier tests have left open do not count."""
    monkeypatch.setattr(interrupted, "_watchers", WeakSet())
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    left = signal.signal(signal.SIGINT, before)
    assert left is signal.default_int_handler
    assert sys.gettrace() is None


def opened(mode: str, **options: Any) -> nvme_emu.Machine:
    how = {"mode": "sync"} if mode == "sync" else {"mode": "async", "worker": mode}
    return nvme_emu.open(size="1M", depth=4, **how, **options)


class Nth:
    """Ctrl-C at the nth call of a function; `met` tells whether there were as many."""

    def __init__(self, n: int) -> None:
        self.left, self.met = n, False

    def __call__(self, frame: FrameType, event: str, arg: Any) -> None:
        self.left -= event == "call"
        if not self.left and not self.met:
            self.met = True
            ctrl_c()


def work(namespace: nvme_emu.Namespace, nth: Nth) -> None:
    sys.setprofile(nth)
    try:
        for request in [namespace.submit_read(at, 1) for at in range(3)]:
            request.wait()
        namespace.write(0, bytes(16384))
        namespace.read_many(np.arange(9), 1)
    finally:
        sys.setprofile(None)


@pytest.mark.parametrize("profile", ["instant", "optane"])
@pytest.mark.parametrize("mode", MODES)
def test_machine_works_on_and_closes_wherever_ctrl_c_has_been(mode: str, profile: str) -> None:
    n, met = 1, True
    while met:
        with opened(mode, profile=profile) as ssd:
            for _ in range(10):
                nth = Nth(n)
                try:
                    work(ssd.namespaces[1], nth)
                    assert not nth.met, f"Ctrl-C at call {n} was lost"
                except KeyboardInterrupt:
                    pass
                assert not ssd.namespaces[1].read(0, 8).any()
                met = nth.met
                n += 1


@pytest.mark.parametrize("mode", MODES)
def test_ctrl_c_ends_a_wait_for_what_never_comes(mode: str) -> None:
    drop = {"id": "drop", "match": {"opcode": "read"}, "then": {"drop": {}}}
    with opened(mode, faults=[drop], io_timeout=1) as ssd:
        main = threading.main_thread().ident
        assert main is not None
        fired = threading.Thread(target=lambda: (ssd.faults["drop"].wait(), signal.pthread_kill(main, signal.SIGINT)))
        fired.start()
        with pytest.raises(KeyboardInterrupt):
            ssd.namespaces[1].read(0, 1)
        fired.join()
        ssd.faults.clear()


def test_ctrl_c_in_the_program_is_raised_there() -> None:
    with opened("sync") as ssd:
        with pytest.raises(KeyboardInterrupt):
            ctrl_c()
        assert not ssd.namespaces[1].read(0, 1).any()


def test_second_ctrl_c_is_raised_at_once() -> None:
    met: list[str] = []

    def twice(request: nvme_emu.Request) -> None:
        ctrl_c()
        try:
            ctrl_c()
        except KeyboardInterrupt:
            met.append("here")

    with opened("inline") as ssd:
        request = ssd.namespaces[1].submit_read(0, 1, callback=twice)
        request.wait()
    assert met == ["here"]


def test_shutdown_is_brought_to_its_end() -> None:
    ssd = opened("pump")
    stop = ssd.driver._stop_workers

    def interrupted_there() -> None:
        ctrl_c()
        stop()

    ssd.driver._stop_workers = interrupted_there  # type: ignore[method-assign]
    threads = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        ssd.close()

    assert ssd.driver.workers == []
    assert threading.active_count() < threads
    ssd.close()


def test_handler_is_ours_while_a_machine_is_open_and_somebody_elses_stays() -> None:
    with opened("sync"), opened("sync"):
        assert signal.getsignal(signal.SIGINT) is interrupted.interrupted
    mine = signal.signal(signal.SIGINT, signal.SIG_IGN)
    with opened("sync"):
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    signal.signal(signal.SIGINT, mine)


def test_user_of_workers_alone_can_be_interrupted_where_he_waits() -> None:
    done = kworker.Completion()
    with opened("sync"):
        main = threading.main_thread().ident
        assert main is not None
        timer = threading.Timer(0.01, signal.pthread_kill, (main, signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            done.wait(60_000_000_000)
        timer.join()
