"""Sizes and offsets of structures, against the specification's numbers; what build and parse accept."""

from __future__ import annotations

import construct
import numpy as np
import pytest

from nvme_emu.spec import base, commands, entries, features, logs, queues
from nvme_emu.spec import identify as idn
from nvme_emu.spec.base import Structure
from nvme_emu.spec.errors import LayoutError

OFFSETS: list[tuple[Structure, int, dict[str, int]]] = [
    (
        entries.SQE_LAYOUT,
        64,
        {"opcode": 0, "cid": 2, "nsid": 4, "mptr": 16, "prp1": 24, "prp2": 32, "cdw10": 40, "cdw15": 60},
    ),
    (entries.SQE_WIDE_LAYOUT, 64, {"cid": 2, "nsid": 4, "mptr": 16, "prp1": 24, "slba": 40, "cdw12": 48}),
    (entries.CQE_LAYOUT, 16, {"dw0": 0, "sqhd": 8, "sqid": 10, "cid": 12, "status_p": 14}),
    (entries.DSM_RANGE_LAYOUT, 16, {"cattr": 0, "nlb": 4, "slba": 8}),
    (
        idn.IDENTIFY_CONTROLLER,
        4096,
        {
            "vid": 0, "ssvid": 2, "sn": 4, "mn": 24, "fr": 64, "rab": 72, "ieee": 73, "cmic": 76, "mdts": 77,
            "cntlid": 78, "ver": 80, "rtd3r": 84, "oaes": 92, "ctratt": 96, "rrls": 100, "nssl": 104,
            "cntrltype": 111, "fguid": 112, "crdt1": 128, "nvmsr": 253, "oacs": 256, "acl_z": 258,
            "aerl_z": 259,
            "frmw": 260, "lpa": 261, "elpe_z": 262, "npss_z": 263, "wctemp": 266, "mtfa": 270, "hmpre": 272,
            "tnvmcap": 280, "unvmcap": 296, "rpmbs": 312, "edstt": 316, "fwug": 319, "kas": 320, "hctma": 322,
            "mntmt": 324, "mxtmt": 326, "sanicap": 328, "hmminds": 332, "nsetidmax": 338, "endgidmax": 340,
            "anatt": 342, "anagrpmax": 344, "nanagrpid": 348, "pels": 352, "domainid": 356, "megcap": 368,
            "sqes": 512, "cqes": 513, "maxcmd": 514, "nn": 516, "oncs": 520, "fuses": 522, "fna": 524,
            "vwc": 525,
            "awun_z": 526, "awupf_z": 528, "icsvscc": 530, "nwpc": 531, "acwu_z": 532, "cdfs": 534,
            "sgls": 536,
            "mnan": 540, "maxdna": 544, "maxcna": 560, "subnqn": 768, "ioccsz": 1792, "icdoff": 1800,
            "msdbd": 1803, "psd": 2048, "vs": 3072,
        },
    ),
    (
        idn.IDENTIFY_NAMESPACE,
        4096,
        {
            "nsze": 0, "ncap": 8, "nuse": 16, "nsfeat": 24, "nlbaf_z": 25, "flbas": 26, "mc": 27, "dpc": 28,
            "dps": 29, "nmic": 30, "rescap": 31, "fpi": 32, "dlfeat": 33, "nawun_z": 34, "nawupf_z": 36,
            "nacwu_z": 38, "nabsn_z": 40, "nabo": 42, "nabspf_z": 44,
            "noiob": 46, "nvmcap": 48, "npwg_z": 64, "npdg_z": 68, "nows_z": 72, "mssrl": 74, "mcl": 76,
            "msrc_z": 80, "anagrpid": 92, "nsattr": 99, "nvmsetid": 100, "endgid": 102, "nguid": 104,
            "eui64": 120, "lbaf": 128, "vs": 384,
        },
    ),
    (
        idn.IDENTIFY_INDEPENDENT_NAMESPACE,
        4096,
        {"nsfeat": 0, "nmic": 1, "anagrpid": 4, "nsattr": 8, "nvmsetid": 10, "endgid": 12, "nstat": 14},
    ),
    (idn.IDENTIFY_NVM_NAMESPACE, 4096, {"lbstm": 0, "pic": 8, "elbaf": 12, "npdgl": 268}),
    (
        idn.IDENTIFY_NVM_CONTROLLER,
        4096,
        {"vsl": 0, "wzsl": 1, "wusl": 2, "dmrl": 3, "dmrsl": 4, "dmsl": 8, "aocs": 18, "ver": 20},
    ),
    (idn.IDENTIFY_IO_COMMAND_SET, 4096, {"iocsc": 0}),
    (idn.NAMESPACE_LIST, 4096, {"nsid": 0}),
    (idn.CONTROLLER_LIST, 4096, {"numid": 0, "cntid": 2}),
    (
        idn.POWER_STATE,
        32,
        {"mp": 0, "flags": 3, "enlat": 4, "exlat": 8, "rrt": 12, "idlp": 16, "actp": 20},
    ),
    (idn.LBA_FORMAT, 4, {"ms": 0, "lbads": 2, "rp": 3}),
    (
        logs.ERROR_INFORMATION,
        64,
        {
            "error_count": 0, "sqid": 8, "cid": 10, "status": 12, "pel": 14, "lba": 16, "nsid": 24,
            "vsia": 28,
            "trtype": 29, "csi": 30, "opc": 31, "csinfo": 32, "ttsi": 40, "lpver": 63,
        },
    ),
    (
        logs.SMART_HEALTH,
        512,
        {
            "critical_warning": 0, "composite_temperature": 1, "avsp": 3, "avspt": 4, "pused": 5, "egcws": 6,
            "data_units_read": 32, "data_units_written": 48, "host_read_commands": 64,
            "host_write_commands": 80,
            "controller_busy_time": 96, "power_cycles": 112, "power_on_hours": 128, "unsafe_shutdowns": 144,
            "media_errors": 160, "num_err_log_entries": 176, "warning_temp_time": 192,
            "temperature_sensor": 200, "tmt1tc": 216, "tttmt2": 228,
        },
    ),
    (logs.FIRMWARE_SLOT_INFORMATION, 512, {"afi": 0, "frs": 8}),
    (logs.CHANGED_NAMESPACE_LIST, 4096, {"nsid": 0}),
    (logs.COMMANDS_SUPPORTED_AND_EFFECTS, 4096, {"acs": 0, "iocs": 1024}),
    (logs.SUPPORTED_LOG_PAGES, 1024, {"lid": 0}),
    (features.TIMESTAMP, 8, {"timestamp": 0, "attributes": 6}),
    (features.HOST_BEHAVIOR, 512, {"acre": 0, "etdas": 1, "lbafee": 2, "hdisns": 3, "cdfe": 4}),
]  # fmt: skip


@pytest.mark.parametrize(("structure", "size", "offsets"), OFFSETS, ids=[s.name for s, _, _ in OFFSETS])
def test_structure_size_and_field_offsets_are_the_specification_s(
    structure: Structure, size: int, offsets: dict[str, int]
) -> None:
    assert (structure.size, structure.dtype.itemsize, structure.construct.sizeof()) == (size, size, size)
    assert {name: structure.offset_of(name) for name in offsets} == offsets


@pytest.mark.parametrize(
    ("layout", "bits"),
    [
        (idn.OACS, {"fnvms": 1, "fwds": 2, "nms": 3, "dsts": 4, "dirs": 5, "dbcs": 8, "glss": 9}),
        (
            idn.ONCS,
            {"nvmcmps": 0, "nvmwusv": 1, "nvmdsmsv": 2, "nvmwzsv": 3, "ssfs": 4, "reservs": 5, "nvmvfys": 7},
        ),
        (idn.LPA, {"smarts": 0, "cses": 1, "lpeds": 2, "ts": 3, "pes": 4}),
        (idn.VWC, {"vwcp": 0, "fb": 1}),
        (idn.FRMW, {"ffsro": 0, "nofs": 1, "fawr": 4}),
        (idn.SGLS, {"sgls": 0, "ksdb": 2, "sbbds": 16, "mbas": 17, "offset": 20}),
        (idn.OAES, {"nsan": 8, "fan": 9, "anacn": 11, "lsian": 13, "zdcn": 27, "dlpcn": 31}),
        (idn.FLBAS, {"fidxl": 0, "mcdb": 4, "fidxu": 5}),
        (idn.LBAF, {"ms": 0, "lbads": 16, "rp": 24}),
        (idn.DLFEAT, {"drb": 0, "wzds": 3, "gds": 4}),
        (features.ARBITRATION, {"ab": 0, "lpw_z": 8, "mpw_z": 16, "hpw_z": 24}),
        (features.TEMPERATURE_THRESHOLD, {"tmpth": 0, "tmpsel": 16, "thsel": 20, "tmpthh": 22}),
        (features.ERROR_RECOVERY, {"tler": 0, "dulbe": 16}),
        (features.NUMBER_OF_QUEUES, {"nsq_z": 0, "ncq_z": 16}),
        (features.INTERRUPT_COALESCING, {"thr_z": 0, "time": 8}),
        (features.INTERRUPT_VECTOR_CONFIG, {"iv": 0, "cd": 16}),
        (features.ASYNC_EVENT_CONFIG, {"shcw": 0, "nan": 8, "fan": 9, "tln": 10, "anacn": 11, "dlpcn": 31}),
        (features.FEATURE_CAPABILITIES, {"saveable": 0, "ns_specific": 1, "changeable": 2}),
        (logs.COMMAND_EFFECTS, {"csupp": 0, "lbcc": 1, "ccc": 4, "cser": 14, "cse": 16, "csp": 20}),
        (logs.CRITICAL_WARNING, {"ascbt": 0, "ttc": 1, "ndr": 2, "amro": 3, "vmbf": 4, "pmrro": 5}),
        (logs.PARAMETER_ERROR_LOCATION, {"byte": 0, "bit": 8}),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_flag_field_is_at_the_specification_s_bit(layout: object, bits: dict[str, int]) -> None:
    assert {name: layout[name].lsb for name in bits} == bits  # type: ignore[index]


def test_dtype_of_a_32_bit_integer_is_4_bytes_though_construct_calls_it_L() -> None:
    assert construct.Int32ul.fmtstr == "<L"
    assert base.derive_dtype(construct.Int32ul) == np.dtype("<u4")
    assert base.derive_dtype(construct.Int64ul) == np.dtype("<u8")
    assert base.derive_dtype(construct.Int16sl) == np.dtype("<i2")


def test_dtype_of_an_unknown_declaration_is_refused() -> None:
    with pytest.raises(LayoutError, match="no dtype for a"):
        base.derive_dtype(construct.VarInt)


def test_scalar_and_column_gaits_write_the_same_sqe() -> None:
    scalar = queues.SQE.pack(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
    row = np.zeros(1, queues.SQE_DTYPE)
    row[0] = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
    assert row.tobytes() == scalar
    wide = row.view(queues.SQE_WIDE_DTYPE)[0]
    assert (int(wide["slba"]), int(wide["cdw12"])) == (11 << 32 | 10, 12)
    assert tuple(queues.SQE_WIDE.unpack(scalar))[-5:] == (11 << 32 | 10, 12, 13, 14, 15)


def test_build_without_a_field_leaves_it_zero_and_pads_strings_as_the_specification_says() -> None:
    data = idn.IDENTIFY_CONTROLLER.build(vid=0x1B36, sn="S1", subnqn="nqn.2014-08.org.nvmexpress:x")
    assert data[:4] == b"\x36\x1b\0\0"
    assert data[4:24] == b"S1".ljust(20)
    assert data[24:64] == b" " * 40
    assert data[768:1024] == b"nqn.2014-08.org.nvmexpress:x".ljust(256, b"\0")
    assert not any(data[1024:])


def test_build_without_any_field_is_all_zero() -> None:
    assert logs.SMART_HEALTH.build() == bytes(512)


def test_build_fills_a_short_table_with_zero_items() -> None:
    data = idn.IDENTIFY_NAMESPACE.build(lbaf=[{"lbads": 9}, {"lbads": 12, "rp": 1}])
    assert data[128:140] == b"\0\0\x09\0" b"\0\0\x0c\x01" b"\0\0\0\0"


def test_build_of_a_128_bit_counter_is_little_endian() -> None:
    data = logs.SMART_HEALTH.build(data_units_read=1 << 64 | 2)
    assert data[32:48] == b"\x02" + bytes(7) + b"\x01" + bytes(7)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"nosuch": 1}, "IDENTIFY_CONTROLLER has no field nosuch"),
        ({"vid": 0x10000}, r"IDENTIFY_CONTROLLER\.vid: 0x10000 does not fit in 2 bytes"),
        ({"vid": -1}, r"IDENTIFY_CONTROLLER\.vid"),
        ({"sn": "x" * 21}, "21 characters do not fit in 20"),
        ({"fguid": bytes(17)}, "17 bytes do not fit in 16"),
        ({"psd": [{}] * 33}, r"IDENTIFY_CONTROLLER\.psd: 33 items do not fit in 32"),
        ({"psd": [{"mp": 1 << 16}]}, r"IDENTIFY_CONTROLLER\.psd\[0\]\.mp"),
        ({"psd": [7]}, "wants named fields"),
    ],
)
def test_build_refuses_what_does_not_fit_and_says_which(fields: dict[str, object], message: str) -> None:
    with pytest.raises(LayoutError, match=message):
        idn.IDENTIFY_CONTROLLER.build(**fields)


def test_build_refuses_a_value_of_the_wrong_type() -> None:
    with pytest.raises(LayoutError):
        idn.IDENTIFY_CONTROLLER.build(vid="seven")
    with pytest.raises(LayoutError):
        idn.IDENTIFY_CONTROLLER.build(lpa=object())


def test_parse_of_too_few_bytes_is_refused() -> None:
    with pytest.raises(LayoutError, match="CQE: 15 bytes given, 16 needed"):
        entries.CQE_LAYOUT.parse(bytes(15))


def test_parse_takes_memoryviews_and_arrays_and_ignores_what_follows() -> None:
    data = entries.CQE_LAYOUT.build(cid=9) + b"more"
    assert entries.CQE_LAYOUT.parse(memoryview(data)).cid == 9
    assert entries.CQE_LAYOUT.parse(np.frombuffer(data, np.uint8)).cid == 9


def test_parse_keeps_bytes_that_are_not_ascii() -> None:
    data = bytearray(idn.IDENTIFY_CONTROLLER.build(sn="A"))
    data[5] = 0xFF
    assert idn.IDENTIFY_CONTROLLER.parse(data).sn == "A\xff"


def test_a_field_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError):
        _ = entries.CQE_LAYOUT.parse(bytes(16)).nosuch


def test_rows_is_a_view_of_many_structures() -> None:
    data = entries.DSM_RANGE_LAYOUT.build(nlb=8, slba=1) + entries.DSM_RANGE_LAYOUT.build(nlb=16, slba=2)
    rows = entries.DSM_RANGE_LAYOUT.rows(data)
    assert rows["nlb"].tolist() == [8, 16]
    assert list(commands.DSM_RANGE.iter_unpack(data)) == [(0, 8, 1), (0, 16, 2)]
    with pytest.raises(LayoutError, match="17 bytes are not a multiple of 16"):
        entries.DSM_RANGE_LAYOUT.rows(bytes(17))


def test_a_structure_of_the_wrong_size_is_refused_as_it_is_declared() -> None:
    with pytest.raises(AssertionError, match="construct says 2 bytes, not 3"):
        Structure("SHORT", 3, "none", "a" / base.u16)


def test_a_reserved_field_called_after_the_wrong_byte_is_refused_as_it_is_declared() -> None:
    with pytest.raises(AssertionError, match="rsvd1 starts at byte 2"):
        Structure("WRONG", 4, "none", "a" / base.u16, "rsvd1" / base.raw(2))


def test_namespace_list_holds_the_ids_above_the_given_one_in_order() -> None:
    data = idn.namespace_list([5, 1, 3], after=1)
    assert idn.NAMESPACE_LIST.parse(data).nsid[:3] == [3, 5, 0]
    assert len(idn.namespace_list(range(1, 3000))) == 4096


def test_namespace_descriptors_come_back_as_they_were_given() -> None:
    given = [idn.NsDescriptor(idn.Nidt.NGUID, bytes(range(16))), idn.NsDescriptor(idn.Nidt.CSI, b"\0")]
    data = idn.build_ns_descriptors(given)
    assert data[:4] == b"\x02\x10\0\0"
    assert len(data) == 4096
    assert idn.parse_ns_descriptors(data) == given


def test_namespace_descriptor_of_a_wrong_length_is_refused() -> None:
    with pytest.raises(LayoutError, match="type 3: 8 bytes"):
        idn.build_ns_descriptors([idn.NsDescriptor(idn.Nidt.UUID, bytes(8))])
    with pytest.raises(LayoutError, match="type 9"):
        idn.build_ns_descriptors([idn.NsDescriptor(9, b"\0")])
    with pytest.raises(LayoutError, match="cut off"):
        idn.parse_ns_descriptors(b"\x03\x10\0\0" + bytes(8))


def test_flbas_index_joins_its_two_parts() -> None:
    assert idn.flbas_index(idn.FLBAS.pack(fidxl=5, fidxu=2, mcdb=1)) == 0x25
