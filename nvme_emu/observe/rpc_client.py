"""The other end of the socket: what `ctl`, the inspector and tests call with."""

from __future__ import annotations

import itertools
import json
import os
import socket
from collections import deque
from types import TracebackType
from typing import Any

from nvme_emu.observe.rpc_core import RpcError, encode

__all__ = ["RpcClient", "RpcError"]

TIMEOUT_S = 10.0


class RpcClient:
    """A connection to a running `serve` or `run`; a context manager. For one thread at a time.

        with RpcClient("/run/ssd.sock") as ssd:
            ssd.call("stats.get")

    OSError (ConnectionRefusedError, FileNotFoundError …) when nobody is there, TimeoutError when no answer
    comes within ``timeout_s``, RpcError when the answer is an error.
    """

    def __init__(self, path: str | os.PathLike[str], *, timeout_s: float = TIMEOUT_S) -> None:
        self.path = os.fspath(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout_s)
        self._timeout_s = timeout_s
        self._received = bytearray()
        self._scanned = 0
        self._events: deque[dict[str, Any]] = deque()
        self._idents = itertools.count(1)
        try:
            self._socket.connect(self.path)
        except BaseException:
            self._socket.close()
            raise

    def call(self, method: str, /, **params: Any) -> Any:
        """The result of a method. Events that arrive meanwhile are kept for `events`."""
        ident = next(self._idents)
        request = {"jsonrpc": "2.0", "id": ident, "method": method, "params": params}
        self._socket.settimeout(self._timeout_s)
        self._socket.sendall(encode(request))
        while True:
            message = self._message()
            if message.get("method") == "event":
                self._events.append(message["params"])
            elif "error" in message and message.get("id") in (ident, None):
                error = message["error"]
                raise RpcError(error["code"], error["message"], error.get("data"))
            elif message.get("id") == ident:
                return message["result"]

    def events(self, timeout_s: float | None = None) -> dict[str, Any] | None:
        """The next batch of events: "subscription", "events", "dropped". None when none comes in time.

        ``timeout_s`` None waits for ever.
        """
        if self._events:
            return self._events.popleft()
        self._socket.settimeout(timeout_s)
        while True:
            try:
                message = self._message()
            except TimeoutError:
                return None
            if message.get("method") == "event":
                params: dict[str, Any] = message["params"]
                return params

    def _message(self) -> dict[str, Any]:
        while (end := self._received.find(b"\n", self._scanned)) < 0:
            self._scanned = len(self._received)
            data = self._socket.recv(1 << 18)
            if not data:
                raise ConnectionError(f"{self.path}: the server has closed the connection")
            self._received += data
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        self._scanned = 0
        try:
            message = json.loads(line)
        except ValueError:
            message = None
        if not isinstance(message, dict):
            raise ConnectionError(f"{self.path}: what answers there does not speak JSON-RPC")
        return message

    def close(self) -> None:
        """End the connection and its subscriptions."""
        self._socket.close()

    def __enter__(self) -> RpcClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
