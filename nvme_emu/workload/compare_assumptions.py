"""What a comparison rests on: every figure of the host, with where it comes from, and the devices' parameters."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

from nvme_emu.workload.compare_rows import CompareConfig

__all__ = ["ASSUMPTIONS", "Assumption", "assumptions_of"]

_SWITCH = "chosen: the order of what lmbench's lat_ctx shows for two small processes; --calibrate measures it here"
_STACK = (
    "chosen: with reaping and doorbells about twice the 0.39 µs (2.58 M IOPS a core) that Linux 5.9 needs for a "
    "polled, batched io_uring read (Axboe, linux-block list, August 2020): single requests amortise nothing"
)
_CHOSEN = "chosen: a smaller part of the same"
_MEASURED = "measured on this machine by --calibrate"


class Assumption(NamedTuple):
    """One figure of the virtual host: its key in the JSON, what it is in words, and its source."""

    key: str
    meaning: str
    source: str


ASSUMPTIONS = (
    Assumption("cpus", "CPUs that callers, worker and interrupts share", "chosen; --cpus"),
    Assumption(
        "caller_ns", "the caller's own code, an I/O", "fio's null engine does 4 to 11 million I/Os a second"
    ),
    Assumption(
        "wakeup_ns",
        "waking a task, paid by the waker",
        "try_to_wake_up with an interrupt to another CPU; " + _SWITCH,
    ),
    Assumption("switch_ns", "from the wake-up to the task's first instruction", _SWITCH),
    Assumption("irq_ns", "entry and exit of an interrupt", "chosen; several times that in a virtual machine"),
    Assumption(
        "enqueue_ns",
        "appending to the worker's list (async only)",
        "chosen; an uncontended lock and two stores",
    ),
    Assumption("submit_ns", "building a command and putting it on the ring", _STACK),
    Assumption("map_page_ns", "mapping each 4 KiB page of the data", _CHOSEN),
    Assumption("doorbell_ns", "a doorbell: one posted, uncached write", _CHOSEN),
    Assumption("reap_ns", "taking one completion and ending its request", _STACK),
    Assumption("poll_ns", "looking at an empty completion queue", _CHOSEN),
)
"""In the order in which they are shown. Data is not copied: the device moves it by DMA, as with direct I/O."""

_CALIBRATED = frozenset({"wakeup_ns", "switch_ns", "irq_ns", "enqueue_ns", "submit_ns", "map_page_ns", "doorbell_ns",
                         "reap_ns", "poll_ns"})  # fmt: skip


def assumptions_of(config: CompareConfig) -> dict[str, Any]:
    """The JSON's ``assumptions``: figures by key, ``sources`` by the same keys, ``profiles`` by name.

    On the wall clock nothing is assumed of the host: there is a sentence instead of the figures.
    """
    result: dict[str, Any] = {}
    if config.virtual:
        values = {
            "cpus": config.cpus,
            "caller_ns": config.caller_ns,
            **dataclasses.asdict(config.costs),
            **dataclasses.asdict(config.host),
        }
        for one in ASSUMPTIONS:
            result[one.key] = values[one.key]
        result["origin"] = "measured here" if config.calibrated else "defaults"
        result["sources"] = {
            one.key: _MEASURED if config.calibrated and one.key in _CALIBRATED else one.source
            for one in ASSUMPTIONS
        }
    else:
        result["origin"] = (
            "wall clock: this program's own speed on this machine, not the host's that it emulates"
        )
    result["queues"] = "a queue pair for each sync caller, at most one a CPU; one with one worker for async"
    result["profiles"] = {profile.name: dataclasses.asdict(profile) for profile in config.device_profiles()}
    return result
