"""Recovery behind a fabric: connections are closed and made again (Linux: ``nvme_tcp_error_recovery_work``).

A command that takes too long, a connection that ends, a keep-alive without an answer: each closes all connections
of the controller. Requests wait at the gates; every ``reconnect_delay`` seconds all queues are connected again, until
that succeeds, or the target says Do Not Retry, or ``ctrl_loss_tmo`` seconds have passed.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

import kworker
from nvme_emu.core.errors import NvmeError
from nvme_emu.driver.recovery import NS_PER_S, Recovery, RecoveryConfig
from nvme_emu.driver.state import TERMINAL, CtrlState
from nvme_emu.spec.opcodes import AdminOpcode, opcode_name
from nvme_emu.spec.status import DNR

if TYPE_CHECKING:
    from kworker import KthreadWork, TimerHandle
    from nvme_emu.driver.device import NvmeDriver
    from nvme_emu.driver.request import Request
    from nvme_emu.driver.submit import SubmitPath
    from nvme_emu.driver.watch import Seen

__all__ = ["FabricsRecovery"]

NS_PER_MS = 1_000_000


class FabricsRecovery(Recovery):
    """The recovery of a driver whose queues are connections."""

    def __init__(self, driver: NvmeDriver, config: RecoveryConfig) -> None:
        super().__init__(driver, config)
        self._given_up = kworker.Completion(runtime=self.runtime, name="nobody wants the controller any more")
        self._alive_work = kworker.KthreadWork()
        kworker.kthread_init_work(self._alive_work, self._send_keep_alive)
        self._alive_timer: TimerHandle | None = None
        self._asked_ns = 0

    # What goes wrong --------------------------------------------------------------------------------

    def connection_lost(self, error: OSError) -> None:
        """A connection has ended. Never blocks."""
        if self.state is CtrlState.LIVE:
            self.say(f"connection lost: {error.strerror or error}")
            self.start_recovery()

    def expired(self, path: SubmitPath, rq: Request, cid: int, seen: Seen) -> None:
        """A command's time is over: nothing less than a new connection helps, as on Linux."""
        seen.since_ns = self.runtime.now_ns
        self.counters.timeouts += 1
        self.say(f"I/O cid {cid:#06x} ({opcode_name(rq.opcode, False)}) QID {path.pair.qid} timeout")
        self.start_recovery()

    def wire_expired(self, rq: Request) -> None:
        """The same, noticed by the sender, who goes on waiting unless it is the one who connects."""
        self.counters.timeouts += 1
        self.say(f"I/O cid {rq.cid:#06x} ({opcode_name(rq.opcode, rq.admin)}) QID {rq.qid} timeout")
        if self.connecting is self.runtime.current() or self.state in TERMINAL:
            raise NvmeError(errno.ETIMEDOUT, f"{rq.describe()} timed out, the controller is {self.state.value}")
        self.start_recovery()

    def start_recovery(self) -> None:
        """Let nobody send any more, and connect again."""
        for path in self.driver.all_paths():
            path.close_gate()
        self.schedule_reset()

    # Connecting again -------------------------------------------------------------------------------

    def bring_up(self) -> None:
        """Connect again and again, as long as there is hope."""
        if not self.config.ctrl_loss_tmo:
            raise NvmeError(errno.ENOTCONN, "ctrl_loss_tmo is 0: no attempt to connect again")
        end_ns = self.runtime.now_ns + int(self.config.ctrl_loss_tmo * NS_PER_S)
        delay_ns = int(self.config.reconnect_delay * NS_PER_S)
        while True:
            try:
                self.driver.bring_up_again()
                return
            except NvmeError as error:
                final = error.status is not None and bool(error.status & DNR)
                if final or self.runtime.now_ns + delay_ns > end_ns:
                    raise
                self.say(f"Reconnecting in {self.config.reconnect_delay:g} seconds: {error}")
            if self._given_up.wait(delay_ns):
                raise NvmeError(errno.ESHUTDOWN, "nobody wants the controller any more")

    def give_up(self) -> None:
        """Do not wait for a controller that is away."""
        self._given_up.complete_all()
        self.stop_keep_alive()

    def start_again(self) -> None:
        super().start_again()
        self.start_keep_alive()

    def kill(self) -> None:
        self.stop_keep_alive()
        super().kill()

    # Keep alive -------------------------------------------------------------------------------------

    @property
    def _kato_ns(self) -> int:
        host: Any = getattr(self.driver, "host", None)
        return int(host.kato_ms) * NS_PER_MS if host is not None else 0

    def start_keep_alive(self) -> None:
        """Send Keep Alive each half of the Keep Alive Timeout, if there is one (``nvme_start_keep_alive``)."""
        self._asked_ns = 0
        if self._kato_ns and not self._given_up.done:
            self._alive_timer = self.runtime.call_at(self.runtime.now_ns + self._kato_ns // 2, self._tick)

    def stop_keep_alive(self) -> None:
        """Send no more."""
        timer, self._alive_timer = self._alive_timer, None
        if timer is not None:
            timer.cancel()

    def _tick(self) -> None:
        if self.state is not CtrlState.LIVE:
            return
        worker = self.driver.event_worker
        if self._asked_ns and self.runtime.now_ns - self._asked_ns >= self._kato_ns:
            self.say("keep-alive timed out")
            self.counters.timeouts += 1
            self.start_recovery()
            return
        if worker is not None and not self._asked_ns:
            self._asked_ns = self.runtime.now_ns
            kworker.kthread_queue_work(worker, self._alive_work)
        self._alive_timer = self.runtime.call_at(self.runtime.now_ns + self._kato_ns // 2, self._tick)

    def _send_keep_alive(self, _work: KthreadWork) -> None:
        try:
            self.driver.admin.execute(AdminOpcode.KEEP_ALIVE)
        except NvmeError as error:
            self.say(f"keep-alive failed: {error}")
            if self.state is CtrlState.LIVE:
                self.start_recovery()
        self._asked_ns = 0
