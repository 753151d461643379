"""Properties, and the life of the controller: enabling, waiting, resetting, shutting down.

What a host has seen counts, not what is: a device that is ready at once is no excuse for not looking, since the
next one will not be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nvme_emu.controller.pcie.registers import bad_enable
from nvme_emu.observe.checker.memory import Span, owner
from nvme_emu.spec.queues import CQE_SIZE, SQE_SIZE
from nvme_emu.spec.registers import (
    AQA,
    CC,
    CC_SHN_ABRUPT,
    CC_SHN_NONE,
    CC_SHN_NORMAL,
    CSTS,
    CSTS_CFS,
    CSTS_NSSRO,
    CSTS_RDY,
    CSTS_SHST_COMPLETE,
    NSSR_MAGIC,
    QUEUE_BASE_MASK,
    Reg,
    cc_page_size,
    register_at,
)

if TYPE_CHECKING:
    from nvme_emu.observe.checker.checker import Checker

__all__ = ["Registers"]

_DWORD: Final = 0xFFFF_FFFF
_DOORBELLS: Final = int(Reg.DOORBELLS)
_SHUT: Final = (CC_SHN_NORMAL, CC_SHN_ABRUPT)
_FIXED: Final = ("css", "mps", "ams")
_ENTRY_SIZES: Final = ("iosqes", "iocqes")
# The dwords of the admin queue properties, with their reserved bits.
_ADMIN_QUEUE: Final = {
    int(Reg.AQA): AQA.reserved_mask,
    int(Reg.ASQ): _DWORD & ~QUEUE_BASE_MASK,
    int(Reg.ASQ) + 4: 0,
    int(Reg.ACQ): _DWORD & ~QUEUE_BASE_MASK,
    int(Reg.ACQ) + 4: 0,
}
_STATUS_WORD_AT: Final = CQE_SIZE - 2


def _name(offset: int) -> str:
    found = register_at(offset)
    return f"offset {offset:#x}" if found is None else found[0].name


class Registers:
    """Judges each access to a property before the controller acts on it."""

    def __init__(self, checker: Checker) -> None:
        self._checker = checker
        self._ctrl = checker.controller
        self.forget()

    def forget(self) -> None:
        """The device was reset by other means: nobody has to have waited for anything."""
        self.ready_seen = False
        self.reset_seen = True
        self.shutdown_seen = True
        self.draining: list[Span] = []
        """Rings that a reset has taken from a controller that still shows CSTS.RDY."""

    # -- reads ----------------------------------------------------------------------------------------------

    def read(self, offset: int, size: int, value: int) -> None:
        """The host has read `value`."""
        if offset >= _DOORBELLS:
            self._checker.report("doorbell-read", f"{size} bytes read at {offset:#x}", offset=offset, size=size)
            return
        self._check_access(offset, size, "read")
        at = int(Reg.CSTS) - offset
        if not 0 <= at <= size - 4 or value == (1 << 8 * size) - 1:
            return
        csts = CSTS.unpack(value >> 8 * at & _DWORD)
        if csts.rdy:
            self.ready_seen = True
        else:
            self.reset_seen = True
            self.draining = []
        if csts.shst == CSTS_SHST_COMPLETE:
            self.shutdown_seen = True

    def _check_access(self, offset: int, size: int, what: str) -> bool:
        if size in (4, 8) and not offset & 3:
            return True
        self._checker.report("reg-access", f"{what} of {size} bytes at {offset:#x}", offset=offset, size=size)
        return False

    # -- writes ---------------------------------------------------------------------------------------------

    def write(self, offset: int, size: int, value: int) -> None:
        """The host writes a property; the controller has not acted on it yet."""
        if not self._check_access(offset, size, "write"):
            return
        for at in range(0, size, 4):
            self._write_dword(offset + at, value >> 8 * at & _DWORD)

    def _write_dword(self, offset: int, value: int) -> None:
        report = self._checker.report
        if offset == Reg.CC:
            self._write_cc(value)
        elif offset in _ADMIN_QUEUE:
            self._write_admin_queue(offset, value)
        elif offset == Reg.CSTS:
            if value & ~CSTS_NSSRO:
                report("reg-read-only", f"{value:#x} written to CSTS, of which only NSSRO can be", value=value)
        elif offset == Reg.NSSR:
            if value != NSSR_MAGIC or not self._ctrl.config.nssrs:
                report("reg-nssr", f"{value:#x} written to NSSR", value=value, nssrs=int(self._ctrl.config.nssrs))
            else:
                self.forget()
        elif offset in (Reg.INTMS, Reg.INTMC):
            if not self._ctrl.pin.in_use:
                report("reg-interrupt-mask", f"{value:#x} written to {_name(offset)}", value=value, offset=offset)
        elif not self._ctrl.buffers.takes(offset):
            report("reg-read-only", f"{value:#x} written to {_name(offset)}", value=value, offset=offset)

    def _write_admin_queue(self, offset: int, value: int) -> None:
        report = self._checker.report
        if CC["en"].extract(self._ctrl.registers.cc):
            report("adminq-enabled", f"{value:#x} written to {_name(offset)} while CC.EN is 1", value=value)
        elif value & _ADMIN_QUEUE[offset]:
            words = f"{value:#x} written to {_name(offset)}: bits {value & _ADMIN_QUEUE[offset]:#x} are reserved"
            report("adminq-reserved", words, value=value, reserved=value & _ADMIN_QUEUE[offset])

    # -- CC -------------------------------------------------------------------------------------------------

    def _write_cc(self, value: int) -> None:
        report = self._checker.report
        registers = self._ctrl.registers
        old, new = CC.unpack(registers.cc), CC.unpack(value)
        reserved = value & (CC.reserved_mask | CC.mask("crime"))
        if reserved:
            report("cc-reserved", f"CC {value:#x}: bits {reserved:#x} are reserved here", cc=value, reserved=reserved)
        if new.shn not in (CC_SHN_NONE, *_SHUT):
            report("shutdown-reserved", f"CC {value:#x}: SHN is {new.shn}", cc=value, shn=new.shn)
        if (old.en and not new.en) or (new.shn in _SHUT and old.shn != new.shn):
            self._checker.shadow.given_up("CC.EN cleared" if old.en and not new.en else "CC.SHN set")
        # A write that clears EN may bring other fields with it: they count from then on.
        if old.en and new.en:
            self._changed(old, new, value)
        if new.en and not old.en:
            self._enable(value)
        elif old.en and not new.en:
            self._disable(value, old)
        if new.en or not old.en:
            self._shutdown(old, new, value)

    def _changed(self, old: object, new: object, value: int) -> None:
        report = self._checker.report
        for name in _FIXED:
            was, now = getattr(old, name), getattr(new, name)
            if was != now:
                words = f"CC.{name.upper()} changed from {was} to {now} while CC.EN is 1"
                report("cc-changed-enabled", words, cc=value, old=was, new=now)
        queues = len(self._ctrl.rings.sqs.keys() - {0}) + len(self._ctrl.rings.cqs.keys() - {0})
        for name in _ENTRY_SIZES:
            was, now = getattr(old, name), getattr(new, name)
            if was != now and queues:
                words = f"CC.{name.upper()} changed from {was} to {now} with {queues} I/O queues"
                report("cc-entry-size", words, cc=value, old=was, new=now, queues=queues)

    def _enable(self, value: int) -> None:
        report, registers = self._checker.report, self._ctrl.registers
        if not self.reset_seen:
            report("reset-not-awaited", f"CC {value:#x} enables; CSTS.RDY was not seen to be 0", csts=registers.csts)
        self.ready_seen = False
        self.shutdown_seen = True
        self.draining = []
        merged = registers.merge_cc(value)
        sizes = AQA.unpack(registers.aqa)
        if not sizes.asqs_z or not sizes.acqs_z:
            words = f"AQA {registers.aqa:#x}: {sizes.asqs_z + 1} and {sizes.acqs_z + 1} entries"
            report("adminq-size", words, aqa=registers.aqa)
            return
        why = bad_enable(self._ctrl.config, merged, registers.aqa)
        if why is not None:
            report("cc-unsupported", why, cc=merged)
            return
        spans = {
            "ASQ": (registers.asq, (sizes.asqs_z + 1) * SQE_SIZE),
            "ACQ": (registers.acq, (sizes.acqs_z + 1) * CQE_SIZE),
        }
        if self._admin_memory(spans, cc_page_size(merged)):
            self._checker.queues.check_phases(0, *spans["ACQ"])

    def _admin_memory(self, spans: dict[str, Span], page: int) -> bool:
        report = self._checker.report
        for name, (addr, nbytes) in spans.items():
            there = owner(self._ctrl.memory, addr), owner(self._ctrl.memory, addr + nbytes - 1)
            if addr % page:
                report("adminq-memory", f"{name} {addr:#x} is not on a page of {page} bytes", addr=addr, page=page)
            elif None in there:
                report("adminq-memory", f"{name} {addr:#x}+{nbytes:#x} is not in memory", addr=addr, nbytes=nbytes)
            else:
                continue
            return False
        (asq, asq_bytes), (acq, acq_bytes) = spans["ASQ"], spans["ACQ"]
        if asq < acq + acq_bytes and acq < asq + asq_bytes:
            report("adminq-memory", f"ASQ {asq:#x} and ACQ {acq:#x} overlap", asq=asq, acq=acq)
            return False
        return True

    def _disable(self, value: int, old: object) -> None:
        report, csts = self._checker.report, self._ctrl.registers.csts
        if not csts & (CSTS_RDY | CSTS_CFS):
            report("disable-not-ready", f"CC {value:#x} disables while CSTS is {csts:#x}", cc=value, csts=csts)
        if getattr(old, "shn") in _SHUT:  # noqa: B009 - a layout's tuple has no static type
            self._shutdown_over("CC.EN was cleared")
        self.reset_seen = False
        if csts & CSTS_RDY:
            self.draining = self._checker.queues.spans()
        self._checker.buffers.forget()
        self._checker.commands.forget()

    def _shutdown(self, old: object, new: object, value: int) -> None:
        was, now = getattr(old, "shn"), getattr(new, "shn")  # noqa: B009
        if now in _SHUT and was not in _SHUT:
            self.shutdown_seen = False
            busy = self._checker.io_outstanding()
            if now == CC_SHN_NORMAL and busy:
                words = f"CC {value:#x}: a normal shutdown with {busy} I/O commands outstanding"
                self._checker.report("shutdown-in-flight", words, cc=value, commands=busy)
        elif was in _SHUT and now not in _SHUT and getattr(new, "en"):  # noqa: B009
            self._checker.report("shutdown-cleared", f"CC {value:#x}: SHN was {was}", cc=value, shn=was)

    def _shutdown_over(self, how: str) -> None:
        if not self.shutdown_seen:
            csts = self._ctrl.registers.csts
            words = f"{how} after a shutdown whose end was not seen in CSTS.SHST"
            self._checker.report("shutdown-not-awaited", words, csts=csts)
            self.shutdown_seen = True

    def left(self) -> None:
        """The host has gone: its process ended, its connection closed, its machine was closed."""
        self._shutdown_over("the host left")
        registers = self._ctrl.registers
        cc = CC.unpack(registers.cc)
        working = cc.en and registers.csts & CSTS_RDY and not registers.csts & CSTS_CFS
        if working and cc.shn == CC_SHN_NONE and not self._checker.host_is_there:
            words = f"the host left while CC is {registers.cc:#x}: no shutdown was begun"
            self._checker.report("left-without-shutdown", words, cc=registers.cc, csts=registers.csts)
