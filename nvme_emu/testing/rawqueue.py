"""A queue pair that no driver touches: a test writes the commands and looks at the completions itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from nvme_emu.core.faults.values import nearest
from nvme_emu.driver.errno_table import error_of
from nvme_emu.spec.commands import CREATE_CQ_CDW11, CREATE_QUEUE_CDW10, CREATE_SQ_CDW11, split64
from nvme_emu.spec.opcodes import AdminOpcode, NvmOpcode
from nvme_emu.spec.queues import CQE, CQE_SIZE, SQE, SQE_SIZE, Cqe, Sqe
from nvme_emu.spec.registers import CAP, Reg, doorbell_offset

if TYPE_CHECKING:
    from nvme_emu.core.memory import Region
    from nvme_emu.machine import Machine

__all__ = ["RawQueuePair"]

PAGE_SIZE = 4096
DEPTH = 64
POLL_NS = 10_000
TIMEOUT_NS = 5_000_000_000


class RawQueuePair:
    """An I/O submission queue and its completion queue, without interrupts. The fixture ``qpair``.

        cid = qpair.submit(NvmOpcode.READ, nsid=1, prp1=qpair.data, cdw10=0, cdw12=7)
        qpair.ring()
        cqe = qpair.wait(cid)

    ``tail`` and ``head`` are the host's pointers, ``sq`` and ``cq`` the rings as arrays of bytes, which a test may
    change as it likes; ``data`` is the bus address of ``buffer``, 64 KiB for data.
    """

    def __init__(self, machine: Machine, qid: int, depth: int) -> None:
        self.machine = machine
        self.qid = qid
        self.depth = depth
        self.tail = self.head = 0
        self.phase = 1
        self._next_cid = 0
        self._regions: list[Region] = []
        self._dstrd = CAP.unpack(machine.port.read64(Reg.CAP)).dstrd
        self.sq, self.sq_addr = self._memory(depth * SQE_SIZE, f"SQ {qid} of the test")
        self.cq, self.cq_addr = self._memory(depth * CQE_SIZE, f"CQ {qid} of the test")
        self.buffer, self.data = self._memory(16 * PAGE_SIZE, f"data of queue {qid}")
        self._early: dict[int, Cqe] = {}

    @classmethod
    def beside(cls, machine: Machine, depth: int = DEPTH) -> RawQueuePair:
        """Take the driver's last I/O queue away from it, and make one of the same identifier in its place."""
        driver = machine.driver
        if len(driver.paths) < 2:
            raise ValueError(f"the driver has {len(driver.paths)} I/O queue(s), and needs one itself: say queues=2")
        path = driver.paths.pop()
        qid = path.pair.qid
        driver.admin.delete_queues(qid)
        path.pair.close()
        pair = cls(machine, qid, depth)
        cdw10 = CREATE_QUEUE_CDW10.pack(qid=qid, qsize_z=depth - 1)
        execute = driver.admin.execute
        execute(AdminOpcode.CREATE_IO_CQ, cdw10=cdw10, cdw11=CREATE_CQ_CDW11.pack(pc=1), prp1=pair.cq_addr)
        execute(AdminOpcode.CREATE_IO_SQ, cdw10=cdw10, cdw11=CREATE_SQ_CDW11.pack(pc=1, cqid=qid), prp1=pair.sq_addr)
        return pair

    def _memory(self, nbytes: int, name: str) -> tuple[np.ndarray, int]:
        array = np.zeros(nbytes, np.uint8)
        region = self.machine.memory.add_region(array, name=name)
        self._regions.append(region)
        return array, region.base

    def submit(self, opcode: int, *, cid: int | None = None, **fields: int) -> int:
        """Write a command at the tail, without ringing; its identifier.

        ``fields`` are those of `nvme_emu.spec.queues.Sqe`: nsid, prp1, prp2, cdw10 … cdw15. ValueError for others.
        """
        if cid is None:
            cid, self._next_cid = self._next_cid, (self._next_cid + 1) % 0xFFFF
        given: Mapping[str, Any] = {"opcode": opcode, "cid": cid, **fields}
        unknown = next((name for name in given if name not in Sqe._fields), None)
        if unknown is not None:
            raise ValueError(f"unknown field {unknown!r} of the entry{nearest(unknown, Sqe._fields)}")
        self.write_sqe(SQE.pack(*(given.get(name, 0) for name in Sqe._fields)))
        return cid

    def write_sqe(self, entry: bytes) -> None:
        """Put 64 bytes, whatever they are, at the tail."""
        if len(entry) != SQE_SIZE:
            raise ValueError(f"a submission queue entry has {SQE_SIZE} bytes, not {len(entry)}")
        at = self.tail * SQE_SIZE
        self.sq[at : at + SQE_SIZE] = np.frombuffer(entry, np.uint8)
        self.tail = (self.tail + 1) % self.depth

    def ring(self, tail: int | None = None) -> None:
        """Write the submission doorbell: the tail, or whatever value a test wants."""
        value = self.tail if tail is None else tail
        self.machine.port.write32(doorbell_offset(self.qid, False, self._dstrd), value)

    def ring_cq(self, head: int | None = None) -> None:
        """Write the completion doorbell."""
        value = self.head if head is None else head
        self.machine.port.write32(doorbell_offset(self.qid, True, self._dstrd), value)

    def completions(self) -> list[Cqe]:
        """Take what is new in the completion queue, and tell the device the new head."""
        self.machine.port.poll()
        found: list[Cqe] = []
        while len(found) < self.depth:
            cqe = Cqe._make(CQE.unpack_from(self.cq.data, self.head * CQE_SIZE))
            if cqe.status_p & 1 != self.phase:
                break
            found.append(cqe)
            self.head += 1
            if self.head == self.depth:
                self.head, self.phase = 0, self.phase ^ 1
        if found:
            self.ring_cq()
        return found

    def wait(self, cid: int, timeout_ns: int = TIMEOUT_NS) -> Cqe:
        """The completion of a command; others that come meanwhile are kept. TimeoutError when none comes."""
        runtime = self.machine.runtime
        until = runtime.now_ns + timeout_ns
        while cid not in self._early:
            self._early.update({cqe.cid: cqe for cqe in self.completions()})
            if cid not in self._early:
                if runtime.now_ns >= until:
                    raise TimeoutError(f"queue {self.qid}: no completion of cid {cid:#06x} in {timeout_ns} ns")
                runtime.sleep_ns(POLL_NS)
        return self._early.pop(cid)

    def read(self, slba: int, nlb: int = 1, nsid: int = 1) -> bytes:
        """Read blocks into ``buffer`` and give them. NvmeError if the command fails."""
        nbytes = self._transfer(NvmOpcode.READ, slba, nlb, nsid)
        return self.buffer[:nbytes].tobytes()

    def write(self, slba: int, data: bytes, nsid: int = 1) -> None:
        """Write blocks through ``buffer``. NvmeError if the command fails."""
        size = self.machine.namespaces[nsid].lba_size
        if not data or len(data) % size:
            raise ValueError(f"{len(data)} bytes are no whole number of blocks of {size}")
        if len(data) <= len(self.buffer):
            self.buffer[: len(data)] = np.frombuffer(data, np.uint8)
        self._transfer(NvmOpcode.WRITE, slba, len(data) // size, nsid)

    def _transfer(self, opcode: int, slba: int, nlb: int, nsid: int) -> int:
        nbytes = nlb * int(self.machine.namespaces[nsid].lba_size)
        if not 1 <= nbytes <= 2 * PAGE_SIZE:
            raise ValueError(f"{nbytes} bytes: read and write of a qpair take up to two pages; see submit()")
        low, high = split64(slba)
        prp2 = self.data + PAGE_SIZE if nbytes > PAGE_SIZE else 0
        fields = {"nsid": nsid, "prp1": self.data, "prp2": prp2, "cdw10": low, "cdw11": high, "cdw12": nlb - 1}
        cid = self.submit(opcode, **fields)
        self.ring()
        cqe = self.wait(cid)
        status = cqe.status_p >> 1
        if status:
            raise error_of(status, f"{NvmOpcode(opcode).name} slba {slba} nlb {nlb} (qid {self.qid} cid {cid:#06x})")
        return nbytes

    def close(self) -> None:
        """Delete the queues, if the controller still has them, and take the memory back."""
        machine = self.machine
        if self.qid in machine.controller.rings.sqs and machine.driver.paths:
            machine.driver.admin.delete_queues(self.qid)
        for region in self._regions:
            machine.memory.remove_region(region)
        self._regions = []
