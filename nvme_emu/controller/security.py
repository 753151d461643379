"""Security Receive and Send (NVMe Base 2.1, clauses 5.1.23 and 5.1.24): protocol 00h, which tells what there is.

It lists itself alone, there is no certificate, and no compliance is claimed. Protocol 00h has nothing to be sent;
other protocols (TCG, RPMB over EAh: RPMBS is 0) are not offered, and an Invalid Field in Command.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nvme_emu.controller.locations import location
from nvme_emu.core.errors import CommandError
from nvme_emu.spec.commands_admin import SECURITY_CDW10
from nvme_emu.spec.security import (
    SecurityInformation,
    SecurityProtocol,
    build_certificate,
    build_compliance,
    build_protocol_list,
)
from nvme_emu.spec.status import Status

if TYPE_CHECKING:
    from nvme_emu.controller.command import Command
    from nvme_emu.controller.controller import Controller

__all__ = ["security_receive", "security_send"]

_SECP = location(10, SECURITY_CDW10, "secp")
_SPSP = location(10, SECURITY_CDW10, "spsp0")

_INFORMATION: Final[dict[int, bytes]] = {
    SecurityInformation.SUPPORTED_PROTOCOLS: build_protocol_list([SecurityProtocol.INFORMATION]),
    SecurityInformation.CERTIFICATE: build_certificate(),
    SecurityInformation.COMPLIANCE: build_compliance(),
}


def _check_protocol(cmd: Command) -> int:
    """The SP Specific value. Raises CommandError for a protocol that is not offered."""
    how = SECURITY_CDW10.unpack(cmd.cdw10)
    if how.secp != SecurityProtocol.INFORMATION:
        raise CommandError(Status.INVALID_FIELD, location=_SECP)
    return int(how.spsp1 << 8 | how.spsp0)


def security_receive(ctrl: Controller, cmd: Command) -> int:
    """Security Receive (opcode 82h): at most AL bytes of what there is."""
    data = _INFORMATION.get(_check_protocol(cmd))
    if data is None:
        raise CommandError(Status.INVALID_FIELD, location=_SPSP)
    data = data[: cmd.cdw11]
    if data:
        ctrl.send(cmd, data)
    return 0


def security_send(ctrl: Controller, cmd: Command) -> int:
    """Security Send (opcode 81h): protocol 00h takes nothing."""
    _check_protocol(cmd)
    raise CommandError(Status.INVALID_FIELD, location=_SPSP)
