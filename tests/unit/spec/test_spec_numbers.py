"""Opcodes, statuses, identifiers and command dwords, against the numbers of the specification."""

from __future__ import annotations

import subprocess
import sys
from enum import IntEnum
from importlib import import_module

import pytest

import nvme_emu.spec as spec
from nvme_emu.spec import commands as c
from nvme_emu.spec import events, features, identify, logs, opcodes, queues, status
from nvme_emu.spec.errors import LayoutError
from nvme_emu.spec.opcodes import AdminOpcode, DataDirection, NvmOpcode
from nvme_emu.spec.status import Status

MODULES = [
    "base", "bits", "commands", "decode", "entries", "errors", "events", "feature_data", "features",
    "identify", "identify_controller", "identify_namespace", "logs", "opcodes", "queues", "registers",
    "status", "words",
]  # fmt: skip


@pytest.mark.parametrize(
    ("member", "value"),
    [
        (AdminOpcode.DELETE_IO_SQ, 0x00),
        (AdminOpcode.CREATE_IO_SQ, 0x01),
        (AdminOpcode.GET_LOG_PAGE, 0x02),
        (AdminOpcode.DELETE_IO_CQ, 0x04),
        (AdminOpcode.CREATE_IO_CQ, 0x05),
        (AdminOpcode.IDENTIFY, 0x06),
        (AdminOpcode.ABORT, 0x08),
        (AdminOpcode.SET_FEATURES, 0x09),
        (AdminOpcode.GET_FEATURES, 0x0A),
        (AdminOpcode.ASYNC_EVENT_REQUEST, 0x0C),
        (AdminOpcode.KEEP_ALIVE, 0x18),
        (AdminOpcode.DOORBELL_BUFFER_CONFIG, 0x7C),
        (AdminOpcode.FORMAT_NVM, 0x80),
        (AdminOpcode.SANITIZE, 0x84),
        (NvmOpcode.FLUSH, 0x00),
        (NvmOpcode.WRITE, 0x01),
        (NvmOpcode.READ, 0x02),
        (NvmOpcode.WRITE_UNCORRECTABLE, 0x04),
        (NvmOpcode.COMPARE, 0x05),
        (NvmOpcode.WRITE_ZEROES, 0x08),
        (NvmOpcode.DATASET_MANAGEMENT, 0x09),
        (NvmOpcode.VERIFY, 0x0C),
        (NvmOpcode.COPY, 0x19),
        (NvmOpcode.ZONE_APPEND, 0x7D),
        (Status.INVALID_OPCODE, 0x001),
        (Status.INVALID_FIELD, 0x002),
        (Status.DATA_XFER_ERROR, 0x004),
        (Status.ABORT_REQ, 0x007),
        (Status.ABORT_QUEUE, 0x008),
        (Status.INVALID_NS, 0x00B),
        (Status.CMD_SEQ_ERROR, 0x00C),
        (Status.PRP_INVALID_OFFSET, 0x013),
        (Status.SGL_INVALID_TYPE, 0x011),
        (Status.LBA_RANGE, 0x080),
        (Status.NS_NOT_READY, 0x082),
        (Status.CQ_INVALID, 0x100),
        (Status.QID_INVALID, 0x101),
        (Status.QUEUE_SIZE, 0x102),
        (Status.ABORT_LIMIT, 0x103),
        (Status.ASYNC_LIMIT, 0x105),
        (Status.INVALID_VECTOR, 0x108),
        (Status.INVALID_LOG_PAGE, 0x109),
        (Status.INVALID_QUEUE, 0x10C),
        (Status.FEATURE_NOT_SAVEABLE, 0x10D),
        (Status.FEATURE_NOT_CHANGEABLE, 0x10E),
        (Status.FEATURE_NOT_PER_NS, 0x10F),
        (Status.BAD_ATTRIBUTES, 0x180),
        (Status.READ_ONLY, 0x182),
        (Status.WRITE_FAULT, 0x280),
        (Status.READ_ERROR, 0x281),
        (Status.COMPARE_FAILED, 0x285),
        (Status.UNWRITTEN_BLOCK, 0x287),
        (Status.ANA_TRANSITION, 0x303),
        (Status.HOST_ABORTED_CMD, 0x371),
        (identify.Cns.ACTIVE_NAMESPACE_LIST, 0x02),
        (identify.Cns.NAMESPACE_DESCRIPTORS, 0x03),
        (identify.Cns.INDEPENDENT_NAMESPACE, 0x08),
        (identify.Cns.IO_COMMAND_SET, 0x1C),
        (features.Fid.VOLATILE_WRITE_CACHE, 0x06),
        (features.Fid.NUMBER_OF_QUEUES, 0x07),
        (features.Fid.ASYNC_EVENT_CONFIG, 0x0B),
        (features.Fid.HOST_BEHAVIOR, 0x16),
        (features.Fid.HOST_IDENTIFIER, 0x81),
        (logs.Lid.SMART_HEALTH, 0x02),
        (logs.Lid.COMMANDS_SUPPORTED_AND_EFFECTS, 0x05),
        (logs.Lid.SANITIZE_STATUS, 0x81),
        (events.AsyncEventType.NOTICE, 2),
        (events.AsyncErrorInfo.INVALID_DOORBELL_VALUE, 1),
    ],
)
def test_number_is_the_specification_s(member: IntEnum, value: int) -> None:
    assert int(member) == value
    assert type(member)(value) is member


@pytest.mark.parametrize(
    "enum",
    [
        AdminOpcode, NvmOpcode, opcodes.FabricsType, Status, status.FabricsStatus, identify.Cns, features.Fid,
        logs.Lid, events.AsyncErrorInfo, events.AsyncNoticeInfo,
    ],
)  # fmt: skip
def test_every_number_has_one_name_and_words(enum: type[IntEnum]) -> None:
    assert len(enum.__members__) == len(list(enum))
    assert all(member.words for member in enum)  # type: ignore[attr-defined]


def test_opcode_name_of_a_known_and_an_unknown_opcode() -> None:
    assert opcodes.opcode_name(0x02, admin=True) == "Get Log Page"
    assert opcodes.opcode_name(0x02, admin=False) == "Read"
    assert opcodes.opcode_name(0x99, admin=False) == "opcode 0x99"
    assert opcodes.fabrics_name(1) == "Connect"


def test_data_direction_is_in_the_opcode() -> None:
    assert opcodes.data_direction(NvmOpcode.WRITE) is DataDirection.HOST_TO_CONTROLLER
    assert opcodes.data_direction(NvmOpcode.READ) is DataDirection.CONTROLLER_TO_HOST
    assert opcodes.data_direction(NvmOpcode.FLUSH) is DataDirection.NONE


@pytest.mark.parametrize(
    ("field", "text"),
    [
        (0, "Successful Completion (SCT 0h SC 00h)"),
        (Status.COMPARE_FAILED | status.DNR, "Compare Failure (SCT 2h SC 85h) DNR"),
        (Status.LBA_RANGE | status.MORE | status.DNR, "LBA Out of Range (SCT 0h SC 80h) MORE DNR"),
        (Status.NS_NOT_READY | 2 << status.CRD_SHIFT, "Namespace Not Ready (SCT 0h SC 82h) CRD 2"),
        (0x7C3, "Vendor Specific Status C3h (SCT 7h SC C3h)"),
        (0x5FF, "Reserved Status Code Type FFh (SCT 5h SC FFh)"),
    ],
)
def test_describe_says_a_status_field_in_words(field: int, text: str) -> None:
    assert status.describe(field) == text


def test_describe_of_a_fabrics_status_uses_its_own_table() -> None:
    assert status.describe(0x182, fabrics=True) == "Connect Invalid Parameters (SCT 1h SC 82h)"
    assert status.describe(0x182) == "Attempted Write to Read Only Range (SCT 1h SC 82h)"


def test_status_phase_puts_the_status_above_the_phase_tag() -> None:
    word = queues.status_phase(Status.COMPARE_FAILED | status.DNR, 1)
    parts = queues.STATUS_P.unpack(word)
    assert (parts.p, parts.sc, parts.sct, parts.dnr) == (1, 0x85, 2, 1)
    assert status.split(word >> 1) == (0x85, 2, 0, 0, 1)


def test_hot_path_masks_are_the_specification_s_bits() -> None:
    assert (c.RW_FUA, c.RW_LR, c.RW_PRACT, c.RW_NLB_MASK) == (1 << 30, 1 << 31, 1 << 29, 0xFFFF)
    assert c.RW_PRCHK == 0b111 << 26
    assert c.RW_PRINFO == 0xF << 26
    assert (c.WZ_DEAC, c.WZ_NSZ) == (1 << 25, 1 << 23)
    assert (c.DSM_IDR, c.DSM_IDW, c.DSM_AD, c.DSM_NR_MASK) == (1, 2, 4, 0xFF)
    assert c.FEATURE_SV == 1 << 31
    assert (queues.FUSE_MASK, queues.FUSE_FIRST, queues.FUSE_SECOND, queues.PSDT_MASK) == (3, 1, 2, 0xC0)
    assert queues.SQE_FLAGS_RESERVED == 0x3C


@pytest.mark.parametrize(
    ("layout", "bits"),
    [
        (c.CREATE_QUEUE_CDW10, {"qid": 0, "qsize_z": 16}),
        (c.CREATE_CQ_CDW11, {"pc": 0, "ien": 1, "iv": 16}),
        (c.CREATE_SQ_CDW11, {"pc": 0, "qprio": 1, "cqid": 16}),
        (c.IDENTIFY_CDW10, {"cns": 0, "cntid": 16}),
        (c.IDENTIFY_CDW11, {"cnssid": 0, "csi": 24}),
        (c.GET_FEATURES_CDW10, {"fid": 0, "sel": 8}),
        (c.SET_FEATURES_CDW10, {"fid": 0, "sv": 31}),
        (c.GET_LOG_CDW10, {"lid": 0, "lsp": 8, "rae": 15, "numdl": 16}),
        (c.GET_LOG_CDW11, {"numdu": 0, "lsi": 16}),
        (c.GET_LOG_CDW14, {"uidx": 0, "ot": 23, "csi": 24}),
        (c.ABORT_CDW10, {"sqid": 0, "cid": 16}),
        (events.ASYNC_EVENT_DW0, {"aet": 0, "aei": 8, "lid": 16}),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_command_field_is_at_the_specification_s_bit(layout: object, bits: dict[str, int]) -> None:
    assert {name: layout[name].lsb for name in bits} == bits  # type: ignore[index]


def test_get_log_page_dwords_and_their_inverse() -> None:
    dwords = c.get_log_page_dwords(logs.Lid.SMART_HEALTH, 512, offset=1 << 33, rae=True)
    assert dwords == (0x007F_8002, 0, 0, 2, 0)
    assert c.log_page_length(dwords.cdw10, dwords.cdw11) == 512
    assert c.log_page_offset(dwords.cdw12, dwords.cdw13) == 1 << 33


def test_get_log_page_dwords_of_more_than_256_kib_use_numdu() -> None:
    dwords = c.get_log_page_dwords(0x07, 4 * 0x1_0001)
    assert (dwords.cdw10 >> 16, dwords.cdw11) == (0, 1)


@pytest.mark.parametrize(("nbytes", "offset"), [(0, 0), (6, 0), (-4, 0), (512, 2), (512, -4), (4 << 33, 0)])
def test_get_log_page_dwords_refuse_what_is_no_number_of_dwords(nbytes: int, offset: int) -> None:
    with pytest.raises(LayoutError):
        c.get_log_page_dwords(2, nbytes, offset=offset)


def test_every_command_layout_is_filed_under_its_opcode() -> None:
    assert c.command_layout(NvmOpcode.READ, admin=False) is c.NVM_COMMANDS[2]
    assert c.command_layout(0x99, admin=True) is None
    for admin, table in ((True, c.ADMIN_COMMANDS), (False, c.NVM_COMMANDS)):
        for opcode, layout in table.items():
            assert layout.opcode == opcode
            assert layout.words == opcodes.opcode_name(opcode, admin)
            for key, bits in layout.cdw.items():
                assert bits.nbits == (64 if "_" in key else 32), (layout.words, key)


def test_split64_and_join64_are_inverse() -> None:
    assert c.split64(0x1_0000_0002) == (2, 1)
    assert c.join64(2, 1) == 0x1_0000_0002


def test_async_event_in_words() -> None:
    dw0 = events.async_event_dw0(events.AsyncEventType.NOTICE, 0, logs.Lid.CHANGED_NAMESPACES)
    assert dw0 == 0x0004_0002
    assert events.async_event_words(dw0) == "Notice: Attached Namespace Attribute Changed (log page 04h)"
    assert events.async_event_words(0x0000_FF05) == "event type 5: information FFh (log page 00h)"


@pytest.mark.parametrize("name", MODULES)
def test_module_exports_what_it_says(name: str) -> None:
    module = import_module(f"nvme_emu.spec.{name}")
    for exported in module.__all__:
        assert hasattr(module, exported), f"{name}.{exported}"
    with pytest.raises(AttributeError):
        _ = module.no_such_name


def test_package_loads_every_name_it_exports() -> None:
    for exported in spec.__all__:
        assert getattr(spec, exported) is not None
    assert dir(spec) == sorted(spec.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = spec.no_such_name


def test_scalar_names_load_neither_numpy_nor_construct() -> None:
    program = (
        "import sys\n"
        "from nvme_emu.spec import commands, events, features, opcodes, queues, registers, status\n"
        "assert queues.SQE.size == 64 and registers.CC.pack(en=1) == 1\n"
        "print(sorted({'numpy', 'construct'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
