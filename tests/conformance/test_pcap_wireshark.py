"""Wireshark's own dissectors read our captures without an error. Needs tshark (Debian: apt install tshark)."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

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

pytestmark = pytest.mark.skipif(shutil.which("tshark") is None, reason="Wireshark's tshark is not installed")

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


def tshark(path: Path, *args: str) -> str:
    checks = ["-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE"]
    command = ["tshark", "-r", str(path), *checks, *args]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    path = tmp_path_factory.mktemp("pcap") / "t.pcapng"
    with PcapWriter(path) as writer:
        connections = [writer.connection(qid, host_port=50_000 + qid) for qid in (1, 2)]
        pdus = sum(converse(connection, qid) for qid, connection in enumerate(connections, 1))
        for connection in connections:
            connection.close(20_000_000)
    return path, pdus


def test_wireshark_finds_no_error_in_any_layer(capture: tuple[Path, int]) -> None:
    path, _ = capture
    bad = (
        "_ws.malformed || tcp.analysis.flags || tcp.checksum.status == 0 || ip.checksum.status == 0 || "
        "_ws.expert.severity == error"
    )
    assert tshark(path, "-Y", bad) == ""
    assert tshark(path, "-Y", "tcp.checksum.status == 1").count("\n") == tshark(path).count("\n") > 30


def test_wireshark_decodes_every_pdu_and_command(capture: tuple[Path, int]) -> None:
    path, pdus = capture
    found = json.loads(tshark(path, "-Y", "nvme-tcp", "-T", "json"))
    types = [packet["_source"]["layers"]["nvme-tcp"]["nvme-tcp.type"] for packet in found]
    assert len(types) == pdus
    assert sorted(set(types), key=int) == ["0", "1", "4", "5", "6", "7", "9"]
    listed = tshark(path, "-Y", "nvme-tcp || nvme")
    for words in ("NVMeOF Connect", "NVMe Write", "NVMe Read", "Ready To Transfer", "CQE for Write", "Data for Read"):
        assert listed.count(words) >= 2, listed


def test_times_are_nanoseconds(capture: tuple[Path, int]) -> None:
    times = tshark(capture[0], "-Y", "nvme-tcp", "-T", "fields", "-e", "frame.time_epoch").split()
    assert times[0] == "0.000000007" and times[1] == "0.001000007"
