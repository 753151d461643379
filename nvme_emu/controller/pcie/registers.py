"""The properties in BAR0, with what each write may change (NVMe Base 2.1, 3.1.4; PCIe Transport 1.1, 3.1).

    offset     name    access                                          while CC.EN = 1
    00h..07h   CAP     read-only
    08h..0Bh   VS      read-only
    0Ch..13h   INTMS/C the mask of the interrupt pin (`pin`); reads 0, writes ignored with MSI-X: undefined
    14h..17h   CC      read/write, reserved bits read 0                CSS, MPS, AMS keep their value
    1Ch..1Fh   CSTS    read-only; NSSRO is cleared by writing 1
    20h..23h   NSSR    reads 0; 4E564D65h resets if CAP.NSSRS
    24h..27h   AQA     read/write, reserved bits read 0                writes ignored
    28h..2Fh   ASQ     read/write in halves, bits 11:0 read 0          writes ignored
    30h..37h   ACQ     read/write in halves, bits 11:0 read 0          writes ignored
    68h..6Bh   CRTO    read-only
    38h..63h   CMB…    `memory_buffers`                                any time
    E00h..     PMR…    `memory_buffers`                                any time
    others     -       read 0, writes ignored (no boot partition)
    1000h..    doorbells: read 0; written by the controller's rings

Reads of 1, 2, 4 and 8 bytes give those bytes at any alignment; other lengths give 0. Behind the BAR reads
give all ones. Writes take 4 bytes at a multiple of 4, or 8 bytes as two of them, low half first; all
others are undefined by the specification and are dropped here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nvme_emu.controller.pcie.lifecycle import State, csts_of
from nvme_emu.spec.commands import join64
from nvme_emu.spec.queues import CQES_LOG2, SQES_LOG2
from nvme_emu.spec.registers import (
    AQA,
    CAP,
    CAP_AMS_WRR,
    CAP_CSS_ADMIN,
    CAP_CSS_IOCS,
    CAP_CSS_NVM,
    CAP_TO_UNIT_MS,
    CC,
    CC_AMS_RR,
    CC_AMS_WRR,
    CC_CSS_ADMIN,
    CC_CSS_IOCS,
    CC_CSS_NVM,
    CC_EN,
    CRTO,
    CRTO_UNIT_MS,
    CSTS_NSSRO,
    CSTS_PP,
    NSSR_MAGIC,
    QUEUE_BASE_MASK,
    VS_2_1,
    Reg,
    cc_page_size,
)

if TYPE_CHECKING:
    from nvme_emu.controller.config import ControllerConfig
    from nvme_emu.controller.pcie.memory_buffers import MemoryBuffers

__all__ = ["CC_WRITABLE", "RegisterFile", "bad_enable", "cap_of"]

_DWORD = 0xFFFF_FFFF
_READ_SIZES = (1, 2, 4, 8)

CC_WRITABLE = _DWORD & ~CC.reserved_mask & ~CC.mask("crime")  # CRIME is read-only 0: CAP.CRMS.CRIMS is 0
_CC_FIXED_WHILE_ENABLED = CC.mask("css", "mps", "ams")
_CSS_OF_CAP = {CC_CSS_NVM: CAP_CSS_NVM, CC_CSS_IOCS: CAP_CSS_IOCS, CC_CSS_ADMIN: CAP_CSS_ADMIN}

# Dwords that a host may store a value in while the controller is disabled: offset -> writable bits.
_ADMIN_QUEUE_DWORDS = {
    int(Reg.AQA): _DWORD & ~AQA.reserved_mask,
    int(Reg.ASQ): QUEUE_BASE_MASK & _DWORD,
    int(Reg.ASQ) + 4: _DWORD,
    int(Reg.ACQ): QUEUE_BASE_MASK & _DWORD,
    int(Reg.ACQ) + 4: _DWORD,
}

def cap_of(config: ControllerConfig) -> int:
    """The value of CAP."""
    buffers = not config.message_based
    return CAP.pack(
        mqes_z=config.mqes_z,
        cqr=int(config.contiguous_queues),
        ams=0 if config.message_based else CAP_AMS_WRR,
        to=-(-config.ready_timeout_ms // CAP_TO_UNIT_MS),
        dstrd=config.dstrd,
        nssrs=int(config.nssrs),
        css=config.css,
        mpsmin=config.mpsmin,
        mpsmax=config.mpsmax,
        pmrs=int(buffers and config.pmr_bytes > 0),
        cmbs=int(buffers and config.cmb_bytes > 0),
        crwms=1,
    )


def bad_enable(config: ControllerConfig, cc: int, aqa: int) -> str | None:
    """Why the controller cannot be enabled with these settings (Base 2.1, 3.5.1), or None.

    IOSQES and IOCQES may still be 0: then the host sets them before it creates I/O queues.
    """
    fields = CC.unpack(cc)
    queues = AQA.unpack(aqa)
    if fields.iosqes not in (0, SQES_LOG2):
        return f"CC.IOSQES {fields.iosqes} is not {SQES_LOG2}"
    if fields.iocqes not in (0, CQES_LOG2):
        return f"CC.IOCQES {fields.iocqes} is not {CQES_LOG2}"
    if not config.mpsmin <= fields.mps <= config.mpsmax:
        return f"CC.MPS {fields.mps} is outside CAP.MPSMIN {config.mpsmin} to CAP.MPSMAX {config.mpsmax}"
    if not _CSS_OF_CAP.get(fields.css, 0) & config.css:
        return f"CC.CSS {fields.css} is not in CAP.CSS {config.css:#x}"
    if fields.ams != CC_AMS_RR and (fields.ams != CC_AMS_WRR or config.message_based):
        return f"CC.AMS {fields.ams} is not in CAP.AMS"
    if not queues.asqs_z or not queues.acqs_z:
        return f"AQA {aqa:#x}: an admin queue needs at least 2 entries"
    return None


class RegisterFile:
    """The stored values. The controller's state gives most of CSTS."""

    def __init__(self, config: ControllerConfig, buffers: MemoryBuffers) -> None:
        self.config = config
        self.buffers = buffers
        self.cap = cap_of(config)
        self.vs = VS_2_1
        self.crto = CRTO.pack(crwmt=-(-config.ready_timeout_ms // CRTO_UNIT_MS), crimt=0)
        self.state = State.DISABLED
        self.nssro = 0
        self.interrupt_mask = 0
        """What INTMS and INTMC read."""
        self.paused = False
        """CSTS.PP: new firmware starts, and no command is fetched."""
        self.cc = 0
        self._admin_queues = dict.fromkeys(_ADMIN_QUEUE_DWORDS, 0)

    @property
    def csts(self) -> int:
        """Controller Status."""
        return csts_of(self.state) | self.nssro | (CSTS_PP if self.paused else 0)

    @property
    def aqa(self) -> int:
        """Admin Queue Attributes."""
        return self._admin_queues[Reg.AQA]

    @property
    def asq(self) -> int:
        """Admin Submission Queue Base Address."""
        return self._quad(Reg.ASQ)

    @property
    def acq(self) -> int:
        """Admin Completion Queue Base Address."""
        return self._quad(Reg.ACQ)

    def _quad(self, offset: int) -> int:
        return join64(self._dword(offset), self._dword(offset + 4))

    @property
    def page_size(self) -> int:
        """CC.MPS in bytes."""
        return cc_page_size(self.cc)

    # -- the host's accesses --------------------------------------------------------------------------------

    def _dword(self, offset: int) -> int:
        """The dword at a multiple of four below the doorbells."""
        stored = self._admin_queues.get(offset)
        if stored is not None:
            return stored
        if offset == Reg.CSTS:
            return self.csts
        if offset in (Reg.INTMS, Reg.INTMC):
            return self.interrupt_mask
        if offset == Reg.CC:
            return self.cc
        if offset == Reg.CAP:
            return self.cap & _DWORD
        if offset == Reg.CAP + 4:
            return self.cap >> 32
        if offset == Reg.VS:
            return self.vs
        return self.crto if offset == Reg.CRTO else self.buffers.read(offset)

    def read(self, offset: int, size: int) -> int:
        """``size`` bytes at a BAR0 offset, as the page's comment says. Never raises."""
        if size not in _READ_SIZES:
            return 0
        if offset < 0 or offset + size > self.config.bar_size:
            return (1 << (8 * size)) - 1
        if offset >= Reg.DOORBELLS:
            return 0
        first = offset & ~3
        dwords = [self._dword(at) for at in range(first, offset + size, 4)]
        data = b"".join(value.to_bytes(4, "little") for value in dwords)
        return int.from_bytes(data[offset - first : offset - first + size], "little")

    def store(self, offset: int, value: int) -> bool:
        """Store a dword of the properties that hold values; False for others and when it is not writable now."""
        if self.buffers.write(offset, value):
            return True
        writable = _ADMIN_QUEUE_DWORDS.get(offset)
        if writable is None or self.cc & CC_EN:
            return False
        self._admin_queues[offset] = value & writable
        return True

    def merge_cc(self, value: int) -> int:
        """What CC becomes when ``value`` is written to it now."""
        value &= CC_WRITABLE
        if self.cc & value & CC_EN:
            value = value & ~_CC_FIXED_WHILE_ENABLED | self.cc & _CC_FIXED_WHILE_ENABLED
        return value

    def clear_status(self, value: int) -> None:
        """A write to CSTS: NSSRO is the only bit that a host can clear."""
        self.nssro &= ~(value & CSTS_NSSRO)

    def is_subsystem_reset(self, value: int) -> bool:
        """Whether this write to NSSR resets the NVM subsystem."""
        return self.config.nssrs and value == NSSR_MAGIC

    def reset_subsystem(self) -> None:
        """Everything to its default but NSSRO, which now tells of the reset."""
        self.cc = self.interrupt_mask = 0
        self.nssro = CSTS_NSSRO
        self.buffers.subsystem_reset()
        self._admin_queues = dict.fromkeys(_ADMIN_QUEUE_DWORDS, 0)
