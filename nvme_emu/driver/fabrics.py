"""The driver of a controller behind a fabric: Connect instead of rings, properties instead of registers.

Probe goes the way of Linux's nvme-tcp: connect the admin queue, enable the controller by Property Set,
identify, agree on the number of queues, connect each of them, scan. Above the queues everything is
`NvmeDriver`'s: requests, namespaces, events.
"""

from __future__ import annotations

import contextlib
import errno
import platform
import threading
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kworker.interrupted import never
from nvme_emu.core.dhchap import Secret
from nvme_emu.core.errors import NvmeError
from nvme_emu.core.memory import HostMemory
from nvme_emu.core.tls_psk import TlsKey
from nvme_emu.driver.admin import ADMIN_DEPTH, ADMIN_TAGS, AdminQueue
from nvme_emu.driver.config import DriverConfig
from nvme_emu.driver.device import ALL_ONES_32, NvmeDriver
from nvme_emu.driver.fabrics_auth import authenticate
from nvme_emu.driver.fabrics_pair import FabricsPair, as_pair
from nvme_emu.driver.fabrics_path import FabricsPumpPath, FabricsSyncPath
from nvme_emu.driver.fabrics_recovery import FabricsRecovery
from nvme_emu.driver.pump import PerRequestPath
from nvme_emu.driver.reset import HOST_ABORTED
from nvme_emu.driver.state import CtrlState
from nvme_emu.spec.commands import join64
from nvme_emu.spec.fabrics import CATTR, CNTLID_ANY, CONNECT_DATA
from nvme_emu.spec.opcodes import AdminOpcode, FabricsType
from nvme_emu.spec.registers import (
    CAP,
    CAP_CSS_IOCS,
    CAP_TO_UNIT_MS,
    CC,
    CC_CSS_IOCS,
    CC_CSS_NVM,
    CC_SHN_NORMAL,
    CSTS,
    CSTS_RDY,
    CSTS_SHST_COMPLETE,
    Reg,
)
from nvme_emu.spec.status import words_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from kworker import Runtime
    from nvme_emu.core.capsules import CapsuleChannel, Fabric
    from nvme_emu.core.ports import IrqHandler
    from nvme_emu.core.trace import TraceHub
    from nvme_emu.driver.queue_pair import QueueContext
    from nvme_emu.driver.recovery import Recovery
    from nvme_emu.driver.submit import SubmitPath

__all__ = ["FabricsDriver", "FabricsHost", "default_hostnqn"]

CAPSULE_UNIT = 16
SQE_BYTES = 64
IN_CAPSULE_MAX = 1 << 20
"""Our own bound on what we put into one capsule, whatever the target would take."""
SHUTDOWN_MS = 5_000
_FABRICS = int(AdminOpcode.FABRICS)


def default_hostnqn() -> tuple[str, bytes]:
    """(host NQN, host identifier) of this machine, the same every time."""
    identity = uuid.uuid5(uuid.NAMESPACE_DNS, f"nvme-emu.{platform.node()}")
    return f"nqn.2014-08.org.nvmexpress:uuid:{identity}", identity.bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class FabricsHost:
    """Who we say that we are. `kato_ms` 0 asks for no keep alive timer; two minutes is what the specification takes
    where a transport such as TCP needs one (Base 2.1, 5.1.25.1.11).

    With `dhchap_secret` (DHHC-1:…) we prove it to a target that asks; with `dhchap_ctrl_secret` as well the
    target has to prove who it is. With `tls_key` (NVMeTLSkey-1:…) connections are TLS 1.3, which takes Python 3.13.
    ValueError for a secret or a key that is none.
    """

    nqn: str = field(default_factory=lambda: default_hostnqn()[0])
    identifier: bytes = field(default_factory=lambda: default_hostnqn()[1])
    kato_ms: int = 120_000
    dhchap_secret: str | None = field(default=None, repr=False)
    dhchap_ctrl_secret: str | None = field(default=None, repr=False)
    tls_key: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for secret in (self.dhchap_secret, self.dhchap_ctrl_secret):
            if secret is not None:
                Secret.parse(secret)
        if self.tls_key is not None:
            TlsKey.parse(self.tls_key)
        if self.dhchap_ctrl_secret is not None and self.dhchap_secret is None:
            raise ValueError("dhchap_ctrl_secret needs dhchap_secret: the host authenticates itself first")


class _Port:
    """A `core.ports.DevicePort` whose registers are properties, and which has neither doorbells nor vectors."""

    def __init__(self) -> None:
        self.memory = HostMemory()
        self.admin: FabricsAdminQueue | None = None

    def read32(self, offset: int) -> int:
        """Property Get; all ones when there is nobody to ask."""
        return self._get(offset, False) & ALL_ONES_32

    def read64(self, offset: int) -> int:
        """Property Get of eight bytes."""
        return self._get(offset, True)

    def _get(self, offset: int, wide: bool) -> int:
        try:
            if self.admin is not None:
                return self.admin.property_get(offset, wide)
        except NvmeError:
            pass
        return (1 << 64) - 1

    def map_bar(self, bar: int, offset: int, nbytes: int) -> None:
        """There are no BARs."""

    def write32(self, offset: int, value: int) -> None:
        """Property Set; lost when there is nobody to tell."""
        self.write64(offset, value)

    def write64(self, offset: int, value: int) -> None:
        """Property Set; the offset tells the size."""
        try:
            if self.admin is not None:
                self.admin.property_set(offset, value)
        except NvmeError:
            pass

    def ring_sq(self, qid: int, tail: int) -> None:
        """There are no doorbells."""

    def ring_cq(self, qid: int, head: int) -> None:
        """There are no doorbells."""

    def ring_sq_polled(self, qid: int, tail: int, vector: int) -> bool:
        """There are no doorbells."""
        return False

    def connect_irq(self, vector: int, handler: IrqHandler) -> None:
        """There are no vectors."""

    def mask_irq(self, vector: int, masked: bool) -> None:
        """There are no vectors."""

    def lane(self, qid: int) -> None:
        """Nothing is to be had in one call."""

    def poll(self) -> int | None:
        """The device works by itself."""
        return None


class FabricsAdminQueue(AdminQueue):
    """The admin queue over a channel, with the Fabrics commands."""

    def __init__(
        self,
        context: QueueContext,
        channel: CapsuleChannel,
        recovery: Recovery,
        on_event: Callable[[int], None],
        on_stray: Callable[[int, int, int], None],
        on_lost: Callable[[OSError], None],
    ) -> None:
        self._on_event = on_event
        self._on_stray = on_stray
        self.wires = FabricsPair(context, channel, 0, ADMIN_DEPTH, ADMIN_TAGS, self._stray, on_lost)
        self.pair: Any = self.wires
        self.path: Any = FabricsSyncPath(self.wires, context, recovery)
        self.path.timeout_ns = int(recovery.config.admin_timeout * 1e9)
        self._properties = threading.Lock()

    def property_get(self, offset: int, wide: bool) -> int:
        """A property's value; NvmeError when it cannot be had."""
        with self._properties:
            self.wires.wide.clear()
            low, _ = self.execute(
                _FABRICS, nsid=FabricsType.PROPERTY_GET, cdw10=int(wide), cdw11=offset
            )
            wides = self.wires.wide
            return wides.popitem()[1] if wides else low

    def property_set(self, offset: int, value: int) -> None:
        """Set a property of four bytes."""
        self.execute(_FABRICS, nsid=FabricsType.PROPERTY_SET, cdw11=offset, cdw12=value)


def connect(path: FabricsSyncPath, host: FabricsHost, nqn: str, cntlid: int, qid: int, depth: int) -> int:
    """Connect a queue of `depth` entries, and authenticate; the controller's identifier. NvmeError with the reason."""
    from nvme_emu.driver.errno_table import error_of
    from nvme_emu.driver.request import Request

    data = CONNECT_DATA.build(hostid=host.identifier, cntlid=cntlid, subnqn=nqn, hostnqn=host.nqn)
    sizes = depth - 1 | CATTR.pack(dissqfc=1) << 16
    rq = Request(
        _FABRICS,
        FabricsType.CONNECT,
        join64(qid << 16, sizes),
        0,
        0 if qid else host.kato_ms,
        memoryview(data),
        True,
    )
    rq.admin = True
    path.submit(rq)
    if rq._status:
        words = words_of(rq._status, fabrics=True)
        raise NvmeError(
            error_of(rq._status, "").errno or errno.EIO, f"Connect of queue {qid} to {nqn}: {words}", status=rq._status
        )
    authenticate(path, host, nqn, rq.dw0 >> 16)
    return rq.dw0 & 0xFFFF


class FabricsDriver(NvmeDriver):
    """Drives the controller that `fabric` leads to."""

    recovery_class = FabricsRecovery
    recovery: FabricsRecovery

    def __init__(
        self, fabric: Fabric, runtime: Runtime, config: DriverConfig, trace: TraceHub, host: FabricsHost
    ) -> None:
        self._wire = _Port()
        super().__init__(self._wire, runtime, config, trace)
        self.fabric = fabric
        self.host = host
        self.cntlid = 0

    def probe(self) -> None:
        """See `NvmeDriver.probe`; keep alive begins with it."""
        super().probe()
        self.recovery.start_keep_alive()

    def _open_channel(self) -> CapsuleChannel:
        try:
            return self.fabric.open()
        except OSError as error:
            raise NvmeError(error.errno or errno.EIO, error.strerror or str(error)) from error

    def _enable(self) -> None:
        channel = self._open_channel()
        admin = FabricsAdminQueue(
            self._context, channel, self.recovery, self._event, self._stray, self._connection_lost
        )
        self._admin = self._wire.admin = admin
        self._enable_over(admin)

    def _enable_over(self, admin: FabricsAdminQueue) -> None:
        """Connect the admin queue and enable the controller."""
        self.cntlid = connect(admin.path, self.host, self.fabric.nqn, CNTLID_ANY, 0, ADMIN_DEPTH)
        self.fabric.watch(admin.wires.channel, admin.path.interrupt)
        admin.wires.rearm = True
        self._cap = cap = CAP.unpack(admin.property_get(Reg.CAP, True))
        css = CC_CSS_IOCS if cap.css & CAP_CSS_IOCS else CC_CSS_NVM
        cc = CC.pack(css=css, iosqes=6, iocqes=4)
        admin.property_set(Reg.CC, CC.replace(cc, en=1))
        timeout_ms = (cap.to + 1) * CAP_TO_UNIT_MS
        self._wait_csts(CSTS_RDY, CSTS_RDY, timeout_ms, "become ready after CC.EN=1")

    def _create_io_queues(self) -> None:
        config = self.config
        count = self._agree_on_queues(config.queues)
        depth = self._queue_depth()
        for qid in range(1, count + 1):
            path = self._connect_queue(qid, depth)
            self.paths.append(path)
            self.recovery.watch(path)

    def _connect_queue(self, qid: int, depth: int) -> SubmitPath:
        context = self._context
        tags = min(depth - 1, 4095)
        pair = FabricsPair(context, self._open_channel(), qid, depth, tags, self._stray, self._connection_lost)
        self._connect_pair(pair)
        if self.config.mode == "sync":
            return FabricsSyncPath(pair, context, self.recovery)
        worker = self._start_worker(qid)
        path: SubmitPath
        if self.config.worker == "pump":
            path = FabricsPumpPath(pair, context, self.recovery, worker)
        else:
            pair.rearm = True
            path = PerRequestPath(as_pair(pair), context, self.recovery, worker)
        self.fabric.watch(pair.channel, path.interrupt)
        return path

    def _connect_pair(self, pair: FabricsPair) -> None:
        """Connect an I/O queue over its channel."""
        caller = FabricsSyncPath(pair, self._context, self.recovery)
        connect(caller, self.host, self.fabric.nqn, self.cntlid, pair.qid, pair.depth)
        capsule = int(self.identity.ioccsz) * CAPSULE_UNIT - SQE_BYTES
        pair.channel.in_capsule_bytes = max(0, min(capsule, IN_CAPSULE_MAX)) if not self.identity.icdoff else 0

    def disconnect(self) -> None:
        """Close all connections; the controller is gone with them."""
        for path in self.all_paths():
            path.pair.close()

    def bring_up_again(self) -> None:
        """Connect all queues again. NvmeError where that fails; then there are no connections."""
        admin = self._wire.admin
        assert admin is not None
        try:
            admin.wires.rearm = False
            admin.wires.reconnect(self._open_channel())
            self._enable_over(admin)
            self._identify()
            if self._agree_on_queues(len(self.paths)) < len(self.paths):
                raise NvmeError(errno.ENODEV, "fewer I/O queues than before")
            for path in self.paths:
                pair: Any = path.pair
                rearm, pair.rearm = pair.rearm, False
                pair.reconnect(self._open_channel())
                self._connect_pair(pair)
                pair.rearm = rearm
                if self.config.mode != "sync":
                    self.fabric.watch(pair.channel, path.interrupt)
            self.events.enable()
        except BaseException:
            self.disconnect()
            raise

    def disable(self) -> None:
        """A connection that is closed takes its controller along (NVMe over Fabrics: the association ends)."""
        self.disconnect()

    def disable_for_good(self) -> None:
        """See `disable`."""
        self.disconnect()

    def is_lost(self) -> bool:
        """Whether the connections are gone."""
        pairs: list[Any] = [path.pair for path in self.all_paths()]
        return any(pair.lost is not None for pair in pairs)

    def _connection_lost(self, error: OSError) -> None:
        """A queue's connection is gone; runs where somebody found out, with locks held."""
        self.lost = error
        self.recovery.connection_lost(error)

    lost: OSError | None = None
    """Why the connection ended the last time, if it did."""

    @never
    def shutdown(self) -> None:
        """End what is outstanding, shut the controller down normally (CC.SHN=01b), and disconnect."""
        self._check_not_a_worker()
        self.recovery.give_up()
        self.recovery.flush()
        self.close_paths()
        self.recovery.unwatch()
        if self.change_state(CtrlState.DELETING):
            with contextlib.suppress(NvmeError):
                # Who is not there any more does not need to be shut down.
                cc = self._wire.read32(Reg.CC)
                self._wire.write32(Reg.CC, CC.replace(cc, shn=CC_SHN_NORMAL))
                self._wait_csts(CSTS.mask("shst"), CSTS.pack(shst=CSTS_SHST_COMPLETE), SHUTDOWN_MS, "shut down")
            self.change_state(CtrlState.DEAD)
        # Who came too late waits at a queue's gate.
        for path in self.paths:
            path.kill(HOST_ABORTED)
        self._wire.admin = None
        self._stop_workers()
        self.paths = self.offered = []
        self.namespaces.clear()
        self.fabric.close()
        self._pool.close()
