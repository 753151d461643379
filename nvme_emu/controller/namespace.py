"""A namespace: a medium divided into logical blocks, and its names (NVMe Base 2.1, 3.2.1 and 4.7.1).

What is true of a namespace at a time and makes its reads and writes other than plain copies *holds* it: a
format or sanitize operation, write protection, a reservation, blocks marked bad, metadata. While anything holds
it no quick gait touches it, and every command is looked at by its handler.
"""

from __future__ import annotations

import contextlib
import hashlib
import uuid
from typing import TYPE_CHECKING, NamedTuple, Protocol

from nvme_emu._core import NamespaceState
from nvme_emu.controller.block_set import BlockSet
from nvme_emu.controller.holds import Hold, WriteProtection
from nvme_emu.controller.metadata import RowMedia
from nvme_emu.controller.reservation_state import Reservations
from nvme_emu.controller.zones import Zone, Zones
from nvme_emu.spec.protection import BlockFormat, PiType

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from nvme_emu.controller.zns_config import ZnsConfig

    _Bytes = npt.NDArray[np.uint8]
    _Rows = npt.NDArray[np.integer]

__all__ = ["LBA_FORMATS", "BlockMedia", "LbaFormat", "Namespace"]


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


class LbaFormat(NamedTuple):
    """An LBA format: bytes of data as a power of two, bytes of metadata, relative performance (0 is best)."""

    lbads: int
    ms: int = 0
    rp: int = 0


LBA_FORMATS = tuple(LbaFormat(lbads, ms) for ms in (0, 8, 16, 64) for lbads in (9, 12))
"""The formats that Format NVM and Namespace Management offer, in the order of Identify Namespace. Images name them by
their index."""


class Namespace(NamespaceState):
    """Logical blocks of ``lba_size`` bytes (512 or 4096) on a medium.

    ``identity`` (a serial number, a seed) gives the NGUID, EUI-64 and UUID: the same identity and nsid give
    the same names in every run. ``nsze`` is the size in blocks, ``nbytes`` the same in bytes; what the
    medium has beyond them is not used. ``zoned`` divides it into zones; a part of one is not used. ``shared`` says
    that several controllers may have it attached.
    Raises ValueError when not one block fits.
    """

    __slots__ = (
        "anagrpid",
        "eui64",
        "extended",
        "format_index",
        "formatting",
        "holds",
        "identity",
        "layout",
        "lba_size",
        "marked",
        "media",
        "medium",
        "nbytes",
        "nguid",
        "plain",
        "protection",
        "reservations",
        "shared",
        "sparse",
        "suspect",
        "unsaved",
        "unwritten",
        "uuid",
        "wire_shift",
        "zones",
    )  # fmt: skip

    def __init__(
        self,
        nsid: int,
        media: BlockMedia,
        lba_size: int = 512,
        *,
        identity: str = "nvme-emu",
        shared: bool = False,
        blocks: int | None = None,
        zoned: ZnsConfig | None = None,
    ) -> None:
        if not 1 <= nsid <= 0xFFFF_FFFE:
            raise ValueError(f"nsid={nsid}: must be 1 to FFFFFFFEh (Base 2.1, 3.2.1)")
        if lba_size not in (512, 4096):
            raise ValueError(f"lba_size={lba_size}: this controller formats 512 or 4096 bytes")
        if media.nbytes < lba_size:
            raise ValueError(f"namespace {nsid}: {media.nbytes} bytes hold no block of {lba_size}")
        super().__init__()
        self.nsid = nsid
        self.identity = identity
        self.shared = shared
        self.anagrpid = 0
        """Its ANA group, which the subsystem gives it; 0 where there are none."""
        self.unsaved = False
        """Whether something that lasts has changed by I/O since it was stored: see `lasting.keep_changes`."""
        self.holds: set[Hold] = set()
        self.plain = True
        """Whether reads and writes are nothing but copies: what the quick gaits ask."""
        self.formatting: tuple[int, int] | None = None
        """From when to when (ns) a Format NVM command is at work on it."""
        self.protection = WriteProtection.NONE
        self.marked = BlockSet()
        """Blocks that Write Uncorrectable has marked."""
        self.suspect = BlockSet()
        """Blocks that the medium could not read: see `lba_alerts`."""
        self.unwritten: BlockSet | None = None
        """Blocks that are deallocated or were never written, where that is known: see `allocation`."""
        self.reservations = Reservations(self)
        self.layout: BlockFormat | None = None
        """How blocks with metadata are made; None for those without."""
        self.extended = False
        """Whether metadata is part of extended LBAs in host memory; else it has a buffer of its own."""
        self.sparse = False
        self.set_media(media)
        # Whether deallocated blocks cost nothing (Identify Namespace NSFEAT, THINP); kept here, as fault
        # rules may lay an overlay without an array over the medium.
        self.sparse = media.array is None
        self.format_index = next(index for index, one in enumerate(LBA_FORMATS) if 1 << one.lbads == lba_size)
        self.zones: Zones | None = None
        self._divide(lba_size, blocks)
        if zoned is not None:
            self.make_zoned(zoned)

        digest = hashlib.sha256(f"{identity}/{nsid}".encode()).digest()
        self.nguid = digest[:16]
        self.eui64 = digest[16:24]
        self.uuid = uuid.UUID(bytes=digest[8:24], version=4)

    def _divide(self, lba_size: int, blocks: int | None) -> None:
        self.lba_size = lba_size
        self.lba_shift = lba_size.bit_length() - 1
        most = self.media.nbytes >> self.lba_shift
        self.nsze = most if blocks is None else min(blocks, most)
        if self.zones is not None:
            self.zones.divide(lba_size)
            self.nsze = self.zones.blocks
        self.nbytes = self.nsze << self.lba_shift
        self.wire_shift = self.lba_shift if self.layout is None else -1
        """``lba_shift`` where a block is all that moves, which message transports ask; else -1."""

    def make_zoned(self, zoned: ZnsConfig) -> None:
        """Divide it into zones, all of them Empty. Raises ValueError where not one fits."""
        self.zones = Zones(zoned, self.lba_size, self.nbytes)
        self.zones.break_some()
        self.nsze = self.zones.blocks
        self.nbytes = self.nsze << self.lba_shift
        self.hold(Hold.ZONED)

    @property
    def format(self) -> LbaFormat:
        """The LBA format that it has."""
        return LBA_FORMATS[self.format_index]

    @property
    def row_bytes(self) -> int:
        """What a block takes on the medium."""
        return self.lba_size if self.layout is None else self.layout.row_bytes

    def set_media(self, medium: BlockMedia) -> None:
        """Use another medium from now on (an overlay, or what is below it).

        ``medium`` is all of it, ``media`` the data of the blocks: the same unless they have metadata.
        """
        self.medium = medium
        self.media: BlockMedia = medium if self.layout is None else RowMedia(medium, self.layout)
        self._look()

    def set_format(
        self,
        index: int,
        *,
        pi: PiType = PiType.NONE,
        first: bool = False,
        extended: bool = False,
        blocks: int | None = None,
    ) -> None:
        """Take a format, with ``pi`` protection information in the ``first`` or last bytes of its metadata.

        What is on the medium stays, whatever it means then. ``blocks`` are as many as fit by default.
        """
        new = LBA_FORMATS[index]
        self.format_index = index
        self.layout = BlockFormat(1 << new.lbads, new.ms, pi, first) if new.ms else None
        self.extended = extended and new.ms > 0
        self.set_media(self.medium)
        if new.ms:
            self.hold(Hold.METADATA)
        else:
            self.free(Hold.METADATA)
        self._divide(1 << new.lbads, blocks)

    def hold(self, why: Hold) -> None:
        """Keep the quick gaits away for a reason."""
        self.holds.add(why)
        self._look()

    def free(self, why: Hold) -> None:
        """The reason is gone."""
        self.holds.discard(why)
        self._look()

    def _look(self) -> None:
        """Let the hot path have the medium's bytes, or not: without them nothing is copied unasked."""
        self.plain = not self.holds
        array = self.media.array
        self.view = memoryview(array) if self.plain and array is not None else None  # type: ignore[arg-type]

    def reformat(
        self, index: int, pi: PiType = PiType.NONE, first: bool = False, extended: bool = False
    ) -> None:
        """Take another LBA format (`set_format`); all blocks are deallocated. Raises OSError of the medium.

        The size in bytes stays as near to what the medium has as blocks of the new size allow.
        """
        self.medium.discard(0, self.medium.nbytes)
        self.medium.flush()  # the old blocks must not come back under the new format
        if self.zones is not None:
            self.zones.erase()
        self.set_format(index, pi=pi, first=first, extended=extended)
        self.forget_blocks()

    def forget_blocks(self) -> None:
        """Nothing is known of any block any more but that it is deallocated."""
        self.marked.clear()
        self.suspect.clear()
        self.free(Hold.MARKED)
        if self.unwritten is not None:
            self.unwritten.clear()
            self.unwritten.add(0, self.nsze)

    def progress(self, now_ns: int) -> int | None:
        """Percent of a format operation that remain at ``now_ns``, 100 to 1; None when none is at work."""
        if self.formatting is None:
            return None
        start_ns, end_ns = self.formatting
        if now_ns >= end_ns:
            self.formatting = None
            self.free(Hold.FORMAT)
            return None
        return max(1, min(100, -(-100 * (end_ns - now_ns) // (end_ns - start_ns))))

    def protect(self, state: WriteProtection) -> None:
        """Another state of write protection."""
        self.protection = state
        if state is WriteProtection.NONE:
            self.free(Hold.PROTECTED)
        else:
            self.hold(Hold.PROTECTED)

    def power_lost(self) -> None:
        """The power was off: protection until then and reservations that do not persist are gone."""
        if self.protection is WriteProtection.UNTIL_POWER_CYCLE:
            self.protect(WriteProtection.NONE)
        self.reservations.power_lost()
        for zone in () if self.zones is None else self.zones.power_lost():
            self.deallocate_above(zone)

    def deallocate_above(self, zone: Zone) -> None:
        """Above a zone's write pointer there must be nothing; a medium that fails at that will fail the reads."""
        assert self.zones is not None, "it is one of its zones"
        blocks = zone.start + self.zones.size - zone.wp
        with contextlib.suppress(OSError):
            self.media.discard(zone.wp << self.lba_shift, blocks << self.lba_shift)
            self.media.flush()

    def look(self, now_ns: int) -> None:
        """Find out whether a format operation is over."""
        self.progress(now_ns)

    def __repr__(self) -> str:
        return f"<Namespace {self.nsid} {self.nsze} blocks of {self.lba_size}>"
