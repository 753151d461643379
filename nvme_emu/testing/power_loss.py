"""A disk below an image file that loses its power, in the place of the operating system (`media.system.System`).

    disk = LossyDisk()
    with disk.power(cut_at=7):                 # the power goes in the 7th call that changes something
        media = ImageMedia("/ssd.img", 1 << 16, system=disk)
        ...
    for after in disk.outcomes(random.Random(1), 20):
        media = ImageMedia("/ssd.img", system=after)

The page cache is what the image reads; it may be written back at any time, in any order and in pieces. So after a cut
each sector holds any of the contents that it had since it was last made durable, whatever the others hold: a write is
dropped, torn between its sectors, or overtakes those before it. Names, too, may be there or not until their directory
is synced. A sector is written as a whole or not at all, as disks promise.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import math
import mmap
import stat
from collections.abc import Iterator, Sequence
from random import Random

from nvme_emu.media.system import System

__all__ = ["LossyDisk", "PowerCut"]

_PAGE = mmap.PAGESIZE


class PowerCut(BaseException):
    """The power is gone: nothing that runs on this machine goes on."""


class _Mapping(mmap.mmap):
    """The page cache of a file; holes are punched through it."""

    file: _File
    disk: LossyDisk

    def madvise(self, option: int, start: int = 0, length: int = 0) -> None:
        """MADV_REMOVE alone."""
        if option != mmap.MADV_REMOVE:
            raise OSError(errno.EINVAL, "only holes are punched")
        self.disk.punch(self.file, start, length)

    def close(self) -> None:
        """The file stays."""


class _File:
    """A file: what its pages hold, and of each sector that is not durable all that it has held since it was."""

    def __init__(self, sector: int) -> None:
        self.sector = sector
        self.cache = bytearray()
        self.pages: _Mapping | None = None
        self.versions: dict[int, list[bytes]] = {}
        self.sizes = [0]

    def look(self, offset: int, nbytes: int) -> Iterator[tuple[int, bytes]]:
        """(number, contents) of each sector of a range."""
        for number in range(offset // self.sector, -(-(offset + nbytes) // self.sector)):
            yield number, self.read(number * self.sector, self.sector)

    def read(self, offset: int, nbytes: int) -> bytes:
        """What the pages hold."""
        source = self.cache if self.pages is None else self.pages
        return bytes(source[offset : min(offset + nbytes, self.sizes[-1])])

    def store(self, offset: int, data: bytes) -> None:
        """Change the pages; every sector has one more content that it may be found with."""
        for number, before in list(self.look(offset, len(data))):
            self.versions.setdefault(number, [before])
        target = self.cache if self.pages is None else self.pages
        target[offset : offset + len(data)] = data
        for number, now in self.look(offset, len(data)):
            if now not in self.versions[number]:
                self.versions[number].append(now)

    def sync(self, offset: int, nbytes: int) -> None:
        """A range is as its pages are."""
        for number, _ in self.look(offset, nbytes):
            self.versions.pop(number, None)
        self.sizes = self.sizes[-1:]


class LossyDisk(System):
    """A machine's files: only what was synced is sure to outlive a cut. ``sector`` bytes are written at once."""

    def __init__(self, sector: int = 512) -> None:
        self.sector = sector
        self.calls = 0
        """Calls that changed something or made it durable."""
        self.cut_at: int | None = None
        self._names: dict[str, list[_File | None]] = {}
        """Of each name what it may stand for after a cut, the last for what it stands now."""
        self._open: dict[int, _File] = {}
        self._next_fd = 1000

    @contextlib.contextmanager
    def power(self, cut_at: int | None = None) -> Iterator[None]:
        """The machine runs, until the power goes in the call of this number, counted from now; then this ends."""
        self.calls, self.cut_at = 0, cut_at
        with contextlib.suppress(PowerCut):
            yield
        self.cut_at = None

    def _call(self) -> None:
        """One more call: the power goes when it has been begun and before anything has become durable by it."""
        self.calls += 1
        if self.cut_at is not None and self.calls >= self.cut_at:
            raise PowerCut

    # -- after a cut ----------------------------------------------------------------------------------------

    def _choices(self) -> list[tuple[str, int]]:
        """What is open: (what, how many ways) in a fixed order."""
        found = []
        for name, files in sorted(self._names.items()):
            found.append((name, len(files)))
            for file in filter(None, files):
                found.append((f"size of {name}", len(file.sizes)))
                found.extend((f"sector {n} of {name}", len(v)) for n, v in sorted(file.versions.items()))
        return found

    @property
    def outcomes_count(self) -> int:
        """In how many ways the disk may be found now."""
        return math.prod(ways for _, ways in self._choices())

    def outcomes(self, rng: Random, at_most: int) -> Iterator[LossyDisk]:
        """The disks that may be found: all where there are no more than ``at_most``, else as many drawn at random.

        Among those drawn are the oldest, the newest, and ones in which a single sector is old or new.
        """
        ways = [count for _, count in self._choices()]
        if math.prod(ways) <= at_most:
            for choice in itertools.product(*map(range, ways)):
                yield self._after(choice)
            return
        newest = [count - 1 for count in ways]
        yield self._after([0] * len(ways))
        yield self._after(newest)
        for number in range(max(0, at_most - 2)):
            one = rng.randrange(len(ways))
            if number % 3 == 0:
                drawn = [newest[at] if at != one else 0 for at in range(len(ways))]
            elif number % 3 == 1:
                drawn = [newest[at] if at == one else 0 for at in range(len(ways))]
            else:
                drawn = [rng.randrange(count) for count in ways]
            yield self._after(drawn)

    def _after(self, choice: Sequence[int]) -> LossyDisk:
        after = LossyDisk(self.sector)
        made: dict[int, _File] = {}
        chosen = iter(choice)
        for name, files in sorted(self._names.items()):
            which = files[next(chosen)]
            for file in filter(None, files):
                size = file.sizes[next(chosen)]
                contents = bytearray(file.read(0, file.sizes[-1]))
                for number, versions in sorted(file.versions.items()):
                    held = versions[next(chosen)]
                    contents[number * file.sector : number * file.sector + len(held)] = held
                if file is which:
                    new = made.setdefault(id(file), _File(self.sector))
                    new.cache, new.sizes = contents[:size].ljust(size, b"\0"), [size]
                    after._names[name] = [new]
        return after

    def contents(self, path: str) -> bytes:
        """A file's bytes."""
        file = self._found(path)
        return file.read(0, file.sizes[-1])

    # -- what an image asks of the system -------------------------------------------------------------------

    def _found(self, path: str) -> _File:
        files = self._names.get(path, [None])
        if files[-1] is None:
            raise FileNotFoundError(errno.ENOENT, "No such file", path)
        return files[-1]

    def exists(self, path: str) -> bool:
        return self._names.get(path, [None])[-1] is not None

    def mode(self, path: str) -> int:
        self._found(path)
        return stat.S_IFREG

    def open(self, path: str, *, new: bool = False) -> int:
        if new:
            if self.exists(path):
                raise FileExistsError(errno.EEXIST, "File exists", path)
            self._names.setdefault(path, [None]).append(_File(self.sector))
        self._next_fd += 1
        self._open[self._next_fd] = self._found(path)
        return self._next_fd

    def lock(self, fd: int) -> None:
        pass

    def close(self, fd: int) -> None:
        del self._open[fd]

    def size(self, fd: int) -> int:
        return self._open[fd].sizes[-1]

    def allocated(self, fd: int) -> int:
        return self.size(fd)

    def truncate(self, fd: int, nbytes: int) -> None:
        file = self._open[fd]
        file.cache = file.cache[:nbytes].ljust(nbytes, b"\0")
        file.sizes.append(nbytes)
        self._call()

    def pread(self, fd: int, nbytes: int, offset: int) -> bytes:
        return self._open[fd].read(offset, nbytes)

    def preadv(self, fd: int, out: memoryview, offset: int) -> int:
        data = self._open[fd].read(offset, len(out))
        out[: len(data)] = data
        return len(data)

    def pwritev(self, fd: int, data: Sequence[bytes | bytearray | memoryview], offset: int, durable: bool) -> int:
        whole = b"".join(bytes(one) for one in data)
        file = self._open[fd]
        file.store(offset, whole)
        self._call()
        if durable:
            file.sync(offset, len(whole))
        return len(whole)

    def punch(self, file: _File, offset: int, nbytes: int) -> None:
        """A hole: its pages read as zeroes, and like other writes are durable when they are synced."""
        first, last = -(-offset // _PAGE) * _PAGE, (offset + nbytes) // _PAGE * _PAGE
        if first < last:
            file.store(first, bytes(last - first))
        self._call()

    def fdatasync(self, fd: int) -> None:
        self._call()
        file = self._open[fd]
        file.sync(0, file.sizes[-1])

    def fsync(self, fd: int) -> None:
        self.fdatasync(fd)

    def link(self, path: str, name: str) -> None:
        if self.exists(name):
            raise FileExistsError(errno.EEXIST, "File exists", name)
        self._names.setdefault(name, [None]).append(self._found(path))
        self._call()

    def unlink(self, path: str) -> None:
        self._found(path)
        self._names[path].append(None)
        self._call()

    def sync_directory(self, path: str) -> None:
        self._call()
        for files in self._names.values():
            del files[:-1]

    def map(self, fd: int, nbytes: int) -> mmap.mmap:
        file = self._open[fd]
        if file.pages is None:
            size = file.sizes[-1]
            pages = _Mapping(-1, size)
            pages[:size] = bytes(file.cache[:size])
            pages.file, pages.disk = file, self
            file.pages, file.cache = pages, bytearray()
        return file.pages
