"""The trace hub: who listens cannot harm what he listens to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import kworker
import nvme_emu
from nvme_emu.core.trace import TraceHub
from nvme_emu.observe.jsonl import JsonLines


@pytest.fixture
def reported() -> Iterator[list[tuple[BaseException, str]]]:
    found: list[tuple[BaseException, str]] = []
    before = kworker.set_failure_hook(lambda error, task, where: found.append((error, where)))
    yield found
    kworker.set_failure_hook(before)


def test_sinks_are_called_in_order_and_none_means_nobody_listens() -> None:
    hub, seen = TraceHub(), []
    first, second = (lambda event: seen.append(("a", event))), (lambda event: seen.append(("b", event)))
    assert hub.emit is None
    hub.add_sink(first)
    hub.add_sink(second)
    assert hub.emit is not None
    hub.emit(1)
    hub.remove_sink(first)
    assert hub.emit is not None
    hub.emit(2)
    hub.remove_sink(second)
    assert (seen, hub.emit) == ([("a", 1), ("b", 1), ("b", 2)], None)
    with pytest.raises(ValueError):
        hub.remove_sink(first)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("profile", ["instant", "optane"])
@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("clock", ["wall", "virtual"])
def test_sink_that_raises_is_reported_and_stops_neither_io_nor_other_sinks(
    clock: str, mode: str, profile: str, reported: list[tuple[BaseException, str]]
) -> None:
    seen: list[Any] = []

    def broken(event: Any) -> None:
        raise KeyError(event.name)

    with nvme_emu.open(size="1M", clock=clock, mode=mode, profile=profile) as ssd:
        ssd.trace.add_sink(broken)
        ssd.trace.add_sink(seen.append)
        ns = ssd.namespaces[1]
        ns.write(3, bytes(512))
        assert not ns.read(3, 1).any()
        for request in [ns.submit_read(slba, 1) for slba in range(4)]:
            request.wait()
        ssd.trace.remove_sink(broken)
        ssd.trace.remove_sink(seen.append)
    assert [error.args[0] for error, _ in reported] == [event.name for event in seen]
    assert all(isinstance(error, KeyError) and "trace sink" in where for error, where in reported)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("clock", ["wall", "virtual"])
def test_trace_to_a_full_device_is_an_error_at_the_end_not_a_hang(clock: str) -> None:
    if not Path("/dev/full").exists():
        return
    lines = JsonLines("/dev/full")
    with nvme_emu.open(size="1M", clock=clock, mode="async") as ssd:
        ssd.trace.add_sink(lines)
        for _ in range(100):
            ssd.namespaces[1].read(0, 8)
        ssd.trace.remove_sink(lines)
    with pytest.raises(OSError, match="No space left"):
        lines.close()
