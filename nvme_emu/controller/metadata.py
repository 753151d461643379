"""LBA formats with metadata: how blocks lie on the medium and in host memory, and what Identify says of them.

On the medium a block and its metadata are one row, one row after the other, so that both are written in one go:

    block 0 (lba_size)  metadata (ms)  block 1  metadata  …

Protection information is kept inverted there: where nothing was ever written the medium reads as zeroes, and the host
has to find FFh (DLFEAT.GDS is 0; such blocks are not checked). So deallocating, formatting and sanitizing need not know
of it. In host memory metadata is part of an extended LBA or in a buffer of its own (MPTR), as the namespace was
formatted; behind a fabric it is always the former (NVMe over fabrics has no MPTR).

A namespace with metadata is *held* (`holds`): no quick gait touches it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from nvme_emu.spec.commands import RW_NLB_MASK
from nvme_emu.spec.identify import DPC, DPS, FLBAS, MC
from nvme_emu.spec.protection import PI_BYTES, BlockFormat, PiType, prinfo_of

if TYPE_CHECKING:
    import numpy.typing as npt

    from nvme_emu.controller.config import ControllerConfig
    from nvme_emu.controller.namespace import BlockMedia, LbaFormat, Namespace

    _Bytes = npt.NDArray[np.uint8]
    _Rows = npt.NDArray[np.integer]

__all__ = [
    "RowMedia",
    "describe_formats",
    "describe_metadata",
    "fits",
    "formats_offered",
    "host_bytes",
    "is_extended",
    "restore_metadata",
    "save_metadata",
]

_PROTECTION: Final = DPC.pack(pit1s=1, pit2s=1, pit3s=1, piimf=1, piiml=1)


# On the medium --------------------------------------------------------------------------------------------


class RowMedia:
    """The data of blocks whose rows lie on ``medium``; a `BlockMedia`. What it has beyond whole rows is not used."""

    array: _Bytes | None = None

    def __init__(self, medium: BlockMedia, layout: BlockFormat) -> None:
        self.medium = medium
        self.layout = layout
        self.volatile = medium.volatile
        self.nbytes = medium.nbytes // layout.row_bytes * layout.lba_size

    def read_blocks(self, slba: int, nlb: int) -> _Bytes:
        """Rows of ``nlb`` blocks, in memory of their own. Raises OSError."""
        rows = self.layout.rows(nlb)
        self.medium.read_into(slba * self.layout.row_bytes, memoryview(rows.reshape(-1)))  # type: ignore[arg-type]
        self.layout.flip(rows)
        return rows

    def write_blocks(self, slba: int, rows: _Bytes, fua: bool = False) -> None:
        """Store rows, whose memory is not the caller's any more. Raises OSError."""
        self.layout.flip(rows)
        self.medium.write(slba * self.layout.row_bytes, memoryview(rows.reshape(-1)), fua)  # type: ignore[arg-type]

    def read_into(self, offset: int, out: memoryview) -> None:
        """Fill ``out`` with data, without metadata."""
        if not len(out):
            return
        size = self.layout.lba_size
        first, last = offset // size, (offset + len(out) - 1) // size
        data = self.read_blocks(first, last - first + 1)[:, :size].reshape(-1)
        at = offset - first * size
        out[:] = data[at : at + len(out)].tobytes()

    def write(self, offset: int, data: memoryview, fua: bool = False) -> None:
        """Store data alone: metadata stays what it was."""
        if not len(data):
            return
        size = self.layout.lba_size
        first, last = offset // size, (offset + len(data) - 1) // size
        rows = self.read_blocks(first, last - first + 1)
        flat = rows[:, :size].reshape(-1)
        at = offset - first * size
        flat[at : at + len(data)] = np.frombuffer(data, np.uint8)
        rows[:, :size] = flat.reshape(len(rows), size)
        self.write_blocks(first, rows, fua)

    def zero(self, offset: int, nbytes: int, fua: bool = False) -> None:
        """Make whole blocks as if they had never been written, metadata included."""
        at, length = self._rows(offset, nbytes)
        self.medium.zero(at, length, fua)

    def discard(self, offset: int, nbytes: int) -> None:
        """Give whole blocks back."""
        at, length = self._rows(offset, nbytes)
        self.medium.discard(at, self.medium.nbytes if nbytes == self.nbytes else length)

    def _rows(self, offset: int, nbytes: int) -> tuple[int, int]:
        (first, before), (count, rest) = divmod(offset, self.layout.lba_size), divmod(nbytes, self.layout.lba_size)
        if before or rest:
            raise ValueError(f"{nbytes} bytes at {offset} are not whole blocks of {self.layout.lba_size}")
        return first * self.layout.row_bytes, count * self.layout.row_bytes

    def flush(self) -> None:
        """As the medium."""
        self.medium.flush()

    def equal(self, offset: int, data: memoryview) -> int:
        """-1 when the data at ``offset`` equals ``data``, else the index of the first byte that differs."""
        stored = np.empty(len(data), np.uint8)
        self.read_into(offset, memoryview(stored))  # type: ignore[arg-type]
        different = stored != np.frombuffer(data, np.uint8)
        return int(different.argmax()) if different.any() else -1

    def read_rows(self, rows: _Rows, row_nbytes: int, out: _Bytes) -> None:
        """Pieces of data of one length, gathered."""
        view = memoryview(out).cast("B")  # type: ignore[arg-type]
        for number, row in enumerate(rows.tolist()):
            self.read_into(row * row_nbytes, view[number * row_nbytes : (number + 1) * row_nbytes])

    def write_rows(self, rows: _Rows, row_nbytes: int, data: _Bytes, fua: bool = False) -> None:
        """Pieces of data of one length, scattered."""
        view = memoryview(data).cast("B")  # type: ignore[arg-type]
        for number, row in enumerate(rows.tolist()):
            self.write(row * row_nbytes, view[number * row_nbytes : (number + 1) * row_nbytes], fua)

    def allocated_bytes(self) -> int:
        """How much of the data holds storage."""
        return self.medium.allocated_bytes() * self.layout.lba_size // self.layout.row_bytes


def save_metadata(namespace: Namespace) -> Any:
    """For what lasts; None for a namespace without metadata."""
    layout = namespace.layout
    if layout is None:
        return None
    return {"extended": int(namespace.extended), "pi": int(layout.pi), "first": int(layout.first)}


def restore_metadata(namespace: Namespace, value: Any) -> None:
    """The rest of the format of a namespace whose index is there already."""
    namespace.set_format(
        namespace.format_index,
        pi=PiType(value["pi"]),
        first=bool(value["first"]),
        extended=bool(value["extended"]),
        blocks=namespace.nsze,
    )
    if namespace.layout is None:
        raise ValueError(f"LBA format {namespace.format_index} of namespace {namespace.nsid} has no metadata")


# In host memory -------------------------------------------------------------------------------------------


class HostBytes(NamedTuple):
    """What of a command's blocks moves to or from the host: bytes at the data pointer, bytes at MPTR."""

    data: int
    metadata: int


def is_extended(namespace: Namespace, config: ControllerConfig) -> bool:
    """Whether metadata is part of an extended LBA for the hosts of such a controller."""
    return namespace.layout is not None and (namespace.extended or config.message_based)


def host_bytes(namespace: Namespace, config: ControllerConfig, cdw12: int) -> HostBytes:
    """What Read, Write or Compare moves. With PRACT metadata that is nothing but protection information does not."""
    layout = namespace.layout
    blocks = (cdw12 & RW_NLB_MASK) + 1
    if layout is None:
        return HostBytes(blocks << namespace.lba_shift, 0)
    ms = 0 if layout.pi and layout.ms == PI_BYTES and prinfo_of(cdw12).pract else layout.ms
    if is_extended(namespace, config):
        return HostBytes(blocks * (layout.lba_size + ms), 0)
    return HostBytes(blocks * layout.lba_size, blocks * ms)


# What is offered ------------------------------------------------------------------------------------------


def formats_offered(config: ControllerConfig) -> tuple[LbaFormat, ...]:
    """The LBA formats of a controller, in the order of Identify Namespace."""
    from nvme_emu.controller.namespace import LBA_FORMATS

    return LBA_FORMATS if config.metadata else tuple(one for one in LBA_FORMATS if not one.ms)


def fits(config: ControllerConfig, ms: int, pi: int, extended: bool) -> bool:
    """Whether a format with metadata can be made so."""
    if pi not in set(PiType) or (pi and ms < PI_BYTES):
        return False
    return not ms or extended or not config.message_based


def describe_formats(config: ControllerConfig) -> dict[str, Any]:
    """Identify Namespace: the formats, and what can be chosen with them."""
    formats = formats_offered(config)
    fields: dict[str, Any] = {
        "nlbaf_z": len(formats) - 1,
        "lbaf": [{"lbads": one.lbads, "ms": one.ms, "rp": one.rp} for one in formats],
    }
    if config.metadata:
        fields |= {"mc": MC.pack(mtelba=1, mtsmb=int(not config.message_based)), "dpc": _PROTECTION}
    return fields


def describe_metadata(namespace: Namespace, config: ControllerConfig) -> dict[str, Any]:
    """Identify Namespace: the format that a namespace has."""
    index, layout = namespace.format_index, namespace.layout
    fields = {
        "flbas": FLBAS.pack(fidxl=index & 0xF, fidxu=index >> 4, mcdb=int(is_extended(namespace, config))),
    }
    if layout is not None:
        fields["dps"] = DPS.pack(pit=int(layout.pi), pip=int(layout.pi != PiType.NONE and layout.first))
    return fields
