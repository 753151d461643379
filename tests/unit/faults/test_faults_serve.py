"""`serve --faults`: rules of served devices, from a file and live over RPC, on both front ends."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import nvme_emu
from nvme_emu.observe.rpc import RpcClient
from nvme_emu.spec.status import DNR, Status

RULES = """
[[rules]]
id = "second-read"
match = { opcode = "read" }
when = { nth = 2 }
then.status = { code = "READ_ERROR", dnr = true }
"""

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    running: list[subprocess.Popen[str]] = []

    def begin(*args: str) -> subprocess.Popen[str]:
        code = "from nvme_emu.cli import main; main()"
        command = [sys.executable, "-c", code, "serve", "--size", "16M", *args]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        running.append(process)
        return process

    yield begin
    for process in running:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)


@pytest.fixture
def sockets() -> Iterator[Path]:
    # The path of a Unix socket has 107 bytes at most, which pytest's directories may exceed.
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        yield Path(name)


def rules_file(directory: Path, text: str = RULES) -> str:
    path = directory / "rules.toml"
    path.write_text(text)
    return str(path)


def wait_for_line(process: subprocess.Popen[str], pattern: str) -> re.Match[str]:
    assert process.stderr is not None
    for line in process.stderr:
        found = re.search(pattern, line)
        if found is not None:
            return found
    raise AssertionError(f"the server ended without {pattern!r}")


def connect(process: subprocess.Popen[str], path: Path) -> RpcClient:
    """A client, as soon as the server listens; as long as it lives."""
    while True:
        try:
            return RpcClient(str(path))
        except OSError:
            with contextlib.suppress(subprocess.TimeoutExpired):
                raise AssertionError(f"the server ended with {process.wait(timeout=0.02)}") from None


def test_rules_of_a_served_device_are_there_and_change_over_rpc(start: Start, sockets: Path) -> None:
    rpc = sockets / "r.sock"
    args = ("--vfio-user", str(sockets / "v.sock"), "--rpc", str(rpc), "--faults", rules_file(sockets))
    with connect(start(*args), rpc) as client:
        assert [rule["id"] for rule in client.call("faults.list")] == ["second-read"]
        table = {"match": {"on": "manual"}, "then": {"temperature": {"kelvin": 370}}}
        added = client.call("faults.add", rule=table)
        assert client.call("faults.fire", id=added["id"])["fired"] == 1
        assert client.call("smart.get")["critical_warning"] & 2
        assert client.call("faults.firings")[0]["rule"] == added["id"]


def test_each_host_over_tcp_meets_the_rules_anew(start: Start, sockets: Path) -> None:
    process = start("--tcp", "127.0.0.1:0", "--faults", rules_file(sockets))
    found = wait_for_line(process, r"-a (\S+) -s (\d+) -n (\S+)")
    for _ in range(2):
        with nvme_emu.open(f"nvme-tcp://{found[1]}:{found[2]}/{found[3]}") as ssd:
            ns = ssd.namespaces[1]
            ns.read(0, 1)
            with pytest.raises(nvme_emu.NvmeError) as failed:
                ns.read(0, 1)
            assert failed.value.status is not None
            assert failed.value.status & (0x7FF | DNR) == Status.READ_ERROR | DNR
            ns.read(0, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (RULES.replace("nth = 2", "nth = 0"), "rules.toml:5: rule second-read when.nth: 0: it must be from 1"),
        (RULES.replace("then.status", "then.tcp = {}\n#"), "a tcp fault needs a controller that is reached"),
    ],
    ids=["value", "kind"],
)
def test_rules_that_cannot_be_are_bad_usage(start: Start, sockets: Path, text: str, message: str) -> None:
    process = start("--vfio-user", str(sockets / "v.sock"), "--faults", rules_file(sockets, text))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert message in errors
