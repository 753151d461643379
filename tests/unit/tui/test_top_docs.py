"""docs/top.md shows pages as they are, and every key."""

from __future__ import annotations

import re
from pathlib import Path

from nvme_emu.observe.tui.app import KEYS
from nvme_emu.observe.tui.screen import HELP
from nvme_emu.observe.tui.views import VIEWS

ROOT = Path(__file__).resolve().parents[3]
DOCS = (ROOT / "docs" / "top.md").read_text(encoding="utf-8")
FIXTURES = Path(__file__).parent / "fixtures"


def test_pages_in_the_docs_are_the_fixtures() -> None:
    found = re.findall(r"<!-- page ([\w-]+) -->\n```\n(.*?)```\n<!-- end -->", DOCS, flags=re.DOTALL)
    assert len(found) >= 2
    for name, text in found:
        assert text == (FIXTURES / f"{name}.txt").read_text(encoding="utf-8"), f"run regenerate.py: {name}"


def test_docs_name_every_view_with_its_key() -> None:
    rows = re.findall(r"^\| (\d) \| (\w+) \|", DOCS, flags=re.MULTILINE)
    assert rows == [(str(key), view.name) for key, view in enumerate(VIEWS, 1)]


def test_docs_and_help_name_every_letter_key() -> None:
    helped = " ".join(key for _, keys in HELP for key, _ in keys)
    for key in KEYS:
        if len(key) == 1 and key.isalpha() and key not in "hjkly":
            assert f"`{key}`" in DOCS, key
            assert re.search(rf"\b{key}\b", helped), key
