"""What the controller has done, for audits and the SMART / Health log page (NVMe Base 2.1, 5.1.12.1.3)."""

from __future__ import annotations

__all__ = ["Counters"]

_DATA_UNIT = 512 * 1000


class Counters:
    """Plain integers that only grow. Times are nanoseconds, amounts bytes.

    At any time ``fetched == posted + dropped + in flight``: every command is completed exactly once, or
    counted as dropped by a reset.
    """

    __slots__ = (
        "busy_ns", "dropped", "fetched", "media_errors", "posted", "power_cycles", "read_bytes",
        "read_commands", "unsafe_shutdowns", "write_bytes", "write_commands",
    )  # fmt: skip

    def __init__(self) -> None:
        self.fetched = 0
        self.posted = 0
        self.dropped = 0
        self.read_commands = 0
        self.write_commands = 0
        self.read_bytes = 0
        self.write_bytes = 0
        self.media_errors = 0
        self.busy_ns = 0
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
        return {name: getattr(self, name) for name in self.__slots__}
