"""How outcomes are shown: a table for people, a dictionary for programs."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from bench.measure import Outcome, Verdict, judge

__all__ = ["as_json", "disturbed", "figure", "footnotes", "machine_facts", "table"]

DISTURBED_SHARE = 0.9

_SHORT = {
    "fio_psync_qd1": "fio psync",
    "fio_mmap_qd1": "fio mmap",
    "fio_uring_qd1": "fio io_uring QD1",
    "fio_uring_qd32": "fio io_uring QD32",
    "fio_psync_seq_read": "fio psync",
    "fio_psync_seq_write": "fio psync",
    "memcpy_gather_4k": "memcpy gather",
    "memcpy_seq_read": "memcpy",
    "memcpy_seq_write": "memcpy",
    "start_numpy": "import numpy",
    "sync_qd1": "sync QD1",
}


def figure(value: float | None, unit: str) -> str:
    """A figure with three digits and its unit: "383 k/s", "14.8 GB/s", "122 ms", "21.3 MB"."""
    if value is None:
        return "-"
    if unit == "s":
        return f"{_digits(value * 1e3)} ms" if value >= 1e-3 else f"{_digits(value * 1e6)} µs"
    for size, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{_digits(value / size)} {prefix}{'/s' if unit == 'IOPS' else unit}"
    return f"{_digits(value)} {'/s' if unit == 'IOPS' else unit}"


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _ratio_text(verdict: Verdict, unit: str) -> str:
    if verdict.ratio is None:
        return "" if verdict.reference is None else f"no {_SHORT.get(verdict.reference, verdict.reference)}"
    if verdict.reference is None:
        return figure(verdict.ratio, unit)
    return f"{verdict.ratio:.2f} x {_SHORT.get(verdict.reference, verdict.reference)}"


def _wanted_text(verdict: Verdict, outcome: Outcome) -> str:
    if verdict.wanted is None:
        return ""
    sign = "≤" if outcome.row.less_is_better else "≥"
    wanted = f"{verdict.wanted:g} x" if verdict.reference is not None else figure(verdict.wanted, outcome.row.unit)
    return f"{sign} {wanted}"


def table(outcomes: Sequence[Outcome]) -> Table:
    """One line a row, and one more for each further reference that it is set against."""
    by_name = {outcome.row.name: outcome for outcome in outcomes}
    shown = Table(title=None, show_edge=False, pad_edge=False)
    shown.add_column("what", overflow="fold")
    shown.add_column("figure", justify="right", no_wrap=True)
    shown.add_column("against", no_wrap=True)
    shown.add_column("target", no_wrap=True)
    shown.add_column("", no_wrap=True)
    group = ""
    for outcome in outcomes:
        row = outcome.row
        if row.group != group:
            if group:
                shown.add_section()
            group = row.group
            shown.add_row(f"[bold]{group}[/bold]")
        if outcome.failed or outcome.unavailable:
            mark = "[red]failed[/red]" if outcome.failed else "[dim]-[/dim]"
            shown.add_row(f"{row.what} [dim]({row.name})[/dim]", mark, outcome.note, "", "")
            continue
        verdicts = judge(outcome, by_name) or [Verdict(None, None, None, None)]
        for index, verdict in enumerate(verdicts):
            mark = {True: "[green]ok[/green]", False: "[red]below[/red]", None: ""}[verdict.ok]
            if verdict.ok is False and row.less_is_better:
                mark = "[red]above[/red]"
            absolute = verdict.reference is None
            if verdict.ok is not None and (disturbed(outcome) or disturbed(by_name.get(verdict.reference or ""))):
                mark += " ?"
            shown.add_row(
                row.what if not index else "",
                figure(outcome.value, row.unit) if not index else "",
                "" if absolute else _ratio_text(verdict, row.unit),
                _wanted_text(verdict, outcome),
                mark,
            )
    return shown


def footnotes(outcomes: Sequence[Outcome]) -> list[str]:
    """What follows from the figures: the price of the hand-off, and rows that did not have their core."""
    values = {outcome.row.name: outcome.value for outcome in outcomes}
    notes = []
    sync = values.get("sync_qd1")
    for name, where in (("async_qd1", "on one core"), ("async_qd1_across", "across cores")):
        rate = values.get(name)
        if sync and rate:
            extra = 1 / rate - 1 / sync
            notes.append(
                f"hand-off to the worker and back at QD1, {where}: {figure(extra, 's')} "
                f"({figure(1 / rate, 's')} an I/O instead of {figure(1 / sync, 's')})"
            )
    busy = [f"{outcome.row.name} {outcome.cpu_share:.0%}" for outcome in outcomes if disturbed(outcome)]
    if busy:
        notes.append(
            f"the machine was busy: verdicts with a ? rest on rows that had only part of their core: {', '.join(busy)}"
        )
    return notes


def disturbed(outcome: Outcome | None) -> bool:
    """Whether others took so much of the core that the figure says little."""
    if outcome is None or outcome.cpu_share is None:
        return False
    # Some wait for another thread or for the kernel by design, and have less than a core without any noise.
    waits = outcome.row.name.startswith(("async_qd", "fio_uring", "fio_libaio"))
    return outcome.cpu_share < DISTURBED_SHARE and not waits


def machine_facts(core: int | None) -> dict[str, Any]:
    """What the figures depend on besides the program."""
    import numpy

    from nvme_emu._core import COMPILED

    cpu = next(
        (
            line.split(":", 1)[1].strip()
            for line in _read("/proc/cpuinfo").splitlines()
            if line.startswith("model name")
        ),
        platform.processor() or "unknown",
    )
    huge = _read("/sys/kernel/mm/transparent_hugepage/enabled")
    return {
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "cpu": cpu,
        "cpus": os.cpu_count(),
        "pinned_to": core,
        "load": round(os.getloadavg()[0], 2),
        "kernel": platform.release(),
        "huge_pages": huge[huge.find("[") + 1 : huge.find("]")] if "[" in huge else "unknown",
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "core": "compiled" if COMPILED else "pure Python",
    }


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""


def as_json(
    outcomes: Sequence[Outcome], facts: dict[str, Any], notes: Sequence[str], sweeps: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Everything that was measured. Figures are in the unit that each row names."""
    by_name = {outcome.row.name: outcome for outcome in outcomes}
    return {
        "version": 1,
        "machine": facts,
        "rows": [
            {
                "name": outcome.row.name,
                "group": outcome.row.group,
                "what": outcome.row.what,
                "unit": outcome.row.unit,
                "value": outcome.value,
                "samples": [sample.value for sample in outcome.samples],
                "cpu_share": outcome.cpu_share,
                "against": [
                    {"reference": v.reference, "ratio": v.ratio, "target": v.wanted, "ok": v.ok}
                    for v in judge(outcome, by_name)
                ],
                "state": "failed" if outcome.failed else "unavailable" if outcome.unavailable else "measured",
                "note": outcome.note,
            }
            for outcome in outcomes
        ],
        "notes": [*notes, *footnotes(outcomes)],
        "sweeps": list(sweeps),
    }
