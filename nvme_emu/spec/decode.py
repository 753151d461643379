"""Queue entries, registers and structures explained: a small tree of fields, and its text.

Each node has the field's name, its raw value, words, and the clause that defines it. Nothing here prints:
the inspector and `nvme-emu decode` show the tree as they like. Reserved fields appear only when not zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from .base import Fields, Structure
from .bits import BitField, BitLayout
from .commands import CommandLayout, command_layout, log_page_length
from .errors import LayoutError
from .events import ASYNC_EVENT_DW0, async_event_words
from .features import FEATURE_VALUES, Fid
from .identify import Cns
from .logs import Lid
from .opcodes import AdminOpcode, data_direction, fabrics_name, opcode_name
from .queues import CQE, CQE_SIZE, NSID_BROADCAST, PSDT_MASK, SQE, SQE_FLAGS, SQE_SIZE, STATUS_P, Cqe, Sqe
from .registers import REGISTER_BITS, Reg, doorbell_at, register_at
from .sgl import sgl_words
from .status import describe

__all__ = [
    "Decoded",
    "decode_bits",
    "decode_cqe",
    "decode_register",
    "decode_sqe",
    "decode_structure",
    "render",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """One field, or a whole entry with its fields as children. `nbits` is the width of `value`, if known."""

    name: str
    value: int | bytes | str | None = None
    nbits: int = 0
    words: str = ""
    clause: str = ""
    children: tuple[Decoded, ...] = ()

    def walk(self) -> Iterator[Decoded]:
        """This node and all below it, in order."""
        yield self
        for child in self.children:
            yield from child.walk()

    def find(self, name: str) -> Decoded:
        """The first node called `name`. LayoutError when there is none."""
        for node in self.walk():
            if node.name == name:
                return node
        raise LayoutError(f"{self.name} has no field {name!r}")

    def as_dict(self) -> dict[str, Any]:
        """The tree for JSON: bytes as hexadecimal digits, no empty entries."""
        value = self.value.hex() if isinstance(self.value, bytes) else self.value
        plain = {"name": self.name, "value": value, "words": self.words, "clause": self.clause}
        found: dict[str, Any] = {key: item for key, item in plain.items() if item not in (None, "")}
        if self.children:
            found["fields"] = [child.as_dict() for child in self.children]
        return found


def _field_words(field: BitField, value: int) -> str:
    words = field.words
    meaning = field.values.get(value)
    if field.reserved:
        return "reserved, should be zero"
    if meaning is not None:
        return f"{words}: {meaning}"
    if field.name.endswith("_z"):
        return f"{words}: {value + 1}"
    return words


def decode_bits(layout: BitLayout, value: int, *, name: str = "", words: str = "") -> Decoded:
    """An integer by its bit layout. LayoutError when it has more bits than the layout."""
    parts = layout.unpack(value)
    children = tuple(
        Decoded(
            name=field.name,
            value=part,
            nbits=field.width,
            words=_field_words(field, part),
            clause=field.clause,
        )
        for field, part in zip(layout.fields, parts, strict=True)
        if part or not field.reserved
    )
    return Decoded(
        name=name or layout.name,
        value=value,
        nbits=layout.nbits,
        words=words,
        clause=layout.clause,
        children=children,
    )


# --- submission queue entries -------------------------------------------------------------------------------


def decode_sqe(data: bytes | bytearray | memoryview, admin: bool) -> Decoded:
    """A submission queue entry of an admin or an I/O queue. LayoutError for fewer than 64 bytes."""
    sqe = Sqe._make(SQE.unpack(_head(data, SQE_SIZE, "SQE")))
    layout = command_layout(sqe.opcode, admin)
    clause = layout.clause if layout else "Base 2.1 §4.1"
    words = opcode_name(sqe.opcode, admin)
    if sqe.opcode == AdminOpcode.FABRICS:
        words = f"Fabrics: {fabrics_name(sqe.nsid & 0xFF)}"
    children = [*_common_fields(sqe, words, clause), *_command_dwords(sqe, layout, admin)]
    return Decoded(
        name="admin SQE" if admin else "I/O SQE", words=words, clause=clause, children=tuple(children)
    )


def _common_fields(sqe: Sqe, words: str, clause: str) -> Iterator[Decoded]:
    direction = data_direction(sqe.opcode).words
    yield Decoded(name="opcode", value=sqe.opcode, nbits=8, words=f"{words} ({direction})", clause=clause)
    yield decode_bits(SQE_FLAGS, sqe.flags, name="flags")
    common = "Base 2.1 §4.1.1"
    yield Decoded(name="cid", value=sqe.cid, nbits=16, words="Command Identifier", clause=common)
    everyone = ": all namespaces" if sqe.nsid == NSID_BROADCAST else ""
    yield Decoded(
        name="nsid", value=sqe.nsid, nbits=32, words=f"Namespace Identifier{everyone}", clause=common
    )
    for name in ("cdw2", "cdw3"):
        if value := getattr(sqe, name):
            yield Decoded(name=name, value=value, nbits=32, words="Command Dword", clause=common)
    yield Decoded(name="mptr", value=sqe.mptr, nbits=64, words="Metadata Pointer", clause=common)
    if sqe.flags & PSDT_MASK:
        descriptor = sqe.prp1.to_bytes(8, "little") + sqe.prp2.to_bytes(8, "little")
        yield Decoded(name="sgl1", value=descriptor, words=f"SGL descriptor: {sgl_words(descriptor)}", clause=common)
    else:
        yield Decoded(name="prp1", value=sqe.prp1, nbits=64, words="PRP Entry 1", clause=common)
        yield Decoded(name="prp2", value=sqe.prp2, nbits=64, words="PRP Entry 2", clause=common)


def _command_dwords(sqe: Sqe, layout: CommandLayout | None, admin: bool) -> list[Decoded]:
    """CDW10 to CDW15: by the command's layout, and those outside it where they are not zero."""
    dwords = {f"cdw{n}": getattr(sqe, f"cdw{n}") for n in range(10, 16)}
    nodes: list[Decoded] = []
    for key, bits in layout.cdw.items() if layout else ():
        low = key.partition("_")[0]
        value = dwords.pop(low)
        if "_" in key:
            high = f"cdw{key.partition('_')[2]}"
            value |= dwords.pop(high) << 32
        node = decode_bits(_layout_of_value(sqe, admin, key, bits), value, name=key)
        nodes.append(_explain(node, sqe) if admin else node)
    for name, value in dwords.items():
        if value:
            words = "reserved, should be zero" if layout else "command specific"
            nodes.append(Decoded(name=name, value=value, nbits=32, words=words))
    return sorted(nodes, key=lambda node: node.name)


def _layout_of_value(sqe: Sqe, admin: bool, key: str, bits: BitLayout) -> BitLayout:
    """CDW11 of Set Features is divided as its Feature Identifier says."""
    if admin and key == "cdw11" and sqe.opcode == AdminOpcode.SET_FEATURES:
        return FEATURE_VALUES.get(sqe.cdw10 & 0xFF, bits)
    return bits


_ADMIN_NAMES: dict[tuple[int, str], Callable[[int], str | None]] = {
    (AdminOpcode.IDENTIFY, "cns"): Cns.name_of,
    (AdminOpcode.GET_LOG_PAGE, "lid"): Lid.name_of,
    (AdminOpcode.SET_FEATURES, "fid"): Fid.name_of,
    (AdminOpcode.GET_FEATURES, "fid"): Fid.name_of,
}


def _explain(node: Decoded, sqe: Sqe) -> Decoded:
    """`node` with the names that only this command's tables know: CNS, LID, FID, and a log page's length."""
    children: list[Decoded] = []
    for child in node.children:
        names = _ADMIN_NAMES.get((sqe.opcode, child.name))
        if names is not None and isinstance(child.value, int):
            child = replace(child, words=f"{child.words}: {names(child.value) or 'not defined'}")
        elif child.name == "numdl":
            length = log_page_length(sqe.cdw10, sqe.cdw11)
            child = replace(child, words=f"{child.words}: {length} bytes in all")
        children.append(child)
    return replace(node, children=tuple(children))


# --- completion queue entries, registers, structures --------------------------------------------------------


def decode_cqe(
    data: bytes | bytearray | memoryview, *, opcode: int | None = None, admin: bool = False
) -> Decoded:
    """A completion queue entry; with the command's opcode, Dword 0 is explained where it can be.

    LayoutError for fewer than 16 bytes.
    """
    cqe = Cqe._make(CQE.unpack(_head(data, CQE_SIZE, "CQE")))
    words = describe(cqe.status_p >> 1)
    clause = "Base 2.1 §4.2"
    dw0 = Decoded(name="dw0", value=cqe.dw0, nbits=32, words="Command specific", clause=clause)
    if admin and opcode == AdminOpcode.ASYNC_EVENT_REQUEST:
        dw0 = decode_bits(ASYNC_EVENT_DW0, cqe.dw0, name="dw0", words=async_event_words(cqe.dw0))
    children = (
        dw0,
        Decoded(name="dw1", value=cqe.dw1, nbits=32, words="Command specific", clause=clause),
        Decoded(name="sqhd", value=cqe.sqhd, nbits=16, words="SQ Head Pointer", clause=clause),
        Decoded(name="sqid", value=cqe.sqid, nbits=16, words="SQ Identifier", clause=clause),
        Decoded(name="cid", value=cqe.cid, nbits=16, words="Command Identifier", clause=clause),
        decode_bits(STATUS_P, cqe.status_p, name="status_p", words=words),
    )
    return Decoded(name="CQE", words=words, clause=clause, children=children)


def decode_register(register: str | int, value: int, *, dstrd: int = 0) -> Decoded:
    """A register, by its name or by its offset in BAR0; offsets from 1000h on are doorbells.

    LayoutError for a name that does not exist, a value that does not fit, or an offset that is no register.
    """
    if isinstance(register, int) and (doorbell := doorbell_at(register, dstrd)) is not None:
        kind = "completion queue head" if doorbell.is_cq else "submission queue tail"
        name = f"{'CQ' if doorbell.is_cq else 'SQ'}{doorbell.qid}{'H' if doorbell.is_cq else 'T'}DBL"
        words = f"Doorbell: {kind} of queue {doorbell.qid}"
        return Decoded(name=name, value=value, nbits=32, words=words, clause=Reg.DOORBELLS.clause)
    reg = _register(register)
    if not 0 <= value < 1 << (8 * reg.size):
        raise LayoutError(f"{reg.name}: {value:#x} does not fit in {reg.size} bytes ({reg.clause})")
    if reg in REGISTER_BITS:
        return decode_bits(REGISTER_BITS[reg], value, name=reg.name, words=reg.words)
    return Decoded(name=reg.name, value=value, nbits=8 * reg.size, words=reg.words, clause=reg.clause)


def _register(register: str | int) -> Reg:
    if isinstance(register, str):
        try:
            return Reg[register.upper()]
        except KeyError:
            raise LayoutError(f"no register is called {register!r}") from None
    found = register_at(register)
    if found is None or found[1]:
        raise LayoutError(f"no register begins at offset {register:#x}")
    return found[0]


def decode_structure(structure: Structure, data: bytes | bytearray | memoryview) -> Decoded:
    """A structure such as Identify data or a log page, by its fields. LayoutError for too few bytes."""
    return _decode_fields(structure, structure.parse(data), structure.name, structure.name)


def _decode_fields(structure: Structure, fields: Fields, name: str, words: str) -> Decoded:
    children: list[Decoded] = []
    for field, value in fields.items():
        if field.startswith("rsvd") and not any(value):
            continue
        if field in structure.bits:
            children.append(
                decode_bits(structure.bits[field], value, name=field, words=structure.words[field])
            )
        elif isinstance(value, list):
            children.extend(_decode_table(structure, field, value))
        else:
            children.append(_leaf(structure, field, value, structure.words[field]))
    return Decoded(name=name, words=words, clause=structure.clause, children=tuple(children))


def _decode_table(structure: Structure, field: str, items: list[Any]) -> Iterator[Decoded]:
    """The items of a table that are not zero."""
    words = structure.words[field]
    for index, item in enumerate(items):
        name = f"{field}[{index}]"
        if isinstance(item, Fields):
            if any(any(v) if isinstance(v, bytes) else v for v in item.values()):
                inner = tuple(
                    Decoded(name=key, value=value, nbits=64 if isinstance(value, int) else 0)
                    for key, value in item.items()
                    if not key.startswith("rsvd")
                )
                yield Decoded(name=name, words=words, clause=structure.clause, children=inner)
        elif item:
            yield _leaf(structure, name, item, words)


def _leaf(structure: Structure, name: str, value: Any, words: str) -> Decoded:
    if name.endswith("_z"):
        words = f"{words}: {value + 1}"
    if name.startswith("rsvd"):
        words = "reserved, should be zero"
    return Decoded(name=name, value=value, words=words, clause=structure.clause)


def _head(data: bytes | bytearray | memoryview, size: int, name: str) -> bytes:
    head = bytes(data[:size])
    if len(head) < size:
        raise LayoutError(f"{name}: {len(head)} bytes given, {size} needed")
    return head


# --- text ---------------------------------------------------------------------------------------------------


def render(node: Decoded, *, clauses: bool = False) -> str:
    """The tree as lines of text, two spaces a level; `clauses` adds where each field is defined."""
    return "\n".join(_lines(node, 0, clauses))


def _lines(node: Decoded, depth: int, clauses: bool) -> Iterator[str]:
    label = "  " * depth + node.name
    line = f"{label:<20} {_value_text(node):>18}  {node.words}" if depth else f"{label}: {node.words}"
    if depth == 0 and node.value is not None:
        line = f"{label} = {_value_text(node)}: {node.words}"
    if clauses and node.clause:
        line += f"  [{node.clause}]"
    yield line.rstrip()
    for child in node.children:
        yield from _lines(child, depth + 1, clauses)


def _value_text(node: Decoded) -> str:
    """Single bits and counters in decimal, wider fields of a known width in hexadecimal."""
    if node.value is None:
        return ""
    if isinstance(node.value, bytes):
        return node.value.hex()
    if isinstance(node.value, str):
        return repr(node.value)
    if node.nbits > 4:
        return f"{node.value:#0{2 + (node.nbits + 3) // 4}x}"
    return str(node.value)
