"""The host's side: probe, queues, requests, and the synchronous and asynchronous ways to submit them."""

from __future__ import annotations

from nvme_emu.driver.config import DriverConfig
from nvme_emu.driver.device import NvmeDriver
from nvme_emu.driver.errno_table import errno_of
from nvme_emu.driver.host_model import HostModel
from nvme_emu.driver.namespace import Namespace
from nvme_emu.driver.recovery import Recovery, RecoveryConfig
from nvme_emu.driver.request import Request
from nvme_emu.driver.state import CtrlState

__all__ = [
    "CtrlState",
    "DriverConfig",
    "HostModel",
    "Namespace",
    "NvmeDriver",
    "Recovery",
    "RecoveryConfig",
    "Request",
    "errno_of",
]
