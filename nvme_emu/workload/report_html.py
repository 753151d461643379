"""A comparison as one page: plots as inline SVG, tables, verdict. It loads nothing and needs no script."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nvme_emu.core.units import format_bytes
from nvme_emu.observe.stages import STAGES
from nvme_emu.workload.compare_assumptions import ASSUMPTIONS
from nvme_emu.workload.compare_rows import Row
from nvme_emu.workload.compare_verdict import Verdict, duration, rate
from nvme_emu.workload.report_plots import CHARTS, ROLES, chart_svg
from nvme_emu.workload.report_terminal import SERIES_WORDS, STAGE_WORDS, devices, mb_s, series_of, us, who

if TYPE_CHECKING:
    from nvme_emu.workload.compare import Comparison

__all__ = ["html_page"]

_STYLE = """
:root { color-scheme: light dark; LIGHT }
@media (prefers-color-scheme: dark) { :root { DARK } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1.2rem 1rem 4rem; max-width: 84rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif }
h1 { font-size: 1.6rem; line-height: 1.2; margin: .4rem 0 .2rem }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem }
p, ul { margin: .4rem 0 } ul { padding-left: 1.2rem }
.sub, small { color: var(--faint) } small { font-size: .85rem }
.cards { display: grid; gap: .9rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)) }
.card, figure { background: var(--card); border: 1px solid var(--grid); border-radius: .6rem; padding: .8rem 1rem }
.card h3 { margin: 0 0 .3rem; font-size: 1rem } .card li { margin: .15rem 0 }
.charts { display: grid; gap: .9rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)) }
figure { margin: 0; padding: .5rem } figure svg { display: block; width: 100%; height: auto }
figure svg text { font-family: inherit }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; margin: .5rem 0; font-size: .9rem }
.legend i { display: inline-block; width: 1.1em; height: .7em; border-radius: 2px; margin-right: .35em }
.scroll { overflow-x: auto; border: 1px solid var(--grid); border-radius: .6rem; background: var(--card) }
table { border-collapse: collapse; width: 100%; font-size: .88rem; font-variant-numeric: tabular-nums }
th, td { padding: .28rem .6rem; text-align: right; white-space: nowrap }
th { color: var(--faint); font-weight: 600; border-bottom: 1px solid var(--grid); text-align: right }
th.l, td.l { text-align: left } td.w { white-space: normal; text-align: left; min-width: 14rem }
tr.first td { border-top: 1px solid var(--grid) } tr.best td { color: var(--pump); font-weight: 650 }
details summary { cursor: pointer; margin: .6rem 0 }
"""


def html_page(comparison: Comparison) -> str:
    """The whole page. Text from outside (names of profiles) is escaped."""
    groups = devices(comparison.rows)
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>Sync against async · nvme-emu</title><style>{_style()}</style></head><body>",
        "<h1>Sync against async</h1>",
        f'<p class="sub">{_esc(_under_what(comparison))}</p>',
        _verdicts(comparison.verdict),
        *(_device(rows) for rows in groups),
        _assumptions(comparison),
        "</body></html>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _esc(text: object) -> str:
    return html.escape(str(text))


def _style() -> str:
    extra = {"paper": ("#f6f7f9", "#12151c"), "card": ("#ffffff", "#1a1f2a")}
    light, dark = (
        " ".join(f"--{role}: {pair[index]};" for role, pair in {**ROLES, **extra}.items()) for index in (0, 1)
    )
    return _STYLE.replace("LIGHT", light).replace("DARK", dark)


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
    roles = {"sync 1": "sync-1", "sync N": "sync-n", "pump": "pump", "per-request": "per-request"}
    legend = _legend([(roles[key], words) for key, words in SERIES_WORDS.items() if key in seen])
    stages = _legend([(stage, STAGE_WORDS[stage]) for stage in STAGES])
    figures = "".join(
        f'<figure role="img" aria-label="{_esc(title)}: {name}">{chart_svg(name, rows)}</figure>'
        for name in CHARTS
    )
    return f'<h2>{_esc(title)}</h2>{legend}{stages}<div class="charts">{figures}</div>{_table(rows)}'


def _legend(entries: Sequence[tuple[str, str]]) -> str:
    return (
        '<div class="legend">'
        + "".join(
            f'<span><i style="background:var(--{role})"></i>{_esc(words)}</span>' for role, words in entries
        )
        + "</div>"
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
