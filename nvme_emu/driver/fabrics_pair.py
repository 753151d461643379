"""A queue pair without rings: commands go out as capsules, and data comes straight into the caller's buffer.

It offers what `QueuePair` offers to submit paths (prepare, commit, reap), over a `CapsuleChannel`. When the
connection is lost every request ends with Host Pathing Error, those that come later too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nvme_emu.core.trace import NvmeCompleteRq, NvmeSetupCmd, NvmeSq
from nvme_emu.driver.batch import BatchRequest
from nvme_emu.driver.tags import GENERATION, TAG_MASK, Tags
from nvme_emu.driver.trace_points import emit_setup
from nvme_emu.spec.fabrics import SGL_IN_CAPSULE, SGL_TRANSPORT
from nvme_emu.spec.queues import SQE_SIZE, SQE_WIDE
from nvme_emu.spec.status import Status

if TYPE_CHECKING:
    from collections.abc import Callable

    from nvme_emu.core.capsules import CapsuleChannel, Completed
    from nvme_emu.driver.queue_pair import QueueContext
    from nvme_emu.driver.request import Request

__all__ = ["FabricsPair", "as_pair"]

PSDT_SGL = 0x40
_TYPE_SHIFT = 56
_IN_CAPSULE = SGL_IN_CAPSULE << _TYPE_SHIFT
_TRANSPORT = SGL_TRANSPORT << _TYPE_SHIFT
_LOST = int(Status.HOST_PATH_ERROR)


class FabricsPair:
    """Queue `qid` of `depth` entries over `channel`, with `tags` commands at most outstanding.

    `on_stray` as for QueuePair; `on_lost(error)` hears once that the connection is gone. With `rearm` the
    channel's watcher is armed while commands are out.
    """

    def __init__(
        self,
        context: QueueContext,
        channel: CapsuleChannel,
        qid: int,
        depth: int,
        tags: int,
        on_stray: Callable[[int, int, int], None],
        on_lost: Callable[[OSError], None],
    ) -> None:
        self.qid = qid
        self.depth = depth
        self.tags = Tags(tags)
        self.channel = channel
        self.inflight: list[Request | None] = [None] * tags
        self.outstanding = 0
        self.tail = 0
        self.sqhd = 0  # unknown: without flow control nobody tells
        self.rearm = False
        self._armed = False
        self.watched = True
        self.watch: Callable[[], None] = lambda: None
        self.lost: OSError | None = None
        self.wide: dict[int, int] = {}
        """Dwords 0 and 1 of completions where dword 1 is not 0, by the request's serial number."""
        self._index: list[int] = [0] * tags
        self._prepared = 0
        self._trace = context.trace
        self._now = context.runtime
        self._on_stray = on_stray
        self._on_lost = on_lost

    # -- submission -----------------------------------------------------------------------------------------

    def prepare(self, rq: Request) -> None:
        """Take the request's command. IndexError if no tag is free (see ``tags.free``)."""
        tag = self.tags.free.pop()
        cid = self.tags.cid[tag]
        rq.qid = self.qid
        rq.cid = cid
        self.inflight[tag] = rq
        self.outstanding += 1
        nbytes = rq.nbytes
        channel = self.channel
        to_device = rq.to_device
        kind = _IN_CAPSULE if to_device and nbytes <= channel.in_capsule_bytes else _TRANSPORT
        sqe = SQE_WIDE.pack(
            rq.opcode, PSDT_SGL, cid, rq.nsid, 0, 0, 0, nbytes | (kind if nbytes else _TRANSPORT),
            rq.slba, rq.cdw12, rq.cdw13, rq.cdw14, rq.cdw15,
        )  # fmt: skip
        channel.send(cid, sqe, rq.data if nbytes else None, to_device)
        self._prepared += 1
        emit = self._trace.emit
        if emit is not None:
            emit_setup(emit, self._now.now_ns, rq, self.qid, cid)

    def prepare_batch(self, batch: BatchRequest) -> bool:
        """Take as many of the batch's commands as there are tags; True once all of them are taken."""
        batch.qid = self.qid
        tags, inflight, channel, width = self.tags, self.inflight, self.channel, batch.width
        start = batch.issued
        data = batch.data
        assert data is not None
        to_device = batch.to_device
        kind = _IN_CAPSULE if to_device and width <= channel.in_capsule_bytes else _TRANSPORT
        sgl, pack, send = width | kind, SQE_WIDE.pack, channel.send
        opcode, nsid, cdw12 = batch.opcode, batch.nsid, batch.cdw12
        emit = self._trace.emit
        count = min(len(tags.free), len(batch.slbas) - start)
        if not to_device and emit is None and count:
            self._prepare_reads(batch, start, count)
            return batch.issued == len(batch.slbas)
        slbas = np.asarray(batch.slbas[start : start + count]).tolist()
        for index, slba in enumerate(slbas, start):
            tag = tags.free.pop()
            cid = tags.cid[tag]
            inflight[tag] = batch
            self._index[tag] = index
            sqe = pack(opcode, PSDT_SGL, cid, nsid, 0, 0, 0, sgl, slba, cdw12, 0, 0, 0)
            send(cid, sqe, data[index * width : (index + 1) * width], to_device)
            if emit is not None:
                emit(NvmeSetupCmd(self._now.now_ns, batch.serial, self.qid, cid, opcode, nsid, slba, batch.nlb))
        self.outstanding += count
        self._prepared += count
        batch.issued = start + count
        return batch.issued == len(batch.slbas)

    def _prepare_reads(self, batch: BatchRequest, start: int, count: int) -> None:
        """`count` reads of a batch from `start`, column by column."""
        tags, inflight, index, width = self.tags, self.inflight, self._index, batch.width
        free, next_cid = tags.free, tags.cid
        taken = free[: -count - 1 : -1]
        del free[-count:]
        cids = [next_cid[tag] for tag in taken]
        for number, tag in enumerate(taken, start):
            inflight[tag] = batch
            index[tag] = number
        rows = np.zeros((count, SQE_SIZE // 8), np.uint64)
        head = batch.opcode | PSDT_SGL << 8 | batch.nsid << 32
        rows[:, 0] = np.array(cids, np.uint64) << np.uint64(16) | np.uint64(head)
        rows[:, 4] = width | _TRANSPORT
        rows[:, 5] = batch.slbas[start : start + count]
        rows[:, 6] = batch.cdw12
        data = batch.data
        assert data is not None
        first = start * width
        buffers = [data[at : at + width] for at in range(first, first + count * width, width)]
        self.channel.send_run(cids, rows.tobytes(), buffers)
        self.outstanding += count
        self._prepared += count
        batch.issued = start + count

    def prepare_reserved(self, cid: int, opcode: int) -> None:
        """Take a command without data or request under a ``cid`` outside the tags (the AER's)."""
        self.channel.send(cid, SQE_WIDE.pack(opcode, PSDT_SGL, cid, 0, 0, 0, 0, _TRANSPORT, *[0] * 5), None, False)
        self._prepared += 1

    def commit(self) -> None:
        """Send what was prepared since the last time."""
        count = self._prepared
        if not count:
            return
        self._prepared = 0
        self.tail = (self.tail + count) % self.depth
        emit = self._trace.emit
        if emit is not None:
            emit(NvmeSq(self._now.now_ns, self.qid, self.tail, count))
        if self.lost is None:
            try:
                self.channel.flush()
            except OSError as error:
                self._lose(error)
        if not self.watched:
            self.watch()
        if self.rearm and not self._armed:
            self._armed = True
            self.channel.rearm()

    # -- completion -----------------------------------------------------------------------------------------

    def reap(self, timeout_ns: int = 0) -> list[Request]:
        """Take what has ended, waiting for it up to ``timeout_ns``; status and data are in place."""
        done: list[Request] = []
        if self.lost is None:
            try:
                self._take_all(self.channel.receive(timeout_ns), done)
            except OSError as error:
                self._lose(error)
        if self.lost is not None:
            done += self.cancel_all(_LOST)
        elif self.rearm:
            self._armed = bool(self.outstanding)
            if self._armed:
                self.channel.rearm()
        return done

    def _take_all(self, completed: list[Completed], done: list[Request]) -> None:
        tags, inflight, emit = self.tags, self.inflight, self._trace.emit
        count, next_cid, free = tags.count, tags.cid, tags.free
        for cid, value, status in completed:
            tag = cid & TAG_MASK
            rq = inflight[tag] if tag < count else None
            if rq is None or next_cid[tag] != cid:
                self._on_stray(cid, value & 0xFFFF_FFFF, status)
                continue
            inflight[tag] = None
            self.outstanding -= 1
            next_cid[tag] = (cid + GENERATION) & 0xFFFF
            free.append(tag)
            if emit is not None:
                emit(NvmeCompleteRq(self._now.now_ns, rq.serial, self.qid, cid, status))
            if rq.batch:
                assert isinstance(rq, BatchRequest)
                if status:
                    rq.fail(self._index[tag], status)
                rq.left -= 1
                if not rq.left:
                    done.append(rq)
                continue
            rq.dw0, rq.dw1 = value & 0xFFFF_FFFF, value >> 32
            if value >> 32:
                self.wide[rq.serial] = value
            rq._status = status
            done.append(rq)

    # -- ends -----------------------------------------------------------------------------------------------

    def _lose(self, error: OSError) -> None:
        if self.lost is None:
            self.lost = error
            self._on_lost(error)

    def cancel_all(self, status: int) -> list[Request]:
        """End every outstanding request with ``status``; their buffers are not touched any more."""
        done: list[Request] = []
        for tag, rq in enumerate(self.inflight):
            if rq is None:
                continue
            self.inflight[tag] = None
            self.outstanding -= 1
            self.channel.forget(self.tags.cid[tag])
            self.tags.release(tag)
            if isinstance(rq, BatchRequest):
                rq.fail(self._index[tag], status)
                rq.left -= 1
                if not rq.left:
                    done.append(rq)
            else:
                rq._status = status
                done.append(rq)
        return done

    def has_completion(self, cid: int) -> bool:
        """Nothing can be seen without taking it."""
        return False

    def collect(self) -> list[Request]:
        """What came before the connection went is taken already."""
        return []

    def reconnect(self, channel: CapsuleChannel) -> None:
        """Go on over another connection."""
        self.channel = channel
        self.lost = None
        self.start_over()

    def start_over(self) -> None:
        """There are no rings."""
        self.tail = 0
        self._prepared = 0
        self._armed = False

    def abandon(self, batch: BatchRequest, status: int) -> bool:
        """End what was not issued of a batch; True if it is done with that."""
        return batch.abandon(None, status)

    def close(self) -> None:
        """Close the connection."""
        self.channel.close()


def as_pair(pair: FabricsPair) -> Any:
    """The pair where a `QueuePair` is named: submit paths use only what both have."""
    return pair
