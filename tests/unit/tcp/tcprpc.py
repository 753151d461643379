"""`serve --tcp --rpc` in a process of its own, a client of its socket, and ways to come as a host."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from linux_guest_lib.server import Server, free_port

import nvme_emu
from nvme_emu.driver.fabrics import FabricsHost
from nvme_emu.observe.rpc import RpcClient
from nvme_emu.observe.state import MachineState, from_json

NQN = "nqn.2024-01.org.example:watched"


class RemoteServed:
    """A server, a client of its socket, and a way to come as a host."""

    def __init__(self, port: int, socket: str, client: RpcClient) -> None:
        self.port, self.socket, self.client = port, socket, client

    def host(self, name: str = "a", **options: Any) -> Any:
        identity = FabricsHost(nqn=f"nqn.2024-01.org.example:host-{name}")
        return nvme_emu.open(f"nvme-tcp://127.0.0.1:{self.port}/{NQN}", identity=identity, **options)

    def state(self) -> MachineState:
        return from_json(MachineState, self.client.call("state.get"))

    def hosts(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.client.call("hosts.list")
        return found


@pytest.fixture
def served(tmp_path: Path) -> Iterator[RemoteServed]:
    path, port = str(tmp_path / "rpc.sock"), free_port()
    options = ("--size", "16M", "--nqn", NQN, "--rpc", path)
    with Server(*options, devices=0, ports=[port]) as server:
        eventually(lambda: _listens(path))
        with RpcClient(path) as client:
            yield RemoteServed(port, path, client)
        assert server.stop() == 0, server.log


def _listens(path: str) -> bool:
    """Whether somebody does: a socket's file is there a moment earlier."""
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(path) == 0


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)
