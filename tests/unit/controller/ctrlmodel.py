"""What a controller must be after anything that a host did: the stateful test's model, and its host."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fuzzing.statuses import is_allowed
from rawhost import PAGE, Completion, FixedLatency, RawHost, RawQueue

from nvme_emu.controller.config import ControllerConfig
from nvme_emu.controller.power_states import PowerState
from nvme_emu.media.ram import RamMedia
from nvme_emu.spec.features import Fid
from nvme_emu.spec.opcodes import AdminOpcode
from nvme_emu.spec.registers import CSTS, Reg
from nvme_emu.spec.status import STATUS_CODE_MASK

LBA = 512
BLOCKS = 64
MOST_BLOCKS = 8
"""Blocks of one command: what the data buffer holds."""
IO_QUEUES = 3
VECTORS = 3
NAMESPACES_MAX = 4
CIDS = 64
LATER_NS = 1_000_000_000
_EVENT_REQUEST = 0, AdminOpcode.ASYNC_EVENT_REQUEST

CONFIG = ControllerConfig(
    namespaces_max=NAMESPACES_MAX,
    io_queues_max=IO_QUEUES,
    vectors=VECTORS,
    queue_entries_max=64,
    mdts=3,
    aerl_z=1,
    streams_max=4,
    track_allocation=True,
    power_states=(
        PowerState(max_power_mw=5000),
        PowerState(max_power_mw=10, entry_us=10, exit_us=20, operational=False),
    ),
)

# Features of one dword of the whole controller: a valid value, and the default.
SIMPLE: dict[int, tuple[int, int]] = {
    Fid.ARBITRATION: (0x0302_0103, 6),
    Fid.WRITE_ATOMICITY: (1, 0),
    Fid.VOLATILE_WRITE_CACHE: (0, 1),
    Fid.HOST_CONTROLLED_THERMAL_MANAGEMENT: (0, 0),
    Fid.LBA_STATUS_REPORT_INTERVAL: (9, 0),
    Fid.SANITIZE_CONFIG: (1, 0),
    Fid.INTERRUPT_COALESCING: (0, 0),
}


class Device(FixedLatency):
    """A device of given times, which may be told to wait or to be slower."""

    def busy_until(self, when_ns: int) -> None:
        """Times do not depend on it."""

    def pace(self, pct: int) -> None:
        """Nor on this."""


@dataclass
class Blocks:
    """A namespace: what its blocks hold (absent: deallocated, zero), which are lost, and whether it may be written."""

    size: int = BLOCKS
    active: bool = True
    protected: bool = False
    dulbe: bool = False
    held: dict[int, int] = field(default_factory=dict)
    lost: set[int] = field(default_factory=set)

    def put(self, lbas: range, value: int | None) -> None:
        """Blocks are written with a byte, or given back."""
        for lba in lbas:
            self.lost.discard(lba)
            if value is None:
                self.held.pop(lba, None)
            else:
                self.held[lba] = value

    def bytes_of(self, lbas: range) -> bytes:
        """What reading them gives."""
        return b"".join(bytes([self.held.get(lba, 0)]) * LBA for lba in lbas)


class Model:
    """State that the machine compares with the controller."""

    def __init__(self) -> None:
        self.ready = False
        self.shut = False
        self.namespaces = {1: Blocks(), 2: Blocks()}
        self.cqs: dict[int, int] = {}
        self.sqs: dict[int, int] = {}
        self.granted: tuple[int, int] | None = None
        self.current: dict[int, int] = {}
        self.saved: dict[int, int] = {}
        self.streams: set[int] = set()

    def reset(self) -> None:
        """Controller Level Reset."""
        self.ready = self.shut = False
        self.cqs.clear()
        self.sqs.clear()
        self.granted = None
        self.current.clear()
        self.streams.clear()
        for one in self.namespaces.values():
            one.dulbe = False

    def feature(self, fid: int) -> int:
        """The current value of one of SIMPLE."""
        return self.current.get(fid, self.saved.get(fid, SIMPLE[fid][1]))


class ModelHost:
    """A host of one controller: it knows what it has asked, and that each command ends once, as it may."""

    def __init__(self, latency: Any) -> None:
        self.raw = RawHost(
            config=CONFIG, media=[RamMedia(BLOCKS * LBA), RamMedia(BLOCKS * LBA)], latency=latency, pages=1024
        )
        self.ctrl = self.raw.ctrl
        self.data = self.raw.pages(1)
        self.more = self.raw.pages(1)
        self.rings = {qid: (self.raw.pages(1), self.raw.pages(1)) for qid in range(IO_QUEUES + 2)}
        self.admin_rings = self.raw.pages(1), self.raw.pages(1)
        self.queues: dict[int, RawQueue] = {}
        self.completions: dict[int, RawQueue] = {}
        self.waiting: dict[tuple[int, int], int] = {}
        self.ended: list[tuple[int, Completion]] = []
        self._cid = 0

    @property
    def csts(self) -> Any:
        """CSTS, taken apart."""
        return CSTS.unpack(self.raw.read(Reg.CSTS))

    def forget(self) -> None:
        """A reset: no command of before it ends any more."""
        self.waiting.clear()
        self.queues.clear()
        self.completions.clear()

    def free_cid(self, qid: int) -> int:
        """An identifier that no command of the queue has."""
        for _ in range(CIDS):
            self._cid = (self._cid + 1) % CIDS
            if (qid, self._cid) not in self.waiting:
                return self._cid
        raise AssertionError("all identifiers are in use")

    def put(self, qid: int, opcode: int, **fields: int) -> int:
        """Write an entry and remember it; the doorbell is not rung."""
        cid = self.free_cid(qid)
        self.waiting[qid, cid] = opcode
        self.queues[qid].put(opcode, cid=cid, **fields)
        return cid

    def reap(self) -> None:
        """Take all completions: each is of a command that waits, and has a status that it may have."""
        for queue in list(self.completions.values()):
            for done in queue.reap():
                opcode = self.waiting.pop((done.sqid, done.cid), None)
                assert opcode is not None, f"{done} answers no command"
                assert is_allowed(done.sqid, opcode, done.status), f"opcode {opcode:#04x} of queue {done.sqid}: {done}"
                self.ended.append((opcode, done))

    def settle(self) -> None:
        """Let time pass until nothing but event requests waits."""
        for _ in range(200):
            self.raw.step()
            self.reap()
            if all((qid, opcode) == _EVENT_REQUEST for (qid, _), opcode in self.waiting.items()):
                return
            due = self.ctrl.next_deadline()
            assert due is not None, f"nothing will end {self.waiting}"
            self.raw.now_ns = max(self.raw.now_ns + 1, due)
        raise AssertionError(f"these commands do not end: {self.waiting}")

    def run(self, qid: int, opcode: int, **fields: int) -> Completion:
        """One command to its end."""
        cid = self.put(qid, opcode, **fields)
        self.ended.clear()
        self.queues[qid].ring()
        self.settle()
        (found,) = (done for _, done in self.ended if (done.sqid, done.cid) == (qid, cid))
        return found

    def admin(self, opcode: int, nsid: int = 0, **cdws: int) -> tuple[int, int]:
        """(status, dword 0) of an admin command over the data buffer."""
        done = self.run(0, opcode, nsid=nsid, prp1=self.data, prp2=self.more, **cdws)
        return done.status & STATUS_CODE_MASK, done.dw0

    def io(self, qid: int, opcode: int, nsid: int, lbas: range | None = None, **cdws: int) -> int:
        """The status of an I/O command over the data buffer."""
        if lbas is not None:
            cdws["cdw10"] = lbas.start
            cdws["cdw12"] = cdws.get("cdw12", 0) | len(lbas) - 1
        done = self.run(qid, opcode, nsid=nsid, prp1=self.data, prp2=self.more, **cdws)
        assert done.status or not self.ctrl.power.asleep, "I/O was done in a power state without it"
        return done.status & STATUS_CODE_MASK

    def fill(self, data: bytes) -> None:
        """What the data buffer holds."""
        self.raw.memory.write(self.data, data)

    def buffer(self, nbytes: int) -> bytes:
        """The data buffer."""
        return bytes(self.raw.memory.read(self.data, nbytes))

    def clear_ring(self, address: int) -> None:
        """A queue's memory before the queue is made."""
        self.raw.memory.write(address, bytes(PAGE))
