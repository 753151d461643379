"""A driver for an NVMe function in another process: `nvme_emu.open("vfio-user:///PATH")`.

It is the same driver as in process, on registers, queues and interrupts, with a vfio-user server behind them:
`nvme-emu serve --vfio-user PATH`, or anybody else's.
"""

from __future__ import annotations

import contextlib
import errno
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

import kworker
from kworker import interrupted
from nvme_emu.core.errors import NvmeError
from nvme_emu.core.trace import TraceHub
from nvme_emu.driver import CtrlState, DriverConfig, HostModel, NvmeDriver
from nvme_emu.machine import Machine
from nvme_emu.transports.vfio_user_client import VfioUserPort

__all__ = ["SCHEME", "VfioUserConfig", "VfioUserMachine", "parse_url"]

SCHEME = "vfio-user"


def parse_url(url: str) -> str:
    """The socket's path of vfio-user:///PATH. ValueError for anything else."""
    parts = urlsplit(url)
    if parts.scheme != SCHEME or parts.netloc or not parts.path.strip("/"):
        raise ValueError(f"target {url!r}: {SCHEME}:///PATH names a socket")
    return unquote(parts.path)


@dataclass(frozen=True, kw_only=True, slots=True)
class VfioUserConfig:
    """How to drive it: the options of `open` for a vfio-user URL, as in MachineConfig. ValueError for a wrong one."""

    url: str
    mode: str = "sync"
    worker: str = "pump"
    poll_ns: int = 50_000
    queues: int = 1
    depth: int = 128
    poison: bool = False
    host: HostModel = field(default_factory=HostModel)
    io_timeout: float = 30.0
    admin_timeout: float = 60.0
    max_retries: int = 5
    driver_class: type[NvmeDriver] = NvmeDriver

    def __post_init__(self) -> None:
        parse_url(self.url)
        self.driver_config()

    def driver_config(self) -> DriverConfig:
        """The part that the driver works by."""
        return DriverConfig.of(self)


class VfioUserMachine(Machine):
    """A :class:`~nvme_emu.machine.Machine` whose device is behind a socket.

    ``driver``, ``namespaces``, ``workers``, ``runtime``, ``trace``, ``port`` and ``memory`` are there; what belongs to
    the device (``controller``, ``media``, ``profile``, ``faults``) is not. A server that goes away is a device that was
    pulled out: what waits for it ends with an error at once.
    """

    def __init__(self, config: VfioUserConfig) -> None:
        self.remote = config
        self.trace = TraceHub()
        self.runtime = kworker.current_runtime()
        if self.runtime.virtual:
            raise ValueError(f"{config.url} inside a simulation: a device elsewhere has no virtual clock")
        with contextlib.ExitStack() as undo:
            interrupted.watch(self)
            undo.callback(interrupted.unwatch, self)
            self._connect()
            undo.callback(self._disconnect)
            self._closing = undo.pop_all()

    def _connect(self) -> None:
        config = self.remote
        try:
            port = VfioUserPort(parse_url(config.url))
        except OSError as error:
            raise NvmeError(error.errno or errno.EIO, f"{config.url}: {error.strerror or error}") from error
        try:
            self.port, self.memory = port, port.memory  # type: ignore[assignment]
            self.driver = config.driver_class(port, self.runtime, config.driver_config(), self.trace)
            port.when_gone(self._pulled_out)
            self.driver.probe()
        except BaseException:
            port.close()
            raise

    def _pulled_out(self) -> None:
        # The reset that finds nothing there ends all that waits. A probe has no reset: it is ended here.
        if not self.driver.recovery.schedule_reset() and self.driver.state is CtrlState.CONNECTING:
            self.driver.recovery.kill()

    def _disconnect(self) -> None:
        try:
            self.driver.shutdown()
        finally:
            self.port.close()  # type: ignore[attr-defined]

    def replug(self) -> None:
        """Connect to the socket anew, with a new driver and new namespaces: the server is another one, perhaps.

        What the old ones have not ended ends with an error. NvmeError if nobody serves there, or it does not come up.
        """
        self.driver.recovery.kill()
        self._disconnect()
        self._connect()
