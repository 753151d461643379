"""What a checker found the host doing wrong, with rule and clause. The view exists where a checker does."""

from __future__ import annotations

from collections.abc import Sequence

from nvme_emu.observe.tui import words
from nvme_emu.observe.tui.frame import FindingState, Frame
from nvme_emu.observe.tui.ink import (
    ACCENT,
    BAD,
    BRIGHT,
    DIM,
    GOOD,
    WARN,
    Cell,
    Column,
    Lines,
    line,
    pad,
    rule,
    table,
)
from nvme_emu.observe.tui.ui import Ui, View, selected, words_of

__all__ = ["FINDINGS"]

def _columns(items: Sequence[FindingState], width: int) -> tuple[Column, ...]:
    """Rules have long names: where there is room they are told whole."""
    longest = max((len(one.rule) for one in items), default=0)
    return (
        Column("severity", 8),
        Column("rule", max(20, min(longest, width // 3)), False, ACCENT),
        Column("times", 6, True, BRIGHT),
        Column("what", 0),
    )


def _items(frame: Frame, ui: Ui) -> list[FindingState]:
    return selected(frame.findings or (), words_of, ui)


def _draw(frame: Frame, ui: Ui, width: int, height: int) -> Lines:
    items = _items(frame, ui)
    if not frame.findings:
        clean = line(("✓ ", GOOD), "the checker watches, and has found nothing")
        return pad([rule("checker", width), clean], width, height)
    return [
        rule(f"checker: {len(items)} finding{'s' * (len(items) != 1)}", width),
        *table(
            _columns(items, width),
            len(items),
            lambda index: _row(items[index]),
            width=width,
            height=height - 1,
            cursor=min(ui.cursor, max(0, len(items) - 1)),
        ),
    ]


def _row(one: FindingState) -> list[Cell]:
    return [(one.severity, BAD if one.severity == "error" else WARN), one.rule, str(one.count), one.words]


def _rows(frame: Frame, ui: Ui) -> list[str]:
    return [words_of(one) for one in _items(frame, ui)]


def _detail(frame: Frame, ui: Ui, width: int) -> Lines:
    items = _items(frame, ui)
    if not items:
        return [line(("nothing was found", DIM))]
    one = items[min(ui.cursor, len(items) - 1)]
    facts = (
        ("rule", one.rule),
        ("clause", one.clause),
        ("severity", one.severity),
        ("times", str(one.count)),
        ("last", words.clock(one.ts_ns)),
        ("what", one.words),
    )
    return [line((f"{name:<10}", DIM), (value, BRIGHT)) for name, value in facts]


FINDINGS = View(
    name="checker", draw=_draw, rows=_rows, detail=_detail, exists=lambda frame: frame.findings is not None
)
