"""The dwords of each command, and the masks and helpers by which hot paths and the admin path read them.

A `CommandLayout` says how CDW10 to CDW15 are divided, least significant bit first; a key of two dwords
("cdw10_11") is one 64-bit field. `ADMIN_COMMANDS` and `NVM_COMMANDS` hold them by opcode. What is reserved in
a layout's dwords is in it as rsvdN; dwords that no layout names are reserved as a whole.

Sources: NVM Express Base 2.1 clauses 5 and 7, NVM Command Set 1.1 clause 3.3, Zoned Namespace Command Set 1.2
clause 3.4. Zero-based fields end in `_z`.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from .bits import BitLayout, bit
from .commands_admin import (
    ATTACH_CDW10,
    DIRECTIVE_CDW11,
    FORMAT_CDW10,
    FW_COMMIT_CDW10,
    GET_LBA_STATUS_CDW13,
    NS_MANAGEMENT_CDW10,
    NS_MANAGEMENT_CDW11,
    SANITIZE_CDW10,
    SECURITY_CDW10,
    SELF_TEST_CDW10,
)
from .commands_zns import ZONE_APPEND_CDW12, ZONE_RECEIVE_CDW13, ZONE_SEND_CDW13
from .errors import LayoutError
from .opcodes import AdminOpcode, NvmOpcode

if TYPE_CHECKING:
    from .entries import DSM_RANGE_DTYPE, DSM_RANGE_LAYOUT

__all__ = [
    "ABORT_CDW10",
    "ABORT_DW0_NOT_ABORTED",
    "ADMIN_COMMANDS",
    "COPY_CDW12",
    "CREATE_CQ_CDW11",
    "CREATE_QUEUE_CDW10",
    "CREATE_SQ_CDW11",
    "CREATE_SQ_CDW12",
    "CommandLayout",
    "DELETE_QUEUE_CDW10",
    "DSM_AD",
    "DSM_CDW10",
    "DSM_CDW11",
    "DSM_CONTEXT",
    "DSM_IDR",
    "DSM_IDW",
    "DSM_NR_MASK",
    "DSM_RANGE",
    "DSM_RANGES_MAX",
    "DSM_RANGE_DTYPE",
    "DSM_RANGE_LAYOUT",
    "DSM_RANGE_SIZE",
    "FEATURE_SV",
    "GET_FEATURES_CDW10",
    "GET_LOG_CDW10",
    "GET_LOG_CDW11",
    "GET_LOG_CDW14",
    "IDENTIFY_CDW10",
    "IDENTIFY_CDW11",
    "NVM_COMMANDS",
    "QPRIO_HIGH",
    "QPRIO_LOW",
    "QPRIO_MEDIUM",
    "QPRIO_URGENT",
    "RW_CDW12",
    "RW_CDW13",
    "RW_CDW15",
    "RW_FUA",
    "RW_LR",
    "RW_NLB_MASK",
    "RW_PRACT",
    "RW_PRCHK",
    "RW_PRCHK_APP",
    "RW_PRCHK_GUARD",
    "RW_PRCHK_REF",
    "RW_PRINFO",
    "RW_STC",
    "SEL_CURRENT",
    "SEL_DEFAULT",
    "SEL_SAVED",
    "SEL_SUPPORTED",
    "SET_FEATURES_CDW10",
    "UUID_CDW14",
    "WZ_CDW12",
    "WZ_DEAC",
    "WZ_NSZ",
    "GetLogPageDwords",
    "command_layout",
    "get_log_page_dwords",
    "join64",
    "log_page_length",
    "log_page_offset",
    "split64",
]


def join64(low: int, high: int) -> int:
    """The 64-bit value of two dwords, as SLBA in CDW10 and CDW11."""
    return low | high << 32


def split64(value: int) -> tuple[int, int]:
    """(low, high) dwords of a 64-bit value."""
    return value & 0xFFFF_FFFF, value >> 32


class CommandLayout(NamedTuple):
    """How a command uses its dwords. `cdw` maps "cdw12" or "cdw10_11" to the layout of those bits."""

    opcode: int
    words: str
    clause: str
    cdw: Mapping[str, BitLayout]


def _whole(name: str, nbits: int, clause: str, field: str, words: str) -> BitLayout:
    """A dword, or two, that is one field."""
    return BitLayout(name, nbits, clause, bit(field, nbits, words))


# --- queues -------------------------------------------------------------------------------------------------

_CREATE_CQ = "Base 2.1 §5.2.1"
_CREATE_SQ = "Base 2.1 §5.2.2"
_DELETE_CQ = "Base 2.1 §5.2.3"
_DELETE_SQ = "Base 2.1 §5.2.4"

CREATE_QUEUE_CDW10 = BitLayout(
    "CREATE_QUEUE_CDW10",
    32,
    _CREATE_CQ,
    bit("qid", 16, "Queue Identifier"),
    bit("qsize_z", 16, "Queue Size (zero-based)"),
)
CREATE_CQ_CDW11 = BitLayout(
    "CREATE_CQ_CDW11",
    32,
    _CREATE_CQ,
    bit("pc", 1, "Physically Contiguous"),
    bit("ien", 1, "Interrupts Enabled"),
    bit("rsvd2", 14),
    bit("iv", 16, "Interrupt Vector"),
)
CREATE_SQ_CDW11 = BitLayout(
    "CREATE_SQ_CDW11",
    32,
    _CREATE_SQ,
    bit("pc", 1, "Physically Contiguous"),
    bit("qprio", 2, "Queue Priority", {0: "urgent", 1: "high", 2: "medium", 3: "low"}),
    bit("rsvd3", 13),
    bit("cqid", 16, "Completion Queue Identifier"),
)
CREATE_SQ_CDW12 = BitLayout(
    "CREATE_SQ_CDW12", 32, _CREATE_SQ, bit("nvmsetid", 16, "NVM Set Identifier"), bit("rsvd16", 16)
)
DELETE_QUEUE_CDW10 = BitLayout(
    "DELETE_QUEUE_CDW10", 32, _DELETE_CQ, bit("qid", 16, "Queue Identifier"), bit("rsvd16", 16)
)
QPRIO_URGENT = 0
QPRIO_HIGH = 1
QPRIO_MEDIUM = 2
QPRIO_LOW = 3

# --- Identify, Abort, Features, Get Log Page ----------------------------------------------------------------

_ABORT = "Base 2.1 §5.1.1"
_GET_FEATURES = "Base 2.1 §5.1.11"
_GET_LOG_PAGE = "Base 2.1 §5.1.12"
_IDENTIFY = "Base 2.1 §5.1.13"
_SET_FEATURES = "Base 2.1 §5.1.25"

UUID_CDW14 = BitLayout("UUID_CDW14", 32, _IDENTIFY, bit("uidx", 7, "UUID Index"), bit("rsvd7", 25))
IDENTIFY_CDW10 = BitLayout(
    "IDENTIFY_CDW10",
    32,
    _IDENTIFY,
    bit("cns", 8, "Controller or Namespace Structure"),
    bit("rsvd8", 8),
    bit("cntid", 16, "Controller Identifier"),
)
IDENTIFY_CDW11 = BitLayout(
    "IDENTIFY_CDW11",
    32,
    _IDENTIFY,
    bit("cnssid", 16, "CNS Specific Identifier"),
    bit("rsvd16", 8),
    bit("csi", 8, "Command Set Identifier", {0: "NVM", 1: "Key Value", 2: "Zoned Namespace"}),
)
ABORT_CDW10 = BitLayout(
    "ABORT_CDW10",
    32,
    _ABORT,
    bit("sqid", 16, "Submission Queue Identifier"),
    bit("cid", 16, "Command Identifier"),
)
ABORT_DW0_NOT_ABORTED = 1 << 0  # in dw0 of the Abort's completion; clear means that the command was aborted

_SEL = {0: "current", 1: "default", 2: "saved", 3: "supported capabilities"}
GET_FEATURES_CDW10 = BitLayout(
    "GET_FEATURES_CDW10",
    32,
    _GET_FEATURES,
    bit("fid", 8, "Feature Identifier"),
    bit("sel", 3, "Select", _SEL),
    bit("rsvd11", 21),
)
SET_FEATURES_CDW10 = BitLayout(
    "SET_FEATURES_CDW10",
    32,
    _SET_FEATURES,
    bit("fid", 8, "Feature Identifier"),
    bit("rsvd8", 23),
    bit("sv", 1, "Save"),
)
FEATURE_SV = SET_FEATURES_CDW10.mask("sv")
SEL_CURRENT = 0
SEL_DEFAULT = 1
SEL_SAVED = 2
SEL_SUPPORTED = 3

GET_LOG_CDW10 = BitLayout(
    "GET_LOG_CDW10",
    32,
    _GET_LOG_PAGE,
    bit("lid", 8, "Log Page Identifier"),
    bit("lsp", 7, "Log Specific Parameter"),
    bit("rae", 1, "Retain Asynchronous Event"),
    bit("numdl", 16, "Number of Dwords Lower (zero-based with NUMDU)"),
)
GET_LOG_CDW11 = BitLayout(
    "GET_LOG_CDW11",
    32,
    _GET_LOG_PAGE,
    bit("numdu", 16, "Number of Dwords Upper"),
    bit("lsi", 16, "Log Specific Identifier"),
)
GET_LOG_CDW14 = BitLayout(
    "GET_LOG_CDW14",
    32,
    _GET_LOG_PAGE,
    bit("uidx", 7, "UUID Index"),
    bit("rsvd7", 16),
    bit("ot", 1, "Offset Type", {0: "bytes", 1: "index"}),
    bit("csi", 8, "Command Set Identifier"),
)


class GetLogPageDwords(NamedTuple):
    """CDW10 to CDW14 of a Get Log Page command."""

    cdw10: int
    cdw11: int
    cdw12: int
    cdw13: int
    cdw14: int


def get_log_page_dwords(
    lid: int, nbytes: int, *, offset: int = 0, lsp: int = 0, lsi: int = 0, rae: bool = False
) -> GetLogPageDwords:
    """The dwords that ask for `nbytes` of log page `lid` from byte `offset` on.

    LayoutError when `nbytes` is not a positive multiple of 4, `offset` not a multiple of 4, or a value does
    not fit its field.
    """
    if nbytes <= 0 or nbytes % 4 or nbytes > 4 << 32:
        raise LayoutError(f"Get Log Page: {nbytes} bytes are not a number of dwords ({_GET_LOG_PAGE})")
    if offset < 0 or offset % 4 or offset >> 64:
        raise LayoutError(f"Get Log Page: offset {offset} is not on a dword ({_GET_LOG_PAGE})")
    numd = nbytes // 4 - 1
    low, high = split64(offset)
    return GetLogPageDwords(
        GET_LOG_CDW10.pack(lid=lid, lsp=lsp, rae=int(rae), numdl=numd & 0xFFFF),
        GET_LOG_CDW11.pack(numdu=numd >> 16, lsi=lsi),
        low,
        high,
        0,
    )


def log_page_length(cdw10: int, cdw11: int) -> int:
    """Bytes that a Get Log Page command asks for: (NUMDU:NUMDL + 1) dwords."""
    return 4 * ((cdw10 >> 16 | (cdw11 & 0xFFFF) << 16) + 1)


def log_page_offset(cdw12: int, cdw13: int) -> int:
    """Log Page Offset (LPOU:LPOL), in bytes unless CDW14.OT says index."""
    return join64(cdw12, cdw13)


# --- Read, Write and their family ---------------------------------------------------------------------------

_COMPARE = "NVM 1.1 §3.3.1"
_COPY = "NVM 1.1 §3.3.2"
_DSM = "NVM 1.1 §3.3.3"
_READ = "NVM 1.1 §3.3.4"
_VERIFY = "NVM 1.1 §3.3.5"
_WRITE = "NVM 1.1 §3.3.6"
_WRITE_UNCORRECTABLE = "NVM 1.1 §3.3.7"
_WRITE_ZEROES = "NVM 1.1 §3.3.8"

_SLBA = _whole("SLBA", 64, _READ, "slba", "Starting LBA")
_PRINFO = (
    bit("prchk_ref", 1, "Protection Information Check: reference tag"),
    bit("prchk_app", 1, "Protection Information Check: application tag"),
    bit("prchk_guard", 1, "Protection Information Check: guard"),
    bit("pract", 1, "Protection Information Action"),
)
RW_CDW12 = BitLayout(
    "RW_CDW12",
    32,
    _READ,
    bit("nlb_z", 16, "Number of Logical Blocks (zero-based)"),
    bit("cetype", 4, "Command Extension Type"),
    bit("dtype", 4, "Directive Type (writes)"),
    bit("stc", 1, "Storage Tag Check"),
    bit("rsvd25", 1),
    *_PRINFO,
    bit("fua", 1, "Force Unit Access"),
    bit("lr", 1, "Limited Retry"),
)
RW_CDW13 = BitLayout(
    "RW_CDW13",
    32,
    _READ,
    bit("af", 4, "Access Frequency"),
    bit("al", 2, "Access Latency"),
    bit("sr", 1, "Sequential Request"),
    bit("incompressible", 1, "Incompressible"),
    bit("rsvd8", 8),
    bit("dspec", 16, "Directive Specific (writes)"),
)
RW_CDW15 = BitLayout(
    "RW_CDW15", 32, _READ, bit("lbat", 16, "Logical Block Application Tag"), bit("lbatm", 16, "and its Mask")
)
_RW_CDW14 = _whole("RW_CDW14", 32, _READ, "lbrt", "Logical Block Reference Tag")
RW_NLB_MASK = RW_CDW12.mask("nlb_z")
RW_STC = RW_CDW12.mask("stc")
RW_PRCHK_REF = RW_CDW12.mask("prchk_ref")
RW_PRCHK_APP = RW_CDW12.mask("prchk_app")
RW_PRCHK_GUARD = RW_CDW12.mask("prchk_guard")
RW_PRCHK = RW_PRCHK_REF | RW_PRCHK_APP | RW_PRCHK_GUARD
RW_PRACT = RW_CDW12.mask("pract")
RW_PRINFO = RW_PRACT | RW_PRCHK
RW_FUA = RW_CDW12.mask("fua")
RW_LR = RW_CDW12.mask("lr")

WZ_CDW12 = BitLayout(
    "WZ_CDW12",
    32,
    _WRITE_ZEROES,
    bit("nlb_z", 16, "Number of Logical Blocks (zero-based)"),
    bit("cetype", 4, "Command Extension Type"),
    bit("dtype", 3, "Directive Type"),
    bit("nsz", 1, "Namespace Zeroes"),
    bit("stc", 1, "Storage Tag Check"),
    bit("deac", 1, "Deallocate"),
    *_PRINFO,
    bit("fua", 1, "Force Unit Access"),
    bit("lr", 1, "Limited Retry"),
)
WZ_NSZ = WZ_CDW12.mask("nsz")
WZ_DEAC = WZ_CDW12.mask("deac")

_WU_CDW12 = BitLayout(
    "WU_CDW12",
    32,
    _WRITE_UNCORRECTABLE,
    bit("nlb_z", 16, "Number of Logical Blocks (zero-based)"),
    bit("rsvd16", 4),
    bit("dtype", 4, "Directive Type"),
    bit("rsvd24", 8),
)
COPY_CDW12 = BitLayout(
    "COPY_CDW12",
    32,
    _COPY,
    bit("nr_z", 8, "Number of Ranges (zero-based)"),
    bit("cdfmt", 4, "Copy Descriptor Format"),
    bit("prinfor", 4, "Protection Information of the reads"),
    bit("cetype", 4, "Command Extension Type"),
    bit("dtype", 4, "Directive Type"),
    bit("stcw", 1, "Storage Tag Check of the writes"),
    bit("stcr", 1, "Storage Tag Check of the reads"),
    bit("prinfow", 4, "Protection Information of the writes"),
    bit("fua", 1, "Force Unit Access"),
    bit("lr", 1, "Limited Retry"),
)

# --- Dataset Management -------------------------------------------------------------------------------------

DSM_CDW10 = BitLayout(
    "DSM_CDW10", 32, _DSM, bit("nr_z", 8, "Number of Ranges (zero-based)"), bit("rsvd8", 24)
)
DSM_CDW11 = BitLayout(
    "DSM_CDW11",
    32,
    _DSM,
    bit("idr", 1, "Integral Dataset for Read"),
    bit("idw", 1, "Integral Dataset for Write"),
    bit("ad", 1, "Deallocate"),
    bit("rsvd3", 29),
)
DSM_NR_MASK = DSM_CDW10.mask("nr_z")
DSM_IDR = DSM_CDW11.mask("idr")
DSM_IDW = DSM_CDW11.mask("idw")
DSM_AD = DSM_CDW11.mask("ad")
DSM_RANGES_MAX = 256
DSM_CONTEXT = BitLayout(
    "DSM_CONTEXT",
    32,
    _DSM,
    bit("af", 4, "Access Frequency"),
    bit("al", 2, "Access Latency"),
    bit("rsvd6", 2),
    bit("sr", 1, "Sequential Read Range"),
    bit("sw", 1, "Sequential Write Range"),
    bit("wp", 1, "Write Prepare"),
    bit("rsvd11", 13),
    bit("cas", 8, "Command Access Size (logical blocks)"),
)
# One range in the scalar gait: context attributes, length in logical blocks (not zero-based), starting LBA.
DSM_RANGE = struct.Struct("<IIQ")
DSM_RANGE_SIZE = 16
assert DSM_RANGE.size == DSM_RANGE_SIZE

# --- what decode and the admin path look commands up in -----------------------------------------------------


def _command(opcode: AdminOpcode | NvmOpcode, clause: str, **cdw: BitLayout) -> tuple[int, CommandLayout]:
    return int(opcode), CommandLayout(int(opcode), opcode.words, clause, cdw)


_FW_DOWNLOAD = "Base 2.1 §5.1.9"
_LPO = _whole("LPO", 64, _GET_LOG_PAGE, "lpo", "Log Page Offset")
_DIRECTIVE_CDW12 = _whole("DIRECTIVE_CDW12", 32, DIRECTIVE_CDW11.clause, "value", "Operation specific")
_FEATURE_VALUE = _whole("FEATURE_VALUE", 32, _SET_FEATURES, "value", "Feature specific")

ADMIN_COMMANDS: dict[int, CommandLayout] = dict(
    [
        _command(AdminOpcode.DELETE_IO_SQ, _DELETE_SQ, cdw10=DELETE_QUEUE_CDW10),
        _command(
            AdminOpcode.CREATE_IO_SQ,
            _CREATE_SQ,
            cdw10=CREATE_QUEUE_CDW10,
            cdw11=CREATE_SQ_CDW11,
            cdw12=CREATE_SQ_CDW12,
        ),
        _command(
            AdminOpcode.GET_LOG_PAGE,
            _GET_LOG_PAGE,
            cdw10=GET_LOG_CDW10,
            cdw11=GET_LOG_CDW11,
            cdw12_13=_LPO,
            cdw14=GET_LOG_CDW14,
        ),
        _command(AdminOpcode.DELETE_IO_CQ, _DELETE_CQ, cdw10=DELETE_QUEUE_CDW10),
        _command(AdminOpcode.CREATE_IO_CQ, _CREATE_CQ, cdw10=CREATE_QUEUE_CDW10, cdw11=CREATE_CQ_CDW11),
        _command(
            AdminOpcode.IDENTIFY, _IDENTIFY, cdw10=IDENTIFY_CDW10, cdw11=IDENTIFY_CDW11, cdw14=UUID_CDW14
        ),
        _command(AdminOpcode.ABORT, _ABORT, cdw10=ABORT_CDW10),
        _command(
            AdminOpcode.SET_FEATURES,
            _SET_FEATURES,
            cdw10=SET_FEATURES_CDW10,
            cdw11=_FEATURE_VALUE,
            cdw14=UUID_CDW14,
        ),
        _command(
            AdminOpcode.GET_FEATURES,
            _GET_FEATURES,
            cdw10=GET_FEATURES_CDW10,
            cdw11=_FEATURE_VALUE,
            cdw14=UUID_CDW14,
        ),
        _command(AdminOpcode.ASYNC_EVENT_REQUEST, "Base 2.1 §5.1.2"),
        _command(AdminOpcode.KEEP_ALIVE, "Base 2.1 §5.1.14"),
        _command(
            AdminOpcode.NAMESPACE_MANAGEMENT,
            NS_MANAGEMENT_CDW10.clause,
            cdw10=NS_MANAGEMENT_CDW10,
            cdw11=NS_MANAGEMENT_CDW11,
        ),
        _command(AdminOpcode.NAMESPACE_ATTACHMENT, ATTACH_CDW10.clause, cdw10=ATTACH_CDW10),
        _command(
            AdminOpcode.DIRECTIVE_SEND,
            DIRECTIVE_CDW11.clause,
            cdw10=_whole("DIRECTIVE_NUMD", 32, DIRECTIVE_CDW11.clause, "numd_z", "Number of Dwords (zero-based)"),
            cdw11=DIRECTIVE_CDW11,
            cdw12=_DIRECTIVE_CDW12,
        ),
        _command(
            AdminOpcode.DIRECTIVE_RECEIVE,
            DIRECTIVE_CDW11.clause,
            cdw10=_whole("DIRECTIVE_NUMD", 32, DIRECTIVE_CDW11.clause, "numd_z", "Number of Dwords (zero-based)"),
            cdw11=DIRECTIVE_CDW11,
            cdw12=_DIRECTIVE_CDW12,
        ),
        _command(AdminOpcode.FORMAT_NVM, FORMAT_CDW10.clause, cdw10=FORMAT_CDW10),
        _command(AdminOpcode.DEVICE_SELF_TEST, SELF_TEST_CDW10.clause, cdw10=SELF_TEST_CDW10),
        _command(
            AdminOpcode.SANITIZE,
            SANITIZE_CDW10.clause,
            cdw10=SANITIZE_CDW10,
            cdw11=_whole("OVRPAT", 32, SANITIZE_CDW10.clause, "ovrpat", "Overwrite Pattern"),
        ),
        _command(AdminOpcode.FIRMWARE_COMMIT, FW_COMMIT_CDW10.clause, cdw10=FW_COMMIT_CDW10),
        _command(
            AdminOpcode.FIRMWARE_IMAGE_DOWNLOAD,
            _FW_DOWNLOAD,
            cdw10=_whole("FW_NUMD", 32, _FW_DOWNLOAD, "numd_z", "Number of Dwords (zero-based)"),
            cdw11=_whole("FW_OFST", 32, _FW_DOWNLOAD, "ofst", "Offset (dwords)"),
        ),
        _command(
            AdminOpcode.SECURITY_SEND,
            SECURITY_CDW10.clause,
            cdw10=SECURITY_CDW10,
            cdw11=_whole("SECURITY_TL", 32, SECURITY_CDW10.clause, "tl", "Transfer Length (bytes)"),
        ),
        _command(
            AdminOpcode.SECURITY_RECEIVE,
            SECURITY_CDW10.clause,
            cdw10=SECURITY_CDW10,
            cdw11=_whole("SECURITY_AL", 32, SECURITY_CDW10.clause, "al", "Allocation Length (bytes)"),
        ),
        _command(
            AdminOpcode.GET_LBA_STATUS,
            GET_LBA_STATUS_CDW13.clause,
            cdw10_11=_SLBA,
            cdw12=_whole("MNDW", 32, GET_LBA_STATUS_CDW13.clause, "mndw_z", "Maximum Number of Dwords (zero-based)"),
            cdw13=GET_LBA_STATUS_CDW13,
        ),
    ]
)

_RW = {"cdw10_11": _SLBA, "cdw12": RW_CDW12, "cdw13": RW_CDW13, "cdw14": _RW_CDW14, "cdw15": RW_CDW15}

NVM_COMMANDS: dict[int, CommandLayout] = dict(
    [
        _command(NvmOpcode.FLUSH, "Base 2.1 §7.2"),
        _command(NvmOpcode.WRITE, _WRITE, **_RW),
        _command(NvmOpcode.READ, _READ, **_RW),
        _command(NvmOpcode.WRITE_UNCORRECTABLE, _WRITE_UNCORRECTABLE, cdw10_11=_SLBA, cdw12=_WU_CDW12),
        _command(NvmOpcode.COMPARE, _COMPARE, **_RW),
        _command(NvmOpcode.WRITE_ZEROES, _WRITE_ZEROES, **{**_RW, "cdw12": WZ_CDW12}),
        _command(NvmOpcode.DATASET_MANAGEMENT, _DSM, cdw10=DSM_CDW10, cdw11=DSM_CDW11),
        _command(NvmOpcode.VERIFY, _VERIFY, **_RW),
        _command(NvmOpcode.COPY, _COPY, **{**_RW, "cdw12": COPY_CDW12}),
        _command(NvmOpcode.ZONE_APPEND, ZONE_APPEND_CDW12.clause, **{**_RW, "cdw12": ZONE_APPEND_CDW12}),
        _command(
            NvmOpcode.ZONE_MANAGEMENT_SEND, ZONE_SEND_CDW13.clause, cdw10_11=_SLBA, cdw13=ZONE_SEND_CDW13
        ),
        _command(
            NvmOpcode.ZONE_MANAGEMENT_RECEIVE,
            ZONE_RECEIVE_CDW13.clause,
            cdw10_11=_SLBA,
            cdw12=_whole("ZONE_NUMD", 32, ZONE_RECEIVE_CDW13.clause, "numd_z", "Number of Dwords (zero-based)"),
            cdw13=ZONE_RECEIVE_CDW13,
        ),
    ]
)


def command_layout(opcode: int, admin: bool) -> CommandLayout | None:
    """The layout of a command's dwords; None for an opcode without one."""
    return (ADMIN_COMMANDS if admin else NVM_COMMANDS).get(opcode)


def __getattr__(name: str) -> Any:
    # The dtype and the construct declaration are loaded when first asked for: see `queues`.
    if name in ("DSM_RANGE_DTYPE", "DSM_RANGE_LAYOUT"):
        from . import entries

        value = getattr(entries, name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
