"""PDUs of one connection: data in capsules, R2T, C2HData, digests, alignment, and terminate PDUs."""

from __future__ import annotations

import random
import struct

import pytest
from crc32c import crc32c
from hypothesis import given, settings
from hypothesis import strategies as st
from tcphost import (
    IN_CAPSULE,
    Wire,
    admin,
    capsule,
    connect,
    h2c_data,
    ic_req,
    io,
    io_queue,
    make_target,
    property_set,
    sqe,
)

from nvme_emu.spec.status import Status
from nvme_emu.spec.tcp import Fes, PduType
from nvme_emu.transports.tcp import TargetOptions

READ, WRITE = 2, 1


def queue(options: TargetOptions | None = None, **ic: int) -> Wire:
    target = make_target()
    _, cntlid = admin(target)
    return io_queue(target, cntlid, options=options, **ic)


def payload(nbytes: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(nbytes)


def test_ic_resp_says_what_the_target_takes() -> None:
    wire = Wire(make_target(), TargetOptions(maxh2cdata=8192, cpda=3))

    answer = wire.start(digests=3)

    pfv, cpda, digests, maxh2cdata = struct.unpack_from("<HBBI", answer.header, 8)
    assert (pfv, cpda, digests, maxh2cdata) == (0, 3, 3, 8192)


def test_digests_are_used_only_where_both_want_them() -> None:
    assert Wire(make_target()).start(digests=0).header[11] == 0
    assert Wire(make_target(), TargetOptions(data_digest=False)).start(digests=3).header[11] == 1


def test_write_with_data_in_the_capsule_needs_no_r2t() -> None:
    wire = queue()
    data = payload(4096)

    (done,) = wire.command(io(WRITE, 1, 0, 8, kind=IN_CAPSULE), data)
    (read,) = wire.command(io(READ, 2, 0, 8))

    assert (done.kind, done.status) == (PduType.CAPSULE_RESP, 0)
    assert read.data == data


def test_capsule_with_more_data_than_its_sgl_names_drops_the_rest() -> None:
    wire = queue()

    (done,) = wire.command(io(WRITE, 1, 0, 1, kind=IN_CAPSULE), payload(1024))

    assert done.status == 0
    assert wire.command(io(READ, 2, 0, 2))[0].data == payload(1024)[:512] + bytes(512)


def test_capsule_with_data_that_a_read_does_not_want_is_answered_and_skipped() -> None:
    wire = queue()

    (read,) = wire.command(io(READ, 1, 0, 1), payload(1024))

    assert read.data == bytes(512)
    assert wire.command(io(READ, 2, 0, 1))[0].data == bytes(512)


def test_write_by_r2t_takes_its_data_in_several_pdus() -> None:
    wire = queue(TargetOptions(maxh2cdata=4096))
    data = payload(10240)

    (wanted,) = wire.command(io(WRITE, 1, 4, 20))
    tag, offset, length = wanted.transfer
    silent = wire.feed(h2c_data(1, tag, 0, data[:4096], last=False))
    silent += wire.feed(h2c_data(1, tag, 4096, data[4096:8192], last=False))
    (done,) = wire.feed(h2c_data(1, tag, 8192, data[8192:], last=True))

    assert (wanted.kind, offset, length) == (PduType.R2T, 0, 10240)
    assert silent == []
    assert done.status == 0
    assert wire.command(io(READ, 2, 4, 20))[0].data == data


def test_writes_by_r2t_may_be_interleaved() -> None:
    wire = queue()
    first, second = payload(8192, 1), payload(8192, 2)
    tags = [wire.command(io(WRITE, cid, cid * 16, 16))[0].transfer[0] for cid in (1, 2)]

    wire.feed(h2c_data(1, tags[0], 0, first[:4096], last=False))
    (done_second,) = wire.feed(h2c_data(2, tags[1], 0, second, last=True))
    (done_first,) = wire.feed(h2c_data(1, tags[0], 4096, first[4096:], last=True))

    assert (done_second.cid, done_first.cid) == (2, 1)
    assert wire.command(io(READ, 3, 16, 32))[0].data == first + second


@pytest.mark.parametrize("success", [True, False])
def test_read_data_stands_for_the_completion_only_with_success(success: bool) -> None:
    wire = queue(TargetOptions(success=success))

    answers = wire.command(io(READ, 1, 0, 8))

    kinds = [answer.kind for answer in answers]
    assert kinds == [PduType.C2H_DATA] if success else [PduType.C2H_DATA, PduType.CAPSULE_RESP]
    assert bool(answers[0].flags & 8) is success
    assert answers[0].flags & 4


def test_read_of_a_queue_with_flow_control_always_has_a_response() -> None:
    target = make_target()
    _, cntlid = admin(target)
    wire = Wire(target)
    wire.start()
    wire.connect(1, cntlid, cattr=0)

    assert [a.kind for a in wire.command(io(READ, 1, 0, 8))] == [PduType.C2H_DATA, PduType.CAPSULE_RESP]


@pytest.mark.parametrize("digests", [0, 1, 2, 3])
@pytest.mark.parametrize("hpda", [0, 7, 31])
def test_digests_and_alignment_of_data_to_the_host(digests: int, hpda: int) -> None:
    target = make_target()
    _, cntlid = admin(target)
    wire = Wire(target)
    wire.start(digests=digests, hpda=hpda)
    entry, data = connect(1, 1, cntlid)
    wire.feed(digested(entry, data, digests))

    (answer,) = wire.feed(digested(io(READ, 2, 0, 8), b"", digests))

    assert answer.data == bytes(4096)
    assert answer.flags & 3 == digests
    assert answer.header[3] % (4 * (hpda + 1)) == 0


def digested(entry: bytes, data: bytes, digests: int, *, spoil: str = "") -> bytes:
    """CapsuleCmd with digests."""
    behind = 72 + (4 if digests & 1 else 0)
    tail = 4 if digests & 2 and data else 0
    flags = digests & 1 | (digests & 2 if data else 0)
    head = struct.pack("<BBBBI", 4, flags, 72, behind if data else 0, behind + len(data) + tail) + entry
    out = head
    if digests & 1:
        out += (crc32c(head) ^ (spoil == "header")).to_bytes(4, "little")
    out += data
    if tail:
        out += (crc32c(data) ^ (spoil == "data")).to_bytes(4, "little")
    return out


def test_wrong_data_digest_fails_the_command_and_not_the_connection() -> None:
    target = make_target()
    _, cntlid = admin(target)
    wire = Wire(target)
    wire.start(digests=3)
    wire.feed(digested(*connect(1, 1, cntlid), 3))
    write = io(WRITE, 2, 0, 8, kind=IN_CAPSULE)

    (failed,) = wire.feed(digested(write, payload(4096), 3, spoil="data"))
    (read,) = wire.feed(digested(io(READ, 3, 0, 8), b"", 3))

    assert failed.status == Status.TRANSIENT_TR_ERR
    assert read.data == bytes(4096)


def test_wrong_header_digest_is_fatal_and_tells_the_digest_received() -> None:
    target = make_target()
    _, cntlid = admin(target)
    wire = Wire(target)
    wire.start(digests=1)
    wire.feed(digested(*connect(1, 1, cntlid), 1))
    bad = digested(io(READ, 2, 0, 8), b"", 1, spoil="header")

    (term,) = wire.feed(bad)

    assert term.kind == PduType.C2H_TERM_REQ
    assert term.fatal == (Fes.HEADER_DIGEST_ERROR, int.from_bytes(bad[72:76], "little"))
    assert term.data == bad[:72]


def header(kind: int, *, flags: int = 0, hlen: int = 72, pdo: int = 0, plen: int = 72) -> bytes:
    return struct.pack("<BBBBI", kind, flags, hlen, pdo, plen) + bytes(120)


INVALID, SEQUENCE = Fes.INVALID_HEADER_FIELD, Fes.SEQUENCE_ERROR


@pytest.mark.parametrize(
    ("bytes_in", "fatal"),
    [
        (header(0x04, hlen=24), (INVALID, 2)),
        (header(0x04, plen=8), (INVALID, 4)),
        (header(0x04, plen=0xFFFF_FFFF), (INVALID, 3)),
        (header(0x04, pdo=72, plen=0xFFFF_FFFF), (INVALID, 4)),
        (header(0x04, pdo=74, plen=80), (INVALID, 3)),
        (header(0x04, pdo=200, plen=100), (INVALID, 4)),
        (header(0x04, flags=0x01), (INVALID, 1)),
        (header(0x04, flags=0x02), (INVALID, 1)),
        (header(0x04, flags=0x80), (INVALID, 1)),
        (header(0x05, hlen=24, plen=24), (INVALID, 0)),
        (header(0x07, hlen=24, plen=24), (INVALID, 0)),
        (header(0x09, hlen=24, plen=24), (INVALID, 0)),
        (header(0xFF), (INVALID, 0)),
        (ic_req(), (SEQUENCE, 0)),
        (h2c_data(1, 0, 0, bytes(512), last=True), (INVALID, 10)),
    ],
)
def test_broken_pdu_is_answered_with_its_fatal_error(bytes_in: bytes, fatal: tuple[int, int]) -> None:
    wire = queue()

    answers = wire.feed(bytes_in)

    assert [answer.kind for answer in answers] == [PduType.C2H_TERM_REQ]
    assert answers[0].fatal == fatal
    assert bytes_in.startswith(answers[0].data)
    assert wire.session.over is not None


@pytest.mark.parametrize(
    ("first", "fatal"),
    [
        (capsule(io(READ, 1, 0, 1)), (SEQUENCE, 0)),
        (h2c_data(1, 0, 0, bytes(4), last=True), (SEQUENCE, 0)),
        (ic_req(pfv=1), (Fes.UNSUPPORTED_PARAMETER, 8)),
        (ic_req(hpda=32), (INVALID, 10)),
        (header(0x00, hlen=8, plen=8), (INVALID, 2)),
        (b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n", (INVALID, 0)),
    ],
)
def test_first_pdu_must_be_a_good_ic_req(first: bytes, fatal: tuple[int, int]) -> None:
    wire = Wire(make_target())

    (term,) = wire.feed(first)

    assert term.fatal == fatal


@pytest.mark.parametrize(
    ("change", "fatal"),
    [
        ({"cid": 9}, (INVALID, 8)),
        ({"tag": 999}, (INVALID, 10)),
        ({"offset": 512}, (Fes.DATA_OUT_OF_RANGE, 12)),
        ({"data": bytes(4608)}, (Fes.DATA_OUT_OF_RANGE, 12)),
        ({"data": bytes(2048)}, (INVALID, 1)),
        ({"last": False}, (INVALID, 1)),
        ({"datal": 2048}, (INVALID, 16)),
        ({"datal": 9000}, (Fes.LIMIT_EXCEEDED, 16)),
    ],
)
def test_h2c_data_that_was_not_asked_for_is_fatal(change: dict[str, object], fatal: tuple[int, int]) -> None:
    wire = queue(TargetOptions(maxh2cdata=8192))
    (wanted,) = wire.command(io(WRITE, 1, 0, 8))
    fields: dict[str, object] = {"cid": 1, "tag": wanted.transfer[0], "offset": 0, "data": bytes(4096), "last": True}

    (term,) = wire.feed(h2c_data(**(fields | change)))  # type: ignore[arg-type]

    assert term.fatal == fatal


def test_terminate_pdu_of_the_host_ends_the_connection_without_an_answer() -> None:
    wire = queue()

    answers = wire.feed(struct.pack("<BBBBIHI10x", 2, 0, 24, 0, 24 + 8, 2, 0) + bytes(8))

    assert answers == []
    assert wire.session.over == "the host terminates the connection: PDU Sequence Error (0x0)"


def test_commands_in_one_segment_are_answered_in_one_turn() -> None:
    wire = queue()
    commands = b"".join(capsule(io(READ, cid, cid, 1)) for cid in range(20))

    answers = wire.feed(commands)

    assert [answer.cid for answer in answers] == list(range(20))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("rwWd"), st.integers(0, 63), st.integers(1, 24)), min_size=1, max_size=12),
    st.lists(st.integers(1, 5000), min_size=1, max_size=6),
    st.integers(0, 3),
)
def test_any_cut_of_the_stream_gives_the_same_answers(
    commands: list[tuple[str, int, int]], cuts: list[int], digests: int
) -> None:
    """Reads, writes in capsules and broken-off turns: the disk ends as a model says, however TCP cuts."""
    target = make_target()
    _, cntlid = admin(target)
    wire = Wire(target)
    wire.start(digests=digests)
    wire.feed(digested(*connect(1, 1, cntlid), digests))
    model = bytearray(1 << 20)
    stream, wanted = b"", []
    for number, (what, slba, blocks) in enumerate(commands):
        cid = 100 + number
        if what in "rd":
            stream += digested(io(READ, cid, slba, blocks), b"", digests)
            wanted.append((cid, bytes(model[slba * 512 : (slba + blocks) * 512])))
        else:
            data = payload(blocks * 512, number)
            stream += digested(io(WRITE, cid, slba, blocks, kind=IN_CAPSULE), data, digests)
            model[slba * 512 : (slba + blocks) * 512] = data
            wanted.append((cid, b""))

    answers, at, turn = [], 0, 0
    while at < len(stream):
        step = cuts[turn % len(cuts)]
        answers += wire.feed(stream[at : at + step])
        at += step
        turn += 1

    assert [(answer.cid, answer.data) for answer in answers] == wanted
    assert wire.session.over is None


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=400), st.booleans())
def test_any_bytes_give_answers_or_one_terminate_pdu(noise: bytes, connected: bool) -> None:
    wire = queue() if connected else Wire(make_target())

    answers = wire.feed(noise)

    terms = [answer for answer in answers if answer.kind == PduType.C2H_TERM_REQ]
    assert len(terms) <= 1
    assert (wire.session.over is not None) >= bool(terms)


@settings(max_examples=150, deadline=None)
@given(st.binary(min_size=64, max_size=64), st.integers(0, 1))
def test_any_command_is_answered_or_asks_for_data(entry: bytes, admin_queue: int) -> None:
    target = make_target()
    wire, cntlid = admin(target)
    if not admin_queue:
        wire = io_queue(target, cntlid)

    wire.command(entry)

    assert target.associations == {} or all(
        one.controller.internal_error is None for one in target.associations.values()
    )


def test_reset_while_data_is_on_its_way_forgets_the_command() -> None:
    target = make_target()
    wire, _ = admin(target)
    (wanted,) = wire.command(sqe(0x09, 5, length=512, cdw10=0x16))
    wire.command(property_set(6, 0x14, 0))
    wire.command(property_set(7, 0x14, 0x0046_0001))

    answers = wire.feed(h2c_data(5, wanted.transfer[0], 0, bytes(512), last=True))

    assert answers == []
    assert wire.command(sqe(0x18, 8))[0].status == 0
