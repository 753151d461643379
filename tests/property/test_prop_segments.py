"""PRP resolution against a page-by-page reference, over lengths, offsets and page sizes."""

from __future__ import annotations

import struct
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvme_emu.core.errors import CommandError
from nvme_emu.core.memory import HostMemory
from nvme_emu.core.segments import map_prps, resolve_prps

BASE = 0x7000_0000
PAGES = 600


def build_prps(
    memory: HostMemory,
    pages: list[int],
    list_pages: list[int],
    offset: int,
    nbytes: int,
    page_size: int,
    skip: int,
) -> tuple[int, int]:
    """PRP1 and PRP2 for `nbytes` over the pages; the lists as a driver writes them, from entry `skip` on."""
    needed = -(-(offset + nbytes) // page_size)
    data = pages[:needed]
    if needed == 1:
        return data[0] + offset, 0
    if needed == 2:
        return data[0] + offset, data[1]
    rest = data[1:]
    at = 0
    first = addr = list_pages[0] + skip * 8
    while True:
        room = (page_size - addr % page_size) // 8
        if len(rest) <= room:
            memory.write(addr, struct.pack(f"<{len(rest)}Q", *rest))
            return data[0] + offset, first
        at += 1
        memory.write(addr, struct.pack(f"<{room}Q", *rest[: room - 1], list_pages[at]))
        rest = rest[room - 1 :]
        addr = list_pages[at]


@given(data=st.data())
def test_resolved_bytes_equal_the_reference_and_nothing_else_is_touched(data: st.DataObject) -> None:
    page_size = data.draw(st.sampled_from([512, 4096]), "page_size")
    memory = HostMemory()
    region = memory.add_region(np.full(PAGES * page_size, 0xEE, np.uint8), base=BASE)
    offset = data.draw(st.integers(0, page_size // 4 - 1), "dword offset") * 4
    nbytes = data.draw(st.integers(1, 200 * page_size), "nbytes")
    skip = data.draw(st.integers(0, page_size // 8 - 1), "entries in front of the list")
    order = list(range(PAGES))
    if data.draw(st.booleans(), "scattered"):
        data.draw(st.randoms(use_true_random=False), "order").shuffle(order)
    addresses = [BASE + number * page_size for number in order]
    # The last pages are lists; 200 pages of 64 entries need at most five of them.
    pages, list_pages = addresses[:-8], addresses[-8:]
    prp1, prp2 = build_prps(memory, pages, list_pages, offset, nbytes, page_size, skip)

    reference = []
    for byte in range(offset, offset + nbytes, 4):
        reference.append(pages[byte // page_size] + byte % page_size)
    runs = resolve_prps(memory, prp1, prp2, nbytes, page_size, write=True)
    resolved = [addr + at for addr, length in runs for at in range(0, length, 4)]

    assert resolved == reference
    assert sum(length for _, length in runs) == nbytes
    assert all(one[0] + one[1] != other[0] for one, other in pairwise(runs))
    payload = np.arange(nbytes, dtype=np.uint32).astype(np.uint8).tobytes()
    before = region.array.copy()
    at = 0
    for view in map_prps(memory, prp1, prp2, nbytes, page_size, write=True):
        view[:] = payload[at : at + len(view)]
        at += len(view)
    changed = before.copy()
    for addr, length in runs:
        start = addr - BASE
        changed[start : start + length] = region.array[start : start + length]
    assert at == nbytes
    assert np.array_equal(changed, region.array), "a byte outside the segments changed"


ADDRESSES = st.one_of(
    st.integers(0, (1 << 64) - 1),
    st.integers(BASE - 64, BASE + 16 * 4096 + 64),
    st.integers(0, 17).map(lambda number: BASE + number * 4096),
)


@given(
    prp1=ADDRESSES,
    prp2=ADDRESSES,
    nbytes=st.integers(0, 1 << 21),
    entries=st.lists(ADDRESSES, min_size=512, max_size=512) | st.just([BASE] * 512),
    write=st.booleans(),
)
def test_any_prps_give_owned_segments_or_a_command_error(
    prp1: int, prp2: int, nbytes: int, entries: list[int], write: bool
) -> None:
    memory = HostMemory()
    memory.add_region(np.zeros(16 * 4096, np.uint8), base=BASE)
    memory.write(BASE, struct.pack("<512Q", *entries))

    try:
        runs = resolve_prps(memory, prp1, prp2, nbytes, 4096, write)
    except CommandError as error:
        with pytest.raises(CommandError) as caught:
            map_prps(memory, prp1, prp2, nbytes, 4096, write)
        assert caught.value.args == error.args
        return
    assert sum(length for _, length in runs) == nbytes
    for addr, length in runs:
        assert addr >= BASE
        assert addr + length <= BASE + 16 * 4096
