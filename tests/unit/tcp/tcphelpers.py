"""A target behind a real socket, served by a thread, and the promise that nothing of it is left."""

from __future__ import annotations

import contextlib
import gc
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import pytest
from tcphost import NQN, make_target

from nvme_emu.controller.fabrics import FabricsTarget
from nvme_emu.observe.checker import FabricsChecker
from nvme_emu.transports.loop import Loop
from nvme_emu.transports.tcp import TcpServer, TcpServerConfig


def open_fds() -> list[str]:
    """What descriptors refer to; kworker keeps an eventfd a thread for the next sleep."""
    gc.collect()
    targets = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            targets.append(os.readlink(f"/proc/self/fd/{fd}"))
    return sorted(target.split(":")[0] for target in targets if "eventfd" not in target)


@dataclass
class Served:
    """A served target; everything that touches it goes through `call`."""

    target: FabricsTarget
    loop: Loop
    server: TcpServer
    log: list[str] = field(default_factory=list)

    @property
    def port(self) -> int:
        return self.server.address[1]

    @property
    def url(self) -> str:
        return f"nvme-tcp://127.0.0.1:{self.port}/{NQN}"

    def call(self, fn: Callable[[], Any]) -> Any:
        """Have the loop's thread do it, and wait for the result."""
        future: Future[Any] = Future()
        self.loop.call_soon(lambda: future.set_result(fn()))
        return future.result(10)


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    """serve(target=None, **TcpServerConfig fields) -> Served; ended and audited after the test.

    With NVME_EMU_CHECK in the environment hosts are under the checker, unless the test says that it breaks rules.
    """
    before = open_fds()
    running: list[tuple[Served, threading.Thread]] = []
    checkers: list[FabricsChecker] = []
    checked = os.environ.get("NVME_EMU_CHECK", "off") != "off"

    def start(target: FabricsTarget | None = None, **config: Any) -> Served:
        loop = Loop()
        target = target or make_target(size=8 << 20)
        if checked:
            checkers.append(FabricsChecker(target).attach())
        log: list[str] = []
        server = TcpServer(loop, target, TcpServerConfig(port=0, **config), log=log.append)
        served = Served(target, loop, server, log)
        thread = threading.Thread(target=loop.run)
        thread.start()
        running.append((served, thread))
        return served

    yield start
    for checker in checkers:
        checker.host_is_there = True
    for served, thread in running:
        served.loop.stop()
        thread.join(10)
        served.server.close()
        served.loop.close()
        assert not served.server.connections
        assert served.server.internal_error is None, served.server.internal_error
        for association in served.target.associations.values():
            assert association.controller.internal_error is None
    assert open_fds() == before
    for checker in checkers:
        checker.raise_new()
