"""Get Log Page and the pages (NVMe Base 2.1, clause 5.1.12).

    LID  page                                    bytes  cleared by reading it with RAE = 0
    00h  Supported Log Pages                      1024
    01h  Error Information            64 (ELPE + 1)     error events
    02h  SMART / Health Information                512  SMART events
    03h  Firmware Slot Information                 512
    04h  Changed Attached Namespace List          4096  namespace notices, and the list
    05h  Commands Supported and Effects           4096
    06h  Device Self-test                          564
    07h  Telemetry Host-Initiated                variable
    08h  Telemetry Controller-Initiated          variable  telemetry notices
    09h  Endurance Group Information               512  takes the group out of 0Fh
    0Ch  Asymmetric Namespace Access             variable  ANA notices
    0Dh  Persistent Event                        variable
    0Fh  Endurance Group Event Aggregate         variable  endurance group notices
    12h  Feature Identifiers Supported and Effects 1024
    1Ch  Changed Allocated Namespace List         4096    namespace notices, and the list
    BFh  Changed Zone List                        4096  zone notices, and the list
    80h  Reservation Notification                   64    reservation events, one a read
    81h  Sanitize Status                           512    sanitize events

All but BFh are of the controller or the subsystem, so that NSID is 0 or FFFFFFFFh. A request that ends behind the
end of a page gets zeros there; an offset behind it is an Invalid Field in Command. Offsets are bytes: no page
here is an index of structures (Supported Log Pages IOS, CDW14 OT).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from nvme_emu.controller.ana import ana_log
from nvme_emu.controller.endurance import (
    endurance_aggregate_log,
    endurance_group_log,
    group_warning,
    percentage_used,
)
from nvme_emu.controller.error_log import ErrorLog
from nvme_emu.controller.feature_kinds import FEATURES
from nvme_emu.controller.health import Health
from nvme_emu.controller.lba_alerts import lba_status_log
from nvme_emu.controller.locations import NSID, location
from nvme_emu.controller.nvm import NVM_HANDLERS
from nvme_emu.controller.zoned_admin import changed_zones
from nvme_emu.controller.zoned_commands import ZONED_HANDLERS
from nvme_emu.core.errors import CommandError
from nvme_emu.spec.commands import (
    GET_LOG_CDW10,
    GET_LOG_CDW14,
    log_page_length,
    log_page_offset,
)
from nvme_emu.spec.events import AsyncEventType, AsyncNoticeInfo
from nvme_emu.spec.identify import CSI_NVM, CSI_ZONED
from nvme_emu.spec.logs import (
    CHANGED_NAMESPACE_LIST,
    CHANGED_NAMESPACES_MAX,
    CHANGED_NAMESPACES_OVERFLOW,
    COMMAND_EFFECTS,
    COMMANDS_SUPPORTED_AND_EFFECTS,
    FEATURE_EFFECTS,
    FEATURES_SUPPORTED_AND_EFFECTS,
    LID_SUPPORTED,
    SCOPE_CONTROLLER,
    SCOPE_NAMESPACE,
    SCOPE_SUBSYSTEM,
    SMART_HEALTH,
    SUPPORTED_LOG_PAGES,
    TELEMETRY_BLOCK,
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
_LSP_CREATE: Final = 1
"""Log page 07h, LSP bit 0: create the data anew."""

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
        NvmOpcode.ZONE_MANAGEMENT_SEND,
        NvmOpcode.ZONE_APPEND,
    }
)
# What admin commands do beside answering: bits of COMMAND_EFFECTS, and their scope where it is not the controller.
_ADMIN_EFFECTS: Final[dict[int, dict[str, int]]] = {
    AdminOpcode.FORMAT_NVM: {"lbcc": 1, "ncc": 1, "cse": 1, "csp": SCOPE_NAMESPACE},
    AdminOpcode.SANITIZE: {"lbcc": 1, "cse": 2, "csp": SCOPE_SUBSYSTEM},
    AdminOpcode.NAMESPACE_MANAGEMENT: {"nic": 1, "csp": SCOPE_SUBSYSTEM},
    AdminOpcode.NAMESPACE_ATTACHMENT: {"nic": 1, "csp": SCOPE_SUBSYSTEM},
    AdminOpcode.FIRMWARE_COMMIT: {"ccc": 1, "csp": SCOPE_SUBSYSTEM},
    AdminOpcode.GET_LBA_STATUS: {"csp": SCOPE_NAMESPACE},
}
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
        self.changed_allocated: set[int] = set()
        self.changed_zones: dict[int, set[int]] = {}
        """By namespace, the start blocks of zones that changed by themselves."""

    def namespace_changed(self, nsid: int) -> None:
        """A namespace came, went, or looks different in Identify: list it and tell the host (8.1.2.3)."""
        self.changed_namespaces.add(nsid)
        notice = AsyncNoticeInfo.NAMESPACE_ATTRIBUTE_CHANGED
        self._ctrl.events.post(AsyncEventType.NOTICE, notice, Lid.CHANGED_NAMESPACES)

    def allocated_namespace_changed(self, nsid: int) -> None:
        """A namespace of the subsystem, attached here or not, came, went or changed."""
        self.changed_allocated.add(nsid)
        notice = AsyncNoticeInfo.ALLOCATED_NAMESPACE_ATTRIBUTE_CHANGED
        self._ctrl.events.post(AsyncEventType.NOTICE, notice, Lid.CHANGED_ALLOCATED_NAMESPACES)

    def acknowledge(self, lid: int, nsid: int = 0) -> None:
        """The host has read a page without Retain Asynchronous Event: what it told of is old."""
        if lid == Lid.CHANGED_NAMESPACES:
            self.changed_namespaces.clear()
        elif lid == Lid.CHANGED_ALLOCATED_NAMESPACES:
            self.changed_allocated.clear()
        elif lid == Lid.ENDURANCE_GROUP:
            self._ctrl.endurance.looked()
        elif lid == Lid.TELEMETRY_CONTROLLER:
            self._ctrl.telemetry.acknowledged()
        elif lid == Lid.RESERVATION_NOTIFICATION:
            self._ctrl.reservation_notices.acknowledged()
        elif lid == Lid.CHANGED_ZONES:
            self.changed_zones.pop(nsid, None)
        self._ctrl.events.acknowledge(lid, nsid if lid == Lid.CHANGED_ZONES else 0)
        if lid == Lid.RESERVATION_NOTIFICATION:
            self._ctrl.reservation_notices.tell_again()

    def reset(self) -> None:
        """Controller Level Reset: the host will look at every namespace anew."""
        self.changed_namespaces.clear()
        self.changed_allocated.clear()
        self.changed_zones.clear()
        self.health.reset()


# The pages ---------------------------------------------------------------------------------------------


def log_offered(ctrl: Controller, lid: int) -> bool:
    """Whether this controller has a log page."""
    only_if = _ONLY_IF.get(lid)
    return lid in LOG_PAGES and (only_if is None or only_if(ctrl))


def _has_endurance_group(ctrl: Controller) -> bool:
    return ctrl.config.endurance_group


def _has_zones(ctrl: Controller) -> bool:
    return ctrl.subsystem.zns is not None


def _has_ana(ctrl: Controller) -> bool:
    return ctrl.config.ana_groups > 0


def _supported_log_pages(ctrl: Controller, cmd: Command) -> bytes:
    supported = LID_SUPPORTED.pack(lsupp=1)
    return SUPPORTED_LOG_PAGES.build(lid=[supported if log_offered(ctrl, lid) else 0 for lid in range(256)])


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
        pused=percentage_used(ctrl),
        egcws=group_warning(ctrl),
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
        temperature_sensor=health.sensors_k,
        **ctrl.power.smart_fields(),
    )


def _firmware_slot(ctrl: Controller, cmd: Command) -> bytes:
    return ctrl.subsystem.firmware.page()


def _changed_namespaces(ctrl: Controller, cmd: Command) -> bytes:
    return _changed(ctrl.logs.changed_namespaces)


def _changed_allocated(ctrl: Controller, cmd: Command) -> bytes:
    return _changed(ctrl.logs.changed_allocated)


def _changed(nsids: set[int]) -> bytes:
    changed = sorted(nsids)
    if len(changed) > CHANGED_NAMESPACES_MAX:
        changed = [CHANGED_NAMESPACES_OVERFLOW]
    return CHANGED_NAMESPACE_LIST.build(nsid=changed)


def _commands_supported(ctrl: Controller, cmd: Command) -> bytes:
    csi = GET_LOG_CDW14["csi"].extract(cmd.cdw14)
    if csi != CSI_NVM and not (csi == CSI_ZONED and ctrl.subsystem.zns is not None):
        raise CommandError(Status.INVALID_FIELD, location=_CSI)
    admin, nvm = [0] * 256, [0] * 256
    for opcode in ctrl.admin_handlers:
        effects = {"csp": 0 if opcode in _SCOPE_DEPENDS else SCOPE_CONTROLLER, **_ADMIN_EFFECTS.get(opcode, {})}
        admin[opcode] = COMMAND_EFFECTS.pack(csupp=1, **effects)
    for opcode in NVM_HANDLERS if csi == CSI_NVM else ZONED_HANDLERS:
        # Their scope is not reported: Linux (nvme_command_effects) warns of I/O commands with other effects.
        nvm[opcode] = COMMAND_EFFECTS.pack(csupp=1, lbcc=int(opcode in _CHANGES_BLOCKS))
    return COMMANDS_SUPPORTED_AND_EFFECTS.build(acs=admin, iocs=nvm)


def _features_supported(ctrl: Controller, cmd: Command) -> bytes:
    effects = [0] * 256
    for fid, feature in FEATURES.items():
        if ctrl.features.offered(fid) is not None:
            scope = SCOPE_NAMESPACE if feature.per_namespace else feature.scope
            effects[fid] = FEATURE_EFFECTS.pack(fsupp=1, fsp=scope)
    return FEATURES_SUPPORTED_AND_EFFECTS.build(fis=effects)


def _self_test(ctrl: Controller, cmd: Command) -> bytes:
    return ctrl.self_test.page()


def _whole_blocks(cmd: Command) -> None:
    """Telemetry is read in blocks of 512 bytes."""
    if log_page_offset(cmd.cdw12, cmd.cdw13) % TELEMETRY_BLOCK:
        raise CommandError(Status.INVALID_FIELD, location=_LPOL)
    if log_page_length(cmd.cdw10, cmd.cdw11) % TELEMETRY_BLOCK:
        raise CommandError(Status.INVALID_FIELD, location=_NUMDL)


def _telemetry_host(ctrl: Controller, cmd: Command) -> bytes:
    _whole_blocks(cmd)
    return ctrl.telemetry.host_page(bool(GET_LOG_CDW10["lsp"].extract(cmd.cdw10) & _LSP_CREATE))


def _telemetry_controller(ctrl: Controller, cmd: Command) -> bytes:
    _whole_blocks(cmd)
    return ctrl.telemetry.own_page()


def _persistent_event(ctrl: Controller, cmd: Command) -> bytes:
    smart = _smart_health(ctrl, cmd)
    return ctrl.subsystem.persistent_events.page(ctrl, GET_LOG_CDW10["lsp"].extract(cmd.cdw10), smart)


def _reservation_notification(ctrl: Controller, cmd: Command) -> bytes:
    return ctrl.reservation_notices.page()


def _sanitize_status(ctrl: Controller, cmd: Command) -> bytes:
    return ctrl.subsystem.sanitizer.page(ctrl.now_ns)


LOG_PAGES: Final[dict[int, Callable[[Controller, Command], bytes]]] = {
    Lid.SUPPORTED_LOG_PAGES: _supported_log_pages,
    Lid.ERROR_INFORMATION: _error_information,
    Lid.SMART_HEALTH: _smart_health,
    Lid.FIRMWARE_SLOT: _firmware_slot,
    Lid.CHANGED_NAMESPACES: _changed_namespaces,
    Lid.COMMANDS_SUPPORTED_AND_EFFECTS: _commands_supported,
    Lid.DEVICE_SELF_TEST: _self_test,
    Lid.TELEMETRY_HOST: _telemetry_host,
    Lid.TELEMETRY_CONTROLLER: _telemetry_controller,
    Lid.ENDURANCE_GROUP: endurance_group_log,
    Lid.ANA: ana_log,
    Lid.PERSISTENT_EVENT: _persistent_event,
    Lid.LBA_STATUS: lba_status_log,
    Lid.ENDURANCE_GROUP_AGGREGATE: endurance_aggregate_log,
    Lid.FEATURES_SUPPORTED_AND_EFFECTS: _features_supported,
    Lid.CHANGED_ALLOCATED_NAMESPACES: _changed_allocated,
    Lid.RESERVATION_NOTIFICATION: _reservation_notification,
    Lid.CHANGED_ZONES: changed_zones,
    Lid.SANITIZE_STATUS: _sanitize_status,
}
"""The pages that this controller has, by LID; each entry gives the whole page or raises CommandError."""

_ONLY_IF: Final[dict[int, Callable[[Controller], bool]]] = {
    Lid.ENDURANCE_GROUP: _has_endurance_group,
    Lid.ANA: _has_ana,
    Lid.ENDURANCE_GROUP_AGGREGATE: _has_endurance_group,
    Lid.CHANGED_ZONES: _has_zones,
}
"""Pages that depend on the configuration."""


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
    if build is None or not log_offered(ctrl, head.lid):
        raise CommandError(Status.INVALID_LOG_PAGE, location=_LID)
    if cmd.nsid not in (0, NSID_BROADCAST) and head.lid != Lid.CHANGED_ZONES:
        raise CommandError(Status.INVALID_FIELD, location=NSID)
    offset, length = _check_range(ctrl, cmd)
    page = build(ctrl, cmd)
    if offset > len(page):
        raise CommandError(Status.INVALID_FIELD, location=_LPOL)
    ctrl.send(cmd, page[offset : offset + length].ljust(length, b"\0"))
    if not head.rae:
        ctrl.logs.acknowledge(head.lid, cmd.nsid)
    return 0
