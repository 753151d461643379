"""faults.* over the socket."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nvme_emu.core.errors import NvmeError
from nvme_emu.observe.rpc import RpcClient, RpcError, serve_rpc, watch
from nvme_emu.observe.rpc_core import INVALID_PARAMS, NOT_AVAILABLE
from nvme_emu.testing import fault

RULE = fault.when(opcode="read", lba=5).status("Unrecovered Read Error", dnr=True)


def as_table() -> dict[str, Any]:
    """The rule as a file or a client would give it."""
    from nvme_emu.core.faults import as_rule, rule_to_plain

    return dict(rule_to_plain(as_rule(RULE)))


def test_rule_added_over_the_socket_fires_until_it_is_disarmed(ssd: Any, client: RpcClient) -> None:
    namespace = ssd.namespaces[1]
    ident = client.call("faults.add", rule=as_table())["id"]
    with pytest.raises(NvmeError):
        namespace.read(5, 1)
    assert client.call("faults.list")[0]["fired"] == 1
    assert client.call("faults.firings", id=ident)[0]["rule"] == ident
    assert client.call("faults.disarm", id=ident)["armed"] is False
    namespace.read(5, 1)
    assert client.call("faults.arm", id=ident)["armed"] is True
    with pytest.raises(NvmeError):
        namespace.read(5, 1)
    assert client.call("faults.remove", id=ident)["fired"] == 2
    assert client.call("faults.list") == []
    namespace.read(5, 1)


def test_wrong_rule_unknown_id_and_missing_file_are_told(client: RpcClient, tmp_path: Path) -> None:
    for method, params in (
        ("faults.add", {"rule": {"when": {"opcode": "nonsense"}}}),
        ("faults.arm", {"id": "none"}),
        ("faults.firings", {"count": 0}),
    ):
        with pytest.raises(RpcError) as error:
            client.call(method, **params)
        assert error.value.code == INVALID_PARAMS and error.value.message
    with pytest.raises(RpcError, match="nowhere"):
        client.call("faults.load", file="/nowhere/rules.toml")
    assert client.call("faults.clear") == []


def test_rules_of_a_simulation_are_not_changed_from_outside(simulated: Any, socket_path: str) -> None:
    with serve_rpc(watch(simulated), socket_path), RpcClient(socket_path) as client:
        assert client.call("faults.list") == []
        with pytest.raises(RpcError) as error:
            client.call("faults.add", rule=as_table())
        assert error.value.code == NOT_AVAILABLE
