"""What an image file asks of the operating system, in one place.

Tests put a disk in its place that loses its power (`nvme_emu.testing.power_loss`). Every call that can change the
file, or make a change durable, is here; the mapping is read, and holes are punched through it, but nothing is stored.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Sequence

__all__ = ["System"]


class System:
    """The operating system that we run on. Every method raises OSError as the system does."""

    def exists(self, path: str) -> bool:
        """Whether there is anything of this name, a dangling link included."""
        return os.path.lexists(path)

    def mode(self, path: str) -> int:
        """st_mode of what the name leads to."""
        return os.stat(path).st_mode

    def open(self, path: str, *, new: bool = False) -> int:
        """A descriptor to read and write; with ``new`` of a file that must not exist yet."""
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT | os.O_EXCL if new else 0)
        return os.open(path, flags, 0o666)

    def lock(self, fd: int) -> None:
        """Lock the file for this descriptor alone; EAGAIN where another has done so."""
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def close(self, fd: int) -> None:
        """Give the descriptor and its lock back."""
        os.close(fd)

    def size(self, fd: int) -> int:
        """Bytes of the file."""
        return os.fstat(fd).st_size

    def allocated(self, fd: int) -> int:
        """Bytes that the file system has given to the file."""
        return os.fstat(fd).st_blocks * 512

    def truncate(self, fd: int, nbytes: int) -> None:
        """Make the file so long."""
        os.truncate(fd, nbytes)

    def pread(self, fd: int, nbytes: int, offset: int) -> bytes:
        """At most ``nbytes`` bytes from ``offset`` on."""
        return os.pread(fd, nbytes, offset)

    def preadv(self, fd: int, out: memoryview, offset: int) -> int:
        """Fill ``out``; how many bytes there were, 0 at the end of the file."""
        return os.preadv(fd, [out], offset)

    def pwritev(self, fd: int, data: Sequence[bytes | bytearray | memoryview], offset: int, durable: bool) -> int:
        """Write; how many bytes were. With ``durable`` they are on the disk then, and nothing else need be."""
        return os.pwritev(fd, data, offset, os.RWF_DSYNC if durable else 0)

    def fdatasync(self, fd: int) -> None:
        """Have all that was written on the disk."""
        os.fdatasync(fd)

    def fsync(self, fd: int) -> None:
        """As `fdatasync`, with all that is known of the file."""
        os.fsync(fd)

    def link(self, path: str, name: str) -> None:
        """Give the file another name, which must not exist."""
        os.link(path, name)

    def unlink(self, path: str) -> None:
        """Take a name away."""
        os.unlink(path)

    def sync_directory(self, path: str) -> None:
        """Make the names in a directory durable."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def map(self, fd: int, nbytes: int) -> mmap.mmap:
        """The file's first bytes as memory, which shows what was written; its ``madvise`` punches holes."""
        return mmap.mmap(fd, nbytes, access=mmap.ACCESS_WRITE)
