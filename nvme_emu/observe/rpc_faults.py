"""Fault rules over the socket: the methods ``faults.*`` of a machine that has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nvme_emu.core.trace import as_record
from nvme_emu.observe.rpc_core import NOT_AVAILABLE, RpcError
from nvme_emu.observe.watched import Watched

if TYPE_CHECKING:
    from nvme_emu.observe.faults import FaultControl, RuleControl

__all__ = ["FaultMethods"]


class FaultMethods:
    """See :class:`nvme_emu.observe.faults.Faults`. On the virtual clock rules can be looked at, not changed."""

    def __init__(self, watched: Watched, faults: FaultControl) -> None:
        self._watched = watched
        self._faults = faults

    def table(self) -> dict[str, Callable[..., Any]]:
        """Every method by name."""
        return {
            "faults.list": self.list_rules,
            "faults.firings": self.firings,
            "faults.add": self.add,
            "faults.load": self.load,
            "faults.arm": self.arm,
            "faults.disarm": self.disarm,
            "faults.fire": self.fire,
            "faults.remove": self.remove,
            "faults.clear": self.clear,
        }

    def list_rules(self) -> list[dict[str, Any]]:
        """Every fault rule as its file has it, with "armed", "hits" and "fired".

        Over NVMe/TCP these are sums over all hosts, and "hosts" has the counters of those that are there.
        """
        return self._faults.snapshot()

    def firings(self, id: str | None = None, count: int = 100) -> list[dict[str, Any]]:
        """The last count firings, oldest first. id: only of this rule."""
        if count < 1:
            raise ValueError(f"count={count}: at least 1")
        found = self._faults.firings if id is None else self._rule(id).firings
        return [as_record(event) for event in found[-count:]]

    def add(self, rule: dict[str, Any]) -> dict[str, Any]:
        """Add a fault rule behind those that are there; the rule with its id."""
        self._check_may_change()
        return self._told(self._faults.add(rule))

    def load(self, file: str) -> list[dict[str, Any]]:
        """Add the rules of a TOML or JSON file on this machine."""
        self._check_may_change()
        return [self._told(handle) for handle in self._faults.load(file)]

    def arm(self, id: str) -> dict[str, Any]:
        """Let a rule count and fire."""
        return self._do(id, lambda handle: handle.arm())

    def disarm(self, id: str) -> dict[str, Any]:
        """Let a rule neither count nor fire; its counters stay."""
        return self._do(id, lambda handle: handle.disarm())

    def fire(self, id: str) -> dict[str, Any]:
        """Let a rule's effects on the device happen now."""
        return self._do(id, lambda handle: handle.fire())

    def remove(self, id: str) -> dict[str, Any]:
        """Take a rule out for good; what it has begun goes on."""
        self._check_may_change()
        handle = self._rule(id)
        told = self._told(handle)
        handle.remove()
        return told

    def clear(self) -> list[dict[str, Any]]:
        """Take every rule out; they are told as they were."""
        self._check_may_change()
        told = self._faults.snapshot()
        self._faults.clear()
        return told

    def _check_may_change(self) -> None:
        if self._watched.virtual:
            raise RpcError(NOT_AVAILABLE, "this machine runs on the virtual clock: it can be looked at, not changed")

    def _rule(self, ident: str) -> RuleControl:
        try:
            return self._faults[ident]
        except KeyError:
            raise ValueError(f"there is no fault rule {ident!r}") from None

    def _do(self, ident: str, act: Callable[[RuleControl], None]) -> dict[str, Any]:
        self._check_may_change()
        handle = self._rule(ident)
        act(handle)
        return self._told(handle)

    def _told(self, handle: RuleControl) -> dict[str, Any]:
        return next(one for one in self._faults.snapshot() if one.get("id") == handle.id)
