"""What is done with the product in each row: the loops, each with a proof that the data was really moved."""

from __future__ import annotations

import contextlib
import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

import kworker
import nvme_emu
from bench.measure import RowUnavailable, Sample, timed
from nvme_emu.core.memory import anonymous_array
from nvme_emu.driver import Namespace
from nvme_emu.driver.request import Request
from nvme_emu.media import Media, RamMedia

__all__ = [
    "AcrossCores",
    "BatchReads",
    "BatchWrites",
    "Bytes",
    "Places",
    "Refilled",
    "Resubmitted",
    "SequentialReads",
    "SequentialWrites",
    "SingleReads",
    "Stage",
    "Work",
    "fill_pages",
    "page_aligned",
]

PAGE = 4096
BLOCK = 512
SEQ_BYTES = 128 << 10

Bytes = npt.NDArray[np.uint8]
Places = npt.NDArray[np.int64]


def page_aligned(nbytes: int) -> Bytes:
    """A buffer from a page boundary on, every page of it touched: what all rows move data through, memcpy's too.

    Where malloc puts one, 16 bytes behind a boundary, half of the stores straddle two cache lines.
    """
    made = anonymous_array(nbytes, huge=False)
    made[:] = 1
    return made


def fill_pages(medium: Bytes) -> None:
    """Write every page of a medium (flat uint8, whole pages), each with contents of its own."""
    words = medium.view(np.uint64).reshape(-1, PAGE // 8)
    base = np.random.default_rng(1).integers(0, 2**63, PAGE // 8, np.uint64)
    np.bitwise_xor(base[None, :], np.arange(len(words), dtype=np.uint64)[:, None], out=words)


class KeptMedia(RamMedia):
    """A medium that outlives the machines on it."""

    def close(self) -> None:
        """Left to `free`."""

    def free(self) -> None:
        """Give the memory back."""
        super().close()


class Stage:
    """One medium in memory with every page written, and the machines that work on it, opened when needed.

    ``places`` is every page number once, shuffled.
    """

    def __init__(self, nbytes: int) -> None:
        self.media = KeptMedia(nbytes)
        assert self.media.array is not None
        self.medium = self.media.array
        fill_pages(self.medium)
        self.places: Places = np.random.default_rng(7).permutation(nbytes // PAGE)
        self._machines: dict[tuple[tuple[str, Any], ...], nvme_emu.Machine] = {}
        self._closing = contextlib.ExitStack()

    def machine(self, **options: Any) -> nvme_emu.Machine:
        """A machine on this medium; the same one for the same options."""
        key = tuple(sorted(options.items()))
        if key not in self._machines:
            self._machines[key] = self._closing.enter_context(open_on(self.media, **options))
        return self._machines[key]

    def close(self) -> None:
        """Close the machines and give the memory back."""
        self._machines.clear()
        self._closing.close()
        self.media.free()


def open_on(media: Media, **options: Any) -> nvme_emu.Machine:
    """A machine on a medium that exists already."""
    # `image` is handed to open_media, which takes a Media as itself; its annotation names only paths.
    return nvme_emu.open(image=media, **options)


class Work(ABC):
    """A loop over one namespace. ``scale`` turns operations into the row's unit."""

    scale = 1.0

    def __init__(self, machine: nvme_emu.Machine, medium: Bytes) -> None:
        self.machine = machine
        self.ns: Namespace = machine.namespaces[1]
        self.medium = medium
        self.pages = medium.reshape(-1, PAGE)

    @abstractmethod
    def chunk(self) -> int:
        """Do some operations and return how many."""

    @abstractmethod
    def spoil(self) -> None:
        """Make the buffers such that nothing but a transfer makes them right."""

    @abstractmethod
    def prove(self) -> None:
        """AssertionError unless the last operations of the last chunk moved the right bytes."""

    def check(self) -> None:
        """One chunk into spoilt buffers."""
        self.spoil()
        self.chunk()
        self.prove()

    def run(self, seconds: float) -> Sample:
        """Measure a slice; what it moved last is proved afterwards."""
        self.spoil()
        sample = timed(self.chunk, seconds, self.scale)
        self.prove()
        return sample

    def expect(self, same: bool, what: str) -> None:
        """Fail the row unless ``same``."""
        assert same, f"{what}: the bytes are not those of the medium"


class _Walk:
    """Goes through the places in pieces of ``count``, and starts again at the end."""

    def __init__(self, places: Places, count: int) -> None:
        self._pieces = [places[at : at + count] * (PAGE // BLOCK) for at in range(0, len(places) - count + 1, count)]
        self._lists: dict[int, list[int]] = {}
        self._at = -1

    def array(self) -> Places:
        """The next piece: LBAs."""
        self._at = (self._at + 1) % len(self._pieces)
        return self._pieces[self._at]

    def list(self) -> list[int]:
        """The next piece as plain integers, made once."""
        piece = self.array()
        made = self._lists.get(self._at)
        if made is None:
            made = self._lists[self._at] = piece.tolist()
        return made


class SingleReads(Work):
    """``read`` one page after the other, waiting for each; with ``out=`` given or without."""

    def __init__(
        self, machine: nvme_emu.Machine, medium: Bytes, places: Places, *, into: bool, count: int = 1024
    ) -> None:
        super().__init__(machine, medium)
        self._walk = _Walk(places, count)
        self._out = page_aligned(PAGE) if into else None
        self._last: Bytes = np.empty(0, np.uint8)
        self._slba = 0

    def chunk(self) -> int:
        read, out, slbas = self.ns.read, self._out, self._walk.list()
        last = self._last
        if out is None:
            for slba in slbas:
                last = read(slba, 8)
        else:
            for slba in slbas:
                last = read(slba, 8, out)
        self._last, self._slba = last, slbas[-1]
        return len(slbas)

    def spoil(self) -> None:
        if self._out is not None:
            self._out[:] = 0

    def prove(self) -> None:
        self.expect(np.array_equal(self._last, self.pages[self._slba // 8]), "read")


class AcrossCores(SingleReads):
    """Single reads of an asynchronous machine whose worker runs on another core than the caller."""

    def run(self, seconds: float) -> Sample:
        task = self.machine.workers[0].task
        here = os.sched_getaffinity(0)
        everywhere = set(range(os.cpu_count() or 1)) - here
        if task is None or not everywhere:
            raise RowUnavailable("there is no second core to put the worker on")
        try:
            os.sched_setaffinity(task.pid, everywhere)
        except OSError as error:
            raise RowUnavailable(f"the worker cannot be moved to another core: {error}") from error
        try:
            return super().run(seconds)
        finally:
            os.sched_setaffinity(task.pid, here)


class Resubmitted(Work):
    """``depth`` reads outstanding, each submitted again from its own callback, on the worker."""

    def __init__(
        self,
        machine: nvme_emu.Machine,
        medium: Bytes,
        places: Places,
        *,
        depth: int,
        count: int = 2048,
        nbytes: int = PAGE,
    ) -> None:
        super().__init__(machine, medium)
        self._walk = _Walk(places, max(count, depth))
        self._nlb = nbytes // BLOCK
        self._buffers = list(page_aligned(depth * nbytes).reshape(depth, nbytes))
        self._slbas: Iterator[int] = iter(())
        self._left: list[int] = []
        self._done = kworker.Completion(runtime=machine.runtime, name="the chunk")
        self._ended: list[Request] = []

    def chunk(self) -> int:
        slbas = self._walk.list()
        self._slbas = iter(slbas)
        self._left = list(range(len(slbas)))
        self._ended = []
        self._done.reinit()
        submit, nlb, again = self.ns.submit_read, self._nlb, self._again
        for buffer in self._buffers:
            # The worker may be through with them all before the last was started from here.
            slba = next(self._slbas, None)
            if slba is None:
                break
            submit(slba, nlb, buffer, callback=again)
        self._done.wait()
        return len(slbas)

    def _again(self, rq: Request) -> None:
        slba = next(self._slbas, None)
        if slba is not None:
            self.ns.submit_read(slba, self._nlb, rq.array, callback=self._again)
        else:
            self._ended.append(rq)
        # pop() is atomic, so that one callback draws the 0, also where several workers run them.
        if self._left.pop() == 0:
            self._done.complete()

    def spoil(self) -> None:
        for buffer in self._buffers:
            buffer[:] = 0

    def prove(self) -> None:
        assert self._ended, "no request of the last chunk came back"
        for rq in self._ended:
            start = rq.slba * BLOCK
            self.expect(_same(rq, self.medium[start : start + self._nlb * BLOCK]), repr(rq))


class Refilled(Work):
    """``depth`` reads outstanding; the caller waits for the oldest and submits the next itself."""

    def __init__(self, machine: nvme_emu.Machine, medium: Bytes, places: Places, *, depth: int) -> None:
        super().__init__(machine, medium)
        self._walk = _Walk(places, 2048)
        self._buffers = list(page_aligned(depth * PAGE).reshape(depth, PAGE))
        self._last: list[Request] = []

    def chunk(self) -> int:
        submit, slbas = self.ns.submit_read, self._walk.list()
        depth = len(self._buffers)
        ring = deque(submit(slba, 8, buffer) for slba, buffer in zip(slbas, self._buffers, strict=False))
        for slba in slbas[depth:]:
            ring.append(submit(slba, 8, ring.popleft().wait()))
        for rq in ring:
            rq.wait()
        self._last = list(ring)
        return len(slbas)

    def spoil(self) -> None:
        for buffer in self._buffers:
            buffer[:] = 0

    def prove(self) -> None:
        for rq in self._last:
            self.expect(_same(rq, self.pages[rq.slba // 8]), repr(rq))


class BatchReads(Work):
    """``read_many`` of ``batch`` random pages."""

    def __init__(self, machine: nvme_emu.Machine, medium: Bytes, places: Places, *, batch: int) -> None:
        super().__init__(machine, medium)
        self._walk = _Walk(places, batch)
        self._turns = max(1, 2048 // batch)
        self._out = page_aligned(batch * PAGE).reshape(batch, PAGE)
        self._slbas: Places = np.empty(0, np.int64)

    def chunk(self) -> int:
        read_many, out = self.ns.read_many, self._out
        for _ in range(self._turns):
            slbas = self._walk.array()
            read_many(slbas, 8, out=out)
        self._slbas = slbas
        return self._turns * len(out)

    def spoil(self) -> None:
        self._out[:] = 0

    def prove(self) -> None:
        self.expect(np.array_equal(self._out, self.pages[self._slbas // 8]), "read_many")


class BatchWrites(BatchReads):
    """``write_many`` of ``batch`` random pages."""

    def chunk(self) -> int:
        write_many, data = self.ns.write_many, self._out
        for _ in range(self._turns):
            slbas = self._walk.array()
            write_many(slbas, data, 8)
        self._slbas = slbas
        return self._turns * len(data)

    def spoil(self) -> None:
        self._out[:] = np.random.default_rng().integers(0, 256, self._out.shape, np.uint8)


class SequentialReads(Work):
    """``read`` 128 KiB after 128 KiB through the whole medium."""

    scale = float(SEQ_BYTES)
    count = 128

    def __init__(self, machine: nvme_emu.Machine, medium: Bytes) -> None:
        super().__init__(machine, medium)
        self._buffer = page_aligned(SEQ_BYTES)
        self._nlb = SEQ_BYTES // BLOCK
        self._slba = 0
        self._last = 0

    def _window(self) -> range:
        if (self._slba + self.count * self._nlb) * BLOCK > len(self.medium):
            self._slba = 0
        slbas = range(self._slba, self._slba + self.count * self._nlb, self._nlb)
        self._slba, self._last = slbas.stop, slbas[-1]
        return slbas

    def chunk(self) -> int:
        read, nlb, buffer = self.ns.read, self._nlb, self._buffer
        for slba in self._window():
            read(slba, nlb, buffer)
        return self.count

    def spoil(self) -> None:
        self._buffer[:] = 0

    def prove(self) -> None:
        stored = self.medium[self._last * BLOCK : (self._last + self._nlb) * BLOCK]
        self.expect(np.array_equal(self._buffer, stored), "128 KiB")


class SequentialWrites(SequentialReads):
    """``write`` 128 KiB after 128 KiB."""

    def chunk(self) -> int:
        write, buffer = self.ns.write, self._buffer
        for slba in self._window():
            write(slba, buffer)
        return self.count

    def spoil(self) -> None:
        self._buffer[:] = np.random.default_rng().integers(0, 256, SEQ_BYTES, np.uint8)


def _same(rq: Request, stored: Bytes) -> bool:
    data = rq.result()
    return data is not None and np.array_equal(data, stored)


def lazily(make: Callable[[], Work]) -> tuple[Callable[[float], Sample], Callable[[], None]]:
    """(run, check) of a work that is made when it is first needed, so that opening is charged to nobody."""
    made: list[Work] = []

    def work() -> Work:
        if not made:
            made.append(make())
        return made[0]

    return (lambda seconds: work().run(seconds)), (lambda: work().check())
