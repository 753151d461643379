"""Reading admin commands out of band: what a host would be told, asked for past its queues.

As over NVMe-MI, Identify, Get Log Page and Get Features are answered without a submission queue and without
an effect that the host could see: no queue moves, no completion is posted, and a log page is always read as
with Retain Asynchronous Event set, so that no event is cleared. Every answer is made by the very handler
that answers the host.
"""

from __future__ import annotations

from typing import Any, Final

from nvme_emu.controller.admin import ADMIN_HANDLERS
from nvme_emu.controller.command import Command
from nvme_emu.controller.controller import Controller
from nvme_emu.controller.pcie.rings import CompletionQueue, SubmissionQueue
from nvme_emu.spec.commands import (
    GET_FEATURES_CDW10,
    GET_LOG_CDW10,
    IDENTIFY_CDW10,
    IDENTIFY_CDW11,
    get_log_page_dwords,
)
from nvme_emu.spec.commands_admin import DIRECTIVE_CDW11
from nvme_emu.spec.directives import StreamsReceive
from nvme_emu.spec.logs import SMART_HEALTH, Lid
from nvme_emu.spec.opcodes import AdminOpcode
from nvme_emu.spec.queues import NSID_BROADCAST

__all__ = ["NOWHERE", "READING", "Catching", "execute", "get_feature", "identify", "read_log"]

READING: Final = frozenset(
    {
        AdminOpcode.IDENTIFY,
        AdminOpcode.GET_LOG_PAGE,
        AdminOpcode.GET_FEATURES,
        AdminOpcode.GET_LBA_STATUS,
        AdminOpcode.SECURITY_RECEIVE,
        AdminOpcode.DIRECTIVE_RECEIVE,
    }
)
"""The commands that may be asked for in this way."""

_ALLOCATE: Final = int(StreamsReceive.ALLOCATE_RESOURCES)

# The queue that the commands pretend to come from. It has no memory and nothing is ever written to it.
NOWHERE: Final = SubmissionQueue(0, 0, 2, CompletionQueue(0, 0, 2, 0, False))


class Catching:
    """The controller as its handlers see it, but for `send`, which keeps the data here."""

    def __init__(self, ctrl: Controller) -> None:
        self._ctrl = ctrl
        self.data = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ctrl, name)

    def send(self, cmd: Command, data: bytes | bytearray | memoryview) -> None:
        self.data = bytes(data)


def execute(ctrl: Controller, opcode: int, *, nsid: int = 0, **cdws: int) -> tuple[int, bytes]:
    """(dword 0, data) of a reading admin command; ``cdws`` are cdw10 to cdw15.

    The caller holds what guards the controller. ValueError for a command that is not in READING, CommandError
    as the host would get it.
    """
    if opcode not in READING:
        raise ValueError(f"opcode {opcode:#04x} is not one of the reading admin commands")
    dwords = {f"cdw{n}": 0 for n in range(10, 16)} | cdws
    if opcode == AdminOpcode.DIRECTIVE_RECEIVE and DIRECTIVE_CDW11["doper"].extract(dwords["cdw11"]) == _ALLOCATE:
        raise ValueError("Directive Receive with Allocate Resources changes what the host has")
    if opcode == AdminOpcode.GET_LOG_PAGE:
        dwords["cdw10"] = GET_LOG_CDW10.replace(dwords["cdw10"], rae=1)
        if GET_LOG_CDW10["lid"].extract(dwords["cdw10"]) == Lid.TELEMETRY_HOST:
            dwords["cdw10"] = GET_LOG_CDW10.replace(dwords["cdw10"], lsp=0)  # it would be made anew
    cdw10, cdw11, cdw12, cdw13, cdw14, cdw15 = (dwords[f"cdw{n}"] for n in range(10, 16))
    fields = (opcode, 0, 0, nsid, 0, 0, 0, 0, 0, cdw10, cdw11, cdw12, cdw13, cdw14, cdw15)
    cmd = Command(NOWHERE, fields)
    catching: Any = Catching(ctrl)
    dw0 = ADMIN_HANDLERS[opcode](catching, cmd)
    assert isinstance(dw0, int), "a reading command is never parked"
    return dw0, catching.data


def identify(
    ctrl: Controller, cns: int, *, nsid: int = 0, csi: int = 0, cntid: int = 0, cnssid: int = 0
) -> bytes:
    """The 4096 bytes of an Identify structure (Base 2.1, 5.1.13). CommandError as the host would get it."""
    cdw10, cdw11 = IDENTIFY_CDW10.pack(cns=cns, cntid=cntid), IDENTIFY_CDW11.pack(csi=csi, cnssid=cnssid)
    return execute(ctrl, AdminOpcode.IDENTIFY, nsid=nsid, cdw10=cdw10, cdw11=cdw11)[1]


def read_log(
    ctrl: Controller, lid: int, nbytes: int, *, offset: int = 0, lsp: int = 0, lsi: int = 0
) -> bytes:
    """``nbytes`` (a multiple of 4) of a log page from ``offset`` (5.1.12).

    Persistent events are read without a reporting context: the host may have one.
    """
    if lid == Lid.PERSISTENT_EVENT:
        smart = read_log(ctrl, Lid.SMART_HEALTH, SMART_HEALTH.size)
        events = ctrl.subsystem.persistent_events.peek(ctrl, smart)
        return events[offset : offset + nbytes].ljust(nbytes, b"\0")
    dwords = get_log_page_dwords(lid, nbytes, offset=offset, lsp=lsp, lsi=lsi)._asdict()
    return execute(ctrl, AdminOpcode.GET_LOG_PAGE, nsid=NSID_BROADCAST, **dwords)[1]


def get_feature(
    ctrl: Controller, fid: int, *, sel: int = 0, nsid: int = 0, cdw11: int = 0
) -> tuple[int, bytes]:
    """(value, data) of a feature (5.1.11); ``sel`` 0 current, 1 default, 2 saved, 3 capabilities."""
    cdw10 = GET_FEATURES_CDW10.pack(fid=fid, sel=sel)
    return execute(ctrl, AdminOpcode.GET_FEATURES, nsid=nsid, cdw10=cdw10, cdw11=cdw11)
