"""SGLs in the driver: when Linux would use them, what stands in the entry, and lists over several pages."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import nvme_emu
from nvme_emu.controller import ControllerConfig
from nvme_emu.core.trace import FetchCmd
from nvme_emu.driver.sgl import ENTRIES_PER_PAGE, SglQueuePair, list_pages_needed, uses_sgl
from nvme_emu.machine import Machine
from nvme_emu.spec.queues import PSDT_MASK, PSDT_SGL, SQE, SQE_SIZE, Sqe
from nvme_emu.spec.sgl import SGL_DATA_BLOCK, SGL_LAST_SEGMENT, SGL_SEGMENT

PAGE = 4096


@pytest.mark.parametrize(
    ("nbytes", "segments", "threshold", "expected"),
    [
        (8192, 1, 32768, False),
        (8193, 1, 32768, True),
        (8193, 1, 0, False),
        (65536, 16, 32768, False),
        (65536, 2, 32768, True),
        (65535, 2, 32768, True),
        (65534, 2, 32768, False),
        (1 << 20, 256, 4096, True),
        (0, 0, 4096, False),
    ],
)
def test_sgls_are_used_where_linux_uses_them(nbytes: int, segments: int, threshold: int, expected: bool) -> None:
    assert uses_sgl(nbytes, segments, threshold) is expected


@pytest.mark.parametrize(("entries", "pages"), [(2, 1), (256, 1), (257, 2), (511, 2), (512, 3)])
def test_a_full_page_of_a_list_gives_its_last_place_to_the_pointer(entries: int, pages: int) -> None:
    assert list_pages_needed(entries) == pages


def machine(**options: Any) -> Machine:
    return nvme_emu.open(**({"size": "8M", "sgl_threshold": 4096} | options))


def last_entry(ssd: Machine) -> Sqe:
    pair = ssd.driver.paths[0].pair
    return Sqe._make(SQE.unpack_from(pair.sq_view, (pair.tail - 1) % pair.depth * SQE_SIZE))


def pattern(nbytes: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, nbytes, np.uint8)


@pytest.mark.parametrize("clock", ["wall", "virtual"])
@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("segment", [0, 4096, 16384])
def test_data_of_any_length_goes_there_and_back(clock: str, mode: str, segment: int) -> None:
    with machine(clock=clock, mode=mode, max_segment_size=segment, poison=True) as ssd:
        used = ssd.driver._pool.used_pages
        for blocks in (1, 8, 16, 17, 64, 511, 2048, 4099):
            data = pattern(blocks * 512)
            ssd.namespaces[1].write(3, data)
            assert np.array_equal(ssd.namespaces[1].read(3, blocks), data)
        assert ssd.driver._pool.used_pages == used
        assert isinstance(ssd.driver.paths[0].pair, SglQueuePair)


def test_one_segment_stands_in_the_entry_and_small_data_has_prps() -> None:
    with machine() as ssd:
        ssd.namespaces[1].write(0, pattern(8192))
        entry = last_entry(ssd)
        assert entry.flags & PSDT_MASK == 0 and entry.prp2 == entry.prp1 + PAGE
        ssd.namespaces[1].write(0, pattern(12288))
        entry = last_entry(ssd)
        assert entry.flags & PSDT_MASK == PSDT_SGL
        assert (entry.prp2 & 0xFFFF_FFFF, entry.prp2 >> 56) == (12288, SGL_DATA_BLOCK)


def test_several_segments_are_a_list_and_short_ones_prps() -> None:
    with machine(max_segment_size=4096, controller=ControllerConfig(mdts=10)) as ssd:
        ssd.namespaces[1].write(0, pattern(65536))
        assert last_entry(ssd).prp2 >> 56 == SGL_LAST_SEGMENT
        assert last_entry(ssd).prp2 & 0xFFFF_FFFF == 16 * 16
        ssd.namespaces[1].write(0, pattern((ENTRIES_PER_PAGE + 1) * PAGE))
        assert last_entry(ssd).prp2 >> 56 == SGL_SEGMENT
        assert last_entry(ssd).prp2 & 0xFFFF_FFFF == PAGE
    with machine(max_segment_size=4096, sgl_threshold=32768) as ssd:
        ssd.namespaces[1].write(0, pattern(65536))
        assert last_entry(ssd).flags & PSDT_MASK == 0


def test_batches_of_long_commands_have_sgls() -> None:
    with machine(size="16M") as ssd:
        seen: list[int] = []
        ssd.trace.add_sink(lambda event: seen.append(event.cid) if isinstance(event, FetchCmd) else None)
        data = pattern(40 * 16384)
        slbas = np.arange(40) * 32
        ssd.namespaces[1].write_many(slbas, data, 32)
        assert last_entry(ssd).flags & PSDT_MASK == PSDT_SGL and len(seen) == 40
        assert np.array_equal(np.asarray(ssd.namespaces[1].read_many(slbas, 32)).ravel(), data)


def test_a_controller_without_sgls_and_a_driver_that_wants_none_have_plain_queues() -> None:
    for options in ({"controller": ControllerConfig(sgls=0)}, {"sgl_threshold": 0}):
        with machine(**options) as ssd:
            assert not isinstance(ssd.driver.paths[0].pair, SglQueuePair)
            ssd.namespaces[1].write(0, pattern(65536))
            assert last_entry(ssd).flags & PSDT_MASK == 0


@pytest.mark.parametrize(
    ("options", "why"),
    [({"sgl_threshold": -1}, "sgl_threshold=-1"), ({"max_segment_size": 4095}, "a multiple of 4096")],
)
def test_wrong_settings_are_refused(options: dict[str, int], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        machine(**options)
