"""docs/recovery.md: its snippet runs and prints what the page shows; its tables are those of the code."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
from pathlib import Path

from nvme_emu.driver.ladder import RULES
from nvme_emu.driver.recovery import RecoveryConfig

TEXT = (Path(__file__).parents[3] / "docs" / "recovery.md").read_text(encoding="utf-8")


def test_snippet_prints_the_log_of_the_page() -> None:
    code = re.search(r"```python\n(.*?)```\n\n```\n(.*?)```", TEXT, re.DOTALL)
    assert code is not None
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code[1], "docs/recovery.md", "exec"), {"__name__": "docs"})
    assert printed.getvalue() == code[2]


def test_ladder_of_the_page_has_as_many_rungs_as_the_code() -> None:
    section = TEXT.split("## When a command's time is over", 1)[1].split("\n## ", 1)[0]
    assert len(re.findall(r"^\| ", section, re.MULTILINE)) - 1 == len(RULES)


def test_settings_of_the_page_have_the_defaults_of_the_code() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (\d+) \|", TEXT, re.MULTILINE))
    defaults = {one.name: one.default for one in dataclasses.fields(RecoveryConfig)}
    assert {name: float(value) for name, value in rows.items()} == {
        name: float(value) for name, value in defaults.items() if name != "shutdown_timeout"
    }
