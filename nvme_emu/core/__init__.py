"""What every room shares: errors, host memory, data segments, trace events, and the ports between rooms."""

from __future__ import annotations

__all__ = ["errors", "histogram", "memory", "ports", "segments", "trace", "units"]
