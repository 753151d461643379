"""Get LBA Status: which blocks are allocated, and which cannot be read (NVM Command Set 1.1, 4.2.1).

The blocks that Write Uncorrectable has marked and those that the medium could not read (`lba_alerts`) are tracked as
potentially unrecoverable, so that a scan (ATYPE 10h) finds no others than the tracked ones (ATYPE 11h). Which blocks
are allocated (02h) is known where allocation is tracked (`allocation`); elsewhere all of them count as allocated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nvme_emu.controller.allocation import allocated_ranges
from nvme_emu.controller.lba_alerts import unreadable
from nvme_emu.controller.locations import NSID, location
from nvme_emu.core.errors import CommandError
from nvme_emu.spec.commands import join64
from nvme_emu.spec.commands_admin import GET_LBA_STATUS_CDW13
from nvme_emu.spec.logs import LBA_STATUS_DESCRIPTOR, LBA_STATUS_LIST_HEADER
from nvme_emu.spec.status import Status

if TYPE_CHECKING:
    from nvme_emu.controller.command import Command
    from nvme_emu.controller.controller import Controller
    from nvme_emu.controller.namespace import Namespace

__all__ = ["get_lba_status"]

_ALLOCATED, _SCAN, _TRACKED = 0x02, 0x10, 0x11
_DONE, _NO_ROOM = 0x2, 0x1
"""LBA_STATUS_LIST_HEADER.cmpc: the range was gone through, or as many descriptors were given as fit."""
_DSLBA_MAX_BLOCKS: Final = 0xFFFF_FFFF
_SLBA, _MNDW = (40, 0), (48, 0)
_ATYPE = location(13, GET_LBA_STATUS_CDW13, "atype")


def get_lba_status(ctrl: Controller, cmd: Command) -> int:
    """Get LBA Status (opcode 86h)."""
    if not 1 <= cmd.nsid <= ctrl.config.namespaces_max:
        raise CommandError(Status.INVALID_NS, location=NSID)
    namespace = ctrl.namespaces.get(cmd.nsid)
    if namespace is None:
        raise CommandError(Status.INVALID_FIELD, location=NSID)
    ctrl.subsystem.sanitizer.refuse_admin()
    ctrl.ana.check(namespace)
    how = GET_LBA_STATUS_CDW13.unpack(cmd.cdw13)
    if how.atype not in (_ALLOCATED, _SCAN, _TRACKED):
        raise CommandError(Status.INVALID_FIELD, location=_ATYPE)
    slba = join64(cmd.cdw10, cmd.cdw11)
    if slba >= namespace.nsze:
        raise CommandError(Status.LBA_RANGE, location=_SLBA)
    nbytes = (cmd.cdw12 + 1) * 4
    if nbytes > ctrl.transfer_bytes_max or nbytes < LBA_STATUS_LIST_HEADER.size:
        raise CommandError(Status.INVALID_FIELD, location=_MNDW)
    length = min(how.rl or namespace.nsze - slba, namespace.nsze - slba)
    found = _allocated(namespace, slba, length) if how.atype == _ALLOCATED else _lost(namespace, slba, length)
    room = (nbytes - LBA_STATUS_LIST_HEADER.size) // LBA_STATUS_DESCRIPTOR.size
    chosen = found[:room]
    header = LBA_STATUS_LIST_HEADER.build(nlsd=len(chosen), cmpc=_NO_ROOM if len(found) > room else _DONE)
    body = b"".join(LBA_STATUS_DESCRIPTOR.build(dslba=start, nlb=count) for start, count in chosen)
    ctrl.send(cmd, (header + body).ljust(nbytes, b"\0"))
    return 0


def _allocated(namespace: Namespace, slba: int, length: int) -> list[tuple[int, int]]:
    step = _DSLBA_MAX_BLOCKS
    return [
        (start + at, min(step, count - at))
        for start, count in allocated_ranges(namespace, slba, length)
        for at in range(0, count, step)
    ]


def _lost(namespace: Namespace, slba: int, length: int) -> list[tuple[int, int]]:
    end = slba + length
    found = []
    for start, count in unreadable(namespace).ranges():
        low, high = max(start, slba), min(start + count, end)
        if low < high:
            found.append((low, high - low))
    return found
