"""Get Log Page: each page, every offset and length, wrong fields; and the error log."""

from __future__ import annotations

from typing import Any

import pytest
from adminhost import BROADCAST, PAGE, AdminHost, code
from hypothesis import given, settings
from hypothesis import strategies as st

from nvme_emu.controller.admin import ADMIN_HANDLERS
from nvme_emu.controller.config import ControllerConfig
from nvme_emu.controller.features import FEATURES
from nvme_emu.controller.logs import LOG_PAGES
from nvme_emu.controller.nvm import NVM_HANDLERS
from nvme_emu.spec.ana import ana_log_bytes
from nvme_emu.spec.commands import GET_LOG_CDW14
from nvme_emu.spec.features import Fid
from nvme_emu.spec.identify import IDENTIFY_CONTROLLER, LPA, Cns
from nvme_emu.spec.logs import (
    CHANGED_NAMESPACE_LIST,
    COMMAND_EFFECTS,
    COMMANDS_SUPPORTED_AND_EFFECTS,
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
VARIABLE = {Lid.TELEMETRY_HOST, Lid.TELEMETRY_CONTROLLER, Lid.PERSISTENT_EVENT, Lid.CHANGED_ZONES}
"""Pages with rules of their own: see test_ctrl_telemetry, …_persistent, and for the last test_zoned_namespaces."""
ANA_GROUPS, GROUPS_USED, NAMESPACES = 2, 1, 1
SIZES = {lid: LOG_STRUCTURES[lid].size for lid in LOG_PAGES} | {
    Lid.ERROR_INFORMATION: 64 * ENTRIES,
    Lid.ANA: ana_log_bytes(GROUPS_USED, NAMESPACES),
}
LSI = {Lid.ENDURANCE_GROUP: 1}
"""The Log Specific Identifier of pages that need one."""
FIXED = sorted(set(LOG_PAGES) - VARIABLE)
LID_AT, NUMDL_AT, LPOL_AT, OT_AT, CSI_AT, NSID_AT = (40, 0), (42, 0), (48, 0), (58, 7), (59, 0), (4, 0)


def host(**options: Any) -> AdminHost:
    config = {"namespaces_max": 8, "ana_groups": ANA_GROUPS, **options.pop("config", {})}
    return AdminHost(config=ControllerConfig(**config), **options)


def at(one: AdminHost) -> tuple[int, int]:
    pel = one.newest_error().pel
    return pel & 0xFF, pel >> 8


def errors(one: AdminHost) -> list[Any]:
    """The valid entries of the error log."""
    data = one.logged(Lid.ERROR_INFORMATION, 64 * ENTRIES, rae=True)
    found = [ERROR_INFORMATION.parse(data[64 * n :]) for n in range(ENTRIES)]
    return [entry for entry in found if entry.error_count]


# --- offsets and lengths ------------------------------------------------------------------------------------


@pytest.mark.parametrize("lid", FIXED)
def test_log_page_any_part_is_that_part_of_the_whole(lid: int) -> None:
    one = host()
    for _ in range(3):
        one.do(0xFF)
    size = SIZES[lid]
    lsi = LSI.get(lid, 0)
    whole = one.logged(lid, size, rae=True, lsi=lsi)
    if lid == Lid.SMART_HEALTH:
        assert any(whole)

    for offset in [place for place in (0, 4, 60, 64, size // 8 * 4, size - 4, size) if place <= size]:
        for nbytes in (4, 8, 64, 512, PAGE, 3 * PAGE):
            expected = whole[offset : offset + nbytes].ljust(nbytes, b"\0")
            assert one.logged(lid, nbytes, offset=offset, rae=True, lsi=lsi) == expected


@pytest.mark.parametrize("lid", FIXED)
@pytest.mark.parametrize("beyond", [4, 4096, 1 << 32, (1 << 64) - 8192])
def test_log_page_offset_behind_the_end_fails(lid: int, beyond: int) -> None:
    one = host()

    completion = one.log(lid, 512, offset=SIZES[lid] + beyond, lsi=LSI.get(lid, 0))

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

    status = code(one.log(lid, 4 * dwords, offset=4 * offset_dw, lsi=LSI.get(lid, 0)))

    if lid not in LOG_PAGES:
        assert status == Status.INVALID_LOG_PAGE
    elif lid not in VARIABLE:
        assert status == (Status.INVALID_FIELD if 4 * offset_dw > SIZES[lid] else 0)


# --- wrong fields -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lid", sorted(set(range(256)) - set(LOG_PAGES))[::9])
def test_log_page_that_is_not_offered_is_invalid(lid: int) -> None:
    one = host()

    assert one.log(lid).status == Status.INVALID_LOG_PAGE | DNR | MORE
    assert at(one) == LID_AT


@pytest.mark.parametrize("lid", FIXED)
@pytest.mark.parametrize(("nsid", "status"), [(0, 0), (BROADCAST, 0), (1, 2), (3, 2), (99, 2)])
def test_log_page_nsid_is_zero_or_all(lid: int, nsid: int, status: int) -> None:
    one = host()

    assert code(one.log(lid, nsid=nsid, lsi=LSI.get(lid, 0))) == status
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
    assert changing == {
        NvmOpcode.WRITE,
        NvmOpcode.WRITE_ZEROES,
        NvmOpcode.WRITE_UNCORRECTABLE,
        NvmOpcode.DATASET_MANAGEMENT,
        NvmOpcode.COPY,
    }
    linux_expects = COMMAND_EFFECTS.mask("csupp", "lbcc")
    assert not any(entry & ~linux_expects for entry in data.iocs), "Linux warns of others"


@pytest.mark.parametrize("cache", [False, True])
def test_features_supported_are_those_that_are_offered(cache: bool) -> None:
    one = host(config={"volatile_write_cache": cache})
    data = FEATURES_SUPPORTED_AND_EFFECTS.parse(one.logged(Lid.FEATURES_SUPPORTED_AND_EFFECTS, 1024))

    found = {fid: FEATURE_EFFECTS.unpack(entry) for fid, entry in enumerate(data.fis) if entry}

    idle = {Fid.AUTONOMOUS_POWER_STATE_TRANSITION, Fid.NON_OPERATIONAL_POWER_STATE}
    absent = {Fid.KEEP_ALIVE_TIMER, *idle} | (set() if cache else {Fid.VOLATILE_WRITE_CACHE})
    assert set(found) == set(FEATURES) - absent
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
    assert SMART_HEALTH.parse(one.logged(Lid.SMART_HEALTH)).num_err_log_entries == ENTRIES + 6


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
