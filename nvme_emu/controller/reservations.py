"""The reservation commands (NVMe Base 2.1, 7.5 to 7.8); what they change is in `reservation_state`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from nvme_emu.controller.lasting import keep
from nvme_emu.controller.locations import location
from nvme_emu.controller.nvm_access import Access, active_namespace
from nvme_emu.core.errors import CommandError
from nvme_emu.spec.identify import RESCAP
from nvme_emu.spec.reservations import (
    ACQUIRE_DATA,
    REGISTER_DATA,
    REGISTRANT,
    REGISTRANT_EXTENDED,
    RELEASE_DATA,
    RESERVATION_ACQUIRE_CDW10,
    RESERVATION_REGISTER_CDW10,
    RESERVATION_RELEASE_CDW10,
    RESERVATION_REPORT_CDW11,
    RESERVATION_STATUS,
    RESERVATION_STATUS_EXTENDED,
    ReservationType,
)
from nvme_emu.spec.status import Status

if TYPE_CHECKING:
    from nvme_emu.controller.command import Command
    from nvme_emu.controller.controller import Controller
    from nvme_emu.controller.reservation_state import Reservations

__all__ = [
    "RESERVATION_CAPABILITIES",
    "reservation_acquire",
    "reservation_register",
    "reservation_release",
    "reservation_report",
]

REGISTRANTS_MAX: Final = 512
"""Hosts that may be registered with a namespace: our own bound."""
RESERVATION_CAPABILITIES: Final = RESCAP.pack(ptpl=1, wer=1, ear=1, wero=1, earo=1, wear=1, eaar=1, iekr=1)
"""Identify Namespace RESCAP."""

_T = ReservationType

_REGISTER, _UNREGISTER, _REPLACE = range(3)
_ACQUIRE, _PREEMPT, _PREEMPT_AND_ABORT = range(3)
_RELEASE, _CLEAR = range(2)
_PTPL_RESERVED, _PTPL_CLEAR, _PTPL_SET = 1, 2, 3
_CNTLID_NONE: Final = 0xFFFF

_RREGA = location(10, RESERVATION_REGISTER_CDW10, "rrega")
_CPTPL = location(10, RESERVATION_REGISTER_CDW10, "cptpl")
_RACQA = location(10, RESERVATION_ACQUIRE_CDW10, "racqa")
_IEKEY = location(10, RESERVATION_ACQUIRE_CDW10, "iekey")
_RTYPE = location(10, RESERVATION_ACQUIRE_CDW10, "rtype")
_RRELA = location(10, RESERVATION_RELEASE_CDW10, "rrela")
_EDS = location(11, RESERVATION_REPORT_CDW11, "eds")
_NUMD = (40, 0)


def _conflict() -> CommandError:
    return CommandError(Status.RESERVATION_CONFLICT)


# Commands ----------------------------------------------------------------------------------------------


def _state(ctrl: Controller, cmd: Command) -> Reservations:
    """The namespace's reservations, for a host that has said who it is (CTRATT.RHII)."""
    namespace = active_namespace(ctrl, cmd, Access.RESERVATION)
    if not any(ctrl.host_id):
        raise CommandError(Status.HOST_ID_NOT_INITIALIZED)
    return namespace.reservations


def _check_key(state: Reservations, host: bytes, crkey: int) -> None:
    if state.keys.get(host) != crkey:
        raise _conflict()


def reservation_register(ctrl: Controller, cmd: Command) -> int:
    """Reservation Register (opcode 0Dh): register, unregister, or replace the key."""
    how = RESERVATION_REGISTER_CDW10.unpack(cmd.cdw10)
    state = _state(ctrl, cmd)
    if how.rrega > _REPLACE:
        raise CommandError(Status.INVALID_FIELD, location=_RREGA)
    if how.cptpl == _PTPL_RESERVED:
        raise CommandError(Status.INVALID_FIELD, location=_CPTPL)
    keys = REGISTER_DATA.parse(ctrl.receive(cmd, REGISTER_DATA.size))
    host = ctrl.host_id
    if how.rrega == _REGISTER:
        if state.keys.get(host, keys.nrkey) != keys.nrkey:
            raise _conflict()
        if host not in state.keys and len(state.keys) >= REGISTRANTS_MAX:
            raise _conflict()
        state.keys[host] = keys.nrkey
    else:
        if host not in state.keys and not (how.rrega == _REPLACE and how.iekey):
            raise _conflict()
        if not how.iekey:
            _check_key(state, host, keys.crkey)
        if how.rrega == _UNREGISTER:
            state.unregister(ctrl, host)
        else:
            state.keys[host] = keys.nrkey
    if how.cptpl in (_PTPL_CLEAR, _PTPL_SET):
        state.ptpl = how.cptpl == _PTPL_SET
    state.changed()
    keep(ctrl)
    return 0


def _kind(rtype: int) -> ReservationType:
    if rtype == _T.NONE or rtype not in set(_T):
        raise CommandError(Status.INVALID_FIELD, location=_RTYPE)
    return _T(rtype)


def reservation_acquire(ctrl: Controller, cmd: Command) -> int:
    """Reservation Acquire (opcode 11h): acquire, preempt, preempt and abort."""
    how = RESERVATION_ACQUIRE_CDW10.unpack(cmd.cdw10)
    state = _state(ctrl, cmd)
    if how.racqa > _PREEMPT_AND_ABORT:
        raise CommandError(Status.INVALID_FIELD, location=_RACQA)
    if how.iekey:
        raise CommandError(Status.INVALID_FIELD, location=_IEKEY)
    kind = _kind(how.rtype)
    keys = ACQUIRE_DATA.parse(ctrl.receive(cmd, ACQUIRE_DATA.size))
    host = ctrl.host_id
    _check_key(state, host, keys.crkey)
    if how.racqa == _ACQUIRE:
        if state.kind is _T.NONE:
            state.reserve(host, kind)
        elif not state.holds(host) or state.kind is not kind:
            raise _conflict()
        keep(ctrl)
        return 0
    lost = state.preempt(ctrl, keys.prkey, kind)
    keep(ctrl)
    if how.racqa == _PREEMPT_AND_ABORT:
        _abort_commands(ctrl, cmd.nsid, lost)
    return 0


def _abort_commands(ctrl: Controller, nsid: int, hosts: list[bytes]) -> None:
    for other in ctrl.subsystem.controllers.values():
        if other.host_id not in hosts:
            continue
        for cmd in [cmd for cmd in other.outstanding.values() if cmd.sqid and cmd.nsid == nsid]:
            other.complete(cmd, status=Status.CMD_ABORTED_PREEMPT)


def reservation_release(ctrl: Controller, cmd: Command) -> int:
    """Reservation Release (opcode 15h): release what the host holds, or clear everything."""
    how = RESERVATION_RELEASE_CDW10.unpack(cmd.cdw10)
    state = _state(ctrl, cmd)
    if how.rrela > _CLEAR:
        raise CommandError(Status.INVALID_FIELD, location=_RRELA)
    if how.iekey:
        raise CommandError(Status.INVALID_FIELD, location=_IEKEY)
    keys = RELEASE_DATA.parse(ctrl.receive(cmd, RELEASE_DATA.size))
    host = ctrl.host_id
    _check_key(state, host, keys.crkey)
    if how.rrela == _CLEAR:
        state.forget(ctrl)
    elif state.holds(host):
        if _kind(how.rtype) is not state.kind:
            raise CommandError(Status.INVALID_FIELD, location=_RTYPE)
        state.let_go(ctrl)
    keep(ctrl)
    return 0


def reservation_report(ctrl: Controller, cmd: Command) -> int:
    """Reservation Report (opcode 0Eh): the registrants, one entry a controller of theirs."""
    state = active_namespace(ctrl, cmd, Access.RESERVATION).reservations
    nbytes = (cmd.cdw10 + 1) * 4
    if nbytes > ctrl.transfer_bytes_max:
        raise CommandError(Status.INVALID_FIELD, location=_NUMD)
    extended = RESERVATION_REPORT_CDW11["eds"].extract(cmd.cdw11)
    if any(ctrl.host_id) and extended != ctrl.host_id_is_extended:
        raise CommandError(Status.HOSTID_FORMAT, location=_EDS)
    entries = []
    for host, key in state.keys.items():
        ids = sorted(cntlid for cntlid, one in ctrl.subsystem.controllers.items() if one.host_id == host)
        entry: dict[str, Any] = {"rcsts": int(state.holds(host)), "rkey": key}
        entry["hostid"] = host if extended else host[:8]
        structure = REGISTRANT_EXTENDED if extended else REGISTRANT
        entries += [structure.build(cntlid=cntlid, **entry) for cntlid in ids or [_CNTLID_NONE]]
    header = RESERVATION_STATUS_EXTENDED if extended else RESERVATION_STATUS
    report = header.build(
        gen=state.generation, rtype=state.kind, regctl=len(entries), ptpls=int(state.ptpl)
    ) + b"".join(entries)
    ctrl.send(cmd, report[:nbytes].ljust(nbytes, b"\0"))
    return 0
