"""Asymmetric Namespace Access: which controller reaches which namespaces, and how well (NVMe Base 2.1, 8.1.1).

    group ──state──► port ──► its controllers

Every namespace is in one ANA group, every controller behind one port of the subsystem, and a port has a state for
each group: all controllers behind it report the same. A state is set from outside (`AnaGroups.set`), as an array
does when a node of it fails; hosts hear of it by an event and read log page 0Ch.

In the states Inaccessible, Persistent Loss and Change a namespace is held (`Hold.ANA`) for everyone, as namespaces
are shared, and `AnaReport.check` tells those who may from those who may not.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from nvme_emu.controller.holds import Hold
from nvme_emu.core.errors import CommandError
from nvme_emu.spec.ana import ANA_GROUP, ANA_LOG, ANA_LSP_RGO, ANACAP, AnaState
from nvme_emu.spec.commands import GET_LOG_CDW10
from nvme_emu.spec.events import AsyncEventType, AsyncNoticeInfo
from nvme_emu.spec.features import Fid
from nvme_emu.spec.logs import Lid
from nvme_emu.spec.queues import NSID_BROADCAST
from nvme_emu.spec.status import Status

if TYPE_CHECKING:
    from nvme_emu.controller.command import Command
    from nvme_emu.controller.controller import Controller
    from nvme_emu.controller.namespace import Namespace
    from nvme_emu.controller.subsystem import NvmSubsystem

__all__ = ["ANA_CAPABILITIES", "ANA_TRANSITION_S", "AnaGroups", "AnaReport", "ana_log", "check_feature", "state_named"]

ANA_CAPABILITIES: Final = ANACAP.pack(ros=1, rnos=1, ris=1, rpls=1, rcs=1, nzgid=1)
"""Identify Controller ANACAP."""
ANA_TRANSITION_S: Final = 10
"""Identify Controller ANATT: how long a host should wait for the end of the Change state."""

_STATUS: Final = {
    AnaState.INACCESSIBLE: Status.ANA_INACCESSIBLE,
    AnaState.PERSISTENT_LOSS: Status.ANA_PERSISTENT_LOSS,
    AnaState.CHANGE: Status.ANA_TRANSITION,
}
_LOST: Final = frozenset({AnaState.INACCESSIBLE, AnaState.PERSISTENT_LOSS})
# Features whose values are of a namespace and kept with it: not to be had in the states above.
_FEATURES: Final = frozenset(
    {
        Fid.ERROR_RECOVERY,
        Fid.WRITE_ATOMICITY,
        Fid.RESERVATION_NOTIFICATION_MASK,
        Fid.RESERVATION_PERSISTENCE,
        Fid.WRITE_PROTECTION,
    }
)
_COUNT_MASK: Final = (1 << 64) - 1


def state_named(text: str | int | AnaState) -> AnaState:
    """A state by its word as the Linux kernel shows it, or its number. ValueError for none."""
    for state in AnaState:
        if text in (state, state.words, state.name.lower()):
            return state
    raise ValueError(f"{text!r} is no ANA state: {', '.join(state.words for state in AnaState)}")


class AnaGroups:
    """The ANA groups of a subsystem, 1 to ``count`` (0: not offered), and their states at each port."""

    def __init__(self, subsystem: NvmSubsystem, count: int) -> None:
        self._subsystem = subsystem
        self.count = count
        self._states: dict[tuple[int, int], AnaState] = {}  # (port, group): those that are not optimized

    def default_group(self, nsid: int) -> int:
        """The group of a namespace that says nothing else; 0 without groups."""
        return (nsid - 1) % self.count + 1 if self.count else 0

    def state(self, port: int, group: int) -> AnaState:
        """How the controllers behind a port reach the namespaces of a group."""
        return self._states.get((port, group), AnaState.OPTIMIZED)

    def states(self, port: int) -> dict[int, str]:
        """The state of every group at a port, in words."""
        return {group: self.state(port, group).words for group in range(1, self.count + 1)}

    def set(self, group: int, state: AnaState | str | int, *, port: int) -> None:
        """Another state of a group at a port; every controller behind it tells its host.

        ValueError for a group that there is not, and for a state that is none.
        """
        self._check_group(group)
        new = state_named(state)
        if new is self.state(port, group):
            return
        self._states[port, group] = new
        self.look()
        for ctrl in self._controllers(port):
            ctrl.ana.changed([group])

    def move(self, nsid: int, group: int) -> None:
        """Another group for a namespace. ValueError for a group or a namespace that there is not."""
        self._check_group(group)
        namespace = self._subsystem.namespaces.get(nsid)
        if namespace is None:
            raise ValueError(f"nsid={nsid}: there is no such namespace")
        old, namespace.anagrpid = namespace.anagrpid, group
        if old != group:
            self.look()
            for ctrl in self._subsystem.controllers.values():
                if nsid in ctrl.namespaces:
                    ctrl.ana.changed([old, group])

    def look(self) -> None:
        """Hold the namespaces that somebody does not reach, and only those."""
        if not self.count:
            return
        ports = {ctrl.config.port for ctrl in self._subsystem.controllers.values()}
        for namespace in self._subsystem.namespaces.values():
            if any(self.state(port, namespace.anagrpid) in _STATUS for port in ports):
                namespace.hold(Hold.ANA)
            else:
                namespace.free(Hold.ANA)

    def _controllers(self, port: int) -> list[Controller]:
        return [ctrl for ctrl in self._subsystem.controllers.values() if ctrl.config.port == port]

    def _check_group(self, group: int) -> None:
        if not 1 <= group <= self.count:
            raise ValueError(f"group={group}: the subsystem has ANA groups 1 to {self.count}")


class AnaReport:
    """What one controller tells its host of the groups: states, and counts of what has changed since its reset."""

    def __init__(self, ctrl: Controller) -> None:
        self._ctrl = ctrl
        self.change_count = 0
        self._changes: dict[int, int] = {}

    def state(self, namespace: Namespace) -> AnaState:
        """How this controller reaches a namespace."""
        return self._ctrl.subsystem.ana.state(self._ctrl.config.port, namespace.anagrpid)

    def lost(self, namespace: Namespace) -> bool:
        """Whether the namespace's capacity is not to be told (Identify Namespace, NUSE and NVMCAP)."""
        return self.state(namespace) in _LOST

    def check(self, namespace: Namespace) -> None:
        """Raises CommandError with the path related status of a state in which nothing is reached."""
        status = _STATUS.get(self.state(namespace))
        if status is not None:
            raise CommandError(status, dnr=False)

    def changed(self, groups: Iterable[int]) -> None:
        """Log page 0Ch says something else of these groups."""
        self.change_count = (self.change_count + 1) & _COUNT_MASK
        for group in groups:
            # From 1 on; 0 would be a controller that does not count.
            self._changes[group] = self._changes.get(group, 1) % _COUNT_MASK + 1
        notice = AsyncNoticeInfo.ANA_CHANGE
        self._ctrl.events.post(AsyncEventType.NOTICE, notice, Lid.ANA)

    def inventory_changed(self, namespace: Namespace) -> None:
        """A namespace was attached or detached: the log changes, and the namespace event tells of that."""
        self.change_count = (self.change_count + 1) & _COUNT_MASK
        group = namespace.anagrpid
        self._changes[group] = self._changes.get(group, 1) % _COUNT_MASK + 1

    def reset(self) -> None:
        """Controller Level Reset: the log's count starts at 0 again."""
        self.change_count = 0

    def page(self, groups_only: bool) -> bytes:
        """Log page 0Ch: the groups of the attached namespaces, ascending."""
        ctrl = self._ctrl
        members: dict[int, list[int]] = {}
        for nsid, namespace in sorted(ctrl.namespaces.items()):
            members.setdefault(namespace.anagrpid, []).append(nsid)
        parts = [ANA_LOG.build(chgcnt=self.change_count, ngrps=len(members))]
        for group, nsids in sorted(members.items()):
            listed = [] if groups_only else nsids
            state = ctrl.subsystem.ana.state(ctrl.config.port, group)
            parts.append(
                ANA_GROUP.build(grpid=group, nnsids=len(listed), chgcnt=self._changes.get(group, 1), state=int(state))
            )
            parts.append(struct.pack(f"<{len(listed)}I", *listed))
        return b"".join(parts)


def ana_log(ctrl: Controller, cmd: Command) -> bytes:
    """Log page 0Ch; LSP bit 0 asks for the groups without their namespaces."""
    return ctrl.ana.page(bool(GET_LOG_CDW10["lsp"].extract(cmd.cdw10) & ANA_LSP_RGO))


def check_feature(ctrl: Controller, cmd: Command, fid: int) -> None:
    """Raises CommandError for a feature of a namespace that is not reached: it is neither set nor told."""
    if not ctrl.subsystem.ana.count or fid not in _FEATURES or cmd.nsid == 0:
        return
    every = cmd.nsid == NSID_BROADCAST
    for namespace in list(ctrl.namespaces.values()) if every else [ctrl.namespaces.get(cmd.nsid)]:
        if namespace is not None:
            ctrl.ana.check(namespace)
