"""The arithmetic of DH-HMAC-CHAP: secrets, responses and Diffie-Hellman (NVMe Base 2.1, 8.3.4.5; RFC 7919).

Secrets are written as nvme-cli writes them, `DHHC-1:hh:BASE64:`, where hh names the hash that ties the secret to
its owner's name (00: none) and the text ends in the CRC-32 of the key.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Final

from nvme_emu.spec.dhchap import DhGroup, DhHash

__all__ = ["HASH_BYTES", "DhPair", "DhchapSecrets", "Secret", "augment", "ctrl_response", "host_response", "prime"]

HASH_BYTES: Final[dict[int, int]] = {DhHash.SHA256: 32, DhHash.SHA384: 48, DhHash.SHA512: 64}
_NAMES: Final[dict[int, str]] = {DhHash.SHA256: "sha256", DhHash.SHA384: "sha384", DhHash.SHA512: "sha512"}
_KEY_BYTES: Final = (32, 48, 64)
_PREFIX: Final = "DHHC-1:"

# RFC 7919, appendix A: p = 2^b - 2^(b-64) + (floor(2^(b-130) * e) + X) * 2^64 - 1 with generator 2, and how long a
# private exponent has to be for the strength of the group.
_GROUPS: Final[dict[int, tuple[int, int, int]]] = {
    DhGroup.FFDHE2048: (2048, 560316, 232),
    DhGroup.FFDHE3072: (3072, 2625351, 280),
    DhGroup.FFDHE4096: (4096, 5736041, 328),
    DhGroup.FFDHE6144: (6144, 15705020, 376),
    DhGroup.FFDHE8192: (8192, 10965728, 400),
}


@dataclass(frozen=True, slots=True)
class Secret:
    """A key of 32, 48 or 64 bytes and the hash that ties it to a name (0: none)."""

    key: bytes
    hash_id: int = 0

    def __post_init__(self) -> None:
        if len(self.key) not in _KEY_BYTES:
            raise ValueError(f"a DH-HMAC-CHAP key has 32, 48 or 64 bytes, not {len(self.key)}")
        if self.hash_id and HASH_BYTES.get(self.hash_id) != len(self.key):
            raise ValueError(f"a key of {len(self.key)} bytes does not go with hash {self.hash_id:02x}")

    @classmethod
    def parse(cls, text: str) -> Secret:
        """The secret that `DHHC-1:hh:BASE64:` writes. ValueError says what is wrong, without the secret."""
        parts = text.strip().removeprefix(_PREFIX).split(":")
        if not text.strip().startswith(_PREFIX) or len(parts) != 3 or parts[2]:
            raise ValueError("a DH-HMAC-CHAP secret is written DHHC-1:hh:BASE64:")
        if parts[0] not in ("00", "01", "02", "03"):
            raise ValueError(f"DH-HMAC-CHAP secret: hash {parts[0]!r} is none of 00, 01, 02, 03")
        try:
            blob = base64.b64decode(parts[1], validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("DH-HMAC-CHAP secret: what stands between the colons is not base64") from None
        key, crc = blob[:-4], blob[-4:]
        if len(key) in _KEY_BYTES and zlib.crc32(key).to_bytes(4, "little") != crc:
            raise ValueError("DH-HMAC-CHAP secret: its CRC is wrong, a character got lost or changed")
        return cls(key, int(parts[0]))

    def __str__(self) -> str:
        blob = self.key + zlib.crc32(self.key).to_bytes(4, "little")
        return f"{_PREFIX}{self.hash_id:02x}:{base64.b64encode(blob).decode()}:"

    def __repr__(self) -> str:
        return f"<Secret of {len(self.key)} bytes, hash {self.hash_id:02x}>"

    def tied_to(self, nqn: str) -> bytes:
        """The key that the owner of this name computes with."""
        if not self.hash_id:
            return self.key
        return hmac.digest(self.key, nqn.encode() + b"NVMe-over-Fabrics", _NAMES[self.hash_id])


@dataclass(frozen=True, slots=True)
class DhchapSecrets:
    """What a host has to prove, and what it may ask the controller to prove (None: nothing)."""

    host: Secret
    ctrl: Secret | None = None


@cache
def prime(group: int) -> int:
    """The prime of a group. KeyError for NULL and for a group that does not exist."""
    bits, correction, _ = _GROUPS[group]
    return (1 << bits) - (1 << bits - 64) + ((_e_bits(bits - 130) + correction) << 64) - 1


def _e_bits(bits: int) -> int:
    """floor(2^bits * e), by the series of 1/n! with some bits to spare."""
    spare = 64
    total, term, n = 0, 1 << bits + spare, 1
    while term:
        total += term
        term //= n
        n += 1
    return total >> spare


class DhPair:
    """A private exponent of a group and what is told of it; `entropy(n)` gives n unpredictable bytes."""

    def __init__(self, group: int, entropy: Callable[[int], bytes]) -> None:
        self._prime = prime(group)
        bits, _, exponent_bits = _GROUPS[group]
        self.nbytes = bits // 8
        # The top bit set, so that the exponent is as long as it should be.
        self._private = int.from_bytes(entropy(exponent_bits // 8), "big") | 1 << exponent_bits - 1
        self.public = pow(2, self._private, self._prime).to_bytes(self.nbytes, "big")

    def shared(self, other: bytes) -> bytes:
        """The secret shared with the owner of the public value `other`. ValueError if that is none."""
        value = int.from_bytes(other, "big")
        if len(other) != self.nbytes or not 1 < value < self._prime - 1:
            raise ValueError("no public value of this group")
        return pow(value, self._private, self._prime).to_bytes(self.nbytes, "big")


def augment(hash_id: int, shared: bytes | None, challenge: bytes) -> bytes:
    """The challenge bound to the shared secret; without Diffie-Hellman it stays as it is."""
    if shared is None:
        return challenge
    name = _NAMES[hash_id]
    return hmac.digest(hashlib.new(name, shared).digest(), challenge, name)


def _numbers(seqnum: int, t_id: int, sc_c: int) -> bytes:
    return seqnum.to_bytes(4, "little") + t_id.to_bytes(2, "little") + bytes([sc_c])


def host_response(
    hash_id: int, key: bytes, challenge: bytes, seqnum: int, t_id: int, sc_c: int, hostnqn: str, subnqn: str
) -> bytes:
    """What a host that knows `key` answers to the (augmented) challenge."""
    said = challenge + _numbers(seqnum, t_id, sc_c) + b"HostHost" + hostnqn.encode() + b"\0" + subnqn.encode()
    return hmac.digest(key, said, _NAMES[hash_id])


def ctrl_response(
    hash_id: int, key: bytes, challenge: bytes, seqnum: int, t_id: int, hostnqn: str, subnqn: str
) -> bytes:
    """What a controller that knows `key` answers to the host's (augmented) challenge."""
    said = challenge + _numbers(seqnum, t_id, 0) + b"Controller" + subnqn.encode() + b"\0" + hostnqn.encode()
    return hmac.digest(key, said, _NAMES[hash_id])
