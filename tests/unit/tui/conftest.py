"""The fixtures of this folder; a module called conftest cannot be imported from, there is one in each folder."""

from __future__ import annotations

from tuihelpers import source, workload

__all__ = ["source", "workload"]
