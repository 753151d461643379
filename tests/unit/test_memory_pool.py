"""The page pool: allocation, wrong frees, and writes after free."""

from __future__ import annotations

import pytest

from nvme_emu.core.errors import DmaError
from nvme_emu.core.memory import HostMemory
from nvme_emu.core.page_pool import POISON_BYTE, PagePool, PoolError, UseAfterFree


def pool_of(pages: int, poison: bool = True) -> tuple[HostMemory, PagePool]:
    memory = HostMemory()
    return memory, PagePool(memory, pages, poison=poison)


def test_alloc_gives_each_page_once_and_then_memory_error() -> None:
    _, pool = pool_of(8)

    addresses = [pool.alloc() for _ in range(8)]

    assert sorted(addresses) == [pool.region.base + page * 4096 for page in range(8)]
    with pytest.raises(MemoryError, match="all 8 pages"):
        pool.alloc()


def test_alloc_of_runs_and_pages_mixed_never_overlaps() -> None:
    _, pool = pool_of(64)
    held: dict[int, int] = {}
    for step in range(2000):
        npages = (1, 1, 3, 1, 7)[step % 5]
        if len(held) > 10 and step % 3:
            addr = list(held)[step * 7 % len(held)]
            pool.free(addr, held.pop(addr))
        else:
            addr = pool.alloc(npages)
            for other, pages in held.items():
                assert addr + npages * 4096 <= other or other + pages * 4096 <= addr
            held[addr] = npages
        assert pool.allocations == dict(sorted(held.items()))
        assert pool.used_pages == sum(held.values())
    assert len(pool._stack) <= 64


def test_alloc_of_a_run_that_is_not_there_raises_memory_error() -> None:
    _, pool = pool_of(8)
    pages = [pool.alloc() for _ in range(8)]
    for page in pages[::2]:
        pool.free(page)

    with pytest.raises(MemoryError, match=r"no run of 2 pages.*4 of 8 free"):
        pool.alloc(2)


@pytest.mark.parametrize("npages", [0, -1])
def test_alloc_of_less_than_a_page_raises_value_error(npages: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        pool_of(8)[1].alloc(npages)


def test_freed_page_is_handed_out_again() -> None:
    _, pool = pool_of(1)
    first = pool.alloc()
    pool.free(first)

    assert pool.alloc() == first


def test_free_twice_raises_pool_error() -> None:
    _, pool = pool_of(4)
    addr = pool.alloc()
    pool.free(addr)

    with pytest.raises(PoolError, match="freed twice"):
        pool.free(addr)
    assert pool.used_pages == 0


def test_free_of_another_length_raises_pool_error_and_keeps_the_allocation() -> None:
    _, pool = pool_of(8)
    addr = pool.alloc(3)

    with pytest.raises(PoolError, match=r"3 page\(s\) were allocated"):
        pool.free(addr, 2)
    with pytest.raises(PoolError, match="inside an allocation"):
        pool.free(addr + 4096)
    assert pool.allocations == {addr: 3}


@pytest.mark.parametrize("offset", [-4096, 8 * 4096, 1 << 40])
def test_free_of_a_foreign_address_raises_pool_error(offset: int) -> None:
    _, pool = pool_of(8)

    with pytest.raises(PoolError, match="not of"):
        pool.free(pool.region.base + offset)


def test_free_inside_a_page_raises_pool_error() -> None:
    _, pool = pool_of(8)
    addr = pool.alloc()

    with pytest.raises(PoolError, match="start of a page"):
        pool.free(addr + 8)


def test_freed_pages_are_poisoned_and_zeroed_ones_are_zero() -> None:
    memory, pool = pool_of(2)
    addr = pool.alloc()
    memory.write(addr, b"secret")

    pool.free(addr)

    assert memory.read(addr, 4096) == bytes([POISON_BYTE]) * 4096
    assert pool.alloc(zero=True) == addr
    assert memory.read(addr, 4096) == bytes(4096)


def test_poison_read_as_a_prp_entry_is_owned_by_no_region() -> None:
    memory, _ = pool_of(2)

    with pytest.raises(DmaError):
        memory.find(int.from_bytes(bytes([POISON_BYTE]) * 8), 1)


def test_write_after_free_is_raised_at_the_next_alloc_which_takes_nothing() -> None:
    memory, pool = pool_of(1)
    addr = pool.alloc()
    pool.free(addr)
    memory.write(addr + 100, b"x")

    assert pool.audit() == [addr]
    with pytest.raises(UseAfterFree, match=r"byte 100 is 0x78 and not 0x6b"):
        pool.alloc()
    assert pool.alloc() == addr


def test_write_after_free_is_reported_to_the_hook_and_the_page_is_usable() -> None:
    memory, pool = pool_of(4)
    reports: list[UseAfterFree] = []
    pool.on_use_after_free = reports.append
    addr = pool.alloc(4)
    pool.free(addr, 4)
    memory.write(addr + 2 * 4096, b"x")

    assert pool.alloc(4) == addr
    assert [f"{addr + 2 * 4096:#x}" in str(report) for report in reports] == [True]


def test_without_poison_freed_pages_keep_their_bytes() -> None:
    memory, pool = pool_of(1, poison=False)
    addr = pool.alloc()
    memory.write(addr, b"still here")
    pool.free(addr)

    assert memory.read(addr, 10) == b"still here"
    assert pool.audit() == []


def test_closed_pool_faults() -> None:
    memory, pool = pool_of(1)
    addr = pool.alloc()

    pool.close()

    with pytest.raises(DmaError):
        memory.find(addr, 1)


@pytest.mark.parametrize(("pages", "page_size"), [(0, 4096), (1, 0), (1, 256), (1, 5000)])
def test_pool_of_impossible_sizes_raises_value_error(pages: int, page_size: int) -> None:
    with pytest.raises(ValueError, match=r"at least|power of two"):
        PagePool(HostMemory(), pages, page_size)
