"""Asynchronous events and the requests that wait for them (NVMe Base 2.1, clause 5.1.2).

    the host                            the controller
    Asynchronous Event Request  ──►     waits, up to AERL + 1 of them
                                        something happens: post(type, info, lid)
    completion (type, info, lid) ◄──    one request is used up; events of this type are masked
    Get Log Page lid, RAE = 0    ──►    the mask is gone, the event and its repetitions with it

An event for which no request waits, or whose type is masked, is kept; equal events are kept once. Immediate
and one-shot events have no log page to read and mask nothing. A Controller Level Reset forgets everything:
requests are dropped without a completion.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from nvme_emu.controller.command import PENDING, Command, Pending
from nvme_emu.controller.feature_kinds import NOTICES_OFFERED
from nvme_emu.core.errors import CommandError
from nvme_emu.core.trace import AsyncEvent
from nvme_emu.spec.events import AsyncEventType, async_event_dw0
from nvme_emu.spec.features import ASYNC_EVENT_CONFIG
from nvme_emu.spec.status import Status

if TYPE_CHECKING:
    from nvme_emu.controller.config import ControllerConfig
    from nvme_emu.controller.controller import Controller

__all__ = ["EVENTS_KEPT_MAX", "AsyncEvents", "async_event_request", "notices_offered"]

EVENTS_KEPT_MAX: Final = 64
"""How many different events are kept for a host that does not ask; the oldest are lost first."""

_UNMASKED: Final = frozenset({AsyncEventType.IMMEDIATE, AsyncEventType.ONE_SHOT})


def notices_offered(config: ControllerConfig, zoned: bool = False) -> int:
    """The notices that a controller sends: bits of feature 0Bh and of OAES."""
    notices = NOTICES_OFFERED
    if zoned:
        notices |= ASYNC_EVENT_CONFIG.mask("zdcn")
    if config.ana_groups:
        notices |= ASYNC_EVENT_CONFIG.mask("anacn")
    if config.endurance_group:
        notices |= ASYNC_EVENT_CONFIG.mask("egealcn")
    return notices


class _Kept(NamedTuple):
    event_type: int
    info: int
    lid: int
    parameter: int = 0
    """Event Specific Parameter, dword 1: the namespace of a zone notice."""

    @property
    def dwords(self) -> int:
        return async_event_dw0(self.event_type, self.info, self.lid) | self.parameter << 32


class AsyncEvents:
    """Events that happened, requests that wait, and the types that the host must clear first."""

    def __init__(self, ctrl: Controller) -> None:
        self._ctrl = ctrl
        self._requests: deque[Command] = deque()
        self._kept: list[_Kept] = []
        self._masked: dict[int, int] = {}  # event type -> the log page whose reading clears it

    @property
    def outstanding(self) -> int:
        """How many Asynchronous Event Requests wait."""
        return len(self._requests)

    @property
    def kept(self) -> int:
        """How many events wait for a request or for their type to be cleared."""
        return len(self._kept)

    def post(self, event_type: int, info: int, lid: int, parameter: int = 0) -> None:
        """Something happened: report it, keep it, or drop it if the host did not enable it (feature 0Bh)."""
        event = _Kept(int(event_type), int(info), int(lid), parameter)
        if not self._ctrl.features.event_enabled(event.event_type, event.info):
            return
        emit = self._ctrl.trace.emit
        if emit is not None:
            emit(AsyncEvent(self._ctrl.now_ns, *event[:3]))
        if event in self._kept:
            return
        if len(self._kept) >= EVENTS_KEPT_MAX:
            del self._kept[0]
        self._kept.append(event)
        self._deliver()
        self._ctrl.look_at_me()

    def submit(self, cmd: Command) -> int | Literal[Pending.PENDING]:
        """A request arrived: dword 0 when an event is there for it, PENDING otherwise.

        Raises CommandError Asynchronous Event Request Limit Exceeded beyond AERL + 1.
        """
        if len(self._requests) > self._ctrl.config.aerl_z:
            raise CommandError(Status.ASYNC_LIMIT, dnr=False)
        event = self._take()
        if event is not None:
            return event.dwords
        self._requests.append(cmd)
        return PENDING

    def acknowledge(self, lid: int, parameter: int = 0) -> None:
        """The host read log page ``lid`` without Retain Asynchronous Event: what it tells of is cleared.

        That holds for events that were not reported yet too: their notification is not sent (clause 5.1.2).
        """
        self._kept = [
            event
            for event in self._kept
            if event.lid != lid or event.event_type in _UNMASKED or event.parameter not in (0, parameter)
        ]
        self._masked = {kind: page for kind, page in self._masked.items() if page != lid}
        self._deliver()

    def withdraw(self, cmd: Command) -> None:
        """Forget a request that ends otherwise (Abort)."""
        if cmd in self._requests:
            self._requests.remove(cmd)

    def reset(self) -> None:
        """Controller Level Reset: requests are dropped without a completion, events and masks forgotten."""
        self._requests.clear()
        self._kept.clear()
        self._masked.clear()

    def _take(self) -> _Kept | None:
        """The oldest event that may be reported now, masking its type; None if there is none."""
        enabled = self._ctrl.features.event_enabled
        self._kept = [event for event in self._kept if enabled(event.event_type, event.info)]
        for number, event in enumerate(self._kept):
            if event.event_type in self._masked:
                continue
            del self._kept[number]
            if event.event_type not in _UNMASKED:
                self._masked[event.event_type] = event.lid
            return event
        return None

    def _deliver(self) -> None:
        while self._requests:
            event = self._take()
            if event is None:
                return
            self._ctrl.complete(self._requests.popleft(), dw0=event.dwords)


def async_event_request(ctrl: Controller, cmd: Command) -> int | Literal[Pending.PENDING]:
    """Asynchronous Event Request (opcode 0Ch)."""
    return ctrl.events.submit(cmd)
