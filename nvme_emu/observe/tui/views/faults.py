"""Fault rules: which are armed, how often they were hit and fired. ``a`` arms and disarms."""

from __future__ import annotations

from collections.abc import Sequence

from nvme_emu.observe.tui.frame import FaultState, Frame
from nvme_emu.observe.tui.ink import ACCENT, BAD, BRIGHT, DIM, Cell, Column, Lines, line, pad, rule, table
from nvme_emu.observe.tui.ui import Ui, View, selected, words_of

__all__ = ["FAULTS", "selected_fault"]

def _columns(items: Sequence[FaultState], width: int) -> tuple[Column, ...]:
    """What a rule does and when share what its name and counters leave."""
    longest = max((len(one.effects) for one in items), default=0)
    return (
        Column("", 2, True),
        Column("rule", 16 if width >= 100 else 12, False, ACCENT),
        Column("hits", 8 if width >= 100 else 5, True),
        Column("fired", 8 if width >= 100 else 5, True, BRIGHT),
        Column("does", max(18, min(longest, (width - 30) // 2)), False, BAD),
        Column("when", 0, False, DIM),
    )


def _items(frame: Frame, ui: Ui) -> list[FaultState]:
    return selected(frame.faults or (), words_of, ui)


def selected_fault(frame: Frame, ui: Ui) -> FaultState | None:
    """The rule that the cursor is on."""
    items = _items(frame, ui)
    return items[min(ui.cursor, len(items) - 1)] if items else None


def _draw(frame: Frame, ui: Ui, width: int, height: int) -> Lines:
    items = _items(frame, ui)
    if not frame.faults:
        why = line(("no fault rules", BRIGHT), (": this device does what it should", DIM))
        return pad([rule("faults", width), why], width, height)
    armed = sum(one.armed for one in items)
    barred = frame.play.barred.get("faults")
    title = f"faults: {len(items)} rule{'s' * (len(items) != 1)}, {armed} armed"
    return [
        rule(title, width, right=barred or "a: arm or disarm"),
        *table(
            _columns(items, width),
            len(items),
            lambda index: _row(items[index]),
            width=width,
            height=height - 1,
            cursor=min(ui.cursor, max(0, len(items) - 1)),
        ),
    ]


def _row(one: FaultState) -> list[Cell]:
    mark: Cell = ("●", BAD) if one.armed else ("○", DIM)
    return [mark, one.rule, str(one.hits), str(one.fired), one.effects, one.match]


def _rows(frame: Frame, ui: Ui) -> list[str]:
    return [words_of(one) for one in _items(frame, ui)]


def _detail(frame: Frame, ui: Ui, width: int) -> Lines:
    one = selected_fault(frame, ui)
    if one is None:
        return [line(("no fault rules", DIM))]
    facts = (
        ("rule", one.rule),
        ("armed", "yes" if one.armed else "no"),
        ("match", one.match),
        ("effects", one.effects),
        ("hits", str(one.hits)),
        ("fired", str(one.fired)),
    )
    return [line((f"{name:<10}", DIM), (value, BRIGHT)) for name, value in facts]


FAULTS = View(name="faults", draw=_draw, rows=_rows, detail=_detail)
