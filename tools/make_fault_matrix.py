#!/usr/bin/env python3
"""Writes the table of faults and outcomes in docs/faults.md; `--check` says whether it is stale (exit code 1)."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "faults.md"
sys.path.insert(0, str(ROOT))

from nvme_emu.workload.fault_matrix import CASES, run_case  # noqa: E402

BEGIN, END = "<!-- matrix -->\n", "<!-- /matrix -->\n"


def table() -> str:
    """The table in Markdown: one run of each fault in each mode."""
    lines = ["| kind | fault | sync | async |", "|---|---|---|---|"]
    for case in CASES:
        cells = [run_case(case, mode).words() for mode in ("sync", "async")]
        lines.append(f"| `{case.kind}` | {case.name} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines) + "\n"


def page() -> str:
    """The page with the table as it should be."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + table() + END + after


def main() -> int:
    """Write, or check."""
    text = page()
    if "--check" in sys.argv[1:]:
        if PAGE.read_text(encoding="utf-8") != text:
            sys.stderr.write("docs/faults.md is stale: run python tools/make_fault_matrix.py\n")
            return 1
        return 0
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
