"""Remote control of a running machine: the one call that `run`, `serve` and tests make.

    with nvme_emu.open(size="1G") as ssd, serve_rpc(watch(ssd), "/run/ssd.sock"):
        ...                                  # and elsewhere: nvme-emu ctl /run/ssd.sock stats.get
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from nvme_emu.observe.rpc_client import RpcClient
from nvme_emu.observe.rpc_core import Methods, RpcError
from nvme_emu.observe.rpc_methods import MachineMethods
from nvme_emu.observe.rpc_server import RpcServer
from nvme_emu.observe.watched import Watched, watch

__all__ = ["RpcClient", "RpcError", "RpcServer", "Watched", "serve_rpc", "watch"]


def serve_rpc(
    watched: Watched,
    path: str | os.PathLike[str],
    *,
    extra: Mapping[str, Callable[..., Any]] | None = None,
) -> RpcServer:
    """Answer at ``path`` until the server that this gives is closed (it is a context manager).

    ``extra`` are further methods by name: annotated functions with docstrings. OSError if somebody answers
    there already or the socket cannot be made. The trace that a client has started ends with the server.
    """
    from nvme_emu import __version__

    machine = MachineMethods(watched, version=__version__)
    methods = Methods(title="nvme-emu", version=__version__)
    table = machine.table()
    if watched.faults is not None:
        from nvme_emu.observe.rpc_faults import FaultMethods

        table |= FaultMethods(watched, watched.faults).table()
    if watched.checker is not None:
        from nvme_emu.observe.rpc_checker import CheckerMethods

        table |= CheckerMethods(watched, watched.checker).table()
    if watched.controller.subsystem.ana.count:
        from nvme_emu.observe.rpc_ana import AnaMethods

        table |= AnaMethods(watched).table()
    if watched.controller.subsystem.zns is not None:
        from nvme_emu.observe.rpc_zns import ZnsMethods

        table |= ZnsMethods(watched).table()
    for name, fn in {**table, **(extra or {})}.items():
        methods.add(name, fn)
    server = RpcServer(methods, path, trace=watched.trace)
    server.stop_hooks += [machine.close, watched.stop_recording]
    return server
