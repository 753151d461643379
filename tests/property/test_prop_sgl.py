"""SGLs against a flat model, over shapes that a host may send and over bytes that no host should."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import nvme_emu
from nvme_emu._core import COMPILED
from nvme_emu.controller import ControllerConfig
from nvme_emu.core.errors import CommandError
from nvme_emu.core.memory import HostMemory
from nvme_emu.core.sgl import SGL_DESCRIPTORS_MAX, map_sgl
from nvme_emu.spec.opcodes import NvmOpcode
from nvme_emu.spec.sgl import (
    SGL_BIT_BUCKET,
    SGL_BYTES,
    SGL_DATA_BLOCK,
    SGL_DESCRIPTOR,
    SGL_LAST_SEGMENT,
    SGL_SEGMENT,
    sgl_descriptor,
)
from nvme_emu.spec.status import Status
from nvme_emu.testing.rawqueue import RawQueuePair

DATA, DATA_BYTES = 0x7000_0000, 1 << 16
LISTS, LISTS_BYTES = 0x9000_0000, 1 << 15
GUARD = 0xEE

Row = tuple[int, int, int]


class Host(NamedTuple):
    """Memory with a region for data and one for lists."""

    memory: HostMemory
    data: np.ndarray
    lists: np.ndarray


def host() -> Host:
    memory = HostMemory()
    data, lists = np.full(DATA_BYTES, GUARD, np.uint8), np.zeros(LISTS_BYTES, np.uint8)
    memory.add_region(data, base=DATA)
    memory.add_region(lists, base=LISTS)
    return Host(memory, data, lists)


def write_lists(memory: HostMemory, rows: list[Row], sizes: list[int]) -> Row:
    """Put the rows into segments of so many descriptors, one behind the other; gives what leads to the first."""
    segments: list[list[Row]] = []
    rest = rows
    for size in [*sizes, len(rows)]:
        if rest:
            segments.append(rest[:size])
            rest = rest[size:]
    places = []
    at = LISTS
    for number, segment in enumerate(segments):
        count = len(segment) + (number < len(segments) - 1)
        places.append((at, count * SGL_BYTES))
        at += count * SGL_BYTES
    kinds = [SGL_SEGMENT] * (len(segments) - 1) + [SGL_LAST_SEGMENT]
    for number, segment in enumerate(segments):
        entries = list(segment)
        if number < len(segments) - 1:
            entries.append((*places[number + 1], kinds[number + 1]))
        memory.write(places[number][0], b"".join(SGL_DESCRIPTOR.pack(*entry) for entry in entries))
    return (*places[0], kinds[0])


def model(rows: list[Row], nbytes: int, to_host: bool) -> list[int | None]:
    """Where each byte of a transfer is: its address, or None for one that nobody wants; shorter if the list is."""
    places: list[int | None] = []
    for address, length, kind in rows:
        if kind == SGL_DATA_BLOCK:
            places += range(address, address + length)
        elif to_host:
            places += [None] * length
    return places[:nbytes]


ROWS = st.lists(
    st.one_of(
        st.tuples(st.integers(0, 4000), st.integers(0, 700), st.just(SGL_DATA_BLOCK)),
        st.tuples(st.just(0), st.integers(0, 700), st.just(SGL_BIT_BUCKET)),
    ),
    min_size=1,
    max_size=24,
)


def spread(rows: list[Row]) -> list[Row]:
    """Blocks that share no byte: each behind the one before, with its own gap."""
    placed, at = [], DATA
    for gap, length, kind in rows:
        at += gap % 97
        placed.append((at, length, kind))
        at += length if kind == SGL_DATA_BLOCK else 0
    return placed


@given(
    rows=ROWS.map(spread),
    sizes=st.lists(st.integers(1, 7), max_size=6),
    nbytes=st.integers(1, 9000),
    write=st.booleans(),
)
def test_what_a_list_describes_is_what_the_model_says_and_nothing_else_is_touched(
    rows: list[Row], sizes: list[int], nbytes: int, write: bool
) -> None:
    memory, data, lists = host()
    first = write_lists(memory, rows, sizes)
    before = lists.copy()
    places = model(rows, nbytes, write)

    if len(places) < nbytes:
        with pytest.raises(CommandError) as caught:
            map_sgl(memory, first, nbytes, write)
        assert caught.value.status == Status.SGL_INVALID_DATA
        return
    views = map_sgl(memory, first, nbytes, write)

    assert sum(map(len, views)) == nbytes
    if write:
        payload = bytes(number % 251 + 1 for number in range(nbytes))
        at = 0
        for view in views:
            view[:] = payload[at : at + len(view)]
            at += len(view)
        expected = np.full(DATA_BYTES, GUARD, np.uint8)
        for place, byte in zip(places, payload, strict=True):
            if place is not None:
                expected[place - DATA] = byte
        assert np.array_equal(data, expected)
    else:
        data[:] = np.arange(DATA_BYTES, dtype=np.uint32) % 249
        assert b"".join(views) == bytes(int(data[place - DATA]) for place in places if place is not None)
    assert np.array_equal(lists, before)


@given(rows=ROWS.map(spread), at=st.integers(0, 23), bits=st.sampled_from([1, 2, 3]))
def test_dword_granularity_is_asked_of_every_block_that_is_used(rows: list[Row], at: int, bits: int) -> None:
    memory, _, _ = host()
    aligned = [(address & ~3, length & ~3, kind) for address, length, kind in rows]
    total = sum(length for _, length, _ in aligned)
    victim = at % len(aligned)
    address, length, kind = aligned[victim]
    aligned[victim] = address, length + bits, kind

    if not total:
        return
    if kind == SGL_DATA_BLOCK and (not length or sum(row[1] for row in aligned[:victim]) < total):
        with pytest.raises(CommandError) as caught:
            map_sgl(memory, write_lists(memory, aligned, []), total + bits, True, dwords=True)
        assert caught.value.status == Status.SGL_INVALID_GRANULARITY
    else:
        map_sgl(memory, write_lists(memory, aligned, []), total, True, dwords=True)


ADDRESSES = st.one_of(
    st.integers(LISTS, LISTS + 512),
    st.integers(0, 64).map(lambda n: LISTS + 16 * n),
    st.integers(DATA - 8, DATA + 64),
    st.integers(DATA + DATA_BYTES - 64, DATA + DATA_BYTES + 8),
    st.integers(0, (1 << 64) - 1),
    st.integers((1 << 64) - 64, (1 << 64) - 1),
)
LENGTHS = st.one_of(
    st.integers(0, 96), st.integers(0, 8).map(lambda n: 16 * n), st.sampled_from([4096, 0xFFFF_FFF0, 0xFFFF_FFFF])
)
KINDS = st.one_of(
    st.sampled_from([SGL_DATA_BLOCK, SGL_BIT_BUCKET, SGL_SEGMENT, SGL_LAST_SEGMENT]),
    st.integers(0, 255),
)
HOSTILE = st.tuples(ADDRESSES, LENGTHS, KINDS)
STATUSES = {
    Status.SGL_INVALID_LAST,
    Status.SGL_INVALID_COUNT,
    Status.SGL_INVALID_DATA,
    Status.SGL_INVALID_TYPE,
    Status.SGL_INVALID_GRANULARITY,
    Status.DATA_XFER_ERROR,
}


@given(
    first=HOSTILE,
    table=st.lists(HOSTILE, min_size=1, max_size=40),
    nbytes=st.sampled_from([1, 16, 512, 4096, 1 << 16]),
    write=st.booleans(),
    dwords=st.booleans(),
)
@example(first=(LISTS, 16, SGL_SEGMENT), table=[(LISTS, 16, SGL_SEGMENT)], nbytes=1, write=True, dwords=False)
def test_hostile_lists_end_with_a_status_of_theirs_or_with_owned_memory(
    first: Row, table: list[Row], nbytes: int, write: bool, dwords: bool
) -> None:
    memory, data, lists = host()
    memory.write(LISTS, b"".join(SGL_DESCRIPTOR.pack(*row) for row in table))
    owned = [(array.ctypes.data, array.nbytes) for array in (data, lists)]

    try:
        views = map_sgl(memory, first, nbytes, write, dwords=dwords)
    except CommandError as error:
        assert error.status in STATUSES
        return

    assert sum(map(len, views)) == nbytes
    for view in views:
        start = np.frombuffer(view, np.uint8).ctypes.data
        inside = any(base <= start and start + len(view) <= base + size for base, size in owned)
        assert inside or (write and len(view) <= 1 << 16)  # memory that nobody reads


@pytest.fixture(scope="module")
def queue() -> Iterator[RawQueuePair]:
    """A queue of a machine whose namespace has a pattern in it, and a CMB beside it."""
    config = ControllerConfig(cmb_bytes=1 << 20)
    with nvme_emu.open(size="1M", queues=2, controller=config, use_cmb_sqes=False) as ssd:
        ssd.namespaces[1].write(0, np.arange(1 << 20, dtype=np.uint32).astype(np.uint8))
        pair = RawQueuePair.beside(ssd)
        yield pair
        pair.close()


@given(
    place=st.one_of(st.integers(-4, 0x8000), st.sampled_from([0xFE00, 0xFFFF, 1 << 20, 1 << 40])),
    in_cmb=st.booleans(),
    length=st.sampled_from([0, 1, 511, 512, 513, 4096, 8192, 8193, 0xFFFF_FFFF]),
    high=st.sampled_from([0, 0, 0, 0, 1, 1 << 16, SGL_BIT_BUCKET << 24, SGL_LAST_SEGMENT << 24, 0x5A << 24]),
    flags=st.sampled_from([0x40, 0x40, 0x80, 0xC0, 0x41, 0]),
    nlb=st.integers(1, 17),
    write=st.booleans(),
)
def test_the_compiled_core_and_python_mean_the_same(
    queue: RawQueuePair, place: int, in_cmb: bool, length: int, high: int, flags: int, nlb: int, write: bool
) -> None:
    ssd = queue.machine
    cmb = ssd.driver.cmb
    assert cmb is not None
    base = cmb.base if in_cmb else queue.data
    prp1 = (base + place) % (1 << 64)
    found = []
    for compiled in (True, False):
        ssd.controller.compiled = COMPILED and compiled
        queue.buffer[:] = np.arange(len(queue.buffer), dtype=np.uint32).astype(np.uint8) ^ 0x5A
        cmb.view[:0x10000] = b"\x5a" * 0x10000
        ssd.namespaces[1].write(0, np.arange(17 * 512, dtype=np.uint32).astype(np.uint8))
        fields = {"nsid": 1, "prp1": prp1, "prp2": length | high << 32, "cdw12": nlb - 1, "flags": flags}
        cid = queue.submit(NvmOpcode.WRITE if write else NvmOpcode.READ, **fields)
        queue.ring()
        status = queue.wait(cid).status_p >> 1
        found.append((status, queue.buffer.tobytes(), bytes(cmb.view[:0x10000]), bytes(ssd.namespaces[1].read(0, 17))))
    assert found[0] == found[1]


def test_a_loop_of_segments_and_a_list_of_too_many_descriptors_end() -> None:
    memory = HostMemory()
    count = SGL_DESCRIPTORS_MAX + 1
    array = np.zeros(count * SGL_BYTES, np.uint8)
    memory.add_region(array, base=LISTS)
    memory.write(LISTS, sgl_descriptor(0, 0) + sgl_descriptor(LISTS, 2 * SGL_BYTES, SGL_SEGMENT))

    for first in ((LISTS, 2 * SGL_BYTES, SGL_SEGMENT), (LISTS, count * SGL_BYTES, SGL_LAST_SEGMENT)):
        with pytest.raises(CommandError) as caught:
            map_sgl(memory, first, 512, True)
        assert caught.value.status == Status.SGL_INVALID_COUNT


def test_blocks_that_meet_in_two_regions_are_one_transfer() -> None:
    memory = HostMemory()
    arrays = [np.zeros(4096, np.uint8) for _ in range(3)]
    for number, array in enumerate(arrays):
        memory.add_region(array, base=DATA + 4096 * number)

    views = map_sgl(memory, (DATA + 4000, 4200, SGL_DATA_BLOCK), 4200, True)

    assert [len(view) for view in views] == [96, 4096, 8]
