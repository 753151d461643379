"""The column gait: a run of like reads or writes in a few array operations, meaning what `run_plain` does.

A run is what all of these hold for: one opcode, one namespace, one length (a power of two, within two
contiguous pages), no flags, blocks on a multiple of the length, buffers on a multiple of the length in one
region of host memory, and no buffer over the rings that are being worked. Then media and host memory are
tables of rows, and the run is: gather rows, scatter rows, write the completions as columns, phase words last.

Everything else, and whatever fails a check, is left to the scalar gait; a run ends at the first entry that
does not fit. Entries are copied before they are looked at: a host that changes them now changes nothing.
About 30 µs go into a run of any length, which is why it must have COLUMNS_MIN commands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from nvme_emu.controller.pcie.rings import CQE_STATUS_WORD, CQE_WORDS
from nvme_emu.core.errors import DmaError
from nvme_emu.spec.commands import RW_NLB_MASK
from nvme_emu.spec.opcodes import NvmOpcode
from nvme_emu.spec.queues import CQE_SIZE, SQE, SQE_SIZE

if TYPE_CHECKING:
    from nvme_emu.controller.controller import Controller
    from nvme_emu.controller.namespace import Namespace
    from nvme_emu.controller.pcie.rings import CompletionQueue, SubmissionQueue
    from nvme_emu.core.memory import Region

__all__ = ["BOUNCE_BYTES", "COLUMNS_MIN", "run_columns"]

COLUMNS_MIN = 32
"""Below about this many commands the scalar gait is quicker."""

BOUNCE_BYTES = 64 * 4096
"""Scattered buffers go through a table of this size, which stays in the cache."""

# Places in an entry taken as 64-bit, 32-bit and 16-bit words.
_HEAD64, _PRP1_64, _PRP2_64, _SLBA64, _CDW12_32, _CID16 = 0, 3, 4, 5, 12, 1
# Opcode, flags and NSID: the first 64-bit word without the CID.
_NOT_CID = np.uint64(0xFFFF_FFFF_0000_FFFF)
# Places in a completion: DW0 and DW1 as one 64-bit word, SQHD, SQID and CID as 16-bit words.
_SQHD16, _SQID16, _CID_CQE16 = 4, 5, 6

_Words = npt.NDArray[np.uint64]
_Rows = npt.NDArray[np.int64]


class _Run(NamedTuple):
    """Commands that can be done at once: rows of the medium and rows of a region, of `nbytes` each."""

    length: int
    nbytes: int
    is_read: bool
    namespace: Namespace
    media_rows: _Rows
    region: Region
    host_rows: _Rows
    cids: npt.NDArray[np.uint16]


def run_columns(ctrl: Controller, sq: SubmissionQueue, count: int) -> int:
    """Do the leading run at once and return its length; 0 when there is none that is long enough.

    There must be `count` commands in the queue and as many free slots.
    """
    if ctrl.latency is not None or ctrl.trace.emit is not None or sq.inflight:
        return 0
    cq = sq.cq
    count = min(count, sq.size - sq.head, cq.size - cq.tail)
    if count < COLUMNS_MIN:
        return 0
    run = _find_run(ctrl, sq, count)
    if run is None:
        return 0
    try:
        _move(ctrl, run)
    except OSError:
        # Nothing was completed: the scalar gait does it again and finds which command it is.
        return 0
    count = run.length
    _write_completions(sq, cq, run)
    sq.head = (sq.head + count) % sq.size
    cq.free -= count
    counters = ctrl.counters
    counters.fetched += count
    counters.posted += count
    if run.is_read:
        counters.read_commands += count
        counters.read_bytes += count * run.nbytes
    else:
        counters.write_commands += count
        counters.write_bytes += count * run.nbytes
    if cq.ien:
        ctrl.interrupts.raise_vector(cq.vector)
    return count


def _find_run(ctrl: Controller, sq: SubmissionQueue, count: int) -> _Run | None:
    """The run at the head of a queue, at most `count` long; None if it is shorter than COLUMNS_MIN."""
    entry = SQE.unpack_from(sq.view, sq.head * SQE_SIZE)
    opcode, flags, _, nsid, _, _, _, prp1, _, _, _, cdw12, _, _, _ = entry
    is_read = opcode == NvmOpcode.READ
    namespace = ctrl.namespaces.get(nsid)
    if not (is_read or opcode == NvmOpcode.WRITE) or flags or cdw12 > RW_NLB_MASK or namespace is None:
        return None
    if not namespace.plain:
        return None
    blocks = cdw12 + 1
    nbytes = blocks << namespace.lba_shift
    if blocks & cdw12 or nbytes > min(2 * ctrl.page_size, ctrl.transfer_bytes_max) or blocks > namespace.nsze:
        return None
    if ctrl.write_through and not is_read and not namespace.media.volatile:
        return None
    try:
        region = ctrl.memory.region_at(prp1, nbytes, is_read)
    except DmaError:
        return None
    if not region.direct:
        return None  # a copy is brought up to date buffer by buffer
    # A look at one of the others, for what costs least to find out: each buffer may be a region of its own.
    other = SQE.unpack_from(sq.view, (sq.head + COLUMNS_MIN - 1) * SQE_SIZE)[7]
    if not region.base <= other < region.end:
        return None
    if region.base & (ctrl.page_size - 1):
        return None  # multiples of the length in the region would not be multiples in a page

    words = np.frombuffer(sq.view, np.uint64, count * 8, sq.head * SQE_SIZE).reshape(count, 8).copy()
    heads = words[:, _HEAD64] & _NOT_CID
    slbas = words[:, _SLBA64]
    prps = words[:, _PRP1_64]
    # Unsigned differences: an address below the region becomes a huge place in it, and is out of range too.
    places = prps - np.uint64(region.base)
    fits = heads == heads[0]
    fits &= words.view(np.uint32)[:, _CDW12_32] == cdw12
    fits &= slbas <= np.uint64(namespace.nsze - blocks)
    fits &= (slbas & np.uint64(cdw12)) == 0
    fits &= places <= np.uint64(region.size - nbytes)
    fits &= (places & np.uint64(nbytes - 1)) == 0
    first = ctrl.page_size - (prps & np.uint64(ctrl.page_size - 1))
    fits &= (first >= np.uint64(nbytes)) | (words[:, _PRP2_64] == prps + first)
    # A buffer may lie over the rings of this very run: then each store has to come in its turn.
    _exclude(fits, prps, nbytes, sq.cq.base, sq.cq.base + sq.cq.nbytes)
    if is_read:
        _exclude(fits, prps, nbytes, sq.base, sq.base + sq.nbytes)
    if not fits.all():
        count = int(fits.argmin())
        if count < COLUMNS_MIN:
            return None
    shift = np.uint64(nbytes.bit_length() - 1)
    return _Run(
        count,
        nbytes,
        is_read,
        namespace,
        (slbas[:count] >> np.uint64(blocks.bit_length() - 1)).view(np.int64),
        region,
        (places[:count] >> shift).view(np.int64),
        words.view(np.uint16)[:count, _CID16],
    )


def _exclude(fits: npt.NDArray[np.bool_], prps: _Words, nbytes: int, start: int, end: int) -> None:
    """Clear `fits` for buffers that share a byte with [start, end): there the order of stores shows."""
    low = max(start - nbytes + 1, 0)
    span = np.uint64(end - low)
    fits &= prps - np.uint64(low) >= span


def _move(ctrl: Controller, run: _Run) -> None:
    """Copy the data. Of two buffers or blocks that are the same the later command's stay, as one by one."""
    media, nbytes, count = run.namespace.media, run.nbytes, run.length
    rows, host = run.media_rows, run.host_rows
    start = int(host[0])
    if int(host[-1]) - start == count - 1 and bool((host[1:] - host[:-1] == 1).all()):
        block = run.region.array[start * nbytes : (start + count) * nbytes]
        if run.is_read:
            media.read_rows(rows, nbytes, block)
        else:
            media.write_rows(rows, nbytes, block)
        return
    table = run.region.array[: run.region.size // nbytes * nbytes].view(f"V{nbytes}")
    bounce = ctrl.bounce
    step = BOUNCE_BYTES // nbytes
    for at in range(0, count, step):
        some, places = rows[at : at + step], host[at : at + step]
        part = bounce[: len(some) * nbytes]
        items = part.view(f"V{nbytes}")
        if run.is_read:
            media.read_rows(some, nbytes, part)
            table[places] = items
        else:
            # With "clip" numpy writes straight into `items`; the places have been checked.
            table.take(places, 0, items, "clip")
            media.write_rows(some, nbytes, part)


def _write_completions(sq: SubmissionQueue, cq: CompletionQueue, run: _Run) -> None:
    count, tail = run.length, cq.tail
    slots = np.frombuffer(cq.words, np.uint16, count * CQE_WORDS, tail * CQE_SIZE).reshape(count, CQE_WORDS)
    slots[:, :_SQHD16] = 0
    slots[:, _SQHD16] = np.arange(sq.head + 1, sq.head + count + 1)
    if sq.head + count == sq.size:
        slots[-1, _SQHD16] = 0
    slots[:, _SQID16] = sq.qid
    slots[:, _CID_CQE16] = run.cids
    # Success, and the phase: last, in a store of its own.
    slots[:, CQE_STATUS_WORD] = cq.phase
    tail += count
    if tail == cq.size:
        tail = 0
        cq.phase ^= 1
    cq.tail = tail
