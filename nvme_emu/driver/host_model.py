"""What the driver's own code costs in virtual time.

On the virtual clock Python's speed plays no part: the driver charges these figures instead, so that modes are
compared on an explicit host. Waking, switching and interrupt entry belong to the kworker runtime's costs.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

__all__ = ["HostModel"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostModel:
    """CPU nanoseconds of the driver's steps; ValueError where one is negative.

    The defaults stand for a server core of about 3 GHz and are chosen, not measured: submission, reaping and
    doorbells together take about twice the 0.39 µs (2.58 million I/Os a second on one core) that Linux 5.9 needs
    for a polled and batched io_uring read (Axboe, linux-block list, August 2020), because requests that come
    one at a time amortise nothing. ``compare --calibrate`` puts this machine's figures in their place.
    """

    enqueue_ns: int = 60
    """Append a request to the worker's list, under its lock."""
    submit_ns: int = 400
    """Take a tag, map the data, build the SQE and copy it to the ring."""
    doorbell_ns: int = 100
    """A posted, uncached MMIO write."""
    reap_ns: int = 250
    """Consume one CQE and end its request."""
    poll_ns: int = 40
    """Look at a CQ and find nothing."""
    map_page_ns: int = 15
    """Each further 4 KiB page of the data: its PRP entry."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value < 0:
                raise ValueError(f"host model {field.name}={value}: a cost cannot be negative")
