"""Pre-shared keys of NVMe/TCP over TLS 1.3: how they are written, and what TLS computes with (TCP 1.1, 3.6.1).

A configured key is written as nvme-cli's `gen-tls-key` writes it, `NVMeTLSkey-1:hh:BASE64:`, where hh names the hash
that ties it to its host's name (00: none) and the text ends in the CRC-32 of the key. Only keys of 32 bytes are
taken: those of 48 go with SHA-384, with which Python's ssl has no pre-shared keys.

    configured ──retained(hostnqn)──► retained ──tls_psk(key, hostnqn, subnqn)──► what both ends of TLS know
"""

from __future__ import annotations

import base64
import binascii
import hmac
import zlib
from dataclasses import dataclass
from typing import Final

__all__ = ["TlsKey", "psk_identity", "tls_psk"]

_PREFIX: Final = "NVMeTLSkey-1:"
_KEY_BYTES: Final = 32
_IDENTITY_MAX: Final = 255
"""A context of HKDF-Expand-Label has one byte for its length (RFC 8446, 7.1)."""


@dataclass(frozen=True, slots=True)
class TlsKey:
    """A configured key of 32 bytes and the hash that ties it to a host's name (0: none, 1: SHA-256)."""

    key: bytes
    hash_id: int = 1

    def __post_init__(self) -> None:
        if len(self.key) == 48:
            raise ValueError("a TLS key of 48 bytes goes with SHA-384, which Python's ssl has no pre-shared keys for")
        if len(self.key) != _KEY_BYTES:
            raise ValueError(f"a TLS key has {_KEY_BYTES} bytes, not {len(self.key)}")
        if self.hash_id not in (0, 1):
            raise ValueError(f"a key of {_KEY_BYTES} bytes does not go with hash {self.hash_id:02x}")

    @classmethod
    def parse(cls, text: str) -> TlsKey:
        """The key that `NVMeTLSkey-1:hh:BASE64:` writes. ValueError says what is wrong, without the key."""
        parts = text.strip().removeprefix(_PREFIX).split(":")
        if not text.strip().startswith(_PREFIX) or len(parts) != 3 or parts[2]:
            raise ValueError("a TLS key is written NVMeTLSkey-1:hh:BASE64:")
        if parts[0] not in ("00", "01", "02"):
            raise ValueError(f"TLS key: hash {parts[0]!r} is none of 00, 01, 02")
        try:
            blob = base64.b64decode(parts[1], validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("TLS key: what stands between the colons is not base64") from None
        key, crc = blob[:-4], blob[-4:]
        if zlib.crc32(key).to_bytes(4, "little") != crc:
            raise ValueError("TLS key: its CRC is wrong, a character got lost or changed")
        return cls(key, int(parts[0]))

    def __str__(self) -> str:
        blob = self.key + zlib.crc32(self.key).to_bytes(4, "little")
        return f"{_PREFIX}{self.hash_id:02x}:{base64.b64encode(blob).decode()}:"

    def __repr__(self) -> str:
        return f"<TlsKey of {len(self.key)} bytes, hash {self.hash_id:02x}>"

    def retained(self, hostnqn: str) -> bytes:
        """The key as this host keeps it (TCP 1.1, 3.6.1.2)."""
        if not self.hash_id:
            return self.key
        return _derive(self.key, "HostNQN", hostnqn)


def psk_identity(key: TlsKey, hostnqn: str, subnqn: str, version: int = 0) -> str:
    """What a host calls its retained key for a subsystem (SHA-256; TCP 1.1, 3.6.1.3). ValueError for names too long.

    Version 0 has the names alone, version 1 a digest of the key besides.
    """
    identity = f"NVMe{version}R01 {hostnqn} {subnqn}"
    if version:
        identity += f" {_digest(key, hostnqn, subnqn)}"
    if len(identity.encode()) > _IDENTITY_MAX:
        raise ValueError(f"TLS: the identity of {hostnqn} at {subnqn} is longer than {_IDENTITY_MAX} bytes")
    return identity


def tls_psk(key: TlsKey, hostnqn: str, subnqn: str, version: int = 0) -> bytes:
    """What TLS is keyed with for this host and subsystem. ValueError as `psk_identity`."""
    context = psk_identity(key, hostnqn, subnqn, version)
    if version:
        context = f"01 {_digest(key, hostnqn, subnqn)}"
    return _derive(key.retained(hostnqn), "nvme-tls-psk", context)


def _digest(key: TlsKey, hostnqn: str, subnqn: str) -> str:
    words = f"{hostnqn} {subnqn} NVMe-over-Fabrics".encode()
    return base64.b64encode(hmac.digest(key.retained(hostnqn), words, "sha256")).decode()


def _derive(secret: bytes, label: str, context: str) -> bytes:
    """HKDF-Extract without salt, then HKDF-Expand-Label, both SHA-256, to 32 bytes (RFC 5869; RFC 8446, 7.1)."""
    prk = hmac.digest(bytes(_KEY_BYTES), secret, "sha256")
    words, about = f"tls13 {label}".encode(), context.encode()
    info = _KEY_BYTES.to_bytes(2, "big") + bytes([len(words)]) + words + bytes([len(about)]) + about
    return hmac.digest(prk, info + b"\x01", "sha256")
