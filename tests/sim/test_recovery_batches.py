"""Batches, split requests, CRD, events and explicit resets under faults, in virtual time."""

from __future__ import annotations

import errno
from typing import Any

import numpy as np
import pytest

import kworker
import nvme_emu
from nvme_emu.driver import CtrlState
from nvme_emu.spec.events import AsyncEventType
from nvme_emu.spec.identify import IDENTIFY_CONTROLLER
from nvme_emu.testing import fault

COMMANDS = 64
STYLES = [
    ("sync", "pump"), ("async", "pump"), ("async", "inline"), ("async", "per-request"), ("async", "poll"),
]  # fmt: skip
FAULTS = {
    "status": fault.when(opcode=["write", "read"], every=7).status("WRITE_FAULT"),
    "drop": fault.when(opcode=["write", "read"], nth=[9, 80]).drop(),
    "lost": fault.when(opcode=["write", "read"], nth=[9, 100]).completion(cid_xor=0x1000),
    "fatal": fault.when(opcode=["write", "read"], nth=[30, 120]).fatal(),
    "interrupt": fault.when(on="interrupt", vector=1, nth=1).lose_interrupt(),
}


def virtual(mode: str = "async", worker: str = "pump", **options: Any) -> nvme_emu.Machine:
    return nvme_emu.open(size="4M", clock="virtual", mode=mode, worker=worker, **options)


@pytest.mark.parametrize("scheduler", [None, "random", "pct"])
@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize(("mode", "worker"), STYLES)
def test_batches_have_their_data_after_faults(mode: str, worker: str, name: str, scheduler: str | None) -> None:
    data = np.random.default_rng(5).integers(0, 256, (COMMANDS, 4096), np.uint8)
    slbas = np.arange(COMMANDS, dtype=np.int64)[::-1] * 8
    for seed, depth in ((1, 1024), (2, 9)):
        with virtual(mode, worker, seed=seed, depth=depth, scheduler=scheduler) as ssd:
            rule = ssd.faults.add(FAULTS[name])
            ns = ssd.namespaces[1]
            ns.write_many(slbas, data, 8)
            assert (ns.read_many(slbas, 8) == data).all()
            assert rule.fired
            assert ssd.driver.state is CtrlState.LIVE


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_batch_with_a_command_that_fails_for_good_tells_which(mode: str) -> None:
    with virtual(mode) as ssd:
        ssd.faults.add(fault.when(opcode="read", lba=(80, 80)).status("READ_ERROR"))
        ssd.faults.add(fault.when(opcode="read", lba=(160, 160)).status("WRITE_FAULT", dnr=True))
        with pytest.raises(nvme_emu.NvmeError, match=r"slba 80 .*Unrecovered Read Error"):
            ssd.namespaces[1].read_many(np.arange(COMMANDS) * 8, 8)
        assert ssd.driver.recovery.counters.retries == 5


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_split_request_survives_a_reset_and_calls_back_once(mode: str) -> None:
    with virtual(mode) as ssd:
        ns = ssd.namespaces[1]
        data = bytes(range(256)) * (4 * ns.nlb_max)
        ssd.faults.add(fault.when(opcode=["write", "read"], nth=[2, 4]).fatal())
        ended: list[object] = []
        request = ns.submit_write(0, data, callback=ended.append)
        request.wait()
        again = ns.submit_read(0, len(data) // 512)
        found = again.wait()
        assert found is not None and found.tobytes() == data
        assert ended == [request]
        assert ssd.driver.recovery.counters.resets == 2


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize(("crd", "delay_ms"), [(0, 0), (1, 200), (3, 700)])
def test_command_retry_delay_is_kept(mode: str, crd: int, delay_ms: int) -> None:
    rules = [fault.when(opcode="identify", sqe={"cdw10": 1}).fields(IDENTIFY_CONTROLLER, crdt1=2, crdt2=3, crdt3=7)]
    with virtual(mode, faults=rules) as ssd:
        ssd.faults.add(fault.when(opcode="read", nth=1).status("NS_NOT_READY", crd=crd))
        before_ns = ssd.runtime.now_ns
        ssd.namespaces[1].submit_read(0, 1).wait()
        assert 0 <= ssd.runtime.now_ns - before_ns - delay_ms * 1_000_000 < 1_000_000


@pytest.mark.parametrize(("mode", "worker"), STYLES)
def test_requests_in_flight_go_on_after_an_explicit_reset(mode: str, worker: str) -> None:
    with virtual(mode, worker, profile="tlc") as ssd:
        ns = ssd.namespaces[1]
        ns.write(0, b"\x07" * 4096)
        if mode == "async":
            requests = [ns.submit_read(0, 8) for _ in range(20)]
            ssd.driver.reset()
            assert all(bytes(rq.wait()) == b"\x07" * 4096 for rq in requests)  # type: ignore[arg-type]
        else:
            ssd.driver.reset()
        assert bytes(ns.read(0, 8)) == b"\x07" * 4096
        assert ssd.driver.recovery.counters.resets == 1


def test_dead_controller_refuses_with_enodev_and_closes_quietly() -> None:
    with virtual("async") as ssd:
        ns = ssd.namespaces[1]
        gone = ssd.faults.add(fault.manual().remove())
        gone.fire()
        request = ns.submit_read(0, 1)
        with pytest.raises(nvme_emu.NvmeError) as caught:
            request.wait()
        assert caught.value.errno == errno.EIO
        ssd.driver.recovery.flush()
        assert ssd.driver.state is CtrlState.DEAD
        with pytest.raises(nvme_emu.NvmeError) as caught:
            ns.read(0, 1)
        assert caught.value.errno == errno.ENODEV
        with pytest.raises(nvme_emu.NvmeError):
            ssd.driver.reset()


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("noticed", [True, False])
def test_removed_device_that_is_put_back_is_driven_anew(mode: str, noticed: bool) -> None:
    with virtual(mode) as ssd:
        old = ssd.namespaces[1]
        old.write(0, b"\x05" * 512)
        old.flush()
        ssd.faults.add(fault.manual().remove()).fire()
        if noticed:
            with pytest.raises(nvme_emu.NvmeError):
                old.read(0, 1)
        with pytest.raises(nvme_emu.NvmeError, match="all ones"):
            ssd.replug()
        ssd.faults.come_back()
        ssd.replug()
        assert bytes(ssd.namespaces[1].read(0, 1)) == b"\x05" * 512
        with pytest.raises(nvme_emu.NvmeError):
            old.read(0, 1)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_removed_idle_device_is_noticed_by_close(mode: str) -> None:
    with virtual(mode) as ssd:
        ssd.faults.add(fault.manual().remove()).fire()
    assert ssd.driver.state is CtrlState.DEAD


def test_persistent_error_event_resets_and_smart_events_are_noted() -> None:
    with virtual("async") as ssd:
        hot = ssd.faults.add(fault.manual().temperature(400))
        hot.fire()
        ssd.namespaces[1].read(0, 1)
        ssd.runtime.sleep_ns(1_000_000)
        assert ssd.driver.events.counts == {(AsyncEventType.SMART, 1): 1}
        ssd.controller.events.post(AsyncEventType.ERROR, 3, 1)
        ssd.port.poll()
        ssd.runtime.sleep_ns(50_000_000)
        ssd.driver.recovery.flush()
        assert ssd.driver.recovery.counters.resets == 1
        assert ssd.driver.state is CtrlState.LIVE
        # The next request for an event is out again.
        assert ssd.controller.events.outstanding == 1


@pytest.mark.parametrize("opcode", ["identify", "get_log_page"])
def test_lost_administrative_command_resets_the_controller_and_fails(opcode: str) -> None:
    with virtual("async") as ssd:
        ssd.faults.add(fault.when(opcode=opcode, nth=1).drop())
        with pytest.raises(nvme_emu.NvmeError, match="Aborted By Host"):
            if opcode == "identify":
                ssd.driver.admin.identify(1)
            else:
                ssd.driver.admin.get_log_page(2, 512)
        ssd.driver.recovery.flush()
        assert ssd.driver.state is CtrlState.LIVE
        assert ssd.driver.recovery.counters.timeouts == 1
        ssd.namespaces[1].read(0, 1)


def test_lost_interrupt_of_the_admin_queue_is_polled_for() -> None:
    with virtual("async") as ssd:
        ssd.faults.add(fault.when(on="interrupt", vector=0, nth=1).lose_interrupt())
        ssd.driver.admin.identify(1)
        assert ssd.driver.recovery.counters.polled == 1
        assert ssd.driver.recovery.counters.resets == 0


def test_lost_command_of_the_probe_is_an_error_of_open() -> None:
    with pytest.raises(nvme_emu.NvmeError, match="timed out while connecting") as caught:
        virtual("async", faults=[fault.when(opcode="identify", nth=1).drop()])
    assert caught.value.errno == errno.ETIMEDOUT


@pytest.mark.parametrize(("mode", "worker"), STYLES)
def test_idle_simulation_still_tells_of_a_deadlock(mode: str, worker: str) -> None:
    with virtual(mode, worker, profile="tlc") as ssd:
        ssd.namespaces[1].submit_read(0, 1).wait()
        with pytest.raises(kworker.SimDeadlock):
            kworker.Completion(runtime=ssd.runtime, name="nobody").wait()


def test_time_out_is_the_configured_one_and_retries_may_be_none() -> None:
    with virtual("async", io_timeout=2.0, max_retries=0) as ssd:
        ssd.faults.add(fault.when(opcode="read", nth=1).drop())
        before_ns = ssd.runtime.now_ns
        with pytest.raises(nvme_emu.NvmeError, match="Command Abort Requested"):
            ssd.namespaces[1].submit_read(0, 1).wait()
        assert 2.0e9 <= ssd.runtime.now_ns - before_ns <= 2.3e9
        assert "aborting" in ssd.driver.recovery.log[0]


@pytest.mark.parametrize(("field", "value"), [("io_timeout", 0), ("admin_timeout", -1.0), ("max_retries", -1)])
def test_bad_configuration_is_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        virtual(**{field: value})
