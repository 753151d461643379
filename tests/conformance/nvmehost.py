"""A host for conformance cases: any command over the driver's queues, whatever lies between it and the device."""

from __future__ import annotations

import random
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

import nvme_emu
from nvme_emu.controller import Controller, ControllerConfig, Namespace
from nvme_emu.controller.fabrics import FabricsTarget, Subsystem
from nvme_emu.core.errors import NvmeError
from nvme_emu.core.memory import HostMemory
from nvme_emu.driver.fabrics import FabricsHost
from nvme_emu.driver.request import Request
from nvme_emu.machine import Machine
from nvme_emu.media import RamMedia
from nvme_emu.spec.commands import (
    GET_FEATURES_CDW10,
    IDENTIFY_CDW10,
    IDENTIFY_CDW11,
    SET_FEATURES_CDW10,
    get_log_page_dwords,
    split64,
)
from nvme_emu.spec.opcodes import AdminOpcode
from nvme_emu.spec.status import STATUS_CODE_MASK
from nvme_emu.transports.loop import Loop
from nvme_emu.transports.tcp import TcpServer, TcpServerConfig
from nvme_emu.transports.vfio_user import VfioUserFunction, VfioUserServer

SIZE = 1 << 20
NQN = "nqn.2024-01.org.example:conformance-commands"
BROADCAST = 0xFFFF_FFFF
TRANSPORTS = ("inproc", "inproc-pure", "inproc-virtual", "inproc-tlc", "tcp", "vfio-user")
QUICK = ControllerConfig(
    namespaces_max=8,
    sanitize_ns=20_000_000,
    self_test_short_ns=20_000_000,
    self_test_extended_ns=40_000_000,
    firmware_activation_ns=20_000_000,
)
"""Operations that take time take little: real clocks are real."""


class Answer(NamedTuple):
    """A completion: SCT and SC, dword 0 (of I/O commands with dword 1 above it), and the data that came."""

    status: int
    dw0: int
    data: bytes


class NvmeHost:
    """A host with a driver. ``admin`` and ``io`` give what the device answered, errors included."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.driver = machine.driver
        """Of a machine with several hosts, whichever is meant."""

    @property
    def exact(self) -> bool:
        """Whether time is virtual, so that what takes time has not ended before the next command."""
        return self.machine.runtime.virtual

    def admin(
        self, opcode: int, nsid: int = 0, *, data: bytes | None = None, nbytes: int = 0, **cdws: int
    ) -> Answer:
        """One admin command."""
        try:
            dw0, found = self.driver.admin.execute(
                opcode, nsid=nsid, data=data, read_bytes=nbytes, **cdws
            )
        except NvmeError as error:
            assert error.status is not None, error
            return Answer(error.status & STATUS_CODE_MASK, 0, b"")
        return Answer(0, dw0, b"" if found is None else found.tobytes())

    def io(
        self,
        opcode: int,
        nsid: int = 1,
        *,
        slba: int = 0,
        cdw10: int = 0,
        cdw11: int = 0,
        cdw12: int = 0,
        cdw13: int = 0,
        data: bytes | None = None,
        nbytes: int = 0,
    ) -> Answer:
        """One I/O command; ``cdw12`` is as it stands in the entry."""
        low, high = split64(slba) if slba else (cdw10, cdw11)
        array = np.frombuffer(data, np.uint8) if data is not None else np.zeros(nbytes, np.uint8) if nbytes else None
        view = None if array is None else memoryview(array.data).cast("B")
        request = Request(opcode, nsid, low | high << 32, 0, cdw12, view, data is not None, array)
        request.cdw13 = cdw13
        path = self.driver.path()
        path.submit(request)
        try:
            request.wait(60)
        except NvmeError as error:
            assert error.status is not None, error
            return Answer(error.status & STATUS_CODE_MASK, 0, b"")
        return Answer(0, request.dw0 | request.dw1 << 32, array.tobytes() if array is not None and nbytes else b"")

    # -- commands that many cases need ----------------------------------------------------------------------

    def identify(self, cns: int, nsid: int = 0, *, cntid: int = 0, csi: int = 0, cnssid: int = 0) -> Answer:
        """Identify."""
        return self.admin(
            AdminOpcode.IDENTIFY,
            nsid,
            nbytes=4096,
            cdw10=IDENTIFY_CDW10.pack(cns=cns, cntid=cntid),
            cdw11=IDENTIFY_CDW11.pack(csi=csi, cnssid=cnssid),
        )

    def log(self, lid: int, nbytes: int = 512, **more: Any) -> bytes:
        """A log page that must be there."""
        answer = self.try_log(lid, nbytes, **more)
        assert answer.status == 0, f"log page {lid:#x} ended with {answer.status:#x}"
        return answer.data

    def try_log(self, lid: int, nbytes: int = 512, **more: Any) -> Answer:
        """Get Log Page."""
        dwords = get_log_page_dwords(lid, nbytes, **more)._asdict()
        return self.admin(AdminOpcode.GET_LOG_PAGE, BROADCAST, nbytes=nbytes, **dwords)

    def set_feature(
        self, fid: int, cdw11: int = 0, *, nsid: int = 0, save: bool = False, data: bytes | None = None
    ) -> Answer:
        """Set Features."""
        head = SET_FEATURES_CDW10.pack(fid=fid, sv=int(save))
        return self.admin(AdminOpcode.SET_FEATURES, nsid, cdw10=head, cdw11=cdw11, data=data)

    def feature(self, fid: int, *, nsid: int = 0, sel: int = 0, cdw11: int = 0, nbytes: int = 0) -> Answer:
        """Get Features."""
        head = GET_FEATURES_CDW10.pack(fid=fid, sel=sel)
        return self.admin(AdminOpcode.GET_FEATURES, nsid, cdw10=head, cdw11=cdw11, nbytes=nbytes)

    @property
    def cntlid(self) -> int:
        """The controller's identifier."""
        return int.from_bytes(self.identify(0x01).data[78:80], "little")

    def until(self, done: Callable[[], bool]) -> None:
        """Let time pass until something is so."""
        for _ in range(5000):
            if done():
                return
            self.machine.runtime.sleep_ns(2_000_000)
        raise AssertionError(f"{done} did not come true")


@contextmanager
def tcp_target(config: ControllerConfig, sizes: tuple[int, ...] = (SIZE,)) -> Iterator[str]:
    """The URL of a served subsystem."""
    namespaces = [Namespace(nsid, RamMedia(size), 512, zoned=config.zns) for nsid, size in enumerate(sizes, 1)]
    target = FabricsTarget([Subsystem(config=config, namespaces=namespaces, nqn=NQN)])
    loop = Loop()
    server = TcpServer(loop, target, TcpServerConfig(port=0), log=lambda line: None)
    thread = threading.Thread(target=loop.run)
    thread.start()
    try:
        yield f"nvme-tcp://127.0.0.1:{server.address[1]}/{NQN}"
    finally:
        loop.stop()
        thread.join(10)
        server.close()
        loop.close()


@contextmanager
def vfio_user_device(config: ControllerConfig, sizes: tuple[int, ...] = (SIZE,)) -> Iterator[str]:
    """The URL of a PCI function with such namespaces, served by a thread."""
    memory, loop = HostMemory(), Loop()
    namespaces = [Namespace(nsid, RamMedia(size), 512, zoned=config.zns) for nsid, size in enumerate(sizes, 1)]
    controller = Controller(config, memory=memory, namespaces=namespaces, latency=None, rng=random.Random(0))
    function = VfioUserFunction(controller, memory, clock=loop.clock, mapped_doorbells=True)
    with tempfile.TemporaryDirectory(prefix="nvme-emu-") as directory:
        path = f"{directory}/ssd"
        server = VfioUserServer(loop, path, function, log=lambda line: None)
        thread = threading.Thread(target=loop.run)
        thread.start()
        try:
            yield f"vfio-user://{path}"
        finally:
            loop.stop()
            thread.join(10)
            server.close()
            loop.close()
    assert server.internal_error is None


@contextmanager
def tcp_host(url: str, number: int = 1) -> Iterator[NvmeHost]:
    """Host ``number`` connected to it."""
    identity = FabricsHost(
        nqn=f"nqn.2024-01.org.example:host{number}", identifier=number.to_bytes(16, "little")
    )
    with nvme_emu.open(url, identity=identity) as machine:
        yield NvmeHost(machine)


@contextmanager
def connected(transport: str, config: ControllerConfig = QUICK, namespaces: int = 1) -> Iterator[NvmeHost]:
    """A host over one of `TRANSPORTS`, with namespaces of 1 MiB of 512-byte blocks; zoned ones with ``config.zns``."""
    if transport == "tcp":
        with tcp_target(replace(config), (SIZE,) * namespaces) as url, tcp_host(url) as host:
            yield host
        return
    if transport == "vfio-user":
        with vfio_user_device(config, (SIZE,) * namespaces) as url, nvme_emu.open(url) as machine:
            yield NvmeHost(machine)
        return
    options: dict[str, Any] = {}
    if transport == "inproc-virtual":
        options["clock"] = "virtual"
    elif transport == "inproc-tlc":
        options["profile"] = "tlc"
        options["clock"] = "virtual"
    options |= {"size": SIZE * namespaces, "namespaces": namespaces, "zoned": config.zns}
    with nvme_emu.open(controller=config, **options) as machine:
        if transport == "inproc-pure":
            machine.controller.compiled = False
        yield NvmeHost(machine)
