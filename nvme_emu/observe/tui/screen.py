"""The whole screen: a head, the tabs, one view, the keys. Pure, like the views."""

from __future__ import annotations

from rich.text import Text

from nvme_emu.observe.tui import words
from nvme_emu.observe.tui.frame import Frame
from nvme_emu.observe.tui.ink import (
    ACCENT,
    BAD,
    BORDER,
    BRIGHT,
    DIM,
    GOOD,
    VIOLET,
    WARN,
    Lines,
    crop,
    fit,
    line,
    pad,
    rule,
)
from nvme_emu.observe.tui.ui import Ui, View
from nvme_emu.observe.tui.views import VIEWS

__all__ = ["CHROME_LINES", "HELP", "help_lines", "screen", "view_of", "views_of"]

CHROME_LINES = 3
"""Lines of a screen that are not the view's: head, tabs, keys."""

WIDTH_MIN, HEIGHT_MIN = 64, 18
"""A smaller terminal gets one line that says so."""

_MODES = {
    "running": ("▶ running", GOOD),
    "slow": ("▷ slow", WARN),
    "paused": ("‖ paused", WARN),
    "past": ("◀ the past", VIOLET),
    "replay": ("◀▶ replay", VIOLET),
    "ended": ("■ ended", DIM),
}

# Keys in the last line: what they say and the control they need, the most wanted first.
_KEYS: tuple[tuple[str, str, str | None], ...] = (
    ("␣", "pause", "pause"),
    ("s", "command", "step"),
    ("e", "event", "step"),
    ("- +", "slow", "slow"),
    ("[ ]", "time", "travel"),
    ("/", "search", None),
    ("f", "filter", None),
    ("c", "copy", None),
    ("?", "help", None),
    ("q", "quit", None),
)

HELP: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    (
        "views",
        (
            ("1 … 9", "go to a view"),
            ("tab, shift+tab", "next, previous view"),
            ("↑ ↓, j k, pgup pgdn", "select a row, or scroll what is open"),
            ("← →", "queues: choose a slot of the ring"),
            ("enter, esc", "open what is selected, close it"),
        ),
    ),
    (
        "time",
        (
            ("space", "pause and go on; with the wall clock only the picture stops"),
            ("s", "let one command complete"),
            ("e", "go to the next event"),
            ("- +", "slower, faster: virtual time a second"),
            ("[ ]  { }", "one, 100 events back and forth in what was recorded"),
            ("home, end", "to the first event recorded, back to the present"),
        ),
    ),
    (
        "find and take",
        (
            ("f", "filter rows: words that must occur, -word must not"),
            ("/, n N", "search rows; next, previous match"),
            ("c", "copy the selected row, or the view, to the clipboard"),
            ("a", "faults: arm or disarm the selected rule"),
            ("q, ctrl+c", "quit; the workload ends with it"),
        ),
    ),
)


def views_of(frame: Frame) -> list[View]:
    """The views that this frame has."""
    return [view for view in VIEWS if view.exists(frame)]


def view_of(frame: Frame, ui: Ui) -> View:
    """The view that is shown; the first if the reader's does not exist in this frame."""
    views = views_of(frame)
    return next((view for view in views if view.name == ui.view), views[0])


def screen(frame: Frame, ui: Ui, width: int, height: int) -> Lines:
    """Exactly ``height`` lines of ``width`` cells."""
    if width < WIDTH_MIN or height < HEIGHT_MIN:
        told = [line((f"{WIDTH_MIN} by {HEIGHT_MIN} characters are needed", WARN))]
        return pad([fit(text, width) for text in told], width, height)
    body_height = height - CHROME_LINES
    return [
        _head(frame, width),
        _tabs(frame, ui, width),
        *body(frame, ui, width, body_height),
        _foot(frame, ui, width),
    ]


def body(frame: Frame, ui: Ui, width: int, height: int) -> Lines:
    """The view alone, or what is open in it."""
    view = view_of(frame, ui)
    if ui.help:
        shown = _opened("help", help_lines(frame, width), ui, width, height)
    elif ui.detail and view.detail is not None:
        shown = _opened(view.name, view.detail(frame, ui, width), ui, width, height)
    else:
        shown = view.draw(frame, ui, width, height)
    return pad([fit(text, width) for text in shown], width, height)


def _opened(title: str, lines: Lines, ui: Ui, width: int, height: int) -> Lines:
    """A page that lies over the view, as far as it was scrolled."""
    first = max(0, min(ui.scroll, len(lines) - height + 1))
    more = len(lines) - first - height + 1
    told = f"{more} more lines below, esc closes" if more > 0 else "esc closes"
    return [rule(title, width, right=told), *lines[first : first + height - 1]]


def _head(frame: Frame, width: int) -> Text:
    mode, style = _MODES.get(frame.play.mode, (frame.play.mode, BRIGHT))
    play = frame.play
    right = line((f"{words.clock(frame.ts_ns)} ", BRIGHT), (f"{frame.clock}  ", DIM))
    if play.total:
        right.append(f"{play.position}/{play.total}  ", DIM)
    right.append(f"{mode}{' ' + play.speed if play.speed else ''} ", style)
    room = width - right.cell_len - 11
    left = line((" nvme-emu ", f"bold {ACCENT}"), (crop(frame.title, max(0, room)), BRIGHT))
    return fit(left, max(0, width - right.cell_len)).append_text(right)


def _tabs(frame: Frame, ui: Ui, width: int) -> Text:
    views, current = views_of(frame), view_of(frame, ui)
    wide = sum(len(view.name) + 4 for view in views) <= width
    gap = " " if wide else ""
    text = Text(end="")
    for key, view in enumerate(views, 1):
        if view is current:
            text.append(f" {key}{gap}{view.name}{gap}", f"bold #16161e on {ACCENT}")
        else:
            text.append(f" {key}{gap}", ACCENT)
            text.append(f"{view.name}{gap}", DIM)
    told = _told(frame, ui)
    if told and text.cell_len + len(told) + 2 <= width:
        return fit(text, width - len(told) - 1).append(told, WARN).append(" ")
    return fit(text, width)


def _told(frame: Frame, ui: Ui) -> str:
    """What the reader must not forget: the filter, or what there is to know about the frame."""
    return f"filter: {ui.filter}" if ui.filter else frame.note


def _foot(frame: Frame, ui: Ui, width: int) -> Text:
    if ui.asks:
        words_so_far = line((f" {ui.asks}: ", f"bold {ACCENT}"), (ui.typed, BRIGHT), ("▏", ACCENT))
        return fit(words_so_far.append(f"   enter to {ui.asks}, esc to leave it", DIM), width)
    if ui.message:
        return fit(line((f" {ui.message}", WARN)), width)
    text = Text(" ", end="")
    told = _told(frame, ui)
    if told and told not in _tabs(frame, ui, width).plain:
        text.append(f"{crop(told, width // 2)}  ", WARN)
    wide = width >= 100
    for key, told, control in _KEYS:
        if (key in ("c", "f") and width < 80) or (key == "c" and not wide):
            continue
        barred = control is not None and control in frame.play.barred
        text.append(key, BORDER if barred else f"bold {ACCENT}")
        text.append(f" {told}{'  ' if wide else ' '}", f"strike {BORDER}" if barred else DIM)
    return fit(text, width)


def help_lines(frame: Frame, width: int) -> Lines:
    """What the keys do, and why some do nothing here."""
    lines: Lines = []
    for title, keys in HELP:
        lines.append(rule(title, width))
        lines += [line((f" {key:<20}", f"bold {ACCENT}"), told) for key, told in keys]
    if frame.play.barred:
        lines.append(rule("not here", width))
        lines += [line((f" {name:<8}", BAD), why) for name, why in frame.play.barred.items()]
    return lines
