"""The pages of the inspector. Each is a pure function of a frame, of where the reader is, and of a size."""

from __future__ import annotations

from nvme_emu.observe.tui.ui import View
from nvme_emu.observe.tui.views.commands import COMMANDS
from nvme_emu.observe.tui.views.events import EVENTS
from nvme_emu.observe.tui.views.faults import FAULTS
from nvme_emu.observe.tui.views.findings import FINDINGS
from nvme_emu.observe.tui.views.latency import LATENCY
from nvme_emu.observe.tui.views.media import MEDIA
from nvme_emu.observe.tui.views.overview import OVERVIEW
from nvme_emu.observe.tui.views.queues import QUEUES
from nvme_emu.observe.tui.views.workers import WORKERS

__all__ = ["VIEWS"]

VIEWS: tuple[View, ...] = (OVERVIEW, QUEUES, COMMANDS, WORKERS, MEDIA, LATENCY, EVENTS, FAULTS, FINDINGS)
"""In the order of their keys, 1 to 9."""
