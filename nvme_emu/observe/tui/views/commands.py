"""Commands: those under way with age and stage, the slowest, the failed."""

from __future__ import annotations

from rich.text import Text

from nvme_emu.observe.state import CommandState, SampleState
from nvme_emu.observe.tui import words
from nvme_emu.observe.tui.frame import Frame
from nvme_emu.observe.tui.ink import (
    ACCENT,
    BAD,
    BORDER,
    BRIGHT,
    DIM,
    GOOD,
    READ,
    VIOLET,
    WARN,
    WRITE,
    Cell,
    Column,
    Lines,
    line,
    pad,
    rule,
    table,
)
from nvme_emu.observe.tui.ui import Ui, View, selected, words_of

__all__ = ["COMMANDS"]

STAGES = ("listed", "prepared", "submitted", "executing", "completed")
"""In a command's order; "parked" is an Asynchronous Event Request, which waits on purpose."""
_STYLES = {
    "listed": DIM,
    "prepared": VIOLET,
    "submitted": WARN,
    "executing": READ,
    "completed": GOOD,
    "parked": DIM,
}

_UNDER_WAY = (
    Column("qid", 3, True, DIM),
    Column("cid", 4, True, BRIGHT),
    Column("request", 7, True, DIM),
    Column("command", 12),
    Column("blocks", 13),
    Column("age", 7, True, BRIGHT),
    Column("due in", 7, True),
    Column("stage", 0),
)
_ENDED = (
    Column("qid", 3, True, DIM),
    Column("cid", 4, True),
    Column("request", 7, True, DIM),
    Column("command", 12),
    Column("blocks", 13),
    Column("took", 7, True, BRIGHT),
    Column("status", 0),
)


def _name_style(name: str) -> str:
    return {"Read": READ, "Write": WRITE}.get(name, ACCENT)


def _blocks(slba: int, nlb: int) -> str:
    return f"{slba}+{nlb}" if nlb else "-"


def _items(frame: Frame, ui: Ui) -> list[CommandState]:
    """The furthest along first, then the oldest; what is parked on purpose comes last."""
    order = {stage: place for place, stage in enumerate(reversed(STAGES))}
    found = selected(frame.commands, words_of, ui)
    return sorted(found, key=lambda one: (order.get(one.stage, 9), -(one.age_ns or 0)))


def _draw(frame: Frame, ui: Ui, width: int, height: int) -> Lines:
    items = _items(frame, ui)
    lower = max(4, height // 3)
    upper = height - lower - 3
    failed = selected(frame.stats.failed, words_of, ui)
    slowest = selected(frame.stats.slowest, words_of, ui)
    lines = [
        rule(f"under way: {len(items)}", width, right=_staged(items)),
        *table(
            _UNDER_WAY,
            len(items),
            lambda index: _row(items[index]),
            width=width,
            height=upper,
            cursor=min(ui.cursor, max(0, len(items) - 1)),
            empty="no command is under way",
        ),
    ]
    half = (lower + 2) // 2
    lines += [rule(f"slowest{_sampled(frame)}", width), *_ended(slowest, width, half - 1 + (lower + 2) % 2)]
    lines += [rule(f"failed: {len(failed)}", width), *_ended(failed, width, half - 1)]
    return pad(lines, width, height)


def _sampled(frame: Frame) -> str:
    return f" of the {words.share(frame.cost.sampled)} looked at" if frame.cost.sampled < 0.995 else ""


def _staged(items: list[CommandState]) -> str:
    found = [(stage, sum(one.stage == stage for one in items)) for stage in (*STAGES, "parked")]
    return " · ".join(f"{count} {stage}" for stage, count in found if count)


def _row(one: CommandState) -> list[Cell]:
    return [
        str(one.qid),
        "-" if one.cid is None else f"{one.cid:04x}",
        "-" if one.request is None else str(one.request),
        (one.name, _name_style(one.name)),
        _blocks(one.slba, one.nlb),
        words.duration(one.age_ns),
        words.duration(one.due_ns) if one.due_ns is not None else "-",
        (_progress(one.stage), _STYLES.get(one.stage, DIM)),
    ]


def _progress(stage: str) -> str:
    if stage not in STAGES:
        return stage
    done = STAGES.index(stage) + 1
    return f"{'●' * done}{'○' * (len(STAGES) - done)} {stage}"


def _ended(samples: list[SampleState], width: int, height: int) -> Lines:
    return table(
        _ENDED, len(samples), lambda index: _ended_row(samples[index]), width=width, height=height, empty="none"
    )


def _ended_row(one: SampleState) -> list[Cell]:
    return [
        str(one.qid),
        f"{one.cid:04x}",
        "-" if one.request is None else str(one.request),
        (one.name, _name_style(one.name)),
        _blocks(one.slba, one.nlb),
        words.duration(one.latency_ns),
        (one.words, BAD if one.status else DIM),
    ]


def _rows(frame: Frame, ui: Ui) -> list[str]:
    return [words_of(one) for one in _items(frame, ui)]


def _detail(frame: Frame, ui: Ui, width: int) -> Lines:
    items = _items(frame, ui)
    if not items:
        return [line(("no command is under way", DIM))]
    one = items[min(ui.cursor, len(items) - 1)]
    facts = (
        ("command", f"{one.name} (opcode {one.opcode:02x}h)"),
        ("queue", f"SQ{one.qid}"),
        ("identifier", "none yet" if one.cid is None else f"{one.cid:#06x}"),
        ("request", "-" if one.request is None else f"{one.request}, the driver's serial number"),
        ("namespace", str(one.nsid)),
        ("blocks", f"{one.slba} to {one.slba + one.nlb - 1}" if one.nlb else "none"),
        ("age", words.duration(one.age_ns)),
        ("ends in", words.duration(one.due_ns)),
    )
    lines = [line((f"{name:<12}", DIM), (value, BRIGHT)) for name, value in facts]
    path = Text("", end="")
    for stage in STAGES:
        here = stage == one.stage
        path.append(f" {stage} ", f"reverse {_STYLES[stage]}" if here else DIM)
        path.append("" if stage == STAGES[-1] else " ▸ ", BORDER)
    lines += [Text(""), path if one.stage in STAGES else line((f"{one.stage}: it waits for an event", DIM))]
    samples = [*frame.stats.failed, *frame.stats.slowest]
    if samples:
        lines += [Text(""), rule("failed and slowest", width), *_ended(samples, width, len(samples) + 1)]
    return lines


COMMANDS = View(name="commands", draw=_draw, rows=_rows, detail=_detail)
