"""A controller to ask, wherever it is: in this process, or behind the socket of a running `serve` or `run`."""

from __future__ import annotations

import struct
from typing import Any, Protocol

from nvme_emu.core.errors import CommandError
from nvme_emu.observe import management
from nvme_emu.observe.rpc_client import RpcClient, RpcError
from nvme_emu.observe.rpc_core import DEVICE_ERROR
from nvme_emu.observe.watched import Watched
from nvme_emu.spec.identify import Cns
from nvme_emu.spec.status import STATUS_CODE_MASK

__all__ = ["LocalTarget", "RpcTarget", "Target", "active_namespaces"]


class Target(Protocol):
    """What the commands need of a controller. CommandError where the device refuses."""

    def identify(self, cns: int, nsid: int = 0, csi: int = 0) -> bytes:
        """4096 bytes of an Identify structure."""

    def log(self, lid: int, nbytes: int, offset: int = 0) -> bytes:
        """Bytes of a log page."""

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

    def identify(self, cns: int, nsid: int = 0, csi: int = 0) -> bytes:
        """See `Target`."""
        return self._watched.read(lambda _: management.identify(self._ctrl, cns, nsid=nsid, csi=csi))

    def log(self, lid: int, nbytes: int, offset: int = 0) -> bytes:
        """See `Target`."""
        return self._watched.read(lambda _: management.read_log(self._ctrl, lid, nbytes, offset=offset))

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
        try:
            return self._client.call(method, **params)
        except RpcError as error:
            if error.code == DEVICE_ERROR:
                raise CommandError(error.data["status"] & STATUS_CODE_MASK) from error
            raise

    def identify(self, cns: int, nsid: int = 0, csi: int = 0) -> bytes:
        """See `Target`."""
        return bytes.fromhex(self._call("admin.identify", cns=int(cns), nsid=nsid, csi=csi)["data"])

    def log(self, lid: int, nbytes: int, offset: int = 0) -> bytes:
        """See `Target`."""
        return bytes.fromhex(self._call("admin.get_log", lid=int(lid), nbytes=nbytes, offset=offset)["data"])

    def feature(self, fid: int, sel: int = 0, nsid: int = 0, cdw11: int = 0) -> tuple[int, bytes]:
        """See `Target`."""
        found = self._call("admin.get_feature", fid=int(fid), sel=sel, nsid=nsid, cdw11=cdw11)
        return found["value"], bytes.fromhex(found["data"])

    def register(self, offset: int, size: int) -> int:
        """See `Target`."""
        return int(self._call("registers.read", offset=offset, size=size)["value"])
