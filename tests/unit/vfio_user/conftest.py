"""One device at a socket, and the promise that nothing of it is left when the test ends."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from vfioclient import Client, Rig, open_fds

from nvme_emu.transports.loop import Loop


@pytest.fixture
def shared_loop() -> Iterator[Loop]:
    """A loop for several rigs; ask for it before `make_rig`."""
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture
def make_rig(tmp_path: Path) -> Iterator[Callable[..., Rig]]:
    """Makes rigs; when the test ends they are closed and no descriptor is left open."""
    gc.collect()
    before = open_fds()
    rigs: list[Rig] = []

    def make(**options: Any) -> Rig:
        rig = Rig(tmp_path, name=f"ssd{len(rigs)}", **options)
        rigs.append(rig)
        return rig

    yield make
    for rig in reversed(rigs):
        rig.close()
    rigs.clear()
    gc.collect()
    assert open_fds() == before, "descriptors were left open"


@pytest.fixture
def rig(make_rig: Callable[..., Rig]) -> Rig:
    """A device whose doorbells are messages."""
    return make_rig()


@pytest.fixture
def client(rig: Rig) -> Client:
    """A client of it that has agreed on the version."""
    return rig.client()
