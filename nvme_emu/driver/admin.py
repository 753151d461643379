"""The admin queue: each command that the driver sends to the controller as a whole, as a function.

All of them but Abort block their caller until the controller answers. A caller that has waited ``admin_timeout``
seconds says so to recovery. The numbers are Linux's: 32 entries, 30 tags, and CID 31 for the one Asynchronous Event
Request that is outstanding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nvme_emu.driver.errno_table import error_of
from nvme_emu.driver.queue_pair import PAGE_SIZE, QueuePair
from nvme_emu.driver.request import Request
from nvme_emu.driver.submit import CLOSED, OPEN, SyncPath
from nvme_emu.spec.commands import join64
from nvme_emu.spec.opcodes import AdminOpcode

if TYPE_CHECKING:
    from collections.abc import Callable

    from kworker import Completion
    from nvme_emu.driver.queue_pair import QueueContext
    from nvme_emu.driver.recovery import Recovery

__all__ = ["ADMIN_DEPTH", "ADMIN_TAGS", "AdminPath", "AdminQueue"]

ADMIN_DEPTH = 32
ADMIN_TAGS = 30
AER_CID = 31


class DetachedRequest(Request):
    """A command that nobody waits for: its callbacks run where it ends."""

    __slots__ = ()

    def mark_done(self) -> None:
        self.finish()


class AdminPath(SyncPath):
    """Who sends waits, and notices by itself when that takes too long. Whoever brings the controller up passes a closed
    gate; everybody else waits there until the controller is live."""

    def __init__(self, pair: QueuePair, context: QueueContext, recovery: Recovery) -> None:
        super().__init__(pair, context, recovery)
        self.timeout_ns = int(recovery.config.admin_timeout * 1e9)

    def _issue(self, rq: Request) -> None:
        connecting = self.recovery.connecting
        if self.gate == CLOSED and connecting is not None and connecting is self.runtime.current():
            with self.ring_lock:
                self.pair.prepare(rq)
                self.pair.commit()
            return
        super()._issue(rq)

    def start(self, rq: Request) -> bool:
        """Send without waiting, from any context; False, and nothing was done, without a tag or an open gate."""
        with self.ring_lock:
            if self.gate != OPEN or not self.pair.tags.free:
                return False
            rq._path = self
            self.pair.prepare(rq)
            self.pair.commit()
        return True

    def _sleep(self, rq: Request, completion: Completion) -> None:
        while not completion.wait(self.timeout_ns):
            if rq.done:
                return
            self.recovery.admin_expired(rq)


class AdminQueue:
    """Queue pair 0 with the commands that go over it.

    ``on_event(dw0)`` hears of each asynchronous event, in interrupt context.
    """

    def __init__(
        self,
        context: QueueContext,
        recovery: Recovery,
        on_event: Callable[[int], None],
        on_stray: Callable[[int, int, int], None],
    ) -> None:
        self._on_event = on_event
        self._on_stray = on_stray
        self.pair = QueuePair(context, 0, ADMIN_DEPTH, ADMIN_TAGS, self._stray)
        self.path = AdminPath(self.pair, context, recovery)

    def execute(
        self,
        opcode: int,
        *,
        nsid: int = 0,
        cdw10: int = 0,
        cdw11: int = 0,
        cdw12: int = 0,
        cdw13: int = 0,
        cdw14: int = 0,
        cdw15: int = 0,
        prp1: int | None = None,
        pages: int = 1,
        data: np.ndarray | bytes | None = None,
        read_bytes: int = 0,
    ) -> tuple[int, np.ndarray | None]:
        """Send one command and give (DW0, data read).

        ``data`` goes to the controller, ``read_bytes`` come from it; ``prp1`` is an address that the
        command itself needs (a queue's), of ``pages`` pages. Raises NvmeError when the command fails.
        """
        array: np.ndarray | None = None
        if data is not None:
            array = np.frombuffer(data, np.uint8)
        elif read_bytes:
            array = np.zeros(read_bytes, np.uint8)
        rq = Request(
            opcode,
            nsid,
            join64(cdw10, cdw11),
            0,
            cdw12,
            None if array is None else memoryview(array.data).cast("B"),
            data is not None,
            array,
        )
        rq.admin = True
        rq.cdw13, rq.cdw14, rq.cdw15 = cdw13, cdw14, cdw15
        if prp1 is not None:
            rq.iova, rq.nbytes = prp1, pages * PAGE_SIZE
        self.path.submit(rq)
        if rq.status:
            raise error_of(rq.status, rq.describe())
        return rq.dw0, array if read_bytes else None

    def identify(self, cns: int, *, nsid: int = 0, csi: int = 0, cntid: int = 0, cnssid: int = 0) -> np.ndarray:
        """The 4096 bytes of an Identify data structure (Base 2.1, clause 5.1.13)."""
        from nvme_emu.spec.commands import IDENTIFY_CDW10, IDENTIFY_CDW11

        _, data = self.execute(
            AdminOpcode.IDENTIFY,
            nsid=nsid,
            cdw10=IDENTIFY_CDW10.pack(cns=cns, cntid=cntid),
            cdw11=IDENTIFY_CDW11.pack(csi=csi, cnssid=cnssid),
            read_bytes=4096,
        )
        assert data is not None
        return data

    def get_log_page(
        self, lid: int, nbytes: int, *, nsid: int = 0xFFFFFFFF, offset: int = 0, lsp: int = 0, lsi: int = 0
    ) -> np.ndarray:
        """``nbytes`` (a multiple of 4) of a log page from ``offset``; reading it clears its event.

        ``lsp`` and ``lsi`` are the Log Specific Parameter and Identifier.
        """
        from nvme_emu.spec.commands import get_log_page_dwords

        cdws = get_log_page_dwords(lid, nbytes, offset=offset, lsp=lsp, lsi=lsi)
        _, data = self.execute(AdminOpcode.GET_LOG_PAGE, nsid=nsid, read_bytes=nbytes, **cdws._asdict())
        assert data is not None
        return data

    def set_features(self, fid: int, cdw11: int, *, nsid: int = 0, data: bytes | None = None) -> int:
        """Set a feature's current value; DW0 of the completion."""
        dw0, _ = self.execute(AdminOpcode.SET_FEATURES, nsid=nsid, cdw10=fid, cdw11=cdw11, data=data)
        return dw0

    def get_features(self, fid: int, *, nsid: int = 0, sel: int = 0, **cdws: Any) -> int:
        """A feature's value: ``sel`` 0 current, 1 default, 2 saved, 3 capabilities."""
        from nvme_emu.spec.commands import GET_FEATURES_CDW10

        cdw10 = GET_FEATURES_CDW10.pack(fid=fid, sel=sel)
        dw0, _ = self.execute(AdminOpcode.GET_FEATURES, nsid=nsid, cdw10=cdw10, **cdws)
        return dw0

    def create_queues(self, pair: QueuePair, vector: int) -> None:
        """Create the completion queue, then the submission queue, of ``pair``."""
        from nvme_emu.spec.commands import CREATE_CQ_CDW11, CREATE_QUEUE_CDW10, CREATE_SQ_CDW11

        cdw10 = CREATE_QUEUE_CDW10.pack(qid=pair.qid, qsize_z=pair.depth - 1)
        self.execute(
            AdminOpcode.CREATE_IO_CQ,
            cdw10=cdw10,
            cdw11=CREATE_CQ_CDW11.pack(pc=1, ien=1, iv=vector),
            prp1=pair.cq_addr,
        )
        self.execute(
            AdminOpcode.CREATE_IO_SQ,
            cdw10=cdw10,
            cdw11=CREATE_SQ_CDW11.pack(pc=1, cqid=pair.qid),
            prp1=pair.sq_addr,
        )

    def delete_queues(self, qid: int) -> None:
        """Delete the submission queue, then its completion queue."""
        self.execute(AdminOpcode.DELETE_IO_SQ, cdw10=qid)
        self.execute(AdminOpcode.DELETE_IO_CQ, cdw10=qid)

    def request_event(self) -> None:
        """Send the Asynchronous Event Request; it completes when something happens."""
        with self.path.ring_lock:
            self.pair.prepare_reserved(AER_CID, AdminOpcode.ASYNC_EVENT_REQUEST)
            self.pair.commit()

    def has_room(self) -> bool:
        """Whether a command could be sent without waiting."""
        return self.path.gate == OPEN and bool(self.pair.tags.free)

    def abort(self, qid: int, cid: int, on_done: Callable[[Request], object]) -> bool:
        """Send an Abort for a command, from any context; ``on_done`` hears of its end. False if there was no room."""
        from nvme_emu.spec.commands import ABORT_CDW10

        rq = DetachedRequest(AdminOpcode.ABORT, 0, ABORT_CDW10.pack(sqid=qid, cid=cid))
        rq.admin = True
        rq.add_callback(on_done)
        return self.path.start(rq)

    def _stray(self, cid: int, dw0: int, status: int) -> None:
        if cid == AER_CID and not status:
            self._on_event(dw0)
        elif cid != AER_CID:
            self._on_stray(cid, dw0, status)
