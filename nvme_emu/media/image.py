"""A medium in a file, durable when the host was told so.

Stores go through pwrite and not through a shared mapping: a full disk is then an error (ENOSPC) instead of
a SIGBUS that kills the process. Reads of one run go through pread for the same reason: a file that somebody
truncates under us gives a short read, a mapping again SIGBUS. The mapping is there for gathers of many rows,
behind a look at the file's size (a truncation between the look and the gather can still
kill; the lock keeps everybody who asks for one out), and for punching holes. It shows the same page cache.

flush() is fdatasync and FUA a write with RWF_DSYNC. Once a sync has failed the medium stays failed: the
kernel may have dropped the dirty pages and reports the error once, so a later success would be a lie. It reports
an error of any page to whoever syncs first, and so a failure of one kind of sync fails the others too.

docs/image.md says what the file looks like and what it promises.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import stat
import uuid
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np

from nvme_emu.core.memory import ByteArray
from nvme_emu.media.base import Buffer, Media, MediaError, Offsets
from nvme_emu.media.pages import Run, data_runs
from nvme_emu.media.ram import read_rows
from nvme_emu.media.system import System
from nvme_emu.media.trailer import (
    FOREIGN_PROBE_BYTES,
    TRAILER_BYTES,
    Slot,
    Trailer,
    TrailerError,
    build_slot,
    foreign_format,
    parse_slot,
)

__all__ = ["ImageMedia"]

ZEROES = bytes(1 << 20)
_SYSTEM: Final = System()
_DISK_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


class ImageMedia(Media):
    """The data of an image file; see trailer.py for what the file looks like.

    `lba_size` and `uuid` come from its trailer. The file is locked (flock) as long as the medium is open.
    """

    volatile = False

    def __init__(
        self,
        path: str | os.PathLike[str],
        nbytes: int | None = None,
        *,
        create: bool = True,
        lba_size: int | None = None,
        system: System = _SYSTEM,
    ) -> None:
        """Open the image at `path`, or with `create` make a sparse one of `nbytes` bytes where none is.

        An image that exists keeps its size; `nbytes` then is the least it must have, `lba_size` what it
        must have been made for (512 for a new one). Raises MediaError, naming the path, the value and the
        rule, for a file that is absent and cannot be made, too small, not one of ours, damaged, locked or
        not a regular file; ValueError for sizes that no image can have.
        """
        self.path = os.fspath(path)
        _check_sizes(nbytes, lba_size)
        self._system = system
        self._failed_sync: OSError | None = None
        self._fd = -1
        try:
            self._open(nbytes, create, lba_size)
        except OSError as error:
            self.close()
            if isinstance(error, MediaError):
                raise
            raise self._error(error.errno or errno.EIO, error.strerror or str(error)) from error

    def _open(self, nbytes: int | None, create: bool, lba_size: int | None) -> None:
        if not self._system.exists(self.path):
            if not create or nbytes is None:
                rule = "and no size was given to create it" if create else "and it was not to be created"
                raise self._error(errno.ENOENT, f"the image does not exist {rule}")
            self._create(Trailer(nbytes, lba_size or 512, uuid.uuid4()))
        else:
            self._open_existing()
        trailer = self._read_trailer()
        if nbytes is not None and trailer.data_nbytes < nbytes:
            raise self._error(
                errno.EINVAL, f"the image has {trailer.data_nbytes} bytes, {nbytes} were asked for"
            )
        if lba_size is not None and trailer.lba_size != lba_size:
            raise self._error(
                errno.EINVAL,
                f"the image has logical blocks of {trailer.lba_size} bytes, {lba_size} were asked for",
            )
        self._trailer = trailer
        self._state = self._newest_state()
        self.nbytes = trailer.data_nbytes
        self.lba_size = trailer.lba_size
        self.uuid = trailer.uuid
        self._mapping = self._system.map(self._fd, self.nbytes)
        self._flat: ByteArray = np.frombuffer(self._mapping, np.uint8)
        self._flat.flags.writeable = False

    def _open_existing(self) -> None:
        # Looked at before it is opened: opening a device or a pipe can have effects of its own.
        mode = self._system.mode(self.path)
        if not stat.S_ISREG(mode):
            kind = "a directory" if stat.S_ISDIR(mode) else "a device, pipe or socket"
            raise self._error(errno.EINVAL, f"an image must be a regular file, this is {kind}")
        self._fd = self._system.open(self.path)
        self._lock()

    def _lock(self) -> None:
        try:
            self._system.lock(self._fd)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            raise self._error(
                errno.EBUSY, "the image is locked: another process, or this one, has it open"
            ) from error

    def _create(self, trailer: Trailer) -> None:
        """Make the image under another name and link it into place when all of it is on the disk.

        Whoever interrupts this leaves a ".part" file at worst, never a torn image; link, unlike rename,
        does not replace an image that somebody else made in the meantime.
        """
        system = self._system
        directory, name = os.path.split(self.path)
        part = os.path.join(directory, f".{name}.{trailer.uuid}.part")
        self._fd = system.open(part, new=True)
        try:
            self._lock()
            system.truncate(self._fd, trailer.file_bytes)
            # A slot that is good from the beginning: an image without one was damaged.
            self._put(trailer.slots[0], build_slot(trailer.version, 0, b""), False)
            self._put(trailer.offset, trailer.build(), False)
            system.fsync(self._fd)
            system.link(part, self.path)
        finally:
            system.unlink(part)
        system.sync_directory(directory or ".")

    def _read_trailer(self) -> Trailer:
        system = self._system
        size = system.size(self._fd)
        if size == 0:
            raise self._error(
                errno.EINVAL, "the file is empty and no image; remove it to have one created"
            )
        try:
            trailer = Trailer.parse(system.pread(self._fd, TRAILER_BYTES, max(size - TRAILER_BYTES, 0)))
            if trailer.file_bytes != size:
                raise TrailerError(
                    f"its trailer promises {trailer.data_nbytes} bytes of data in a file of "
                    f"{trailer.file_bytes}, {size} are there"
                )
        except TrailerError as error:
            foreign = foreign_format(system.pread(self._fd, FOREIGN_PROBE_BYTES, 0))
            what = f"the file is {foreign}" if foreign else f"the file of {size} bytes is foreign or damaged"
            raise self._error(errno.EINVAL, f"{what}: {error}") from error
        return trailer

    def _newest_state(self) -> Slot:
        """The good state slot with the highest number. Raises MediaError when no slot is good and there must be one."""
        trailer = self._trailer
        slots = [
            parse_slot(trailer.version, self._system.pread(self._fd, trailer.slot_bytes, at)) for at in trailer.slots
        ]
        good = [slot for slot in slots if slot.good]
        if good:
            return max(good)
        first, second = (slot.why for slot in slots)
        # Of version 1 a new image has two empty slots, and its first write may have been torn.
        if trailer.version == 1 and "empty" in (first, second):
            return Slot(0, b"")
        raise self._error(
            errno.EINVAL, f"the image is damaged: no state slot is good (the first: {first}; the second: {second})"
        )

    # -- bytes --------------------------------------------------------------------------------------------

    def read_into(self, offset: int, out: memoryview) -> None:
        nbytes = len(out)
        self._check_range(offset, nbytes)
        done = self._call(self._system.preadv, self._fd, out, offset)
        while done < nbytes:
            more = self._call(self._system.preadv, self._fd, out[done:], offset + done)
            if more == 0:
                raise self._truncated()
            done += more

    def write(self, offset: int, data: Buffer, fua: bool = False) -> None:
        self._check_range(offset, len(data))
        if fua:
            self._refuse_failed()
        try:
            self._put(offset, data, fua)
        except OSError as error:
            if fua:
                self._sync_failed(offset, data, error)
            raise self._error(error.errno or errno.EIO, f"writing failed: {error.strerror}") from error

    def _put(self, offset: int, data: Buffer, durable: bool) -> None:
        nbytes = len(data)
        write = self._system.pwritev
        done = write(self._fd, [data], offset, durable)
        while done < nbytes:
            done += write(self._fd, [memoryview(data)[done:]], offset + done, durable)

    def _sync_failed(self, offset: int, data: Buffer, error: OSError) -> None:
        """A write that was to be durable has failed: the medium has, for good, unless it was the writing alone."""
        if error.errno in _DISK_FULL:
            # A full disk is met while writing, or (delayed allocation) while syncing: only the one fails again.
            try:
                self._put(offset, data, False)
            except OSError:
                return
        if error.errno != errno.EFBIG:
            self._failed_sync = error

    def _refuse_failed(self) -> None:
        if self._failed_sync is not None:
            raise self._error(
                self._failed_sync.errno or errno.EIO,
                f"data could not be made durable ({self._failed_sync.strerror}); "
                "the medium has failed for good",
            )

    def zero(self, offset: int, nbytes: int, fua: bool = False) -> None:
        self._check_range(offset, nbytes)
        end = offset + nbytes
        while offset < end:
            chunk = min(len(ZEROES), end - offset)
            self.write(offset, memoryview(ZEROES)[:chunk], fua and offset + chunk == end)
            offset += chunk
        # The last chunk's DSYNC covers that chunk alone.
        if fua and nbytes > len(ZEROES):
            self.flush()

    def discard(self, offset: int, nbytes: int) -> None:
        """Punches a hole for whole pages; where the file system cannot, and for the rest, writes zeroes."""
        self._check_range(offset, nbytes)
        end = offset + nbytes
        first = -(-offset // mmap.PAGESIZE) * mmap.PAGESIZE
        last = end // mmap.PAGESIZE * mmap.PAGESIZE
        if first < last:
            with contextlib.suppress(OSError):
                self._mapping.madvise(mmap.MADV_REMOVE, first, last - first)
                self.zero(offset, first - offset)
                self.zero(last, end - last)
                return
        self.zero(offset, nbytes)

    def flush(self) -> None:
        if self._failed_sync is None:
            try:
                self._system.fdatasync(self._fd)
            except OSError as error:
                self._failed_sync = error
        self._refuse_failed()
        self._check_length()

    def load_state(self) -> bytes | None:
        """What the device remembered besides its data; None for a new image."""
        return self._state.contents if self._state.sequence else None

    def store_state(self, contents: bytes) -> None:
        """Remember it durably; what was remembered before stays until then.

        Raises MediaError, and StateTooLargeError (a ValueError) for what does not fit into a slot.
        """
        sequence = self._state.sequence + 1
        slot = build_slot(self._trailer.version, sequence, contents)
        offset = self._trailer.slots[sequence % 2]
        self._refuse_failed()
        try:
            self._put(offset, slot, True)
        except OSError as error:
            self._sync_failed(offset, slot, error)
            raise self._error(error.errno or errno.EIO, f"writing the state failed: {error.strerror}") from error
        self._state = Slot(sequence, contents)

    def close(self) -> None:
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        self.nbytes = 0
        if hasattr(self, "_mapping"):
            self._flat = np.empty(0, np.uint8)
            self._mapping.close()
        self._system.close(fd)

    def allocated_bytes(self) -> int:
        """What the file system says it has given to the file (it may decide late), without what a new image has."""
        return max(0, min(self.nbytes, self._system.allocated(self._fd) - 2 * TRAILER_BYTES))

    def written(self) -> Iterator[Run]:
        """What is no hole of the file."""
        return data_runs(self._fd, 0, self.nbytes)

    def read_rows(self, rows: Offsets, row_nbytes: int, out: ByteArray) -> None:
        self._row_buffer(rows, row_nbytes, out)
        self._check_length()
        read_rows(self._flat, rows, row_nbytes, out)

    def write_rows(self, rows: Offsets, row_nbytes: int, data: ByteArray, fua: bool = False) -> None:
        super().write_rows(rows, row_nbytes, data)
        if fua:
            self.flush()

    # -- errors -------------------------------------------------------------------------------------------

    def _check_length(self) -> None:
        if self._system.size(self._fd) < self.nbytes:
            raise self._truncated()

    def _truncated(self) -> MediaError:
        size = self._system.size(self._fd)
        return self._error(
            errno.EIO, f"the image was truncated while it was open: {size} bytes are left of {self.nbytes}"
        )

    def _call(self, function: Callable[..., int], *args: object) -> int:
        try:
            return function(*args)
        except OSError as error:
            raise self._error(error.errno or errno.EIO, f"reading failed: {error.strerror}") from error

    def _error(self, number: int, message: str) -> MediaError:
        return MediaError(number, message, self.path)

    def __repr__(self) -> str:
        return f"<ImageMedia {self.path!r} {self.nbytes} bytes>"


def _check_sizes(nbytes: int | None, lba_size: int | None) -> None:
    if lba_size is not None and (lba_size < 512 or lba_size & (lba_size - 1)):
        raise ValueError(f"a logical block must be a power of two of at least 512 bytes, not {lba_size}")
    if nbytes is not None and (nbytes < 1 or nbytes % (lba_size or 512)):
        raise ValueError(
            f"an image must have a whole number of blocks of {lba_size or 512} bytes, not {nbytes} bytes"
        )
