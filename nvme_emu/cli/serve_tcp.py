"""`serve --tcp`: an SSD as an NVM subsystem behind an NVMe/TCP target."""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nvme_emu.cli.serve_watch import copy_health
from nvme_emu.controller.fabrics import FabricsTarget, Subsystem
from nvme_emu.controller.fabrics_auth import DhchapPolicy
from nvme_emu.core.dhchap import DhchapSecrets, Secret
from nvme_emu.core.tls_psk import TlsKey
from nvme_emu.spec.dhchap import DhGroup, DhHash
from nvme_emu.spec.fabrics import check_nqn
from nvme_emu.transports.tcp import TcpServer, TcpServerConfig, parse_address
from nvme_emu.transports.tcp.tls import TlsKeys

if TYPE_CHECKING:
    from nvme_emu.cli.serve_device import ServedDevice, ServedPort
    from nvme_emu.controller.fabrics import Association
    from nvme_emu.core.ports import StreamTap
    from nvme_emu.transports.loop import Loop

__all__ = ["DHCHAP_GROUPS", "DHCHAP_HASHES", "TcpFront", "advertised", "dhchap_policy", "tls_keys"]

# As Linux's target calls them (dhchap_hash and dhchap_dhgroup in its configfs).
DHCHAP_HASHES: Final = {f"hmac({one.name.lower()})": int(one) for one in DhHash}
DHCHAP_GROUPS: Final = {one.name.lower(): int(one) for one in DhGroup}


def _read(text: str) -> str:
    """A secret, or the one that a file holds: on a command line everybody can read it."""
    return Path(text[1:]).read_text(encoding="ascii") if text.startswith("@") else text


def _secret(text: str) -> Secret:
    return Secret.parse(_read(text))


def dhchap_policy(
    given: Sequence[str], ctrl: str | None, hash_name: str | None, dhgroup: str | None
) -> DhchapPolicy | None:
    """Who has to authenticate itself: `given` are SECRET, for every host, or HOSTNQN=SECRET, for one.

    `ctrl` is what we answer with when a host asks; with a hash or a group only that one is taken. ValueError for
    what cannot be, OSError for a file.
    """
    if not given:
        if ctrl is not None or hash_name is not None or dhgroup is not None:
            raise ValueError("the other --dhchap options need --dhchap-secret")
        return None
    for name, known in ((hash_name, DHCHAP_HASHES), (dhgroup, DHCHAP_GROUPS)):
        if name is not None and name not in known:
            raise ValueError(f"{name!r} is none of {', '.join(known)}")
    own = None if ctrl is None else _secret(ctrl)
    hosts: dict[str, DhchapSecrets] = {}
    others: DhchapSecrets | None = None
    for text in given:
        if text.startswith("nqn."):
            nqn, _, secret = text.partition("=")
            hosts[check_nqn(nqn)] = DhchapSecrets(_secret(secret), own)
        elif others is not None:
            raise ValueError("two --dhchap-secret for every host: say HOSTNQN=SECRET for those that differ")
        else:
            others = DhchapSecrets(_secret(text), own)
    return DhchapPolicy(
        entropy=secrets.token_bytes,
        hosts=hosts,
        others=others,
        hashes=frozenset(DHCHAP_HASHES.values() if hash_name is None else [DHCHAP_HASHES[hash_name]]),
        dhgroups=frozenset(DHCHAP_GROUPS.values() if dhgroup is None else [DHCHAP_GROUPS[dhgroup]]),
    )


def advertised(given: Sequence[str], targets: int = 1) -> list[tuple[str, int]]:
    """Where hosts reach each of so many targets: (address, port) of each ADDRESS[:PORT]; port 0 is the target's own.

    Another port is for what a gateway forwards. ValueError for what is no IP address of one machine (the discovery
    log has no names), and for a port that several targets would share.
    """
    found = []
    for text in given:
        host, port = parse_address(text, 0)
        try:
            one_machine = not ipaddress.ip_address(host).is_unspecified
        except ValueError:
            one_machine = False
        if not one_machine:
            raise ValueError(f"--tcp-address {text}: {host!r} is no IP address that hosts can connect to")
        if port and targets > 1:
            raise ValueError(f"--tcp-address {text}: the port can be that of one --tcp only, and there are {targets}")
        found.append((host, port))
    return found


def tls_keys(given: Sequence[str]) -> TlsKeys | None:
    """The keys of hosts: `given` are KEY, for every host, or HOSTNQN=KEY. None without any.

    ValueError for what is none, and where Python has no such TLS; OSError for a file.
    """
    hosts: dict[str, TlsKey] = {}
    others: TlsKey | None = None
    for text in given:
        if text.startswith("nqn."):
            nqn, _, key = text.partition("=")
            hosts[check_nqn(nqn)] = TlsKey.parse(_read(key))
        elif others is not None:
            raise ValueError("two --tls-key for every host: say HOSTNQN=KEY for those that differ")
        else:
            others = TlsKey.parse(_read(text))
    return TlsKeys(hosts=hosts, others=others) if given else None


class TcpFront:
    """A device at a TCP address. ValueError for an address or a name that is none, OSError for one in use."""

    def __init__(
        self,
        loop: Loop,
        address: str,
        device: ServedDevice | ServedPort,
        *,
        nqn: str,
        hosts: Sequence[str],
        addresses: Sequence[tuple[str, int]] = (),
        dhchap: DhchapPolicy | None = None,
        tls: TlsKeys | None = None,
        log: Callable[[str], None],
        on_association: Callable[[Association], None] | None = None,
        tap: Callable[[tuple[str, int]], StreamTap] | None = None,
    ) -> None:
        host, port = parse_address(address)
        self._device = device
        inner = device.controller
        # Its state is offered; the controller that it was made with is none of this subsystem's.
        inner.subsystem.leave(inner)
        subsystem = Subsystem(
            config=inner.config,
            namespaces=list(inner.subsystem.namespaces.values()),
            state=inner.subsystem,
            nqn=nqn,
            hosts=frozenset(hosts) or None,
            dhchap=dhchap,
            latency=inner.latency,
            trace=device.trace,
            rng=inner.rng,
            counters=inner.counters,
            on_association=self._joined,
        )
        self._on_association = on_association
        self._subsystem = subsystem
        self.nqn = subsystem.nqn
        self.target = FabricsTarget([subsystem])
        self.target.secure = tls is not None
        config = TcpServerConfig(host=host, port=port, tls=tls)
        self._server = TcpServer(loop, self.target, config, log=log, tap=tap)
        own_port = self._server.address[1]
        self.target.addresses = tuple((reached, its_port or own_port) for reached, its_port in addresses)
        for reached, its_port in self.target.addresses or (self._server.address,):
            at = "ADDRESS" if ipaddress.ip_address(reached).is_unspecified else reached
            self._server.log(f"nvme connect -t tcp -a {at} -s {its_port} -n {self.nqn}")

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        return self._server.address

    def _joined(self, association: Association) -> None:
        """A host has made a controller: it is as healthy as the SSD is."""
        copy_health(self._device.controller, association.controller)
        if self._on_association is not None:
            self._on_association(association)

    def hosts(self) -> list[Association]:
        """The hosts' controllers, the oldest first."""
        return self.target.associations_of(self._subsystem)

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
