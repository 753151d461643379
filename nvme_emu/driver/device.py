"""The driver of one controller: probe, queues, events and shutdown, as Linux does them.

Probe goes the way of ``nvme_reset_work``: disable, set up the admin queue, enable, identify, agree on the
number of queues, create them (completion queue first), scan the namespaces, ask for asynchronous events.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import kworker
from kworker.interrupted import never
from nvme_emu.core.errors import NvmeError
from nvme_emu.core.page_pool import PagePool
from nvme_emu.core.trace import NvmeState, TraceHub
from nvme_emu.driver.admin import ADMIN_DEPTH, AdminQueue
from nvme_emu.driver.aer import EventHandler
from nvme_emu.driver.ana import AnaTable
from nvme_emu.driver.cmb import CmbMemory, cmb_depth, map_cmb
from nvme_emu.driver.config import DriverConfig
from nvme_emu.driver.dbbuf import DoorbellBuffers
from nvme_emu.driver.handoff import InlinePumpPath, PollingPumpPath
from nvme_emu.driver.namespace import Namespace, has_metadata
from nvme_emu.driver.pump import PerRequestPath, PumpPath
from nvme_emu.driver.queue_pair import PAGE_SIZE, QueueContext, QueuePair
from nvme_emu.driver.recovery import Recovery
from nvme_emu.driver.reset import HOST_ABORTED
from nvme_emu.driver.sgl import SglQueuePair
from nvme_emu.driver.state import CtrlState, StateMachine
from nvme_emu.driver.submit import SubmitPath, SyncPath
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
    from kworker import KthreadWorker, Runtime
    from nvme_emu.core.memory import HostMemory
    from nvme_emu.core.ports import DevicePort

__all__ = ["NvmeDriver"]

ALL_ONES_32 = 0xFFFF_FFFF
POLL_MS = 1
SHUTDOWN_MS_MAX = 60_000
POOL_PAGES = 16_384
OAES_ZDCN = 1 << 27


class NvmeDriver:
    """Drives the controller behind ``port``.

    ``namespaces`` is {nsid: Namespace}; ``workers`` the I/O workers in queue order (none in sync mode);
    ``paths`` and ``admin`` are for who looks inside. ``probe`` and ``shutdown`` block; both run on the
    runtime that was given. ``recovery`` is what happens when the controller does not do as it should, with its
    counters and log; ``events`` handles asynchronous events; ``ana`` knows the states of the ANA
    groups. ``recovery_class``, ``events_class`` and ``bells_class`` (shadow doorbells) are for those who test other
    ways.
    """

    recovery_class: type[Recovery] = Recovery
    events_class: type[EventHandler] = EventHandler
    bells_class: type[DoorbellBuffers] = DoorbellBuffers

    def __init__(self, port: DevicePort, runtime: Runtime, config: DriverConfig, trace: TraceHub) -> None:
        self.config = config
        self.runtime = runtime
        self.trace = trace
        self.namespaces: dict[int, Namespace] = {}
        self.workers: list[KthreadWorker] = []
        self.paths: list[SubmitPath] = []
        self.offered: list[SubmitPath] = self.paths
        """The same list, until a shutdown begins: then callers are offered none."""
        self.identity: Any = None
        self.strays = 0
        self.on_aen: Callable[[int], None] | None = None
        self._machine = StateMachine(self._state_changed)
        self._port = port
        pool = PagePool(port.memory, POOL_PAGES, PAGE_SIZE, config.poison, name="driver pool")
        self._pool = pool
        self._context = QueueContext(port, pool, runtime, trace, config.host)
        self._bells: DoorbellBuffers | None = None
        self._admin: AdminQueue | None = None
        self._retired: list[SubmitPath] = []
        self._released = False
        self._cap: Any = None
        self._wq: KthreadWorker | None = None
        self._reset_wq: KthreadWorker | None = None
        self.recovery = self.recovery_class(self, config.recovery)
        self.events = self.events_class(self)
        self.ana = AnaTable(self)
        self._by_caller: WeakKeyDictionary[object, SubmitPath] = WeakKeyDictionary()
        self.max_transfer_bytes = 0
        self.cmb: CmbMemory | None = None
        """The controller's memory buffer, if it has one that can be mapped."""

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
    def memory(self) -> HostMemory:
        """What the controller reaches."""
        return self._port.memory

    @property
    def admin_queue(self) -> AdminQueue | None:
        """The admin queue, None before probe; for observers."""
        return self._admin

    @property
    def event_worker(self) -> KthreadWorker | None:
        """The worker that handles asynchronous events, while there is one."""
        return self._wq

    @property
    def reset_worker(self) -> KthreadWorker | None:
        """The worker that resets the controller, while there is one."""
        return self._reset_wq

    @property
    def port(self) -> DevicePort:
        """The way to the device."""
        return self._port

    def change_state(self, new: CtrlState) -> bool:
        """Enter a state (``nvme_change_ctrl_state``); False, and nothing changed, where that is not allowed."""
        return self._machine.change(new)

    def all_paths(self) -> list[SubmitPath]:
        """The paths of all queues, the admin queue's first."""
        return [*([self._admin.path] if self._admin is not None else []), *self.paths]

    def _state_changed(self, old: CtrlState, new: CtrlState) -> None:
        emit = self.trace.emit
        if emit is not None:
            emit(NvmeState(self.runtime.now_ns, old.value, new.value))

    # Probe ------------------------------------------------------------------------------------------

    def probe(self) -> None:
        """Bring the controller to LIVE. NvmeError if it is absent, does not get ready or refuses."""
        self.change_state(CtrlState.CONNECTING)
        self.recovery.connecting = self.runtime.current()
        try:
            self._enable()
            self._identify()
            self._start_wq()
            self._create_io_queues()
            self.rescan()
            self.events.enable()
        except BaseException:
            self._fail()
            raise
        finally:
            self.recovery.connecting = None
        self.change_state(CtrlState.LIVE)
        self.events.start()

    def bring_up_again(self) -> None:
        """The same after a reset, with the queues that there are. NvmeError where that fails."""
        self._read_capabilities()
        if self._bells is not None:
            self._bells.forget([path.pair for path in self.paths])
        self._start_controller()
        self._identify()
        self._create_io_queues_again()
        self.events.enable()

    def _enable(self) -> None:
        self._read_capabilities()
        self.disable()
        self._admin = AdminQueue(self._context, self.recovery, self._event, self._stray)
        self._port.connect_irq(0, self._admin.path.interrupt)
        self._start_controller()

    def _read_capabilities(self) -> None:
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
        self.cmb = map_cmb(port, self.cmb) if cap.cmbs else None

    def _start_controller(self) -> None:
        """Tell the disabled controller of the admin queue, and enable it."""
        port, cap, pair = self._port, self._cap, self.admin.pair
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

    def disable(self) -> None:
        """Clear CC.EN and wait until the controller has stopped. NvmeError if it does not, or is gone."""
        port = self._port
        cc = port.read32(Reg.CC)
        if cc != ALL_ONES_32:
            port.write32(Reg.CC, CC.replace(cc, en=0, shn=0))
        self._wait_csts(CSTS_RDY, 0, (self._cap.to + 1) * CAP_TO_UNIT_MS, "leave ready after CC.EN=0")

    def disable_for_good(self) -> None:
        """The same for a controller that will not be used again: one that does not stop is left alone."""
        try:
            if self._cap is not None:
                self.disable()
        except NvmeError as error:
            self.recovery.say(str(error))

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
        identity = self.identity
        self.recovery.aborts_left = identity.acl_z + 1
        self.recovery.crdt = (identity.crdt1, identity.crdt2, identity.crdt3)
        limits = [PAGE_SIZE << identity.mdts] if identity.mdts else []
        if self._port.memory.transfer_bytes_max is not None:
            limits.append(self._port.memory.transfer_bytes_max)
        self.max_transfer_bytes = min(limits, default=0)
        self.ana.read()

    def _create_io_queues(self) -> None:
        config = self.config
        kinds = [config.mode] * config.queues
        if config.mode == "mixed":
            kinds = ["async", "sync"] * config.queues
        count = self._agree_on_queues(len(kinds))
        depth = self._queue_depth()
        if self.cmb is not None and self.cmb.takes_sqs and config.use_cmb_sqes:
            shorter = cmb_depth(self.cmb, count, depth)
            if shorter is not None:
                depth = shorter
                self._context = self._context._replace(cmb=self.cmb)
        for qid in range(1, count + 1):
            pair = self._make_pair(qid, depth)
            path = self._make_path(pair, kinds[qid - 1])
            self._port.connect_irq(qid, path.interrupt)
            self.admin.create_queues(pair, vector=qid)
            path.open_lane()
            self.paths.append(path)
            self.recovery.watch(path)
        self._set_up_bells()

    def _set_up_bells(self) -> None:
        """Shadow doorbells, where the controller offers them (OACS bit 8)."""
        from nvme_emu.spec.identify import OACS

        if not OACS["dbcs"].extract(self.identity.oacs):
            return
        if self._bells is None:
            self._bells = self.bells_class(self._pool, 4 << self._cap.dstrd)
        pairs = [path.pair for path in self.paths]
        if self._bells.has_room(len(pairs)):
            self._bells.configure(self, pairs)

    def _make_pair(self, qid: int, depth: int) -> QueuePair:
        from nvme_emu.spec.identify import SGLS

        config, arguments = self.config, (self._context, qid, depth, min(depth - 1, 4095), self._stray)
        if not config.sgl_threshold or not SGLS["sgls"].extract(self.identity.sgls):
            return QueuePair(*arguments)
        return SglQueuePair(*arguments, threshold=config.sgl_threshold, max_segment_size=config.max_segment_size)

    def _create_io_queues_again(self) -> None:
        """After a reset. A controller that grants fewer queues, or smaller ones, is another one than it was."""
        count = self._agree_on_queues(len(self.paths))
        if count < len(self.paths):
            raise NvmeError(errno.ENODEV, f"{count} I/O queues after the reset, {len(self.paths)} before")
        for path in self.paths:
            pair = path.pair
            if pair.depth > self._cap.mqes_z + 1:
                raise NvmeError(errno.ENODEV, f"queues of {self._cap.mqes_z + 1} entries, {pair.depth} before")
            self.admin.create_queues(pair, vector=pair.qid)
        self._set_up_bells()

    def _agree_on_queues(self, wanted: int) -> int:
        """How many I/O queue pairs we get (Set Features, 07h), ``wanted`` at most."""
        from nvme_emu.spec.features import NUMBER_OF_QUEUES, Fid

        last = wanted - 1
        cdw11 = NUMBER_OF_QUEUES.pack(nsq_z=last, ncq_z=last)
        granted = NUMBER_OF_QUEUES.unpack(self.admin.set_features(Fid.NUMBER_OF_QUEUES, cdw11))
        return int(min(wanted, granted.nsq_z + 1, granted.ncq_z + 1))

    def _queue_depth(self) -> int:
        """Entries of an I/O queue: as configured, and no more than the controller can."""
        if not self._cap.mqes_z:
            raise NvmeError(errno.ENODEV, "CAP.MQES is 0: no queue has room for a command, the least is 1h")
        return int(min(self.config.depth, self._cap.mqes_z + 1))

    def _make_path(self, pair: QueuePair, kind: str) -> SubmitPath:
        config, context = self.config, self._context
        if kind == "sync":
            return SyncPath(pair, context, self.recovery)
        worker = self._start_worker(pair.qid)
        if config.worker == "poll":
            return PollingPumpPath(pair, context, self.recovery, worker, config.poll_ns)
        styles = {"pump": PumpPath, "inline": InlinePumpPath, "per-request": PerRequestPath}
        return styles[config.worker](pair, context, self.recovery, worker)

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
        """Read the list of active namespaces and make, update or drop their objects."""
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
        zoned: set[int] = set()
        # Only who may tell of changed zones (OAES) is asked for zoned namespaces.
        if int(self.identity.oaes) & OAES_ZDCN:
            from nvme_emu.driver.zoned import ZonedNamespace, zoned_namespaces

            zoned = zoned_namespaces(self)
        for nsid in set(self.namespaces) - set(active):
            del self.namespaces[nsid]
        for nsid in active:
            identify = self.admin.identify(Cns.NAMESPACE, nsid=nsid)
            kind = Namespace
            if nsid in zoned:
                kind = ZonedNamespace
            elif has_metadata(identify):
                from nvme_emu.driver.integrity import MetadataNamespace

                kind = MetadataNamespace
            if type(self.namespaces.get(nsid)) is kind:
                self.namespaces[nsid].update(identify)
            else:
                self.namespaces[nsid] = kind(self, nsid, identify)

    # Callers ----------------------------------------------------------------------------------------

    def path(self) -> SubmitPath:
        """The path for whoever calls: one queue for each caller, in turn. NvmeError (ENODEV) when dead."""
        paths = self.offered
        if len(paths) == 1:
            return paths[0]
        if not paths:
            what = "about to shut down" if self.paths else self.state.value
            raise NvmeError(errno.ENODEV, f"the controller is {what}: it takes no I/O")
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
        self._wq = self._create_worker("nvme-wq%d")
        self._reset_wq = self._create_worker("nvme-reset-wq%d")

    def _create_worker(self, namefmt: str) -> KthreadWorker:
        worker = kworker.kthread_create_worker(0, namefmt, self.config.instance, runtime=self.runtime)
        if isinstance(worker, int):
            raise NvmeError(-worker, f"cannot create the driver's worker {namefmt % self.config.instance}")
        return worker

    def _event(self, dw0: int) -> None:
        self.events.arrived(dw0)

    def _stray(self, cid: int, dw0: int, status: int) -> None:
        # Linux logs "invalid id completed on queue" and drops it.
        self.strays += 1

    # Ends -------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """Reset the controller (``nvme_reset_ctrl_sync``) and wait until that is over; I/O waits meanwhile and goes on.

        NvmeError (EBUSY) where the state does not allow it, (ENODEV) if the controller is lost by it.
        """
        if not self.recovery.schedule_reset():
            raise NvmeError(errno.EBUSY, f"the controller is {self.state.value}: it cannot be reset")
        self.recovery.flush()
        if self.state is not CtrlState.LIVE:
            raise NvmeError(errno.ENODEV, f"the controller is {self.state.value} after the reset")

    def _fail(self) -> None:
        """The controller is lost: disable it and end everything that waits for it."""
        self.recovery.kill()
        self._stop_workers()

    def retire_paths(self) -> None:
        """Nobody gets a path any more; their memory is kept until shutdown."""
        self._retired += self.paths
        self.paths = []
        self.offered = self.paths

    def drain(self) -> None:
        """Wait until every request that was taken has ended."""
        for path in list(self.paths):
            while (rq := path.unfinished()) is not None:
                path.wait(rq, None)

    def close_paths(self) -> None:
        """Offer the queues to no caller any more, end what was taken, and keep from the rings who was on the way.

        Those wait at the gate, and are turned away with the controller. Nothing is outstanding then.
        """
        self.offered = []
        while self.state is CtrlState.LIVE:
            self.drain()
            self.recovery.flush()
            busy = [path for path in self.paths if not path.close_idle()]
            if not busy:
                return
            for path in busy:
                path.open_gate()

    def _check_not_a_worker(self) -> None:
        task = self.runtime.current()
        if task is not None and any(worker.task is task for worker in self.workers):
            raise RuntimeError(
                f"shutdown on {task.comm}, the worker that has to end what is outstanding: it would wait for itself; "
                "shut down from another thread"
            )

    @never
    def shutdown(self) -> None:
        """End what is outstanding, delete the queues, and shut the controller down normally (CC.SHN=01b).

        NvmeError where the controller does not do so; it is let go all the same. RuntimeError on an I/O worker, which
        would wait for itself.
        """
        self._check_not_a_worker()
        self.recovery.flush()
        self.close_paths()
        if self.state is CtrlState.LIVE and self.is_lost():
            self.recovery.kill()
        failure: NvmeError | None = None
        if self.change_state(CtrlState.DELETING):
            failure = self._shut_down()
        self._stop_workers()
        self._release()
        self.change_state(CtrlState.DEAD)
        if failure is not None:
            raise failure

    def is_lost(self) -> bool:
        """Whether the controller is gone, or has failed."""
        csts = self._port.read32(Reg.CSTS)
        return csts == ALL_ONES_32 or bool(csts & CSTS_CFS)

    def _shut_down(self) -> NvmeError | None:
        self.recovery.unwatch()
        if self._wq is not None:
            # An event that is being handled still needs the admin queue.
            kworker.kthread_flush_worker(self._wq)
        try:
            for path in self.paths:
                self.admin.delete_queues(path.pair.qid)
            self._stop_controller()
        except NvmeError as error:
            self.disable_for_good()
            return error
        for path in self.paths:
            path.kill(HOST_ABORTED)
        return None

    def _stop_controller(self) -> None:
        cc = self._port.read32(Reg.CC)
        self._port.write32(Reg.CC, CC.replace(cc, shn=CC_SHN_NORMAL))
        least_ms = int(self.config.recovery.shutdown_timeout * 1000)
        timeout_ms = min(max(self.identity.rtd3e // 1000, least_ms), max(SHUTDOWN_MS_MAX, least_ms))
        self._wait_csts(CSTS.mask("shst"), CSTS.pack(shst=CSTS_SHST_COMPLETE), timeout_ms, "shut down")
        self.disable()

    def _release(self) -> None:
        """Give back what was the queues' memory."""
        if self._admin is not None and not self._released:
            self._released = True
            for path in [*self.paths, *self._retired, self._admin.path]:
                path.pair.close()
            if self._bells is not None:
                self._bells.close()
            self._pool.close()
        self.paths = self.offered = []
        self._retired = []
        self.namespaces.clear()

    def _stop_workers(self) -> None:
        current = self.runtime.current()
        for worker in self.workers:
            task = worker.task
            if task is not None and task is not current:
                kworker.kthread_flush_worker(worker)
                kworker.kthread_stop(task)
        self.workers = []
        for path in [*self.paths, *self._retired]:
            path.worker_gone()
        for owned in (self._wq, self._reset_wq):
            if owned is not None and owned.task is not current:
                kworker.kthread_destroy_worker(owned)
        self._wq = self._reset_wq = None
