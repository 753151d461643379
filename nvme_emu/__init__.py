"""nvme-emu: an NVMe SSD in software, with the driver that drives it.

    import nvme_emu
    with nvme_emu.open(size="256M", profile="tlc", mode="async") as ssd:
        ns = ssd.namespaces[1]
        ns.write(0, bytes(4096))
        print(ns.read(0, 8))

The names below load what they need when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nvme_emu.core.errors import MediaError, NvmeError
    from nvme_emu.driver.host_model import HostModel
    from nvme_emu.driver.namespace import Namespace
    from nvme_emu.driver.request import Request
    from nvme_emu.machine import Machine, MachineConfig, open

__all__ = [
    "HostModel",
    "Machine",
    "MachineConfig",
    "MediaError",
    "Namespace",
    "NvmeError",
    "Request",
    "__version__",
    "open",
]

__version__ = "0.1.0"

_HOME = {
    "open": "machine",
    "Machine": "machine",
    "MachineConfig": "machine",
    "NvmeError": "core.errors",
    "MediaError": "core.errors",
    "HostModel": "driver.host_model",
    "Namespace": "driver.namespace",
    "Request": "driver.request",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'nvme_emu' has no attribute {name!r}")
    value = getattr(import_module(f"nvme_emu.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
