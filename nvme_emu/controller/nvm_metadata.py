"""The I/O commands of namespaces with metadata (NVM Command Set 1.1, clauses 3.3 and 5).

Each does what its plain twin in `nvm` does, with rows in place of data. What writes checks what the host sends (PRCHK)
or makes protection information (PRACT) before anything is stored; what reads checks before the host gets anything.

    PRACT   metadata is protection information alone   there is more of it
    write   inserted; the host sends data              made in place of the host's
    read    checked and stripped                       checked, given as it is
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from nvme_emu.controller.allocation import deallocated
from nvme_emu.controller.directives import check_directive, stream_of
from nvme_emu.controller.lasting import keep_changes
from nvme_emu.controller.latency import Op
from nvme_emu.controller.metadata import host_bytes
from nvme_emu.controller.nvm import NVM_HANDLERS
from nvme_emu.controller.nvm_access import (
    NLB_AT,
    Access,
    active_namespace,
    extent,
    fail_medium,
    fail_unreadable,
    written,
)
from nvme_emu.controller.protection import (
    PRINFO_AT,
    Tags,
    check_rows,
    check_tags,
    gather,
    layout_of,
    row_media,
    scatter_into,
    tags_of,
)
from nvme_emu.core.errors import CommandError
from nvme_emu.spec.commands import RW_CDW12, RW_FUA, WZ_CDW12, WZ_DEAC, WZ_NSZ
from nvme_emu.spec.opcodes import NvmOpcode
from nvme_emu.spec.protection import PI_BYTES, Prinfo, prinfo_of
from nvme_emu.spec.status import Status

if TYPE_CHECKING:
    from nvme_emu.controller.command import Command, Handler
    from nvme_emu.controller.controller import Controller
    from nvme_emu.controller.namespace import Namespace

__all__ = ["METADATA_HANDLERS"]

_NSZ: Final = (50, 7)
_ROWS_AT_ONCE: Final = 256
"""How many blocks Verify and Write Zeroes hold in memory at a time."""


def _blocks(
    ctrl: Controller, cmd: Command, namespace: Namespace, limit: int = 0, moves: bool = True
) -> tuple[int, int]:
    """(slba, nlb) of a command. MDTS counts what moves at the data pointer; another ``limit`` counts data."""
    most = ctrl.config.mdts_bytes
    if moves and most and host_bytes(namespace, ctrl.config, cmd.cdw12).data > most:
        raise CommandError(Status.INVALID_FIELD, location=NLB_AT)
    offset, nbytes = extent(cmd, namespace, limit)
    return offset >> namespace.lba_shift, nbytes >> namespace.lba_shift


def _asked(cmd: Command, namespace: Namespace, slba: int) -> tuple[Prinfo, Tags]:
    """What is to be checked; PRINFO counts only where there is protection information. Raises CommandError."""
    layout, tags = layout_of(namespace), tags_of(cmd)
    prinfo = prinfo_of(cmd.cdw12) if layout.pi else Prinfo(0, False)
    check_tags(layout, prinfo, tags, slba)
    return prinfo, tags


def _directive(ctrl: Controller, cmd: Command, mask: int) -> int:
    dtype = (cmd.cdw12 & mask) >> RW_CDW12["dtype"].lsb
    if dtype:
        check_directive(ctrl, cmd, dtype)
    return dtype


def _read(ctrl: Controller, cmd: Command) -> int:
    namespace = active_namespace(ctrl, cmd, Access.READ)
    slba, nlb = _blocks(ctrl, cmd, namespace)
    prinfo, tags = _asked(cmd, namespace, slba)
    places = scatter_into(ctrl, cmd, namespace, nlb)
    ctrl.delay(cmd, Op.READ, slba << namespace.lba_shift, nlb << namespace.lba_shift)
    fail_unreadable(ctrl, namespace, slba, nlb)
    try:
        rows = row_media(namespace).read_blocks(slba, nlb)
    except OSError as error:
        fail_medium(ctrl, error, Status.READ_ERROR)
    check_rows(ctrl, layout_of(namespace), rows, prinfo.checks, tags, slba, True)
    places.put(rows)
    ctrl.counters.read_commands += 1
    ctrl.counters.read_bytes += nlb << namespace.lba_shift
    return 0


def _write(ctrl: Controller, cmd: Command) -> int:
    namespace = active_namespace(ctrl, cmd, Access.WRITE)
    layout = layout_of(namespace)
    slba, nlb = _blocks(ctrl, cmd, namespace)
    dtype = _directive(ctrl, cmd, RW_CDW12.mask("dtype"))
    prinfo, tags = _asked(cmd, namespace, slba)
    rows = gather(ctrl, cmd, namespace, nlb)
    if prinfo.pract:
        layout.generate(rows, tags.app, tags.ref)
    else:
        check_rows(ctrl, layout, rows, prinfo.checks, tags, slba, False)
    fua = bool(cmd.cdw12 & RW_FUA) or ctrl.write_through
    ctrl.delay(cmd, Op.WRITE, slba << namespace.lba_shift, nlb << namespace.lba_shift, fua)
    try:
        row_media(namespace).write_blocks(slba, rows, fua)
    except OSError as error:
        fail_medium(ctrl, error, Status.WRITE_FAULT)
    _has_written(ctrl, cmd, namespace, slba, nlb, fua, dtype)
    ctrl.counters.write_bytes += nlb << namespace.lba_shift
    return 0


def _has_written(
    ctrl: Controller, cmd: Command, namespace: Namespace, slba: int, nlb: int, fua: bool, dtype: int
) -> None:
    written(namespace, slba, nlb)
    if cmd.opcode == NvmOpcode.WRITE_ZEROES and cmd.cdw12 & WZ_DEAC and not prinfo_of(cmd.cdw12).pract:
        deallocated(namespace, slba, nlb)
    if fua:
        keep_changes(ctrl, namespace)
    if dtype:
        stream_of(ctrl, cmd, dtype)
    ctrl.counters.write_commands += 1


def _compare(ctrl: Controller, cmd: Command) -> int:
    """Data and metadata are compared, protection information is not: it is checked, as Read checks it."""
    namespace = active_namespace(ctrl, cmd, Access.READ)
    layout = layout_of(namespace)
    slba, nlb = _blocks(ctrl, cmd, namespace)
    prinfo, tags = _asked(cmd, namespace, slba)
    if prinfo.pract:
        raise CommandError(Status.INVALID_PI, location=PRINFO_AT)
    rows = gather(ctrl, cmd, namespace, nlb)
    ctrl.delay(cmd, Op.COMPARE, slba << namespace.lba_shift, nlb << namespace.lba_shift)
    fail_unreadable(ctrl, namespace, slba, nlb)
    ctrl.counters.read_commands += 1
    ctrl.counters.read_bytes += nlb << namespace.lba_shift
    try:
        stored = row_media(namespace).read_blocks(slba, nlb)
    except OSError as error:
        fail_medium(ctrl, error, Status.READ_ERROR)
    check_rows(ctrl, layout, stored, prinfo.checks, tags, slba, True)
    different = stored != rows
    if layout.pi:
        different[:, layout.pi_at : layout.pi_at + PI_BYTES] = False
    if different.any():
        raise CommandError(Status.COMPARE_FAILED)
    return 0


def _verify(ctrl: Controller, cmd: Command) -> int:
    namespace = active_namespace(ctrl, cmd, Access.READ)
    layout, media = layout_of(namespace), row_media(namespace)
    slba, nlb = _blocks(ctrl, cmd, namespace, ctrl.config.vsl_bytes, moves=False)
    prinfo, tags = _asked(cmd, namespace, slba)
    if prinfo.pract:
        raise CommandError(Status.INVALID_PI, location=PRINFO_AT)
    ctrl.delay(cmd, Op.READ, slba << namespace.lba_shift, nlb << namespace.lba_shift)
    fail_unreadable(ctrl, namespace, slba, nlb)
    for at in range(0, nlb, _ROWS_AT_ONCE):
        try:
            rows = media.read_blocks(slba + at, min(_ROWS_AT_ONCE, nlb - at))
        except OSError as error:
            fail_medium(ctrl, error, Status.READ_ERROR)
        check_rows(ctrl, layout, rows, prinfo.checks, tags._replace(ref=tags.ref + at), slba + at, True)
    ctrl.counters.read_commands += 1
    ctrl.counters.read_bytes += nlb << namespace.lba_shift
    return 0


def _write_zeroes(ctrl: Controller, cmd: Command) -> int:
    """Data and metadata are zero. Protection information is, too; with PRACT it is made; deallocated it reads as FFh.

    With PRACT nothing is deallocated (Deallocate is a wish): the tags are to be found again.
    """
    namespace = active_namespace(ctrl, cmd, Access.WRITE)
    layout = layout_of(namespace)
    if cmd.cdw12 & WZ_NSZ:
        raise CommandError(Status.INVALID_FIELD, location=_NSZ)
    dtype = _directive(ctrl, cmd, WZ_CDW12.mask("dtype"))
    slba, nlb = _blocks(ctrl, cmd, namespace, ctrl.config.wzsl_bytes, moves=False)
    prinfo = prinfo_of(cmd.cdw12) if layout.pi else Prinfo(0, False)
    if prinfo.checks:
        raise CommandError(Status.INVALID_PI, location=PRINFO_AT)
    fua = bool(cmd.cdw12 & RW_FUA) or ctrl.write_through
    ctrl.delay(cmd, Op.WRITE_ZEROES, slba << namespace.lba_shift, nlb << namespace.lba_shift, fua)
    try:
        if cmd.cdw12 & WZ_DEAC and not prinfo.pract:
            namespace.media.discard(slba << namespace.lba_shift, nlb << namespace.lba_shift)
            if fua:
                namespace.media.flush()
        else:
            _put_zeroes(namespace, slba, nlb, tags_of(cmd) if prinfo.pract else None, fua)
    except OSError as error:
        fail_medium(ctrl, error, Status.WRITE_FAULT)
    _has_written(ctrl, cmd, namespace, slba, nlb, fua, dtype)
    return 0


def _put_zeroes(namespace: Namespace, slba: int, nlb: int, tags: Tags | None, fua: bool) -> None:
    layout, media = layout_of(namespace), row_media(namespace)
    if not layout.pi:
        media.zero(slba << namespace.lba_shift, nlb << namespace.lba_shift, fua)
        return
    for at in range(0, nlb, _ROWS_AT_ONCE):
        rows = np.zeros((min(_ROWS_AT_ONCE, nlb - at), layout.row_bytes), np.uint8)
        if tags is not None:
            step = at if layout.counts else 0
            layout.generate(rows, tags.app, tags.ref + step)
        media.write_blocks(slba + at, rows, fua)


METADATA_HANDLERS: dict[int, Handler] = {
    **NVM_HANDLERS,
    NvmOpcode.READ: _read,
    NvmOpcode.WRITE: _write,
    NvmOpcode.COMPARE: _compare,
    NvmOpcode.VERIFY: _verify,
    NvmOpcode.WRITE_ZEROES: _write_zeroes,
}
"""The commands of namespaces with metadata, by opcode. Copy does both kinds."""
