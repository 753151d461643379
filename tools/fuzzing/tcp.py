"""The NVMe/TCP target's sessions, without sockets: PDUs that are right, nearly right, or noise, in any pieces.

What the target sends must be whole PDUs whose lengths agree; no command may be answered twice; a session that
breaks the protocol ends alone; and when all hosts have gone nothing of theirs is left.
"""

from __future__ import annotations

import os
import struct

from crc32c import crc32c

from fuzzing.source import Source
from nvme_emu.controller import ControllerConfig, Namespace
from nvme_emu.controller.fabrics import FabricsTarget, Subsystem
from nvme_emu.controller.fabrics_auth import DhchapPolicy
from nvme_emu.core.dhchap import DhchapSecrets, Secret
from nvme_emu.media.ram import RamMedia
from nvme_emu.spec.dhchap import DhGroup
from nvme_emu.spec.fabrics import CONNECT_DATA, DISCOVERY_NQN
from nvme_emu.spec.tcp import PduType
from nvme_emu.transports.tcp import TargetOptions, TargetSession

__all__ = ["case"]

NQN, HOST, GUARDED = "nqn.2024-01.x:ssd", "nqn.2024-01.x:host", "nqn.2024-01.x:guarded"
WIRES = 4
ACTIONS_MAX = 80
_CC_ENABLE = 0x0046_0001
_PROPERTIES = [0, 8, 0x14, 0x1C, 0x20, 0x24, 0x28, 0x68, 0x1000]


class _Wire:
    """A connection; a `CapsuleSink`."""

    def __init__(self, target: FabricsTarget, source: Source) -> None:
        self.source = source
        self.session = TargetSession(
            TargetOptions(success=bool(source.below(2)), maxh2cdata=source.pick([4096, 131072]), cpda=source.below(3))
        )
        self.session.queue = target.open(self, ("127.0.0.1", 4420), target.now_ns + 1)
        self.digests = 0
        self.begun = False
        self.gone = False
        self.cntlid = 0xFFFF
        self.answered: dict[int, int] = {}
        self.asked: dict[int, int] = {}
        self.open_transfers: list[tuple[int, int, int, int]] = []
        self.sent: dict[int, int] = {}

    def wake(self) -> None:
        """It is pumped anyway."""

    def terminate(self, why: str) -> None:
        """The association is over."""
        if self.session.over is None:
            self.session.over = why

    def send(self, data: bytes) -> None:
        while data:
            space = self.session.space()
            step = min(len(space), len(data), 1 + self.source.below(200) if self.source.one_in(4) else len(data))
            if not step:
                return
            space[:step] = data[:step]
            self.session.received(step)
            data = data[step:]

    def drain(self, now_ns: int) -> None:
        self.session.pump(now_ns)
        stream = b"".join(bytes(piece) for piece in self.session.out)
        self.session.sent()
        while stream:
            assert len(stream) >= 8, "half a PDU"
            kind, flags, hlen, _, plen = struct.unpack_from("<BBBBI", stream)
            assert 8 <= hlen <= plen <= len(stream), "a PDU's lengths do not agree"
            self.take(kind, flags, stream[:plen], hlen)
            stream = stream[plen:]

    def take(self, kind: int, flags: int, pdu: bytes, hlen: int) -> None:
        if kind == PduType.CAPSULE_RESP:
            dw0, cid = struct.unpack_from("<I", pdu, 8)[0], struct.unpack_from("<H", pdu, 20)[0]
            self.count(cid)
            if not struct.unpack_from("<H", pdu, 22)[0] >> 1:
                self.cntlid = dw0 & 0xFFFF if self.asked.get(cid) == 0x17F else self.cntlid
        elif kind == PduType.C2H_DATA and flags & 8:
            self.count(struct.unpack_from("<H", pdu, 8)[0])
        elif kind == PduType.R2T:
            self.open_transfers.append(struct.unpack_from("<HHII", pdu, 8))
        if flags & 1:
            assert crc32c(pdu[:hlen]) == int.from_bytes(pdu[hlen : hlen + 4], "little"), "a header digest is wrong"

    def count(self, cid: int) -> None:
        self.answered[cid] = self.answered.get(cid, 0) + 1
        sent = self.sent.get(cid, 0)
        assert self.answered[cid] <= sent, f"cid {cid} was sent {sent} times and answered {self.answered[cid]} times"


def _pdu(wire: _Wire, head: bytes, data: bytes) -> bytes:
    """With lengths and digests as agreed; `head` without its common header's lengths."""
    kind, body = head[0], head[8:]
    flags = head[1] | (1 if wire.digests & 1 else 0) | (2 if wire.digests & 2 and data else 0)
    hlen = 8 + len(body)
    digest = 4 if wire.digests & 1 else 0
    alignment = 4 * (1 + wire.session._options.cpda)
    pdo = -(-(hlen + digest) // alignment) * alignment if data else 0
    plen = (pdo + len(data) + (4 if wire.digests & 2 else 0)) if data else hlen + digest
    out = struct.pack("<BBBBI", kind, flags, hlen, pdo, plen) + body
    if digest:
        out += crc32c(out).to_bytes(4, "little")
    if data:
        out = out.ljust(pdo, b"\0") + data
        if wire.digests & 2:
            out += crc32c(data).to_bytes(4, "little")
    return out


def _capsule(
    wire: _Wire, opcode: int, cid: int, nsid: int, length: int, kind: int, cdws: list[int], data: bytes
) -> None:
    """Send a command; `data` goes along in the capsule."""
    source = wire.source
    flags = 0x40 if source.below(8) else source.bits(8)
    sqe = struct.pack(
        "<BBHIQQQI3xB6I", opcode, flags, cid, nsid, 0, 0, source.number(64) if source.one_in(16) else 0,
        length & 0xFFFF_FFFF, kind, *(cdws + [0] * 6)[:6],
    )  # fmt: skip
    wire.sent[cid] = wire.sent.get(cid, 0) + 1
    wire.asked[cid] = opcode | (0x100 if nsid == 1 else 0)
    wire.send(_pdu(wire, bytes([4, 0]) + bytes(6) + sqe, data))


def _begin(wire: _Wire) -> None:
    source = wire.source
    wire.digests = source.below(4)
    pfv = 0 if source.below(12) else source.bits(16)
    hpda = source.below(4) if source.below(12) else source.bits(8)
    wire.send(struct.pack("<BBBBIHBBI112x", 0, 0, 128, 0, 128, pfv, hpda, wire.digests, source.below(4)))
    wire.begun = True


def _connect(wire: _Wire, wires: list[_Wire]) -> None:
    source = wire.source
    qid = source.below(4)
    known = [one.cntlid for one in wires if one.cntlid != 0xFFFF] or [1]
    data = CONNECT_DATA.build(
        hostid=bytes(16),
        cntlid=source.pick(known) if qid else 0xFFFF,
        subnqn=source.pick([NQN, NQN, NQN, GUARDED, DISCOVERY_NQN, "nqn.none"]),
        hostnqn=HOST if source.below(8) else "",
    )
    entries = source.pick([32, 2, 1024, 128]) if source.below(6) else 1 + source.below(65536)
    cdws = [qid << 16, (entries - 1 & 0xFFFF) | source.pick([0, 4]) << 16, source.pick([0, 0, 1, 5000])]
    _capsule(wire, 0x7F, source.below(16), 1, len(data), 1, cdws, data)


def _command(wire: _Wire) -> None:
    source = wire.source
    cid = source.below(48)
    kind = source.below(8)
    length = source.pick([0, 512, 4096, 8192, 20000, 65536, 1 << 20])
    if kind < 4:
        opcode = source.pick([2, 2, 1, 1, 5, 0, 8, 9, 0x19, source.bits(8)])
        blocks = max(1, length // 512)
        inside = opcode == 1 and length <= 8192 and bool(source.below(2))
        data = source.bytes(64).ljust(length, b"\x77") if inside else b""
        cdws = [source.below(4000), 0, blocks - 1 if source.below(6) else source.number(32)]
        _capsule(wire, opcode, cid, source.pick([1, 1, 1, 2, 0]), length, 1 if inside else 0x5A, cdws, data)
    elif kind < 6:
        opcode = source.pick([6, 2, 9, 10, 0x18, 12, 8, source.bits(8)])
        cdws = [source.number(16) | source.number(16) << 16, source.number(32)]
        _capsule(wire, opcode, cid, source.pick([0, 1]), source.pick([4096, length]), 0x5A, cdws, b"")
    elif kind == 6:
        offset = source.pick(_PROPERTIES)
        value = source.pick([_CC_ENABLE, _CC_ENABLE, 0, source.bits(32)])
        _capsule(wire, 0x7F, cid, source.pick([0, 0, 4, 8]), 0, 0x5A, [source.below(3), offset, value], b"")
    else:
        message = source.bytes(source.pick([8, 72, 80, 128]))
        message = source.pick([bytes(8) + b"\1\0\1\1" + b"\1".ljust(30, b"\0"), message])
        cdws = [1 << 8 | 1 << 16 | 0xE9 << 24, len(message)]
        fctype = source.pick([5, 6])
        sent = message if fctype == 5 else b""
        _capsule(wire, 0x7F, cid, fctype, len(message), 1 if sent else 0x5A, cdws, sent)


def _h2c(wire: _Wire) -> None:
    """Data that was asked for, in pieces of any size, or data that was not."""
    source = wire.source
    cid, tag, offset, length = wire.open_transfers.pop() if wire.open_transfers else (1, 1, 0, 64)
    while length > 0:
        piece = min(length, source.pick([length, 4096, 512, 4]))
        if source.one_in(24):
            offset += 4
        last = piece == length
        body = struct.pack("<HHII4x", cid, tag, offset, piece)
        flags = 4 if last and source.below(24) else 0
        wire.send(_pdu(wire, bytes([6, flags]) + bytes(6) + body, source.bytes(16).ljust(piece, b"\x33")))
        offset, length = offset + piece, length - piece
        if source.one_in(8):
            return


def _act(target: FabricsTarget, wires: list[_Wire], source: Source) -> None:
    wire = source.pick(wires)
    action = source.below(16)
    if wire.session.over is not None or action == 15:
        wire.session.queue.close("the fuzzer closes it")
        wires[wires.index(wire)] = _Wire(target, source)
    elif not wire.begun and source.below(16):
        _begin(wire)
        _connect(wire, wires)
    elif action < 10:
        _command(wire)
    elif action < 12:
        _h2c(wire)
    elif action == 12:
        _connect(wire, wires)
    elif action == 13:
        wire.send(source.bytes(source.below(80)))
    else:
        now_ns = target.now_ns + source.pick([1, 1000, 10_000_000_000])
        target.work(now_ns)


def case(data: bytes) -> None:
    """One input."""
    source = Source(data)
    policy = DhchapPolicy(
        entropy=os.urandom, hosts={}, others=DhchapSecrets(Secret(bytes(32))), dhgroups=frozenset({DhGroup.NULL})
    )
    config = ControllerConfig(io_queues_max=4)
    target = FabricsTarget(
        [
            Subsystem(config=config, namespaces=[Namespace(1, RamMedia(1 << 21), 512)], nqn=NQN),
            Subsystem(config=config, namespaces=[], nqn=GUARDED, dhchap=policy),
        ]
    )
    wires = [_Wire(target, source) for _ in range(WIRES)]
    for _ in range(ACTIONS_MAX):
        if not source.left:
            break
        _act(target, wires, source)
        for wire in wires:
            wire.drain(target.now_ns)
    for wire in wires:
        wire.session.queue.close("done")
    assert not target.associations, "controllers are left though every host has gone"
