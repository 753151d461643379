"""Queues: each ring with its pointers, its newest slots coloured by state, and one entry decoded.

A submission slot shows the first letter of its command, a completion slot its Phase Tag. ``H`` stands under
the slot at the head, ``T`` under the one at the tail, where the next entry goes.
"""

from __future__ import annotations

from rich.text import Text

from nvme_emu.observe.state import CqState, EntryState, SqState
from nvme_emu.observe.tui.decoded import decoded_lines, hex_lines
from nvme_emu.observe.tui.frame import Frame
from nvme_emu.observe.tui.ink import (
    ACCENT,
    BAD,
    BORDER,
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
    fit,
    line,
    pad,
    rule,
    runs,
    table,
)
from nvme_emu.observe.tui.ui import Ui, View, selected
from nvme_emu.spec.decode import decode_cqe, decode_sqe
from nvme_emu.spec.errors import LayoutError

__all__ = ["QUEUES", "STATE_STYLES", "selected_ring", "slots_wanted"]

Ring = SqState | CqState

STATE_STYLES = {
    "prepared": VIOLET,
    "waiting": WARN,
    "inflight": READ,
    "new": GOOD,
    "old": DIM,
    "empty": BORDER,
}
LABEL = 7
"""Cells before a row of slots: the first slot's index."""
TABLE_MAX = 7
"""Lines of the table of queues at 24 lines of terminal; more where there is room."""

_COLUMNS = (
    Column("ring", 5),
    Column("size", 5, True, DIM),
    Column("used", 14),
    Column("head", 5, True, BRIGHT),
    Column("tail", 5, True, BRIGHT),
    Column("host", 5, True),
    Column("phase", 5, True),
    Column("doorbell", 8, True, ACCENT),
    Column("shadow", 0, False, DIM),
)


def _rings(frame: Frame) -> list[Ring]:
    """Submission and completion queue of each identifier in turn, the admin queues last."""
    found: list[Ring] = [*frame.sqs, *frame.cqs]
    return sorted(found, key=lambda ring: (ring.qid == 0, ring.qid, isinstance(ring, CqState)))


def _name(ring: Ring) -> str:
    return f"{'CQ' if isinstance(ring, CqState) else 'SQ'}{ring.qid}"


def _used(ring: Ring) -> int:
    """Slots that hold something the other side has not taken."""
    return ring.posted if isinstance(ring, CqState) else ring.waiting


def selected_ring(frame: Frame, ui: Ui) -> Ring | None:
    """The ring that the cursor of this view is on."""
    rings = selected(_rings(frame), _words, ui)
    return rings[min(ui.cursor, len(rings) - 1)] if rings else None


def slots_wanted(width: int, height: int) -> int:
    """How many of a ring's newest slots the view shows at this size."""
    return _per_row(width) * _slot_rows(height)


def _per_row(width: int) -> int:
    return max(32, (width - LABEL - 1) // 32 * 32)


def _slot_rows(height: int) -> int:
    return 2 if height < 30 else 3


def _words(ring: Ring) -> str:
    return f"{_name(ring)} size {ring.size} {'completion' if isinstance(ring, CqState) else 'submission'}"


def _rows(frame: Frame, ui: Ui) -> list[str]:
    return [_words(ring) for ring in selected(_rings(frame), _words, ui)]


def _draw(frame: Frame, ui: Ui, width: int, height: int) -> Lines:
    rings = selected(_rings(frame), _words, ui)
    ring = selected_ring(frame, ui)
    table_height = max(3, min(len(rings) + 1, TABLE_MAX - 1 if height < 30 else 12))
    lines = [
        rule("queues", width, right="used: between head and tail"),
        *table(
            _COLUMNS,
            len(rings),
            lambda index: _row(rings[index]),
            width=width,
            height=table_height,
            cursor=min(ui.cursor, max(0, len(rings) - 1)),
            empty="no queue",
        ),
    ]
    if ring is not None:
        lines += _ring_lines(ring, ui, width, height)
        lines += _entry_lines(ring, ui, width, _told_by_trace(frame))
    return pad([fit(text, width) for text in lines], width, height)


def _row(ring: Ring) -> list[Cell]:
    completion = isinstance(ring, CqState)
    used, capacity = _used(ring), max(1, ring.size - 1)
    filled = round(used / capacity * 8)
    gauge = "▮" * max(filled, 1 if used else 0)
    if isinstance(ring, CqState):
        host, phase, doorbell, shadow = ring.host_head, str(ring.phase), ring.head, ring.shadow_head
    else:
        host, phase, doorbell, shadow = ring.host_tail, "-", ring.tail, ring.shadow_tail
    told = "not configured" if shadow is None else f"{shadow}, event index {ring.event_index}"
    return [
        (_name(ring), GOOD if completion else READ),
        str(ring.size) if ring.size else "?",
        (f"{used:>4} {gauge}", WARN if used else DIM),
        str(ring.head),
        str(ring.tail),
        "-" if host is None else str(host),
        phase,
        str(doorbell),
        told,
    ]


# --- the ring -----------------------------------------------------------------------------------------------


def _ring_lines(ring: Ring, ui: Ui, width: int, height: int) -> Lines:
    title = f"{_name(ring)} · {_told(ring)}"
    return [
        rule(title, width, right=_where(ring)),
        _whole(ring, width),
        *_slots(ring, ui, width, _slot_rows(height)),
        _legend(ring, width),
    ]


def _told(ring: Ring) -> str:
    if isinstance(ring, CqState):
        words = f"{ring.posted} posted, {ring.reserved} reserved, {ring.free} free"
        return words + (f", {ring.backlog} wait for a slot" if ring.backlog else "")
    return f"{ring.waiting} waiting, {ring.inflight} in flight → CQ{ring.cqid}"


def _where(ring: Ring) -> str:
    if isinstance(ring, CqState):
        return f"at {ring.base:#x}, vector {ring.vector}" if ring.base else f"vector {ring.vector}"
    return f"at {ring.base:#x}" if ring.base else ""


def _whole(ring: Ring, width: int) -> Text:
    """The whole ring on one line: where the pointers are, and what lies between them."""
    cells = width - LABEL - 1
    size = max(1, ring.size)
    used, first = _used(ring), ring.head
    marks = [("·", BORDER)] * cells
    style = GOOD if isinstance(ring, CqState) else WARN
    for index in range(used):
        marks[(first + index) % size * cells // size] = ("━", style)
    if isinstance(ring, SqState) and ring.host_tail is not None:
        for index in range((ring.host_tail - ring.tail) % size):
            marks[(ring.tail + index) % size * cells // size] = ("━", VIOLET)
    head, tail = ring.head % size * cells // size, ring.tail % size * cells // size
    marks[tail] = ("T", BRIGHT)
    marks[head] = ("=", BRIGHT) if head == tail else ("H", ACCENT)
    return line((f"{'ring':<{LABEL}}", DIM)).append_text(runs(marks))


def _slots(ring: Ring, ui: Ui, width: int, rows: int) -> Lines:
    per_row = _per_row(width)
    entries = ring.entries[-per_row * rows :]
    chosen = _chosen(ring, ui)
    lines: Lines = []
    for start in range(0, len(entries), per_row):
        part = entries[start : start + per_row]
        text = line((f"{part[0].index:>{LABEL - 2}}  ", DIM))
        text.append_text(runs(_glyph(entry, entry is chosen) for entry in part))
        indices = [entry.index for entry in part]
        if start + per_row >= len(entries):
            text.append("▏", BORDER)
            indices.append((part[-1].index + 1) % max(1, ring.size))
        lines += [text, line(" " * LABEL).append_text(runs(_mark(index, ring) for index in indices))]
    return lines


def _mark(index: int, ring: Ring) -> tuple[str, str]:
    if index == ring.head:
        return ("=", BRIGHT) if ring.head == ring.tail else ("H", ACCENT)
    return ("T", BRIGHT) if index == ring.tail else (" ", DIM)


def _glyph(entry: EntryState, chosen: bool) -> tuple[str, str]:
    style, glyph = STATE_STYLES.get(entry.state, PLAIN), entry.words[:1] or "?"
    if entry.state == "empty":
        glyph = "·"
    elif entry.phase is not None:
        glyph, style = str(entry.phase), BAD if entry.status else style
    return glyph, f"reverse {style}" if chosen else style


def _legend(ring: Ring, width: int) -> Text:
    if isinstance(ring, CqState):
        told = (("phase of ", DIM), ("new", GOOD), (" old ", DIM), ("failed", BAD), (" completions", DIM))
    else:
        told = (
            ("", DIM),
            ("prepared", VIOLET),
            ("  waiting ", WARN),
            (" in flight", READ),
            ("  old", DIM),
        )
    legend = line((" " * LABEL, DIM), *told, ("   H head  T tail  = both", DIM))
    keys = "   ←→ choose, ⏎ open"
    return legend.append(keys, DIM) if legend.cell_len + len(keys) <= width else legend


# --- one entry ----------------------------------------------------------------------------------------------


def _chosen(ring: Ring, ui: Ui) -> EntryState | None:
    entries = ring.entries
    return entries[max(0, len(entries) - 1 - ui.slot)] if entries else None


def _told_by_trace(frame: Frame) -> str:
    """What the reader of a recording must know of an entry's bytes."""
    return "rebuilt from the trace, which has no PRPs and flags" if frame.play.total else ""


def _entry_lines(ring: Ring, ui: Ui, width: int, note: str) -> Lines:
    entry = _chosen(ring, ui)
    if entry is None:
        return [line(("no slot of this ring is known", DIM))]
    title = f"slot {entry.index} · {entry.state}"
    return [rule(title, width, right=note), *_decoded(ring, entry, width)]


def _decoded(ring: Ring, entry: EntryState, width: int) -> Lines:
    raw = bytes.fromhex(entry.raw)
    if entry.state == "empty" or not raw:
        return [line(("nothing was written here", DIM))]
    try:
        if isinstance(ring, CqState):
            node = decode_cqe(raw, admin=ring.qid == 0)
        else:
            node = decode_sqe(raw, ring.qid == 0)
    except LayoutError as error:
        return [line((str(error), BAD))]
    return decoded_lines(node, width)


def _detail(frame: Frame, ui: Ui, width: int) -> Lines:
    ring = selected_ring(frame, ui)
    entry = _chosen(ring, ui) if ring is not None else None
    if ring is None or entry is None:
        return [line(("no slot of this ring is known", DIM))]
    raw = bytes.fromhex(entry.raw)
    head = line(
        (f"{_name(ring)} slot {entry.index}", ACCENT),
        f" · {entry.state} · {len(raw)} bytes at ",
        (_at(ring, entry), BRIGHT),
    )
    note = _told_by_trace(frame)
    told = [line((note, WARN))] if note else []
    return [head, *told, Text(""), *hex_lines(raw, width), Text(""), *_decoded(ring, entry, width)]


def _at(ring: Ring, entry: EntryState) -> str:
    size = 16 if isinstance(ring, CqState) else 64
    return f"{ring.base + entry.index * size:#x}" if ring.base else "an address that the trace does not tell"


QUEUES = View(name="queues", draw=_draw, rows=_rows, detail=_detail)
