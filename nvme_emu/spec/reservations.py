"""Reservations: the commands' dwords and data, the report, the notification (NVMe Base 2.1, 7.5 to 7.8 and 8.1.22)."""

from __future__ import annotations

from enum import IntEnum

from .base import Structure, raw, rsvd, u8, u16, u32, u64
from .bits import BitLayout, bit

__all__ = [
    "ACQUIRE_DATA",
    "REGISTER_DATA",
    "REGISTRANT",
    "REGISTRANT_EXTENDED",
    "RELEASE_DATA",
    "RESERVATION_ACQUIRE_CDW10",
    "RESERVATION_REGISTER_CDW10",
    "RESERVATION_RELEASE_CDW10",
    "RESERVATION_REPORT_CDW11",
    "RESERVATION_STATUS",
    "RESERVATION_STATUS_EXTENDED",
    "ReservationNotice",
    "ReservationType",
]

_REGISTER = "Base 2.1 §7.6"
_REPORT = "Base 2.1 §7.8"
_ACQUIRE = "Base 2.1 §7.5"
_RELEASE = "Base 2.1 §7.7"


class ReservationType(IntEnum):
    """RTYPE."""

    NONE = 0
    WRITE_EXCLUSIVE = 1
    EXCLUSIVE_ACCESS = 2
    WRITE_EXCLUSIVE_REGISTRANTS = 3
    EXCLUSIVE_ACCESS_REGISTRANTS = 4
    WRITE_EXCLUSIVE_ALL = 5
    EXCLUSIVE_ACCESS_ALL = 6


class ReservationNotice(IntEnum):
    """RESERVATION_NOTIFICATION.type; the bit of FID 82h that masks it has the same number."""

    REGISTRATION_PREEMPTED = 1
    RESERVATION_RELEASED = 2
    RESERVATION_PREEMPTED = 3


_IEKEY = bit("iekey", 1, "Ignore Existing Key")
_RTYPE = bit("rtype", 8, "Reservation Type", {int(one): one.name.lower().replace("_", " ") for one in ReservationType})

RESERVATION_REGISTER_CDW10 = BitLayout(
    "RESERVATION_REGISTER_CDW10",
    32,
    _REGISTER,
    bit("rrega", 3, "Reservation Register Action", {0: "register", 1: "unregister", 2: "replace"}),
    _IEKEY,
    bit("rsvd4", 26),
    bit("cptpl", 2, "Change Persist Through Power Loss State", {0: "no change", 2: "clear", 3: "set"}),
)
RESERVATION_ACQUIRE_CDW10 = BitLayout(
    "RESERVATION_ACQUIRE_CDW10",
    32,
    _ACQUIRE,
    bit("racqa", 3, "Reservation Acquire Action", {0: "acquire", 1: "preempt", 2: "preempt and abort"}),
    _IEKEY,
    bit("rsvd4", 4),
    _RTYPE,
    bit("rsvd16", 16),
)
RESERVATION_RELEASE_CDW10 = BitLayout(
    "RESERVATION_RELEASE_CDW10",
    32,
    _RELEASE,
    bit("rrela", 3, "Reservation Release Action", {0: "release", 1: "clear"}),
    _IEKEY,
    bit("rsvd4", 4),
    _RTYPE,
    bit("rsvd16", 16),
)
RESERVATION_REPORT_CDW11 = BitLayout(
    "RESERVATION_REPORT_CDW11", 32, _REPORT, bit("eds", 1, "Extended Data Structure"), bit("rsvd1", 31)
)

REGISTER_DATA = Structure(
    "REGISTER_DATA",
    16,
    _REGISTER,
    "crkey" / u64 * "Current Reservation Key",
    "nrkey" / u64 * "New Reservation Key",
)
ACQUIRE_DATA = Structure(
    "ACQUIRE_DATA",
    16,
    _ACQUIRE,
    "crkey" / u64 * "Current Reservation Key",
    "prkey" / u64 * "Preempt Reservation Key",
)
RELEASE_DATA = Structure("RELEASE_DATA", 8, _RELEASE, "crkey" / u64 * "Current Reservation Key")

RESERVATION_STATUS = Structure(
    "RESERVATION_STATUS",
    24,
    _REPORT,
    "gen" / u32 * "Generation",
    "rtype" / u8 * "Reservation Type",
    "regctl" / u16 * "Number of Registered Controllers",
    rsvd(7, 2),
    "ptpls" / u8 * "Persist Through Power Loss State",
    rsvd(10, 14),
)
RESERVATION_STATUS_EXTENDED = Structure(
    "RESERVATION_STATUS_EXTENDED",
    64,
    _REPORT,
    "gen" / u32 * "Generation",
    "rtype" / u8 * "Reservation Type",
    "regctl" / u16 * "Number of Registered Controllers",
    rsvd(7, 2),
    "ptpls" / u8 * "Persist Through Power Loss State",
    rsvd(10, 54),
)
REGISTRANT = Structure(
    "REGISTRANT",
    24,
    _REPORT,
    "cntlid" / u16 * "Controller ID",
    "rcsts" / u8 * "Reservation Status: bit 0 is set for a holder",
    rsvd(3, 5),
    "hostid" / raw(8) * "Host Identifier",
    "rkey" / u64 * "Reservation Key",
)
REGISTRANT_EXTENDED = Structure(
    "REGISTRANT_EXTENDED",
    64,
    _REPORT,
    "cntlid" / u16 * "Controller ID",
    "rcsts" / u8 * "Reservation Status: bit 0 is set for a holder",
    rsvd(3, 5),
    "rkey" / u64 * "Reservation Key",
    "hostid" / raw(16) * "Host Identifier",
    rsvd(32, 32),
)
