"""The interrupt pin, INTA#: a level, where MSI-X sends messages (PCIe Transport 1.1, 3.5; Base 2.1, 3.1.4.3).

    asserted    while a completion queue with interrupts has entries that the host has not taken
                (its head doorbell is behind the tail), and INTMS does not mask the queue's vector

So it goes away when the head catches up, and not by being looked at. A transport says when the pin is what interrupts
the host (`use`); with MSI-X in use INTMS and INTMC are undefined, and here they do nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nvme_emu.spec.registers import Reg

if TYPE_CHECKING:
    from nvme_emu.controller.controller import Controller

__all__ = ["InterruptPin"]

_VECTORS = 32


class InterruptPin:
    """The pin of one controller."""

    def __init__(self, ctrl: Controller) -> None:
        self._ctrl = ctrl
        self.in_use = False

    def use(self, in_use: bool) -> None:
        """Whether the host is interrupted by the pin."""
        self.in_use = in_use
        self._ctrl.wants_heads = in_use
        if not in_use:
            self._ctrl.registers.interrupt_mask = 0

    def write(self, offset: int, value: int) -> bool:
        """INTMS (ones mask) or INTMC (ones unmask); False for another property, and where they are undefined."""
        if not self.in_use or offset not in (Reg.INTMS, Reg.INTMC):
            return False
        registers = self._ctrl.registers
        if offset == Reg.INTMS:
            registers.interrupt_mask |= value
        else:
            registers.interrupt_mask &= ~value
        return True

    @property
    def status(self) -> int:
        """The vectors below 32 that have completions for the host, a bit each."""
        bits = 0
        for cq in self._ctrl.rings.cqs.values():
            if cq.ien and cq.tail != cq.head and cq.vector < _VECTORS:
                bits |= 1 << cq.vector
        return bits

    @property
    def asserted(self) -> bool:
        """The level of the pin."""
        return self._ctrl.posting and bool(self.status & ~self._ctrl.registers.interrupt_mask)
