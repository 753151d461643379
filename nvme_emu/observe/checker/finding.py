"""What the checker found, and the exception and warning that tell of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nvme_emu.core.trace import as_record
from nvme_emu.observe.trace_words import words_of

__all__ = ["CheckError", "CheckerWarning", "Finding", "RuleSummary"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that the host did wrong.

    ``rule``, ``title``, ``clause`` and ``severity`` ("error" or "warning") are the rule's; ``what`` says it of
    this case with the offending values, which are also in ``values`` as (name, number) pairs. ``qid`` and
    ``cid`` are -1 where there is none. ``host`` names the host where there may be several, and is "" elsewhere.
    ``history`` holds the last events of that queue (of the controller where
    there is none), oldest first, up to the one that broke the rule.
    """

    rule: str
    title: str
    clause: str
    severity: str
    what: str
    ts_ns: int
    qid: int
    cid: int
    values: tuple[tuple[str, int], ...]
    history: tuple[Any, ...]
    host: str = ""

    def __str__(self) -> str:
        where = f" {self.host}" if self.host else ""
        where += "" if self.qid < 0 else f" q{self.qid}" + ("" if self.cid < 0 else f" cid {self.cid:#06x}")
        return f"{self.severity}: {self.rule}:{where} {self.what} ({self.clause})"

    def as_json(self) -> dict[str, Any]:
        """The finding as JSON holds it; ``history`` as in a trace file."""
        return {
            "rule": self.rule,
            "title": self.title,
            "clause": self.clause,
            "severity": self.severity,
            "what": self.what,
            "ts_ns": self.ts_ns,
            "qid": None if self.qid < 0 else self.qid,
            "cid": None if self.cid < 0 else self.cid,
            "host": self.host or None,
            "values": dict(self.values),
            "history": [as_record(event) for event in self.history],
        }

    def history_lines(self) -> list[str]:
        """The events in words, each with its distance to the finding."""
        return [
            f"{(event.ts_ns - self.ts_ns) / 1000:+12.3f} µs  {words_of(as_record(event))}" for event in self.history
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleSummary:
    """How often one rule was broken, and how it was the last time."""

    rule: str
    title: str
    clause: str
    severity: str
    count: int
    last: Finding


class CheckerWarning(UserWarning):
    """A checked machine was closed, and its checker had found something."""


class CheckError(RuntimeError):
    """The driver broke a rule. ``findings`` are those of severity "error", oldest first."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        self.findings = tuple(findings)
        first = self.findings[0]
        more = f" (and {len(self.findings) - 1} more)" if len(self.findings) > 1 else ""
        lines = "\n  ".join(first.history_lines()[-8:])
        super().__init__(f"{first}{more}\nthe last events:\n  {lines}")

    def __reduce__(self) -> tuple[type[CheckError], tuple[tuple[Finding, ...]]]:
        # An exception of another process is made anew from what it was made from, not from its text.
        return CheckError, (self.findings,)
