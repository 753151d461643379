"""DH-HMAC-CHAP: the messages by which a host and a controller authenticate each other (NVMe Base 2.1, 8.3.4.5).

    host                               controller
    AUTH_Negotiate            ──►
                              ◄──      DH-HMAC-CHAP_Challenge
    DH-HMAC-CHAP_Reply        ──►
                              ◄──      DH-HMAC-CHAP_Success1
    DH-HMAC-CHAP_Success2     ──►      (only where the host has asked for the controller's response)

Either side ends it with AUTH_Failure1 (controller) or AUTH_Failure2 (host). The messages travel as the data of
Authentication Send and Authentication Receive.
"""

from __future__ import annotations

import struct
from typing import Final

from .base import Structure, raw, rsvd, u8, u16, u32
from .words import Worded

__all__ = [
    "AUTH_FAILURE",
    "AUTH_NEGOTIATE",
    "AUTH_PROTOCOL",
    "AUTH_RECEIVE",
    "AUTH_SECP",
    "AUTH_SEND",
    "AUTHREQ_ATR",
    "CHALLENGE",
    "DHCHAP_AUTHID",
    "DHGROUP_IDS_AT",
    "MESSAGE_HEAD",
    "REPLY",
    "SUCCESS1",
    "SUCCESS2",
    "AuthFailure",
    "AuthMessage",
    "AuthType",
    "DhGroup",
    "DhHash",
]

AUTH_SECP: Final = 0xE9
"""SECP of the authentication commands."""
AUTHREQ_ATR: Final = 1 << 1
"""In the second half of dword 0 of Connect's completion: authentication transaction required."""
DHCHAP_AUTHID: Final = 0x01
DHGROUP_IDS_AT: Final = 30
"""Where the groups start in the list of identifiers of a protocol descriptor; hashes stand before."""


class AuthType(Worded):
    """AUTH_TYPE of a message."""

    COMMON = 0, "common message"
    DHCHAP = 1, "DH-HMAC-CHAP message"


class AuthMessage(Worded):
    """AUTH_ID of a message."""

    NEGOTIATE = 0x00, "AUTH_Negotiate"
    CHALLENGE = 0x01, "DH-HMAC-CHAP_Challenge"
    REPLY = 0x02, "DH-HMAC-CHAP_Reply"
    SUCCESS1 = 0x03, "DH-HMAC-CHAP_Success1"
    SUCCESS2 = 0x04, "DH-HMAC-CHAP_Success2"
    FAILURE2 = 0xF0, "AUTH_Failure2"
    FAILURE1 = 0xF1, "AUTH_Failure1"


class DhHash(Worded):
    """HashID."""

    SHA256 = 1, "SHA-256"
    SHA384 = 2, "SHA-384"
    SHA512 = 3, "SHA-512"


class DhGroup(Worded):
    """DHgID: NULL, and the groups of RFC 7919."""

    NULL = 0, "no Diffie-Hellman"
    FFDHE2048 = 1, "2048-bit"
    FFDHE3072 = 2, "3072-bit"
    FFDHE4096 = 3, "4096-bit"
    FFDHE6144 = 4, "6144-bit"
    FFDHE8192 = 5, "8192-bit"


class AuthFailure(Worded):
    """Reason code explanation of a failure message (its reason code is 01h, authentication failure)."""

    FAILED = 1, "authentication failed"
    PROTOCOL_UNUSABLE = 2, "authentication protocol not usable"
    CONCAT_MISMATCH = 3, "secure channel concatenation mismatch"
    HASH_UNUSABLE = 4, "hash function not usable"
    DHGROUP_UNUSABLE = 5, "DH group not usable"
    INCORRECT_PAYLOAD = 6, "incorrect payload"
    INCORRECT_MESSAGE = 7, "incorrect protocol message"


def _command(name: str, fctype: str, length: tuple[str, str]) -> Structure:
    return Structure(
        name,
        64,
        "Base 2.1 §6.1" if name == "AUTH_RECEIVE" else "Base 2.1 §6.2",
        "opcode" / u8 * "Opcode (7Fh)",
        "flags" / u8 * "PSDT and FUSE",
        "cid" / u16 * "Command Identifier",
        "fctype" / u8 * f"Fabrics Command Type ({fctype})",
        rsvd(5, 19),
        "sgl1" / raw(16) * "SGL Descriptor 1",
        rsvd(40, 1),
        "spsp0" / u8 * "SP Specific 0",
        "spsp1" / u8 * "SP Specific 1",
        "secp" / u8 * "Security Protocol (E9h)",
        length[0] / u32 * length[1],
        rsvd(48, 16),
    )


AUTH_SEND = _command("AUTH_SEND", "05h", ("tl", "Transfer Length"))
AUTH_RECEIVE = _command("AUTH_RECEIVE", "06h", ("al", "Allocation Length"))

# Every message starts so: type, identifier, two reserved bytes, transaction identifier.
MESSAGE_HEAD = struct.Struct("<BBHH")

AUTH_NEGOTIATE = Structure(
    "AUTH_NEGOTIATE",
    8,
    "Base 2.1 §8.3.4.4",
    "auth_type" / u8 * "Authentication Type",
    "auth_id" / u8 * "Message Identifier",
    rsvd(2, 2),
    "t_id" / u16 * "Transaction Identifier",
    "sc_c" / u8 * "Secure Channel Concatenation",
    "napd" / u8 * "Number of Authentication Protocol Descriptors",
)
AUTH_PROTOCOL = Structure(
    "AUTH_PROTOCOL",
    64,
    "Base 2.1 §8.3.4.5.2",
    "authid" / u8 * "Authentication Protocol Identifier",
    rsvd(1, 1),
    "halen" / u8 * "Hash Identifier List Length",
    "dhlen" / u8 * "DH Group Identifier List Length",
    "idlist" / raw(60) * "Hash and DH Group Identifiers",
)
CHALLENGE = Structure(
    "CHALLENGE",
    16,
    "Base 2.1 §8.3.4.5.3",
    "auth_type" / u8 * "Authentication Type",
    "auth_id" / u8 * "Message Identifier",
    rsvd(2, 2),
    "t_id" / u16 * "Transaction Identifier",
    "hl" / u8 * "Hash Length",
    rsvd(7, 1),
    "hashid" / u8 * "Hash Identifier",
    "dhgid" / u8 * "DH Group Identifier",
    "dhvlen" / u16 * "DH Value Length",
    "seqnum" / u32 * "Sequence Number",
)
REPLY = Structure(
    "REPLY",
    16,
    "Base 2.1 §8.3.4.5.4",
    "auth_type" / u8 * "Authentication Type",
    "auth_id" / u8 * "Message Identifier",
    rsvd(2, 2),
    "t_id" / u16 * "Transaction Identifier",
    "hl" / u8 * "Hash Length",
    rsvd(7, 1),
    "cvalid" / u8 * "Challenge Valid",
    rsvd(9, 1),
    "dhvlen" / u16 * "DH Value Length",
    "seqnum" / u32 * "Sequence Number",
)
SUCCESS1 = Structure(
    "SUCCESS1",
    16,
    "Base 2.1 §8.3.4.5.5",
    "auth_type" / u8 * "Authentication Type",
    "auth_id" / u8 * "Message Identifier",
    rsvd(2, 2),
    "t_id" / u16 * "Transaction Identifier",
    "hl" / u8 * "Hash Length",
    rsvd(7, 1),
    "rvalid" / u8 * "Response Valid",
    rsvd(9, 7),
)
SUCCESS2 = Structure(
    "SUCCESS2",
    16,
    "Base 2.1 §8.3.4.5.6",
    "auth_type" / u8 * "Authentication Type",
    "auth_id" / u8 * "Message Identifier",
    rsvd(2, 2),
    "t_id" / u16 * "Transaction Identifier",
    rsvd(6, 10),
)
AUTH_FAILURE = Structure(
    "AUTH_FAILURE",
    8,
    "Base 2.1 §8.3.4.4",
    "auth_type" / u8 * "Authentication Type",
    "auth_id" / u8 * "Message Identifier",
    rsvd(2, 2),
    "t_id" / u16 * "Transaction Identifier",
    "rescode" / u8 * "Reason Code (01h)",
    "rescode_exp" / u8 * "Reason Code Explanation",
)
