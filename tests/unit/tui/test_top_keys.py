"""Keys, pressed in the application without a terminal."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from textual.pilot import Pilot
from tuihelpers import FixedSource

from nvme_emu.observe.tui.app import TopApp
from nvme_emu.observe.tui.ink import plain
from nvme_emu.observe.tui.screen import view_of


def press(
    source: FixedSource, keys: list[str], look: Callable[[TopApp], Any], size: tuple[int, int] = (80, 24)
) -> Any:
    """What ``look`` sees after these keys."""

    async def run() -> Any:
        app = TopApp(source, frames_per_s=0)
        async with app.run_test(size=size) as pilot:
            await _press(pilot, keys)
            return look(app)

    return asyncio.run(run())


async def _press(pilot: Pilot[None], keys: list[str]) -> None:
    for key in keys:
        await pilot.press(key)
    await pilot.pause()


def shown(app: TopApp) -> str:
    """The text on the screen."""
    from nvme_emu.observe.tui.app import Screenful

    page = app.query_one(Screenful)
    return "\n".join("".join(segment.text for segment in page.render_line(y)) for y in range(page.size.height))


@pytest.mark.parametrize(
    ("key", "view"),
    [("1", "overview"), ("2", "queues"), ("3", "commands"), ("4", "workers"), ("5", "media"),
     ("6", "latency"), ("7", "trace"), ("8", "faults"), ("9", "checker")],
)  # fmt: skip
def test_digit_goes_to_its_view(source: FixedSource, key: str, view: str) -> None:
    assert press(source, [key], lambda app: view_of(app._frame, app.ui).name) == view


def test_tab_goes_round_the_views(source: FixedSource) -> None:
    assert press(source, ["tab", "tab"], lambda app: app.ui.view) == "commands"
    assert press(source, ["shift+tab"], lambda app: app.ui.view) == "checker"


@pytest.mark.parametrize(
    ("key", "told"),
    [("space", ("pause",)), ("s", ("step", "command")), ("e", ("step", "event")), ("minus", ("slow", 1)),
     ("plus", ("slow", -1)), ("left_square_bracket", ("travel", -1)), ("right_square_bracket", ("travel", 1)),
     ("left_curly_bracket", ("travel", -100)), ("home", ("travel_to", "first")), ("end", ("travel_to", "now"))],
)  # fmt: skip
def test_key_of_time_reaches_the_source(source: FixedSource, key: str, told: tuple[Any, ...]) -> None:
    press(source, [key], shown)
    assert source.told == [told]


def test_step_that_makes_no_sense_says_why() -> None:
    source = FixedSource(barred={"step": "the wall clock goes on"})
    text = press(source, ["s"], shown)
    assert source.told == []
    assert text.splitlines()[-1].strip() == "the wall clock goes on"


def test_arm_toggles_the_selected_rule(source: FixedSource) -> None:
    press(source, ["8", "a", "down", "a"], shown)
    assert source.told == [("arm", "bad-block", False), ("arm", "slow-write", True)]


def test_arm_elsewhere_does_nothing(source: FixedSource) -> None:
    press(source, ["a"], shown)
    assert source.told == []


def test_enter_opens_the_entry_with_its_bytes_and_escape_closes_it(source: FixedSource) -> None:
    opened = press(source, ["2", "enter"], shown)
    assert "64 bytes at 0x" in opened and "Base 2.1 §4.1.1" in opened
    assert "64 bytes at" not in press(source, ["2", "enter", "escape"], shown)


def test_arrows_choose_slots_and_rings(source: FixedSource) -> None:
    newest = press(source, ["2"], shown)
    older = press(source, ["2", "left", "left"], shown)
    completion = press(source, ["2", "down"], shown)
    assert newest != older
    assert "CQE " in completion and "CQE " not in newest


def test_filter_keeps_what_matches_and_escape_takes_it_away(source: FixedSource) -> None:
    keys = ["3", "f", *"write", "enter"]
    assert press(source, keys, lambda app: app.ui.filter) == "write"
    lines = press(source, keys, shown).splitlines()
    assert "filter: write" in lines[1] or "under way" in lines[2]
    assert not any(" Read " in text for text in lines[4:14])
    assert press(source, [*keys, "escape"], lambda app: app.ui.filter) == ""


def test_escape_while_typing_leaves_the_filter_as_it_was(source: FixedSource) -> None:
    assert press(source, ["3", "f", *"write", "escape"], lambda app: app.ui.filter) == ""
    assert press(source, ["3", "f", *"write", "escape", "2"], lambda app: app.ui.view) == "queues"


def test_search_selects_the_next_row_that_matches(source: FixedSource) -> None:
    def row(app: TopApp) -> str:
        assert app._frame is not None
        return view_of(app._frame, app.ui).rows(app._frame, app.ui)[app.ui.cursor]

    first = press(source, ["7", "slash", *"post_cqe", "enter"], row)
    second = press(source, ["7", "slash", *"post_cqe", "enter", "n"], row)
    back = press(source, ["7", "slash", *"post_cqe", "enter", "n", "N"], row)
    assert first.startswith("post_cqe") and second.startswith("post_cqe")
    assert first != second and back == first


def test_search_for_what_is_not_there_says_so(source: FixedSource) -> None:
    assert "no row of this view has 'nowhere'" in press(source, ["7", "slash", *"nowhere", "enter"], shown)


def test_copy_takes_the_selected_row(source: FixedSource) -> None:
    def copied(app: TopApp) -> str:
        return app.clipboard

    row = press(source, ["3", "down", "c"], copied)
    page = press(source, ["2", "c"], copied)
    assert "executing" in row and "\n" not in row
    assert page.startswith("queues ")


def test_help_lists_every_key_of_the_last_line(source: FixedSource) -> None:
    text = press(source, ["question_mark"], shown, size=(100, 40))
    for words in ("pause", "one command", "next event", "slower", "back and forth", "filter", "search", "clipboard"):
        assert words in text


def test_resize_draws_the_same_frame_anew(source: FixedSource) -> None:
    async def run() -> tuple[int, str]:
        app = TopApp(source, frames_per_s=0)
        async with app.run_test(size=(80, 24)) as pilot:
            await pilot.resize_terminal(120, 40)
            await pilot.pause()
            text = shown(app)
            return len(text.splitlines()), text

    lines, text = asyncio.run(run())
    assert lines == 40
    assert "9 checker" in text


def test_frames_are_drawn_by_themselves(source: FixedSource) -> None:
    async def run() -> int:
        app = TopApp(source, frames_per_s=200)
        async with app.run_test(size=(80, 24)) as pilot:
            await _until(lambda: app.drawn >= 3, pilot)
            return app.drawn

    assert asyncio.run(run()) >= 3


async def _until(condition: Callable[[], bool], pilot: Pilot[None]) -> None:
    for _ in range(2_000):
        if condition():
            return
        await pilot.pause(0.005)
    raise AssertionError("it never came")


def test_screen_is_the_page_that_was_drawn(source: FixedSource) -> None:
    from nvme_emu.observe.tui.screen import screen

    def compare(app: TopApp) -> tuple[str, str]:
        assert app._frame is not None
        wanted = plain(screen(app._frame, app.ui, 80, 24))
        return shown(app), wanted

    seen, wanted = press(source, ["6"], compare)
    assert [text.rstrip() for text in seen.splitlines()] == wanted.splitlines()


