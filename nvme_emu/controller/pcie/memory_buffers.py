"""Memory of the controller's own: Controller Memory Buffer and Persistent Memory Region (NVMe Base 2.1, 8.2.1, 8.2.4).

    host     loads and stores in a BAR          ─┐
                                                 ├─►  the same bytes
    device   queues, lists and data at CBA      ─┘    while CMSE is set

The host says in CMBMSC, or PMRMSCL and PMRMSCU, at which address the device finds the bytes. While it does they are a
region of host memory like any other, so that no gait knows of them; otherwise the addresses fault. A range that
memory of the host lies in, or that leaves the address space, is not taken: CBAI.

CMBMSC outlives a Controller Reset and a function level reset, PMRCTL and PMRMSC a Controller Reset (3.7.2); an NVM
Subsystem Reset disables the PMR. What is in the PMR outlives everything, as far as its `PersistentStore` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from nvme_emu.controller.memory_config import PAGE, PMR_BAR, bar_bytes, cmb_bar, cmb_offset
from nvme_emu.core.errors import CommandError
from nvme_emu.core.regions import Region, anonymous_array
from nvme_emu.spec.commands import join64
from nvme_emu.spec.memory_buffers import CMBEBS, CMBSWTP, PMREBS, PMRMSCL, PMRSWTP, PMRWBM_PMRSTS, in_units
from nvme_emu.spec.registers import CMBLOC, CMBMSC, CMBSTS, CMBSZ, PMRCAP, PMRCTL, PMRSTS, Reg
from nvme_emu.spec.status import Status

if TYPE_CHECKING:
    from collections.abc import Callable

    from nvme_emu.controller.config import ControllerConfig
    from nvme_emu.core.memory import HostMemory

__all__ = ["ControllerMemoryBuffer", "MemoryBuffers", "PersistentMemoryRegion", "PersistentStore"]

_DWORD: Final = 0xFFFF_FFFF
_SHIFT: Final = 12
_QUEUE_AT = (24, 0)
_ERASED_BYTES: Final = 1 << 20
_HEALTHY, _READ_ONLY, _UNRELIABLE = 0, 2, 3  # PMRSTS.HSTS


class PersistentStore(Protocol):
    """What keeps the bytes of a Persistent Memory Region."""

    view: memoryview
    writable: bool

    def flush(self) -> None:
        """Come back when all that was stored is durable. OSError."""


def _fresh(nbytes: int) -> memoryview:
    return memoryview(anonymous_array(nbytes, huge=False, sparse=True).data).cast("B")


def _nothing(base: int, nbytes: int) -> None:
    """Nobody has to make way."""


class _AddressWindow:
    """Bytes, at ``offset`` of BAR ``bar``, and the address at which the device finds them."""

    bar: int
    offset: int
    volatile = True

    def __init__(self, memory: HostMemory, nbytes: int, name: str) -> None:
        self.nbytes = nbytes
        self.view = _fresh(nbytes)
        self.writable = True
        self._memory = memory
        self._name = name
        self.region: Region | None = None
        self.base = 0
        self.make_way: Callable[[int, int], None] = _nothing
        self.come_back: Callable[[int, int], None] = _nothing

    def open(self, base: int) -> bool:
        """Have the device find them there; False where that cannot be."""
        self.shut()
        region = Region(base, self.view, self.writable, self._name)
        self.make_way(base, self.nbytes)
        try:
            self._memory.insert(region)
        except ValueError:
            self.come_back(base, self.nbytes)
            return False
        self.region, self.base = region, base
        return True

    def shut(self) -> None:
        """The addresses fault."""
        region, self.region = self.region, None
        if region is not None:
            self._memory.remove_region(region)
            self.come_back(self.base, self.nbytes)

    @property
    def shareable(self) -> bool:
        """Whether the bytes may be put into memory that another process maps: nobody else keeps them."""
        return True

    def back(self, view: memoryview) -> None:
        """Let these be the bytes from now on. ValueError for another length, or while open."""
        if len(view) != self.nbytes or self.region is not None:
            raise ValueError(f"{self._name}: {len(view)} bytes cannot stand in for {self.nbytes}")
        self.view = view

    def let_go(self) -> None:
        """The memory that `back` was given is about to go: fresh zeros from now on."""
        self.shut()
        self.view = _fresh(self.nbytes)

    def meets(self, address: int, nbytes: int) -> bool:
        """Whether these addresses share a byte with it."""
        return self.region is not None and self.base < address + nbytes and address < self.base + self.nbytes

    def covers(self, address: int, nbytes: int) -> bool:
        """Whether all these addresses are its."""
        return self.region is not None and self.base <= address and address + nbytes <= self.base + self.nbytes


class ControllerMemoryBuffer(_AddressWindow):
    """The CMB: queues of both kinds, lists and data may be in it."""

    def __init__(self, config: ControllerConfig, memory: HostMemory) -> None:
        super().__init__(memory, config.cmb_bytes, "controller memory buffer")
        self.bar, self.offset = cmb_bar(config), cmb_offset(config)
        self.sqs, self.cqs = config.cmb_sqs, config.cmb_cqs
        self._location = CMBLOC.pack(bir=self.bar, cdpmls=1, cdpcils=1, cdmmms=1, ofst=self.offset // PAGE)
        self._size = CMBSZ.pack(
            sqs=int(self.sqs), cqs=int(self.cqs), lists=1, rds=1, wds=1, szu=0, sz=self.nbytes // PAGE
        )
        unit, value = in_units(config.cmb_elasticity_bytes)
        self._elasticity = CMBEBS.pack(cmbszu=unit, cmbwbz=value)
        unit, value = in_units(config.cmb_throughput)
        self._throughput = CMBSWTP.pack(cmbswtu=unit, cmbswtv=value)
        self._control = 0
        self._base_invalid = 0

    def read(self, offset: int) -> int:
        """The dword of one of its properties."""
        enabled = self._control & CMBMSC.mask("cre")
        dwords: dict[int, int] = {
            Reg.CMBLOC: self._location if enabled else 0,
            Reg.CMBSZ: self._size if enabled else 0,
            Reg.CMBMSC: self._control & _DWORD,
            Reg.CMBMSC + 4: self._control >> 32,
            Reg.CMBSTS: CMBSTS.pack(cbai=self._base_invalid),
            Reg.CMBEBS: self._elasticity,
            Reg.CMBSWTP: self._throughput,
        }
        return dwords.get(offset, 0)

    def write(self, offset: int, value: int) -> bool:
        """Store a dword; False where there is nothing to write."""
        if offset == Reg.CMBMSC:
            self._control = join64(value & ~CMBMSC.reserved_mask & _DWORD, self._control >> 32)
        elif offset == Reg.CMBMSC + 4:
            self._control = join64(self._control & _DWORD, value)
        else:
            return False
        fields = CMBMSC.unpack(self._control)
        self._base_invalid = 0
        if not (fields.cre and fields.cmse):
            self.shut()
        elif self.region is None or self.base != fields.cba << _SHIFT:
            self._base_invalid = int(not self.open(fields.cba << _SHIFT))
        return True

    def reset(self) -> None:
        """All properties to their defaults."""
        self.shut()
        self._control = self._base_invalid = 0


class PersistentMemoryRegion(_AddressWindow):
    """The PMR: data may be in it."""

    volatile = False

    def __init__(self, config: ControllerConfig, memory: HostMemory) -> None:
        super().__init__(memory, config.pmr_bytes, "persistent memory region")
        self.bar, self.offset = PMR_BAR, 0
        self._capabilities = PMRCAP.pack(
            rds=1, wds=1, bir=self.bar, pmrwbm=PMRWBM_PMRSTS, pmrto=1, cmss=1
        )
        unit, value = in_units(config.pmr_elasticity_bytes)
        self._elasticity = PMREBS.pack(pmrszu=unit, pmrwbz=value)
        unit, value = in_units(config.pmr_throughput)
        self._throughput = PMRSWTP.pack(pmrswtu=unit, pmrswtv=value)
        self._store: PersistentStore | None = None
        self._health = _HEALTHY
        self._low = self._high = 0
        self._base_invalid = 0
        self.enabled = False
        """PMRCTL.EN."""
        self.on_trouble: Callable[[], None] | None = None
        """Called when the region is not reliable any more, or read-only."""

    @property
    def shareable(self) -> bool:
        return self._store is None

    @property
    def in_trouble(self) -> bool:
        """Whether its health is anything but normal."""
        return self._health != _HEALTHY

    def keep_in(self, store: PersistentStore) -> None:
        """Let the bytes be this store's. ValueError for another length, or while the device uses them."""
        self.back(store.view)
        self._store = store
        self.writable = store.writable
        if not store.writable:
            self._trouble(_READ_ONLY)

    def make_durable(self) -> None:
        """Come back when what was stored is durable; else the region's health tells of it."""
        if self._store is None or not self.writable:
            return
        try:
            self._store.flush()
        except OSError:
            self._trouble(_UNRELIABLE)

    def erase(self) -> None:
        """Zeros everywhere, if it can be written."""
        if self.writable:
            for at in range(0, self.nbytes, _ERASED_BYTES):
                part = self.view[at : at + _ERASED_BYTES]
                part[:] = bytes(len(part))
            self.make_durable()

    def _trouble(self, health: int) -> None:
        if self._health in (_HEALTHY, _READ_ONLY) and health != self._health:
            self._health = health
            if self.on_trouble is not None:
                self.on_trouble()

    def read(self, offset: int) -> int:
        """The dword of one of its properties. Reading PMRSTS is the barrier of PMRCAP.PMRWBM."""
        if offset == Reg.PMRSTS:
            if self.enabled:
                self.make_durable()
            return PMRSTS.pack(nrdy=int(not self.enabled), hsts=self._health, cbai=self._base_invalid)
        dwords: dict[int, int] = {
            Reg.PMRCAP: self._capabilities,
            Reg.PMRCTL: PMRCTL.pack(en=int(self.enabled)),
            Reg.PMREBS: self._elasticity,
            Reg.PMRSWTP: self._throughput,
            Reg.PMRMSCL: self._low,
            Reg.PMRMSCU: self._high,
        }
        return dwords.get(offset, 0)

    def write(self, offset: int, value: int) -> bool:
        """Store a dword; False where there is nothing to write."""
        if offset == Reg.PMRCTL:
            self.enabled = bool(PMRCTL["en"].extract(value))
        elif offset == Reg.PMRMSCL:
            self._low = value & ~PMRMSCL.reserved_mask
        elif offset == Reg.PMRMSCU:
            self._high = value
        else:
            return False
        fields = PMRMSCL.unpack(self._low)
        base = join64(fields.cba << _SHIFT, self._high)
        self._base_invalid = 0
        if not (fields.cmse and self.enabled):
            self.shut()
        elif self.region is None or self.base != base:
            self._base_invalid = int(not self.open(base))
        return True

    def reset(self) -> None:
        """Disabled, and all properties at their defaults; the contents stay."""
        if self.enabled:
            self.make_durable()
        self.shut()
        self.enabled = False
        self._low = self._high = self._base_invalid = 0


class MemoryBuffers:
    """What there is of both. Offsets of properties are multiples of four."""

    def __init__(self, config: ControllerConfig, memory: HostMemory) -> None:
        self._config = config
        there = not config.message_based
        self.cmb = ControllerMemoryBuffer(config, memory) if there and config.cmb_bytes else None
        self.pmr = PersistentMemoryRegion(config, memory) if there and config.pmr_bytes else None

    def read(self, offset: int) -> int:
        """The dword of a property; 0 where there is none."""
        if self.cmb is not None and offset < Reg.PMRCAP:
            return self.cmb.read(offset)
        return self.pmr.read(offset) if self.pmr is not None and offset >= Reg.PMRCAP else 0

    def takes(self, offset: int) -> bool:
        """Whether the dword of a property can be written."""
        if offset in (Reg.CMBMSC, Reg.CMBMSC + 4):
            return self.cmb is not None
        return self.pmr is not None and offset in (Reg.PMRCTL, Reg.PMRMSCL, Reg.PMRMSCU)

    def write(self, offset: int, value: int) -> bool:
        """Write a dword of a property; False where there is nothing to write."""
        if self.cmb is not None and offset < Reg.PMRCAP:
            return self.cmb.write(offset, value)
        return self.pmr is not None and offset >= Reg.PMRCAP and self.pmr.write(offset, value)

    @property
    def present(self) -> tuple[_AddressWindow, ...]:
        """The buffers that there are."""
        return tuple(one for one in (self.cmb, self.pmr) if one is not None)

    def bar_bytes(self, bar: int, own: int) -> int:
        """Bytes of a BAR, a power of two, that has ``own`` bytes without the buffers; 0 for no BAR."""
        return bar_bytes(self._config, bar, own) if self.present else own

    def covers(self, address: int, nbytes: int) -> bool:
        """Whether the device finds all of these addresses in one of them."""
        return any(one.covers(address, nbytes) for one in self.present)

    def give_way(self, make_way: Callable[[int, int], None], come_back: Callable[[int, int], None]) -> None:
        """Have ``make_way(base, nbytes)`` called before addresses become a buffer's, ``come_back`` when they end."""
        for one in self.present:
            one.make_way, one.come_back = make_way, come_back

    def check_queue(self, base: int, nbytes: int, is_cq: bool) -> None:
        """Raises CommandError for a queue in a buffer that takes none of its kind, or of which a part is in one."""
        cmb, pmr = self.cmb, self.pmr
        if pmr is not None and pmr.meets(base, nbytes):
            raise CommandError(Status.INVALID_FIELD, location=_QUEUE_AT)
        if cmb is None or not cmb.meets(base, nbytes):
            return
        if not cmb.covers(base, nbytes) or not (cmb.cqs if is_cq else cmb.sqs):
            raise CommandError(Status.CMB_INVALID_USE, location=_QUEUE_AT)

    def on_trouble(self, told: Callable[[], None]) -> None:
        """Have ``told()`` called when the PMR is not reliable any more, or read-only."""
        if self.pmr is not None:
            self.pmr.on_trouble = told

    @property
    def pmr_enabled(self) -> bool:
        """Whether there is a PMR that the host has enabled."""
        return self.pmr is not None and self.pmr.enabled

    @property
    def pmr_in_trouble(self) -> bool:
        """Whether there is a PMR that is read-only or not reliable."""
        return self.pmr is not None and self.pmr.in_trouble

    def sanitize(self) -> None:
        """A sanitize operation: the PMR keeps nothing."""
        if self.pmr is not None:
            self.pmr.erase()

    def subsystem_reset(self) -> None:
        """NVM Subsystem Reset, or power on."""
        if self.cmb is not None:
            self.cmb.reset()
        if self.pmr is not None:
            self.pmr.reset()

    def function_reset(self) -> None:
        """Function level reset: PMRMSC is reset and the PMR disabled, CMBMSC stays."""
        if self.pmr is not None:
            self.pmr.reset()

    def find(self, bar: int, offset: int, nbytes: int) -> tuple[_AddressWindow, int] | None:
        """What is at that place of a BAR, and where in it; None where not all of these bytes are one buffer's."""
        for one in self.present:
            if one.bar == bar and one.offset <= offset:
                at = offset - one.offset
                if at + nbytes <= one.nbytes:
                    return one, at
        return None

    def view(self, bar: int, offset: int, nbytes: int) -> memoryview | None:
        """The bytes at that place of a BAR, for a host that maps it; None where not all of them are one buffer's."""
        found = self.find(bar, offset, nbytes)
        return None if found is None else found[0].view[found[1] : found[1] + nbytes]

    def bar_read(self, bar: int, offset: int, nbytes: int) -> bytes | None:
        """A load in a BAR; None where no buffer is. A PMR that is not enabled reads all ones."""
        found = self.find(bar, offset, nbytes)
        if found is None:
            return None
        buffer, at = found
        if isinstance(buffer, PersistentMemoryRegion) and not buffer.enabled:
            return b"\xff" * nbytes
        return bytes(buffer.view[at : at + nbytes])

    def bar_write(self, bar: int, offset: int, data: bytes) -> bool:
        """A store in a BAR; False where no buffer is. A PMR that is not enabled, or read-only, keeps what it has."""
        found = self.find(bar, offset, len(data))
        if found is None:
            return False
        buffer, at = found
        if buffer.writable and not (isinstance(buffer, PersistentMemoryRegion) and not buffer.enabled):
            buffer.view[at : at + len(data)] = data
        return True
