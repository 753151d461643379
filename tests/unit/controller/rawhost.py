"""A host that drives registers and rings by hand, without a driver: every field is the test's own choice."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from nvme_emu.controller.config import ControllerConfig
from nvme_emu.controller.controller import Controller
from nvme_emu.controller.namespace import Namespace
from nvme_emu.core.memory import HostMemory
from nvme_emu.media.ram import RamMedia
from nvme_emu.spec.queues import CQE, CQE_SIZE, SQE, SQE_SIZE
from nvme_emu.spec.registers import AQA, CC, CSTS, Reg, doorbell_offset

PAGE = 4096


class FixedLatency:
    """A latency model for tests: every I/O command takes as long as the list says, in turn."""

    instant = False

    def __init__(self, *times_ns: int) -> None:
        self.times_ns = list(times_ns)
        self.asked: list[tuple[str, int, int, bool]] = []

    def reset(self) -> None:
        """Nothing is kept."""

    def submit(self, op: str, offset: int, nbytes: int, now_ns: int, fua: bool = False) -> int:
        """When the command is done."""
        if op == "admin":
            return now_ns
        self.asked.append((op, offset, nbytes, fua))
        return now_ns + self.times_ns[(len(self.asked) - 1) % len(self.times_ns)]


class Completion(NamedTuple):
    """A completion as the host finds it; ``status`` is without the phase."""

    dw0: int
    sqhd: int
    sqid: int
    cid: int
    status: int


class RawQueue:
    """The host's half of a queue pair."""

    def __init__(
        self, host: RawHost, qid: int, sq_size: int, cq_size: int, sq: int, cq: int, cqid: int
    ) -> None:
        self.host = host
        self.qid = qid
        self.cqid = cqid
        self.sq_size = sq_size
        self.cq_size = cq_size
        self.sq = sq
        self.cq = cq
        self.tail = 0
        self.head = 0
        self.phase = 1

    def put(
        self, opcode: int, *, cid: int = 0, nsid: int = 1, prp1: int = 0, prp2: int = 0, **more: int
    ) -> None:
        """Write an entry at the tail; the doorbell is not rung."""
        names = ("cdw10", "cdw11", "cdw12", "cdw13", "cdw14", "cdw15")
        cdws = [more.pop(name, 0) for name in names]
        flags, cdw2, cdw3, mptr = (more.pop(name, 0) for name in ("flags", "cdw2", "cdw3", "mptr"))
        assert not more, f"unknown fields {more}"
        entry = SQE.pack(opcode, flags, cid, nsid, cdw2, cdw3, mptr, prp1, prp2, *cdws)
        self.host.memory.write(self.sq + self.tail * SQE_SIZE, entry)
        self.tail = (self.tail + 1) % self.sq_size

    def rw(
        self, opcode: int, slba: int, nlb: int, prp1: int, prp2: int = 0, *, cdw12: int = 0, **more: int
    ) -> None:
        """An entry with SLBA and NLB (counted from one)."""
        self.put(
            opcode, prp1=prp1, prp2=prp2,
            cdw10=slba & 0xFFFF_FFFF, cdw11=slba >> 32, cdw12=cdw12 | (nlb - 1), **more,
        )  # fmt: skip

    def ring(self) -> None:
        """Write the tail doorbell."""
        self.host.ctrl.mmio_write(doorbell_offset(self.qid, False, self.host.config.dstrd), 4, self.tail)

    def reap(self, *, ring: bool = True) -> list[Completion]:
        """Take what is there by its phase, and write the head doorbell."""
        found = []
        while True:
            raw = self.host.memory.read(self.cq + self.head * CQE_SIZE, CQE_SIZE)
            dw0, _, sqhd, sqid, cid, status_p = CQE.unpack(raw)
            if status_p & 1 != self.phase:
                break
            found.append(Completion(dw0, sqhd, sqid, cid, status_p >> 1))
            self.head += 1
            if self.head == self.cq_size:
                self.head = 0
                self.phase ^= 1
        if found and ring:
            self.ring_cq()
        return found

    def ring_cq(self) -> None:
        """Write the completion queue's head doorbell."""
        self.host.ctrl.mmio_write(doorbell_offset(self.cqid, True, self.host.config.dstrd), 4, self.head)

    def run(self, opcode: int, **fields: int) -> Completion:
        """One command from put to completion."""
        self.put(opcode, **fields)
        self.ring()
        self.host.step()
        (completion,) = self.reap()
        return completion


class RawHost:
    """Memory, a controller and namespaces on RAM; ``enable`` brings the controller up with an admin queue."""

    def __init__(
        self,
        *,
        config: ControllerConfig | None = None,
        media: list[Any] | None = None,
        lba_size: int = 512,
        pages: int = 4096,
        latency: Any = None,
        **options: Any,
    ) -> None:
        self.config = config or ControllerConfig()
        self.memory = HostMemory()
        self.region = self.memory.add_region(np.zeros(pages * PAGE, np.uint8))
        self._next = self.region.base
        self.media = media if media is not None else [RamMedia(1 << 20)]
        namespaces = [Namespace(nsid, one, lba_size) for nsid, one in enumerate(self.media, 1)]
        self.ctrl = Controller(
            self.config,
            memory=self.memory,
            namespaces=namespaces,
            latency=latency,
            **{"strict": True, **options},
        )
        self.now_ns = 1000
        self.admin: RawQueue

    def pages(self, count: int = 1, offset: int = 0) -> int:
        """The address of fresh zeroed pages, plus ``offset``."""
        addr = self._next
        self._next += count * PAGE
        assert self._next <= self.region.end, "the test uses more memory than it asked for"
        return addr + offset

    def step(self, to_ns: int | None = None) -> None:
        """Step until nothing is due now."""
        if to_ns is not None:
            self.now_ns = to_ns
        self.ctrl.step(self.now_ns)
        while (due := self.ctrl.next_deadline()) is not None and due <= self.now_ns:
            self.ctrl.step(self.now_ns)

    def read(self, reg: int, size: int = 4) -> int:
        """Read a property."""
        return self.ctrl.mmio_read(reg, size)

    def write(self, reg: int, value: int, size: int = 4) -> None:
        """Write a property."""
        self.ctrl.mmio_write(reg, size, value)

    @property
    def csts(self) -> Any:
        """CSTS, taken apart."""
        return CSTS.unpack(self.read(Reg.CSTS))

    def queue(self, qid: int, sq_size: int, cq_size: int, cqid: int | None = None, cq: int = 0) -> RawQueue:
        """Memory for a queue pair; nothing is told to the controller."""
        sq = self.pages(-(-sq_size * SQE_SIZE // PAGE))
        cq = cq or self.pages(-(-cq_size * CQE_SIZE // PAGE))
        return RawQueue(self, qid, sq_size, cq_size, sq, cq, qid if cqid is None else cqid)

    def set_admin(self, sq_size: int = 32, cq_size: int = 32) -> None:
        """Write AQA, ASQ and ACQ."""
        self.admin = self.queue(0, sq_size, cq_size)
        self.write(Reg.AQA, AQA.pack(asqs_z=sq_size - 1, acqs_z=cq_size - 1))
        self.write(Reg.ASQ, self.admin.sq, 8)
        self.write(Reg.ACQ, self.admin.cq, 8)

    def enable(self, sq_size: int = 32, cq_size: int = 32, **cc: int) -> None:
        """Bring the controller up; ``cc`` overrides fields of CC."""
        self.set_admin(sq_size, cq_size)
        self.write(Reg.CC, CC.pack(**{"en": 1, "iosqes": 6, "iocqes": 4, **cc}))
        self.step()

    def io_queue(
        self, qid: int = 1, size: int = 64, cq_size: int | None = None, *, vector: int = 0, ien: bool = True
    ) -> RawQueue:
        """Create a queue pair through the rings, as the admin commands do."""
        queue = self.queue(qid, size, cq_size or size)
        self.ctrl.rings.create_cq(qid, queue.cq, queue.cq_size, vector, ien)
        self.ctrl.rings.create_sq(qid, queue.sq, queue.sq_size, qid)
        return queue

    def shared_queue(self, qid: int, other: RawQueue, size: int = 64) -> RawQueue:
        """Another submission queue for the completion queue of ``other``; completions are reaped there."""
        queue = self.queue(qid, size, other.cq_size, other.cqid, other.cq)
        self.ctrl.rings.create_sq(qid, queue.sq, size, other.cqid)
        return queue

    def audit(self) -> None:
        """Each fetched command was completed once, was dropped, or is in flight."""
        counters = self.ctrl.counters
        waiting = sum(len(cq.backlog) for cq in self.ctrl.rings.cqs.values())
        assert counters.fetched == counters.posted + counters.dropped + len(self.ctrl.outstanding) + waiting


def started(**options: Any) -> tuple[RawHost, RawQueue]:
    """A host with a running controller and one I/O queue pair."""
    host = RawHost(**options)
    host.enable()
    return host, host.io_queue()
