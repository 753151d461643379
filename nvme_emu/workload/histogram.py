"""The histogram under the name by which jobs and reports know it; it lives in core, where observers use it too."""

from __future__ import annotations

from nvme_emu.core.histogram import (
    BIN_VALUES,
    BINS,
    DEFAULT_PERCENTILES,
    FLUSH_COUNT,
    Histogram,
    bin_of,
    bin_value,
)

__all__ = ["BINS", "BIN_VALUES", "DEFAULT_PERCENTILES", "FLUSH_COUNT", "Histogram", "bin_of", "bin_value"]
