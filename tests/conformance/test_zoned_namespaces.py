"""The Zoned Namespace Command Set over every transport: 16 zones of 128 blocks, of which 96 can be written."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace

import pytest
from nvmehost import BROADCAST, QUICK, TRANSPORTS, Answer, NvmeHost, connected

from nvme_emu.controller.zns_config import ZnsConfig
from nvme_emu.spec.commands import RW_FUA, get_log_page_dwords
from nvme_emu.spec.commands_admin import FORMAT_CDW10, NS_MANAGEMENT_CDW11, SANITIZE_CDW10, SanitizeAction
from nvme_emu.spec.features import ASYNC_EVENT_CONFIG, FEATURE_CAPABILITIES, Fid
from nvme_emu.spec.identify import (
    CSI_ZONED,
    IDENTIFY_IO_COMMAND_SET,
    IDENTIFY_NAMESPACE,
    IOCSV,
    NS_MANAGEMENT,
    Cns,
)
from nvme_emu.spec.logs import COMMAND_EFFECTS, COMMANDS_SUPPORTED_AND_EFFECTS, Lid
from nvme_emu.spec.opcodes import AdminOpcode, NvmOpcode
from nvme_emu.spec.status import Status
from nvme_emu.spec.zns import (
    CHANGED_ZONE_LIST,
    IDENTIFY_ZNS_CONTROLLER,
    IDENTIFY_ZNS_NAMESPACE,
    WP_INVALID,
    ZA,
    ZONE_RECEIVE_CDW13,
    ZONE_SEND_CDW13,
    ReportOption,
    ZoneDescriptor,
    ZoneReceiveAction,
    ZoneSendAction,
    ZoneState,
    parse_zone_report,
)

ZNS = ZnsConfig(zone_size=64 << 10, zone_capacity=48 << 10, max_open=3, max_active=5, zdes=64, zasl=2)
ZSZE, ZCAP, ZONES = 128, 96, 16
S, A = ZoneState, ZoneSendAction


@pytest.fixture(params=TRANSPORTS)
def zoned(request: pytest.FixtureRequest) -> Iterator[NvmeHost]:
    """One zoned namespace of 1 MiB."""
    with connected(request.param, replace(QUICK, zns=ZNS)) as one:
        yield one


def write(host: NvmeHost, slba: int, blocks: int = 1, fill: bytes = b"w", cdw12: int = 0) -> int:
    return host.io(NvmOpcode.WRITE, slba=slba, cdw12=blocks - 1 | cdw12, data=fill * 512 * blocks).status


def read(host: NvmeHost, slba: int, blocks: int = 1) -> Answer:
    return host.io(NvmOpcode.READ, slba=slba, cdw12=blocks - 1, nbytes=512 * blocks)


def append(host: NvmeHost, zslba: int, blocks: int = 1, fill: bytes = b"a") -> Answer:
    return host.io(NvmOpcode.ZONE_APPEND, slba=zslba, cdw12=blocks - 1, data=fill * 512 * blocks)


def send(host: NvmeHost, action: int, slba: int = 0, *, every: bool = False, data: bytes | None = None) -> int:
    cdw13 = ZONE_SEND_CDW13.pack(zsa=action, select_all=int(every))
    return host.io(NvmOpcode.ZONE_MANAGEMENT_SEND, slba=slba, cdw13=cdw13, data=data).status


def receive(
    host: NvmeHost, slba: int = 0, *, nbytes: int = 4096, zra: int = 0, zrasf: int = 0, partial: bool = False
) -> Answer:
    cdw13 = ZONE_RECEIVE_CDW13.pack(zra=zra, zrasf=zrasf, partial=int(partial))
    return host.io(NvmOpcode.ZONE_MANAGEMENT_RECEIVE, slba=slba, cdw12=nbytes // 4 - 1, cdw13=cdw13, nbytes=nbytes)


def zones(host: NvmeHost) -> list[ZoneDescriptor]:
    return parse_zone_report(receive(host).data)[1]


def states(host: NvmeHost) -> dict[int, ZoneState]:
    """The zones that are not Empty, by number."""
    return {one.start // ZSZE: one.state for one in zones(host) if one.state is not S.EMPTY}


def broken(host: NvmeHost, zone: int, action: str) -> None:
    """The medium below a zone fails; only where the device is in this process."""
    from nvme_emu.controller.zone_states import ZoneAction
    from nvme_emu.controller.zoned_admin import break_zone

    machine = host.machine
    with machine.port.lock:
        break_zone(machine.controller.subsystem, 1, zone, ZoneAction[action])


# -- what it is ---------------------------------------------------------------------------------------------


def test_identify_tells_of_the_zones(zoned: NvmeHost) -> None:
    ns = IDENTIFY_ZNS_NAMESPACE.parse(zoned.identify(Cns.IOCS_NAMESPACE, 1, csi=CSI_ZONED).data)
    ctrl = IDENTIFY_ZNS_CONTROLLER.parse(zoned.identify(Cns.IOCS_CONTROLLER, csi=CSI_ZONED).data)

    # Linux refuses namespaces with ZOC set and with zones that are no power of two.
    assert (ns.zoc, ns.ozcs, ns.mar, ns.mor, ns.rrl, ns.frl) == (0, 0, 4, 2, 0, 0)
    assert [(one["zsze"], one["zdes"]) for one in ns.lbafe[:2]] == [(128, 1), (16, 1)]
    assert ctrl.zasl == 2
    assert IDENTIFY_NAMESPACE.parse(zoned.identify(Cns.NAMESPACE, 1).data).nsze == ZONES * ZSZE
    assert zoned.identify(Cns.NAMESPACE_DESCRIPTORS, 1).data.find(bytes([4, 1, 0, 0, CSI_ZONED])) > 0
    for cns in (Cns.IOCS_ACTIVE_NAMESPACE_LIST, Cns.IOCS_ALLOCATED_NAMESPACE_LIST):
        assert zoned.identify(cns, 0, csi=CSI_ZONED).data[:8] == struct.pack("<II", 1, 0)
        assert not any(zoned.identify(cns, 0).data)
    assert zoned.identify(Cns.IOCS_ALLOCATED_NAMESPACE, 1, csi=CSI_ZONED).data == zoned.identify(
        Cns.IOCS_NAMESPACE, 1, csi=CSI_ZONED
    ).data
    assert any(zoned.identify(Cns.IOCS_NAMESPACE, BROADCAST, csi=CSI_ZONED).data)
    assert any(zoned.identify(Cns.IOCS_NAMESPACE_FORMAT, csi=CSI_ZONED, cnssid=1).data)
    assert not any(zoned.identify(Cns.IOCS_NAMESPACE, 7, csi=CSI_ZONED).data)
    assert zoned.identify(Cns.IOCS_NAMESPACE, 0, csi=CSI_ZONED).status == Status.INVALID_NS
    assert zoned.identify(Cns.IOCS_NAMESPACE, 1, csi=1).status == Status.INVALID_FIELD


def test_command_sets_are_a_profile(zoned: NvmeHost) -> None:
    combinations = IDENTIFY_IO_COMMAND_SET.parse(zoned.identify(Cns.IO_COMMAND_SET, cntid=0xFFFF).data).iocsc

    assert combinations[:3] == [IOCSV.pack(nvmcs=1, zncs=1), IOCSV.pack(nvmcs=1), 0]
    assert zoned.feature(Fid.IO_COMMAND_SET_PROFILE).dw0 == 0
    assert zoned.set_feature(Fid.IO_COMMAND_SET_PROFILE, 2).status == Status.IOCS_COMBINATION_REJECTED
    # A zoned namespace is attached.
    assert zoned.set_feature(Fid.IO_COMMAND_SET_PROFILE, 1).status == Status.IOCS_COMBINATION_REJECTED
    assert zoned.set_feature(Fid.IO_COMMAND_SET_PROFILE, 0).status == 0
    detach = struct.pack("<HH", 1, zoned.cntlid).ljust(4096, b"\0")
    assert zoned.admin(AdminOpcode.NAMESPACE_ATTACHMENT, 1, cdw10=1, data=detach).status == 0
    assert zoned.set_feature(Fid.IO_COMMAND_SET_PROFILE, 1).status == 0
    assert zoned.admin(AdminOpcode.NAMESPACE_ATTACHMENT, 1, cdw10=0, data=detach).status == Status.IOCS_NOT_ENABLED


def test_commands_and_effects_are_of_a_command_set(zoned: NvmeHost) -> None:
    dwords = get_log_page_dwords(Lid.COMMANDS_SUPPORTED_AND_EFFECTS, 4096)._asdict()
    dwords["cdw14"] = CSI_ZONED << 24

    page = zoned.admin(AdminOpcode.GET_LOG_PAGE, BROADCAST, nbytes=4096, **dwords)

    effects = COMMANDS_SUPPORTED_AND_EFFECTS.parse(page.data).iocs
    assert COMMAND_EFFECTS.unpack(effects[NvmOpcode.ZONE_APPEND]).lbcc == 1
    assert all(effects[one] & 1 for one in (NvmOpcode.ZONE_MANAGEMENT_SEND, NvmOpcode.ZONE_MANAGEMENT_RECEIVE))
    plain = COMMANDS_SUPPORTED_AND_EFFECTS.parse(zoned.log(Lid.COMMANDS_SUPPORTED_AND_EFFECTS, 4096)).iocs
    assert plain[NvmOpcode.ZONE_APPEND] == 0


def test_namespaces_of_the_nvm_command_set_have_no_zones(host: NvmeHost) -> None:
    assert append(host, 0).status == send(host, A.OPEN) == receive(host).status == Status.INVALID_OPCODE
    assert host.identify(Cns.IOCS_NAMESPACE, 1, csi=CSI_ZONED).status == Status.INVALID_FIELD
    assert host.try_log(Lid.CHANGED_ZONES, 4096).status == Status.INVALID_LOG_PAGE


# -- writing and reading ------------------------------------------------------------------------------------


def test_writes_follow_the_write_pointer(zoned: NvmeHost) -> None:
    assert write(zoned, ZSZE, 8) == 0
    assert write(zoned, ZSZE + 9) == write(zoned, ZSZE) == Status.ZONE_INVALID_WRITE
    assert write(zoned, ZSZE + 8, 80, cdw12=RW_FUA) == 0

    assert write(zoned, ZSZE + 88, 9) == Status.ZONE_BOUNDARY_ERROR
    assert states(zoned) == {1: S.IMPLICITLY_OPENED}
    assert write(zoned, ZSZE + 88, 8) == 0
    assert states(zoned) == {1: S.FULL}
    assert write(zoned, ZSZE + 96) == write(zoned, ZSZE) == Status.ZONE_FULL
    assert zones(zoned)[1] == ZoneDescriptor(S.FULL, ZCAP, ZSZE, WP_INVALID)
    assert zones(zoned)[2] == ZoneDescriptor(S.EMPTY, ZCAP, 2 * ZSZE, 2 * ZSZE)
    assert write(zoned, ZONES * ZSZE) == Status.LBA_RANGE


def test_reads_stay_in_a_zone_and_find_zeros_above_the_write_pointer(zoned: NvmeHost) -> None:
    write(zoned, 0, 4)

    assert read(zoned, 2, 4).data == b"w" * 1024 + bytes(1024)
    assert read(zoned, ZSZE - 1).data == bytes(512)
    assert read(zoned, ZSZE - 1, 2).status == Status.ZONE_BOUNDARY_ERROR
    assert zoned.io(NvmOpcode.COMPARE, slba=2, cdw12=3, data=b"w" * 1024 + bytes(1024)).status == 0
    assert zoned.io(NvmOpcode.COMPARE, slba=ZSZE - 1, cdw12=1, data=bytes(1024)).status == Status.ZONE_BOUNDARY_ERROR
    assert zoned.io(NvmOpcode.VERIFY, slba=0, cdw12=7).status == 0


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_reads_go_across_zones_where_that_is_offered(transport: str) -> None:
    with connected(transport, replace(QUICK, zns=replace(ZNS, cross_read=True))) as host:
        write(host, ZSZE, 1)
        assert IDENTIFY_ZNS_NAMESPACE.parse(host.identify(Cns.IOCS_NAMESPACE, 1, csi=CSI_ZONED).data).ozcs == 1
        assert read(host, ZSZE - 1, 2).data == bytes(512) + b"w" * 512
        assert write(host, ZSZE + 1, 120) == Status.ZONE_BOUNDARY_ERROR


def test_append_tells_where_it_wrote(zoned: NvmeHost) -> None:
    assert append(zoned, 2 * ZSZE, 3) == (0, 2 * ZSZE, b"")
    assert append(zoned, 2 * ZSZE, 2, b"b").dw0 == 2 * ZSZE + 3

    assert read(zoned, 2 * ZSZE + 2, 2).data == b"a" * 512 + b"b" * 512
    assert append(zoned, 2 * ZSZE + 1).status == Status.INVALID_FIELD
    # ZASL: four pages.
    assert append(zoned, 2 * ZSZE, 33).status == Status.INVALID_FIELD
    assert [append(zoned, 2 * ZSZE, 32).status for _ in range(3)] == [0, 0, Status.ZONE_BOUNDARY_ERROR]
    assert append(zoned, 2 * ZSZE, 27).status == 0
    assert append(zoned, 2 * ZSZE).status == Status.ZONE_FULL
    assert append(zoned, ZONES * ZSZE).status == Status.LBA_RANGE
    assert zoned.io(NvmOpcode.ZONE_APPEND, slba=0, cdw12=1 << 25, data=bytes(512)).status == Status.INVALID_FIELD


def test_other_writing_commands_move_the_write_pointer(zoned: NvmeHost) -> None:
    assert zoned.io(NvmOpcode.WRITE_ZEROES, slba=0, cdw12=7).status == 0
    assert zoned.io(NvmOpcode.WRITE_ZEROES, slba=0, cdw12=7).status == Status.ZONE_INVALID_WRITE
    assert zoned.io(NvmOpcode.WRITE_UNCORRECTABLE, slba=8, cdw12=0).status == 0
    assert zoned.io(NvmOpcode.WRITE_UNCORRECTABLE, slba=8, cdw12=0).status == Status.ZONE_INVALID_WRITE
    assert write(zoned, 9, 3) == 0
    assert read(zoned, 8).status == Status.READ_ERROR

    ranges = b"".join(struct.pack("<I4xQH14x", 0, slba, count - 1) for slba, count in ((9, 3), (0, 2)))
    assert zoned.io(NvmOpcode.COPY, slba=ZSZE, cdw12=1, data=ranges).status == 0
    assert zoned.io(NvmOpcode.COPY, slba=ZSZE, cdw12=1, data=ranges).status == Status.ZONE_INVALID_WRITE
    assert [one.wp for one in zones(zoned)[:2]] == [12, ZSZE + 5]
    assert read(zoned, ZSZE, 5).data == b"w" * 1536 + bytes(1024)
    across = struct.pack("<I4xQH14x", 0, ZSZE - 1, 1)
    assert zoned.io(NvmOpcode.COPY, slba=2 * ZSZE, data=across).status == Status.ZONE_BOUNDARY_ERROR
    assert send(zoned, A.RESET, 0) == 0
    assert read(zoned, 8).data == bytes(512)


def test_deallocating_moves_no_write_pointer(zoned: NvmeHost) -> None:
    write(zoned, 0, 8)

    data = struct.pack("<IIQ", 0, 4, 0)
    assert zoned.io(NvmOpcode.DATASET_MANAGEMENT, cdw10=0, cdw11=4, data=data).status == 0

    assert read(zoned, 0, 8).data == bytes(2048) + b"w" * 2048
    assert zones(zoned)[0].wp == 8


# -- zone management ----------------------------------------------------------------------------------------


def test_zones_are_opened_closed_finished_and_reset(zoned: NvmeHost) -> None:
    assert send(zoned, A.CLOSE, 0) == Status.ZONE_INVALID_TRANSITION
    assert send(zoned, A.OPEN, 0) == send(zoned, A.OPEN, 0) == 0
    assert states(zoned) == {0: S.EXPLICITLY_OPENED}
    assert write(zoned, 0, 4) == 0
    assert states(zoned) == {0: S.EXPLICITLY_OPENED}
    assert send(zoned, A.CLOSE, 0) == send(zoned, A.CLOSE, 0) == 0
    assert states(zoned) == {0: S.CLOSED}
    assert write(zoned, 4, 4) == 0
    assert states(zoned) == {0: S.IMPLICITLY_OPENED}

    assert send(zoned, A.FINISH, 0) == send(zoned, A.FINISH, 0) == send(zoned, A.FINISH, ZSZE) == 0
    assert states(zoned) == {0: S.FULL, 1: S.FULL}
    assert read(zoned, 6, 4).data == b"w" * 1024 + bytes(1024)
    for action in (A.OPEN, A.CLOSE, A.OFFLINE):
        assert send(zoned, action, 0) == Status.ZONE_INVALID_TRANSITION
    assert send(zoned, A.RESET, 0) == send(zoned, A.RESET, 0) == 0
    assert states(zoned) == {1: S.FULL}
    assert read(zoned, 0, 8).data == bytes(4096)
    assert send(zoned, A.OPEN, 1) == Status.INVALID_FIELD
    assert send(zoned, A.OPEN, ZONES * ZSZE) == Status.LBA_RANGE
    assert send(zoned, 0) == send(zoned, 6) == send(zoned, A.FLUSH_ZRWA) == Status.INVALID_FIELD
    zrwa = ZONE_SEND_CDW13.pack(zsa=A.OPEN, zsaso=1)
    assert zoned.io(NvmOpcode.ZONE_MANAGEMENT_SEND, cdw13=zrwa).status == Status.INVALID_FIELD


def test_resources_are_limited(zoned: NvmeHost) -> None:
    for zone in range(3):
        assert send(zoned, A.OPEN, zone * ZSZE) == 0
    assert send(zoned, A.OPEN, 3 * ZSZE) == write(zoned, 3 * ZSZE) == Status.ZONE_TOO_MANY_OPEN
    assert append(zoned, 3 * ZSZE).status == Status.ZONE_TOO_MANY_OPEN
    assert send(zoned, A.CLOSE, 0) == write(zoned, 3 * ZSZE) == 0
    assert states(zoned) == {0: S.CLOSED, 1: S.EXPLICITLY_OPENED, 2: S.EXPLICITLY_OPENED, 3: S.IMPLICITLY_OPENED}

    # The controller closes what it has opened by itself.
    assert write(zoned, 4 * ZSZE) == 0
    assert states(zoned)[3] is S.CLOSED
    assert send(zoned, A.OPEN, 0) == 0
    assert states(zoned)[4] is S.CLOSED
    # Five are active; that one too many would be open as well is not what it ends with.
    assert write(zoned, 5 * ZSZE) == send(zoned, A.OPEN, 5 * ZSZE) == Status.ZONE_TOO_MANY_ACTIVE
    assert send(zoned, A.SET_EXTENSION, 5 * ZSZE, data=bytes(64)) == Status.ZONE_TOO_MANY_ACTIVE
    assert send(zoned, A.FINISH, 3 * ZSZE) == 0
    assert send(zoned, A.SET_EXTENSION, 5 * ZSZE, data=bytes(64)) == 0


def test_select_all_means_the_zones_that_can(zoned: NvmeHost) -> None:
    send(zoned, A.FINISH, 7 * ZSZE)
    for zone in range(4):
        write(zoned, zone * ZSZE)
    assert states(zoned) == {0: S.CLOSED, 7: S.FULL} | dict.fromkeys((1, 2, 3), S.IMPLICITLY_OPENED)

    assert send(zoned, A.CLOSE, 99, every=True) == 0
    assert states(zoned) == dict.fromkeys(range(4), S.CLOSED) | {7: S.FULL}
    assert send(zoned, A.OPEN, every=True) == Status.ZONE_TOO_MANY_OPEN
    assert states(zoned) == dict.fromkeys(range(4), S.CLOSED) | {7: S.FULL}
    assert send(zoned, A.RESET, 0) == send(zoned, A.OPEN, every=True) == 0
    assert states(zoned) == dict.fromkeys((1, 2, 3), S.EXPLICITLY_OPENED) | {7: S.FULL}
    assert send(zoned, A.FINISH, every=True) == send(zoned, A.OFFLINE, every=True) == 0
    assert states(zoned) == dict.fromkeys((1, 2, 3, 7), S.FULL)
    assert send(zoned, A.RESET, every=True) == 0
    assert states(zoned) == {}
    assert read(zoned, ZSZE).data == bytes(512)


def test_zone_descriptor_extension_is_set_and_reported(zoned: NvmeHost) -> None:
    extension = bytes(range(64))
    assert send(zoned, A.SET_EXTENSION, ZSZE, data=extension) == 0
    assert send(zoned, A.SET_EXTENSION, ZSZE, data=extension) == Status.ZONE_INVALID_TRANSITION
    assert send(zoned, A.SET_EXTENSION, 0, every=True, data=extension) == Status.INVALID_FIELD

    report = receive(zoned, zra=ZoneReceiveAction.EXTENDED_REPORT).data

    total, found = parse_zone_report(report, 64)
    assert total == len(found) == ZONES
    assert found[1] == ZoneDescriptor(S.CLOSED, ZCAP, ZSZE, ZSZE, ZA.mask("zdev"), extension)
    assert found[0].extension == b""
    assert zones(zoned)[1].attributes == ZA.mask("zdev")
    assert write(zoned, ZSZE, ZCAP) == 0
    assert zones(zoned)[1].attributes == ZA.mask("zdev")
    send(zoned, A.RESET, ZSZE)
    assert zones(zoned)[1].attributes == 0


def test_reports_are_selected_and_cut(zoned: NvmeHost) -> None:
    write(zoned, 2 * ZSZE)
    send(zoned, A.OPEN, 3 * ZSZE)
    send(zoned, A.OPEN, 4 * ZSZE)
    send(zoned, A.CLOSE, 4 * ZSZE)
    send(zoned, A.FINISH, 5 * ZSZE)

    def listed(option: int, slba: int = 0) -> list[int]:
        total, found = parse_zone_report(receive(zoned, slba, zrasf=option).data)
        assert total == len(found)
        return [one.start // ZSZE for one in found]

    assert listed(ReportOption.ALL, 14 * ZSZE + 5) == [14, 15]
    assert listed(ReportOption.EMPTY) == [0, 1, *range(6, 16)]
    assert listed(ReportOption.IMPLICITLY_OPENED) == [2]
    assert listed(ReportOption.EXPLICITLY_OPENED) == [3]
    assert listed(ReportOption.CLOSED) == [4]
    assert listed(ReportOption.FULL) == [5]
    assert listed(ReportOption.READ_ONLY) == listed(ReportOption.OFFLINE) == []
    short, partial = receive(zoned, nbytes=64 + 64 + 60), receive(zoned, nbytes=64 + 64 + 60, partial=True)
    assert [one.data[0] for one in (short, partial)] == [16, 1]
    assert short.data[64:] == partial.data[64:] == receive(zoned).data[64:128] + bytes(60)
    assert receive(zoned, nbytes=60).status == receive(zoned, zrasf=8).status == Status.INVALID_FIELD
    assert receive(zoned, zra=2).status == Status.INVALID_FIELD
    assert receive(zoned, ZONES * ZSZE).status == Status.LBA_RANGE


# -- zones that change by themselves ------------------------------------------------------------------------


@pytest.fixture(params=[one for one in TRANSPORTS if one.startswith("inproc")])
def breakable(request: pytest.FixtureRequest) -> Iterator[NvmeHost]:
    """The device is in this process, where its medium can fail."""
    with connected(request.param, replace(QUICK, zns=ZNS)) as one:
        yield one


def changed(host: NvmeHost, *, rae: bool = False, nsid: int = 1) -> Answer:
    dwords = get_log_page_dwords(Lid.CHANGED_ZONES, 4096, rae=rae)._asdict()
    return host.admin(AdminOpcode.GET_LOG_PAGE, nsid, nbytes=4096, **dwords)


def test_broken_zones_refuse_and_are_told_of(breakable: NvmeHost) -> None:
    host = breakable
    assert host.set_feature(Fid.ASYNC_EVENT_CONFIG, ASYNC_EVENT_CONFIG.mask("zdcn")).status == 0
    write(host, 0, 4)
    write(host, ZSZE, 4)
    broken(host, 0, "BREAK_READ_ONLY")
    broken(host, 1, "BREAK_OFFLINE")

    assert states(host) == {0: S.READ_ONLY, 1: S.OFFLINE}
    assert [one.wp for one in zones(host)[:2]] == [WP_INVALID] * 2
    assert read(host, 0, 4).data == b"w" * 2048
    assert read(host, ZSZE).status == Status.ZONE_OFFLINE
    assert (write(host, 4), write(host, ZSZE + 4)) == (Status.ZONE_READ_ONLY, Status.ZONE_OFFLINE)
    data = struct.pack("<IIQ", 0, 4, 0)
    assert host.io(NvmOpcode.DATASET_MANAGEMENT, cdw11=4, data=data).status == Status.READ_ONLY
    for action in (A.OPEN, A.CLOSE, A.FINISH, A.RESET):
        assert send(host, action, 0) == send(host, action, ZSZE) == Status.ZONE_INVALID_TRANSITION
    assert send(host, A.RESET, every=True) == 0
    assert send(host, A.OFFLINE, 0) == send(host, A.OFFLINE, ZSZE) == 0
    assert states(host) == {0: S.OFFLINE, 1: S.OFFLINE}


def test_changed_zone_list_is_of_a_namespace_and_cleared_by_reading(breakable: NvmeHost) -> None:
    host = breakable
    host.set_feature(Fid.ASYNC_EVENT_CONFIG, 0)
    broken(host, 3, "BREAK_READ_ONLY")
    broken(host, 2, "BREAK_OFFLINE")

    kept = CHANGED_ZONE_LIST.parse(changed(host, rae=True).data)

    assert (kept.nrzid, kept.zid[:3]) == (2, [2 * ZSZE, 3 * ZSZE, 0])
    assert changed(host).data[:2] == b"\2\0"
    assert changed(host).data == bytes(4096)
    assert changed(host, nsid=BROADCAST).status == changed(host, nsid=0).status == Status.INVALID_NS
    assert changed(host, nsid=5).status == Status.INVALID_FIELD


def test_zone_notices_can_be_masked(zoned: NvmeHost) -> None:
    mask = ASYNC_EVENT_CONFIG.mask("zdcn")
    assert int.from_bytes(zoned.identify(Cns.CONTROLLER).data[92:96], "little") & mask
    assert zoned.set_feature(Fid.ASYNC_EVENT_CONFIG, mask).status == 0
    assert zoned.feature(Fid.ASYNC_EVENT_CONFIG).dw0 == mask
    assert FEATURE_CAPABILITIES.unpack(zoned.feature(Fid.ASYNC_EVENT_CONFIG, sel=3).dw0).changeable


# -- format, sanitize, management ---------------------------------------------------------------------------


def test_format_and_sanitize_empty_the_zones(zoned: NvmeHost) -> None:
    write(zoned, 0, 4)
    send(zoned, A.SET_EXTENSION, ZSZE, data=b"x" * 64)

    assert zoned.admin(AdminOpcode.FORMAT_NVM, 1, cdw10=FORMAT_CDW10.pack(lbafl=1)).status == 0

    found = zones(zoned)
    assert len(found) == ZONES
    assert found[1] == ZoneDescriptor(S.EMPTY, ZCAP // 8, ZSZE // 8, ZSZE // 8)
    assert zoned.io(NvmOpcode.WRITE, slba=ZSZE // 8, data=b"w" * 4096).status == 0
    how = SANITIZE_CDW10.pack(sanact=SanitizeAction.OVERWRITE, owpass=1, ndas=1)
    assert zoned.admin(AdminOpcode.SANITIZE, cdw10=how, cdw11=0x5A5A5A5A).status == 0
    zoned.until(lambda: zoned.log(Lid.SANITIZE_STATUS, 20)[2] & 7 == 1)
    assert zones(zoned) == found
    assert zoned.io(NvmOpcode.READ, slba=ZSZE // 8, nbytes=4096).data == bytes(4096)


def test_zoned_namespace_is_created_and_deleted(zoned: NvmeHost) -> None:
    def create(nsze: int, rar: int = 0, ror: int = 0, options: int = 0) -> Answer:
        data = bytearray(NS_MANAGEMENT.build(nsze=nsze, ncap=nsze))
        data[499:512] = struct.pack("<BIII", options, rar, ror, 0)
        cdw11 = NS_MANAGEMENT_CDW11.pack(csi=CSI_ZONED)
        return zoned.admin(AdminOpcode.NAMESPACE_MANAGEMENT, cdw11=cdw11, data=bytes(data))

    attach = struct.pack("<HH", 1, zoned.cntlid).ljust(4096, b"\0")
    assert zoned.admin(AdminOpcode.NAMESPACE_MANAGEMENT, 1, cdw10=1).status == 0
    assert create(ZSZE + 1).status == create(ZSZE, rar=6).status == create(ZSZE, ror=4).status == Status.INVALID_FIELD
    assert create(ZSZE, options=1).status == create(ZSZE, 1, 2).status == Status.INVALID_FIELD

    made = create(4 * ZSZE, rar=2, ror=1)

    assert made == (0, 1, b"")
    assert zoned.admin(AdminOpcode.NAMESPACE_ATTACHMENT, 1, data=attach).status == 0
    ns = IDENTIFY_ZNS_NAMESPACE.parse(zoned.identify(Cns.IOCS_NAMESPACE, 1, csi=CSI_ZONED).data)
    assert (ns.mar, ns.mor) == (1, 0)
    assert len(zones(zoned)) == 4
    assert write(zoned, 0) == write(zoned, ZSZE) == 0
    assert states(zoned) == {0: S.CLOSED, 1: S.IMPLICITLY_OPENED}
    # One of the NVM Command Set beside it.
    plain = NS_MANAGEMENT.build(nsze=64, ncap=64)
    assert zoned.admin(AdminOpcode.NAMESPACE_MANAGEMENT, data=plain).dw0 == 2
    assert zoned.admin(AdminOpcode.NAMESPACE_ATTACHMENT, 2, data=attach).status == 0
    assert zoned.identify(Cns.IOCS_NAMESPACE, 2, csi=CSI_ZONED).status == Status.INVALID_FIELD
    assert zoned.io(NvmOpcode.WRITE, 2, slba=9, data=bytes(512)).status == 0
    assert zoned.io(NvmOpcode.FLUSH, BROADCAST).status == 0


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_formats_with_metadata_are_not_for_zoned_namespaces(transport: str) -> None:
    with connected(transport, replace(QUICK, zns=ZNS, metadata=True)) as host:
        formats = IDENTIFY_NAMESPACE.parse(host.identify(Cns.NAMESPACE, 1).data)
        with_metadata = next(n for n in range(formats.nlbaf_z + 1) if formats.lbaf[n]["ms"])
        extensions = IDENTIFY_ZNS_NAMESPACE.parse(host.identify(Cns.IOCS_NAMESPACE, 1, csi=CSI_ZONED).data).lbafe
        assert extensions[with_metadata]["zsze"] == 0
        answer = host.admin(AdminOpcode.FORMAT_NVM, 1, cdw10=FORMAT_CDW10.pack(lbafl=with_metadata))
        assert answer.status == Status.INVALID_FORMAT
        assert write(host, 0) == 0


def test_error_log_names_the_block_that_was_to_be_written(zoned: NvmeHost) -> None:
    assert write(zoned, 5) == Status.ZONE_INVALID_WRITE

    newest = zoned.log(Lid.ERROR_INFORMATION, 64)

    assert int.from_bytes(newest[16:24], "little") == 5
    assert int.from_bytes(newest[12:14], "little") >> 1 & 0x7FF == Status.ZONE_INVALID_WRITE
