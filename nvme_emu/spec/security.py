"""Security protocols, and the data of protocol 00h (Base 2.1, clauses 5.1.23 and 5.1.24; SPC-5, security protocol
information). The data of security protocols is big-endian, as SCSI's is.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from enum import IntEnum

from .words import Worded

__all__ = [
    "SecurityInformation",
    "SecurityProtocol",
    "build_certificate",
    "build_compliance",
    "build_protocol_list",
    "parse_protocol_list",
]

_LIST = struct.Struct(">6xH")
_CERTIFICATE = struct.Struct(">2xH")
_COMPLIANCE = struct.Struct(">I")


class SecurityProtocol(Worded):
    """SECURITY_CDW10.secp."""

    INFORMATION = 0x00, "Security protocol information"
    TCG_1 = 0x01, "TCG"
    TCG_2 = 0x02, "TCG"
    NVME = 0xEA, "NVM Express"
    ATA_SECURITY = 0xEF, "ATA Device Server Password"


class SecurityInformation(IntEnum):
    """The SP Specific fields (SPSP1 << 8 | SPSP0) of protocol 00h."""

    SUPPORTED_PROTOCOLS = 0x0000
    CERTIFICATE = 0x0001
    COMPLIANCE = 0x0002


def build_protocol_list(protocols: Iterable[int]) -> bytes:
    """Supported security protocols, ascending; 00h is always one of them."""
    listed = bytes(sorted({0, *protocols}))
    return _LIST.pack(len(listed)) + listed


def parse_protocol_list(data: bytes) -> list[int]:
    """The protocols in such a list. struct.error where there is no header."""
    (length,) = _LIST.unpack_from(data)
    return list(data[_LIST.size : _LIST.size + length])


def build_certificate(certificate: bytes = b"") -> bytes:
    """Certificate data; no certificate is one of no bytes."""
    return _CERTIFICATE.pack(len(certificate)) + certificate


def build_compliance(descriptors: bytes = b"") -> bytes:
    """Security compliance information: descriptors of the standards that are met."""
    return _COMPLIANCE.pack(len(descriptors)) + descriptors
