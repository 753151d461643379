"""Reservations: which hosts may read and write a namespace (NVMe Base 2.1, 7.5 to 7.8 and 8.1.22).

    type                                holder       registrant   others
    Write Exclusive                     read write   read         read
    Exclusive Access                    read write   -            -
    Write Exclusive - Registrants       read write   read write   read
    Exclusive Access - Registrants      read write   read write   -
    Write Exclusive - All Registrants   every registrant holds    read
    Exclusive Access - All Registrants  every registrant holds    -

A host is its Host Identifier: what it gave to Connect behind a fabric, feature 81h on PCI Express. A reservation
belongs to the namespace and outlives controllers; without Persist Through Power Loss it ends with the power.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

from nvme_emu.controller.holds import Hold
from nvme_emu.controller.locations import PRP1
from nvme_emu.core.errors import CommandError
from nvme_emu.spec.events import AsyncEventType, AsyncIoCommandSetInfo
from nvme_emu.spec.logs import RESERVATION_NOTIFICATION, Lid
from nvme_emu.spec.reservations import ReservationNotice, ReservationType
from nvme_emu.spec.status import Status

if TYPE_CHECKING:
    from nvme_emu.controller.controller import Controller
    from nvme_emu.controller.namespace import Namespace

__all__ = ["NOTICES_KEPT_MAX", "ReservationNotices", "Reservations"]

NOTICES_KEPT_MAX: Final = 255

_T = ReservationType
_ALL: Final = frozenset({_T.WRITE_EXCLUSIVE_ALL, _T.EXCLUSIVE_ACCESS_ALL})
_REGISTRANTS: Final = frozenset({_T.WRITE_EXCLUSIVE_REGISTRANTS, _T.EXCLUSIVE_ACCESS_REGISTRANTS}) | _ALL
_WRITE_EXCLUSIVE: Final = frozenset({_T.WRITE_EXCLUSIVE, _T.WRITE_EXCLUSIVE_REGISTRANTS, _T.WRITE_EXCLUSIVE_ALL})


def _conflict() -> CommandError:
    return CommandError(Status.RESERVATION_CONFLICT)


class ReservationNotices:
    """The reservation notifications of a controller: log page 80h, one a read, oldest first."""

    def __init__(self, ctrl: Controller) -> None:
        self._ctrl = ctrl
        self._notices: deque[tuple[int, int, int]] = deque(maxlen=NOTICES_KEPT_MAX)
        self._count = 0

    def add(self, nsid: int, notice: ReservationNotice) -> None:
        """Something happened to this host's registration or to the reservation, unless it does not want to hear."""
        if nsid not in self._ctrl.namespaces or self._ctrl.features.reservation_masked(nsid, notice):
            return
        self._count += 1
        self._notices.append((self._count, int(notice), nsid))
        self._tell()

    def page(self) -> bytes:
        """The oldest that was not read; an empty page when there is none."""
        if not self._notices:
            return RESERVATION_NOTIFICATION.build()
        count, kind, nsid = self._notices[0]
        available = len(self._notices) - 1
        return RESERVATION_NOTIFICATION.build(log_page_count=count, type=kind, available=available, nsid=nsid)

    def acknowledged(self) -> None:
        """The host has read the oldest."""
        if self._notices:
            self._notices.popleft()

    def tell_again(self) -> None:
        """More are waiting: the next event may be sent."""
        if self._notices:
            self._tell()

    def reset(self) -> None:
        """Controller Level Reset."""
        self._notices.clear()

    def _tell(self) -> None:
        info = AsyncIoCommandSetInfo.RESERVATION_LOG_AVAILABLE
        self._ctrl.events.post(AsyncEventType.IO_COMMAND_SET, info, Lid.RESERVATION_NOTIFICATION)


class Reservations:
    """The registrants of a namespace, by host identifier, and the reservation if there is one."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self.keys: dict[bytes, int] = {}
        self.kind = ReservationType.NONE
        self.holder: bytes | None = None
        self.generation = 0
        self.ptpl = False

    def holds(self, host: bytes) -> bool:
        """Whether a host holds the reservation."""
        return self.kind is not _T.NONE and (host == self.holder or (self.kind in _ALL and host in self.keys))

    def check(self, ctrl: Controller, reads: bool) -> None:
        """Raises CommandError Reservation Conflict for a host that may not do this."""
        host = ctrl.host_id
        if self.kind is _T.NONE or self.holds(host) or (self.kind in _REGISTRANTS and host in self.keys):
            return
        if not (reads and self.kind in _WRITE_EXCLUSIVE):
            raise _conflict()

    # -- changes --------------------------------------------------------------------------------------------

    def reserve(self, host: bytes, kind: ReservationType) -> None:
        """This host has it now."""
        self.holder, self.kind = host, kind
        self._namespace.hold(Hold.RESERVED)

    def release(self) -> None:
        """Nobody has it."""
        self.holder, self.kind = None, ReservationType.NONE
        self._namespace.free(Hold.RESERVED)

    def changed(self) -> None:
        """Registrants have changed: the generation that Reservation Report shows moves."""
        self.generation = (self.generation + 1) & 0xFFFF_FFFF

    def clear(self) -> None:
        """No registrant, no reservation."""
        self.keys.clear()
        self.release()

    def power_lost(self) -> None:
        """The power was off."""
        if not self.ptpl:
            self.clear()
            self.generation = 0

    def unregister(self, ctrl: Controller, host: bytes) -> None:
        """A registrant leaves by itself; what it held is released."""
        held = self.holds(host)
        del self.keys[host]
        if held and (self.kind not in _ALL or not self.keys):
            told = self.kind in _REGISTRANTS
            self.release()
            if told:
                self._tell(ctrl, ReservationNotice.RESERVATION_RELEASED, self.keys)

    def let_go(self, ctrl: Controller) -> None:
        """Its holder releases it; the registrants that could use it hear of that."""
        told = self.kind in _REGISTRANTS
        self.release()
        if told:
            self._tell(ctrl, ReservationNotice.RESERVATION_RELEASED, self.keys)

    def forget(self, ctrl: Controller) -> None:
        """Clear, by one of the registrants: the others hear that they are out."""
        others = list(self.keys)
        self.clear()
        self.changed()
        self._tell(ctrl, ReservationNotice.RESERVATION_PREEMPTED, others)

    def preempt(self, ctrl: Controller, prkey: int, kind: ReservationType) -> list[bytes]:
        """Take registrations, or the reservation, from the hosts of a key; those that lost something.

        Raises CommandError Reservation Conflict when nobody has the key, Invalid Field for key 0 where it means
        nothing.
        """
        host = ctrl.host_id
        everybody = self.kind in _ALL and not prkey
        takes = everybody or (self.holder is not None and self.kind not in _ALL and self.keys.get(self.holder) == prkey)
        if not prkey and not everybody:
            raise CommandError(Status.INVALID_FIELD, location=PRP1)
        lost = [one for one, key in self.keys.items() if one != host and (everybody or key == prkey)]
        if not takes and not lost and prkey not in self.keys.values():
            raise _conflict()
        changed_kind = takes and kind is not self.kind
        for one in lost:
            del self.keys[one]
        if takes:
            self.reserve(host, kind)
        elif self.kind in _ALL and not self.keys:
            self.release()
        self.changed()
        self._tell(ctrl, ReservationNotice.REGISTRATION_PREEMPTED, lost)
        if changed_kind:
            self._tell(ctrl, ReservationNotice.RESERVATION_RELEASED, self.keys)
        return lost

    def _tell(self, ctrl: Controller, notice: ReservationNotice, hosts: Any) -> None:
        """Every controller of these hosts, but those of the host that did it."""
        told = set(hosts) - {ctrl.host_id}
        for other in ctrl.subsystem.controllers.values():
            if other.host_id in told:
                other.reservation_notices.add(self._namespace.nsid, notice)
