"""A machine on threads, one on the virtual clock, and a socket."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import nvme_emu
from nvme_emu.observe.rpc import RpcClient, serve_rpc, watch


@pytest.fixture
def ssd() -> Iterator[Any]:
    """An asynchronous machine on threads."""
    with nvme_emu.open(size="16M", mode="async", depth=64) as machine:
        yield machine


@pytest.fixture
def simulated() -> Iterator[Any]:
    """The same on the virtual clock, with a device that takes its time."""
    with nvme_emu.open(size="16M", mode="async", clock="virtual", profile="tlc", depth=64, seed=3) as machine:
        yield machine


@pytest.fixture
def socket_path(tmp_path: Path) -> str:
    return str(tmp_path / "rpc.sock")


@pytest.fixture
def client(ssd: Any, socket_path: str) -> Iterator[RpcClient]:
    """A connection to the machine `ssd`."""
    with serve_rpc(watch(ssd), socket_path), RpcClient(socket_path) as connected:
        yield connected
