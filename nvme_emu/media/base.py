"""What every medium does: bytes at offsets, nothing of NVMe.

A medium is pristine storage; faults and latency are laid over it elsewhere. An offset or a length out of
range is the caller's mistake (ValueError); what goes wrong with the medium itself is a MediaError.

One caller at a time (the controller's lock); no method may be called after `close`, which may be
called twice.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from nvme_emu.core.errors import MediaError
from nvme_emu.core.memory import ByteArray

__all__ = ["Buffer", "Media", "MediaError", "Offsets"]

Buffer = bytes | bytearray | memoryview
Offsets = npt.NDArray[np.integer]


class Media(ABC):
    """`nbytes` bytes of storage which read as zeroes until they are written.

    `volatile` says that the contents are gone after `close` (memory), `array` is the flat uint8 array
    under the medium where reading and storing through it is always right, else None. The column gait needs
    no `array`: `read_rows` and `write_rows` work on every medium, at the memory's speed where there is one.
    """

    nbytes: int
    volatile: bool
    array: ByteArray | None = None

    # -- one run of bytes ---------------------------------------------------------------------------------

    @abstractmethod
    def read_into(self, offset: int, out: memoryview) -> None:
        """Fill `out` (bytes, contiguous, writable) with what is stored at `offset`."""

    @abstractmethod
    def write(self, offset: int, data: Buffer, fua: bool = False) -> None:
        """Store `data` at `offset`; with `fua` it is durable when this returns, whatever else is cached."""

    @abstractmethod
    def zero(self, offset: int, nbytes: int, fua: bool = False) -> None:
        """Make `nbytes` bytes at `offset` read as zeroes (Write Zeroes); `fua` as with `write`."""

    @abstractmethod
    def discard(self, offset: int, nbytes: int) -> None:
        """Give `nbytes` bytes at `offset` back: they read as zeroes and cost as little as the medium can."""

    @abstractmethod
    def flush(self) -> None:
        """Make everything that was written durable. Raises MediaError where that failed."""

    @abstractmethod
    def close(self) -> None:
        """Give everything back; what was not flushed need not be durable."""

    def equal(self, offset: int, data: Buffer) -> int:
        """-1 when the bytes at `offset` equal `data`, else the index in `data` of the first that differs."""
        expected = memoryview(data).cast("B")
        stored = bytearray(len(expected))
        self.read_into(offset, memoryview(stored))
        if stored == expected:
            return -1
        return first_difference(np.frombuffer(stored, np.uint8), np.frombuffer(expected, np.uint8))

    def allocated_bytes(self) -> int:
        """How many bytes the medium holds storage for; what was never written may cost nothing."""
        return self.nbytes

    def written(self) -> Iterator[tuple[int, int]]:
        """(offset, bytes) of what may hold anything but zeroes, ascending: for who copies it."""
        yield 0, self.nbytes

    # -- many rows of one length --------------------------------------------------------------------------

    def read_rows(self, rows: Offsets, row_nbytes: int, out: ByteArray) -> None:
        """Read rows[i] * row_nbytes … for every i into `out`, of shape (len(rows), row_nbytes) or flat.

        `out` must be C-contiguous. Raises ValueError when a row is out of range or the shapes do not fit.
        """
        view = memoryview(self._row_buffer(rows, row_nbytes, out))  # type: ignore[arg-type]
        for at, row in enumerate(rows.tolist()):
            self.read_into(row * row_nbytes, view[at * row_nbytes : (at + 1) * row_nbytes])

    def write_rows(self, rows: Offsets, row_nbytes: int, data: ByteArray, fua: bool = False) -> None:
        """Store `data`'s rows at rows[i] * row_nbytes, in order: of two equal rows the later one stays."""
        view = memoryview(self._row_buffer(rows, row_nbytes, data))  # type: ignore[arg-type]
        for at, row in enumerate(rows.tolist()):
            self.write(row * row_nbytes, view[at * row_nbytes : (at + 1) * row_nbytes], fua)

    def _row_buffer(self, rows: Offsets, row_nbytes: int, buffer: ByteArray) -> ByteArray:
        """`buffer` flat, after the checks that `read_rows` and `write_rows` share."""
        if row_nbytes < 1:
            raise ValueError(f"a row needs at least one byte, not {row_nbytes}")
        if not buffer.flags.c_contiguous or buffer.nbytes != len(rows) * row_nbytes:
            raise ValueError(
                f"{len(rows)} rows of {row_nbytes} bytes need a contiguous buffer of as many bytes, "
                f"not one of {buffer.nbytes}"
            )
        if len(rows):
            # Two reductions find a row out of range without an array of comparisons.
            low, high = int(rows.min()), int(rows.max())
            if low < 0 or (high + 1) * row_nbytes > self.nbytes:
                raise ValueError(
                    f"rows {low}…{high} of {row_nbytes} bytes are not all inside {self.nbytes} bytes"
                )
        return buffer.reshape(-1)

    # -- for subclasses -----------------------------------------------------------------------------------

    def _check_range(self, offset: int, nbytes: int) -> None:
        """Raises ValueError unless [offset, offset + nbytes) lies in the medium. No bytes are fine."""
        if offset < 0 or nbytes < 0 or offset + nbytes > self.nbytes:
            raise ValueError(
                f"{nbytes} bytes at offset {offset} are not inside the medium's {self.nbytes} bytes"
            )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.nbytes} bytes>"


def check_size(nbytes: int) -> None:
    """Raises ValueError for a medium of no bytes."""
    if nbytes < 1:
        raise ValueError(f"a medium needs at least 1 byte, not {nbytes}")


def first_difference(one: ByteArray, other: ByteArray) -> int:
    """The index of the first byte in which two arrays of one length differ, -1 if none."""
    different = one != other
    index = int(different.argmax()) if len(different) else 0
    return index if len(different) and different[index] else -1
