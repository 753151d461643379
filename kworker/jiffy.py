"""Jiffies, the kernel's unit of delays. HZ is 1000, so one jiffy is one millisecond."""

from __future__ import annotations

__all__ = [
    "HZ",
    "MAX_SCHEDULE_TIMEOUT",
    "NSEC_PER_JIFFY",
    "jiffies_left",
    "jiffies_to_msecs",
    "jiffies_to_ns",
    "msecs_to_jiffies",
    "nsecs_to_jiffies",
    "usecs_to_jiffies",
]

HZ = 1000
NSEC_PER_JIFFY = 1_000_000_000 // HZ
MAX_SCHEDULE_TIMEOUT = (1 << 63) - 1
"""A timeout that never passes (kernel: LONG_MAX)."""


def msecs_to_jiffies(msecs: int) -> int:
    """Milliseconds to jiffies, rounded up; a negative number means for ever, as in the kernel."""
    return MAX_SCHEDULE_TIMEOUT if msecs < 0 else (msecs * HZ + 999) // 1000


def usecs_to_jiffies(usecs: int) -> int:
    """Microseconds to jiffies, rounded up."""
    return (usecs * HZ + 999_999) // 1_000_000


def nsecs_to_jiffies(nsecs: int) -> int:
    """Nanoseconds to jiffies, rounded down, as in the kernel."""
    return nsecs // NSEC_PER_JIFFY


def jiffies_to_msecs(jiffies: int) -> int:
    """Jiffies to milliseconds."""
    return jiffies * 1000 // HZ


def jiffies_to_ns(jiffies: int) -> int:
    """Jiffies to nanoseconds."""
    return jiffies * NSEC_PER_JIFFY


def jiffies_left(left_ns: int) -> int:
    """Remaining time in jiffies, rounded up; 0 if nothing remains."""
    return max(0, -(-left_ns // NSEC_PER_JIFFY))
