"""An NVMe/TCP target: a listening socket and its connections, served by the loop.

Every connection is read a bounded amount at a time and answered once a turn, with one system call for all
answers. One that breaks the protocol, does not say hello, or does not read its answers is dropped or waits,
alone; each dropped one costs a line in the log.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nvme_emu.transports.loop import EVENT_READ, EVENT_WRITE, Loop
from nvme_emu.transports.tcp.session import TargetOptions, TargetSession
from nvme_emu.transports.tcp.tls import TlsKeys, check_tls_offered, target_layer

if TYPE_CHECKING:
    from nvme_emu.core.capsules import CapsuleTarget
    from nvme_emu.core.ports import StreamTap
    from nvme_emu.transports.tcp.tls import TlsLayer

__all__ = ["DEFAULT_PORT", "TcpServer", "TcpServerConfig", "parse_address"]

DEFAULT_PORT = 4420
ACCEPTED_PER_TURN = 64
BUFFERS_PER_CALL = 1000
"""Below the kernel's IOV_MAX of 1024."""
SCRATCH_BYTES = 64 << 10


@dataclass(frozen=True, kw_only=True, slots=True)
class TcpServerConfig:
    """Where and how to listen. Port 0 takes a free one.

    `greeting_ns`: how long a connection may take until its Connect has succeeded. `linger_ns`: how long the
    end of a broken one waits for the host to read why. `connections_max`: more are turned away. `tls`: the keys of
    hosts, which then must speak TLS; ValueError where Python has no such TLS.
    """

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    greeting_ns: int = 10_000_000_000
    linger_ns: int = 1_000_000_000
    connections_max: int = 4096
    options: TargetOptions = field(default_factory=TargetOptions)
    tls: TlsKeys | None = None

    def __post_init__(self) -> None:
        if self.tls is not None:
            check_tls_offered()


def parse_address(text: str, default_port: int = DEFAULT_PORT) -> tuple[str, int]:
    """(host, port) of HOST:PORT, HOST, :PORT or [IPV6]:PORT. ValueError for anything else."""
    host, port = text, str(default_port)
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f"{text!r} is no HOST:PORT")
        port = rest[1:] or port
    elif text.count(":") == 1:
        host, _, given = text.partition(":")
        port = given or port
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{text!r} is no HOST:PORT: the port is a number up to 65535")
    return host or "127.0.0.1", int(port)


class TcpServer:
    """Listens on one address for `target`, whatever subsystems that has; `log` gets a line an event.

    `tap(host)` makes the witness of a new connection from a host's (address, port).

    Raises OSError when the address cannot be used. It is a task of the loop; `close` ends it.
    """

    def __init__(
        self,
        loop: Loop,
        target: CapsuleTarget,
        config: TcpServerConfig,
        *,
        log: Callable[[str], None],
        tap: Callable[[tuple[str, int]], StreamTap] | None = None,
    ) -> None:
        self.config = config
        self.tap = tap
        self.clients = 0
        self.refused = 0
        self.internal_error: Exception | None = None
        """The last exception that was our own mistake; it cost its client the connection."""
        self.loop = loop
        self.target = target
        self.connections: dict[int, Connection] = {}
        self.woken: set[Connection] = set()
        self.waiting: dict[Connection, None] = {}
        """Connections with a time limit."""
        self._next_limit_ns: int | None = None
        self.scratch = memoryview(bytearray(SCRATCH_BYTES))
        self._log_line = log
        self._listener = _listen(config.host, config.port)
        self.address: tuple[str, int] = self._listener.getsockname()[:2]
        loop.watch(self._listener, EVENT_READ, self._accept)
        loop.add_task(self)
        self.log("listening")

    def log(self, text: str) -> None:
        """One line, with our address before it."""
        host, port = self.address
        self._log_line(f"tcp {f'[{host}]' if ':' in host else host}:{port}: {text}")

    def close(self) -> None:
        """Drop all connections and stop listening."""
        for connection in tuple(self.connections.values()):
            connection.drop("the server ends")
        self.loop.remove_task(self)
        self.loop.unwatch(self._listener)
        self._listener.close()

    def _accept(self, events: int) -> None:
        for _ in range(ACCEPTED_PER_TURN):
            try:
                client, peer = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    # Level-triggered: it would be told again at once, and again. Until a connection goes.
                    self.log(f"cannot accept: {error}")
                    self.loop.unwatch(self._listener)
                return
            if len(self.connections) >= self.config.connections_max:
                client.close()
                self.refused += 1
                continue
            self.clients += 1
            connection = Connection(self, client, f"{peer[0]}:{peer[1]}")
            self.connections[client.fileno()] = connection

    def forget(self, fd: int, connection: Connection) -> None:
        """A connection has ended."""
        self.connections.pop(fd, None)
        self.woken.discard(connection)
        self.waiting.pop(connection, None)
        if not self.loop.is_watched(self._listener) and self._listener.fileno() >= 0:
            self.loop.watch(self._listener, EVENT_READ, self._accept)

    # -- a task of the loop ---------------------------------------------------------------------------------

    def work(self) -> None:
        """Let the target do what is due, answer who was woken, and drop who is late."""
        now_ns = self.loop.clock()
        self.target.work(now_ns)
        while self.woken:
            self.woken.pop().turn()
        if self._next_limit_ns is None or self._next_limit_ns > now_ns:
            return
        for connection in tuple(self.waiting):
            if connection.due_ns is not None and connection.due_ns <= now_ns:
                connection.late()
        self._next_limit_ns = min((one.due_ns for one in self.waiting if one.due_ns is not None), default=None)

    def next_deadline(self) -> int | None:
        """When `work` is due."""
        if self.woken:
            return 0
        due, limit = self.target.next_deadline(), self._next_limit_ns
        return due if limit is None or (due is not None and due < limit) else limit

    def wait(self, connection: Connection, span_ns: int) -> None:
        """Give a connection so much time for what it has to do."""
        due_ns = self.loop.clock() + span_ns
        connection.due_ns = due_ns
        self.waiting[connection] = None
        # A limit that was met meanwhile only costs a look.
        if self._next_limit_ns is None or due_ns < self._next_limit_ns:
            self._next_limit_ns = due_ns


class Connection:
    """One host's connection; a `core.capsules.CapsuleSink`. `due_ns` is when it will be too late for it."""

    def __init__(self, server: TcpServer, client: socket.socket, peer: str) -> None:
        self.due_ns: int | None = None
        self._server = server
        self._socket = client
        self._fd = client.fileno()
        self._peer = peer
        self._rest: memoryview | None = None  # what a full socket did not take
        self._lingering = False
        self._tap: StreamTap | None = None
        self._tls = None if server.config.tls is None else target_layer(server.config.tls)
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._session = TargetSession(server.config.options)
        self._queue = server.target.open(self, _came_to(client), server.loop.clock())
        self._session.queue = self._queue
        if server.tap is not None:
            self._tap = server.tap(client.getpeername()[:2])
        server.wait(self, server.config.greeting_ns)
        server.loop.watch(client, EVENT_READ, self._ready)

    # -- core.capsules.CapsuleSink --------------------------------------------------------------------------

    def wake(self) -> None:
        """See `CapsuleSink.wake`."""
        self._server.woken.add(self)

    def terminate(self, why: str) -> None:
        """See `CapsuleSink.terminate`."""
        if self._session.over is None:
            self._session.over = why
        self._server.woken.add(self)

    # -- events ---------------------------------------------------------------------------------------------

    def _ready(self, events: int) -> None:
        try:
            if self._lingering:
                self._discard()
                return
            if events & EVENT_WRITE:
                self._send_rest()
            if events & EVENT_READ and self._rest is None:
                if self._tls is not None:
                    received = self._receive_sealed(self._tls)
                else:
                    space = self._session.space()
                    received = self._socket.recv_into(space)
                    if received:
                        self._take(space, received)
                if not received:
                    self.drop("closed by the host")
                    return
            self.turn()
        except BlockingIOError:
            pass
        except OSError as error:
            self.drop(error.strerror or str(error))
        except Exception as error:
            self._server.internal_error = error
            self.drop(f"internal error: {type(error).__name__}: {error}")

    def _take(self, space: memoryview, received: int) -> None:
        if self._tap is not None:
            self._tap.passed(space[:received], to_controller=True)
        self._session.received(received)

    def _receive_sealed(self, tls: TlsLayer) -> int:
        """Ciphertext, and all that it says; how many bytes, 0 when the host has closed."""
        scratch, session = self._server.scratch, self._session
        received = self._socket.recv_into(scratch)
        tls.feed(scratch[:received])
        try:
            if received and tls.advance():
                self._queue.proved = tls.names
                while session.over is None:
                    space = session.space()
                    taken = tls.take(space)
                    if not taken:
                        break
                    self._take(space, taken)
        except ssl.SSLZeroReturnError:
            return 0
        except ssl.SSLError as error:
            # The alert that tells the host is in the layer's way out.
            session.over = f"TLS: {error.reason or error}"
        return received

    def turn(self) -> None:
        """Execute what has come and send what there is to say."""
        if self._fd < 0 or self._lingering:
            return
        session = self._session
        try:
            session.pump(self._server.loop.clock())
            if session.out or self._tls is not None:
                self._send()
        except OSError as error:
            self.drop(error.strerror or str(error))
            return
        if self.due_ns is not None and self._queue.connected and session.over is None:
            self.due_ns = None
            self._server.waiting.pop(self, None)
        if session.over is None:
            return
        if self._rest is None:
            self._finish(session.over)
        elif self.due_ns is None:
            self._server.wait(self, self._server.config.linger_ns)

    def late(self) -> None:
        """Its time is over."""
        if self._lingering:
            self._close()
        elif self._session.over is not None:
            self.drop(f"{self._session.over}, and it does not read")
        else:
            self.drop(f"no Connect within {self._server.config.greeting_ns / 1e9:g} s")

    # -- sending --------------------------------------------------------------------------------------------

    def _send(self) -> None:
        """Send what the session has; the rest, if the socket is full, is copied and sent later."""
        out = self._session.out
        if self._tap is not None:
            self._tap.passed(b"".join(out), to_controller=False)
        if self._tls is not None:
            if out:
                self._tls.seal(out)
            sealed = self._tls.outgoing()
            out = [sealed] if sealed else []
        if self._rest is None:
            if not out:
                rest = b""
            elif len(out) <= BUFFERS_PER_CALL:
                sent = self._sendmsg(out)
                rest = _behind(out, sent)
            else:
                rest = _behind(out, 0)
        else:
            rest = b"".join((self._rest, *out))
        self._session.sent()
        if rest:
            self._rest = memoryview(rest)
            self._send_rest()

    def _sendmsg(self, buffers: list[bytes | memoryview]) -> int:
        try:
            return self._socket.sendmsg(buffers)
        except BlockingIOError:
            return 0

    def _send_rest(self) -> None:
        rest = self._rest
        if rest is None:
            return
        with contextlib.suppress(BlockingIOError):
            rest = rest[self._socket.send(rest) :]
        loop = self._server.loop
        if not rest:
            self._rest = None
            loop.change(self._socket, EVENT_READ)
            return
        self._rest = rest
        # Who does not read its answers is not read from: its queue bounds what waits here.
        loop.change(self._socket, EVENT_WRITE)

    # -- ends -----------------------------------------------------------------------------------------------

    def drop(self, why: str) -> None:
        """Close it now."""
        if self._fd < 0:
            return
        self._log_end(why)
        self._close()

    def _log_end(self, why: str) -> None:
        if not self._lingering:
            self._server.log(f"{self._peer} ({self._queue.label}) gone: {why}")
            self._queue.close(why)

    def _finish(self, why: str) -> None:
        """All is said: half close, and let the host read it before the rest goes."""
        self._log_end(why)
        self._lingering = True
        self._server.wait(self, self._server.config.linger_ns)
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            self._close()

    def _discard(self) -> None:
        if not self._socket.recv_into(self._server.scratch):
            self._close()

    def _close(self) -> None:
        if self._fd < 0:
            return
        self._server.loop.unwatch(self._socket)
        fd, self._fd = self._fd, -1
        if self._tap is not None:
            self._tap.closed(by_controller=self._lingering)
        self._server.forget(fd, self)
        self._socket.close()


def _came_to(client: socket.socket) -> tuple[str, int]:
    """Our address as the host knows it: a socket for both families has IPv4 inside IPv6."""
    host, port = client.getsockname()[:2]
    return host.removeprefix("::ffff:") if "." in host else host, port


def _behind(buffers: list[bytes | memoryview], sent: int) -> bytes:
    """What of the buffers is not among the first `sent` bytes, copied."""
    left: list[bytes | memoryview] = []
    for buffer in buffers:
        if sent >= len(buffer):
            sent -= len(buffer)
            continue
        left.append(buffer[sent:] if sent else buffer)
        sent = 0
    return b"".join(left)


def _listen(host: str, port: int) -> socket.socket:
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(1024)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise OSError(error.errno, f"cannot listen on {host}:{port}: {error.strerror}") from error
    return listener
