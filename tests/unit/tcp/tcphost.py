"""A host that builds its own PDUs, and a wire without sockets to our target. No code of the initiator is used."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

from crc32c import crc32c

from nvme_emu.controller import ControllerConfig, Namespace
from nvme_emu.controller.fabrics import FabricsTarget, Subsystem
from nvme_emu.media import RamMedia
from nvme_emu.spec.fabrics import CONNECT_DATA
from nvme_emu.spec.tcp import PduType
from nvme_emu.transports.tcp import TargetOptions, TargetSession

NQN = "nqn.2024-01.org.example:ssd"
HOST = "nqn.2024-01.org.example:host"
HOSTID = bytes(range(16))
TRANSPORT, IN_CAPSULE = 0x5A, 0x01
BLOCK = 512
CC_ENABLE = 0x0046_0001


def make_target(size: int = 1 << 20, **options: Any) -> FabricsTarget:
    """One subsystem with one namespace in memory."""
    config = options.pop("config", ControllerConfig())
    namespace = Namespace(1, RamMedia(size), BLOCK)
    return FabricsTarget([Subsystem(config=config, namespaces=[namespace], nqn=NQN, **options)])


def sqe(opcode: int, cid: int, *, nsid: int = 0, length: int = 0, kind: int = TRANSPORT, **cdws: int) -> bytes:
    """A submission queue entry with an SGL; `address`, `flags` and `cdw10` … `cdw15` by name."""
    return struct.pack(
        "<BBHIQQQI3xB6I", opcode, cdws.get("flags", 0x40), cid, nsid, 0, 0, cdws.get("address", 0), length, kind,
        *(cdws.get(f"cdw{number}", 0) for number in range(10, 16)),
    )  # fmt: skip


def io(opcode: int, cid: int, slba: int, blocks: int, *, kind: int = TRANSPORT, length: int | None = None) -> bytes:
    """Read or write `blocks` blocks."""
    nbytes = blocks * BLOCK if length is None else length
    return sqe(opcode, cid, nsid=1, length=nbytes, kind=kind, cdw10=slba, cdw12=blocks - 1)


def connect(cid: int, qid: int, cntlid: int = 0xFFFF, entries: int = 32, **wrong: Any) -> tuple[bytes, bytes]:
    """(command, data) of Connect; `wrong` overrides fields."""
    data = {"hostid": HOSTID, "cntlid": cntlid, "subnqn": NQN, "hostnqn": HOST}
    data |= {key: wrong[key] for key in data if key in wrong}
    cattr = wrong.get("cattr", 4)
    command = sqe(
        0x7F, cid, nsid=1, length=1024, kind=wrong.get("kind", IN_CAPSULE),
        cdw10=wrong.get("recfmt", 0) | qid << 16, cdw11=(entries - 1) | cattr << 16, cdw12=wrong.get("kato", 0),
    )  # fmt: skip
    return command, CONNECT_DATA.build(**data)


def property_get(cid: int, offset: int, wide: bool = False) -> bytes:
    """Property Get."""
    return sqe(0x7F, cid, nsid=4, cdw10=int(wide), cdw11=offset)


def property_set(cid: int, offset: int, value: int) -> bytes:
    """Property Set of four bytes."""
    return sqe(0x7F, cid, nsid=0, cdw11=offset, cdw12=value)


def ic_req(*, pfv: int = 0, hpda: int = 0, digests: int = 0, maxr2t: int = 0) -> bytes:
    """ICReq."""
    return struct.pack("<BBBBIHBBI112x", 0, 0, 128, 0, 128, pfv, hpda, digests, maxr2t)


def h2c_data(cid: int, tag: int, offset: int, data: bytes, *, last: bool, **wrong: int) -> bytes:
    """H2CData without digests."""
    return struct.pack(
        "<BBBBIHHII4x", 6, 4 if last else 0, 24, 24, 24 + len(data), cid, tag, offset, wrong.get("datal", len(data))
    ) + data  # fmt: skip


@dataclass
class Pdu:
    """What the target has sent."""

    kind: int
    flags: int
    header: bytes
    data: bytes

    @property
    def cid(self) -> int:
        """Of a response, data or R2T."""
        return int(struct.unpack_from("<H", self.header, 20 if self.kind == PduType.CAPSULE_RESP else 8)[0])

    @property
    def status(self) -> int:
        """Of a response: without DNR and More."""
        return int(struct.unpack_from("<H", self.header, 22)[0]) >> 1 & 0x7FF

    @property
    def value(self) -> int:
        """Of a response: dwords 0 and 1."""
        return int(struct.unpack_from("<Q", self.header, 8)[0])

    @property
    def sqhd(self) -> int:
        """Of a response."""
        return int(struct.unpack_from("<H", self.header, 16)[0])

    @property
    def transfer(self) -> tuple[int, int, int]:
        """(tag, offset, length) of an R2T."""
        return struct.unpack_from("<HII", self.header, 10)

    @property
    def fatal(self) -> tuple[int, int]:
        """(FES, FEI) of a terminate PDU."""
        return struct.unpack_from("<HI", self.header, 8)


def parse(stream: bytes) -> list[Pdu]:
    """The PDUs of a stream, digests checked, and nothing left over."""
    pdus = []
    while stream:
        kind, flags, hlen, pdo, plen = struct.unpack_from("<BBBBI", stream)
        pdu, stream = stream[:plen], stream[plen:]
        assert len(pdu) == plen
        header, end = pdu[:hlen], plen
        if flags & 1:
            assert crc32c(header) == int.from_bytes(pdu[hlen : hlen + 4], "little")
        data = b""
        if kind == PduType.C2H_DATA:
            if flags & 2:
                end -= 4
            data = pdu[pdo:end]
            if flags & 2:
                assert crc32c(data) == int.from_bytes(pdu[end:], "little")
        elif kind == PduType.C2H_TERM_REQ:
            data = pdu[hlen:]
        pdus.append(Pdu(kind, flags, header, data))
    return pdus


@dataclass
class Wire:
    """A connection without a socket: bytes go in, the target's PDUs come out. Time is `now_ns`."""

    target: FabricsTarget
    options: TargetOptions = field(default_factory=TargetOptions)
    now_ns: int = 1
    ended: str | None = None
    woken: int = 0

    def __post_init__(self) -> None:
        self.session = TargetSession(self.options)
        self.session.queue = self.target.open(self, ("127.0.0.1", 4420), self.now_ns)

    def wake(self) -> None:
        """The queue has something to say."""
        self.woken += 1

    def terminate(self, why: str) -> None:
        """The association is over."""
        self.ended = why

    def feed(self, data: bytes) -> list[Pdu]:
        """Send bytes, let the target work, and give what it answers."""
        while data:
            space = self.session.space()
            step = min(len(space), len(data))
            space[:step] = data[:step]
            self.session.received(step)
            data = data[step:]
        return self.turn()

    def turn(self) -> list[Pdu]:
        """Let the target answer what it has."""
        self.session.pump(self.now_ns)
        stream = b"".join(bytes(piece) for piece in self.session.out)
        self.session.sent()
        return parse(stream)

    def start(self, **wanted: int) -> Pdu:
        """ICReq and its answer."""
        (answer,) = self.feed(ic_req(**wanted))
        assert answer.kind == PduType.IC_RESP
        return answer

    def command(self, entry: bytes, data: bytes = b"") -> list[Pdu]:
        """A capsule without digests."""
        return self.feed(capsule(entry, data))

    def connect(self, qid: int, cntlid: int = 0xFFFF, **fields: Any) -> Pdu:
        """Connect, with its data in the capsule."""
        (answer,) = self.command(*connect(1, qid, cntlid, **fields))
        return answer


def capsule(entry: bytes, data: bytes = b"") -> bytes:
    """CapsuleCmd without digests."""
    return struct.pack("<BBBBI", 4, 0, 72, 72 if data else 0, 72 + len(data)) + entry + data


def admin(target: FabricsTarget, **fields: Any) -> tuple[Wire, int]:
    """A connected and enabled admin queue, and its controller's identifier."""
    wire = Wire(target)
    wire.start()
    answer = wire.connect(0, **fields)
    assert answer.status == 0, hex(answer.status)
    (done,) = wire.command(property_set(2, 0x14, CC_ENABLE))
    assert done.status == 0
    return wire, answer.value & 0xFFFF


def io_queue(target: FabricsTarget, cntlid: int, qid: int = 1, options: TargetOptions | None = None, **ic: int) -> Wire:
    """A connected I/O queue of 32 entries."""
    wire = Wire(target, options or TargetOptions())
    wire.start(**ic)
    assert wire.connect(qid, cntlid).status == 0
    return wire
