"""The raw host of the controller's tests, and the one of NVMe/TCP's, are the bases of this directory's."""

from __future__ import annotations

import sys
from pathlib import Path

for neighbour in ("controller", "tcp"):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / neighbour))
