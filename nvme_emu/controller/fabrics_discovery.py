"""The discovery controller: an admin queue, Identify, events, and the Discovery log (NVMe Base 2.1, 3.1.3.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from nvme_emu.controller.admin import ADMIN_HANDLERS
from nvme_emu.controller.locations import location
from nvme_emu.core.errors import CommandError
from nvme_emu.spec.commands import (
    GET_LOG_CDW10,
    IDENTIFY_CDW10,
    log_page_length,
    log_page_offset,
)
from nvme_emu.spec.fabrics import discovery_log
from nvme_emu.spec.identify import Cns
from nvme_emu.spec.logs import Lid
from nvme_emu.spec.opcodes import AdminOpcode
from nvme_emu.spec.status import Status

if TYPE_CHECKING:
    from nvme_emu.controller.command import Command, Handler
    from nvme_emu.controller.controller import Controller
    from nvme_emu.controller.fabrics import Association

__all__ = ["discovery_handlers", "discovery_identity"]

_CNTRLTYPE_DISCOVERY: Final = 2
_LID, _CNS = location(10, GET_LOG_CDW10, "lid"), location(10, IDENTIFY_CDW10, "cns")
_LPOL, _NUMDL = (48, 0), location(10, GET_LOG_CDW10, "numdl")

# What a discovery controller has of the ordinary commands (Base 2.1, Figure 28).
_SHARED: Final = (
    AdminOpcode.ABORT,
    AdminOpcode.SET_FEATURES,
    AdminOpcode.GET_FEATURES,
    AdminOpcode.ASYNC_EVENT_REQUEST,
)


def discovery_identity() -> dict[str, Any]:
    """What Identify Controller says otherwise than that of an I/O controller."""
    return {
        "cntrltype": _CNTRLTYPE_DISCOVERY,
        "nn": 0,
        "mnan": 0,
        "oncs": 0,
        "vwc": 0,
        "lpa": 0b100,
        "tnvmcap": 0,
        "sqes": 0,
        "cqes": 0,
        "ioccsz": 0,
        "iorcsz": 0,
    }


def discovery_handlers(keep_alive: Handler, association: Association) -> dict[int, Handler]:
    """The admin commands of one host's discovery controller."""

    def identify(ctrl: Controller, cmd: Command) -> int:
        if IDENTIFY_CDW10["cns"].extract(cmd.cdw10) != Cns.CONTROLLER:
            raise CommandError(Status.INVALID_FIELD, location=_CNS)
        shared = ADMIN_HANDLERS[AdminOpcode.IDENTIFY](ctrl, cmd)
        assert isinstance(shared, int)
        return shared

    def get_log_page(ctrl: Controller, cmd: Command) -> int:
        head = GET_LOG_CDW10.unpack(cmd.cdw10)
        if head.lid != Lid.DISCOVERY:
            raise CommandError(Status.INVALID_LOG_PAGE, location=_LID)
        offset, length = log_page_offset(cmd.cdw12, cmd.cdw13), log_page_length(cmd.cdw10, cmd.cdw11)
        if length > ctrl.transfer_bytes_max:
            raise CommandError(Status.INVALID_FIELD, location=_NUMDL)
        target = association.target
        page = discovery_log(
            target.generation, target.discovery_entries(association.hostnqn, association.address)
        )
        if offset % 4 or offset > len(page):
            raise CommandError(Status.INVALID_FIELD, location=_LPOL)
        ctrl.send(cmd, page[offset : offset + length].ljust(length, b"\0"))
        if not head.rae:
            ctrl.events.acknowledge(head.lid)
        return 0

    handlers: dict[int, Handler] = {opcode: ADMIN_HANDLERS[opcode] for opcode in _SHARED}
    handlers[AdminOpcode.IDENTIFY] = identify
    handlers[AdminOpcode.GET_LOG_PAGE] = get_log_page
    handlers[AdminOpcode.KEEP_ALIVE] = keep_alive
    return handlers
