"""Host memory: regions, bounds, and what must not be reachable."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from nvme_emu.core.errors import DmaError
from nvme_emu.core.memory import HUGE_PAGE, HostMemory, anonymous_array
from nvme_emu.core.page_pool import PagePool

TOP = 1 << 64


def memory_with(*bases_and_sizes: tuple[int, int]) -> HostMemory:
    memory = HostMemory()
    for base, size in bases_and_sizes:
        memory.add_region(np.zeros(size, np.uint8), base=base)
    return memory


def test_find_inside_a_region_gives_its_bytes() -> None:
    memory = HostMemory()
    array = np.arange(256, dtype=np.uint8)
    region = memory.add_region(array)

    view, offset = memory.find(region.base + 16, 4)

    assert bytes(view[offset : offset + 4]) == bytes([16, 17, 18, 19])


def test_region_shares_the_users_bytes_without_a_copy() -> None:
    memory = HostMemory()
    array = np.zeros((4, 8), np.uint32)
    region = memory.add_region(array)

    memory.write(region.base + 4, b"\x01\x02\x00\x00")

    assert array[0, 1] == 0x201
    assert region.size == 128


@pytest.mark.parametrize("addr", [0x1000 - 1, 0x2000, 0, -1, TOP - 1, 0x1800])
def test_find_outside_owned_memory_raises_dma_error(addr: int) -> None:
    memory = memory_with((0x1000, 0x1000))

    with pytest.raises(DmaError) as caught:
        memory.find(addr, 0x900)

    assert (caught.value.addr, caught.value.length) == (addr, 0x900)


@pytest.mark.parametrize("length", [0, -1, -4096])
def test_find_with_a_length_below_one_raises_dma_error(length: int) -> None:
    memory = memory_with((0x1000, 0x1000))

    with pytest.raises(DmaError, match="at least 1"):
        memory.find(0x1800, length)


def test_find_of_a_length_that_wraps_past_the_top_raises_dma_error() -> None:
    memory = memory_with((0, 4096), (TOP - 4096, 4096))

    memory.find(TOP - 1, 1)
    with pytest.raises(DmaError, match="64-bit"):
        memory.find(TOP - 16, 32)
    with pytest.raises(DmaError, match="64-bit"):
        memory.read(TOP - 16, 32)


def test_span_over_adjacent_regions_is_read_and_written_but_not_found() -> None:
    memory = memory_with((0x1000, 0x1000), (0x2000, 0x1000))
    data = bytes(range(1, 17))

    memory.write(0x2000 - 5, data)

    assert memory.read(0x2000 - 5, 16) == data
    assert [bytes(piece) for piece in memory.pieces(0x2000 - 5, 16)] == [data[:5], data[5:]]
    with pytest.raises(DmaError, match="runs over the end"):
        memory.find(0x2000 - 5, 16)


def test_write_that_runs_into_a_gap_stores_nothing() -> None:
    memory = memory_with((0x1000, 0x1000), (0x2000, 0x1000))

    with pytest.raises(DmaError):
        memory.write(0x1FF0, b"x" * 0x1011)

    assert memory.read(0x1FF0, 0x1010) == bytes(0x1010)


def test_regions_in_one_window_are_each_found_whatever_was_hit_before() -> None:
    memory = memory_with((0x1000, 0x1000), (0x4000, 0x1000), (0x9000, 16))
    for number, region in enumerate(memory.regions):
        region.array[:] = number

    for addr, number in [(0x1000, 0), (0x9000, 2), (0x4FFF, 1), (0x1FFF, 0), (0x900F, 2), (0x4000, 1)]:
        view, offset = memory.find(addr, 1)
        assert view[offset] == number


def test_read_only_region_can_be_read_and_not_written() -> None:
    memory = HostMemory()
    locked = np.zeros(16, np.uint8)
    locked.flags.writeable = False
    regions = [memory.add_region(np.zeros(16, np.uint8), writable=False), memory.add_region(locked)]

    for region in regions:
        memory.find(region.base, 16)
        with pytest.raises(DmaError, match="read-only"):
            memory.find(region.base, 16, write=True)
        with pytest.raises(DmaError, match="read-only"):
            memory.write(region.base, b"x")


def test_removed_region_faults_and_its_address_is_not_used_again() -> None:
    memory = HostMemory()
    first = memory.add_region(np.zeros(4096, np.uint8))
    memory.find(first.base, 1)

    memory.remove_region(first)
    second = memory.add_region(np.zeros(4096, np.uint8))

    assert second.base != first.base
    with pytest.raises(DmaError, match="no region"):
        memory.find(first.base, 1)


def test_removed_region_of_several_windows_faults_in_each() -> None:
    memory = HostMemory()
    region = memory.add_region(anonymous_array(9 << 30, sparse=True, huge=False))
    addresses = [region.base, region.base + (5 << 30), region.base + (9 << 30) - 1]
    for addr in addresses:
        memory.find(addr, 1)

    memory.remove_region(region)

    for addr in addresses:
        with pytest.raises(DmaError):
            memory.find(addr, 1)


def test_remove_region_twice_or_of_another_memory_raises_value_error() -> None:
    memory = memory_with((0x1000, 0x1000), (0x8000, 0x1000))
    region = memory.regions[0]
    stranger = HostMemory().add_region(np.zeros(16, np.uint8), base=0x1000)

    with pytest.raises(ValueError, match="not a region"):
        memory.remove_region(stranger)
    memory.remove_region(region)
    with pytest.raises(ValueError, match="not a region"):
        memory.remove_region(region)


@pytest.mark.parametrize("base", [0x0FFF, 0x1000, 0x1FFF, 0x0800, 0x1800])
def test_add_region_over_another_raises_value_error(base: int) -> None:
    memory = memory_with((0x1000, 0x1000))

    with pytest.raises(ValueError, match="overlaps"):
        memory.add_region(np.zeros(0x1000, np.uint8), base=base)


@pytest.mark.parametrize("base", [-1, TOP - 4095, TOP])
def test_add_region_outside_the_address_space_raises_value_error(base: int) -> None:
    with pytest.raises(ValueError, match="address space"):
        HostMemory().add_region(np.zeros(4096, np.uint8), base=base)


@pytest.mark.parametrize(
    "array", [np.zeros(0, np.uint8), np.zeros((8, 8), np.uint8)[:, ::2], np.zeros(8)[::2]]
)
def test_add_region_of_an_empty_or_strided_array_raises_value_error(array: np.ndarray) -> None:
    with pytest.raises(ValueError, match="a region needs"):
        HostMemory().add_region(array)


def test_picked_addresses_avoid_fixed_regions_also_after_a_turn_round_the_space() -> None:
    memory = memory_with((1 << 32, 4096), (3 << 32, 4096))
    memory._next_base = TOP - (1 << 32)

    bases = [memory.add_region(np.zeros(16, np.uint8)).base for _ in range(3)]

    assert bases == [TOP - (1 << 32), 2 << 32, 4 << 32]


def test_picked_addresses_of_large_regions_do_not_overlap() -> None:
    memory = HostMemory()
    large = memory.add_region(anonymous_array((4 << 30) + 1, sparse=True, huge=False))
    small = memory.add_region(np.zeros(16, np.uint8))

    assert small.base >= large.end
    assert small.base % (1 << 32) == 0


def test_anonymous_array_is_zeroed_and_aligned() -> None:
    for nbytes in (1, 4096, HUGE_PAGE, HUGE_PAGE + 1):
        array = anonymous_array(nbytes)
        assert array.nbytes == nbytes
        assert array.ctypes.data % HUGE_PAGE == 0
        assert not array.any()
        array[-1] = 1


def test_anonymous_array_of_no_bytes_raises_value_error() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        anonymous_array(0)


@pytest.mark.parametrize(
    "buffer",
    [bytearray(16), memoryview(bytearray(16)), np.zeros(2, np.uint64)],
    ids=["bytearray", "view", "array"],
)
def test_region_over_any_writable_buffer_shares_it(buffer: bytearray) -> None:
    memory = HostMemory()
    region = memory.add_region(buffer)

    memory.write(region.base + 3, b"abc")

    assert bytes(buffer) == b"\0\0\0abc".ljust(16, b"\0")
    assert region.array.nbytes == 16
    assert region.array[3] == ord("a")


def test_region_over_bytes_is_read_only() -> None:
    region = HostMemory().add_region(memoryview(b"constant"))

    assert not region.writable
    assert not region.array.flags.writeable


def test_regions_and_pages_survive_use_by_several_threads() -> None:
    memory = HostMemory()
    fixed = memory.add_region(np.full(4096, 7, np.uint8), base=0x1000)
    memory.add_region(np.full(4096, 8, np.uint8), base=0x3000)
    pool = PagePool(memory, 16)

    def work(number: int) -> None:
        for step in range(400):
            region = memory.add_region(np.full(16, number, np.uint8))
            view, offset = memory.find(region.base + 8, 8)
            assert bytes(view[offset : offset + 8]) == bytes([number]) * 8
            memory.remove_region(region)
            with pytest.raises(DmaError):
                memory.find(region.base + 8, 8)
            assert memory.read(0x1000 if step % 2 else 0x3000, 1)[0] == (7 if step % 2 else 8)
            addr = pool.alloc(1 + step % 3)
            memory.write(addr, bytes([number]) * 64)
            assert memory.read(addr, 64) == bytes([number]) * 64
            pool.free(addr, 1 + step % 3)

    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(work, number) for number in range(4)]:
            done.result(timeout=60)

    assert memory.regions[0] is fixed
    assert len(memory.regions) == 3
    assert pool.used_pages == 0
    assert pool.audit() == []
