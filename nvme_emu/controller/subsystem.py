"""What the controllers of one NVM subsystem share: namespaces, capacity, firmware, sanitizing (NVMe Base 2.1, 3.8).

A namespace is *allocated* when it exists (``namespaces`` here) and *active* at a controller when it is attached
to it (``Controller.namespaces``). A controller that is made finds attached what was attached before: a dynamic
controller (behind a fabric) takes over the namespaces that other controllers have or had.

Time: what lasts puts a timer on ``timers``, which every controller of the subsystem looks at. Nothing here reads
a clock; the controller that steps says what time it is.
"""

from __future__ import annotations

import errno
import heapq
from collections.abc import Callable, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from nvme_emu.controller.allocation import look_at
from nvme_emu.controller.ana import AnaGroups
from nvme_emu.controller.capacity import Capacity
from nvme_emu.controller.directives import Directives
from nvme_emu.controller.firmware import Firmware
from nvme_emu.controller.holds import Hold
from nvme_emu.controller.lasting import (
    KeepsState,
    controller_key,
    remember,
    restore,
    restore_controller,
    snapshot,
)
from nvme_emu.controller.namespace import Namespace
from nvme_emu.controller.persistent_events import PersistentEvents
from nvme_emu.controller.sanitize import Sanitizer
from nvme_emu.core.errors import CommandError, MediaError
from nvme_emu.spec.status import Status

if TYPE_CHECKING:
    from nvme_emu.controller.config import ControllerConfig
    from nvme_emu.controller.controller import Controller
    from nvme_emu.controller.namespace import BlockMedia
    from nvme_emu.controller.zns_config import ZnsConfig

__all__ = ["NvmSubsystem", "Timer"]

NSID_MAX: Final = 0xFFFF_FFFE


class Timer:
    """Something to be done at a time; `cancel` makes nothing of it."""

    __slots__ = ("due_ns", "run")

    def __init__(self, due_ns: int, run: Callable[[int], None] | None) -> None:
        self.due_ns = due_ns
        self.run = run

    def cancel(self) -> None:
        """Do not do it."""
        self.run = None


class NvmSubsystem:
    """An NVM subsystem over ``namespaces`` and ``spare`` media.

    ``saved`` is where the features that a host saves are kept, by (feature, namespace, selector); None makes
    none saveable. Raises ValueError for namespaces that share an identifier or have one above
    ``config.namespaces_max``.
    """

    def __init__(
        self,
        config: ControllerConfig,
        namespaces: Sequence[Namespace] = (),
        *,
        spare: Sequence[BlockMedia] = (),
        saved: MutableMapping[tuple[int, int, int], int] | None = None,
    ) -> None:
        self.config = config
        self.namespaces = {namespace.nsid: namespace for namespace in namespaces}
        if len(self.namespaces) != len(namespaces):
            raise ValueError(f"namespaces share an identifier: {sorted(ns.nsid for ns in namespaces)}")
        if any(nsid > config.namespaces_max for nsid in self.namespaces):
            raise ValueError(f"nsid {max(self.namespaces)} is above namespaces_max={config.namespaces_max}")
        self.capacity = Capacity(spare)
        for namespace in namespaces:
            self.capacity.add(namespace.medium)
        self.saved_features: MutableMapping[tuple[int, int, int], int] = {} if saved is None else saved
        self.attached_by_default = set(self.namespaces)
        """What a controller that is made has attached."""
        self.controllers: dict[int, Controller] = {}
        self.timers: list[tuple[int, int, Timer]] = []
        """A heap of (due, number, timer); the same list for ever."""
        self._timers_made = 0
        self.namespaces_made = 0
        self.now_ns = 0
        self.media_read_only = False
        """Whether nothing can be written any more: the end of flash that is worn out."""
        self.ana = AnaGroups(self, config.ana_groups)
        for namespace in namespaces:
            namespace.anagrpid = self.ana.default_group(namespace.nsid)
            namespace.shared = namespace.shared or config.controllers > 1
        self.firmware = Firmware(self)
        self.sanitizer = Sanitizer(self)
        self.directives = Directives(config.streams_max)
        self.persistent_events = PersistentEvents(self)
        self.remembered: dict[str, dict[str, Any]] = {}
        """What lasts of controllers that are not there: `lasting.controller_key` to their parts."""
        self.unsaved = False
        """Whether something that lasts has changed since it was stored: the next Flush stores it."""
        self.clean = True
        """Whether losing the power now would be no unexpected loss: no controller works since the last shutdown."""
        self.stored_ns = 0
        self._store: KeepsState | None = None
        self._essence = ""
        self._load()
        look_at(self.namespaces.values(), config.track_allocation)

    def _load(self) -> None:
        """Be what the medium remembers, if it is one that does and all of the subsystem. Raises MediaError."""
        if len(self.namespaces) != 1:
            return
        (namespace,) = self.namespaces.values()
        media = namespace.medium
        if isinstance(media, KeepsState):
            self._store = media
            contents = media.load_state()
            if contents is not None:
                wanted = namespace.zones.config if namespace.zones is not None else None
                layout = namespace.layout
                restore(self, media, contents)
                if wanted is not None and all(one.zones is None for one in self.namespaces.values()):
                    raise MediaError(errno.EINVAL, "the image holds no zoned namespace, and one was asked for")
                if layout is not None and all(one.layout != layout for one in self.namespaces.values()):
                    raise MediaError(errno.EINVAL, "the image holds no namespace with the metadata that was asked for")

    def store(self) -> None:
        """Have the medium remember how things are, if they have changed. Raises OSError and ValueError."""
        for one in self.namespaces.values():
            if one.zones is not None and one.unsaved:
                one.media.flush()  # no write pointer is kept above data that may still get lost
                if self._store is None:
                    one.zones.settle()
                    one.unsaved = False
        if self._store is None:
            return
        found = snapshot(self)
        changed = self.unsaved or found.essence != self._essence
        if not changed and not any(one.unsaved for one in self.namespaces.values()):
            return
        self.unsaved = True  # until it is done
        self._store.store_state(found.contents)
        self._essence = found.essence
        self.unsaved = False
        self.stored_ns = max((ctrl.now_ns for ctrl in self.controllers.values()), default=self.now_ns)
        for namespace in self.namespaces.values():
            namespace.unsaved = False
            if namespace.zones is not None:
                namespace.zones.settle()

    def save(self) -> None:
        """`store` for changes that no command waits for; a failure is one of the medium, and is tried again."""
        try:
            self.store()
        except (OSError, ValueError):
            for ctrl in self.controllers.values():
                ctrl.counters.media_errors += 1

    def in_use(self) -> None:
        """A controller works from now on: what follows without a shutdown is an unexpected loss of power."""
        if self.clean:
            self.clean = False
            self.save()

    def shut_down(self) -> None:
        """A controller was shut down: if no other works, the power may go."""
        self.clean = not any(ctrl.running for ctrl in self.controllers.values())
        self.unsaved = True
        self.save()

    @property
    def zns(self) -> ZnsConfig | None:
        """How zoned namespaces are made; None where the Zoned Namespace Command Set is not offered."""
        if self.config.zns is not None:
            return self.config.zns
        # An image may hold some, whatever the configuration says.
        return next((one.zones.config for one in self.namespaces.values() if one.zones is not None), None)

    # -- controllers ----------------------------------------------------------------------------------------

    def join(self, ctrl: Controller) -> None:
        """A controller is made: its active namespaces are filled in."""
        self.controllers[ctrl.config.cntlid] = ctrl
        self._restore_controller(ctrl)
        ctrl.namespaces.update(
            (nsid, namespace) for nsid, namespace in self.namespaces.items() if nsid in self.attached_by_default
        )
        self.ana.look()

    def _restore_controller(self, ctrl: Controller) -> None:
        """A controller that is made is the one that was there before; if it is alone, whichever that was."""
        key = controller_key(ctrl)
        others = [controller_key(one) for one in self.controllers.values() if one is not ctrl]
        found = None if key in others else self.remembered.pop(key, None)
        if found is None and not others and self.remembered:
            found = self.remembered.pop(min(self.remembered))
        if found is not None:
            restore_controller(ctrl, found)

    def leave(self, ctrl: Controller) -> None:
        """A controller is gone (its host has disconnected)."""
        self.directives.reset(ctrl)
        ctrl.power.stop()
        if self.controllers.get(ctrl.config.cntlid) is ctrl:
            self.remembered[controller_key(ctrl)] = remember(ctrl)
            del self.controllers[ctrl.config.cntlid]
            self.ana.look()

    def attached_to(self, nsid: int) -> list[int]:
        """The controllers that have a namespace attached, ascending."""
        return sorted(cntlid for cntlid, ctrl in self.controllers.items() if nsid in ctrl.namespaces)

    # -- time -----------------------------------------------------------------------------------------------

    def at(self, due_ns: int, run: Callable[[int], None]) -> Timer:
        """Have ``run(now_ns)`` called at a time, by whichever controller steps then."""
        timer = Timer(due_ns, run)
        self._timers_made += 1
        heapq.heappush(self.timers, (due_ns, self._timers_made, timer))
        return timer

    def run_timers(self, now_ns: int) -> None:
        """Do what is due."""
        timers = self.timers
        self.now_ns = now_ns
        for ctrl in self.controllers.values():
            ctrl.now_ns = max(ctrl.now_ns, now_ns)
        ran = False
        while timers and timers[0][0] <= now_ns:
            timer = heapq.heappop(timers)[2]
            run, timer.run = timer.run, None
            if run is not None:
                run(now_ns)
                ran = True
        if ran and len(self.controllers) > 1:
            # What it did may be of a controller that nobody steps now.
            for ctrl in self.controllers.values():
                ctrl.look_at_me()

    # -- namespaces -----------------------------------------------------------------------------------------

    def set_media_read_only(self, value: bool) -> None:
        """All media take no more writes, or do again: SMART's critical warning tells every host."""
        self.media_read_only = value
        for namespace in self.namespaces.values():
            if value:
                namespace.hold(Hold.MEDIA)
            else:
                namespace.free(Hold.MEDIA)
        for ctrl in self.controllers.values():
            ctrl.logs.health.evaluate()

    def check_writable(self) -> None:
        """Raises CommandError Internal Error for an admin command that has to change media which are read-only."""
        if self.media_read_only:
            raise CommandError(Status.INTERNAL)

    def free_nsid(self) -> int | None:
        """The lowest identifier that no namespace has; None when all are taken."""
        return next((n for n in range(1, self.config.namespaces_max + 1) if n not in self.namespaces), None)

    def create(
        self,
        nsid: int,
        media: BlockMedia,
        lba_size: int,
        blocks: int,
        shared: bool,
        anagrpid: int = 0,
        zoned: ZnsConfig | None = None,
    ) -> Namespace:
        """Allocate a namespace; it is attached to nobody."""
        self.namespaces_made += 1
        media.discard(0, media.nbytes)
        media.flush()  # what was there must not come back when this namespace is kept
        namespace = Namespace(
            nsid,
            media,
            lba_size,
            identity=f"{self.config.sn}/{self.config.seed}/{self.namespaces_made}",
            shared=shared,
            blocks=blocks,
            zoned=zoned,
        )
        namespace.anagrpid = anagrpid or self.ana.default_group(nsid)
        look_at([namespace], self.config.track_allocation)
        self.namespaces[nsid] = namespace
        if self.sanitizer.busy:
            namespace.hold(Hold.SANITIZE)
        self.ana.look()
        self.allocation_changed(nsid)
        return namespace

    def delete(self, nsid: int) -> None:
        """A namespace is gone: from every controller, with its saved features; its capacity is free."""
        namespace = self.namespaces.pop(nsid)
        self.attached_by_default.discard(nsid)
        for key in [key for key in self.saved_features if key[1] == nsid]:
            del self.saved_features[key]
        for ctrl in list(self.controllers.values()):
            if nsid in ctrl.namespaces:
                self._detach(ctrl, nsid)
            ctrl.features.forget_namespace(nsid)
        self.directives.namespace_gone(nsid)
        self.capacity.give(namespace.medium)
        self.allocation_changed(nsid)

    def attach(self, ctrl: Controller, nsid: int) -> None:
        """A namespace becomes active at a controller."""
        ctrl.namespaces[nsid] = self.namespaces[nsid]
        ctrl.power.attached(self.namespaces[nsid])
        ctrl.ana.inventory_changed(self.namespaces[nsid])
        self.attached_by_default.add(nsid)
        ctrl.logs.namespace_changed(nsid)

    def detach(self, ctrl: Controller, nsid: int) -> None:
        """A namespace is no longer active at a controller."""
        self._detach(ctrl, nsid)
        if not self.attached_to(nsid):
            self.attached_by_default.discard(nsid)

    def _detach(self, ctrl: Controller, nsid: int) -> None:
        ctrl.ana.inventory_changed(ctrl.namespaces.pop(nsid))
        ctrl.self_test.namespace_gone(nsid)
        ctrl.logs.changed_zones.pop(nsid, None)
        ctrl.logs.namespace_changed(nsid)

    def namespace_changed(self, nsid: int) -> None:
        """Identify Namespace says something else now: tell those who have it attached."""
        for ctrl in self.controllers.values():
            if nsid in ctrl.namespaces:
                ctrl.logs.namespace_changed(nsid)
        self.allocation_changed(nsid)

    def allocation_changed(self, nsid: int) -> None:
        """A namespace came, went or changed: for the log of allocated namespaces."""
        for ctrl in self.controllers.values():
            ctrl.logs.allocated_namespace_changed(nsid)

    # -- resets ---------------------------------------------------------------------------------------------

    def controller_reset(self, ctrl: Controller, subsystem_reset: bool) -> None:
        """A controller has been reset: firmware that waits for that becomes active."""
        if subsystem_reset:
            self.directives.subsystem_reset()
        else:
            self.directives.reset(ctrl)
        if not ctrl.config.message_based:
            ctrl.host_id, ctrl.host_id_is_extended = bytes(16), False
        ctrl.reservation_notices.reset()
        self.firmware.controller_reset(ctrl)
        ctrl.self_test.controller_reset()
        self.persistent_events.reset(ctrl)

    def reset(self, by: Controller) -> None:
        """NVM Subsystem Reset, which one controller was asked for: it is one of all of them (Base 2.1, 3.7.1)."""
        for ctrl in [by, *(one for one in self.controllers.values() if one is not by)]:
            ctrl.subsystem_reset()

    def power_cycle(self) -> None:
        """Power was lost and came back."""
        for namespace in self.namespaces.values():
            namespace.power_lost()

    def describe(self) -> dict[str, Any]:
        """For telemetry: how it is, in plain values."""
        return {
            "namespaces": {
                str(nsid): {"blocks": one.nsze, "lba_size": one.lba_size, "holds": sorted(h.value for h in one.holds)}
                for nsid, one in sorted(self.namespaces.items())
            },
            "unallocated_bytes": self.capacity.unallocated,
            "total_bytes": self.capacity.total,
            "firmware": self.firmware.describe(),
            "sanitize": self.sanitizer.state.name.lower(),
        }
