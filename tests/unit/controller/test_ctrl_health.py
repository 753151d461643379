"""SMART / Health: what is counted and set, critical warnings, and the events that they raise."""

from __future__ import annotations

from typing import Any

import pytest
from adminhost import PAGE, AdminHost, Slow

from nvme_emu.controller.config import ControllerConfig
from nvme_emu.controller.features import Features
from nvme_emu.media.ram import RamMedia
from nvme_emu.spec.events import AsyncEventType, AsyncSmartInfo, async_event_dw0
from nvme_emu.spec.features import ASYNC_EVENT_CONFIG, TEMPERATURE_THRESHOLD, Fid
from nvme_emu.spec.logs import CRITICAL_WARNING, SMART_HEALTH, Lid
from nvme_emu.spec.opcodes import AdminOpcode, NvmOpcode
from nvme_emu.spec.registers import Reg

MINUTE_NS = 60_000_000_000


def host(**options: Any) -> AdminHost:
    return AdminHost(config=ControllerConfig(namespaces_max=8), **options)


def smart(one: AdminHost, *, rae: bool = True) -> Any:
    return SMART_HEALTH.parse(one.logged(Lid.SMART_HEALTH, rae=rae))


# --- SMART --------------------------------------------------------------------------------------------------


def test_smart_counts_what_the_host_did() -> None:
    one = host(media=[RamMedia(4 << 20)])
    queue = one.io_queue()
    buffer = one.pages(2)
    for cid in range(3):
        queue.rw(NvmOpcode.WRITE, 0, 8, buffer, cid=cid)
    queue.rw(NvmOpcode.READ, 0, 16, buffer, buffer + PAGE, cid=9)
    queue.ring()
    one.step()
    assert [c.status for c in queue.reap()] == [0] * 4

    data = smart(one)

    assert (data.host_write_commands, data.host_read_commands) == (3, 1)
    assert (data.data_units_written, data.data_units_read) == (1, 1)  # thousands of 512 bytes, rounded up
    assert (data.avsp, data.avspt, data.pused, data.critical_warning) == (100, 10, 0, 0)
    assert (data.power_cycles, data.media_errors, data.unsafe_shutdowns) == (1, 0, 0)
    assert data.temperature_sensor == [0] * 8


def test_smart_temperature_is_what_was_set() -> None:
    one = host()
    one.ctrl.temperature_k = 320

    assert smart(one).composite_temperature == one.ctrl.temperature_k == 320


@pytest.mark.parametrize("value", [-1, 0x10000])
def test_temperature_that_the_log_cannot_hold_is_refused(value: int) -> None:
    with pytest.raises(ValueError, match="temperature_k"):
        host().ctrl.temperature_k = value


def test_smart_times_hold_minutes_at_each_temperature() -> None:
    one = host()
    start_ns = one.now_ns
    one.ctrl.temperature_k = 342
    one.step(start_ns + 10 * MINUTE_NS)
    one.ctrl.temperature_k = 343
    one.step(start_ns + 13 * MINUTE_NS)
    one.ctrl.temperature_k = 353
    one.step(start_ns + 15 * MINUTE_NS)
    one.ctrl.temperature_k = 300
    one.step(start_ns + 125 * MINUTE_NS)

    data = smart(one)

    assert (data.warning_temp_time, data.critical_temp_time, data.power_on_hours) == (3, 2, 2)


@pytest.mark.parametrize(
    ("temperature_k", "over_k", "under_k", "warned"),
    [
        (342, 343, 0, 0),
        (343, 343, 0, 1),
        (344, 343, 0, 1),
        (281, 343, 280, 0),
        (280, 343, 280, 1),
        (279, 343, 280, 1),
    ],
)
def test_smart_warns_outside_the_thresholds(
    temperature_k: int, over_k: int, under_k: int, warned: int
) -> None:
    one = host()
    one.ctrl.temperature_k = temperature_k
    one.set_feature(Fid.TEMPERATURE_THRESHOLD, over_k)
    one.set_feature(Fid.TEMPERATURE_THRESHOLD, TEMPERATURE_THRESHOLD.pack(tmpth=under_k, thsel=1))

    assert CRITICAL_WARNING.unpack(smart(one).critical_warning).ttc == warned


# --- SMART events -------------------------------------------------------------------------------------------

TOO_HOT = async_event_dw0(AsyncEventType.SMART, AsyncSmartInfo.TEMPERATURE_THRESHOLD, Lid.SMART_HEALTH)
SPARE_LOW = async_event_dw0(AsyncEventType.SMART, AsyncSmartInfo.SPARE_BELOW_THRESHOLD, Lid.SMART_HEALTH)
UNRELIABLE = async_event_dw0(AsyncEventType.SMART, AsyncSmartInfo.SUBSYSTEM_RELIABILITY, Lid.SMART_HEALTH)


def waiting(**warnings: int) -> AdminHost:
    """A host with event requests, that enabled these critical warnings."""
    one = host()
    bits = ASYNC_EVENT_CONFIG.pack(shcw=CRITICAL_WARNING.pack(**warnings))
    assert one.set_feature(Fid.ASYNC_EVENT_CONFIG, bits).status == 0
    for cid in (901, 902, 903):
        assert one.park_aer(cid) == []
    return one


def events(one: AdminHost) -> list[int]:
    one.step()
    return [c.dw0 for c in one.admin.reap()]


def test_temperature_over_the_threshold_is_told_once() -> None:
    one = waiting(ttc=1)

    one.ctrl.temperature_k = 350
    one.ctrl.temperature_k = 351

    assert events(one) == [TOO_HOT]
    smart(one, rae=False)
    assert events(one) == []  # it lasts, but the host knows


def test_temperature_that_goes_and_comes_is_told_again() -> None:
    one = waiting(ttc=1)
    one.ctrl.temperature_k = 350
    assert events(one) == [TOO_HOT]
    smart(one, rae=False)

    one.ctrl.temperature_k = 300
    one.ctrl.temperature_k = 350

    assert events(one) == [TOO_HOT]


def test_threshold_set_below_the_temperature_is_told() -> None:
    one = waiting(ttc=1)
    temperature_k = one.ctrl.temperature_k

    one.admin.put(
        AdminOpcode.SET_FEATURES, nsid=0, cid=1, cdw10=Fid.TEMPERATURE_THRESHOLD, cdw11=temperature_k
    )
    one.admin.ring()
    one.step()

    assert {c.cid: c.dw0 for c in one.admin.reap()} == {901: TOO_HOT, 1: 0}


def test_warning_that_the_host_did_not_enable_is_only_in_the_log() -> None:
    one = waiting(ascbt=1)

    one.ctrl.temperature_k = 350

    assert events(one) == []
    assert CRITICAL_WARNING.unpack(smart(one).critical_warning).ttc == 1


def test_other_warnings_have_their_own_information() -> None:
    one = waiting(ascbt=1, ndr=1)
    health = one.ctrl.logs.health

    health.available_spare = 9
    assert events(one) == [SPARE_LOW]
    smart(one, rae=False)
    health.reliability_degraded = True

    assert events(one) == [UNRELIABLE]
    found = CRITICAL_WARNING.unpack(smart(one).critical_warning)
    assert (found.ascbt, found.ndr, found.ttc) == (1, 1, 0)


def test_warning_that_lasts_is_told_again_after_a_reset_where_the_configuration_is_saved() -> None:
    one = host()
    one.ctrl.features = Features(one.config, {})
    assert one.set_feature(Fid.ASYNC_EVENT_CONFIG, CRITICAL_WARNING.pack(ttc=1), sv=1).status == 0
    one.park_aer()
    one.ctrl.temperature_k = 350
    assert events(one) == [TOO_HOT]

    one.write(Reg.CC, 0)
    one.step()
    one.enable()

    assert [c.dw0 for c in one.park_aer()] == [TOO_HOT]


def test_wear_is_reported() -> None:
    one = host()
    one.ctrl.logs.health.percentage_used = 255

    assert smart(one).pused == 255


def test_busy_time_counts_minutes_with_commands_in_flight() -> None:
    one = host(latency=Slow(3 * MINUTE_NS))
    queue = one.io_queue()
    queue.rw(NvmOpcode.READ, 0, 1, one.data)
    queue.ring()
    one.step()
    one.step(one.now_ns + 3 * MINUTE_NS)
    one.step(one.now_ns + 7 * MINUTE_NS)

    assert smart(one).controller_busy_time == 3
