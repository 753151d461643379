"""The client's end of a vfio-user connection: requests that wait for their replies, and a thread that reads.

The device may ask too (DMA_READ, DMA_WRITE), at any time; the reader answers out of the memory that it was given. It
never waits for anything but the socket, so nobody waits for it in a circle.
"""

from __future__ import annotations

import array
import contextlib
import errno
import json
import os
import socket
import threading
from typing import TYPE_CHECKING, Any

from kworker.interrupted import asleep_in
from nvme_emu.core.errors import DmaError
from nvme_emu.spec.vfio_user import (
    DEFAULT_DATA_BYTES_MAX,
    DEFAULT_DMA_MAPS_MAX,
    DEFAULT_PAGE_SIZES,
    DMA_ACCESS_SCALAR,
    HEADER,
    HEADER_BYTES,
    MAJOR,
    MINOR,
    REGION_ACCESS_BYTES,
    TYPE_MASK,
    VERSION,
    Command,
    MessageFlag,
    command_name,
)
from nvme_emu.transports.descriptors import received_descriptors

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nvme_emu.core.memory import HostMemory

__all__ = ["REPLY_S", "Messages"]

REPLY_S = 60.0
"""How long a server may take to answer: longer than a reset takes, or a flush of a slow disk."""

_FDS_MAX = 8
_MESSAGE_BYTES_MAX = HEADER_BYTES + REGION_ACCESS_BYTES + DEFAULT_DATA_BYTES_MAX
_CAPABILITIES = {
    "max_msg_fds": _FDS_MAX,
    "max_data_xfer_size": DEFAULT_DATA_BYTES_MAX,
    "pgsizes": DEFAULT_PAGE_SIZES,
    "max_dma_maps": DEFAULT_DMA_MAPS_MAX,
}
_FDS_ROOM = socket.CMSG_SPACE(_FDS_MAX * array.array("i").itemsize)


class _Waiting:
    """A request whose reply is not there yet."""

    __slots__ = ("data", "error", "fds", "here")

    def __init__(self) -> None:
        self.here = threading.Event()
        self.error = 0
        self.data = b""
        self.fds: list[int] = []


class Messages:
    """A connection to the vfio-user server at ``path`` that has agreed on a version.

    ``memory`` is what the device may reach by messages. ``on_gone(why)`` is called once, by the thread that reads,
    when the server has hung up or said what is not the protocol. Raises OSError when there is no such server, or none
    that speaks our version.
    """

    def __init__(self, path: str, memory: HostMemory, on_gone: Callable[[str], None]) -> None:
        self.path = path
        self.gone = ""
        """Why the connection has ended; empty while it has not."""
        self.capabilities: dict[str, Any] = {}
        self._memory = memory
        self._on_gone = on_gone
        self._buffer = bytearray()
        self._fds: list[int] = []
        self._next_id = 0
        self._waiting: dict[int, _Waiting] = {}
        self._lock = threading.Lock()  # guards what is sent, and who waits
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._reader = threading.Thread(target=self._read, name="vfio-user reader", daemon=True)
        try:
            self._socket.connect(path)
            self._reader.start()
            self._negotiate()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Hang up. A second call does nothing."""
        self.gone = self.gone or "closed by us"
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        if self._reader.ident is not None and self._reader is not threading.current_thread():
            self._reader.join()
        self._socket.close()
        _close_all(self._fds)

    def _negotiate(self) -> None:
        text = json.dumps({"capabilities": _CAPABILITIES}).encode() + b"\0"
        data, _ = self.request(Command.VERSION, VERSION.build(major=MAJOR, minor=MINOR) + text)
        try:
            version = VERSION.parse(data[: VERSION.size])
            known = json.loads(data[VERSION.size :].rstrip(b"\0") or b"{}")
            self.capabilities = dict(known.get("capabilities", {}))
        except (ValueError, TypeError, AttributeError) as error:
            raise OSError(errno.EPROTO, f"the server's version cannot be read: {error}", self.path) from error
        if version.major != MAJOR:
            raise OSError(errno.EPROTO, f"the server speaks version {version.major}.x, not {MAJOR}.x", self.path)

    # -- requests -------------------------------------------------------------------------------------------

    @asleep_in
    def request(self, command: int, payload: bytes = b"", fds: Sequence[int] = ()) -> tuple[bytes, list[int]]:
        """Ask, and wait for (payload, descriptors) of the reply. The descriptors are the caller's to close.

        OSError with the server's errno when it refuses, ConnectionResetError when it is gone, TimeoutError when it does
        not answer within REPLY_S.
        """
        waiting = _Waiting()
        with self._lock:
            if self.gone:
                raise ConnectionResetError(errno.ECONNRESET, self.gone, self.path)
            message_id = self._next_id
            while message_id in self._waiting:
                message_id = message_id + 1 & 0xFFFF
            self._next_id = message_id + 1 & 0xFFFF
            self._waiting[message_id] = waiting
            self._send(HEADER.pack(message_id, command, HEADER_BYTES + len(payload), 0, 0) + payload, fds)
        if not waiting.here.wait(REPLY_S):
            raise TimeoutError(errno.ETIMEDOUT, f"no reply to {command_name(command)}", self.path)
        if waiting.error:
            raise OSError(waiting.error, f"{command_name(command)}: {os.strerror(waiting.error)}", self.path)
        return waiting.data, waiting.fds

    def _send(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """The whole message, under the lock. A server that has gone is found by who reads."""
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        view = memoryview(data)
        with contextlib.suppress(OSError):
            while view:
                done = self._socket.sendmsg([view], ancillary)
                view, ancillary = view[done:], []

    # -- the thread that reads ------------------------------------------------------------------------------

    def _read(self) -> None:
        why = "the server has hung up"
        try:
            while self._receive():
                self._take_messages()
        except (OSError, ValueError) as error:
            why = str(error)
        with self._lock:
            ours = bool(self.gone)
            self.gone = self.gone or why
            waiting = list(self._waiting.values())
            self._waiting.clear()
        for one in waiting:
            one.error = errno.ECONNRESET
            one.here.set()
        if not ours:
            self._on_gone(why)

    def _receive(self) -> bool:
        data, ancillary, _, _ = self._socket.recvmsg(1 << 18, _FDS_ROOM, socket.MSG_CMSG_CLOEXEC)
        self._fds += received_descriptors(ancillary)
        self._buffer += data
        return bool(data)

    def _take_messages(self) -> None:
        buffer = self._buffer
        while len(buffer) >= HEADER_BYTES:
            message_id, command, size, flags, error = HEADER.unpack_from(buffer)
            if not HEADER_BYTES <= size <= _MESSAGE_BYTES_MAX:
                raise ValueError(f"the server sent a message of {size} bytes")
            if len(buffer) < size:
                return
            payload = bytes(buffer[HEADER_BYTES:size])
            del buffer[:size]
            if flags & TYPE_MASK == MessageFlag.REPLY:
                self._replied(message_id, payload, error)
            else:
                self._asked(message_id, command, payload, flags)

    def _replied(self, message_id: int, payload: bytes, error: int) -> None:
        fds, self._fds = self._fds, []
        with self._lock:
            waiting = self._waiting.pop(message_id, None)
        if waiting is None:
            _close_all(fds)
            raise ValueError(f"the server replied to message {message_id:#x}, which nobody has sent")
        waiting.data, waiting.error, waiting.fds = payload, error, fds
        waiting.here.set()

    def _asked(self, message_id: int, command: int, payload: bytes, flags: int) -> None:
        """The device wants bytes of our memory, or to store some."""
        error, answer = 0, b""
        try:
            answer = self._access(command, payload)
        except DmaError:
            error = errno.EFAULT
        except (ValueError, MemoryError):
            error = errno.EINVAL
        if flags & MessageFlag.NO_REPLY:
            return
        kind = int(MessageFlag.REPLY | (MessageFlag.ERROR if error else 0))
        with self._lock:
            self._send(HEADER.pack(message_id, command, HEADER_BYTES + len(answer), kind, error) + answer)

    def _access(self, command: int, payload: bytes) -> bytes:
        head = DMA_ACCESS_SCALAR.size
        if len(payload) < head:
            raise ValueError("too short")
        address, count = DMA_ACCESS_SCALAR.unpack_from(payload)
        if count > DEFAULT_DATA_BYTES_MAX:
            raise ValueError("more than was agreed on")
        if command == Command.DMA_READ:
            return payload[:head] + self._memory.read(address, count)
        if command != Command.DMA_WRITE or len(payload) != head + count:
            raise ValueError(command_name(command))
        self._memory.write(address, payload[head:])
        return payload[:head]


def _close_all(fds: list[int]) -> None:
    while fds:
        os.close(fds.pop())
