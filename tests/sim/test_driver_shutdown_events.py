"""Asynchronous events that come as the driver shuts down: they are handled or dropped, and nobody waits for ever."""

from __future__ import annotations

import pytest

import nvme_emu


@pytest.mark.breaks_rules  # a wild doorbell
@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("scheduler", ["random", "pct"])
def test_event_just_before_shutdown_leaves_nobody_waiting(scheduler: str, seed: int) -> None:
    ssd = nvme_emu.open(size="1M", clock="virtual", scheduler=scheduler, seed=seed)
    heard: list[int] = []
    ssd.driver.on_aen = heard.append
    # A wild doorbell: the controller reports it, and the driver reads the error log.
    ssd.port.ring_sq(9, 1)
    ssd.namespaces[1].read(0, 1)
    ssd.close()
    assert len(heard) <= 1
