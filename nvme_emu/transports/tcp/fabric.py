"""All connections of a host to an NVMe/TCP subsystem.

Where nobody waits for a command (events, asynchronous I/O) a watcher thread sleeps on the connections and calls their
handlers, once each time they were armed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from nvme_emu.transports.tcp.initiator import InitiatorOptions, TcpChannel
from nvme_emu.transports.watcher import Watcher

if TYPE_CHECKING:
    from nvme_emu.core.capsules import CapsuleChannel
    from nvme_emu.core.ports import StreamTap
    from nvme_emu.core.tls_psk import TlsKey

__all__ = ["TcpFabric"]


class TcpFabric:
    """The way to subsystem `nqn` at `host` and `port`; a `core.capsules.Fabric`.

    `tap(host)` makes the witness of a new connection from our (address, port). With `tls`, a key and our NQN,
    connections are TLS 1.3.
    """

    def __init__(
        self,
        host: str,
        port: int,
        nqn: str,
        options: InitiatorOptions | None = None,
        *,
        tap: Callable[[tuple[str, int]], StreamTap] | None = None,
        tls: tuple[TlsKey, str] | None = None,
    ) -> None:
        self.nqn = nqn
        self.tap = tap
        self.tls = tls
        self.address = f"{f'[{host}]' if ':' in host else host}:{port}"
        self._where = host, port
        self._options = options or InitiatorOptions()
        self._channels: list[TcpChannel] = []
        self._watcher: Watcher | None = None

    def open(self) -> TcpChannel:
        """See `Fabric.open`."""
        try:
            channel = TcpChannel(self, self._where, self._options)
        except OSError as error:
            raise OSError(error.errno, f"cannot connect to {self.address}: {error.strerror or error}") from error
        self._channels.append(channel)
        return channel

    def watch(self, channel: CapsuleChannel, handler: Callable[[], None]) -> None:
        """See `Fabric.watch`."""
        assert isinstance(channel, TcpChannel)
        if self._watcher is None:
            self._watcher = Watcher(f"nvme-tcp {self.address}")
        self._watcher.add(channel.fileno(), handler)

    def rearm(self, channel: TcpChannel) -> None:
        """Watch a channel for the next thing to receive; nothing if nobody watches it."""
        if self._watcher is not None:
            self._watcher.rearm(channel.fileno())

    def unwatch(self, channel: TcpChannel) -> None:
        """Watch it no more."""
        if self._watcher is not None:
            self._watcher.remove(channel.fileno())

    def close(self) -> None:
        """See `Fabric.close`."""
        for channel in self._channels:
            channel.close()
        self._channels.clear()
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.stop()
