"""What a driver does when something does not go as it should: time-outs, Abort, retries, resets, the end.

Time-outs of I/O commands arrive in interrupt context (watch.py), where nothing may block: there a command is
polled for, an Abort is sent, or a reset is asked for. The reset itself is work of the worker ``nvme-reset-wq``
(reset.py). Administrative commands are awaited by those who send them, who notice themselves when it takes too long.

``log`` is what Linux would have written to the kernel's log, ``counters`` counts it.
"""

from __future__ import annotations

import errno
from collections import deque
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import kworker
from nvme_emu.core.errors import NvmeError
from nvme_emu.driver.ladder import Action, Facts, climb
from nvme_emu.driver.reset import ResetSteps
from nvme_emu.driver.retry import Disposition, Outcome, decide, delay_ns
from nvme_emu.driver.state import TERMINAL, CtrlState
from nvme_emu.driver.watch import Seen, TimeoutWatch
from nvme_emu.spec.opcodes import opcode_name
from nvme_emu.spec.registers import CSTS_CFS, CSTS_NSSRO, CSTS_RDY, Reg

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kworker import TaskStruct
    from nvme_emu.driver.device import NvmeDriver
    from nvme_emu.driver.request import Request
    from nvme_emu.driver.submit import SubmitPath

__all__ = ["Recovery", "RecoveryConfig", "RecoveryCounters"]

ALL_ONES_32 = 0xFFFF_FFFF
ABORT_NOT_DONE = 1
LOG_LINES_MAX = 256
NS_PER_S = 1_000_000_000
TIMEOUT_S_MAX = 1_000_000.0
RETRIES_MAX = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryConfig:
    """How patient the driver is: Linux's module parameters and fabrics options, under their names.

    ``io_timeout`` and ``admin_timeout`` seconds until a command is looked after; ``max_retries`` how often a command
    that failed is sent again (0: never); ``shutdown_timeout`` seconds, at least, for a shutdown. Behind a fabric:
    ``reconnect_delay`` seconds between attempts to connect again, ``ctrl_loss_tmo`` seconds until the controller is
    given up. ValueError where a value is out of its range.
    """

    io_timeout: float = 30.0
    admin_timeout: float = 60.0
    shutdown_timeout: float = 5.0
    max_retries: int = 5
    reconnect_delay: float = 10.0
    ctrl_loss_tmo: float = 600.0

    def __post_init__(self) -> None:
        for name in ("io_timeout", "admin_timeout", "shutdown_timeout", "reconnect_delay"):
            value = getattr(self, name)
            if not 0 < value <= TIMEOUT_S_MAX:
                raise ValueError(f"{name}={value}: more than 0 and at most {TIMEOUT_S_MAX:.0f} seconds")
        if not 0 <= self.ctrl_loss_tmo <= TIMEOUT_S_MAX:
            raise ValueError(f"ctrl_loss_tmo={self.ctrl_loss_tmo}: 0 to {TIMEOUT_S_MAX:.0f} seconds")
        if not 0 <= self.max_retries <= RETRIES_MAX:
            raise ValueError(f"max_retries={self.max_retries}: 0 to {RETRIES_MAX}")


@dataclass(slots=True)
class RecoveryCounters:
    """What happened so far. ``polled`` completions whose interrupt was lost; ``cancelled`` commands that a reset ended;
    ``reset_failures`` resets after which the controller was given up."""

    timeouts: int = 0
    polled: int = 0
    aborts: int = 0
    resets: int = 0
    reset_failures: int = 0
    retries: int = 0
    cancelled: int = 0

    def as_dict(self) -> dict[str, int]:
        """By name."""
        return asdict(self)


class Recovery(ResetSteps):
    """The recovery of one driver. Every step is a method of its own, for who wants to test another way."""

    def __init__(self, driver: NvmeDriver, config: RecoveryConfig) -> None:
        self.driver = driver
        self.config = config
        self.runtime = driver.runtime
        self.counters = RecoveryCounters()
        self.log: deque[str] = deque(maxlen=LOG_LINES_MAX)
        self.connecting: TaskStruct | None = None
        """The task that brings the controller up at present."""
        self.crdt: Sequence[int] = ()
        self.aborts_left = 1
        self._watches: list[TimeoutWatch] = []
        self._reset_work = kworker.KthreadWork()
        kworker.kthread_init_work(self._reset_work, self._run_reset)

    @property
    def state(self) -> CtrlState:
        """The driver's controller state."""
        return self.driver.state

    def say(self, text: str) -> None:
        """A line for the log."""
        self.log.append(f"nvme nvme{self.driver.config.instance}: {text}")

    # Time-outs of I/O commands ----------------------------------------------------------------------

    def watch(self, path: SubmitPath) -> None:
        """Look after the commands of an I/O queue."""
        timeout_ns = int(self.config.io_timeout * NS_PER_S)
        self._watches.append(
            TimeoutWatch(
                path.pair, self.runtime, timeout_ns, lambda rq, cid, seen: self.expired(path, rq, cid, seen)
            )
        )

    def unwatch(self) -> None:
        """Look after nobody any more."""
        watches, self._watches = self._watches, []
        for watch in watches:
            watch.stop()

    def expired(self, path: SubmitPath, rq: Request, cid: int, seen: Seen) -> None:
        """A command's time is over; runs in interrupt context."""
        self.driver.port.poll()
        if path.pair.inflight[cid & 0xFFF] is not rq:
            return
        self.counters.timeouts += 1
        seen.since_ns = self.runtime.now_ns
        facts = self.look_around(path, cid, seen.aborted, seen.polled)
        action = self.choose(facts)
        words = f"I/O cid {cid:#06x} ({opcode_name(rq.opcode, False)}) QID {path.pair.qid} timeout"
        if action is Action.POLL:
            seen.polled = True
            self.counters.polled += 1
            self.say(f"{words}, completion polled")
            path.interrupt()
        elif action is Action.ABORT:
            seen.aborted = True
            self.say(f"{words}, aborting")
            self.send_abort(path.pair.qid, cid)
        elif action is Action.REARM:
            return
        else:
            csts = self.driver.port.read32(Reg.CSTS)
            self.say(f"{words}, {action.value} (CSTS={csts:#x})")
            self.schedule_reset()

    def look_around(
        self, path: SubmitPath, cid: int, aborted: bool = False, polled: bool = False, admin: bool = False
    ) -> Facts:
        """What the table wants to know. A completion that was polled for once is not waited for again."""
        csts = self.driver.port.read32(Reg.CSTS)
        return Facts(
            gone=csts == ALL_ONES_32,
            fatal=bool(csts & (CSTS_CFS | CSTS_NSSRO)),
            ready=bool(csts & CSTS_RDY),
            posted=not polled and path.pair.has_completion(cid),
            admin=admin,
            aborted=aborted,
            credit=self.aborts_left > 0 and self.driver.admin.has_room(),
        )

    def choose(self, facts: Facts) -> Action:
        """The rung of the ladder."""
        return climb(self.state, facts)

    def send_abort(self, qid: int, cid: int) -> None:
        """Send an Abort without waiting for it."""
        if self.driver.admin.abort(qid, cid, self.abort_done):
            self.aborts_left -= 1
            self.counters.aborts += 1

    def abort_done(self, rq: Request) -> None:
        """An Abort has ended. Whether it found its command or not, that command's own end says more."""
        self.aborts_left += 1
        self.say(f"Abort status: {rq._status:#x}" + (", not aborted" if rq.dw0 & ABORT_NOT_DONE else ""))

    # Time-outs of administrative commands -----------------------------------------------------------

    def admin_expired(self, rq: Request) -> None:
        """An administrative command takes too long; its sender calls, and goes on waiting when this returns.

        Raises NvmeError (ETIMEDOUT) where nobody else would end the wait: the sender brings the controller up, or down.
        """
        driver = self.driver
        driver.port.poll()
        if rq.done:
            return
        self.counters.timeouts += 1
        path = driver.admin.path
        facts = self.look_around(path, rq.cid, admin=True)
        action = self.choose(facts)
        words = f"I/O cid {rq.cid:#06x} ({opcode_name(rq.opcode, True)}) QID 0 timeout"
        if action is Action.POLL:
            self.counters.polled += 1
            self.say(f"{words}, completion polled")
            path.interrupt()
            return
        if self.connecting is not None and self.connecting is self.runtime.current():
            raise NvmeError(errno.ETIMEDOUT, f"{rq.describe()} timed out while connecting")
        if self.state in TERMINAL:
            raise NvmeError(errno.ETIMEDOUT, f"{rq.describe()} timed out, the controller is {self.state.value}")
        if self.state is CtrlState.LIVE:
            self.say(f"{words}, reset controller")
            self.schedule_reset()

    def wire_expired(self, rq: Request) -> None:
        """A command over a fabric takes too long; its sender calls, and goes on waiting when this returns."""
        raise NvmeError(errno.ETIMEDOUT, f"{rq.describe()} timed out")

    # Retries ----------------------------------------------------------------------------------------

    def retry_delay(self, rq: Request, retries: int, status: int | None = None) -> int | None:
        """In how many ns a command that failed with ``status`` (the request's) is sent again; None for never."""
        found = rq._status if status is None else status
        outcome = Outcome(
            status=found,
            retries=retries,
            retries_max=self.config.max_retries,
            admin=rq.admin,
            dying=self.state in TERMINAL,
        )
        if decide(outcome) is Disposition.COMPLETE:
            return None
        self.counters.retries += 1
        return delay_ns(found, self.crdt)
