"""The driver over TCP: who it says it is, lost connections, several callers, and foreign targets that misbehave."""

from __future__ import annotations

import errno
import socket
import struct
import threading
from collections.abc import Callable

import numpy as np
import pytest
from tcphelpers import Served
from tcphost import HOST, NQN, make_target

import nvme_emu
from nvme_emu.core.errors import NvmeError
from nvme_emu.driver.fabrics import FabricsHost
from nvme_emu.machine_remote import parse_url
from nvme_emu.transports.tcp import InitiatorOptions, TargetOptions, TcpFabric


def pattern(nbytes: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, nbytes, np.uint8)


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("options", [{}, {"header_digest": True}, {"header_digest": True, "data_digest": True}])
@pytest.mark.parametrize("maxh2cdata", [4096, 128 << 10])
def test_data_comes_back_with_every_digest_and_transfer_size(
    serve: Callable[..., Served], mode: str, options: dict[str, bool], maxh2cdata: int
) -> None:
    served = serve(options=TargetOptions(maxh2cdata=maxh2cdata))
    with nvme_emu.open(served.url, mode=mode, tcp=InitiatorOptions(**options)) as ssd:
        namespace = ssd.namespaces[1]
        data = pattern(3 << 20)
        namespace.write(7, data)

        assert (namespace.read(7, len(data) // 512) == data).all()
        assert (namespace.read_many(np.arange(7, 7 + 6000, 8), 8).reshape(-1) == data[: 750 * 4096]).all()


def test_capsules_carry_small_writes_and_r2t_large_ones(serve: Callable[..., Served]) -> None:
    served = serve()
    with nvme_emu.open(served.url) as ssd:
        capsule_bytes = ssd.driver.paths[0].pair.channel.in_capsule_bytes

    assert capsule_bytes == 16384


def test_two_hosts_see_one_disk(serve: Callable[..., Served]) -> None:
    served = serve()
    with nvme_emu.open(served.url) as one, nvme_emu.open(served.url, mode="async", queues=2) as two:
        one.namespaces[1].write(0, pattern(4096))

        assert (two.namespaces[1].read(0, 8) == pattern(4096)).all()
        assert one.driver.cntlid != two.driver.cntlid


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_callers_on_many_threads_share_a_queue(serve: Callable[..., Served], mode: str) -> None:
    served = serve()
    wrong: list[int] = []
    with nvme_emu.open(served.url, mode=mode, depth=8) as ssd:
        namespace = ssd.namespaces[1]

        def work(number: int) -> None:
            for turn in range(20):
                data = pattern(2048, number * 100 + turn)
                namespace.write(number * 64 + turn, data)
                if (namespace.read(number * 64 + turn, 4) != data).any():
                    wrong.append(number)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)

    assert wrong == []
    assert not any(thread.is_alive() for thread in threads)


def test_more_requests_than_tags_all_end(serve: Callable[..., Served]) -> None:
    served = serve()
    for mode in ("sync", "async"):
        with nvme_emu.open(served.url, mode=mode, depth=4) as ssd:
            namespace = ssd.namespaces[1]
            requests = [namespace.submit_write(slba, pattern(512, slba)) for slba in range(30)]
            for request in requests:
                request.wait(20)

            assert (namespace.read_many(np.arange(30))[29] == pattern(512, 29)).all()


def test_event_of_the_target_reaches_the_driver(serve: Callable[..., Served]) -> None:
    served = serve()
    heard, seen = [], threading.Event()
    with nvme_emu.open(served.url) as ssd:
        ssd.driver.on_aen = lambda dw0: (heard.append(dw0), seen.set())
        ssd.driver.admin.set_features(0x0B, 1 << 8)
        for association in served.target.associations.values():
            served.call(lambda one=association: one.controller.logs.namespace_changed(1))
        served.call(served.server.work)

        assert seen.wait(10)
        assert heard == [0x04_00_02]
        assert ssd.namespaces[1].read(0, 1).nbytes == 512


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_lost_connection_ends_every_request_with_an_error(serve: Callable[..., Served], mode: str) -> None:
    served = serve()
    with nvme_emu.open(served.url, mode=mode, ctrl_loss_tmo=0) as ssd:
        namespace = ssd.namespaces[1]
        namespace.read(0, 1)
        served.call(lambda: [one.end("test") for one in tuple(served.target.associations.values())])

        errors = []
        for _ in range(3):
            with pytest.raises(NvmeError) as caught:
                namespace.read(0, 1)
            errors.append(caught.value.errno)

        assert set(errors) <= {errno.EIO, errno.ENODEV}
        assert ssd.driver.lost is not None


def test_target_that_does_not_know_the_subsystem_says_so(serve: Callable[..., Served]) -> None:
    served = serve()
    with pytest.raises(NvmeError, match=r"Connect of queue 0 to nqn\.2024-01\.org\.example:no.*Invalid Parameters"):
        nvme_emu.open(f"nvme-tcp://127.0.0.1:{served.port}/nqn.2024-01.org.example:no")


def test_host_that_is_not_allowed_is_told_so(serve: Callable[..., Served]) -> None:
    served = serve(make_target(size=1 << 20, hosts=frozenset({HOST})))

    with pytest.raises(NvmeError, match="Connect Invalid Host"):
        nvme_emu.open(served.url)
    with nvme_emu.open(served.url, identity=FabricsHost(nqn=HOST)) as ssd:
        assert set(ssd.namespaces) == {1}


def test_nobody_listening_is_an_error_that_names_the_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

    with pytest.raises(NvmeError, match=rf"cannot connect to 127\.0\.0\.1:{port}") as caught:
        nvme_emu.open(f"nvme-tcp://127.0.0.1:{port}/{NQN}")
    assert caught.value.errno == errno.ECONNREFUSED


@pytest.mark.parametrize(
    "url",
    ["nvme-tcp://host", "nvme-tcp:///nqn.2024-01.a.b:c", "nvme-tcp://host:99999/nqn.2024-01.a.b:c",
     "nvme-tcp://host/other", "http://host/nqn.2024-01.a.b:c"],
)  # fmt: skip
def test_url_that_names_no_subsystem_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"nqn|NQN|Port|target"):
        nvme_emu.open(url)


def test_url_has_a_default_port() -> None:
    assert parse_url(f"nvme-tcp://host/{NQN}") == ("host", 4420, NQN)
    assert parse_url(f"nvme-tcp://[::1]:8009/{NQN}") == ("::1", 8009, NQN)


def test_options_of_a_device_are_refused_for_one_elsewhere() -> None:
    with pytest.raises(TypeError, match="size"):
        nvme_emu.open(f"nvme-tcp://127.0.0.1/{NQN}", size="1G")
    with pytest.raises(ValueError, match="mode"):
        nvme_emu.open(f"nvme-tcp://127.0.0.1/{NQN}", mode="mixed")


# -- foreign targets that misbehave -------------------------------------------------------------------------

IC_RESP = struct.pack("<BBBBIHBBI112x", 1, 0, 128, 0, 128, 0, 0, 0, 8192)
READ = struct.pack("<BBHI56x", 2, 0x40, 5, 1)


def data_pdu(kind: int, cid: int, first: int, second: int, data: bytes = b"", flags: int = 0) -> bytes:
    plen = 24 + len(data)
    return struct.pack("<BBBBIHHII4x", kind, flags, 24, 24 if data else 0, plen, cid, 0, first, second) + data


def answered_by(answer: bytes, ic_resp: bytes = IC_RESP) -> tuple[TcpFabric, threading.Thread]:
    """A target that sends `ic_resp`, waits for a command and sends `answer`."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve_one() -> None:
        client, _ = listener.accept()
        with listener, client:
            client.recv(128)
            client.sendall(ic_resp)
            if client.recv(72):
                client.sendall(answer)
                while client.recv(4096):
                    pass

    thread = threading.Thread(target=serve_one)
    thread.start()
    return TcpFabric("127.0.0.1", listener.getsockname()[1], NQN), thread


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (data_pdu(7, 6, 0, 512, bytes(512), 12), "C2HData for command 6"),
        (data_pdu(7, 5, 256, 512, bytes(512), 12), r"C2HData 256\+512 of 512 bytes"),
        (data_pdu(7, 5, 0, 100, bytes(512), 12), "DATAL 100, 512 bytes follow"),
        (data_pdu(9, 6, 0, 512), "R2T for command 6"),
        (data_pdu(9, 5, 0, 1024), r"R2T 0\+1024 of 512 bytes"),
        (data_pdu(9, 5, 0, 0), r"R2T 0\+0"),
        (bytes([4]) + bytes(71), "PDU type 0x4"),
        (IC_RESP, "PDU Sequence Error"),
        (struct.pack("<BBBBIHI10x", 3, 0, 24, 0, 24, 4, 16), r"terminates the connection: Data Transfer Out of Range"),
        (b"\xff" * 24, "PDU type 0xff"),
    ],
)
def test_target_that_breaks_the_protocol_loses_the_connection(answer: bytes, why: str) -> None:
    fabric, thread = answered_by(answer)
    channel = fabric.open()
    guarded = memoryview(bytearray(b"\xee" * 512))
    channel.send(5, READ, guarded, False)
    channel.flush()

    with pytest.raises(OSError, match=why):
        while not channel.receive(1_000_000_000):
            pass
    fabric.close()
    thread.join(10)


@pytest.mark.parametrize(
    "ic_resp",
    [
        struct.pack("<BBBBIHBBI112x", 1, 0, 128, 0, 128, 1, 0, 0, 8192),
        struct.pack("<BBBBIHBBI112x", 1, 0, 128, 0, 128, 0, 32, 0, 8192),
        struct.pack("<BBBBIHBBI112x", 1, 0, 128, 0, 128, 0, 0, 0, 100),
        b"HTTP/1.1 400 Bad Request\r\n\r\n" + bytes(100),
        b"",
    ],
)
def test_target_with_a_bad_greeting_is_not_connected(ic_resp: bytes) -> None:
    fabric, thread = answered_by(b"", ic_resp)
    if not ic_resp:
        fabric = TcpFabric(*fabric._where, NQN, InitiatorOptions(connect_timeout_s=0.1))

    with pytest.raises(OSError, match="cannot connect to"):
        fabric.open()
    fabric.close()
    thread.join(10)


@pytest.mark.parametrize("options", [{}, {"mode": "async"}, {"mode": "async", "worker": "per-request"}])
def test_close_while_others_do_io_ends_them(options: dict[str, str], serve: Callable[..., Served]) -> None:
    ssd = nvme_emu.open(serve().url, **options)
    namespace = ssd.namespaces[1]
    going = threading.Barrier(4)
    ended: list[type[Exception]] = []

    def write_for_ever(slba: int) -> None:
        try:
            namespace.write(slba, bytes(4096))
            going.wait()
            while True:
                namespace.write(slba, bytes(4096))
        except Exception as error:
            ended.append(type(error))

    threads = [threading.Thread(target=write_for_ever, args=(8 * at,), daemon=True) for at in range(3)]
    for thread in threads:
        thread.start()
    going.wait()
    ssd.close()
    for thread in threads:
        thread.join(60)
    assert ended == [NvmeError] * 3
