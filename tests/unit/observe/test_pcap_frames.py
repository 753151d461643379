"""Captures by their bytes: block lengths, checksums, sequence numbers, limits."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nvme_emu.observe.pcap import SEGMENT_MAX, PcapWriter


def frames(path: Path) -> list[bytes]:
    """The Ethernet frames of a capture, read by what pcapng says of itself."""
    data, at, found = path.read_bytes(), 0, []
    while at < len(data):
        kind, total = struct.unpack_from("<II", data, at)
        assert total % 4 == 0 and struct.unpack_from("<I", data, at + total - 4)[0] == total
        if kind == 6:
            length, original = struct.unpack_from("<II", data, at + 20)
            assert length == original
            found.append(data[at + 28 : at + 28 + length])
        at += total
    return found


def sums_to_ones(data: bytes) -> bool:
    """RFC 1071: with its checksum in place a message adds up to all ones."""
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total == 0xFFFF


_payloads = st.binary(min_size=1, max_size=200) | st.just(b"x" * (SEGMENT_MAX + 1))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.booleans(), _payloads), max_size=6))
def test_streams_come_out_as_they_went_in(
    tmp_path_factory: pytest.TempPathFactory, sends: list[tuple[bool, bytes]]
) -> None:
    path = tmp_path_factory.mktemp("pcap") / "t"
    with PcapWriter(path) as writer:
        connection = writer.connection(5, host_port=50_000)
        for to_controller, data in sends:
            connection.send(6, data, to_controller=to_controller)
        connection.close(7)
        connection.close(8)
        connection.send(9, b"late", to_controller=True)
    streams, expected = {True: b"", False: b""}, {True: 1_000, False: 2_000}
    for frame in frames(path):
        ip, tcp = frame[14:34], frame[34:]
        assert struct.unpack(">H", ip[2:4])[0] == len(frame) - 14 and sums_to_ones(ip)
        assert sums_to_ones(ip[12:20] + struct.pack(">BBH", 0, 6, len(tcp)) + tcp)
        source, _, sequence, acknowledged = struct.unpack(">HHII", tcp[:12])
        to_controller = source == 50_000
        assert sequence == expected[to_controller]
        if tcp[13] & 0x10:
            assert acknowledged == expected[not to_controller]
        expected[to_controller] += len(tcp) - 20 + bool(tcp[13] & 3)
        streams[to_controller] += tcp[20:]
    for direction in (True, False):
        assert streams[direction] == b"".join(data for way, data in sends if way is direction)


def test_sequence_numbers_wrap_after_four_gibibytes(tmp_path: Path) -> None:
    path = tmp_path / "t"
    with PcapWriter(path) as writer:
        connection = writer.connection(0, host_port=1)
        connection._sequence[True] = 0xFFFF_FFFE
        connection.send(0, b"abcd", to_controller=True)
        connection.send(0, b"e", to_controller=True)
    sequences = [struct.unpack_from(">I", frame, 38)[0] for frame in frames(path) if len(frame) > 54]
    assert sequences == [0xFFFF_FFFE, 2]


def test_capture_is_bounded_and_counts_what_it_dropped(tmp_path: Path) -> None:
    path = tmp_path / "t"
    with PcapWriter(path, packets_max=4) as writer:
        connection = writer.connection(0, host_port=1)
        connection.send(0, b"abcd", to_controller=True)
        connection.send(0, b"", to_controller=True)
        assert (writer.packets, writer.dropped) == (4, 1)
    writer.close()
    connection.send(0, b"after", to_controller=True)
    assert len(frames(path)) == 4 and writer.dropped == 3


@pytest.mark.parametrize("port", [0, 65_536])
def test_bad_port_is_refused(tmp_path: Path, port: int) -> None:
    with PcapWriter(tmp_path / "t") as writer, pytest.raises(ValueError, match=f"host_port={port}"):
        writer.connection(0, host_port=port)
