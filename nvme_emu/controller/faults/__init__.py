"""Faults of the one controller: rules of `nvme_emu.core.faults`, carried out. See docs/faults.md."""

from __future__ import annotations

from nvme_emu.controller.faults.cache import VolatileCache
from nvme_emu.controller.faults.trigger import RuleState, Stream
from nvme_emu.controller.faults.unit import FaultUnit

__all__ = ["FaultUnit", "RuleState", "Stream", "VolatileCache"]
