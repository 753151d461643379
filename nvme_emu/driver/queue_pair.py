"""A submission queue and its completion queue, as the host keeps them in memory.

``prepare`` writes a command at the tail and ``commit`` rings the doorbell once for all that were prepared;
``reap`` walks the completion queue by phase and gives back what has ended. None of them blocks or takes a
lock: who may call them, and when, is decided by the submit path that owns the pair.

One command needs memory for its data. Up to two pages go through the tag's own bounce pages, which are there
from the start; anything larger is mapped where it lies, for as long as the command lives.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nvme_emu.core.memory import anonymous_array
from nvme_emu.core.trace import NvmeCompleteRq, NvmeSetupCmd, NvmeSq
from nvme_emu.driver.prp import list_pages_needed, page_addresses, write_prp_lists
from nvme_emu.driver.tags import TAG_MASK, Tags
from nvme_emu.spec.queues import CQE, CQE_SIZE, SQE_SIZE, SQE_WIDE

if TYPE_CHECKING:
    from collections.abc import Callable

    from kworker import Runtime
    from nvme_emu.core.memory import PagePool, Region
    from nvme_emu.core.ports import DevicePort
    from nvme_emu.core.trace import TraceHub
    from nvme_emu.driver.host_model import HostModel
    from nvme_emu.driver.request import Request

__all__ = ["BOUNCE_PAGES", "PAGE_SIZE", "QueueContext", "QueuePair"]

PAGE_SIZE = 4096
BOUNCE_PAGES = 2
BOUNCE_BYTES = BOUNCE_PAGES * PAGE_SIZE


class QueueContext(NamedTuple):
    """What all queues of one controller share."""

    port: DevicePort
    pool: PagePool
    runtime: Runtime
    trace: TraceHub
    host: HostModel


class QueuePair:
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
        self.sq_addr = self._pool.alloc(self._sq_pages, zero=True)
        self.cq_addr = self._pool.alloc(self._cq_pages, zero=True)
        self.sq_view = self._ring_view(self.sq_addr, depth * SQE_SIZE)
        self.cq_view = self._ring_view(self.cq_addr, depth * CQE_SIZE)
        bounce = anonymous_array(tags * BOUNCE_BYTES, huge=False)
        self._bounce_region = self._memory.add_region(bounce, name=f"q{qid} bounce")
        self._bounce = self._bounce_region.view
        self._lists: dict[int, tuple[int, ...]] = {}
        self.inflight: list[Request | None] = [None] * tags
        self.outstanding = 0
        self.tail = 0
        self.rung_tail = 0
        self.head = 0
        self.phase = 1
        self.sqhd = 0

    def _ring_view(self, addr: int, nbytes: int) -> memoryview:
        view, offset = self._memory.find(addr, nbytes)
        return view[offset : offset + nbytes]

    # Submission -------------------------------------------------------------------------------------

    def prepare(self, rq: Request) -> None:
        """Write the request's command at the tail. IndexError if no tag is free (see ``tags.free``)."""
        tags = self.tags
        tag = tags.free.pop()
        cid = tags.cid[tag]
        rq.qid = self.qid
        rq.cid = cid
        self.inflight[tag] = rq
        self.outstanding += 1
        nbytes = rq.nbytes
        if not nbytes:
            prp1 = prp2 = 0
        elif nbytes <= BOUNCE_BYTES and rq.iova is None:
            start = tag * BOUNCE_BYTES
            prp1 = self._bounce_region.base + start
            prp2 = prp1 + PAGE_SIZE if nbytes > PAGE_SIZE else 0
            if rq.to_device:
                self._bounce[start : start + nbytes] = rq.data  # type: ignore[assignment]
        else:
            prp1, prp2 = self._map(tag, rq)
        tail = self.tail
        SQE_WIDE.pack_into(
            self.sq_view,
            tail * SQE_SIZE,
            rq.opcode,
            0,
            cid,
            rq.nsid,
            0,
            0,
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
        if self._consume is not None:
            self._consume(self._host.submit_ns + self._host.map_page_ns * (nbytes // PAGE_SIZE))
        emit = self._trace.emit
        if emit is not None:
            now = self._now.now_ns
            emit(NvmeSetupCmd(now, rq.serial, self.qid, cid, rq.opcode, rq.nsid, rq.slba, rq.nlb))

    def prepare_reserved(self, cid: int, opcode: int) -> None:
        """Write a command without data or request under a ``cid`` outside the tags (the AER's)."""
        SQE_WIDE.pack_into(self.sq_view, self.tail * SQE_SIZE, opcode, 0, cid, *([0] * 10))
        self.tail = (self.tail + 1) % self.depth

    def commit(self) -> None:
        """Ring the submission doorbell if anything was prepared since the last ring."""
        tail = self.tail
        if tail == self.rung_tail:
            return
        count = (tail - self.rung_tail) % self.depth
        self.rung_tail = tail
        if self._consume is not None:
            self._consume(self._host.doorbell_ns)
        emit = self._trace.emit
        if emit is not None:
            emit(NvmeSq(self._now.now_ns, self.qid, tail, count))
        self._port.ring_sq(self.qid, tail)

    def _map(self, tag: int, rq: Request) -> tuple[int, int]:
        """PRPs for data that stays where it is: mapped already (``iova``), or mapped here and now."""
        addr = rq.iova
        if addr is None:
            array = np.frombuffer(rq.data, np.uint8)  # type: ignore[arg-type]
            region: Region = self._memory.add_region(array, writable=not rq.to_device, name="request")
            rq.region = region
            addr = region.base
        pages = page_addresses(addr, rq.nbytes, PAGE_SIZE)
        needed = list_pages_needed(len(pages) - 1, PAGE_SIZE)
        lists = tuple(self._pool.alloc() for _ in range(needed))
        if lists:
            self._lists[tag] = lists
        views = [np.frombuffer(self._ring_view(a, PAGE_SIZE), np.uint64) for a in lists]
        return write_prp_lists(pages, lists, views, PAGE_SIZE)

    # Completion -------------------------------------------------------------------------------------

    def reap(self) -> list[Request]:
        """Take every new completion, tell the controller the new head, and give the requests, in order.

        Their status and data are in place; they are not yet marked done.
        """
        done: list[Request] = []
        view, head, phase = self.cq_view, self.head, self.phase
        unpack = CQE.unpack_from
        seen = 0
        # The ring can hold no more than depth - 1 new entries before it hears of our head.
        while seen < self.depth:
            dw0, _dw1, sqhd, _sqid, cid, status_p = unpack(view, head * CQE_SIZE)
            if status_p & 1 != phase:
                break
            seen += 1
            head += 1
            if head == self.depth:
                head = 0
                phase ^= 1
            self.sqhd = sqhd
            self._take(cid, dw0, status_p >> 1, done)
        if seen:
            self.head, self.phase = head, phase
            if self._consume is not None:
                self._consume(self._host.reap_ns * seen + self._host.doorbell_ns)
            self._port.ring_cq(self.qid, head)
        elif self._consume is not None:
            self._consume(self._host.poll_ns)
        return done

    def _take(self, cid: int, dw0: int, status: int, done: list[Request]) -> None:
        tag = cid & TAG_MASK
        tags = self.tags
        rq = self.inflight[tag] if tag < tags.count else None
        if rq is None or rq.cid != cid:
            self._on_stray(cid, dw0, status)
            return
        rq.dw0 = dw0
        rq._status = status
        nbytes = rq.nbytes
        if nbytes:
            if nbytes <= BOUNCE_BYTES and rq.iova is None:
                if not rq.to_device and not status:
                    start = tag * BOUNCE_BYTES
                    rq.data[:] = self._bounce[start : start + nbytes]  # type: ignore[index]
            else:
                self._unmap(tag, rq)
        self.inflight[tag] = None
        self.outstanding -= 1
        tags.release(tag)
        emit = self._trace.emit
        if emit is not None:
            emit(NvmeCompleteRq(self._now.now_ns, rq.serial, self.qid, cid, status))
        done.append(rq)

    def _unmap(self, tag: int, rq: Request) -> None:
        for addr in self._lists.pop(tag, ()):
            self._pool.free(addr)
        if rq.region is not None:
            self._memory.remove_region(rq.region)
            rq.region = None

    # Ends -------------------------------------------------------------------------------------------

    def cancel_all(self, status: int) -> list[Request]:
        """End every outstanding request with ``status``; only while the controller is disabled."""
        done: list[Request] = []
        for tag, rq in enumerate(self.inflight):
            if rq is not None:
                self._unmap(tag, rq)
                rq._status = status
                self.inflight[tag] = None
                self.outstanding -= 1
                self.tags.release(tag)
                done.append(rq)
        return done

    def close(self) -> None:
        """Give the memory back; the controller must have forgotten the queue."""
        self.sq_view.release()
        self.cq_view.release()
        self._pool.free(self.sq_addr, self._sq_pages)
        self._pool.free(self.cq_addr, self._cq_pages)
        self._memory.remove_region(self._bounce_region)
