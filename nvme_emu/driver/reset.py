"""The controller reset and the end of a controller: Linux's ``nvme_reset_work`` and ``nvme_dev_disable``.

    LIVE ── schedule_reset ──► RESETTING ── tear down ──► CONNECTING ── bring up ──► LIVE
                                                               └── fails ──► DELETING ──► DEAD

Submission stops at the gates of the paths first; no doorbell is rung for a controller that is disabled. Once it
has left ready, what it completed is taken, everything else ends with 0371h (Command Aborted By Host) and waits, if
the rules for retries allow it, at its path. The rings are made new in the memory that they have, and opened.

The I/O queues are not deleted one by one before: clearing CC.EN deletes them (Base 2.1, 3.7.2), and the admin
queue, over which Linux deletes them, may be what does not answer.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import kworker
from nvme_emu.core.errors import NvmeError
from nvme_emu.driver.state import TERMINAL, CtrlState
from nvme_emu.spec.status import Status

if TYPE_CHECKING:
    from collections import deque

    from kworker import KthreadWork, Runtime, TaskStruct
    from nvme_emu.driver.device import NvmeDriver
    from nvme_emu.driver.recovery import RecoveryCounters

__all__ = ["HOST_ABORTED", "ResetSteps"]

HOST_ABORTED = int(Status.HOST_ABORTED_CMD)
"""What a reset ends outstanding commands with."""


class ResetSteps:
    """The part of Recovery that resets."""

    driver: NvmeDriver
    runtime: Runtime
    counters: RecoveryCounters
    log: deque[str]
    connecting: TaskStruct | None
    _reset_work: KthreadWork

    def say(self, text: str) -> None:
        """A line for the log."""
        raise NotImplementedError

    def unwatch(self) -> None:
        """Look after nobody any more."""
        raise NotImplementedError

    def schedule_reset(self) -> bool:
        """Ask for a reset (``nvme_try_sched_reset``); False where the state does not allow one. Never blocks."""
        if self.driver.reset_worker is None or not self.driver.change_state(CtrlState.RESETTING):
            return False
        return self.begin_reset()

    def begin_reset(self) -> bool:
        """Queue the reset itself; the state is RESETTING already."""
        worker = self.driver.reset_worker
        return worker is not None and kworker.kthread_queue_work(worker, self._reset_work)

    def flush(self) -> None:
        """Wait until a reset that was asked for has ended."""
        worker = self.driver.reset_worker
        if worker is not None and worker.task is not self.runtime.current():
            kworker.kthread_flush_worker(worker)

    def _run_reset(self, _work: KthreadWork) -> None:
        driver = self.driver
        if driver.state is not CtrlState.RESETTING:
            return
        self.counters.resets += 1
        self.connecting = self.runtime.current()
        try:
            self.tear_down()
            driver.change_state(CtrlState.CONNECTING)
            self.bring_up()
            if not driver.change_state(CtrlState.LIVE):
                raise NvmeError(errno.ENODEV, f"the controller is {driver.state.value}")
        except NvmeError as error:
            self.counters.reset_failures += 1
            self.say(f"Disabling device after reset failure: {error}")
            self.kill()
            return
        finally:
            self.connecting = None
        self.say(f"{len(driver.paths)} I/O queues, {driver.config.depth} entries; controller is live again")
        self.start_again()

    def tear_down(self) -> None:
        """Stop submission, disable, and end what the controller will not end. NvmeError if it is gone or stays."""
        driver = self.driver
        for path in driver.all_paths():
            path.close_gate()
        for path in driver.all_paths():
            # Who looked at the gate before is about to ring: a doorbell must not come after CC.EN has gone.
            path.suspend()
        failure: NvmeError | None = None
        try:
            driver.disable()
        except NvmeError as error:
            failure = error
        # As Linux: what was outstanding ends, whether the controller could be disabled or not.
        self.cancel_outstanding()
        if failure is not None:
            raise failure

    def cancel_outstanding(self) -> None:
        """Take what was completed, end the rest, make the rings new."""
        for path in self.driver.all_paths():
            self.counters.cancelled += path.take_back(HOST_ABORTED)

    def bring_up(self) -> None:
        """Enable the controller, identify it and create the queues, in the memory that they have."""
        self.driver.bring_up_again()

    def start_again(self) -> None:
        """Let I/O go on, and ask for events and namespaces."""
        driver = self.driver
        for path in driver.paths:
            path.open_lane()
        for path in driver.all_paths():
            path.open_gate()
        driver.events.start()
        driver.events.schedule_scan()

    def kill(self) -> None:
        """The controller is lost: disable it if it can be, and end everything that waits for it."""
        driver = self.driver
        driver.change_state(CtrlState.DELETING)
        self.unwatch()
        driver.disable_for_good()
        self.counters.cancelled += sum(path.kill(HOST_ABORTED) for path in driver.all_paths())
        driver.retire_paths()
        driver.change_state(CtrlState.DEAD)

    def is_over(self) -> bool:
        """Whether the controller never comes back."""
        return self.driver.state in TERMINAL
