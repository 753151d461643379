"""docs/observe.md says what is: its methods, commands and examples."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

import nvme_emu
from nvme_emu.cli import COMMANDS
from nvme_emu.cli.ctl import parse_params
from nvme_emu.observe.rpc import RpcClient

DOC = (Path(__file__).parents[3] / "docs" / "observe.md").read_text()


def test_every_method_is_in_the_table_and_no_other(client: RpcClient) -> None:
    offered = {method["name"] for method in client.call("rpc.discover")["methods"]}
    table = "\n".join(line for line in DOC.splitlines() if line.startswith("| `"))
    told = set(re.findall(r"`([a-z]+\.[a-z_*]+)`", table))
    # hosts.* are those of `serve --tcp` (tests/unit/tcp/test_tcp_rpc_watch.py).
    assert {"hosts.list", "hosts.watch"} <= told
    told -= {"faults.*", "hosts.list", "hosts.watch"}
    assert {name for name in offered if not name.startswith("faults.")} == told | {"rpc.discover"}


def test_ctl_examples_name_methods_and_parameters_that_exist(client: RpcClient) -> None:
    methods = {method["name"]: method for method in client.call("rpc.discover")["methods"]}
    examples = re.findall(r"^nvme-emu ctl \S+ (\S+\.\S.*)$", DOC, re.MULTILINE)
    assert len(examples) >= 4
    for example in examples:
        words = shlex.split(re.sub(r"\s{3,}.*", "", example).split(" --")[0])
        params = parse_params(tuple(words[1:]))
        assert set(params) <= {param["name"] for param in methods[words[0]]["params"]}
        if words[0] == "faults.add":
            assert client.call(words[0], **params)["fired"] == 0


def test_commands_in_the_text_exist() -> None:
    for command in set(re.findall(r"nvme-emu ([a-z-]+)", DOC)):
        assert command in COMMANDS


def test_python_example_runs(tmp_path: Path) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", DOC, re.DOTALL)
    block = block.replace("/tmp/ssd.sock", str(tmp_path / "s")).replace('"1G"', '"16M"')
    names: dict[str, Any] = {"nvme_emu": nvme_emu}
    exec(compile(block, "docs/observe.md", "exec"), names)
    assert names["state"].controller.state == "ready"


def test_trace_example_is_a_record_that_is_understood() -> None:
    (line,) = re.findall(r'^\{"ts_ns".*$', DOC, re.MULTILINE)
    from nvme_emu.observe.trace_words import words_of

    assert "becomes a command" in words_of(json.loads(line))


@pytest.mark.parametrize("number", ["500 000", "10 000", "1 MiB", "100 requests", "32 connections", "16 subscriptions"])
def test_limits_in_the_text_are_those_of_the_code(number: str) -> None:
    from nvme_emu.observe import jsonl, rpc_core, rpc_server

    code = {
        "500 000": jsonl.EVENTS_MAX == 500_000,
        "10 000": rpc_server.QUEUE_DEFAULT == 10_000,
        "1 MiB": rpc_server.REQUEST_MAX == 1 << 20,
        "100 requests": rpc_core.BATCH_MAX == 100,
        "32 connections": rpc_server.CONNECTIONS_MAX == 32,
        "16 subscriptions": rpc_server.SUBSCRIPTIONS_MAX == 16,
    }
    assert number in DOC and code[number]
