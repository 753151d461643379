"""For all tests: a property test's example has no deadline of its own, since machines are shared and noisy.

Property tests draw the same examples in each run, so that a change fails by what it changed; new examples come from
`pytest -m hypothesis --hypothesis-profile=random` and from tools/fuzz.py (docs/testing.md).

With NVME_EMU_CHECK=error in the environment every machine of a test is under the checker (docs/checker.md), and our
driver has to be clean. A test that means to break a rule says so with the marker `breaks_rules`.
"""

from __future__ import annotations

import pytest
from hypothesis import settings

settings.register_profile("random", deadline=None)
settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "breaks_rules: does what the checker reports, on purpose or by a fault rule")


@pytest.fixture(autouse=True)
def _unchecked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.node.get_closest_marker("breaks_rules") is not None:
        monkeypatch.setenv("NVME_EMU_CHECK", "off")
