"""Machines for the driver's tests: both modes and worker styles, on both clocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import nvme_emu

WAYS = [
    pytest.param({"mode": "sync"}, id="sync"),
    pytest.param({"mode": "async", "worker": "pump"}, id="pump"),
    pytest.param({"mode": "async", "worker": "per-request"}, id="per-request"),
    pytest.param({"mode": "async", "worker": "inline"}, id="inline"),
    pytest.param({"mode": "async", "worker": "poll", "poll_ns": 5_000}, id="poll"),
]
CLOCKS = ["wall", "virtual"]


@pytest.fixture(params=CLOCKS)
def clock(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> dict[str, Any]:
    return dict(request.param)


@pytest.fixture
def make(clock: str) -> Iterator[Callable[..., nvme_emu.Machine]]:
    """make(**options) opens a small machine on the clock under test; it is closed after the test."""
    machines: list[nvme_emu.Machine] = []

    def opened(**options: Any) -> nvme_emu.Machine:
        machine = nvme_emu.open(**{"size": "8M", "clock": clock, "seed": 1, "poison": True, **options})
        machines.append(machine)
        return machine

    yield opened
    for machine in machines:
        machine.close()


@pytest.fixture
def ssd(make: Callable[..., nvme_emu.Machine], way: dict[str, Any]) -> nvme_emu.Machine:
    return make(**way)
