"""A medium in a file, durable when the host was told so.

Stores go through pwrite and not through a shared mapping: a full disk is then an error (ENOSPC) instead of
a SIGBUS that kills the process. Reads of one run go through pread for the same reason: a file that somebody
truncates under us gives a short read, a mapping again SIGBUS. The mapping is there for gathers of many rows,
behind a look at the file's size (a truncation between the look and the gather can still
kill; the lock keeps everybody who asks for one out), and for punching holes. It shows the same page cache.

flush() is fdatasync and FUA a write with RWF_DSYNC. Once a sync has failed the medium stays failed: the
kernel may have dropped the dirty pages and reports the error once, so a later success would be a lie.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import stat
import uuid
from collections.abc import Callable

import numpy as np

from nvme_emu.core.memory import ByteArray
from nvme_emu.media.base import Buffer, Media, MediaError, Offsets
from nvme_emu.media.ram import read_rows
from nvme_emu.media.trailer import (
    FOREIGN_PROBE_BYTES,
    TRAILER_BYTES,
    Trailer,
    TrailerError,
    build_state,
    foreign_format,
    newest_state,
)

__all__ = ["ImageMedia"]

ZEROES = bytes(1 << 20)


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
    ) -> None:
        """Open the image at `path`, or with `create` make a sparse one of `nbytes` bytes where none is.

        An image that exists keeps its size; `nbytes` then is the least it must have, `lba_size` what it
        must have been made for (512 for a new one). Raises MediaError, naming the path, the value and the
        rule, for a file that is absent and cannot be made, too small, not one of ours, damaged, locked or
        not a regular file; ValueError for sizes that no image can have.
        """
        self.path = os.fspath(path)
        _check_sizes(nbytes, lba_size)
        self._failed_sync: OSError | None = None
        self._state_sequence = 0
        self._fd = -1
        try:
            self._open(nbytes, create, lba_size)
        except OSError as error:
            self.close()
            if isinstance(error, MediaError):
                raise
            raise self._error(error.errno or errno.EIO, error.strerror or str(error)) from error

    def _open(self, nbytes: int | None, create: bool, lba_size: int | None) -> None:
        if not os.path.lexists(self.path):
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
        self.nbytes = trailer.data_nbytes
        self.lba_size = trailer.lba_size
        self.uuid = trailer.uuid
        self._mapping = mmap.mmap(self._fd, self.nbytes, access=mmap.ACCESS_WRITE)
        self._flat: ByteArray = np.frombuffer(self._mapping, np.uint8)
        self._flat.flags.writeable = False

    def _open_existing(self) -> None:
        # Looked at before it is opened: opening a device or a pipe can have effects of its own.
        mode = os.stat(self.path).st_mode
        if not stat.S_ISREG(mode):
            kind = "a directory" if stat.S_ISDIR(mode) else "a device, pipe or socket"
            raise self._error(errno.EINVAL, f"an image must be a regular file, this is {kind}")
        self._fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        self._lock()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
        directory, name = os.path.split(self.path)
        part = os.path.join(directory, f".{name}.{trailer.uuid}.part")
        self._fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            self._lock()
            os.truncate(self._fd, trailer.data_nbytes + TRAILER_BYTES)
            self._put(trailer.data_nbytes, trailer.build(), 0)
            os.fsync(self._fd)
            os.link(part, self.path)
        finally:
            os.unlink(part)
        _sync_directory(directory or ".")

    def _read_trailer(self) -> Trailer:
        size = os.fstat(self._fd).st_size
        if size == 0:
            raise self._error(
                errno.EINVAL, "the file is empty and no image; remove it to have one created"
            )
        try:
            trailer = Trailer.parse(os.pread(self._fd, TRAILER_BYTES, max(size - TRAILER_BYTES, 0)))
            if trailer.data_nbytes != size - TRAILER_BYTES:
                raise TrailerError(
                    f"its trailer promises {trailer.data_nbytes} bytes of data, "
                    f"{size - TRAILER_BYTES} are there"
                )
        except TrailerError as error:
            foreign = foreign_format(os.pread(self._fd, FOREIGN_PROBE_BYTES, 0))
            what = f"the file is {foreign}" if foreign else f"the file of {size} bytes is foreign or damaged"
            raise self._error(errno.EINVAL, f"{what}: {error}") from error
        return trailer

    # -- bytes --------------------------------------------------------------------------------------------

    def read_into(self, offset: int, out: memoryview) -> None:
        nbytes = len(out)
        self._check_range(offset, nbytes)
        done = self._call(os.preadv, self._fd, [out], offset)
        while done < nbytes:
            more = self._call(os.preadv, self._fd, [out[done:]], offset + done)
            if more == 0:
                raise self._truncated()
            done += more

    def write(self, offset: int, data: Buffer, fua: bool = False) -> None:
        self._check_range(offset, len(data))
        try:
            self._put(offset, data, os.RWF_DSYNC if fua else 0)
        except OSError as error:
            if fua and error.errno == errno.EIO:
                self._failed_sync = error
            raise self._error(error.errno or errno.EIO, f"writing failed: {error.strerror}") from error

    def _put(self, offset: int, data: Buffer, flags: int) -> None:
        nbytes = len(data)
        done = os.pwritev(self._fd, [data], offset, flags)
        while done < nbytes:
            done += os.pwritev(self._fd, [memoryview(data)[done:]], offset + done, flags)

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
                os.fdatasync(self._fd)
            except OSError as error:
                self._failed_sync = error
        if self._failed_sync is not None:
            raise self._error(
                self._failed_sync.errno or errno.EIO,
                f"data could not be made durable ({self._failed_sync.strerror}); "
                "the medium has failed for good",
            )
        self._check_length()

    def load_state(self) -> bytes | None:
        """What the device remembered besides its data; None for a new image. Raises MediaError."""
        block = bytearray(TRAILER_BYTES)
        done = self._call(os.preadv, self._fd, [block], self.nbytes)
        found = newest_state(bytes(block)) if done == TRAILER_BYTES else None
        if found is None:
            return None
        self._state_sequence, contents = found
        return contents

    def store_state(self, contents: bytes) -> None:
        """Remember it durably; what was remembered before stays until then. Raises MediaError, ValueError."""
        offset, slot = build_state(self._state_sequence + 1, contents)
        try:
            self._put(self.nbytes + offset, slot, os.RWF_DSYNC)
        except OSError as error:
            raise self._error(error.errno or errno.EIO, f"writing the state failed: {error.strerror}") from error
        self._state_sequence += 1

    def close(self) -> None:
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        self.nbytes = 0
        if hasattr(self, "_mapping"):
            self._flat = np.empty(0, np.uint8)
            self._mapping.close()
        os.close(fd)

    def allocated_bytes(self) -> int:
        """What the file system says it has given to the file (it may decide late), without the trailer."""
        status = os.fstat(self._fd)
        return max(0, min(self.nbytes, status.st_blocks * 512 - TRAILER_BYTES))

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
        if os.fstat(self._fd).st_size < self.nbytes:
            raise self._truncated()

    def _truncated(self) -> MediaError:
        size = os.fstat(self._fd).st_size
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


def _sync_directory(path: str) -> None:
    """Make a new name in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
