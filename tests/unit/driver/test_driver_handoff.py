"""The two styles that avoid waking the worker: who runs what, and that nothing is lost."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import nvme_emu
from nvme_emu.driver.config import DriverConfig


@pytest.mark.parametrize("worker", ["inline", "poll"])
@pytest.mark.parametrize("clock", ["wall", "virtual"])
@pytest.mark.parametrize("profile", ["instant", "optane"])
def test_style_moves_the_right_bytes(worker: str, clock: str, profile: str) -> None:
    with nvme_emu.open(size="1M", mode="async", worker=worker, clock=clock, profile=profile, depth=4) as ssd:
        ns = ssd.namespaces[1]
        data = np.random.default_rng(1).integers(0, 256, 1 << 19, np.uint8)
        ns.write(0, data)
        assert (ns.read(0, 1024) == data).all()
        requests = [ns.submit_read(slba, 8) for slba in range(0, 320, 8)]
        assert all(
            (rq.wait() == data[n * 4096 : (n + 1) * 4096]).all() for n, rq in enumerate(requests)
        )
        assert (ns.read_many(np.arange(100), 1).reshape(-1) == data[:51200]).all()


def test_inline_request_on_an_idle_queue_is_done_when_it_is_submitted() -> None:
    with nvme_emu.open(size="1M", mode="async", worker="inline") as ssd:
        threads: list[int] = []
        rq = ssd.namespaces[1].submit_read(0, 8, callback=lambda _rq: threads.append(threading.get_ident()))
        assert rq.done
        assert threads == [threading.get_ident()]


def test_inline_request_behind_another_goes_to_the_worker() -> None:
    with nvme_emu.open(size="1M", mode="async", worker="inline", profile="optane", clock="virtual") as ssd:
        ns = ssd.namespaces[1]
        requests = [ns.submit_read(0, 8) for _ in range(3)]
        path = ssd.driver.paths[0]
        assert path.pair.outstanding == 1
        assert path.requests  # type: ignore[attr-defined]
        for rq in requests:
            rq.wait()


def test_inline_callers_and_worker_do_not_disturb_one_another() -> None:
    with nvme_emu.open(size="1M", mode="async", worker="inline", depth=3) as ssd:
        ns = ssd.namespaces[1]
        blocks = {n: bytes([n]) * 4096 for n in range(4)}
        for n, block in blocks.items():
            ns.write(n * 8, block)
        wrong: list[int] = []

        def caller(n: int) -> None:
            for turn in range(150):
                requests = [ns.submit_read(n * 8, 8) for _ in range(1 + turn % 3)]
                if any(rq.wait().tobytes() != blocks[n] for rq in requests):  # type: ignore[union-attr]
                    wrong.append(n)

        threads = [threading.Thread(target=caller, args=(n,)) for n in blocks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert ssd.driver.strays == 0


def test_polling_caller_and_worker_do_not_sleep_between_requests() -> None:
    switches = {}
    for worker in ("pump", "poll"):
        with nvme_emu.open(size="1M", mode="async", worker=worker, clock="virtual", cpus=4) as ssd:
            task = ssd.workers[0].task
            assert task is not None
            before = task.nvcsw
            for _ in range(20):
                ssd.namespaces[1].read(0, 8)
            switches[worker] = task.nvcsw - before
    assert switches["pump"] >= 20
    assert switches["poll"] <= 2


def test_poll_of_nothing_sleeps_in_the_end() -> None:
    with nvme_emu.open(size="1M", mode="async", worker="poll", poll_ns=0, clock="virtual") as ssd:
        assert ssd.namespaces[1].read(0, 8).tobytes() == bytes(4096)


@pytest.mark.parametrize("change", [{"worker": "eager"}, {"poll_ns": -1}, {"poll_ns": 10**12}])
def test_wrong_style_or_time_is_refused(change: dict[str, object]) -> None:
    (value,) = change.values()
    with pytest.raises(ValueError, match=str(value)):
        DriverConfig(mode="async", **change)  # type: ignore[arg-type]
