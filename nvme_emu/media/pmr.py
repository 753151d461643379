"""The bytes of a Persistent Memory Region in a file: nothing but them, from the first to the last.

The file is mapped and shared, so that a store is in the system's page cache at once: a process that is killed loses
nothing. `flush` (msync) makes it survive the system too. All of the file's blocks are taken when it is made, because a
store into a hole of a mapped file on a full disk would be a signal that kills the process.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat

from nvme_emu.media.base import MediaError

__all__ = ["PmrFile", "pmr_path"]


def pmr_path(image: str | os.PathLike[str]) -> str:
    """Where the region of a device with this image is kept: beside it, `disk.img.pmr`."""
    return os.fspath(image) + ".pmr"


class PmrFile:
    """`nbytes` bytes in the file at `path`, made with zeros where there is none; locked (flock) while it is open.

    `view` is the bytes, `writable` whether the file lets us store. Raises MediaError for a file of another size, one
    that is locked or no regular file, or that cannot be made.
    """

    def __init__(self, path: str | os.PathLike[str], nbytes: int) -> None:
        self.path = os.fspath(path)
        self.writable = True
        self._fd = -1
        try:
            self._open()
            self._take_size(nbytes)
            prot = mmap.PROT_READ | (mmap.PROT_WRITE if self.writable else 0)
            self._mapping = mmap.mmap(self._fd, nbytes, flags=mmap.MAP_SHARED, prot=prot)
        except OSError as error:
            self._close_fd()
            if isinstance(error, MediaError):
                raise
            raise self._error(error.errno or errno.EIO, error.strerror or str(error)) from error
        self.view = memoryview(self._mapping)

    def _error(self, number: int, why: str) -> MediaError:
        return MediaError(number, f"{self.path}: {why}")

    def _open(self) -> None:
        if os.path.lexists(self.path) and not stat.S_ISREG(os.stat(self.path).st_mode):
            raise self._error(errno.EINVAL, "a persistent memory region must be a regular file")
        try:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EROFS):
                raise
            self._fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            self.writable = False
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            raise self._error(errno.EBUSY, "it is locked: another process, or this one, has it open") from error

    def _take_size(self, nbytes: int) -> None:
        size = os.fstat(self._fd).st_size
        if not size and self.writable:
            os.posix_fallocate(self._fd, 0, nbytes)
            os.fsync(self._fd)
        elif size != nbytes:
            raise self._error(errno.EINVAL, f"it has {size} bytes, a region of {nbytes} was asked for")

    def flush(self) -> None:
        """Make all that was stored durable. OSError."""
        if self._fd >= 0 and self.writable:
            self._mapping.flush()

    def close(self) -> None:
        """Flush, and let the file go; the mapping lives as long as somebody has views of it. Once is enough."""
        try:
            self.flush()
        finally:
            self._close_fd()

    def _close_fd(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            # The mapping has a descriptor of the same open file: closing ours alone would not unlock it.
            fcntl.flock(fd, fcntl.LOCK_UN)
            os.close(fd)
