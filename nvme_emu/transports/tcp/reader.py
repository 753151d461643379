"""From bytes to PDUs, for both ends of a connection; no socket, no clock.

    view = reader.space()           where received bytes are to be put
    reader.received(n)              n of them have come
    event = reader.next()           a Header, the DataEnd of its data, or None: more bytes are needed

After a `Header` with data the owner says with `fill` where the data goes (None: nowhere). `next` raises
`PduError` for what the peer must not send; nothing more can be read then.

Large data that is not in the buffer yet is received where it belongs, without a detour through the buffer.
"""

from __future__ import annotations

from typing import NamedTuple

from crc32c import crc32c

from nvme_emu.spec.tcp import (
    CH,
    CH_SIZE,
    DIGEST_SIZE,
    FLAG_DDGST,
    FLAG_HDGST,
    TERM_DATA_MAX,
    Fes,
    PduType,
)
from nvme_emu.transports.tcp.states import RULES, TRANSITIONS, Role, State

__all__ = ["BUFFER_BYTES", "DataEnd", "Header", "PduError", "PduReader"]

BUFFER_BYTES = 256 << 10
DIRECT_MIN = 8192
"""Missing data of at least so many bytes is received where it belongs."""
_PDO_AT, _FLAGS_AT, _HLEN_AT, _PLEN_AT, _TYPE_AT = 3, 1, 2, 4, 0


class PduError(Exception):
    """The peer broke the protocol: what a terminate PDU has to say (TCP 1.1, 3.6.2.5).

    `fei` is the offset of the wrong field in the header, or the wrong digest; `header` what came of the PDU's
    header, 128 bytes at most.
    """

    def __init__(self, fes: Fes, fei: int, header: bytes, why: str) -> None:
        super().__init__(f"{fes.words}: {why}")
        self.fes = fes
        self.fei = fei
        self.header = header[:TERM_DATA_MAX]


class Header(NamedTuple):
    """A PDU has begun: its type, flags, whole header, and the bytes of data that follow.

    `head` is a view into the buffer, valid until the next `space`.
    """

    kind: int
    flags: int
    head: memoryview
    nbytes: int


class DataEnd(NamedTuple):
    """The data of the PDU has come; `good` unless its digest is wrong."""

    good: bool


class PduReader:
    """The receiving half of a connection. `state` follows the table in `states`."""

    def __init__(self, role: Role, capacity: int = BUFFER_BYTES) -> None:
        self.state = State.WAIT_IC
        self.header_digest = False
        self.data_digest = False
        self.alignment = 4
        """PDO must be a multiple of this: what we asked the peer for, in bytes."""
        self.buffer = bytearray(capacity)
        self.view = memoryview(self.buffer)
        self.start = 0
        self.end = 0
        self._rules = RULES[role]
        self._transitions = TRANSITIONS[role]
        self._skip = 0  # padding between header and data
        self._left = 0  # bytes of data still to come
        self._in_data = False
        self._digest = False  # of the data of this PDU
        self._crc = 0
        self._into: memoryview | None = None
        self._at = 0
        self._direct = False

    # -- bytes in -------------------------------------------------------------------------------------------

    def space(self) -> memoryview:
        """Where to receive next; never empty."""
        if self.start == self.end:
            self.start = self.end = 0
            if self._left >= DIRECT_MIN and self._into is not None and not self._skip:
                self._direct = True
                return self._into[self._at : self._at + self._left]
        elif self.end == len(self.buffer):
            rest = self.end - self.start
            self.buffer[:rest] = self.buffer[self.start : self.end]
            self.start, self.end = 0, rest
        self._direct = False
        return self.view[self.end :]

    def received(self, nbytes: int) -> None:
        """So many bytes were put where `space` said."""
        if self._direct:
            self._took(nbytes)
            self._direct = False
        else:
            self.end += nbytes

    # -- PDUs out -------------------------------------------------------------------------------------------

    @property
    def plain(self) -> bool:
        """Whether the next byte begins a PDU without digests: then its owner may look for itself."""
        return not (self._in_data or self.header_digest or self.data_digest) and self.state is State.OPEN

    def next(self) -> Header | DataEnd | None:
        """The next event, or None until more bytes have come. Raises PduError."""
        if self._in_data:
            return self._data()
        start = self.start
        have = self.end - start
        if have < CH_SIZE:
            return None
        kind, flags, hlen, pdo, plen = CH.unpack_from(self.buffer, start)
        rule = self._rules.get(kind)
        if rule is None:
            raise self._wrong(_TYPE_AT, f"PDU type {kind:#x}")
        state = self._transitions.get((self.state, kind))
        if state is None:
            raise PduError(Fes.SEQUENCE_ERROR, 0, self._header(hlen), f"{PduType(kind).words}, {self.state.value}")
        if hlen != rule.hlen:
            raise self._wrong(_HLEN_AT, f"HLEN {hlen} of {PduType(kind).words}, not {rule.hlen}")
        header_digest = self.header_digest and rule.digests
        behind = hlen + (DIGEST_SIZE if header_digest else 0)
        self._check_flags(rule.digests, rule.flags, flags)
        nbytes = 0
        if plen != behind:
            if rule.data_max is not None:
                pdo = behind  # reserved in a terminate PDU, whose data is right behind the header
            nbytes = self._data_length(rule.data_max, flags, pdo, plen, behind)
        if have < behind:
            return None
        if header_digest:
            found = int.from_bytes(self.view[start + hlen : start + behind], "little")
            if crc32c(self.view[start : start + hlen]) != found:
                raise PduError(Fes.HEADER_DIGEST_ERROR, found, self._header(hlen), f"header digest {found:#010x}")
        self.state = state
        self.start = start + behind
        if nbytes:
            self._in_data = True
            self._skip = pdo - behind
            self._left = nbytes
            self._digest = bool(flags & FLAG_DDGST) and rule.digests
            self._crc = 0
            self._into = None
            self._at = 0
        return Header(kind, flags, self.view[start : start + hlen], nbytes)

    def fill(self, into: memoryview | None) -> None:
        """The data of the header just given goes to `into`, which is as long as it; None drops it."""
        self._into = into

    def _check_flags(self, digests: bool, allowed: int, flags: int) -> None:
        wrong = flags & ~allowed
        if digests:
            wrong |= (flags ^ (FLAG_HDGST if self.header_digest else 0)) & FLAG_HDGST
            if not self.data_digest:
                wrong |= flags & FLAG_DDGST
        if wrong:
            raise self._wrong(_FLAGS_AT, f"flags {flags:#x}")

    def _data_length(self, limit: int | None, flags: int, pdo: int, plen: int, behind: int) -> int:
        """Bytes of data that PDO and PLEN promise. Raises PduError."""
        digest = 0
        if limit is None and self.data_digest:
            if not flags & FLAG_DDGST:
                raise self._wrong(_FLAGS_AT, f"flags {flags:#x} without a data digest")
            digest = DIGEST_SIZE
        if plen < behind or limit == 0:
            raise self._wrong(_PLEN_AT, f"PLEN {plen}")
        if pdo < behind or pdo % self.alignment:
            raise self._wrong(_PDO_AT, f"PDO {pdo}")
        nbytes = plen - pdo - digest
        if nbytes <= 0 or (limit is not None and nbytes > limit):
            raise self._wrong(_PLEN_AT, f"PLEN {plen} with PDO {pdo}")
        return nbytes

    def _data(self) -> DataEnd | None:
        have = self.end - self.start
        if self._skip:
            step = min(self._skip, have)
            self.start += step
            self._skip -= step
            have -= step
        if self._left and have:
            step = min(self._left, have)
            piece = self.view[self.start : self.start + step]
            if self._into is not None:
                self._into[self._at : self._at + step] = piece
                self._took(step)
            else:
                self._left -= step
                if self._digest:
                    self._crc = crc32c(piece, self._crc)
            self.start += step
            have -= step
        if self._left or self._skip:
            return None
        good = True
        if self._digest:
            if have < DIGEST_SIZE:
                return None
            found = int.from_bytes(self.view[self.start : self.start + DIGEST_SIZE], "little")
            self.start += DIGEST_SIZE
            good = found == self._crc
        self._in_data = False
        self._into = None
        return DataEnd(good)

    def _took(self, nbytes: int) -> None:
        """Bytes are where they belong."""
        assert self._into is not None
        if self._digest:
            self._crc = crc32c(self._into[self._at : self._at + nbytes], self._crc)
        self._at += nbytes
        self._left -= nbytes

    # -- mistakes -------------------------------------------------------------------------------------------

    def _header(self, hlen: int) -> bytes:
        return bytes(self.view[self.start : min(self.end, self.start + max(hlen, CH_SIZE))])

    def _wrong(self, offset: int, why: str) -> PduError:
        hlen = self.buffer[self.start + _HLEN_AT]
        return PduError(Fes.INVALID_HEADER_FIELD, offset, self._header(hlen), why)
