"""The Persistent Event log: what happened to the subsystem, kept over resets (NVMe Base 2.1, 5.1.12.1.14).

    Get Log Page LSP 1  establishes a reporting context: the log as it is now, for this controller
                    0   reads it; Command Sequence Error without a context
                    2   releases it
                    3   establishes one and reads only the header

The context keeps what is read from changing; events go on being recorded meanwhile. The oldest events give way
when `EVENTS_BYTES_MAX` are kept.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

from nvme_emu.controller.lasting_parts import pack
from nvme_emu.controller.locations import location
from nvme_emu.core.errors import CommandError
from nvme_emu.spec.commands import GET_LOG_CDW10
from nvme_emu.spec.identify import FLBAS, NMIC, SANICAP
from nvme_emu.spec.logs import Lid
from nvme_emu.spec.logs_persistent import (
    EVENT_FIRMWARE_COMMIT,
    EVENT_FORMAT_COMPLETED,
    EVENT_FORMAT_STARTED,
    EVENT_HEADER,
    EVENT_NAMESPACE_CHANGED,
    EVENT_POWER_ON_OR_RESET,
    EVENT_SANITIZE_COMPLETED,
    EVENT_SANITIZE_STARTED,
    EVENT_THERMAL,
    EVENT_TIMESTAMP_CHANGED,
    PERSISTENT_EVENT_HEADER,
    PersistentEvent,
)
from nvme_emu.spec.status import SC_MASK, SCT_SHIFT, Status

if TYPE_CHECKING:
    from nvme_emu.controller.controller import Controller
    from nvme_emu.controller.namespace import Namespace
    from nvme_emu.controller.subsystem import NvmSubsystem

__all__ = ["EVENTS_BYTES_MAX", "PELS", "PersistentEvents", "sanicap"]

PELS: Final = 4
"""Identify Controller: the log's size at most, in 64 KiB units."""
EVENTS_BYTES_MAX: Final = PELS * 65_536 - PERSISTENT_EVENT_HEADER.size

_REVISION: Final = 3
_HEADER_LENGTH: Final = PERSISTENT_EVENT_HEADER.size - 20
_EVENT_HEADER_LENGTH: Final = EVENT_HEADER.size - 3
_PORT_NOT_REPORTED: Final = 0b10
_SUBSYSTEM: Final = 0xFFFF
_NS_PER_MS: Final = 1_000_000
_FORMAT_OK, _FORMAT_FAILED = 0, 1
_CONTEXT: Final = 1 << 18
"""RCI.RCE: a reporting context exists."""
_OFFERED: Final = (
    PersistentEvent.SMART_SNAPSHOT,
    PersistentEvent.FIRMWARE_COMMIT,
    PersistentEvent.TIMESTAMP_CHANGE,
    PersistentEvent.POWER_ON_OR_RESET,
    PersistentEvent.CHANGE_NAMESPACE,
    PersistentEvent.FORMAT_START,
    PersistentEvent.FORMAT_COMPLETION,
    PersistentEvent.SANITIZE_START,
    PersistentEvent.SANITIZE_COMPLETION,
    PersistentEvent.THERMAL_EXCURSION,
)
_LSP = location(10, GET_LOG_CDW10, "lsp")
_READ, _ESTABLISH, _RELEASE, _ESTABLISH_AND_READ_HEADER = range(4)


def sanicap() -> int:
    """Identify Controller SANICAP: all three ways to erase; blocks are left as they are where the host asks for it."""
    return SANICAP.pack(ces=1, bes=1, ows=1, nodmmas=1)


class PersistentEvents:
    """The events of a subsystem, oldest first, and the reporting contexts of its controllers."""

    def __init__(self, subsystem: NvmSubsystem) -> None:
        self._subsystem = subsystem
        self._events: deque[bytes] = deque()
        self._nbytes = 0
        self._generation = 0
        self._contexts: dict[int, bytes] = {}

    def __len__(self) -> int:
        return len(self._events)

    def _timestamp_ms(self, ctrl: Controller | None) -> int:
        if ctrl is not None:
            return ctrl.features.timestamp_ms(ctrl.now_ns)
        return self._subsystem.now_ns // _NS_PER_MS

    def _add(self, ctrl: Controller | None, kind: PersistentEvent, data: bytes, revision: int = 1) -> None:
        header = EVENT_HEADER.build(
            et=kind,
            etr=revision,
            ehl=_EVENT_HEADER_LENGTH,
            ehai=_PORT_NOT_REPORTED,
            cntlid=_SUBSYSTEM if ctrl is None else ctrl.config.cntlid,
            etstmp=self._timestamp_ms(ctrl),
            el=len(data),
        )
        self._events.append(header + data)
        self._nbytes += len(header) + len(data)
        self._generation = (self._generation + 1) & 0xFFFF
        while self._nbytes > EVENTS_BYTES_MAX:
            self._nbytes -= len(self._events.popleft())

    def saved(self) -> dict[str, Any] | None:
        """What is kept without power: the events; None before the first."""
        if not self._events:
            return None
        return {"list": [pack(event) for event in self._events], "generation": self._generation}

    def restore(self, events: list[bytes], generation: int) -> None:
        """After power on."""
        self._events = deque(events)
        self._nbytes = sum(map(len, events))
        self._generation = generation & 0xFFFF

    # -- what happens ---------------------------------------------------------------------------------------

    def reset(self, ctrl: Controller) -> None:
        """A Controller Level Reset: its context is gone."""
        self._contexts.pop(ctrl.config.cntlid, None)
        data = EVENT_POWER_ON_OR_RESET.build(
            fr=self._subsystem.firmware.revision,
            cntlid=ctrl.config.cntlid,
            power_cycle=ctrl.counters.power_cycles,
            power_on_ms=ctrl.now_ns // _NS_PER_MS,
            timestamp=self._timestamp_ms(ctrl),
        )
        self._add(ctrl, PersistentEvent.POWER_ON_OR_RESET, data)

    def firmware_commit(
        self, ctrl: Controller, old: str, new: str, action: int, slot: int, status: int
    ) -> None:
        """A Firmware Commit command ended; ``status`` is SCT and SC."""
        data = EVENT_FIRMWARE_COMMIT.build(
            ofr=old, nfr=new, fca=action, fs=slot, sct=status >> SCT_SHIFT, sc=status & SC_MASK
        )
        self._add(ctrl, PersistentEvent.FIRMWARE_COMMIT, data)

    def timestamp_changed(self, ctrl: Controller, previous_ms: int) -> None:
        """The host set the Timestamp feature."""
        since = ctrl.features.since_reset_ms(ctrl.now_ns)
        data = EVENT_TIMESTAMP_CHANGED.build(previous=previous_ms, since_reset=since)
        self._add(ctrl, PersistentEvent.TIMESTAMP_CHANGE, data)

    def namespace_changed(self, ctrl: Controller, cdw10: int, namespace: Namespace) -> None:
        """Namespace Management has made or deleted one."""
        data = EVENT_NAMESPACE_CHANGED.build(
            cdw10=cdw10,
            nsze=namespace.nsze,
            ncap=namespace.nsze,
            flbas=FLBAS.pack(fidxl=namespace.format_index),
            nmic=NMIC.pack(shrns=int(namespace.shared)),
            nsid=namespace.nsid,
        )
        self._add(ctrl, PersistentEvent.CHANGE_NAMESPACE, data)

    def format_started(self, ctrl: Controller, nsid: int, fna: int, cdw10: int) -> None:
        """A Format NVM command begins."""
        data = EVENT_FORMAT_STARTED.build(nsid=nsid, fna=fna, cdw10=cdw10)
        self._add(ctrl, PersistentEvent.FORMAT_START, data)

    def format_completed(self, ctrl: Controller, nsid: int, status: int) -> None:
        """A Format NVM command ended; ``status`` is the status field."""
        outcome = _FORMAT_FAILED if status else _FORMAT_OK
        data = EVENT_FORMAT_COMPLETED.build(nsid=nsid, status=outcome, status_field=status)
        self._add(ctrl, PersistentEvent.FORMAT_COMPLETION, data)

    def sanitize_started(self, ctrl: Controller, cdw10: int, cdw11: int) -> None:
        """A Sanitize command has started an operation."""
        data = EVENT_SANITIZE_STARTED.build(sanicap=sanicap(), cdw10=cdw10, cdw11=cdw11)
        self._add(ctrl, PersistentEvent.SANITIZE_START, data)

    def sanitize_completed(self, sprog: int, sstat: int) -> None:
        """A sanitize operation ended."""
        self._add(None, PersistentEvent.SANITIZE_COMPLETION, EVENT_SANITIZE_COMPLETED.build(sprog=sprog, sstat=sstat))

    def thermal_excursion(self, ctrl: Controller, over_k: int) -> None:
        """The composite temperature reached the warning threshold (1) or left it (0)."""
        data = EVENT_THERMAL.build(over_k=min(255, over_k), threshold=1)
        self._add(ctrl, PersistentEvent.THERMAL_EXCURSION, data)

    # -- the log --------------------------------------------------------------------------------------------

    def page(self, ctrl: Controller, lsp: int, smart: bytes) -> bytes:
        """What Get Log Page with this LSP reads. Raises CommandError."""
        cntlid = ctrl.config.cntlid
        action = lsp & 0b11
        if action == _RELEASE:
            self._contexts.pop(cntlid, None)
            return b""
        if action in (_ESTABLISH, _ESTABLISH_AND_READ_HEADER):
            if cntlid in self._contexts:
                raise CommandError(Status.CMD_SEQ_ERROR, location=_LSP)
            self._contexts[cntlid] = self._report(ctrl, smart)
        context = self._contexts.get(cntlid)
        if context is None:
            raise CommandError(Status.CMD_SEQ_ERROR, location=_LSP)
        return context[: PERSISTENT_EVENT_HEADER.size] if action == _ESTABLISH_AND_READ_HEADER else context

    def peek(self, ctrl: Controller, smart: bytes) -> bytes:
        """The log as a context would show it, without one: for those who look from outside."""
        return self._report(ctrl, smart)

    def _report(self, ctrl: Controller, smart: bytes) -> bytes:
        """The whole log, newest event first; a snapshot of SMART is its first."""
        snapshot = EVENT_HEADER.build(
            et=PersistentEvent.SMART_SNAPSHOT,
            etr=1,
            ehl=_EVENT_HEADER_LENGTH,
            ehai=_PORT_NOT_REPORTED,
            cntlid=ctrl.config.cntlid,
            etstmp=self._timestamp_ms(ctrl),
            el=len(smart),
        )
        events = [snapshot + smart, *reversed(self._events)]
        body = b"".join(events)
        return PERSISTENT_EVENT_HEADER.build(**self._header(ctrl, len(events), len(body))) + body

    def _header(self, ctrl: Controller, events: int, nbytes: int) -> dict[str, Any]:
        config = ctrl.config
        from nvme_emu.controller.identify import default_subnqn

        supported = bytearray(32)
        for kind in _OFFERED:
            supported[kind >> 3] |= 1 << (kind & 7)
        return {
            "lid": Lid.PERSISTENT_EVENT,
            "tnev": events,
            "tll": PERSISTENT_EVENT_HEADER.size + nbytes,
            "rv": _REVISION,
            "lhl": _HEADER_LENGTH,
            "tstmp": self._timestamp_ms(ctrl),
            "poh": ctrl.logs.health.power_on_hours,
            "pcc": ctrl.counters.power_cycles,
            "vid": config.vid,
            "ssvid": config.ssvid,
            "sn": config.sn,
            "mn": config.mn,
            "subnqn": config.subnqn or default_subnqn(config),
            "gnum": self._generation,
            "rci": _CONTEXT,
            "seb": bytes(supported),
        }
