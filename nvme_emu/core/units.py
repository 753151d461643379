"""Sizes and times as people write them."""

from __future__ import annotations

import re

__all__ = ["format_bytes", "parse_size"]

_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgtp]?)(i?b?)\s*", re.IGNORECASE)
_POWER = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}


def parse_size(text: str | int) -> int:
    """Bytes from ``4096``, ``"4k"``, ``"256M"``, ``"1.5GiB"``: suffixes are powers of 1024.

    ValueError for anything else, for a fraction of a byte and for a size below 1.
    """
    if isinstance(text, int) and not isinstance(text, bool):
        nbytes = float(text)
    else:
        match = _SIZE.fullmatch(str(text))
        if match is None:
            raise ValueError(f"size {text!r}: a number with an optional k, M, G, T or P is needed (256M, 1G)")
        nbytes = float(match[1]) * 1024 ** _POWER[match[2].lower()]
    if nbytes < 1 or nbytes != int(nbytes):
        raise ValueError(f"size {text!r}: it is {nbytes:g} bytes, a whole number from 1 up is needed")
    return int(nbytes)


def format_bytes(nbytes: float) -> str:
    """``4 KiB``, ``1.5 GiB``: three digits at most, powers of 1024."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if nbytes < 1024 or unit == "TiB":
            return f"{nbytes:.3g} {unit}"
        nbytes /= 1024
    raise AssertionError("unreachable")
