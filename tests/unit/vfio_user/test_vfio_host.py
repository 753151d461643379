"""Our driver behind a vfio-user socket: what it does when the server is not what it should be, or goes away."""

from __future__ import annotations

import errno
import gc
import json
import os
import random
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from vfioclient import open_fds

import nvme_emu
from nvme_emu.controller import Controller, ControllerConfig, Namespace
from nvme_emu.controller.latency import LatencyModel
from nvme_emu.controller.profiles import load_profile
from nvme_emu.core.errors import NvmeError
from nvme_emu.core.memory import HostMemory
from nvme_emu.driver import CtrlState, NvmeDriver
from nvme_emu.driver.request import Request
from nvme_emu.media import RamMedia
from nvme_emu.spec.opcodes import NvmOpcode
from nvme_emu.spec.vfio_user import (
    DEVICE_INFO,
    DMA_ACCESS_SCALAR,
    HEADER,
    HEADER_BYTES,
    VERSION,
    Command,
    DeviceFlag,
    MessageFlag,
)
from nvme_emu.transports.loop import Loop
from nvme_emu.transports.vfio_user import VfioUserFunction, VfioUserServer
from nvme_emu.transports.vfio_user_client import SharedMemory, VfioUserPort
from nvme_emu.transports.vfio_user_client.messages import Messages

SIZE = 8 << 20


class Served:
    """A device at a socket, served by a thread until `end`."""

    def __init__(self, path: str, *, latency: LatencyModel | None = None, mapped: bool = True, **config: int) -> None:
        self.path = path
        self.memory = HostMemory()
        self.loop = Loop()
        self.controller = Controller(
            ControllerConfig(**config),  # type: ignore[arg-type]
            memory=self.memory,
            namespaces=[Namespace(1, RamMedia(SIZE), 512)],
            latency=latency,
            rng=random.Random(1),
            strict=True,
        )
        function = VfioUserFunction(self.controller, self.memory, clock=self.loop.clock, mapped_doorbells=mapped)
        self.server = VfioUserServer(self.loop, path, function, log=lambda line: None)
        self.thread = threading.Thread(target=self.loop.run)
        self.thread.start()

    def end(self) -> None:
        """Stop serving; once is enough."""
        if self.thread.is_alive():
            self.loop.stop()
            self.thread.join(10)
            self.server.close()
            self.loop.close()
            assert self.server.internal_error is None


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "ssd.sock")


@pytest.fixture
def serve(path: str) -> Iterator[Callable[..., Served]]:
    """Serves devices at `path`, one after the other."""
    there: list[Served] = []

    def start(**options: object) -> Served:
        there.append(Served(path, **options))  # type: ignore[arg-type]
        return there[-1]

    yield start
    for one in there:
        one.end()


def url(path: str) -> str:
    return f"vfio-user://{path}"


# -- what is driven -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mapped", [True, False])
def test_data_of_any_shape_arrives(serve: Callable[..., Served], path: str, mapped: bool) -> None:
    serve(mapped=mapped)
    rng = np.random.default_rng(7)
    with nvme_emu.open(url(path), depth=8) as ssd:
        namespace = ssd.namespaces[1]
        data = rng.integers(0, 256, SIZE, np.uint8)
        namespace.write(0, data)
        into = np.zeros(3 * 512 + 1, np.uint8)[1:]

        namespace.read(5, 3, into)

        assert (into == data[5 * 512 : 8 * 512]).all()
        assert (namespace.read(0, SIZE // 512) == data).all()
        slbas = rng.permutation(1000) * 8
        assert (namespace.read_many(slbas, 8).reshape(-1, 4096) == data.reshape(-1, 4096)[slbas // 8]).all()


def test_command_is_no_larger_than_a_slot_where_the_controller_has_no_limit(
    serve: Callable[..., Served], path: str
) -> None:
    served = serve(mdts=0)
    with nvme_emu.open(url(path)) as ssd:
        ssd.namespaces[1].write(0, bytes(SIZE))

        assert ssd.driver.max_transfer_bytes == SharedMemory.transfer_bytes_max
        assert served.controller.counters.write_commands == SIZE >> 20


def test_driver_of_ones_own_is_used(serve: Callable[..., Served], path: str) -> None:
    class Mine(NvmeDriver):
        probed = False

        def probe(self) -> None:
            self.probed = True
            super().probe()

    serve()
    with nvme_emu.open(url(path), driver_class=Mine) as ssd:
        assert ssd.driver.probed


def test_buffer_keeps_its_bytes_where_the_device_stores_none(serve: Callable[..., Served], path: str) -> None:
    serve()
    with nvme_emu.open(url(path)) as ssd:
        into = np.full(512, 0x5A, np.uint8)
        bad = Request(NvmOpcode.WRITE_UNCORRECTABLE, 1, 9, 0, 0, None, False, None)
        ssd.driver.path().submit(bad)
        bad.wait(60)
        with pytest.raises(NvmeError):
            ssd.namespaces[1].read(9, 1, into)
        assert (into == 0x5A).all()


def test_everything_is_given_back(serve: Callable[..., Served], path: str) -> None:
    counts = []
    for _ in range(3):
        served = serve()
        for _ in range(3):
            with nvme_emu.open(url(path), mode="async", queues=2) as ssd:
                ssd.namespaces[1].read_many(np.arange(100), 1)
        served.end()
        gc.collect()  # Python's mappings keep a descriptor for as long as they live
        counts.append((open_fds(), threading.active_count()))

    assert counts[1] == counts[2]


# -- the server goes away -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_io_in_flight_ends_when_the_server_goes(serve: Callable[..., Served], path: str, mode: str) -> None:
    slow = LatencyModel(load_profile("qlc"), random.Random(1))
    served = serve(latency=slow)
    machine = nvme_emu.open(url(path), mode=mode)
    try:
        namespace = machine.namespaces[1]
        ended = threading.Event()
        failure: list[OSError] = []

        def work() -> None:
            try:
                while True:
                    namespace.read(0, 8)
            except OSError as error:
                failure.append(error)
            ended.set()

        worker = threading.Thread(target=work)
        worker.start()
        served.end()
        assert ended.wait(60)
        worker.join()

        assert failure[0].errno in (errno.ENODEV, errno.EIO)
        machine.driver.recovery.flush()
        assert machine.driver.state is CtrlState.DEAD
        serve()
        machine.replug()
        assert not machine.namespaces[1].read(0, 8).any()
    finally:
        machine.close()


# -- servers that are none ----------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", ["vfio-user://", "vfio-user:///", "vfio-user://host/path"])
def test_url_that_names_no_socket_is_refused(bad: str) -> None:
    with pytest.raises(ValueError, match="names a socket"):
        nvme_emu.open(bad)


def test_wrong_options_are_refused(path: str) -> None:
    with pytest.raises(ValueError, match="mode"):
        nvme_emu.open(url(path), mode="sometimes")
    with pytest.raises(TypeError):
        nvme_emu.open(url(path), size="1M")


def test_path_where_nobody_listens_is_named(path: str) -> None:
    with pytest.raises(NvmeError, match=r"ssd\.sock") as caught:
        nvme_emu.open(url(path))

    assert caught.value.errno == errno.ENOENT


def reply(message: bytes, payload: bytes = b"", error: int = 0, size: int | None = None) -> bytes:
    message_id, command, *_ = HEADER.unpack_from(message)
    flags = MessageFlag.REPLY | (MessageFlag.ERROR if error else 0)
    return HEADER.pack(message_id, command, size or HEADER_BYTES + len(payload), flags, error) + payload


VERSION_REPLY = VERSION.build(minor=1) + json.dumps({"capabilities": {}}).encode() + b"\0"


@contextmanager
def rogue(path: str, answer: Callable[[bytes], bytes | None]) -> Iterator[None]:
    """A server that answers each message with what `answer` makes of it, and hangs up at None."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen(1)

        def work() -> None:
            with listener.accept()[0] as client:
                while data := client.recv(65536):
                    what = answer(data)
                    if what is None:
                        return
                    client.sendall(what)

        thread = threading.Thread(target=work)
        thread.start()
        yield
        thread.join(10)
        assert not thread.is_alive()


ROGUES: dict[str, Callable[[bytes], bytes | None]] = {
    "hangs up": lambda message: None,
    "refuses": lambda message: reply(message, error=errno.EPROTO),
    "another version": lambda message: reply(message, VERSION.build(major=7) + b"{}\0"),
    "no JSON": lambda message: reply(message, VERSION.build(minor=1) + b"what?\0"),
    "capabilities of a wrong kind": lambda message: reply(message, VERSION.build(minor=1) + b'{"capabilities": 7}\0'),
    "a short version": lambda message: reply(message, b"\0"),
    "a size below the header": lambda message: reply(message, size=3),
    "a size beyond all bounds": lambda message: reply(message, size=1 << 31),
    "a reply to nothing": lambda message: reply(b"\xff\xff" + message[2:]),
    "then refuses": lambda message: (
        reply(message, VERSION_REPLY) if HEADER.unpack_from(message)[1] == Command.VERSION else reply(message, error=22)
    ),
    "then short replies": lambda message: reply(
        message, VERSION_REPLY if HEADER.unpack_from(message)[1] == Command.VERSION else b"\1"
    ),
    "no PCI device": lambda message: reply(
        message,
        VERSION_REPLY
        if HEADER.unpack_from(message)[1] == Command.VERSION
        else DEVICE_INFO.build(argsz=16, flags=DeviceFlag.RESET),
    ),
}


@pytest.mark.parametrize("kind", list(ROGUES))
def test_server_that_is_not_one_is_told_of_and_costs_nothing(path: str, kind: str) -> None:
    gc.collect()  # the mappings of machines of earlier tests
    before, threads = open_fds(), threading.active_count()
    with rogue(path, ROGUES[kind]), pytest.raises(NvmeError, match=r"vfio-user:.*ssd\.sock"):
        nvme_emu.open(url(path))

    assert open_fds() == before
    assert threading.active_count() == threads


def test_server_may_ask_for_memory_and_gets_no_other(path: str) -> None:
    memory = HostMemory()
    region = memory.add_region(np.arange(256, dtype=np.uint8))
    asked: list[bytes] = []
    base, head = region.base, DMA_ACCESS_SCALAR
    questions = [
        (Command.DMA_READ, head.pack(base + 16, 16)),
        (Command.DMA_WRITE, head.pack(base, 4) + b"here"),
        (Command.DMA_READ, head.pack(base + 250, 16)),
        (Command.DMA_WRITE, head.pack(7, 4) + b"nope"),
        (Command.DMA_WRITE, head.pack(base, 8) + b"less"),
        (Command.DMA_READ, head.pack(base, 1 << 40)),
        (Command.DMA_READ, b"\1"),
        (Command.DEVICE_RESET, b""),
    ]

    def answer(message: bytes) -> bytes | None:
        if HEADER.unpack_from(message)[1] == Command.VERSION:
            return reply(message, VERSION_REPLY)
        if HEADER.unpack_from(message)[1] == Command.DEVICE_GET_INFO:
            asked.append(message)
        elif not HEADER.unpack_from(message)[3] & MessageFlag.REPLY:
            return None
        else:
            answers.append(message)
        number = len(answers)
        if number == len(questions):
            return reply(asked[0])
        command, payload = questions[number]
        return HEADER.pack(number, command, HEADER_BYTES + len(payload), 0, 0) + payload

    answers: list[bytes] = []
    with rogue(path, answer):
        messages = Messages(path, memory, lambda why: None)
        messages.request(Command.DEVICE_GET_INFO)
        messages.close()

    errors = [HEADER.unpack_from(one)[4] for one in answers]
    assert errors == [0, 0, errno.EFAULT, errno.EFAULT, *[errno.EINVAL] * 4]
    assert answers[0][HEADER_BYTES + head.size :] == bytes(range(16, 32))
    assert bytes(region.view[:6]) == b"here\4\5"


def test_port_closed_twice_is_closed(serve: Callable[..., Served], path: str) -> None:
    serve()
    port = VfioUserPort(path)
    port.close()
    port.close()

    assert port.read32(0) == 0xFFFF_FFFF
    port.write32(0x14, 0)
    assert os.path.exists(path)
