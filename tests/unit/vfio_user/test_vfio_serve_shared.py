"""`serve --shared`: PCI functions and TCP ports of one SSD, used by our drivers from another process."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import nvme_emu
from nvme_emu.cli.serve_device import DeviceOptions, ServedDevice, ServedPort
from nvme_emu.cli.serve_shared import join_ports
from nvme_emu.cli.serve_tcp import TcpFront
from nvme_emu.core.errors import NvmeError
from nvme_emu.driver.fabrics import FabricsHost
from nvme_emu.observe.rpc_client import RpcClient, RpcError
from nvme_emu.spec.ana import AnaState
from nvme_emu.spec.registers import CSTS, NSSR_MAGIC, Reg
from nvme_emu.spec.status import STATUS_CODE_MASK, Status
from nvme_emu.transports.loop import Loop

START = [sys.executable, "-c", "from nvme_emu.cli import main; main()", "serve"]
NQN = "nqn.2024-01.org.example:shared"


class Shared(NamedTuple):
    """A running server: two vfio-user sockets, two TCP ports, RPC of the first and the third."""

    urls: tuple[str, ...]
    rpc: tuple[RpcClient, ...]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    base = tmp_path_factory.mktemp("shared")
    sockets, rpcs = [base / "a", base / "b"], [base / f"rpc{n}" for n in range(3)]
    arguments = ["--shared", "--namespaces", "2", "--ana-groups", "2", "--size", "16M", "--nqn", NQN]
    arguments += [word for one in sockets for word in ("--vfio-user", str(one))]
    arguments += [word for one in rpcs for word in ("--rpc", str(one))]
    arguments += ["--tcp", "127.0.0.1:0", "--tcp", "127.0.0.1:0", "--ana-state", "4:2=inaccessible"]
    process = subprocess.Popen([*START, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    ports: list[str] = []
    for line in process.stderr:
        ports += re.findall(r"nvme connect .* -s (\d+)", line)
        if len(ports) == 2:
            break
    try:
        with RpcClient(str(rpcs[0])) as first, RpcClient(str(rpcs[2])) as third:
            urls = [f"vfio-user://{one}" for one in sockets] + [f"nvme-tcp://127.0.0.1:{port}/{NQN}" for port in ports]
            yield Shared(tuple(urls), (first, third))
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=30)
        assert process.returncode == 0, err
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def four(shared: Shared) -> Iterator[list[Any]]:
    """A driver at each of the four ports."""
    with ExitStack() as closing:
        found = []
        for number, url in enumerate(shared.urls):
            options: dict[str, Any] = {}
            if url.startswith("nvme-tcp"):
                identifier = number.to_bytes(16, "little")
                options["identity"] = FabricsHost(nqn=f"nqn.2024-01.org.example:h{number}", identifier=identifier)
            found.append(closing.enter_context(nvme_emu.open(url, **options)))
        yield found


def until(machine: Any, done: Callable[[], bool]) -> None:
    for _ in range(5000):
        if done():
            return
        machine.runtime.sleep_ns(2_000_000)
    raise AssertionError("it did not come true")


def test_every_port_has_a_controller_of_one_subsystem_and_the_same_data(four: list[Any]) -> None:
    cntlids = [one.driver.identity.cntlid for one in four]
    assert len(set(cntlids)) == 4
    assert cntlids[:2] == [0, 1]
    assert {one.driver.identity.subnqn for one in four} == {NQN}
    assert {one.driver.identity.cmic for one in four} == {0b1011}
    for number, writer in enumerate(four):
        writer.namespaces[1].write(number, bytes([65 + number]) * 512)
        assert {bytes(one.namespaces[1].read(number, 1)) for one in four} == {bytes([65 + number]) * 512}
    for one in four:
        assert set(one.namespaces) == {1, 2}


def test_states_of_the_ports_are_set_while_they_are_used(shared: Shared, four: list[Any]) -> None:
    first, third = shared.rpc
    assert first.call("ana.get") == {
        "port": 1, "states": {"1": "optimized", "2": "optimized"}, "namespaces": {"1": 1, "2": 2}
    }  # fmt: skip
    assert third.call("ana.get")["port"] == 3
    assert four[3].namespaces[2].ana_state is AnaState.INACCESSIBLE
    assert first.call("ana.set", group=1, state="inaccessible", port=2)["states"]["1"] == "inaccessible"
    assert third.call("ana.set", group=1, state="non-optimized")["states"]["1"] == "non-optimized"

    until(four[1], lambda: four[1].namespaces[1].ana_state is AnaState.INACCESSIBLE)
    until(four[2], lambda: four[2].namespaces[1].ana_state is AnaState.NON_OPTIMIZED)
    with pytest.raises(NvmeError) as failed:
        four[1].namespaces[1].read(0, 1)
    assert failed.value.status is not None
    assert failed.value.status & STATUS_CODE_MASK == Status.ANA_INACCESSIBLE
    for number in (0, 2, 3):
        four[number].namespaces[1].read(0, 1)

    for port in (2, 3):
        first.call("ana.set", group=1, state="optimized", port=port)
    until(four[1], lambda: four[1].namespaces[1].ana_state is AnaState.OPTIMIZED)
    four[1].namespaces[1].read(0, 1)
    with pytest.raises(RpcError, match="ANA groups 1 to 2"):
        first.call("ana.set", group=3, state="optimized")


def test_subsystem_reset_at_a_pci_function_resets_the_other_and_ends_associations(four: list[Any]) -> None:
    a, b = four[:2]
    a.namespaces[1].write(9, b"kept" * 128)
    a.driver.port.write32(Reg.NSSR, NSSR_MAGIC)
    for one in (a, b):
        assert CSTS.unpack(one.driver.port.read32(Reg.CSTS)).nssro == 1
    for one in (a, b):
        one.driver.reset()
    for one in four:
        assert bytes(one.namespaces[1].read(9, 1)) == b"kept" * 128  # those of TCP connect again


@pytest.mark.parametrize(("wheres", "known"), [(("127.0.0.1:0", "127.0.0.1:0"), True), (("0.0.0.0:0",) * 2, False)])
def test_discovery_log_names_every_tcp_port_that_is_known(wheres: tuple[str, str], known: bool) -> None:
    loop = Loop()
    device = ServedDevice(
        DeviceOptions(number=1, image=None, size="1M", lba_size=512, profile="instant", seed=0, ports=2)
    )
    both = [device, ServedPort(device, 2)]
    fronts = [
        TcpFront(loop, where, one, nqn=NQN, hosts=(), log=lambda line: None)
        for where, one in zip(wheres, both, strict=True)
    ]
    try:
        join_ports(fronts)
        expected = tuple(one.address for one in fronts) if known else ()
        assert [one.target.addresses for one in fronts] == [expected, expected]
    finally:
        for one in (*fronts, device):
            one.close()
        loop.close()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--shared", "--image", "a", "--image", "b"], "one --image"),
        (["--shared", "--nqn", NQN, "--nqn", NQN, "--tcp", "127.0.0.1:0"], "one --nqn"),
        (["--ana-state", "1:1=optimized"], "--ana-groups"),
        (["--ana-groups", "1", "--ana-state", "1:2=optimized"], "ANA groups 1 to 1"),
        (["--ana-groups", "1", "--ana-state", "1:1=lost"], "no ANA state"),
        (["--ana-groups", "1", "--ana-state", "first=optimized"], "PORT:GROUP=STATE"),
        (["--namespaces", "2", "--image", "a"], "one namespace"),
    ],
)
def test_wrong_usage_ends_with_2(tmp_path: Path, arguments: list[str], words: str) -> None:
    command = [*START, "--quiet", "--tcp", "127.0.0.1:0", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
