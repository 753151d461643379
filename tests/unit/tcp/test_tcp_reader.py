"""The reader and its tables, and the declarations against the structs that move the bytes."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nvme_emu.spec import tcp as spec
from nvme_emu.spec.fabrics import (
    CONNECT,
    CONNECT_DATA,
    PROPERTY_GET,
    PROPERTY_SET,
    SGL,
    SGL_OFFSET,
    check_nqn,
)
from nvme_emu.spec.tcp import PDU_STRUCTURES, Fes, PduType, align_data
from nvme_emu.transports.tcp.reader import DataEnd, Header, PduError, PduReader
from nvme_emu.transports.tcp.states import RULES, TRANSITIONS, Role, State

IC_OF = {Role.TARGET: PduType.IC_REQ, Role.INITIATOR: PduType.IC_RESP}


def reader(role: Role, state: State) -> PduReader:
    one = PduReader(role, 64 << 10)
    one.state = state
    return one


def feed(one: PduReader, data: bytes) -> None:
    while data:
        space = one.space()
        step = min(len(space), len(data))
        space[:step] = data[:step]
        one.received(step)
        data = data[step:]


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("kind", range(16))
def test_every_pdu_in_every_state_does_what_the_table_says(role: Role, state: State, kind: int) -> None:
    one = reader(role, state)
    rule = RULES[role].get(kind)
    hlen = rule.hlen if rule else 24
    feed(one, struct.pack("<BBBBI", kind, 0, hlen, 0, hlen) + bytes(hlen - 8))
    wanted = TRANSITIONS[role].get((state, kind))

    if wanted is not None:
        event = one.next()
        assert isinstance(event, Header)
        assert one.state is wanted
    else:
        with pytest.raises(PduError) as caught:
            one.next()
        assert caught.value.fes == (Fes.SEQUENCE_ERROR if rule else Fes.INVALID_HEADER_FIELD)
        assert one.state is state


def test_tables_name_only_what_the_peer_may_send() -> None:
    for role in Role:
        assert {kind for _, kind in TRANSITIONS[role]} == set(RULES[role])
    assert not set(RULES[Role.TARGET]) & set(RULES[Role.INITIATOR])
    assert set(RULES[Role.TARGET]) | set(RULES[Role.INITIATOR]) == set(PDU_STRUCTURES)
    for role in Role:
        for kind, rule in RULES[role].items():
            assert PDU_STRUCTURES[kind].size == rule.hlen


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 40_000), st.booleans()), min_size=1, max_size=5),
    st.lists(st.integers(1, 30_000), min_size=1, max_size=5),
)
def test_large_data_arrives_whole_whichever_way_it_is_cut(sizes: list[tuple[int, bool]], cuts: list[int]) -> None:
    """C2HData larger and smaller than the buffer's direct limit, kept or dropped."""
    one = reader(Role.INITIATOR, State.OPEN)
    stream = b""
    for number, (nbytes, _) in enumerate(sizes):
        data = bytes([number + 1]) * nbytes
        stream += struct.pack("<BBBBIHHII4x", 7, 4, 24, 24, 24 + nbytes, number, 0, 0, nbytes) + data
    got: list[bytes | None] = []
    wanted: list[memoryview | None] = []
    at = turn = 0
    while at < len(stream) or turn == 0:
        feed(one, stream[at : at + cuts[turn % len(cuts)]])
        at += cuts[turn % len(cuts)]
        turn += 1
        while (event := one.next()) is not None:
            if isinstance(event, Header):
                keep = sizes[len(wanted)][1]
                into = memoryview(bytearray(event.nbytes)) if keep else None
                wanted.append(into)
                if event.nbytes:
                    one.fill(into)
                else:
                    got.append(b"" if keep else None)
            else:
                assert event == DataEnd(True)
                last = wanted[-1]
                got.append(None if last is None else bytes(last))

    assert got == [bytes([n + 1]) * nbytes if keep else None for n, (nbytes, keep) in enumerate(sizes)]


@pytest.mark.parametrize(
    ("structure", "packed"),
    [
        (spec.IC_REQ, spec.IC.pack(1, 2, 3, 4, 5, 6, 7, 1, 9)),
        (spec.IC_RESP, spec.IC.pack(1, 2, 3, 4, 5, 6, 7, 1, 9)),
        (spec.TERM_REQ, spec.TERM.pack(1, 2, 3, 4, 5, 6, 7)),
        (spec.H2C_DATA, spec.DATA.pack(1, 2, 3, 4, 5, 6, 7, 8, 9)),
        (spec.R2T, spec.DATA.pack(1, 2, 3, 4, 5, 6, 7, 8, 9)),
        (spec.COMMON_HEADER, spec.CH.pack(1, 2, 3, 4, 5)),
    ],
)
def test_struct_and_declaration_are_one(structure: spec.Structure, packed: bytes) -> None:
    values = [value for name, value in structure.parse(packed).items() if not name.startswith("rsvd")]

    expected = [1, 2, 3, 4, 5, 6, 7, 8, 9][: len(values)]
    if structure in (spec.IC_REQ, spec.IC_RESP):
        expected[7] = 1
    assert values == expected


def test_offsets_of_fabrics_commands_are_the_specifications() -> None:
    assert SGL_OFFSET == 24
    assert SGL.size == 16
    wanted = {"fctype": 4, "sgl1": 24, "recfmt": 40, "qid": 42, "sqsize_z": 44, "cattr": 46, "kato": 48}
    assert {name: CONNECT.offset_of(name) for name in wanted} == wanted
    assert {name: CONNECT_DATA.offset_of(name) for name in ("cntlid", "subnqn", "hostnqn")} == {
        "cntlid": 16, "subnqn": 256, "hostnqn": 512,
    }  # fmt: skip
    assert (PROPERTY_GET.offset_of("attrib"), PROPERTY_GET.offset_of("ofst")) == (40, 44)
    assert PROPERTY_SET.offset_of("value") == 48


@pytest.mark.parametrize(
    ("hlen", "digest", "pda", "pdo"),
    [(24, False, 0, 24), (24, True, 0, 28), (72, False, 31, 128), (24, True, 1, 32), (72, True, 0, 76)],
)
def test_data_is_aligned_behind_the_header(hlen: int, digest: bool, pda: int, pdo: int) -> None:
    assert align_data(hlen, digest, pda) == pdo


@pytest.mark.parametrize(
    "nqn", ["", "nqn", "nqn.2024-01.org.example:" + "x" * 300, "eui.0123456789", "nqn.2024-01.a\0b"]
)
def test_name_that_is_no_nqn_is_refused(nqn: str) -> None:
    with pytest.raises(ValueError, match="NVMe Qualified Name"):
        check_nqn(nqn)
