"""Which logical blocks are deallocated or unwritten (NVM Command Set 1.1, 3.2.3.2.1), to the block.

With ``ControllerConfig.track_allocation`` each namespace that is not zoned has such a set. It is *held* for that
(`holds`), as the quick gaits write without telling: a namespace that is tracked is slower. It offers DULBE (feature
05h, NSFEAT.DAE), Get LBA Status tells its allocated ranges and Identify Namespace how many blocks are in use. Without
it all blocks of a namespace count as allocated.

A block is allocated by Write, Write Zeroes without deallocation, Copy and Write Uncorrectable; given back by Dataset
Management, Write Zeroes with deallocation, a format and a sanitize operation. The set lasts with the data.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from nvme_emu.controller.block_set import BlockSet
from nvme_emu.controller.holds import Hold
from nvme_emu.core.errors import CommandError
from nvme_emu.spec.features import ERROR_RECOVERY, Fid
from nvme_emu.spec.status import Status

if TYPE_CHECKING:
    from nvme_emu.controller.controller import Controller
    from nvme_emu.controller.namespace import Namespace

__all__ = [
    "allocated_ranges",
    "deallocated",
    "fail_unwritten",
    "look_at",
    "restore_allocation",
    "save_allocation",
    "track",
    "used_blocks",
]

_RANGES_SAVED_MAX: Final = 8192
"""How many unwritten ranges last, the longest of them; blocks of the others count as allocated after power on."""


def track(namespace: Namespace) -> None:
    """Know of each block from now on. A medium that holds data already has it in unknown places: all is allocated."""
    if namespace.zones is not None or namespace.unwritten is not None:
        return
    namespace.unwritten = BlockSet()
    namespace.hold(Hold.TRACKED)
    if namespace.media.volatile or not namespace.media.allocated_bytes():
        namespace.unwritten.add(0, namespace.nsze)


def look_at(namespaces: Iterable[Namespace], tracked: bool) -> None:
    """Track namespaces, or forget what is known of their blocks: it would not stay right."""
    for namespace in namespaces:
        if tracked:
            track(namespace)
        elif namespace.unwritten is not None:
            namespace.unwritten = None
            namespace.free(Hold.TRACKED)


def deallocated(namespace: Namespace, slba: int, blocks: int) -> None:
    """These blocks were given back."""
    if namespace.unwritten is not None:
        namespace.unwritten.add(slba, blocks)
        namespace.unsaved = True


def fail_unwritten(ctrl: Controller, namespace: Namespace, slba: int, blocks: int) -> None:
    """Raises CommandError Deallocated or Unwritten Logical Block where the host enabled that (DULBE)."""
    if not namespace.unwritten:
        return
    if ERROR_RECOVERY["dulbe"].extract(ctrl.features.current(Fid.ERROR_RECOVERY, namespace.nsid)):
        lba = namespace.unwritten.first(slba, blocks)
        if lba is not None:
            raise CommandError(Status.UNWRITTEN_BLOCK, lba=lba)


def used_blocks(namespace: Namespace) -> int | None:
    """How many blocks are allocated; None where that is not known."""
    if namespace.unwritten is None:
        return None
    return namespace.nsze - sum(count for _, count in namespace.unwritten.ranges())


def allocated_ranges(namespace: Namespace, slba: int, blocks: int) -> list[tuple[int, int]]:
    """(first block, number of blocks) of the allocated ones among these, ascending."""
    found, at, end = [], slba, slba + blocks
    for start, count in () if namespace.unwritten is None else namespace.unwritten.ranges():
        if start + count <= at:
            continue
        if start >= end:
            break
        if start > at:
            found.append((at, start - at))
        at = start + count
    if at < end:
        found.append((at, end - at))
    return found


def save_allocation(namespace: Namespace) -> Any:
    """The unwritten ranges, for what lasts; None for a namespace without."""
    if namespace.unwritten is None:
        return None
    ranges = list(namespace.unwritten.ranges())
    if len(ranges) > _RANGES_SAVED_MAX:
        ranges = sorted(sorted(ranges, key=lambda one: -one[1])[:_RANGES_SAVED_MAX])
    return [list(one) for one in ranges]


def restore_allocation(namespace: Namespace, value: Any) -> None:
    """What was unwritten is so again; whether it is tracked is then a matter of the configuration."""
    namespace.unwritten = BlockSet()
    for slba, blocks in value:
        if not 0 <= slba < slba + blocks <= namespace.nsze:
            raise ValueError(f"blocks {slba} to {slba + blocks} are not in namespace {namespace.nsid}")
        namespace.unwritten.add(slba, blocks)
    namespace.hold(Hold.TRACKED)
