"""Format NVM, Namespace Management and Attachment, and what Identify and the logs say of them."""

from __future__ import annotations

import struct

import pytest
from nvmehost import BROADCAST, QUICK, SIZE, TRANSPORTS, NvmeHost, connected

from nvme_emu.controller import ControllerConfig
from nvme_emu.spec.commands_admin import FORMAT_CDW10, SecureErase
from nvme_emu.spec.features import Fid
from nvme_emu.spec.identify import (
    CONTROLLER_LIST,
    IDENTIFY_CONTROLLER,
    IDENTIFY_INDEPENDENT_NAMESPACE,
    IDENTIFY_NAMESPACE,
    NAMESPACE_LIST,
    NS_MANAGEMENT,
    Cns,
)
from nvme_emu.spec.logs import COMMAND_EFFECTS, COMMANDS_SUPPORTED_AND_EFFECTS, Lid
from nvme_emu.spec.opcodes import AdminOpcode, NvmOpcode
from nvme_emu.spec.status import Status

READ, WRITE = NvmOpcode.READ, NvmOpcode.WRITE
PATTERN = bytes(range(256)) * 2


def create(host: NvmeHost, blocks: int, *, flbas: int = 0, nmic: int = 0, **more: int) -> tuple[int, int]:
    """(status, nsid) of Namespace Management, create."""
    data = NS_MANAGEMENT.build(nsze=blocks, ncap=more.pop("ncap", blocks), flbas=flbas, nmic=nmic, **more)
    answer = host.admin(AdminOpcode.NAMESPACE_MANAGEMENT, data=data)
    return answer.status, answer.dw0


def delete(host: NvmeHost, nsid: int) -> int:
    return host.admin(AdminOpcode.NAMESPACE_MANAGEMENT, nsid, cdw10=1).status


def attach(host: NvmeHost, nsid: int, *cntlids: int, detach: bool = False) -> int:
    data = CONTROLLER_LIST.build(numid=len(cntlids), cntid=list(cntlids))
    return host.admin(AdminOpcode.NAMESPACE_ATTACHMENT, nsid, cdw10=int(detach), data=data).status


def namespace(host: NvmeHost, nsid: int, cns: int = Cns.NAMESPACE) -> dict[str, int]:
    return IDENTIFY_NAMESPACE.parse(host.identify(cns, nsid).data)


def listed(host: NvmeHost, cns: int) -> list[int]:
    return [nsid for nsid in NAMESPACE_LIST.parse(host.identify(cns).data).nsid if nsid]


def capacity(host: NvmeHost) -> tuple[int, int]:
    data = IDENTIFY_CONTROLLER.parse(host.identify(Cns.CONTROLLER).data)
    return data.tnvmcap, data.unvmcap


# --- Format NVM ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ses", list(SecureErase))
def test_format_erases_and_changes_the_block_size(host: NvmeHost, ses: int) -> None:
    assert host.io(WRITE, slba=8, data=PATTERN).status == 0

    assert host.admin(AdminOpcode.FORMAT_NVM, 1, cdw10=FORMAT_CDW10.pack(lbafl=1, ses=ses)).status == 0

    data = namespace(host, 1)
    assert (data["nsze"], data["ncap"], data["flbas"], data["fpi"]) == (SIZE // 4096, SIZE // 4096, 1, 0x80)
    assert host.io(READ, slba=1, nbytes=4096).data == bytes(4096)
    assert host.io(WRITE, slba=SIZE // 4096 - 1, data=PATTERN * 8).status == 0
    assert host.io(READ, slba=SIZE // 4096, nbytes=4096).status == Status.LBA_RANGE
    assert host.admin(AdminOpcode.FORMAT_NVM, BROADCAST, cdw10=0).status == 0
    assert namespace(host, 1)["nsze"] == SIZE // 512


@pytest.mark.parametrize(
    ("nsid", "cdw10", "status"),
    [
        (1, {"lbafl": 8}, Status.INVALID_FORMAT),
        (1, {"lbafu": 3}, Status.INVALID_FORMAT),
        (1, {"ses": 3}, Status.INVALID_FIELD),
        (2, {}, Status.INVALID_FIELD),
        (0, {}, Status.INVALID_NS),
        (9, {}, Status.INVALID_NS),
    ],
)
def test_format_with_a_wrong_field_changes_nothing(
    host: NvmeHost, nsid: int, cdw10: dict[str, int], status: Status
) -> None:
    host.io(WRITE, data=PATTERN)

    assert host.admin(AdminOpcode.FORMAT_NVM, nsid, cdw10=FORMAT_CDW10.pack(**cdw10)).status == status

    assert host.io(READ, nbytes=512).data == PATTERN


def test_format_that_takes_time_shows_its_progress_and_refuses_io() -> None:
    config = ControllerConfig(namespaces_max=8, format_ns=10_000_000_000)
    with connected("inproc-virtual", config) as host:
        driver = host.machine.driver
        pending = driver.admin
        start = host.machine.runtime.now_ns
        seen: list[tuple[int, int]] = []

        def look() -> None:
            ctrl = host.machine.controller
            one = ctrl.namespaces[1]
            percent = one.progress(host.machine.runtime.now_ns)
            seen.append((percent or 0, int(one.plain)))

        host.machine.runtime.call_at(start + 5_000_000_000, look)
        assert pending.execute(AdminOpcode.FORMAT_NVM, nsid=1)[0] == 0

        assert host.machine.runtime.now_ns - start >= 10_000_000_000
        assert seen
        assert 45 <= seen[0][0] <= 55
        assert seen[0][1] == 0
        assert host.io(READ, nbytes=512).status == 0


# --- Namespace Management and Attachment --------------------------------------------------------------------


def test_namespaces_are_deleted_created_attached_and_detached(host: NvmeHost) -> None:
    cntlid = host.cntlid
    assert capacity(host) == (SIZE, 0)
    before = namespace(host, 1)

    assert delete(host, 1) == 0

    assert capacity(host) == (SIZE, SIZE)
    assert (listed(host, Cns.ACTIVE_NAMESPACE_LIST), listed(host, Cns.ALLOCATED_NAMESPACE_LIST)) == ([], [])
    assert host.io(READ, nbytes=512).status == Status.INVALID_FIELD
    assert create(host, 512) == (0, 1)
    assert create(host, 64, flbas=1) == (0, 2)
    assert capacity(host) == (SIZE, SIZE - 512 * 512 - 64 * 4096)
    assert (listed(host, Cns.ACTIVE_NAMESPACE_LIST), listed(host, Cns.ALLOCATED_NAMESPACE_LIST)) == ([], [1, 2])
    assert listed(host, Cns.IOCS_ALLOCATED_NAMESPACE_LIST) == [1, 2]
    assert namespace(host, 2)["nsze"] == 0
    assert namespace(host, 2, Cns.ALLOCATED_NAMESPACE)["nsze"] == 64
    assert namespace(host, 1, Cns.ALLOCATED_NAMESPACE)["nguid"] != before["nguid"]
    assert host.identify(Cns.IOCS_ALLOCATED_NAMESPACE, 2).status == 0
    assert attach(host, 2, cntlid) == 0
    assert listed(host, Cns.ACTIVE_NAMESPACE_LIST) == listed(host, Cns.IOCS_ACTIVE_NAMESPACE_LIST) == [2]
    assert host.io(WRITE, 2, slba=63, data=PATTERN * 8).status == 0
    assert host.io(READ, 2, slba=63, nbytes=4096).data == PATTERN * 8
    assert attach(host, 2, cntlid, detach=True) == 0
    assert host.io(READ, 2, nbytes=4096).status == Status.INVALID_FIELD
    assert attach(host, 2, cntlid) == 0
    assert host.io(READ, 2, slba=63, nbytes=4096).data == PATTERN * 8
    assert delete(host, BROADCAST) == 0
    assert capacity(host) == (SIZE, SIZE)


def test_namespace_over_the_space_of_two_others_holds_its_data(host2: NvmeHost) -> None:
    host = host2
    assert delete(host, BROADCAST) == 0

    assert create(host, 2 * SIZE // 512) == (0, 1)
    assert attach(host, 1, host.cntlid) == 0

    border = SIZE // 512
    assert host.io(WRITE, slba=border - 1, cdw12=1, data=PATTERN + PATTERN[::-1]).status == 0
    assert host.io(READ, slba=border - 1, cdw12=1, nbytes=1024).data == PATTERN + PATTERN[::-1]
    assert host.io(NvmOpcode.COMPARE, slba=border, data=PATTERN[::-1]).status == 0
    assert host.io(NvmOpcode.COMPARE, slba=border, data=PATTERN).status == Status.COMPARE_FAILED


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"blocks": SIZE // 512 + 1}, Status.NS_INSUFFICIENT_CAP),
        ({"blocks": 0}, Status.INVALID_FIELD),
        ({"blocks": 8, "ncap": 4}, Status.THIN_PROV_NOT_SUPP),
        ({"blocks": 8, "ncap": 9}, Status.INVALID_FIELD),
        ({"blocks": 8, "flbas": 8}, Status.INVALID_FORMAT),
        ({"blocks": 8, "dps": 1}, Status.INVALID_FORMAT),
        ({"blocks": 8, "endgid": 2}, Status.INVALID_FIELD),
    ],
)
def test_namespace_that_cannot_be_made_is_refused(host: NvmeHost, fields: dict[str, int], status: Status) -> None:
    assert delete(host, 1) == 0

    assert create(host, **fields)[0] == status

    assert listed(host, Cns.ALLOCATED_NAMESPACE_LIST) == []


def test_namespace_identifiers_are_not_unlimited(host: NvmeHost) -> None:
    assert delete(host, 1) == 0

    assert [create(host, 8) for _ in range(8)] == [(0, nsid) for nsid in range(1, 9)]

    assert create(host, 8)[0] == Status.NS_ID_UNAVAILABLE


def test_namespace_attachment_refuses_what_cannot_be(host: NvmeHost) -> None:
    cntlid = host.cntlid

    assert attach(host, 1, cntlid) == Status.NS_ALREADY_ATTACHED
    assert attach(host, 1, cntlid, detach=True) == 0
    assert attach(host, 1, cntlid, detach=True) == Status.NS_NOT_ATTACHED
    assert attach(host, 1, 0x7777) == Status.CTRL_LIST_INVALID
    assert attach(host, 1) == Status.CTRL_LIST_INVALID
    assert attach(host, 3, cntlid) == Status.INVALID_FIELD
    assert attach(host, 0, cntlid) == Status.INVALID_NS
    assert attach(host, BROADCAST, cntlid) == Status.INVALID_FIELD
    assert attach(host, 1, cntlid) == 0
    assert delete(host, 0) == Status.INVALID_NS
    assert delete(host, 3) == Status.INVALID_FIELD
    assert host.admin(AdminOpcode.NAMESPACE_MANAGEMENT, 1, cdw10=2).status == Status.INVALID_FIELD


def test_identify_lists_controllers_and_formats(host: NvmeHost) -> None:
    cntlid = host.cntlid

    assert CONTROLLER_LIST.parse(host.identify(Cns.NAMESPACE_CONTROLLER_LIST, 1).data).cntid[0] == cntlid
    controllers = CONTROLLER_LIST.parse(host.identify(Cns.CONTROLLER_LIST).data)
    assert cntlid in controllers.cntid[: controllers.numid]
    common = IDENTIFY_NAMESPACE.parse(host.identify(Cns.NAMESPACE, BROADCAST).data)
    assert (common.nsze, common.nlbaf_z, common.lbaf[1].lbads) == (0, 7, 12)
    assert host.identify(Cns.IOCS_NAMESPACE, BROADCAST).status == 0
    assert IDENTIFY_NAMESPACE.parse(host.identify(Cns.NAMESPACE_FORMAT, cnssid=1).data).lbaf[1].lbads == 12
    assert host.identify(Cns.IOCS_NAMESPACE_FORMAT, cnssid=1).status == 0
    assert host.identify(Cns.NAMESPACE_FORMAT, cnssid=8).status == Status.INVALID_FIELD
    found = IDENTIFY_INDEPENDENT_NAMESPACE.parse(host.identify(Cns.INDEPENDENT_ALLOCATED_NAMESPACE, 1).data)
    assert (found.nstat, found.fpi) == (1, 0x80)


def test_changed_namespaces_are_in_the_logs_until_they_are_read(host: NvmeHost) -> None:
    host.machine.driver.drain()
    host.log(Lid.CHANGED_ALLOCATED_NAMESPACES, 4096)

    assert host.admin(AdminOpcode.FORMAT_NVM, 1).status == 0

    assert struct.unpack_from("<2I", host.log(Lid.CHANGED_ALLOCATED_NAMESPACES, 4096, rae=True)) == (1, 0)
    assert struct.unpack_from("<2I", host.log(Lid.CHANGED_ALLOCATED_NAMESPACES, 4096)) == (1, 0)
    assert struct.unpack_from("<2I", host.log(Lid.CHANGED_ALLOCATED_NAMESPACES, 4096)) == (0, 0)


def test_effects_tell_what_the_commands_change(host: NvmeHost) -> None:
    data = COMMANDS_SUPPORTED_AND_EFFECTS.parse(host.log(Lid.COMMANDS_SUPPORTED_AND_EFFECTS, 4096))

    effects = {op: COMMAND_EFFECTS.unpack(data.acs[op]) for op in range(256)}
    assert effects[AdminOpcode.FORMAT_NVM][:3] == (1, 1, 1)
    assert effects[AdminOpcode.NAMESPACE_MANAGEMENT].nic == effects[AdminOpcode.NAMESPACE_ATTACHMENT].nic == 1
    assert (effects[AdminOpcode.SANITIZE].lbcc, effects[AdminOpcode.FIRMWARE_COMMIT].ccc) == (1, 1)


# --- write protection ---------------------------------------------------------------------------------------


def test_write_protected_namespace_is_read_and_not_written(host: NvmeHost) -> None:
    host.io(WRITE, data=PATTERN)

    assert host.set_feature(Fid.WRITE_PROTECTION, 1, nsid=1).status == 0

    assert host.feature(Fid.WRITE_PROTECTION, nsid=1).dw0 == 1
    assert namespace(host, 1)["nsattr"] == 1
    assert host.io(READ, nbytes=512).data == PATTERN
    refused = [
        host.io(WRITE, data=PATTERN),
        host.io(NvmOpcode.WRITE_ZEROES),
        host.io(NvmOpcode.WRITE_UNCORRECTABLE),
        host.io(NvmOpcode.DATASET_MANAGEMENT, cdw11=4, data=struct.pack("<IIQ", 0, 1, 0)),
        host.admin(AdminOpcode.FORMAT_NVM, 1),
        host.admin(AdminOpcode.SANITIZE, cdw10=2),
        host.admin(AdminOpcode.NAMESPACE_MANAGEMENT, 1, cdw10=1),
    ]
    assert {answer.status for answer in refused} == {Status.NS_WRITE_PROTECTED}
    assert host.set_feature(Fid.WRITE_PROTECTION, 0, nsid=1).status == 0
    assert host.io(WRITE, data=PATTERN[::-1]).status == 0


@pytest.mark.parametrize("state", [2, 3])
def test_write_protection_for_longer_cannot_be_taken_back(host: NvmeHost, state: int) -> None:
    assert host.set_feature(Fid.WRITE_PROTECTION, 4, nsid=1).status == Status.INVALID_FIELD
    assert host.set_feature(Fid.WRITE_PROTECTION, state, nsid=1).status == 0

    assert host.set_feature(Fid.WRITE_PROTECTION, 0, nsid=1).status == Status.FEATURE_NOT_CHANGEABLE

    assert host.feature(Fid.WRITE_PROTECTION, nsid=1).dw0 == state


def test_transports_are_all_there() -> None:
    assert set(TRANSPORTS) == {"inproc", "inproc-pure", "inproc-virtual", "inproc-tlc", "tcp", "vfio-user"}
    assert QUICK.namespaces_max == 8
