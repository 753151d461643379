"""Fault rules as they are shown: the tables of `Faults.snapshot` or of ``faults.list`` in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from nvme_emu.observe.tui.frame import FaultState

__all__ = ["fault_states"]


def fault_states(rules: Iterable[Mapping[str, Any]]) -> tuple[FaultState, ...]:
    """The rules with their counters."""
    return tuple(
        FaultState(
            rule=str(rule.get("id", "")),
            armed=bool(rule.get("armed", True)),
            match=_told({**rule.get("match", {}), **rule.get("when", {})}),
            effects=", ".join(_effect(kind, value) for kind, value in rule.get("then", {}).items()),
            hits=int(rule.get("hits", 0)),
            fired=int(rule.get("fired", 0)),
        )
        for rule in rules
    )


def _effect(kind: str, value: Any) -> str:
    told = _told(value) if isinstance(value, Mapping) else str(value)
    return f"{kind} ({told})" if told else kind


def _told(table: Mapping[str, Any]) -> str:
    return "  ".join(f"{key}={value}" for key, value in table.items())
