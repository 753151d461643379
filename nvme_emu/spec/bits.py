"""Bit layouts: registers, command dwords and flag fields, declared least significant bit first.

This module is light (neither numpy nor construct is imported to declare or use a layout), so that opcodes,
statuses and registers cost nothing at start-up. `BitLayout.construct` builds the equivalent construct
declaration when somebody asks for it; the tests hold the two to the same result.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Mapping
from functools import cached_property
from typing import Any, NamedTuple

from .errors import LayoutError

__all__ = ["BitField", "BitLayout", "bit"]


class BitField(NamedTuple):
    """One field of a layout. `values` gives words for the values that have a meaning of their own."""

    name: str
    lsb: int
    width: int
    words: str
    values: Mapping[int, str]
    clause: str

    @property
    def mask(self) -> int:
        """The field's bits in place: `value & mask` is non-zero when any bit of the field is set."""
        return ((1 << self.width) - 1) << self.lsb

    @property
    def value_max(self) -> int:
        """The largest value that the field can hold."""
        return (1 << self.width) - 1

    @property
    def reserved(self) -> bool:
        """Whether the specification reserves these bits."""
        return self.name.startswith("rsvd")

    def extract(self, value: int) -> int:
        """The field's value within `value`."""
        return (value >> self.lsb) & ((1 << self.width) - 1)

    def insert(self, value: int, field: int) -> int:
        """`value` with this field replaced. LayoutError when `field` does not fit."""
        if not 0 <= field <= self.value_max:
            raise LayoutError(f"{self.name}: {field:#x} does not fit in {self.width} bits ({self.clause})")
        return (value & ~self.mask) | (field << self.lsb)


class _Declared(NamedTuple):
    name: str
    width: int
    words: str
    values: Mapping[int, str]


def bit(name: str, width: int = 1, words: str = "", values: Mapping[int, str] | None = None) -> _Declared:
    """Declare one field of a `BitLayout`; the fields follow each other from bit 0 up."""
    return _Declared(name, width, words, values or {})


class BitLayout:
    """The fields of an integer of `nbits` bits, in the specification's order (bit 0 first).

    The declaration is checked as it is made: the widths fill the integer exactly, names are unique, and the
    number in a reserved field's name (`rsvd12`) is the bit it starts at. Zero-based fields end in `_z`.
    """

    def __init__(self, name: str, nbits: int, clause: str, *declared: _Declared) -> None:
        fields: dict[str, BitField] = {}
        lsb = 0
        for one in declared:
            assert one.name not in fields, f"{name}.{one.name} is declared twice"
            if one.name.startswith("rsvd"):
                assert one.name == f"rsvd{lsb}", f"{name}.{one.name} starts at bit {lsb}"
            fields[one.name] = BitField(one.name, lsb, one.width, one.words, one.values, clause)
            lsb += one.width
        assert lsb == nbits, f"{name}: fields take {lsb} bits of {nbits}"
        self.name = name
        self.nbits = nbits
        self.clause = clause
        self.fields: tuple[BitField, ...] = tuple(fields.values())
        self.value_max = (1 << nbits) - 1
        self.reserved_mask = sum(f.mask for f in self.fields if f.reserved)
        self._by_name = fields
        self._shifts = tuple((f.lsb, f.value_max) for f in self.fields)

    @cached_property
    def _tuple(self) -> Any:
        """What `unpack` gives. Made when first needed: a namedtuple costs 0.15 ms, and few layouts are used.

        A type made at run time has no static type, hence Any: attribute access is checked by the tests.
        """
        return namedtuple(self.name, list(self._by_name))

    def __repr__(self) -> str:
        return f"<BitLayout {self.name} {self.nbits} bits>"

    def __getitem__(self, name: str) -> BitField:
        """The field called `name`. LayoutError when there is none."""
        try:
            return self._by_name[name]
        except KeyError:
            raise LayoutError(f"{self.name} has no field {name!r} ({self.clause})") from None

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def mask(self, *names: str) -> int:
        """The bits of the named fields, in place: for module constants that hot paths use."""
        return sum(self[name].mask for name in names)

    def unpack(self, value: int) -> Any:
        """`value` as a named tuple of every field, reserved ones included. LayoutError out of range."""
        if not 0 <= value <= self.value_max:
            raise LayoutError(f"{self.name}: {value:#x} is not a {self.nbits}-bit value ({self.clause})")
        return self._tuple._make([(value >> lsb) & top for lsb, top in self._shifts])

    def pack(self, **fields: int) -> int:
        """The integer with these fields; the missing ones are zero. LayoutError for unknown or too big."""
        value = 0
        for name, given in fields.items():
            field = self[name]
            if not 0 <= given <= field.value_max:
                where = f"{self.name}.{name}"
                raise LayoutError(f"{where}: {given:#x} does not fit in {field.width} bits ({self.clause})")
            value |= int(given) << field.lsb
        return value

    def replace(self, value: int, /, **fields: int) -> int:
        """`value` with some fields changed. LayoutError as for `pack`."""
        for name, given in fields.items():
            value = self[name].insert(value, int(given))
        return value

    @property
    def construct(self) -> Any:
        """The same layout as a construct declaration over little-endian bytes, padded to whole bytes.

        construct's BitStruct reads the most significant bit first, so the fields are given to it from the top
        down and the bytes are swapped: declared in the specification's order it would parse silently wrong.
        """
        import construct

        above = construct.Padding(-self.nbits % 8)
        fields = [f.name / construct.BitsInteger(f.width) for f in reversed(self.fields)]
        return construct.ByteSwapped(construct.BitStruct(above, *fields))
