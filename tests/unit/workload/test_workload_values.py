"""The value types of job files."""

from __future__ import annotations

import pytest

from nvme_emu.workload.values import (
    Percent,
    Units,
    evaluate,
    expand,
    parse_bool,
    parse_float_list,
    parse_int,
    parse_pattern,
    parse_range,
    parse_size,
    per_direction,
    plain_int,
    time_ns,
)

BINARY, DECIMAL = Units(), Units(kb_base=1000)


@pytest.mark.parametrize(
    ("text", "binary", "decimal"),
    [
        ("4096", 4096, 4096),
        ("0x1000", 4096, 4096),
        ("4k", 4096, 4000),
        ("4K", 4096, 4000),
        ("4kb", 4096, 4000),
        ("4kiB", 4000, 4096),
        ("1mi", 1_000_000, 1 << 20),
        ("1m", 1 << 20, 1_000_000),
        ("2g", 2 << 30, 2_000_000_000),
        ("1t", 1 << 40, 10**12),
        ("1p", 1 << 50, 10**15),
        ("1.5k", 1536, 1500),
        ("12b", 12, 12),
        ("(4k*2)", 8192, 8000),
    ],
)
def test_integer_with_unit_follows_kb_base(text: str, binary: int, decimal: int) -> None:
    assert (parse_int(text, BINARY), parse_int(text, DECIMAL)) == (binary, decimal)


@pytest.mark.parametrize("text", ["", "k", "4x", "-1", "4 k k", "0xg", "4kk", "1e3", "("])
def test_integer_malformed_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        parse_int(text, BINARY)


def test_integer_out_of_range_names_the_bounds() -> None:
    with pytest.raises(ValueError, match="0 is out of range: it must be at least 1"):
        plain_int(1)("0", BINARY)
    with pytest.raises(ValueError, match="from 1 to 8"):
        plain_int(1, 8)("9", BINARY)


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("2", 2_000_000_000),
        ("2s", 2_000_000_000),
        ("3ms", 3_000_000),
        ("3msec", 3_000_000),
        ("7us", 7_000),
        ("1m", 60_000_000_000),
        ("2h", 7_200_000_000_000),
        ("1d", 86_400_000_000_000),
        ("0.5", 500_000_000),
        ("(2*3)", 6_000),
    ],
)
def test_time_without_unit_counts_the_default(text: str, nanoseconds: int) -> None:
    assert time_ns("s")(text, BINARY) == nanoseconds


def test_time_default_unit_of_thinktime_is_the_microsecond() -> None:
    assert time_ns("us")("25", BINARY) == 25_000


def test_time_with_a_size_unit_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="unit of time 'k'"):
        time_ns("s")("2k", BINARY)


def test_percentage_stays_a_percentage() -> None:
    assert parse_size("25%", BINARY) == Percent(25)
    assert Percent(25).of(1000) == 250
    with pytest.raises(ValueError, match="from 0 to 100"):
        parse_size("101%", BINARY)


def test_range_reversed_is_turned_round() -> None:
    assert parse_range("16k-4k", BINARY) == (4096, 16384)
    assert parse_range("1k:2k", BINARY) == (1024, 2048)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4k", (4096, 4096, 4096)),
        ("4k,8k", (4096, 8192, 8192)),
        ("4k,8k,16k", (4096, 8192, 16384)),
        ("4k,", (4096, None, None)),
        (",8k", (None, 8192, 8192)),
        (",8k,", (None, 8192, None)),
    ],
)
def test_comma_list_applies_to_what_follows(text: str, expected: tuple[int | None, ...]) -> None:
    assert per_direction(parse_int)(text, BINARY) == expected


def test_comma_list_of_four_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="more than three"):
        per_direction(parse_int)("1,2,3,4", BINARY)


def test_bool_accepts_what_fio_does_and_no_word() -> None:
    assert parse_bool("1", BINARY) is True
    assert parse_bool("0", BINARY) is False
    with pytest.raises(ValueError, match="must be 0 or 1"):
        parse_bool("maybe", BINARY)


def test_percentile_list_is_sorted_and_bounded() -> None:
    assert parse_float_list("99.9:50", BINARY) == (50.0, 99.9)
    for text in ("0", "101", "x", ":".join(["5"] * 21)):
        with pytest.raises(ValueError):
            parse_float_list(text, BINARY)


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("0xdeadbeef", b"\xde\xad\xbe\xef"),
        ("0xabc", b"\x0a\xbc"),
        ('"ab"', b"ab"),
        ("12", b"\x0c"),
        ("258", b"\x02\x01"),
        ("0", b"\x00"),
        ("-1", b"\xff\xff\xff\xff"),
        ('0xff"z"', b"\xffz"),
    ],
)
def test_pattern_bytes_are_as_written(text: str, pattern: bytes) -> None:
    assert parse_pattern(text, BINARY) == pattern


@pytest.mark.parametrize("text", ["", "%o", "zz", '"open', "99999999999"])
def test_pattern_malformed_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        parse_pattern(text, BINARY)


@pytest.mark.parametrize(
    ("text", "value"), [("1+2*3", 7), ("(1+2)*3", 9), ("2^3^1", 8), ("7/2", 3), ("7%4", 3), ("-2+5", 3)]
)
def test_expression_has_the_usual_precedence(text: str, value: int) -> None:
    assert evaluate(text, int) == value


@pytest.mark.parametrize(
    "text", ["1+", "(1", "1)", "1/0", "5%0", "2^-1", "9^9^9^9^9", "a+b", "1 2", "+".join("1" * 400)]
)
def test_expression_malformed_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        evaluate(text, int)


def test_variables_expand_and_missing_ones_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WL_SIZE", "64m")
    monkeypatch.delenv("WL_NOTHING", raising=False)
    assert expand("${WL_SIZE}") == ("64m", ())
    assert expand("a${WL_NOTHING}b") == ("ab", ("WL_NOTHING",))


def test_keywords_expand_with_arithmetic() -> None:
    text, missing = expand("2*$ncpus")
    assert int(text) % 2 == 0 and int(text) > 0 and missing == ()
    assert int(expand("$pagesize")[0]) in (4096, 16384, 65536)
    assert int(expand("$mb_memory")[0]) > 0
