"""INTx towards a vfio-user client: an eventfd, and who holds it back (vfio's level-triggered protocol).

The client is told once when the level rises, and then not again until it unmasks (AUTOMASKED): QEMU does that when
the guest has touched a BAR after the interrupt. If the level is still there, it is told again. It falls silently: the
client takes its own line back before it unmasks.

    no eventfd, MSI-X enabled       the pin is not in use at all
    Interrupt Disable in Command    the level is not told; Interrupt Status shows it all the same
    client mask, automatic mask     told when they go, if the level is there then
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nvme_emu.transports.vfio_user.config_space import ConfigSpace
    from nvme_emu.transports.vfio_user.ports import NvmeFunction

__all__ = ["PinInterrupt"]


class PinInterrupt:
    """The pin of one function; its methods are those of `MsixVectors`, for one interrupt."""

    def __init__(self, controller: NvmeFunction, config_space: ConfigSpace, close_fd: Callable[[int], None]) -> None:
        self.count = int(controller.config.intx)
        self.delivered = 0
        self._pin = controller.pin
        self._config = config_space
        self._close_fd = close_fd
        self._fd: int | None = None
        self._masked = False

    def look(self) -> None:
        """Follow the level: the status bit, and the client. Called after whatever may have changed it."""
        config, pin = self._config, self._pin
        in_use = self._fd is not None and not config.msix_enabled
        if in_use != pin.in_use:
            pin.use(in_use)
        asserted = in_use and pin.asserted
        config.interrupt_status = asserted
        if asserted and not self._masked and not config.interrupt_disabled:
            self._masked = True
            self.deliver((0,))

    def deliver(self, vectors: Iterable[int]) -> None:
        """Tell the client. One that has broken its eventfd loses its interrupts."""
        if self._fd is not None and 0 in vectors:
            self.delivered += 1
            with contextlib.suppress(OSError):
                os.eventfd_write(self._fd, 1)

    def assign(self, start: int, fds: list[int]) -> None:
        """Tell the client through this eventfd, which is ours from now on."""
        self.release(0, 1)
        (self._fd,) = fds
        os.set_blocking(self._fd, False)
        self.look()

    def release(self, start: int, count: int) -> None:
        """Tell nobody."""
        fd, self._fd = self._fd, None
        self._masked = False
        if fd is not None:
            self._close_fd(fd)
        self.look()

    def mask(self, vectors: Iterable[int], masked: bool) -> None:
        """The client's mask, which the telling sets too."""
        if 0 in vectors:
            self._masked = masked
            self.look()
