"""Guests with a real Linux; where none can be had the tests are skipped, with the reason."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

from linux_guest_lib.cache import Unavailable
from linux_guest_lib.images import find_images
from linux_guest_lib.qemu import find_qemu


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "linux: needs QEMU and a guest built from Debian packages")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.linux)
            # The first one builds the guest; emulation is slow where others use the machine too.
            item.add_marker(pytest.mark.timeout(600))


@pytest.fixture(scope="session")
def buildable() -> None:
    """QEMU and the guest's images, built the first time; skips where that is not possible."""
    try:
        find_qemu()
        find_images()
    except Unavailable as reason:
        pytest.skip(f"no Linux guest here: {reason}")
