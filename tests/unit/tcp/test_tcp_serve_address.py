"""`serve --tcp-address`: where the discovery log, and the line that says how to connect, send hosts."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner
from tcphelpers import Served
from tcphost import NQN, admin, capsule, connect, ic_req, sqe

from nvme_emu.cli.serve import serve as serve_command
from nvme_emu.cli.serve_device import DeviceOptions, ServedDevice
from nvme_emu.cli.serve_tcp import TcpFront, advertised
from nvme_emu.spec.fabrics import DISCOVERY_ENTRY, DISCOVERY_NQN
from nvme_emu.transports.loop import Loop

GET_LOG = 0x02


@contextmanager
def front(where: str, *addresses: str) -> Iterator[tuple[TcpFront, list[str]]]:
    """A front end with --tcp-address, and the lines that it logged."""
    loop, log = Loop(), list[str]()
    device = ServedDevice(DeviceOptions(number=1, image=None, size="1M", lba_size=512, profile="instant", seed=0))
    one = TcpFront(loop, where, device, nqn=NQN, hosts=(), addresses=advertised(addresses), log=log.append)
    try:
        yield one, log
    finally:
        one.close()
        device.close()
        loop.close()


def entries(target: object, count: int) -> list[tuple[int, bytes, bytes, int]]:
    """(address family, address, port, port identifier) of the discovery log."""
    wire, _ = admin(target, subnqn=DISCOVERY_NQN)  # type: ignore[arg-type]
    nbytes = 1024 * (count + 1)
    (answer,) = wire.command(sqe(GET_LOG, 5, length=nbytes, cdw10=0x70 | (nbytes // 4 - 1) << 16))
    parsed = [DISCOVERY_ENTRY.parse(answer.data[1024 * n : 1024 * (n + 1)]) for n in range(1, count + 1)]
    assert all(one.subnqn == NQN for one in parsed)
    return [(one.adrfam, one.traddr.strip(b" \0"), one.trsvcid.strip(b" \0"), one.portid) for one in parsed]


def test_hosts_are_sent_to_the_addresses_that_were_said() -> None:
    with front("0.0.0.0:0", "192.0.2.7", "198.51.100.1:14420", "[2001:db8::1]") as (one, log):
        own = str(one.summary()["tcp"]).rpartition(":")[2]

        found = entries(one.target, 3)

    assert found == [
        (1, b"192.0.2.7", own.encode(), 1),
        (1, b"198.51.100.1", b"14420", 2),
        (2, b"2001:db8::1", own.encode(), 3),
    ]
    said = [line.partition(": nvme connect ")[2] for line in log if "nvme connect" in line]
    assert said[0] == f"-t tcp -a 192.0.2.7 -s {own} -n {NQN}"
    assert said[1] == f"-t tcp -a 198.51.100.1 -s 14420 -n {NQN}"


def test_without_an_address_hosts_are_sent_to_where_they_came_to() -> None:
    with front("0.0.0.0:0") as (one, log):
        assert entries(one.target, 1) == [(1, b"127.0.0.1", b"4420", 1)]
    assert any("nvme connect -t tcp -a ADDRESS -s" in line for line in log)


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no sockets for IPv4 and IPv6 at once")
def test_host_that_came_by_ipv4_to_a_socket_for_both_is_known_by_its_ipv4_address(
    serve: Callable[..., Served],
) -> None:
    served = serve(host="::")
    with socket.create_connection(("127.0.0.1", served.port), 10) as client:
        for data in (ic_req(), capsule(*connect(1, 0))):
            client.sendall(data)
            assert client.recv(4096)

        (association,) = served.call(lambda: tuple(served.target.associations.values()))

        assert association.address == ("127.0.0.1", served.port)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tcp", "127.0.0.1:0", "--tcp-address", "0.0.0.0"], "'0.0.0.0' is no IP address that hosts can connect to"),
        (["--tcp", "127.0.0.1:0", "--tcp-address", "ssd.example"], "'ssd.example' is no IP address"),
        (["--tcp", "127.0.0.1:0", "--tcp-address", "192.0.2.7:x"], "is no HOST:PORT"),
        (["--tcp", ":0", "--tcp", ":0", "--tcp-address", "192.0.2.7:4420"], "the port can be that of one --tcp only"),
        (["--vfio-user", "socket", "--tcp-address", "192.0.2.7"], "--tcp-address is about --tcp"),
    ],
)
def test_address_that_hosts_cannot_use_is_refused_with_the_reason(
    options: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    result = CliRunner().invoke(serve_command, [*options, "--size", "1M"], standalone_mode=False)

    assert result.return_value == 2
    assert words in result.output
    assert list(tmp_path.iterdir()) == []
