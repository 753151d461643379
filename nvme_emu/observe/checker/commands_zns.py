"""Commands of zoned namespaces: where a zone may be written and read, and what may be done to it.

Judged when the controller takes a command, before it acts: commands that came before have had their effect. Over
NVMe/TCP commands are seen before that, so that nothing of this is judged there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nvme_emu.controller.zone_states import ZONE_TRANSITIONS, ZoneAction
from nvme_emu.controller.zoned_commands import append_bytes_max
from nvme_emu.core.errors import CommandError
from nvme_emu.spec.commands import RW_NLB_MASK, join64
from nvme_emu.spec.opcodes import NvmOpcode
from nvme_emu.spec.queues import Sqe
from nvme_emu.spec.status import Status, describe
from nvme_emu.spec.zns import (
    ZONE_RECEIVE_CDW13,
    ZONE_SEND_CDW13,
    ReportOption,
    ZoneReceiveAction,
    ZoneSendAction,
)

if TYPE_CHECKING:
    from nvme_emu.controller.namespace import Namespace
    from nvme_emu.controller.zones import Zones
    from nvme_emu.observe.checker.checker import Checker
    from nvme_emu.observe.checker.commands import Commands

__all__ = ["ZoneRules"]

_OP = NvmOpcode
_READS: Final = frozenset({int(_OP.READ), int(_OP.COMPARE), int(_OP.VERIFY)})
_WRITES: Final = frozenset({int(_OP.WRITE), int(_OP.WRITE_ZEROES), int(_OP.WRITE_UNCORRECTABLE)})
_RESOURCES: Final = frozenset({int(Status.ZONE_TOO_MANY_ACTIVE), int(Status.ZONE_TOO_MANY_OPEN)})
_ACTIONS: Final = {
    int(ZoneSendAction.CLOSE): ZoneAction.CLOSE,
    int(ZoneSendAction.FINISH): ZoneAction.FINISH,
    int(ZoneSendAction.OPEN): ZoneAction.OPEN,
    int(ZoneSendAction.RESET): ZoneAction.RESET,
    int(ZoneSendAction.OFFLINE): ZoneAction.OFFLINE,
    int(ZoneSendAction.SET_EXTENSION): ZoneAction.SET_EXTENSION,
}


class ZoneRules:
    """The rules of commands to a zoned namespace."""

    def __init__(self, commands: Commands, checker: Checker) -> None:
        self._wrong = commands.wrong
        self._config = checker.controller.config

    def judge(self, entry: Sqe, namespace: Namespace) -> int | None:
        """Judge a command whose namespace is zoned; the bytes of those that only such a namespace has."""
        zones = namespace.zones
        if zones is None:
            return None
        slba, blocks = join64(entry.cdw10, entry.cdw11), (entry.cdw12 & RW_NLB_MASK) + 1
        if entry.opcode in _READS or entry.opcode in _WRITES:
            if slba + blocks <= namespace.nsze:
                self._reaches(entry, zones, slba, blocks)
            return None
        if entry.opcode == _OP.ZONE_APPEND:
            return self._append(zones, slba, blocks, blocks << namespace.lba_shift)
        if entry.opcode == _OP.ZONE_MANAGEMENT_SEND:
            return self._manage(entry, zones, slba)
        return self._report(entry, namespace, slba) if entry.opcode == _OP.ZONE_MANAGEMENT_RECEIVE else None

    def _reaches(self, entry: Sqe, zones: Zones, slba: int, blocks: int) -> None:
        rule = "zone-read" if entry.opcode in _READS else "zone-write"
        try:
            if entry.opcode in _READS:
                zones.check_read(slba, blocks)
            else:
                zones.check_write(slba, blocks)
        except CommandError as error:
            self._refused(rule, error, zones, slba, blocks)

    def _refused(self, rule: str, error: CommandError, zones: Zones, slba: int, blocks: int) -> None:
        zone = zones.at(slba)
        where = f"zone {zone.index} ({zone.state.words}, write pointer {zone.wp})"
        chosen = "zone-resources" if error.status in _RESOURCES else rule
        words = f"LBA {slba}+{blocks} of {where}: {describe(error.status)}"
        self._wrong(chosen, words, slba=slba, nlb=blocks, wp=zone.wp)

    def _starts(self, zones: Zones, slba: int) -> bool:
        if slba < zones.blocks and not slba % zones.size:
            return True
        self._wrong("zone-start", f"LBA {slba}: zones begin at multiples of {zones.size}", slba=slba, size=zones.size)
        return False

    def _append(self, zones: Zones, slba: int, blocks: int, nbytes: int) -> int:
        limit = append_bytes_max(self._config, zones.config.zasl)
        if limit and nbytes > limit:
            self._wrong("zone-append-limit", f"{nbytes} bytes, ZASL {limit}", nbytes=nbytes, limit=limit)
        if self._starts(zones, slba):
            try:
                zones.check_write(zones.at(slba).wp, blocks)
            except CommandError as error:
                self._refused("zone-write", error, zones, slba, blocks)
        return nbytes

    def _manage(self, entry: Sqe, zones: Zones, slba: int) -> int:
        how = ZONE_SEND_CDW13.unpack(entry.cdw13)
        action = _ACTIONS.get(how.zsa)
        if action is None and how.zsa != ZoneSendAction.FLUSH_ZRWA:
            self._wrong("reserved-value", f"ZSA is {how.zsa:#x}", value=how.zsa)
        elif action is not None and not how.select_all and self._starts(zones, slba):
            zone = zones.at(slba)
            if (zone.state, action) not in ZONE_TRANSITIONS:
                words = f"{ZoneSendAction(how.zsa).words} for zone {zone.index}, which is {zone.state.words}"
                self._wrong("zone-transition", words, zsa=how.zsa, state=int(zone.state))
        return zones.config.zdes if how.zsa == ZoneSendAction.SET_EXTENSION else 0

    def _report(self, entry: Sqe, namespace: Namespace, slba: int) -> int:
        how = ZONE_RECEIVE_CDW13.unpack(entry.cdw13)
        if how.zra not in set(ZoneReceiveAction):
            self._wrong("reserved-value", f"ZRA is {how.zra:#x}", value=how.zra)
        elif how.zrasf not in set(ReportOption):
            self._wrong("reserved-value", f"ZRASF is {how.zrasf:#x}", value=how.zrasf)
        if slba >= namespace.nsze:
            self._wrong("lba-range", f"LBA {slba} of {namespace.nsze}", slba=slba, nsze=namespace.nsze)
        return 4 * (entry.cdw12 + 1)
