"""The I/O commands of the NVM Command Set 1.1 (clause 3.3) and Flush (Base 2.1, 7.2).

Each handler checks its fields in the order in which they stand in the command, moves the data, and tells the
latency model what the device did. Read and Write have a quicker way in `dispatch` for the plain case, with
the same meaning; whatever is not plain comes here.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, NoReturn

from nvme_emu.controller.latency import Op
from nvme_emu.core.errors import CommandError
from nvme_emu.core.segments import map_prps
from nvme_emu.spec.commands import (
    DSM_AD,
    DSM_NR_MASK,
    DSM_RANGE,
    DSM_RANGE_SIZE,
    RW_CDW12,
    RW_FUA,
    RW_NLB_MASK,
    WZ_DEAC,
    WZ_NSZ,
    join64,
)
from nvme_emu.spec.opcodes import NvmOpcode
from nvme_emu.spec.queues import NSID_BROADCAST
from nvme_emu.spec.status import Status

if TYPE_CHECKING:
    from nvme_emu.controller.command import Command, Handler
    from nvme_emu.controller.controller import Controller
    from nvme_emu.controller.namespace import Namespace

__all__ = ["NVM_HANDLERS", "READ_OR_WRITE", "fail_medium"]

# (byte, bit) of the fields in the submission queue entry.
_NSID, _SLBA, _NLB, _DTYPE, _NSZ, _NR = (4, 0), (40, 0), (48, 0), (50, 4), (50, 7), (40, 0)

# The commands that name logical blocks in SLBA and NLB.
READ_OR_WRITE = frozenset((NvmOpcode.READ, NvmOpcode.WRITE, NvmOpcode.COMPARE, NvmOpcode.WRITE_ZEROES))

_RW_DTYPE = RW_CDW12.mask("dtype")


def fail_medium(ctrl: Controller, error: OSError, status: Status) -> NoReturn:
    """The medium failed: count it and end the command. A retry may help, so DNR is clear."""
    ctrl.counters.media_errors += 1
    if error.errno == errno.ENOSPC:
        status = Status.CAP_EXCEEDED
    raise CommandError(status, dnr=False) from error


def _namespace(ctrl: Controller, cmd: Command) -> Namespace:
    """The command's namespace: else Invalid Namespace or Format, Invalid Field if inactive (3.2.1)."""
    namespace = ctrl.namespaces.get(cmd.nsid)
    if namespace is not None:
        return namespace
    inactive = 0 < cmd.nsid <= ctrl.config.namespaces_max
    raise CommandError(Status.INVALID_FIELD if inactive else Status.INVALID_NS, location=_NSID)


def _extent(cmd: Command, namespace: Namespace, limit: int) -> tuple[int, int]:
    """(offset, length) in bytes of SLBA and NLB; ``limit`` in bytes, 0 for none."""
    blocks = (cmd.cdw12 & RW_NLB_MASK) + 1
    nbytes = blocks * namespace.lba_size
    if limit and nbytes > limit:
        raise CommandError(Status.INVALID_FIELD, location=_NLB)
    slba = join64(cmd.cdw10, cmd.cdw11)
    if slba + blocks > namespace.nsze:
        raise CommandError(Status.LBA_RANGE, location=_SLBA)
    return slba * namespace.lba_size, nbytes


def _buffers(ctrl: Controller, cmd: Command, nbytes: int, write: bool) -> list[memoryview]:
    """The host's memory of the command's data; ``write`` when the device stores there."""
    return map_prps(ctrl.memory, cmd.prp1, cmd.prp2, nbytes, ctrl.page_size, write)


def _read(ctrl: Controller, cmd: Command) -> int:
    namespace = _namespace(ctrl, cmd)
    offset, nbytes = _extent(cmd, namespace, ctrl.config.mdts_bytes)
    at = offset
    views = _buffers(ctrl, cmd, nbytes, True)
    ctrl.delay(cmd, Op.READ, offset, nbytes)
    try:
        for view in views:
            namespace.media.read_into(at, view)
            at += len(view)
    except OSError as error:
        fail_medium(ctrl, error, Status.READ_ERROR)
    ctrl.counters.read_commands += 1
    ctrl.counters.read_bytes += nbytes
    return 0


def _write(ctrl: Controller, cmd: Command) -> int:
    namespace = _namespace(ctrl, cmd)
    offset, nbytes = _extent(cmd, namespace, ctrl.config.mdts_bytes)
    if cmd.cdw12 & _RW_DTYPE:
        raise CommandError(Status.INVALID_FIELD, location=_DTYPE)  # no directive is enabled (Base 2.1, 8.1.8)
    fua = bool(cmd.cdw12 & RW_FUA) or ctrl.write_through
    at = offset
    views = _buffers(ctrl, cmd, nbytes, False)
    ctrl.delay(cmd, Op.WRITE, offset, nbytes, fua)
    try:
        for view in views:
            namespace.media.write(at, view, fua)
            at += len(view)
    except OSError as error:
        fail_medium(ctrl, error, Status.WRITE_FAULT)
    ctrl.counters.write_commands += 1
    ctrl.counters.write_bytes += nbytes
    return 0


def _flush(ctrl: Controller, cmd: Command) -> int:
    """FFFFFFFFh flushes all namespaces (Identify Controller VWC.FNVMBS = 11b)."""
    every = cmd.nsid == NSID_BROADCAST
    namespaces = list(ctrl.namespaces.values()) if every else [_namespace(ctrl, cmd)]
    ctrl.delay(cmd, Op.FLUSH, 0, 0)
    try:
        for namespace in namespaces:
            namespace.media.flush()
    except OSError as error:
        fail_medium(ctrl, error, Status.WRITE_FAULT)
    return 0


def _compare(ctrl: Controller, cmd: Command) -> int:
    namespace = _namespace(ctrl, cmd)
    offset, nbytes = _extent(cmd, namespace, ctrl.config.mdts_bytes)
    at = offset
    views = _buffers(ctrl, cmd, nbytes, False)
    ctrl.delay(cmd, Op.COMPARE, offset, nbytes)
    ctrl.counters.read_commands += 1
    ctrl.counters.read_bytes += nbytes
    try:
        for view in views:
            if namespace.media.equal(at, view) >= 0:
                raise CommandError(Status.COMPARE_FAILED)
            at += len(view)
    except OSError as error:
        fail_medium(ctrl, error, Status.READ_ERROR)
    return 0


def _write_zeroes(ctrl: Controller, cmd: Command) -> int:
    """No data moves, so that MDTS does not apply; WZSL does (Identify, I/O Command Set specific)."""
    namespace = _namespace(ctrl, cmd)
    if cmd.cdw12 & WZ_NSZ:
        # Not supported (ONCS.NSZS); to zero only NLB blocks where all were meant would be no answer.
        raise CommandError(Status.INVALID_FIELD, location=_NSZ)
    offset, nbytes = _extent(cmd, namespace, ctrl.config.wzsl_bytes)
    fua = bool(cmd.cdw12 & RW_FUA) or ctrl.write_through
    ctrl.delay(cmd, Op.WRITE_ZEROES, offset, nbytes, fua)
    try:
        if cmd.cdw12 & WZ_DEAC:
            namespace.media.discard(offset, nbytes)
            if fua:
                namespace.media.flush()
        else:
            namespace.media.zero(offset, nbytes, fua)
    except OSError as error:
        fail_medium(ctrl, error, Status.WRITE_FAULT)
    ctrl.counters.write_commands += 1
    return 0


def _dataset_management(ctrl: Controller, cmd: Command) -> int:
    """Deallocate gives blocks back at once; the other attributes are hints that this device needs not."""
    namespace = _namespace(ctrl, cmd)
    config = ctrl.config
    count = (cmd.cdw10 & DSM_NR_MASK) + 1
    if config.dmrl and count > config.dmrl:
        raise CommandError(Status.CMD_SIZE_LIMIT_EXCEEDED, location=_NR)
    ranges = list(DSM_RANGE.iter_unpack(ctrl.receive(cmd, count * DSM_RANGE_SIZE)))
    total = 0
    for _, blocks, slba in ranges:
        if slba + blocks > namespace.nsze:
            raise CommandError(Status.LBA_RANGE)
        if config.dmrsl and blocks > config.dmrsl:
            raise CommandError(Status.CMD_SIZE_LIMIT_EXCEEDED)
        total += blocks
    if config.dmsl and total > config.dmsl:
        raise CommandError(Status.CMD_SIZE_LIMIT_EXCEEDED)
    if not cmd.cdw11 & DSM_AD:
        return 0
    ctrl.delay(cmd, Op.DISCARD, 0, total * namespace.lba_size)
    try:
        for _, blocks, slba in ranges:
            if blocks:
                namespace.media.discard(slba * namespace.lba_size, blocks * namespace.lba_size)
        if ctrl.write_through:
            namespace.media.flush()
    except OSError as error:
        fail_medium(ctrl, error, Status.WRITE_FAULT)
    return 0


NVM_HANDLERS: dict[int, Handler] = {
    NvmOpcode.FLUSH: _flush,
    NvmOpcode.WRITE: _write,
    NvmOpcode.READ: _read,
    NvmOpcode.COMPARE: _compare,
    NvmOpcode.WRITE_ZEROES: _write_zeroes,
    NvmOpcode.DATASET_MANAGEMENT: _dataset_management,
}
