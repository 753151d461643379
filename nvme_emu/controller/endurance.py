"""The endurance group: the flash that all namespaces share, and how it wears (NVMe Base 2.1, 3.2.3).

The subsystem has one, number 1, without NVM sets. Its log (09h) has the counts of all controllers; the
media's come from the device model: programs of whole units, padding and garbage collection included, so that media
over host units is the write amplification. A device without a model programs what the host writes.

    a critical warning that feature 18h asks for ──► the group is in log 0Fh ──event──► the host
    log 09h read with RAE = 0 ──► the group is out of log 0Fh
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from nvme_emu.controller.locations import location
from nvme_emu.core.errors import CommandError
from nvme_emu.spec.commands import GET_LOG_CDW11, IDENTIFY_CDW11
from nvme_emu.spec.endurance import (
    ENDURANCE_GROUP_AGGREGATE,
    ENDURANCE_GROUP_LIST,
    ENDURANCE_GROUP_LOG,
    ENDURANCE_GROUP_WARNING,
    ENDURANCE_UNIT_BYTES,
)
from nvme_emu.spec.events import AsyncEventType, AsyncNoticeInfo
from nvme_emu.spec.features import ENDURANCE_GROUP_EVENT_CONFIG, Fid
from nvme_emu.spec.logs import CRITICAL_WARNING, Lid
from nvme_emu.spec.status import Status

if TYPE_CHECKING:
    from nvme_emu.controller.command import Command
    from nvme_emu.controller.config import ControllerConfig
    from nvme_emu.controller.controller import Controller

__all__ = [
    "ENDGID",
    "EnduranceEvents",
    "endurance_aggregate_log",
    "endurance_group_list",
    "endurance_group_log",
    "group_of",
    "group_warning",
    "media_bytes_written",
    "percentage_used",
]

ENDGID: Final = 1
"""The one group."""

_USED_MAX: Final = 255
_LSI = location(11, GET_LOG_CDW11, "lsi")

# Which critical warnings of the controller are the group's too.
_WARNINGS: Final = {"ascbt": "ascbt", "ndr": "egdr", "amro": "egro"}


def group_of(config: ControllerConfig) -> int:
    """The endurance group of every namespace; 0 where none is offered."""
    return ENDGID if config.endurance_group else 0


def group_warning(ctrl: Controller) -> int:
    """Endurance Group Critical Warning: what any controller of the subsystem knows of the flash."""
    if not ctrl.config.endurance_group:
        return 0
    present = 0
    for one in {**ctrl.subsystem.controllers, ctrl.config.cntlid: ctrl}.values():
        present |= one.logs.health.critical_warning
    flags = {theirs: int(bool(present & CRITICAL_WARNING.mask(ours))) for ours, theirs in _WARNINGS.items()}
    return ENDURANCE_GROUP_WARNING.pack(**flags)


def _units(nbytes: int) -> int:
    return -(-nbytes // ENDURANCE_UNIT_BYTES)


def _totals(ctrl: Controller) -> dict[str, int]:
    """What the controllers of the subsystem have counted; those of a fabric share their counters."""
    controllers = {**ctrl.subsystem.controllers, ctrl.config.cntlid: ctrl}.values()
    counters = {id(one.counters): one.counters for one in controllers}.values()
    names = ("read_bytes", "write_bytes", "read_commands", "write_commands", "media_errors")
    totals = {name: sum(getattr(one, name) for one in counters) for name in names}
    totals["errors"] = sum(one.error_log.error_count for one in controllers)
    return totals


def media_bytes_written(ctrl: Controller) -> int:
    """Bytes programmed into the flash: the device model's count, or what hosts have written without a model.

    A model counts from when it was made; what hosts wrote in an earlier life of an image was programmed once.
    """
    written = _totals(ctrl)["write_bytes"]
    counted = getattr(ctrl.latency, "counters", None)
    if counted is None:
        return written
    return max(0, written - int(counted.host_write_bytes)) + int(counted.media_write_bytes)


def percentage_used(ctrl: Controller) -> int:
    """Percentage Used: what was set, and what was programmed of all that the rated cycles allow; 255 at most."""
    lifetime = ctrl.subsystem.capacity.total * ctrl.config.rated_cycles
    worn = media_bytes_written(ctrl) * 100 // lifetime if lifetime else 0
    return min(_USED_MAX, ctrl.logs.health.percentage_used + worn)


class EnduranceEvents:
    """The aggregate log of a controller: whether its group has an event that the host has not looked at."""

    def __init__(self, ctrl: Controller) -> None:
        self._ctrl = ctrl
        self._raised = 0
        self.pending = False

    def evaluate(self) -> None:
        """Compare the group's warnings with what the host wants to hear of; a new one is an event."""
        ctrl = self._ctrl
        if not ctrl.config.endurance_group:
            return
        wanted = ENDURANCE_GROUP_EVENT_CONFIG["egcw"].extract(
            ctrl.features.current(Fid.ENDURANCE_GROUP_EVENT_CONFIG, selector=ENDGID)
        )
        present = group_warning(ctrl) & wanted
        new, self._raised = present & ~self._raised, present
        if new and not self.pending:
            self.pending = True
            notice = AsyncNoticeInfo.ENDURANCE_GROUP_EVENT
            ctrl.events.post(AsyncEventType.NOTICE, notice, Lid.ENDURANCE_GROUP_AGGREGATE)

    def looked(self) -> None:
        """The host has read the group's log without retaining its event."""
        self.pending = False

    def reset(self) -> None:
        """Controller Level Reset."""
        self._raised = 0
        self.pending = False

    def page(self) -> bytes:
        """Log page 0Fh."""
        groups = [ENDGID] if self.pending else []
        return ENDURANCE_GROUP_AGGREGATE.build(nent=len(groups)) + struct.pack(f"<{len(groups)}H", *groups)


def endurance_group_log(ctrl: Controller, cmd: Command) -> bytes:
    """Log page 09h of the group that LSI names."""
    if GET_LOG_CDW11["lsi"].extract(cmd.cdw11) != ENDGID:
        raise CommandError(Status.INVALID_FIELD, location=_LSI)
    health, totals = ctrl.logs.health, _totals(ctrl)
    capacity = ctrl.subsystem.capacity
    return ENDURANCE_GROUP_LOG.build(
        egcw=group_warning(ctrl),
        avsp=health.available_spare,
        avspt=health.spare_threshold,
        pused=percentage_used(ctrl),
        ee=_units(ctrl.subsystem.capacity.total * ctrl.config.rated_cycles),
        dur=_units(totals["read_bytes"]),
        duw=_units(totals["write_bytes"]),
        muw=_units(media_bytes_written(ctrl)),
        hrc=totals["read_commands"],
        hwc=totals["write_commands"],
        mdie=totals["media_errors"],
        neile=totals["errors"],
        tegcap=capacity.total,
        uegcap=capacity.unallocated,
    )


def endurance_aggregate_log(ctrl: Controller, cmd: Command) -> bytes:
    """Log page 0Fh."""
    return ctrl.endurance.page()


def endurance_group_list(ctrl: Controller, cmd: Command) -> bytes:
    """CNS 19h: the groups from the identifier in CNSSID on."""
    first = IDENTIFY_CDW11["cnssid"].extract(cmd.cdw11)
    found = [ENDGID] if first <= ENDGID else []
    return ENDURANCE_GROUP_LIST.build(numid=len(found), endgid=found)
