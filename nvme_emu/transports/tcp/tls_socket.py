"""A connected socket with TLS over it, with those methods of a socket that the initiator calls.

Ciphertext that a full socket does not take waits here until `push`. Plaintext that does not fit into the reader's
space waits in the layer until `take`: a caller empties it before it sleeps on the socket.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nvme_emu.transports.tcp.tls import TlsLayer

__all__ = ["TlsSocket"]

_SCRATCH_BYTES = 64 << 10
_SEALED_AT_ONCE = 128 << 10
"""Plaintext that is taken while a socket is not known to be full."""


class TlsSocket:
    """Takes over a connected socket. What TLS has to say against the other end is ConnectionAbortedError."""

    def __init__(self, plain: socket.socket, layer: TlsLayer) -> None:
        self._plain = plain
        self._layer = layer
        self._lock = threading.Lock()  # guards the layer: one may send while another receives
        self._waiting = memoryview(b"")
        self._scratch = memoryview(bytearray(_SCRATCH_BYTES))
        self.fileno, self.close, self.shutdown = plain.fileno, plain.close, plain.shutdown
        self.settimeout, self.setsockopt = plain.settimeout, plain.setsockopt

    def _aborted(self, error: ssl.SSLError) -> ConnectionAbortedError:
        return ConnectionAbortedError(errno.ECONNABORTED, f"TLS: {error.reason or error}")

    def handshake(self) -> None:
        """Shake hands, in the time that the socket's own limit gives. OSError if the target does not want to."""
        try:
            while not self._layer.advance():
                self._plain.sendall(self._layer.outgoing())
                received = self._plain.recv_into(self._scratch)
                if not received:
                    raise ConnectionResetError(errno.ECONNRESET, "TLS: the target closed the connection")
                self._layer.feed(self._scratch[:received])
        except ssl.SSLError as error:
            raise self._aborted(error) from error
        self._plain.sendall(self._layer.outgoing())

    # -- sending --------------------------------------------------------------------------------------------

    @property
    def unsent(self) -> bool:
        """Whether ciphertext waits for `push`."""
        return bool(self._waiting)

    def push(self) -> None:
        """Send what waits. BlockingIOError if the socket does not take all of it."""
        while self._waiting:
            self._waiting = self._waiting[self._plain.send(self._waiting, socket.MSG_DONTWAIT) :]

    def sendmsg(self, buffers: Sequence[bytes | memoryview], ancillary: Sequence[object], flags: int) -> int:
        """Bytes of plaintext that were taken: what does not leave at once waits. BlockingIOError for none."""
        self.push()
        taken: list[bytes | memoryview] = []
        total = 0
        for buffer in buffers:
            taken.append(buffer)
            total += len(buffer)
            if total >= _SEALED_AT_ONCE:
                break
        with self._lock:
            self._layer.seal(taken)
            self._waiting = memoryview(self._layer.outgoing())
        with contextlib.suppress(BlockingIOError):
            self.push()
        return total

    def send(self, data: bytes | memoryview, flags: int) -> int:
        """As `sendmsg` for one buffer."""
        return self.sendmsg([data], (), flags)

    def sendall(self, data: bytes | memoryview) -> None:
        """Send it, waiting for the socket."""
        with self._lock:
            self._layer.seal([data])
            sealed = self._layer.outgoing()
        self._plain.sendall(sealed)

    # -- receiving ------------------------------------------------------------------------------------------

    def take(self, space: memoryview) -> int:
        """Plaintext that has come already; 0 for none."""
        try:
            with self._lock:
                return self._layer.take(space)
        except ssl.SSLZeroReturnError:
            return 0
        except ssl.SSLError as error:
            raise self._aborted(error) from error

    def recv_into(self, space: memoryview, nbytes: int, flags: int) -> int:
        """Plaintext, once some has come; 0 when the target has closed. As a socket with those flags."""
        while True:
            taken = self.take(space)
            if taken:
                return taken
            received = self._plain.recv_into(self._scratch, 0, flags)
            if not received:
                return 0
            with self._lock:
                self._layer.feed(self._scratch[:received])
