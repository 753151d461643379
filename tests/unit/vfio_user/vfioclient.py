"""A vfio-user client under the test's control, and an NVMe host that drives the device through it.

Server and client share the thread: the client turns the server's loop while it waits for an answer.
"""

from __future__ import annotations

import array
import json
import mmap
import os
import random
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from nvme_emu.controller import Controller, ControllerConfig, Namespace
from nvme_emu.core.memory import HostMemory
from nvme_emu.media.ram import RamMedia
from nvme_emu.spec.commands import split64
from nvme_emu.spec.opcodes import AdminOpcode
from nvme_emu.spec.pci import COMMAND, Header
from nvme_emu.spec.queues import CQE, CQE_SIZE, SQE, SQE_SIZE
from nvme_emu.spec.registers import AQA, CC, Reg, doorbell_offset
from nvme_emu.spec.vfio_user import (
    DMA_ACCESS_SCALAR,
    DMA_MAP,
    DMA_UNMAP,
    HEADER,
    HEADER_BYTES,
    IRQ_SET,
    REGION_ACCESS,
    VERSION,
    Command,
    IrqIndex,
    IrqSetFlag,
    MessageFlag,
    RegionIndex,
)
from nvme_emu.transports.loop import Loop
from nvme_emu.transports.vfio_user import VfioUserFunction, VfioUserServer
from nvme_emu.transports.vfio_user.doorbells import PAUSE_MAX_NS

PAGE = 4096
ROUNDS_MAX = 3000
CAPABILITIES = {
    "max_msg_fds": 8,
    "max_data_xfer_size": 1 << 20,
    "pgsizes": 4096,
    "max_dma_maps": 65535,
    "write_multiple": True,
    "migration": {"pgsize": 4096},
}


def open_fds() -> int:
    """Descriptors that this process has open."""
    return len(os.listdir("/proc/self/fd"))


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now_ns = 1_000_000_000

    def __call__(self) -> int:
        return self.now_ns


class Rig:
    """A loop with one device at a socket."""

    def __init__(
        self,
        directory: Path,
        *,
        mapped_doorbells: bool = False,
        clock: Callable[[], int] | None = None,
        latency: Any = None,
        loop: Loop | None = None,
        name: str = "ssd",
        **config: Any,
    ) -> None:
        self.loop = loop or (Loop() if clock is None else Loop(clock))
        self.own_loop = loop is None
        self.log: list[str] = []
        self.memory = HostMemory()
        self.media = RamMedia(4 << 20)
        self.controller = Controller(
            ControllerConfig(**config),
            memory=self.memory,
            namespaces=[Namespace(1, self.media)],
            latency=latency,
            rng=random.Random(1),
            strict=True,
        )
        self.function = VfioUserFunction(
            self.controller, self.memory, clock=self.loop.clock, mapped_doorbells=mapped_doorbells
        )
        self.path = str(directory / f"{name}.sock")
        self.server = VfioUserServer(self.loop, self.path, self.function, log=self.log.append)
        self.clients: list[Client] = []

    def connect(self) -> Client:
        """A connected client that has said nothing."""
        client = Client(self)
        self.clients.append(client)
        self.turn()
        return client

    def client(self, **capabilities: Any) -> Client:
        """A client that has agreed on the version."""
        client = self.connect()
        client.greet(**capabilities)
        return client

    def pass_time(self, ns: int) -> None:
        """On the test's own clock only; real time passes by itself."""
        if isinstance(self.loop.clock, Clock):
            self.loop.clock.now_ns += ns

    def turn(self, rounds: int = 3) -> None:
        """Let the server do what it can do without waiting."""
        for _ in range(rounds):
            self.loop.round(0)

    def close(self) -> None:
        """End everything. The server must not have made a mistake of its own."""
        for client in self.clients:
            client.close()
        self.turn()
        self.server.close()
        if self.own_loop:
            self.loop.close()
        self.media.close()
        assert self.server.internal_error is None, self.server.internal_error
        assert self.controller.internal_error is None


class Reply(NamedTuple):
    """What came back: errno (0 for success), payload, descriptors."""

    errno: int
    data: bytes
    fds: list[int]


class Gone(Exception):
    """The server has closed the connection."""


class Client:
    """The other end of the socket. DMA messages are answered from `memory` (address -> bytearray)."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.connect(rig.path)
        self.socket.setblocking(False)
        self.buffer = b""
        self.fds: list[int] = []
        self.next_id = 100
        self.memory: dict[int, bytearray] = {}
        self.dma: list[tuple[str, int, int]] = []
        self.answers_dma = True
        self.capabilities: dict[str, Any] = {}

    def close(self) -> None:
        """Hang up."""
        self.socket.close()
        for fd in self.fds:
            os.close(fd)
        self.fds.clear()

    # -- messages -------------------------------------------------------------------------------------------

    def send(self, data: bytes, fds: tuple[int, ...] | list[int] = ()) -> None:
        """Raw bytes; nobody waits for anything."""
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        while data:
            try:
                done = self.socket.sendmsg([data], ancillary)
            except BlockingIOError:
                self.rig.turn()
                continue
            except BrokenPipeError as error:
                raise Gone from error
            data, ancillary = data[done:], []

    def message(self, command: int, payload: bytes = b"", flags: int = 0) -> bytes:
        """A command's bytes, with the next id."""
        self.next_id += 1
        return HEADER.pack(self.next_id, command, HEADER_BYTES + len(payload), flags, 0) + payload

    def request(
        self, command: int, payload: bytes = b"", fds: tuple[int, ...] | list[int] = ()
    ) -> Reply:
        """Send a command and wait for its reply. Gone when the server hangs up instead."""
        self.send(self.message(command, payload), fds)
        return self.reply(self.next_id)

    def reply(self, message_id: int) -> Reply:
        """The reply to an earlier message."""
        for _ in range(ROUNDS_MAX):
            found = self._take(message_id)
            if found is not None:
                return found
            self.rig.turn(1)
            self.receive()
        raise AssertionError(f"no reply; the server says {self.rig.log}")

    def receive(self) -> None:
        """Take what the server sent. Gone when it has hung up."""
        try:
            data, ancillary, _, _ = self.socket.recvmsg(1 << 20, socket.CMSG_SPACE(64))
        except BlockingIOError:
            return
        except ConnectionError as error:
            raise Gone from error
        for _, _, raw in ancillary:
            self.fds += array.array("i", raw)
        if not data:
            raise Gone
        self.buffer += data

    def _take(self, message_id: int) -> Reply | None:
        while len(self.buffer) >= HEADER_BYTES:
            got_id, command, size, flags, error = HEADER.unpack_from(self.buffer)
            if len(self.buffer) < size:
                return None
            payload, self.buffer = self.buffer[HEADER_BYTES:size], self.buffer[size:]
            if flags & MessageFlag.REPLY:
                assert got_id == message_id, "a reply to something else"
                fds, self.fds = self.fds, []
                assert bool(error) == bool(flags & MessageFlag.ERROR)
                return Reply(error, payload, fds)
            self._dma(got_id, command, payload)
        return None

    def serve_dma(self, rounds: int = 50) -> None:
        """Answer DMA messages for a while."""
        for _ in range(rounds):
            self.rig.turn(1)
            self.receive()
            assert self._take(-1) is None

    def _dma(self, message_id: int, command: int, payload: bytes) -> None:
        address, count = DMA_ACCESS_SCALAR.unpack_from(payload)
        name = Command(command).name
        self.dma.append((name, address, count))
        if not self.answers_dma:
            return
        for base, data in self.memory.items():
            if base <= address and address + count <= base + len(data):
                at = address - base
                answer = payload[:16]
                if command == Command.DMA_READ:
                    answer += bytes(data[at : at + count])
                else:
                    data[at : at + count] = payload[16:]
                self.send(HEADER.pack(message_id, command, HEADER_BYTES + len(answer), 1, 0) + answer)
                return
        self.send(HEADER.pack(message_id, command, HEADER_BYTES, 0x21, 14))

    # -- requests -------------------------------------------------------------------------------------------

    def greet(self, major: int = 0, minor: int = 1, **capabilities: Any) -> Reply:
        """VERSION."""
        text = json.dumps({"capabilities": {**CAPABILITIES, **capabilities}}).encode() + b"\0"
        reply = self.request(Command.VERSION, VERSION.build(major=major, minor=minor) + text)
        if not reply.errno:
            self.capabilities = json.loads(reply.data[4:-1])["capabilities"]
        return reply

    def map(
        self, address: int, size: int, fd: int | None = None, *, flags: int = 3, offset: int = 0
    ) -> Reply:
        """DMA_MAP; the descriptor stays the caller's."""
        payload = DMA_MAP.build(argsz=32, flags=flags, offset=offset, address=address, size=size)
        return self.request(Command.DMA_MAP, payload, () if fd is None else (fd,))

    def unmap(self, address: int, size: int, flags: int = 0) -> Reply:
        """DMA_UNMAP."""
        return self.request(
            Command.DMA_UNMAP, DMA_UNMAP.build(argsz=24, flags=flags, address=address, size=size)
        )

    def read(self, region: int, offset: int, count: int) -> bytes:
        """REGION_READ that must succeed."""
        reply = self.request(Command.REGION_READ, REGION_ACCESS.pack(offset, region, count))
        assert not reply.errno, os.strerror(reply.errno)
        return reply.data[16:]

    def write(self, region: int, offset: int, data: bytes) -> None:
        """REGION_WRITE that must succeed."""
        reply = self.request(Command.REGION_WRITE, REGION_ACCESS.pack(offset, region, len(data)) + data)
        assert not reply.errno, os.strerror(reply.errno)

    def set_irqs(
        self, flags: int, start: int, count: int, data: bytes = b"", fds: tuple[int, ...] | list[int] = (),
        index: int = IrqIndex.MSIX,
    ) -> Reply:  # fmt: skip
        """DEVICE_SET_IRQS."""
        head = IRQ_SET.build(argsz=20 + len(data), flags=flags, index=index, start=start, count=count)
        return self.request(Command.DEVICE_SET_IRQS, head + data, fds)

    def eventfds(self, count: int, start: int = 0) -> list[int]:
        """Fresh eventfds for vectors; the caller closes them."""
        fds = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(count)]
        flags = IrqSetFlag.DATA_EVENTFD | IrqSetFlag.ACTION_TRIGGER
        assert self.set_irqs(flags, start, count, fds=fds).errno == 0
        return fds

    def bus_master(self, on: bool = True) -> None:
        """Write the command register."""
        value = COMMAND.pack(mse=1, bme=int(on))
        self.write(RegionIndex.CONFIG, Header.CMD, value.to_bytes(2, "little"))


def fired(fd: int) -> int:
    """How often an eventfd was written since the last look."""
    try:
        return os.eventfd_read(fd)
    except BlockingIOError:
        return 0


class GuestMemory:
    """Pages at an address: a memfd, mapped here too, or bytes that the device asks for by messages."""

    def __init__(self, client: Client, *, pages: int = 256, base: int = 0x10_0000, messages: bool = False) -> None:
        self.base = base
        self.size = pages * PAGE
        self.free = base
        self.fd = -1
        self.view: Any
        if messages:
            self.view = client.memory[base] = bytearray(self.size)
            assert client.map(base, self.size).errno == 0
        else:
            self.fd = os.memfd_create("guest", os.MFD_ALLOW_SEALING)
            os.ftruncate(self.fd, self.size)
            self.view = mmap.mmap(self.fd, self.size)
            assert client.map(base, self.size, self.fd).errno == 0

    def pages(self, count: int = 1) -> int:
        """The address of fresh pages."""
        address = self.free
        self.free += count * PAGE
        assert self.free <= self.base + self.size
        return address

    def put(self, address: int, data: bytes) -> None:
        """Store bytes."""
        self.view[address - self.base : address - self.base + len(data)] = data

    def get(self, address: int, count: int) -> bytes:
        """Load bytes."""
        return bytes(self.view[address - self.base : address - self.base + count])

    def close(self) -> None:
        """Give the memory back."""
        if self.fd >= 0:
            self.view.close()
            os.close(self.fd)


class Queue:
    """The host's half of a queue pair of 16 entries."""

    SIZE = 16

    def __init__(self, host: NvmeHost, qid: int) -> None:
        self.host, self.qid = host, qid
        self.sq, self.cq = host.memory.pages(), host.memory.pages()
        self.tail = self.head = self.cid = 0
        self.phase = 1

    def submit(self, opcode: int, nsid: int = 0, prp1: int = 0, prp2: int = 0, *cdws: int) -> int:
        """Put an entry and ring; the command's identifier."""
        self.cid += 1
        words = [*cdws, *[0] * (6 - len(cdws))]
        entry = SQE.pack(opcode, 0, self.cid, nsid, 0, 0, 0, prp1, prp2, *words)
        self.host.memory.put(self.sq + self.tail * SQE_SIZE, entry)
        self.tail = (self.tail + 1) % self.SIZE
        self.host.ring(doorbell_offset(self.qid, False), self.tail)
        return self.cid

    def reap(self) -> tuple[int, int, int] | None:
        """The next completion as (cid, status, dw0), if it is there; the head doorbell is rung."""
        raw = self.host.memory.get(self.cq + self.head * CQE_SIZE, CQE_SIZE)
        dw0, _, _, _, cid, status = CQE.unpack(raw)
        if status & 1 != self.phase:
            return None
        self.head = (self.head + 1) % self.SIZE
        self.phase ^= self.head == 0
        self.host.ring(doorbell_offset(self.qid, True), self.head)
        return cid, status >> 1, dw0

    def run(self, opcode: int, nsid: int = 0, prp1: int = 0, prp2: int = 0, *cdws: int) -> tuple[int, int]:
        """One command from start to end: (status, dw0)."""
        cid = self.submit(opcode, nsid, prp1, prp2, *cdws)
        for _ in range(ROUNDS_MAX):
            self.host.client.serve_dma(1)
            self.host.client.rig.pass_time(PAUSE_MAX_NS)
            found = self.reap()
            if found is not None:
                assert found[0] == cid
                return found[1], found[2]
        raise AssertionError(f"no completion; the server says {self.host.client.rig.log}")


class NvmeHost:
    """Brings the controller up over a client and drives an admin and an I/O queue."""

    def __init__(self, client: Client, memory: GuestMemory, *, page: mmap.mmap | None = None) -> None:
        self.client, self.memory, self.page = client, memory, page
        client.bus_master()
        self.admin = Queue(self, 0)
        self.io: Queue | None = None

    def write32(self, offset: int, value: int) -> None:
        """Write a property."""
        self.client.write(RegionIndex.BAR0, offset, value.to_bytes(4, "little"))

    def read32(self, offset: int) -> int:
        """Read a property."""
        return int.from_bytes(self.client.read(RegionIndex.BAR0, offset, 4), "little")

    def ring(self, offset: int, value: int) -> None:
        """Ring a doorbell: by a store if the page is mapped, else by a message."""
        if self.page is None:
            self.write32(offset, value)
        else:
            self.page[offset - 0x1000 : offset - 0xFFC] = value.to_bytes(4, "little")

    def set_up(self) -> None:
        """Admin queue and CC.EN."""
        self.admin = Queue(self, 0)
        self.write32(Reg.AQA, AQA.pack(asqs_z=Queue.SIZE - 1, acqs_z=Queue.SIZE - 1))
        for register, address in ((Reg.ASQ, self.admin.sq), (Reg.ACQ, self.admin.cq)):
            low, high = split64(address)
            self.write32(register, low)
            self.write32(register + 4, high)
        self.write32(Reg.CC, CC.pack(en=1, iosqes=6, iocqes=4))

    def enable(self) -> None:
        """Set up, and wait for CSTS.RDY."""
        self.set_up()
        for _ in range(ROUNDS_MAX):
            if self.read32(Reg.CSTS) & 1:
                return
        raise AssertionError(f"not ready: CSTS {self.read32(Reg.CSTS):#x}, {self.client.rig.log}")

    def create_io(self, vector: int = 0) -> Queue:
        """An I/O queue pair with identifier 1."""
        queue = Queue(self, 1)
        size = Queue.SIZE - 1 << 16 | 1
        assert self.admin.run(AdminOpcode.CREATE_IO_CQ, 0, queue.cq, 0, size, vector << 16 | 3) == (0, 0)
        assert self.admin.run(AdminOpcode.CREATE_IO_SQ, 0, queue.sq, 0, size, 1 << 16 | 1) == (0, 0)
        self.io = queue
        return queue
