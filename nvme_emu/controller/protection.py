"""End-to-end protection: what a command says of it, checks of rows, and rows from and to host memory.

NVM Command Set 1.1, clause 5.3. A row is a block with its metadata (`spec.protection`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from nvme_emu.controller.data_pointer import data_buffers, metadata_buffers
from nvme_emu.controller.metadata import RowMedia, host_bytes
from nvme_emu.core.errors import CommandError
from nvme_emu.spec.commands import RW_CDW15
from nvme_emu.spec.protection import CHECK_REF, BlockFormat, PiType, Prinfo
from nvme_emu.spec.status import Status

if TYPE_CHECKING:
    import numpy.typing as npt

    from nvme_emu.controller.command import Command
    from nvme_emu.controller.controller import Controller
    from nvme_emu.controller.namespace import Namespace

    _Rows = npt.NDArray[np.uint8]

__all__ = [
    "PRINFO_AT",
    "Tags",
    "check_rows",
    "check_tags",
    "gather",
    "layout_of",
    "row_media",
    "scatter_into",
    "tags_of",
]

PRINFO_AT: Final = (51, 2)
"""(byte, bit) of PRINFO in the submission queue entry."""
_LBRT_AT: Final = (56, 0)
_REF_MASK: Final = 0xFFFF_FFFF


class Tags(NamedTuple):
    """What a command expects in protection information: of the first block the Reference Tag, of all the rest."""

    app: int
    mask: int
    ref: int


def tags_of(cmd: Command) -> Tags:
    """ELBAT, ELBATM and EILBRT of a command; LBAT, LBATM and ILBRT of one that writes."""
    tags = RW_CDW15.unpack(cmd.cdw15)
    return Tags(tags.lbat, tags.lbatm, cmd.cdw14)


def layout_of(namespace: Namespace) -> BlockFormat:
    """How the blocks of a namespace with metadata are made."""
    layout = namespace.layout
    assert layout is not None, "these handlers are asked for namespaces with metadata only"
    return layout


def row_media(namespace: Namespace) -> RowMedia:
    """Its medium, by rows."""
    media = namespace.media
    assert isinstance(media, RowMedia), "namespaces with metadata have one"
    return media


def check_tags(layout: BlockFormat, prinfo: Prinfo, tags: Tags, slba: int) -> None:
    """Raises CommandError Invalid Protection Information for a Reference Tag that cannot be checked.

    Type 1 has those that follow from the LBA; those of Type 3 are not checked.
    """
    if not prinfo.checks & CHECK_REF:
        return
    if layout.pi == PiType.TYPE_1 and tags.ref != slba & _REF_MASK:
        raise CommandError(Status.INVALID_PI, location=_LBRT_AT)
    if layout.pi == PiType.TYPE_3:
        raise CommandError(Status.INVALID_PI, location=PRINFO_AT)


def check_rows(
    ctrl: Controller, layout: BlockFormat, rows: _Rows, checks: int, tags: Tags, slba: int, stored: bool
) -> None:
    """Raises CommandError for the first row that is not as it should be; ``stored`` where the medium gave them."""
    if not layout.pi:
        return
    found = layout.check(rows, checks, *tags)
    if found is not None:
        number, status = found
        if stored:
            ctrl.counters.media_errors += 1
        raise CommandError(status, lba=slba + number)


def gather(ctrl: Controller, cmd: Command, namespace: Namespace, nlb: int) -> _Rows:
    """Rows of what the host sends; metadata that it does not send is zero. Raises CommandError."""
    layout = layout_of(namespace)
    size = layout.lba_size
    moved = host_bytes(namespace, ctrl.config, cmd.cdw12)
    data = _joined(data_buffers(ctrl, cmd, moved.data, False))
    rows = np.zeros((nlb, layout.row_bytes), np.uint8)
    width = moved.data // nlb
    rows[:, :width] = data.reshape(nlb, width)
    if moved.metadata:
        rows[:, size:] = _joined(metadata_buffers(ctrl, cmd, moved.metadata, False)).reshape(nlb, layout.ms)
    return rows


def _joined(views: list[memoryview]) -> _Rows:
    return np.frombuffer(views[0] if len(views) == 1 else b"".join(views), np.uint8)


class _Places(NamedTuple):
    """Where rows go in host memory."""

    data: list[memoryview]
    metadata: list[memoryview]
    width: int
    lba_size: int

    def put(self, rows: _Rows) -> None:
        """Store them."""
        _scatter(rows[:, : self.width], self.data)
        if self.metadata:
            _scatter(rows[:, self.lba_size :], self.metadata)


def _scatter(columns: _Rows, views: list[memoryview]) -> None:
    source = memoryview(np.ascontiguousarray(columns).reshape(-1))  # type: ignore[arg-type]
    at = 0
    for view in views:
        view[:] = source[at : at + len(view)]
        at += len(view)


def scatter_into(ctrl: Controller, cmd: Command, namespace: Namespace, nlb: int) -> _Places:
    """Where rows that the host wants are to be put. Raises CommandError for memory that it does not own."""
    moved = host_bytes(namespace, ctrl.config, cmd.cdw12)
    data = data_buffers(ctrl, cmd, moved.data, True)
    metadata = metadata_buffers(ctrl, cmd, moved.metadata, True) if moved.metadata else []
    return _Places(data, metadata, moved.data // nlb, layout_of(namespace).lba_size)
