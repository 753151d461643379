"""Faults through a whole machine: both modes, both clocks, live control, waiting, determinism."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nvme_emu
from nvme_emu.controller.dispatch import run_turn
from nvme_emu.core.faults import FaultError, FaultFileError
from nvme_emu.core.trace import FaultFired, as_record
from nvme_emu.spec.status import DNR, MORE, Status
from nvme_emu.testing import fault

Make = Callable[..., nvme_emu.Machine]

WAYS = [("sync", "wall"), ("sync", "virtual"), ("async", "wall"), ("async", "virtual")]


@pytest.fixture(params=WAYS, ids=["-".join(way) for way in WAYS])
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    mode, clock = request.param
    machines: list[nvme_emu.Machine] = []

    def opened(**options: Any) -> nvme_emu.Machine:
        machine = nvme_emu.open(**{"size": "8M", "mode": mode, "clock": clock, "seed": 1, **options})
        machines.append(machine)
        return machine

    yield opened
    for machine in machines:
        machine.close()


def virtual(**options: Any) -> nvme_emu.Machine:
    return nvme_emu.open(**{"size": "8M", "clock": "virtual", "seed": 1, **options})


def test_third_read_fails_with_the_rules_status(make: Make) -> None:
    ssd = make()
    handle = ssd.faults.add(
        fault.when(opcode="read", lba=(0, 100), nth=3).status("Unrecovered Read Error", dnr=True)
    )
    ns = ssd.namespaces[1]
    ns.read(0, 1)
    ns.read(200, 1)
    ns.read(100, 1)
    with pytest.raises(nvme_emu.NvmeError) as failed:
        ns.read(50, 1)
    assert failed.value.status == Status.READ_ERROR | DNR | MORE
    ns.read(0, 1)
    (event,) = handle.firings
    assert (event.rule, event.effects, event.sqid, event.opcode, event.slba) == ("fault1", "status", 1, 2, 50)
    assert (handle.hits, handle.fired) == (3, 1)


def test_rules_in_the_configuration_hold_from_before_the_probe(make: Make, tmp_path: Path) -> None:
    file = tmp_path / "cap.toml"
    rule = 'id = "cap"\nmatch = { register = "CAP" }\nthen.register = { mask = 0xffff, value = 7 }\n'
    file.write_text("[[rules]]\n" + rule)
    ssd = make(faults=file)
    assert ssd.driver.paths[0].pair.depth == 8
    assert ssd.faults["cap"].fired >= 1
    assert [rule.id for rule in ssd.config.faults] == ["cap"]
    ssd.namespaces[1].write(0, bytes(512))


def test_wrong_rules_are_refused_before_anything_is_made(tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text('[[rules]]\nmatch = { opcode = "raed" }\nthen.drop = {}\n')
    with pytest.raises(FaultFileError, match=r"bad\.toml:2: rule 1 match\.opcode: 'raed' is no command"):
        nvme_emu.MachineConfig(faults=file)
    with pytest.raises(FaultError, match="NVMe/TCP"), virtual() as ssd:
        ssd.faults.add(fault.when(opcode="read").tcp("disconnect"))


def test_wait_returns_when_the_rule_has_fired(make: Make) -> None:
    ssd = make(profile="tlc")
    handle = ssd.faults.add(fault.when(opcode="write").delay(1).named("writes"))
    ns = ssd.namespaces[1]
    requests = [ns.submit_write(lba, bytes(512)) for lba in range(5)]
    assert len(ssd.faults.wait("writes", 5)) == 5
    assert handle.wait(3)[0].rule == "writes"
    for request in requests:
        request.wait(10)


def test_wait_that_nothing_ends_is_a_timeout(make: Make) -> None:
    ssd = make()
    handle = ssd.faults.add(fault.when(opcode="flush").delay(1))
    ssd.namespaces[1].flush()
    with pytest.raises(TimeoutError, match=r"fault rule fault1 fired 1 of 2 times in 0\.01 s"):
        handle.wait(2, timeout_s=0.01)
    with pytest.raises(KeyError):
        ssd.faults.wait("nobody")


def test_wait_in_virtual_time_jumps_to_the_firing() -> None:
    with virtual() as ssd:
        begun = ssd.runtime.now_ns
        handle = ssd.faults.add(fault.at("3s").temperature(300))
        (event,) = handle.wait(timeout_s=10)
        assert event.ts_ns - begun == 3_000_000_000
        assert ssd.controller.temperature_k == 300


def test_wait_on_threads_is_woken_by_another_thread() -> None:
    with nvme_emu.open(size="8M") as ssd:
        handle = ssd.faults.add(fault.when(opcode="read", nth=2).delay("1us"))
        ns = ssd.namespaces[1]
        reader = threading.Thread(target=lambda: [ns.read(0, 1) for _ in range(2)])
        reader.start()
        assert len(handle.wait(1, timeout_s=20)) == 1
        reader.join()


def test_arm_disarm_remove_while_io_goes_on(make: Make) -> None:
    ssd = make()
    ns = ssd.namespaces[1]
    handle = ssd.faults.add(fault.when(opcode="read").status("INTERNAL", dnr=True).disarmed())
    ns.read(0, 1)
    assert (handle.armed, handle.hits) == (False, 0)
    handle.arm()
    with pytest.raises(nvme_emu.NvmeError):
        ns.read(0, 1)
    handle.disarm()
    ns.read(0, 1)
    handle.arm()
    handle.remove()
    handle.remove()
    ns.read(0, 1)
    assert len(ssd.faults) == 0
    assert "fired 1 times" in repr(handle)


def test_machine_without_armed_rules_goes_its_own_way(make: Make) -> None:
    ssd = make()
    own = set(vars(ssd.controller))
    assert ssd.controller.run_turn is run_turn
    ssd.faults.add(fault.when(opcode="read", times=1).delay("1us"))
    assert ssd.controller.run_turn is not run_turn
    ssd.namespaces[1].read(0, 1)
    ssd.namespaces[1].read(0, 1)
    assert ssd.controller.run_turn is run_turn
    assert set(vars(ssd.controller)) - own <= {"faults"}


def test_firings_are_trace_events(make: Make) -> None:
    ssd = make()
    seen: list[Any] = []
    ssd.trace.add_sink(seen.append)
    ssd.faults.add(fault.when(opcode="write").flip_bits(2, at_bit=7).named("flip"))
    ssd.namespaces[1].write(9, bytes(512))
    (event,) = [one for one in seen if isinstance(one, FaultFired)]
    record = as_record(event)
    found = [record[key] for key in ("event", "rule", "slba", "detail")]
    assert found == ["fault_fired", "flip", 9, "bits 7, 8"]


def test_duplicate_reaches_the_driver_as_a_stray(make: Make) -> None:
    ssd = make()
    ssd.faults.add(fault.when(opcode="read", nth=1).duplicate())
    ns = ssd.namespaces[1]
    ns.write(0, b"\1" * 512)
    assert bytes(ns.read(0, 1)) == b"\1" * 512
    assert bytes(ns.read(0, 1)) == b"\1" * 512
    assert ssd.driver.strays == 1


def test_lost_then_healed_blocks_through_the_driver(make: Make) -> None:
    ssd = make()
    ns = ssd.namespaces[1]
    ssd.faults.add(fault.when(lba=(8, 15)).media_error(dnr=True))
    with pytest.raises(nvme_emu.NvmeError):
        ns.read(0, 16)
    ns.write(8, b"\2" * 4096)
    assert bytes(ns.read(0, 16)) == bytes(4096) + b"\2" * 4096


def test_delay_is_exact_in_virtual_time_and_holds_up_nobody() -> None:
    with virtual(mode="async") as ssd:
        ns = ssd.namespaces[1]
        ssd.faults.add(fault.when(opcode="read", nth=1).delay("5ms"))
        slow = ns.submit_read(0, 1)
        quick = ns.submit_read(1, 1)
        quick.wait()
        assert not slow.done
        slow.wait()
        posted = ssd.runtime.now_ns - ssd.faults.firings[0].ts_ns
        assert 5_000_000 <= posted < 5_100_000


def gaits(seed: int, columns: bool) -> list[tuple[str, int, str]]:
    with virtual(mode="async", seed=seed) as ssd:
        ns = ssd.namespaces[1]
        ssd.faults.add(fault.when(opcode="write", probability=0.1).flip_bits().named("flip"))
        ssd.faults.add(fault.when(opcode="write", ppm=50_000).delay(10).named("slow"))
        slbas = np.arange(200) * 8
        data = np.zeros((200, 4096), np.uint8)
        if columns:
            ns.write_many(slbas, data, 8)
        else:
            for slba in slbas.tolist():
                ns.write(slba, bytes(4096))
        return [(one.rule, one.slba, one.detail) for one in ssd.faults.firings]


def test_same_seed_fires_at_the_same_commands_on_both_gaits() -> None:
    one = gaits(3, True)
    assert one == gaits(3, False)
    assert one != gaits(4, True)
    assert sum(rule == "slow" for rule, _, _ in one) == 10
    assert 5 < sum(rule == "flip" for rule, _, _ in one) < 40


def test_two_runs_of_one_seed_are_the_same_to_the_nanosecond() -> None:
    def run() -> list[FaultFired]:
        with virtual(mode="async", profile="tlc", seed=9) as ssd:
            ssd.faults.add(fault.when(probability=0.2, admin=False).delay(100, jitter="50us").duplicate())
            requests = [ssd.namespaces[1].submit_read(lba, 1) for lba in range(100)]
            for request in requests:
                request.wait()
            return ssd.faults.firings

    assert run() == run() != []


def test_pause_holds_io_up_and_lets_it_go(make: Make) -> None:
    ssd = make()
    ns = ssd.namespaces[1]
    handle = ssd.faults.add(fault.manual().pause("2ms"))
    handle.fire()
    ns.read(0, 1)
    assert ssd.runtime.now_ns - handle.firings[0].ts_ns >= 2_000_000


def test_removed_device_can_be_seen_and_put_back() -> None:
    with virtual() as ssd:
        handle = ssd.faults.add(fault.manual().remove())
        assert not ssd.faults.off
        handle.fire()
        assert ssd.faults.off
        assert ssd.port.read32(0x1C) == 0xFFFF_FFFF
        ssd.faults.come_back()
        ssd.faults.come_back()
        assert (ssd.faults.off, ssd.port.read32(0x1C)) == (False, 0)
        # The driver, which knows nothing of it yet, has nobody to shut down any more.
        ssd.driver._fail()


def test_ready_that_never_comes_is_an_error_of_open_in_bounded_time() -> None:
    with pytest.raises(nvme_emu.NvmeError, match="did not become ready"):
        virtual(faults=[fault.on_enable().never()])


def test_snapshot_and_load_of_live_rules() -> None:
    with virtual() as ssd:
        table = {"match": {"on": "manual"}, "then": {"cfs": {}}}
        first, second = ssd.faults.load([fault.when(opcode="read").drop(), table])
        assert [one["id"] for one in ssd.faults.snapshot()] == ["fault1", "fault2"]
        assert ssd.faults.snapshot()[0] == {
            "id": "fault1", "armed": True, "hits": 0, "fired": 0,
            "match": {"opcode": "read"}, "then": {"drop": {}},
        }  # fmt: skip
        assert [handle.id for handle in ssd.faults] == [first.id, second.id]
        with pytest.raises(FaultError, match="'fault1' names two rules"):
            ssd.faults.add(fault.manual().fatal().named("fault1"))
        with pytest.raises(FaultError, match="drop needs something"):
            first.fire()
        ssd.faults.clear()
        assert ssd.faults.snapshot() == []


def test_rules_come_and_go_on_threads_while_others_do_io() -> None:
    with nvme_emu.open(size="8M", mode="async") as ssd:
        ns = ssd.namespaces[1]
        failures: list[BaseException] = []
        ended = threading.Event()

        def io() -> None:
            try:
                while not ended.is_set():
                    ns.write(0, b"\3" * 4096)
                    assert bytes(ns.read(0, 8)) == b"\3" * 4096
            except BaseException as error:
                failures.append(error)

        worker = threading.Thread(target=io)
        worker.start()
        for number in range(100):
            handle = ssd.faults.add(fault.when(opcode="read", every=2).delay("20us").reorder(hold="30us"))
            if number % 10 == 0:
                handle.wait(2, timeout_s=20)
            handle.remove()
        ended.set()
        worker.join()
        assert not failures
