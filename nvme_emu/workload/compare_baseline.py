"""A comparison against an earlier one: which rows have become worse by more than a tolerance."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from nvme_emu.workload.compare import VERSION, Comparison
from nvme_emu.workload.compare_rows import Row

__all__ = [
    "TOLERANCE_VIRTUAL",
    "TOLERANCE_WALL",
    "Baseline",
    "BaselineError",
    "Change",
    "Outcome",
    "load_baseline",
]

TOLERANCE_VIRTUAL = 0.05
"""On the virtual clock the same program gives the same figures; this is room for intended small changes, and more
than the width of a bin (1/64), so that a percentile that moves by one bin is none."""
TOLERANCE_WALL = 0.30
"""On the wall clock of a shared machine."""

# (what it is called, how to get it from a row, whether more is better)
_METRICS: tuple[tuple[str, Any, bool], ...] = (
    ("IOPS", lambda row: row.iops, True),
    ("mean latency, ns", lambda row: row.lat_ns["mean"], False),
    ("p99 latency, ns", lambda row: row.lat_ns["p99"], False),
    ("CPU an I/O, ns", lambda row: row.cpu_ns_per_io, False),
)


class BaselineError(ValueError):
    """A baseline that cannot be used; one line that names the file and the reason."""


@dataclass(frozen=True, slots=True)
class Change:
    """One figure of one row that moved by more than the tolerance; ``change`` is new / old - 1."""

    row: Row
    metric: str
    old: float
    new: float
    worse: bool

    @property
    def change(self) -> float:
        """new / old - 1."""
        return self.new / self.old - 1 if self.old else float("inf")

    def describe(self) -> str:
        """One line for people and logs."""
        row = self.row
        return (
            f"{row.profile}, {row.label}, depth {row.iodepth}, bs {row.bs}, {row.rw}: {self.metric} "
            f"{self.old:.6g} → {self.new:.6g} ({self.change * 100:+.1f} %)"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the comparison with a baseline gave. ``differences`` names assumptions and rows that are not the same."""

    compared: int
    tolerance: float
    regressions: Sequence[Change]
    improvements: Sequence[Change]
    differences: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """An earlier comparison, read from its JSON."""

    path: str
    seed: int
    clock: str
    assumptions: Mapping[str, Any]
    rows: Mapping[tuple[Any, ...], Row]

    def check(self, clock: str, keys: Iterable[tuple[Any, ...]]) -> None:
        """BaselineError if a run on ``clock`` with rows of these keys has nothing in common with it.

        To be asked before measuring, so that a wrong file costs no time."""
        if clock != self.clock:
            raise BaselineError(
                f"{self.path}: it was measured on the {self.clock} clock, this run is on the {clock} clock"
            )
        if not any(key in self.rows for key in keys):
            raise BaselineError(
                f"{self.path}: none of its {len(self.rows)} rows is in this run (profile, mode, depth, bs, rw)"
            )

    def compare(self, new: Comparison, tolerance: float | None = None) -> Outcome:
        """The rows that both have, figure by figure. ``tolerance`` is a share: 0.05 allows 5 %."""
        if tolerance is None:
            tolerance = TOLERANCE_VIRTUAL if self.clock == "virtual" else TOLERANCE_WALL
        changes = []
        compared = 0
        for row in new.rows:
            old = self.rows.get(row.key)
            if old is None:
                continue
            compared += 1
            for metric, value_of, more_is_better in _METRICS:
                before, after = value_of(old), value_of(row)
                if abs(after - before) > tolerance * before:
                    changes.append(Change(row, metric, before, after, (after < before) == more_is_better))
        return Outcome(
            compared=compared,
            tolerance=tolerance,
            regressions=[change for change in changes if change.worse],
            improvements=[change for change in changes if not change.worse],
            differences=self._differences(new),
        )

    def _differences(self, new: Comparison) -> list[str]:
        found = []
        if new.seed != self.seed:
            found.append(f"seed: was {self.seed}, is {new.seed}")
        found += _differing("", self.assumptions, new.assumptions)
        mine = {row.key for row in new.rows}
        missing = [row for key, row in self.rows.items() if key not in mine]
        added = [row for row in new.rows if row.key not in self.rows]
        for name, rows in (("only in the baseline", missing), ("not in the baseline", added)):
            found += [f"{name}: {r.profile}, {r.label}, depth {r.iodepth}, bs {r.bs}, {r.rw}" for r in rows]
        ios = {
            (old.ios, row.ios) for row in new.rows if (old := self.rows.get(row.key)) and old.ios != row.ios
        }
        return found + [f"I/Os a row: were {before}, are {after}" for before, after in sorted(ios)]


def _differing(prefix: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Keys whose values are not the same, as ``profiles.tlc.read_ns: was …, is …``."""
    found = []
    for key in [*old, *(key for key in new if key not in old)]:
        name = f"{prefix}{key}"
        if key == "sources" and not prefix:
            continue  # words about the figures, which are compared themselves
        if key not in old or key not in new:
            if prefix != "profiles.":  # a device that one of the two did not measure is named by its rows
                found.append(f"{name}: {'only in the baseline' if key in old else 'not in the baseline'}")
        elif isinstance(old[key], dict) and isinstance(new[key], dict):
            found += _differing(f"{name}.", old[key], new[key])
        elif _plain(old[key]) != _plain(new[key]):
            found.append(f"{name}: was {_plain(old[key])}, is {_plain(new[key])}")
    return found


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def load_baseline(path: str | PathLike[str]) -> Baseline:
    """Read a comparison's JSON. BaselineError if it cannot be read or is none."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise BaselineError(f"{path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise BaselineError(f"{path}: it is no JSON: {error}") from None
    if not isinstance(data, dict) or "rows" not in data or "version" not in data:
        raise BaselineError(
            f"{path}: it is not the JSON of a comparison (`nvme-emu compare --json FILE` writes one)"
        )
    if data["version"] != VERSION:
        raise BaselineError(
            f"{path}: it has version {data['version']!r}, this program reads version {VERSION}"
        )
    rows = data["rows"]
    if not isinstance(rows, list) or not isinstance(data.get("assumptions"), dict):
        raise BaselineError(f"{path}: rows must be a list and assumptions an object")
    read: dict[tuple[Any, ...], Row] = {}
    for number, row in enumerate(rows):
        try:
            one = Row.from_json(row)
        except ValueError as error:
            raise BaselineError(f"{path}: row {number}: {error}") from None
        read[one.key] = one
    clock, seed = data.get("clock"), data.get("seed")
    if clock not in ("virtual", "wall") or isinstance(seed, bool) or not isinstance(seed, int):
        raise BaselineError(
            f"{path}: clock must be virtual or wall and seed a number, not {clock!r} and {seed!r}"
        )
    return Baseline(path=str(path), seed=seed, clock=clock, assumptions=data["assumptions"], rows=read)
