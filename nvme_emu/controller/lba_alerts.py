"""Blocks that may be lost, and the alerts that tell of them (NVM Command Set 1.1: LID 0Eh, FID 15h).

What the medium could not read is *suspect* until it is written again. A host that enabled LBA Status Information
Alerts (feature 0Bh) hears of the first new one at once and then not more often than LSIRI allows; the log lists what
is suspect or was marked by Write Uncorrectable, for each namespace, with the action (11h) to ask Get LBA Status for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nvme_emu.controller.block_set import BlockSet
from nvme_emu.controller.holds import Hold
from nvme_emu.spec.commands import RW_NLB_MASK, join64
from nvme_emu.spec.events import AsyncEventType, AsyncNoticeInfo
from nvme_emu.spec.features import LBA_STATUS_ATTRIBUTES, Fid
from nvme_emu.spec.logs import Lid
from nvme_emu.spec.logs_lba_status import LBA_RANGE, LBA_STATUS_ELEMENT, LBA_STATUS_LOG
from nvme_emu.spec.opcodes import NvmOpcode

if TYPE_CHECKING:
    from nvme_emu.controller.command import Command
    from nvme_emu.controller.controller import Controller
    from nvme_emu.controller.namespace import Namespace
    from nvme_emu.controller.subsystem import Timer

__all__ = ["LbaAlerts", "lba_status_log", "unreadable"]

_READS: Final = frozenset({NvmOpcode.READ, NvmOpcode.COMPARE, NvmOpcode.VERIFY})
_UNIT_NS: Final = 100_000_000
_TRACKED: Final = 0x11
_U32_MAX: Final = 0xFFFF_FFFF


class LbaAlerts:
    """What a controller has told its host of lost blocks."""

    def __init__(self, ctrl: Controller) -> None:
        self._ctrl = ctrl
        self.generation = 0
        self._not_before_ns = 0
        self._later: Timer | None = None

    def found(self, namespace: Namespace, slba: int, blocks: int) -> None:
        """The medium could not read blocks: they are suspect, at every controller of the subsystem."""
        end = min(slba + blocks, namespace.nsze)
        if slba >= end or not any(_missing(unreadable(namespace), slba, end - slba)):
            return
        namespace.suspect.add(slba, end - slba)
        namespace.hold(Hold.MARKED)
        for ctrl in self._ctrl.subsystem.controllers.values():
            if namespace.nsid in ctrl.namespaces:
                ctrl.lba_alerts.changed()

    def unread(self, cmd: Command, lba: int | None) -> None:
        """An I/O command ended with Unrecovered Read Error: at a block, or somewhere among its own."""
        namespace = self._ctrl.namespaces.get(cmd.nsid)
        if namespace is None or cmd.opcode not in _READS:
            return
        if lba is not None:
            self.found(namespace, lba, 1)
        else:
            self.found(namespace, join64(cmd.cdw10, cmd.cdw11), (cmd.cdw12 & RW_NLB_MASK) + 1)

    def changed(self) -> None:
        """The log tells something new."""
        self.generation = (self.generation + 1) & 0xFFFF
        self._tell(self._ctrl.now_ns)

    def _tell(self, now_ns: int) -> None:
        if now_ns < self._not_before_ns:
            if self._later is None:
                self._later = self._ctrl.subsystem.at(self._not_before_ns, self._again)
            return
        value = self._ctrl.features.current(Fid.LBA_STATUS_REPORT_INTERVAL)
        self._not_before_ns = now_ns + LBA_STATUS_ATTRIBUTES["lsiri"].extract(value) * _UNIT_NS
        self._ctrl.events.post(AsyncEventType.NOTICE, AsyncNoticeInfo.LBA_STATUS_ALERT, Lid.LBA_STATUS)

    def _again(self, now_ns: int) -> None:
        self._later = None
        self._tell(now_ns)

    def reset(self) -> None:
        """Controller Level Reset: a new host may be told at once."""
        if self._later is not None:
            self._later.cancel()
            self._later = None
        self._not_before_ns = 0


def _missing(known: BlockSet, slba: int, blocks: int) -> list[int]:
    """The first of these blocks that is not in the set, if there is one."""
    at, end = slba, slba + blocks
    for start, count in known.ranges():
        if start <= at < start + count:
            at = start + count
    return [at] if at < end else []


def unreadable(namespace: Namespace) -> BlockSet:
    """The blocks that are known to be lost, or suspect."""
    if not namespace.suspect:
        return namespace.marked
    found = BlockSet()
    for known in (namespace.marked, namespace.suspect):
        for start, count in known.ranges():
            found.add(start, count)
    return found


def lba_status_log(ctrl: Controller, cmd: Command) -> bytes:
    """LBA Status Information (LID 0Eh)."""
    body, elements, lost = b"", 0, 0
    for nsid, namespace in sorted(ctrl.namespaces.items()):
        ranges = list(unreadable(namespace).ranges())
        if ranges:
            elements += 1
            lost += sum(count for _, count in ranges)
            body += LBA_STATUS_ELEMENT.build(neid=nsid, nlrd=len(ranges), ratype=_TRACKED)
            body += b"".join(LBA_RANGE.build(rslba=start, rnlb=min(count, _U32_MAX)) for start, count in ranges)
    head = LBA_STATUS_LOG.build(
        lslplen=LBA_STATUS_LOG.size + len(body),
        nlslne=elements,
        estulb=min(lost, _U32_MAX),
        lsgc=ctrl.lba_alerts.generation,
    )
    return head + body
