"""docs/kworker.md: every Python block runs, and prints what the block below it says."""

from __future__ import annotations

import contextlib
import io
import re
import textwrap
from pathlib import Path

import pytest

DOC = Path(__file__).parents[3] / "docs" / "kworker.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def examples() -> list[tuple[int, str, str]]:
    """(line, code, expected output) of every Python block; the output is the text block that follows at once."""
    text = DOC.read_text(encoding="utf-8")
    blocks = list(BLOCK.finditer(text))
    found = []
    for i, block in enumerate(blocks):
        if block[1] != "python":
            continue
        following = blocks[i + 1] if i + 1 < len(blocks) else None
        adjacent = following is not None and following[1] == "text" and following.start() == block.end() + 1
        line = text.count("\n", 0, block.start()) + 2
        found.append((line, block[2], following[2] if adjacent and following else ""))
    return found


def squeeze(text: str) -> str:
    """Long lines are folded on the page."""
    return "\n".join(textwrap.fill(line, 100) for line in text.rstrip().splitlines())


def test_docs_blocks_run_and_print_what_they_say() -> None:
    namespace: dict[str, object] = {"__name__": "docs_kworker"}
    for line, code, expected in examples():
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile("\n" * (line - 1) + code, str(DOC), "exec"), namespace)
        assert squeeze(out.getvalue()) == squeeze(expected), f"docs/kworker.md, line {line}"


def test_docs_have_examples_for_each_chapter() -> None:
    assert len(examples()) >= 25


@pytest.mark.parametrize("name", ["kthread_queue_work", "kthread_mod_delayed_work", "SimRuntime", "explore"])
def test_docs_mention_the_api(name: str) -> None:
    assert name in DOC.read_text(encoding="utf-8")
