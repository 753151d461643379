"""What docs/compare.md shows, it does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nvme_emu.workload.compare import CompareConfig
from nvme_emu.workload.compare_rows import IOS_VIRTUAL, IOS_WALL

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "compare.md").read_text()


def test_example_with_an_own_driver_class_runs(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 1
    exec(compile(blocks[0], "docs/compare.md", "exec"), {"__name__": "example"})
    assert re.search(r"polling +\d+\.\d µs, CPU", capsys.readouterr().out)


def test_figures_named_in_the_page_are_those_of_the_program() -> None:
    assert f"{IOS_VIRTUAL} I/Os a row ({IOS_WALL} on the wall clock)" in PAGE
    assert CompareConfig().cpus == 4 and "four are the fewest" in PAGE
