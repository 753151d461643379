"""Recovery on the wall clock, with short time-outs: what ends, not when."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

import nvme_emu
from nvme_emu.driver import CtrlState
from nvme_emu.testing import fault

STYLES = [
    ("sync", "pump"), ("async", "pump"), ("async", "inline"), ("async", "per-request"), ("async", "poll"),
]  # fmt: skip
FAULTS = {
    "drop": fault.when(opcode="read", nth=[3, 9]).drop(),
    "lost completion": fault.when(opcode="read", nth=[3, 9]).completion(cid_xor=0x1000),
    "fatal": fault.when(opcode="read", nth=[3, 9]).fatal(),
    "interrupt": fault.when(on="interrupt", vector=1, nth=[1, 2]).lose_interrupt(),
    "doorbell": fault.when(on="doorbell", doorbell="sq", queue=1, nth=1).lose_doorbell(),
    "status": fault.when(opcode="read", nth=[3, 9]).status("READ_ERROR"),
}


def wall(mode: str, worker: str, **options: Any) -> nvme_emu.Machine:
    return nvme_emu.open(size="8M", mode=mode, worker=worker, io_timeout=0.1, **options)


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize(("mode", "worker"), STYLES)
def test_fault_is_got_over_on_threads(mode: str, worker: str, name: str) -> None:
    with wall(mode, worker, max_retries=50) as ssd:
        ns = ssd.namespaces[1]
        data = np.arange(32 * 4096, dtype=np.uint32).view(np.uint8)[: 32 * 4096].reshape(32, 4096)
        ns.write_many(np.arange(32) * 8, data, 8)
        rule = ssd.faults.add(FAULTS[name])
        requests = [ns.submit_read(lba * 8, 8) for lba in range(32)]
        for lba, request in enumerate(requests):
            assert (request.wait() == data[lba]).all()
        assert rule.fired
        assert (ns.read_many(np.arange(32) * 8, 8) == data).all()
        ssd.driver.recovery.flush()
        assert ssd.driver.state is CtrlState.LIVE


@pytest.mark.parametrize(("mode", "worker"), STYLES)
def test_callers_on_many_threads_survive_resets(mode: str, worker: str) -> None:
    with nvme_emu.open(size="8M", mode=mode, worker=worker) as ssd:
        ns = ssd.namespaces[1]
        failures: list[BaseException] = []
        rounds = [0] * 3
        ended = threading.Event()

        def io(number: int) -> None:
            try:
                while not ended.is_set():
                    rounds[number] += 1
                    data = bytes([rounds[number] & 0xFF]) * 4096
                    ns.write(number * 8, data)
                    assert bytes(ns.read(number * 8, 8)) == data
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=io, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(20):
            ssd.driver.reset()
        ended.set()
        for thread in threads:
            thread.join()
        assert not failures
        assert ssd.driver.recovery.counters.resets == 20
        assert ssd.driver.recovery.counters.timeouts == 0


@pytest.mark.breaks_rules  # a checked machine has no short way
def test_plain_commands_take_the_short_way_again_after_a_reset() -> None:
    with nvme_emu.open(size="8M") as ssd:
        path = ssd.driver.paths[0]
        ssd.driver.reset()
        ssd.namespaces[1].write(0, bytes(512))
        assert path.exchange is not None
        out = np.empty(512, np.uint8)
        assert path.exchange(2, 1, 0, 0, out, 512)


def test_removed_device_ends_waiters_on_threads() -> None:
    with wall("async", "pump") as ssd:
        ns = ssd.namespaces[1]
        ssd.faults.add(fault.manual().remove()).fire()
        request = ns.submit_read(0, 1)
        with pytest.raises(nvme_emu.NvmeError, match="Aborted By Host"):
            request.wait()
    assert ssd.driver.state is CtrlState.DEAD
