"""Wireshark's own dissectors read our captures without an error.

The machine's tshark is taken, else Debian's is unpacked into the cache; without either the tests are skipped.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from linux_guest_lib.cache import Unavailable
from linux_guest_lib.server import Server, free_port
from linux_guest_lib.tshark import Tshark, find_tshark

import nvme_emu
from nvme_emu.observe.pcap import PcapConnection, PcapWriter
from nvme_emu.spec.fabrics import CONNECT_DATA
from nvme_emu.spec.queues import CQE, SQE
from nvme_emu.spec.tcp import (
    C2H_DATA,
    CAPSULE_CMD,
    CAPSULE_RESP,
    CMD_SIZE,
    DATA_SIZE,
    FLAG_LAST,
    H2C_DATA,
    IC_REQ,
    IC_RESP,
    IC_SIZE,
    R2T,
    RESP_SIZE,
    PduType,
)

NQN = "nqn.2024-01.org.example:pcap"
BAD = (
    "_ws.malformed || tcp.analysis.flags || tcp.checksum.status == 0 || ip.checksum.status == 0 || "
    "_ws.expert.severity == error"
)

IN_CAPSULE = 0x01 << 56  # SGL descriptor: offset in the capsule
TRANSPORT = 0x5A << 56  # SGL descriptor: transport data block


def capsule(cid: int, opcode: int, nsid: int, cdws: tuple[int, ...], sgl: tuple[int, int], data: bytes = b"") -> bytes:
    sqe = SQE.pack(opcode, 0x40, cid, nsid, 0, 0, 0, sgl[0], sgl[1], *cdws)
    head = CAPSULE_CMD.build(
        pdu_type=PduType.CAPSULE_CMD, hlen=CMD_SIZE, pdo=CMD_SIZE if data else 0, plen=CMD_SIZE + len(data), ccsqe=sqe
    )
    return head + data


def response(cid: int, sqid: int, dw0: int = 0) -> bytes:
    cqe = CQE.pack(dw0, 0, 1, sqid, cid, 0)
    return CAPSULE_RESP.build(pdu_type=PduType.CAPSULE_RESP, hlen=RESP_SIZE, plen=RESP_SIZE, rccqe=cqe)


def data_pdu(structure: Any, kind: int, cid: int, data: bytes, **more: int) -> bytes:
    head = structure.build(
        pdu_type=kind, flags=FLAG_LAST, hlen=DATA_SIZE, pdo=DATA_SIZE, plen=DATA_SIZE + len(data), cccid=cid,
        datal=len(data), **more,
    )  # fmt: skip
    return bytes(head) + data


def converse(connection: PcapConnection, qid: int) -> int:
    """Connect a queue, write with R2T, read; gives the number of PDUs."""
    connect_data = CONNECT_DATA.build(subnqn="nqn.2014-08.org.nvmexpress:x", hostnqn="nqn.2014-08.org.nvmexpress:y")
    fabrics = (qid << 16, 31, 0, 0, 0, 0)
    pdus = [
        (True, IC_REQ.build(pdu_type=PduType.IC_REQ, hlen=IC_SIZE, plen=IC_SIZE)),
        (False, IC_RESP.build(pdu_type=PduType.IC_RESP, hlen=IC_SIZE, plen=IC_SIZE, maxh2cdata=131072)),
        (True, capsule(0, 0x7F, 0x01, fabrics, (0, 1024 | IN_CAPSULE), connect_data)),
        (False, response(0, qid, 1)),
        (True, capsule(5, 0x01, 1, (8, 0, 127, 0, 0, 0), (0, 65536 | TRANSPORT))),
        (False, R2T.build(pdu_type=PduType.R2T, hlen=DATA_SIZE, plen=DATA_SIZE, cccid=5, ttag=1, r2tl=65536)),
        (True, data_pdu(H2C_DATA, PduType.H2C_DATA, 5, bytes(range(256)) * 256, ttag=1)),
        (False, response(5, qid)),
        (True, capsule(6, 0x02, 1, (8, 0, 7, 0, 0, 0), (0, 4096 | TRANSPORT))),
        (False, data_pdu(C2H_DATA, PduType.C2H_DATA, 6, b"\x55" * 4096)),
        (False, response(6, qid)),
    ]
    for number, (to_controller, pdu) in enumerate(pdus):
        connection.send(1_000_000 * number + 7, pdu, to_controller=to_controller)
    return len(pdus)


@pytest.fixture(scope="session")
def program() -> Tshark:
    try:
        return find_tshark()
    except Unavailable as reason:
        pytest.skip(f"no tshark here: {reason}")


class Reader:
    """Reads one capture with every check on."""

    def __init__(self, program: Tshark, path: Path) -> None:
        self._program, self._path = program, path

    def __call__(self, *args: str) -> str:
        checks = ["-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE"]
        return self._program("-r", str(self._path), *checks, *args)


@pytest.fixture(scope="module")
def capture(program: Tshark, tmp_path_factory: pytest.TempPathFactory) -> tuple[Reader, int]:
    path = tmp_path_factory.mktemp("pcap") / "t.pcapng"
    with PcapWriter(path) as writer:
        connections = [writer.connection(qid, host_port=50_000 + qid) for qid in (1, 2)]
        pdus = sum(converse(connection, qid) for qid, connection in enumerate(connections, 1))
        for connection in connections:
            connection.close(20_000_000)
    return Reader(program, path), pdus


def test_wireshark_finds_no_error_in_any_layer(capture: tuple[Reader, int]) -> None:
    tshark, _ = capture
    assert tshark("-Y", BAD) == ""
    assert tshark("-Y", "tcp.checksum.status == 1").count("\n") == tshark().count("\n") > 30


def test_wireshark_decodes_every_pdu_and_command(capture: tuple[Reader, int]) -> None:
    tshark, pdus = capture
    found = json.loads(tshark("-Y", "nvme-tcp", "-T", "json"))
    types = [packet["_source"]["layers"]["nvme-tcp"]["nvme-tcp.type"] for packet in found]
    assert len(types) == pdus
    assert sorted(set(types), key=int) == ["0", "1", "4", "5", "6", "7", "9"]
    listed = tshark("-Y", "nvme-tcp || nvme")
    for words in ("NVMeOF Connect", "NVMe Write", "NVMe Read", "Ready To Transfer", "CQE for Write", "Data for Read"):
        assert listed.count(words) >= 2, listed


def test_times_are_nanoseconds(capture: tuple[Reader, int]) -> None:
    times = capture[0]("-Y", "nvme-tcp", "-T", "fields", "-e", "frame.time_epoch").split()
    assert times[0] == "0.000000007" and times[1] == "0.001000007"


# --- what commands write ------------------------------------------------------------------------------------


def work(url: str, **options: Any) -> None:
    """Some I/O of each kind: small and large, both ways, with and without digests, one command that fails."""
    with nvme_emu.open(url, **options) as ssd:
        namespace = ssd.namespaces[1]
        data = bytes(range(256)) * 16
        for at in range(8):
            namespace.write(at * 8, data)
        namespace.write(1024, data * 64)
        assert bytes(namespace.read(1024, 512)) == data * 64
        requests = [namespace.submit_read(at * 8, 8) for at in range(8)]
        assert all(bytes(request.wait()) == data for request in requests)
        namespace.flush()
        namespace.discard(0, 8)
        with pytest.raises(nvme_emu.NvmeError):
            namespace.compare(8, bytes(4096))


@pytest.mark.parametrize("digests", [False, True], ids=["plain", "digests"])
def test_serve_and_open_write_what_wireshark_reads_without_an_error(
    program: Tshark, tmp_path: Path, digests: bool
) -> None:
    from nvme_emu.transports.tcp import InitiatorOptions

    served, driven = tmp_path / "served.pcapng", tmp_path / "driven.pcapng"
    port = free_port()
    with Server("--size", "16M", "--nqn", NQN, "--pcap", str(served), devices=0, ports=[port]) as server:
        options = InitiatorOptions(header_digest=digests, data_digest=digests)
        url = f"nvme-tcp://127.0.0.1:{port}/{NQN}"
        work(url, mode="async", depth=16, tcp=options, pcap=str(driven))
        work(url, mode="sync", tcp=options)
        assert server.stop() == 0, server.log
    for path, hosts in ((served, 2), (driven, 1)):
        tshark = Reader(program, path)
        assert tshark("-Y", BAD) == "", path
        listed = tshark("-Y", "nvme-tcp || nvme")
        for words in ("NVMeOF Connect", "Identify", "NVMe Write", "NVMe Read", "Ready To Transfer", "Flush", "Compare"):
            assert words in listed, (path, words)
        # Commands, and completions of those that their data does not complete (C2HData with SUCCESS).
        types = tshark("-T", "fields", "-e", "nvme-tcp.type").replace(",", " ").split()
        assert types.count("4") > 30 * hosts and types.count("5") > 15 * hosts and types.count("7") > 9 * hosts
        # Every connection has its end.
        streams = set(tshark("-T", "fields", "-e", "tcp.stream").split())
        assert len(streams) == 2 * hosts
        assert set(tshark("-Y", "tcp.flags.fin == 1", "-T", "fields", "-e", "tcp.stream").split()) == streams
        assert ("nvme-tcp.ddgst" in tshark("-T", "pdml")) == digests


def test_two_servers_of_one_process_are_told_apart(program: Tshark, tmp_path: Path) -> None:
    path = tmp_path / "two.pcapng"
    ports = [free_port(), free_port()]
    names = [word for nqn in (NQN, f"{NQN}2") for word in ("--nqn", nqn)]
    with Server("--size", "16M", *names, "--pcap", str(path), devices=0, ports=ports) as server:
        for port, nqn in zip(ports, (NQN, f"{NQN}2"), strict=True):
            work(f"nvme-tcp://127.0.0.1:{port}/{nqn}")
        assert server.stop(signal.SIGTERM) == 0, server.log
    tshark = Reader(program, path)
    assert tshark("-Y", BAD) == ""
    addresses = tshark("-Y", "tcp.dstport == 4420", "-T", "fields", "-e", "ip.dst").split()
    assert set(addresses) == {"127.0.0.1", "127.0.0.2"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--vfio-user", "x.sock", "--pcap", "f"], "--pcap is about --tcp"),
        (["--tcp", "127.0.0.1:0", "--pcap", "/nowhere/f"], "/nowhere/f"),
    ],
)
def test_pcap_that_cannot_be_is_bad_usage(tmp_path: Path, options: list[str], message: str) -> None:
    command = [sys.executable, "-c", "from nvme_emu.cli import main; main()", "serve", "--size", "1M", *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr
