"""The I/O commands of zoned namespaces (Zoned Namespace Command Set 1.2, clause 3).

Those of the NVM Command Set are done by its own handlers, between a look at the zones before and the moving of a write
pointer after. A command is executed in one go, so that nothing comes between the two.

What lasts: a write pointer is kept when data is made durable (Flush, FUA, shutdown), a zone's end (Finish, Reset,
Offline, a descriptor extension) before the command completes. A zone is reset on record before its data goes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from nvme_emu.controller.lasting import keep_changes
from nvme_emu.controller.latency import Op
from nvme_emu.controller.locations import location
from nvme_emu.controller.nvm import NVM_HANDLERS
from nvme_emu.controller.nvm_access import Access, active_namespace, extent, fail_medium, written
from nvme_emu.controller.nvm_metadata import METADATA_HANDLERS
from nvme_emu.controller.zone_states import ZoneAction
from nvme_emu.controller.zones import Zone, Zones
from nvme_emu.core.errors import CommandError, DmaError
from nvme_emu.spec.commands import DSM_AD, DSM_NR_MASK, DSM_RANGE, DSM_RANGE_SIZE, RW_FUA, join64, split64
from nvme_emu.spec.opcodes import NvmOpcode
from nvme_emu.spec.registers import CC, CC_CSS_IOCS
from nvme_emu.spec.status import Status
from nvme_emu.spec.zns import (
    REPORT_HEADER_BYTES,
    ZONE_APPEND_CDW12,
    ZONE_DESCRIPTOR_BYTES,
    ZONE_RECEIVE_CDW13,
    ZONE_SEND_CDW13,
    ReportOption,
    ZoneReceiveAction,
    ZoneSendAction,
    ZoneState,
    build_zone_report,
)

if TYPE_CHECKING:
    from nvme_emu.controller.command import Command, Handler, Pending
    from nvme_emu.controller.config import ControllerConfig
    from nvme_emu.controller.controller import Controller
    from nvme_emu.controller.namespace import Namespace

__all__ = ["ZONED_HANDLERS", "append_bytes_max", "io_handlers"]

_REPORT_BYTES_MAX: Final = 1 << 24
"""Bytes of one report where MDTS sets no limit: our own bound on what one command may cost."""

_SLBA, _NUMD, _NSID = (40, 0), (48, 0), (4, 0)
_PIREMAP = location(12, ZONE_APPEND_CDW12, "piremap")
_ZSA, _ZSASO = location(13, ZONE_SEND_CDW13, "zsa"), location(13, ZONE_SEND_CDW13, "zsaso")
_SELECT_ALL = location(13, ZONE_SEND_CDW13, "select_all")
_ZRA, _ZRASF = location(13, ZONE_RECEIVE_CDW13, "zra"), location(13, ZONE_RECEIVE_CDW13, "zrasf")
_PIREMAP_SET: Final = ZONE_APPEND_CDW12.mask("piremap")


def _zones(namespace: Namespace) -> Zones:
    zones = namespace.zones
    assert zones is not None, "the handlers of zoned namespaces are asked for these only"
    return zones


def _keep(ctrl: Controller, namespace: Namespace) -> None:
    """What the zones have become is kept, after the data below their write pointers. Raises CommandError."""
    try:
        namespace.media.flush()
    except OSError as error:
        fail_medium(ctrl, error, Status.WRITE_FAULT)
    keep_changes(ctrl, namespace)


# Commands of the NVM Command Set ------------------------------------------------------------------------


def _reading(opcode: int, limit: Callable[[ControllerConfig], int]) -> Handler:
    """The command, after a look whether its blocks can be read."""
    handler = NVM_HANDLERS[opcode]

    def read(ctrl: Controller, cmd: Command) -> int | Pending:
        namespace = active_namespace(ctrl, cmd, Access.READ)
        offset, nbytes = extent(cmd, namespace, limit(ctrl.config))
        _zones(namespace).check_read(offset >> namespace.lba_shift, nbytes >> namespace.lba_shift)
        return handler(ctrl, cmd)

    return read


def _writing(opcode: int, limit: Callable[[ControllerConfig], int], lasts: bool = False) -> Handler:
    """The command, at a write pointer, which it moves. ``lasts`` says that it always is durable."""
    handler = NVM_HANDLERS[opcode]

    def write(ctrl: Controller, cmd: Command) -> int | Pending:
        namespace = active_namespace(ctrl, cmd, Access.WRITE)
        offset, nbytes = extent(cmd, namespace, limit(ctrl.config))
        zones, blocks = _zones(namespace), nbytes >> namespace.lba_shift
        zone = zones.check_write(offset >> namespace.lba_shift, blocks)
        try:
            done = handler(ctrl, cmd)
        except (CommandError, DmaError, OSError):
            namespace.deallocate_above(zone)  # a part may have been written
            raise
        zones.written(zone, blocks)
        namespace.unsaved = True
        if lasts or cmd.cdw12 & RW_FUA or ctrl.write_through:
            _keep(ctrl, namespace)
        return done

    return write


def _copy(ctrl: Controller, cmd: Command) -> int | Pending:
    """It looks after the zones by itself, but for a write that fails."""
    try:
        return NVM_HANDLERS[NvmOpcode.COPY](ctrl, cmd)
    except (CommandError, DmaError, OSError):
        namespace, sdlba = ctrl.namespaces[cmd.nsid], join64(cmd.cdw10, cmd.cdw11)
        if sdlba < namespace.nsze:
            namespace.deallocate_above(_zones(namespace).at(sdlba))
        raise


def _deallocate(ctrl: Controller, cmd: Command) -> int | Pending:
    """Dataset Management moves no write pointer; nothing is deallocated in zones that cannot be written."""
    namespace = active_namespace(ctrl, cmd, Access.WRITE)
    count = (cmd.cdw10 & DSM_NR_MASK) + 1
    if cmd.cdw11 & DSM_AD:
        for _, blocks, slba in DSM_RANGE.iter_unpack(ctrl.receive(cmd, count * DSM_RANGE_SIZE)):
            if blocks and slba + blocks <= namespace.nsze:
                _zones(namespace).check_changeable(slba, blocks)
    return NVM_HANDLERS[NvmOpcode.DATASET_MANAGEMENT](ctrl, cmd)


# Zone Append --------------------------------------------------------------------------------------------


def append_bytes_max(config: ControllerConfig, zasl: int) -> int:
    """The largest Zone Append in bytes; 0 for no limit."""
    return 1 << (12 + config.mpsmin + zasl) if zasl else config.mdts_bytes


_write = _writing(NvmOpcode.WRITE, lambda config: config.mdts_bytes)


def _zone_append(ctrl: Controller, cmd: Command) -> int | Pending:
    """A Write at the write pointer of the zone that begins at ZSLBA; dwords 0 and 1 say where that was."""
    namespace = active_namespace(ctrl, cmd, Access.WRITE)
    _, nbytes = extent(cmd, namespace, append_bytes_max(ctrl.config, _zones(namespace).config.zasl))
    if cmd.cdw12 & _PIREMAP_SET:
        # For namespaces with protection information, which a zoned one never has here.
        raise CommandError(Status.INVALID_FIELD, location=_PIREMAP)
    zone = _zones(namespace).starting_at(join64(cmd.cdw10, cmd.cdw11))
    slba = zone.wp
    _zones(namespace).check_write(slba, nbytes >> namespace.lba_shift)
    cmd.cdw10, cmd.cdw11 = split64(slba)
    _write(ctrl, cmd)
    return slba


# Zone Management Send -----------------------------------------------------------------------------------

_ACTIONS: Final[dict[int, ZoneAction]] = {
    ZoneSendAction.CLOSE: ZoneAction.CLOSE,
    ZoneSendAction.FINISH: ZoneAction.FINISH,
    ZoneSendAction.OPEN: ZoneAction.OPEN,
    ZoneSendAction.RESET: ZoneAction.RESET,
    ZoneSendAction.OFFLINE: ZoneAction.OFFLINE,
}
_OPENED: Final = (ZoneState.IMPLICITLY_OPENED, ZoneState.EXPLICITLY_OPENED)
SELECTED: Final[dict[ZoneAction, tuple[ZoneState, ...]]] = {
    ZoneAction.CLOSE: _OPENED,
    ZoneAction.FINISH: (*_OPENED, ZoneState.CLOSED),
    ZoneAction.OPEN: (ZoneState.CLOSED,),
    ZoneAction.RESET: (*_OPENED, ZoneState.CLOSED, ZoneState.FULL),
    ZoneAction.OFFLINE: (ZoneState.READ_ONLY,),
}
"""The zones that Select All means."""
_LASTING: Final = frozenset({ZoneAction.FINISH, ZoneAction.RESET, ZoneAction.OFFLINE})


def _zone_management_send(ctrl: Controller, cmd: Command) -> int:
    namespace = active_namespace(ctrl, cmd, Access.WRITE)
    how = ZONE_SEND_CDW13.unpack(cmd.cdw13)
    if how.zsa == ZoneSendAction.SET_EXTENSION:
        return _set_extension(ctrl, cmd, namespace, bool(how.select_all))
    action = _ACTIONS.get(how.zsa)
    if action is None:
        raise CommandError(Status.INVALID_FIELD, location=_ZSA)
    if how.zsaso and action is ZoneAction.OPEN:
        # A Zone Random Write Area is not offered (OZCS.ZRWASUP).
        raise CommandError(Status.INVALID_FIELD, location=_ZSASO)
    zones = _zones(namespace)
    if how.select_all:
        changed = zones.act_on_all(SELECTED[action], action)
    else:
        changed = [zones.starting_at(join64(cmd.cdw10, cmd.cdw11))]
        zones.act(changed[0], action)
    namespace.unsaved = namespace.unsaved or bool(changed)
    if action in _LASTING:
        _keep(ctrl, namespace)
    if action is ZoneAction.RESET:
        _deallocate_zones(ctrl, cmd, namespace, changed)
    return 0


def _deallocate_zones(ctrl: Controller, cmd: Command, namespace: Namespace, changed: list[Zone]) -> None:
    shift, size = namespace.lba_shift, _zones(namespace).size
    try:
        for zone in changed:
            ctrl.delay(cmd, Op.DISCARD, zone.start << shift, size << shift)
            namespace.media.discard(zone.start << shift, size << shift)
            written(namespace, zone.start, size)
    except OSError as error:
        fail_medium(ctrl, error, Status.WRITE_FAULT)


def _set_extension(ctrl: Controller, cmd: Command, namespace: Namespace, select_all: bool) -> int:
    zones = _zones(namespace)
    if not zones.config.zdes:
        raise CommandError(Status.INVALID_FIELD, location=_ZSA)
    if select_all:
        raise CommandError(Status.INVALID_FIELD, location=_SELECT_ALL)
    zone = zones.starting_at(join64(cmd.cdw10, cmd.cdw11))
    zones.extend(zone, ctrl.receive(cmd, zones.config.zdes))
    namespace.unsaved = True
    _keep(ctrl, namespace)
    return 0


# Zone Management Receive --------------------------------------------------------------------------------

_REPORTED: Final[dict[int, ZoneState | None]] = {
    option: None if option is ReportOption.ALL else ZoneState[option.name] for option in ReportOption
}


def _zone_management_receive(ctrl: Controller, cmd: Command) -> int:
    """A report from the zone of SLBA on: how many zones there are of a kind, and as many descriptors as fit."""
    namespace = active_namespace(ctrl, cmd, Access.READ)
    zones = _zones(namespace)
    how = ZONE_RECEIVE_CDW13.unpack(cmd.cdw13)
    if how.zra not in set(ZoneReceiveAction) or (how.zra and not zones.config.zdes):
        raise CommandError(Status.INVALID_FIELD, location=_ZRA)
    if how.zrasf not in _REPORTED:
        raise CommandError(Status.INVALID_FIELD, location=_ZRASF)
    slba = join64(cmd.cdw10, cmd.cdw11)
    if slba >= namespace.nsze:
        raise CommandError(Status.LBA_RANGE, location=_SLBA)
    nbytes = 4 * (cmd.cdw12 + 1)
    if nbytes < REPORT_HEADER_BYTES or nbytes > min(ctrl.transfer_bytes_max, _REPORT_BYTES_MAX):
        raise CommandError(Status.INVALID_FIELD, location=_NUMD)
    extension_bytes = zones.config.zdes if how.zra == ZoneReceiveAction.EXTENDED_REPORT else 0
    state = _REPORTED[how.zrasf]
    wanted = [zone for zone in zones.zones[slba // zones.size :] if state is None or zone.state is state]
    fitting = wanted[: (nbytes - REPORT_HEADER_BYTES) // (ZONE_DESCRIPTOR_BYTES + extension_bytes)]
    told = [zones.describe(zone) for zone in fitting]
    if not extension_bytes:
        told = [one._replace(extension=b"") for one in told]
    report = build_zone_report(len(told) if how.partial else len(wanted), told, extension_bytes)
    ctrl.send(cmd, report.ljust(nbytes, b"\0"))
    return 0


# The table ----------------------------------------------------------------------------------------------

ZONED_HANDLERS: dict[int, Handler] = {
    **NVM_HANDLERS,
    NvmOpcode.READ: _reading(NvmOpcode.READ, lambda config: config.mdts_bytes),
    NvmOpcode.COMPARE: _reading(NvmOpcode.COMPARE, lambda config: config.mdts_bytes),
    NvmOpcode.VERIFY: _reading(NvmOpcode.VERIFY, lambda config: config.vsl_bytes),
    NvmOpcode.WRITE: _write,
    NvmOpcode.WRITE_ZEROES: _writing(NvmOpcode.WRITE_ZEROES, lambda config: config.wzsl_bytes),
    NvmOpcode.WRITE_UNCORRECTABLE: _writing(NvmOpcode.WRITE_UNCORRECTABLE, lambda config: config.wusl_bytes, True),
    NvmOpcode.DATASET_MANAGEMENT: _deallocate,
    NvmOpcode.COPY: _copy,
    NvmOpcode.ZONE_APPEND: _zone_append,
    NvmOpcode.ZONE_MANAGEMENT_SEND: _zone_management_send,
    NvmOpcode.ZONE_MANAGEMENT_RECEIVE: _zone_management_receive,
}
"""The commands of zoned namespaces, by opcode."""


def io_handlers(ctrl: Controller, cmd: Command) -> dict[int, Handler]:
    """What a command of an I/O queue is looked up in. Raises CommandError for a command set that CC.CSS leaves out."""
    namespace = ctrl.namespaces.get(cmd.nsid)
    if namespace is None or namespace.zones is None:
        return NVM_HANDLERS if namespace is None or namespace.layout is None else METADATA_HANDLERS
    if CC["css"].extract(ctrl.registers.cc) != CC_CSS_IOCS:
        raise CommandError(Status.INVALID_NS, location=_NSID)
    return ZONED_HANDLERS
