"""What every way to a device must do alike: the same cases in process and over TCP, synchronous and not."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from nvmehost import vfio_user_device

import nvme_emu
from nvme_emu.controller import ControllerConfig, Namespace
from nvme_emu.controller.fabrics import FabricsTarget, Subsystem
from nvme_emu.core.errors import NvmeError
from nvme_emu.machine import Machine
from nvme_emu.media import RamMedia
from nvme_emu.spec.status import Status
from nvme_emu.transports.loop import Loop
from nvme_emu.transports.tcp import InitiatorOptions, TcpServer, TcpServerConfig

SIZE = 16 << 20
NQN = "nqn.2024-01.org.example:conformance"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A target with one namespace, served by a thread."""
    namespace = Namespace(1, RamMedia(SIZE), 512)
    target = FabricsTarget([Subsystem(config=ControllerConfig(), namespaces=[namespace], nqn=NQN)])
    loop = Loop()
    server = TcpServer(loop, target, TcpServerConfig(port=0), log=lambda line: None)
    thread = threading.Thread(target=loop.run)
    thread.start()
    yield f"nvme-tcp://127.0.0.1:{server.address[1]}/{NQN}"
    loop.stop()
    thread.join(10)
    server.close()
    loop.close()


@pytest.fixture(scope="module")
def function() -> Iterator[str]:
    """A PCI function with one namespace, served by a thread."""
    with vfio_user_device(ControllerConfig(), (SIZE,)) as url:
        yield url


@pytest.fixture(
    params=[
        *("inproc-sync", "inproc-async"),
        *("tcp-sync", "tcp-async", "tcp-per-request", "tcp-digests"),
        *("vfio-user-sync", "vfio-user-async", "vfio-user-poll"),
    ],
)
def ssd(request: pytest.FixtureRequest, url: str) -> Iterator[Machine]:
    """A machine of each kind, with a disk of zeros."""
    kind = request.param
    if kind.startswith("vfio-user"):
        function = request.getfixturevalue("function")
        worker = "poll" if kind.endswith("poll") else "pump"
        machine = nvme_emu.open(function, mode="sync" if kind == "vfio-user-sync" else "async", worker=worker)
    elif kind.startswith("inproc"):
        machine = nvme_emu.open(size=SIZE, mode=kind.removeprefix("inproc-"))
    elif kind == "tcp-digests":
        machine = nvme_emu.open(url, tcp=InitiatorOptions(header_digest=True, data_digest=True))
    elif kind == "tcp-per-request":
        machine = nvme_emu.open(url, mode="async", worker="per-request")
    else:
        machine = nvme_emu.open(url, mode=kind.removeprefix("tcp-"))
    with machine:
        machine.namespaces[1].discard(0, SIZE // 512)
        yield machine


def pattern(nbytes: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, nbytes, np.uint8)


def test_namespace_is_what_the_device_says(ssd: Machine) -> None:
    namespace = ssd.namespaces[1]

    assert (namespace.nlb, namespace.lba_size, namespace.nbytes) == (SIZE // 512, 512, SIZE)


@pytest.mark.parametrize("blocks", [1, 7, 8, 9, 16, 17, 31, 32, 33, 255, 2048, 2049, 6000])
def test_what_is_written_is_read(ssd: Machine, blocks: int) -> None:
    namespace = ssd.namespaces[1]
    data = pattern(blocks * 512, blocks)

    namespace.write(3, data)

    assert (namespace.read(3, blocks) == data).all()
    assert not namespace.read(2, 1).any()
    assert not namespace.read(3 + blocks, 1).any()


def test_many_at_once_are_the_same_as_one_by_one(ssd: Machine) -> None:
    namespace = ssd.namespaces[1]
    slbas = np.random.default_rng(1).permutation(500) * 8
    data = pattern(500 * 4096)

    namespace.write_many(slbas, data, 8)

    assert (namespace.read_many(slbas, 8).reshape(-1) == data).all()
    assert (namespace.read(int(slbas[17]), 8) == data[17 * 4096 : 18 * 4096]).all()


def test_requests_that_overlap_in_time_keep_their_data_apart(ssd: Machine) -> None:
    namespace = ssd.namespaces[1]
    writes = [namespace.submit_write(index * 4, pattern(2048, index)) for index in range(200)]
    for request in writes:
        request.wait(30)

    reads = [namespace.submit_read(index * 4, 4) for index in range(200)]

    for index, request in enumerate(reads):
        assert (request.wait(30) == pattern(2048, index)).all()


def test_callbacks_run_once_each(ssd: Machine) -> None:
    seen: list[int] = []
    namespace = ssd.namespaces[1]

    requests = [
        namespace.submit_read(index, 1, callback=lambda rq, index=index: seen.append(index)) for index in range(20)
    ]
    for request in requests:
        request.wait(30)
    ssd.driver.drain()

    for _ in range(2000):
        if len(seen) == 20:
            break
        ssd.runtime.sleep_ns(1_000_000)
    assert sorted(seen) == list(range(20))


def test_compare_tells_equal_from_different(ssd: Machine) -> None:
    namespace = ssd.namespaces[1]
    data = pattern(4096)
    namespace.write(0, data)

    namespace.compare(0, data)
    data[4000] ^= 1
    with pytest.raises(NvmeError) as caught:
        namespace.compare(0, data)

    assert caught.value.errno == errno.ENODATA
    assert caught.value.status is not None
    assert caught.value.status & 0x7FF == Status.COMPARE_FAILED


def test_write_zeroes_flush_and_discard(ssd: Machine) -> None:
    namespace = ssd.namespaces[1]
    namespace.write(0, pattern(32 * 512))

    namespace.write_zeroes(4, 4)
    namespace.discard([(12, 2), (20, 4)])
    namespace.flush()

    blocks = namespace.read(0, 32).reshape(32, 512).any(axis=1)
    assert [index for index, used in enumerate(blocks) if not used] == [4, 5, 6, 7, 12, 13, 20, 21, 22, 23]


def test_force_unit_access_is_taken(ssd: Machine) -> None:
    ssd.namespaces[1].write(0, pattern(512), fua=True)

    assert (ssd.namespaces[1].read(0, 1) == pattern(512)).all()


@pytest.mark.breaks_rules  # a read behind the end
def test_failed_command_leaves_the_queue_usable(ssd: Machine) -> None:
    from nvme_emu.driver.request import Request

    path = ssd.driver.path()
    request = Request(0x02, 1, SIZE // 512, 1, 0, memoryview(bytearray(512)), False)
    path.submit(request)
    with pytest.raises(NvmeError):
        request.wait(30)

    assert request.status is not None
    assert request.status & 0x7FF == Status.LBA_RANGE
    assert ssd.namespaces[1].read(0, 1).nbytes == 512


def test_unknown_admin_command_is_refused(ssd: Machine) -> None:
    with pytest.raises(NvmeError) as caught:
        ssd.driver.admin.execute(0xC1)

    assert caught.value.status is not None
    assert caught.value.status & 0x7FF == Status.INVALID_OPCODE


def test_log_pages_and_features_come_through(ssd: Machine) -> None:
    smart = ssd.driver.admin.get_log_page(0x02, 512)
    temperature = ssd.driver.admin.get_features(0x04)

    assert int(smart[1:3].view("<u2")[0]) == 310
    assert temperature & 0xFFFF == 343


def test_trace_tells_each_step_once(ssd: Machine) -> None:
    events: list[object] = []
    ssd.trace.add_sink(events.append)
    ssd.namespaces[1].read(8, 8)
    ssd.driver.drain()
    ssd.trace.remove_sink(events.append)

    names = [event.name for event in events if getattr(event, "name", "").startswith("nvme_")]  # type: ignore[attr-defined]
    wanted = ["nvme_setup_cmd", "nvme_sq", "nvme_complete_rq"]
    assert [name for name in names if name in wanted] == wanted
