"""Conformance cases run over every transport."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from nvmehost import TRANSPORTS, NvmeHost, connected


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
