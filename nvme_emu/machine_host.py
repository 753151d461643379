"""A further host of a machine's SSD: a controller of the same subsystem, with its own memory, transport and driver.

    host 0: driver ─ memory ─ transport ─ controller 0 (port 1) ─┐
                                                                 ├─ NvmSubsystem: namespaces, media, device model
    host 1: driver ─ memory ─ transport ─ controller 1 (port 2) ─┘

One lock guards all controllers of the subsystem, as a command of one may be felt by the others; one runtime is
their time.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from nvme_emu.core.memory import HostMemory
from nvme_emu.core.trace import TraceHub
from nvme_emu.transports import InprocTransport

if TYPE_CHECKING:
    from nvme_emu.driver import Namespace
    from nvme_emu.machine import Machine

__all__ = ["FurtherHost"]


class FurtherHost:
    """Host ``number`` (from 1) of a machine; host 0 is the machine itself. It has what a Machine has of the kind:
    ``controller``, ``driver``, ``namespaces``, ``port``, ``memory`` and ``trace``.
    """

    def __init__(self, machine: Machine, number: int) -> None:
        first = machine.controller
        self.trace = TraceHub()
        self.memory = HostMemory()
        self.controller = first.sibling(
            cntlid=first.config.cntlid + number,
            port=first.config.port + number,
            memory=self.memory,
            trace=self.trace,
        )
        self.port = InprocTransport(self.controller, self.memory, machine.runtime, lock=machine.port.lock)
        self.port.attend()
        self.driver = machine.config.driver_class(
            self.port,
            machine.runtime,
            replace(machine.config.driver_config(), instance=number + 1),
            self.trace,
        )

    @property
    def namespaces(self) -> dict[int, Namespace]:
        """The namespaces that its driver found, by nsid."""
        return self.driver.namespaces
