"""Get Log Page and the pages (NVMe Base 2.1, clause 5.1.12).

    LID  page                                    bytes  cleared by reading it with RAE = 0
    00h  Supported Log Pages                      1024
    01h  Error Information            64 (ELPE + 1)     error events
    02h  SMART / Health Information                512  SMART events
    03h  Firmware Slot Information                 512
    04h  Changed Attached Namespace List          4096  namespace notices, and the list
    05h  Commands Supported and Effects           4096
    12h  Feature Identifiers Supported and Effects 1024

All are of the controller or the subsystem, so that NSID is 0 or FFFFFFFFh. A request that ends behind the
end of a page gets zeros there; an offset behind it is an Invalid Field in Command. Offsets are bytes: no page
here is an index of structures (Supported Log Pages IOS, CDW14 OT).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from nvme_emu.controller.error_log import ErrorLog
from nvme_emu.controller.feature_kinds import FEATURES
from nvme_emu.controller.health import Health
from nvme_emu.controller.locations import NSID, location
from nvme_emu.controller.nvm import NVM_HANDLERS
from nvme_emu.core.errors import CommandError
from nvme_emu.spec.commands import (
    GET_LOG_CDW10,
    GET_LOG_CDW14,
    log_page_length,
    log_page_offset,
)
from nvme_emu.spec.events import AsyncEventType, AsyncNoticeInfo
from nvme_emu.spec.identify import CSI_NVM
from nvme_emu.spec.logs import (
    CHANGED_NAMESPACE_LIST,
    CHANGED_NAMESPACES_MAX,
    CHANGED_NAMESPACES_OVERFLOW,
    COMMAND_EFFECTS,
    COMMANDS_SUPPORTED_AND_EFFECTS,
    FEATURE_EFFECTS,
    FEATURES_SUPPORTED_AND_EFFECTS,
    FIRMWARE_ACTIVE,
    FIRMWARE_SLOT_INFORMATION,
    FIRMWARE_SLOTS,
    LID_SUPPORTED,
    SCOPE_CONTROLLER,
    SCOPE_NAMESPACE,
    SMART_HEALTH,
    SUPPORTED_LOG_PAGES,
    Lid,
)
from nvme_emu.spec.opcodes import AdminOpcode, NvmOpcode
from nvme_emu.spec.queues import NSID_BROADCAST
from nvme_emu.spec.status import Status

if TYPE_CHECKING:
    from nvme_emu.controller.command import Command
    from nvme_emu.controller.controller import Controller

__all__ = ["LOG_PAGES", "ErrorLog", "Logs", "get_log_page"]

_TRANSFER_MAX: Final = 1 << 24
"""Bytes of one Get Log Page where MDTS sets no limit: our own bound on what one command may cost."""
_FIRMWARE_SLOT: Final = 1

_LID = location(10, GET_LOG_CDW10, "lid")
_NUMDL = location(10, GET_LOG_CDW10, "numdl")
_LPOL = (48, 0)
_OT = location(14, GET_LOG_CDW14, "ot")
_CSI = location(14, GET_LOG_CDW14, "csi")

# Commands of the NVM command set that change what is in logical blocks.
_CHANGES_BLOCKS: Final = frozenset(
    {
        NvmOpcode.WRITE,
        NvmOpcode.WRITE_UNCORRECTABLE,
        NvmOpcode.WRITE_ZEROES,
        NvmOpcode.DATASET_MANAGEMENT,
        NvmOpcode.COPY,
    }
)
# Commands whose scope depends on what they are asked for: none is reported.
_SCOPE_DEPENDS: Final = frozenset(
    {AdminOpcode.GET_LOG_PAGE, AdminOpcode.IDENTIFY, AdminOpcode.SET_FEATURES, AdminOpcode.GET_FEATURES}
)


class Logs:
    """What the log pages tell that no other part of the controller keeps: health, and changed namespaces."""

    def __init__(self, ctrl: Controller) -> None:
        self._ctrl = ctrl
        self.health = Health(ctrl)
        self.changed_namespaces: set[int] = set()

    def namespace_changed(self, nsid: int) -> None:
        """A namespace came, went, or looks different in Identify: list it and tell the host (8.1.2.3)."""
        self.changed_namespaces.add(nsid)
        notice = AsyncNoticeInfo.NAMESPACE_ATTRIBUTE_CHANGED
        self._ctrl.events.post(AsyncEventType.NOTICE, notice, Lid.CHANGED_NAMESPACES)

    def reset(self) -> None:
        """Controller Level Reset: the host will look at every namespace anew."""
        self.changed_namespaces.clear()
        self.health.reset()


# The pages ---------------------------------------------------------------------------------------------


def _supported_log_pages(ctrl: Controller, cmd: Command) -> bytes:
    supported = LID_SUPPORTED.pack(lsupp=1)
    return SUPPORTED_LOG_PAGES.build(lid=[supported if lid in LOG_PAGES else 0 for lid in range(256)])


def _error_information(ctrl: Controller, cmd: Command) -> bytes:
    return ctrl.error_log.page()


def _smart_health(ctrl: Controller, cmd: Command) -> bytes:
    health, counters = ctrl.logs.health, ctrl.counters
    health.tick()
    return SMART_HEALTH.build(
        critical_warning=health.critical_warning,
        composite_temperature=health.temperature_k,
        avsp=health.available_spare,
        avspt=health.spare_threshold,
        pused=health.percentage_used,
        data_units_read=counters.data_units_read,
        data_units_written=counters.data_units_written,
        host_read_commands=counters.read_commands,
        host_write_commands=counters.write_commands,
        controller_busy_time=counters.busy_minutes,
        power_cycles=counters.power_cycles,
        power_on_hours=health.power_on_hours,
        unsafe_shutdowns=counters.unsafe_shutdowns,
        media_errors=counters.media_errors,
        num_err_log_entries=ctrl.error_log.error_count,
        warning_temp_time=health.warning_minutes,
        critical_temp_time=health.critical_minutes,
    )


def _firmware_slot(ctrl: Controller, cmd: Command) -> bytes:
    active = FIRMWARE_ACTIVE.pack(afs=_FIRMWARE_SLOT)
    # A slot without a revision reads as zeros, not as the spaces that fill a string.
    empty = [bytes(8)] * (FIRMWARE_SLOTS - 1)
    return FIRMWARE_SLOT_INFORMATION.build(afi=active, frs=[ctrl.config.fr, *empty])


def _changed_namespaces(ctrl: Controller, cmd: Command) -> bytes:
    changed = sorted(ctrl.logs.changed_namespaces)
    if len(changed) > CHANGED_NAMESPACES_MAX:
        changed = [CHANGED_NAMESPACES_OVERFLOW]
    return CHANGED_NAMESPACE_LIST.build(nsid=changed)


def _commands_supported(ctrl: Controller, cmd: Command) -> bytes:
    if GET_LOG_CDW14["csi"].extract(cmd.cdw14) != CSI_NVM:
        raise CommandError(Status.INVALID_FIELD, location=_CSI)
    admin, nvm = [0] * 256, [0] * 256
    for opcode in ctrl.admin_handlers:
        admin[opcode] = COMMAND_EFFECTS.pack(csupp=1, csp=0 if opcode in _SCOPE_DEPENDS else SCOPE_CONTROLLER)
    for opcode in NVM_HANDLERS:
        # Their scope is not reported: Linux (nvme_command_effects) warns of I/O commands with other effects.
        nvm[opcode] = COMMAND_EFFECTS.pack(csupp=1, lbcc=int(opcode in _CHANGES_BLOCKS))
    return COMMANDS_SUPPORTED_AND_EFFECTS.build(acs=admin, iocs=nvm)


def _features_supported(ctrl: Controller, cmd: Command) -> bytes:
    effects = [0] * 256
    for fid, feature in FEATURES.items():
        if ctrl.features.offered(fid) is not None:
            scope = SCOPE_NAMESPACE if feature.per_namespace else SCOPE_CONTROLLER
            effects[fid] = FEATURE_EFFECTS.pack(fsupp=1, fsp=scope)
    return FEATURES_SUPPORTED_AND_EFFECTS.build(fis=effects)


LOG_PAGES: Final[dict[int, Callable[[Controller, Command], bytes]]] = {
    Lid.SUPPORTED_LOG_PAGES: _supported_log_pages,
    Lid.ERROR_INFORMATION: _error_information,
    Lid.SMART_HEALTH: _smart_health,
    Lid.FIRMWARE_SLOT: _firmware_slot,
    Lid.CHANGED_NAMESPACES: _changed_namespaces,
    Lid.COMMANDS_SUPPORTED_AND_EFFECTS: _commands_supported,
    Lid.FEATURES_SUPPORTED_AND_EFFECTS: _features_supported,
}
"""The pages that this controller has, by LID; each entry gives the whole page or raises CommandError."""


def _check_range(ctrl: Controller, cmd: Command) -> tuple[int, int]:
    """(offset, length) in bytes of what is asked for. Raises CommandError."""
    if GET_LOG_CDW14["ot"].extract(cmd.cdw14):
        raise CommandError(Status.INVALID_FIELD, location=_OT)
    length = log_page_length(cmd.cdw10, cmd.cdw11)
    if length > min(ctrl.transfer_bytes_max, _TRANSFER_MAX):
        raise CommandError(Status.INVALID_FIELD, location=_NUMDL)
    offset = log_page_offset(cmd.cdw12, cmd.cdw13)
    if offset % 4:
        raise CommandError(Status.INVALID_FIELD, location=_LPOL)
    return offset, length


def get_log_page(ctrl: Controller, cmd: Command) -> int:
    """Get Log Page (opcode 02h). An unknown LID is an Invalid Log Page."""
    head = GET_LOG_CDW10.unpack(cmd.cdw10)
    build = LOG_PAGES.get(head.lid)
    if build is None:
        raise CommandError(Status.INVALID_LOG_PAGE, location=_LID)
    if cmd.nsid not in (0, NSID_BROADCAST):
        raise CommandError(Status.INVALID_FIELD, location=NSID)
    offset, length = _check_range(ctrl, cmd)
    page = build(ctrl, cmd)
    if offset > len(page):
        raise CommandError(Status.INVALID_FIELD, location=_LPOL)
    ctrl.send(cmd, page[offset : offset + length].ljust(length, b"\0"))
    if not head.rae:
        if head.lid == Lid.CHANGED_NAMESPACES:
            ctrl.logs.changed_namespaces.clear()
        ctrl.events.acknowledge(head.lid)
    return 0
