"""From PRP entries to the memory they describe (NVMe Base 2.1, clause 4.1.1).

PRP1 points at the first byte and may start anywhere (dword-aligned) in a page. What does not fit into that
page continues at PRP2: if one more page is enough PRP2 is that page, otherwise it points at a list of
pages. A list ends with its memory page; when more pages remain than entries, the last entry points at the
next list. Every page but the first starts at offset 0.

    resolve_prps(memory, prp1, prp2, nbytes, 4096) -> [(addr, nbytes), …]    adjacent pages merged
    map_prps(memory, prp1, prp2, nbytes, 4096)     -> [memoryview, …]        the same, ready to copy
"""

from __future__ import annotations

import struct

from nvme_emu.core.errors import CommandError, DmaError
from nvme_emu.core.memory import HostMemory
from nvme_emu.spec.status import Status

__all__ = ["map_prps", "resolve_prps"]

# Where the entries are in a submission queue entry, as (byte, bit), for the error log.
PRP1_LOCATION = (24, 0)
PRP2_LOCATION = (32, 0)

PRP_ENTRY_BYTES = 8


def resolve_prps(
    memory: HostMemory, prp1: int, prp2: int, nbytes: int, page_size: int, write: bool = False
) -> list[tuple[int, int]]:
    """The `nbytes` bytes that PRP1 and PRP2 describe, as [(address, length), …] in order.

    Neighbours in memory are merged; each result lies in one region, so that `memory.find` takes it.
    `page_size` is CC.MPS in bytes; `write` says that the device will store there. Raises CommandError:
    PRP Offset Invalid for an offset that is not allowed, Data Transfer Error for an address (of data or
    of a list) that host memory does not own.
    """
    if nbytes <= 0:
        return []
    first = page_size - (prp1 & (page_size - 1))
    if prp1 & 3:
        raise _offset_invalid(PRP1_LOCATION)
    if nbytes <= first:
        runs = [(prp1, nbytes)]
    else:
        rest = nbytes - first
        if rest <= page_size:
            if prp2 & (page_size - 1):
                raise _offset_invalid(PRP2_LOCATION)
            runs = [(prp1, nbytes)] if prp1 + first == prp2 else [(prp1, first), (prp2, rest)]
        else:
            runs = _list_runs(memory, prp1, first, prp2, rest, page_size)
    return _owned(memory, runs, write)


def map_prps(
    memory: HostMemory, prp1: int, prp2: int, nbytes: int, page_size: int, write: bool = False
) -> list[memoryview]:
    """As `resolve_prps`, but the bytes themselves: views to copy from, or with `write` into."""
    if 0 < nbytes <= page_size - (prp1 & (page_size - 1)) and not prp1 & 3:
        # One page, the commonest case by far, without the detour over a list of runs.
        try:
            view, offset = memory.find(prp1, nbytes, write)
        except DmaError:
            pass  # the general case tells a span over two regions from an error
        else:
            return [view[offset : offset + nbytes]]
    views = []
    for addr, length in resolve_prps(memory, prp1, prp2, nbytes, page_size, write):
        view, offset = memory.find(addr, length, write)
        views.append(view[offset : offset + length])
    return views


def _list_runs(
    memory: HostMemory, prp1: int, first: int, prp2: int, nbytes: int, page_size: int
) -> list[tuple[int, int]]:
    """Runs of a transfer with a PRP list: `first` bytes at `prp1`, then `nbytes` in the list's pages."""
    runs: list[tuple[int, int]] = []
    mask = page_size - 1
    needed = -(-nbytes // page_size)
    start, end = prp1, prp1 + first
    for entries in _list_pages(memory, prp2, needed, page_size):
        # Contiguous pages, as a driver with large buffers sends them, are compared in C and merged at once.
        begin, size = entries[0], len(entries) * page_size
        if entries == tuple(range(begin, begin + size, page_size)):
            entries = (begin,)
        else:
            size = page_size
        for addr in entries:
            if addr & mask:
                raise _offset_invalid(PRP2_LOCATION)
            if addr == end:
                end += size
            else:
                runs.append((start, end - start))
                start, end = addr, addr + size
    # Only the last page may be used in part.
    end -= needed * page_size - nbytes
    runs.append((start, end - start))
    return runs


def _list_pages(memory: HostMemory, addr: int, needed: int, page_size: int) -> list[tuple[int, ...]]:
    """The data entries, `needed` in all, of the chain of lists that starts at `addr`; one tuple a list.

    Each list but the first is a whole page and gives at least one entry, so the chain ends
    after 2 + needed / (entries a page - 1) lists whatever the pointers say, a loop of them included.
    """
    if addr & (PRP_ENTRY_BYTES - 1):
        raise _offset_invalid(PRP2_LOCATION)
    lists = []
    while True:
        room = (page_size - (addr & (page_size - 1))) // PRP_ENTRY_BYTES
        more = needed > room
        count = room if more else needed
        entries = _read_entries(memory, addr, count)
        if not more:
            lists.append(entries)
            return lists
        addr = entries[-1]
        if addr & (page_size - 1):
            raise _offset_invalid(PRP2_LOCATION)
        if count > 1:
            lists.append(entries[:-1])
            needed -= count - 1


def _read_entries(memory: HostMemory, addr: int, count: int) -> tuple[int, ...]:
    nbytes = count * PRP_ENTRY_BYTES
    try:
        view, offset = memory.find(addr, nbytes)
    except DmaError:
        try:
            view, offset = memoryview(memory.read(addr, nbytes)), 0
        except DmaError as error:
            raise CommandError(Status.DATA_XFER_ERROR, location=PRP2_LOCATION) from error
    return struct.unpack_from(f"<{count}Q", view, offset)


def _owned(memory: HostMemory, runs: list[tuple[int, int]], write: bool) -> list[tuple[int, int]]:
    """The runs, each checked to be in host memory, split where adjacent regions meet."""
    try:
        for addr, length in runs:
            memory.find(addr, length, write)
    except DmaError:
        return _split_at_regions(memory, runs, write)
    return runs


def _split_at_regions(
    memory: HostMemory, runs: list[tuple[int, int]], write: bool
) -> list[tuple[int, int]]:
    split = []
    for number, (addr, length) in enumerate(runs):
        try:
            for view in memory.pieces(addr, length, write):
                split.append((addr, len(view)))
                addr += len(view)
        except DmaError as error:
            location = PRP2_LOCATION if number else PRP1_LOCATION
            raise CommandError(Status.DATA_XFER_ERROR, location=location) from error
    return split


def _offset_invalid(location: tuple[int, int]) -> CommandError:
    return CommandError(Status.PRP_INVALID_OFFSET, location=location)
