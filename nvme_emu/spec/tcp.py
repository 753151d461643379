"""The PDUs of NVMe/TCP (NVM Express TCP Transport 1.1, clause 3.6).

Every PDU begins with the common header CH: type, flags, header length HLEN, data offset PDO and the length of
the whole PDU, PLEN. HLEN counts no digest, PDO and PLEN do:

    CH (8) | the type's own header | header digest (4) | padding | data | data digest (4)
    0        8                       HLEN                        PDO    PLEN - 4         PLEN

`Structure`s declare and decode; the `struct.Struct`s beside them move the bytes on hot paths. Digests are
CRC32C, little-endian.
"""

from __future__ import annotations

import struct
from typing import Final

from .base import Structure, raw, rsvd, u8, u16, u32
from .bits import BitLayout, bit
from .queues import CQE_SIZE, SQE_SIZE
from .words import Worded

__all__ = [
    "C2H_DATA",
    "CAPSULE_CMD",
    "CAPSULE_RESP",
    "CH",
    "CH_SIZE",
    "CMD_SIZE",
    "COMMON_HEADER",
    "DATA",
    "DATA_SIZE",
    "DIGEST_SIZE",
    "FLAG_DDGST",
    "FLAG_HDGST",
    "FLAG_LAST",
    "FLAG_SUCCESS",
    "H2C_DATA",
    "IC",
    "IC_DIGEST",
    "IC_REQ",
    "IC_RESP",
    "IC_SIZE",
    "MAXH2CDATA_MIN",
    "PDA_MAX",
    "PDU_STRUCTURES",
    "PFV_1_0",
    "R2T",
    "RESP_SIZE",
    "TERM",
    "TERM_DATA_MAX",
    "TERM_REQ",
    "TERM_SIZE",
    "Fes",
    "PduFlag",
    "PduType",
    "align_data",
]

_CLAUSE: Final = "TCP 1.1 §3.6.2"


class PduType(Worded):
    """PDU-Type."""

    IC_REQ = 0x00, "ICReq"
    IC_RESP = 0x01, "ICResp"
    H2C_TERM_REQ = 0x02, "H2CTermReq"
    C2H_TERM_REQ = 0x03, "C2HTermReq"
    CAPSULE_CMD = 0x04, "CapsuleCmd"
    CAPSULE_RESP = 0x05, "CapsuleResp"
    H2C_DATA = 0x06, "H2CData"
    C2H_DATA = 0x07, "C2HData"
    R2T = 0x09, "R2T"


class Fes(Worded):
    """Fatal Error Status of a terminate PDU."""

    INVALID_HEADER_FIELD = 0x01, "Invalid PDU Header Field"
    SEQUENCE_ERROR = 0x02, "PDU Sequence Error"
    HEADER_DIGEST_ERROR = 0x03, "Header Digest Error"
    DATA_OUT_OF_RANGE = 0x04, "Data Transfer Out of Range"
    LIMIT_EXCEEDED = 0x05, "R2T Limit Exceeded (host) or Data Transfer Limit Exceeded (controller)"
    UNSUPPORTED_PARAMETER = 0x06, "Unsupported Parameter"


class PduFlag(Worded):
    """FLAGS of the common header."""

    HDGST = 0x01, "HDGSTF: a header digest follows the header"
    DDGST = 0x02, "DDGSTF: a data digest follows the data"
    LAST = 0x04, "LAST_PDU: the last data of this transfer"
    SUCCESS = 0x08, "SUCCESS: the command is complete, no CapsuleResp follows"


# The same as plain integers for hot paths.
FLAG_HDGST: Final = int(PduFlag.HDGST)
FLAG_DDGST: Final = int(PduFlag.DDGST)
FLAG_LAST: Final = int(PduFlag.LAST)
FLAG_SUCCESS: Final = int(PduFlag.SUCCESS)

PFV_1_0: Final = 0
PDA_MAX: Final = 31
"""HPDA and CPDA: data is aligned to (value + 1) dwords; 0 to 31."""
MAXH2CDATA_MIN: Final = 4096
TERM_DATA_MAX: Final = 128
"""Bytes of the offending PDU's header that a terminate PDU may carry back."""
DIGEST_SIZE: Final = 4

# type, flags, hlen, pdo, plen
CH = struct.Struct("<BBBBI")
CH_SIZE: Final = CH.size
# CH, then pfv, hpda or cpda, dgst, maxr2t or maxh2cdata
IC = struct.Struct("<BBBBIHBBI112x")
IC_SIZE: Final = 128
# CH, then fes, fei
TERM = struct.Struct("<BBBBIHI10x")
TERM_SIZE: Final = 24
# CH, then cccid, ttag, offset, length: H2CData, C2HData and R2T alike
DATA = struct.Struct("<BBBBIHHII4x")
DATA_SIZE: Final = 24
CMD_SIZE: Final = CH_SIZE + SQE_SIZE
RESP_SIZE: Final = CH_SIZE + CQE_SIZE
assert CH_SIZE == 8
assert IC.size == IC_SIZE
assert TERM.size == TERM_SIZE
assert DATA.size == DATA_SIZE

IC_DIGEST = BitLayout(
    "IC_DIGEST",
    8,
    _CLAUSE,
    bit("hdgst", 1, "Header digest"),
    bit("ddgst", 1, "Data digest"),
    bit("rsvd2", 6),
)

_CH_FIELDS = (
    "pdu_type" / u8 * "PDU-Type",
    "flags" / u8 * "Flags",
    "hlen" / u8 * "Header Length",
    "pdo" / u8 * "PDU Data Offset",
    "plen" / u32 * "PDU Length",
)

COMMON_HEADER = Structure("COMMON_HEADER", CH_SIZE, "TCP 1.1 §3.6.1", *_CH_FIELDS)

IC_REQ = Structure(
    "IC_REQ",
    IC_SIZE,
    "TCP 1.1 §3.6.2.2",
    *_CH_FIELDS,
    "pfv" / u16 * "PDU Format Version",
    "hpda" / u8 * "Host PDU Data Alignment (dwords, zero-based)",
    "dgst" / u8 * "Digests that the host wants",
    "maxr2t_z" / u32 * "Maximum Number of Outstanding R2T for a command (zero-based)",
    rsvd(16, 112),
    bits={"dgst": IC_DIGEST},
)
IC_RESP = Structure(
    "IC_RESP",
    IC_SIZE,
    "TCP 1.1 §3.6.2.3",
    *_CH_FIELDS,
    "pfv" / u16 * "PDU Format Version",
    "cpda" / u8 * "Controller PDU Data Alignment (dwords, zero-based)",
    "dgst" / u8 * "Digests that will be used",
    "maxh2cdata" / u32 * "Maximum Host to Controller Data length of one H2CData PDU (bytes)",
    rsvd(16, 112),
    bits={"dgst": IC_DIGEST},
)
TERM_REQ = Structure(
    "TERM_REQ",
    TERM_SIZE,
    "TCP 1.1 §3.6.2.4, §3.6.2.5",
    *_CH_FIELDS,
    "fes" / u16 * "Fatal Error Status",
    "fei" / u32 * "Fatal Error Information",
    rsvd(14, 10),
)
CAPSULE_CMD = Structure(
    "CAPSULE_CMD", CMD_SIZE, "TCP 1.1 §3.6.2.6", *_CH_FIELDS, "ccsqe" / raw(SQE_SIZE) * "Submission Queue Entry"
)
CAPSULE_RESP = Structure(
    "CAPSULE_RESP", RESP_SIZE, "TCP 1.1 §3.6.2.7", *_CH_FIELDS, "rccqe" / raw(CQE_SIZE) * "Completion Queue Entry"
)
H2C_DATA = Structure(
    "H2C_DATA",
    DATA_SIZE,
    "TCP 1.1 §3.6.2.8",
    *_CH_FIELDS,
    "cccid" / u16 * "Command Capsule Command Identifier",
    "ttag" / u16 * "Transfer Tag of the R2T",
    "datao" / u32 * "Data Offset within the command's data",
    "datal" / u32 * "Data Length",
    rsvd(20, 4),
)
C2H_DATA = Structure(
    "C2H_DATA",
    DATA_SIZE,
    "TCP 1.1 §3.6.2.9",
    *_CH_FIELDS,
    "cccid" / u16 * "Command Capsule Command Identifier",
    rsvd(10, 2),
    "datao" / u32 * "Data Offset within the command's data",
    "datal" / u32 * "Data Length",
    rsvd(20, 4),
)
R2T = Structure(
    "R2T",
    DATA_SIZE,
    "TCP 1.1 §3.6.2.10",
    *_CH_FIELDS,
    "cccid" / u16 * "Command Capsule Command Identifier",
    "ttag" / u16 * "Transfer Tag",
    "r2to" / u32 * "Requested Data Offset",
    "r2tl" / u32 * "Requested Data Length",
    rsvd(20, 4),
)

PDU_STRUCTURES: Final[dict[int, Structure]] = {
    PduType.IC_REQ: IC_REQ,
    PduType.IC_RESP: IC_RESP,
    PduType.H2C_TERM_REQ: TERM_REQ,
    PduType.C2H_TERM_REQ: TERM_REQ,
    PduType.CAPSULE_CMD: CAPSULE_CMD,
    PduType.CAPSULE_RESP: CAPSULE_RESP,
    PduType.H2C_DATA: H2C_DATA,
    PduType.C2H_DATA: C2H_DATA,
    PduType.R2T: R2T,
}
"""The header of each type of PDU."""


def align_data(hlen: int, header_digest: bool, pda: int) -> int:
    """PDO: where the data of a PDU starts, on a boundary of `pda` + 1 dwords behind the header."""
    step = 4 * (pda + 1)
    end = hlen + (DIGEST_SIZE if header_digest else 0)
    return -(-end // step) * step
