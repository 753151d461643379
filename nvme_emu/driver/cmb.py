"""The controller's memory buffer as the driver uses it (``nvme_map_cmb``, ``use_cmb_sqes``).

The registers of a buffer appear when CMBMSC.CRE is set. The driver maps its BAR, tells the controller at which bus
address it found it (CMBMSC.CBA, CMSE), and puts the submission queues there: the host stores a command where the
controller fetches it from, and nothing crosses the bus twice. Queues get shorter if all are to fit; below 64 entries
they stay in host memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nvme_emu.spec.queues import SQE_SIZE
from nvme_emu.spec.registers import CMBLOC, CMBMSC, CMBSZ, Reg

if TYPE_CHECKING:
    from nvme_emu.core.ports import DevicePort

__all__ = ["CMB_DEPTH_MIN", "CmbMemory", "cmb_depth", "map_cmb"]

PAGE_SIZE: Final = 4096
CMB_DEPTH_MIN: Final = 64
_DWORD: Final = 0xFFFF_FFFF
_UNIT_SHIFT: Final = 4
"""CMBSZ.SZU counts from 4 KiB in powers of 16."""


class CmbMemory:
    """Pages of the buffer at bus address ``base``; ``cmbloc`` and ``cmbsz`` are what sysfs shows of it."""

    def __init__(self, base: int, view: memoryview, cmbloc: int, cmbsz: int) -> None:
        self.base = base
        self.view = view
        self.cmbloc = cmbloc
        self.cmbsz = cmbsz
        self.takes_sqs = bool(CMBSZ["sqs"].extract(cmbsz))
        self._used = bytearray(len(view) // PAGE_SIZE)

    @property
    def used_pages(self) -> int:
        """How many pages are handed out."""
        return sum(self._used)

    def alloc(self, npages: int) -> int | None:
        """The bus address of so many contiguous zeroed pages; None where there is no room."""
        at = self._used.find(bytes(npages))
        if at < 0:
            return None
        self._used[at : at + npages] = b"\1" * npages
        start = at * PAGE_SIZE
        self.view[start : start + npages * PAGE_SIZE] = bytes(npages * PAGE_SIZE)
        return self.base + start

    def owns(self, addr: int) -> bool:
        """Whether the address is one of its."""
        return self.base <= addr < self.base + len(self.view)

    def free(self, addr: int, npages: int) -> None:
        """Take pages back."""
        at = (addr - self.base) // PAGE_SIZE
        self._used[at : at + npages] = bytes(npages)


def map_cmb(port: DevicePort, known: CmbMemory | None) -> CmbMemory | None:
    """Find and enable the buffer of a controller with CAP.CMBS; ``known`` is what an earlier call gave.

    None, and CMBMSC is cleared, where there is none, or its BAR cannot be reached.
    """
    port.write32(Reg.CMBMSC, CMBMSC.pack(cre=1))
    size, location = CMBSZ.unpack(port.read32(Reg.CMBSZ)), CMBLOC.unpack(port.read32(Reg.CMBLOC))
    unit = PAGE_SIZE << _UNIT_SHIFT * size.szu
    found = port.map_bar(location.bir, location.ofst * unit, size.sz * unit) if size.sz else None
    if found is None:
        port.write32(Reg.CMBMSC, 0)
        return None
    base, view = found
    control = CMBMSC.pack(cre=1, cmse=1, cba=base >> 12)
    # The high half first, as Linux does: the low one has the bit that makes both count.
    port.write32(Reg.CMBMSC + 4, control >> 32)
    port.write32(Reg.CMBMSC, control & _DWORD)
    if port.read32(Reg.CMBSTS):
        port.write32(Reg.CMBMSC, 0)
        return None
    if known is not None and known.base == base:
        return known
    return CmbMemory(base, view, port.read32(Reg.CMBLOC), port.read32(Reg.CMBSZ))


def cmb_depth(cmb: CmbMemory, queues: int, depth: int) -> int | None:
    """Entries of each of so many submission queues in the buffer, ``depth`` at most (``nvme_cmb_qdepth``); None where
    they would be too few."""
    if -(-depth * SQE_SIZE // PAGE_SIZE) * PAGE_SIZE * queues > len(cmb.view):
        depth = len(cmb.view) // queues // PAGE_SIZE * PAGE_SIZE // SQE_SIZE
    return depth if depth >= CMB_DEPTH_MIN else None
