"""Where a command's data and metadata lie in host memory: PRPs or SGLs, as PSDT says (NVMe Base 2.1, clause 4.1).

    PSDT    data                     metadata
    00b     PRP1, PRP2 and lists     MPTR: address of one buffer, on a dword
    01b     SGL1                     MPTR: address of one buffer
    10b     SGL1                     MPTR: address of one SGL descriptor
    11b     reserved

Admin commands on PCI Express use PRPs. Behind a fabric nothing of this is seen: commands come into rings of our own,
with PRPs (`fabrics_queue`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nvme_emu.core.errors import CommandError, DmaError
from nvme_emu.core.segments import map_prps
from nvme_emu.core.sgl import Descriptor, map_sgl
from nvme_emu.spec.identify import SGLS
from nvme_emu.spec.queues import PSDT_MASK, PSDT_SGL_MPTR_SGL
from nvme_emu.spec.sgl import SGL_BYTES, SGL_DESCRIPTOR
from nvme_emu.spec.status import Status

if TYPE_CHECKING:
    from nvme_emu.controller.command import Command
    from nvme_emu.controller.config import ControllerConfig
    from nvme_emu.controller.controller import Controller

__all__ = ["SGLS_ANY", "SGLS_DWORDS", "check_psdt", "data_buffers", "metadata_buffers", "sgl_support"]

SGLS_ANY: Final = 1
"""SGLS bits 1:0: blocks start and end anywhere."""
SGLS_DWORDS: Final = 2
"""They start and end on dwords. 0 is no SGLs."""

_PSDT, _MPTR = (1, 6), (16, 0)
_LENGTH_SHIFT, _IDENTIFIER_SHIFT = 32, 56
_DWORD: Final = 0xFFFF_FFFF


def sgl_support(config: ControllerConfig) -> int:
    """Identify Controller SGLS of a controller on PCI Express."""
    if not config.sgls:
        return 0
    return SGLS.pack(
        sgls=config.sgls, sbbds=1, mbas=int(config.sgls != SGLS_DWORDS), sldltd=1, mptr_sgl=1
    )


def check_psdt(ctrl: Controller, cmd: Command) -> None:
    """Raises CommandError Invalid Field for a PSDT that is reserved, not offered, or an admin command's."""
    if cmd.flags & PSDT_MASK and (not cmd.sq.qid or not ctrl.config.sgls or cmd.flags & PSDT_MASK == PSDT_MASK):
        raise CommandError(Status.INVALID_FIELD, location=_PSDT)


def data_buffers(ctrl: Controller, cmd: Command, nbytes: int, write: bool) -> list[memoryview]:
    """Host memory of the command's data, in order; ``write`` when the device stores there. Raises CommandError."""
    if not cmd.flags & PSDT_MASK:
        return map_prps(ctrl.memory, cmd.prp1, cmd.prp2, nbytes, ctrl.page_size, write)
    first = cmd.prp1, cmd.prp2 & _DWORD, cmd.prp2 >> _IDENTIFIER_SHIFT
    return map_sgl(ctrl.memory, first, nbytes, write, dwords=ctrl.config.sgls == SGLS_DWORDS)


def metadata_buffers(ctrl: Controller, cmd: Command, nbytes: int, write: bool) -> list[memoryview]:
    """Host memory of the command's separate metadata, as `data_buffers`. Raises CommandError."""
    psdt = cmd.flags & PSDT_MASK
    memory, dwords = ctrl.memory, ctrl.config.sgls == SGLS_DWORDS
    if psdt == PSDT_SGL_MPTR_SGL:
        if cmd.mptr & 7:
            raise CommandError(Status.SGL_INVALID_LAST, location=_MPTR)
        try:
            first: Descriptor = SGL_DESCRIPTOR.unpack(memory.read(cmd.mptr, SGL_BYTES))
        except DmaError as error:
            raise CommandError(Status.DATA_XFER_ERROR, location=_MPTR) from error
        return map_sgl(memory, first, nbytes, write, dwords=dwords, metadata=True, at=_MPTR)
    if cmd.mptr & 3 and (not psdt or dwords):
        raise CommandError(Status.INVALID_FIELD, location=_MPTR)
    if nbytes <= 0:
        return []
    try:
        return memory.pieces(cmd.mptr, nbytes, write)
    except DmaError as error:
        raise CommandError(Status.DATA_XFER_ERROR, location=_MPTR) from error
