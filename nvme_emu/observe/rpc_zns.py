"""Zones over the socket: what a zoned SSD's are, how they are managed from outside, and how they break."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from nvme_emu.controller.command import Command
from nvme_emu.controller.zone_states import ZoneAction
from nvme_emu.controller.zoned_admin import break_zone
from nvme_emu.controller.zoned_commands import ZONED_HANDLERS
from nvme_emu.core.errors import CommandError
from nvme_emu.observe import management
from nvme_emu.spec.commands import get_log_page_dwords, split64
from nvme_emu.spec.logs import Lid
from nvme_emu.spec.opcodes import AdminOpcode, NvmOpcode
from nvme_emu.spec.status import Status
from nvme_emu.spec.zns import CHANGED_ZONE_LIST

if TYPE_CHECKING:
    from nvme_emu.controller.controller import Controller
    from nvme_emu.observe.watched import Watched

__all__ = ["ZnsMethods"]

_BREAKS: Final = {"read-only": ZoneAction.BREAK_READ_ONLY, "offline": ZoneAction.BREAK_OFFLINE}
_REPORT_BYTES_MAX: Final = 1 << 20


class _OutOfBand(management.Catching):
    """The controller as the handlers of zones see it: what a host would send is here already."""

    def __init__(self, ctrl: Controller, sent: bytes) -> None:
        super().__init__(ctrl)
        self._sent = sent

    def receive(self, cmd: Command, nbytes: int) -> bytes:
        if len(self._sent) != nbytes:
            raise CommandError(Status.INVALID_FIELD)
        return self._sent


class ZnsMethods:
    """The methods over one watched machine that offers zoned namespaces."""

    def __init__(self, watched: Watched) -> None:
        self._watched = watched

    def table(self) -> dict[str, Callable[..., Any]]:
        """Every method by name."""
        return {
            "zns.receive": self.zns_receive,
            "zns.send": self.zns_send,
            "zns.changed": self.zns_changed,
            "zns.break": self.zns_break,
        }

    def _do(self, opcode: int, nsid: int, slba: int, cdw12: int, cdw13: int, sent: bytes = b"") -> bytes:
        ctrl = self._watched.controller
        if nsid not in ctrl.namespaces or ctrl.namespaces[nsid].zones is None:
            raise CommandError(Status.INVALID_NS)
        around: Any = _OutOfBand(ctrl, sent)
        low, high = split64(slba)
        fields = (opcode, 0, 0, nsid, 0, 0, 0, 0, 0, low, high, cdw12, cdw13, 0, 0)
        ZONED_HANDLERS[opcode](around, Command(management.NOWHERE, fields))
        found: bytes = around.data
        return found

    def zns_receive(self, nsid: int, slba: int = 0, cdw13: int = 0, nbytes: int = 4096) -> dict[str, str]:
        """Zone Management Receive: its "data" in hex. cdw13: action, option, partial. nbytes: of the report."""
        if not 4 <= nbytes <= _REPORT_BYTES_MAX or nbytes % 4:
            raise ValueError(f"nbytes={nbytes}: a multiple of 4 up to {_REPORT_BYTES_MAX}")
        opcode = NvmOpcode.ZONE_MANAGEMENT_RECEIVE
        return {"data": self._watched.read(lambda _: self._do(opcode, nsid, slba, nbytes // 4 - 1, cdw13)).hex()}

    def zns_send(self, nsid: int, slba: int = 0, cdw13: int = 0, data: str = "") -> dict[str, bool]:
        """Zone Management Send. cdw13: action, select all. data: a descriptor extension, in hex."""
        sent = bytes.fromhex(data)
        self._watched.change(lambda: self._do(NvmOpcode.ZONE_MANAGEMENT_SEND, nsid, slba, 0, cdw13, sent))
        return {"done": True}

    def zns_changed(self, nsid: int) -> dict[str, str]:
        """The Changed Zone List of a namespace, its "data" in hex; it is not cleared."""
        dwords = get_log_page_dwords(Lid.CHANGED_ZONES, CHANGED_ZONE_LIST.size, rae=True)._asdict()
        execute = management.execute

        def look(_: bool) -> bytes:
            return execute(self._watched.controller, AdminOpcode.GET_LOG_PAGE, nsid=nsid, **dwords)[1]

        return {"data": self._watched.read(look).hex()}

    def zns_break(self, nsid: int, zone: int, state: str) -> dict[str, bool]:
        """The medium below a zone fails; hosts hear of it. zone: its number. state: read-only or offline."""
        action = _BREAKS.get(state)
        if action is None:
            raise ValueError(f"state={state!r}: {' or '.join(_BREAKS)}")
        self._watched.change(lambda: break_zone(self._watched.controller.subsystem, nsid, zone, action))
        return {"done": True}
