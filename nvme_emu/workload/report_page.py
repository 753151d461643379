"""One self-contained page: it loads nothing, needs no script, follows light and dark, and fits a phone."""

from __future__ import annotations

import html
from collections.abc import Sequence

from nvme_emu.workload.report_style import ROLES
from nvme_emu.workload.report_timeline import LEGEND, Course, course_svg, windows_of

__all__ = ["escape", "figure", "legend", "page", "timelines"]

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
h3 { margin: 1.4rem 0 .2rem; font-size: 1.05rem }
.card h3 { margin: 0 0 .3rem; font-size: 1rem } .card li { margin: .15rem 0 }
.charts { display: grid; gap: .9rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)) }
figure { margin: 0; padding: .5rem } figure svg { display: block; width: 100%; height: auto }
figure svg text { font-family: inherit }
.wide { display: none; margin: .6rem 0 } .narrow { margin: .6rem 0 } .narrow svg { max-width: 38rem }
@media (min-width: 56rem) { .wide { display: block } .narrow { display: none } }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; margin: .5rem 0; font-size: .9rem }
.legend i { display: inline-block; width: 1.1em; height: .7em; border-radius: 2px; margin-right: .35em }
.scroll { overflow-x: auto; border: 1px solid var(--grid); border-radius: .6rem; background: var(--card) }
@media (max-width: 40rem) {
  .scroll { background: linear-gradient(to left, var(--grid), var(--card) 1.2rem) }
  table { font-size: .82rem } th, td { padding: .28rem .4rem }
  tr td.w { display: block; min-width: 0 }
  th.l:first-child, td.l:first-child { position: sticky; left: 0; background: var(--card) }
}
table { border-collapse: collapse; width: 100%; font-size: .88rem; font-variant-numeric: tabular-nums }
th, td { padding: .28rem .6rem; text-align: right; white-space: nowrap }
th { color: var(--faint); font-weight: 600; border-bottom: 1px solid var(--grid); text-align: right }
th.l, td.l { text-align: left } td.w { white-space: normal; text-align: left; min-width: 14rem }
tr.first td { border-top: 1px solid var(--grid) } tr.best td { color: var(--pump); font-weight: 650 }
details summary { cursor: pointer; margin: .6rem 0 }
"""


def escape(text: object) -> str:
    """Text from anywhere as HTML."""
    return html.escape(str(text))


def page(title: str, under: str, parts: Sequence[str]) -> str:
    """The whole document; ``parts`` are HTML, empty ones are left out."""
    head = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)} · nvme-emu</title><style>{_style()}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        f'<p class="sub">{escape(under)}</p>',
    ]
    return "\n".join([*head, *(part for part in parts if part), "</body></html>"]) + "\n"


def _style() -> str:
    extra = {"paper": ("#f6f7f9", "#12151c"), "card": ("#ffffff", "#1a1f2a")}
    light, dark = (
        " ".join(f"--{role}: {pair[index]};" for role, pair in {**ROLES, **extra}.items()) for index in (0, 1)
    )
    return _STYLE.replace("LIGHT", light).replace("DARK", dark)


def figure(words: str, svg: str, kind: str = "") -> str:
    """A drawing with words for those who do not see it."""
    return f'<figure role="img"{f" class={kind}" if kind else ""} aria-label="{escape(words)}">{svg}</figure>'


def legend(entries: Sequence[tuple[str, str]]) -> str:
    """Roles of colours and what they stand for."""
    shown = "".join(f'<span><i style="background:var(--{role})"></i>{escape(words)}</span>' for role, words in entries)
    return f'<div class="legend">{shown}</div>'


def timelines(name: str, title: str, courses: Sequence[Course]) -> str:
    """The section of the timelines, each drawn for a phone and for a desktop; empty without courses."""
    if not courses:
        return ""
    shown = []
    for which, window_ns, words in windows_of(courses):
        for narrow, kind in ((True, "narrow"), (False, "wide")):
            drawn = course_svg(f"{name}-{which}-{kind}", courses, window_ns, words, narrow=narrow)
            shown.append(figure(f"{title}: {words}", drawn, kind))
    ways = [course.legend for course in courses]
    note = "The line follows the first I/O: from its caller to the device, and back to the caller."
    return f"<h3>Timeline</h3>{legend([*ways, *LEGEND])}<p><small>{note}</small></p>{''.join(shown)}"
