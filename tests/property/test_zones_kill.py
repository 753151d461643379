"""Zones in an image file whose process is killed anywhere: what was promised is there, and nothing is made up."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import nvme_emu
from nvme_emu.core.errors import NvmeError
from nvme_emu.driver.zoned import ZonedNamespace

ZONES, SIZE, CAPACITY = 4, 24, 16
CONFIG = f"zone_size={SIZE * 512},zone_capacity={CAPACITY * 512},max_active=3"
zone_numbers = st.integers(0, ZONES - 1)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), zone_numbers, st.integers(1, 5)),
        st.tuples(st.just("fua"), zone_numbers, st.integers(1, 3)),
        st.tuples(st.sampled_from(["open", "close", "finish", "reset", "flush", "kill"]), zone_numbers, st.just(0)),
    ),
    min_size=10,
    max_size=40,
)


class Written:
    """What the host has written since each zone was reset, and how much of it was promised to last."""

    def __init__(self) -> None:
        self.blocks: list[list[int]] = [[] for _ in range(ZONES)]
        self.promised = [0] * ZONES

    def promise(self) -> None:
        self.promised = [len(blocks) for blocks in self.blocks]


def check(image: Path, written: Written) -> None:
    """A copy of the image, as another process finds it."""
    with nvme_emu.open(image) as machine:
        namespace = machine.namespaces[1]
        assert isinstance(namespace, ZonedNamespace)
        device = machine.controller.namespaces[1].zones
        assert device is not None
        for number, blocks in enumerate(written.blocks):
            there = device.zones[number].wp - device.zones[number].start
            assert written.promised[number] <= there <= len(blocks)
            expected = b"".join(bytes([fill]) * 512 for fill in blocks[:there]).ljust(SIZE * 512, b"\0")
            assert namespace.read(number * SIZE, SIZE).tobytes() == expected


def do(namespace: ZonedNamespace, written: Written, step: tuple[str, int, int], fill: int) -> None:
    what, zone, blocks = step
    data, slba = bytes([fill]) * 512 * blocks, zone * SIZE
    if what == "append":
        namespace.zone_append(slba, data)
        written.blocks[zone] += [fill] * blocks
    elif what == "fua":
        namespace.write(slba + len(written.blocks[zone]), data, fua=True)
        written.blocks[zone] += [fill] * blocks
        written.promised[zone] = len(written.blocks[zone])
    elif what == "flush":
        namespace.flush()
        written.promise()
    elif what == "finish":
        namespace.zone_finish(slba)
        written.promised[zone] = len(written.blocks[zone])
    elif what == "reset":
        namespace.zone_reset(slba)
        written.blocks[zone], written.promised[zone] = [], 0
    else:
        getattr(namespace, f"zone_{what}")(slba)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(script=steps)
def test_killed_anywhere_zones_hold_what_was_promised(tmp_path: Path, script: list[tuple[str, int, int]]) -> None:
    image, copy = tmp_path / "zoned.img", tmp_path / "killed.img"
    image.unlink(missing_ok=True)
    written = Written()
    with nvme_emu.open(image, size=ZONES * SIZE * 512, zoned=CONFIG) as machine:
        namespace = machine.namespaces[1]
        assert isinstance(namespace, ZonedNamespace)
        for number, step in enumerate([*script, ("kill", 0, 0)]):
            if step[0] == "kill":
                shutil.copy(image, copy)
                check(copy, written)
                continue
            with contextlib.suppress(NvmeError):  # Full, or too many active zones
                do(namespace, written, step, number % 255 + 1)
