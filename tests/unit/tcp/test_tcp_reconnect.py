"""Our host over TCP when its connections end: it connects again and loses nothing, or gives the controller up."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tcphelpers import Served

import nvme_emu
from nvme_emu.core.trace import NvmeSetupCmd
from nvme_emu.driver import CtrlState
from nvme_emu.driver.fabrics import FabricsHost
from nvme_emu.spec.opcodes import AdminOpcode

STYLES = [("sync", "pump"), ("async", "pump"), ("async", "per-request")]


def cut(served: Served) -> None:
    """End every connection, as a target that restarts does."""
    served.call(lambda: [one.end("test") for one in tuple(served.target.associations.values())])


def take_away(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Close the target's socket and connections; the fixture then finds nothing to close."""
    served.call(served.server.close)
    monkeypatch.setattr(type(served.server), "close", lambda _server: None)


@pytest.mark.parametrize(("mode", "worker"), STYLES)
def test_callers_survive_connections_that_end(serve: Callable[..., Served], mode: str, worker: str) -> None:
    served = serve()
    with nvme_emu.open(served.url, mode=mode, worker=worker, queues=2, reconnect_delay=0.01, max_retries=50) as ssd:
        ns = ssd.namespaces[1]
        failures: list[BaseException] = []
        rounds = [0, 0]
        passed = threading.Semaphore(0)
        ended = threading.Event()

        def io(number: int) -> None:
            try:
                while not ended.is_set():
                    rounds[number] += 1
                    data = bytes([rounds[number] & 0xFF]) * 4096
                    ns.write(number * 8, data)
                    assert bytes(ns.read(number * 8, 8)) == data
                    passed.release()
            except BaseException as error:
                failures.append(error)
                passed.release()

        threads = [threading.Thread(target=io, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        for _ in range(5):
            for _ in range(4):
                passed.acquire()
            cut(served)
        ended.set()
        for thread in threads:
            thread.join()
        assert not failures
        ssd.driver.recovery.flush()
        assert ssd.driver.state is CtrlState.LIVE
        assert ssd.driver.recovery.counters.resets >= 1


@pytest.mark.parametrize(("mode", "worker"), STYLES)
def test_batches_and_an_explicit_reset(serve: Callable[..., Served], mode: str, worker: str) -> None:
    served = serve()
    data = np.arange(64 * 512, dtype=np.uint32).view(np.uint8)[: 64 * 512].reshape(64, 512)
    with nvme_emu.open(served.url, mode=mode, worker=worker) as ssd:
        ns = ssd.namespaces[1]
        ns.write_many(np.arange(64), data)
        for _ in range(3):
            ssd.driver.reset()
            assert (ns.read_many(np.arange(64)) == data).all()
        assert ssd.driver.recovery.counters.resets == 3


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_target_that_stays_away_is_given_up(
    serve: Callable[..., Served], mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = serve()
    with nvme_emu.open(served.url, mode=mode, reconnect_delay=0.02, ctrl_loss_tmo=0.1) as ssd:
        ns = ssd.namespaces[1]
        ns.read(0, 1)
        take_away(served, monkeypatch)
        with pytest.raises(nvme_emu.NvmeError) as caught:
            ns.read(0, 1)
        assert caught.value.errno in (errno.EIO, errno.ENODEV)
        ssd.driver.recovery.flush()
        assert ssd.driver.state is CtrlState.DEAD
        with pytest.raises(nvme_emu.NvmeError, match="open it again"):
            ssd.replug()
        assert any("Reconnecting in 0.02 seconds" in line for line in ssd.driver.recovery.log)


def test_close_does_not_wait_for_a_target_that_is_away(
    serve: Callable[..., Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    served = serve()
    ssd = nvme_emu.open(served.url, mode="async", reconnect_delay=1000.0, ctrl_loss_tmo=10_000.0)
    take_away(served, monkeypatch)
    request = ssd.namespaces[1].submit_read(0, 1)
    closer = threading.Thread(target=ssd.close)
    closer.start()
    with pytest.raises(nvme_emu.NvmeError):
        request.wait()
    closer.join()
    assert ssd.driver.state is CtrlState.DEAD


def test_keep_alive_is_sent_while_nothing_else_happens(serve: Callable[..., Served]) -> None:
    served = serve()
    seen = threading.Semaphore(0)

    def sink(event: Any) -> None:
        if isinstance(event, NvmeSetupCmd) and event.qid == 0 and event.opcode == AdminOpcode.KEEP_ALIVE:
            seen.release()

    with nvme_emu.open(served.url, identity=FabricsHost(kato_ms=200), reconnect_delay=0.01) as ssd:
        ssd.trace.add_sink(sink)
        for _ in range(3):
            assert seen.acquire(timeout=60)
        ssd.namespaces[1].read(0, 1)
