"""Host memory as the checker looks at it: without moving anything, and only where the bytes are the host's own.

A transport whose client's memory is reached by messages keeps copies (`Region.direct` is False): what is in
them is no evidence, so that nothing is judged by it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from nvme_emu.core.errors import CommandError, DmaError
from nvme_emu.core.memory import HostMemory, Region
from nvme_emu.core.sgl import walk_sgl
from nvme_emu.spec.queues import PSDT_MASK, Sqe
from nvme_emu.spec.sgl import SGL_BIT_BUCKET, SGL_DATA_BLOCK, SGL_LAST_SEGMENT, SGL_SEGMENT
from nvme_emu.spec.status import describe

__all__ = [
    "ENTRY_BYTES", "Problem", "Span", "Transfer", "is_direct", "look", "owner", "resolve", "resolve_sgl",
    "transfer_of",
]  # fmt: skip

ENTRY_BYTES = 8

Span = tuple[int, int]
"""(address, length in bytes)."""

Problem = tuple[str, str, dict[str, int]]
"""(rule, words, offending values)."""


def owner(memory: HostMemory, addr: int) -> Region | None:
    """The region that holds the byte at `addr`, if any."""
    try:
        return memory._region_from(addr, 1, False)
    except DmaError:
        return None


def look(memory: HostMemory, addr: int, nbytes: int) -> bytes | None:
    """A copy of the host's bytes; None where not all of them are there to be seen."""
    pieces = []
    while nbytes > 0:
        region = owner(memory, addr)
        if region is None or not region.direct:
            return None
        start = addr - region.base
        piece = bytes(region.view[start : start + nbytes])
        if not piece:
            return None
        pieces.append(piece)
        addr += len(piece)
        nbytes -= len(piece)
    return b"".join(pieces)


def is_direct(memory: HostMemory, addr: int) -> bool:
    """Whether the byte at `addr` is the host's own and no copy."""
    region = owner(memory, addr)
    return region is not None and region.direct


@dataclass(slots=True)
class Transfer:
    """What PRPs describe: the data, the lists, and what is wrong with them. `blind` where a list is not to be seen."""

    nbytes: int
    to_host: bool
    data: list[Span] = field(default_factory=list)
    lists: list[Span] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    blind: bool = False


def resolve(memory: HostMemory, prp1: int, prp2: int, nbytes: int, page: int, to_host: bool) -> Transfer:
    """Follow the PRPs of a transfer of `nbytes` (Base 2.1, 4.3.1) as far as they make sense."""
    found = Transfer(nbytes, to_host)
    if prp1 & 3:
        found.problems.append(("prp1-offset", f"PRP1 {prp1:#x} is not on a dword", {"prp1": prp1}))
        return found
    first = min(page - (prp1 & page - 1), nbytes)
    _add(found.data, prp1, first)
    rest = nbytes - first
    if not rest:
        if prp2:
            words = f"PRP2 {prp2:#x}, though {nbytes} bytes fit behind PRP1 {prp1:#x}"
            found.problems.append(("prp2-unused", words, {"prp1": prp1, "prp2": prp2, "nbytes": nbytes}))
    elif rest <= page:
        _page(found, prp2, rest, page, "PRP2")
    else:
        _lists(memory, found, prp2, rest, page)
    if not found.problems or found.problems[0][0] == "prp2-unused":
        _check_owned(memory, found)
        _check_repeated(found, page)
    return found


def resolve_sgl(memory: HostMemory, first: tuple[int, int, int], nbytes: int, to_host: bool) -> Transfer:
    """Follow the SGL of a transfer of `nbytes` (Base 2.1, 4.3.2) whose first descriptor is given."""
    found = Transfer(nbytes, to_host)
    address, length, kind = first
    if kind in (SGL_SEGMENT, SGL_LAST_SEGMENT):
        # A segment that is to be asked for would make the checker wait.
        if owner(memory, address) is not None and not is_direct(memory, address):
            found.blind = True
            return found
        found.lists.append((address, length))
    left = nbytes
    try:
        for addr, size, identifier in walk_sgl(memory, first):
            if identifier == SGL_DATA_BLOCK:
                taken = min(size, left)
                if taken:
                    _add(found.data, addr, taken)
            elif identifier == SGL_BIT_BUCKET:
                taken = min(size, left) if to_host else 0
            else:
                found.problems.append(("sgl-type", f"descriptor {identifier:#04x}", {"type": identifier}))
                return found
            left -= taken
            if not left:
                break
    except CommandError as error:
        words = f"{describe(error.status)}: the segment at {address:#x}+{length:#x}, or one behind it"
        found.problems.append(("sgl-list", words, {"address": address, "length": length}))
        return found
    if left:
        found.problems.append(("sgl-length", f"{nbytes - left} bytes of {nbytes}", {"length": nbytes - left}))
        return found
    _check_owned(memory, found)
    return found


def transfer_of(memory: HostMemory, entry: Sqe, nbytes: int, page: int, to_host: bool) -> Transfer:
    """What the data pointer of a command describes, whichever it is."""
    if not entry.flags & PSDT_MASK:
        return resolve(memory, entry.prp1, entry.prp2, nbytes, page, to_host)
    return resolve_sgl(memory, (entry.prp1, entry.prp2 & 0xFFFF_FFFF, entry.prp2 >> 56), nbytes, to_host)


def _add(spans: list[Span], addr: int, nbytes: int) -> None:
    if spans and sum(spans[-1]) == addr:
        spans[-1] = spans[-1][0], spans[-1][1] + nbytes
    else:
        spans.append((addr, nbytes))


def _page(found: Transfer, addr: int, nbytes: int, page: int, name: str) -> None:
    if addr & page - 1:
        words = f"{name} {addr:#x} has an offset in its page of {page} bytes"
        found.problems.append(("prp-offset", words, {"entry": addr, "page_size": page}))
    else:
        _add(found.data, addr, nbytes)


def _lists(memory: HostMemory, found: Transfer, addr: int, rest: int, page: int) -> None:
    """The chain of lists from PRP2 on. Each but the first gives an entry at least, so that it ends."""
    needed = -(-rest // page)
    index = 0
    if addr & ENTRY_BYTES - 1:
        found.problems.append(("prp-list-offset", f"the list at {addr:#x} is not on eight bytes", {"list": addr}))
        return
    while needed:
        room = (page - (addr & page - 1)) // ENTRY_BYTES
        count = min(needed, room)
        found.lists.append((addr, count * ENTRY_BYTES))
        if owner(memory, addr) is None or owner(memory, addr + count * ENTRY_BYTES - 1) is None:
            words = f"the list of {count} entries at {addr:#x} is outside host memory"
            found.problems.append(("prp-list-memory", words, {"list": addr, "entries": count}))
            return
        raw = look(memory, addr, count * ENTRY_BYTES)
        if raw is None:
            found.blind = True
            return
        entries = struct.unpack(f"<{count}Q", raw)
        chained = needed > room
        for entry in entries[:-1] if chained else entries:
            _page(found, entry, min(page, rest), page, f"entry {index} of the list")
            if found.problems:
                return
            rest -= page
            index += 1
            needed -= 1
        if chained:
            addr = entries[-1]
            if addr & page - 1:
                words = f"the next list at {addr:#x} is not on a page"
                found.problems.append(("prp-list-offset", words, {"list": addr, "page_size": page}))
                return


def _check_owned(memory: HostMemory, found: Transfer) -> None:
    for start, nbytes in found.data:
        addr, left = start, nbytes
        while left > 0:
            region = owner(memory, addr)
            if region is None or (found.to_host and not region.writable):
                what = "is outside host memory" if region is None else "must not be written to"
                words = f"byte {addr:#x} of the buffer at {start:#x}+{nbytes:#x} {what}"
                found.problems.append(("buffer-memory", words, {"address": addr, "start": start, "nbytes": nbytes}))
                return
            there = min(left, region.end - addr)
            addr += there
            left -= there


def _check_repeated(found: Transfer, page: int) -> None:
    if not found.to_host or len(found.data) < 2:
        return
    end = -1
    for addr, nbytes in sorted(found.data):
        if addr < end:
            words = f"page {addr & -page:#x} is twice in a read of {found.nbytes} bytes"
            found.problems.append(("prp-repeated", words, {"page": addr & -page, "nbytes": found.nbytes}))
            return
        end = addr + nbytes
