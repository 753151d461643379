"""vfio-user: the controller as a PCI device of a virtual machine in another process (QEMU's vfio-user-pci).

    server     the socket, one client at a time          loop (transports.loop) calls it
    session    the protocol, without I/O
    function   regions, interrupts, memory, stepping     config_space, irqs, dma, doorbells, remote
"""

from __future__ import annotations

from nvme_emu.transports.vfio_user.function import VfioUserFunction
from nvme_emu.transports.vfio_user.ports import NvmeFunction, RequestError
from nvme_emu.transports.vfio_user.server import VfioUserServer
from nvme_emu.transports.vfio_user.session import Session

__all__ = ["NvmeFunction", "RequestError", "Session", "VfioUserFunction", "VfioUserServer"]
