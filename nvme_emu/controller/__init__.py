"""The device: a passive NVMe controller behind a PCI Express front door."""

from nvme_emu.controller.command import PENDING, Command
from nvme_emu.controller.config import ControllerConfig
from nvme_emu.controller.controller import Controller
from nvme_emu.controller.counters import Counters
from nvme_emu.controller.namespace import BlockMedia, Namespace

__all__ = [
    "PENDING",
    "BlockMedia",
    "Command",
    "Controller",
    "ControllerConfig",
    "Counters",
    "Namespace",
]
