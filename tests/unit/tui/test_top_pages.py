"""Every page at two sizes against its fixture (`regenerate.py` makes them anew)."""

from __future__ import annotations

import json

import pytest
from tui_pages import PAGES, Page, barred_frame, fixed_frame, page_file, page_text

from nvme_emu.observe.state import from_json, to_json
from nvme_emu.observe.tui.frame import Frame, PlayState
from nvme_emu.observe.tui.ink import plain
from nvme_emu.observe.tui.screen import help_lines, screen, views_of
from nvme_emu.observe.tui.ui import Ui
from nvme_emu.observe.tui.views import VIEWS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page_is_what_its_fixture_shows(page: Page) -> None:
    assert page_text(page) == page_file(page).read_text(encoding="utf-8")


@pytest.mark.parametrize("size", [(64, 18), (80, 24), (97, 31), (120, 40), (211, 77)])
@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_screen_has_exactly_the_size_it_is_asked_for(view: object, size: tuple[int, int]) -> None:
    width, height = size
    for ui in (Ui(view=view.name), Ui(view=view.name, detail=True, scroll=500), Ui(view=view.name, filter="zzz")):  # type: ignore[attr-defined]
        lines = screen(fixed_frame(), ui, width, height)
        assert [text.cell_len for text in lines] == [width] * height


def test_screen_that_is_too_small_says_what_is_needed() -> None:
    assert "64 by 18 characters are needed" in plain(screen(fixed_frame(), Ui(), 63, 20))


def test_frame_survives_json() -> None:
    frame = fixed_frame()
    assert from_json(Frame, json.loads(json.dumps(to_json(frame)))) == frame


def test_frame_with_nothing_in_it_is_drawn_by_every_view() -> None:
    full = fixed_frame()
    empty = Frame(title="", ts_ns=0, clock="wall", play=PlayState(mode="running"), stats=full.stats, findings=())
    for view in VIEWS:
        for detail in (False, True):
            assert len(screen(empty, Ui(view=view.name, detail=detail), 80, 24)) == 24


def test_checker_view_is_there_only_with_a_checker() -> None:
    frame = fixed_frame()
    without = from_json(Frame, {**to_json(frame), "findings": None})
    assert [view.name for view in views_of(frame)][-1] == "checker"
    assert [view.name for view in views_of(without)][-1] == "faults"


def test_frame_without_fault_rules_says_so() -> None:
    without = from_json(Frame, {**to_json(fixed_frame()), "faults": None})
    assert "no fault rules" in plain(screen(without, Ui(view="faults"), 80, 24))


def test_control_that_makes_no_sense_is_struck_out_and_explained() -> None:
    frame = barred_frame()
    foot = screen(frame, Ui(), 80, 24)[-1]
    struck = {foot.plain[span.start : span.end].strip() for span in foot.spans if "strike" in str(span.style)}
    assert struck == {"command", "event", "slow"}
    assert "the wall clock goes on" in plain(help_lines(frame, 80))


def test_filter_takes_words_in_any_order_and_words_that_must_not_occur() -> None:
    view = next(view for view in VIEWS if view.name == "commands")
    every = view.rows(fixed_frame(), Ui(view="commands"))
    reads = view.rows(fixed_frame(), Ui(view="commands", filter="executing READ"))
    others = view.rows(fixed_frame(), Ui(view="commands", filter="-read"))
    assert 0 < len(reads) < len(every)
    assert all("Read" in row and "executing" in row for row in reads)
    assert others and not any("Read" in row for row in others)
