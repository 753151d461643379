"""Namespace Management and Namespace Attachment (NVMe Base 2.1, 5.1.20, 5.1.21 and 8.1.15).

    create ──► allocated, attached to nobody ──attach──► active at controllers ──detach──► allocated …  delete ──► gone

Deleting detaches first. Whoever had the namespace hears of it by an event (Attached Namespace Attribute Changed).
"""

from __future__ import annotations

import itertools
import struct
from typing import TYPE_CHECKING, Any, Final

from nvme_emu.controller.endurance import group_of
from nvme_emu.controller.holds import WriteProtection
from nvme_emu.controller.locations import NSID, PRP1, location
from nvme_emu.controller.metadata import fits, formats_offered
from nvme_emu.controller.namespace import LBA_FORMATS, Namespace
from nvme_emu.controller.zoned_admin import check_enabled, zones_asked_for
from nvme_emu.core.errors import CommandError
from nvme_emu.spec.commands_admin import ATTACH_CDW10, NS_MANAGEMENT_CDW10, NS_MANAGEMENT_CDW11
from nvme_emu.spec.identify import (
    CSI_NVM,
    CSI_ZONED,
    DPS,
    FLBAS,
    IDENTIFY_SIZE,
    NMIC,
    NS_MANAGEMENT,
    flbas_index,
)
from nvme_emu.spec.protection import PiType
from nvme_emu.spec.queues import NSID_BROADCAST
from nvme_emu.spec.status import Status

if TYPE_CHECKING:
    from nvme_emu.controller.command import Command
    from nvme_emu.controller.controller import Controller

__all__ = ["namespace_attachment", "namespace_management"]

_CREATE, _DELETE = 0, 1
_ATTACH, _DETACH = 0, 1
_CONTROLLERS_MAX: Final = 2047

_SEL = location(10, NS_MANAGEMENT_CDW10, "sel")
_CSI = location(11, NS_MANAGEMENT_CDW11, "csi")
_ATTACH_SEL = location(10, ATTACH_CDW10, "sel")


# Namespace Management ----------------------------------------------------------------------------------


def namespace_management(ctrl: Controller, cmd: Command) -> int:
    """Namespace Management (opcode 0Dh): dword 0 of a create is the new namespace's identifier."""
    ctrl.subsystem.sanitizer.refuse_admin()
    ctrl.subsystem.check_writable()
    select = NS_MANAGEMENT_CDW10["sel"].extract(cmd.cdw10)
    if select == _CREATE:
        return _create(ctrl, cmd)
    if select == _DELETE:
        return _delete(ctrl, cmd)
    raise CommandError(Status.INVALID_FIELD, location=_SEL)


def _create(ctrl: Controller, cmd: Command) -> int:
    csi = NS_MANAGEMENT_CDW11["csi"].extract(cmd.cdw11)
    if csi != CSI_NVM and not (csi == CSI_ZONED and ctrl.subsystem.zns is not None):
        raise CommandError(Status.IOCS_NOT_SUPPORTED, location=_CSI)
    if cmd.nsid:
        # The controller chooses the identifier.
        raise CommandError(Status.INVALID_FIELD, location=NSID)
    data = ctrl.receive(cmd, IDENTIFY_SIZE)
    asked = NS_MANAGEMENT.parse(data)
    index = _format_of(ctrl, asked)
    if csi == CSI_ZONED and LBA_FORMATS[index].ms:
        raise CommandError(Status.INVALID_FORMAT, location=PRP1)
    if asked.nsze < asked.ncap or not asked.nsze:
        raise CommandError(Status.INVALID_FIELD, location=PRP1)
    if asked.nsze > asked.ncap:
        raise CommandError(Status.THIN_PROV_NOT_SUPP, location=PRP1)
    zoned = zones_asked_for(ctrl, data, asked.nsze, 1 << LBA_FORMATS[index].lbads) if csi == CSI_ZONED else None
    subsystem = ctrl.subsystem
    nsid = subsystem.free_nsid()
    if nsid is None:
        raise CommandError(Status.NS_ID_UNAVAILABLE)
    lba_size = 1 << LBA_FORMATS[index].lbads
    media = subsystem.capacity.take(asked.nsze * (lba_size + LBA_FORMATS[index].ms))
    if media is None:
        raise CommandError(Status.NS_INSUFFICIENT_CAP, location=PRP1)
    try:
        shared = bool(NMIC["shrns"].extract(asked.nmic))
        namespace = subsystem.create(nsid, media, lba_size, asked.nsze, shared, asked.anagrpid, zoned)
        dps = DPS.unpack(asked.dps)
        extended = bool(FLBAS["mcdb"].extract(asked.flbas))
        namespace.set_format(
            index, pi=PiType(dps.pit), first=bool(dps.pip), extended=extended, blocks=asked.nsze
        )
    except OSError as error:
        subsystem.capacity.give(media)
        ctrl.counters.media_errors += 1
        raise CommandError(Status.INTERNAL, dnr=False) from error
    subsystem.persistent_events.namespace_changed(ctrl, cmd.cdw10, namespace)
    return nsid


def _format_of(ctrl: Controller, asked: Any) -> int:
    """The LBA format that is asked for. Raises CommandError for what this controller does not have."""
    index = flbas_index(asked.flbas)
    formats, extended = formats_offered(ctrl.config), bool(FLBAS["mcdb"].extract(asked.flbas))
    pi, wrong = DPS["pit"].extract(asked.dps), asked.dps & DPS.reserved_mask
    if index >= len(formats) or wrong or not fits(ctrl.config, formats[index].ms, pi, extended):
        raise CommandError(Status.INVALID_FORMAT, location=PRP1)
    if asked.anagrpid > ctrl.config.ana_groups:
        status = Status.ANA_GROUP_ID_INVALID if ctrl.config.ana_groups else Status.INVALID_FIELD
        raise CommandError(status, location=PRP1)
    if asked.nvmsetid or asked.endgid not in (0, group_of(ctrl.config)) or asked.nmic & ~NMIC.mask("shrns"):
        raise CommandError(Status.INVALID_FIELD, location=PRP1)
    return index


def _delete(ctrl: Controller, cmd: Command) -> int:
    """NSID FFFFFFFFh deletes all."""
    chosen = _allocated(ctrl, cmd)
    if any(namespace.protection is not WriteProtection.NONE for namespace in chosen):
        raise CommandError(Status.NS_WRITE_PROTECTED)
    for namespace in chosen:
        ctrl.subsystem.delete(namespace.nsid)
        ctrl.subsystem.persistent_events.namespace_changed(ctrl, cmd.cdw10, namespace)
    return 0


def _allocated(ctrl: Controller, cmd: Command) -> list[Namespace]:
    namespaces = ctrl.subsystem.namespaces
    if cmd.nsid == NSID_BROADCAST:
        return list(namespaces.values())
    if not 1 <= cmd.nsid <= ctrl.config.namespaces_max:
        raise CommandError(Status.INVALID_NS, location=NSID)
    namespace = namespaces.get(cmd.nsid)
    if namespace is None:
        raise CommandError(Status.INVALID_FIELD, location=NSID)
    return [namespace]


# Namespace Attachment ----------------------------------------------------------------------------------


def namespace_attachment(ctrl: Controller, cmd: Command) -> int:
    """Namespace Attachment (opcode 15h): to the controllers of the list, all of them or, with an error, none."""
    ctrl.subsystem.sanitizer.refuse_admin()
    select = ATTACH_CDW10["sel"].extract(cmd.cdw10)
    if select not in (_ATTACH, _DETACH):
        raise CommandError(Status.INVALID_FIELD, location=_ATTACH_SEL)
    if cmd.nsid == NSID_BROADCAST:
        raise CommandError(Status.INVALID_FIELD, location=NSID)
    (namespace,) = _allocated(ctrl, cmd)
    chosen = _controllers(ctrl, cmd)
    subsystem = ctrl.subsystem
    had = subsystem.attached_to(namespace.nsid)
    if select == _DETACH:
        if any(one.config.cntlid not in had for one in chosen):
            raise CommandError(Status.NS_NOT_ATTACHED)
        for one in chosen:
            subsystem.detach(one, namespace.nsid)
        return 0
    if any(one.config.cntlid in had for one in chosen):
        raise CommandError(Status.NS_ALREADY_ATTACHED)
    if not namespace.shared and len(had) + len(chosen) > 1:
        raise CommandError(Status.NS_IS_PRIVATE)
    for one in chosen:
        check_enabled(one, namespace)
    for one in chosen:
        subsystem.attach(one, namespace.nsid)
    return 0


def _controllers(ctrl: Controller, cmd: Command) -> list[Controller]:
    """The controllers of the list in host memory: ascending, without repetition, each of this subsystem."""
    data = ctrl.receive(cmd, IDENTIFY_SIZE)
    (count,) = struct.unpack_from("<H", data)
    if not 0 < count <= _CONTROLLERS_MAX:
        raise CommandError(Status.CTRL_LIST_INVALID, location=PRP1)
    cntlids = struct.unpack_from(f"<{count}H", data, 2)
    known = ctrl.subsystem.controllers
    ascending = all(one < other for one, other in itertools.pairwise(cntlids))
    if not ascending or any(cntlid not in known for cntlid in cntlids):
        raise CommandError(Status.CTRL_LIST_INVALID, location=PRP1)
    return [known[cntlid] for cntlid in cntlids]
