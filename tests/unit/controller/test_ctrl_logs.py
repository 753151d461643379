"""Get Log Page: each page, every offset and length, wrong fields; the error log, SMART and its events."""

from __future__ import annotations

from typing import Any

import pytest
from adminhost import BROADCAST, PAGE, AdminHost, Slow, code
from hypothesis import given, settings
from hypothesis import strategies as st

from nvme_emu.controller.admin import ADMIN_HANDLERS
from nvme_emu.controller.config import ControllerConfig
from nvme_emu.controller.features import FEATURES, Features
from nvme_emu.controller.logs import LOG_PAGES
from nvme_emu.controller.nvm import NVM_HANDLERS
from nvme_emu.media.ram import RamMedia
from nvme_emu.spec.commands import GET_LOG_CDW14
from nvme_emu.spec.events import AsyncEventType, AsyncSmartInfo, async_event_dw0
from nvme_emu.spec.features import ASYNC_EVENT_CONFIG, TEMPERATURE_THRESHOLD, Fid
from nvme_emu.spec.identify import IDENTIFY_CONTROLLER, LPA, Cns
from nvme_emu.spec.logs import (
    CHANGED_NAMESPACE_LIST,
    COMMAND_EFFECTS,
    COMMANDS_SUPPORTED_AND_EFFECTS,
    CRITICAL_WARNING,
    ERROR_INFORMATION,
    FEATURE_EFFECTS,
    FEATURES_SUPPORTED_AND_EFFECTS,
    FIRMWARE_ACTIVE,
    FIRMWARE_SLOT_INFORMATION,
    LID_SUPPORTED,
    LOG_STRUCTURES,
    SMART_HEALTH,
    SUPPORTED_LOG_PAGES,
    Lid,
)
from nvme_emu.spec.opcodes import AdminOpcode, NvmOpcode
from nvme_emu.spec.registers import Reg
from nvme_emu.spec.status import DNR, MORE, Status

ENTRIES = 64
SIZES = {lid: LOG_STRUCTURES[lid].size for lid in LOG_PAGES} | {Lid.ERROR_INFORMATION: 64 * ENTRIES}
MINUTE_NS = 60_000_000_000
LID_AT, NUMDL_AT, LPOL_AT, OT_AT, CSI_AT, NSID_AT = (40, 0), (42, 0), (48, 0), (58, 7), (59, 0), (4, 0)


def host(**options: Any) -> AdminHost:
    config = {"namespaces_max": 8, **options.pop("config", {})}
    return AdminHost(config=ControllerConfig(**config), **options)


def at(one: AdminHost) -> tuple[int, int]:
    pel = one.newest_error().pel
    return pel & 0xFF, pel >> 8


def smart(one: AdminHost, *, rae: bool = True) -> Any:
    return SMART_HEALTH.parse(one.logged(Lid.SMART_HEALTH, rae=rae))


def errors(one: AdminHost) -> list[Any]:
    """The valid entries of the error log."""
    data = one.logged(Lid.ERROR_INFORMATION, 64 * ENTRIES, rae=True)
    found = [ERROR_INFORMATION.parse(data[64 * n :]) for n in range(ENTRIES)]
    return [entry for entry in found if entry.error_count]


# --- offsets and lengths ------------------------------------------------------------------------------------


@pytest.mark.parametrize("lid", sorted(LOG_PAGES))
def test_log_page_any_part_is_that_part_of_the_whole(lid: int) -> None:
    one = host()
    for _ in range(3):
        one.do(0xFF)
    size = SIZES[lid]
    whole = one.logged(lid, size, rae=True)
    if lid == Lid.SMART_HEALTH:
        assert any(whole)

    for offset in (0, 4, 60, 64, size // 2, size - 4, size):
        for nbytes in (4, 8, 64, 512, PAGE, 3 * PAGE):
            expected = whole[offset : offset + nbytes].ljust(nbytes, b"\0")
            assert one.logged(lid, nbytes, offset=offset, rae=True) == expected


@pytest.mark.parametrize("lid", sorted(LOG_PAGES))
@pytest.mark.parametrize("beyond", [4, 4096, 1 << 32, (1 << 64) - 8192])
def test_log_page_offset_behind_the_end_fails(lid: int, beyond: int) -> None:
    one = host()

    completion = one.log(lid, 512, offset=SIZES[lid] + beyond)

    assert completion.status == Status.INVALID_FIELD | DNR | MORE
    assert at(one) == LPOL_AT


@pytest.mark.parametrize("rest", [1, 2, 3])
def test_log_page_offset_within_a_dword_fails(rest: int) -> None:
    one = host()

    completion = one.do(AdminOpcode.GET_LOG_PAGE, cdw10=Lid.SMART_HEALTH | 15 << 16, cdw12=rest)

    assert completion.status == Status.INVALID_FIELD | DNR | MORE
    assert at(one) == LPOL_AT


def test_log_page_by_index_fails() -> None:
    one = host()

    assert (
        one.log(Lid.SMART_HEALTH, cdw14=GET_LOG_CDW14.pack(ot=1)).status == Status.INVALID_FIELD | DNR | MORE
    )
    assert at(one) == OT_AT


@pytest.mark.parametrize("mdts", [0, 1])
def test_log_page_longer_than_a_transfer_may_be_fails(mdts: int) -> None:
    one = host(config={"mdts": mdts})
    most = 8192 if mdts else 1 << 24

    assert one.log(Lid.SMART_HEALTH, 8192).status == 0
    for nbytes in (most + 4, 4 << 32):
        assert one.log(Lid.SMART_HEALTH, nbytes).status == Status.INVALID_FIELD | DNR | MORE
        assert at(one) == NUMDL_AT


@given(st.integers(0, 255), st.integers(0, 1100), st.integers(1, 2100))
@settings(max_examples=60, deadline=None)
def test_log_page_any_request_is_answered_or_refused(lid: int, offset_dw: int, dwords: int) -> None:
    one = host()

    status = code(one.log(lid, 4 * dwords, offset=4 * offset_dw))

    if lid not in LOG_PAGES:
        assert status == Status.INVALID_LOG_PAGE
    else:
        assert status == (Status.INVALID_FIELD if 4 * offset_dw > SIZES[lid] else 0)


# --- wrong fields -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lid", sorted(set(range(256)) - set(LOG_PAGES))[::9])
def test_log_page_that_is_not_offered_is_invalid(lid: int) -> None:
    one = host()

    assert one.log(lid).status == Status.INVALID_LOG_PAGE | DNR | MORE
    assert at(one) == LID_AT


@pytest.mark.parametrize("lid", sorted(LOG_PAGES))
@pytest.mark.parametrize(("nsid", "status"), [(0, 0), (BROADCAST, 0), (1, 2), (3, 2), (99, 2)])
def test_log_page_nsid_is_zero_or_all(lid: int, nsid: int, status: int) -> None:
    one = host()

    assert code(one.log(lid, nsid=nsid)) == status
    assert not status or at(one) == NSID_AT


@pytest.mark.parametrize("csi", [1, 2, 255])
def test_log_page_effects_of_another_command_set_fails(csi: int) -> None:
    one = host()

    completion = one.log(Lid.COMMANDS_SUPPORTED_AND_EFFECTS, cdw14=GET_LOG_CDW14.pack(csi=csi))

    assert completion.status == Status.INVALID_FIELD | DNR | MORE
    assert at(one) == CSI_AT


def test_log_page_ignores_lsp_lsi_and_uuid_index() -> None:
    one = host()

    expected = one.logged(Lid.FIRMWARE_SLOT)

    assert one.logged(Lid.FIRMWARE_SLOT, lsp=0x7F, lsi=0xFFFF, cdw14=GET_LOG_CDW14.pack(uidx=5)) == expected


# --- what is offered ----------------------------------------------------------------------------------------


def test_supported_log_pages_are_those_that_are_answered() -> None:
    one = host()
    data = SUPPORTED_LOG_PAGES.parse(one.logged(Lid.SUPPORTED_LOG_PAGES, 1024))

    supported = {lid for lid, entry in enumerate(data.lid) if LID_SUPPORTED.unpack(entry).lsupp}

    assert supported == {lid for lid in range(256) if code(one.log(lid, 4)) != Status.INVALID_LOG_PAGE}
    lpa = LPA.unpack(IDENTIFY_CONTROLLER.parse(one.identified(Cns.CONTROLLER)).lpa)
    assert lpa.cses == int(Lid.COMMANDS_SUPPORTED_AND_EFFECTS in supported)
    assert lpa.mlps == int({Lid.SUPPORTED_LOG_PAGES, Lid.FEATURES_SUPPORTED_AND_EFFECTS} <= supported)


def test_commands_supported_are_those_that_are_handled() -> None:
    data = COMMANDS_SUPPORTED_AND_EFFECTS.parse(host().logged(Lid.COMMANDS_SUPPORTED_AND_EFFECTS, 4096))

    admin = {op for op, entry in enumerate(data.acs) if COMMAND_EFFECTS.unpack(entry).csupp}
    nvm = {op for op, entry in enumerate(data.iocs) if COMMAND_EFFECTS.unpack(entry).csupp}
    changing = {op for op, entry in enumerate(data.iocs) if COMMAND_EFFECTS.unpack(entry).lbcc}
    assert (admin, nvm) == (set(ADMIN_HANDLERS), set(NVM_HANDLERS))
    assert changing == {NvmOpcode.WRITE, NvmOpcode.WRITE_ZEROES, NvmOpcode.DATASET_MANAGEMENT}


@pytest.mark.parametrize("cache", [False, True])
def test_features_supported_are_those_that_are_offered(cache: bool) -> None:
    one = host(config={"volatile_write_cache": cache})
    data = FEATURES_SUPPORTED_AND_EFFECTS.parse(one.logged(Lid.FEATURES_SUPPORTED_AND_EFFECTS, 1024))

    found = {fid: FEATURE_EFFECTS.unpack(entry) for fid, entry in enumerate(data.fis) if entry}

    assert set(found) == set(FEATURES) - (set() if cache else {Fid.VOLATILE_WRITE_CACHE})
    assert all(entry.fsupp == 1 for entry in found.values())
    assert found[Fid.ERROR_RECOVERY].fsp == 1
    assert found[Fid.ARBITRATION].fsp == 2


def test_firmware_slot_holds_the_revision_of_identify() -> None:
    data = FIRMWARE_SLOT_INFORMATION.parse(host(config={"fr": "7.8.9"}).logged(Lid.FIRMWARE_SLOT))

    active = FIRMWARE_ACTIVE.unpack(data.afi)
    assert (active.afs, active.nfs) == (1, 0)
    assert [revision.strip("\0 ") for revision in data.frs] == ["7.8.9"] + [""] * 6


# --- changed namespaces -------------------------------------------------------------------------------------


@pytest.mark.parametrize("rae", [False, True])
def test_changed_namespaces_are_listed_until_they_are_read(rae: bool) -> None:
    one = host()
    for nsid in (5, 2, 5):
        one.ctrl.logs.namespace_changed(nsid)

    first, second = (
        CHANGED_NAMESPACE_LIST.parse(one.logged(Lid.CHANGED_NAMESPACES, 4096, rae=rae)).nsid for _ in range(2)
    )

    assert first == [2, 5] + [0] * 1022
    assert second == (first if rae else [0] * 1024)


@pytest.mark.parametrize(("count", "first"), [(1024, 1), (1025, BROADCAST)])
def test_changed_namespaces_that_do_not_fit_are_all(count: int, first: int) -> None:
    one = host()
    for nsid in range(1, count + 1):
        one.ctrl.logs.namespace_changed(nsid)

    listed = CHANGED_NAMESPACE_LIST.parse(one.logged(Lid.CHANGED_NAMESPACES, 4096)).nsid

    assert listed[0] == first
    assert sum(1 for nsid in listed if nsid) == (1024 if first == 1 else 1)


# --- the error log ------------------------------------------------------------------------------------------


def test_error_log_is_empty_at_first() -> None:
    assert host().logged(Lid.ERROR_INFORMATION, 64 * ENTRIES) == bytes(64 * ENTRIES)


def test_error_log_has_the_newest_first_with_counts_from_one() -> None:
    one = host()
    for cid in range(3):
        one.do(0xFF, cid=cid)

    found = errors(one)

    assert [(entry.error_count, entry.cid) for entry in found] == [(3, 2), (2, 1), (1, 0)]


def test_error_log_forgets_the_oldest() -> None:
    one = host()
    for cid in range(ENTRIES + 6):
        one.do(0xFF, cid=cid)

    found = errors(one)

    assert [entry.error_count for entry in found] == list(range(ENTRIES + 6, 6, -1))
    assert smart(one).num_err_log_entries == ENTRIES + 6


def test_error_log_has_as_many_entries_as_elpe_says() -> None:
    one = host(config={"elpe_z": 3})
    for cid in range(10):
        one.do(0xFF, cid=cid)

    data = one.logged(Lid.ERROR_INFORMATION, 64 * 5)

    assert [ERROR_INFORMATION.parse(data[64 * n :]).error_count for n in range(5)] == [10, 9, 8, 7, 0]
    assert code(one.log(Lid.ERROR_INFORMATION, 64, offset=64 * 5)) == Status.INVALID_FIELD


def test_error_log_describes_a_failed_read() -> None:
    one = host()
    queue = one.io_queue(3)
    slba = (1 << 40) + 5

    queue.rw(NvmOpcode.READ, slba, 1, one.data, cid=77)
    queue.ring()
    one.step()
    (failed,) = queue.reap()

    entry = one.newest_error()
    assert failed.status == Status.LBA_RANGE | DNR | MORE
    assert (entry.sqid, entry.cid, entry.nsid, entry.lba, entry.opc) == (3, 77, 1, slba, NvmOpcode.READ)
    assert (entry.status >> 1, entry.lpver, entry.csi) == (failed.status, 1, 0)
    assert at(one) == (40, 0)


def test_error_log_entry_without_a_command_or_a_field_says_so() -> None:
    one = host()

    one.ctrl.error_log.record(None, Status.INTERNAL, lba=9)

    entry = errors(one)[0]
    assert (entry.sqid, entry.cid, entry.pel, entry.lba, entry.nsid) == (0xFFFF, 0xFFFF, 0xFFFF, 9, 0)


def test_error_log_is_cleared_by_a_reset_but_its_count_goes_on() -> None:
    one = host()
    one.do(0xFF)
    one.write(Reg.CC, 0)
    one.step()
    one.enable()

    assert errors(one) == []
    one.do(0xFF)
    assert [entry.error_count for entry in errors(one)] == [2]


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
