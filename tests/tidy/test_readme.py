"""What README and the other pages show runs as it stands there (docs/kworker.md has a test of its own)."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
SNIPPETS = [
    pytest.param(block, id=f"{page}-{number}")
    for page in ("README.md",)
    for number, block in enumerate(BLOCK.findall((ROOT / page).read_text()), 1)
]


def test_readme_has_snippets() -> None:
    assert len(SNIPPETS) == 2


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_snippet_runs_in_a_fresh_interpreter(snippet: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", snippet], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_no_page_or_file_names_a_registry_or_this_workplace() -> None:
    tracked = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True, check=True
    ).stdout.split("\n")
    forbidden = re.compile("|".join(["pypi" + r"\.org", "deb" + r"\.debian\.org", "/work" + "/", "farm" + "-"]))
    found = []
    for name in tracked:
        path = ROOT / name
        if path.suffix in {".py", ".md", ".toml", ".c", ".h", ".sh", ".fio", ""} and path.is_file():
            hits = forbidden.findall(path.read_text(errors="replace"))
            found += [f"{name}: {hit}" for hit in hits]
    assert not found
