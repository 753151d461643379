"""For all tests: a property test's example has no deadline of its own, since machines are shared and noisy."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")
