"""What --rpc answers about asymmetric namespace access, and how its states are set in a running SSD."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nvme_emu.controller.subsystem import NvmSubsystem
    from nvme_emu.observe.watched import Watched

__all__ = ["AnaMethods"]


class AnaMethods:
    """The methods over one watched machine whose subsystem has ANA groups."""

    def __init__(self, watched: Watched) -> None:
        self._watched = watched

    def table(self) -> dict[str, Callable[..., Any]]:
        """Every method by name."""
        return {"ana.get": self.ana_get, "ana.set": self.ana_set}

    @property
    def _subsystem(self) -> NvmSubsystem:
        return self._watched.controller.subsystem

    def ana_get(self, port: int | None = None) -> dict[str, Any]:
        """The "port", its "states" by ANA group, and the "namespaces" with their groups. port: the controller's own."""

        def look(_: bool) -> dict[str, Any]:
            subsystem = self._subsystem
            chosen = self._watched.controller.config.port if port is None else port
            return {
                "port": chosen,
                "states": {str(group): state for group, state in subsystem.ana.states(chosen).items()},
                "namespaces": {str(nsid): one.anagrpid for nsid, one in sorted(subsystem.namespaces.items())},
            }

        return self._watched.read(look)

    def ana_set(self, group: int, state: str, port: int | None = None) -> dict[str, Any]:
        """Set the state of an ANA group at a port; the hosts there hear of it. port: the controller's own.

        state: optimized, non-optimized, inaccessible, persistent-loss or change.
        """
        chosen = self._watched.controller.config.port if port is None else port
        self._watched.change(lambda: self._subsystem.ana.set(group, state, port=chosen))
        return self.ana_get(chosen)
