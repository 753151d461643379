"""How plots look: colours by role, axes, and the way from a figure to inline SVG or a sheet for papers.

Charts for a page carry colour *roles*: each role is drawn in a colour of its own that occurs nowhere else, and is
replaced in the SVG by a CSS variable, so that the page can show it light or dark.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["ROLES", "Colour", "dress", "inline_svg", "log_axis", "sheet", "short"]

# role: (light, dark). The hues are Okabe and Ito's, which colour-blind readers can tell apart.
ROLES: dict[str, tuple[str, str]] = {
    "ink": ("#1f2430", "#e6e8ee"),
    "faint": ("#6b7280", "#9aa3b2"),
    "grid": ("#d9dde5", "#343b49"),
    "sync-1": ("#5b6270", "#b4bccb"),
    "sync-n": ("#c97a00", "#f0a63a"),
    "pump": ("#0b7a5c", "#35c79b"),
    "per-request": ("#0069b4", "#5fb4f0"),
    "inline": ("#8a3fa0", "#c68ad8"),
    "poll": ("#7a6a00", "#c9b83f"),
    "worker_list": ("#b0518a", "#dd86bb"),
    "submission": ("#3d9bd6", "#6dbdf0"),
    "device": ("#3c4a63", "#74839f"),
    "completion": ("#d9a400", "#f0c94a"),
    "wakeup": ("#c8501a", "#f0824e"),
}
# A colour for each role that no other drawing uses: matplotlib writes it as #0102xx.
_STAND_IN = {role: f"#0102{index + 16:02x}" for index, role in enumerate(ROLES)}

Colour = Callable[[str], str]
"""The colour of a role, as matplotlib takes it."""
Drawing = Callable[[Figure, Colour], None]


def _settings(fonttype: str, salt: str) -> Any:
    """The settings of a figure; ``salt`` makes the ids in an SVG the same each time."""
    return {
        "svg.hashsalt": salt,
        "font.size": 9,
        "font.family": "sans-serif",
        "svg.fonttype": fonttype,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }


def dress(axes: Axes, colour: Colour, title: str, ylabel: str = "") -> None:
    """Title, colours and grid of an axes."""
    axes.set_title(title, loc="left", fontsize=10, color=colour("ink"), fontweight="bold")
    axes.set_ylabel(ylabel, color=colour("faint"))
    axes.xaxis.label.set_color(colour("faint"))
    axes.tick_params(colors=colour("faint"), which="both")
    for spine in axes.spines.values():
        spine.set_color(colour("grid"))
    axes.grid(True, color=colour("grid"), linewidth=0.6)
    axes.set_axisbelow(True)


def log_axis(axes: Axes, words: Callable[[float], str], which: str = "y") -> None:
    """A logarithmic axis that has names also where it spans less than a power of ten."""
    axis = axes.yaxis if which == "y" else axes.xaxis
    (axes.set_yscale if which == "y" else axes.set_xscale)("log")
    low, high = axes.get_ylim() if which == "y" else axes.get_xlim()
    # Names stand side by side on an x axis: fewer fit.
    few = which == "x" and high > 30 * low
    axis.set_major_locator(LogLocator(base=10, subs=(1.0,) if few else (1.0, 2.0, 5.0)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _position: words(value)))


def short(text: str) -> str:
    """``10.0k`` as ``10k`` and ``3.50k`` as ``3.5k``, for an axis."""
    return re.sub(r"\.(\d*?)0+(?=\D|$)", lambda found: f".{found[1]}" if found[1] else "", text)


def inline_svg(name: str, inches: tuple[float, float], draw: Drawing, *, layout: str = "constrained") -> str:
    """A drawing as an ``<svg>`` element whose colours are CSS variables ``--ROLE``; nothing is loaded by it.

    Text stays text, in the page's font. Ids begin with ``name``, so that several fit in one page.
    """
    prefix = re.sub(r"\W", "-", name)
    with mpl.rc_context(_settings("none", prefix)):
        figure = Figure(figsize=inches, layout=layout)  # type: ignore[arg-type]
        figure.patch.set_alpha(0)
        draw(figure, _STAND_IN.__getitem__)
        buffer = io.StringIO()
        figure.savefig(
            buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # Namespaces are implied in HTML; without them the page has not one address in it.
    text = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", text)
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.S)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r'(href="#|url\(#)', rf"\1{prefix}-", text)
    # A hundredth of a point is less than anybody sees, and half of the page would be digits.
    text = re.sub(r'(?<= d=")[^"]*', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), text)
    for role, stand_in in _STAND_IN.items():
        text = text.replace(stand_in, f"var(--{role})")
    return text.strip()


def sheet(kind: str, inches: tuple[float, float], draw: Drawing) -> bytes:
    """A drawing on white, as "png" (200 dots an inch) or "svg", for papers."""
    with mpl.rc_context(_settings("path", "sheet")):
        figure = Figure(figsize=inches, layout="constrained")
        draw(figure, lambda role: ROLES[role][0])
        buffer = io.BytesIO()
        metadata = {"Date": None} if kind == "svg" else {"Software": None}
        figure.savefig(buffer, format=kind, dpi=200, facecolor="white", metadata=metadata)
    return buffer.getvalue()
