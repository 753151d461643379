"""Closing: what was taken ends, what comes too late is refused, nobody waits for ever."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import kworker
import nvme_emu
from nvme_emu.core.errors import NvmeError

Make = Callable[..., nvme_emu.Machine]

USERS = 6


@pytest.mark.parametrize("profile", ["instant", "tlc"])
def test_close_with_requests_outstanding_ends_them_all(make: Make, way: dict[str, Any], profile: str) -> None:
    ssd = make(profile=profile, depth=16, **way)
    ns = ssd.namespaces[1]
    requests = [ns.submit_write(8 * i, bytes([i % 251]) * 4096) for i in range(100)]
    requests.append(ns.submit_read(0, ns.nlb))
    ssd.close()
    assert [rq.status for rq in requests] == [0] * len(requests)


def _use(ns: nvme_emu.Namespace, kind: int, told: kworker.Completion) -> None:
    """I/O without an end, until there is no SSD any more."""
    data = bytes(4096)
    starts = np.arange(0, 40 * 8, 8)
    with pytest.raises(NvmeError):
        for i in range(1_000_000):
            if kind == 0:
                ns.write(8 * (i % 100), data)
            elif kind == 1:
                ns.submit_read(8 * (i % 100), 8).wait()
            else:
                ns.read_many(starts, 8)
            if i == 3:
                kworker.complete(told)


@pytest.mark.parametrize("profile", ["instant", "tlc"])
def test_close_while_others_do_io_ends_and_lets_nobody_wait_for_ever(
    make: Make, way: dict[str, Any], profile: str
) -> None:
    ssd = make(profile=profile, depth=4, **way)
    ns = ssd.namespaces[1]
    told = kworker.Completion(runtime=ssd.runtime)
    ended = [kworker.Completion(runtime=ssd.runtime) for _ in range(USERS)]

    def user(index: int) -> int:
        _use(ns, index % 3, told)
        kworker.complete(ended[index])
        return 0

    for index in range(USERS):
        task = kworker.kthread_create(user, index, "user%d", index, runtime=ssd.runtime)
        kworker.wake_up_process(task)
    for _ in range(USERS):
        kworker.wait_for_completion(told)
    ssd.close()
    for done in ended:
        kworker.wait_for_completion(done)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("style", ["sync", "pump", "inline", "per-request"])
def test_close_in_random_schedules_refuses_who_comes_too_late(style: str, seed: int) -> None:
    late: list[int] = []

    def main() -> None:
        mode = {"mode": "sync"} if style == "sync" else {"mode": "async", "worker": style}
        ssd = nvme_emu.open(size="1M", clock="virtual", depth=2, **mode)
        ns = ssd.namespaces[1]
        begun = kworker.Completion()
        ended = [kworker.Completion() for _ in range(3)]

        def user(index: int) -> int:
            kworker.complete(begun)
            try:
                for slba in range(20):
                    ns.write(slba, bytes(512))
            except NvmeError as error:
                late.append(error.errno)
            kworker.complete(ended[index])
            return 0

        for index in range(3):
            kworker.kthread_run(user, index, "user%d", index)
        kworker.wait_for_completion(begun)
        ssd.close()
        for done in ended:
            kworker.wait_for_completion(done)

    with kworker.SimRuntime(seed=seed, cpus=2, scheduler="random") as rt:
        rt.run(main)
    assert late


def test_close_on_the_worker_is_refused_and_changes_nothing(make: Make) -> None:
    ssd = make(mode="async")
    ns = ssd.namespaces[1]
    errors: list[BaseException] = []

    def close(_request: nvme_emu.Request) -> None:
        try:
            ssd.driver.shutdown()
        except RuntimeError as error:
            errors.append(error)

    ns.submit_read(0, 1, callback=close).wait()
    ns.flush()
    assert "nvme1" in str(errors[0])
    assert ns.read(0, 1).any() == np.False_


class _Outcome(BaseException):
    """As pytest.fail() raises: no Exception."""


@pytest.mark.parametrize("kind", [ValueError, SystemExit, asyncio.CancelledError, _Outcome])
def test_callback_that_raises_anything_is_reported_and_stops_nothing(
    make: Make, way: dict[str, Any], kind: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[type[BaseException]] = []
    monkeypatch.setattr("sys.unraisablehook", lambda report: reported.append(report.exc_type))
    ns = make(**way).namespaces[1]

    def callback(_request: nvme_emu.Request) -> None:
        raise kind("from a callback")

    for rq in [ns.submit_read(8 * i, 8, callback=callback) for i in range(20)]:
        rq.wait()
    ns.flush()
    assert reported == [kind] * 20


def test_batch_that_finds_no_tag_is_mapped_once(make: Make) -> None:
    ssd = make(mode="sync", depth=2, clock="wall", profile="optane")
    ns = ssd.namespaces[1]
    starts = np.arange(0, 40 * 8, 8)

    def read() -> None:
        for _ in range(5):
            ns.read_many(starts, 8)

    ns.read_many(starts, 8)
    before = len(ssd.memory.regions)
    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ssd.memory.regions) == before


def test_closed_machine_is_kept_by_nobody(clock: str, way: dict[str, Any]) -> None:
    ssd = nvme_emu.open(size="8M", clock=clock, **way)
    ssd.namespaces[1].read_many(np.arange(100), 1)
    ssd.namespaces[1].submit_read(0, 8).wait()
    parts = [weakref.ref(part) for part in (ssd.driver, ssd.controller, ssd.memory)]
    ssd.close()
    del ssd
    gc.collect()

    assert [part() for part in parts] == [None] * len(parts)
