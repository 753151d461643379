"""Properties of the Controller Memory Buffer and the Persistent Memory Region that tell how they perform and where they
are (NVMe Base 2.1, clauses 3.1.4.18, 3.1.4.19 and 3.1.4.25 to 3.1.4.28)."""

from __future__ import annotations

from typing import Final

from .bits import BitLayout, bit

__all__ = ["CMBEBS", "CMBSWTP", "PMREBS", "PMRMSCL", "PMRMSCU", "PMRSWTP", "PMRWBM_PMRSTS", "in_units", "of_units"]

_SIZES = {0: "bytes", 1: "KiB", 2: "MiB", 3: "GiB"}
_RATES = {0: "bytes/s", 1: "KiB/s", 2: "MiB/s", 3: "GiB/s"}
_UNIT_SHIFT = 10
_UNIT_MAX = 3

CMBEBS = BitLayout(
    "CMBEBS",
    32,
    "Base 2.1 §3.1.4.18",
    bit("cmbszu", 4, "CMB Elasticity Buffer Size Units", _SIZES),
    bit("cmbrbb", 1, "CMB Read Bypass Behavior"),
    bit("rsvd5", 3),
    bit("cmbwbz", 24, "CMB Elasticity Buffer Size Base"),
)
CMBSWTP = BitLayout(
    "CMBSWTP",
    32,
    "Base 2.1 §3.1.4.19",
    bit("cmbswtu", 4, "CMB Sustained Write Throughput Units", _RATES),
    bit("rsvd4", 4),
    bit("cmbswtv", 24, "CMB Sustained Write Throughput"),
)
PMREBS = BitLayout(
    "PMREBS",
    32,
    "Base 2.1 §3.1.4.25",
    bit("pmrszu", 4, "PMR Elasticity Buffer Size Units", _SIZES),
    bit("pmrrbb", 1, "PMR Read Bypass Behavior"),
    bit("rsvd5", 3),
    bit("pmrwbz", 24, "PMR Elasticity Buffer Size Base"),
)
PMRSWTP = BitLayout(
    "PMRSWTP",
    32,
    "Base 2.1 §3.1.4.26",
    bit("pmrswtu", 4, "PMR Sustained Write Throughput Units", _RATES),
    bit("rsvd4", 4),
    bit("pmrswtv", 24, "PMR Sustained Write Throughput"),
)
PMRMSCL = BitLayout(
    "PMRMSCL",
    32,
    "Base 2.1 §3.1.4.27",
    bit("rsvd0", 1),
    bit("cmse", 1, "Controller Memory Space Enable"),
    bit("rsvd2", 10),
    bit("cba", 20, "Controller Base Address (bits 31:12)"),
)
PMRMSCU = BitLayout("PMRMSCU", 32, "Base 2.1 §3.1.4.28", bit("cba", 32, "Controller Base Address (bits 63:32)"))

PMRWBM_PMRSTS: Final = 0b10
"""PMRCAP.PMRWBM: a read of PMRSTS comes back when all earlier writes are persistent."""


def in_units(value: int) -> tuple[int, int]:
    """(unit, value in it) of bytes or bytes a second in the smallest unit whose 24 bits hold it; rounded down."""
    unit = 0
    while value >> 24 and unit < _UNIT_MAX:
        value >>= _UNIT_SHIFT
        unit += 1
    return unit, min(value, (1 << 24) - 1)


def of_units(unit: int, value: int) -> int:
    """The other way round."""
    return value << _UNIT_SHIFT * unit
