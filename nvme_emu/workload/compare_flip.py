"""At which hand-off cost the verdict would turn: a search that measures short rows with other costs.

The hand-off cost is what it takes to get another task running: ``wakeup_ns + switch_ns``. Both are scaled
together, so that their ratio stays, from nothing up to HANDOFF_MAX_NS.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import kworker
from nvme_emu.driver import NvmeDriver
from nvme_emu.workload.compare_measure import measure_row
from nvme_emu.workload.compare_rows import CompareConfig, RowSpec

__all__ = ["HANDOFF_MAX_NS", "MARGIN", "Flip", "find_flip", "flip_pairs", "scaled_costs", "search_flip"]

HANDOFF_MAX_NS = 100_000
"""The search ends here: twice the dearest hand-off that was measured (two threads in a virtual machine)."""
MARGIN = 0.02
"""Rates that differ by less than this are called equal."""
PRECISION = 0.03
IOS_MIN, IOS_PER_SLOT = 200, 12
NOMINAL = (1_000, 1_500)


@dataclass(frozen=True, slots=True, kw_only=True)
class Flip:
    """Whether and where the faster of two rows changes. ``winner`` is "async", "sync" or "equal" at the assumed cost;
    ``at_ns`` the hand-off cost at which it stops winning, None if it never does from 0 to ``searched_to_ns``."""

    profile: str
    bs: int
    iodepth: int
    callers: int
    winner: str
    at_ns: int | None
    assumed_ns: int
    searched_to_ns: int = HANDOFF_MAX_NS

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready mapping; who is compared is said by ``iodepth`` (async) and ``callers`` (sync)."""
        return {
            "iodepth": self.iodepth,
            "callers": self.callers,
            "winner": self.winner,
            "at_ns": self.at_ns,
            "assumed_ns": self.assumed_ns,
            "searched_to_ns": self.searched_to_ns,
        }


def scaled_costs(costs: kworker.SimCosts, handoff_ns: int) -> kworker.SimCosts:
    """The costs with ``wakeup_ns + switch_ns == handoff_ns``, split as they were."""
    wakeup, switch = costs.wakeup_ns, costs.switch_ns
    if not wakeup + switch:
        wakeup, switch = NOMINAL
    share = handoff_ns * wakeup // (wakeup + switch)
    return replace(costs, wakeup_ns=share, switch_ns=handoff_ns - share)


def flip_pairs(rows: list[RowSpec]) -> list[tuple[RowSpec, RowSpec]]:
    """What is asked of each device: (async, sync) at the least and the greatest depth against one caller, and
    at the greatest against as many callers. The async row is the first worker asked for."""
    pairs = []
    for one in rows:
        if one.mode != "sync" or one.callers != 1:
            continue
        mine = [r for r in rows if (r.profile, r.bs) == (one.profile, one.bs)]
        workers = [r.worker for r in mine if r.mode == "async"]
        async_rows = [r for r in mine if r.mode == "async" and r.worker == workers[0]]
        pairs += [(row, one) for row in {r.iodepth: r for r in (async_rows[0], async_rows[-1])}.values()]
        pairs += [
            (async_rows[-1], r) for r in mine if r.mode == "sync" and r.callers == async_rows[-1].iodepth > 1
        ]
    return pairs


def find_flip(
    config: CompareConfig, pair: tuple[RowSpec, RowSpec], driver_class: type[NvmeDriver] = NvmeDriver
) -> Flip:
    """Search for one pair (async row, sync row)."""
    async_spec, sync_spec = pair

    def advantage(handoff_ns: int) -> float:
        costs = scaled_costs(config.costs, handoff_ns)
        iops = []
        for spec in pair:
            ios = max(IOS_MIN, IOS_PER_SLOT * spec.iodepth)
            iops.append(measure_row(config, spec, ios=ios, costs=costs, driver_class=driver_class).iops)
        return iops[0] / iops[1] - 1.0

    assumed_ns = config.costs.wakeup_ns + config.costs.switch_ns
    winner, at_ns = search_flip(advantage, assumed_ns)
    return Flip(
        profile=async_spec.profile.name,
        bs=async_spec.bs,
        iodepth=async_spec.iodepth,
        callers=sync_spec.callers,
        winner=winner,
        at_ns=at_ns,
        assumed_ns=assumed_ns,
        searched_to_ns=max(HANDOFF_MAX_NS, assumed_ns),
    )


def search_flip(
    advantage: Callable[[int], float], assumed_ns: int, limit_ns: int = HANDOFF_MAX_NS
) -> tuple[str, int | None]:
    """The winner at the assumed cost, and the cost at which it stops winning (is ahead by less than MARGIN).

    ``advantage(handoff_ns)`` is async / sync - 1. Looks at both ends of the range, and where the winner no longer
    wins there, bisects. A winner that only loses somewhere in between and wins again is not found.
    """
    here = advantage(assumed_ns)
    if abs(here) < MARGIN:
        return "equal", None
    winner, sign = ("async", 1) if here > 0 else ("sync", -1)

    def still_wins(handoff_ns: int) -> bool:
        # The loser's rate is the base of the margin, whichever of the two it is.
        gain = advantage(handoff_ns)
        return (gain if sign > 0 else 1 / (1 + gain) - 1) >= MARGIN if gain > -1 else sign < 0

    for end in (0, max(limit_ns, assumed_ns)):
        if end != assumed_ns and not still_wins(end):
            return winner, _bisect(still_wins, assumed_ns, end)
    return winner, None


def _bisect(wins: Callable[[int], bool], inside: int, outside: int) -> int:
    """Between a cost where the winner wins and one where it does not; to PRECISION of the value."""
    while abs(outside - inside) > max(50, PRECISION * min(inside, outside)):
        low, high = sorted((inside, outside))
        # Costs are a matter of magnitude, so halve the ratio where there is one.
        middle = round((low * high) ** 0.5) if low > 100 else (low + high) // 2
        if wins(middle):
            inside = middle
        else:
            outside = middle
    return (inside + outside) // 2
