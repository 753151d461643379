"""Trace: the newest events, or those around the instant that a replay shows."""

from __future__ import annotations

from rich.text import Text

from nvme_emu.observe.tui import words
from nvme_emu.observe.tui.frame import EventState, Frame
from nvme_emu.observe.tui.ink import (
    ACCENT,
    BAD,
    BRIGHT,
    DIM,
    GOOD,
    PLAIN,
    READ,
    VIOLET,
    WARN,
    Cell,
    Column,
    Lines,
    line,
    rule,
    table,
)
from nvme_emu.observe.tui.ui import Ui, View, selected

__all__ = ["EVENTS", "event_style"]

_STYLES = {
    "nvme_queue_rq": VIOLET,
    "nvme_setup_cmd": VIOLET,
    "nvme_sq": WARN,
    "doorbell": WARN,
    "fetch_cmd": READ,
    "post_cqe": GOOD,
    "raise_irq": GOOD,
    "nvme_complete_rq": GOOD,
    "nvme_wake_rq": GOOD,
    "fault_fired": BAD,
    "kworker": DIM,
}

_COLUMNS = (
    Column("number", 7, True, DIM),
    Column("time in s", 15, True, BRIGHT),
    Column("+ ns", 8, True, DIM),
    Column("event", 11),
    Column("q", 2, True, DIM),
    Column("what", 0),
)


def event_style(name: str) -> str:
    """An event's colour: host violet and amber, device blue, the way back green."""
    return _STYLES.get(name, ACCENT)


def _words(event: EventState) -> str:
    return f"{event.name} q{event.qid} cid {event.cid} request {event.request} {event.words}"


def _items(frame: Frame, ui: Ui) -> list[EventState]:
    """The newest first: the instant that is shown stands on top."""
    return selected(reversed(frame.events), _words, ui)


def _draw(frame: Frame, ui: Ui, width: int, height: int) -> Lines:
    items = _items(frame, ui)

    def row(index: int) -> list[Cell]:
        event = items[index]
        before = items[index + 1] if index + 1 < len(items) else None
        since = "" if before is None else f"{event.ts_ns - before.ts_ns:+,}".replace(",", " ")
        return [
            str(event.number),
            words.clock(event.ts_ns)[:-2],
            since,
            (event.name.removeprefix("nvme_"), event_style(event.name)),
            "" if event.qid is None else str(event.qid),
            (event.words, DIM if event.name == "kworker" else PLAIN),
        ]

    title = f"trace: the newest {len(items)} events"
    return [
        rule(title, width, right="+ ns: since the event below"),
        *table(
            _COLUMNS,
            len(items),
            row,
            width=width,
            height=height - 1,
            cursor=min(ui.cursor, max(0, len(items) - 1)),
            empty="no event yet",
        ),
    ]


def _rows(frame: Frame, ui: Ui) -> list[str]:
    return [_words(event) for event in _items(frame, ui)]


def _detail(frame: Frame, ui: Ui, width: int) -> Lines:
    """The event, and all others of its request or command."""
    items = _items(frame, ui)
    if not items:
        return [line(("no event yet", DIM))]
    event = items[min(ui.cursor, len(items) - 1)]
    lines = [
        line((event.name, event_style(event.name)), "  ", (words.clock(event.ts_ns), BRIGHT)),
        line((event.words, PLAIN)),
        Text(""),
    ]
    story = [other for other in frame.events if _same(event, other)]
    if len(story) > 1:
        lines.append(rule("the same command", width))
        first = story[0].ts_ns
        for other in story:
            lines.append(
                line(
                    (f"{other.ts_ns - first:>+12,} ns  ".replace(",", " "), BRIGHT if other is event else DIM),
                    (f"{other.name:<18}", event_style(other.name)),
                    other.words,
                )
            )
    return lines


def _same(one: EventState, other: EventState) -> bool:
    if one.request is not None and one.request == other.request:
        return True
    return one.cid is not None and (one.qid, one.cid) == (other.qid, other.cid)


EVENTS = View(name="trace", draw=_draw, rows=_rows, detail=_detail)
