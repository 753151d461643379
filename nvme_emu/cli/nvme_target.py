"""TARGET of the commands with nvme-cli's names: an image file, the socket of a running SSD, a URL, or `mem`."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nvme_emu.observe.target import Target

__all__ = ["open_target"]


@contextmanager
def open_target(text: str) -> Iterator[Target]:
    """The controller that TARGET names.

    ``mem`` or ``mem:SIZE`` is a fresh SSD in memory. An image file is attached to a controller in this process
    for as long as the command takes. With ``nvme-tcp://HOST:PORT/NQN`` or ``vfio-user:///PATH`` our driver connects
    to a controller and asks by admin commands; a connection that does not come up or gets lost ends the command.
    ValueError or OSError, naming the target, where it cannot be used.
    """
    from nvme_emu.observe.rpc_client import RpcClient
    from nvme_emu.observe.target import DriverTarget, LocalTarget, RpcTarget

    if "://" in text:
        import nvme_emu

        options: dict[str, Any] = {} if text.startswith("vfio-user:") else {"ctrl_loss_tmo": 0}
        with nvme_emu.open(text, **options) as remote:
            yield DriverTarget(remote.driver)
        return
    kind, _, size = text.partition(":")
    if kind != "mem" and stat.S_ISSOCK(os.stat(text).st_mode):
        with RpcClient(text) as client:
            yield RpcTarget(client)
        return
    import nvme_emu
    from nvme_emu.observe.watched import watch

    with nvme_emu.open(**({"size": size or None} if kind == "mem" else {"image": text})) as machine:
        yield LocalTarget(watch(machine))
