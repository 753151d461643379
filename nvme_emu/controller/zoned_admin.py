"""Zoned namespaces at the admin queue: Identify, Namespace Management, command set profile, Changed Zone List.

Zoned Namespace Command Set 1.2, clauses 4.1.1 (events), 4.1.4 (log), 4.1.5 (Identify) and 4.1.6 (management).

Controllers offer the command set where the configuration (`ControllerConfig.zns`) says so, or the image holds a zoned
namespace. Then there are two combinations of command sets: both, which is in force after a reset, and NVM alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from nvme_emu.controller.locations import NSID, PRP1, location
from nvme_emu.controller.metadata import formats_offered
from nvme_emu.controller.zns_config import ZnsConfig
from nvme_emu.controller.zone_states import ZoneAction
from nvme_emu.core.errors import CommandError
from nvme_emu.spec.commands import IDENTIFY_CDW11
from nvme_emu.spec.events import AsyncEventType, AsyncNoticeInfo
from nvme_emu.spec.features import Fid
from nvme_emu.spec.identify import CSI_NVM, CSI_ZONED, IOCSV, Cns, namespace_list
from nvme_emu.spec.logs import Lid
from nvme_emu.spec.queues import NSID_BROADCAST
from nvme_emu.spec.status import Status
from nvme_emu.spec.zns import (
    CHANGED_ZONE_LIST,
    CHANGED_ZONES_MAX,
    CHANGED_ZONES_OVERFLOW,
    IDENTIFY_ZNS_CONTROLLER,
    IDENTIFY_ZNS_NAMESPACE,
    NO_LIMIT,
    OZCS,
    ZDES_UNIT,
    ZNS_NS_MANAGEMENT,
    ZNS_NS_MANAGEMENT_AT,
)

if TYPE_CHECKING:
    from nvme_emu.controller.command import Command
    from nvme_emu.controller.controller import Controller
    from nvme_emu.controller.namespace import Namespace
    from nvme_emu.controller.subsystem import NvmSubsystem

__all__ = [
    "PROFILES_BOTH",
    "PROFILE_NVM_ONLY",
    "ZONED_IDENTIFIES",
    "asked_for_zoned",
    "break_zone",
    "changed_zones",
    "check_enabled",
    "check_profile",
    "command_set_list",
    "command_set_of",
    "io_command_sets",
    "zones_asked_for",
]

PROFILES_BOTH: Final = 0
PROFILE_NVM_ONLY: Final = 1
_CSI, _CNSSID = location(11, IDENTIFY_CDW11, "csi"), location(11, IDENTIFY_CDW11, "cnssid")


# Which command set --------------------------------------------------------------------------------------


def command_set_of(namespace: Namespace) -> int:
    """The CSI of a namespace."""
    return CSI_NVM if namespace.zones is None else CSI_ZONED


def asked_for_zoned(ctrl: Controller, cmd: Command) -> bool:
    """Whether Identify asks with CSI 02h, and that is offered."""
    return IDENTIFY_CDW11["csi"].extract(cmd.cdw11) == CSI_ZONED and ctrl.subsystem.zns is not None


def command_set_list(namespaces: Mapping[int, Namespace], csi: int, after: int) -> bytes:
    """The identifiers above ``after`` of the namespaces of a command set."""
    return namespace_list((nsid for nsid, one in namespaces.items() if command_set_of(one) == csi), after=after)


def io_command_sets(ctrl: Controller) -> list[int]:
    """The combinations of Identify CNS 1Ch, in the order of their indexes."""
    if ctrl.subsystem.zns is None:
        return [IOCSV.pack(nvmcs=1)]
    return [IOCSV.pack(nvmcs=1, zncs=1), IOCSV.pack(nvmcs=1)]


def check_profile(ctrl: Controller, index: int) -> bool:
    """Whether the host may select this combination: it is there, and no attached namespace needs another."""
    if index >= len(io_command_sets(ctrl)):
        return False
    return index == PROFILES_BOTH or all(one.zones is None for one in ctrl.namespaces.values())


def check_enabled(ctrl: Controller, namespace: Namespace) -> None:
    """Raises CommandError where the host has chosen command sets without this namespace's."""
    if namespace.zones is not None and ctrl.features.current(Fid.IO_COMMAND_SET_PROFILE) == PROFILE_NVM_ONLY:
        raise CommandError(Status.IOCS_NOT_ENABLED, location=NSID)


# Identify -----------------------------------------------------------------------------------------------


def _checked(cmd: Command, ctrl: Controller) -> int:
    if not 1 <= cmd.nsid <= ctrl.config.namespaces_max:
        raise CommandError(Status.INVALID_NS, location=NSID)
    return cmd.nsid


def _lower_bound(cmd: Command) -> int:
    if cmd.nsid >= NSID_BROADCAST - 1:
        raise CommandError(Status.INVALID_NS, location=NSID)
    return cmd.nsid


def _data(ctrl: Controller, zns: ZnsConfig | None) -> bytes:
    assert zns is not None, "the command set is offered"
    sizes = [0 if one.ms else 1 << one.lbads for one in formats_offered(ctrl.config)]
    return IDENTIFY_ZNS_NAMESPACE.build(
        ozcs=OZCS.pack(razb=int(zns.cross_read)),
        mar=zns.max_active - 1 if zns.max_active else NO_LIMIT,
        mor=zns.max_open_resources - 1 if zns.max_open_resources else NO_LIMIT,
        lbafe=[{"zsze": zns.zone_size // size, "zdes": zns.zdes // ZDES_UNIT} if size else {} for size in sizes],
    )


def _data_of(ctrl: Controller, namespace: Namespace | None) -> bytes:
    if namespace is None:
        return IDENTIFY_ZNS_NAMESPACE.build()
    if namespace.zones is None:
        raise CommandError(Status.INVALID_FIELD, location=_CSI)
    return _data(ctrl, namespace.zones.config)


def _namespace(ctrl: Controller, cmd: Command) -> bytes:
    if cmd.nsid == NSID_BROADCAST:
        return _data(ctrl, ctrl.subsystem.zns)
    return _data_of(ctrl, ctrl.namespaces.get(_checked(cmd, ctrl)))


def _format(ctrl: Controller, cmd: Command) -> bytes:
    if IDENTIFY_CDW11["cnssid"].extract(cmd.cdw11) >= len(formats_offered(ctrl.config)):
        raise CommandError(Status.INVALID_FIELD, location=_CNSSID)
    return _data(ctrl, ctrl.subsystem.zns)


def _controller(ctrl: Controller, cmd: Command) -> bytes:
    zns = ctrl.subsystem.zns
    assert zns is not None, "the command set is offered"
    return IDENTIFY_ZNS_CONTROLLER.build(zasl=zns.zasl)


def _active_list(ctrl: Controller, cmd: Command) -> bytes:
    return command_set_list(ctrl.namespaces, CSI_ZONED, _lower_bound(cmd))


def _allocated_list(ctrl: Controller, cmd: Command) -> bytes:
    return command_set_list(ctrl.subsystem.namespaces, CSI_ZONED, _lower_bound(cmd))


def _allocated(ctrl: Controller, cmd: Command) -> bytes:
    return _data_of(ctrl, ctrl.subsystem.namespaces.get(_checked(cmd, ctrl)))


ZONED_IDENTIFIES: Final[dict[int, Callable[[Controller, Command], bytes]]] = {
    Cns.IOCS_NAMESPACE: _namespace,
    Cns.IOCS_CONTROLLER: _controller,
    Cns.IOCS_ACTIVE_NAMESPACE_LIST: _active_list,
    Cns.IOCS_NAMESPACE_FORMAT: _format,
    Cns.IOCS_ALLOCATED_NAMESPACE_LIST: _allocated_list,
    Cns.IOCS_ALLOCATED_NAMESPACE: _allocated,
}
"""What Identify answers with CSI 02h, by CNS."""


# Namespace Management -----------------------------------------------------------------------------------


def zones_asked_for(ctrl: Controller, data: bytes, nsze: int, lba_size: int) -> ZnsConfig:
    """How the namespace is to be made that a host creates with CSI 02h. Raises CommandError.

    RAR and ROR may ask for fewer resources than there are; zero takes them all.
    """
    zns = ctrl.subsystem.zns
    assert zns is not None, "the command set is offered"
    options, active, opened, zrwa = ZNS_NS_MANAGEMENT.unpack_from(data, ZNS_NS_MANAGEMENT_AT)
    wrong = options or zrwa or nsze % (zns.zone_size // lba_size)
    wrong = wrong or (zns.max_active and active > zns.max_active)
    wrong = wrong or (zns.max_open_resources and opened > zns.max_open_resources)
    if wrong or (active and opened > active):
        raise CommandError(Status.INVALID_FIELD, location=PRP1)
    active = active or zns.max_active
    opened = opened or (min(zns.max_open, active) if active else zns.max_open)
    try:
        return replace(zns, max_active=active, max_open=opened, read_only=(), offline=())
    except ValueError as error:
        raise CommandError(Status.INVALID_FIELD, location=PRP1) from error


# Zones that change by themselves ------------------------------------------------------------------------


def break_zone(subsystem: NvmSubsystem, nsid: int, index: int, action: ZoneAction) -> None:
    """The medium below a zone fails: it is Read Only or Offline from now on, and hosts are told.

    Raises ValueError for a zone that there is not, CommandError for a state in which that cannot happen.
    """
    namespace = subsystem.namespaces.get(nsid)
    if namespace is None or namespace.zones is None:
        raise ValueError(f"nsid {nsid} is no zoned namespace")
    zones = namespace.zones
    if not 0 <= index < len(zones.zones):
        raise ValueError(f"zone {index}: namespace {nsid} has {len(zones.zones)}")
    zone = zones.zones[index]
    zones.act(zone, action)
    namespace.unsaved = True
    subsystem.save()
    for ctrl in subsystem.controllers.values():
        if nsid in ctrl.namespaces:
            ctrl.logs.changed_zones.setdefault(nsid, set()).add(zone.start)
            notice = AsyncNoticeInfo.ZONE_DESCRIPTOR_CHANGED
            ctrl.events.post(AsyncEventType.NOTICE, notice, Lid.CHANGED_ZONES, nsid)


def changed_zones(ctrl: Controller, cmd: Command) -> bytes:
    """Log page BFh of a namespace. Raises CommandError for NSID FFFFFFFFh and for one that is not zoned."""
    if cmd.nsid == NSID_BROADCAST or not 1 <= cmd.nsid <= ctrl.config.namespaces_max:
        raise CommandError(Status.INVALID_NS, location=NSID)
    namespace = ctrl.namespaces.get(cmd.nsid)
    if namespace is None or namespace.zones is None:
        raise CommandError(Status.INVALID_FIELD, location=NSID)
    changed = sorted(ctrl.logs.changed_zones.get(cmd.nsid, ()))
    if len(changed) > CHANGED_ZONES_MAX:
        return CHANGED_ZONE_LIST.build(nrzid=CHANGED_ZONES_OVERFLOW)
    return CHANGED_ZONE_LIST.build(nrzid=len(changed), zid=changed)
