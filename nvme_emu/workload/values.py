"""The value types of fio job files: integers with units, times, ranges, lists, booleans, patterns.

Every parser here takes the text after the `=` and the file's `Units`, and raises ValueError with a
sentence that says what was expected. Facts are those of fio 3.33's HOWTO, "Parameter types".
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = [
    "Percent",
    "Units",
    "choice",
    "evaluate",
    "parse_bool",
    "parse_float_list",
    "parse_int",
    "parse_pattern",
    "parse_percent",
    "parse_range",
    "parse_size",
    "parse_text",
    "per_direction",
    "plain_int",
    "expand",
    "time_ns",
]

_PREFIXES = "kmgtp"
_INT = re.compile(r"(0[xX][0-9a-fA-F]+|\d+(?:\.\d+)?)\s*([a-zA-Z]*)")
_TIME_NS = {
    "us": 1_000,
    "usec": 1_000,
    "ms": 1_000_000,
    "msec": 1_000_000,
    "s": 1_000_000_000,
    "sec": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
    "d": 86_400_000_000_000,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Units:
    """How unit prefixes are read: with kb_base 1024 (fio's default) `k` is 1024 and `ki` 1000."""

    kb_base: int = 1024


@dataclass(frozen=True, slots=True)
class Percent:
    """A size or an offset given as a share of the file."""

    percent: int

    def of(self, nbytes: int) -> int:
        return nbytes * self.percent // 100


def _split_number(text: str) -> tuple[int | float, str]:
    match = _INT.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"'{text}' is not a number with an optional unit")
    number, unit = match.groups()
    if number[:2] in ("0x", "0X"):
        return int(number, 16), unit.lower()
    return (float(number) if "." in number else int(number)), unit.lower()


def parse_int(text: str, units: Units) -> int:
    """A quantity of data or a count: `4096`, `0x1000`, `4k`, `4KiB`, `1.5g`, `(4k*3)`."""
    if text.strip().startswith("("):
        return evaluate(text, lambda leaf: parse_int(leaf, units))
    number, unit = _split_number(text)
    if unit.endswith("b"):
        unit = unit[:-1]
    if unit == "":
        factor = 1
    elif unit[0] in _PREFIXES and unit[1:] in ("", "i"):
        # With kb_base=1024 fio swaps the two families, so that old scripts keep their meaning.
        binary = (units.kb_base == 1024) == (unit[1:] == "")
        factor = (1024 if binary else 1000) ** (_PREFIXES.index(unit[0]) + 1)
    else:
        raise ValueError(f"'{text}' has the unknown unit '{unit}'; known are b, k, m, g, t, p and ki, mi, …")
    return int(number * factor)


def plain_int(low: int, high: int | None = None) -> Callable[[str, Units], int]:
    """A parser of integers from `low` to `high` inclusive."""

    def parse(text: str, units: Units) -> int:
        value = parse_int(text, units)
        if value < low or (high is not None and value > high):
            bounds = f"at least {low}" if high is None else f"from {low} to {high}"
            raise ValueError(f"{value} is out of range: it must be {bounds}")
        return value

    return parse


def parse_percent(text: str, units: Units) -> int:
    """A share from 0 to 100, with or without the % sign."""
    return plain_int(0, 100)(text.strip().removesuffix("%"), units)


def parse_size(text: str, units: Units) -> int | Percent:
    """A size or an offset: bytes, or a percentage of the file from 0 to 100."""
    if text.strip().endswith("%"):
        return Percent(parse_percent(text, units))
    return parse_int(text, units)


def time_ns(default_unit: str) -> Callable[[str, Units], int]:
    """A parser of times into nanoseconds; a number without a unit counts `default_unit` ("s", "us", "ms")."""

    def parse(text: str, units: Units) -> int:
        if text.strip().startswith("("):
            # fio: inside an expression the unit of time is the microsecond, for numbers and the result.
            return evaluate(text, microseconds) * 1_000
        number, unit = _split_number(text)
        factor = _TIME_NS.get(unit or default_unit)
        if factor is None:
            raise ValueError(f"'{text}' has the unknown unit of time '{unit}'; known are us, ms, s, m, h, d")
        return int(number * factor)

    def microseconds(leaf: str) -> int:
        number, unit = _split_number(leaf)
        factor = _TIME_NS.get(unit or "us")
        if factor is None:
            raise ValueError(f"'{leaf}' has the unknown unit of time '{unit}'; known are us, ms, s, m, h, d")
        return int(number * factor) // 1_000

    return parse


def parse_bool(text: str, units: Units) -> bool:
    """fio's boolean is an integer: 0 or 1."""
    lowered = text.strip().lower()
    if lowered in ("1", "true", "yes", "on"):
        return True
    if lowered in ("0", "false", "no", "off"):
        return False
    raise ValueError(f"'{text}' is not a boolean: it must be 0 or 1")


def parse_text(text: str, units: Units) -> str:
    """The value as it stands, without surrounding quotation marks."""
    stripped = text.strip()
    if len(stripped) >= 2 and stripped[0] == stripped[-1] == '"':
        return stripped[1:-1]
    return stripped


def choice(*names: str, **aliases: str) -> Callable[[str, Units], str]:
    """A parser that accepts one of `names`; `aliases` map further spellings to them."""

    def parse(text: str, units: Units) -> str:
        value = aliases.get(text.strip(), text.strip())
        if value not in names:
            raise ValueError(f"'{text}' is not one of {', '.join([*names, *aliases])}")
        return value

    return parse


def parse_range(text: str, units: Units) -> tuple[int, int]:
    """`1k-4k` or `1k:4k`; a reversed range is turned round, as in fio."""
    parts = re.split(r"[-:]", text)
    if len(parts) != 2:
        raise ValueError(f"'{text}' is not a range like 1k-4k")
    low, high = sorted(parse_int(part, units) for part in parts)
    return low, high


def per_direction(
    parse_one: Callable[[str, Units], Any], separators: str = ","
) -> Callable[[str, Units], tuple[Any, Any, Any]]:
    """A parser of `read[,write][,trim]`: a value applies to what follows it unless a comma ends the list.

    An empty or missing place is None, which stands for the option's default.
    """

    def parse(text: str, units: Units) -> tuple[Any, Any, Any]:
        parts = re.split(f"[{separators}]", text)
        if len(parts) > 3:
            raise ValueError(f"'{text}' has more than three values (read, write, trim)")
        values = [parse_one(part, units) if part.strip() else None for part in parts]
        while len(values) < 3:
            values.append(values[-1])
        return values[0], values[1], values[2]

    return parse


def parse_float_list(text: str, units: Units) -> tuple[float, ...]:
    """`99.0:99.9`, at most twenty values in (0, 100], returned in ascending order."""
    try:
        values = sorted(float(part) for part in text.split(":"))
    except ValueError:
        raise ValueError(f"'{text}' is not a list of numbers like 50:99.9") from None
    if not values or len(values) > 20 or not all(0 < value <= 100 for value in values):
        raise ValueError(f"'{text}' must hold 1 to 20 percentiles above 0 and at most 100")
    return tuple(values)


_PATTERN_PART = re.compile(r'0[xX](?P<hex>[0-9a-fA-F]+)|"(?P<text>[^"]*)"|(?P<number>-?\d+)')


def parse_pattern(text: str, units: Units) -> bytes:
    """Bytes: `0xdeadbeef` (as written), `"abcd"`, a decimal number (little-endian), or several in a row."""
    stripped, parts, position = text.strip(), [], 0
    while position < len(stripped):
        match = _PATTERN_PART.match(stripped, position)
        if match is None:
            what = (
                "%o is not supported here" if stripped[position:].startswith("%o") else "it is not a pattern"
            )
            raise ValueError(f"'{text}': {what}; use 0x…, \"text\" or a decimal number")
        if match["hex"] is not None:
            digits = match["hex"]
            parts.append(bytes.fromhex(digits if len(digits) % 2 == 0 else "0" + digits))
        elif match["text"] is not None:
            parts.append(match["text"].encode())
        else:
            number = int(match["number"])
            if not -(1 << 31) <= number < 1 << 32:
                raise ValueError(f"'{text}': a decimal pattern has at most 32 bits; write it as 0x…")
            raw = (number & 0xFFFF_FFFF).to_bytes(4, "little")
            parts.append(raw if number < 0 else raw.rstrip(b"\0") or b"\0")
        position = match.end()
    pattern = b"".join(parts)
    if not pattern or len(pattern) > 512:
        raise ValueError(f"'{text}' must be a pattern of 1 to 512 bytes")
    return pattern


# --- substitution and arithmetic --------------------------------------------------------------------


def _keyword(name: str) -> int:
    if name == "pagesize":
        return os.sysconf("SC_PAGESIZE")
    if name == "ncpus":
        return os.cpu_count() or 1
    return os.sysconf("SC_PAGESIZE") * os.sysconf("SC_PHYS_PAGES") >> 20


_VARIABLE = re.compile(r"\$\{([^}]*)\}")
_KEYWORD = re.compile(r"\$(pagesize|mb_memory|ncpus)\b")


def expand(text: str) -> tuple[str, tuple[str, ...]]:
    """Replace `${VAR}` from the environment and fio's keywords `$pagesize`, `$mb_memory`, `$ncpus`.

    Returns the new text and the names of variables that are not set (fio puts the empty string there,
    and so do we; the names serve the error message). Arithmetic with a keyword is worked out at once.
    """
    missing: list[str] = []

    def variable(match: re.Match[str]) -> str:
        value = os.environ.get(match[1], "")
        if not value:
            missing.append(match[1])
        return value

    text = _VARIABLE.sub(variable, text)
    replaced = _KEYWORD.sub(lambda match: str(_keyword(match[1])), text)
    if replaced != text and re.search(r"[-+*/%^]", replaced):
        replaced = str(evaluate(replaced, lambda leaf: parse_int(leaf, Units())))
    return replaced, tuple(missing)


_TOKEN = re.compile(r"\s*([-+*/%^()]|[0-9][0-9a-zA-Z.]*)")
_LEVELS = ("+-", "*/%", "^")
_BITS_MAX = 128
"""The largest power that an expression may build, so that 9^9^9 is an error and not a wait."""


def evaluate(text: str, leaf: Callable[[str], int]) -> int:
    """Work out an integer expression with + - * / % ^ ( ); `leaf` reads a number with its unit."""
    tokens: list[str] = []
    position = 0
    while position < len(text.rstrip()):
        match = _TOKEN.match(text, position)
        if match is None or len(tokens) > 200:
            raise ValueError(f"'{text}' is not an arithmetic expression")
        tokens.append(match[1])
        position = match.end()
    tokens.reverse()

    def level(depth: int) -> int:
        if depth == len(_LEVELS):
            return atom()
        value = level(depth + 1)
        while tokens and tokens[-1] in _LEVELS[depth]:
            value = apply(tokens.pop(), value, level(depth + 1))
        return value

    def atom() -> int:
        token = tokens.pop() if tokens else ""
        if token == "(":
            value = level(0)
            if not tokens or tokens.pop() != ")":
                raise ValueError(f"'{text}' lacks a closing parenthesis")
            return value
        if token == "-":
            return -atom()
        if not token or not token[0].isdigit():
            raise ValueError(f"'{text}' is not an arithmetic expression")
        return leaf(token)

    def apply(operator: str, left: int, right: int) -> int:
        if operator in "/%" and right == 0:
            raise ValueError(f"'{text}' divides by zero")
        if operator == "^" and (right < 0 or abs(left).bit_length() * right > _BITS_MAX):
            raise ValueError(f"'{text}' has an exponent that is negative or too large")
        return {
            "+": lambda: left + right,
            "-": lambda: left - right,
            "*": lambda: left * right,
            "/": lambda: left // right,
            "%": lambda: left % right,
            "^": lambda: int(left**right),
        }[operator]()

    value = level(0)
    if tokens:
        raise ValueError(f"'{text}' is not an arithmetic expression")
    return value
