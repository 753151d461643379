"""Where the reader is: which view, which row, what is filtered and searched. Frozen; keys make new ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import TypeVar

from nvme_emu.observe.tui.frame import Frame
from nvme_emu.observe.tui.ink import Lines

__all__ = ["Ui", "View", "matches", "selected"]

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ui:
    """``cursors`` holds the selected row of each view, ``slot`` how far the selected queue entry lies before
    the newest. ``detail`` shows the selected thing over the whole view, ``help`` the keys; ``scroll`` is how
    many lines of them are above the screen. ``asks`` is "filter" or "search" while words are ``typed``."""

    view: str = "overview"
    cursors: dict[str, int] = field(default_factory=dict)
    slot: int = 0
    filter: str = ""
    search: str = ""
    detail: bool = False
    help: bool = False
    scroll: int = 0
    asks: str = ""
    typed: str = ""
    message: str = ""

    @property
    def cursor(self) -> int:
        """The selected row of this view."""
        return self.cursors.get(self.view, 0)

    def at(self, row: int) -> Ui:
        """With another row of this view selected."""
        return replace(self, cursors={**self.cursors, self.view: max(0, row)}, slot=0, scroll=0)

    def to(self, view: str) -> Ui:
        """In another view. The filter stays; what was opened is closed."""
        return replace(self, view=view, detail=False, help=False, scroll=0, slot=0, message="")


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A page. All functions are pure.

    ``draw(frame, ui, width, height)`` gives exactly that many lines of that width. ``rows`` are the words of
    what can be selected, in order, after the filter. ``detail`` is the selected thing told at length, and
    ``copy`` what goes to the clipboard; None where there is nothing to open or select.
    """

    name: str
    draw: Callable[[Frame, Ui, int, int], Lines]
    rows: Callable[[Frame, Ui], list[str]] = lambda frame, ui: []
    detail: Callable[[Frame, Ui, int], Lines] | None = None
    exists: Callable[[Frame], bool] = lambda frame: True
    selects: bool = True


def matches(words: str, wanted: str) -> bool:
    """Whether all words of the filter occur, in any order and case; a word with "-" before it must not."""
    low = words.lower()
    for part in wanted.lower().split():
        if len(part) > 1 and part.startswith("-"):
            if part[1:] in low:
                return False
        elif part not in low:
            return False
    return True


def selected(items: Iterable[_T], words: Callable[[_T], str], ui: Ui) -> list[_T]:
    """The items that the filter lets through."""
    if not ui.filter:
        return list(items)
    return [item for item in items if matches(words(item), ui.filter)]


def words_of(item: object) -> str:
    """The values of a dataclass in a row: what filter and search look at."""
    values = (getattr(item, one.name) for one in dataclasses.fields(item))  # type: ignore[arg-type]
    return " ".join(str(value) for value in values if not isinstance(value, dict | tuple))
