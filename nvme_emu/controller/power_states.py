"""What power states a device has, and what being in one means (NVMe Base 2.1, clause 8.1.17).

State 0 is the fastest; each one after it draws no more than the one before. A controller does I/O in an operational
state only: the first I/O command in another one brings it back to where it came from, and waits for that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["CLIENT_POWER_STATES", "POWER_STATES_MAX", "PowerState"]

POWER_STATES_MAX: Final = 32
_LATENCY_MAX_US: Final = 0xFFFF_FFFF
_POWER_MAX_MW: Final = 655_350
_PACE_MAX_PCT: Final = 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class PowerState:
    """A power state. Powers in mW (0: not reported), latencies in microseconds.

    ``pace_pct`` is how long commands take in it, in percent of what they take in state 0. ``rrt`` … ``rwl`` are the
    relative read and write throughputs and latencies that Identify reports, 0 the best. ValueError for what the
    descriptor cannot hold.
    """

    max_power_mw: int
    entry_us: int = 0
    exit_us: int = 0
    operational: bool = True
    pace_pct: int = 100
    rrt: int = 0
    rrl: int = 0
    rwt: int = 0
    rwl: int = 0
    idle_mw: int = 0
    active_mw: int = 0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("max_power_mw", 0, _POWER_MAX_MW),
            ("entry_us", 0, _LATENCY_MAX_US),
            ("exit_us", 0, _LATENCY_MAX_US),
            ("pace_pct", 100, _PACE_MAX_PCT),
            ("rrt", 0, POWER_STATES_MAX - 1),
            ("rrl", 0, POWER_STATES_MAX - 1),
            ("rwt", 0, POWER_STATES_MAX - 1),
            ("rwl", 0, POWER_STATES_MAX - 1),
            ("idle_mw", 0, _POWER_MAX_MW),
            ("active_mw", 0, _POWER_MAX_MW),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise ValueError(f"{name}={value!r}: must be an integer from {low} to {high} (power state)")


CLIENT_POWER_STATES: Final = (
    PowerState(max_power_mw=8250, idle_mw=350, active_mw=6000),
    PowerState(max_power_mw=4500, pace_pct=150, rrt=1, rrl=1, rwt=1, rwl=1),
    PowerState(max_power_mw=2100, pace_pct=300, rrt=2, rrl=2, rwt=2, rwl=2),
    PowerState(
        max_power_mw=50, entry_us=500, exit_us=1500, operational=False, rrt=3, rrl=3, rwt=3, rwl=3, idle_mw=50
    ),
    PowerState(
        max_power_mw=5, entry_us=5000, exit_us=9000, operational=False, rrt=4, rrl=4, rwt=4, rwl=4, idle_mw=5
    ),
)
"""Three operational states and two others, of the size that client drives report."""
