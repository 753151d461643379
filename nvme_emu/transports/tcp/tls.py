"""TLS 1.3 with pre-shared keys around a connection's bytes: no socket, no clock (NVMe/TCP 1.1, 3.6).

    feed(ciphertext)      what has come from the other end
    advance()             the handshake, as far as it goes; True when it is done
    take(space)           plaintext into a buffer: how many bytes, 0 for none yet
    seal(buffers)         plaintext out
    outgoing()            ciphertext to send

Who is wrong at the other end is told by an alert in `outgoing`, and here by `ssl.SSLError`.
"""

from __future__ import annotations

import ssl
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from nvme_emu.core.tls_psk import TlsKey, psk_identity, tls_psk

__all__ = ["TLS_OFFERED", "TlsKeys", "TlsLayer", "check_tls_offered", "host_layer", "target_layer"]

TLS_OFFERED = sys.version_info >= (3, 13) and getattr(ssl, "HAS_PSK", False)
"""Whether Python's ssl has pre-shared keys."""
_RECORD_BYTES = 16 << 10
_VERSIONS = {"NVMe0R01": 0, "NVMe1R01": 1}
"""What the identities begin with that a target takes: retained keys, SHA-256."""


def check_tls_offered() -> None:
    """ValueError, with the reason, where there is no TLS with pre-shared keys."""
    if not TLS_OFFERED:
        version = ".".join(map(str, sys.version_info[:2]))
        raise ValueError(f"NVMe/TCP over TLS needs pre-shared keys of Python's ssl: 3.13 has them, this is {version}")


@dataclass(frozen=True, kw_only=True, slots=True)
class TlsKeys:
    """The keys that a target knows: of some hosts, and of all others."""

    hosts: Mapping[str, TlsKey] = field(default_factory=dict)
    others: TlsKey | None = None

    def key_of(self, hostnqn: str) -> TlsKey | None:
        """The key of a host; None for one that has none."""
        return self.hosts.get(hostnqn, self.others)


class TlsLayer:
    """One end of a connection. `names` are the (host NQN, subsystem NQN) that its key is for, once that is known."""

    def __init__(self, context: ssl.SSLContext, *, server_side: bool) -> None:
        self.names: tuple[str, str] | None = None
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=server_side)
        self.open = False
        """Whether the handshake is done."""

    def feed(self, ciphertext: bytes | memoryview) -> None:
        """Bytes have come."""
        self._in.write(ciphertext)

    def advance(self) -> bool:
        """Go on with the handshake. Raises SSLError when there is none to be had."""
        if not self.open:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                return False
            self.open = True
        return True

    def take(self, space: memoryview) -> int:
        """Plaintext into `space`; 0 when more has to come first. Raises SSLError, also at the other end's goodbye."""
        try:
            # typeshed knows the form without a buffer, which gives bytes.
            return int(self._tls.read(len(space), space))
        except ssl.SSLWantReadError:
            return 0

    def seal(self, buffers: Iterable[bytes | memoryview]) -> None:
        """Plaintext for the other end, in records as large as they may be."""
        data = memoryview(b"".join(buffers))
        for at in range(0, len(data), _RECORD_BYTES):
            self._tls.write(data[at : at + _RECORD_BYTES])

    def outgoing(self) -> bytes:
        """What is to be sent."""
        return self._out.read()


def _context(protocol: int) -> ssl.SSLContext:
    check_tls_offered()
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def _set(context: ssl.SSLContext, side: str, callback: Callable[..., object]) -> None:
    """The PSK callback of one side; typeshed has it for 3.13 and later."""
    getattr(context, f"set_psk_{side}_callback")(callback)


def host_layer(key: TlsKey, hostnqn: str, subnqn: str) -> TlsLayer:
    """A host's end. ValueError for names too long and where there is no TLS."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT)
    # The key proves both ends; there are no certificates.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    psk = psk_identity(key, hostnqn, subnqn), tls_psk(key, hostnqn, subnqn)
    _set(context, "client", lambda hint: psk)
    layer = TlsLayer(context, server_side=False)
    layer.names = hostnqn, subnqn
    return layer


def target_layer(keys: TlsKeys) -> TlsLayer:
    """A target's end, for whichever host and subsystem the other one names."""
    context = _context(ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = 0  # nobody resumes these sessions

    def psk_of(identity: str | None) -> bytes:
        words = (identity or "").split(" ")
        version = _VERSIONS.get(words[0])
        if version is None or len(words) < 3:
            return b""
        _, hostnqn, subnqn, *_ = words
        key = keys.key_of(hostnqn)
        if key is None:
            return b""
        try:
            # Version 1 tells the key by a digest, which has to be ours.
            if psk_identity(key, hostnqn, subnqn, version) != identity:
                return b""
            psk = tls_psk(key, hostnqn, subnqn, version)
        except ValueError:
            return b""
        layer.names = hostnqn, subnqn
        return psk

    _set(context, "server", psk_of)
    layer = TlsLayer(context, server_side=True)
    return layer
