"""NVMe/TCP as a capture that Wireshark opens: pcapng, with the Ethernet, IPv4 and TCP around it made up.

    with PcapWriter("t.pcapng") as capture:
        connection = capture.connection(ts_ns, host_port=50000)
        connection.send(ts_ns, pdu, to_controller=True)
        connection.close(ts_ns)

    TcpServer(…, tap=Capture("t.pcapng").tap())          # each connection of a server; `TcpFabric` takes one, too

What is recorded are the bytes of the two streams, not packets: how a kernel cut them is not known. Each `send`
becomes one or more segments with the sequence numbers, acknowledgements and checksums that a flawless network
would have carried, behind a handshake, so that Wireshark follows the stream and finds nothing to complain of.
The controller is 127.0.0.1's port 4420 unless told otherwise, which is where Wireshark expects NVMe/TCP.
A host keeps its IPv4 address and port.
"""

from __future__ import annotations

import ipaddress
import os
import stat
import struct
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final

__all__ = ["NVME_TCP_PORT", "Capture", "PcapConnection", "PcapWriter"]

NVME_TCP_PORT: Final = 4420
PACKETS_MAX: Final = 1_000_000
SEGMENT_MAX: Final = 32_768
"""Payload of one made-up segment; IPv4 has room for 65 495."""

_SECTION, _INTERFACE, _PACKET = 0x0A0D0D0A, 1, 6
_BYTE_ORDER: Final = 0x1A2B3C4D
_LINKTYPE_ETHERNET: Final = 1
_OPT_TSRESOL: Final = 9
_NANOSECONDS: Final = 9  # the resolution is 10 to the power of minus this
_FIN, _SYN, _PSH, _ACK = 0x01, 0x02, 0x08, 0x10
_WINDOW: Final = 65_535
_HOST_MAC, _CONTROLLER_MAC = b"\x02\0\0\0\0\x01", b"\x02\0\0\0\0\x02"
_ETHERTYPE_IPV4, _PROTOCOL_TCP = 0x0800, 6
_LOOPBACK: Final = "127.0.0.1"
_DWORD: Final = 0xFFFF_FFFF


def _checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _block(kind: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    total = len(body) + 12
    return struct.pack("<II", kind, total) + body + struct.pack("<I", total)


class PcapWriter:
    """A capture file; a context manager. Several threads may send.

    After ``packets_max`` packets nothing more is written, and ``dropped`` counts; so it does when the file can
    take no more. `close` raises what the file has raised. OSError if it cannot be made. Into a pipe every packet
    is written at once, so that Wireshark can look on.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        controller_port: int = NVME_TCP_PORT,
        packets_max: int = PACKETS_MAX,
    ) -> None:
        self.controller_port = controller_port
        self.packets_max = packets_max
        self.packets = 0
        self.dropped = 0
        self._lock = threading.Lock()
        self._failure: OSError | None = None
        self._file = open(path, "wb")  # noqa: SIM115  closed by close()
        self._live = not stat.S_ISREG(os.fstat(self._file.fileno()).st_mode)
        self._file.write(_block(_SECTION, struct.pack("<IHHq", _BYTE_ORDER, 1, 0, -1)))
        resolution = struct.pack("<HHBxxxHH", _OPT_TSRESOL, 1, _NANOSECONDS, 0, 0)
        self._file.write(_block(_INTERFACE, struct.pack("<HHI", _LINKTYPE_ETHERNET, 0, 0) + resolution))

    def connection(
        self, ts_ns: int, *, host_port: int, host: str = _LOOPBACK, controller: str = _LOOPBACK
    ) -> PcapConnection:
        """A TCP connection that the host opens now. The two addresses and the port tell it from others.

        ValueError for a port that is none, and for an address that is not IPv4.
        """
        addresses = ipaddress.IPv4Address(host).packed, ipaddress.IPv4Address(controller).packed
        return PcapConnection(self, ts_ns, host_port, addresses)

    def packet(self, ts_ns: int, frame: bytes) -> None:
        """Write one Ethernet frame."""
        with self._lock:
            if self.packets >= self.packets_max or self._failure is not None or self._file.closed:
                self.dropped += 1
                return
            self.packets += 1
            head = struct.pack("<IIIII", 0, ts_ns >> 32 & _DWORD, ts_ns & _DWORD, len(frame), len(frame))
            try:
                self._file.write(_block(_PACKET, head + frame))
                if self._live:
                    self._file.flush()
            except OSError as error:
                self._failure = error  # told by close: whose bytes these are goes on

    def close(self) -> None:
        """Complete the file. A second call does nothing. OSError if not everything could be written."""
        with self._lock:
            if self._file.closed:
                return
            try:
                self._file.close()
            except OSError as error:
                self._failure = self._failure or error
        if self._failure is not None:
            raise self._failure

    def __enter__(self) -> PcapWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class PcapConnection:
    """One TCP connection in a capture, from its handshake to `close`."""

    def __init__(self, capture: PcapWriter, ts_ns: int, host_port: int, addresses: tuple[bytes, bytes]) -> None:
        if not 1 <= host_port <= 65_535:
            raise ValueError(f"host_port={host_port}: a port is 1 to 65535")
        self._addresses = addresses
        self._capture = capture
        self._port = host_port
        self._lock = threading.Lock()
        # By direction, False from the controller and True to it: the next sequence number, and packets so far.
        self._sequence = {True: 1_000, False: 2_000}
        self._packets = {True: 0, False: 0}
        self._open = True
        self._segment(ts_ns, True, _SYN)
        self._segment(ts_ns, False, _SYN | _ACK)
        self._segment(ts_ns, True, _ACK)

    def send(self, ts_ns: int, data: bytes | bytearray | memoryview, *, to_controller: bool) -> None:
        """Bytes that went over the connection; the other side acknowledges them at once."""
        view = memoryview(data).cast("B")
        with self._lock:
            if not self._open or not len(view):
                return
            for at in range(0, len(view), SEGMENT_MAX):
                self._segment(ts_ns, to_controller, _PSH | _ACK, bytes(view[at : at + SEGMENT_MAX]))
            self._segment(ts_ns, not to_controller, _ACK)

    def close(self, ts_ns: int, *, by_controller: bool = False) -> None:
        """The end of the connection. A second call does nothing."""
        with self._lock:
            if not self._open:
                return
            self._open = False
            first = not by_controller
            self._segment(ts_ns, first, _FIN | _ACK)
            self._segment(ts_ns, not first, _FIN | _ACK)
            self._segment(ts_ns, first, _ACK)

    def _segment(self, ts_ns: int, to_controller: bool, flags: int, data: bytes = b"") -> None:
        ports = self._port, self._capture.controller_port
        source, target = ports if to_controller else ports[::-1]
        addresses = b"".join(self._addresses if to_controller else self._addresses[::-1])
        sequence = self._sequence[to_controller] & _DWORD
        acknowledged = self._sequence[not to_controller] & _DWORD if flags & _ACK else 0
        head = struct.pack(">HHIIBBHHH", source, target, sequence, acknowledged, 5 << 4, flags, _WINDOW, 0, 0)
        pseudo = addresses + struct.pack(">BBH", 0, _PROTOCOL_TCP, len(head) + len(data))
        tcp = bytearray(head + data)
        struct.pack_into(">H", tcp, 16, _checksum(pseudo + tcp))
        # SYN and FIN take a sequence number each, as a byte would.
        self._sequence[to_controller] += len(data) + bool(flags & (_SYN | _FIN))
        self._packets[to_controller] += 1
        ident = self._packets[to_controller] & 0xFFFF
        fields = 0x45, 0, 20 + len(tcp), ident, 0x4000, 64, _PROTOCOL_TCP, 0
        ip = bytearray(struct.pack(">BBHHHBBH", *fields) + addresses)
        struct.pack_into(">H", ip, 10, _checksum(bytes(ip)))
        macs = _CONTROLLER_MAC + _HOST_MAC if to_controller else _HOST_MAC + _CONTROLLER_MAC
        frame = macs + struct.pack(">H", _ETHERTYPE_IPV4) + bytes(ip) + bytes(tcp)
        self._capture.packet(ts_ns, frame)


class Capture:
    """A capture of running connections: what `tap` gives is called with each new one (`core.ports.StreamTap`).

    ``clock_ns`` gives the time since 1970, as Wireshark shows it. A context manager; OSError as `PcapWriter`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        packets_max: int = PACKETS_MAX,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.writer = PcapWriter(path, packets_max=packets_max)
        self._clock_ns = clock_ns
        self._taps = 0

    def tap(self) -> Callable[[tuple[str, int]], _Tap]:
        """What makes the witness of a connection from a host's (address, port); call it once a listening socket.

        Each one's controllers get an IP address of their own, 127.0.0.1 the first: their ports are all 4420.
        """
        self._taps += 1
        controller = str(ipaddress.IPv4Address(_LOOPBACK) + self._taps - 1)

        def witness(host: tuple[str, int]) -> _Tap:
            try:
                known = str(ipaddress.IPv4Address(host[0]))
            except ValueError:
                known = _LOOPBACK  # IPv6: the port tells it from the others
            connection = self.writer.connection(
                self._clock_ns(), host_port=host[1], host=known, controller=controller
            )
            return _Tap(connection, self._clock_ns)

        return witness

    def close(self) -> None:
        """Complete the file; see `PcapWriter.close`."""
        self.writer.close()

    def __enter__(self) -> Capture:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Tap:
    """The witness of one connection."""

    def __init__(self, connection: PcapConnection, clock_ns: Callable[[], int]) -> None:
        self._connection = connection
        self._clock_ns = clock_ns

    def passed(self, data: bytes | bytearray | memoryview, *, to_controller: bool) -> None:
        """See `StreamTap.passed`."""
        self._connection.send(self._clock_ns(), data, to_controller=to_controller)

    def closed(self, *, by_controller: bool) -> None:
        """See `StreamTap.closed`."""
        self._connection.close(self._clock_ns(), by_controller=by_controller)
