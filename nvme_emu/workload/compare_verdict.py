"""The verdict in words: on which device and from which depth async wins, by how much, and why sync wins elsewhere.

Every sentence is made from the figures of rows and flips; none is there without them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from nvme_emu.core.units import format_bytes
from nvme_emu.workload.compare_flip import MARGIN, Flip
from nvme_emu.workload.compare_rows import CompareConfig, Row

__all__ = ["Verdict", "duration", "judge", "rate"]


def duration(ns: float) -> str:
    """``850 ns``, ``4.4 µs``, ``90.8 µs``, ``1.25 ms``, ``2.1 s``: three digits at most."""
    for unit, scale in (("ns", 1), ("µs", 1e3), ("ms", 1e6)):
        if abs(ns) < 999.5 * scale:
            return f"{ns / scale:.3g} {unit}"
    return f"{ns / 1e9:.3g} s"


def rate(iops: float) -> str:
    """``890``, ``11.0k``, ``280k``, ``1.25M`` I/Os a second: three digits."""
    for unit, scale in (("", 1), ("k", 1e3), ("M", 1e6)):
        if iops < 999.5 * scale:
            value = iops / scale
            digits = 0 if value >= 99.95 or not unit else 1 if value >= 9.995 else 2
            return f"{value:.{digits}f}{unit}"
    return f"{iops / 1e9:.3g}G"


def times(ratio: float) -> str:
    """``28 times``, ``3.8 times``."""
    return f"{ratio:.0f} times" if ratio >= 9.95 else f"{ratio:.1f} times"


def percent(ratio: float) -> str:
    """How much more or less than 1 a ratio is: ``12 % more``, ``1 % fewer``."""
    change = round(abs(ratio - 1) * 100)
    return f"{change} % {'more' if ratio > 1 else 'fewer'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the rows of one device and block size say.

    ``async_wins_from`` the least measured depth from which on async has at least MARGIN more IOPS than one sync caller
    (None: at no depth); ``ratios`` by depth: the best async row against one sync caller, and against as many sync
    callers. ``headline`` says it in one line, ``text`` in a paragraph.
    """

    profile: str
    bs: int
    rw: str
    async_wins_from: int | None
    ratios: Sequence[dict[str, Any]]
    flips: Sequence[Flip]
    headline: str
    reasons: Sequence[str] = field(default=())

    @property
    def text(self) -> str:
        """The headline and the reasons."""
        return " ".join([self.headline, *self.reasons])

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready mapping."""
        return {
            "profile": self.profile,
            "bs": self.bs,
            "rw": self.rw,
            "async_wins_from": self.async_wins_from,
            "ratios": [dict(ratio) for ratio in self.ratios],
            "flips": [flip.to_json() for flip in self.flips],
            "text": self.text,
        }


def judge(rows: Sequence[Row], flips: Sequence[Flip], config: CompareConfig) -> list[Verdict]:
    """A verdict for each device and block size that has a sync row with one caller and an async row."""
    verdicts = []
    for one in rows:
        if one.mode != "sync" or one.callers != 1:
            continue
        case = _Case(
            one,
            [r for r in rows if (r.profile, r.bs, r.rw) == (one.profile, one.bs, one.rw)],
            [f for f in flips if (f.profile, f.bs) == (one.profile, one.bs)],
            config,
        )
        if case.depths:
            verdicts.append(case.verdict())
    return verdicts


class _Case:
    """One device and block size."""

    def __init__(self, one: Row, rows: Sequence[Row], flips: Sequence[Flip], config: CompareConfig) -> None:
        self.one = one
        self.flips = flips
        self.config = config
        self.best: dict[int, Row] = {}
        self.crowd: dict[int, Row] = {}
        for row in rows:
            if row.mode == "async":
                best = self.best.get(row.iodepth)
                if best is None or row.iops > best.iops:
                    self.best[row.iodepth] = row
            elif row.callers > 1:
                self.crowd[row.callers] = row
        self.depths = sorted(self.best)

    def ratio(self, depth: int) -> float:
        return _over(self.best[depth].iops, self.one.iops)

    def verdict(self) -> Verdict:
        wins_from = None
        for depth in reversed(self.depths):
            if self.ratio(depth) < 1 + MARGIN:
                break
            wins_from = depth
        sentences = [self._where_sync_wins(), self._freed(), self._against_crowd(), *self._turns()]
        return Verdict(
            profile=self.one.profile,
            bs=self.one.bs,
            rw=self.one.rw,
            async_wins_from=wins_from,
            ratios=[self._ratio_json(depth) for depth in self.depths],
            flips=self.flips,
            headline=self._headline(wins_from),
            reasons=[sentence for sentence in sentences if sentence],
        )

    def _ratio_json(self, depth: int) -> dict[str, Any]:
        crowd = self.crowd.get(depth)
        return {
            "iodepth": depth,
            "worker": self.best[depth].worker,
            "vs_one_caller": round(self.ratio(depth), 3),
            "vs_n_callers": None if crowd is None else round(_over(self.best[depth].iops, crowd.iops), 3),
        }

    def _headline(self, wins_from: int | None) -> str:
        what = f"{self.one.profile}, {format_bytes(self.one.bs)} {self.one.rw}"
        deepest = self.depths[-1]
        if wins_from is None:
            best = max(self.depths, key=self.ratio)
            close = self.ratio(best) > 1 - MARGIN
            if close:
                return f"{what}: async does not win; at its best, depth {best}, it equals one sync caller."
            return (
                f"{what}: sync wins at every depth measured; async has at best {percent(self.ratio(best))} IOPS "
                f"than one sync caller (depth {best})."
            )
        start = "at every depth measured" if wins_from == self.depths[0] else f"from depth {wins_from}"
        gain = f"{times(self.ratio(deepest))} the IOPS of one sync caller at depth {deepest}"
        if self.ratio(deepest) < 1.5:
            gain = f"{percent(self.ratio(deepest))} IOPS than one sync caller at depth {deepest}"
        rates = f"{rate(self.best[deepest].iops)} against {rate(self.one.iops)}"
        return f"{what}: async wins {start}, with {gain} ({rates})."

    def _where_sync_wins(self) -> str:
        """Why sync is better at the depths where it is: the hand-offs, against the device's time."""
        losing = [depth for depth in self.depths if self.ratio(depth) < 1 - MARGIN]
        equal = [depth for depth in self.depths if abs(self.ratio(depth) - 1) <= MARGIN]
        if not losing:
            return (
                f"At depth {_listed(equal)} the two are equal."
                if equal and len(equal) < len(self.depths)
                else ""
            )
        first = losing[0]
        extra = self.best[first].lat_ns["mean"] - self.one.lat_ns["mean"]
        device, whole = self.one.stages_ns["device"], self.one.lat_ns["mean"]
        if first > 1:
            why = "what the worker costs is more than what overlapping gains"
        elif device < 1:
            why = (
                f"two hand-offs add {duration(extra)} to {duration(whole)}, and the device takes no time that could be "
                "used meanwhile"
            )
        else:
            why = (
                f"two hand-offs add {duration(extra)} to {duration(whole)}, of which the device works "
                f"{duration(device)}"
            )
        share = round((1 - self.ratio(first)) * 100)
        where = _listed(losing) if len(losing) == 1 else f"{_listed(losing)} (here {first})"
        return f"At depth {where} async has {share} % fewer IOPS: {why}."

    def _freed(self) -> str:
        """How long a call holds its caller."""
        row = self.best[self.depths[-1]]
        if row.call_ns >= self.one.call_ns:
            return ""
        return (
            f"A call holds its caller for {duration(row.call_ns)} (depth {row.iodepth}, {row.worker}) instead of "
            f"{duration(self.one.call_ns)}."
        )

    def _against_crowd(self) -> str:
        """Against as many sync callers as the depth."""
        depths = [depth for depth in self.depths if depth in self.crowd]
        if not depths:
            return ""
        depth = depths[-1]
        crowd, row = self.crowd[depth], self.best[depth]
        ratio = _over(row.iops, crowd.iops)
        if abs(ratio - 1) <= MARGIN:
            outcome = f"{depth} sync callers have the same IOPS as one async caller"
        elif ratio > 1:
            gain = f"{percent(ratio)} IOPS than" if ratio < 1.95 else f"{times(ratio)} the IOPS of"
            outcome = f"One async caller has {gain} {depth} sync callers"
        else:
            outcome = f"{depth} sync callers have {percent(1 / ratio)} IOPS than one async caller"
            if self._worker_is_limit(row):
                outcome += ", whose one worker is the limit"
        return (
            f"{outcome}; an I/O costs the sync callers {duration(crowd.cpu_ns_per_io)} CPU and "
            f"{crowd.context_switches:.1f} context switches, async {duration(row.cpu_ns_per_io)} and "
            f"{row.context_switches:.1f}."
        )

    @staticmethod
    def _worker_is_limit(row: Row) -> bool:
        """Whether a request waits longer for the worker's turn than for the device."""
        waits = row.stages_ns["worker_list"] + row.stages_ns["submission"] + row.stages_ns["completion"]
        return waits > row.stages_ns["device"]

    def _turns(self) -> list[str]:
        """At which hand-off cost the outcome turns: one sentence for all that never do, one for each that does."""
        decided = self._decided()
        never = [flip for flip in decided if flip.at_ns is None]
        sentences = [_turn(flip) for flip in decided if flip.at_ns is not None]
        if never:
            held = " and that ".join(_standing(flip) for flip in never)
            limit = duration(never[0].searched_to_ns)
            sentences.append(
                f"That {held} holds at every hand-off cost (wake-up + switch) from 0 to {limit}."
            )
        return sentences

    def _decided(self) -> list[Flip]:
        """The searches whose winner is also that of the rows: near a tie, short runs may see another."""
        decided = []
        for flip in self.flips:
            row = self.best.get(flip.iodepth)
            other = self.one if flip.callers == 1 else self.crowd.get(flip.callers)
            if row is None or other is None or flip.winner == "equal":
                continue
            ratio = _over(row.iops, other.iops)
            if abs(ratio - 1) > MARGIN and (ratio > 1) == (flip.winner == "async"):
                decided.append(flip)
        return decided


def _standing(flip: Flip) -> str:
    callers = "one sync caller" if flip.callers == 1 else f"{flip.callers} sync callers"
    if flip.winner == "async":
        return f"async at depth {flip.iodepth} beats {callers}"
    return f"{callers} beat{'s' if flip.callers == 1 else ''} async at depth {flip.iodepth}"


def _turn(flip: Flip) -> str:
    assert flip.at_ns is not None
    side = "less" if flip.at_ns > flip.assumed_ns else "more"
    standing = _standing(flip)
    return (
        f"{standing[0].upper()}{standing[1:]} only while a hand-off (wake-up + switch) costs {side} "
        f"than {duration(flip.at_ns)}; {duration(flip.assumed_ns)} is assumed."
    )


def _listed(depths: Sequence[int]) -> str:
    if len(depths) == 1:
        return str(depths[0])
    return ", ".join(str(depth) for depth in depths[:-1]) + f" and {depths[-1]}"


def _over(first: float, second: float) -> float:
    return first / second if second else float("inf")
