"""Asynchronous events: what the driver does about each (Linux: ``nvme_complete_async_event``).

An event arrives in interrupt context. A work of the worker ``nvme-wq`` reads the log page that it names, which lets
the controller report the next event of its type (but not of reservations), acts on it, and sends the next
Asynchronous Event Request.
"""

from __future__ import annotations

import errno
from collections import deque
from enum import Enum
from typing import TYPE_CHECKING

import kworker
from nvme_emu.core.errors import NvmeError
from nvme_emu.core.trace import NvmeAsyncEvent
from nvme_emu.driver.state import CtrlState
from nvme_emu.spec.events import ASYNC_EVENT_DW0, AsyncErrorInfo, AsyncEventType, AsyncNoticeInfo
from nvme_emu.spec.registers import CSTS_PP, Reg

if TYPE_CHECKING:
    from kworker import KthreadWork
    from nvme_emu.driver.device import NvmeDriver

__all__ = ["ACTIONS", "EventAction", "EventHandler", "action_of"]

ALL_ONES_32 = 0xFFFF_FFFF
LOG_BYTES, CHANGED_NS_LIST, CHANGED_NS_BYTES, CHANGED_ZONES = 512, 0x04, 4096, 0xBF
EVENTS_KEPT_MAX = 64
MTFA_UNIT_MS = 100
PAUSE_POLL_NS = 10_000_000
SMART_WARNINGS = 0x1F
"""The critical warnings of the SMART / Health log page, as bits of feature 0Bh."""
NOTICES = 1 << 8 | 1 << 9 | 1 << 11
"""Namespace attribute, firmware activation and ANA change notices, as bits of OAES and of feature 0Bh."""


class EventAction(Enum):
    """What an event makes the driver do, besides reading its log page."""

    NOTE = "count it"
    SCAN = "read the list of namespaces again"
    FIRMWARE = "hold I/O up while the controller pauses"
    ANA = "read the states of the ANA groups again"
    RESET = "reset the controller"


ACTIONS: dict[tuple[int, int], EventAction] = {
    (AsyncEventType.ERROR, AsyncErrorInfo.PERSISTENT_INTERNAL_ERROR): EventAction.RESET,
    (AsyncEventType.NOTICE, AsyncNoticeInfo.NAMESPACE_ATTRIBUTE_CHANGED): EventAction.SCAN,
    (AsyncEventType.NOTICE, AsyncNoticeInfo.FIRMWARE_ACTIVATION_STARTING): EventAction.FIRMWARE,
    (AsyncEventType.NOTICE, AsyncNoticeInfo.ANA_CHANGE): EventAction.ANA,
}
"""By event type and information; every other event is noted."""


def action_of(event_type: int, info: int) -> EventAction:
    """What an event makes the driver do."""
    return ACTIONS.get((event_type, info), EventAction.NOTE)


class EventHandler:
    """Handles the events of one driver. ``counts`` is {(type, information): how many}."""

    def __init__(self, driver: NvmeDriver) -> None:
        self.driver = driver
        self.counts: dict[tuple[int, int], int] = {}
        self._waiting: deque[int] = deque(maxlen=EVENTS_KEPT_MAX)
        self._event_work, self._scan_work = kworker.KthreadWork(), kworker.KthreadWork()
        kworker.kthread_init_work(self._event_work, self._handle)
        kworker.kthread_init_work(self._scan_work, self._scan)

    def enable(self) -> None:
        """Tell the controller which events we want (feature 0Bh); one that refuses sends what it likes."""
        from nvme_emu.spec.features import Fid

        wanted = SMART_WARNINGS | int(self.driver.identity.oaes) & NOTICES
        try:
            self.driver.admin.set_features(Fid.ASYNC_EVENT_CONFIG, wanted)
        except NvmeError as error:
            if error.status is None:
                raise
            self.driver.recovery.say(f"Failed to configure AEN (status {error.status:#x})")

    def start(self) -> None:
        """The controller is live: ask for an event. What came before a reset is of no interest any more."""
        self._waiting.clear()
        self.driver.admin.request_event()

    def arrived(self, dw0: int) -> None:
        """An event has come; runs in interrupt context."""
        self._waiting.append(dw0)
        # After shutdown or a reset has begun nobody is told any more: the admin queue is about to go.
        if self.driver.state is CtrlState.LIVE:
            self._queue(self._event_work)

    def schedule_scan(self) -> None:
        """Have the namespaces looked at."""
        self._queue(self._scan_work)

    def _queue(self, work: KthreadWork) -> None:
        worker = self.driver.event_worker
        if worker is not None:
            kworker.kthread_queue_work(worker, work)

    def _handle(self, _work: KthreadWork) -> None:
        driver = self.driver
        while self._waiting and driver.state is CtrlState.LIVE:
            dw0 = self._waiting.popleft()
            emit = driver.trace.emit
            if emit is not None:
                emit(NvmeAsyncEvent(driver.runtime.now_ns, dw0))
            try:
                self.handle(dw0)
            except NvmeError as error:
                driver.recovery.say(f"AEN {dw0:#010x}: {error}")
            if driver.on_aen is not None:
                driver.on_aen(dw0)
            if driver.state is CtrlState.LIVE:
                driver.admin.request_event()

    def handle(self, dw0: int) -> None:
        """Read the event's log page, which re-arms it, and act on it. NvmeError where a command for that fails."""
        driver = self.driver
        event = ASYNC_EVENT_DW0.unpack(dw0)
        key = (event.aet, event.aei)
        self.counts[key] = self.counts.get(key, 0) + 1
        action = action_of(*key)
        if action is EventAction.RESET:
            driver.recovery.say("resetting controller due to persistent internal error")
            driver.recovery.schedule_reset()
            return
        if action is EventAction.FIRMWARE and not self.await_activation():
            return
        if action is EventAction.ANA:
            driver.ana.read()
            return
        # Reading a reservation notification takes it away: that is for whoever uses reservations.
        # The list of changed zones is of a namespace, which dword 1 names, and for who watches its zones.
        if event.lid and event.lid != CHANGED_ZONES and event.aet != AsyncEventType.IO_COMMAND_SET:
            nbytes = CHANGED_NS_BYTES if event.lid == CHANGED_NS_LIST else LOG_BYTES
            driver.admin.get_log_page(event.lid, nbytes)
        if action is EventAction.SCAN:
            driver.rescan()

    def await_activation(self) -> bool:
        """Hold I/O up until CSTS.PP is clear (``nvme_fw_act_work``). False if a reset has to help."""
        driver = self.driver
        if not driver.change_state(CtrlState.RESETTING):
            return False
        for path in driver.paths:
            path.close_gate()
        mtfa = int(driver.identity.mtfa)
        limit_ns = mtfa * MTFA_UNIT_MS * 1_000_000 or int(driver.config.recovery.admin_timeout * 1e9)
        end_ns = driver.runtime.now_ns + limit_ns
        while (csts := driver.port.read32(Reg.CSTS)) & CSTS_PP:
            if csts == ALL_ONES_32 or driver.runtime.now_ns > end_ns:
                driver.recovery.say("Fw activation timeout, reset controller")
                driver.recovery.begin_reset()
                return False
            driver.runtime.sleep_ns(PAUSE_POLL_NS)
        driver.change_state(CtrlState.CONNECTING)
        if not driver.change_state(CtrlState.LIVE):
            return False
        for path in driver.paths:
            path.open_gate()
        return True

    def _scan(self, _work: KthreadWork) -> None:
        if self.driver.state is CtrlState.LIVE:
            try:
                self.driver.rescan()
            except NvmeError as error:
                self.driver.recovery.say(f"namespace scan: {errno.errorcode.get(error.errno or 0, '')} {error}")
