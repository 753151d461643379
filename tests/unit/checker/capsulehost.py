"""A host over NVMe/TCP under the checker, without a socket: every PDU by hand, so that every rule can be broken."""

from __future__ import annotations

from typing import Any

from rawhost import FixedLatency
from tcphost import IN_CAPSULE, TRANSPORT, Pdu, Wire, connect, make_target, property_get, property_set, sqe

from nvme_emu.controller import ControllerConfig
from nvme_emu.observe.checker import FabricsChecker
from nvme_emu.spec.commands import SET_FEATURES_CDW10
from nvme_emu.spec.features import NUMBER_OF_QUEUES, Fid
from nvme_emu.spec.opcodes import AdminOpcode, NvmOpcode
from nvme_emu.spec.registers import CC, Reg

READ, WRITE = int(NvmOpcode.READ), int(NvmOpcode.WRITE)
ENABLED = {"en": 1, "iosqes": 6, "iocqes": 4}
IO_NS = 1000
KATO_MS = 5000
ENTRIES = 16


class CapsuleHost:
    """A host that does all as the specification wants it, unless told otherwise. I/O takes `IO_NS`."""

    def __init__(self, *, latency_ns: int = IO_NS, config: ControllerConfig | None = None, **options: Any) -> None:
        self.target = make_target(
            config=config or ControllerConfig(), latency=FixedLatency(latency_ns), **options
        )
        self.checker = FabricsChecker(self.target).attach()
        self.wires: dict[int, Wire] = {}
        self.cntlid = 0
        self.cid = 100
        self.now_ns = 1

    @property
    def broken(self) -> set[str]:
        """The rules that were broken."""
        assert self.checker.internal_error is None, repr(self.checker.internal_error)
        return {finding.rule for finding in self.checker.findings}

    @property
    def admin(self) -> Wire:
        """The admin queue's connection."""
        return self.wires[0]

    @property
    def io(self) -> Wire:
        """The first I/O queue's."""
        return self.wires[1]

    # -- connections ----------------------------------------------------------------------------------------

    def wire(self) -> Wire:
        """A connection that has said ICReq."""
        wire = Wire(self.target, now_ns=self.now_ns)
        wire.start()
        return wire

    def connect(self, qid: int = 0, **fields: Any) -> Pdu:
        """Connect a queue."""
        wire = self.wire()
        command, data = connect(1, qid, **{
            "cntlid": self.cntlid if qid else 0xFFFF, "entries": ENTRIES, "kato": 0 if qid else KATO_MS, **fields,
        })  # fmt: skip
        (answer,) = wire.command(command, data)
        self.wires[qid] = wire
        if not qid and not answer.status:
            self.cntlid = answer.value & 0xFFFF
        return answer

    def leave(self) -> None:
        """Close every connection, the admin queue's last."""
        for qid in sorted(self.wires, reverse=True):
            self.wires.pop(qid).session.queue.close("closed by the host")

    # -- the controller's life ------------------------------------------------------------------------------

    def get(self, offset: int, *, wide: bool = False) -> int:
        """Property Get."""
        self.cid += 1
        (answer,) = self.admin.command(property_get(self.cid, offset, wide))
        return answer.value

    def set(self, offset: int, value: int) -> None:
        """Property Set."""
        self.cid += 1
        self.admin.command(property_set(self.cid, offset, value))

    def cc(self, **fields: int) -> None:
        """Write CC: enabled with the usual entry sizes, unless the fields say otherwise."""
        self.set(Reg.CC, CC.pack(**{**ENABLED, **fields}))

    def up(self) -> CapsuleHost:
        """Connect the admin queue, enable, see that it is ready."""
        self.connect()
        self.get(Reg.CAP, wide=True)
        self.cc()
        self.get(Reg.CSTS)
        return self

    def ready(self) -> CapsuleHost:
        """Up, with the number of queues agreed and one I/O queue."""
        self.up()
        self.number_of_queues()
        self.connect(1)
        return self

    def down(self) -> None:
        """Shut down, see its end, leave."""
        if 0 in self.wires:
            self.later()
            ctrl = self.target.associations.get(self.cntlid)
            if ctrl is not None and ctrl.controller.running:
                self.cc(shn=1)
                self.get(Reg.CSTS)
        self.leave()

    def later(self, ns: int = 20 * IO_NS) -> None:
        """Time passes: what was begun ends."""
        self.now_ns += ns
        self.target.work(self.now_ns)
        for wire in self.wires.values():
            wire.now_ns = self.now_ns
            wire.turn()

    # -- commands -------------------------------------------------------------------------------------------

    def send(self, qid: int, opcode: int, data: bytes = b"", *, cid: int | None = None, **fields: int) -> list[Pdu]:
        """A command; data goes along in the capsule."""
        self.cid += 1
        given = {"length": len(data), "kind": IN_CAPSULE if data else TRANSPORT, **fields}
        return self.wires[qid].command(sqe(opcode, self.cid if cid is None else cid, **given), data)

    def do(self, opcode: int, data: bytes = b"", **fields: int) -> int:
        """An admin command to its end; its status, -1 without an answer."""
        answers = self.send(0, opcode, data, **fields)
        return answers[-1].status if answers else -1

    def rw(self, opcode: int = READ, slba: int = 0, blocks: int = 8, *, end: bool = True, **fields: int) -> None:
        """A Read, or a Write with its data in the capsule, to its end."""
        data = bytes(512 * blocks) if opcode == WRITE else b""
        given = {"nsid": 1, "length": 512 * blocks, "cdw10": slba, "cdw12": blocks - 1, **fields}
        self.send(1, opcode, data, **given)
        if end:
            self.later()

    def number_of_queues(self, count: int = 4, **fields: int) -> int:
        """Set Features, Number of Queues."""
        cdw11 = NUMBER_OF_QUEUES.pack(nsq_z=count - 1, ncq_z=count - 1)
        return self.set_features(Fid.NUMBER_OF_QUEUES, cdw11, **fields)

    def set_features(self, fid: int, cdw11: int = 0, sv: int = 0) -> int:
        """Set Features."""
        return self.do(AdminOpcode.SET_FEATURES, cdw10=SET_FEATURES_CDW10.pack(fid=fid, sv=sv), cdw11=cdw11)
