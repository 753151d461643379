"""A raw host under the checker: registers and memory by hand, so that every rule can be kept and broken."""

from __future__ import annotations

from typing import Any

from rawhost import FixedLatency, RawHost, RawQueue

from nvme_emu.observe.checker import Checker
from nvme_emu.spec.commands import (
    CREATE_CQ_CDW11,
    CREATE_QUEUE_CDW10,
    CREATE_SQ_CDW11,
    SET_FEATURES_CDW10,
)
from nvme_emu.spec.features import NUMBER_OF_QUEUES, Fid
from nvme_emu.spec.opcodes import AdminOpcode, NvmOpcode
from nvme_emu.spec.registers import CC, Reg, doorbell_offset

READ, WRITE = int(NvmOpcode.READ), int(NvmOpcode.WRITE)
IO_NS = 1000
ENABLED = {"en": 1, "iosqes": 6, "iocqes": 4}


class CheckedHost(RawHost):
    """A host that does all as the specification wants it, unless told otherwise. I/O takes `IO_NS`."""

    def __init__(self, *, scope: str = "inproc", vectors: set[int] | None = None, **options: Any) -> None:
        super().__init__(**{"latency": FixedLatency(IO_NS), **options})
        self.vectors = {0, 1, 2} if vectors is None else vectors
        self.checker = Checker(self.ctrl, scope=scope, vector_mapped=lambda vector: vector in self.vectors)
        self.checker.attach()
        self.io: RawQueue
        self.data = self.pages(4)
        self.cid = 100

    @property
    def broken(self) -> set[str]:
        """The rules that were broken."""
        assert self.checker.internal_error is None
        return {finding.rule for finding in self.checker.findings}

    def doorbell(self, qid: int, value: int, *, cq: bool = False) -> None:
        """Write any doorbell."""
        self.ctrl.mmio_write(doorbell_offset(qid, cq, self.config.dstrd), 4, value)

    # -- the controller's life ------------------------------------------------------------------------------

    def cc(self, **fields: int) -> None:
        """Write CC: enabled with the usual entry sizes, unless the fields say otherwise."""
        self.write(Reg.CC, CC.pack(**{**ENABLED, **fields}))

    def see(self) -> int:
        """Let the device work until it has nothing more to do, and read CSTS."""
        self.step()
        while (due_ns := self.ctrl.next_deadline()) is not None:
            self.step(due_ns)
        return self.read(Reg.CSTS)

    def up(self, **cc: int) -> None:
        """Admin queue, enable, wait for ready."""
        self.set_admin()
        self.cc(**cc)
        self.see()

    def ready(self, size: int = 16) -> CheckedHost:
        """Up, with the number of queues agreed and one I/O queue pair of `size` entries."""
        self.up()
        self.number_of_queues()
        self.io = self.pair(1, size)
        return self

    def down(self) -> None:
        """Delete the queues, shut down and wait for it, disable and wait for it, leave."""
        if self.ctrl.running:
            self.step(self.now_ns + 10 * IO_NS)
            for qid in [qid for qid in self.ctrl.rings.sqs if qid]:
                self.admin_command(AdminOpcode.DELETE_IO_SQ, cdw10=qid)
            for qid in [qid for qid in self.ctrl.rings.cqs if qid]:
                self.admin_command(AdminOpcode.DELETE_IO_CQ, cdw10=qid)
            self.write(Reg.CC, CC.replace(self.read(Reg.CC), shn=1))
            self.see()
            self.write(Reg.CC, CC.replace(self.read(Reg.CC), en=0, shn=0))
            self.see()
        self.checker.host_left()

    # -- commands -------------------------------------------------------------------------------------------

    def admin_command(self, opcode: int, **fields: int) -> int:
        """An admin command to its end; its status."""
        self.cid += 1
        return self.admin.run(opcode, **{"cid": self.cid, "nsid": 0, **fields}).status

    def number_of_queues(self, count: int = 4, **fields: int) -> int:
        """Set Features, Number of Queues."""
        cdw11 = NUMBER_OF_QUEUES.pack(nsq_z=count - 1, ncq_z=count - 1)
        return self.set_features(Fid.NUMBER_OF_QUEUES, cdw11, **fields)

    def set_features(self, fid: int, cdw11: int = 0, sv: int = 0, **fields: int) -> int:
        """Set Features."""
        head = SET_FEATURES_CDW10.pack(fid=fid, sv=sv)
        return self.admin_command(AdminOpcode.SET_FEATURES, cdw10=head, cdw11=cdw11, **fields)

    def create_cq(self, qid: int, base: int, entries: int = 16, *, pc: int = 1, ien: int = 1, iv: int = 1) -> int:
        """Create I/O Completion Queue."""
        cdw10 = CREATE_QUEUE_CDW10.pack(qid=qid, qsize_z=entries - 1)
        cdw11 = CREATE_CQ_CDW11.pack(pc=pc, ien=ien, iv=iv)
        return self.admin_command(AdminOpcode.CREATE_IO_CQ, prp1=base, cdw10=cdw10, cdw11=cdw11)

    def create_sq(self, qid: int, base: int, entries: int = 16, *, cqid: int = 0, pc: int = 1) -> int:
        """Create I/O Submission Queue."""
        cdw10 = CREATE_QUEUE_CDW10.pack(qid=qid, qsize_z=entries - 1)
        cdw11 = CREATE_SQ_CDW11.pack(pc=pc, cqid=cqid or qid)
        return self.admin_command(AdminOpcode.CREATE_IO_SQ, prp1=base, cdw10=cdw10, cdw11=cdw11)

    def pair(self, qid: int, size: int = 16, **cq: int) -> RawQueue:
        """A queue pair, created by commands."""
        queue = self.queue(qid, size, size)
        assert self.create_cq(qid, queue.cq, size, **cq) == 0
        assert self.create_sq(qid, queue.sq, size) == 0
        return queue

    def put(self, opcode: int = READ, *, cid: int = 1, slba: int = 0, nlb: int = 8, **fields: int) -> None:
        """An I/O command at the tail of the I/O queue; into or from the data page unless said otherwise."""
        fields.setdefault("prp1", self.data)
        self.io.rw(opcode, slba, nlb, cid=cid, **fields)

    def begin(self, opcode: int = READ, **fields: int) -> None:
        """A command that is fetched and on its way."""
        self.put(opcode, **fields)
        self.io.ring()
        self.step()

    def end(self) -> None:
        """Let everything end, and take it."""
        self.step(self.now_ns + 10 * IO_NS)
        self.io.reap()

    def do(self, opcode: int = READ, **fields: int) -> None:
        """A command from begin to end."""
        self.begin(opcode, **fields)
        self.end()

    def write_list(self, addr: int, *entries: int) -> int:
        """A PRP list."""
        self.memory.write(addr, b"".join(entry.to_bytes(8, "little") for entry in entries))
        return addr
