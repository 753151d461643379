"""Device Self-test and its log (NVMe Base 2.1, 5.1.5, 5.1.12.1.7 and 8.1.7).

    NONE --short, extended--> RUNNING --its time is over--> NONE, with a result
                                 |--abort, reset, format, sanitize, namespace gone--> NONE, with why

A test runs beside other commands and reads the medium of its namespaces when it ends: blocks that cannot be
read fail it. A short test is aborted by a Controller Level Reset, an extended one goes on.
"""

from __future__ import annotations

from collections import deque
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final

from nvme_emu.controller.locations import NSID, location
from nvme_emu.core.errors import CommandError
from nvme_emu.spec.commands_admin import SELF_TEST_CDW10, SelfTestCode
from nvme_emu.spec.events import AsyncErrorInfo, AsyncEventType
from nvme_emu.spec.logs import SELF_TEST_LOG, SELF_TEST_RESULTS, SELF_TEST_STATUS, SELF_TEST_VALID, Lid
from nvme_emu.spec.queues import NSID_BROADCAST
from nvme_emu.spec.status import SC_MASK, SCT_SHIFT, Status

if TYPE_CHECKING:
    from nvme_emu.controller.command import Command
    from nvme_emu.controller.controller import Controller
    from nvme_emu.controller.subsystem import Timer

__all__ = ["SelfTest", "SelfTestResult", "device_self_test"]

_STC = location(10, SELF_TEST_CDW10, "stc")
_SEGMENT_MEDIA: Final = 4
"""The number of the segment that reads the medium."""
_PROBES: Final = 64
"""Blocks of a namespace that a short test reads; an extended one reads four times as many."""


class SelfTestResult(IntEnum):
    """SELF_TEST_STATUS.result."""

    PASSED = 0x0
    ABORTED_BY_COMMAND = 0x1
    ABORTED_BY_RESET = 0x2
    ABORTED_NAMESPACE_GONE = 0x3
    ABORTED_BY_FORMAT = 0x4
    FAILED = 0x7
    ABORTED_BY_SANITIZE = 0x9
    UNUSED = 0xF


class SelfTest:
    """The test of a controller that runs, if any, and the last 20 results."""

    def __init__(self, ctrl: Controller) -> None:
        self._ctrl = ctrl
        self._results: deque[dict[str, Any]] = deque(maxlen=SELF_TEST_RESULTS)
        self.code = 0
        """The test that runs: `SelfTestCode`; 0 when none does."""
        self._nsid = 0
        self._start_ns = 0
        self._end_ns = 0
        self._timer: Timer | None = None

    def start(self, code: int, nsid: int) -> None:
        """Begin a test of the controller (nsid 0), a namespace, or all of them (FFFFFFFFh)."""
        config, now_ns = self._ctrl.config, self._ctrl.now_ns
        took_ns = config.self_test_short_ns if code == SelfTestCode.SHORT else config.self_test_extended_ns
        self.code, self._nsid = code, nsid
        self._start_ns, self._end_ns = now_ns, now_ns + took_ns
        self._timer = self._ctrl.subsystem.at(self._end_ns, self._finish)

    def abort(self, why: SelfTestResult) -> None:
        """End the test that runs, if one does."""
        if self.code:
            self._end(why)

    def controller_reset(self) -> None:
        """A Controller Level Reset ends a short test; an extended one persists (8.1.7.1, 8.1.7.2)."""
        if self.code == SelfTestCode.SHORT:
            self._end(SelfTestResult.ABORTED_BY_RESET)

    def formatted(self, nsid: int) -> None:
        """Format NVM begins on a namespace (FFFFFFFFh: on all)."""
        if self._nsid in (nsid, NSID_BROADCAST) or (self._nsid and nsid == NSID_BROADCAST):
            self.abort(SelfTestResult.ABORTED_BY_FORMAT)

    def namespace_gone(self, nsid: int) -> None:
        """A namespace was detached or deleted."""
        if self._nsid in (nsid, NSID_BROADCAST):
            self.abort(SelfTestResult.ABORTED_NAMESPACE_GONE)

    def saved(self) -> dict[str, Any] | None:
        """What is kept without power: the results, and the test that runs."""
        if not (self._results or self.code):
            return None
        return {"results": list(self._results), "code": self.code, "nsid": self._nsid}

    def restore(self, state: dict[str, Any]) -> None:
        """After power on: a short test has been aborted, an extended one goes on to its end (8.1.7.1, 8.1.7.2)."""
        for result in state["results"]:
            SELF_TEST_LOG.build(current=0, completion=0, results=[result] * SELF_TEST_RESULTS)
        self._results.extend(state["results"])
        self.code, self._nsid = state["code"], state["nsid"]
        if self.code == SelfTestCode.SHORT:
            self._end(SelfTestResult.ABORTED_BY_RESET)
        elif self.code:
            self._timer = self._ctrl.subsystem.at(0, self._finish)

    def page(self) -> bytes:
        """Log page 06h."""
        now_ns = self._ctrl.now_ns
        percent = 0
        if self.code:
            span_ns = max(1, self._end_ns - self._start_ns)
            percent = min(99, max(0, now_ns - self._start_ns) * 100 // span_ns)
        unused = {"status": SELF_TEST_STATUS.pack(result=SelfTestResult.UNUSED)}
        results = [*self._results, *[unused] * (SELF_TEST_RESULTS - len(self._results))]
        return SELF_TEST_LOG.build(current=self.code, completion=percent, results=results)

    def _finish(self, now_ns: int) -> None:
        bad = self._look_for_bad_blocks()
        if bad is None:
            self._end(SelfTestResult.PASSED)
            return
        nsid, lba = bad
        status = int(Status.READ_ERROR)
        self._ctrl.error_log.record(None, status, lba=lba)
        self._ctrl.events.post(AsyncEventType.ERROR, AsyncErrorInfo.DIAGNOSTIC_FAILURE, Lid.ERROR_INFORMATION)
        self._end(
            SelfTestResult.FAILED,
            segment=_SEGMENT_MEDIA,
            valid=SELF_TEST_VALID.pack(nsidv=1, flbav=1, sctv=1, scv=1),
            nsid=nsid,
            flba=lba,
            sct=status >> SCT_SHIFT,
            sc=status & SC_MASK,
        )

    def _end(self, result: SelfTestResult, **more: Any) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        code, self.code = self.code, 0
        if not more and self._nsid:
            more = {"valid": SELF_TEST_VALID.pack(nsidv=1), "nsid": self._nsid}
        self._nsid = 0
        health = self._ctrl.logs.health
        health.tick()
        status = SELF_TEST_STATUS.pack(result=result, code=code)
        self._results.appendleft({"status": status, "poh": health.power_on_hours, **more})

    def _look_for_bad_blocks(self) -> tuple[int, int] | None:
        """(nsid, block) of the first block of the tested namespaces that cannot be read."""
        namespaces = self._ctrl.namespaces
        tested = list(namespaces) if self._nsid == NSID_BROADCAST else [self._nsid] if self._nsid else []
        probes = _PROBES if self.code == SelfTestCode.SHORT else 4 * _PROBES
        for nsid in sorted(tested):
            namespace = namespaces.get(nsid)
            if namespace is None:
                continue
            marked = namespace.marked.first(0, namespace.nsze)
            if marked is not None:
                return nsid, marked
            step = max(1, namespace.nsze // probes)
            out = memoryview(bytearray(namespace.lba_size))
            for lba in range(0, namespace.nsze, step):
                try:
                    namespace.media.read_into(lba << namespace.lba_shift, out)
                except OSError:
                    return nsid, lba
        return None


def device_self_test(ctrl: Controller, cmd: Command) -> int:
    """Device Self-test (opcode 14h). NSID 0 tests the controller alone, FFFFFFFFh all its namespaces too."""
    code = SELF_TEST_CDW10["stc"].extract(cmd.cdw10)
    if code not in set(SelfTestCode):
        raise CommandError(Status.INVALID_FIELD, location=_STC)
    test = ctrl.self_test
    if code == SelfTestCode.ABORT:
        test.abort(SelfTestResult.ABORTED_BY_COMMAND)
        return 0
    if cmd.nsid not in (0, NSID_BROADCAST):
        if not 1 <= cmd.nsid <= ctrl.config.namespaces_max:
            raise CommandError(Status.INVALID_NS, location=NSID)
        if cmd.nsid not in ctrl.namespaces:
            raise CommandError(Status.INVALID_FIELD, location=NSID)
    ctrl.subsystem.sanitizer.refuse_admin()
    if test.code:
        raise CommandError(Status.SELF_TEST_IN_PROGRESS, dnr=False)
    test.start(code, cmd.nsid)
    return 0
