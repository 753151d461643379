"""NVMe over TCP: the target that hosts connect to, and the initiator that connects to targets."""

from __future__ import annotations

from nvme_emu.transports.tcp.fabric import TcpFabric
from nvme_emu.transports.tcp.initiator import InitiatorOptions
from nvme_emu.transports.tcp.session import TargetOptions, TargetSession
from nvme_emu.transports.tcp.target import DEFAULT_PORT, TcpServer, TcpServerConfig, parse_address

__all__ = [
    "DEFAULT_PORT",
    "InitiatorOptions",
    "TargetOptions",
    "TargetSession",
    "TcpFabric",
    "TcpServer",
    "TcpServerConfig",
    "parse_address",
]
