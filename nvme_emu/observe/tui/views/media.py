"""Namespaces, and a map of each medium: where the reads and the writes went."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from nvme_emu.observe.state import NamespaceState
from nvme_emu.observe.tui import words
from nvme_emu.observe.tui.frame import Frame, MapState
from nvme_emu.observe.tui.ink import (
    ACCENT,
    BRIGHT,
    DIM,
    READ,
    WRITE,
    Cell,
    Column,
    Lines,
    bar,
    fit,
    heat,
    line,
    pad,
    rule,
    runs,
    table,
)
from nvme_emu.observe.tui.ui import Ui, View, selected

__all__ = ["MEDIA"]

_COLUMNS = (
    Column("nsid", 4, True, ACCENT),
    Column("size", 9, True, BRIGHT),
    Column("blocks", 12, True),
    Column("block", 6, True, DIM),
    Column("medium", 12),
    Column("holds", 9, True),
    Column("nguid", 0, False, DIM),
)
LABEL = 11


def _words(one: NamespaceState) -> str:
    return f"namespace {one.nsid} {one.media} {one.nguid} {one.uuid}"


def _items(frame: Frame, ui: Ui) -> list[NamespaceState]:
    return selected(frame.namespaces, _words, ui)


def _draw(frame: Frame, ui: Ui, width: int, height: int) -> Lines:
    items = _items(frame, ui)
    cursor = min(ui.cursor, max(0, len(items) - 1))
    lines = [
        rule(f"namespaces: {len(items)}", width),
        *table(
            _COLUMNS,
            len(items),
            lambda index: _row(items[index]),
            width=width,
            height=max(2, min(len(items) + 1, height // 3)),
            cursor=cursor,
            empty="a trace tells nothing of the namespaces",
        ),
    ]
    one = items[cursor] if items else None
    nsids = [one.nsid] if one is not None else [found.nsid for found in frame.maps[:1]]
    for found in frame.maps:
        if found.nsid in nsids:
            lines += _map(found, one, frame, width, height - len(lines))
    return pad([fit(text, width) for text in lines], width, height)


def _row(one: NamespaceState) -> list[Cell]:
    return [
        str(one.nsid),
        words.amount(one.nbytes),
        words.count(one.nsze),
        f"{one.lba_size} B",
        one.media.removesuffix("Media").lower() + ("" if one.volatile else ", durable"),
        words.amount(one.allocated_bytes),
        one.nguid,
    ]


def _map(found: MapState, one: NamespaceState | None, frame: Frame, width: int, height: int) -> Lines:
    """Two maps under each other. All parts of one map have one scale: the part used most is brightest."""
    reads, writes = sum(found.reads), sum(found.writes)
    cells_wide = (width - LABEL) // 8 * 8
    rows = max(1, min((height - 4) // 2, -(-len(found.reads) // cells_wide) * 4))
    sampled = "" if frame.cost.sampled >= 0.995 else f", {words.share(frame.cost.sampled)} looked at"
    lines = [rule(f"map of namespace {found.nsid}", width, right=f"{reads} reads, {writes} writes{sampled}")]
    nbytes = one.nbytes if one is not None else None
    lines += _heat("reads", READ, found.reads, rows, cells_wide, nbytes)
    lines += _heat("writes", WRITE, found.writes, rows, cells_wide, nbytes)
    if one is not None:
        part = one.allocated_bytes / max(1, one.nbytes)
        lines.append(
            line((f"{'allocated':<{LABEL}}", DIM))
            .append_text(bar(part, cells_wide // 2, ACCENT))
            .append(f" {words.amount(one.allocated_bytes)} of {words.amount(one.nbytes)}", BRIGHT)
        )
    scale = line((" " * LABEL, DIM), ("never ", DIM))
    for step in range(8):
        scale.append(*heat(step / 7))
    return [*lines, scale.append(" most", DIM)]


def _heat(name: str, style: str, counts: Sequence[int], rows: int, wide: int, nbytes: int | None) -> Lines:
    merged = spread(counts, rows * wide)
    top = max(merged, default=0)
    lines: Lines = []
    for row in range(rows):
        label = Text(f"{name:<{LABEL}}" if not row else " " * LABEL, style, end="")
        if row and nbytes is not None:
            label = Text(f"{words.amount(nbytes * row // rows):>{LABEL - 2}}  ", DIM, end="")
        counted = merged[row * wide : (row + 1) * wide]
        lines.append(line().append_text(label).append_text(runs(heat(count / top if top else 0) for count in counted)))
    return lines


def spread(counts: Sequence[int], cells: int) -> list[int]:
    """The counts over so many cells: merged where there are fewer, repeated where there are more."""
    n = len(counts)
    if n <= cells:
        return [counts[cell * n // cells] for cell in range(cells)]
    return [sum(counts[cell * n // cells : (cell + 1) * n // cells]) for cell in range(cells)]


def _detail(frame: Frame, ui: Ui, width: int) -> Lines:
    items = _items(frame, ui)
    if not items:
        return [line(("a trace tells nothing of the namespaces", DIM))]
    one = items[min(ui.cursor, len(items) - 1)]
    facts = (
        ("namespace", str(one.nsid)),
        ("size", f"{one.nsze} blocks of {one.lba_size} bytes: {words.amount(one.nbytes)}"),
        ("medium", f"{one.media}, {'gone after close' if one.volatile else 'durable'}"),
        ("holds", f"{words.amount(one.allocated_bytes)} ({one.allocated_bytes} bytes)"),
        ("NGUID", one.nguid),
        ("EUI64", one.eui64),
        ("UUID", one.uuid),
    )
    lines = [line((f"{name:<12}", DIM), (value, BRIGHT)) for name, value in facts]
    for found in frame.maps:
        if found.nsid == one.nsid:
            lines += [Text(""), *_map(found, one, frame, width, 40)]
    return lines


def _rows(frame: Frame, ui: Ui) -> list[str]:
    return [_words(one) for one in _items(frame, ui)]


MEDIA = View(name="media", draw=_draw, rows=_rows, detail=_detail)
