"""Identify: every structure through the specification's own declaration, and every wrong field."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import pytest
from adminhost import BROADCAST, PAGE, AdminHost, code

from nvme_emu.controller.admin import ADMIN_HANDLERS
from nvme_emu.controller.config import ControllerConfig
from nvme_emu.controller.features import FEATURES
from nvme_emu.controller.nvm import NVM_HANDLERS
from nvme_emu.media.ram import RamMedia
from nvme_emu.media.sparse import SparseMedia
from nvme_emu.spec.features import Fid
from nvme_emu.spec.identify import (
    CONTROLLER_LIST,
    CTRATT,
    FNA,
    FRMW,
    IDENTIFY_CONTROLLER,
    IDENTIFY_INDEPENDENT_NAMESPACE,
    IDENTIFY_IO_COMMAND_SET,
    IDENTIFY_NAMESPACE,
    IDENTIFY_NVM_CONTROLLER,
    IDENTIFY_NVM_NAMESPACE,
    LPA,
    NAMESPACE_LIST,
    NSFEAT,
    OACS,
    ONCS,
    VWC,
    Cns,
    Nidt,
    parse_ns_descriptors,
)
from nvme_emu.spec.opcodes import AdminOpcode, NvmOpcode
from nvme_emu.spec.registers import Reg
from nvme_emu.spec.status import DNR, MORE, Status

NN = 8
ZEROS = bytes(PAGE)


def host(**options: Any) -> AdminHost:
    """Namespaces 1 and 2 of 8 possible ones; 3 to 8 are inactive."""
    config = ControllerConfig(namespaces_max=NN, **options.pop("config", {}))
    media = options.pop("media", None) or [RamMedia(1 << 20), RamMedia(1 << 19)]
    return AdminHost(config=config, media=media, **options)


def controller(one: AdminHost) -> Any:
    return IDENTIFY_CONTROLLER.parse(one.identified(Cns.CONTROLLER))


# --- Identify Controller ------------------------------------------------------------------------------------


def test_identify_controller_names_what_is_configured() -> None:
    one = host(
        config={"vid": 0x1AF4, "ssvid": 0x1AF5, "sn": "S1", "mn": "M 2", "fr": "F3", "cntlid": 7, "rab": 2}
    )

    data = controller(one)

    assert (data.vid, data.ssvid, data.sn, data.mn, data.fr) == (0x1AF4, 0x1AF5, "S1", "M 2", "F3")
    assert (data.cntlid, data.rab, data.ieee) == (7, 2, one.config.ieee_oui)
    assert (data.sqes, data.cqes, data.cntrltype, data.kas) == (0x66, 0x44, 1, 0)
    assert (data.nn, data.mnan, data.mdts) == (NN, NN, one.config.mdts)
    assert data.tnvmcap == (1 << 20) + (1 << 19)
    assert (data.rtd3e, data.crdt1, data.crdt2, data.crdt3) == (one.config.rtd3e_us, 0, 0, 0)


def test_identify_controller_version_is_that_of_the_register() -> None:
    one = host()

    assert controller(one).ver == one.read(Reg.VS) == 0x0002_0100


def test_identify_controller_limits_are_those_that_are_enforced() -> None:
    one = host(config={"aerl_z": 1, "acl_z": 2, "elpe_z": 9})

    data = controller(one)

    assert (data.aerl_z, data.acl_z, data.elpe_z) == (1, 2, 9)


def test_identify_controller_offers_exactly_the_commands_that_are_handled() -> None:
    data = controller(host())
    oncs, oacs = ONCS.unpack(data.oncs), OACS.unpack(data.oacs)
    optional = {
        "nvmcmps": NvmOpcode.COMPARE,
        "nvmwusv": NvmOpcode.WRITE_UNCORRECTABLE,
        "nvmdsmsv": NvmOpcode.DATASET_MANAGEMENT,
        "nvmwzsv": NvmOpcode.WRITE_ZEROES,
        "reservs": NvmOpcode.RESERVATION_REGISTER,
        "nvmvfys": NvmOpcode.VERIFY,
        "nvmcpys": NvmOpcode.COPY,
    }
    admin = {
        "ssrs": AdminOpcode.SECURITY_SEND,
        "fnvms": AdminOpcode.FORMAT_NVM,
        "fwds": AdminOpcode.FIRMWARE_COMMIT,
        "nms": AdminOpcode.NAMESPACE_MANAGEMENT,
        "dsts": AdminOpcode.DEVICE_SELF_TEST,
        "dirs": AdminOpcode.DIRECTIVE_SEND,
        "nsrs": AdminOpcode.NVME_MI_SEND,
        "vms": AdminOpcode.VIRTUALIZATION_MANAGEMENT,
        "dbcs": AdminOpcode.DOORBELL_BUFFER_CONFIG,
        "glss": AdminOpcode.GET_LBA_STATUS,
        "cfls": AdminOpcode.LOCKDOWN,
        "hmlms": AdminOpcode.MIGRATION_SEND,
    }

    assert {f: getattr(oncs, f) for f in optional} == {
        f: int(op in NVM_HANDLERS) for f, op in optional.items()
    }
    assert {f: getattr(oacs, f) for f in admin} == {f: int(op in ADMIN_HANDLERS) for f, op in admin.items()}
    assert oncs.tss == int(Fid.TIMESTAMP in FEATURES)
    assert oncs.ssfs == 1
    assert (data.kas == 0) == (AdminOpcode.KEEP_ALIVE not in ADMIN_HANDLERS)


def test_identify_controller_says_what_is_offered_and_what_is_not() -> None:
    data = controller(host())

    zero = (
        "cmic",
        "hmpre",
        "rpmbs",
        "anacap",
        "apsta",
    )
    assert {name: data[name] for name in zero} == dict.fromkeys(zero, 0)
    assert LPA.unpack(data.lpa)._asdict() == {
        "smarts": 0, "cses": 1, "lpeds": 1, "ts": 1, "pes": 1, "mlps": 1, "da4s": 0, "rsvd7": 0
    }  # fmt: skip
    assert FRMW.unpack(data.frmw)._asdict() == {"ffsro": 1, "nofs": 3, "fawr": 1, "smud": 0, "rsvd6": 0}
    assert data.oaes == 1 << 8 | 1 << 9 | 1 << 13 | 1 << 14 | 1 << 16 | 1 << 19
    assert FNA.unpack(data.fna)._asdict() == {"fns": 0, "sens": 0, "cryes": 1, "bcnsid": 0, "rsvd4": 0}
    assert (data.fuses, data.nwpc, data.cdfs) == (1, 0b111, 0b101)
    assert CTRATT.unpack(data.ctratt)._asdict() == dict.fromkeys(CTRATT.unpack(0)._fields, 0) | {
        "hids": 1, "rhii": 1, "egs": 1
    }  # fmt: skip
    assert (data.endgidmax, data.anagrpmax, data.nanagrpid) == (1, 0, 0)
    assert data.sanicap & 0b1111 == 0b0111
    assert (data.unvmcap, data.edstt, data.mtfa, data.pels) == (0, 1, 1, 4)


@pytest.mark.parametrize("present", [False, True])
def test_identify_controller_write_cache_is_that_of_the_configuration(present: bool) -> None:
    vwc = VWC.unpack(controller(host(config={"volatile_write_cache": present})).vwc)

    assert (vwc.vwcp, vwc.fb) == (int(present), 3)


def test_identify_controller_temperatures_and_power_states_are_in_order() -> None:
    data = controller(host(config={"npss_z": 3}))

    assert 0 < data.wctemp < data.cctemp
    power = [state.mp for state in data.psd[:4]]
    assert power == sorted(power, reverse=True)
    assert min(power) > 0
    assert all(state.mp == 0 for state in data.psd[4:])


@pytest.mark.parametrize(
    "subnqn", ["", "nqn.2014-08.org.nvmexpress:uuid:11111111-2222-4333-8444-555555555555"]
)
def test_identify_controller_subnqn_is_a_valid_name(subnqn: str) -> None:
    data = controller(host(config={"subnqn": subnqn}))

    assert re.fullmatch(
        r"nqn\.2014-08\.org\.nvmexpress:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", data.subnqn
    )
    assert subnqn in ("", data.subnqn)


def test_identify_controller_subnqn_differs_between_serial_numbers_only() -> None:
    first, same, other = (controller(host(config={"sn": sn})).subnqn for sn in ("A", "A", "B"))

    assert first == same != other


# --- Identify Namespace -------------------------------------------------------------------------------------


@pytest.mark.parametrize("cns", [Cns.NAMESPACE, Cns.ALLOCATED_NAMESPACE])
@pytest.mark.parametrize(("lba_size", "lbads"), [(512, 9), (4096, 12)])
def test_identify_namespace_has_the_size_and_the_names(cns: int, lba_size: int, lbads: int) -> None:
    one = host(lba_size=lba_size)

    data = IDENTIFY_NAMESPACE.parse(one.identified(cns, 2))

    namespace = one.ctrl.namespaces[2]
    assert data.nsze == data.ncap == data.nuse == (1 << 19) // lba_size
    assert data.nlbaf_z == 7
    assert [(one.lbads, one.ms) for one in data.lbaf[:4]] == [(9, 0), (12, 0), (9, 8), (12, 8)]
    assert [(one.lbads, one.ms) for one in data.lbaf[6:9]] == [(9, 64), (12, 64), (0, 0)]
    assert (data.lbaf[data.flbas].lbads, data.fpi) == (lbads, 0x80)
    assert (data.nguid, data.eui64, data.nvmcap) == (namespace.nguid, namespace.eui64, 1 << 19)
    assert (data.mc, data.dpc, data.dps, data.nmic, data.rescap) == (3, 0x1F, 0, 0, 0xFF)


def test_identify_namespace_on_sparse_media_tells_what_is_used() -> None:
    media = SparseMedia(1 << 20)
    one = host(media=[media])
    media.write(0, bytes([1]) * 4096)

    data = IDENTIFY_NAMESPACE.parse(one.identified(Cns.NAMESPACE, 1))

    assert NSFEAT.unpack(data.nsfeat).thinp == 1
    assert 4096 // 512 <= data.nuse < data.nsze


def test_identify_namespace_command_set_independent_says_ready() -> None:
    assert IDENTIFY_INDEPENDENT_NAMESPACE.parse(host().identified(Cns.INDEPENDENT_NAMESPACE, 1)).nstat == 1


def test_identify_namespace_of_the_nvm_command_set_has_no_protection() -> None:
    data = IDENTIFY_NVM_NAMESPACE.parse(host().identified(Cns.IOCS_NAMESPACE, 1))

    assert (data.lbstm, data.pic, set(data.elbaf)) == (0, 0, {0})


@pytest.mark.parametrize(
    "cns", [Cns.NAMESPACE, Cns.IOCS_NAMESPACE, Cns.INDEPENDENT_NAMESPACE, Cns.ALLOCATED_NAMESPACE]
)
def test_identify_namespace_inactive_gives_zeros(cns: int) -> None:
    assert host().identified(cns, 3) == ZEROS


def test_identify_descriptors_are_those_of_identify_namespace() -> None:
    one = host()
    data = IDENTIFY_NAMESPACE.parse(one.identified(Cns.NAMESPACE, 1))

    found = {d.nidt: d.nid for d in parse_ns_descriptors(one.identified(Cns.NAMESPACE_DESCRIPTORS, 1))}

    assert found[Nidt.NGUID] == data.nguid
    assert found[Nidt.EUI64] == data.eui64
    assert found[Nidt.UUID] == one.ctrl.namespaces[1].uuid.bytes
    assert found[Nidt.CSI] == b"\0"


def test_identify_descriptors_differ_between_namespaces() -> None:
    one = host()

    first, second = (one.identified(Cns.NAMESPACE_DESCRIPTORS, nsid) for nsid in (1, 2))

    assert first != second


# --- lists --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cns", [Cns.ACTIVE_NAMESPACE_LIST, Cns.IOCS_ACTIVE_NAMESPACE_LIST, Cns.ALLOCATED_NAMESPACE_LIST]
)
@pytest.mark.parametrize(("above", "expected"), [(0, [1, 2]), (1, [2]), (2, []), (0xFFFF_FFFD, [])])
def test_identify_namespace_list_holds_those_above_nsid(cns: int, above: int, expected: list[int]) -> None:
    data = NAMESPACE_LIST.parse(host().identified(cns, above))

    assert data.nsid == expected + [0] * (1024 - len(expected))


@pytest.mark.parametrize(("lowest", "expected"), [(0, [5]), (5, [5]), (6, [])])
@pytest.mark.parametrize(("cns", "nsid"), [(Cns.CONTROLLER_LIST, 0), (Cns.NAMESPACE_CONTROLLER_LIST, 1)])
def test_identify_controller_list_starts_at_cntid(
    cns: int, nsid: int, lowest: int, expected: list[int]
) -> None:
    one = host(config={"cntlid": 5})

    data = CONTROLLER_LIST.parse(one.identified(cns, nsid, cntid=lowest))

    assert (data.numid, data.cntid[: data.numid]) == (len(expected), expected)


@pytest.mark.parametrize("cntid", [0xFFFF, 5])
def test_identify_io_command_set_has_the_nvm_command_set_alone(cntid: int) -> None:
    one = host(config={"cntlid": 5})

    data = IDENTIFY_IO_COMMAND_SET.parse(one.identified(Cns.IO_COMMAND_SET, cntid=cntid))

    assert data.iocsc == [1] + [0] * 511


def test_identify_nvm_controller_has_the_configured_limits() -> None:
    one = host(config={"wzsl": 3, "dmrl": 64, "dmrsl": 1000, "dmsl": 5000})

    data = IDENTIFY_NVM_CONTROLLER.parse(one.identified(Cns.IOCS_CONTROLLER))

    assert (data.wzsl, data.dmrl, data.dmrsl, data.dmsl) == (3, 64, 1000, 5000)
    assert (data.vsl, data.wusl) == (0, 0)
    assert data.ver == 0x0001_0100


# --- wrong fields -------------------------------------------------------------------------------------------

PER_NAMESPACE = (
    Cns.NAMESPACE,
    Cns.NAMESPACE_DESCRIPTORS,
    Cns.IOCS_NAMESPACE,
    Cns.INDEPENDENT_NAMESPACE,
    Cns.ALLOCATED_NAMESPACE,
    Cns.IOCS_ALLOCATED_NAMESPACE,
    Cns.INDEPENDENT_ALLOCATED_NAMESPACE,
)
COMMON = {Cns.NAMESPACE, Cns.IOCS_NAMESPACE}
"""With FFFFFFFFh they tell what all namespaces have in common."""
LISTS = (Cns.ACTIVE_NAMESPACE_LIST, Cns.IOCS_ACTIVE_NAMESPACE_LIST, Cns.ALLOCATED_NAMESPACE_LIST)
UNKNOWN = (0x04, 0x0B, 0x0F, 0x14, 0x17, 0x18, 0x1D, 0x20, 0x80, 0xFF)
NSID_AT, CNS_AT, CNTID_AT, CSI_AT = (4, 0), (40, 0), (42, 0), (47, 0)


def _wrong(cnses: Iterable[int], nsids: Iterable[int], status: Status) -> list[Any]:
    return [(cns, {"nsid": nsid}, status, NSID_AT) for cns in cnses for nsid in nsids]


@pytest.mark.parametrize(
    ("cns", "fields", "status", "at"),
    [
        *_wrong(PER_NAMESPACE, (0, NN + 1), Status.INVALID_NS),
        *_wrong(set(PER_NAMESPACE) - COMMON, [BROADCAST], Status.INVALID_NS),
        *_wrong(LISTS, (BROADCAST - 1, BROADCAST), Status.INVALID_NS),
        *_wrong([Cns.NAMESPACE_DESCRIPTORS], [3], Status.INVALID_NS),
        *_wrong([Cns.NAMESPACE_CONTROLLER_LIST], [3, BROADCAST], Status.INVALID_FIELD),
        *_wrong([Cns.NAMESPACE_CONTROLLER_LIST], [0, NN + 1], Status.INVALID_NS),
        (Cns.IOCS_NAMESPACE, {"nsid": 1, "csi": 2}, Status.INVALID_FIELD, CSI_AT),
        (Cns.IOCS_CONTROLLER, {"csi": 1}, Status.INVALID_FIELD, CSI_AT),
        (Cns.IOCS_ACTIVE_NAMESPACE_LIST, {"csi": 0xFF}, Status.INVALID_FIELD, CSI_AT),
        (Cns.IO_COMMAND_SET, {"cntid": 9}, Status.INVALID_FIELD, CNTID_AT),
        *[(cns, {"nsid": 1}, Status.INVALID_FIELD, CNS_AT) for cns in UNKNOWN],
    ],
)
def test_identify_with_a_wrong_field_fails(
    cns: int, fields: dict[str, int], status: Status, at: tuple[int, int]
) -> None:
    one = host()

    completion = one.identify(cns, **fields)

    assert completion.status == status | DNR | MORE
    assert one.memory.read(one.data, 2 * PAGE) == b"\xa5" * 2 * PAGE
    entry = one.newest_error()
    assert (entry.pel & 0xFF, entry.pel >> 8) == at
    assert (entry.sqid, entry.opc, entry.nsid) == (0, AdminOpcode.IDENTIFY, fields.get("nsid", 0))


def test_identify_unused_fields_are_ignored() -> None:
    one = host()

    assert one.identified(Cns.CONTROLLER, 0x1234, cntid=77, csi=9, cnssid=5) == one.identified(Cns.CONTROLLER)


@pytest.mark.parametrize("offset", [4, 0x800, 0xFFC])
def test_identify_across_a_page_boundary_uses_both_prps(offset: int) -> None:
    one = host()
    expected = one.identified(Cns.CONTROLLER)

    completion = one.identify(Cns.CONTROLLER) and one.do(
        AdminOpcode.IDENTIFY, cdw10=Cns.CONTROLLER, prp1=one.data + offset, prp2=one.data + PAGE
    )

    assert completion.status == 0
    assert one.memory.read(one.data + offset, PAGE - offset) == expected[: PAGE - offset]
    assert one.memory.read(one.data + PAGE, offset) == expected[PAGE - offset :]


@pytest.mark.parametrize(
    ("prps", "status"),
    [
        ({"prp1": 2}, Status.PRP_INVALID_OFFSET),
        ({"prp1": 4, "prp2": 8}, Status.PRP_INVALID_OFFSET),
        ({"prp1": 0xDEAD_0000_0000}, Status.DATA_XFER_ERROR),
    ],
)
def test_identify_with_bad_prps_fails(prps: dict[str, int], status: Status) -> None:
    one = host()
    prps = {name: value if value > 1 << 40 else one.data + value for name, value in prps.items()}

    assert code(one.do(AdminOpcode.IDENTIFY, cdw10=Cns.CONTROLLER, **prps)) == status
