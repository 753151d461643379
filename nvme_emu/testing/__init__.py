"""What ships with the product to test drivers with it: fault rules in Python (`fault`)."""

from __future__ import annotations

from nvme_emu.testing import faults as fault

__all__ = ["fault"]
