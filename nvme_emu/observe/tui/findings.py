"""What a checker found, as the inspector shows it: from a checker of this process, or from its answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from nvme_emu.observe.tui.frame import FindingState

if TYPE_CHECKING:
    from nvme_emu.observe.checker.ledger import Ledger

__all__ = ["found_by", "states_of"]


def found_by(checker: Ledger) -> Callable[[], tuple[FindingState, ...]]:
    """What gives the findings of a checker, a row each broken rule."""

    def found() -> tuple[FindingState, ...]:
        return tuple(
            FindingState(
                severity=one.severity,
                rule=one.rule,
                clause=one.clause,
                words=f"{one.title}: {one.last.what}",
                count=one.count,
                ts_ns=one.last.ts_ns,
            )
            for one in checker.summaries
        )

    return found


def states_of(summary: Iterable[dict[str, Any]]) -> tuple[FindingState, ...]:
    """The same of what `checker.summary` answers."""
    return tuple(
        FindingState(
            severity=str(one["severity"]),
            rule=str(one["rule"]),
            clause=str(one["clause"]),
            words=f"{one['title']}: {one['what']}",
            count=int(one["count"]),
            ts_ns=int(one["ts_ns"]),
        )
        for one in summary
    )
