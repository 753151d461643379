"""The driver of one controller: probe, queues, events and shutdown, as Linux does them.

Probe goes the way of ``nvme_reset_work``: disable, set up the admin queue, enable, identify, agree on the
number of queues, create them (completion queue first), scan the namespaces, ask for asynchronous events.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import kworker
from nvme_emu.core.errors import NvmeError
from nvme_emu.core.page_pool import PagePool
from nvme_emu.core.trace import NvmeAsyncEvent, NvmeState, TraceHub
from nvme_emu.driver.admin import ADMIN_DEPTH, AdminQueue
from nvme_emu.driver.handoff import InlinePumpPath, PollingPumpPath
from nvme_emu.driver.host_model import HostModel
from nvme_emu.driver.namespace import Namespace
from nvme_emu.driver.queue_pair import PAGE_SIZE, QueueContext, QueuePair
from nvme_emu.driver.state import CtrlState, StateMachine
from nvme_emu.driver.submit import PerRequestPath, PumpPath, SubmitPath, SyncPath
from nvme_emu.spec.events import ASYNC_EVENT_DW0, AsyncEventType, AsyncNoticeInfo
from nvme_emu.spec.registers import (
    AQA,
    CAP,
    CAP_CSS_IOCS,
    CAP_TO_UNIT_MS,
    CC,
    CC_CSS_IOCS,
    CC_CSS_NVM,
    CC_SHN_NORMAL,
    CRTO,
    CRTO_UNIT_MS,
    CSTS,
    CSTS_CFS,
    CSTS_RDY,
    CSTS_SHST_COMPLETE,
    Reg,
)

if TYPE_CHECKING:
    from kworker import KthreadWork, KthreadWorker, Runtime
    from nvme_emu.core.ports import DevicePort
    from nvme_emu.driver.request import Request

__all__ = ["WORKER_STYLES", "DriverConfig", "NvmeDriver"]

ALL_ONES_32 = 0xFFFF_FFFF
POLL_MS = 1
SHUTDOWN_MS_MIN, SHUTDOWN_MS_MAX = 5_000, 60_000
HOST_ABORTED = 0x371
POOL_PAGES = 16_384
POLL_NS_MAX = 1_000_000_000
WORKER_STYLES = ("pump", "inline", "poll", "per-request")


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverConfig:
    """How the driver works: ValueError where a value is out of its range.

    ``mode`` "sync", "async", or "mixed": queue pairs of both kinds, of which each caller uses one (see
    :meth:`NvmeDriver.use`). ``worker`` one of WORKER_STYLES (async only), ``poll_ns`` how long
    "poll" looks before it sleeps; ``queues`` I/O queue
    pairs asked for, of each kind; ``depth`` entries of each (Linux: io_queue_depth, 2 … 4095 and no more than CAP.MQES
    allows); ``instance`` the number in the worker's name.
    """

    mode: str = "sync"
    worker: str = "pump"
    poll_ns: int = 50_000
    queues: int = 1
    depth: int = 1024
    instance: int = 1
    poison: bool = False
    host: HostModel = field(default_factory=HostModel)

    def __post_init__(self) -> None:
        if self.mode not in ("sync", "async", "mixed"):
            raise ValueError(f"mode={self.mode!r}: it is 'sync', 'async' or 'mixed'")
        if self.worker not in WORKER_STYLES:
            raise ValueError(f"worker={self.worker!r}: it is one of {', '.join(map(repr, WORKER_STYLES))}")
        if not 0 <= self.poll_ns <= POLL_NS_MAX:
            raise ValueError(f"poll_ns={self.poll_ns}: 0 to {POLL_NS_MAX} ns")
        if not 1 <= self.queues <= 65_535:
            raise ValueError(f"queues={self.queues}: 1 to 65535 I/O queues")
        if not 2 <= self.depth <= 4095:
            raise ValueError(f"depth={self.depth}: 2 to 4095 entries, as io_queue_depth")


class NvmeDriver:
    """Drives the controller behind ``port``.

    ``namespaces`` is {nsid: Namespace}; ``workers`` the I/O workers in queue order (none in sync mode);
    ``paths`` and ``admin`` are for who looks inside. ``probe`` and ``shutdown`` block; both run on the
    runtime that was given.
    """

    def __init__(self, port: DevicePort, runtime: Runtime, config: DriverConfig, trace: TraceHub) -> None:
        self.config = config
        self.runtime = runtime
        self.trace = trace
        self.namespaces: dict[int, Namespace] = {}
        self.workers: list[KthreadWorker] = []
        self.paths: list[SubmitPath] = []
        self.identity: Any = None
        self.strays = 0
        self.on_aen: Callable[[int], None] | None = None
        self._machine = StateMachine(self._state_changed)
        self._port = port
        pool = PagePool(port.memory, POOL_PAGES, PAGE_SIZE, config.poison, name="driver pool")
        self._pool = pool
        self._context = QueueContext(port, pool, runtime, trace, config.host)
        self._admin: AdminQueue | None = None
        self._events: list[int] = []
        self._wq: KthreadWorker | None = None
        self._event_work = kworker.KthreadWork()
        kworker.kthread_init_work(self._event_work, self._handle_events)
        self._by_caller: WeakKeyDictionary[object, SubmitPath] = WeakKeyDictionary()
        self.max_transfer_bytes = 0

    # State ------------------------------------------------------------------------------------------

    @property
    def state(self) -> CtrlState:
        """The controller state, as Linux names it."""
        return self._machine.state

    @property
    def admin(self) -> AdminQueue:
        """The admin queue; NvmeError (ENODEV) before probe."""
        if self._admin is None:
            raise NvmeError(errno.ENODEV, "the controller has not been probed")
        return self._admin

    @property
    def admin_queue(self) -> AdminQueue | None:
        """The admin queue, None before probe; for observers."""
        return self._admin

    @property
    def event_worker(self) -> KthreadWorker | None:
        """The worker that handles asynchronous events, while there is one."""
        return self._wq

    def _state_changed(self, old: CtrlState, new: CtrlState) -> None:
        emit = self.trace.emit
        if emit is not None:
            emit(NvmeState(self.runtime.now_ns, old.value, new.value))

    # Probe ------------------------------------------------------------------------------------------

    def probe(self) -> None:
        """Bring the controller to LIVE. NvmeError if it is absent, does not get ready or refuses."""
        self._machine.change(CtrlState.CONNECTING)
        try:
            self._enable()
            self._identify()
            self._start_wq()
            self._create_io_queues()
            self.rescan()
        except BaseException:
            self._fail()
            raise
        self._machine.change(CtrlState.LIVE)
        self.admin.request_event()

    def _enable(self) -> None:
        port = self._port
        if port.read32(Reg.CSTS) == ALL_ONES_32:
            raise NvmeError(errno.ENODEV, "CSTS reads all ones: there is no controller")
        cap = CAP.unpack(port.read64(Reg.CAP))
        self._cap = cap
        if cap.mpsmin:
            size = PAGE_SIZE << cap.mpsmin
            raise NvmeError(
                errno.ENODEV, f"CAP.MPSMIN wants pages of {size} bytes, the driver has {PAGE_SIZE}"
            )
        self._disable()
        self._admin = AdminQueue(self._context, self._timed_out, self._event, self._stray)
        pair = self._admin.pair
        port.connect_irq(0, self._admin.path.interrupt)
        port.write32(Reg.AQA, AQA.pack(asqs_z=ADMIN_DEPTH - 1, acqs_z=ADMIN_DEPTH - 1))
        port.write64(Reg.ASQ, pair.sq_addr)
        port.write64(Reg.ACQ, pair.cq_addr)
        css = CC_CSS_IOCS if cap.css & CAP_CSS_IOCS else CC_CSS_NVM
        cc = CC.pack(css=css, iosqes=6, iocqes=4)
        port.write32(Reg.CC, cc)
        port.write32(Reg.CC, CC.replace(cc, en=1))
        timeout_ms = (cap.to + 1) * CAP_TO_UNIT_MS
        if cap.crwms:
            timeout_ms = max(timeout_ms, CRTO.unpack(port.read32(Reg.CRTO)).crwmt * CRTO_UNIT_MS)
        self._wait_csts(CSTS_RDY, CSTS_RDY, timeout_ms, "become ready after CC.EN=1")

    def _disable(self) -> None:
        port = self._port
        cc = port.read32(Reg.CC)
        port.write32(Reg.CC, CC.replace(cc, en=0, shn=0))
        self._wait_csts(CSTS_RDY, 0, (self._cap.to + 1) * CAP_TO_UNIT_MS, "leave ready after CC.EN=0")

    def _wait_csts(self, mask: int, wanted: int, timeout_ms: int, what: str) -> None:
        for waited in range(0, timeout_ms + 1, POLL_MS):
            csts = self._port.read32(Reg.CSTS)
            if csts == ALL_ONES_32:
                raise NvmeError(errno.ENODEV, f"the controller went away (CSTS all ones); it did not {what}")
            if csts & mask == wanted:
                return
            if csts & CSTS_CFS and wanted:
                raise NvmeError(errno.EIO, f"fatal status (CSTS {csts:#x}): the controller did not {what}")
            if waited < timeout_ms:
                self._port.poll()
                self.runtime.sleep_ns(POLL_MS * 1_000_000)
        raise NvmeError(errno.ETIMEDOUT, f"the controller did not {what} within {timeout_ms} ms")

    def _identify(self) -> None:
        from nvme_emu.spec.identify import IDENTIFY_CONTROLLER, Cns

        self.identity = IDENTIFY_CONTROLLER.parse(self.admin.identify(Cns.CONTROLLER).tobytes())
        mdts = self.identity.mdts
        self.max_transfer_bytes = PAGE_SIZE << mdts if mdts else 0

    def _create_io_queues(self) -> None:
        from nvme_emu.spec.features import NUMBER_OF_QUEUES, Fid

        config = self.config
        kinds = [config.mode] * config.queues
        if config.mode == "mixed":
            kinds = ["async", "sync"] * config.queues
        last = len(kinds) - 1
        wanted = NUMBER_OF_QUEUES.pack(nsq_z=last, ncq_z=last)
        granted = NUMBER_OF_QUEUES.unpack(self.admin.set_features(Fid.NUMBER_OF_QUEUES, wanted))
        count = min(len(kinds), granted.nsq_z + 1, granted.ncq_z + 1)
        depth = min(config.depth, self._cap.mqes_z + 1)
        for qid in range(1, count + 1):
            pair = QueuePair(self._context, qid, depth, min(depth - 1, 4095), self._stray)
            path = self._make_path(pair, kinds[qid - 1])
            self._port.connect_irq(qid, path.interrupt)
            self.admin.create_queues(pair, vector=qid)
            path.open_lane()
            self.paths.append(path)

    def _make_path(self, pair: QueuePair, kind: str) -> SubmitPath:
        config, context = self.config, self._context
        if kind == "sync":
            return SyncPath(pair, context, self._timed_out)
        worker = self._start_worker(pair.qid)
        if config.worker == "poll":
            return PollingPumpPath(pair, context, self._timed_out, worker, config.poll_ns)
        styles = {"pump": PumpPath, "inline": InlinePumpPath, "per-request": PerRequestPath}
        return styles[config.worker](pair, context, self._timed_out, worker)

    def _start_worker(self, qid: int) -> KthreadWorker:
        """The I/O worker of a queue, running."""
        worker = kworker.KthreadWorker(runtime=self.runtime)
        kworker.kthread_init_worker(worker)
        if qid == 1:
            kworker.kthread_run(kworker.kthread_worker_fn, worker, "nvme%d", self.config.instance)
        else:
            kworker.kthread_run(kworker.kthread_worker_fn, worker, "nvme%dq%d", self.config.instance, qid)
        # The worker knows its task once the thread has begun; from here on it has.
        kworker.kthread_flush_worker(worker)
        self.workers.append(worker)
        return worker

    def rescan(self) -> None:
        """Read the list of active namespaces and make, keep or drop their objects."""
        from nvme_emu.spec.identify import Cns

        active: list[int] = []
        after = 0
        while True:
            page = self.admin.identify(Cns.ACTIVE_NAMESPACE_LIST, nsid=after).view("<u4")
            found = [int(nsid) for nsid in page if nsid]
            active += found
            if len(found) < len(page):
                break
            after = found[-1]
        for nsid in set(self.namespaces) - set(active):
            del self.namespaces[nsid]
        for nsid in active:
            if nsid not in self.namespaces:
                self.namespaces[nsid] = Namespace(self, nsid, self.admin.identify(Cns.NAMESPACE, nsid=nsid))

    # Callers ----------------------------------------------------------------------------------------

    def path(self) -> SubmitPath:
        """The path for whoever calls: one queue for each caller, in turn. NvmeError (ENODEV) when dead."""
        paths = self.paths
        if len(paths) == 1:
            return paths[0]
        if not paths:
            raise NvmeError(errno.ENODEV, f"the controller is {self.state.value}: it takes no I/O")
        caller = self.runtime.current()
        path = self._by_caller.get(caller)
        if path is None:
            if self.config.mode == "mixed":
                paths = self._of_kind("async")
            path = self._by_caller[caller] = paths[len(self._by_caller) % len(paths)]
        return path

    def use(self, kind: str) -> None:
        """In mixed mode: let the calling task's I/O go the "sync" or the "async" way from now on.

        ValueError for another kind, or one that this driver's mode does not have.
        """
        paths = self._of_kind(kind)
        if not paths:
            raise ValueError(f"{kind!r} transfers: a driver in mode {self.config.mode!r} does not do them")
        self._by_caller[self.runtime.current()] = paths[len(self._by_caller) % len(paths)]

    def _of_kind(self, kind: str) -> list[SubmitPath]:
        return [path for path in self.paths if isinstance(path, SyncPath) is (kind == "sync")]

    # Events -----------------------------------------------------------------------------------------

    def _start_wq(self) -> None:
        worker = kworker.kthread_create_worker(0, "nvme-wq%d", self.config.instance, runtime=self.runtime)
        if isinstance(worker, int):
            raise NvmeError(-worker, "cannot create the driver's nvme-wq worker")
        self._wq = worker

    def _event(self, dw0: int) -> None:
        self._events.append(dw0)
        # After shutdown has begun nobody is told any more: the admin queue is about to go.
        if self._wq is not None and self.state is CtrlState.LIVE:
            kworker.kthread_queue_work(self._wq, self._event_work)

    def _handle_events(self, _work: KthreadWork) -> None:
        """Read the log page that an event names (which re-arms it), act on it, and ask for the next."""
        while self._events:
            dw0 = self._events.pop(0)
            emit = self.trace.emit
            if emit is not None:
                emit(NvmeAsyncEvent(self.runtime.now_ns, dw0))
            event = ASYNC_EVENT_DW0.unpack(dw0)
            if event.lid:
                self.admin.get_log_page(event.lid, 512 if event.lid != 4 else 4096)
            if (
                event.aet == AsyncEventType.NOTICE
                and event.aei == AsyncNoticeInfo.NAMESPACE_ATTRIBUTE_CHANGED
            ):
                self.namespaces.clear()
                self.rescan()
            if self.on_aen is not None:
                self.on_aen(dw0)
            if self.state is CtrlState.LIVE:
                self.admin.request_event()

    def _stray(self, cid: int, dw0: int, status: int) -> None:
        # Linux logs "invalid id completed on queue" and drops it.
        self.strays += 1

    # Ends -------------------------------------------------------------------------------------------

    def _timed_out(self, rq: Request) -> None:
        """A request has not ended within its time: look once more, then give the controller up."""
        self._port.poll()
        if rq.done:
            return
        csts = self._port.read32(Reg.CSTS)
        self._fail(f"{rq.describe()} timed out, CSTS {csts:#x}")

    def _fail(self, _why: str = "") -> None:
        """The controller is lost: disable it and end everything that waits for it."""
        self._machine.change(CtrlState.DELETING)
        self._machine.change(CtrlState.DEAD)
        self._port.write32(Reg.CC, 0)
        paths = [*self.paths, *([self._admin.path] if self._admin is not None else [])]
        self.paths = []
        for path in paths:
            for rq in path.pair.cancel_all(HOST_ABORTED):
                rq.finish()
            for rq in path.pending():
                rq._status = HOST_ABORTED
                rq._path = path
                rq.finish()
        self._stop_workers()

    def drain(self) -> None:
        """Wait until every request that was taken has ended."""
        for path in self.paths:
            while True:
                rq = next((r for r in path.pair.inflight if r is not None), None)
                if rq is None:
                    queued = getattr(path, "requests", None)
                    if not queued:
                        break
                    rq = queued[0]
                path.wait(rq, None)

    def shutdown(self) -> None:
        """End what is outstanding, delete the queues, and shut the controller down normally (CC.SHN=01b)."""
        if self.state is not CtrlState.LIVE:
            self._stop_workers()
            return
        self.drain()
        self._machine.change(CtrlState.DELETING)
        if self._wq is not None:
            # An event that is being handled still needs the admin queue.
            kworker.kthread_flush_worker(self._wq)
        for path in self.paths:
            self.admin.delete_queues(path.pair.qid)
        cc = self._port.read32(Reg.CC)
        self._port.write32(Reg.CC, CC.replace(cc, shn=CC_SHN_NORMAL))
        rtd3e_ms = self.identity.rtd3e // 1000
        timeout_ms = min(max(rtd3e_ms, SHUTDOWN_MS_MIN), SHUTDOWN_MS_MAX)
        self._wait_csts(CSTS.mask("shst"), CSTS.pack(shst=CSTS_SHST_COMPLETE), timeout_ms, "shut down")
        self._disable()
        for path in self.paths:
            path.pair.close()
        self.admin.pair.close()
        self.paths = []
        self.namespaces.clear()
        self._stop_workers()
        self._machine.change(CtrlState.DEAD)
        self._pool.close()

    def _stop_workers(self) -> None:
        current = self.runtime.current()
        for worker in self.workers:
            task = worker.task
            if task is not None and task is not current:
                kworker.kthread_flush_worker(worker)
                kworker.kthread_stop(task)
        self.workers = []
        if self._wq is not None and self._wq.task is not current:
            kworker.kthread_destroy_worker(self._wq)
        self._wq = None
