"""A zoned namespace as its user sees it: zones that are reported, opened, appended to and reset.

What Linux's block layer does for a host-managed zoned device is done here: reads and writes are cut at the borders of
zones, and what no zoned device can take is refused before a command is sent (ValueError, where Linux has EINVAL). That
a write is at the write pointer is the caller's business; where several are on their way, Zone Append is.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import index
from typing import TYPE_CHECKING

import numpy as np

from nvme_emu.driver.namespace import NLB_MAX, READ, WRITE, Buffer, Namespace, _writable_view
from nvme_emu.driver.request import Request
from nvme_emu.spec.commands import RW_FUA
from nvme_emu.spec.identify import CSI_ZONED, Cns, flbas_index
from nvme_emu.spec.opcodes import NvmOpcode
from nvme_emu.spec.zns import (
    IDENTIFY_ZNS_CONTROLLER,
    IDENTIFY_ZNS_NAMESPACE,
    NO_LIMIT,
    REPORT_HEADER_BYTES,
    ZDES_UNIT,
    ZONE_DESCRIPTOR_BYTES,
    ZONE_RECEIVE_CDW13,
    ZONE_SEND_CDW13,
    ReportOption,
    ZoneDescriptor,
    ZoneReceiveAction,
    ZoneSendAction,
    parse_zone_report,
)

if TYPE_CHECKING:
    from nvme_emu.driver.device import NvmeDriver

__all__ = ["ZonedNamespace", "appended_at", "zoned_namespaces"]

_PAGE = 4096
_REPORT_BYTES = 64 << 10


def zoned_namespaces(driver: NvmeDriver) -> set[int]:
    """The active namespaces of the Zoned Namespace Command Set."""
    page = driver.admin.identify(Cns.IOCS_ACTIVE_NAMESPACE_LIST, csi=CSI_ZONED).view("<u4")
    return {int(nsid) for nsid in page if nsid}


def appended_at(request: Request) -> int:
    """The first block that a Zone Append which has succeeded wrote to."""
    return int(request.dw0 | request.dw1 << 32)


class ZonedNamespace(Namespace):
    """Namespace ``nsid`` of ``nr_zones`` zones of ``zone_size`` blocks.

    ``max_open_zones`` and ``max_active_zones`` are 0 for no limit, ``zone_append_max`` counts blocks,
    ``zone_extension_bytes`` are the bytes of each zone's descriptor extension. A zone is named by its first block.
    """

    zoned = True

    def update(self, identify: np.ndarray) -> None:
        """See `Namespace.update`; what belongs to the zones comes from its own structures."""
        super().update(identify)
        driver = self._driver
        data = driver.admin.identify(Cns.IOCS_NAMESPACE, nsid=self.nsid, csi=CSI_ZONED).tobytes()
        found = IDENTIFY_ZNS_NAMESPACE.parse(data)
        extension = found.lbafe[flbas_index(self.identity.flbas)]
        self.zone_size = int(extension["zsze"])
        self.zone_extension_bytes = int(extension["zdes"]) * ZDES_UNIT
        self.nr_zones = self.nlb // self.zone_size
        self.max_open_zones = 0 if found.mor == NO_LIMIT else int(found.mor) + 1
        self.max_active_zones = 0 if found.mar == NO_LIMIT else int(found.mar) + 1
        zasl = IDENTIFY_ZNS_CONTROLLER.parse(driver.admin.identify(Cns.IOCS_CONTROLLER, csi=CSI_ZONED).tobytes()).zasl
        blocks = (_PAGE << zasl) // self.lba_size if zasl else NLB_MAX
        self.zone_append_max = min(blocks, self.nlb_max)

    def __repr__(self) -> str:
        zones = f"{self.nr_zones} zones of {self.zone_size} blocks"
        return f"<ZonedNamespace {self.nsid}: {zones} of {self.lba_size} bytes>"

    # -- reads and writes are cut where a zone ends ---------------------------------------------------------

    def _crosses(self, slba: int, nlb: int) -> bool:
        return slba % self.zone_size + nlb > self.zone_size

    def _parts(
        self, opcode: int, slba: int, view: memoryview, nlb: int, flags: int, out: np.ndarray | None
    ) -> list[Request]:
        self._check_range(slba, nlb)
        parts: list[Request] = []
        at = slba
        while at < slba + nlb:
            count = min(slba + nlb, (at // self.zone_size + 1) * self.zone_size) - at
            piece = view[(at - slba) * self.lba_size : (at - slba + count) * self.lba_size]
            parts += super()._parts(opcode, at, piece, count, flags, out if count == nlb else None)
            at += count
        return parts

    def read(self, slba: int, nlb: int, out: np.ndarray | None = None) -> np.ndarray:
        """See `Namespace.read`."""
        if self._crosses(index(slba), index(nlb)):
            return self.submit_read(slba, nlb, out).wait()  # type: ignore[return-value]
        return super().read(slba, nlb, out)

    def write(self, slba: int, data: Buffer, *, fua: bool = False) -> None:
        """See `Namespace.write`."""
        if self._crosses(index(slba), self._source(data)[1]):
            self.submit_write(slba, data, fua=fua).wait()
            return
        super().write(slba, data, fua=fua)

    def submit_read(
        self,
        slba: int,
        nlb: int,
        out: np.ndarray | None = None,
        *,
        callback: Callable[[Request], object] | None = None,
    ) -> Request:
        """See `Namespace.submit_read`."""
        slba, nlb = index(slba), index(nlb)
        if not self._crosses(slba, nlb):
            return super().submit_read(slba, nlb, out, callback=callback)
        self._check_range(slba, nlb)
        if out is None:
            out = np.empty(nlb * self.lba_size, np.uint8)
        view = _writable_view(out, nlb * self.lba_size)
        return self._start(self._parts(READ, slba, view, nlb, 0, out), READ, slba, nlb, out, callback)

    def submit_write(
        self, slba: int, data: Buffer, *, fua: bool = False, callback: Callable[[Request], object] | None = None
    ) -> Request:
        """See `Namespace.submit_write`."""
        slba = index(slba)
        view, nlb = self._source(data)
        if not self._crosses(slba, nlb):
            return super().submit_write(slba, data, fua=fua, callback=callback)
        parts = self._parts(WRITE, slba, view, nlb, RW_FUA if fua else 0, None)
        return self._start(parts, WRITE, slba, nlb, None, callback)

    # -- Zone Append ----------------------------------------------------------------------------------------

    def zone_append(self, slba: int, data: Buffer) -> int:
        """Write whole blocks at the write pointer of a zone, wherever that is; the first block that was written.

        ValueError where ``slba`` is no zone's first block, and for more than ``zone_append_max`` blocks.
        """
        request = self.submit_zone_append(slba, data)
        request.wait()
        return appended_at(request)

    def submit_zone_append(
        self, slba: int, data: Buffer, *, callback: Callable[[Request], object] | None = None
    ) -> Request:
        """Start one; `appended_at` tells where it wrote."""
        slba = self._zone(slba)
        view, nlb = self._source(data)
        if nlb > self.zone_append_max:
            raise ValueError(f"{nlb} blocks: a Zone Append takes {self.zone_append_max}, and cannot be cut")
        request = Request(NvmOpcode.ZONE_APPEND, self.nsid, slba, nlb, nlb - 1, view, True)
        return self._start([request], callback=callback)

    # -- Zone Management ------------------------------------------------------------------------------------

    def report_zones(
        self, slba: int = 0, count: int | None = None, *, extended: bool = False, option: int = ReportOption.ALL
    ) -> list[ZoneDescriptor]:
        """The zones from the one of ``slba`` on, ``count`` of them at most; ``extended`` with descriptor extensions."""
        slba = index(slba)
        self._check_range(slba, 1)
        extra = self.zone_extension_bytes if extended else 0
        limit = self._driver.max_transfer_bytes
        nbytes = min(_REPORT_BYTES, limit) if limit else _REPORT_BYTES
        nbytes = max(REPORT_HEADER_BYTES + ZONE_DESCRIPTOR_BYTES + extra, nbytes)
        cdw13 = ZONE_RECEIVE_CDW13.pack(
            zra=ZoneReceiveAction.EXTENDED_REPORT if extended else ZoneReceiveAction.REPORT, zrasf=option, partial=1
        )
        found: list[ZoneDescriptor] = []
        while slba < self.nlb and (count is None or len(found) < count):
            data = np.zeros(nbytes, np.uint8)
            opcode = NvmOpcode.ZONE_MANAGEMENT_RECEIVE
            request = Request(opcode, self.nsid, slba, 0, nbytes // 4 - 1, memoryview(data.data), False, data)
            request.cdw13 = cdw13
            self._start([request]).wait()
            _, zones = parse_zone_report(data.tobytes(), extra)
            if not zones:
                break
            found += zones
            slba = zones[-1].start + self.zone_size
        return found if count is None else found[:count]

    def zone_open(self, slba: int) -> None:
        """Open a zone explicitly."""
        self._manage(ZoneSendAction.OPEN, self._zone(slba))

    def zone_close(self, slba: int) -> None:
        """Give a zone's open resource back."""
        self._manage(ZoneSendAction.CLOSE, self._zone(slba))

    def zone_finish(self, slba: int) -> None:
        """Make a zone Full."""
        self._manage(ZoneSendAction.FINISH, self._zone(slba))

    def zone_reset(self, slba: int) -> None:
        """Make a zone Empty; its data is gone."""
        self._manage(ZoneSendAction.RESET, self._zone(slba))

    def zone_reset_all(self) -> None:
        """Make all zones Empty that can be."""
        self._manage(ZoneSendAction.RESET, 0, every=True)

    def zone_offline(self, slba: int) -> None:
        """Make a zone that is Read Only Offline."""
        self._manage(ZoneSendAction.OFFLINE, self._zone(slba))

    def set_zone_extension(self, slba: int, data: Buffer) -> None:
        """Give an Empty zone a descriptor extension of ``zone_extension_bytes``."""
        view = memoryview(data).cast("B")  # type: ignore[arg-type]
        if not self.zone_extension_bytes or len(view) != self.zone_extension_bytes:
            raise ValueError(f"{len(view)} bytes: a zone's descriptor extension has {self.zone_extension_bytes}")
        self._manage(ZoneSendAction.SET_EXTENSION, self._zone(slba), data=view)

    def _zone(self, slba: int) -> int:
        slba = index(slba)
        self._check_range(slba, 1)
        if slba % self.zone_size:
            raise ValueError(f"slba={slba}: a zone is named by its first block, a multiple of {self.zone_size}")
        return slba

    def _manage(self, action: int, slba: int, *, every: bool = False, data: memoryview | None = None) -> None:
        request = Request(NvmOpcode.ZONE_MANAGEMENT_SEND, self.nsid, slba, 0, 0, data, data is not None)
        request.cdw13 = ZONE_SEND_CDW13.pack(zsa=action, select_all=int(every))
        self._start([request]).wait()
