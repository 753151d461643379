"""The fixtures of this folder; a module called conftest cannot be imported from, there is one in each folder."""

from __future__ import annotations

from tcphelpers import serve
from tcprpc import served

__all__ = ["serve", "served"]
