"""The controller against a host that writes what it likes: registers, doorbells, entries, data.

A *tame* host keeps the rules of queues (identifiers that are free, doorbells that say what it has written, data
outside the rings), so that every command must be answered exactly once, whatever it asks. A *wild* one does not:
then nothing may happen but statuses, events and CSTS.CFS. In both, memory that the host does not offer keeps
every byte, no command has a status that the specification does not give it, and time brings everything to an end.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np

from fuzzing.source import Source
from fuzzing.statuses import is_allowed
from nvme_emu.controller import Controller, ControllerConfig, Namespace
from nvme_emu.controller.power_states import CLIENT_POWER_STATES
from nvme_emu.controller.zns_config import ZnsConfig
from nvme_emu.core.memory import HostMemory
from nvme_emu.core.trace import TraceHub, as_record
from nvme_emu.media.ram import RamMedia
from nvme_emu.spec.features import Fid
from nvme_emu.spec.logs import Lid
from nvme_emu.spec.opcodes import AdminOpcode, NvmOpcode
from nvme_emu.spec.protection import PiType
from nvme_emu.spec.queues import CQE, CQE_SIZE, SQE, SQE_SIZE
from nvme_emu.spec.registers import AQA, CC, CSTS, NSSR_MAGIC, Reg

__all__ = ["case"]

PAGE = 4096
PAGES = 48
GUARD_BYTES = 2 * PAGE
GUARD = 0xA5
DATA_PAGE = 16
"""The first page that no ring is in."""
ACTIONS_MAX = 160
STEPS_MAX = 20_000
BLOCKS = 128

# What takes queues away, or memory to write to, is done by the host's own actions, so that it knows of it.
_OWN = {
    AdminOpcode.DELETE_IO_SQ,
    AdminOpcode.CREATE_IO_SQ,
    AdminOpcode.DELETE_IO_CQ,
    AdminOpcode.CREATE_IO_CQ,
    AdminOpcode.DOORBELL_BUFFER_CONFIG,
}
_ADMIN = [int(opcode) for opcode in AdminOpcode if opcode not in _OWN]
_NVM = [int(opcode) for opcode in NvmOpcode]
_LIKELY_ADMIN = [
    int(one)
    for one in (
        AdminOpcode.IDENTIFY, AdminOpcode.IDENTIFY, AdminOpcode.GET_LOG_PAGE, AdminOpcode.GET_LOG_PAGE,
        AdminOpcode.SET_FEATURES, AdminOpcode.SET_FEATURES, AdminOpcode.GET_FEATURES, AdminOpcode.ABORT,
        AdminOpcode.ASYNC_EVENT_REQUEST, AdminOpcode.NAMESPACE_MANAGEMENT, AdminOpcode.NAMESPACE_ATTACHMENT,
        AdminOpcode.FORMAT_NVM, AdminOpcode.SANITIZE, AdminOpcode.DEVICE_SELF_TEST, AdminOpcode.FIRMWARE_COMMIT,
        AdminOpcode.FIRMWARE_IMAGE_DOWNLOAD, AdminOpcode.KEEP_ALIVE,
    )
]  # fmt: skip
_LIKELY_NVM = [
    int(one)
    for one in (
        NvmOpcode.READ, NvmOpcode.READ, NvmOpcode.READ, NvmOpcode.WRITE, NvmOpcode.WRITE, NvmOpcode.WRITE,
        NvmOpcode.COMPARE, NvmOpcode.WRITE_ZEROES, NvmOpcode.DATASET_MANAGEMENT, NvmOpcode.FLUSH, NvmOpcode.VERIFY,
        NvmOpcode.COPY, NvmOpcode.WRITE_UNCORRECTABLE, NvmOpcode.RESERVATION_REGISTER,
        NvmOpcode.RESERVATION_ACQUIRE, NvmOpcode.RESERVATION_RELEASE, NvmOpcode.RESERVATION_REPORT,
        NvmOpcode.ZONE_APPEND, NvmOpcode.ZONE_MANAGEMENT_SEND, NvmOpcode.ZONE_MANAGEMENT_RECEIVE,
    )
]  # fmt: skip
_ZONE_OPCODES = (NvmOpcode.ZONE_APPEND, NvmOpcode.ZONE_MANAGEMENT_SEND, NvmOpcode.ZONE_MANAGEMENT_RECEIVE)
ZONE_BLOCKS = 16
_ZONES = ZnsConfig(zone_size=ZONE_BLOCKS * 4096, zone_capacity=12 * 4096, max_open=2, max_active=3, zdes=64)
_LIKELY_LOGS = [int(lid) for lid in Lid]
_CNS = [*range(9), *range(0x10, 0x20)]
_REGISTERS = [int(reg) for reg in Reg]
_ENABLE = CC.pack(en=1, iosqes=6, iocqes=4)
_CC_VALUES = [0, _ENABLE, _ENABLE, CC.pack(en=1, iosqes=6, iocqes=4, shn=1), CC.pack(en=1), 0xFFFF_FFFF]


class _Times:
    """A latency model of the input's choosing."""

    instant = False

    def __init__(self, times_ns: list[int]) -> None:
        self._times = itertools.cycle(times_ns)

    def reset(self) -> None:
        """Nothing is kept."""

    def pace(self, pct: int) -> None:
        """It is as fast in every power state."""

    def busy_until(self, when_ns: int) -> None:
        """It does not wait for a power state."""

    def submit(self, op: str, offset: int, nbytes: int, now_ns: int, fua: bool = False) -> int:
        """When it is done."""
        return now_ns if op == "admin" else now_ns + next(self._times)


@dataclass
class _Queue:
    qid: int
    sq: int
    cq: int
    size: int
    tail: int = 0
    head: int = 0
    phase: int = 1
    outstanding: dict[int, int] = field(default_factory=dict)
    unrung: int = 0

    @property
    def room(self) -> int:
        return self.size - 1 - len(self.outstanding)


class _Host:
    def __init__(self, source: Source) -> None:
        self.source = source
        self.wild = source.one_in(3)
        self.now_ns = 1000
        self.array = np.full(PAGES * PAGE + 2 * GUARD_BYTES, GUARD, np.uint8)
        inside = self.array[GUARD_BYTES:-GUARD_BYTES]
        inside[:] = 0
        self.memory = HostMemory()
        self.base = self.memory.add_region(inside).base
        timed = source.one_in(2)
        config = ControllerConfig(
            ready_ns=500 * timed, reset_ns=300 * timed, shutdown_ns=700 * timed, io_queues_max=4, mdts=3, vectors=5,
            seed=source.bits(16), zns=_ZONES if source.one_in(3) else None, track_allocation=source.one_in(3),
            power_states=CLIENT_POWER_STATES if source.one_in(3) else (), temperature_sensors=source.below(3),
        )  # fmt: skip
        trace = TraceHub()
        if source.one_in(2):
            trace.add_sink(as_record)
        self.media = [RamMedia(BLOCKS * 512), RamMedia(BLOCKS * 4096)]
        times = _Times([source.below(2000) for _ in range(3)]) if source.one_in(2) else None
        self.ctrl = Controller(
            config,
            memory=self.memory,
            namespaces=[self._first(source), Namespace(2, self.media[1], 4096, zoned=config.zns)],
            latency=times,
            trace=trace,
            strict=True,
        )
        self.queues: dict[int, _Queue] = {}

    def _first(self, source: Source) -> Namespace:
        """The first namespace: of plain blocks, or with metadata and maybe protection information."""
        made = Namespace(1, self.media[0], 512)
        if source.one_in(3):
            index, pi = source.pick([2, 4, 6]), PiType(source.below(4))
            made.set_format(index, pi=pi, first=source.one_in(2), extended=source.one_in(2))
        return made

    # -- what a host does -----------------------------------------------------------------------------------

    def enable(self) -> None:
        ctrl = self.ctrl
        ctrl.mmio_write(Reg.CC, 4, 0)
        self.run()
        self.queues.clear()
        size = self.source.pick([2, 4, 9, 16])
        ctrl.mmio_write(Reg.AQA, 4, AQA.pack(asqs_z=size - 1, acqs_z=size - 1))
        ctrl.mmio_write(Reg.ASQ, 8, self.base)
        ctrl.mmio_write(Reg.ACQ, 8, self.base + PAGE)
        self.memory.write(self.base + PAGE, bytes(PAGE))
        ctrl.mmio_write(Reg.CC, 4, _ENABLE)
        self.run()
        self.queues[0] = _Queue(0, self.base, self.base + PAGE, size)

    def create_queue(self) -> None:
        qid = 1 + self.source.below(4)
        admin = self.queues.get(0)
        if admin is None or qid in self.queues or admin.room < 2:
            return
        size = self.source.pick([2, 3, 8, 16])
        sq, cq = self.base + (2 + 2 * qid) * PAGE, self.base + (3 + 2 * qid) * PAGE
        self.memory.write(cq, bytes(PAGE))
        flags = 3 if self.source.one_in(2) else 1
        done = []
        for opcode, prp1, cdw11 in (
            (AdminOpcode.CREATE_IO_CQ, cq, qid << 16 | flags),
            (AdminOpcode.CREATE_IO_SQ, sq, qid << 16 | self.source.below(4) << 1 | 1),
        ):
            done.append(self.admin(opcode, prp1=prp1, cdw10=(size - 1) << 16 | qid, cdw11=cdw11))
        if done == [0, 0]:
            self.queues[qid] = _Queue(qid, sq, cq, size)

    def delete_queue(self) -> None:
        qid = 1 + self.source.below(4)
        queue = self.queues.get(qid)
        if queue is None or self.queues[0].room < 2:
            return
        if self.admin(AdminOpcode.DELETE_IO_SQ, cdw10=qid) == 0:
            self.reap(queue)
            queue.outstanding.clear()
            self.admin(AdminOpcode.DELETE_IO_CQ, cdw10=qid)
            del self.queues[qid]

    def admin(self, opcode: int, **fields: int) -> int | None:
        """The status of a command of our own; None if it was not answered."""
        queue = self.queues[0]
        cid = self.put(queue, opcode, 0, 0, fields.get("prp1", 0), 0, [fields.get("cdw10", 0), fields.get("cdw11", 0)])
        self.ring(queue)
        self.run()
        return self.reap(queue).get(cid)

    def command(self) -> None:
        """An entry that is now and then nearly right."""
        source = self.source
        queue = self.queues[source.pick(sorted(self.queues) + sorted(self.queues)[1:] * 3)]
        if not queue.room and not self.wild:
            return
        known, likely = (_NVM, _LIKELY_NVM) if queue.qid else (_ADMIN, _LIKELY_ADMIN)
        opcode = source.pick(likely) if source.below(8) else source.pick(known) if source.below(3) else source.bits(8)
        if not queue.qid and opcode in _OWN and not self.wild:
            return
        flags = source.pick([0, 1, 2, 0x40, 0x80, 0xFF]) if source.one_in(8) else 0
        nsid = source.pick([1, 2]) if source.below(4) else source.pick([0, 3, 0xFFFF_FFFF])
        if not queue.qid and opcode in _WHOLE and source.below(4):
            nsid = 0
        self.put(queue, opcode, flags, nsid, self.address(), self.address(), self.dwords(queue.qid, opcode))

    def dwords(self, qid: int, opcode: int) -> list[int]:
        source = self.source
        if qid and opcode in (NvmOpcode.READ, NvmOpcode.WRITE, NvmOpcode.COMPARE, NvmOpcode.WRITE_ZEROES):
            slba = source.below(BLOCKS) if source.below(6) else source.number(64)
            upper = source.bits(16) << 16 if source.one_in(4) else 0
            nlb_z = source.below(8) if source.below(3) else source.below(40)
            return [slba & 0xFFFF_FFFF, slba >> 32, nlb_z | upper]
        if qid and opcode in _ZONE_OPCODES:
            slba = ZONE_BLOCKS * source.below(9) if source.below(4) else source.number(64)
            small = source.below(8) if source.below(3) else source.number(32)
            how = source.pick([1, 2, 3, 4, 5, 0x10, 0x104, 0x100]) if source.below(4) else source.number(32)
            return [slba & 0xFFFF_FFFF, slba >> 32, small if opcode == NvmOpcode.ZONE_APPEND else 255, how]
        if not qid and opcode in (AdminOpcode.SET_FEATURES, AdminOpcode.GET_FEATURES):
            save = source.pick([1 << 31, 1 << 8, 2 << 8, 3 << 8, 1 << 10]) if source.one_in(4) else 0
            return [int(source.pick(list(Fid))) | save, source.number(32) if source.below(3) else source.below(1024)]
        if not qid and opcode == AdminOpcode.IDENTIFY:
            return [source.pick(_CNS) | (source.bits(16) << 16 if source.one_in(8) else 0)]
        if not qid and opcode == AdminOpcode.GET_LOG_PAGE:
            dwords = source.pick([0, 15, 127, 1023]) if source.below(4) else source.number(16)
            return [source.pick(_LIKELY_LOGS) | source.below(256) << 8 | dwords << 16, 0, source.number(8)]
        if not qid and opcode == AdminOpcode.ABORT:
            return [source.below(5) | source.below(16) << 16]
        if qid and opcode == NvmOpcode.DATASET_MANAGEMENT:
            return [source.below(4) if source.below(4) else source.number(32), 4 if source.below(4) else source.bits(4)]
        return [source.number(32) for _ in range(source.below(6) + 1)]

    def address(self) -> int:
        source = self.source
        page = source.below(PAGES - DATA_PAGE) + DATA_PAGE
        if self.wild and source.one_in(4):
            page = source.below(PAGES + 2)
        kind = source.below(8)
        if kind < 5:
            return self.base + page * PAGE
        if kind == 5:
            return self.base + page * PAGE + source.bits(12)
        # What is not in the rings by accident: they are where the region starts.
        return 0 if kind == 6 else source.bits(64) | 1 << 63

    def put(
        self, queue: _Queue, opcode: int, flags: int, nsid: int, prp1: int, prp2: int, dwords: list[int]
    ) -> int:
        cid = self.source.bits(16) if self.wild else next(n for n in itertools.count() if n not in queue.outstanding)
        dwords = (dwords + [0] * 6)[:6]
        # Namespace 1 may have metadata with a buffer of its own.
        mptr = self.address() if queue.qid and nsid == 1 and self.ctrl.namespaces.get(1) is not None else 0
        entry = SQE.pack(opcode, flags, cid, nsid, 0, 0, mptr, prp1, prp2, *dwords)
        self.memory.write(queue.sq + queue.tail * SQE_SIZE, entry)
        queue.tail = (queue.tail + 1) % queue.size
        queue.outstanding[cid] = opcode
        return cid

    def ring(self, queue: _Queue) -> None:
        self.ctrl.ring_sq(queue.qid, queue.tail)

    def reap(self, queue: _Queue) -> dict[int, int]:
        """(cid: status) of what has been answered; wrong answers to a tame host are mistakes of ours."""
        found: dict[int, int] = {}
        for _ in range(queue.size):
            _, _, _, sqid, cid, status_p = CQE.unpack(self.memory.read(queue.cq + queue.head * CQE_SIZE, CQE_SIZE))
            if status_p & 1 != queue.phase:
                break
            queue.head += 1
            if queue.head == queue.size:
                queue.head, queue.phase = 0, queue.phase ^ 1
            opcode = queue.outstanding.pop(cid, None)
            found[cid] = status_p >> 1
            if not self.wild:
                assert opcode is not None, f"queue {queue.qid}: completion for cid {cid}, which is not outstanding"
                assert sqid == queue.qid, f"completion of queue {queue.qid} says queue {sqid}"
                assert is_allowed(queue.qid, opcode, status_p >> 1), (
                    f"opcode {opcode:02x}h of queue {queue.qid} ended with {status_p >> 1:#x}"
                )
        if found:
            self.ctrl.ring_cq(queue.qid, queue.head)
        return found

    def registers(self) -> None:
        """Register accesses of any kind."""
        source = self.source
        offset = source.pick(_REGISTERS) if source.below(3) else source.number(16)
        size = source.pick([4, 4, 4, 8, 1, 2, 3, 16, 0])
        if not self.wild and (offset >= 0x1000 or offset + size > Reg.CC):
            offset, size = Reg.INTMS, 4
        value = source.pick([*_CC_VALUES, NSSR_MAGIC]) if source.one_in(2) else source.bits(64)
        self.ctrl.mmio_write(offset, size, value)
        if size > 0:
            assert 0 <= self.ctrl.mmio_read(offset, size) < 1 << 8 * size

    # -- time -----------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Let time pass until nothing is due any more; a tame host takes its completions meanwhile."""
        ctrl = self.ctrl
        for _ in range(STEPS_MAX):
            ctrl.step(self.now_ns)
            ctrl.take_irqs()
            due = ctrl.next_deadline()
            if due is None:
                return
            self.now_ns = max(self.now_ns + 1, due)
        raise AssertionError(f"still busy after {STEPS_MAX} steps")

    def step(self) -> None:
        self.now_ns += self.source.below(3000)
        self.ctrl.step(self.now_ns)
        self.ctrl.take_irqs()

    def check_memory(self) -> None:
        for guard in (self.array[:GUARD_BYTES], self.array[-GUARD_BYTES:]):
            assert (guard == GUARD).all(), "memory outside the region was written"


# Commands that are about no namespace.
_WHOLE = {
    AdminOpcode.GET_LOG_PAGE, AdminOpcode.ABORT, AdminOpcode.ASYNC_EVENT_REQUEST, AdminOpcode.SANITIZE,
    AdminOpcode.SET_FEATURES, AdminOpcode.GET_FEATURES, AdminOpcode.FIRMWARE_COMMIT, AdminOpcode.KEEP_ALIVE,
    AdminOpcode.FIRMWARE_IMAGE_DOWNLOAD,
}  # fmt: skip


def _act(host: _Host) -> None:
    source, ctrl = host.source, host.ctrl
    action = source.below(16)
    if not host.queues or (action == 15 and source.one_in(4)):
        host.enable()
    elif action == 14:
        host.create_queue()
    elif action == 13:
        host.registers()
    elif action == 12 and source.one_in(3):
        host.delete_queue()
    elif action in (10, 11):
        host.step()
    elif action == 9:
        for queue in host.queues.values():
            host.reap(queue)
    elif action == 8:
        for queue in host.queues.values():
            host.ring(queue)
    elif action == 7 and host.wild:
        ctrl.mmio_write(0x1000 + 4 * source.below(12), 4, source.number(16))
    else:
        host.command()


def _settle(host: _Host) -> None:
    """A tame host's commands have all been answered in the end, but the requests for events."""
    for _ in range(STEPS_MAX):
        for queue in host.queues.values():
            host.ring(queue)
        host.run()
        if not any(host.reap(queue) for queue in host.queues.values()):
            break
    if CSTS.unpack(host.ctrl.mmio_read(Reg.CSTS, 4)).cfs:
        return
    for queue in host.queues.values():
        lost = {cid: op for cid, op in queue.outstanding.items() if queue.qid or op != AdminOpcode.ASYNC_EVENT_REQUEST}
        assert not lost, f"queue {queue.qid}: never answered (cid: opcode) {lost}"


def case(data: bytes) -> None:
    """One input. Raises for everything that must not be."""
    host = _Host(Source(data))
    host.enable()
    for _ in range(ACTIONS_MAX):
        if not host.source.left:
            break
        _act(host)
    if not host.wild:
        _settle(host)
    host.check_memory()
    host.ctrl.mmio_write(Reg.CC, 4, 0)
    host.run()
    assert not host.ctrl.outstanding, "commands are kept after a reset"
    assert host.ctrl.internal_error is None


