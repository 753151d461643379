"""The target's side of one NVMe/TCP connection: bytes in, bytes out; no socket, no clock.

    space / received      bytes from the host
    pump(now_ns)          execute what came, put the answers into `out`
    out                   buffers to send, in order; `sent()` when all of them have left or were copied

`over` says why the connection is to be closed once `out` is sent; None while it is to go on. A host's mistake
is answered with a terminate PDU and ends this connection, no other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from crc32c import crc32c

from nvme_emu._core import put_answers
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
    RESP_SIZE,
    TERM,
    TERM_SIZE,
    Fes,
    PduType,
    align_data,
)
from nvme_emu.transports.tcp.reader import DataEnd, Header, PduError, PduReader
from nvme_emu.transports.tcp.states import Role, State

if TYPE_CHECKING:
    from nvme_emu.core.capsules import Answer, CapsuleQueue, Transfer
    from nvme_emu.core.faults import Effect

__all__ = ["TargetOptions", "TargetSession"]

_COMMAND = int(PduType.CAPSULE_CMD)
_RESPONSE = int(PduType.CAPSULE_RESP)
_C2H_DATA = int(PduType.C2H_DATA)
_R2T = int(PduType.R2T)
# A command without data and digests, whose header says so in every byte.
_BARE_COMMAND = CH.pack(_COMMAND, 0, CMD_SIZE, 0, CMD_SIZE)
_PFV_AT, _PDA_AT, _DATAO_AT, _DATAL_AT, _CCCID_AT, _TTAG_AT = 8, 10, 12, 16, 8, 10
_PLEN_AT, _FLAGS_AT = 4, 1


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetOptions:
    """What the target offers on its connections. ValueError for values out of range.

    `header_digest` and `data_digest`: use them where the host wants them. `success`: let data stand for the
    completion where the host allows it. `maxh2cdata`: bytes of one H2CData PDU. `cpda`: alignment of data
    from the host, in dwords and zero-based.
    """

    header_digest: bool = True
    data_digest: bool = True
    success: bool = True
    maxh2cdata: int = 128 << 10
    cpda: int = 0

    def __post_init__(self) -> None:
        if self.maxh2cdata < MAXH2CDATA_MIN or self.maxh2cdata % 4:
            raise ValueError(f"maxh2cdata={self.maxh2cdata}: at least 4096 bytes, in dwords (TCP 1.1, 3.6.2.3)")
        if not 0 <= self.cpda <= PDA_MAX:
            raise ValueError(f"cpda={self.cpda}: 0 to 31")


class TargetSession:
    """One connection's protocol. `queue` is set by the owner before the first byte."""

    def __init__(self, options: TargetOptions) -> None:
        self._queue: CapsuleQueue
        self.out: list[bytes | memoryview] = []
        self.over: str | None = None
        self.pdus = 0
        self._options = options
        self._reader = PduReader(Role.TARGET)
        self._open: dict[int, Transfer] = {}
        self._filling: tuple[Transfer, int, bool] | None = None  # transfer, bytes of this PDU, the last one
        self._hpda = 0
        self._header_digest = self._data_digest = False
        self._set_shapes()
        self.space = self._reader.space

    @property
    def queue(self) -> CapsuleQueue:
        """What the connection is about."""
        return self._queue

    @queue.setter
    def queue(self, queue: CapsuleQueue) -> None:
        self._queue = queue
        queue.implied = self._options.success

    @property
    def initialised(self) -> bool:
        """Whether the host has sent its ICReq."""
        return self._reader.state is not State.WAIT_IC

    # -- bytes in -------------------------------------------------------------------------------------------

    def received(self, nbytes: int) -> None:
        """Bytes have come where `space` said: take the PDUs that are complete."""
        reader = self._reader
        reader.received(nbytes)
        if self.over is not None:
            return
        try:
            while self.over is None:
                if reader.plain:
                    self._take_bare()
                event = reader.next()
                if event is None:
                    return
                if isinstance(event, Header):
                    self.pdus += 1
                    self._header(event)
                else:
                    self._data_end(event)
        except PduError as error:
            self._terminate(error)
        except OverflowError as error:
            self.over = f"protocol error: {error}"

    def _take_bare(self) -> None:
        """The commands at the front of the buffer that have no data with them."""
        reader = self._reader
        buffer = reader.buffer
        start, end = reader.start, reader.end
        at = start
        while end - at >= CMD_SIZE and buffer.startswith(_BARE_COMMAND, at):
            at += CMD_SIZE
        if at == start:
            return
        reader.start = at
        count = (at - start) // CMD_SIZE
        self.pdus += count
        for transfer in self._queue.accept_run(reader.view, start + CH_SIZE, CMD_SIZE, count):
            self._request(transfer)

    def _header(self, pdu: Header) -> None:
        kind = pdu.kind
        if kind == _COMMAND:
            self._command(pdu)
        elif kind == PduType.H2C_DATA:
            self._h2c_data(pdu)
        elif kind == PduType.IC_REQ:
            self._ic_req(pdu)
        else:
            _, _, _, _, _, fes, fei = TERM.unpack(pdu.head)
            self.over = f"the host terminates the connection: {Fes.name_of(fes) or fes} ({fei:#x})"

    def _ic_req(self, pdu: Header) -> None:
        *_, pfv, hpda, dgst, _maxr2t = IC.unpack(pdu.head)
        header = bytes(pdu.head)
        if pfv != PFV_1_0:
            raise PduError(Fes.UNSUPPORTED_PARAMETER, _PFV_AT, header, f"PDU format version {pfv}")
        if hpda > PDA_MAX:
            raise PduError(Fes.INVALID_HEADER_FIELD, _PDA_AT, header, f"HPDA {hpda}")
        wanted, options, reader = IC_DIGEST.unpack(dgst), self._options, self._reader
        self._header_digest = reader.header_digest = bool(wanted.hdgst) and options.header_digest
        self._data_digest = reader.data_digest = bool(wanted.ddgst) and options.data_digest
        self._hpda = hpda
        reader.alignment = 4 * (options.cpda + 1)
        self._set_shapes()
        used = IC_DIGEST.pack(hdgst=int(self._header_digest), ddgst=int(self._data_digest))
        self.out.append(
            IC.pack(PduType.IC_RESP, 0, IC_SIZE, 0, IC_SIZE, PFV_1_0, options.cpda, used, options.maxh2cdata)
        )

    def _command(self, pdu: Header) -> None:
        if pdu.nbytes > self._queue.in_capsule_bytes:
            why = f"{pdu.nbytes} bytes in a capsule, at most {self._queue.in_capsule_bytes}"
            raise PduError(Fes.INVALID_HEADER_FIELD, _PLEN_AT, bytes(pdu.head), why)
        transfer = self._queue.accept(bytes(pdu.head[CH_SIZE:]), pdu.nbytes)
        if transfer is not None and transfer.in_capsule:
            # The SGL may name fewer bytes than the capsule has: the rest is dropped with the copy.
            whole = transfer.view if len(transfer.view) == pdu.nbytes else memoryview(bytearray(pdu.nbytes))
            self._reader.fill(whole)
            self._filling = transfer, pdu.nbytes, True
            if whole is not transfer.view:
                self._spill = whole
        elif transfer is not None:
            self._request(transfer)

    def _request(self, transfer: Transfer) -> None:
        """Ask for a command's data with one R2T for all of it."""
        self._open[transfer.tag] = transfer
        nbytes = len(transfer.view)
        head = DATA.pack(_R2T, self._flags, DATA_SIZE, 0, self._r2t_plen, transfer.cid, transfer.tag, 0, nbytes)
        self._put_header(head)

    def _h2c_data(self, pdu: Header) -> None:
        _, flags, _, _, _, cccid, ttag, datao, datal = DATA.unpack(pdu.head)
        head = bytes(pdu.head)
        transfer = self._open.get(ttag)
        if transfer is None:
            raise PduError(Fes.INVALID_HEADER_FIELD, _TTAG_AT, head, f"H2CData with transfer tag {ttag}")
        if transfer.cid != cccid:
            raise PduError(Fes.INVALID_HEADER_FIELD, _CCCID_AT, head, f"H2CData for command {cccid}")
        if datal > self._options.maxh2cdata:
            raise PduError(Fes.LIMIT_EXCEEDED, _DATAL_AT, head, f"H2CData of {datal} bytes")
        if datal != pdu.nbytes:
            raise PduError(Fes.INVALID_HEADER_FIELD, _DATAL_AT, head, f"DATAL {datal}, {pdu.nbytes} bytes follow")
        total = len(transfer.view)
        if datao != transfer.received or datao + datal > total:
            why = f"H2CData {datao}+{datal} where {transfer.received} of {total} bytes have come"
            raise PduError(Fes.DATA_OUT_OF_RANGE, _DATAO_AT, head, why)
        last = datao + datal == total
        if bool(flags & FLAG_LAST) != last:
            raise PduError(Fes.INVALID_HEADER_FIELD, _FLAGS_AT, head, "LAST_PDU is wrong")
        self._reader.fill(transfer.view[datao : datao + datal])
        self._filling = transfer, datal, last

    def _data_end(self, event: DataEnd) -> None:
        filling, self._filling = self._filling, None
        if filling is None:
            return  # data of a command that was refused
        transfer, nbytes, last = filling
        spill, self._spill = self._spill, None
        if spill is not None:
            transfer.view[:] = spill[: len(transfer.view)]
        transfer.received += nbytes
        if not event.good:
            transfer.failed = True
        if last:
            self._open.pop(transfer.tag, None)
            self._queue.ready(transfer)

    _spill: memoryview | None = None

    # -- bytes out ------------------------------------------------------------------------------------------

    def pump(self, now_ns: int) -> None:
        """Execute what was accepted, and put the answers into `out`."""
        answers = self._queue.run(now_ns)
        if answers:
            if self._queue.spoiled:
                self._put_spoiled(answers)
            else:
                self._put_answers(answers)
        if self._queue.closing and self.over is None:
            self.over = "the host disconnects"

    def sent(self) -> None:
        """Everything in `out` has left or was copied."""
        self.out = []
        self._queue.release()

    def _set_shapes(self) -> None:
        """What the headers of our PDUs have in common, once digests and alignment are agreed."""
        digest = DIGEST_SIZE if self._header_digest else 0
        self._flags = FLAG_HDGST if self._header_digest else 0
        self._r2t_plen = DATA_SIZE + digest
        self._pdo = align_data(DATA_SIZE, self._header_digest, self._hpda)
        self._padding = bytes(self._pdo - DATA_SIZE - digest)
        self._response_ch = CH.pack(_RESPONSE, self._flags, RESP_SIZE, 0, RESP_SIZE + digest)
        self._data_flags = self._flags | FLAG_LAST | (FLAG_DDGST if self._data_digest else 0)
        self._data_overhead = self._pdo + (DIGEST_SIZE if self._data_digest else 0)
        self._bare = not (self._header_digest or self._data_digest or self._padding)

    def _put_header(self, head: bytes) -> None:
        if self._header_digest:
            head += crc32c(head).to_bytes(DIGEST_SIZE, "little")
        self.out.append(head)

    def _put_answers(self, answers: list[Answer]) -> None:
        if self._bare:
            put_answers(answers, self.out)
            return
        put, pack = self.out.append, DATA.pack
        pdo, overhead, flags, response = self._pdo, self._data_overhead, self._data_flags, self._response_ch
        alone = flags | FLAG_SUCCESS
        for cid, cqe, data in answers:
            if data is not None:
                nbytes = len(data)
                head = pack(
                    _C2H_DATA, flags if cqe else alone, DATA_SIZE, pdo, overhead + nbytes, cid, 0, 0, nbytes
                )
                self._put_header(head)
                if self._padding:
                    put(self._padding)
                put(data)
                if self._data_digest:
                    put(crc32c(data).to_bytes(DIGEST_SIZE, "little"))
                if not cqe:
                    continue
            self._put_header(response + cqe)

    def _put_spoiled(self, answers: list[Answer]) -> None:
        """The same where fault rules want some of them wrong; what follows a lost connection is not sent."""
        spoiled = self._queue.spoiled
        for answer in answers:
            effect = spoiled.pop(answer[0], None)
            if effect is None:
                self._put_answers([answer])
                continue
            before, self.out = self.out, []
            self._put_answers([answer])
            pieces, self.out = self.out, before
            self.out += self._spoil(pieces, effect, answer[2])
            if self.over is not None:
                return

    def _spoil(
        self, pieces: list[bytes | memoryview], effect: Effect, data: memoryview | None
    ) -> list[bytes | memoryview]:
        """The pieces of an answer with the fault in them. A digest that was not agreed on cannot be wrong."""
        how = getattr(effect, "how", "")
        if how == "header_digest" and self._header_digest:
            pieces[0] = _flipped(pieces[0])
        elif how == "data_digest" and self._data_digest and data is not None:
            digest = next(at for at, piece in enumerate(pieces) if piece is data) + 1
            pieces[digest] = _flipped(pieces[digest])
        elif how == "pdu_cut":
            self.over = "a fault rule cuts a PDU"
            whole = b"".join(pieces)
            nbytes = getattr(effect, "nbytes", None)
            return [whole[: len(whole) // 2 if nbytes is None else nbytes]]
        elif how == "disconnect":
            self.over = "a fault rule ends the connection"
            return []
        return pieces

    def _terminate(self, error: PduError) -> None:
        self.over = str(error)
        self._queue.violated(self.over, error.fes == Fes.HEADER_DIGEST_ERROR)
        plen = TERM_SIZE + len(error.header)
        self.out.append(TERM.pack(PduType.C2H_TERM_REQ, 0, TERM_SIZE, 0, plen, error.fes, error.fei) + error.header)


def _flipped(digest: bytes | memoryview) -> bytes:
    """With a bit of its last byte the other way round."""
    wrong = bytearray(digest)
    wrong[-1] ^= 1
    return bytes(wrong)
