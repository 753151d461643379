"""A CheckError leaves nothing behind: no lock held after a doorbell, no worker after the shutdown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import nvme_emu
from nvme_emu.observe.checker import CheckError


def batch(ns: Any) -> None:
    ns.read_many([0, 8, 16], nlb=1)


def one(ns: Any) -> None:
    ns.write(0, bytes(512))


def several(ns: Any) -> None:
    ns.write(0, bytes(64 * 512))


@pytest.mark.parametrize("clock", ["virtual", "wall"])
@pytest.mark.parametrize("call", [one, several, batch])
def test_doorbell_that_raises_leaves_no_lock(clock: str, call: Callable[[Any], None]) -> None:
    with nvme_emu.open(size="1M", clock=clock, check="error") as ssd:
        port, real = ssd.port, {name: getattr(ssd.port, name) for name in ("ring_sq", "ring_sq_polled")}

        def after(name: str) -> Callable[..., Any]:
            def ring(*args: Any) -> Any:
                result = real[name](*args)
                # Not at the admin queue's: the event about the wrong doorbell has a worker read a log page, perhaps
                # while this is still in place.
                if args[0]:
                    port.ring_cq(1, 500)
                return result

            return ring

        vars(port).update({name: after(name) for name in real})
        with pytest.raises(CheckError, match="cq-head"):
            call(ssd.namespaces[1])
        vars(port).update(real)
        one(ssd.namespaces[1])


@pytest.mark.parametrize("clock", ["virtual", "wall"])
@pytest.mark.parametrize("worker", [None, "inline", "pump"])
def test_close_after_a_command_that_raised_waits_for_nothing(clock: str, worker: str | None) -> None:
    options = {"mode": "sync"} if worker is None else {"mode": "async", "worker": worker}
    ssd = nvme_emu.open(size="8M", zoned="zone_size=4M", clock=clock, check="error", **options)
    started_ns = ssd.runtime.now_ns
    with pytest.raises(CheckError):
        try:
            ssd.namespaces[1].write(100, bytes(512))  # not at the write pointer
        finally:
            ssd.close()
    assert ssd.driver.state.value == "dead"
    assert ssd.runtime.now_ns - started_ns < 20_000_000_000


@pytest.mark.parametrize("clock", ["virtual", "wall"])
def test_shutdown_comes_to_its_end_before_the_checker_speaks(clock: str) -> None:
    ssd = nvme_emu.open(size="1M", mode="async", clock=clock, check="error")
    workers = list(ssd.workers)
    assert workers
    real = ssd.driver.is_lost

    def wrong() -> bool:
        ssd.port.ring_cq(1, 500)
        return real()

    ssd.driver.is_lost = wrong  # type: ignore[method-assign]
    with pytest.raises(CheckError, match="cq-head"):
        ssd.close()
    assert ssd.driver.state.value == "dead"
    assert ssd.workers == []
    assert all(worker.stopped for worker in workers)
