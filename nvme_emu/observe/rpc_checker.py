"""What the checker found, over the socket: the methods ``checker.*`` of a machine that is checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from nvme_emu.observe.checker.report import as_json
from nvme_emu.observe.checker.rules import RULES
from nvme_emu.observe.watched import Watched

if TYPE_CHECKING:
    from nvme_emu.observe.checker.ledger import Ledger

__all__ = ["CheckerMethods"]


class CheckerMethods:
    """See :class:`nvme_emu.observe.checker.Checker`. A finding is an event of the trace, too: ``check_finding``."""

    def __init__(self, watched: Watched, checker: Ledger) -> None:
        self._watched = watched
        self._checker = checker

    def table(self) -> dict[str, Callable[..., Any]]:
        """Every method by name."""
        return {
            "checker.findings": self.findings,
            "checker.summary": self.summary,
            "checker.rules": self.rules,
            "checker.report": self.report,
            "checker.clear": self.clear,
        }

    def findings(self, count: int = 100, rule: str | None = None) -> list[dict[str, Any]]:
        """The last count findings, oldest first, each with the last events of its queue. rule: only of this one."""
        if count < 1:
            raise ValueError(f"count={count}: at least 1")
        if rule is not None and rule not in RULES:
            raise ValueError(f"there is no rule {rule!r}")
        found = [one for one in self._checker.findings if rule in (None, one.rule)]
        return [one.as_json() for one in found[-count:]]

    def summary(self) -> list[dict[str, Any]]:
        """Each rule that was broken: "rule", "title", "clause", "severity", "count", "what" and "ts_ns" of the last."""
        return [
            {
                "rule": one.rule,
                "title": one.title,
                "clause": one.clause,
                "severity": one.severity,
                "count": one.count,
                "what": one.last.what,
                "ts_ns": one.last.ts_ns,
            }
            for one in self._checker.summaries
        ]

    def rules(self) -> list[dict[str, Any]]:
        """Every rule, with "judged": whether this transport shows enough to judge it."""
        return [{**asdict(rule), "judged": self._checker.judges(rule.id)} for rule in RULES.values()]

    def report(self) -> dict[str, Any]:
        """The whole report, as `--check-report FILE.json` writes it."""
        return as_json(self._checker)

    def clear(self) -> int:
        """Forget what was found; how many findings that were."""
        count = len(self._checker.findings)
        self._checker.clear()
        return count
