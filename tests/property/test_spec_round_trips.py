"""Every structure and bit layout of the specification: there and back, by construct, numpy and hand."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nvme_emu.spec import decode, status
from nvme_emu.spec.base import Fields, Structure
from nvme_emu.spec.bits import BitLayout
from nvme_emu.spec.registers import doorbell_at, doorbell_offset

MODULES = [
    "commands",
    "entries",
    "events",
    "feature_data",
    "features",
    "identify",
    "logs",
    "queues",
    "registers",
]


def declared(kind: type) -> list[Any]:
    """Every object of `kind` that the modules hold at their top level, private ones included."""
    found: dict[str, Any] = {}
    for module in MODULES:
        for value in vars(import_module(f"nvme_emu.spec.{module}")).values():
            if isinstance(value, kind):
                found[value.name] = value  # type: ignore[attr-defined]
    return [found[name] for name in sorted(found)]


STRUCTURES: list[Structure] = declared(Structure)
LAYOUTS: list[BitLayout] = declared(BitLayout)


def some_bytes(size: int) -> st.SearchStrategy[bytes]:
    """Zeros with a few patches: as good as random bytes at finding a misplaced field, and it shrinks."""
    patch = st.tuples(st.integers(0, size - 1), st.binary(min_size=1, max_size=24))

    def apply(patches: list[tuple[int, bytes]]) -> bytes:
        data = bytearray(size)
        for at, piece in patches:
            data[at : at + len(piece)] = piece
        return bytes(data[:size])

    return st.lists(patch, max_size=12).map(apply)


def same(column: Any, parsed: Any, fill: bytes = b" ") -> bool:
    """Whether numpy's view of a field holds what construct parsed; `fill` ends strings."""
    if isinstance(parsed, Fields):
        fills = {"subnqn": b"\0"}
        return all(same(column[name], value, fills.get(name, b" ")) for name, value in parsed.items())
    if isinstance(parsed, list):
        return len(column) == len(parsed) and all(same(c, p) for c, p in zip(column, parsed, strict=True))
    if isinstance(parsed, str):
        # numpy strips the NULs at the end of a string, construct's declaration what fills it up.
        return bytes(column).rstrip(b"\0" + fill) == parsed.encode("latin-1").rstrip(b"\0" + fill)
    raw = np.asarray(column).tobytes()
    return raw == parsed if isinstance(parsed, bytes) else int.from_bytes(raw, "little") == parsed


def test_the_modules_hold_the_structures_and_layouts_that_are_tested_here() -> None:
    assert len(STRUCTURES) >= 20
    assert len(LAYOUTS) >= 70


@pytest.mark.parametrize("structure", STRUCTURES, ids=lambda s: s.name)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_structure_of_any_bytes_builds_back_to_them(structure: Structure, data: st.DataObject) -> None:
    raw = data.draw(some_bytes(structure.size))
    assert structure.build(**structure.parse(raw)) == raw


@pytest.mark.parametrize("structure", STRUCTURES, ids=lambda s: s.name)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_structure_dtype_sees_what_construct_parses(structure: Structure, data: st.DataObject) -> None:
    raw = data.draw(some_bytes(structure.size))
    assert same(structure.rows(raw)[0], structure.parse(raw))


@pytest.mark.parametrize("structure", STRUCTURES, ids=lambda s: s.name)
@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_structure_of_any_bytes_is_explained(structure: Structure, data: st.DataObject) -> None:
    tree = decode.decode_structure(structure, data.draw(some_bytes(structure.size)))
    assert decode.render(tree).startswith(structure.name)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda b: b.name)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_layout_unpacks_what_it_packs_and_agrees_with_construct(
    layout: BitLayout, data: st.DataObject
) -> None:
    value = data.draw(st.integers(0, layout.value_max))
    fields = layout.unpack(value)._asdict()
    assert layout.pack(**fields) == value
    assert layout.replace(0, **fields) == value
    parsed = layout.construct.parse(value.to_bytes((layout.nbits + 7) // 8, "little"))
    assert {name: parsed[name] for name in fields} == fields
    assert all(layout[name].extract(value) == part for name, part in fields.items())


@given(st.integers(0, 65535), st.booleans(), st.integers(0, 15))
def test_doorbell_at_is_the_inverse_of_doorbell_offset(qid: int, is_cq: bool, dstrd: int) -> None:
    assert doorbell_at(doorbell_offset(qid, is_cq, dstrd), dstrd) == (qid, is_cq)


@given(st.integers(0, status.STATUS_FIELD_MASK))
def test_every_status_field_has_words(field: int) -> None:
    text = status.describe(field)
    parts = status.split(field)
    assert f"(SCT {parts.sct:X}h SC {parts.sc:02X}h)" in text
    assert text.endswith("DNR") == bool(field & status.DNR)


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=64, max_size=64), st.booleans())
def test_any_submission_entry_is_explained(data: bytes, admin: bool) -> None:
    tree = decode.decode_sqe(data, admin)
    assert tree.find("opcode").value == data[0]
    assert tree.as_dict()["fields"]
    assert decode.render(tree, clauses=True)


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=16, max_size=16), st.integers(0, 255), st.booleans())
def test_any_completion_entry_is_explained(data: bytes, opcode: int, admin: bool) -> None:
    assert decode.render(decode.decode_cqe(data, opcode=opcode, admin=admin))
