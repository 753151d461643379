"""The socket beside a workload: one thread that answers requests and passes events on.

Messages are JSON, one a line, over a Unix socket that only its owner may open (mode 0600, set before the
name appears). A request longer than ``REQUEST_MAX`` bytes is answered with an error and the connection ends.

A subscriber's events wait in a queue of their own, which the emitting thread appends to and never waits for:
when it is full the event is counted as dropped, and the next message says how many were. Events leave in
batches of what gathered in ``FLUSH_S``. Nothing is sent to a connection that has not taken what it was sent
before; one that takes nothing for ``STUCK_S`` seconds is closed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import socket
import stat
import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final

from nvme_emu.core.trace import TraceHub, as_record
from nvme_emu.observe.rpc_core import INVALID_PARAMS, INVALID_REQUEST, Methods, RpcError, encode
from nvme_emu.observe.state import to_json

__all__ = ["CONNECTIONS_MAX", "REQUEST_MAX", "RpcServer", "Subscription", "bind_socket"]

REQUEST_MAX: Final = 1 << 20
CONNECTIONS_MAX: Final = 32
OUTPUT_PAUSE: Final = 1 << 20
"""While this many bytes wait for a connection, nothing more is read from it."""
SUBSCRIPTIONS_MAX: Final = 16
QUEUE_DEFAULT: Final = 10_000
QUEUE_MAX: Final = 1_000_000
BATCH_EVENTS_MAX: Final = 2_000
FLUSH_S: Final = 0.02
STUCK_S: Final = 30.0


def bind_socket(path: str) -> socket.socket:
    """A listening socket at ``path``, mode 0600. Replaces a socket at which nobody answers.

    OSError when somebody answers there, when something else than a socket is there, or when it cannot be made.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # Linux gives the name the mode of the socket's own inode: it is private from its first moment.
        os.fchmod(listener.fileno(), 0o600)
        try:
            listener.bind(path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            _remove_stale(path)
            listener.bind(path)
        os.chmod(path, 0o600)
        listener.listen(CONNECTIONS_MAX)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        if error.errno is None:
            # Too long a path: Python says so without a number.
            raise OSError(errno.ENAMETOOLONG, f"{path}: {error}") from error
        raise OSError(error.errno, f"{path}: {error.strerror}") from error
    return listener


def _remove_stale(path: str) -> None:
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise OSError(errno.EEXIST, "something is there that is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except FileNotFoundError:
            return
    raise OSError(errno.EADDRINUSE, "another process answers at this socket")


class Subscription:
    """A sink with a bounded queue: events that pass the filter wait here until the server sends them."""

    def __init__(self, ident: int, names: frozenset[str], qid: int | None, sample: int, queue_max: int) -> None:
        self.ident = ident
        self.dropped = 0
        self.dropped_told = 0
        self._names = names
        self._qid = qid
        self._sample = sample
        self._seen = 0
        self._queue_max = queue_max
        self._queue: deque[Any] = deque()

    def __call__(self, event: Any) -> None:
        """Take an event; never waits. deque.append is atomic, so several threads may emit."""
        if self._names and type(event).name not in self._names:
            return
        if self._qid is not None and getattr(event, "qid", getattr(event, "sqid", None)) != self._qid:
            return
        self._seen += 1
        if self._sample > 1 and self._seen % self._sample:
            return
        if len(self._queue) >= self._queue_max:
            self.dropped += 1
            return
        self._queue.append(event)

    def take(self) -> dict[str, Any] | None:
        """The parameters of the next notification; None when there is nothing to tell."""
        events: list[Any] = []
        while self._queue and len(events) < BATCH_EVENTS_MAX:
            events.append(to_json(as_record(self._queue.popleft())))
        dropped, self.dropped_told = self.dropped - self.dropped_told, self.dropped
        if not events and not dropped:
            return None
        return {"subscription": self.ident, "events": events, "dropped": dropped}


class _Connection:
    """One client: what it has sent of a line, what waits to be sent to it, what it subscribed to."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.received = bytearray()
        self.output = bytearray()
        self.ending = False
        self.progress_s = time.monotonic()
        self.subscriptions: dict[int, Subscription] = {}


class RpcServer:
    """Serves ``methods`` at ``path`` in a thread of its own until `close`; a context manager.

    ``trace`` is where subscriptions get their events. OSError if the socket cannot be made.
    """

    def __init__(self, methods: Methods, path: str | os.PathLike[str], *, trace: TraceHub | None = None) -> None:
        self.path = os.fspath(path)
        self._methods = methods
        self._trace = trace
        if trace is not None:
            methods.add("events.subscribe", self.subscribe)
            methods.add("events.unsubscribe", self.unsubscribe)
        self._listener = bind_socket(self.path)
        self._inode = os.stat(self.path).st_ino
        self._connections: dict[int, _Connection] = {}
        self._idents = 0
        self._waker, self._wake = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._selector.register(self._wake, selectors.EVENT_READ, None)
        self.stop_hooks: list[Callable[[], None]] = []
        """Run by `close`, after the thread has ended: to give back what methods have opened."""
        self._thread: threading.Thread | None = threading.Thread(
            target=self._run, name="nvme-emu rpc", daemon=True
        )
        self._thread.start()

    # --- methods --------------------------------------------------------------------------------------------

    def subscribe(
        self,
        session: Any,
        events: list[str] | None = None,
        qid: int | None = None,
        sample: int = 1,
        queue_max: int = QUEUE_DEFAULT,
    ) -> dict[str, int]:
        """Have events pushed over this connection, as notifications called "event".

        events: names such as "post_cqe"; all if not given. qid: only events of that queue. sample: every
        n-th only. queue_max: events that may wait here; more are dropped and counted. A notification has
        "subscription", "events" (a list) and "dropped" (how many were lost since the last one).
        """
        if sample < 1 or not 1 <= queue_max <= QUEUE_MAX:
            raise ValueError(f"sample is at least 1, queue_max 1 to {QUEUE_MAX}")
        if len(session.subscriptions) >= SUBSCRIPTIONS_MAX:
            raise ValueError(f"a connection has at most {SUBSCRIPTIONS_MAX} subscriptions")
        assert self._trace is not None
        self._idents += 1
        subscription = Subscription(self._idents, frozenset(events or ()), qid, sample, queue_max)
        session.subscriptions[subscription.ident] = subscription
        self._trace.add_sink(subscription)
        return {"subscription": subscription.ident}

    def unsubscribe(self, session: Any, subscription: int) -> dict[str, int]:
        """End a subscription of this connection; tells how many events it has lost in all."""
        found = session.subscriptions.pop(subscription, None)
        if found is None:
            raise RpcError(INVALID_PARAMS, f"this connection has no subscription {subscription}")
        assert self._trace is not None
        self._trace.remove_sink(found)
        return {"dropped": found.dropped}

    # --- the thread -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            busy = any(connection.subscriptions for connection in self._connections.values())
            for key, mask in self._selector.select(FLUSH_S if busy else 1.0):
                if key.fileobj is self._wake:
                    return
                if isinstance(key.data, _Connection):
                    self._serve(key.data, mask)
                else:
                    key.data()
            for connection in list(self._connections.values()):
                self._flush(connection)

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return  # the client has gone, or there are no descriptors left: it may try again
        if len(self._connections) >= CONNECTIONS_MAX:
            sock.close()
            return
        sock.setblocking(False)
        connection = _Connection(sock)
        self._connections[sock.fileno()] = connection
        self._selector.register(sock, selectors.EVENT_READ, connection)

    def _serve(self, connection: _Connection, mask: int) -> None:
        if mask & selectors.EVENT_WRITE:
            self._send(connection)
        if mask & selectors.EVENT_READ and connection.sock.fileno() >= 0:
            self._receive(connection)

    def _receive(self, connection: _Connection) -> None:
        try:
            data = connection.sock.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(connection)
            return
        connection.received += data
        while not connection.ending and (end := connection.received.find(b"\n")) >= 0:
            line = bytes(connection.received[:end])
            del connection.received[: end + 1]
            if line.strip():
                self._answer(connection, line)
        if len(connection.received) > REQUEST_MAX and not connection.ending:
            self._refuse(connection)

    def _answer(self, connection: _Connection, line: bytes) -> None:
        if len(line) > REQUEST_MAX:
            self._refuse(connection)
            return
        answer = self._methods.handle(line, connection)
        if answer is not None:
            self._put(connection, answer)

    def _refuse(self, connection: _Connection) -> None:
        reason = RpcError(INVALID_REQUEST, f"a message has at most {REQUEST_MAX} bytes")
        self._put(connection, encode({"jsonrpc": "2.0", "id": None, "error": reason.to_json()}))
        connection.ending = True
        connection.received.clear()

    def _put(self, connection: _Connection, data: bytes) -> None:
        if not connection.output:
            connection.progress_s = time.monotonic()
        connection.output += data

    def _flush(self, connection: _Connection) -> None:
        """Send what waits; events only when nothing else does."""
        if connection.output and connection.sock.fileno() >= 0:
            self._send(connection)
        if connection.sock.fileno() < 0:
            return
        # Looked at after the answer has gone: who asks again and again gets events between the answers.
        if not connection.output:
            for subscription in connection.subscriptions.values():
                params = subscription.take()
                if params is not None:
                    self._put(connection, encode({"jsonrpc": "2.0", "method": "event", "params": params}))
            if connection.output:
                self._send(connection)

    def _send(self, connection: _Connection) -> None:
        output = connection.output
        try:
            sent = connection.sock.send(output)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._drop(connection)
            return
        now_s = time.monotonic()
        if sent:
            connection.progress_s = now_s
            del output[:sent]
        if (connection.ending and not output) or (output and now_s - connection.progress_s > STUCK_S):
            self._drop(connection)
            return
        wanted = selectors.EVENT_WRITE if output else 0
        if len(output) < OUTPUT_PAUSE and not connection.ending:
            wanted |= selectors.EVENT_READ
        self._selector.modify(connection.sock, wanted, connection)

    def _drop(self, connection: _Connection) -> None:
        if self._connections.pop(connection.sock.fileno(), None) is None:
            return
        for subscription in connection.subscriptions.values():
            assert self._trace is not None
            self._trace.remove_sink(subscription)
        connection.subscriptions.clear()
        self._selector.unregister(connection.sock)
        connection.sock.close()

    # --- the end --------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End the thread and all connections, and remove the socket. A second call does nothing."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._waker.send(b"x")
        thread.join()
        for connection in list(self._connections.values()):
            self._drop(connection)
        self._selector.close()
        for sock in (self._listener, self._waker, self._wake):
            sock.close()
        with contextlib.suppress(OSError):
            # Somebody may have put another socket there meanwhile: that one is not ours to remove.
            if os.stat(self.path).st_ino == self._inode:
                os.unlink(self.path)
        for hook in self.stop_hooks:
            hook()

    def __enter__(self) -> RpcServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
