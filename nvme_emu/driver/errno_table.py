"""From an NVMe status to what the caller of a block device sees: a block status and an errno.

The mapping is Linux's (``nvme_error_status`` and ``blk_status_to_errno``); a status that it does not name is
an I/O error.
"""

from __future__ import annotations

import errno
from typing import NamedTuple

from nvme_emu.core.errors import NvmeError
from nvme_emu.spec.status import Status, describe

__all__ = ["BlockStatus", "block_status", "errno_of", "error_of"]

SC_SCT_MASK = 0x7FF


class BlockStatus(NamedTuple):
    """A ``blk_status_t`` by name, with its errno."""

    name: str
    errno: int


_OK = BlockStatus("OK", 0)
_IOERR = BlockStatus("IOERR", errno.EIO)
_BY_STATUS: dict[int, BlockStatus] = {}


def _map(block: BlockStatus, *statuses: int) -> None:
    for status in statuses:
        _BY_STATUS[int(status)] = block


_map(_OK, Status.SUCCESS)
_map(BlockStatus("NOSPC", errno.ENOSPC), 0x081)
_map(BlockStatus("TARGET", errno.EREMOTEIO), 0x080, 0x021, 0x082)
_map(BlockStatus("NOTSUPP", errno.EOPNOTSUPP), 0x180, 0x001, 0x002, 0x00B)
_map(BlockStatus("MEDIUM", errno.ENODATA), 0x280, 0x281, 0x285, 0x286, 0x287, 0x182)
_map(BlockStatus("PROTECTION", errno.EILSEQ), 0x282, 0x283, 0x284, 0x181)
_map(BlockStatus("RESV_CONFLICT", errno.EBADE), 0x083)
_map(BlockStatus("TRANSPORT", errno.ENOLINK), 0x370)
_map(BlockStatus("ZONE_ACTIVE_RESOURCE", errno.EOVERFLOW), 0x1BD)
_map(BlockStatus("ZONE_OPEN_RESOURCE", errno.ETOOMANYREFS), 0x1BE)


def block_status(status: int) -> BlockStatus:
    """The block status of a 15-bit status field (retry and DNR bits do not matter)."""
    return _BY_STATUS.get(status & SC_SCT_MASK, _IOERR)


def errno_of(status: int) -> int:
    """The errno that Linux gives for a 15-bit status field; 0 for success."""
    return block_status(status).errno


def error_of(status: int, doing: str) -> NvmeError:
    """The exception for a failed command; ``doing`` names the command, its queue and its range."""
    return NvmeError(errno_of(status), f"{doing}: {describe(status)}", status=status)
