"""A subsystem behind NVMe/TCP as --rpc shows it: hosts come and go, and each has a controller of its own.

What is looked at is the controller of the host that came last, or the one that `hosts.watch` has chosen. While
no host is there it is the SSD's own, which every host's is made from.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from nvme_emu.observe.watched import Watched

if TYPE_CHECKING:
    from nvme_emu.controller import Controller
    from nvme_emu.controller.fabrics import Association

__all__ = ["HostMethods", "WatchedSubsystem", "copy_health"]

_HEALTH: Final = ("temperature_k", "available_spare", "percentage_used", "reliability_degraded", "backup_failed")


def copy_health(source: Controller, target: Controller) -> None:
    """What `health.set` sets is of the SSD, not of one of its controllers."""
    for name in _HEALTH:
        setattr(target.logs.health, name, getattr(source.logs.health, name))
    target.logs.health.take_sensors(source.logs.health)


class WatchedSubsystem(Watched):
    """`controller` is that of a host while there is one. `hosts()` gives the controllers, the oldest first."""

    def __init__(self, *, hosts: Callable[[], list[Association]], controller: Controller, **common: Any) -> None:
        self.hosts = hosts
        self.chosen: int | None = None
        """The controller ID that `hosts.watch` has chosen; None for the newest."""
        super().__init__(controller=controller, **common)

    @property
    def controller(self) -> Controller:
        """The controller that is looked at now."""
        association = self.association()
        return self._own if association is None else association.controller

    @controller.setter
    def controller(self, own: Controller) -> None:
        self._own = own

    def association(self) -> Association | None:
        """Whose controller that is; None while no host is there."""
        hosts = self.hosts()
        chosen = [one for one in hosts if one.cntlid == self.chosen]
        # A host whose queues are still being connected has little to show.
        working = [one for one in hosts if len(one.queues) > 1]
        found = chosen or working or hosts
        return found[-1] if found else None

    def controllers(self) -> list[Controller]:
        """See `Watched.controllers`."""
        return [self._own, *(association.controller for association in self.hosts())]


class HostMethods:
    """What --rpc answers about the hosts of a subsystem."""

    def __init__(self, watched: WatchedSubsystem) -> None:
        self._watched = watched

    def table(self) -> dict[str, Callable[..., Any]]:
        """Every method by name."""
        return {"hosts.list": self.hosts_list, "hosts.watch": self.hosts_watch}

    def hosts_list(self) -> list[dict[str, Any]]:
        """The hosts over NVMe/TCP: controller ID, NQN, queue IDs, and whose controller the other methods show."""

        def look(_: bool) -> list[dict[str, Any]]:
            shown = self._watched.association()
            return [
                {
                    "cntlid": one.cntlid,
                    "hostnqn": one.hostnqn,
                    "qids": sorted(one.queues),
                    "watched": one is shown,
                }
                for one in self._watched.hosts()
            ]

        return self._watched.read(look)

    def hosts_watch(self, cntlid: int | None = None) -> list[dict[str, Any]]:
        """Choose the host whose controller the other methods show, while it is there. null: always the newest."""
        if cntlid is not None and cntlid not in [one["cntlid"] for one in self.hosts_list()]:
            raise ValueError(f"cntlid={cntlid}: there is no such controller; hosts.list shows them")
        self._watched.chosen = cntlid
        return self.hosts_list()
