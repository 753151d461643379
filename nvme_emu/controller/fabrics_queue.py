"""A queue that is reached by messages: capsules become entries of rings in memory of our own.

A message transport has no rings and no PRPs, but the controller needs not know. Each queue owns a region of
the association's memory:

    submission ring | completion ring | a PRP list a slot | a data buffer a slot

A command that moves data gets a slot. What the host sends is received into the slot's buffer, what it wants
is sent from there; in between the command runs through the ring like any other, with PRPs that point at the
buffer. So everything that works on commands in rings (runs of plain commands, fault rules, traces, Abort)
works here too, and the hot path has no second way to move data.

The rings have one entry more than the host's queue: without flow control a host may have as many commands
outstanding as its queue has entries.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np

from nvme_emu._core import take_completions, take_reads
from nvme_emu.controller.command import Command
from nvme_emu.controller.fabrics_length import expected_length
from nvme_emu.core.capsules import Answer, Transfer
from nvme_emu.core.errors import CommandError
from nvme_emu.core.memory import anonymous_array
from nvme_emu.spec.fabrics import SGL_IN_CAPSULE, SGL_TRANSPORT
from nvme_emu.spec.queues import CQE_SIZE, PSDT_MASK, SQE, SQE_SIZE
from nvme_emu.spec.registers import AQA, Reg
from nvme_emu.spec.status import DNR, Status

if TYPE_CHECKING:
    from nvme_emu.controller.fabrics import Association
    from nvme_emu.core.capsules import CapsuleSink
    from nvme_emu.core.faults import Effect

__all__ = ["RingQueue"]

PAGE = 4096
PRP_BYTES = 8
PSDT_SGL = 0x40
"""SGLs with metadata in one buffer: what every command over fabrics must say (Base 2.1, 4.1)."""

# Of a submission queue entry: opcode, flags, cid, nsid; SGL1's address, length, type; CDW12.
_HEAD = struct.Struct("<BBHI16xQI3xB8xI12x")
_PRPS = struct.Struct("<QQ")
_PRP1_AT = 24
# Of a completion: dwords 0 and 1 as one, SQHD, SQID, CID, status over phase.
_CQE = struct.Struct("<QHHHH")
assert _HEAD.size == SQE_SIZE
assert _CQE.size == CQE_SIZE

_FLAGS, _SGL_LENGTH, _SGL_TYPE, _SGL_ADDRESS, _CID = (1, 6), (32, 0), (39, 0), (24, 0), (2, 0)

_NO_SLOT = -1
_Outstanding = tuple[int, int]
"""(slot or -1, bytes for the host)."""


def _round(nbytes: int) -> int:
    return -(-nbytes // PAGE) * PAGE


class RingQueue:
    """Queue `qid` of `entries` commands of one association; `flow_control` if the host wants SQHD."""

    def __init__(
        self, association: Association, sink: CapsuleSink, qid: int, entries: int, flow_control: bool
    ) -> None:
        self.association = association
        self.sink = sink
        self.qid = qid
        self.entries = entries
        self.flow_control = flow_control
        self.in_capsule_bytes = association.in_capsule_bytes(qid)
        self._ctrl = association.controller
        self._size = entries + 1
        self._stride = association.transfer_bytes_max
        sq_bytes, cq_bytes = _round(self._size * SQE_SIZE), _round(self._size * CQE_SIZE)
        self._lists_at = sq_bytes + cq_bytes
        self._data_at = self._lists_at + entries * PAGE
        array = anonymous_array(self._data_at + entries * self._stride, huge=False, sparse=True)
        self._region = association.memory.add_region(array, name=f"queue {qid}")
        self.base = self._region.base
        self.cq_base = self.base + sq_bytes
        view = self._region.view
        self._sq = view[: self._size * SQE_SIZE]
        self._cq = view[sq_bytes : sq_bytes + self._size * CQE_SIZE]
        self._data = view[self._data_at :]
        self._lists = np.frombuffer(view, np.uint64)[self._lists_at // PRP_BYTES : self._data_at // PRP_BYTES]
        self._listed = bytearray(entries)
        self._geometry = (self._size, self._stride, self.base + self._data_at, self.base + self._lists_at)
        self._free = list(range(entries - 1, -1, -1))
        self._unsent: list[int] = []
        self.spoiled: dict[int, Effect] = {}
        self._commands: dict[int, _Outstanding] = {}
        self._waiting: dict[int, bytes] = {}  # commands whose data is on its way, by cid
        self._local: list[Answer] = []
        self._ring: object = None
        self._tail = self._rung = self._head = 0
        self._phase = 1
        self._sqhd = 0

    # -- creation and end -----------------------------------------------------------------------------------

    def program_admin(self) -> None:
        """Point the controller's admin queue properties at these rings."""
        ctrl = self._ctrl
        ctrl.mmio_write(Reg.AQA, 4, AQA.pack(asqs_z=self._size - 1, acqs_z=self._size - 1))
        ctrl.mmio_write(Reg.ASQ, 8, self.base)
        ctrl.mmio_write(Reg.ACQ, 8, self.cq_base)

    def create(self) -> None:
        """Create the I/O queue pair in the controller. Raises CommandError."""
        rings = self._ctrl.rings
        rings.create_cq(self.qid, self.cq_base, self._size, self.qid, True)
        try:
            self._ring = rings.create_sq(self.qid, self.base, self._size, self.qid)
        except CommandError:
            rings.delete_cq(self.qid)
            raise

    def delete(self) -> None:
        """Delete the I/O queue pair; what is in flight ends without an answer."""
        ctrl = self._ctrl
        if ctrl.rings.sqs.get(self.qid) is self._ring:
            for cmd in [cmd for cmd in ctrl.outstanding.values() if cmd.sqid == self.qid]:
                ctrl.complete(cmd, status=Status.ABORT_QUEUE)
            ctrl.rings.delete_sq(self.qid)
            ctrl.rings.delete_cq(self.qid)

    def free(self) -> None:
        """Give the memory back; the controller must have forgotten the queue."""
        del self._lists
        self.association.memory.remove_region(self._region)

    @property
    def alive(self) -> bool:
        """Whether the controller still has the I/O queue; a reset takes it away."""
        return self._ctrl.rings.sqs.get(self.qid) is self._ring

    def synchronise(self) -> None:
        """The admin queue: after a reset the controller has new rings, and what was in the old is forgotten."""
        ring = self._ctrl.rings.sqs.get(0)
        if ring is self._ring:
            return
        self._ring = ring
        self._tail = self._rung = self._head = 0
        self._phase = 1
        self._cq[:] = bytes(len(self._cq))
        for slot, _ in self._commands.values():
            if slot != _NO_SLOT:
                self._free.append(slot)
        self._commands.clear()
        self._waiting.clear()

    # -- commands in ----------------------------------------------------------------------------------------

    def accept(self, sqe: memoryview | bytes, in_capsule: int) -> Transfer | None:
        """See `CapsuleQueue.accept`; Fabrics commands have been taken out before."""
        opcode, flags, cid, _, address, length, kind, _ = _HEAD.unpack(sqe)
        commands = self._commands
        if len(commands) >= self.entries:
            raise OverflowError(f"more than {self.entries} commands outstanding")
        self.count()
        direction = opcode & 3
        nbytes = 0
        try:
            if flags & PSDT_MASK != PSDT_SGL:
                raise CommandError(Status.INVALID_FIELD, location=_FLAGS)
            if cid in commands:
                raise CommandError(Status.CMDID_CONFLICT, location=_CID)
            if direction and length:
                nbytes = self._check_length(sqe, direction, address, length, kind, in_capsule)
        except CommandError as error:
            self._refuse(sqe, error)
            return None
        if not nbytes:
            commands[cid] = _NO_SLOT, 0
            self._enter(sqe, flags, 0, 0)
            return None
        # A slot is free for each entry, but those whose data has not left yet may make it wait for none.
        if not self._free:
            raise OverflowError(f"more than {self.entries} commands outstanding")
        slot = self._free.pop()
        if direction == 1:
            commands[cid] = slot, 0
            self._waiting[cid] = bytes(sqe)
            at = slot * self._stride
            return Transfer(cid, slot, self._data[at : at + nbytes], kind == SGL_IN_CAPSULE)
        commands[cid] = slot, nbytes
        self._enter(sqe, flags, slot, nbytes)
        return None

    def accept_reads(self, buffer: memoryview, start: int, stride: int, end: int) -> int:
        """Take the plain reads at the front of a row of commands in one go; where the first other one starts.

        Plain is what passes every check of `accept`, which takes the others.
        """
        start, self._tail, taken = take_reads(
            buffer,
            start,
            stride,
            end,
            self._sq,
            self._geometry,
            self._listed,
            self._commands,
            self._free,
            self._ctrl.namespaces,
            self._tail,
            self.entries - len(self._commands),
        )
        self._sqhd = (self._sqhd + taken) % self.entries
        return start

    def _check_length(
        self, sqe: memoryview | bytes, direction: int, address: int, length: int, kind: int, in_capsule: int
    ) -> int:
        """Bytes to move for a command with an SGL. Raises CommandError."""
        if kind == SGL_IN_CAPSULE and direction == 1:
            if address or length > in_capsule:
                raise CommandError(Status.SGL_INVALID_OFFSET, location=_SGL_ADDRESS)
        elif kind != SGL_TRANSPORT:
            raise CommandError(Status.SGL_INVALID_TYPE, location=_SGL_TYPE)
        wanted = expected_length(self._ctrl, self.qid, sqe)
        if wanted is None:
            wanted = length
        elif length < wanted:
            raise CommandError(Status.SGL_INVALID_DATA, location=_SGL_LENGTH)
        if wanted > self._stride:
            raise CommandError(Status.INVALID_FIELD, location=_SGL_LENGTH)
        return wanted

    def ready(self, transfer: Transfer) -> None:
        """See `CapsuleQueue.ready`."""
        sqe = self._waiting.pop(transfer.cid, None)
        if sqe is None:
            return  # a reset came between
        if transfer.failed:
            slot, _ = self._commands.pop(transfer.cid)
            self._free.append(slot)
            self._refuse(sqe, CommandError(Status.TRANSIENT_TR_ERR, dnr=False))
            return
        nbytes = len(transfer.view)
        if nbytes < PAGE:
            # A handler may look at more than the host has sent; what was there before is not its business.
            at = transfer.tag * self._stride
            self._data[at + nbytes : at + PAGE] = bytes(PAGE - nbytes)
        self._enter(sqe, sqe[1], transfer.tag, nbytes)

    def _enter(self, sqe: memoryview | bytes, flags: int, slot: int, nbytes: int) -> None:
        """Write a command at the ring's tail, with PRPs in the place of its SGL."""
        tail = self._tail
        at = tail * SQE_SIZE
        ring = self._sq
        ring[at : at + SQE_SIZE] = sqe
        ring[at + 1] = flags & ~PSDT_MASK
        if nbytes:
            prp1 = self.base + self._data_at + slot * self._stride
            if nbytes <= PAGE:
                prp2 = 0
            elif nbytes <= 2 * PAGE:
                prp2 = prp1 + PAGE
            else:
                prp2 = self.base + self._lists_at + slot * PAGE
                if not self._listed[slot]:
                    self._write_list(slot, prp1)
            _PRPS.pack_into(ring, at + _PRP1_AT, prp1, prp2)
        else:
            _PRPS.pack_into(ring, at + _PRP1_AT, 0, 0)
        tail += 1
        self._tail = tail if tail != self._size else 0

    def _write_list(self, slot: int, prp1: int) -> None:
        """The PRP list of a slot, once: its pages but the first never change."""
        count = self._stride // PAGE - 1
        first = slot * (PAGE // PRP_BYTES)
        pages = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(PAGE)
        self._lists[first : first + count] = pages + np.uint64(prp1)
        self._listed[slot] = 1

    def count(self) -> None:
        """A command was consumed: the submission queue head that the host is told of moves."""
        sqhd = self._sqhd + 1
        self._sqhd = sqhd if sqhd != self.entries else 0

    # -- answers out ----------------------------------------------------------------------------------------

    def _refuse(self, sqe: memoryview | bytes, error: CommandError) -> None:
        """A command that does not get into the ring: recorded and answered here."""
        ring = self._ctrl.rings.sqs.get(self.qid)
        status = error.field
        cid = int.from_bytes(sqe[2:4], "little")
        if ring is not None:
            status = self._ctrl.log_error(Command(ring, SQE.unpack(sqe)), error)
        self.answer(cid, status)

    def answer(
        self,
        cid: int,
        status: int = 0,
        value: int = 0,
        sqhd: int | None = None,
        data: memoryview | None = None,
    ) -> None:
        """Answer a command that did not go through the ring; `value` is dwords 0 and 1."""
        head = self._sqhd if sqhd is None else sqhd
        cqe = _CQE.pack(value, head, self.qid, cid, status << 1)
        self._local.append((cid, cqe, data))

    def refuse(self, cid: int, status: int, dnr: bool = True) -> None:
        """Answer with an error that is not of the error log."""
        self.answer(cid, status | (DNR if dnr else 0))

    def ring(self, now_ns: int) -> None:
        """Let the controller fetch what was accepted."""
        if self._tail != self._rung:
            self._rung = self._tail
            irqs, _ = self._ctrl.doorbell_sq(self.qid, self._tail, now_ns)
            if len(irqs) != 1 or irqs[0] != self.qid:
                self.association.deliver(irqs, self)

    def run(self, now_ns: int, implied: bool) -> list[Answer]:
        """See `CapsuleQueue.run`; `implied` as there."""
        self.ring(now_ns)
        answers = self._local
        self._local = []
        head, phase, seen = take_completions(
            self._cq,
            self._head,
            self._phase,
            self._size,
            self._commands,
            self._free,
            self._unsent,
            self._data,
            self._stride,
            self._sqhd,
            implied and not self.flow_control,
            answers,
        )
        if seen:
            self._head, self._phase = head, phase
            follows = self._ctrl.doorbell_cq(self.qid, head, now_ns)
            if follows is not None and follows[0]:
                self.association.deliver(follows[0], None)
        return answers

    def release(self) -> None:
        """See `CapsuleQueue.release`."""
        if self._unsent:
            self._free += self._unsent
            self._unsent.clear()
