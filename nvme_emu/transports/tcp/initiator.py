"""An NVMe/TCP initiator: one connection of a host to a subsystem (`fabric` has them all).

Whoever waits for a command reads the socket itself, so that a command costs one call to send and one to
receive, and no other thread is woken.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from crc32c import crc32c

from nvme_emu._core import take_answers
from nvme_emu.spec.queues import SQE_SIZE
from nvme_emu.spec.tcp import (
    CH,
    CH_SIZE,
    CMD_SIZE,
    DATA,
    DATA_SIZE,
    DIGEST_SIZE,
    FLAG_DDGST,
    FLAG_HDGST,
    FLAG_LAST,
    FLAG_SUCCESS,
    IC,
    IC_DIGEST,
    IC_SIZE,
    MAXH2CDATA_MIN,
    PDA_MAX,
    PFV_1_0,
    TERM,
    TERM_SIZE,
    Fes,
    PduType,
    align_data,
)
from nvme_emu.transports.tcp.reader import DataEnd, Header, PduError, PduReader
from nvme_emu.transports.tcp.states import Role, State
from nvme_emu.transports.tcp.tls import host_layer
from nvme_emu.transports.tcp.tls_socket import TlsSocket

if TYPE_CHECKING:
    from nvme_emu.core.capsules import Completed
    from nvme_emu.core.ports import StreamTap
    from nvme_emu.transports.tcp.fabric import TcpFabric

__all__ = ["InitiatorOptions", "TcpChannel"]

CONNECT_IN_CAPSULE: Final = 8192
"""What any queue's capsules may carry until Identify Controller tells more: Connect's data fits."""
WAIT_NS: Final = 250_000_000
"""How long one look at the socket sleeps."""
BUFFERS_PER_CALL: Final = 1000
FD_SETSIZE: Final = 1024
"""select() takes no larger descriptors."""

_C2H_DATA, _RESPONSE, _R2T = int(PduType.C2H_DATA), int(PduType.CAPSULE_RESP), int(PduType.R2T)
_COMMAND = int(PduType.CAPSULE_CMD)
_CQE = struct.Struct("<QHHHH")
_BARE_COMMAND = CH.pack(_COMMAND, 0, CMD_SIZE, 0, CMD_SIZE)
_BARE_ROW = np.frombuffer(_BARE_COMMAND, np.uint8)
_CCCID_AT, _DATAO_AT, _DATAL_AT = 8, 12, 16


@dataclass(frozen=True, kw_only=True, slots=True)
class InitiatorOptions:
    """What we ask the target for: digests, the alignment of data to us (dwords, zero-based), a time limit."""

    header_digest: bool = False
    data_digest: bool = False
    hpda: int = 0
    connect_timeout_s: float = 10.0

    def __post_init__(self) -> None:
        if not 0 <= self.hpda <= PDA_MAX:
            raise ValueError(f"hpda={self.hpda}: 0 to 31")


class TcpChannel:
    """One connection; a `core.capsules.CapsuleChannel`. Raises OSError when it cannot be made."""

    def __init__(self, fabric: TcpFabric, address: tuple[str, int], options: InitiatorOptions) -> None:
        self.in_capsule_bytes = CONNECT_IN_CAPSULE
        self._fabric = fabric
        self._reader = PduReader(Role.INITIATOR)
        self._lock = threading.Lock()  # guards what is sent: a receiver answers R2Ts
        self._out: list[bytes | memoryview] = []
        self._rest: memoryview | None = None
        self._tapped = 0  # how much of _out its witness has seen
        self._buffers: dict[int, memoryview] = {}
        self._done: list[Completed] = []
        self._success = False  # of the C2HData whose data is coming
        self._cid = 0
        self._header_digest = self._data_digest = False
        self._cpda = 0
        self._pdo = CMD_SIZE
        self._maxh2cdata = MAXH2CDATA_MIN
        self._tls: TlsSocket | None = None
        self._socket: socket.socket | TlsSocket = socket.create_connection(address, options.connect_timeout_s)
        self._tap: StreamTap | None = None if fabric.tap is None else fabric.tap(self._socket.getsockname()[:2])
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if fabric.tls is not None:
                key, hostnqn = fabric.tls
                self._socket = self._tls = TlsSocket(self._socket, host_layer(key, hostnqn, fabric.nqn))
                self._tls.handshake()
            self._initialise(options)
        except BaseException:
            self._socket.close()
            raise

    def _initialise(self, options: InitiatorOptions) -> None:
        wanted = IC_DIGEST.pack(hdgst=int(options.header_digest), ddgst=int(options.data_digest))
        self._reader.alignment = 4 * (options.hpda + 1)
        hello = IC.pack(PduType.IC_REQ, 0, IC_SIZE, 0, IC_SIZE, PFV_1_0, options.hpda, wanted, 0)
        if self._tap is not None:
            self._tap.passed(hello, to_controller=True)
        self._socket.sendall(hello)
        while self._reader.state is State.WAIT_IC:
            self._take(self._receive(0))
        # Blocking calls that end after a while, without the poll() that settimeout would add to each.
        self._socket.settimeout(None)
        limit = struct.pack("@ll", 0, WAIT_NS // 1000)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)

    def fileno(self) -> int:
        """The socket's descriptor; -1 when it is closed."""
        return self._socket.fileno()

    # -- sending --------------------------------------------------------------------------------------------

    def send(self, cid: int, sqe: bytes, data: memoryview | None, to_device: bool) -> None:
        """See `CapsuleChannel.send`."""
        if data is not None and to_device and len(data) <= self.in_capsule_bytes:
            self._send_with_data(sqe, data)
            return
        if data is not None:
            self._buffers[cid] = data
        head = _BARE_COMMAND + sqe
        if self._header_digest:
            plen = CMD_SIZE + DIGEST_SIZE
            head = CH.pack(_COMMAND, FLAG_HDGST, CMD_SIZE, 0, plen) + sqe
            head += crc32c(head).to_bytes(DIGEST_SIZE, "little")
        with self._lock:
            self._out.append(head)

    def send_run(self, cids: Sequence[int], sqes: bytes, buffers: Sequence[memoryview]) -> None:
        """See `CapsuleChannel.send_run`."""
        if self._header_digest:
            for number, cid in enumerate(cids):
                self.send(cid, sqes[number * SQE_SIZE : (number + 1) * SQE_SIZE], buffers[number], False)
            return
        self._buffers.update(zip(cids, buffers, strict=True))
        rows = np.empty((len(cids), CMD_SIZE), np.uint8)
        rows[:, :CH_SIZE] = _BARE_ROW
        rows[:, CH_SIZE:] = np.frombuffer(sqes, np.uint8).reshape(-1, SQE_SIZE)
        with self._lock:
            self._out.append(rows.tobytes())

    def _send_with_data(self, sqe: bytes, data: memoryview) -> None:
        flags = (FLAG_HDGST if self._header_digest else 0) | (FLAG_DDGST if self._data_digest else 0)
        pdo = self._pdo
        plen = pdo + len(data) + (DIGEST_SIZE if self._data_digest else 0)
        head = CH.pack(_COMMAND, flags, CMD_SIZE, pdo, plen) + sqe
        with self._lock:
            self._put(head, pdo, data)

    def _put(self, head: bytes, pdo: int, data: memoryview) -> None:
        """A PDU with data, the lock held."""
        if self._header_digest:
            head += crc32c(head).to_bytes(DIGEST_SIZE, "little")
        self._out.append(head.ljust(pdo, b"\0"))
        self._out.append(data)
        if self._data_digest:
            self._out.append(crc32c(data).to_bytes(DIGEST_SIZE, "little"))

    def flush(self) -> None:
        """See `CapsuleChannel.flush`."""
        with self._lock:
            self._flush()

    def _flush(self) -> None:
        """As `flush`, the lock held. What a full socket does not take is copied."""
        out, rest = self._out, self._rest
        if self._tap is not None:
            self._tap.passed(b"".join(out[self._tapped :]), to_controller=True)
            self._tapped = len(out)
        with contextlib.suppress(BlockingIOError):
            if self._tls is not None:
                self._tls.push()
            if rest is not None:
                rest = rest[self._socket.send(rest, socket.MSG_DONTWAIT) :]
                self._rest = rest if rest else None
            while out and self._rest is None:
                buffers = out[:BUFFERS_PER_CALL]
                total = sum(map(len, buffers))
                sent = self._socket.sendmsg(buffers, (), socket.MSG_DONTWAIT)
                del out[:BUFFERS_PER_CALL]
                self._tapped = max(0, self._tapped - BUFFERS_PER_CALL)
                if sent < total:
                    self._rest = memoryview(b"".join(buffers))[sent:]

    # -- receiving ------------------------------------------------------------------------------------------

    def receive(self, timeout_ns: int) -> list[Completed]:
        """See `CapsuleChannel.receive`. At most WAIT_NS; what came late is taken by the next call."""
        done = self._done
        flags: int
        while not done:
            if self._unsent:
                self.flush()
            try:
                flags = socket.MSG_DONTWAIT
                if timeout_ns and self._unsent:
                    self._wait_for_both(timeout_ns)
                elif timeout_ns >= WAIT_NS:
                    flags = 0
                elif timeout_ns and not self._wait_shortly(timeout_ns):
                    return []
                received = self._receive(flags)
            except BlockingIOError:
                return []
            self._take(received)
            if self._tls is not None:
                # What is left in the layer makes no socket readable.
                while received := self._received(self._tls.take(space := self._reader.space()), space):
                    self._take(received)
            done = self._done
        self._done = []
        return done

    @property
    def _unsent(self) -> bool:
        return self._rest is not None or bool(self._out) or (self._tls is not None and self._tls.unsent)

    def _receive(self, flags: int) -> int:
        """Bytes into the reader's space; how many. 0 for a connection that was closed."""
        space = self._reader.space()
        return self._received(self._socket.recv_into(space, 0, flags), space)

    def _received(self, received: int, space: memoryview) -> int:
        if self._tap is not None and received:
            self._tap.passed(space[:received], to_controller=False)
        return received

    def _wait_shortly(self, timeout_ns: int) -> bool:
        """Whether there is something to receive within a time too short for poll(), which counts milliseconds."""
        if self._socket.fileno() < FD_SETSIZE:
            return bool(select.select((self._socket,), (), (), timeout_ns / 1e9)[0])
        poller = select.poll()
        poller.register(self._socket, select.POLLIN)
        return bool(poller.poll(1))

    def _wait_for_both(self, timeout_ns: int) -> None:
        """Until there is something to receive or room to send."""
        poller = select.poll()
        poller.register(self._socket, select.POLLIN | select.POLLOUT)
        poller.poll(min(timeout_ns, WAIT_NS) / 1e6)

    def _take(self, received: int) -> None:
        """Bytes have come: take the PDUs that are complete."""
        if not received:
            raise ConnectionResetError(104, f"{self._fabric.address} closed the connection")
        reader = self._reader
        reader.received(received)
        try:
            while True:
                if reader.plain:
                    self._take_bare()
                event = reader.next()
                if event is None:
                    return
                if isinstance(event, Header):
                    self._header(event)
                else:
                    self._data_end(event)
        except PduError as error:
            self._terminate(error)
            raise ConnectionAbortedError(103, f"{self._fabric.address}: {error}") from error

    def _take_bare(self) -> None:
        """Whole PDUs at the front of the buffer, without digests: data for reads, and completions."""
        reader = self._reader
        reader.start = take_answers(reader.view, reader.start, reader.end, self._buffers, self._done)

    def _header(self, pdu: Header) -> None:
        kind = pdu.kind
        if kind == _C2H_DATA:
            self._c2h_data(pdu)
        elif kind == _RESPONSE:
            value, _, _, cid, status_p = _CQE.unpack_from(pdu.head, CH_SIZE)
            self._buffers.pop(cid, None)
            self._done.append((cid, value, status_p >> 1))
        elif kind == _R2T:
            self._r2t(pdu)
        elif kind == PduType.IC_RESP:
            self._ic_resp(pdu)
        else:
            *_, fes, fei = TERM.unpack(pdu.head)
            what = Fes.name_of(fes) or f"status {fes:#x}"
            raise ConnectionAbortedError(
                103, f"{self._fabric.address} terminates the connection: {what} (information {fei:#x})"
            )

    def _ic_resp(self, pdu: Header) -> None:
        *_, pfv, cpda, dgst, maxh2cdata = IC.unpack(pdu.head)
        head = bytes(pdu.head)
        used = IC_DIGEST.unpack(dgst)
        if pfv != PFV_1_0:
            raise PduError(Fes.UNSUPPORTED_PARAMETER, 8, head, f"PDU format version {pfv}")
        if cpda > PDA_MAX:
            raise PduError(Fes.INVALID_HEADER_FIELD, 10, head, f"CPDA {cpda}")
        if maxh2cdata < MAXH2CDATA_MIN or maxh2cdata % 4:
            raise PduError(Fes.INVALID_HEADER_FIELD, _DATAO_AT, head, f"MAXH2CDATA {maxh2cdata}")
        self._header_digest = self._reader.header_digest = bool(used.hdgst)
        self._data_digest = self._reader.data_digest = bool(used.ddgst)
        self._cpda = cpda
        self._pdo = align_data(CMD_SIZE, self._header_digest, cpda)
        self._maxh2cdata = maxh2cdata

    def _c2h_data(self, pdu: Header) -> None:
        _, flags, _, _, _, cid, _, datao, datal = DATA.unpack(pdu.head)
        head = bytes(pdu.head)
        into = self._buffers.get(cid)
        if into is None:
            raise PduError(Fes.INVALID_HEADER_FIELD, _CCCID_AT, head, f"C2HData for command {cid}")
        if datal != pdu.nbytes:
            raise PduError(Fes.INVALID_HEADER_FIELD, _DATAL_AT, head, f"DATAL {datal}, {pdu.nbytes} bytes follow")
        if datao + datal > len(into):
            raise PduError(Fes.DATA_OUT_OF_RANGE, _DATAO_AT, head, f"C2HData {datao}+{datal} of {len(into)} bytes")
        self._reader.fill(into[datao : datao + datal])
        self._success = bool(flags & FLAG_SUCCESS)
        self._cid = cid

    def _data_end(self, event: DataEnd) -> None:
        if not event.good:
            # The command would be retried on a connection that may spoil data again: give it up.
            raise ConnectionAbortedError(103, f"{self._fabric.address}: data digest error in command {self._cid}")
        if self._success:
            self._success = False
            self._buffers.pop(self._cid, None)
            self._done.append((self._cid, 0, 0))

    def _r2t(self, pdu: Header) -> None:
        """The target wants data of a write: H2CData PDUs, each as long as it takes them."""
        _, _, _, _, _, cid, ttag, offset, length = DATA.unpack(pdu.head)
        data = self._buffers.get(cid)
        if data is None:
            raise PduError(Fes.INVALID_HEADER_FIELD, _CCCID_AT, bytes(pdu.head), f"R2T for command {cid}")
        if not length or offset + length > len(data):
            why = f"R2T {offset}+{length} of {len(data)} bytes"
            raise PduError(Fes.DATA_OUT_OF_RANGE, _DATAO_AT, bytes(pdu.head), why)
        flags = (FLAG_HDGST if self._header_digest else 0) | (FLAG_DDGST if self._data_digest else 0)
        pdo = align_data(DATA_SIZE, self._header_digest, self._cpda)
        overhead = pdo + (DIGEST_SIZE if self._data_digest else 0)
        end = offset + length
        with self._lock:
            while offset < end:
                step = min(end - offset, self._maxh2cdata)
                last = FLAG_LAST if offset + step == end else 0
                head = DATA.pack(
                    PduType.H2C_DATA, flags | last, DATA_SIZE, pdo, overhead + step, cid, ttag, offset, step
                )
                self._put(head, pdo, data[offset : offset + step])
                offset += step
            self._flush()

    def _terminate(self, error: PduError) -> None:
        plen = TERM_SIZE + len(error.header)
        head = TERM.pack(PduType.H2C_TERM_REQ, 0, TERM_SIZE, 0, plen, error.fes, error.fei)
        if self._tap is not None:
            self._tap.passed(head + error.header, to_controller=True)
        with contextlib.suppress(OSError):
            self._socket.send(head + error.header, socket.MSG_DONTWAIT)

    # -- the rest -------------------------------------------------------------------------------------------

    def forget(self, cid: int) -> None:
        """See `CapsuleChannel.forget`."""
        self._buffers.pop(cid, None)

    def rearm(self) -> None:
        """See `CapsuleChannel.rearm`."""
        self._fabric.rearm(self)

    def close(self) -> None:
        """See `CapsuleChannel.close`."""
        if self._tap is not None:
            self._tap.closed(by_controller=False)
        self._fabric.unwatch(self)
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
