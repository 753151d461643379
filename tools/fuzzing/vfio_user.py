"""vfio-user sessions: requests that are right, nearly right, or noise, with descriptors that are not what they say.

No request may raise, no descriptor and no mapping may stay when the client has gone.
"""

from __future__ import annotations

import gc
import os
import socket
import struct
from collections.abc import Callable

from fuzzing.source import Source
from nvme_emu.controller import Controller, ControllerConfig, Namespace
from nvme_emu.core.memory import HostMemory
from nvme_emu.media.ram import RamMedia
from nvme_emu.spec.registers import CC, Reg
from nvme_emu.spec.vfio_user import HEADER, REGION_ACCESS, WRITE_MULTI_COUNT, WRITE_MULTI_ITEM, Command
from nvme_emu.transports.vfio_user import Session, VfioUserFunction

__all__ = ["case"]

MESSAGES_MAX = 60
_VERSION = struct.pack("<HH", 0, 1) + b'{"capabilities":{"max_msg_fds":8,"max_data_xfer_size":1048576}}\0'
_REGIONS = [0, 0, 0, 4, 7, 7, 1, 9]
_SIZES = [0x1000, 0x4000, 0x10000, 0, 1, 1 << 40, (1 << 64) - 1]
_ADDRESSES = [0, 0x1000, 0x10000, 0x100000, 1, (1 << 64) - 0x1000]


def _memfd(nbytes: int) -> int:
    fd = os.memfd_create("fuzz", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, nbytes)
    return fd


def _pipe_end() -> int:
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def _socket_end() -> int:
    one, other = socket.socketpair()
    other.close()
    return one.detach()


_MAKERS: tuple[Callable[[], int], ...] = (
    lambda: _memfd(0x4000),
    lambda: _memfd(0x4000),
    lambda: _memfd(0),
    lambda: os.eventfd(0, os.EFD_NONBLOCK),
    lambda: os.eventfd(0),
    _pipe_end,
    _socket_end,
    lambda: os.open("/dev/null", os.O_RDWR),
    lambda: os.open("/", os.O_RDONLY),
    lambda: os.open("/dev/zero", os.O_RDONLY),
)


class _Device:
    def __init__(self, source: Source) -> None:
        memory = HostMemory()
        self.controller = Controller(
            ControllerConfig(vectors=4), memory=memory, namespaces=[Namespace(1, RamMedia(1 << 18))], strict=True
        )
        self.now_ns = 1
        self.function = VfioUserFunction(
            self.controller, memory, clock=self.clock, mapped_doorbells=bool(source.below(2))
        )
        self.session = Session(self.function, lambda line: None)
        self.function.attach(self.session)

    def clock(self) -> int:
        self.now_ns += 1000
        return self.now_ns

    def close(self) -> None:
        self.session.close("done")
        self.drop_refused()
        self.function.detach()

    def drop_refused(self) -> None:
        while self.session.refused:
            os.close(self.session.refused.pop())


def _payload(source: Source, command: int) -> bytes:
    size, address = source.pick(_SIZES), source.pick(_ADDRESSES)
    if source.one_in(12):
        return source.bytes(source.below(80))
    if command == Command.DMA_MAP:
        return struct.pack("<IIQQQ", 32, source.pick([3, 3, 1, 2, 0, 7]), source.pick([0, 0, 0x1000, 1]), address, size)
    if command == Command.DMA_UNMAP:
        return struct.pack("<IIQQ", 24, source.pick([0, 0, 2]), address, size)
    if command == Command.DEVICE_SET_IRQS:
        flags = source.pick([0x24, 0x24, 0x21, 0x22, 0x0C, 0x14, source.bits(8)])
        count = source.below(6)
        return struct.pack("<IIIII", 20, flags, source.pick([2, 2, 0, 1, 5]), source.below(6), count) + bytes(count)
    if command == Command.REGION_WRITE_MULTI:
        items = [_write(source) for _ in range(source.below(5))]
        count = len(items) if source.below(8) else source.number(64)
        packed = [WRITE_MULTI_ITEM.pack(at, region, len(data), data[:8].ljust(8, b"\0")) for at, region, data in items]
        return WRITE_MULTI_COUNT.pack(count) + b"".join(packed)
    if command == Command.REGION_WRITE:
        offset, region, data = _write(source)
        return REGION_ACCESS.pack(offset, region, len(data)) + data
    if command == Command.REGION_READ:
        count = source.pick([4, 4, 8, 1, 2, 256, 4096, 1 << 31])
        return REGION_ACCESS.pack(source.number(16), source.pick(_REGIONS), count)
    return struct.pack("<IIII", 32, 0, source.below(12), 0) + bytes(source.pick([0, 0, 16]))


def _write(source: Source) -> tuple[int, int, bytes]:
    """(offset, region, data), often one that sets the controller up."""
    kind = source.below(8)
    if kind == 0:
        return Reg.AQA, 0, struct.pack("<I", 0x0007_0007)
    if kind == 1:
        return source.pick([Reg.ASQ, Reg.ACQ]), 0, struct.pack("<Q", source.pick(_ADDRESSES))
    if kind == 2:
        return Reg.CC, 0, struct.pack("<I", source.pick([CC.pack(en=1, iosqes=6, iocqes=4), 0]))
    if kind == 3:
        return 0x1000 + 4 * source.below(4), 0, struct.pack("<I", source.below(8))
    if kind == 4:
        return 4, 7, struct.pack("<H", source.pick([6, 0, 0xFFFF]))
    size = source.pick([4, 8, 1, 2, 3, 64])
    return source.number(16), source.pick(_REGIONS), source.bytes(size)


def _message(source: Source, device: _Device) -> None:
    session = device.session
    command = source.pick([*Command, Command.DMA_MAP, Command.DMA_MAP, Command.REGION_WRITE, Command.REGION_WRITE, 77])
    payload = _payload(source, command)
    size = HEADER.size + len(payload) if source.below(20) else source.number(32)
    flags = source.pick([0, 0, 0, 0, 0x10, 1, 0x21, 2])
    message = HEADER.pack(source.below(8), command, size, flags, source.pick([0, 0, 5])) + payload
    fds = [source.pick(_MAKERS)() for _ in range(source.pick([0, 0, 1, 1, 2, 5]))]
    cut = source.below(len(message) + 1) if source.one_in(4) else len(message)
    session.receive(message[:cut], fds)
    session.receive(message[cut:], [])
    device.drop_refused()
    session.output.clear()
    device.function.work()


def _open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def _run(source: Source) -> None:
    device = _Device(source)
    try:
        device.session.receive(HEADER.pack(1, Command.VERSION, HEADER.size + len(_VERSION), 0, 0) + _VERSION, [])
        for _ in range(MESSAGES_MAX):
            if not source.left or device.session.closed:
                break
            _message(source, device)
    finally:
        device.close()
    assert device.controller.internal_error is None


def case(data: bytes) -> None:
    """One input."""
    before = _open_descriptors()
    _run(Source(data))
    if _open_descriptors() != before:
        gc.collect()
        left = _open_descriptors() - before
        assert not left, f"{left} descriptors are left open"
