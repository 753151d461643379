"""The I/O commands of the NVM Command Set 1.1 (clause 3.3) and Flush (Base 2.1, 7.2).

Each handler checks its fields in the order in which they stand in the command, moves the data, and tells the
latency model what the device did. Read and Write have a quicker way in `dispatch` for the plain case, with
the same meaning; whatever is not plain comes here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nvme_emu.controller.allocation import deallocated
from nvme_emu.controller.directives import check_directive, stream_of
from nvme_emu.controller.holds import Hold
from nvme_emu.controller.lasting import keep, keep_changes
from nvme_emu.controller.latency import Op
from nvme_emu.controller.nvm_access import (
    Access,
    active_namespace,
    buffers,
    check_access,
    extent,
    fail_medium,
    fail_unreadable,
    written,
)
from nvme_emu.controller.nvm_copy import copy
from nvme_emu.controller.reservations import (
    reservation_acquire,
    reservation_register,
    reservation_release,
    reservation_report,
)
from nvme_emu.core.errors import CommandError
from nvme_emu.spec.commands import (
    DSM_AD,
    DSM_NR_MASK,
    DSM_RANGE,
    DSM_RANGE_SIZE,
    RW_CDW12,
    RW_FUA,
    WZ_CDW12,
    WZ_DEAC,
    WZ_NSZ,
)
from nvme_emu.spec.opcodes import NvmOpcode
from nvme_emu.spec.queues import NSID_BROADCAST
from nvme_emu.spec.status import Status

if TYPE_CHECKING:
    from nvme_emu.controller.command import Command, Handler
    from nvme_emu.controller.controller import Controller

__all__ = ["NVM_HANDLERS", "READ_OR_WRITE", "fail_medium"]

# (byte, bit) of the fields in the submission queue entry.
_NLB, _NSZ, _NR = (48, 0), (50, 7), (40, 0)

# The commands that name logical blocks in SLBA and NLB.
READ_OR_WRITE = frozenset(
    (
        NvmOpcode.READ,
        NvmOpcode.WRITE,
        NvmOpcode.COMPARE,
        NvmOpcode.WRITE_ZEROES,
        NvmOpcode.WRITE_UNCORRECTABLE,
        NvmOpcode.VERIFY,
        NvmOpcode.ZONE_APPEND,
    )
)

_RW_DTYPE, _WZ_DTYPE = RW_CDW12.mask("dtype"), WZ_CDW12.mask("dtype")
_DTYPE_SHIFT = RW_CDW12["dtype"].lsb
_VERIFY_BYTES = 1 << 20
"""How much Verify reads at a time."""


def _read(ctrl: Controller, cmd: Command) -> int:
    namespace = active_namespace(ctrl, cmd, Access.READ)
    offset, nbytes = extent(cmd, namespace, ctrl.config.mdts_bytes)
    at = offset
    views = buffers(ctrl, cmd, nbytes, True)
    ctrl.delay(cmd, Op.READ, offset, nbytes)
    fail_unreadable(ctrl, namespace, offset >> namespace.lba_shift, nbytes >> namespace.lba_shift)
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
    namespace = active_namespace(ctrl, cmd, Access.WRITE)
    offset, nbytes = extent(cmd, namespace, ctrl.config.mdts_bytes)
    dtype = (cmd.cdw12 & _RW_DTYPE) >> _DTYPE_SHIFT
    if dtype:
        check_directive(ctrl, cmd, dtype)
    fua = bool(cmd.cdw12 & RW_FUA) or ctrl.write_through
    at = offset
    views = buffers(ctrl, cmd, nbytes, False)
    ctrl.delay(cmd, Op.WRITE, offset, nbytes, fua)
    try:
        for view in views:
            namespace.media.write(at, view, fua)
            at += len(view)
    except OSError as error:
        fail_medium(ctrl, error, Status.WRITE_FAULT)
    written(namespace, offset >> namespace.lba_shift, nbytes >> namespace.lba_shift)
    if fua:
        keep_changes(ctrl, namespace)
    if dtype:
        stream_of(ctrl, cmd, dtype)
    ctrl.counters.write_commands += 1
    ctrl.counters.write_bytes += nbytes
    return 0


def _flush(ctrl: Controller, cmd: Command) -> int:
    """FFFFFFFFh flushes all namespaces (Identify Controller VWC.FNVMBS = 11b)."""
    every = cmd.nsid == NSID_BROADCAST
    namespaces = list(ctrl.namespaces.values()) if every else [active_namespace(ctrl, cmd, Access.FLUSH)]
    if every:
        for namespace in namespaces:
            check_access(ctrl, namespace, Access.FLUSH)
    ctrl.delay(cmd, Op.FLUSH, 0, 0)
    try:
        for namespace in namespaces:
            namespace.media.flush()
    except OSError as error:
        fail_medium(ctrl, error, Status.WRITE_FAULT)
    keep_changes(ctrl, *namespaces, flush=True)
    return 0


def _compare(ctrl: Controller, cmd: Command) -> int:
    namespace = active_namespace(ctrl, cmd, Access.READ)
    offset, nbytes = extent(cmd, namespace, ctrl.config.mdts_bytes)
    at = offset
    views = buffers(ctrl, cmd, nbytes, False)
    ctrl.delay(cmd, Op.COMPARE, offset, nbytes)
    fail_unreadable(ctrl, namespace, offset >> namespace.lba_shift, nbytes >> namespace.lba_shift)
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
    namespace = active_namespace(ctrl, cmd, Access.WRITE)
    if cmd.cdw12 & WZ_NSZ:
        # Not supported (ONCS.NSZS); to zero only NLB blocks where all were meant would be no answer.
        raise CommandError(Status.INVALID_FIELD, location=_NSZ)
    dtype = (cmd.cdw12 & _WZ_DTYPE) >> _DTYPE_SHIFT
    if dtype:
        check_directive(ctrl, cmd, dtype)
    offset, nbytes = extent(cmd, namespace, ctrl.config.wzsl_bytes)
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
    written(namespace, offset >> namespace.lba_shift, nbytes >> namespace.lba_shift)
    if cmd.cdw12 & WZ_DEAC:
        deallocated(namespace, offset >> namespace.lba_shift, nbytes >> namespace.lba_shift)
    if fua:
        keep_changes(ctrl, namespace)
    if dtype:
        stream_of(ctrl, cmd, dtype)
    ctrl.counters.write_commands += 1
    return 0


def _verify(ctrl: Controller, cmd: Command) -> int:
    """The blocks are read and go nowhere: what cannot be read fails, as it would fail Read. VSL limits it."""
    namespace = active_namespace(ctrl, cmd, Access.READ)
    offset, nbytes = extent(cmd, namespace, ctrl.config.vsl_bytes)
    ctrl.delay(cmd, Op.READ, offset, nbytes)
    fail_unreadable(ctrl, namespace, offset >> namespace.lba_shift, nbytes >> namespace.lba_shift)
    chunk = memoryview(bytearray(min(nbytes, _VERIFY_BYTES)))
    try:
        for at in range(offset, offset + nbytes, len(chunk)):
            namespace.media.read_into(at, chunk[: min(len(chunk), offset + nbytes - at)])
    except OSError as error:
        fail_medium(ctrl, error, Status.READ_ERROR)
    ctrl.counters.read_commands += 1
    ctrl.counters.read_bytes += nbytes
    return 0


def _write_uncorrectable(ctrl: Controller, cmd: Command) -> int:
    """From now on reading these blocks fails, until they are written. No data moves; WUSL limits it."""
    namespace = active_namespace(ctrl, cmd, Access.WRITE)
    dtype = (cmd.cdw12 & _RW_DTYPE) >> _DTYPE_SHIFT
    if dtype:
        check_directive(ctrl, cmd, dtype)
    offset, nbytes = extent(cmd, namespace, ctrl.config.wusl_bytes)
    ctrl.delay(cmd, Op.WRITE_ZEROES, offset, nbytes)
    written(namespace, offset >> namespace.lba_shift, nbytes >> namespace.lba_shift)
    namespace.marked.add(offset >> namespace.lba_shift, nbytes >> namespace.lba_shift)
    namespace.hold(Hold.MARKED)
    keep(ctrl)
    if dtype:
        stream_of(ctrl, cmd, dtype)
    ctrl.counters.write_commands += 1
    return 0


def _dataset_management(ctrl: Controller, cmd: Command) -> int:
    """Deallocate gives blocks back at once; the other attributes are hints that this device needs not."""
    namespace = active_namespace(ctrl, cmd, Access.WRITE)
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
                written(namespace, slba, blocks)
                deallocated(namespace, slba, blocks)
        if ctrl.write_through:
            namespace.media.flush()
    except OSError as error:
        fail_medium(ctrl, error, Status.WRITE_FAULT)
    if ctrl.write_through:
        keep_changes(ctrl, namespace)
    return 0


NVM_HANDLERS: dict[int, Handler] = {
    NvmOpcode.FLUSH: _flush,
    NvmOpcode.WRITE: _write,
    NvmOpcode.READ: _read,
    NvmOpcode.COMPARE: _compare,
    NvmOpcode.WRITE_ZEROES: _write_zeroes,
    NvmOpcode.DATASET_MANAGEMENT: _dataset_management,
    NvmOpcode.WRITE_UNCORRECTABLE: _write_uncorrectable,
    NvmOpcode.VERIFY: _verify,
    NvmOpcode.COPY: copy,
    NvmOpcode.RESERVATION_REGISTER: reservation_register,
    NvmOpcode.RESERVATION_REPORT: reservation_report,
    NvmOpcode.RESERVATION_ACQUIRE: reservation_acquire,
    NvmOpcode.RESERVATION_RELEASE: reservation_release,
}
