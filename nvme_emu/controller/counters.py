"""What the controller has done, for audits and the SMART / Health log page (NVMe Base 2.1, 5.1.12.1.3)."""

from __future__ import annotations

from nvme_emu._core import CountersState

__all__ = ["Counters"]

_DATA_UNIT = 512 * 1000


_NAMES = (
    "busy_ns", "dropped", "fetched", "media_errors", "posted", "power_cycles", "read_bytes",
    "read_commands", "unsafe_shutdowns", "write_bytes", "write_commands",
)  # fmt: skip


class Counters(CountersState):
    """Plain integers that only grow. Times are nanoseconds, amounts bytes.

    At any time ``fetched == posted + dropped + in flight``: every command is completed exactly once, or
    counted as dropped by a reset.
    """

    __slots__ = ("media_errors", "power_cycles", "unsafe_shutdowns")

    def __init__(self) -> None:
        super().__init__()
        self.media_errors = 0
        self.power_cycles = 1
        self.unsafe_shutdowns = 0

    @property
    def data_units_read(self) -> int:
        """Data Units Read: thousands of 512 bytes, rounded up."""
        return -(-self.read_bytes // _DATA_UNIT)

    @property
    def data_units_written(self) -> int:
        """Data Units Written: thousands of 512 bytes, rounded up."""
        return -(-self.write_bytes // _DATA_UNIT)

    @property
    def busy_minutes(self) -> int:
        """Controller Busy Time: minutes in which commands were in flight."""
        return self.busy_ns // 60_000_000_000

    def as_dict(self) -> dict[str, int]:
        """All of them by name."""
        return {name: getattr(self, name) for name in _NAMES}
