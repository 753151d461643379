"""Bad clients against the server: each is answered or dropped alone, and the others are served."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
from collections.abc import Callable

import pytest
from tcphelpers import Served
from tcphost import CC_ENABLE, NQN, Pdu, capsule, connect, ic_req, io, parse, property_set, sqe

import nvme_emu
from nvme_emu.transports.tcp import parse_address

pytestmark = pytest.mark.breaks_rules  # clients that send PDUs by hand, and bytes at random

READ = 2


class Peer:
    """A client socket that speaks raw PDUs."""

    def __init__(self, served: Served) -> None:
        self.socket = socket.create_connection(("127.0.0.1", served.port), 10)

    def exchange(self, data: bytes) -> list[Pdu]:
        """Send, and read PDUs until there is no half of one."""
        self.socket.sendall(data)
        stream = self.socket.recv(1 << 16)
        while len(stream) < 8 or _missing(stream):
            more = self.socket.recv(1 << 16)
            assert more, stream
            stream += more
        return parse(stream)

    def start_admin(self) -> int:
        """ICReq, Connect, enable; the controller's identifier."""
        self.exchange(ic_req())
        (answer,) = self.exchange(capsule(*connect(1, 0)))
        self.exchange(capsule(property_set(2, 0x14, CC_ENABLE)))
        return answer.value & 0xFFFF

    def read_to_end(self) -> bytes:
        """Everything until the target closes."""
        stream = b""
        with contextlib.suppress(ConnectionResetError):
            while data := self.socket.recv(1 << 16):
                stream += data
        return stream

    def close(self) -> None:
        self.socket.close()


def _missing(stream: bytes) -> bool:
    while len(stream) >= 8:
        plen = struct.unpack_from("<I", stream, 4)[0]
        if len(stream) < plen:
            return True
        stream = stream[plen:]
    return bool(stream)


@pytest.fixture
def peer() -> Callable[[Served], Peer]:
    return Peer


@contextlib.contextmanager
def honest_host(served: Served):  # type: ignore[no-untyped-def]
    """Somebody who reads and writes while the others misbehave; checks his data at the end."""
    with nvme_emu.open(served.url) as ssd:
        namespace = ssd.namespaces[1]
        data = random.Random(1).randbytes(64 << 10)
        namespace.write(100, data)
        yield namespace
        assert namespace.read(100, 128).tobytes() == data


def test_broken_client_gets_a_terminate_pdu_and_the_others_go_on(serve: Callable[..., Served]) -> None:
    served = serve()
    with honest_host(served):
        for noise in (b"\xff" * 200, b"GET / HTTP/1.1\r\n\r\n", bytes(128), ic_req(pfv=7)):
            peer = Peer(served)
            peer.socket.sendall(noise)
            (term,) = parse(peer.read_to_end())
            peer.close()
            assert term.kind == 3
    lines = [line for line in served.log if "gone: Invalid PDU" in line or "gone: Unsupported" in line]
    assert len(lines) == 4


def test_client_that_says_nothing_is_dropped_after_its_time(serve: Callable[..., Served]) -> None:
    served = serve(greeting_ns=50_000_000)
    peer = Peer(served)

    assert peer.read_to_end() == b""
    peer.close()
    assert any("no Connect within 0.05 s" in line for line in served.log)


def test_client_that_stops_in_the_middle_of_a_pdu_is_dropped_after_its_time(serve: Callable[..., Served]) -> None:
    served = serve(greeting_ns=50_000_000)
    peer = Peer(served)
    peer.exchange(ic_req())
    peer.socket.sendall(capsule(*connect(1, 0))[:500])

    assert peer.read_to_end() == b""
    peer.close()


def test_client_with_a_connection_is_not_limited_by_the_greeting(serve: Callable[..., Served]) -> None:
    served = serve(greeting_ns=50_000_000)
    peer, silent = Peer(served), Peer(served)
    peer.start_admin()
    silent.read_to_end()

    (answer,) = peer.exchange(capsule(sqe(0x18, 5)))

    assert answer.status == 0
    peer.close()
    silent.close()


def test_byte_by_byte_client_is_served(serve: Callable[..., Served]) -> None:
    served = serve()
    peer = Peer(served)
    peer.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in ic_req() + capsule(*connect(1, 0)):
        peer.socket.sendall(bytes([byte]))

    stream = b""
    while len(stream) < 128 + 24:
        stream += peer.socket.recv(4096)

    assert parse(stream)[1].status == 0
    peer.close()


def test_client_that_does_not_read_holds_up_only_itself(serve: Callable[..., Served]) -> None:
    served = serve()
    with honest_host(served) as namespace:
        cntlid = Peer(served)
        number = cntlid.start_admin()
        greedy = Peer(served)
        greedy.exchange(ic_req())
        greedy.exchange(capsule(*connect(1, 1, number, entries=128)))
        greedy.socket.settimeout(0.2)
        with contextlib.suppress(TimeoutError):
            for _ in range(40):
                greedy.socket.sendall(b"".join(capsule(io(READ, cid, 0, 2048)) for cid in range(64)))
        for slba in range(0, 64, 8):
            namespace.read(slba, 8)
        greedy.close()
        cntlid.close()


def test_thousand_connections_come_and_go_beside_a_host(serve: Callable[..., Served]) -> None:
    served = serve(connections_max=300)
    with honest_host(served) as namespace:
        for _ in range(4):
            peers = [Peer(served) for _ in range(250)]
            namespace.read(0, 8)
            for number, peer in enumerate(peers):
                if number % 3 == 0:
                    peer.socket.sendall(ic_req())
                elif number % 3 == 1:
                    peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                peer.close()
    assert served.server.clients + served.server.refused > 500


def test_more_connections_than_allowed_are_turned_away(serve: Callable[..., Served]) -> None:
    served = serve(connections_max=2)
    peers = [Peer(served) for _ in range(3)]

    assert peers[2].read_to_end() == b""
    assert len(peers[0].exchange(ic_req())) == 1
    assert served.server.refused == 1
    for peer in peers:
        peer.close()


def test_end_of_the_admin_connection_closes_the_io_connections(serve: Callable[..., Served]) -> None:
    served = serve()
    first, second = Peer(served), Peer(served)
    number = first.start_admin()
    second.exchange(ic_req())
    second.exchange(capsule(*connect(1, 1, number)))

    first.close()

    assert second.read_to_end() == b""
    second.close()
    assert served.call(lambda: dict(served.target.associations)) == {}


def test_keep_alive_expiry_closes_the_connection_on_the_wall_clock(serve: Callable[..., Served]) -> None:
    served = serve()
    peer = Peer(served)
    peer.exchange(ic_req())
    peer.exchange(capsule(*connect(1, 0, kato=100)))

    assert peer.read_to_end() == b""
    peer.close()
    assert any("keep alive: nothing heard for 100 ms" in line for line in served.log)


def test_noise_after_connect_never_harms_the_others(serve: Callable[..., Served]) -> None:
    served = serve()
    rng = random.Random(7)
    with honest_host(served) as namespace:
        for _ in range(60):
            peer = Peer(served)
            peer.start_admin()
            good = bytearray(capsule(sqe(rng.randrange(256), rng.randrange(65536), nsid=1, length=4096)))
            for _ in range(rng.randrange(1, 6)):
                good[rng.randrange(len(good))] = rng.randrange(256)
            with contextlib.suppress(OSError):
                peer.socket.sendall(bytes(good) + rng.randbytes(rng.randrange(300)))
                peer.socket.shutdown(socket.SHUT_WR)
                peer.read_to_end()
            peer.close()
        namespace.read(0, 8)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("127.0.0.1:4420", ("127.0.0.1", 4420)),
        ("host", ("host", 4420)),
        (":0", ("127.0.0.1", 0)),
        ("[::1]:8009", ("::1", 8009)),
        ("[::1]", ("::1", 4420)),
        ("::1", ("::1", 4420)),
    ],
)
def test_address_is_understood(text: str, wanted: tuple[str, int]) -> None:
    assert parse_address(text) == wanted


@pytest.mark.parametrize("text", ["host:port", "host:70000", "[::1", "[::1]x", "host:-1"])
def test_address_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"HOST:PORT"):
        parse_address(text)


def test_address_in_use_is_an_error_that_names_it(serve: Callable[..., Served]) -> None:
    served = serve()
    from nvme_emu.transports.tcp import TcpServer, TcpServerConfig

    with pytest.raises(OSError, match=rf"cannot listen on 127\.0\.0\.1:{served.port}"):
        TcpServer(served.loop, served.target, TcpServerConfig(port=served.port), log=lambda line: None)


def test_log_tells_who_went_and_why(serve: Callable[..., Served]) -> None:
    served = serve()
    with nvme_emu.open(served.url):
        pass
    served.call(lambda: None)

    assert NQN
    assert any("queue 0 of nqn.2014-08.org.nvmexpress:uuid:" in line for line in served.log)
