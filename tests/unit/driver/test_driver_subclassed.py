"""A driver that somebody has subclassed: no short cut passes over what it does otherwise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import nvme_emu
from nvme_emu.driver import NvmeDriver
from nvme_emu.driver.queue_pair import QueuePair
from nvme_emu.driver.submit import SyncPath

reaped: list[int] = []


class CountingPair(QueuePair):
    def reap(self, *args: Any, **kwargs: Any) -> Any:
        reaped.append(self.qid)
        return super().reap(*args, **kwargs)


class CountingPath(SyncPath):
    def interrupt(self) -> None:
        reaped.append(self.pair.qid)
        super().interrupt()


class PairDriver(NvmeDriver):
    def _make_path(self, pair: Any, kind: str) -> Any:
        pair.__class__ = CountingPair
        return super()._make_path(pair, kind)


class PathDriver(NvmeDriver):
    def _make_path(self, pair: Any, kind: str) -> Any:
        path: Any = super()._make_path(pair, kind)
        path.__class__ = CountingPath
        return path


def _use(namespace: Any) -> None:
    namespace.write(0, bytes(4096))
    namespace.read(0, 8)
    namespace.read_many(np.arange(4))
    namespace.submit_read(0, 1).wait()


@pytest.mark.parametrize(
    ("mode", "worker"),
    [("sync", "pump"), ("async", "pump"), ("async", "inline"), ("async", "poll"), ("async", "per-request")],
)
def test_pair_that_reaps_otherwise_reaps_every_command(mode: str, worker: str) -> None:
    with nvme_emu.open(size="1M", mode=mode, worker=worker, driver_class=PairDriver) as ssd:
        reaped.clear()
        _use(ssd.namespaces[1])
    assert len(reaped) >= 4


def test_path_that_is_interrupted_otherwise_is_interrupted() -> None:
    with nvme_emu.open(size="1M", driver_class=PathDriver) as ssd:
        reaped.clear()
        _use(ssd.namespaces[1])
    assert len(reaped) >= 4
