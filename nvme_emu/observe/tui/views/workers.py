"""Workers: what each kthread runs, what waits on its lists, and who waits for whom."""

from __future__ import annotations

from rich.text import Text

from kworker.inspect import TaskSnapshot, WorkerSnapshot, WorkSnapshot
from nvme_emu.observe.tui import words
from nvme_emu.observe.tui.frame import Frame
from nvme_emu.observe.tui.ink import (
    ACCENT,
    BAD,
    BRIGHT,
    DIM,
    GOOD,
    PLAIN,
    VIOLET,
    WARN,
    Cell,
    Column,
    Lines,
    fit,
    line,
    pad,
    rule,
    table,
)
from nvme_emu.observe.tui.ui import Ui, View, selected

__all__ = ["WORKERS"]

_STATES = {"running": GOOD, "idle": DIM, "frozen": VIOLET, "parked": VIOLET, "stopped": BAD, "no thread": BAD}

_COLUMNS = (
    Column("worker", 10, False, ACCENT),
    Column("pid", 6, True, DIM),
    Column("state", 8),
    Column("current_work", 0, False, BRIGHT),
    Column("for", 7, True),
    Column("list", 4, True, WARN),
    Column("delay", 5, True, WARN),
    Column("runs", 6, True),
    Column("busy", 7, True, BRIGHT),
)


def _words(worker: WorkerSnapshot) -> str:
    works = [*([worker.current] if worker.current else []), *worker.queued]
    names = " ".join([*(work.name for work in works), *(work.name for work in worker.delayed)])
    return f"{worker.name} {worker.state} {names} {' '.join(worker.waiters)}"


def _items(frame: Frame, ui: Ui) -> list[WorkerSnapshot]:
    return selected(frame.workers, _words, ui)


def _draw(frame: Frame, ui: Ui, width: int, height: int) -> Lines:
    items = _items(frame, ui)
    if not frame.workers:
        return pad([*_none(frame), *_waits(frame, ui, width)], width, height)
    cursor = min(ui.cursor, max(0, len(items) - 1))
    lines = [
        rule(f"workers: {len(items)}", width, right="list, delay: works on work_list, delayed_work_list"),
        *table(
            _COLUMNS,
            len(items),
            lambda index: _row(items[index]),
            width=width,
            height=min(len(items) + 1, max(3, height // 3)),
            cursor=cursor,
        ),
    ]
    if items:
        lines += _lists(items[cursor], width, max(2, height // 4))
    lines += _waits(frame, ui, width)
    return pad([fit(text, width) for text in lines], width, height)


def _none(frame: Frame) -> Lines:
    why = "a synchronous driver needs none: its callers do the work" if frame.driver is not None else (
        "the driver of this device is not in this process"
    )  # fmt: skip
    return [line(("no workers: ", DIM), why)]


def _row(worker: WorkerSnapshot) -> list[Cell]:
    current = worker.current
    return [
        worker.name,
        "-" if worker.pid is None else str(worker.pid),
        (worker.state, _STATES.get(worker.state, PLAIN)),
        _work_words(current) if current is not None else ("-", DIM),
        words.duration(worker.running_ns) if current is not None else "-",
        str(len(worker.queued)),
        str(len(worker.delayed)),
        words.rate(worker.runs),
        words.duration(worker.busy_ns),
    ]


def _work_words(work: WorkSnapshot) -> str:
    barrier = f" (barrier: {work.waiter} waits)" if work.waiter is not None else ""
    return f"{work.name}{barrier}" + (f" canceling={work.canceling}" if work.canceling else "")


def _lists(worker: WorkerSnapshot, width: int, height: int) -> Lines:
    """The lists of the selected worker, side by side in words."""
    lines = [rule(f"{worker.name}: its works", width, right=_accounts(worker))]
    entries: list[Text] = []
    for place, work in enumerate(worker.queued, 1):
        entries.append(line((f"{place:>3}. ", DIM), (_work_words(work), BRIGHT)))
    for delayed in worker.delayed:
        canceling = f"  canceling={delayed.canceling}" if delayed.canceling else ""
        entries.append(
            line(("  ⏱  ", WARN), (delayed.name, BRIGHT), (f"  in {words.duration(delayed.left_ns)}{canceling}", WARN))
        )
    if not entries:
        entries = [line(("both are empty", DIM))]
    if len(entries) > height:
        entries = [*entries[: height - 1], line((f"     … and {len(entries) - height + 1} more", DIM))]
    return lines + entries


def _accounts(worker: WorkerSnapshot) -> str:
    failed = f" · {worker.failures} failed" if worker.failures else ""
    return (
        f"CPU {words.duration(worker.cpu_ns)} · blocked {words.duration(worker.blocked_ns)} · "
        f"{worker.nvcsw} switches{failed}"
    )


# --- who waits for whom -------------------------------------------------------------------------------------


def _waits(frame: Frame, ui: Ui, width: int) -> Lines:
    tasks = selected(frame.tasks, lambda task: f"{task.name} {task.state} {task.waits_for}", ui)
    if not tasks:
        return []
    return [rule("who waits for whom", width), *(_wait(task) for task in tasks)]


def _wait(task: TaskSnapshot) -> Text:
    if not task.waits_for:
        return line((f"{task.name:<15} ", ACCENT), (task.state, GOOD))
    arrow = (" ⟶ ", WARN) if task.provider is not None else ("   ", DIM)
    idle = task.waits_for.startswith("works")
    told = line(
        (f"{task.name:<15}", DIM if idle else ACCENT), arrow, (f"{task.provider or '':<15} ", BRIGHT)
    )
    return told.append(task.waits_for, DIM if idle else PLAIN)


def _rows(frame: Frame, ui: Ui) -> list[str]:
    return [_words(worker) for worker in _items(frame, ui)]


def _detail(frame: Frame, ui: Ui, width: int) -> Lines:
    items = _items(frame, ui)
    if not items:
        return _none(frame)
    worker = items[min(ui.cursor, len(items) - 1)]
    current = "-" if worker.current is None else _work_words(worker.current)
    facts = (
        ("state", worker.state),
        ("pid", "-" if worker.pid is None else str(worker.pid)),
        ("current_work", current),
        ("running for", words.duration(worker.running_ns)),
        ("waited for by", ", ".join(worker.waiters) or "nobody"),
        ("runs", f"{worker.runs}, {worker.failures} of them failed"),
        ("busy", words.duration(worker.busy_ns)),
        ("CPU", words.duration(worker.cpu_ns)),
        ("blocked", f"{words.duration(worker.blocked_ns)}, {worker.nvcsw} voluntary switches"),
    )
    lines = [line((worker.name, ACCENT)), Text("")]
    lines += [line((f"{name:<14}", DIM), (value, BRIGHT)) for name, value in facts]
    return [*lines, Text(""), *_lists(worker, width, 10_000)]


WORKERS = View(name="workers", draw=_draw, rows=_rows, detail=_detail)
