"""What ships with the product to test drivers with it.

``fault``       fault rules in Python
``RawDevice``   an SSD without a driver: registers, memory for DMA, interrupts; for a driver of your own
``CDriver``     a driver in C, compiled and called over the same interface
``NvmeSim``     one simulated run; what the fixture ``nvme_sim`` gives
``audit``       what a driver has lost or leaked

The pytest plugin (``nvme_emu.testing.plugin``) is loaded by pytest itself. docs/testing-your-driver.md begins at
the beginning. Names load what they need when they are first used, so that pytest starts no slower for them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nvme_emu.testing import faults as fault
    from nvme_emu.testing.audit import AuditError, audit
    from nvme_emu.testing.cdriver import CDriver, CDriverError
    from nvme_emu.testing.raw import DmaBuffer, RawDevice, RawDeviceError
    from nvme_emu.testing.rawqueue import RawQueuePair
    from nvme_emu.testing.simulation import NvmeSim

__all__ = [
    "AuditError",
    "CDriver",
    "CDriverError",
    "DmaBuffer",
    "NvmeSim",
    "RawDevice",
    "RawDeviceError",
    "RawQueuePair",
    "audit",
    "fault",
]

_HOME = {
    "AuditError": "audit",
    "audit": "audit",
    "CDriver": "cdriver",
    "CDriverError": "cdriver",
    "DmaBuffer": "raw",
    "RawDevice": "raw",
    "RawDeviceError": "raw",
    "RawQueuePair": "rawqueue",
    "NvmeSim": "simulation",
}


def __getattr__(name: str) -> Any:
    if name == "fault":
        value: Any = import_module("nvme_emu.testing.faults")
    elif name in _HOME:
        value = getattr(import_module(f"nvme_emu.testing.{_HOME[name]}"), name)
    else:
        raise AttributeError(f"module 'nvme_emu.testing' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
