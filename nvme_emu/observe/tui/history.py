"""What passed: rates, heat and maps out of successive states and events. Nothing here reads a clock."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from typing import Any

from nvme_emu.core.trace import FetchCmd
from nvme_emu.observe.state import NamespaceState, StatsState, rates
from nvme_emu.observe.tui.frame import MAP_CELLS, HeatColumn, MapState, RatePoint
from nvme_emu.spec.opcodes import NvmOpcode

__all__ = ["POINTS_MAX", "History", "MediaMaps", "percentile"]

POINTS_MAX = 240
"""Intervals that are kept: as many as the widest view has columns for."""


def percentile(bins: Iterable[tuple[int, int]], fraction: float) -> int:
    """The value that ``fraction`` of all counts do not exceed; 0 where there are none."""
    found = sorted(bins)
    wanted = fraction * sum(count for _, count in found)
    seen = 0
    for value, count in found:
        seen += count
        if seen >= wanted and count:
            return value
    return 0


class History:
    """One point and one heat column for each interval between two calls of `add`."""

    def __init__(self) -> None:
        self.points: deque[RatePoint] = deque(maxlen=POINTS_MAX)
        self.heat: deque[HeatColumn] = deque(maxlen=POINTS_MAX)
        self._before: StatsState | None = None

    def add(self, stats: StatsState) -> None:
        """An interval ends here. Nothing is added while the machine's clock stands still."""
        before = self._before
        if before is not None and stats.ts_ns == before.ts_ns:
            return
        self._before = stats
        if before is None or stats.ts_ns < before.ts_ns:
            return
        ended = _difference(before, stats)
        found = rates(before, stats)
        self.heat.append(HeatColumn(ts_ns=stats.ts_ns, bins=ended))
        self.points.append(
            RatePoint(
                ts_ns=stats.ts_ns,
                read_iops=found.read_iops,
                write_iops=found.write_iops,
                read_bw_bytes=found.read_bw_bytes,
                write_bw_bytes=found.write_bw_bytes,
                utilisation=found.utilisation,
                p50_ns=percentile(ended, 0.5),
                p99_ns=percentile(ended, 0.99),
            )
        )


def _difference(before: StatsState, after: StatsState) -> tuple[tuple[int, int], ...]:
    """The latencies that were added in between, of all kinds but admin."""
    counts: Counter[int] = Counter()
    for kind, state in after.latency.items():
        if kind != "admin":
            counts.update(dict(state.bins))
    if before.recording_since_ns == after.recording_since_ns:
        for kind, state in before.latency.items():
            if kind != "admin":
                counts.subtract(dict(state.bins))
    return tuple(sorted((value, count) for value, count in counts.items() if count > 0))


class MediaMaps:
    """Counts fetched reads and writes by place, for each namespace whose size is known."""

    def __init__(self) -> None:
        self._blocks: dict[int, int] = {}
        self._reads: dict[int, list[int]] = {}
        self._writes: dict[int, list[int]] = {}

    def know(self, nsid: int, blocks: int) -> None:
        """A namespace and how many blocks it has."""
        if self._blocks.get(nsid) != blocks:
            self._blocks[nsid] = blocks
            self._reads[nsid], self._writes[nsid] = [0] * MAP_CELLS, [0] * MAP_CELLS

    def know_all(self, namespaces: Iterable[NamespaceState]) -> None:
        """All namespaces of a machine."""
        for one in namespaces:
            self.know(one.nsid, one.nsze)

    def add(self, event: Any) -> None:
        """Count one event; only `fetch_cmd` of a read or write says where."""
        if event.__class__ is not FetchCmd or not event.sqid or not event.nlb:
            return
        if event.opcode == NvmOpcode.READ:
            cells = self._reads.get(event.nsid)
        elif event.opcode == NvmOpcode.WRITE:
            cells = self._writes.get(event.nsid)
        else:
            return
        if cells is None:
            return
        last = max(1, self._blocks[event.nsid])
        first = event.slba * MAP_CELLS // last
        final = (event.slba + event.nlb - 1) * MAP_CELLS // last
        for cell in range(first, min(final, MAP_CELLS - 1) + 1):
            cells[cell] += 1

    def states(self) -> tuple[MapState, ...]:
        """The maps by namespace."""
        return tuple(
            MapState(nsid=nsid, reads=tuple(self._reads[nsid]), writes=tuple(self._writes[nsid]))
            for nsid in sorted(self._blocks)
        )
