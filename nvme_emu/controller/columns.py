"""The column gait (being written)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nvme_emu.controller.controller import Controller
    from nvme_emu.controller.pcie.rings import SubmissionQueue

__all__ = ["COLUMNS_MIN", "run_columns"]

COLUMNS_MIN = 24


def run_columns(ctrl: Controller, sq: SubmissionQueue, count: int) -> int:
    """Nothing yet."""
    return 0
