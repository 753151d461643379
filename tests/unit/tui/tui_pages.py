"""The pages that are compared with fixtures: each view at two sizes, some opened, from one fixed frame."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from nvme_emu.observe.state import from_json
from nvme_emu.observe.tui.frame import Frame, PlayState
from nvme_emu.observe.tui.ink import plain
from nvme_emu.observe.tui.screen import screen
from nvme_emu.observe.tui.ui import Ui
from nvme_emu.observe.tui.views import VIEWS

FIXTURES = Path(__file__).parent / "fixtures"
FRAME_FILE = FIXTURES / "frame.json"
SIZES = ((80, 24), (120, 40))


@dataclass(frozen=True)
class Page:
    """A page by its file's name."""

    name: str
    ui: Ui
    width: int
    height: int


@cache
def fixed_frame() -> Frame:
    """The frame of all pages, as it was recorded once."""
    return from_json(Frame, json.loads(FRAME_FILE.read_text(encoding="utf-8")))


def _pages() -> list[Page]:
    pages = []
    for width, height in SIZES:
        size = f"{width}x{height}"
        for view in VIEWS:
            pages.append(Page(f"{view.name}-{size}", Ui(view=view.name), width, height))
            if view.detail is not None:
                pages.append(Page(f"{view.name}-open-{size}", Ui(view=view.name, detail=True), width, height))
        completion = Ui(view="queues", cursors={"queues": 1}, slot=2)
        pages.append(Page(f"queues-completion-{size}", completion, width, height))
        pages.append(Page(f"help-{size}", Ui(help=True), width, height))
        pages.append(Page(f"filtered-{size}", Ui(view="commands", filter="write", search="x"), width, height))
    return pages


PAGES = _pages()


def page_file(page: Page) -> Path:
    """Where a page's fixture is."""
    return FIXTURES / f"{page.name}.txt"


def page_text(page: Page) -> str:
    """The page as plain text."""
    return plain(screen(fixed_frame(), page.ui, page.width, page.height))


def barred_frame() -> Frame:
    """The frame of a machine on the wall clock: it cannot be held."""
    barred = {"step": "the wall clock goes on", "slow": "the wall clock goes on"}
    return replace(fixed_frame(), clock="wall", play=PlayState(mode="running", barred=barred))
