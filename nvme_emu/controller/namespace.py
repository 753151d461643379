"""A namespace: a medium divided into logical blocks, and its names (NVMe Base 2.1, 3.2.1 and 4.7.1)."""

from __future__ import annotations

import hashlib
import uuid
from typing import TYPE_CHECKING, Protocol

from nvme_emu._core import NamespaceState

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    _Bytes = npt.NDArray[np.uint8]
    _Rows = npt.NDArray[np.integer]

__all__ = ["BlockMedia", "Namespace"]


class BlockMedia(Protocol):
    """What a namespace needs of its medium (``nvme_emu.media.Media`` is one): bytes at offsets.

    ``array`` is the flat memory under it where reading and storing through it is always right, else None.
    ``volatile`` says that nothing can be made durable, so that FUA and Flush have nothing to do.
    What goes wrong with the medium is an OSError.
    """

    nbytes: int
    volatile: bool
    array: _Bytes | None

    def read_into(self, offset: int, out: memoryview) -> None: ...
    def write(self, offset: int, data: memoryview, fua: bool = False) -> None: ...
    def zero(self, offset: int, nbytes: int, fua: bool = False) -> None: ...
    def discard(self, offset: int, nbytes: int) -> None: ...
    def flush(self) -> None: ...
    def equal(self, offset: int, data: memoryview) -> int: ...
    def read_rows(self, rows: _Rows, row_nbytes: int, out: _Bytes) -> None: ...
    def write_rows(self, rows: _Rows, row_nbytes: int, data: _Bytes, fua: bool = False) -> None: ...
    def allocated_bytes(self) -> int: ...


class Namespace(NamespaceState):
    """Logical blocks of ``lba_size`` bytes (512 or 4096) on a medium.

    ``identity`` (a serial number, a seed) gives the NGUID, EUI-64 and UUID: the same identity and nsid give
    the same names in every run. ``nsze`` is the size in blocks, ``nbytes`` the same in bytes; what the
    medium has beyond them is not used. Raises ValueError when not one block fits.
    """

    __slots__ = ("eui64", "lba_size", "media", "nbytes", "nguid", "sparse", "uuid")

    def __init__(
        self, nsid: int, media: BlockMedia, lba_size: int = 512, *, identity: str = "nvme-emu"
    ) -> None:
        if not 1 <= nsid <= 0xFFFF_FFFE:
            raise ValueError(f"nsid={nsid}: must be 1 to FFFFFFFEh (Base 2.1, 3.2.1)")
        if lba_size not in (512, 4096):
            raise ValueError(f"lba_size={lba_size}: this controller formats 512 or 4096 bytes")
        if media.nbytes < lba_size:
            raise ValueError(f"nsid {nsid}: a medium of {media.nbytes} bytes holds no block of {lba_size}")
        super().__init__()
        self.nsid = nsid
        self.media = media
        self.lba_size = lba_size
        self.lba_shift = lba_size.bit_length() - 1
        self.nsze = media.nbytes >> self.lba_shift
        self.nbytes = self.nsze << self.lba_shift
        # The medium's bytes for the hot path, which then copies without asking the medium.
        array = media.array
        self.view = None if array is None else memoryview(array)  # type: ignore[arg-type]
        # Whether deallocated blocks cost nothing (Identify Namespace NSFEAT, THINP); kept here, as fault
        # rules may lay an overlay without an array over the medium.
        self.sparse = array is None

        digest = hashlib.sha256(f"{identity}/{nsid}".encode()).digest()
        self.nguid = digest[:16]
        self.eui64 = digest[16:24]
        self.uuid = uuid.UUID(bytes=digest[8:24], version=4)

    def __repr__(self) -> str:
        return f"<Namespace {self.nsid} {self.nsze} blocks of {self.lba_size}>"
