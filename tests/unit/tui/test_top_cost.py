"""tools/top_cost.py, which the figures of docs/top.md come from, still runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TOOL = str(Path(__file__).resolve().parents[3] / "tools" / "top_cost.py")


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, TOOL, *words], capture_output=True, text=True, check=False, timeout=300)


def test_short_measurement_has_a_row_for_each_way_of_looking() -> None:
    done = run("--seconds", "1", "--warm", "0.2", "--views", "overview", "--size", "80x24")
    assert (done.returncode, done.stderr) == (0, "")
    rows = [line.split("  ")[0] for line in done.stdout.splitlines()]
    assert rows == ["bare", "traced", "top overview"]
    assert all(" I/Os a CPU second " in line for line in done.stdout.splitlines())


@pytest.mark.parametrize("words", [("--size", "wide"), ("--views", "none")])
def test_what_cannot_be_measured_is_an_error(words: tuple[str, str]) -> None:
    done = run("--seconds", "0.1", "--warm", "0.1", *words)
    assert done.returncode == 2 and words[0] in done.stderr
