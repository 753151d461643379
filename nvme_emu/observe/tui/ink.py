"""Drawing in the terminal: lines of rich Text that are exactly as wide as they are asked to be.

Blocks of lines, and not rich's tables and panels: a full screen is drawn in two milliseconds instead of
fifteen, thirty times a second beside a workload that is being looked at.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from rich.console import Console
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

__all__ = [
    "ACCENT",
    "BAD",
    "BORDER",
    "BRIGHT",
    "Cell",
    "Column",
    "DIM",
    "GOOD",
    "Lines",
    "PLAIN",
    "READ",
    "SELECTED",
    "VIOLET",
    "WARN",
    "WRITE",
    "bar",
    "beside",
    "crop",
    "fit",
    "heat",
    "line",
    "pad",
    "panel",
    "plain",
    "rule",
    "runs",
    "segments",
    "spark",
    "table",
    "window",
    "wrap_pairs",
]

Lines = list[Text]
Cell = str | tuple[str, str]
"""Text, or text with its style."""

PLAIN: Final = "#c0caf5"
BRIGHT: Final = "bold #e6e9ff"
DIM: Final = "#6b739c"
BORDER: Final = "#3d4466"
ACCENT: Final = "#7dcfff"
GOOD: Final = "#9ece6a"
WARN: Final = "#e0af68"
BAD: Final = "#f7768e"
VIOLET: Final = "#bb9af7"
READ: Final = "#7aa2f7"
WRITE: Final = "#ff9e64"
SELECTED: Final = "on #2b3152"

_NOTHING: Final = Style.null()
_SPARKS: Final = " ▁▂▃▄▅▆▇█"
_EIGHTHS: Final = " ▏▎▍▌▋▊▉█"
_HEAT: Final = ("#2a2f4a", "#24365c", "#285a8c", "#2f8ea8", "#4fb58b", "#a3c25a", "#e8b04f", "#f4733f")


def line(*parts: Cell) -> Text:
    """One line of pieces; a piece without a style is in the ordinary colour."""
    text = Text(no_wrap=True, end="")
    for part in parts:
        if isinstance(part, str):
            text.append(part, PLAIN)
        else:
            text.append(part[0], part[1])
    return text


def runs(cells: Iterable[tuple[str, str]]) -> Text:
    """Cells with their styles as a text; neighbours of one style become one piece, which is quick to draw."""
    text = Text(no_wrap=True, end="")
    for style, group in itertools.groupby(cells, lambda cell: cell[1]):
        text.append("".join(glyph for glyph, _ in group), style)
    return text


def segments(text: Text, base: Style, console: Console) -> list[Segment]:
    """The pieces of a text over a base style, as `Text.render` makes them; quicker where no spans overlap."""
    words, found, at = text.plain, [], 0
    for start, end, style in text.spans:
        if start < at or text.style:
            return [Segment(part, base + (style or _NOTHING)) for part, style, _ in text.render(console)]
        if start > at:
            found.append(Segment(words[at:start], base))
        if end > start:
            found.append(Segment(words[start:end], base + console.get_style(style, default=_NOTHING)))
        at = end
    if at < len(words):
        own = base + console.get_style(text.style, default=_NOTHING)
        found.append(Segment(words[at:], own))
    return found


def fit(text: Text, width: int) -> Text:
    """``text`` cut or padded to ``width`` cells."""
    if text.cell_len > width:
        text = text.copy()
        text.truncate(width, overflow="ellipsis")
    missing = width - text.cell_len
    if missing > 0:
        text = text.copy()
        text.append(" " * missing)
    return text


def crop(words: str, width: int) -> str:
    """A string of at most ``width`` characters."""
    return words if len(words) <= width else words[: max(0, width - 1)] + "…"


def panel(title: str, body: Sequence[Text], width: int, height: int, *, right: str = "") -> Lines:
    """A box of exactly ``width`` by ``height``, with a title and perhaps words at its right."""
    inner = width - 4
    title = crop(title, width - 6)
    room = width - 6 - len(title)
    right = right if len(right) + 3 <= room else ""
    tail = f" {right} ─╮" if right else "─╮"
    head = line(("╭─ ", BORDER), (title, ACCENT), " ")
    head.append("─" * (width - 4 - len(title) - len(tail)), BORDER)
    head.append(tail, BORDER if not right else DIM)
    lines = [head]
    for index in range(height - 2):
        content = fit(body[index], inner) if index < len(body) else Text(" " * inner, end="")
        lines.append(Text.assemble(("│ ", BORDER), content, (" │", BORDER), no_wrap=True, end=""))
    # A piece with a style, not a text with one: rich leaves out the style of a text that has no pieces.
    lines.append(line(("╰" + "─" * (width - 2) + "╯", BORDER)))
    return lines


def rule(title: str, width: int, *, right: str = "") -> Text:
    """A title with a line to the right of it."""
    right = f" {right}" if right else ""
    title = crop(title, max(0, width - len(right) - 4))
    return line((title, ACCENT), " ", ("─" * max(0, width - len(title) - 1 - len(right)), BORDER), (right, DIM))


def beside(*blocks: Lines) -> Lines:
    """Blocks of the same height next to each other; each must have lines of one width."""
    return [Text.assemble(*parts, no_wrap=True, end="") for parts in zip(*blocks, strict=True)]


def bar(fraction: float, width: int, style: str) -> Text:
    """A horizontal bar, exact to an eighth of a cell."""
    eighths = round(max(0.0, min(1.0, fraction)) * width * 8)
    full, rest = divmod(eighths, 8)
    text = Text("█" * full + (_EIGHTHS[rest] if rest else ""), style, end="")
    text.append("░" * (width - text.cell_len), BORDER)
    return text


def spark(values: Sequence[float], width: int, style: str) -> Text:
    """The last ``width`` values as small columns; the highest of them is full."""
    shown = list(values[-width:])
    top = max(shown, default=0.0)
    marks = "".join(_SPARKS[max(1, round(value / top * 8))] if top and value else "▁" for value in shown)
    return Text(" " * (width - len(marks)) + marks, style, end="")


def heat(fraction: float) -> tuple[str, str]:
    """One cell of a heat between 0 and 1: denser and warmer, so that it is read without colours too."""
    if fraction <= 0:
        return "·", _HEAT[0]
    return "░░▒▒▓▓█"[min(6, int(fraction * 7))], _HEAT[1 + min(6, int(fraction * 7))]


@dataclass(frozen=True, slots=True)
class Column:
    """A table's column: ``width`` cells, 0 for what is left; ``right`` aligns numbers."""

    title: str
    width: int
    right: bool = False
    style: str = PLAIN


def window(count: int, cursor: int, height: int) -> range:
    """Which of ``count`` rows to show in ``height`` lines so that ``cursor`` is among them."""
    first = max(0, min(cursor - height // 2, count - height))
    return range(first, min(count, first + height))


def table(
    columns: Sequence[Column],
    count: int,
    row: Callable[[int], Sequence[Cell]],
    *,
    width: int,
    height: int,
    cursor: int | None = None,
    empty: str = "none",
) -> Lines:
    """A head and the rows around the cursor, ``height`` lines in all. Only rows that show are made."""
    free = width - sum(column.width + 1 for column in columns)
    sized = [(column, column.width or max(1, free)) for column in columns]
    lines = [fit(_cells([(column.title, DIM) for column in columns], sized), width)]
    if not count:
        lines.append(fit(line((empty, DIM)), width))
    shown = window(count, cursor if cursor is not None else 0, height - 1)
    for index in shown:
        made = fit(_cells(row(index), sized), width)
        if index == cursor:
            made.stylize(SELECTED)
        lines.append(made)
    return pad(lines, width, height)


def _cells(cells: Sequence[Cell], sized: Sequence[tuple[Column, int]]) -> Text:
    pieces = []
    for cell, (column, width) in zip(cells, sized, strict=True):
        words, style = (cell, column.style) if isinstance(cell, str) else cell
        words = crop(words, width)
        pieces.append(((words.rjust(width) if column.right else words.ljust(width)) + " ", style))
    return runs(pieces)


def pad(lines: Lines, width: int, height: int) -> Lines:
    """Exactly ``height`` lines: cut, or empty ones added."""
    return [*lines[:height], *(Text(" " * width, end="") for _ in range(height - len(lines)))]


def wrap_pairs(pairs: Iterable[tuple[str, str]], width: int, *, indent: int = 0) -> Lines:
    """``name value`` pairs in as many lines as they need."""
    lines: Lines = []
    current, used = line(" " * indent), indent
    for name, value in pairs:
        size = len(name) + len(value) + 3
        if used + size > width + 2 and used > indent:
            lines.append(current)
            current, used = line(" " * indent), indent
        current.append(f"{name} ", DIM)
        current.append(f"{value}  ", PLAIN)
        used += size
    return [*lines, current] if used > indent else lines


def plain(lines: Iterable[Text]) -> str:
    """The words alone, without blanks at the ends of lines."""
    return "\n".join(text.plain.rstrip() for text in lines) + "\n"
