"""A driver for a device that is elsewhere: `nvme_emu.open("nvme-tcp://HOST:PORT/NQN")`.

It has a driver and its namespaces like every machine, and no controller, medium or memory of its own.
"""

from __future__ import annotations

import contextlib
import errno
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

import kworker
from kworker import interrupted
from nvme_emu import machine_vfio_user
from nvme_emu.core.errors import NvmeError
from nvme_emu.core.tls_psk import TlsKey
from nvme_emu.core.trace import TraceHub
from nvme_emu.driver import DriverConfig, HostModel
from nvme_emu.driver.fabrics import FabricsDriver, FabricsHost
from nvme_emu.machine import Machine
from nvme_emu.observe.pcap import Capture
from nvme_emu.spec.fabrics import check_nqn
from nvme_emu.transports.tcp import DEFAULT_PORT, InitiatorOptions, TcpFabric

__all__ = ["SCHEME", "RemoteConfig", "RemoteMachine", "open_url", "parse_url"]

SCHEME = "nvme-tcp"


def open_url(url: str, **options: Any) -> Machine:
    """Attach to the device that a URL names. ValueError for a scheme that is not known, and as `open`."""
    if urlsplit(url).scheme == machine_vfio_user.SCHEME:
        return machine_vfio_user.VfioUserMachine(machine_vfio_user.VfioUserConfig(url=url, **options))
    return RemoteMachine(RemoteConfig(url=url, **options))


def parse_url(url: str) -> tuple[str, int, str]:
    """(host, port, NQN) of nvme-tcp://HOST[:PORT]/NQN. ValueError for anything else."""
    parts = urlsplit(url)
    if parts.scheme != SCHEME:
        others = f"{SCHEME}://HOST:PORT/NQN or {machine_vfio_user.SCHEME}:///PATH"
        raise ValueError(f"target {url!r}: a path, {others} can be opened")
    try:
        port = parts.port or DEFAULT_PORT
    except ValueError as error:
        raise ValueError(f"target {url!r}: {error}") from None
    nqn = unquote(parts.path.removeprefix("/"))
    if not parts.hostname or not nqn:
        raise ValueError(f"target {url!r}: {SCHEME}://HOST:PORT/NQN names a subsystem")
    return parts.hostname, port, check_nqn(nqn)


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteConfig:
    """How to drive it: the options of `open` for a URL. ValueError where something is wrong.

    ``mode``, ``worker``, ``queues``, ``depth``, ``host`` as in MachineConfig; ``identity`` who we say we are;
    ``tcp`` what we ask the target for; ``pcap`` a file for what goes over the connections (pcapng). ``io_timeout``,
    ``admin_timeout``, ``max_retries``, ``reconnect_delay`` and ``ctrl_loss_tmo`` (seconds; 0: never connect again) are
    Linux's.
    """

    url: str
    mode: str = "sync"
    worker: str = "pump"
    queues: int = 1
    depth: int = 128
    host: HostModel = field(default_factory=HostModel)
    identity: FabricsHost = field(default_factory=FabricsHost)
    tcp: InitiatorOptions = field(default_factory=InitiatorOptions)
    pcap: str | None = None
    io_timeout: float = 30.0
    admin_timeout: float = 60.0
    max_retries: int = 5
    reconnect_delay: float = 10.0
    ctrl_loss_tmo: float = 600.0

    def __post_init__(self) -> None:
        parse_url(self.url)
        if self.mode not in ("sync", "async"):
            raise ValueError(f"mode={self.mode!r}: over {SCHEME} it is 'sync' or 'async'")
        if self.worker not in ("pump", "per-request"):
            raise ValueError(f"worker={self.worker!r}: over {SCHEME} it is 'pump' or 'per-request'")
        self.driver_config()

    def driver_config(self) -> DriverConfig:
        """The part that the driver works by."""
        return DriverConfig.of(self)


class RemoteMachine(Machine):
    """A :class:`~nvme_emu.machine.Machine` whose device is reached by messages.

    ``driver``, ``namespaces``, ``workers``, ``runtime`` and ``trace`` are there; what belongs to the device
    (``controller``, ``media``, ``memory``, ``port``, ``profile``) is not.
    """

    def __init__(self, config: RemoteConfig) -> None:
        self.remote = config
        self.trace = TraceHub()
        self.runtime = kworker.current_runtime()
        if self.runtime.virtual:
            raise ValueError(f"{config.url} inside a simulation: a device elsewhere has no virtual clock")
        self._closing = contextlib.ExitStack()
        host, port, nqn = parse_url(config.url)
        with contextlib.ExitStack() as undo:
            interrupted.watch(self)
            undo.callback(interrupted.unwatch, self)
            capture = None if config.pcap is None else undo.enter_context(Capture(config.pcap))
            tap = None if capture is None else capture.tap()
            key = config.identity.tls_key
            tls = None if key is None else (TlsKey.parse(key), config.identity.nqn)
            fabric = TcpFabric(host, port, nqn, config.tcp, tap=tap, tls=tls)
            undo.callback(fabric.close)
            self.driver: Any = FabricsDriver(
                fabric, self.runtime, config.driver_config(), self.trace, config.identity
            )
            self.driver.probe()
            undo.callback(self.driver.shutdown)
            self._closing = undo.pop_all()

    def replug(self) -> None:
        """NvmeError (EOPNOTSUPP): what is elsewhere cannot be put back; `open` it again."""
        raise NvmeError(errno.EOPNOTSUPP, f"{self.remote.url} cannot be put back in: open it again")
