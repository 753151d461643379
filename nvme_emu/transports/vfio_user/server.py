"""A vfio-user socket: listens, carries one client at a time to a function, and outlives every one of them.

Whatever a client does, it is dropped alone: the socket is closed, its memory unmapped, its descriptors closed,
the controller reset, one line logged; the next client finds a fresh device. While a client is connected, others
are turned away.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
import stat
import struct
from collections.abc import Callable
from errno import EADDRINUSE, EMFILE, ENFILE

from nvme_emu.transports.descriptors import received_descriptors
from nvme_emu.transports.loop import EVENT_READ, EVENT_WRITE, Loop
from nvme_emu.transports.vfio_user.function import VfioUserFunction
from nvme_emu.transports.vfio_user.session import MSG_FDS_MAX, Session
from nvme_emu.transports.vfio_user.session_states import State

__all__ = ["VfioUserServer"]

GREETING_NS = 10_000_000_000
"""How long a client may take to send its version."""

RECEIVE_BYTES, RECEIVE_BYTES_LARGE = 16 << 10, 1 << 20
UNSENT_BYTES_MAX = 8 << 20
"""A client that leaves more answers than this unread is not read from."""

LAST_LOOKS = 4
"""How often a client's socket is read before another is turned away: what it sent comes before its end."""

REFUSALS_LOGGED_MAX = 20
"""Lines about refused requests of one client."""

_FDS_ROOM = socket.CMSG_SPACE(MSG_FDS_MAX * array.array("i").itemsize)
_PEER = struct.Struct("iII")  # struct ucred


class VfioUserServer:
    """One function at one socket path, served by `loop`; `log` gets one line an event.

    `close_fd` closes descriptors that clients sent. Raises OSError when the socket cannot be made; EADDRINUSE
    when a live server has it. The file of a server that is no more is replaced.
    """

    def __init__(
        self,
        loop: Loop,
        path: str,
        function: VfioUserFunction,
        *,
        log: Callable[[str], None],
        close_fd: Callable[[int], None] = os.close,
    ) -> None:
        self.path = path
        self.function = function
        self.clients = 0
        self.internal_error: Exception | None = None
        """The last exception that was our own mistake; it cost its client the connection."""
        self._loop = loop
        self._log_line = log
        self._close_fd = close_fd
        self._session: Session | None = None
        self._socket: socket.socket | None = None
        self._rest = b""  # what a full socket did not take of the last message
        self._large = False
        self._greeting_due_ns = 0
        self._refusals = 0
        self._listener = _listen(path)
        self._file = os.stat(path)
        loop.watch(self._listener, EVENT_READ, self._accept)
        loop.add_task(self)
        self._log("listening")

    def _log(self, text: str) -> None:
        self._log_line(f"{self.path}: {text}")

    def close(self) -> None:
        """Drop the client, stop listening and remove the socket file if it is still ours. Once is enough."""
        if self._listener.fileno() < 0:
            return
        self._drop("the server ends")
        self.function.close()
        self._loop.remove_task(self)
        self._loop.unwatch(self._listener)
        self._listener.close()
        with contextlib.suppress(OSError):
            now = os.stat(self.path)
            if (now.st_dev, now.st_ino) == (self._file.st_dev, self._file.st_ino):
                os.unlink(self.path)

    # -- connecting -----------------------------------------------------------------------------------------

    def _accept(self, events: int) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError as error:
            if error.errno in (EMFILE, ENFILE):
                # Level-triggered: it would be told again at once, and again. Until the next client goes.
                self._log(f"cannot accept: {error}")
                self._loop.unwatch(self._listener)
            return
        # One that has hung up, and was not looked at since, is not in the way of the next.
        for _ in range(LAST_LOOKS):
            self._ready(EVENT_READ)
        if self._socket is not None:
            self._log("turned a client away: another one is connected")
            client.close()
            return
        client.setblocking(False)
        session = Session(self.function, self._refused)
        try:
            self.function.attach(session)
        except OSError as error:
            self._log(f"cannot serve a client: {error}")
            client.close()
            return
        self.clients += 1
        self._socket, self._session = client, session
        self._rest, self._large, self._refusals = b"", False, 0
        self._greeting_due_ns = self._loop.clock() + GREETING_NS
        self._loop.watch(client, EVENT_READ, self._ready)
        pid, uid, _ = _PEER.unpack(client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
        self._log(f"client {self.clients} connected (process {pid}, user {uid})")

    def _refused(self, why: str) -> None:
        self._refusals += 1
        if self._refusals < REFUSALS_LOGGED_MAX:
            self._log(why)
        elif self._refusals == REFUSALS_LOGGED_MAX:
            self._log(f"{why} (further refusals of this client are not logged)")

    def _drop(self, why: str) -> None:
        client, session = self._socket, self._session
        if client is None or session is None:
            return
        self._socket = self._session = None
        self._loop.unwatch(client)
        client.close()
        session.close(why)
        self._close_refused(session)
        try:
            self.function.detach()
        except Exception as error:
            self.internal_error = error
            why += f"; then {type(error).__name__}: {error}"
        messages, irqs = session.messages, self.function.vectors.delivered
        self._log(f"client {self.clients} gone: {why} ({messages} messages, {irqs} interrupts so far)")
        if not self._loop.is_watched(self._listener):
            self._loop.watch(self._listener, EVENT_READ, self._accept)

    def _close_refused(self, session: Session) -> None:
        for fd in session.refused:
            self._close_fd(fd)
        session.refused.clear()

    # -- talking --------------------------------------------------------------------------------------------

    def _ready(self, events: int) -> None:
        client, session = self._socket, self._session
        if client is None or session is None:
            return
        try:
            if events & EVENT_READ and not self._receive(client, session):
                return
            self._flush(client, session)
        except OSError as error:
            self._drop(f"the connection failed: {error}")
            return
        if session.closed:
            self._drop(session.why_closed)
        elif session.state is State.OPEN:
            self.work()

    def _receive(self, client: socket.socket, session: Session) -> bool:
        """Take what there is; False when the client was dropped."""
        size = RECEIVE_BYTES_LARGE if self._large else RECEIVE_BYTES
        try:
            data, ancillary, flags, _ = client.recvmsg(size, _FDS_ROOM, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return True
        self._large = len(data) == size
        fds = received_descriptors(ancillary)
        if flags & socket.MSG_CTRUNC:
            for fd in fds:
                self._close_fd(fd)
            self._drop(f"more than {MSG_FDS_MAX} descriptors in a message")
            return False
        if not data:
            self._drop("disconnected")
            return False
        try:
            session.receive(data, fds)
        except Exception as error:
            self._our_mistake(error)
            return False
        self._close_refused(session)
        return True

    def _flush(self, client: socket.socket, session: Session) -> None:
        """Send what there is until the socket is full; then go on when it is not."""
        blocked = False
        while (self._rest or session.output) and not blocked:
            ancillary = []
            if not self._rest:
                message = session.sent()
                self._rest = message.data
                if message.fds:
                    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", message.fds))]
            try:
                done = client.sendmsg([self._rest], ancillary)
            except BlockingIOError:
                done = 0
                if ancillary:
                    # Nothing went out, the descriptors neither: the whole message again, later.
                    session.output.appendleft(message)
                    session.output_bytes += len(message.data)
                    self._rest = b""
            blocked = not done
            self._rest = self._rest[done:]
        events = EVENT_WRITE if blocked else 0
        if session.output_bytes + len(self._rest) < UNSENT_BYTES_MAX:
            events |= EVENT_READ
        self._loop.change(client, events)

    def _our_mistake(self, error: Exception) -> None:
        self.internal_error = error
        self._drop(f"internal error: {type(error).__name__}: {error}")

    # -- Task -----------------------------------------------------------------------------------------------

    def work(self) -> None:
        """Let the function do what is due, and send what it asks for."""
        client, session = self._socket, self._session
        if client is None or session is None:
            return
        if session.state is State.NEW:
            if self._loop.clock() >= self._greeting_due_ns:
                self._drop("said nothing")
            return
        try:
            if self.function.overdue():
                self._drop("left a DMA message unanswered")
                return
            self.function.work()
            if session.output:
                self._flush(client, session)
        except OSError as error:
            self._drop(f"the connection failed: {error}")
        except Exception as error:
            self._our_mistake(error)

    def next_deadline(self) -> int | None:
        """The function's next deadline, or that of the client's greeting."""
        session = self._session
        if session is None:
            return None
        return self._greeting_due_ns if session.state is State.NEW else self.function.next_deadline()


def _listen(path: str) -> socket.socket:
    """A listening socket that only its owner may connect to."""
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # The file gets the socket's own mode, so it is never open to others, not even for a moment.
        os.fchmod(listener.fileno(), 0o600)
        listener.bind(path)
        os.chmod(path, 0o600)
        listener.listen(8)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def _remove_stale(path: str) -> None:
    """Remove the socket file of a server that is no more. OSError EADDRINUSE for anything else there."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(EADDRINUSE, "there is a file that is not a socket", path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        else:
            raise OSError(EADDRINUSE, "another server is listening there", path)
