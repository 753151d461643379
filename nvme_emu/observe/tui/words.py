"""Numbers as people read them."""

from __future__ import annotations

__all__ = ["amount", "clock", "count", "duration", "rate", "share"]


def duration(ns: float | None) -> str:
    """Three digits and a unit: "113 µs". "-" for None."""
    if ns is None:
        return "-"
    for limit, divisor, unit in ((1e3, 1, "ns"), (1e6, 1e3, "µs"), (1e9, 1e6, "ms"), (120e9, 1e9, "s")):
        if abs(ns) < limit * 0.9995:
            value = ns / divisor
            return f"{value:.3g} {unit}" if divisor > 1 and value < 100 else f"{value:.0f} {unit}"
    minutes, seconds = divmod(int(ns / 1e9), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s"


def clock(ns: int) -> str:
    """An instant to the nanosecond, in groups: "1.234 567 890 s"."""
    seconds, rest = divmod(ns, 1_000_000_000)
    digits = f"{rest:09}"
    return f"{seconds}.{digits[:3]} {digits[3:6]} {digits[6:]} s"


def amount(nbytes: float) -> str:
    """Bytes in binary units: "892 MiB"."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if nbytes < 999.5 or unit == "TiB":
            return f"{nbytes:.0f} {unit}" if unit == "B" or nbytes >= 100 else f"{nbytes:.3g} {unit}"
        nbytes /= 1024
    raise AssertionError("unreachable")


def rate(per_s: float) -> str:
    """A frequency: "228 k", "1.02 M", "17"."""
    for limit, divisor, unit in ((999.5, 1, ""), (999_500, 1e3, " k"), (1e15, 1e6, " M")):
        if per_s < limit:
            value = per_s / divisor
            return f"{value:.0f}{unit}" if divisor == 1 or value >= 100 else f"{value:.3g}{unit}"
    return f"{per_s:.3g}"


def count(number: int) -> str:
    """A number in groups of three."""
    return f"{number:,}".replace(",", " ") if abs(number) >= 10_000 else str(number)


def share(fraction: float) -> str:
    """A part of the whole in percent."""
    return f"{fraction * 100:.0f} %" if fraction >= 0.1 or not fraction else f"{fraction * 100:.1f} %"
