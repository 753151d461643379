"""What I/O commands share: their namespace and whether they may touch it, their blocks, their data."""

from __future__ import annotations

import errno
from enum import Enum
from typing import TYPE_CHECKING, Final, NoReturn

from nvme_emu.controller.allocation import fail_unwritten
from nvme_emu.controller.data_pointer import data_buffers
from nvme_emu.controller.holds import Hold
from nvme_emu.core.errors import CommandError
from nvme_emu.spec.commands import RW_NLB_MASK, join64
from nvme_emu.spec.status import Status

if TYPE_CHECKING:
    from nvme_emu.controller.command import Command
    from nvme_emu.controller.controller import Controller
    from nvme_emu.controller.namespace import Namespace

__all__ = [
    "Access",
    "active_namespace",
    "buffers",
    "check_access",
    "extent",
    "fail_medium",
    "fail_unreadable",
    "written",
]

# (byte, bit) of the fields in the submission queue entry.
NSID_AT: Final = (4, 0)
SLBA_AT: Final = (40, 0)
NLB_AT: Final = (48, 0)


class Access(Enum):
    """What a command does to a namespace."""

    READ = "reads blocks"
    WRITE = "changes blocks"
    FLUSH = "makes blocks durable"
    RESERVATION = "changes who may do what"


def fail_medium(ctrl: Controller, error: OSError, status: Status) -> NoReturn:
    """The medium failed: count it and end the command. A retry may help, so DNR is clear."""
    ctrl.counters.media_errors += 1
    if error.errno == errno.ENOSPC:
        status = Status.CAP_EXCEEDED
    raise CommandError(status, dnr=False) from error


def active_namespace(ctrl: Controller, cmd: Command, access: Access) -> Namespace:
    """The command's namespace: else Invalid Namespace or Format, Invalid Field if inactive (3.2.1).

    Raises CommandError where what holds the namespace forbids this access.
    """
    namespace = ctrl.namespaces.get(cmd.nsid)
    if namespace is None:
        inactive = 0 < cmd.nsid <= ctrl.config.namespaces_max
        raise CommandError(Status.INVALID_FIELD if inactive else Status.INVALID_NS, location=NSID_AT)
    if not namespace.plain:
        check_access(ctrl, namespace, access)
        if Hold.POWER in namespace.holds:
            cmd.done_ns = max(cmd.done_ns, ctrl.power.ready_ns)
    return namespace


def check_access(ctrl: Controller, namespace: Namespace, access: Access) -> None:
    """Raises CommandError where a format, a sanitize operation, a reservation or protection forbids an access."""
    holds = namespace.holds
    if Hold.ANA in holds:
        ctrl.ana.check(namespace)
    if Hold.POWER in holds:
        ctrl.power.wake()
    if Hold.FORMAT in holds and namespace.progress(ctrl.now_ns) is not None:
        raise CommandError(Status.FORMAT_IN_PROGRESS, dnr=False)
    if Hold.SANITIZE in holds and access is not Access.FLUSH:
        raise ctrl.subsystem.sanitizer.refuse()
    if Hold.RESERVED in holds and access is not Access.RESERVATION:
        namespace.reservations.check(ctrl, access is Access.READ)
    if Hold.PROTECTED in holds and access is Access.WRITE:
        raise CommandError(Status.NS_WRITE_PROTECTED)
    if Hold.MEDIA in holds and access is Access.WRITE:
        raise CommandError(Status.READ_ONLY)


def extent(cmd: Command, namespace: Namespace, limit: int) -> tuple[int, int]:
    """(offset, length) in bytes of SLBA and NLB; ``limit`` in bytes, 0 for none."""
    blocks = (cmd.cdw12 & RW_NLB_MASK) + 1
    nbytes = blocks * namespace.lba_size
    if limit and nbytes > limit:
        raise CommandError(Status.INVALID_FIELD, location=NLB_AT)
    slba = join64(cmd.cdw10, cmd.cdw11)
    if slba + blocks > namespace.nsze:
        raise CommandError(Status.LBA_RANGE, location=SLBA_AT)
    return slba * namespace.lba_size, nbytes


def fail_unreadable(ctrl: Controller, namespace: Namespace, slba: int, blocks: int) -> None:
    """Raises CommandError if one of these blocks was marked so (Write Uncorrectable), or is unwritten (DULBE)."""
    if namespace.unwritten is not None:
        fail_unwritten(ctrl, namespace, slba, blocks)
    if namespace.marked:
        lba = namespace.marked.first(slba, blocks)
        if lba is not None:
            ctrl.counters.media_errors += 1
            raise CommandError(Status.READ_ERROR, lba=lba)


def written(namespace: Namespace, slba: int, blocks: int) -> None:
    """These blocks have new contents: what was marked among them is good again."""
    if namespace.unwritten and namespace.unwritten.first(slba, blocks) is not None:
        namespace.unwritten.remove(slba, blocks)
        namespace.unsaved = True
    if namespace.marked or namespace.suspect:
        namespace.suspect.remove(slba, blocks)
        if namespace.marked.first(slba, blocks) is not None:
            namespace.marked.remove(slba, blocks)
            namespace.unsaved = True
        if not namespace.marked and not namespace.suspect:
            namespace.free(Hold.MARKED)


def buffers(ctrl: Controller, cmd: Command, nbytes: int, write: bool) -> list[memoryview]:
    """The host's memory of the command's data; ``write`` when the device stores there."""
    return data_buffers(ctrl, cmd, nbytes, write)
