"""`serve --tcp`: an SSD as an NVM subsystem behind an NVMe/TCP target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from nvme_emu.controller.fabrics import FabricsTarget, Subsystem
from nvme_emu.transports.tcp import TcpServer, TcpServerConfig, parse_address

if TYPE_CHECKING:
    from nvme_emu.cli.serve_device import ServedDevice
    from nvme_emu.controller import Controller
    from nvme_emu.transports.loop import Loop

__all__ = ["TcpFront"]


class TcpFront:
    """A device at a TCP address. ValueError for an address or a name that is none, OSError for one in use."""

    def __init__(
        self,
        loop: Loop,
        address: str,
        device: ServedDevice,
        *,
        nqn: str,
        hosts: Sequence[str],
        log: Callable[[str], None],
        on_controller: Callable[[Controller], None] | None = None,
    ) -> None:
        host, port = parse_address(address)
        self._device = device
        inner = device.controller
        subsystem = Subsystem(
            config=inner.config,
            namespaces=list(inner.namespaces.values()),
            nqn=nqn,
            hosts=frozenset(hosts) or None,
            latency=inner.latency,
            trace=device.trace,
            rng=inner.rng,
            counters=inner.counters,
            on_controller=on_controller,
        )
        self.nqn = subsystem.nqn
        self.target = FabricsTarget([subsystem])
        self._server = TcpServer(loop, self.target, TcpServerConfig(host=host, port=port), log=log)
        bound_host, bound_port = self._server.address
        self._server.log(f"nvme connect -t tcp -a {bound_host} -s {bound_port} -n {self.nqn}")

    @property
    def failed(self) -> bool:
        """Whether something went wrong that is nobody's fault but ours."""
        return self._server.internal_error is not None or any(
            association.controller.internal_error is not None for association in self.target.associations.values()
        )

    def summary(self) -> dict[str, object]:
        """What it did, ready for JSON."""
        host, port = self._server.address
        return {
            "tcp": f"{host}:{port}",
            "nqn": self.nqn,
            "clients": self._server.clients,
            "controllers": self.target.controllers_made,
            **self._device.summary(),
        }

    def work(self) -> None:
        """Let the device do what is due, and tell the hosts."""
        self._server.work()

    def close(self) -> None:
        """Drop its hosts and stop listening."""
        self._server.close()
