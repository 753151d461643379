"""vfio-user from the host's side: our driver on a PCI function that another process serves.

    messages   the connection, requests and replies       shared   memory that both processes map
    port       the border to the driver
"""

from __future__ import annotations

from nvme_emu.transports.vfio_user_client.messages import Messages
from nvme_emu.transports.vfio_user_client.port import VfioUserPort
from nvme_emu.transports.vfio_user_client.shared import SharedMemory

__all__ = ["Messages", "SharedMemory", "VfioUserPort"]
