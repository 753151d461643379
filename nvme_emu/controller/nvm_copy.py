"""Copy (NVM Command Set 1.1, 3.3.2): blocks of up to MSRC + 1 ranges, one after the other, to SDLBA.

Descriptor format 0h names ranges of the namespace itself, 2h also those of another one that is attached, once the
host has said that it knows it (Host Behavior Support, CDFE). 1h and 3h are for namespaces with 32 and 64-bit guards
or storage tags, which are not offered. All sources are read before anything is written: a copy that fails has changed
nothing.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from nvme_emu.controller.directives import check_directive, stream_of
from nvme_emu.controller.lasting import keep_changes
from nvme_emu.controller.latency import Op
from nvme_emu.controller.nvm_access import (
    Access,
    active_namespace,
    check_access,
    fail_medium,
    fail_unreadable,
    written,
)
from nvme_emu.controller.protection import Tags, check_rows, check_tags, layout_of, row_media, tags_of
from nvme_emu.core.errors import CommandError
from nvme_emu.spec.commands import COPY_CDW12, RW_FUA, join64
from nvme_emu.spec.protection import Prinfo, prinfo_of, prinfor_of
from nvme_emu.spec.status import Status

if TYPE_CHECKING:
    from nvme_emu.controller.command import Command
    from nvme_emu.controller.controller import Controller
    from nvme_emu.controller.namespace import Namespace
    from nvme_emu.controller.zones import Zone

__all__ = ["COPY_BLOCKS_MAX", "COPY_FORMATS", "COPY_RANGES_MAX", "COPY_RANGE_BLOCKS_MAX", "copy"]

COPY_RANGE_BLOCKS_MAX: Final = 8192
"""MSSRL."""
COPY_BLOCKS_MAX: Final = 32_768
"""MCL: what is held in memory at a time."""
COPY_RANGES_MAX: Final = 128
"""MSRC + 1."""
_OWN, _OTHER = 0, 2
COPY_FORMATS: Final = 1 << _OWN | 1 << _OTHER
"""Identify Controller CDFS."""

# Of a descriptor of 32 bytes: SNSID (format 2h), SLBA, NLB (zero-based), EILBRT, ELBAT, ELBATM.
_DESCRIPTOR: Final = struct.Struct("<I4xQH6xIHH")
assert _DESCRIPTOR.size == 32

_SDLBA, _NR, _CDFMT, _PRINFOR = (40, 0), (48, 0), (49, 0), (49, 4)


class _Source(NamedTuple):
    namespace: Namespace
    slba: int
    blocks: int
    tags: Tags


def _sources(ctrl: Controller, cmd: Command, target: Namespace) -> list[_Source]:
    """What is to be copied. Raises CommandError for what is too much, not there, or of another format."""
    how = COPY_CDW12.unpack(cmd.cdw12)
    if not COPY_FORMATS >> how.cdfmt & 1 or (how.cdfmt == _OTHER and not ctrl.features.copy_formats >> _OTHER & 1):
        raise CommandError(Status.INVALID_FIELD, location=_CDFMT)
    count = how.nr_z + 1
    if count > COPY_RANGES_MAX:
        raise CommandError(Status.CMD_SIZE_LIMIT_EXCEEDED, location=_NR)
    found = []
    for snsid, slba, nlb_z, ref, app, mask in _DESCRIPTOR.iter_unpack(ctrl.receive(cmd, count * _DESCRIPTOR.size)):
        source = target
        if how.cdfmt == _OTHER and snsid != target.nsid:
            other = ctrl.namespaces.get(snsid)
            if other is None:
                raise CommandError(Status.INVALID_NS)
            if not other.plain:
                check_access(ctrl, other, Access.READ)
            if other.format != target.format or other.layout != target.layout:
                raise CommandError(Status.INCOMPATIBLE_NS)
            source = other
        if nlb_z + 1 > COPY_RANGE_BLOCKS_MAX:
            raise CommandError(Status.CMD_SIZE_LIMIT_EXCEEDED)
        if slba + nlb_z + 1 > source.nsze:
            raise CommandError(Status.LBA_RANGE)
        found.append(_Source(source, slba, nlb_z + 1, Tags(app, mask, ref)))
    return found


def copy(ctrl: Controller, cmd: Command) -> int:
    """Copy (opcode 19h)."""
    target = active_namespace(ctrl, cmd, Access.WRITE)
    dtype = COPY_CDW12["dtype"].extract(cmd.cdw12)
    check_directive(ctrl, cmd, dtype)
    sources = _sources(ctrl, cmd, target)
    if any(source.namespace is target for source in sources) and not target.plain:
        check_access(ctrl, target, Access.READ)
    blocks = sum(source.blocks for source in sources)
    if blocks > COPY_BLOCKS_MAX:
        raise CommandError(Status.CMD_SIZE_LIMIT_EXCEEDED, location=_NR)
    sdlba = join64(cmd.cdw10, cmd.cdw11)
    if sdlba + blocks > target.nsze:
        raise CommandError(Status.LBA_RANGE, location=_SDLBA)
    for source in sources:
        if source.namespace is target and source.slba < sdlba + blocks and sdlba < source.slba + source.blocks:
            raise CommandError(Status.OVERLAPPING_IO_RANGE, location=_SDLBA)
    for source in sources:
        if source.namespace.zones is not None:
            source.namespace.zones.check_read(source.slba, source.blocks)
    zone = None if target.zones is None else target.zones.check_write(sdlba, blocks)
    if target.layout is None:
        _move(ctrl, cmd, sources, target, sdlba, blocks)
    else:
        _move_rows(ctrl, cmd, sources, target, sdlba, blocks)
    _has_moved(ctrl, cmd, target, sdlba, blocks, zone)
    stream_of(ctrl, cmd, dtype)
    return 0


def _move(
    ctrl: Controller, cmd: Command, sources: list[_Source], target: Namespace, sdlba: int, blocks: int
) -> None:
    shift = target.lba_shift
    data = memoryview(bytearray(blocks << shift))
    at = 0
    try:
        for source, slba, count, _ in sources:
            fail_unreadable(ctrl, source, slba, count)
            nbytes = count << shift
            ctrl.delay(cmd, Op.READ, slba << shift, nbytes)
            source.media.read_into(slba << shift, data[at : at + nbytes])
            at += nbytes
    except OSError as error:
        fail_medium(ctrl, error, Status.READ_ERROR)
    fua = bool(cmd.cdw12 & RW_FUA) or ctrl.write_through
    ctrl.delay(cmd, Op.WRITE, sdlba << shift, len(data), fua)
    try:
        target.media.write(sdlba << shift, data, fua)
    except OSError as error:
        fail_medium(ctrl, error, Status.WRITE_FAULT)


def _move_rows(
    ctrl: Controller, cmd: Command, sources: list[_Source], target: Namespace, sdlba: int, blocks: int
) -> None:
    """As `_move` with metadata. What is read is checked as PRINFOR says; what is written is made (PRACT), or checked.

    Inserting and stripping go together here, as both ends have one format: PRACT must be the same on both sides.
    """
    layout, shift, tags = layout_of(target), target.lba_shift, tags_of(cmd)
    reads, writes = (prinfor_of(cmd.cdw12), prinfo_of(cmd.cdw12)) if layout.pi else (Prinfo(0, False),) * 2
    if reads.pract != writes.pract:
        raise CommandError(Status.INVALID_FIELD, location=_PRINFOR)
    for one in sources:
        check_tags(layout, reads, one.tags, one.slba)
    check_tags(layout, writes, tags, sdlba)
    rows = layout.rows(blocks)
    at = 0
    for source, slba, count, source_tags in sources:
        fail_unreadable(ctrl, source, slba, count)
        ctrl.delay(cmd, Op.READ, slba << shift, count << shift)
        try:
            found = row_media(source).read_blocks(slba, count)
        except OSError as error:
            fail_medium(ctrl, error, Status.READ_ERROR)
        check_rows(ctrl, layout, found, reads.checks, source_tags, slba, True)
        rows[at : at + count] = found
        at += count
    if writes.pract:
        layout.generate(rows, tags.app, tags.ref)
    else:
        check_rows(ctrl, layout, rows, writes.checks, tags, sdlba, False)
    fua = bool(cmd.cdw12 & RW_FUA) or ctrl.write_through
    ctrl.delay(cmd, Op.WRITE, sdlba << shift, blocks << shift, fua)
    try:
        row_media(target).write_blocks(sdlba, rows, fua)
    except OSError as error:
        fail_medium(ctrl, error, Status.WRITE_FAULT)


def _has_moved(
    ctrl: Controller, cmd: Command, target: Namespace, sdlba: int, blocks: int, zone: Zone | None
) -> None:
    written(target, sdlba, blocks)
    if target.zones is not None and zone is not None:
        target.zones.written(zone, blocks)
        target.unsaved = True
    if cmd.cdw12 & RW_FUA or ctrl.write_through:
        keep_changes(ctrl, target)
    counters = ctrl.counters
    counters.read_commands += 1
    counters.read_bytes += blocks << target.lba_shift
    counters.write_commands += 1
    counters.write_bytes += blocks << target.lba_shift
