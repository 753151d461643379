"""docs/checker.md: its table is up to date, its snippets run, its example report is real."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / "docs" / "checker.md").read_text(encoding="utf-8")


def test_table_of_rules_is_up_to_date() -> None:
    command = [sys.executable, str(ROOT / "tools" / "make_checker_rules.py"), "--check"]
    assert subprocess.run(command, check=False).returncode == 0, "run tools/make_checker_rules.py"


@pytest.mark.breaks_rules  # the machines of the page say themselves how they are checked
@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL))
def test_python_of_the_page_runs(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(code, "docs/checker.md", "exec"), {"__name__": "docs"})
    printed = capsys.readouterr().out
    if printed:
        head = printed.splitlines()[0]
        assert head in TEXT
