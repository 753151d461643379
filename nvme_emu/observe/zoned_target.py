"""A controller with zoned namespaces to ask and to manage, wherever it is: driven, or behind a running SSD's socket."""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from nvme_emu.driver.request import Request
from nvme_emu.driver.zoned import appended_at
from nvme_emu.observe.rpc_client import RpcClient
from nvme_emu.observe.target import asked, called
from nvme_emu.spec.commands import get_log_page_dwords
from nvme_emu.spec.identify import CSI_ZONED, Cns
from nvme_emu.spec.logs import Lid
from nvme_emu.spec.opcodes import AdminOpcode, NvmOpcode
from nvme_emu.spec.zns import CHANGED_ZONE_LIST

if TYPE_CHECKING:
    from nvme_emu.driver import NvmeDriver

__all__ = ["DriverZones", "RpcZones", "ZonedTarget", "zoned_namespaces"]



class ZonedTarget(Protocol):
    """What the zns commands need of a controller. CommandError where the device refuses."""

    def identify(self, cns: int, nsid: int = 0, csi: int = 0) -> bytes:
        """4096 bytes of an Identify structure."""

    def receive(self, nsid: int, slba: int, cdw13: int, nbytes: int) -> bytes:
        """Zone Management Receive."""

    def send(self, nsid: int, slba: int, cdw13: int, data: bytes = b"") -> None:
        """Zone Management Send."""

    def append(self, nsid: int, zslba: int, data: bytes, blocks: int, cdw12: int) -> int:
        """Zone Append; the first block that was written. OSError where no host can be had for it."""

    def changed(self, nsid: int, rae: bool) -> bytes:
        """The Changed Zone List."""


def zoned_namespaces(target: ZonedTarget) -> list[int]:
    """The active namespaces that are zoned. CommandError where the controller knows no such command set."""
    found = struct.unpack("<1024I", target.identify(Cns.IOCS_ACTIVE_NAMESPACE_LIST, csi=CSI_ZONED))
    return [nsid for nsid in found if nsid]


class DriverZones:
    """A controller that our driver drives."""

    def __init__(self, driver: NvmeDriver) -> None:
        self._driver = driver

    def identify(self, cns: int, nsid: int = 0, csi: int = 0) -> bytes:
        """See `ZonedTarget`."""
        return bytes(asked(lambda: self._driver.admin.identify(cns, nsid=nsid, csi=csi)))

    def receive(self, nsid: int, slba: int, cdw13: int, nbytes: int) -> bytes:
        """See `ZonedTarget`."""
        data = np.zeros(nbytes, np.uint8)
        opcode = NvmOpcode.ZONE_MANAGEMENT_RECEIVE
        request = Request(opcode, nsid, slba, 0, nbytes // 4 - 1, memoryview(data.data), False, data)
        self._do(request, cdw13)
        return data.tobytes()

    def send(self, nsid: int, slba: int, cdw13: int, data: bytes = b"") -> None:
        """See `ZonedTarget`."""
        view = memoryview(data) if data else None
        self._do(Request(NvmOpcode.ZONE_MANAGEMENT_SEND, nsid, slba, 0, 0, view, view is not None), cdw13)

    def append(self, nsid: int, zslba: int, data: bytes, blocks: int, cdw12: int) -> int:
        """See `ZonedTarget`."""
        request = Request(NvmOpcode.ZONE_APPEND, nsid, zslba, blocks, blocks - 1 | cdw12, memoryview(data), True)
        self._do(request, 0)
        return appended_at(request)

    def changed(self, nsid: int, rae: bool) -> bytes:
        """See `ZonedTarget`."""
        nbytes = CHANGED_ZONE_LIST.size
        dwords = get_log_page_dwords(Lid.CHANGED_ZONES, nbytes, rae=rae)._asdict()
        execute = self._driver.admin.execute
        _, data = asked(lambda: execute(AdminOpcode.GET_LOG_PAGE, nsid=nsid, read_bytes=nbytes, **dwords))
        return b"" if data is None else data.tobytes()

    def _do(self, request: Request, cdw13: int) -> None:
        request.cdw13 = cdw13

        def wait() -> None:
            self._driver.path().submit(request)
            request.wait()

        asked(wait)


class RpcZones:
    """The controller behind a socket, managed past its hosts' queues."""

    def __init__(self, client: RpcClient) -> None:
        self._client = client

    def _call(self, method: str, **params: Any) -> Any:
        return called(self._client, method, **params)

    def identify(self, cns: int, nsid: int = 0, csi: int = 0) -> bytes:
        """See `ZonedTarget`."""
        return bytes.fromhex(self._call("admin.identify", cns=int(cns), nsid=nsid, csi=csi)["data"])

    def receive(self, nsid: int, slba: int, cdw13: int, nbytes: int) -> bytes:
        """See `ZonedTarget`."""
        found = self._call("zns.receive", nsid=nsid, slba=slba, cdw13=cdw13, nbytes=nbytes)
        return bytes.fromhex(found["data"])

    def send(self, nsid: int, slba: int, cdw13: int, data: bytes = b"") -> None:
        """See `ZonedTarget`."""
        self._call("zns.send", nsid=nsid, slba=slba, cdw13=cdw13, data=data.hex())

    def append(self, nsid: int, zslba: int, data: bytes, blocks: int, cdw12: int) -> int:
        """See `ZonedTarget`."""
        raise OSError(errno.EOPNOTSUPP, "a running SSD's socket moves no data: append as a host (a URL, an image)")

    def changed(self, nsid: int, rae: bool) -> bytes:
        """See `ZonedTarget`; never cleared."""
        return bytes.fromhex(self._call("zns.changed", nsid=nsid)["data"])
