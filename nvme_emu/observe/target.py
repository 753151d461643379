"""A controller to ask, wherever it is: in this process, behind the socket of a running `serve` or `run`, or driven."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from nvme_emu.core.errors import CommandError, NvmeError
from nvme_emu.observe import management
from nvme_emu.observe.rpc_client import RpcClient, RpcError
from nvme_emu.observe.rpc_core import DEVICE_ERROR
from nvme_emu.observe.watched import Watched
from nvme_emu.spec.commands import GET_FEATURES_CDW10
from nvme_emu.spec.feature_data import APST_TABLE, HOST_BEHAVIOR, HOST_IDENTIFIER, TIMESTAMP
from nvme_emu.spec.features import Fid
from nvme_emu.spec.identify import Cns
from nvme_emu.spec.logs import Lid
from nvme_emu.spec.logs_persistent import PERSISTENT_EVENT_HEADER
from nvme_emu.spec.opcodes import AdminOpcode
from nvme_emu.spec.registers import Reg
from nvme_emu.spec.status import STATUS_CODE_MASK

if TYPE_CHECKING:
    from nvme_emu.driver import NvmeDriver

__all__ = ["DriverTarget", "LocalTarget", "RpcTarget", "Target", "active_namespaces", "asked", "called"]

_T = TypeVar("_T")


def asked(command: Callable[[], _T]) -> _T:
    """What a driver's command gives. CommandError where the device refuses it."""
    try:
        return command()
    except NvmeError as error:
        if error.status is None:
            raise
        raise CommandError(error.status & STATUS_CODE_MASK) from error


def called(client: RpcClient, method: str, **params: Any) -> Any:
    """What a method of a served SSD gives. CommandError where the device refuses."""
    try:
        return client.call(method, **params)
    except RpcError as error:
        if error.code == DEVICE_ERROR:
            raise CommandError(error.data["status"] & STATUS_CODE_MASK) from error
        raise


class Target(Protocol):
    """What the commands need of a controller. CommandError where the device refuses."""

    def identify(self, cns: int, nsid: int = 0, csi: int = 0, cntid: int = 0, cnssid: int = 0) -> bytes:
        """4096 bytes of an Identify structure."""

    def log(self, lid: int, nbytes: int, offset: int = 0, lsp: int = 0, lsi: int = 0) -> bytes:
        """Bytes of a log page."""

    def admin(
        self, opcode: int, nsid: int = 0, *, nbytes: int = 0, data: bytes | None = None, **cdws: int
    ) -> tuple[int, bytes]:
        """(dword 0, data) of any admin command that reads ``nbytes`` or is given ``data``; cdw10 to cdw15."""

    def persistent_events(self) -> AbstractContextManager[Callable[[int, int], bytes]]:
        """A reporting context of the Persistent Event Log, and how to read (nbytes, offset) in it."""

    def feature(self, fid: int, sel: int = 0, nsid: int = 0, cdw11: int = 0) -> tuple[int, bytes]:
        """(value, data) of a feature."""

    def register(self, offset: int, size: int) -> int:
        """A property of BAR0."""


def active_namespaces(target: Target, after: int = 0) -> list[int]:
    """The active namespaces above ``after``."""
    found = struct.unpack("<1024I", target.identify(Cns.ACTIVE_NAMESPACE_LIST, nsid=after))
    return [nsid for nsid in found if nsid]


class LocalTarget:
    """A controller of this process."""

    def __init__(self, watched: Watched) -> None:
        self._watched = watched
        self._ctrl = watched.controller

    def identify(self, cns: int, nsid: int = 0, csi: int = 0, cntid: int = 0, cnssid: int = 0) -> bytes:
        """See `Target`."""
        more = {"nsid": nsid, "csi": csi, "cntid": cntid, "cnssid": cnssid}
        return self._watched.read(lambda _: management.identify(self._ctrl, cns, **more))

    def log(self, lid: int, nbytes: int, offset: int = 0, lsp: int = 0, lsi: int = 0) -> bytes:
        """See `Target`."""
        more = {"offset": offset, "lsp": lsp, "lsi": lsi}
        return self._watched.read(lambda _: management.read_log(self._ctrl, lid, nbytes, **more))

    def admin(
        self, opcode: int, nsid: int = 0, *, nbytes: int = 0, data: bytes | None = None, **cdws: int
    ) -> tuple[int, bytes]:
        """See `Target`; by the driver of this process."""
        assert self._watched.driver is not None, "a target of this process is made with its driver"
        return DriverTarget(self._watched.driver).admin(opcode, nsid, nbytes=nbytes, data=data, **cdws)

    def persistent_events(self) -> AbstractContextManager[Callable[[int, int], bytes]]:
        """See `Target`."""
        return nullcontext(lambda nbytes, offset: self.log(Lid.PERSISTENT_EVENT, nbytes, offset))

    def feature(self, fid: int, sel: int = 0, nsid: int = 0, cdw11: int = 0) -> tuple[int, bytes]:
        """See `Target`."""
        return self._watched.read(
            lambda _: management.get_feature(self._ctrl, fid, sel=sel, nsid=nsid, cdw11=cdw11)
        )

    def register(self, offset: int, size: int) -> int:
        """See `Target`."""
        return self._watched.read(lambda _: self._ctrl.mmio_read(offset, size))


class RpcTarget:
    """The controller behind a socket."""

    def __init__(self, client: RpcClient) -> None:
        self._client = client

    def _call(self, method: str, **params: Any) -> Any:
        return called(self._client, method, **params)

    def identify(self, cns: int, nsid: int = 0, csi: int = 0, cntid: int = 0, cnssid: int = 0) -> bytes:
        """See `Target`."""
        given = {"cns": int(cns), "nsid": nsid, "csi": csi, "cntid": cntid, "cnssid": cnssid}
        return bytes.fromhex(self._call("admin.identify", **given)["data"])

    def log(self, lid: int, nbytes: int, offset: int = 0, lsp: int = 0, lsi: int = 0) -> bytes:
        """See `Target`."""
        given = {"lid": int(lid), "nbytes": nbytes, "offset": offset, "lsp": lsp, "lsi": lsi}
        return bytes.fromhex(self._call("admin.get_log", **given)["data"])

    def admin(
        self, opcode: int, nsid: int = 0, *, nbytes: int = 0, data: bytes | None = None, **cdws: int
    ) -> tuple[int, bytes]:
        """See `Target`; the server refuses what changes anything."""
        found = self._call("admin.execute", opcode=int(opcode), nsid=nsid, **cdws)
        return found["value"], bytes.fromhex(found["data"])[:nbytes].ljust(nbytes, b"\0")

    def persistent_events(self) -> AbstractContextManager[Callable[[int, int], bytes]]:
        """See `Target`."""
        return nullcontext(lambda nbytes, offset: self.log(Lid.PERSISTENT_EVENT, nbytes, offset))

    def feature(self, fid: int, sel: int = 0, nsid: int = 0, cdw11: int = 0) -> tuple[int, bytes]:
        """See `Target`."""
        found = self._call("admin.get_feature", fid=int(fid), sel=sel, nsid=nsid, cdw11=cdw11)
        return found["value"], bytes.fromhex(found["data"])

    def register(self, offset: int, size: int) -> int:
        """See `Target`."""
        return int(self._call("registers.read", offset=offset, size=size)["value"])


# The properties that there are over fabrics, with their bytes (Base 2.1, clause 3.1.4).
_PROPERTIES: Final = {Reg.CAP: 8, Reg.VS: 4, Reg.CC: 4, Reg.CSTS: 4, Reg.CRTO: 4}
# Of features that are more than a dword: how much the host has to be ready for.
_FEATURE_BYTES: Final[dict[int, int]] = {
    Fid.AUTONOMOUS_POWER_STATE_TRANSITION: APST_TABLE.size,
    Fid.TIMESTAMP: TIMESTAMP.size,
    Fid.HOST_BEHAVIOR: HOST_BEHAVIOR.size,
    Fid.HOST_IDENTIFIER: HOST_IDENTIFIER.size,
}
_SELECT_SUPPORTED: Final = 3
_ESTABLISH, _RELEASE = 1, 2
_EXHID: Final = 1


class DriverTarget:
    """A controller that our driver is connected to: what it is asked are commands of the admin queue.

    Reading a log page clears its event, at this host's controller only; the others of the subsystem are not touched.
    """

    def __init__(self, driver: NvmeDriver) -> None:
        self._driver = driver

    def identify(self, cns: int, nsid: int = 0, csi: int = 0, cntid: int = 0, cnssid: int = 0) -> bytes:
        """See `Target`."""
        more = {"nsid": nsid, "csi": csi, "cntid": cntid, "cnssid": cnssid}
        return bytes(asked(lambda: self._driver.admin.identify(cns, **more)))

    def log(self, lid: int, nbytes: int, offset: int = 0, lsp: int = 0, lsi: int = 0) -> bytes:
        """See `Target`."""
        more = {"offset": offset, "lsp": lsp, "lsi": lsi}
        return bytes(asked(lambda: self._driver.admin.get_log_page(lid, nbytes, **more)))

    def admin(
        self, opcode: int, nsid: int = 0, *, nbytes: int = 0, data: bytes | None = None, **cdws: int
    ) -> tuple[int, bytes]:
        """See `Target`."""
        dw0, found = asked(
            lambda: self._driver.admin.execute(opcode, nsid=nsid, data=data, read_bytes=nbytes, **cdws)
        )
        return dw0, b"" if found is None else found.tobytes()

    @contextmanager
    def persistent_events(self) -> Iterator[Callable[[int, int], bytes]]:
        """See `Target`."""
        self.log(Lid.PERSISTENT_EVENT, PERSISTENT_EVENT_HEADER.size, lsp=_ESTABLISH)
        try:
            yield lambda nbytes, offset: self.log(Lid.PERSISTENT_EVENT, nbytes, offset)
        finally:
            self.log(Lid.PERSISTENT_EVENT, PERSISTENT_EVENT_HEADER.size, lsp=_RELEASE)

    def feature(self, fid: int, sel: int = 0, nsid: int = 0, cdw11: int = 0) -> tuple[int, bytes]:
        """See `Target`."""
        nbytes = 0 if sel == _SELECT_SUPPORTED else _FEATURE_BYTES.get(fid, 0)
        if fid == Fid.HOST_IDENTIFIER:
            cdw11 |= _EXHID  # over fabrics there is no other
        dw0, data = asked(
            lambda: self._driver.admin.execute(
                AdminOpcode.GET_FEATURES,
                nsid=nsid,
                cdw10=GET_FEATURES_CDW10.pack(fid=fid, sel=sel),
                cdw11=cdw11,
                read_bytes=nbytes,
            )
        )
        return dw0, b"" if data is None else data.tobytes()

    def register(self, offset: int, size: int) -> int:
        """See `Target`; zero for a property that there is not over fabrics."""
        for start, width in _PROPERTIES.items():
            if start <= offset and offset + size <= start + width:
                read = self._driver.port.read64 if width == 8 else self._driver.port.read32
                return read(start) >> 8 * (offset - start) & (1 << 8 * size) - 1
        return 0
