"""A session with a real device behind it and no socket before it."""

from __future__ import annotations

import os

from nvme_emu.controller import Controller, ControllerConfig, Namespace
from nvme_emu.core.memory import HostMemory
from nvme_emu.media.ram import RamMedia
from nvme_emu.transports.vfio_user import Session, VfioUserFunction

_MEDIA = RamMedia(1 << 20)


class FuzzDevice:
    """Made anew for each example."""

    def __init__(self) -> None:
        memory = HostMemory()
        controller = Controller(
            ControllerConfig(vectors=4), memory=memory, namespaces=[Namespace(1, _MEDIA)], strict=True
        )
        self.function = VfioUserFunction(controller, memory, clock=lambda: 1, mapped_doorbells=False)
        self.session = Session(self.function, lambda line: None)
        self.function.attach(self.session)

    def close(self) -> None:
        """As the server does when a client goes."""
        self.session.close("done")
        for fd in self.session.refused:
            os.close(fd)
        self.function.detach()
