"""Where findings are kept and counted: of one checker, or of all that watch the hosts of a served SSD."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from nvme_emu.observe.checker.finding import CheckError, Finding, RuleSummary
from nvme_emu.observe.checker.rules import CONCERNS, MODES, RULES, SCOPES

__all__ = ["FINDINGS_MAX", "Ledger"]

FINDINGS_MAX: Final = 32
"""Findings of one rule that are kept whole; later ones are counted."""


class Ledger:
    """Findings in the order in which they came.

    ``scope`` is one of `SCOPES`, ``level`` "error" or "warn": it is only remembered here. ``on_finding(finding)``
    hears of each finding that is kept. ValueError for other words.
    """

    host: str = ""
    """Whose findings these are, where there may be several hosts."""

    def __init__(
        self, *, scope: str, level: str = "warn", on_finding: Callable[[Finding], None] | None = None
    ) -> None:
        if scope not in SCOPES:
            raise ValueError(f"scope={scope!r}: it is one of {', '.join(SCOPES)}")
        if level not in ("warn", "error"):
            raise ValueError(f"level={level!r}: it is 'warn' or 'error'")
        self.scope = scope
        self.level = level
        self.on_finding = on_finding
        self.internal_error: Exception | None = None
        """A bug of the checker's own, after which it judges nothing any more."""
        self.uncompared = 0
        """Buffers that were not compared, because too much was in flight."""
        self._modes = SCOPES[scope]
        self._lock = threading.RLock()
        self._findings: list[Finding] = []
        self._counts: dict[str, int] = {}
        self._last: dict[str, Finding] = {}
        self._raised = 0

    def judges(self, rule: str) -> bool:
        """Whether a rule can be judged on this transport."""
        return RULES[rule].mode in self._modes

    def file(self, finding: Finding) -> None:
        """Count a finding, and keep it if there are not too many of its rule."""
        with self._lock:
            count = self._counts.get(finding.rule, 0) + 1
            self._counts[finding.rule] = count
            self._last[finding.rule] = finding
            if count > FINDINGS_MAX:
                return
            self._findings.append(finding)
        if self.on_finding is not None:
            self.on_finding(finding)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What was found, oldest first; at most `FINDINGS_MAX` of each rule."""
        with self._lock:
            return tuple(self._findings)

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings of severity "error"."""
        return tuple(one for one in self.findings if one.severity == "error")

    @property
    def summaries(self) -> tuple[RuleSummary, ...]:
        """Each rule that was broken, with how often, in the order of the first time."""
        with self._lock:
            return tuple(
                RuleSummary(
                    rule=rule,
                    title=last.title,
                    clause=last.clause,
                    severity=last.severity,
                    count=self._counts[rule],
                    last=last,
                )
                for rule, last in self._last.items()
            )

    @property
    def not_judged(self) -> dict[str, str]:
        """The rules that this transport does not show enough for, with what they need."""
        return {ident: MODES[RULES[ident].mode] for ident in self.concerns if RULES[ident].mode not in self._modes}

    @property
    def concerns(self) -> tuple[str, ...]:
        """The rules that there are for this transport."""
        return tuple(ident for ident, rule in RULES.items() if rule.mode in CONCERNS[self.scope])

    def clear(self) -> None:
        """Forget what was found; what is known of the host stays."""
        with self._lock:
            self._findings.clear()
            self._counts.clear()
            self._last.clear()
            self._raised = 0

    @property
    def has_new(self) -> bool:
        """Whether `raise_new` would have something new to look at."""
        return self._raised != len(self._findings)

    def raise_new(self) -> None:
        """Raise CheckError for errors that no call of this has raised yet; RuntimeError if the checker itself broke."""
        if self.internal_error is not None:
            raise RuntimeError("the checker failed and did not judge everything") from self.internal_error
        with self._lock:
            new = [one for one in self._findings[self._raised :] if one.severity == "error"]
            self._raised = len(self._findings)
        if new:
            raise CheckError(new)
