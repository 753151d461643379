"""Sanitize: the state machine of a subsystem, its command and its log (NVMe Base 2.1, 5.1.22 and 8.1.24).

    IDLE --start--> RESTRICTED   or --start, AUSE--> UNRESTRICTED
    RESTRICTED   --done--> IDLE      --failed--> RESTRICTED_FAILURE:   only another restricted one leads out
    UNRESTRICTED --done--> IDLE      --failed--> UNRESTRICTED_FAILURE: any other one, or Exit Failure Mode

All namespaces are sanitized, whoever has them attached. Meanwhile, and while a failure lasts, I/O commands but
Flush and most admin commands end with Sanitize In Progress or Sanitize Failed. The state belongs to the subsystem:
resets of controllers do not end it. Media verification is not offered (SANICAP.VERS).
"""

from __future__ import annotations

import errno
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from nvme_emu.controller.holds import Hold, WriteProtection
from nvme_emu.controller.locations import location
from nvme_emu.controller.namespace import Namespace
from nvme_emu.core.errors import CommandError
from nvme_emu.spec.commands_admin import SANITIZE_CDW10, SanitizeAction
from nvme_emu.spec.events import AsyncEventType, AsyncIoCommandSetInfo
from nvme_emu.spec.logs import SANITIZE_SSI, SANITIZE_SSTAT, SANITIZE_STATUS, Lid
from nvme_emu.spec.status import Status

if TYPE_CHECKING:
    from nvme_emu.controller.command import Command
    from nvme_emu.controller.controller import Controller
    from nvme_emu.controller.subsystem import NvmSubsystem

__all__ = ["SANITIZE_TRANSITIONS", "SanitizeInput", "SanitizeState", "Sanitizer", "sanitize"]


class SanitizeState(Enum):
    """SANITIZE_SSI.sans."""

    IDLE = 0
    RESTRICTED = 1
    RESTRICTED_FAILURE = 2
    UNRESTRICTED = 3
    UNRESTRICTED_FAILURE = 4


class SanitizeInput(Enum):
    """What can happen."""

    START = "a Sanitize command"
    START_UNRESTRICTED = "a Sanitize command with AUSE"
    EXIT_FAILURE = "Exit Failure Mode"
    DONE = "the operation has ended well"
    FAILED = "the operation has failed"


_S, _I = SanitizeState, SanitizeInput

SANITIZE_TRANSITIONS: Final[dict[tuple[SanitizeState, SanitizeInput], SanitizeState]] = {
    (_S.IDLE, _I.START): _S.RESTRICTED,
    (_S.IDLE, _I.START_UNRESTRICTED): _S.UNRESTRICTED,
    (_S.IDLE, _I.EXIT_FAILURE): _S.IDLE,
    (_S.RESTRICTED, _I.DONE): _S.IDLE,
    (_S.RESTRICTED, _I.FAILED): _S.RESTRICTED_FAILURE,
    (_S.UNRESTRICTED, _I.DONE): _S.IDLE,
    (_S.UNRESTRICTED, _I.FAILED): _S.UNRESTRICTED_FAILURE,
    (_S.RESTRICTED_FAILURE, _I.START): _S.RESTRICTED,
    (_S.UNRESTRICTED_FAILURE, _I.START): _S.RESTRICTED,
    (_S.UNRESTRICTED_FAILURE, _I.START_UNRESTRICTED): _S.UNRESTRICTED,
    (_S.UNRESTRICTED_FAILURE, _I.EXIT_FAILURE): _S.IDLE,
}

_RUNNING: Final = frozenset({_S.RESTRICTED, _S.UNRESTRICTED})
_ERASES: Final = frozenset({SanitizeAction.BLOCK_ERASE, SanitizeAction.OVERWRITE, SanitizeAction.CRYPTO_ERASE})
_PROGRESS_DONE: Final = 0xFFFF
_PROGRESS_UNITS: Final = 0x10000
_NS_PER_S: Final = 1_000_000_000
_CHUNK_BYTES: Final = 1 << 20
_PASSES_MAX: Final = 16

# SANITIZE_SSTAT.sos
_NEVER, _SUCCESS, _IN_PROGRESS, _FAILED, _SUCCESS_DEALLOCATED = range(5)

_SANACT, _EMVS = location(10, SANITIZE_CDW10, "sanact"), location(10, SANITIZE_CDW10, "emvs")


class Sanitizer:
    """The sanitize operation of a subsystem: the one that runs, and how the last one ended."""

    def __init__(self, subsystem: NvmSubsystem) -> None:
        self._subsystem = subsystem
        self.state = SanitizeState.IDLE
        self._outcome = _NEVER
        self._cdw10 = 0
        self._cdw11 = 0
        self._failed_in = 0
        self._passes = 0
        self._start_ns = 0
        self._end_ns = 0
        self._writes_then = 0

    @property
    def running(self) -> bool:
        """Whether an operation is in progress."""
        return self.state in _RUNNING

    @property
    def busy(self) -> bool:
        """Whether commands are refused: an operation runs or has failed."""
        return self.state is not SanitizeState.IDLE

    def refuse(self) -> CommandError:
        """What a command that is not allowed now ends with."""
        return CommandError(Status.SANITIZE_IN_PROGRESS if self.running else Status.SANITIZE_FAILED, dnr=False)

    def refuse_admin(self) -> None:
        """Raises CommandError for an admin command that changes or reads user data while this is busy."""
        if self.busy:
            raise self.refuse()

    # -- the operation --------------------------------------------------------------------------------------

    def start(self, cdw10: int, cdw11: int, now_ns: int) -> None:
        """Begin. Raises CommandError Sanitize Failed where the state allows no such operation."""
        how = SANITIZE_CDW10.unpack(cdw10)
        self._move(SanitizeInput.START_UNRESTRICTED if how.ause else SanitizeInput.START)
        self._cdw10, self._cdw11 = cdw10, cdw11
        self._outcome, self._failed_in, self._passes = _IN_PROGRESS, 0, 0
        passes = how.owpass or _PASSES_MAX if how.sanact == SanitizeAction.OVERWRITE else 1
        self._start_ns, self._end_ns = now_ns, now_ns + passes * self._subsystem.config.sanitize_ns
        for namespace in self._subsystem.namespaces.values():
            namespace.hold(Hold.SANITIZE)
        self._subsystem.at(self._end_ns, self._finish)

    def exit_failure(self) -> None:
        """Exit Failure Mode. Raises CommandError Sanitize Failed out of a restricted failure."""
        self._move(SanitizeInput.EXIT_FAILURE)
        self._release()

    def _move(self, what: SanitizeInput) -> None:
        found = SANITIZE_TRANSITIONS.get((self.state, what))
        if found is None:
            raise self.refuse()
        self.state = found

    def _release(self) -> None:
        for namespace in self._subsystem.namespaces.values():
            namespace.free(Hold.SANITIZE)

    def _finish(self, now_ns: int) -> None:
        how = SANITIZE_CDW10.unpack(self._cdw10)
        try:
            for namespace in self._subsystem.namespaces.values():
                self._erase(namespace, how)
            self._subsystem.capacity.erase()
        except (OSError, MemoryError):
            self._failed_in = self.state.value
            self._outcome = _FAILED
            self._move(SanitizeInput.FAILED)
        else:
            self._outcome = _SUCCESS if how.ndas else _SUCCESS_DEALLOCATED
            if how.sanact == SanitizeAction.OVERWRITE:
                self._passes = how.owpass or _PASSES_MAX
            self._writes_then = self._writes()
            self._move(SanitizeInput.DONE)
            self._release()
        self._subsystem.save()
        self._subsystem.persistent_events.sanitize_completed(_PROGRESS_DONE, self._sstat())
        for ctrl in self._subsystem.controllers.values():
            info = AsyncIoCommandSetInfo.SANITIZE_COMPLETED
            ctrl.events.post(AsyncEventType.IO_COMMAND_SET, info, Lid.SANITIZE_STATUS)

    def _erase(self, namespace: Namespace, how: Any) -> None:
        """All of a namespace's medium: deallocated, or with NDAS filled with what the operation leaves."""
        media = namespace.medium
        if self._subsystem.media_read_only:
            raise OSError(errno.EROFS, "the media are read-only")
        namespace.forget_blocks()
        if how.ndas and namespace.unwritten is not None:
            namespace.unwritten.clear()
        if not how.ndas:
            media.discard(0, media.nbytes)
        elif how.sanact == SanitizeAction.OVERWRITE:
            passes = how.owpass or _PASSES_MAX
            pattern = self._cdw11
            if how.oipbp and not passes % 2:
                # The last of an even number of passes writes the inverse of the first.
                pattern ^= 0xFFFF_FFFF
            chunk = memoryview(pattern.to_bytes(4, "little") * (_CHUNK_BYTES // 4))
            for at in range(0, media.nbytes, _CHUNK_BYTES):
                media.write(at, chunk[: min(_CHUNK_BYTES, media.nbytes - at)])
        else:
            media.zero(0, media.nbytes)
        if namespace.zones is not None:
            namespace.zones.erase()
            media.discard(0, media.nbytes)  # above a write pointer nothing can be read
        media.flush()

    def saved(self) -> dict[str, int]:
        """What is kept without power."""
        return {
            "state": self.state.value,
            "outcome": self._outcome,
            "cdw10": self._cdw10,
            "cdw11": self._cdw11,
            "failed_in": self._failed_in,
            "passes": self._passes,
            "writes": self._writes_then,
        }

    def restore(self, state: dict[str, int]) -> None:
        """After power on: an operation that was running goes on to its end (8.1.24)."""
        self.state = SanitizeState(state["state"])
        self._outcome, self._failed_in, self._passes = state["outcome"], state["failed_in"], state["passes"]
        self._cdw10, self._cdw11 = state["cdw10"], state["cdw11"]
        # After a loss of power nobody knows what was written since the counters were stored: say that something was.
        self._writes_then = state.get("writes", 0) if self._subsystem.clean else -1
        if self.busy:
            for namespace in self._subsystem.namespaces.values():
                namespace.hold(Hold.SANITIZE)
        if self.running:
            self._subsystem.at(0, self._finish)

    # -- the log --------------------------------------------------------------------------------------------

    def _writes(self) -> int:
        """Write commands of all controllers so far; those of a fabric share their counters."""
        counted = {id(ctrl.counters): ctrl.counters.write_commands for ctrl in self._subsystem.controllers.values()}
        return sum(counted.values())

    def _sstat(self) -> int:
        # Global Data Erased: nothing was written since the last good sanitize operation, or ever.
        erased = self._writes() == self._writes_then
        return SANITIZE_SSTAT.pack(sos=self._outcome, opc=self._passes, gde=int(erased))

    def page(self, now_ns: int) -> bytes:
        """Log page 81h."""
        progress = _PROGRESS_DONE
        if self.running:
            span_ns = max(1, self._end_ns - self._start_ns)
            progress = min(_PROGRESS_DONE - 1, max(0, now_ns - self._start_ns) * _PROGRESS_UNITS // span_ns)
        once = max(1, -(-self._subsystem.config.sanitize_ns // _NS_PER_S))
        return SANITIZE_STATUS.build(
            sprog=progress,
            sstat=self._sstat(),
            scdw10=self._cdw10,
            eto=once * _PASSES_MAX,
            etbe=once,
            etce=once,
            etodmm=once * _PASSES_MAX,
            etbenmm=once,
            etcenmm=once,
            ssi=SANITIZE_SSI.pack(sans=self.state.value, fails=self._failed_in),
        )


def sanitize(ctrl: Controller, cmd: Command) -> int:
    """Sanitize (opcode 84h): starts an operation and completes; the event and the log tell of its end."""
    how = SANITIZE_CDW10.unpack(cmd.cdw10)
    subsystem = ctrl.subsystem
    sanitizer = subsystem.sanitizer
    if how.sanact not in _ERASES and how.sanact != SanitizeAction.EXIT_FAILURE_MODE:
        raise CommandError(Status.INVALID_FIELD, location=_SANACT)
    if how.emvs:
        raise CommandError(Status.INVALID_FIELD, location=_EMVS)
    if sanitizer.running:
        raise sanitizer.refuse()
    if how.sanact == SanitizeAction.EXIT_FAILURE_MODE:
        sanitizer.exit_failure()
        return 0
    if subsystem.firmware.next_active:
        raise CommandError(Status.FW_NEEDS_RESET)
    if any(other.buffers.pmr_enabled for other in subsystem.controllers.values()):
        raise CommandError(Status.PMR_SAN_PROHIBITED)
    if any(one.protection is not WriteProtection.NONE for one in subsystem.namespaces.values()):
        raise CommandError(Status.NS_WRITE_PROTECTED)
    from nvme_emu.controller.self_test import SelfTestResult

    sanitizer.start(cmd.cdw10, cmd.cdw11, ctrl.now_ns)
    for other in subsystem.controllers.values():
        other.self_test.abort(SelfTestResult.ABORTED_BY_SANITIZE)
        other.buffers.sanitize()
    subsystem.persistent_events.sanitize_started(ctrl, cmd.cdw10, cmd.cdw11)
    return 0
