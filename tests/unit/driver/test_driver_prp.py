"""The PRP builder against the resolver that the controller uses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nvme_emu.core.memory import HostMemory
from nvme_emu.core.page_pool import PagePool
from nvme_emu.core.segments import resolve_prps
from nvme_emu.driver.prp import list_pages_needed, page_addresses, write_prp_lists

PAGE = 4096


def build(pool: PagePool, memory: HostMemory, addr: int, nbytes: int) -> tuple[int, int, int]:
    pages = page_addresses(addr, nbytes, PAGE)
    lists = [pool.alloc() for _ in range(list_pages_needed(len(pages) - 1, PAGE))]
    views = []
    for a in lists:
        view, offset = memory.find(a, PAGE)
        views.append(np.frombuffer(view[offset : offset + PAGE], np.uint64))
    prp1, prp2 = write_prp_lists(pages, lists, views, PAGE)
    return prp1, prp2, len(lists)


@settings(max_examples=150, deadline=None)
@given(
    offset=st.integers(0, PAGE // 4 - 1).map(lambda n: n * 4),
    nbytes=st.one_of(st.integers(1, 3 * PAGE), st.integers(1, 1100).map(lambda n: n * PAGE)),
)
def test_built_prps_resolve_to_the_same_bytes(offset: int, nbytes: int) -> None:
    memory = HostMemory()
    pool = PagePool(memory, 8, PAGE)
    region = memory.add_region(np.zeros(nbytes + PAGE, np.uint8))
    addr = region.base + offset

    prp1, prp2, _ = build(pool, memory, addr, nbytes)

    assert resolve_prps(memory, prp1, prp2, nbytes, PAGE) == [(addr, nbytes)]


@pytest.mark.parametrize(
    ("entries", "pages"),
    [(0, 0), (1, 0), (2, 1), (512, 1), (513, 2), (1023, 2), (1024, 3), (1534, 3), (1535, 4)],
)
def test_list_pages_needed_counts_the_chain_slots(entries: int, pages: int) -> None:
    assert list_pages_needed(entries, PAGE) == pages


def test_unused_prp2_is_zero() -> None:
    memory = HostMemory()
    pool = PagePool(memory, 4, PAGE)
    region = memory.add_region(np.zeros(PAGE, np.uint8))
    assert build(pool, memory, region.base, PAGE) == (region.base, 0, 0)


def test_wrong_number_of_list_pages_is_an_error() -> None:
    with pytest.raises(ValueError, match="need 2 list pages of 4096 bytes, not 1"):
        write_prp_lists(np.arange(600, dtype=np.uint64), [0x1000], [np.zeros(512, np.uint64)], PAGE)
