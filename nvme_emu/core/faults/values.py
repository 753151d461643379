"""The values of a fault rule: what may be written for each, and the one form in which it is kept.

A converter takes what a user wrote (in Python, TOML or JSON) and gives the canonical value, or raises
`FaultError`; an emitter gives the canonical value back as TOML and JSON can hold it. Both belong to a field
of a `Clause`, so that every rule is checked when it is made, however it was made.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self

__all__ = [
    "Clause",
    "FaultError",
    "bounded",
    "byte_string",
    "choice",
    "clause_of",
    "duration",
    "flag",
    "fraction",
    "integer",
    "integers",
    "nearest",
    "option",
    "optional",
    "plain_of",
    "span",
]

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ns|us|µs|ms|s|min)")
_UNIT_NS = {"ns": 1, "us": 1_000, "µs": 1_000, "ms": 1_000_000, "s": 10**9, "min": 60 * 10**9}
_U64 = (1 << 64) - 1


class FaultError(ValueError):
    """A fault rule is wrong: `where` is the path of keys to the value, `problem` names value and rule."""

    def __init__(self, problem: str, where: tuple[str | int, ...] = ()) -> None:
        super().__init__(problem, where)
        self.problem = problem
        self.where = where

    def inside(self, *keys: str | int) -> FaultError:
        """The same problem, seen from further out."""
        return FaultError(self.problem, (*keys, *self.where))

    def __str__(self) -> str:
        return ": ".join([*(".".join(map(str, self.where)),)[: bool(self.where)], self.problem])


Converter = Callable[[Any], Any]


def option(convert: Converter, default: Any = None, emit: Converter | None = None) -> Any:
    """A field of a clause: how its value is read, and how it is written (itself, by default)."""
    return dataclasses.field(default=default, metadata={"convert": convert, "emit": emit})


class Clause:
    """A frozen part of a rule. Its fields are made with `option`; a wrong value is a FaultError."""

    __slots__ = ()

    def __post_init__(self) -> None:
        for one in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, one.name)
            try:
                object.__setattr__(self, one.name, one.metadata["convert"](value))
            except FaultError as error:
                raise error.inside(one.name) from None
        self.check()

    def check(self) -> None:
        """What holds between fields. Raises FaultError."""

    def replace(self, **changes: Any) -> Self:
        """A copy with other values."""
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]


def clause_of(kind: type[Clause], table: Any) -> Any:
    """A clause from what a file holds. FaultError for an unknown key, a wrong value or no table at all."""
    if not isinstance(table, Mapping):
        raise FaultError(f"{table!r}: a table of keys and values is needed")
    names = [one.name for one in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for key in table:
        if key not in names:
            raise FaultError(f"unknown key {key!r}{nearest(str(key), names)}", (str(key),))
    return kind(**table)


def plain_of(clause: Clause) -> dict[str, Any]:
    """The clause as TOML and JSON can hold it, without what has its default value."""
    plain = {}
    for one in dataclasses.fields(clause):  # type: ignore[arg-type]
        value = getattr(clause, one.name)
        if value != one.default:
            emit = one.metadata["emit"]
            plain[one.name] = value if emit is None else emit(value)
    return {key: list(value) if isinstance(value, tuple) else value for key, value in plain.items()}


def nearest(word: str, known: Iterable[str]) -> str:
    """", did you mean …?" where a known word is like this one; else the words there are, if they are few."""
    names = list(known)
    found = difflib.get_close_matches(word, names, 1)
    if found:
        return f", did you mean {found[0]!r}?"
    return f"; known: {', '.join(names)}" if len(names) <= 24 else ""


# -- converters ------------------------------------------------------------------------------------------


def optional(convert: Converter) -> Converter:
    """None stays None."""
    return lambda value: None if value is None else convert(value)


def integer(value: Any, low: int = 0, high: int = _U64) -> int:
    """A whole number within bounds; text may be hexadecimal ("0x1f")."""
    if isinstance(value, str):
        try:
            value = int(value, 0)
        except ValueError:
            raise FaultError(f"{value!r}: a whole number is needed") from None
    if isinstance(value, bool) or not isinstance(value, int):
        raise FaultError(f"{value!r}: a whole number is needed")
    if not low <= value <= high:
        raise FaultError(f"{value}: it must be from {low} to {high}")
    return int(value)


def bounded(low: int, high: int = _U64) -> Converter:
    """A whole number from `low` to `high`."""
    return lambda value: integer(value, low, high)


def integers(low: int, high: int) -> Converter:
    """One whole number, or several of them: a tuple, ascending, each once."""

    def convert(value: Any) -> tuple[int, ...]:
        many = [value] if isinstance(value, int | str) else value
        if not isinstance(many, list | tuple | range | set | frozenset) or not many:
            raise FaultError(f"{value!r}: a number, or a list of some, is needed")
        return tuple(sorted({integer(one, low, high) for one in many}))

    return convert


def span(high: int) -> Converter:
    """[first, last], both included; one number alone is both."""

    def convert(value: Any) -> tuple[int, int]:
        pair = (value, value) if isinstance(value, int | str) else value
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise FaultError(f"{value!r}: [first, last], both included, is needed")
        first, last = integer(pair[0], 0, high), integer(pair[1], 0, high)
        if first > last:
            raise FaultError(f"[{first}, {last}]: the first is above the last")
        return first, last

    return convert


def duration(value: Any) -> int:
    """Nanoseconds, or text with a unit: "70us", "1.5ms", "2 s"."""
    if not isinstance(value, str):
        return integer(value)
    match = _DURATION.fullmatch(value.strip())
    if match is None:
        raise FaultError(f"{value!r}: nanoseconds, or a number with ns, us, ms, s or min, are needed")
    return integer(round(float(match[1]) * _UNIT_NS[match[2]]))


def flag(value: Any) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise FaultError(f"{value!r}: true or false is needed")
    return value


def fraction(value: Any) -> float:
    """A probability from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise FaultError(f"{value!r}: a probability from 0 to 1 is needed")
    return float(value)


def choice(*words: str) -> Converter:
    """One of some words."""

    def convert(value: Any) -> str:
        if not isinstance(value, str) or value not in words:
            raise FaultError(f"{value!r}: it is one of {', '.join(words)}")
        return value

    return convert


def byte_string(length: int) -> Converter:
    """Bytes, or text of hexadecimal digits with blanks between them; at most `length` bytes."""

    def convert(value: Any) -> bytes:
        if isinstance(value, str):
            try:
                value = bytes.fromhex(value)
            except ValueError:
                raise FaultError(f"{value!r}: pairs of hexadecimal digits are needed") from None
        if not isinstance(value, bytes | bytearray | memoryview):
            raise FaultError(f"{value!r}: bytes, or text of hexadecimal digits, are needed")
        data = bytes(value)
        if not 0 < len(data) <= length:
            raise FaultError(f"{len(data)} bytes: 1 to {length} are needed")
        return data

    return convert
