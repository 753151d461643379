"""What a checker found, as text, JSON and SARIF 2.1.0 (which code hosts and editors show)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nvme_emu.observe.checker.finding import Finding
from nvme_emu.observe.checker.ledger import Ledger
from nvme_emu.observe.checker.rules import RULES

__all__ = ["as_json", "as_sarif", "as_text", "summary_line", "write_report"]

HISTORY_LINES = 8
_SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def summary_line(checker: Ledger) -> str:
    """One line: how much was found, by rule."""
    if checker.internal_error is not None:
        return f"checker: failed, and did not judge everything: {checker.internal_error!r}"
    broken = checker.summaries
    if not broken:
        concerns = len(checker.concerns)
        judged = concerns - len(checker.not_judged)
        return f"checker: nothing found ({judged} of {concerns} rules could be judged)"
    counts = ", ".join(f"{one.rule} {one.count}" for one in broken)
    errors = sum(one.count for one in broken if one.severity == "error")
    warnings = sum(one.count for one in broken) - errors
    return f"checker: {errors} error(s), {warnings} warning(s): {counts}"


def as_text(checker: Ledger, *, history: int = HISTORY_LINES) -> str:
    """A report for people: each finding with the last events before it."""
    lines: list[str] = []
    for finding in checker.findings:
        lines += [str(finding), f"    {finding.title}", *(f"    {line}" for line in finding.history_lines()[-history:])]
    kept: dict[str, int] = {}
    for finding in checker.findings:
        kept[finding.rule] = kept.get(finding.rule, 0) + 1
    lines += [
        f"{one.rule}: {one.count - kept[one.rule]} more" for one in checker.summaries if one.count > kept[one.rule]
    ]
    if checker.not_judged:
        lines.append(f"not judged on this transport: {', '.join(checker.not_judged)}")
    if checker.uncompared:
        lines.append(f"{checker.uncompared} buffers were not compared: too much was in flight")
    return "\n".join([*lines, summary_line(checker)])


def as_json(checker: Ledger) -> dict[str, Any]:
    """The report as JSON holds it."""
    return {
        "version": 1,
        "scope": checker.scope,
        "errors": sum(one.count for one in checker.summaries if one.severity == "error"),
        "warnings": sum(one.count for one in checker.summaries if one.severity == "warning"),
        "counts": {one.rule: one.count for one in checker.summaries},
        "findings": [finding.as_json() for finding in checker.findings],
        "not_judged": checker.not_judged,
        "uncompared": checker.uncompared,
        "internal_error": None if checker.internal_error is None else repr(checker.internal_error),
    }


def as_sarif(checkers: Iterable[Ledger]) -> dict[str, Any]:
    """The report in SARIF. A finding has no place in a source file: its place is the queue and command."""
    findings = [finding for checker in checkers for finding in checker.findings]
    used = dict.fromkeys(finding.rule for finding in findings)
    rules = [
        {
            "id": ident,
            "shortDescription": {"text": RULES[ident].title},
            "help": {"text": RULES[ident].clause},
            "defaultConfiguration": {"level": RULES[ident].severity},
        }
        for ident in used
    ]
    driver = {"name": "nvme-emu", "informationUri": "https://nvmexpress.org/specifications/", "rules": rules}
    return {
        "$schema": _SARIF_SCHEMA,
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "results": [_sarif_result(one, list(used)) for one in findings]}],
    }


def _sarif_result(finding: Finding, rules: list[str]) -> dict[str, Any]:
    place = "controller" if finding.qid < 0 else f"queue {finding.qid}"
    if finding.cid >= 0:
        place += f" cid {finding.cid:#06x}"
    if finding.host:
        place = f"{finding.host} {place}"
    return {
        "ruleId": finding.rule,
        "ruleIndex": rules.index(finding.rule),
        "level": finding.severity,
        "message": {"text": f"{finding.what} ({finding.clause})"},
        "locations": [{"logicalLocations": [{"fullyQualifiedName": place, "kind": "resource"}]}],
        "properties": {"ts_ns": finding.ts_ns, "values": dict(finding.values), "history": finding.history_lines()},
    }


def write_report(checkers: Iterable[Ledger], path: str | Path) -> None:
    """Write a report; the name's end says how: .json, .sarif, else text. OSError where that fails."""
    checkers = list(checkers)
    suffix = Path(path).suffix
    if suffix == ".sarif":
        text = json.dumps(as_sarif(checkers), indent=2)
    elif suffix == ".json":
        text = json.dumps([as_json(checker) for checker in checkers], indent=2)
    else:
        text = "\n\n".join(as_text(checker, history=32) for checker in checkers)
    Path(path).write_text(text + "\n", encoding="utf-8")
