"""A host that may do anything at any time, against a model: registers, queues, commands, resets, features, namespaces.

After each step: nothing of ours went wrong, every command ended once with a status that the specification allows for
it, nothing is in flight that the host does not know of, and registers, data, features and namespaces are as the model
says.
"""

from __future__ import annotations

import struct
from typing import Any

from ctrlmodel import (
    BLOCKS,
    CONFIG,
    IO_QUEUES,
    LATER_NS,
    LBA,
    MOST_BLOCKS,
    NAMESPACES_MAX,
    SIMPLE,
    VECTORS,
    Blocks,
    Device,
    Model,
    ModelHost,
)
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from rawhost import RawQueue

from nvme_emu.controller.block_set import BlockSet
from nvme_emu.controller.holds import WriteProtection
from nvme_emu.spec.commands import (
    ABORT_CDW10,
    CREATE_CQ_CDW11,
    CREATE_QUEUE_CDW10,
    CREATE_SQ_CDW11,
    DSM_AD,
    GET_FEATURES_CDW10,
    RW_CDW12,
    SET_FEATURES_CDW10,
    WZ_DEAC,
)
from nvme_emu.spec.directives import ENABLE_DIRECTIVE_CDW12
from nvme_emu.spec.features import ERROR_RECOVERY, NUMBER_OF_QUEUES, Fid
from nvme_emu.spec.identify import NS_MANAGEMENT, Cns
from nvme_emu.spec.opcodes import AdminOpcode, NvmOpcode
from nvme_emu.spec.queues import NSID_BROADCAST
from nvme_emu.spec.registers import AQA, CC, NSSR_MAGIC, Reg
from nvme_emu.spec.status import Status

qids = st.integers(0, IO_QUEUES + 1)
nsids = st.one_of(st.integers(0, NAMESPACES_MAX + 1), st.just(NSID_BROADCAST))
some_nsid = st.sampled_from([1, 1, 1, 2, 2, 3])
spans = st.builds(
    lambda slba, count: range(slba, slba + count),
    st.one_of(st.integers(0, BLOCKS - 1), st.integers(0, 15)),
    st.integers(1, MOST_BLOCKS),
)
sizes = st.sampled_from([1, 2, 3, 16, 64, 65])
streams_used = st.sampled_from([0, 0, 0, 0, 1, 5])
WITHOUT_DATA = [NvmOpcode.VERIFY, NvmOpcode.FLUSH]
READ_ONLY = {Reg.CAP, Reg.VS, Reg.CRTO}


def lbas_of(blocks: BlockSet) -> set[int]:
    """Its blocks."""
    return {lba for start, count in blocks.ranges() for lba in range(start, start + count)}


class ControllerMachine(RuleBasedStateMachine):
    """One controller, one host."""

    @initialize(times_ns=st.sampled_from([(), (700,), (90_000, 100, 0, 5_000)]))
    def start(self, times_ns: tuple[int, ...]) -> None:
        self.model = Model()
        self.host = ModelHost(Device(*times_ns) if times_ns else None)
        self.cap = self.host.raw.read(Reg.CAP, 8)
        self.steps = 0
        self.enable(0, 6, 64, 2)

    def ready(self) -> bool:
        return self.model.ready and not self.model.shut

    def may_end(self) -> bool:
        """Whether the host has done enough to be reset again."""
        return self.steps > 10

    def has_queue(self) -> bool:
        return self.ready() and bool(self.model.sqs)

    def a_queue(self, choice: int) -> int:
        queues = sorted(self.model.sqs)
        return queues[choice % len(queues)]

    # -- life -----------------------------------------------------------------------------------------------

    @precondition(lambda self: not self.model.ready and not self.model.shut)
    @rule(
        css=st.sampled_from([0, 6, 0, 6, 1]),
        iosqes=st.sampled_from([6, 6, 6, 6, 5]),
        size=st.sampled_from([64, 16, 33, 1]),
        pairs=st.integers(0, 2),
    )
    def enable(self, css: int, iosqes: int, size: int, pairs: int) -> None:
        raw, (sq, cq) = self.host.raw, self.host.admin_rings
        self.host.clear_ring(cq)
        raw.write(Reg.AQA, AQA.pack(asqs_z=size - 1, acqs_z=size - 1))
        raw.write(Reg.ASQ, sq, 8)
        raw.write(Reg.ACQ, cq, 8)
        raw.write(Reg.CC, CC.pack(en=1, css=css, iosqes=iosqes, iocqes=4))
        raw.step()
        if css == 1 or iosqes == 5 or size == 1:
            assert (self.host.csts.rdy, self.host.csts.cfs) == (0, 1)
            self.disable()
            return
        self.host.queues[0] = self.host.completions[0] = RawQueue(raw, 0, size, size, sq, cq, 0)
        self.model.ready = True
        for qid in range(1, pairs + 1):
            self.create_cq(qid, 16, 0, 1)
            self.create_sq(qid, 1, 5 * qid, 0)

    @precondition(lambda self: self.model.ready and self.may_end())
    @rule(late=st.booleans(), commands=st.integers(0, 3))
    def reset(self, late: bool, commands: int) -> None:
        """Also with commands in flight, which then never end."""
        if self.has_queue() and commands:
            qid = self.a_queue(0)
            room = self.host.queues[qid].sq_size - 1
            for _ in range(min(commands, room)):
                self.host.put(qid, NvmOpcode.FLUSH, nsid=1)
            self.host.queues[qid].ring()
            if late:
                self.host.raw.step()
        self.disable()

    def disable(self) -> None:
        self.host.raw.write(Reg.CC, 0)
        self.host.raw.step()
        self.host.forget()
        self.model.reset()
        self.steps = 0

    @precondition(lambda self: self.ready() and self.may_end())
    @rule(how=st.sampled_from([1, 2]))
    def shut_down(self, how: int) -> None:
        cc = CC.replace(self.host.raw.read(Reg.CC), shn=how)
        self.host.raw.write(Reg.CC, cc)
        self.host.raw.step()
        assert self.host.csts.shst == 2
        self.model.shut = True

    @precondition(lambda self: self.model.shut)
    @rule()
    def after_shut_down(self) -> None:
        self.disable()

    @precondition(lambda self: self.may_end())
    @rule()
    def subsystem_reset(self) -> None:
        self.host.raw.write(Reg.NSSR, NSSR_MAGIC)
        self.host.raw.step()
        assert self.host.csts.nssro == 1
        self.host.raw.write(Reg.CSTS, 1 << 4)
        self.host.forget()
        self.model.reset()
        self.steps = 0

    @rule(ns=st.sampled_from([1_000, 30_000, LATER_NS]))
    def time_passes(self, ns: int) -> None:
        self.host.raw.step(self.host.raw.now_ns + ns)
        self.host.reap()

    @rule(offset=st.integers(0, 0x1FF), size=st.sampled_from([1, 2, 4, 8]))
    def read_anything(self, offset: int, size: int) -> None:
        assert 0 <= self.host.raw.read(offset, size) < 1 << 8 * size

    @rule(reg=st.sampled_from(sorted(READ_ONLY)), value=st.integers(0, 0xFFFF_FFFF))
    def write_read_only(self, reg: int, value: int) -> None:
        self.host.raw.write(reg, value)

    @precondition(lambda self: self.ready())
    @rule(qid=st.integers(IO_QUEUES + 2, 60), value=st.integers(0, 0xFFFF))
    def ring_what_is_not_there(self, qid: int, value: int) -> None:
        self.host.raw.write(0x1000 + 8 * qid, value)
        self.host.raw.write(0x1004 + 8 * qid, value)
        self.host.settle()

    # -- queues ---------------------------------------------------------------------------------------------

    @precondition(lambda self: self.ready())
    @rule(sqs=st.sampled_from([0, 1, 2, 7, 0xFFFF]), cqs=st.sampled_from([0, 1, 2, 7, 0xFFFF]))
    def number_of_queues(self, sqs: int, cqs: int) -> None:
        value = NUMBER_OF_QUEUES.pack(nsq_z=sqs, ncq_z=cqs)
        status, dw0 = self.set_feature(Fid.NUMBER_OF_QUEUES, value)
        if 0xFFFF in (sqs, cqs):
            assert status == Status.INVALID_FIELD
        elif self.model.cqs:
            assert status == Status.CMD_SEQ_ERROR
        else:
            granted = min(sqs, IO_QUEUES - 1) + 1, min(cqs, IO_QUEUES - 1) + 1
            self.model.granted = self.model.granted or granted
            found = NUMBER_OF_QUEUES.unpack(dw0)
            assert (status, found.nsq_z + 1, found.ncq_z + 1) == (0, *self.model.granted)

    @precondition(lambda self: self.ready())
    @rule(qid=qids, size=sizes, iv=st.integers(0, VECTORS), pc=st.sampled_from([1, 1, 0]))
    def create_cq(self, qid: int, size: int, iv: int, pc: int) -> None:
        ring = self.host.rings[qid][1]
        self.host.clear_ring(ring) if qid not in self.model.cqs else None
        done = self.host.run(
            0,
            AdminOpcode.CREATE_IO_CQ,
            nsid=0,
            prp1=ring,
            cdw10=CREATE_QUEUE_CDW10.pack(qid=qid, qsize_z=size - 1),
            cdw11=CREATE_CQ_CDW11.pack(pc=pc, ien=1, iv=iv),
        )
        most = self.model.granted[1] if self.model.granted else IO_QUEUES
        good = 1 <= qid <= most and qid not in self.model.cqs and 2 <= size <= 64 and iv < VECTORS and pc
        assert (done.status == 0) == bool(good)
        if good:
            self.model.cqs[qid] = size
            self.host.completions[qid] = RawQueue(self.host.raw, qid, 2, size, 0, ring, qid)

    @precondition(lambda self: self.ready())
    @rule(qid=qids, cqid=qids, size=sizes, prio=st.integers(0, 3))
    def create_sq(self, qid: int, cqid: int, size: int, prio: int) -> None:
        ring = self.host.rings[qid][0]
        done = self.host.run(
            0,
            AdminOpcode.CREATE_IO_SQ,
            nsid=0,
            prp1=ring,
            cdw10=CREATE_QUEUE_CDW10.pack(qid=qid, qsize_z=size - 1),
            cdw11=CREATE_SQ_CDW11.pack(pc=1, qprio=prio, cqid=cqid),
        )
        most = self.model.granted[0] if self.model.granted else IO_QUEUES
        good = 1 <= qid <= most and qid not in self.model.sqs and cqid in self.model.cqs and 2 <= size <= 64
        assert (done.status == 0) == good
        if good:
            self.model.sqs[qid] = cqid
            self.host.queues[qid] = RawQueue(self.host.raw, qid, size, self.model.cqs[cqid], ring, 0, cqid)

    @precondition(lambda self: self.ready())
    @rule(qid=qids)
    def delete_sq(self, qid: int) -> None:
        status, _ = self.host.admin(AdminOpcode.DELETE_IO_SQ, cdw10=qid)
        assert (status == 0) == (qid in self.model.sqs)
        if status == 0:
            del self.model.sqs[qid], self.host.queues[qid]

    @precondition(lambda self: self.ready())
    @rule(qid=qids)
    def delete_cq(self, qid: int) -> None:
        status, _ = self.host.admin(AdminOpcode.DELETE_IO_CQ, cdw10=qid)
        used = qid in self.model.sqs.values()
        assert status == (
            Status.QID_INVALID if qid not in self.model.cqs else Status.INVALID_QUEUE if used else Status.SUCCESS
        )
        if status == 0:
            del self.model.cqs[qid], self.host.completions[qid]

    # -- I/O ------------------------------------------------------------------------------------------------

    def expect(self, nsid: int, lbas: range | None = None, *, write: bool = False) -> tuple[Blocks, int]:
        """The namespace, and the status that a command on these blocks must have for its sake; 0 if it may succeed."""
        one = self.model.namespaces.get(nsid)
        if not 1 <= nsid <= NAMESPACES_MAX:
            return Blocks(), Status.INVALID_NS
        if one is None or not one.active:
            return Blocks(), Status.INVALID_FIELD
        status = 0
        if write and one.protected:
            status = Status.NS_WRITE_PROTECTED
        elif lbas is not None and lbas.stop > one.size:
            status = Status.LBA_RANGE
        elif lbas is not None and not write:
            status = Status.READ_ERROR if one.lost & set(lbas) else 0
            if one.dulbe and any(lba not in one.held for lba in lbas):
                status = Status.UNWRITTEN_BLOCK
        return one, status

    @precondition(lambda self: self.has_queue())
    @rule(choice=st.integers(0, 3), nsid=some_nsid, lbas=spans, value=st.integers(1, 255), stream=streams_used)
    def write(self, choice: int, nsid: int, lbas: range, value: int, stream: int) -> None:
        one, expected = self.expect(nsid, lbas, write=True)
        more = {"cdw12": RW_CDW12.pack(dtype=1), "cdw13": stream << 16} if stream else {}
        if stream and expected in (0, Status.LBA_RANGE) and nsid not in self.model.streams:
            expected = expected or Status.INVALID_FIELD
        self.host.fill(bytes([value]) * LBA * len(lbas))
        assert self.host.io(self.a_queue(choice), NvmOpcode.WRITE, nsid, lbas, **more) == expected
        if not expected:
            one.put(lbas, value)

    @precondition(lambda self: self.has_queue())
    @rule(choice=st.integers(0, 3), nsid=some_nsid, lbas=spans)
    def read(self, choice: int, nsid: int, lbas: range) -> None:
        one, expected = self.expect(nsid, lbas)
        assert self.host.io(self.a_queue(choice), NvmOpcode.READ, nsid, lbas) == expected
        if not expected:
            assert self.host.buffer(len(lbas) * LBA) == one.bytes_of(lbas)

    @precondition(lambda self: self.has_queue())
    @rule(choice=st.integers(0, 3), nsid=some_nsid, lbas=spans, equal=st.booleans())
    def compare(self, choice: int, nsid: int, lbas: range, equal: bool) -> None:
        one, expected = self.expect(nsid, lbas)
        self.host.fill(one.bytes_of(lbas) if equal else b"\0\xff" * (len(lbas) * LBA // 2))
        expected = expected or (0 if equal else Status.COMPARE_FAILED)
        assert self.host.io(self.a_queue(choice), NvmOpcode.COMPARE, nsid, lbas) == expected

    @precondition(lambda self: self.has_queue())
    @rule(choice=st.integers(0, 3), nsid=some_nsid, lbas=spans, deac=st.booleans())
    def write_zeroes(self, choice: int, nsid: int, lbas: range, deac: bool) -> None:
        one, expected = self.expect(nsid, lbas, write=True)
        how = WZ_DEAC if deac else 0
        assert self.host.io(self.a_queue(choice), NvmOpcode.WRITE_ZEROES, nsid, lbas, cdw12=how) == expected
        if not expected:
            one.put(lbas, None if deac else 0)

    @precondition(lambda self: self.has_queue())
    @rule(choice=st.integers(0, 3), nsid=some_nsid, lbas=spans)
    def write_uncorrectable(self, choice: int, nsid: int, lbas: range) -> None:
        one, expected = self.expect(nsid, lbas, write=True)
        assert self.host.io(self.a_queue(choice), NvmOpcode.WRITE_UNCORRECTABLE, nsid, lbas) == expected
        if not expected:
            for lba in lbas:
                one.held.setdefault(lba, 0)
            one.lost |= set(lbas)

    @precondition(lambda self: self.has_queue())
    @rule(choice=st.integers(0, 3), nsid=some_nsid, lbas=spans)
    def deallocate(self, choice: int, nsid: int, lbas: range) -> None:
        one, expected = self.expect(nsid, lbas, write=True)
        self.host.fill(struct.pack("<IIQ", 0, len(lbas), lbas.start))
        status = self.host.io(self.a_queue(choice), NvmOpcode.DATASET_MANAGEMENT, nsid, cdw11=DSM_AD)
        assert status == expected
        if not expected:
            one.put(lbas, None)

    @precondition(lambda self: self.has_queue())
    @rule(choice=st.integers(0, 3), nsid=some_nsid, lbas=spans, opcode=st.sampled_from(WITHOUT_DATA))
    def verify_or_flush(self, choice: int, nsid: int, lbas: range, opcode: int) -> None:
        _, expected = self.expect(nsid, lbas if opcode == NvmOpcode.VERIFY else None)
        assert self.host.io(self.a_queue(choice), opcode, nsid, lbas) == expected

    @precondition(lambda self: self.has_queue())
    @rule(choice=st.integers(0, 3), nsid=some_nsid, values=st.lists(st.integers(1, 255), min_size=1, max_size=12))
    def burst(self, choice: int, nsid: int, values: list[int]) -> None:
        """Writes of one block after the other, rung at once: executed in order, completed in any."""
        qid = self.a_queue(choice)
        one, expected = self.expect(nsid, range(0), write=True)
        values = values[: self.host.queues[qid].sq_size - 1]
        for value in values:
            self.host.put(qid, NvmOpcode.WRITE_ZEROES if value % 2 else NvmOpcode.FLUSH, nsid=nsid, cdw10=value % 16)
        self.host.ended.clear()
        self.host.queues[qid].ring()
        self.host.settle()
        assert len([done for _, done in self.host.ended if done.sqid == qid]) == len(values)
        if not expected:
            for value in values:
                if value % 2:
                    one.put(range(value % 16, value % 16 + 1), 0)

    @precondition(lambda self: self.has_queue())
    @rule(choice=st.integers(0, 3), nsid=nsids, fields=st.lists(st.integers(0, 0xFFFF_FFFF), min_size=3, max_size=3))
    def read_anywhere(self, choice: int, nsid: int, fields: list[int]) -> None:
        cdw10, cdw11, cdw12 = fields
        status = self.host.io(
            self.a_queue(choice), NvmOpcode.VERIFY, nsid, cdw10=cdw10, cdw11=cdw11, cdw12=cdw12
        )
        _, expected = self.expect(nsid, range(0))
        if expected:
            assert status == expected

    # -- admin ----------------------------------------------------------------------------------------------

    def set_feature(self, fid: int, value: int, *, nsid: int = 0, save: bool = False) -> tuple[int, int]:
        head = SET_FEATURES_CDW10.pack(fid=fid, sv=int(save))
        return self.host.admin(AdminOpcode.SET_FEATURES, nsid, cdw10=head, cdw11=value)

    def get_feature(self, fid: int, sel: int = 0, nsid: int = 0) -> tuple[int, int]:
        head = GET_FEATURES_CDW10.pack(fid=fid, sel=sel)
        return self.host.admin(AdminOpcode.GET_FEATURES, nsid, cdw10=head)

    @precondition(lambda self: self.ready())
    @rule(fid=st.sampled_from(sorted(SIMPLE)), other=st.booleans(), save=st.booleans())
    def set_simple_feature(self, fid: int, other: bool, save: bool) -> None:
        value = SIMPLE[fid][0 if other else 1]
        assert self.set_feature(fid, value, save=save)[0] == 0
        self.model.current[fid] = value
        if save:
            self.model.saved[fid] = value

    @precondition(lambda self: self.ready())
    @rule(fid=st.sampled_from(sorted(SIMPLE)))
    def get_simple_feature(self, fid: int) -> None:
        default = SIMPLE[fid][1]
        values = [self.get_feature(fid, sel) for sel in (0, 1, 2)]
        assert values == [(0, self.model.feature(fid)), (0, default), (0, self.model.saved.get(fid, default))]

    @precondition(lambda self: self.ready())
    @rule(fid=st.integers(0, 255), value=st.integers(0, 0xFFFF_FFFF), nsid=nsids)
    def set_any_feature_that_is_not_modelled(self, fid: int, value: int, nsid: int) -> None:
        owned = {Fid.ERROR_RECOVERY, Fid.WRITE_PROTECTION, Fid.NUMBER_OF_QUEUES, Fid.HOST_IDENTIFIER, *SIMPLE}
        if fid not in owned:
            self.set_feature(fid, value, nsid=nsid)

    @precondition(lambda self: self.ready())
    @rule(nsid=some_nsid, on=st.booleans())
    def want_errors_of_unwritten_blocks(self, nsid: int, on: bool) -> None:
        one, expected = self.expect(nsid)
        assert self.set_feature(Fid.ERROR_RECOVERY, ERROR_RECOVERY.pack(dulbe=int(on)), nsid=nsid)[0] == expected
        if not expected:
            one.dulbe = on

    @precondition(lambda self: self.ready())
    @rule(nsid=some_nsid, on=st.booleans())
    def protect(self, nsid: int, on: bool) -> None:
        one, expected = self.expect(nsid)
        assert self.set_feature(Fid.WRITE_PROTECTION, int(on), nsid=nsid)[0] == expected
        if not expected:
            one.protected = on

    @precondition(lambda self: self.ready())
    @rule(state=st.integers(0, 3))
    def power_state(self, state: int) -> None:
        status, _ = self.set_feature(Fid.POWER_MANAGEMENT, state)
        assert status == (0 if state < len(CONFIG.power_states) else Status.INVALID_FIELD)
        assert status or self.get_feature(Fid.POWER_MANAGEMENT) == (0, state)

    @precondition(lambda self: self.ready())
    @rule(nsid=some_nsid, on=st.booleans())
    def streams(self, nsid: int, on: bool) -> None:
        _, expected = self.expect(nsid)
        how = ENABLE_DIRECTIVE_CDW12.pack(endir=int(on), dtype=1)
        assert self.host.admin(AdminOpcode.DIRECTIVE_SEND, nsid, cdw11=1, cdw12=how)[0] == expected
        if not expected:
            (self.model.streams.add if on else self.model.streams.discard)(nsid)

    @precondition(lambda self: self.ready())
    @rule(nsid=nsids)
    def format(self, nsid: int) -> None:
        if nsid == NSID_BROADCAST:
            chosen = [one for one in self.model.namespaces.values() if one.active]
            expected = Status.NS_WRITE_PROTECTED if any(one.protected for one in chosen) else Status.SUCCESS
        else:
            one, found = self.expect(nsid, write=True)
            chosen, expected = [one], Status(found)
        assert self.host.admin(AdminOpcode.FORMAT_NVM, nsid)[0] == expected
        for one in [] if expected else chosen:
            one.held.clear()
            one.lost.clear()

    @precondition(lambda self: self.ready())
    @rule(nsid=st.integers(1, NAMESPACES_MAX))
    def delete_namespace(self, nsid: int) -> None:
        one = self.model.namespaces.get(nsid)
        status, _ = self.host.admin(AdminOpcode.NAMESPACE_MANAGEMENT, nsid, cdw10=1)
        expected = Status.INVALID_FIELD if one is None else Status.NS_WRITE_PROTECTED if one.protected else 0
        assert status == expected
        if not expected:
            del self.model.namespaces[nsid]
            self.model.streams.discard(nsid)

    @precondition(lambda self: self.ready())
    @rule(blocks=st.sampled_from([8, 16, BLOCKS, 3 * BLOCKS]))
    def create_namespace(self, blocks: int) -> None:
        self.host.fill(NS_MANAGEMENT.build(nsze=blocks, ncap=blocks))
        free = 2 * BLOCKS - sum(one.size for one in self.model.namespaces.values())
        status, nsid = self.host.admin(AdminOpcode.NAMESPACE_MANAGEMENT)
        if len(self.model.namespaces) == NAMESPACES_MAX:
            assert status == Status.NS_ID_UNAVAILABLE
        elif blocks > free:
            assert status == Status.NS_INSUFFICIENT_CAP
        else:
            assert (status, nsid in self.model.namespaces) == (0, False)
            self.model.namespaces[nsid] = Blocks(size=blocks, active=False)

    @precondition(lambda self: self.ready())
    @rule(nsid=st.integers(1, NAMESPACES_MAX), attach=st.booleans())
    def attach_or_detach(self, nsid: int, attach: bool) -> None:
        one = self.model.namespaces.get(nsid)
        self.host.fill(struct.pack("<HH", 1, CONFIG.cntlid).ljust(4096, b"\0"))
        status, _ = self.host.admin(AdminOpcode.NAMESPACE_ATTACHMENT, nsid, cdw10=int(not attach))
        if one is None:
            assert status == Status.INVALID_FIELD
        elif one.active == attach:
            assert status == (Status.NS_ALREADY_ATTACHED if attach else Status.NS_NOT_ATTACHED)
        else:
            assert status == 0
            one.active = attach

    @precondition(lambda self: self.ready())
    @rule()
    def request_event(self) -> None:
        parked = self.host.ctrl.events.outstanding
        self.host.ended.clear()
        cid = self.host.put(0, AdminOpcode.ASYNC_EVENT_REQUEST, nsid=0)
        self.host.queues[0].ring()
        self.host.settle()
        done = [one for _, one in self.host.ended if one.cid == cid]
        if parked > CONFIG.aerl_z:
            assert done[0].status & 0x7FF == Status.ASYNC_LIMIT
        else:
            assert not done or done[0].status == 0

    @precondition(lambda self: self.ready())
    @rule(sqid=qids, cid=st.integers(0, 63))
    def abort(self, sqid: int, cid: int) -> None:
        wanted = self.host.waiting.get((sqid, cid))
        status, dw0 = self.host.admin(AdminOpcode.ABORT, cdw10=ABORT_CDW10.pack(sqid=sqid, cid=cid))
        assert (status, dw0 & 1) == (0, int(wanted is None))

    @precondition(lambda self: self.ready())
    @rule(opcode=st.integers(0, 255), nsid=nsids, cdws=st.lists(st.integers(0, 0xFFFF), min_size=6, max_size=6))
    def read_only_admin_command(self, opcode: int, nsid: int, cdws: list[int]) -> None:
        reads = {
            AdminOpcode.IDENTIFY, AdminOpcode.GET_LOG_PAGE, AdminOpcode.GET_FEATURES, AdminOpcode.GET_LBA_STATUS,
            AdminOpcode.SECURITY_RECEIVE, AdminOpcode.SECURITY_SEND,
        }  # fmt: skip
        if opcode in reads or opcode not in self.host.ctrl.admin_handlers:
            fields = {f"cdw{number}": value for number, value in enumerate(cdws, 10)}
            self.host.admin(opcode, nsid, **fields)

    # -- invariants -----------------------------------------------------------------------------------------

    @invariant()
    def nothing_of_ours_went_wrong(self) -> None:
        if not hasattr(self, "host"):
            return
        self.steps += 1
        assert self.host.ctrl.internal_error is None
        self.host.raw.audit()

    @invariant()
    def registers_are_as_the_model_says(self) -> None:
        if not hasattr(self, "host"):
            return
        csts = self.host.csts
        assert (csts.rdy, csts.cfs, csts.shst) == (int(self.model.ready), 0, 2 if self.model.shut else 0)
        assert CC["en"].extract(self.host.raw.read(Reg.CC)) == int(self.model.ready)
        assert self.host.raw.read(Reg.CAP, 8) == self.cap

    @invariant()
    def what_is_in_flight_is_known(self) -> None:
        if hasattr(self, "host") and self.ready():
            assert set(self.host.ctrl.outstanding) == set(self.host.waiting)
            assert set(self.host.ctrl.rings.sqs) == {0, *self.model.sqs}
            assert set(self.host.ctrl.rings.cqs) == {0, *self.model.cqs}

    @invariant()
    def namespaces_are_those_of_the_model(self) -> None:
        if not hasattr(self, "host"):
            return
        active = {nsid for nsid, one in self.model.namespaces.items() if one.active}
        assert set(self.host.ctrl.namespaces) == active
        assert set(self.host.ctrl.subsystem.namespaces) == set(self.model.namespaces)
        for nsid, one in self.model.namespaces.items():
            found = self.host.ctrl.subsystem.namespaces[nsid]
            assert found.unwritten is not None
            assert lbas_of(found.marked) == one.lost
            assert lbas_of(found.unwritten) == set(range(one.size)) - one.held.keys()
            assert (found.protection is not WriteProtection.NONE) == one.protected

    @invariant()
    def features_are_those_of_the_model(self) -> None:
        if not hasattr(self, "host"):
            return
        features, directives = self.host.ctrl.features, self.host.ctrl.subsystem.directives
        assert {fid: features.current(fid) for fid in SIMPLE} == {fid: self.model.feature(fid) for fid in SIMPLE}
        for nsid in range(1, NAMESPACES_MAX + 1):
            assert directives.enabled(self.host.ctrl, nsid) == (nsid in self.model.streams)

    def teardown(self) -> None:
        """At the end all data is as the model says."""
        if not hasattr(self, "host") or self.model.shut:
            return
        if not self.model.ready:
            self.enable(0, 6, 64, 0)
        status, _ = self.host.admin(AdminOpcode.IDENTIFY, cdw10=Cns.CONTROLLER)
        assert status == 0
        for nsid, one in self.model.namespaces.items():
            media = self.host.ctrl.subsystem.namespaces[nsid].media
            stored: Any = bytearray(one.size * LBA)
            media.read_into(0, memoryview(stored))
            assert bytes(stored) == one.bytes_of(range(one.size))


TestController = ControllerMachine.TestCase
TestController.settings = settings(
    max_examples=100, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
)
