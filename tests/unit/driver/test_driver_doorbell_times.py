"""What the device notes of a doorbell or register write bears the time of the write."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import nvme_emu
from nvme_emu.core.trace import Doorbell, FetchCmd, NvmeSq, RegisterWrite


def test_doorbell_event_has_the_time_of_the_write(make: Callable[..., nvme_emu.Machine], way: dict[str, Any]) -> None:
    ssd = make(**way, profile="tlc")
    events: list[Any] = []
    ssd.trace.add_sink(events.append)
    for at in range(3):
        ssd.namespaces[1].write(at * 8, bytes(4096))
    ssd.trace.remove_sink(events.append)
    rung = [event.ts_ns for event in events if type(event) is NvmeSq and event.qid]
    seen = [event.ts_ns for event in events if type(event) is Doorbell and event.qid and not event.is_cq]
    fetched = [event.ts_ns for event in events if type(event) is FetchCmd and event.sqid]
    assert len(rung) == len(seen) == len(fetched) == 3
    ends = [event.ts_ns for event in events if type(event) is Doorbell and event.qid and event.is_cq]
    assert all(begin - 1_000 <= bell <= fetch for begin, bell, fetch in zip(rung, seen, fetched, strict=True))
    # A device that had kept the time of its last step would give each write the end of the one before.
    assert all(bell > end for bell, end in zip(seen[1:], ends, strict=False))


def test_register_write_has_the_time_of_the_write(make: Callable[..., nvme_emu.Machine]) -> None:
    ssd = make(mode="sync")
    events: list[Any] = []
    ssd.trace.add_sink(events.append)
    before_ns = ssd.runtime.now_ns
    ssd.close()
    writes = [event.ts_ns for event in events if type(event) is RegisterWrite]
    assert writes and min(writes) >= before_ns
