"""Lanes in Python: plain commands from entry to end, while nobody else is on the way.

What ``_core/lane.c`` does, for who has no extension, with the same conditions: an instant device over memory that
nobody traces or disturbs, both queues empty, nothing raised, masked, blocked or in line, and an interrupt that would
come to the handler which does what is done here. The locks on the way are taken without waiting. Then the
device's side and the driver's are one function over local variables: the entry goes into the ring, the data
between medium and caller, the completion into its ring, and both sides' heads, tails and identifiers move on.
In any other case nothing has happened when it returns, and the caller goes the ordinary way.

``open_caller_lane``   for one command or a batch of a synchronous caller.
``open_worker_lane``   for what is on a worker's list.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from nvme_emu.core.regions import WINDOW_SHIFT
from nvme_emu.driver.batch import BATCH_MIN
from nvme_emu.driver.tags import GENERATION
from nvme_emu.spec.opcodes import NvmOpcode
from nvme_emu.spec.queues import CQE_SIZE, SQE_SIZE

if TYPE_CHECKING:
    from collections import deque

    from nvme_emu.core.ports import IrqHandler, Lane
    from nvme_emu.driver.queue_pair import QueuePair
    from nvme_emu.driver.request import Request

__all__ = ["CallerLane", "open_caller_lane", "open_worker_lane"]

PAGE_SIZE = 4096
UNLISTED_BYTES = 2 * PAGE_SIZE
LISTED_BYTES_MAX = (PAGE_SIZE // 8 + 1) * PAGE_SIZE
READ, WRITE = int(NvmOpcode.READ), int(NvmOpcode.WRITE)

# A plain command: opcode, flags, cid, nsid, PRP1, PRP2, SLBA, CDW12; what is skipped is written as zeros.
_ENTRY = struct.Struct("<BBHI16xQQQI12x")
# A completion but its last word, and where that is in a view of 16-bit words.
_ANSWER = struct.Struct("<8xHHH")
_STATUS_HALF, _HALVES = 7, CQE_SIZE // 2
assert _ENTRY.size == SQE_SIZE
assert _ANSWER.size == CQE_SIZE - 2


class CallerLane(NamedTuple):
    """The two calls, as :class:`~nvme_emu.driver.submit.SubmitPath` offers them."""

    exchange: Callable[[int, int, int, int, Any, int], bool]
    exchange_many: Callable[[int, int, Any, int, int, int, Any], int]


def _watcher(pair: QueuePair, lane: Lane, handler: IrqHandler) -> Callable[[int, int], bool]:
    """What tells whether a lane is free, for who holds its locks."""
    device, sq, line, raised, masked = lane.device
    handlers, trace, memory, free = lane.handlers, lane.device.device.trace, pair._memory, pair.tags.free
    cq, depth = sq.cq, pair.depth
    vector = cq.vector

    def is_free(tail: int, head: int) -> bool:
        """Whether nothing is on the way, and a tag is free; ``tail`` and ``head`` are the pair's."""
        return (
            not pair.outstanding
            and tail == sq.head == sq.tail == pair.rung_tail
            and head == cq.head == cq.tail
            and cq.free == depth - 1
            and cq.phase == pair.phase
            and cq.sqs == 1
            and cq.ien
            and sq.live
            and not (sq.in_line or sq.inflight or line or raised or cq.blocked or cq.backlog or masked[vector])
            and device.running
            and device.latency is None
            and device.faults is None
            and trace.emit is None
            and device.rings.generation == memory.generation
            and device.page_size == PAGE_SIZE
            and handlers.get(vector) is handler
            and bool(free)
        )

    return is_free


def open_caller_lane(pair: QueuePair, lane: Lane, handler: IrqHandler, ring_lock: Any, reaping: Any) -> CallerLane:
    """The lane of ``pair``, whose interrupts ``handler`` serves; ``ring_lock`` and ``reaping`` are its path's locks."""
    device, sq = lane.device.device, lane.device.sq
    cq, depth, qid = sq.cq, pair.depth, pair.qid
    memory, counters = pair._memory, device.counters
    free, cids = pair.tags.free, pair.tags.cid
    sq_view, cq_view, cq_halves = pair.sq_view, pair.cq_view, pair.cq_view.cast("H")
    window_base, list_addr, fill_list = pair._window_base, pair._list_addr, pair.fill_list
    ring_owned, ring_take, ring_leave = ring_lock.held, ring_lock.acquire, ring_lock.release
    reap_owned, reap_take, reap_leave = reaping.held, reaping.acquire, reaping.release
    device_owned, device_take, device_leave = lane.lock.held, lane.lock.acquire, lane.lock.release
    pack_entry, pack_answer = _ENTRY.pack_into, _ANSWER.pack_into
    is_free = _watcher(pair, lane, handler)
    line, raised, masked = lane.device.line, lane.device.raised, lane.device.masked
    handlers, trace, vector = lane.handlers, device.trace, cq.vector

    def take_locks() -> bool:
        """Take all three, if nobody has one, the caller included."""
        if ring_owned() or reap_owned() or device_owned() or not ring_take(False):
            return False
        if reap_take(False):
            if device_take(False):
                return True
            reap_leave()
        ring_leave()
        return False

    def leave_locks() -> None:
        device_leave()
        reap_leave()
        ring_leave()

    def exchange(opcode: int, nsid: int, slba: int, cdw12: int, data: Any, nbytes: int) -> bool:
        try:
            view = memoryview(data)
        except TypeError:
            return False
        namespace = device.namespaces.get(nsid)
        if namespace is None or view.format != "B" or view.ndim != 1 or not view.c_contiguous or len(view) != nbytes:
            return False
        stored, shift = namespace.view, namespace.lba_shift
        if stored is None or slba + cdw12 >= namespace.nsze or (cdw12 + 1) << shift != nbytes:
            return False
        is_read = opcode == READ
        if (view if is_read else stored).readonly or (device.write_through and not is_read):
            return False
        if nbytes > device.transfer_bytes_max or nbytes > LISTED_BYTES_MAX:
            return False
        # What take_locks and is_free do, without the calls: they would show.
        if ring_owned() or reap_owned() or device_owned():
            return False
        ring_take()
        if not reap_take(False):
            ring_leave()
            return False
        device_take()
        try:
            tail, head, phase = pair.tail, pair.head, pair.phase
            if (
                pair.outstanding or tail != pair.rung_tail or tail != sq.head or tail != sq.tail
                or head != cq.head or head != cq.tail or cq.free != depth - 1 or cq.phase != phase
                or cq.sqs != 1 or sq.inflight or not sq.live
                or line or raised or cq.blocked or cq.backlog or masked[vector]
                or not device.running or device.latency is not None or device.faults is not None
                or trace.emit is not None or device.rings.generation != memory.generation
                or handlers.get(vector) is not handler or not free
            ):  # fmt: skip
                return False
            tag = free[-1]
            cid = cids[tag]
            prp1, prp2 = window_base + (tag << WINDOW_SHIFT), 0
            if nbytes > PAGE_SIZE:
                prp2 = prp1 + PAGE_SIZE
                if nbytes > UNLISTED_BYTES:
                    fill_list(tag)
                    prp2 = list_addr
            pack_entry(sq_view, tail * SQE_SIZE, opcode, 0, cid, nsid, prp1, prp2, slba, cdw12)
            tail += 1
            if tail == depth:
                tail = 0
            at = slba << shift
            counters.fetched += 1
            if is_read:
                view[:] = stored[at : at + nbytes]
                counters.read_commands += 1
                counters.read_bytes += nbytes
            else:
                stored[at : at + nbytes] = view
                counters.write_commands += 1
                counters.write_bytes += nbytes
            sq.head = sq.tail = pair.tail = pair.rung_tail = pair.sqhd = tail
            pack_answer(cq_view, head * CQE_SIZE, tail, qid, cid)
            cq_halves[head * _HALVES + _STATUS_HALF] = phase
            counters.posted += 1
            head += 1
            if head == depth:
                head = 0
                cq.phase = pair.phase = phase ^ 1
            cq.head = cq.tail = pair.head = head
            if pair.bells is not None:
                pair.bells.both(tail, head)
            cids[tag] = (cid + GENERATION) & 0xFFFF
            return True
        finally:
            device_leave()
            reap_leave()
            ring_leave()

    def exchange_many(opcode: int, nsid: int, slbas: Any, nlb: int, width: int, blocks: int, data: Any) -> int:
        namespace, count = device.namespaces.get(nsid), len(slbas)
        if count < BATCH_MIN or namespace is None or width > UNLISTED_BYTES or width & (width - 1):
            return 0
        is_read = opcode == READ
        stored = namespace.view
        if stored is None or nlb << namespace.lba_shift != width or width > device.transfer_bytes_max:
            return 0
        rows = _rows_of(slbas, nlb, min(blocks, namespace.nsze))
        items = _items_of(data, width, count, is_read)
        if rows is None or items is None or (not is_read and (device.write_through or stored.readonly)):
            return 0
        table = np.frombuffer(stored, f"V{width}", len(stored) // width)
        if not take_locks():
            return 0
        try:
            if not is_free(pair.tail, pair.head):
                return 0
            base, done = memory.take_base(count * width), 0
            while done < count:
                size = min(count - done, len(free), depth - 1)
                some = slice(done, done + size)
                if is_read:
                    # With "clip" numpy stores straight into `out`; the rows have been checked.
                    table.take(rows[some], 0, items[some], "clip")
                else:
                    table[rows[some]] = items[some]
                write_round(opcode, nsid, nlb, slbas[some], base + done * width, width)
                done += size
            counters.fetched += count
            counters.posted += count
            if is_read:
                counters.read_commands += count
                counters.read_bytes += count * width
            else:
                counters.write_commands += count
                counters.write_bytes += count * width
            return count
        finally:
            leave_locks()

    def write_round(opcode: int, nsid: int, nlb: int, slbas: Any, addr: int, width: int) -> None:
        """Entries and completions of as many commands as there are ``slbas``, and everybody's next places."""
        size = len(slbas)
        taken = free[-size:]
        names = [cids[tag] for tag in taken]
        for tag, cid in zip(taken, names, strict=True):
            cids[tag] = (cid + GENERATION) & 0xFFFF
        high = np.array(names, np.uint64)
        high <<= _U16
        prps = np.arange(addr, addr + size * width, width, dtype=np.uint64)
        sq_words, cq_words = pair._sq_words, pair._cq_words
        done = 0
        while done < size:
            tail, head, phase = pair.tail, pair.head, pair.phase
            run = min(size - done, depth - tail, depth - head)
            some = slice(done, done + run)
            entries = sq_words[tail : tail + run]
            entries[:, 0] = high[some] | np.uint64(opcode | nsid << 32)
            entries[:, 1:3] = 0
            entries[:, 3] = prps[some]
            entries[:, 4] = prps[some] + _PAGE if width > PAGE_SIZE else 0
            entries[:, 5] = slbas[some]
            entries[:, 6] = nlb - 1
            entries[:, 7] = 0
            answers = cq_words[head : head + run]
            answers[:, 0] = 0
            # The status word still has the old phase: it is published last, in a store of its own.
            second = np.arange(tail + 1, tail + run + 1, dtype=np.uint64)
            if tail + run == depth:
                second[-1] = 0
            second |= high[some] << _U16
            second |= np.uint64(qid << 16 | (phase ^ 1) << 48)
            answers[:, 1] = second
            pair._cq_halves[head : head + run, _STATUS_HALF] = phase
            done += run
            tail, head = (tail + run) % depth, head + run
            if head == depth:
                head = 0
                cq.phase = pair.phase = phase ^ 1
            sq.head = sq.tail = pair.tail = pair.rung_tail = pair.sqhd = tail
            cq.head = cq.tail = pair.head = head
            if pair.bells is not None:
                pair.bells.both(tail, head)

    return CallerLane(exchange, exchange_many)


def open_worker_lane(
    pair: QueuePair, lane: Lane, handler: IrqHandler
) -> Callable[[deque[Request]], list[Request]]:
    """The lane of ``pair`` for a worker that alone touches its rings: ``exchange_requests(requests)``.

    It takes the leading plain reads and writes off the list and gives them back, ended with success but not yet
    marked done; as many as one doorbell could ring for.
    """
    device, sq = lane.device.device, lane.device.sq
    cq, depth, qid = sq.cq, pair.depth, pair.qid
    counters, free, cids = device.counters, pair.tags.free, pair.tags.cid
    sq_view, cq_view, cq_halves = pair.sq_view, pair.cq_view, pair.cq_view.cast("H")
    window_base = pair._window_base
    device_owned, device_take, device_leave = lane.lock.held, lane.lock.acquire, lane.lock.release
    pack_entry, pack_answer = _ENTRY.pack_into, _ANSWER.pack_into
    is_free = _watcher(pair, lane, handler)

    def exchange_requests(requests: deque[Request]) -> list[Request]:
        ended: list[Request] = []
        if device_owned() or not device_take(False):
            return ended
        try:
            tail, head, phase = pair.tail, pair.head, pair.phase
            if not is_free(tail, head):
                return ended
            reads = writes = read_bytes = write_bytes = 0
            namespaces, bytes_max = device.namespaces, min(device.transfer_bytes_max, UNLISTED_BYTES)
            nsid = -1
            namespace: Any = None
            # Tags are taken from the end on and come back in the order in which their commands end.
            tags = free[: -min(len(free), depth - 1, len(requests)) - 1 : -1]
            for tag in tags:
                rq = requests[0]
                opcode, nbytes, slba, cdw12 = rq.opcode, rq.nbytes, rq.slba, rq.cdw12
                if rq.nsid != nsid:
                    nsid = rq.nsid
                    namespace = namespaces.get(nsid)
                stored = None if namespace is None else namespace.view
                if stored is None or rq.batch or not 0 < nbytes <= bytes_max or rq.iova is not None:
                    break
                at = slba << namespace.lba_shift
                if (
                    cdw12 > 0xFFFF
                    or slba + cdw12 >= namespace.nsze
                    or (cdw12 + 1) << namespace.lba_shift != nbytes
                    or rq.cdw13 or rq.cdw14 or rq.cdw15
                ):  # fmt: skip
                    break
                data: Any = rq.data
                if opcode == READ:
                    if data.readonly or rq.to_device:
                        break
                    data[:] = stored[at : at + nbytes]
                    reads += 1
                    read_bytes += nbytes
                elif opcode == WRITE and rq.to_device and not device.write_through and not stored.readonly:
                    stored[at : at + nbytes] = data
                    writes += 1
                    write_bytes += nbytes
                else:
                    break
                cid = cids[tag]
                prp1 = window_base + (tag << WINDOW_SHIFT)
                prp2 = prp1 + PAGE_SIZE if nbytes > PAGE_SIZE else 0
                pack_entry(sq_view, tail * SQE_SIZE, opcode, 0, cid, nsid, prp1, prp2, slba, cdw12)
                tail += 1
                if tail == depth:
                    tail = 0
                pack_answer(cq_view, head * CQE_SIZE, tail, qid, cid)
                cq_halves[head * _HALVES + _STATUS_HALF] = phase
                head += 1
                if head == depth:
                    head = 0
                    phase ^= 1
                cids[tag] = (cid + GENERATION) & 0xFFFF
                rq.qid = qid
                rq.cid = cid
                ended.append(requests.popleft())
            count = len(ended)
            if count:
                free[-count:] = tags[:count]
                sq.head = sq.tail = pair.tail = pair.rung_tail = pair.sqhd = tail
                cq.head = cq.tail = pair.head = head
                if pair.bells is not None:
                    pair.bells.both(tail, head)
                cq.phase = pair.phase = phase
                counters.fetched += count
                counters.posted += count
                counters.read_commands += reads
                counters.read_bytes += read_bytes
                counters.write_commands += writes
                counters.write_bytes += write_bytes
            return ended
        finally:
            device_leave()

    return exchange_requests


_U16, _PAGE = np.uint64(16), np.uint64(PAGE_SIZE)


def _rows_of(slbas: npt.NDArray[np.int64], nlb: int, blocks: int) -> npt.NDArray[np.int64] | None:
    """Which pieces of ``nlb`` blocks (a power of two) they are; None if one is not whole or not inside."""
    # As unsigned numbers what is below 0 is above the end.
    if int(slbas.view(np.uint64).max()) > blocks - nlb:
        return None
    if nlb == 1:
        return slbas
    if int(np.bitwise_or.reduce(slbas)) & (nlb - 1):
        return None
    return slbas >> (nlb.bit_length() - 1)


def _items_of(data: Any, width: int, count: int, writable: bool) -> npt.NDArray[np.void] | None:
    """The caller's buffer as ``count`` items; None if it is not that long, contiguous and, if needed, writable."""
    try:
        view = memoryview(data)
        items: npt.NDArray[np.void] = np.frombuffer(view, f"V{width}")
    except (ValueError, TypeError, BufferError):
        return None
    # An array of Python objects holds references, not data.
    if len(items) != count or "O" in view.format:
        return None
    return items if items.flags.writeable or not writable else None
