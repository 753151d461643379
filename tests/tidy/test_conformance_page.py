"""docs/conformance.md is what tools/make_conformance.py writes, and nothing is claimed without a test."""

from __future__ import annotations

import re

import make_conformance
import pytest
from conformance_lib.reasons import FABRICS_ONLY, NOT_OFFERED, PCI_ONLY

UNPROVED = {"Fabrics", "**DOORBELLS** Doorbells", "Discovery"}
"""What tests reach without naming it: the Fabrics opcode is under every connection, doorbells under every command, and
tests/unit/tcp/test_tcp_discovery.py asks for its log by number."""


def test_page_is_not_stale() -> None:
    assert make_conformance.PAGE.read_text(encoding="utf-8") == make_conformance.page(), (
        "run python tools/make_conformance.py"
    )


def test_everything_done_has_a_test() -> None:
    rows = re.findall(r"^\| (\S+) \| (.*?) \| .*? \| (done[^|]*) \| (.*?) ?\|$", make_conformance.page(), re.M)

    assert len(rows) > 90
    assert {what for _, what, _, tests in rows if not tests} <= UNPROVED


def test_reasons_are_of_things_that_exist_and_are_not_done() -> None:
    known = {
        f"{type(member).__name__}.{member.name}"
        for kind in (
            make_conformance.AdminOpcode,
            make_conformance.NvmOpcode,
            make_conformance.Fid,
            make_conformance.Lid,
            make_conformance.Cns,
            make_conformance.Reg,
        )
        for member in kind
    }

    assert set(NOT_OFFERED) | FABRICS_ONLY | PCI_ONLY <= known
    assert not set(NOT_OFFERED) & (FABRICS_ONLY | PCI_ONLY)


def test_what_is_neither_done_nor_explained_is_an_error() -> None:
    with pytest.raises(make_conformance.Missing, match="does not say why"):
        make_conformance.state_of("Fid.NOBODY_KNOWS", False)
