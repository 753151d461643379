"""A submission queue and its completion queue, as the host keeps them in memory.

``prepare`` writes a command at the tail and ``commit`` rings the doorbell once for all that were prepared;
``reap`` walks the completion queue by phase and gives back what has ended. None of them blocks or takes a
lock: who may call them, and when, is decided by the submit path that owns the pair.

One command needs memory for its data. It is not copied: each tag has a window of addresses in host memory, which shows
the data of the command that has the tag, for as long as it lives. So the PRPs of a tag are always the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nvme_emu._core import COMPILED
from nvme_emu.core.trace import NvmeCompleteRq, NvmeSetupCmd, NvmeSq
from nvme_emu.driver.batch import BATCH_MIN, BatchRequest
from nvme_emu.driver.pair_ends import PairEnds
from nvme_emu.driver.prp import list_pages_needed, page_addresses, write_prp_lists
from nvme_emu.driver.tags import GENERATION, TAG_MASK, Tags
from nvme_emu.driver.trace_points import emit_setup
from nvme_emu.spec.queues import CQE, CQE_SIZE, SQE_SIZE, SQE_WIDE

if TYPE_CHECKING:
    from collections.abc import Callable

    from kworker import Runtime
    from nvme_emu.core.page_pool import PagePool
    from nvme_emu.core.ports import DevicePort
    from nvme_emu.core.regions import Window
    from nvme_emu.core.trace import TraceHub
    from nvme_emu.driver.cmb import CmbMemory
    from nvme_emu.driver.dbbuf import PairBells
    from nvme_emu.driver.host_model import HostModel
    from nvme_emu.driver.request import Request

__all__ = ["ANSWERED", "DELAYED", "LOOK", "PAGE_SIZE", "UNLISTED_BYTES", "QueueContext", "QueuePair"]

PAGE_SIZE = 4096
UNLISTED_BYTES = 2 * PAGE_SIZE
"""Data from a page boundary on needs no PRP list up to here."""

# What `exchange` gives.
DELAYED, ANSWERED, LOOK = range(3)
# The addresses of a PRP list of contiguous pages, from the first page's.
PAGE_OFFSETS = np.arange(1, PAGE_SIZE // 8 + 1, dtype=np.uint64) * np.uint64(PAGE_SIZE)
LISTED_BYTES_MAX = (len(PAGE_OFFSETS) + 1) * PAGE_SIZE
# Where the submission queue head, the command identifier and the status word are in a completion seen as 16-bit words.
SQHD_HALF, CID_HALF, STATUS_HALF = 4, 6, 7


class QueueContext(NamedTuple):
    """What all queues of one controller share."""

    port: DevicePort
    pool: PagePool
    runtime: Runtime
    trace: TraceHub
    host: HostModel
    cmb: CmbMemory | None = None
    """Where submission queues are put if there is room."""


class QueuePair(PairEnds):
    """Queue ``qid`` of ``depth`` entries each way, with ``tags`` commands at most outstanding.

    ``on_stray(cid, dw0, status)`` hears of completions that belong to no request (the asynchronous events of
    the admin queue, or a device gone wrong).
    """

    def __init__(
        self,
        context: QueueContext,
        qid: int,
        depth: int,
        tags: int,
        on_stray: Callable[[int, int, int], None],
    ) -> None:
        super().__init__()
        self.qid = qid
        self.depth = depth
        self.tags = Tags(tags)
        self._port = context.port
        self._pool = context.pool
        self._memory = context.port.memory
        self._trace = context.trace
        self._now = context.runtime
        self._host = context.host
        self._consume = context.runtime.consume if context.runtime.virtual else None
        self._on_stray = on_stray
        self._sq_pages = -(-depth * SQE_SIZE // PAGE_SIZE)
        self._cq_pages = -(-depth * CQE_SIZE // PAGE_SIZE)
        self._cmb = context.cmb if qid else None
        self.sq_addr = self._alloc_sq()
        self.cq_addr = self._pool.alloc(self._cq_pages, zero=True)
        self.sq_view = self._ring_view(self.sq_addr, depth * SQE_SIZE)
        self.cq_view = self._ring_view(self.cq_addr, depth * CQE_SIZE)
        self._windows = self._memory.add_windows(tags, f"q{qid} data")
        self._window_base = self._windows.base
        self._opened = self._windows.opened
        self._lists: dict[int, tuple[int, ...]] = {}
        if qid:
            # For whoever is alone on the queue: the list of a window's pages, of tag `_list_tag`.
            self._list_addr = self._pool.alloc()
            self._list_view = self._ring_view(self._list_addr, PAGE_SIZE)
            self._list_words = np.frombuffer(self._list_view, np.uint64)
            # The only one that such a caller ever needs.
            self._open(self.tags.free[-1])
        self.bells: PairBells | None = None
        self.inflight = [None] * tags
        self._free, self._cids = self.tags.free, self.tags.cid
        # The column gait's view of the same rings, and which command of its batch each tag is.
        self._sq_words = np.frombuffer(self.sq_view, np.uint64).reshape(depth, SQE_SIZE // 8)
        self._cq_words = np.frombuffer(self.cq_view, np.uint64).reshape(depth, CQE_SIZE // 8)
        self._cq_halves = self._cq_words.view(np.uint16)
        self._tag_index = np.zeros(tags, np.int64)
        self.phase = 1

    def _alloc_sq(self) -> int:
        """Zeroed memory for the submission queue: the controller's, if it has room, or ours (nvme_alloc_sq_cmds)."""
        addr = None if self._cmb is None else self._cmb.alloc(self._sq_pages)
        return self._pool.alloc(self._sq_pages, zero=True) if addr is None else addr

    def _ring_view(self, addr: int, nbytes: int) -> memoryview:
        view, offset = self._memory.find(addr, nbytes)
        return view[offset : offset + nbytes]

    # Submission -------------------------------------------------------------------------------------

    def prepare(self, rq: Request) -> None:
        """Write the request's command at the tail. IndexError if no tag is free (see ``tags.free``)."""
        if not (COMPILED and self.prepare_plain(rq)):
            self._prepare(rq)
        if self._consume is not None:
            self._consume(self.cost_ns(1, rq.nbytes // PAGE_SIZE))
        emit = self._trace.emit
        if emit is not None:
            emit_setup(emit, self._now.now_ns, rq, self.qid, rq.cid)

    def cost_ns(self, count: int, pages: int) -> int:
        """What writing ``count`` commands with ``pages`` pages of data costs the host's processor."""
        return self._host.submit_ns * count + self._host.map_page_ns * pages

    def _prepare(self, rq: Request) -> None:
        tags = self.tags
        tag = tags.free.pop()
        cid = tags.cid[tag]
        rq.qid = self.qid
        rq.cid = cid
        self.inflight[tag] = rq
        self.outstanding += 1
        nbytes = rq.nbytes
        mptr = 0
        if not nbytes:
            prp1 = prp2 = 0
        elif rq.iova is None:
            window = self._opened[tag] or self._open(tag)
            window.show(rq.data, not rq.to_device)  # type: ignore[arg-type]
            prp1 = window.base
            prp2 = 0 if nbytes <= PAGE_SIZE else self._second(tag, prp1, nbytes)
        else:
            prp1, prp2 = self._build_lists(tag, rq.iova, nbytes)
            mptr = rq.mptr
        tail = self.tail
        SQE_WIDE.pack_into(
            self.sq_view,
            tail * SQE_SIZE,
            rq.opcode,
            0,
            cid,
            rq.nsid,
            0,
            mptr,
            prp1,
            prp2,
            rq.slba,
            rq.cdw12,
            rq.cdw13,
            rq.cdw14,
            rq.cdw15,
        )
        tail += 1
        self.tail = tail if tail != self.depth else 0

    def prepare_batch(self, batch: BatchRequest) -> bool:
        """Write as many of the batch's commands as there are tags; True once all of them are written."""
        if batch.region is None:  # else it was here before and found no tag
            batch.map(self._memory)
            batch.qid = self.qid
        tags = self.tags
        start = batch.issued
        count = min(len(tags.free), len(batch.slbas) - start)
        if count:
            taken = tags.free[-count:]
            del tags.free[-count:]
            cids = [tags.cid[tag] for tag in taken]
            inflight = self.inflight
            for tag in taken:
                inflight[tag] = batch
            self._tag_index[taken] = np.arange(start, start + count)
            self.outstanding += count
            self._batched += count
            batch.issued = start + count
            self._write_columns(batch, start, np.array(cids, np.uint64))
            if self._consume is not None:
                cost = self._host.submit_ns + self._host.map_page_ns * (batch.width // PAGE_SIZE)
                self._consume(cost * count)
            emit = self._trace.emit
            if emit is not None:
                now, head = self._now.now_ns, (batch.serial, self.qid)
                for index, cid in enumerate(cids, start):
                    slba = int(batch.slbas[index])
                    emit(NvmeSetupCmd(now, *head, cid, batch.opcode, batch.nsid, slba, batch.nlb))
        return batch.issued == len(batch.slbas)

    def _write_columns(self, batch: BatchRequest, start: int, cids: np.ndarray) -> None:
        """The batch's commands from ``start`` on at the tail, column by column; at most two runs at the wrap."""
        first_words = cids << np.uint64(16) | np.uint64(batch.opcode | batch.nsid << 32)
        done = 0
        while done < len(cids):
            run = min(len(cids) - done, self.depth - self.tail)
            rows = self._sq_words[self.tail : self.tail + run]
            at = start + done
            rows[:, 0] = first_words[done : done + run]
            rows[:, 1:3] = 0
            rows[:, 3] = batch.prp1[at : at + run]
            rows[:, 4] = batch.prp2[at : at + run]
            rows[:, 5] = batch.slbas[at : at + run]
            rows[:, 6] = batch.cdw12
            rows[:, 7] = 0
            done += run
            self.tail = (self.tail + run) % self.depth

    def prepare_reserved(self, cid: int, opcode: int) -> None:
        """Write a command without data or request under a ``cid`` outside the tags (the AER's)."""
        SQE_WIDE.pack_into(self.sq_view, self.tail * SQE_SIZE, opcode, 0, cid, *([0] * 10))
        self.tail = (self.tail + 1) % self.depth

    def commit(self) -> None:
        """Ring the submission doorbell if anything was prepared since the last ring."""
        tail = self.tail
        if tail == self.rung_tail:
            return
        if not self.watched:
            self.watch()
        count = (tail - self.rung_tail) % self.depth
        self.rung_tail = tail
        emit = self._trace.emit
        if self.bells is not None:
            if emit is not None:
                emit(NvmeSq(self._now.now_ns, self.qid, tail, count))
            self._now.point("nvme_write_sq_db")
            if not self.bells.update_tail(tail):
                return
            emit = None
        if self._consume is not None:
            self._consume(self._host.doorbell_ns)
        if emit is not None:
            emit(NvmeSq(self._now.now_ns, self.qid, tail, count))
        self._port.ring_sq(self.qid, tail)

    def _open(self, tag: int) -> Window:
        """The window of a tag that is used for the first time."""
        return self._memory.open_window(self._windows, tag)

    def _second(self, tag: int, base: int, nbytes: int) -> int:
        """PRP2 of more than a page in the window at ``base``: the second page, or a list."""
        if nbytes <= UNLISTED_BYTES:
            return base + PAGE_SIZE
        if self._list_addr and self.outstanding == 1 and nbytes <= LISTED_BYTES_MAX:
            # Alone on the queue: the pair's list is free, and the next one that needs a list will find this one
            # outstanding until it has ended.
            self.fill_list(tag)
            return self._list_addr
        return self._build_lists(tag, base, nbytes)[1]

    def fill_list(self, tag: int) -> None:
        """Make the pair's own list that of the tag's window, all of it: it stays right until another tag has it."""
        if self._list_tag != tag:
            window = self._opened[tag] or self._open(tag)
            base = window.base
            np.add(PAGE_OFFSETS, np.uint64(base), out=self._list_words)
            self._list_tag = tag

    def _build_lists(self, tag: int, addr: int, nbytes: int) -> tuple[int, int]:
        """PRPs of any run of addresses, with as many lists as they take."""
        pages = page_addresses(addr, nbytes, PAGE_SIZE)
        needed = list_pages_needed(len(pages) - 1, PAGE_SIZE)
        lists = tuple(self._pool.alloc() for _ in range(needed))
        if lists:
            self._lists[tag] = lists
        views = [np.frombuffer(self._ring_view(a, PAGE_SIZE), np.uint64) for a in lists]
        return write_prp_lists(pages, lists, views, PAGE_SIZE)

    def exchange(self, rq: Request) -> int:
        """``prepare``, ``commit`` and ``reap`` in one, for a caller alone on the queue with small data.

        ANSWERED: the request has ended, but is not marked so for who waits. DELAYED: it is on its way, as after
        ``commit``. LOOK: so it is, and something else is in the queue, of which no interrupt will tell. The
        caller holds what guards submission and reaping, the queue is idle, a tag is free and nobody traces.
        """
        tags = self.tags
        tag = tags.free.pop()
        cid = tags.cid[tag]
        rq.qid = self.qid
        rq.cid = cid
        nbytes = rq.nbytes
        prp1 = 0
        if nbytes:
            window = self._opened[tag] or self._open(tag)
            window.show(rq.data, not rq.to_device)  # type: ignore[arg-type]
            prp1 = window.base
        self.inflight[tag] = rq
        self.outstanding = 1
        tail = self.tail
        SQE_WIDE.pack_into(
            self.sq_view, tail * SQE_SIZE, rq.opcode, 0, cid, rq.nsid, 0, 0, prp1,
            prp1 + PAGE_SIZE if nbytes > PAGE_SIZE else 0, rq.slba, rq.cdw12, rq.cdw13, rq.cdw14, rq.cdw15,
        )  # fmt: skip
        tail += 1
        if tail == self.depth:
            tail = 0
        self.tail = self.rung_tail = tail
        port, qid = self._port, self.qid
        if self.bells is not None and not self.bells.update_tail(tail):
            return DELAYED
        if not port.ring_sq_polled(qid, tail, qid):
            return DELAYED
        head = self.head
        dw0, dw1, sqhd, _sqid, answered, status_p = CQE.unpack_from(self.cq_view, head * CQE_SIZE)
        if status_p & 1 != self.phase or answered != cid:
            return LOOK
        head += 1
        if head == self.depth:
            head = 0
            self.phase ^= 1
        self.head = head
        self.sqhd = sqhd
        status = status_p >> 1
        if nbytes:
            window.hide()
        rq.dw0, rq.dw1 = dw0, dw1
        rq._status = status
        rq.done = True
        self.inflight[tag] = None
        self.outstanding = 0
        tags.cid[tag] = (cid + GENERATION) & 0xFFFF
        tags.free.append(tag)
        if self.bells is None or self.bells.update_head(head):
            port.ring_cq(qid, head)
        return ANSWERED

    # Completion -------------------------------------------------------------------------------------

    def reap(self) -> list[Request]:
        """Take every new completion, tell the controller the new head, and give the requests, in order.

        Their status and data are in place; they are not yet marked done.
        """
        done: list[Request] = []
        seen = 0
        if self._batched >= BATCH_MIN:
            seen = self._reap_columns(done)
        elif COMPILED and self._trace.emit is None:
            seen = self.reap_plain(done)
        view, head, phase = self.cq_view, self.head, self.phase
        unpack = CQE.unpack_from
        # The ring can hold no more than depth - 1 new entries before it hears of our head.
        while seen < self.depth:
            dw0, dw1, sqhd, _sqid, cid, status_p = unpack(view, head * CQE_SIZE)
            if status_p & 1 != phase:
                break
            seen += 1
            head += 1
            if head == self.depth:
                head = 0
                phase ^= 1
            self.sqhd = sqhd
            self._take(cid, dw0, status_p >> 1, done, dw1)
        if seen:
            self.head, self.phase = head, phase
            rings = self.bells is None or self.bells.update_head(head)
            if self._consume is not None:
                self._consume(self._host.reap_ns * seen + (self._host.doorbell_ns if rings else 0))
            if rings:
                self._port.ring_cq(self.qid, head)
        elif self._consume is not None:
            self._consume(self._host.poll_ns)
        return done

    def _reap_columns(self, done: list[Request]) -> int:
        """Take the run of new completions at the head if all are successes of one batch; how many were taken."""
        end = min(self.depth, self.head + self.outstanding)
        rows = self._cq_halves[self.head : end]
        # A status word of exactly the phase: new, and success.
        plain = rows[:, STATUS_HALF] == self.phase
        count = len(rows) if plain.all() else int(plain.argmin())
        if count < BATCH_MIN or self._trace.emit is not None:
            return 0
        cids = rows[:count, CID_HALF].tolist()
        tags, inflight = self.tags, self.inflight
        free, next_cid = tags.free, tags.cid
        batch = inflight[cids[0] & TAG_MASK] if cids[0] & TAG_MASK < tags.count else None
        if not isinstance(batch, BatchRequest):
            return 0
        for taken, cid in enumerate(cids):
            tag = cid & TAG_MASK
            if tag >= tags.count or inflight[tag] is not batch or next_cid[tag] != cid:
                count = taken
                break
            inflight[tag] = None
            next_cid[tag] = (cid + GENERATION) & 0xFFFF
            free.append(tag)
        self.outstanding -= count
        self._batched -= count
        if count:
            self.sqhd = int(rows[count - 1, SQHD_HALF])
        self.head += count
        if self.head == self.depth:
            self.head = 0
            self.phase ^= 1
        batch.left -= count
        if not batch.left:
            batch.unmap(self._memory)
            done.append(batch)
        return count

    def _take(self, cid: int, dw0: int, status: int, done: list[Request], dw1: int = 0) -> None:
        tag = cid & TAG_MASK
        tags = self.tags
        rq = self.inflight[tag] if tag < tags.count else None
        if rq is None or tags.cid[tag] != cid:
            self._on_stray(cid, dw0, status)
            return
        if isinstance(rq, BatchRequest):
            self._take_batched(rq, tag, cid, status, done)
            return
        rq.dw0, rq.dw1 = dw0, dw1
        rq._status = status
        if rq.nbytes:
            self._unmap(tag)
        self.inflight[tag] = None
        self.outstanding -= 1
        tags.release(tag)
        emit = self._trace.emit
        if emit is not None:
            emit(NvmeCompleteRq(self._now.now_ns, rq.serial, self.qid, cid, status))
        done.append(rq)

    def _take_batched(
        self, batch: BatchRequest, tag: int, cid: int, status: int, done: list[Request]
    ) -> None:
        """One command of a batch, by itself."""
        if status:
            batch.fail(int(self._tag_index[tag]), status)
        self.inflight[tag] = None
        self.outstanding -= 1
        self._batched -= 1
        self.tags.release(tag)
        emit = self._trace.emit
        if emit is not None:
            emit(NvmeCompleteRq(self._now.now_ns, batch.serial, self.qid, cid, status))
        batch.left -= 1
        if not batch.left:
            batch.unmap(self._memory)
            done.append(batch)

    def _unmap(self, tag: int) -> None:
        window = self._opened[tag]
        if window is not None:
            window.hide()
        if self._lists:
            for addr in self._lists.pop(tag, ()):
                self._pool.free(addr)

    # Ends -------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Give the memory back; the controller must have forgotten the queue."""
        # An interrupt handler that is still to run finds nothing: no Phase Tag is 2.
        self.phase = 2
        del self._sq_words, self._cq_words, self._cq_halves
        if self._cmb is not None and self._cmb.owns(self.sq_addr):
            self._cmb.free(self.sq_addr, self._sq_pages)
        else:
            self._pool.free(self.sq_addr, self._sq_pages)
        self._pool.free(self.cq_addr, self._cq_pages)
        if self.qid:
            del self._list_words
            self._pool.free(self._list_addr)
        self._memory.remove_region(self._windows)
