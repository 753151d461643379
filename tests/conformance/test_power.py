"""Power states, autonomous transitions, temperatures and their thresholds, over every transport."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from nvmehost import QUICK, TRANSPORTS, NvmeHost, connected

from nvme_emu.controller.power_states import CLIENT_POWER_STATES, PowerState
from nvme_emu.spec.feature_data import APST_ENTRY, APST_TABLE
from nvme_emu.spec.features import (
    ASYNC_EVENT_CONFIG,
    HOST_THERMAL_MANAGEMENT,
    POWER_MANAGEMENT,
    TEMPERATURE_THRESHOLD,
    Fid,
)
from nvme_emu.spec.identify import CTRATT, IDENTIFY_CONTROLLER, POWER_STATE_FLAGS, Cns
from nvme_emu.spec.logs import CRITICAL_WARNING, SMART_HEALTH, Lid
from nvme_emu.spec.opcodes import NvmOpcode
from nvme_emu.spec.status import Status

MS, US = 1_000_000, 1000
CONFIG = replace(QUICK, power_states=CLIENT_POWER_STATES, temperature_sensors=2)
EXIT_NS = 1500 * US


@pytest.fixture(params=TRANSPORTS)
def client(request: pytest.FixtureRequest) -> Iterator[NvmeHost]:
    """A device with power states 0 to 4, of which 3 and 4 do no I/O, and two temperature sensors."""
    with connected(request.param, CONFIG) as one:
        yield one


def power_state(host: NvmeHost) -> int:
    return int(POWER_MANAGEMENT["ps"].extract(host.feature(Fid.POWER_MANAGEMENT).dw0))


def go(host: NvmeHost, state: int, hint: int = 0) -> int:
    return host.set_feature(Fid.POWER_MANAGEMENT, POWER_MANAGEMENT.pack(ps=state, wh=hint)).status


def read(host: NvmeHost) -> bytes:
    answer = host.io(NvmOpcode.READ, nbytes=512)
    assert answer.status == 0
    return answer.data


def test_identify_describes_the_power_states(client: NvmeHost) -> None:
    data = IDENTIFY_CONTROLLER.parse(client.identify(Cns.CONTROLLER).data)

    assert (data.npss_z, data.apsta) == (4, 1)
    states = [(one.mp, one.flags, one.enlat, one.exlat, one.rrt, one.rwl) for one in data.psd[:5]]
    idle = POWER_STATE_FLAGS.pack(nops=1)
    fine = POWER_STATE_FLAGS.pack(nops=1, mxps=1)
    assert states == [
        (825, 0, 0, 0, 0, 0),
        (450, 0, 0, 0, 1, 1),
        (210, 0, 0, 0, 2, 2),
        (5, idle, 500, 1500, 3, 3),
        (50, fine, 5000, 9000, 4, 4),
    ]
    assert all(one.mp == 0 for one in data.psd[5:])
    assert CTRATT.unpack(data.ctratt).nopspm == int(not data.ioccsz)


def test_power_state_is_what_the_host_set(client: NvmeHost) -> None:
    assert power_state(client) == 0
    for state in (1, 2, 0):
        assert go(client, state, hint=2) == 0
        assert client.feature(Fid.POWER_MANAGEMENT).dw0 == POWER_MANAGEMENT.pack(ps=state, wh=2)
    assert go(client, 5) == Status.INVALID_FIELD
    assert power_state(client) == 0


def test_io_wakes_a_state_without_io_and_waits_for_it(client: NvmeHost) -> None:
    go(client, 1)
    assert client.io(NvmOpcode.WRITE, data=bytes([7]) * 512).status == 0
    assert go(client, 3) == 0
    assert power_state(client) == 3
    start_ns = client.machine.runtime.now_ns

    assert read(client) == bytes([7]) * 512

    assert client.machine.runtime.now_ns - start_ns >= EXIT_NS
    assert power_state(client) == 1
    assert read(client) == bytes([7]) * 512
    assert client.io(NvmOpcode.FLUSH, 0xFFFF_FFFF).status == 0


def test_waking_costs_the_first_command_alone() -> None:
    states = (PowerState(max_power_mw=1000), PowerState(max_power_mw=10, exit_us=70_000, operational=False))
    with connected("inproc-tlc", replace(CONFIG, power_states=states)) as host:
        taken = []
        read(host)
        go(host, 1)
        for _ in range(3):
            start_ns = host.machine.runtime.now_ns
            read(host)
            taken.append(host.machine.runtime.now_ns - start_ns)

        assert 70 * MS < taken[0] < 72 * MS
        assert max(taken[1:]) < 1 * MS


def test_slower_state_takes_longer() -> None:
    with connected("inproc-tlc", CONFIG) as host:

        def duration_ns(slba: int) -> int:
            start_ns = host.machine.runtime.now_ns
            assert host.io(NvmOpcode.READ, slba=slba, nbytes=512).status == 0
            return int(host.machine.runtime.now_ns - start_ns)

        fast = duration_ns(0)
        go(host, 2)
        slow = duration_ns(64)
        go(host, 0)
        again = duration_ns(0)

        assert slow > 2 * fast
        assert again <= fast


def table(**entries: tuple[int, int]) -> bytes:
    """ps<n>=(ITPS, ITPT in ms)."""
    rows = [0] * 32
    for name, (itps, itpt) in entries.items():
        rows[int(name[2:])] = APST_ENTRY.pack(itps=itps, itpt=itpt)
    return APST_TABLE.build(entries=rows)


def test_idle_controller_goes_to_sleep_by_itself(client: NvmeHost) -> None:
    host = client
    rows = table(ps0=(3, 40), ps3=(4, 80))
    assert host.set_feature(Fid.AUTONOMOUS_POWER_STATE_TRANSITION, 1, data=rows).status == 0
    answer = host.feature(Fid.AUTONOMOUS_POWER_STATE_TRANSITION, nbytes=256)
    assert (answer.dw0, answer.data) == (1, rows)
    read(host)
    if host.exact:
        host.machine.runtime.sleep_ns(30 * MS)
        assert power_state(host) == 0
        read(host)
        host.machine.runtime.sleep_ns(35 * MS)
        assert power_state(host) == 0
        host.machine.runtime.sleep_ns(20 * MS)
        assert power_state(host) == 3

    host.until(lambda: power_state(host) == 4)

    read(host)
    assert power_state(host) == 0
    host.until(lambda: power_state(host) == 3)
    assert host.set_feature(Fid.AUTONOMOUS_POWER_STATE_TRANSITION, 0, data=rows).status == 0
    assert host.feature(Fid.AUTONOMOUS_POWER_STATE_TRANSITION, nbytes=256).dw0 == 0
    read(host)
    host.machine.runtime.sleep_ns(60 * MS)
    assert power_state(host) == 0


@pytest.mark.parametrize("row", [{"ps0": (1, 100)}, {"ps0": (5, 100)}, {"ps4": (3, 100)}, {"ps3": (3, 1)}])
def test_idle_transition_to_where_it_cannot_go_is_refused(
    client: NvmeHost, row: dict[str, tuple[int, int]]
) -> None:
    answer = client.set_feature(Fid.AUTONOMOUS_POWER_STATE_TRANSITION, 1, data=table(**row))

    assert answer.status == Status.INVALID_FIELD
    assert client.feature(Fid.AUTONOMOUS_POWER_STATE_TRANSITION, nbytes=256).data == bytes(256)


def test_controller_without_idle_states_offers_no_transitions(host: NvmeHost) -> None:
    assert IDENTIFY_CONTROLLER.parse(host.identify(Cns.CONTROLLER).data).apsta == 0
    for fid in (Fid.AUTONOMOUS_POWER_STATE_TRANSITION, Fid.NON_OPERATIONAL_POWER_STATE):
        assert host.feature(fid, nbytes=256).status == Status.INVALID_FIELD


def test_permissive_mode_is_kept_where_there_is_one(client: NvmeHost) -> None:
    fabrics = IDENTIFY_CONTROLLER.parse(client.identify(Cns.CONTROLLER).data).ioccsz
    if fabrics:
        assert client.set_feature(Fid.NON_OPERATIONAL_POWER_STATE, 1).status == Status.INVALID_FIELD
        return
    assert client.feature(Fid.NON_OPERATIONAL_POWER_STATE).dw0 == 0
    assert client.set_feature(Fid.NON_OPERATIONAL_POWER_STATE, 1).status == 0
    assert client.feature(Fid.NON_OPERATIONAL_POWER_STATE).dw0 == 1


def test_reset_wakes_the_controller(client: NvmeHost) -> None:
    go(client, 4)

    client.machine.driver.reset()

    assert power_state(client) == 0
    read(client)


# --- temperatures -------------------------------------------------------------------------------------------


def smart(host: NvmeHost) -> dict[str, int]:
    return SMART_HEALTH.parse(host.log(Lid.SMART_HEALTH))


def threshold(host: NvmeHost, kelvins: int, kind: int = 0, sensor: int = 0, hysteresis: int = 0) -> int:
    value = TEMPERATURE_THRESHOLD.pack(tmpth=kelvins, thsel=kind, tmpsel=sensor, tmpthh=hysteresis)
    return host.set_feature(Fid.TEMPERATURE_THRESHOLD, value).status


def get_threshold(host: NvmeHost, kind: int, sensor: int, sel: int = 0) -> int:
    ask = TEMPERATURE_THRESHOLD.pack(thsel=kind, tmpsel=sensor)
    return int(TEMPERATURE_THRESHOLD["tmpth"].extract(host.feature(Fid.TEMPERATURE_THRESHOLD, cdw11=ask, sel=sel).dw0))


def too_hot(host: NvmeHost) -> bool:
    return bool(smart(host)["critical_warning"] & CRITICAL_WARNING.mask("ttc"))


def test_thresholds_of_every_sensor_have_their_defaults_and_trip(client: NvmeHost) -> None:
    data = IDENTIFY_CONTROLLER.parse(client.identify(Cns.CONTROLLER).data)
    assert (data.wctemp, data.cctemp, data.tmpthha) == (343, 353, 7)
    assert [get_threshold(client, kind, sensor) for kind in (0, 1) for sensor in (0, 1, 2)] == [
        343, 0xFFFF, 0xFFFF, 0, 0, 0,
    ]  # fmt: skip
    now_k = smart(client)["composite_temperature"]
    assert smart(client)["temperature_sensor"] == [now_k, now_k] + [0] * 6
    for kind, wrong in ((0, now_k), (1, now_k)):
        for sensor in (0, 1, 2):
            assert not too_hot(client)
            assert threshold(client, wrong, kind, sensor) == 0
            assert too_hot(client)
            assert threshold(client, 0xFFFF if kind == 0 else 0, kind, sensor) == 0
    assert threshold(client, now_k + 1, 0, 15) == 0
    assert [get_threshold(client, 0, sensor) for sensor in (0, 1, 2)] == [now_k + 1] * 3
    assert get_threshold(client, 0, 1, sel=1) == 0xFFFF


@pytest.mark.parametrize(("kind", "sensor"), [(0, 3), (1, 8), (2, 0), (3, 0)])
def test_threshold_of_a_sensor_that_is_not_there_is_refused(client: NvmeHost, kind: int, sensor: int) -> None:
    assert threshold(client, 300, kind, sensor) == Status.INVALID_FIELD
    ask = TEMPERATURE_THRESHOLD.pack(thsel=kind, tmpsel=sensor)
    assert client.feature(Fid.TEMPERATURE_THRESHOLD, cdw11=ask).status == Status.INVALID_FIELD


def test_sensor_is_set_on_its_own() -> None:
    with connected("inproc", CONFIG) as host:
        health = host.machine.controller.logs.health
        health.sensors_k = [400]

        assert smart(host)["temperature_sensor"][:3] == [400, smart(host)["composite_temperature"], 0]
        assert not too_hot(host)
        assert threshold(host, 399, sensor=1) == 0
        assert too_hot(host)
        with pytest.raises(ValueError, match="3 temperatures"):
            health.sensors_k = [1, 2, 3]
        with pytest.raises(ValueError, match="temperature sensor 3"):
            health.set_sensor(3, 300)


def test_hysteresis_keeps_the_warning_until_it_is_cool_enough() -> None:
    with connected("inproc", CONFIG) as host:
        ctrl, events = host.machine.controller, []
        emitted = events.append
        host.machine.trace.add_sink(emitted)
        host.set_feature(Fid.ASYNC_EVENT_CONFIG, ASYNC_EVENT_CONFIG.pack(shcw=2, tthry=1))
        assert threshold(host, 330, hysteresis=5) == 0

        for kelvins, hot in ((329, False), (330, True), (326, True), (325, False), (330, True)):
            ctrl.temperature_k = kelvins
            assert too_hot(host) is hot

        host.machine.trace.remove_sink(emitted)
        told = [(one.event_type, one.info) for one in events if type(one).__name__ == "AsyncEvent"]
        assert told == [(1, 1), (3, 1), (1, 1)]


def test_thermal_management_counts_and_slows_down() -> None:
    with connected("inproc-tlc", CONFIG) as host:
        ctrl = host.machine.controller
        value = HOST_THERMAL_MANAGEMENT.pack(tmt1=320, tmt2=340)
        assert host.set_feature(Fid.HOST_CONTROLLED_THERMAL_MANAGEMENT, value).status == 0

        def duration_ns() -> int:
            start_ns = host.machine.runtime.now_ns
            host.io(NvmOpcode.READ, slba=duration_ns.slba, nbytes=512)  # type: ignore[attr-defined]
            duration_ns.slba += 64  # type: ignore[attr-defined]
            return int(host.machine.runtime.now_ns - start_ns)

        duration_ns.slba = 0  # type: ignore[attr-defined]
        times = []
        for kelvins in (310, 321, 345, 321, 310):
            ctrl.temperature_k = kelvins
            times.append(duration_ns())
            host.machine.runtime.sleep_ns(2_000 * MS)

        data = smart(host)
        assert (data["tmt1tc"], data["tmt2tc"]) == (1, 1)
        assert (data["tttmt1"], data["tttmt2"]) == (4, 2)
        assert times[0] < times[1] < times[2]
        assert times[2] > times[3] > times[4]


@pytest.mark.parametrize(
    ("tmt1", "tmt2", "status"),
    [
        (320, 340, 0),
        (0, 340, 0),
        (320, 0, 0),
        (0, 0, 0),
        (340, 320, Status.INVALID_FIELD),
        (330, 330, Status.INVALID_FIELD),
        (200, 0, Status.INVALID_FIELD),
        (0, 400, Status.INVALID_FIELD),
    ],
)
def test_thermal_management_takes_what_identify_allows(
    host: NvmeHost, tmt1: int, tmt2: int, status: int
) -> None:
    data = IDENTIFY_CONTROLLER.parse(host.identify(Cns.CONTROLLER).data)
    assert (data.hctma, data.mntmt, data.mxtmt) == (1, 303, 353)

    value = HOST_THERMAL_MANAGEMENT.pack(tmt1=tmt1, tmt2=tmt2)
    assert host.set_feature(Fid.HOST_CONTROLLED_THERMAL_MANAGEMENT, value).status == status

    assert host.feature(Fid.HOST_CONTROLLED_THERMAL_MANAGEMENT).dw0 == (0 if status else value)
