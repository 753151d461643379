"""The admin commands that this controller offers, by opcode, and Abort (NVMe Base 2.1, clause 5).

An opcode that is not in ``ADMIN_HANDLERS`` is answered with Invalid Command Opcode; Keep Alive is one of them
as long as Identify Controller reports KAS as 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

from nvme_emu.controller.command import Command, Handler, Pending
from nvme_emu.controller.directives import directive_receive, directive_send
from nvme_emu.controller.events import async_event_request
from nvme_emu.controller.features import get_features, set_features
from nvme_emu.controller.firmware import firmware_commit, firmware_download
from nvme_emu.controller.format_nvm import format_nvm
from nvme_emu.controller.identify import identify
from nvme_emu.controller.lasting import keep
from nvme_emu.controller.lba_status import get_lba_status
from nvme_emu.controller.logs import get_log_page
from nvme_emu.controller.namespace_admin import namespace_attachment, namespace_management
from nvme_emu.controller.pcie.shadow import doorbell_buffer_config
from nvme_emu.controller.queue_admin import create_io_cq, create_io_sq, delete_io_cq, delete_io_sq
from nvme_emu.controller.sanitize import sanitize
from nvme_emu.controller.security import security_receive, security_send
from nvme_emu.controller.self_test import device_self_test
from nvme_emu.core.errors import CommandError
from nvme_emu.spec.commands import ABORT_CDW10, ABORT_DW0_NOT_ABORTED
from nvme_emu.spec.opcodes import AdminOpcode
from nvme_emu.spec.status import Status

if TYPE_CHECKING:
    from nvme_emu.controller.config import ControllerConfig
    from nvme_emu.controller.controller import Controller

__all__ = ["ADMIN_HANDLERS", "OPTIONAL_ADMIN_HANDLERS", "abort", "handlers_of"]

_ADMIN_SQID: Final = 0


def abort(ctrl: Controller, cmd: Command) -> int:
    """Abort (opcode 08h, clause 5.1.1): dword 0 bit 0 is 0 if the command was aborted, 1 if it was not.

    What waits for its completion time and Asynchronous Event Requests are aborted at once: their completion
    (Command Abort Requested) is posted before the Abort's, so that the host may use the identifier again.
    Other admin commands have had their effect when they are fetched and can only be awaited.
    Raises CommandError Abort Command Limit Exceeded beyond ACL + 1 Aborts in flight.
    """
    in_flight = ctrl.outstanding
    others = sum(
        1
        for other in in_flight.values()
        if other is not cmd and other.sqid == _ADMIN_SQID and other.opcode == AdminOpcode.ABORT
    )
    if others > ctrl.config.acl_z:
        raise CommandError(Status.ABORT_LIMIT, dnr=False)
    which = ABORT_CDW10.unpack(cmd.cdw10)
    target = in_flight.get((which.sqid, which.cid))
    if target is None or target is cmd:
        return ABORT_DW0_NOT_ABORTED
    if target.sqid == _ADMIN_SQID and target.opcode != AdminOpcode.ASYNC_EVENT_REQUEST:
        return ABORT_DW0_NOT_ABORTED
    if target.sqid == _ADMIN_SQID:
        ctrl.events.withdraw(target)
    ctrl.complete(target, status=Status.ABORT_REQ)
    return 0


def _lasting(handler: Handler, always: bool = True) -> Handler:
    """A command that changes what is kept without power: it is kept before the command completes.

    Without ``always`` only if it has changed anything but logs and counters.
    """

    def run(ctrl: Controller, cmd: Command) -> int | Literal[Pending.PENDING]:
        answer = handler(ctrl, cmd)
        if always:
            ctrl.subsystem.unsaved = True
        keep(ctrl)
        return answer

    return run


ADMIN_HANDLERS: Final[dict[int, Handler]] = {
    AdminOpcode.DELETE_IO_SQ: delete_io_sq,
    AdminOpcode.CREATE_IO_SQ: create_io_sq,
    AdminOpcode.GET_LOG_PAGE: get_log_page,
    AdminOpcode.DELETE_IO_CQ: delete_io_cq,
    AdminOpcode.CREATE_IO_CQ: create_io_cq,
    AdminOpcode.IDENTIFY: identify,
    AdminOpcode.ABORT: abort,
    AdminOpcode.SET_FEATURES: _lasting(set_features, always=False),
    AdminOpcode.GET_FEATURES: get_features,
    AdminOpcode.ASYNC_EVENT_REQUEST: async_event_request,
    AdminOpcode.NAMESPACE_MANAGEMENT: _lasting(namespace_management),
    AdminOpcode.FIRMWARE_COMMIT: _lasting(firmware_commit),
    AdminOpcode.FIRMWARE_IMAGE_DOWNLOAD: firmware_download,
    AdminOpcode.DEVICE_SELF_TEST: _lasting(device_self_test),
    AdminOpcode.NAMESPACE_ATTACHMENT: _lasting(namespace_attachment),
    AdminOpcode.DIRECTIVE_SEND: directive_send,
    AdminOpcode.DIRECTIVE_RECEIVE: directive_receive,
    AdminOpcode.FORMAT_NVM: _lasting(format_nvm),
    AdminOpcode.SANITIZE: _lasting(sanitize),
    AdminOpcode.SECURITY_SEND: security_send,
    AdminOpcode.SECURITY_RECEIVE: security_receive,
    AdminOpcode.GET_LBA_STATUS: get_lba_status,
}

OPTIONAL_ADMIN_HANDLERS: Final[dict[int, Handler]] = {
    AdminOpcode.DOORBELL_BUFFER_CONFIG: doorbell_buffer_config,
}
"""Commands that a controller offers only where its configuration says so."""


def handlers_of(config: ControllerConfig) -> dict[int, Handler]:
    """The admin commands of a controller."""
    if config.shadow_doorbells and not config.message_based:
        return {**ADMIN_HANDLERS, **OPTIONAL_ADMIN_HANDLERS}
    return ADMIN_HANDLERS
