#!/usr/bin/env python3
"""Writes the table of rules into docs/checker.md; `--check` only says whether it is up to date (exit code 1)."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from nvme_emu.observe.checker import RULES  # noqa: E402 - the path comes first

PAGE = ROOT / "docs" / "checker.md"
BEGIN, END = "<!-- rules -->\n", "<!-- end of rules -->\n"


def table() -> str:
    """Every rule, by subject."""
    lines = [f"{len(RULES)} rules.\n"]
    subject = ""
    for rule in RULES.values():
        if rule.subject != subject:
            subject = rule.subject
            lines.append(f"\n### {subject.capitalize()}\n\n")
            lines.append("| rule | what | severity | clause | mode |\n|---|---|---|---|---|\n")
        lines.append(f"| `{rule.id}` | {rule.title} | {rule.severity} | {rule.clause} | {rule.mode} |\n")
    return "".join(lines)


def page(text: str) -> str:
    """The page with the table of now."""
    before, rest = text.split(BEGIN, 1)
    return before + BEGIN + table() + rest[rest.index(END) :]


def main() -> int:
    """Write, or check."""
    text = PAGE.read_text(encoding="utf-8")
    new = page(text)
    if "--check" in sys.argv[1:]:
        return int(new != text)
    PAGE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
