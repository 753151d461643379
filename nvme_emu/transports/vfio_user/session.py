"""One client's conversation, without I/O: bytes and descriptors in, bytes and descriptors out.

    NEW ──VERSION──► OPEN ──requests, replies──► OPEN          anything that is not the protocol ──► CLOSED

`receive` takes what a socket gave; `output` is what it must send, each message in one piece with its
descriptors; `refused` holds descriptors that nobody took and that must be closed. What a request means is
the device's business (`Handler`); it refuses one by raising RequestError, and the client gets the errno.

A descriptor belongs to the last message that starts in the bytes that it came with: a stream socket never
joins what follows a descriptor to the bytes that carried it.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from errno import EINVAL, ENOTSUP
from typing import Any, NamedTuple, Protocol

from nvme_emu.spec.vfio_user import (
    DEFAULT_DATA_BYTES_MAX,
    DEFAULT_MSG_FDS_MAX,
    DEFAULT_PAGE_SIZES,
    DEVICE_INFO,
    DMA_ACCESS_SCALAR,
    DMA_MAP,
    DMA_UNMAP,
    HEADER,
    HEADER_BYTES,
    IRQ_INFO,
    IRQ_SET,
    MAJOR,
    MINOR,
    REGION_ACCESS,
    REGION_ACCESS_BYTES,
    REGION_INFO,
    SPARSE_AREA,
    SPARSE_MMAP,
    SPARSE_MMAP_ID,
    TYPE_MASK,
    VERSION,
    WRITE_MULTI_COUNT,
    WRITE_MULTI_ITEM,
    WRITE_MULTI_ITEM_BYTES,
    Command,
    DeviceFlag,
    IrqSetFlag,
    MessageFlag,
    RegionFlag,
    command_name,
)
from nvme_emu.transports.vfio_user.dma import DMA_MAPS_MAX
from nvme_emu.transports.vfio_user.ports import RequestError
from nvme_emu.transports.vfio_user.session_states import TRANSITIONS, Action, Input, State

__all__ = [
    "MESSAGE_BYTES_MAX",
    "MSG_FDS_MAX",
    "Handler",
    "Irqs",
    "Outgoing",
    "Region",
    "Session",
]

MSG_FDS_MAX = 16
"""Descriptors of one message that we take; QEMU never sends more."""

MESSAGE_BYTES_MAX = HEADER_BYTES + REGION_ACCESS_BYTES + DEFAULT_DATA_BYTES_MAX
WRITES_MAX = 4096
"""Writes in one REGION_WRITE_MULTI."""

_REPLY, _NO_REPLY, _ERROR = int(MessageFlag.REPLY), int(MessageFlag.NO_REPLY), int(MessageFlag.ERROR)


class Outgoing(NamedTuple):
    """A message to send in one piece. The descriptors stay the sender's."""

    data: bytes
    fds: tuple[int, ...]


class Region(NamedTuple):
    """A region of the device. With `fd` the client may map the areas (offset, bytes) of it."""

    size: int
    flags: int
    areas: tuple[tuple[int, int], ...] = ()
    fd: int | None = None


class Irqs(NamedTuple):
    """A kind of interrupt: how many there are, and what can be done with them."""

    number: int
    flags: int


class Handler(Protocol):
    """The device's side. Every method may raise RequestError; a method that keeps a descriptor takes it
    out of the list."""

    regions: int
    irq_kinds: int

    def region(self, index: int) -> Region: ...
    def irqs(self, index: int) -> Irqs: ...
    def set_irqs(
        self, index: int, flags: int, start: int, count: int, data: bytes, fds: list[int]
    ) -> None: ...
    def read(self, region: int, offset: int, count: int) -> bytes: ...
    def write(self, region: int, offset: int, data: bytes) -> None: ...
    def dma_map(self, address: int, size: int, flags: int, fds: list[int], offset: int) -> None: ...
    def dma_unmap(self, address: int, size: int, flags: int) -> None: ...
    def reset(self) -> None: ...
    def answered(self, message_id: int, data: bytes | None) -> None:
        """A request of ours was answered; `data` is None when the client refused."""


class Session:
    """The server's end of one connection."""

    def __init__(self, handler: Handler, log: Callable[[str], None]) -> None:
        self.state = State.NEW
        self.output: deque[Outgoing] = deque()
        self.output_bytes = 0
        self.refused: list[int] = []
        self.why_closed = ""
        self.data_bytes_max = DEFAULT_DATA_BYTES_MAX
        """The most that one DMA message may carry: the client's limit and ours."""
        self.messages = 0
        self._handler = handler
        self._log = log
        self._buffer = bytearray()
        self._fds: deque[tuple[int, list[int]]] = deque()  # (place in the stream, descriptors)
        self._taken = 0  # bytes of the stream that are done
        self._next_id = 0
        self._asked: dict[int, tuple[int, int]] = {}  # id -> (command, count)
        self._commands: dict[int, Callable[[memoryview, list[int]], tuple[bytes, tuple[int, ...]]]] = {
            Command.DMA_MAP: self._dma_map,
            Command.DMA_UNMAP: self._dma_unmap,
            Command.DEVICE_GET_INFO: self._device_info,
            Command.DEVICE_GET_REGION_INFO: self._region_info,
            Command.DEVICE_GET_IRQ_INFO: self._irq_info,
            Command.DEVICE_SET_IRQS: self._set_irqs,
            Command.REGION_READ: self._region_read,
            Command.REGION_WRITE: self._region_write,
            Command.REGION_WRITE_MULTI: self._write_multi,
            Command.DEVICE_RESET: self._reset,
        }

    @property
    def closed(self) -> bool:
        """Whether the conversation is over; `why_closed` tells why."""
        return self.state is State.CLOSED

    # -- in -------------------------------------------------------------------------------------------------

    def receive(self, data: bytes, fds: list[int]) -> None:
        """Take what came from the socket, and do every request that is complete. `fds` are ours now."""
        if self.closed:
            self.refused += fds
            return
        self._buffer += data
        if fds:
            self._keep_fds(fds)
        while not self.closed and len(self._buffer) >= HEADER_BYTES:
            message_id, command, size, flags, error = HEADER.unpack_from(self._buffer)
            if not HEADER_BYTES <= size <= MESSAGE_BYTES_MAX:
                self._broken(f"a message of {size} bytes")
                return
            if len(self._buffer) < size:
                break
            message = bytes(self._buffer[HEADER_BYTES:size])
            del self._buffer[:size]
            mine = self._fds_until(size)
            self._message(message_id, command, flags, error, memoryview(message), mine)
            self.refused += mine
        if self.closed:
            self._let_go()

    def _keep_fds(self, fds: list[int]) -> None:
        """Note where in the stream these descriptors belong: the start of the last message that is begun."""
        place, end = 0, len(self._buffer)
        while end - place >= HEADER_BYTES:
            size = HEADER.unpack_from(self._buffer, place)[2]
            if not HEADER_BYTES <= size < end - place:
                break
            place += size
        self._fds.append((self._taken + place, fds))
        if sum(len(some) for _, some in self._fds) > MSG_FDS_MAX:
            self._broken(f"more than {MSG_FDS_MAX} descriptors in a message")

    def _fds_until(self, size: int) -> list[int]:
        """The descriptors of the message of `size` bytes that has just been taken."""
        self._taken += size
        mine: list[int] = []
        while self._fds and self._fds[0][0] < self._taken:
            mine += self._fds.popleft()[1]
        return mine

    def _let_go(self) -> None:
        for _, fds in self._fds:
            self.refused += fds
        self._fds.clear()
        self._buffer.clear()

    def close(self, why: str) -> None:
        """The connection has ended."""
        if not self.closed:
            self.state = State.CLOSED
            self.why_closed = why
        self._let_go()

    def _broken(self, why: str) -> None:
        self.state, _ = TRANSITIONS[self.state, Input.BROKEN]
        self.why_closed = why
        self._let_go()

    def _message(
        self, message_id: int, command: int, flags: int, error: int, data: memoryview, fds: list[int]
    ) -> None:
        kind = flags & TYPE_MASK
        self.messages += 1
        if kind == _REPLY:
            what = Input.REPLY
        elif kind:
            self._broken(f"a message of type {kind}")
            return
        else:
            what = Input.VERSION if command == Command.VERSION else Input.REQUEST
        before = self.state
        self.state, action = TRANSITIONS[before, what]
        if action is Action.DROP:
            self.why_closed = f"{what.value} ({command_name(command)}) while {before.value}"
        elif action is Action.MATCH:
            self._match(message_id, command, flags, data)
        elif action is Action.NEGOTIATE:
            self._negotiate(message_id, data)
        else:
            self._serve(message_id, command, flags, data, fds)

    def _serve(
        self, message_id: int, command: int, flags: int, data: memoryview, fds: list[int]
    ) -> None:
        """Do a request; a refusal is answered even when no reply was wanted, as the log would be alone."""
        handle = self._commands.get(command)
        try:
            if command == Command.VERSION:
                raise RequestError(EINVAL, "VERSION a second time")
            if handle is None:
                raise RequestError(ENOTSUP, f"{command_name(command)} is not offered")
            payload, out_fds = handle(data, fds)
        except RequestError as error:
            self._log(f"refused {command_name(command)}: {error}")
            if not flags & _NO_REPLY:
                self._send(HEADER.pack(message_id, command, HEADER_BYTES, _REPLY | _ERROR, error.errno))
            return
        if not flags & _NO_REPLY:
            head = HEADER.pack(message_id, command, HEADER_BYTES + len(payload), _REPLY, 0)
            self._send(head + payload, out_fds)

    def _send(self, data: bytes, fds: tuple[int, ...] = ()) -> None:
        self.output.append(Outgoing(data, fds))
        self.output_bytes += len(data)

    def sent(self) -> Outgoing:
        """Take the next message to send. IndexError when there is none."""
        message = self.output.popleft()
        self.output_bytes -= len(message.data)
        return message

    # -- version --------------------------------------------------------------------------------------------

    def _negotiate(self, message_id: int, data: memoryview) -> None:
        try:
            major, minor, theirs = _parse_version(data)
        except RequestError as error:
            self._send(HEADER.pack(message_id, Command.VERSION, HEADER_BYTES, _REPLY | _ERROR, error.errno))
            self.state, self.why_closed = State.CLOSED, str(error)
            return
        ours: dict[str, Any] = {}
        if "max_msg_fds" in theirs:
            ours["max_msg_fds"] = MSG_FDS_MAX
        if "max_data_xfer_size" in theirs:
            ours["max_data_xfer_size"] = DEFAULT_DATA_BYTES_MAX
        if "pgsizes" in theirs:
            ours["pgsizes"] = DEFAULT_PAGE_SIZES
        if "max_dma_maps" in theirs:
            ours["max_dma_maps"] = DMA_MAPS_MAX
        if theirs.get("write_multiple") is True:
            ours["write_multiple"] = True
        limit = theirs.get("max_data_xfer_size", DEFAULT_DATA_BYTES_MAX)
        self.data_bytes_max = min(limit, DEFAULT_DATA_BYTES_MAX)
        payload = VERSION.build(major=major, minor=min(minor, MINOR))
        payload += json.dumps({"capabilities": ours}).encode() + b"\0"
        self._send(HEADER.pack(message_id, Command.VERSION, HEADER_BYTES + len(payload), _REPLY, 0) + payload)
        fds = theirs.get("max_msg_fds", DEFAULT_MSG_FDS_MAX)
        self._log(f"version {major}.{min(minor, MINOR)}, {self.data_bytes_max} bytes and {fds} fds a message")

    # -- requests of the client -----------------------------------------------------------------------------

    def _dma_map(self, data: memoryview, fds: list[int]) -> tuple[bytes, tuple[int, ...]]:
        m = _parse(DMA_MAP, data, exact=True)
        self._handler.dma_map(m.address, m.size, m.flags, fds, m.offset)
        return b"", ()

    def _dma_unmap(self, data: memoryview, fds: list[int]) -> tuple[bytes, tuple[int, ...]]:
        m = _parse(DMA_UNMAP, data)
        self._handler.dma_unmap(m.address, m.size, m.flags)
        return DMA_UNMAP.build(**m), ()

    def _device_info(self, data: memoryview, fds: list[int]) -> tuple[bytes, tuple[int, ...]]:
        m = _parse(DEVICE_INFO, data)
        _wants_room(DEVICE_INFO.size, m.argsz)
        reply = DEVICE_INFO.build(
            argsz=DEVICE_INFO.size,
            flags=DeviceFlag.PCI | DeviceFlag.RESET,
            num_regions=self._handler.regions,
            num_irqs=self._handler.irq_kinds,
        )
        return reply, ()

    def _region_info(self, data: memoryview, fds: list[int]) -> tuple[bytes, tuple[int, ...]]:
        m = _parse(REGION_INFO, data)
        _wants_room(REGION_INFO.size, m.argsz)
        region = self._handler.region(m.index)
        flags, capability = region.flags, b""
        if region.areas:
            flags |= RegionFlag.MMAP | RegionFlag.CAPS
            capability = SPARSE_MMAP.build(id=SPARSE_MMAP_ID, version=1, nr_areas=len(region.areas))
            for offset, size in region.areas:
                capability += SPARSE_AREA.build(offset=offset, size=size)
        # A client without room for the capability learns from argsz how much it needs, and asks again. It is
        # told the place even so: QEMU takes a flag without a place for an error.
        fits = m.argsz >= REGION_INFO.size + len(capability)
        reply = REGION_INFO.build(
            argsz=REGION_INFO.size + len(capability),
            flags=flags,
            index=m.index,
            cap_offset=REGION_INFO.size if capability else 0,
            size=region.size,
        )
        out_fds = (region.fd,) if region.fd is not None and fits else ()
        return reply + (capability if fits else b""), out_fds

    def _irq_info(self, data: memoryview, fds: list[int]) -> tuple[bytes, tuple[int, ...]]:
        m = _parse(IRQ_INFO, data)
        _wants_room(IRQ_INFO.size, m.argsz)
        irqs = self._handler.irqs(m.index)
        return IRQ_INFO.build(argsz=IRQ_INFO.size, flags=irqs.flags, index=m.index, count=irqs.number), ()

    def _set_irqs(self, data: memoryview, fds: list[int]) -> tuple[bytes, tuple[int, ...]]:
        m = _parse(IRQ_SET, data)
        booleans = bytes(data[IRQ_SET.size :])
        if m.argsz != IRQ_SET.size + len(booleans):
            raise RequestError(EINVAL, f"SET_IRQS: argsz {m.argsz} in a payload of {len(data)} bytes")
        expected = m.count if m.flags & IrqSetFlag.DATA_BOOL else 0
        if len(booleans) != expected:
            raise RequestError(EINVAL, f"SET_IRQS: {len(booleans)} bytes of data for {m.count} interrupts")
        self._handler.set_irqs(m.index, m.flags, m.start, m.count, booleans, fds)
        return b"", ()

    def _region_read(self, data: memoryview, fds: list[int]) -> tuple[bytes, tuple[int, ...]]:
        if len(data) != REGION_ACCESS_BYTES:
            raise RequestError(EINVAL, f"REGION_READ with {len(data)} bytes")
        offset, region, count = REGION_ACCESS.unpack(data)
        _check_count("REGION_READ", count)
        return bytes(data) + self._handler.read(region, offset, count), ()

    def _region_write(self, data: memoryview, fds: list[int]) -> tuple[bytes, tuple[int, ...]]:
        if len(data) < REGION_ACCESS_BYTES:
            raise RequestError(EINVAL, f"REGION_WRITE with {len(data)} bytes")
        offset, region, count = REGION_ACCESS.unpack_from(data)
        _check_count("REGION_WRITE", count)
        if count != len(data) - REGION_ACCESS_BYTES:
            raise RequestError(EINVAL, f"REGION_WRITE of {count} with {len(data)} bytes")
        self._handler.write(region, offset, bytes(data[REGION_ACCESS_BYTES:]))
        return bytes(data[:REGION_ACCESS_BYTES]), ()

    def _write_multi(self, data: memoryview, fds: list[int]) -> tuple[bytes, tuple[int, ...]]:
        start = WRITE_MULTI_COUNT.size
        if len(data) < start or (len(data) - start) % WRITE_MULTI_ITEM_BYTES:
            raise RequestError(EINVAL, f"REGION_WRITE_MULTI with {len(data)} bytes")
        (writes,) = WRITE_MULTI_COUNT.unpack_from(data)
        if writes > WRITES_MAX or writes * WRITE_MULTI_ITEM_BYTES != len(data) - start:
            raise RequestError(EINVAL, f"REGION_WRITE_MULTI of {writes} writes with {len(data)} bytes")
        for offset, region, count, value in WRITE_MULTI_ITEM.iter_unpack(data[start:]):
            if not 0 < count <= len(value):
                raise RequestError(EINVAL, f"REGION_WRITE_MULTI: a write of {count} bytes")
            self._handler.write(region, offset, value[:count])
        return WRITE_MULTI_COUNT.pack(writes), ()

    def _reset(self, data: memoryview, fds: list[int]) -> tuple[bytes, tuple[int, ...]]:
        if data:
            raise RequestError(EINVAL, f"DEVICE_RESET with {len(data)} bytes")
        self._handler.reset()
        return b"", ()

    # -- requests of ours -----------------------------------------------------------------------------------

    def ask_read(self, address: int, count: int) -> int:
        """Ask for bytes of the client's memory; the id that `Handler.answered` will be called with."""
        return self._ask(Command.DMA_READ, DMA_ACCESS_SCALAR.pack(address, count), count)

    def ask_write(self, address: int, data: bytes | memoryview) -> int:
        """Ask the client to store bytes in its memory; the id that `Handler.answered` will get."""
        return self._ask(Command.DMA_WRITE, DMA_ACCESS_SCALAR.pack(address, len(data)) + bytes(data), len(data))

    def _ask(self, command: int, payload: bytes, count: int) -> int:
        message_id = self._next_id
        while message_id in self._asked:
            message_id = message_id + 1 & 0xFFFF
        self._next_id = message_id + 1 & 0xFFFF
        self._asked[message_id] = (command, count)
        self._send(HEADER.pack(message_id, command, HEADER_BYTES + len(payload), 0, 0) + payload)
        return message_id

    def _match(self, message_id: int, command: int, flags: int, data: memoryview) -> None:
        command_asked, count = self._asked.pop(message_id, (0, 0))
        if command_asked != command:
            self._broken(f"a reply to a {command_name(command)} that was not asked (id {message_id})")
            return
        if flags & _ERROR:
            self._handler.answered(message_id, None)
            return
        content = bytes(data[DMA_ACCESS_SCALAR.size :]) if command == Command.DMA_READ else b""
        if command == Command.DMA_READ and len(content) != count:
            self._broken(f"{len(content)} bytes in answer to a DMA_READ of {count}")
            return
        self._handler.answered(message_id, content)


def _parse(structure: Any, data: memoryview, exact: bool = False) -> Any:
    if len(data) < structure.size or (exact and len(data) != structure.size):
        raise RequestError(EINVAL, f"{structure.name}: {len(data)} bytes, not {structure.size}")
    return structure.parse(data)


def _wants_room(size: int, argsz: int) -> None:
    if argsz < size:
        raise RequestError(EINVAL, f"argsz {argsz}: the answer has {size} bytes")


def _check_count(what: str, count: int) -> None:
    if not 0 < count <= DEFAULT_DATA_BYTES_MAX:
        raise RequestError(EINVAL, f"{what} of {count} bytes")


def _parse_version(data: memoryview) -> tuple[int, int, dict[str, Any]]:
    """Major, minor and capabilities of a VERSION message, with the numbers checked. RequestError."""
    m = _parse(VERSION, data)
    if m.major != MAJOR:
        raise RequestError(ENOTSUP, f"version {m.major}.{m.minor}: this server speaks {MAJOR}.{MINOR}")
    text = bytes(data[VERSION.size :])
    if not text:
        return m.major, m.minor, {}
    if text[-1]:
        raise RequestError(EINVAL, "VERSION: the capabilities do not end with a NUL")
    try:
        said = json.loads(text[:-1] or b"{}")
    except (ValueError, RecursionError) as error:
        raise RequestError(EINVAL, f"VERSION: the capabilities are not JSON: {error}") from error
    theirs = said.get("capabilities", {}) if isinstance(said, dict) else None
    if not isinstance(theirs, dict):
        raise RequestError(EINVAL, "VERSION: the capabilities are not an object")
    for name, least in (("max_msg_fds", 0), ("max_data_xfer_size", 4096)):
        value = theirs.get(name, least)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise RequestError(EINVAL, f"VERSION: {name} is {value!r}")
    return m.major, m.minor, theirs
