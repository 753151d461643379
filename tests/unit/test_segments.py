"""PRP resolution, case by case of NVMe Base 2.1 clause 4.1.1."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from nvme_emu.core.errors import CommandError
from nvme_emu.core.memory import HostMemory
from nvme_emu.core.segments import map_prps, resolve_prps
from nvme_emu.spec.status import Status

PAGE = 4096
BASE = 0x10_0000
PAGES = 64


def memory_with_list(entries: dict[int, list[int]] | None = None) -> HostMemory:
    """PAGES pages at BASE; `entries` maps addresses to the list entries stored there."""
    memory = HostMemory()
    memory.add_region(np.zeros(PAGES * PAGE, np.uint8), base=BASE)
    for addr, values in (entries or {}).items():
        memory.write(addr, struct.pack(f"<{len(values)}Q", *values))
    return memory


def page(number: int) -> int:
    return BASE + number * PAGE


@pytest.mark.parametrize("write", [False, True])
@pytest.mark.parametrize("resolve", [resolve_prps, map_prps])
def test_every_resolver_reports_the_same_bytes(resolve: object, write: bool) -> None:
    memory = memory_with_list({page(40): [page(3), page(9)]})
    memory.regions[0].array[: 32 * PAGE] = np.arange(32 * PAGE, dtype=np.uint32).astype(np.uint8)

    runs = resolve_prps(memory, page(1) + 512, page(40), 2 * PAGE, PAGE, write)
    views = map_prps(memory, page(1) + 512, page(40), 2 * PAGE, PAGE, write)

    assert b"".join(memory.read(*run) for run in runs) == b"".join(views)
    assert [length for _, length in runs] == [PAGE - 512, PAGE, 512]


def test_transfer_within_one_page_ignores_prp2() -> None:
    memory = memory_with_list()

    assert resolve_prps(memory, page(1) + 8, 0xDEAD_BEEF, PAGE - 8, PAGE) == [(page(1) + 8, PAGE - 8)]


def test_transfer_of_two_pages_takes_prp2_as_a_page() -> None:
    memory = memory_with_list()

    assert resolve_prps(memory, page(1) + 1024, page(5), PAGE, PAGE) == [
        (page(1) + 1024, PAGE - 1024),
        (page(5), 1024),
    ]


def test_adjacent_pages_are_merged() -> None:
    memory = memory_with_list({page(40): [page(2), page(3), page(9), page(10)]})

    assert resolve_prps(memory, page(1), page(2), 2 * PAGE, PAGE) == [(page(1), 2 * PAGE)]
    assert resolve_prps(memory, page(1), page(40), 5 * PAGE, PAGE) == [
        (page(1), 3 * PAGE),
        (page(9), 2 * PAGE),
    ]


def test_list_may_start_inside_its_page() -> None:
    memory = memory_with_list({page(40) + 8: [page(7), page(5)]})

    assert resolve_prps(memory, page(1), page(40) + 8, 3 * PAGE, PAGE) == [
        (page(1), PAGE),
        (page(7), PAGE),
        (page(5), PAGE),
    ]


def test_last_entry_of_a_full_list_page_is_data_when_nothing_remains() -> None:
    memory = memory_with_list({page(41) - 16: [page(7), page(5)]})

    runs = resolve_prps(memory, page(1), page(41) - 16, 3 * PAGE, PAGE)

    assert runs == [(page(1), PAGE), (page(7), PAGE), (page(5), PAGE)]


def test_last_entry_of_a_full_list_page_points_on_when_more_remains() -> None:
    memory = memory_with_list({page(41) - 16: [page(7), page(50)], page(50): [page(5), page(3)]})

    runs = resolve_prps(memory, page(1), page(41) - 16, 4 * PAGE, PAGE)

    assert runs == [(page(1), PAGE), (page(7), PAGE), (page(5), PAGE), (page(3), PAGE)]


def test_list_that_starts_in_the_last_entry_holds_a_pointer_alone() -> None:
    memory = memory_with_list({page(41) - 8: [page(50)], page(50): [page(5), page(3)]})

    runs = resolve_prps(memory, page(1), page(41) - 8, 3 * PAGE, PAGE)

    assert runs == [(page(1), PAGE), (page(5), PAGE), (page(3), PAGE)]


def test_list_that_points_at_itself_ends() -> None:
    # 511 data entries and a pointer to the same page again, for 1500 pages of data.
    entries = [page(5)] * 511 + [page(40)]
    memory = memory_with_list({page(40): entries})

    runs = resolve_prps(memory, page(1), page(40), 1501 * PAGE, PAGE)

    assert sum(length for _, length in runs) == 1501 * PAGE


@pytest.mark.parametrize("offset", [1, 2, 3, 4095])
def test_prp1_that_is_not_dword_aligned_is_an_invalid_offset(offset: int) -> None:
    with pytest.raises(CommandError) as caught:
        resolve_prps(memory_with_list(), page(1) + offset, page(2), 512, PAGE)

    assert (caught.value.status, caught.value.location) == (Status.PRP_INVALID_OFFSET, (24, 0))


@pytest.mark.parametrize(
    ("prp2", "nbytes", "entries"),
    [
        pytest.param(page(2) + 4, 2 * PAGE, {}, id="second page with an offset"),
        pytest.param(page(40) + 4, 3 * PAGE, {}, id="list not qword-aligned"),
        pytest.param(page(40), 3 * PAGE, {page(40): [page(2), page(3) + 512]}, id="last entry"),
        pytest.param(page(40), 3 * PAGE, {page(40): [page(2) + 8, page(3)]}, id="first entry"),
        pytest.param(page(40), 3 * PAGE, {page(40): [page(2) + 8, page(3) + 8]}, id="contiguous run"),
        pytest.param(page(41) - 8, 3 * PAGE, {page(41) - 8: [page(50) + 8]}, id="pointer to the next list"),
    ],
)
def test_offset_behind_prp1_is_an_invalid_offset(
    prp2: int, nbytes: int, entries: dict[int, list[int]]
) -> None:
    with pytest.raises(CommandError) as caught:
        resolve_prps(memory_with_list(entries), page(1), prp2, nbytes, PAGE)

    assert (caught.value.status, caught.value.location) == (Status.PRP_INVALID_OFFSET, (32, 0))
    assert caught.value.dnr


OUTSIDE = BASE + PAGES * PAGE


@pytest.mark.parametrize(
    ("prp1", "prp2", "nbytes", "entries", "byte"),
    [
        pytest.param(OUTSIDE, 0, 512, {}, 24, id="prp1"),
        pytest.param(0, 0, 512, {}, 24, id="zero"),
        pytest.param((1 << 64) - PAGE, 0, PAGE, {}, 24, id="top of the address space"),
        pytest.param(page(1), OUTSIDE, 2 * PAGE, {}, 32, id="prp2"),
        pytest.param(page(1), OUTSIDE, 3 * PAGE, {}, 32, id="list"),
        pytest.param(page(1), page(40), 3 * PAGE, {page(40): [page(3), OUTSIDE]}, 32, id="list entry"),
        pytest.param(page(1), page(41) - 8, 3 * PAGE, {page(41) - 8: [OUTSIDE]}, 32, id="next list"),
        pytest.param(page(63), OUTSIDE, 2 * PAGE, {}, 24, id="runs over the end of memory"),
    ],
)
def test_address_outside_memory_is_a_data_transfer_error(
    prp1: int, prp2: int, nbytes: int, entries: dict[int, list[int]], byte: int
) -> None:
    for resolve in (resolve_prps, map_prps):
        with pytest.raises(CommandError) as caught:
            resolve(memory_with_list(entries), prp1, prp2, nbytes, PAGE)

        assert (caught.value.status, caught.value.location) == (Status.DATA_XFER_ERROR, (byte, 0))


def test_device_write_to_a_read_only_region_is_a_data_transfer_error() -> None:
    memory = HostMemory()
    region = memory.add_region(np.zeros(PAGE, np.uint8), writable=False)

    assert resolve_prps(memory, region.base, 0, PAGE, PAGE) == [(region.base, PAGE)]
    for resolve in (resolve_prps, map_prps):
        with pytest.raises(CommandError) as caught:
            resolve(memory, region.base, 0, PAGE, PAGE, write=True)
        assert caught.value.status == Status.DATA_XFER_ERROR


def test_pages_of_adjacent_regions_are_split_where_they_meet() -> None:
    memory = HostMemory()
    memory.add_region(np.full(PAGE + 512, 1, np.uint8), base=BASE)
    memory.add_region(np.full(2 * PAGE, 2, np.uint8), base=BASE + PAGE + 512)

    runs = resolve_prps(memory, BASE, BASE + PAGE, 2 * PAGE, PAGE)

    assert runs == [(BASE, PAGE + 512), (BASE + PAGE + 512, PAGE - 512)]
    assert b"".join(map_prps(memory, BASE, BASE + PAGE, 2 * PAGE, PAGE)) == b"\1" * (PAGE + 512) + b"\2" * (
        PAGE - 512
    )
    assert [len(view) for view in map_prps(memory, BASE + PAGE, 0, 1024, PAGE)] == [512, 512]


def test_list_across_adjacent_regions_is_read() -> None:
    memory = memory_with_list()
    memory.add_region(np.zeros(PAGE, np.uint8), base=OUTSIDE)
    memory.add_region(np.zeros(8, np.uint8), base=OUTSIDE + PAGE)
    memory.add_region(np.zeros(PAGE - 8, np.uint8), base=OUTSIDE + PAGE + 8)
    memory.write(OUTSIDE + PAGE, struct.pack("<2Q", page(7), page(3)))

    runs = resolve_prps(memory, page(1), OUTSIDE + PAGE, 3 * PAGE, PAGE)

    assert runs == [(page(1), PAGE), (page(7), PAGE), (page(3), PAGE)]


@pytest.mark.parametrize("nbytes", [0, -1])
def test_transfer_of_nothing_is_no_segment(nbytes: int) -> None:
    assert resolve_prps(memory_with_list(), 3, 0, nbytes, PAGE) == []
    assert map_prps(memory_with_list(), 3, 0, nbytes, PAGE) == []


def test_command_error_names_status_and_place() -> None:
    error = CommandError(Status.PRP_INVALID_OFFSET, location=(24, 0))

    assert "PRP Offset Invalid" in str(error)
    assert "byte 24 bit 0" in str(error)
    assert error.field == Status.PRP_INVALID_OFFSET | 0x4000
    assert CommandError(Status.DATA_XFER_ERROR, dnr=False).field == 4
