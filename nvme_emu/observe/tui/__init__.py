"""The inspector: what `nvme-emu top` shows, and how it is watched, drawn and steered.

    frame ── what is shown at one instant, frozen
    views ── pages, pure functions of a frame;  screen ── the whole terminal;  ink, words ── how they draw
    gate, history ── stop and slow a simulation, keep what passed
    live, attached, replay ── where frames come from
    app ── the Textual application, the only module that imports textual
"""

from __future__ import annotations

from nvme_emu.observe.tui.frame import Frame
from nvme_emu.observe.tui.screen import screen
from nvme_emu.observe.tui.ui import Ui

__all__ = ["Frame", "Ui", "screen"]
