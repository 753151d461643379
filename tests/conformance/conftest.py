"""Conformance cases run over every transport."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from nvmehost import TRANSPORTS, NvmeHost, connected


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A host by hand sends what is to be refused: where all tests are under the checker, it stands aside here."""
    for item in items:
        fixtures, module = getattr(item, "fixturenames", ()), getattr(item, "module", None)
        by_hand = {"host", "host2"} & set(fixtures) or hasattr(module, "connected") or hasattr(module, "NvmeHost")
        if item.path.parent == Path(__file__).parent and by_hand:
            item.add_marker(pytest.mark.breaks_rules)


@pytest.fixture(params=TRANSPORTS)
def host(request: pytest.FixtureRequest) -> Iterator[NvmeHost]:
    """One namespace of 1 MiB behind each transport."""
    with connected(request.param) as one:
        yield one


@pytest.fixture(params=TRANSPORTS)
def host2(request: pytest.FixtureRequest) -> Iterator[NvmeHost]:
    """Two namespaces."""
    with connected(request.param, namespaces=2) as one:
        yield one
