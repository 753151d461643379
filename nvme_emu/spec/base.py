"""How a structure is declared: once, with construct; size and numpy dtype come from the declaration.

A `Structure` wraps a `construct.Struct` and asserts, as the module that declares it is imported, that
construct's size, the dtype's size and the specification's size are one number, and that every reserved field
is called after the byte it starts at. construct declares, documents and decodes; numpy and `struct` move the
bytes on hot paths (construct takes some 17 µs for what `struct` does in 0.2).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import construct
import numpy as np

from .bits import BitLayout
from .errors import LayoutError

__all__ = [
    "Fields",
    "LayoutError",
    "Structure",
    "ascii_text",
    "derive_dtype",
    "raw",
    "rsvd",
    "table",
    "text",
    "u8",
    "u16",
    "u24",
    "u32",
    "u48",
    "u64",
    "u128",
]

u8: Any = construct.Int8ul
u16: Any = construct.Int16ul
u32: Any = construct.Int32ul
u64: Any = construct.Int64ul
u24: Any = construct.BytesInteger(3, swapped=True)
u48: Any = construct.BytesInteger(6, swapped=True)
u128: Any = construct.BytesInteger(16, swapped=True)


class _Text(construct.Adapter):  # type: ignore[misc]  # construct has no types
    """Characters in a field of fixed length, filled up with `fill`; str outside, bytes inside.

    Latin-1 keeps every byte that a foreign device may have put there, and gives it back unchanged.
    """

    def __init__(self, length: int, fill: bytes) -> None:
        super().__init__(construct.Bytes(length))
        self.length = length
        self.fill = fill

    def _decode(self, obj: bytes, context: Any, path: str) -> str:
        return obj.rstrip(self.fill).decode("latin-1")

    def _encode(self, obj: str | bytes, context: Any, path: str) -> bytes:
        data = obj.encode("latin-1", "replace") if isinstance(obj, str) else bytes(obj)
        if len(data) > self.length:
            raise LayoutError(f"{path}: {len(data)} characters do not fit in {self.length}: {obj!r}")
        return data.ljust(self.length, self.fill)


class _Raw(construct.Adapter):  # type: ignore[misc]
    """Bytes of fixed length; a shorter value is filled up with zeros when built."""

    def __init__(self, length: int) -> None:
        super().__init__(construct.Bytes(length))
        self.length = length

    def _decode(self, obj: bytes, context: Any, path: str) -> bytes:
        return obj

    def _encode(self, obj: bytes, context: Any, path: str) -> bytes:
        data = bytes(obj)
        if len(data) > self.length:
            raise LayoutError(f"{path}: {len(data)} bytes do not fit in {self.length}")
        return data.ljust(self.length, b"\0")


def ascii_text(length: int) -> Any:
    """An ASCII string field, left justified and filled up with spaces (Base 2.1, clause 1.4.2)."""
    return _Text(length, b" ")


def text(length: int) -> Any:
    """A NUL-terminated UTF-8 or ASCII string field, as for NVMe Qualified Names (Base 2.1, clause 4.7)."""
    return _Text(length, b"\0")


def raw(length: int) -> Any:
    """Bytes without structure of their own."""
    return _Raw(length)


def rsvd(offset: int, length: int) -> Any:
    """`length` reserved bytes at `offset`; the field is called rsvd<offset>."""
    return f"rsvd{offset}" / _Raw(length)


def table(count: int, item: Any) -> Any:
    """`count` items in a row; `item` is a field type or a `Structure`."""
    return construct.Array(count, item.construct if isinstance(item, Structure) else item)


def derive_dtype(subcon: Any) -> np.dtype[Any]:
    """The numpy dtype of a construct declaration, packed and little-endian whatever the machine.

    Integers are made from their length: construct's `Int32ul.fmtstr` is "<L", and numpy reads "<L" as 8 bytes
    on Linux x86-64. 128-bit integers become two u64, the lower first; odd sizes and raw bytes become u1 rows.
    """
    if isinstance(subcon, construct.Renamed):
        return derive_dtype(subcon.subcon)
    if isinstance(subcon, construct.FormatField):
        return np.dtype(f"<{'i' if subcon.fmtstr[-1].islower() else 'u'}{subcon.length}")
    if isinstance(subcon, construct.BytesInteger):
        if subcon.length % 8 == 0:
            return np.dtype(("<u8", (subcon.length // 8,)))
        return np.dtype(("u1", (subcon.length,)))
    if isinstance(subcon, _Text):
        return np.dtype(f"S{subcon.length}")
    if isinstance(subcon, _Raw):
        return np.dtype(("u1", (subcon.length,)))
    if isinstance(subcon, construct.Array):
        return np.dtype((derive_dtype(subcon.subcon), (subcon.count,)))
    if isinstance(subcon, construct.Struct):
        return np.dtype([(field.name, derive_dtype(field)) for field in subcon.subcons])
    raise LayoutError(f"no dtype for a {type(subcon).__name__}: {subcon!r}")


class Fields(dict[str, Any]):
    """The fields of a parsed structure: a dict whose items are attributes too."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


def _plain(value: Any) -> Any:
    """construct's containers as `Fields` and lists, without its bookkeeping entries."""
    if isinstance(value, construct.Container):
        return Fields((key, _plain(item)) for key, item in value.items() if not key.startswith("_"))
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def _complete(subcon: Any, value: Any, where: str) -> Any:
    """`value` with every missing field and item as zero, in the shape construct wants to build from."""
    if isinstance(subcon, construct.Renamed):
        return _complete(subcon.subcon, value, where)
    if isinstance(subcon, construct.Struct):
        return _complete_struct(subcon, value, where)
    if isinstance(subcon, construct.Array):
        items = [] if value is None else list(value)
        if len(items) > subcon.count:
            raise LayoutError(f"{where}: {len(items)} items do not fit in {subcon.count}")
        items += [None] * (subcon.count - len(items))
        return [_complete(subcon.subcon, item, f"{where}[{i}]") for i, item in enumerate(items)]
    if isinstance(subcon, _Text | _Raw):
        return b"" if value is None else value
    number = 0 if value is None else int(value)
    if not 0 <= number < 1 << (8 * subcon.sizeof()):
        raise LayoutError(f"{where}: {number:#x} does not fit in {subcon.sizeof()} bytes")
    return number


def _complete_struct(subcon: Any, value: Any, where: str) -> dict[str, Any]:
    given: Mapping[str, Any] = {} if value is None else value
    if not isinstance(given, Mapping):
        raise LayoutError(f"{where}: wants named fields, not {value!r}")
    names = [field.name for field in subcon.subcons]
    unknown = sorted(set(given).difference(names))
    if unknown:
        raise LayoutError(f"{where} has no field {', '.join(unknown)}")
    return {f.name: _complete(f, given.get(f.name), f"{where}.{f.name}") for f in subcon.subcons}


def _frozen(value: Any) -> Any:
    """`value` as something that can be a key; TypeError if that cannot be."""
    if isinstance(value, Mapping):
        return tuple((key, _frozen(item)) for key, item in value.items())
    if isinstance(value, list | tuple):
        return tuple(_frozen(item) for item in value)
    hash(value)
    return value


BUILT_MAX = 64
"""Structures of a kind that are kept because the next machine will ask for the same ones: that took most of the time
of opening one."""

PAGE_BYTES = 4096
"""The size from which on what was parsed is kept as well: Identify data."""


class Structure:
    """One structure of the specification.

    `.construct` is the declaration, `.dtype` the numpy dtype derived from it, `.size` its bytes, `.words` the
    long name of each field, `.bits` the bit layouts of the fields that have one, `.clause` where it stands.
    """

    def __init__(
        self, name: str, size: int, clause: str, *fields: Any, bits: Mapping[str, BitLayout] | None = None
    ) -> None:
        self.name = name
        self.size = size
        self.clause = clause
        self.construct: Any = construct.Struct(*fields)
        self.dtype: np.dtype[Any] = derive_dtype(self.construct)
        self.words: dict[str, str] = {field.name: field.docs for field in self.construct.subcons}
        self.bits: dict[str, BitLayout] = dict(bits or {})
        self._zeros: bytes = bytes(size)
        self._built: dict[Any, bytes] = {}
        self._parsed: dict[bytes, Any] = {}
        declared = self.construct.sizeof()
        assert declared == size, f"{name}: construct says {declared} bytes, not {size}"
        assert self.dtype.itemsize == size, f"{name}: dtype says {self.dtype.itemsize} bytes, not {size}"
        for field, offset in self.offsets():
            if field.startswith("rsvd"):
                assert field == f"rsvd{offset}", f"{name}.{field} starts at byte {offset}"
        for field, layout in self.bits.items():
            width = self.dtype[field].itemsize * 8
            assert width == layout.nbits, f"{name}.{field} has {width} bits, its layout {layout.nbits}"

    def __repr__(self) -> str:
        return f"<Structure {self.name} {self.size} bytes>"

    def offsets(self) -> Iterator[tuple[str, int]]:
        """Each top-level field with the byte that it starts at."""
        fields: Any = self.dtype.fields
        for name in self.dtype.names or ():
            yield name, int(fields[name][1])

    def offset_of(self, field: str) -> int:
        """The byte that `field` starts at. LayoutError when there is no such field."""
        for name, offset in self.offsets():
            if name == field:
                return offset
        raise LayoutError(f"{self.name} has no field {field!r} ({self.clause})")

    def parse(self, data: bytes | bytearray | memoryview | np.ndarray[Any, Any]) -> Fields:
        """The fields of the first `size` bytes of `data`. LayoutError when there are fewer."""
        head = bytes(data[: self.size])
        if len(head) < self.size:
            raise LayoutError(f"{self.name}: {len(head)} bytes given, {self.size} needed ({self.clause})")
        if self.size < PAGE_BYTES:
            parsed = self.construct.parse(head)
        elif (parsed := self._parsed.get(head)) is None:
            parsed = self.construct.parse(head)
            if len(self._parsed) >= BUILT_MAX:
                self._parsed.clear()
            self._parsed[head] = parsed
        fields = _plain(parsed)
        assert isinstance(fields, Fields)
        return fields

    def build(self, **fields: Any) -> bytes:
        """The structure's bytes; missing fields are zero, short strings and tables are filled up.

        LayoutError for a field that does not exist or a value that does not fit.
        """
        if not fields:
            return self._zeros
        try:
            key = _frozen(fields)
        except TypeError:
            return self._build(fields)
        built = self._built.get(key)
        if built is None:
            built = self._build(fields)
            if len(self._built) >= BUILT_MAX:
                self._built.clear()
            self._built[key] = built
        return built

    def _build(self, fields: dict[str, Any]) -> bytes:
        try:
            built = self.construct.build(_complete(self.construct, fields, self.name))
        except (construct.ConstructError, TypeError, ValueError) as error:
            if isinstance(error, LayoutError):
                raise
            raise LayoutError(f"{self.name}: {error}") from error
        assert isinstance(built, bytes)
        return built

    def rows(self, data: bytes | bytearray | memoryview | np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """`data` seen as an array of these structures, without a copy. LayoutError for a broken last one."""
        flat = np.frombuffer(data, np.uint8)
        if flat.size % self.size:
            raise LayoutError(f"{self.name}: {flat.size} bytes are not a multiple of {self.size}")
        return flat.view(self.dtype)
