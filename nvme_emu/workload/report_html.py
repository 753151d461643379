"""A comparison as one page: plots as inline SVG, tables, verdict. It loads nothing and needs no script."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nvme_emu.core.units import format_bytes
from nvme_emu.observe.stages import STAGES
from nvme_emu.workload.compare_assumptions import ASSUMPTIONS
from nvme_emu.workload.compare_rows import Row
from nvme_emu.workload.compare_verdict import Verdict, duration, rate
from nvme_emu.workload.report_page import escape as _esc
from nvme_emu.workload.report_page import figure, legend, page, timelines
from nvme_emu.workload.report_plots import chart_svg, charts_of, courses_of
from nvme_emu.workload.report_terminal import SERIES_WORDS, STAGE_WORDS, devices, mb_s, series_of, us, who

if TYPE_CHECKING:
    from nvme_emu.workload.compare import Comparison

__all__ = ["html_page"]

def html_page(comparison: Comparison) -> str:
    """The whole page. Text from outside (names of profiles) is escaped."""
    groups = devices(comparison.rows)
    return page(
        "Sync against async",
        _under_what(comparison),
        [_verdicts(comparison.verdict), *(_device(rows) for rows in groups), _assumptions(comparison)],
    )


def _under_what(comparison: Comparison) -> str:
    if comparison.clock == "virtual":
        origin = comparison.assumptions["origin"]
        return (
            f"Virtual clock, {comparison.assumptions['cpus']} CPUs, seed {comparison.seed}; host costs: {origin}. "
            "The same configuration and seed give the same figures on every machine."
        )
    return "Wall clock: the speed of this program on the machine that it ran on, Python included."


def _verdicts(verdicts: Sequence[Verdict]) -> str:
    if not verdicts:
        return ""
    cards = []
    for verdict in verdicts:
        reasons = "".join(f"<li>{_esc(reason)}</li>" for reason in verdict.reasons)
        cards.append(f'<div class="card"><h3>{_esc(verdict.headline)}</h3><ul>{reasons}</ul></div>')
    return f'<h2>Verdict</h2><div class="cards">{"".join(cards)}</div>'


def _device(rows: Sequence[Row]) -> str:
    first = rows[0]
    title = f"{first.profile}, {format_bytes(first.bs)} {first.rw}"
    seen = {series_of(row) for row in rows}
    roles = {"sync 1": "sync-1", "sync N": "sync-n"}
    series = legend([(roles.get(key, key), words) for key, words in SERIES_WORDS.items() if key in seen])
    stages = legend([(stage, STAGE_WORDS[stage]) for stage in STAGES])
    figures = "".join(figure(f"{title}: {name}", chart_svg(name, rows)) for name in charts_of(rows))
    timed = timelines(f"{first.profile}-{first.bs}", title, courses_of(rows))
    return (
        f'<h2>{_esc(title)}</h2>{series}{stages}<div class="charts">{figures}</div>'
        f"{timed}{_table(rows)}"
    )


def _table(rows: Sequence[Row]) -> str:
    heads = ["QD", "who", "IOPS", "MB/s", "mean µs", "p50", "p99", "p99.9", "max", "call µs", "blocked",
             "CPU µs/IO", "switches/IO", "doorbells/IO", "interrupts/IO"]  # fmt: skip
    heads += [f"{STAGE_WORDS[stage]} µs" for stage in STAGES]
    lines = []
    before = None
    for row in rows:
        rivals = [other.iops for other in rows if other.iodepth == row.iodepth]
        classes = ["first"] if row.iodepth != before else []
        classes += ["best"] if row.iops == max(rivals) else []
        cells = [str(row.iodepth), who(row), rate(row.iops), mb_s(row.bw_bytes)]
        cells += [us(row.lat_ns[name]) for name in ("mean", "p50", "p99", "p99_9", "max")]
        cells += [us(row.call_ns), f"{row.caller_blocked * 100:.0f} %", us(row.cpu_ns_per_io)]
        cells += [f"{value:.2f}" for value in (row.context_switches, row.doorbells, row.interrupts)]
        cells += [us(row.stages_ns[stage]) for stage in STAGES]
        lines.append(f'<tr class="{" ".join(classes)}">{_cells("td", cells)}</tr>')
        before = row.iodepth
    head = f"<thead><tr>{_cells('th', heads)}</tr></thead>"
    return (
        f"<details><summary>All figures ({rows[0].ios} I/Os a row)</summary>"
        f'<div class="scroll"><table>{head}<tbody>{"".join(lines)}</tbody></table></div></details>'
    )


def _cells(tag: str, texts: Sequence[str]) -> str:
    return "".join(
        f"<{tag}{' class=l' if place == 1 else ''}>{_esc(text)}</{tag}>" for place, text in enumerate(texts)
    )


def _assumptions(comparison: Comparison) -> str:
    assumptions: Any = comparison.assumptions
    lines = []
    if comparison.clock == "virtual":
        for one in ASSUMPTIONS:
            value = assumptions[one.key]
            shown = duration(value) if one.key.endswith("_ns") else str(value)
            lines.append(
                f"<tr><td>{_esc(shown)}</td><td class=w>{_esc(one.meaning)} <small>{one.key}</small></td>"
                f"<td class=w><small>{_esc(assumptions['sources'][one.key])}</small></td></tr>"
            )
        host = f'<div class="scroll"><table><tbody>{"".join(lines)}</tbody></table></div>'
    else:
        host = f"<p>{_esc(assumptions['origin'])}.</p>"
    devices_said = []
    for name, fields in assumptions["profiles"].items():
        inner = "".join(
            f"<tr><td class=l>{_esc(key)}</td><td>{_esc(_value(value))}</td></tr>"
            for key, value in fields.items()
        )
        devices_said.append(
            f'<details><summary>Device {_esc(name)}</summary><div class="scroll"><table>{inner}</table></div></details>'
        )
    return f"<h2>What it rests on</h2>{host}<p>Queues: {_esc(assumptions['queues'])}.</p>{''.join(devices_said)}"


def _value(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(str(item) for item in value)
    return str(value)
