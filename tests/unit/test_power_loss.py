"""Power loss below an image file: whatever was acknowledged by Flush, by FUA or by storing the state is there after it.

The disk drops, tears and reorders what was not synced; media that are broken on purpose prove that this is noticed.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import numpy as np
import pytest

from nvme_emu.core.errors import MediaError
from nvme_emu.media import ImageMedia
from nvme_emu.testing.power_loss import LossyDisk

PATH = "/ssd.img"
BLOCK, BLOCKS = 512, 16
NBYTES = BLOCK * BLOCKS


class Host:
    """What a host may expect of the device: of each block the contents that it may be found with, and of the state."""

    def __init__(self, disk: LossyDisk, media: type[ImageMedia]) -> None:
        self.blocks = [{bytes(BLOCK)} for _ in range(BLOCKS)]
        self.now = [bytes(BLOCK)] * BLOCKS
        self.states: set[bytes | None] = {None}
        self.created = False
        self._disk, self._media_class = disk, media

    def begin(self) -> None:
        self.media = self._media_class(PATH, NBYTES, system=self._disk)
        self.created = True

    def write(self, lba: int, data: bytes, fua: bool = False) -> None:
        count = len(data) // BLOCK
        for at in range(count):
            self.now[lba + at] = data[at * BLOCK : (at + 1) * BLOCK]
            self.blocks[lba + at].add(self.now[lba + at])
        self.media.write(lba * BLOCK, data, fua)
        if fua:
            self._durable(range(lba, lba + count))

    def discard(self, lba: int, count: int) -> None:
        for at in range(lba, lba + count):
            self.now[at] = bytes(BLOCK)
            self.blocks[at].add(self.now[at])
        self.media.discard(lba * BLOCK, count * BLOCK)

    def flush(self) -> None:
        self.media.flush()
        self._durable(range(BLOCKS))

    def keep(self, state: bytes) -> None:
        self.states.add(state)
        self.media.store_state(state)
        self.states = {state}

    def _durable(self, lbas: range) -> None:
        for lba in lbas:
            self.blocks[lba] = {self.now[lba]}

    def judge(self, after: LossyDisk) -> None:
        """What is found after a cut is what may be found; the image opens always, or was never said to be there."""
        if not self.created and not after.exists(PATH):
            return
        media = ImageMedia(PATH, NBYTES, system=after)
        out = np.zeros(NBYTES, np.uint8)
        media.read_into(0, memoryview(out))  # type: ignore[arg-type]
        for lba, allowed in enumerate(self.blocks):
            assert out[lba * BLOCK : (lba + 1) * BLOCK].tobytes() in allowed, f"block {lba} is lost or torn"
        assert media.load_state() in self.states, "the state is lost"
        media.store_state(b"next")
        assert media.load_state() == b"next"


Scenario = Callable[[Host], None]


def cuts(scenario: Scenario, media: type[ImageMedia] = ImageMedia, seed: int = 0, at_most: int = 64) -> int:
    """The scenario with a cut in each of its calls, and the disks that may be found after each; how many there were."""
    looked_at, number, rng = 0, 0, Random(seed)
    while True:
        number += 1
        disk = LossyDisk()
        host = Host(disk, media)
        whole = False
        with disk.power(cut_at=number):
            host.begin()
            scenario(host)
            whole = True
        for after in disk.outcomes(rng, at_most):
            host.judge(after)
            looked_at += 1
        if whole:
            return looked_at


def block(number: int, count: int = 1) -> bytes:
    return bytes([number]) * (BLOCK * count)


def some_writes(host: Host) -> None:
    host.write(0, block(1, 3))
    host.write(2, block(2, 2), fua=True)
    host.write(0, block(3))
    host.flush()
    host.write(0, block(4, 2))


def states(host: Host) -> None:
    rng = Random(5)
    for size in (10, 2000, 1, 1500):
        host.keep(rng.randbytes(size))


def states_and_data(host: Host) -> None:
    host.write(0, block(1))
    host.keep(b"one")
    host.write(1, block(2), fua=True)
    host.keep(b"two")
    host.discard(8, 8)
    host.flush()
    host.write(9, block(3))


SCENARIOS = (some_writes, states, states_and_data)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_all_disks_that_may_be_found_after_each_cut_hold_what_was_acknowledged(scenario: Scenario) -> None:
    assert cuts(scenario, at_most=1024) > 50


@pytest.mark.parametrize("seed", range(6))
def test_random_work_with_cuts_loses_nothing(seed: int) -> None:
    def work(host: Host) -> None:
        rng = Random(seed)
        for number in range(1, 25):
            what = rng.choice(("write", "write", "fua", "flush", "keep", "discard"))
            lba = rng.randrange(BLOCKS)
            count = rng.randrange(1, BLOCKS - lba + 1)
            if what in ("write", "fua"):
                host.write(lba, block(number, count), fua=what == "fua")
            elif what == "discard":
                host.discard(lba, count)
            elif what == "keep":
                host.keep(rng.randbytes(rng.randrange(1, 3000)))
            else:
                host.flush()

    assert cuts(work, seed=seed, at_most=6) > 50


# -- the layer notices what is wrong ------------------------------------------------------------------------


class NoSync(ImageMedia):
    """Flush says that it has flushed."""

    def flush(self) -> None:
        pass


class LazyFua(ImageMedia):
    """FUA is a write as any other."""

    def write(self, offset: int, data: bytes | bytearray | memoryview, fua: bool = False) -> None:
        super().write(offset, data)


class _Lying(ImageMedia):
    def _put(self, offset: int, data: bytes | bytearray | memoryview, durable: bool) -> None:
        super()._put(offset, data, durable and offset < NBYTES)


class LazyState(_Lying):
    """The state is in the page cache only."""


class OneSlot(ImageMedia):
    """The newest state is written over the one before it."""

    def store_state(self, contents: bytes) -> None:
        self._state = self._state._replace(sequence=self._state.sequence + 1)
        super().store_state(contents)


class NoFileSync(LossyDisk):
    """Files are linked before they are synced."""

    def fsync(self, fd: int) -> None:
        self._call()


@pytest.mark.parametrize(
    ("media", "scenario"),
    [(NoSync, some_writes), (LazyFua, some_writes), (LazyState, states), (OneSlot, states)],
)
def test_media_that_are_broken_are_caught(media: type[ImageMedia], scenario: Scenario) -> None:
    with pytest.raises((AssertionError, MediaError)):
        cuts(scenario, media, at_most=1024)


def test_image_that_is_linked_before_it_is_synced_is_caught() -> None:
    found = []
    for number in range(1, 12):
        disk = NoFileSync()
        host = Host(disk, ImageMedia)
        with disk.power(cut_at=number):
            host.begin()
        try:
            for after in disk.outcomes(Random(number), 64):
                host.judge(after)
        except (AssertionError, MediaError) as error:
            found.append(error)
    assert found


def test_the_layer_drops_tears_and_reorders() -> None:
    disk = LossyDisk()
    with disk.power():
        media = ImageMedia(PATH, NBYTES, system=disk)
        media.write(0, block(1, 2))
        media.write(0, block(2))
    assert disk.outcomes_count == 3 * 2

    found = {after.contents(PATH)[: 2 * BLOCK : BLOCK] for after in disk.outcomes(Random(0), 100)}

    assert found == {bytes(pair) for pair in ((0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1))}
