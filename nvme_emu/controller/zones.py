"""The zones of a namespace: states, write pointers, resources (Zoned Namespace Command Set 1.2, clause 2.1.1).

A write is checked in this order, and the first that is wrong is its status: the state of the zone (Full, Read Only,
Offline), the write pointer (Zone Invalid Write), the capacity (Zone Boundary Error), resources (Too Many Active, Too
Many Open). It is checked before data moves, and counts when it has: a write that fails leaves the zone as it was.

`wp` also tells how far a zone that is Full, Read Only or Offline has been written. What lies above it reads as zeros:
the medium is deallocated there.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from nvme_emu.controller.zns_config import ZnsConfig
from nvme_emu.controller.zone_states import (
    ACTIVE,
    OPEN,
    REFUSALS,
    WITHOUT_POINTER,
    ZONE_TRANSITIONS,
    ZoneAction,
)
from nvme_emu.core.errors import CommandError
from nvme_emu.spec.status import Status
from nvme_emu.spec.zns import WP_INVALID, ZA, ZoneDescriptor, ZoneState

__all__ = ["Zone", "Zones"]

_SLBA: Final = (40, 0)
_ZDEV: Final = ZA.mask("zdev")
_BROKEN: Final = frozenset({ZoneState.READ_ONLY, ZoneState.OFFLINE})
_FORGETS: Final = frozenset({ZoneAction.RESET, ZoneAction.ERASE})


class Zone:
    """One zone. ``start`` and ``wp`` are logical blocks, ``extension`` its descriptor extension, b"" if not set."""

    __slots__ = ("extension", "index", "start", "state", "wp")

    def __init__(self, index: int, start: int) -> None:
        self.index = index
        self.start = self.wp = start
        self.state = ZoneState.EMPTY
        self.extension = b""

    @property
    def unused(self) -> bool:
        """Whether it has neither data nor a descriptor extension."""
        return self.wp == self.start and not self.extension

    def __repr__(self) -> str:
        return f"<Zone {self.index} {self.state.words} start {self.start} wp {self.wp}>"


class Zones:
    """All zones of a namespace of ``nbytes`` bytes. Raises ValueError where they make none."""

    def __init__(self, config: ZnsConfig, lba_size: int, nbytes: int) -> None:
        self.config = config
        self.zones = [Zone(index, 0) for index in range(config.zones_in(nbytes))]
        self._implicit: dict[int, None] = {}
        """Zones that are implicitly opened, the one that has been so for longest first."""
        self.active = 0
        self.open = 0
        self._unsettled: dict[int, tuple[ZoneState, int, bytes]] = {}
        """What zones that have changed since the last `settle` were then."""
        self.divide(lba_size)

    def divide(self, lba_size: int) -> None:
        """Count in blocks of this size from now on; nothing may be written."""
        self.size = self.config.zone_size // lba_size
        self.capacity = self.config.capacity // lba_size
        for zone in self.zones:
            zone.start = zone.wp = zone.index * self.size

    @property
    def blocks(self) -> int:
        """Logical blocks of all zones: NSZE."""
        return len(self.zones) * self.size

    def at(self, slba: int) -> Zone:
        """The zone of a block that the namespace has."""
        return self.zones[slba // self.size]

    def starting_at(self, slba: int) -> Zone:
        """The zone that begins there. Raises CommandError: Invalid Field, or LBA Out of Range."""
        if slba >= self.blocks:
            raise CommandError(Status.LBA_RANGE, location=_SLBA)
        if slba % self.size:
            raise CommandError(Status.INVALID_FIELD, location=_SLBA)
        return self.at(slba)

    # -- reading and writing --------------------------------------------------------------------------------

    def check_read(self, slba: int, blocks: int) -> None:
        """Raises CommandError for blocks that cannot be read together; they are blocks of the namespace."""
        first, last = slba // self.size, (slba + blocks - 1) // self.size
        if self.zones[first].state is ZoneState.OFFLINE:
            raise CommandError(Status.ZONE_OFFLINE, location=_SLBA)
        if first == last:
            return
        if not self.config.cross_read:
            raise CommandError(Status.ZONE_BOUNDARY_ERROR, location=_SLBA)
        if any(self.zones[index].state is ZoneState.OFFLINE for index in range(first + 1, last + 1)):
            raise CommandError(Status.ZONE_OFFLINE, location=_SLBA)

    def check_changeable(self, slba: int, blocks: int) -> None:
        """Raises CommandError where a zone of these blocks is Read Only or Offline (deallocating)."""
        for zone in self.zones[slba // self.size : (slba + blocks - 1) // self.size + 1]:
            if zone.state in _BROKEN:
                raise CommandError(Status.READ_ONLY)

    def check_write(self, slba: int, blocks: int) -> Zone:
        """The zone in which these blocks can be written now. Raises CommandError."""
        zone = self.at(slba)
        after = ZONE_TRANSITIONS.get((zone.state, ZoneAction.WRITE))
        if after is None:
            raise CommandError(REFUSALS[zone.state], location=_SLBA)
        if slba != zone.wp:
            raise CommandError(Status.ZONE_INVALID_WRITE, location=_SLBA)
        if slba + blocks > zone.start + self.capacity:
            raise CommandError(Status.ZONE_BOUNDARY_ERROR, location=_SLBA)
        self._check_room(zone.state, after)
        return zone

    def written(self, zone: Zone, blocks: int) -> None:
        """Blocks were written at the write pointer, as `check_write` allowed."""
        self._touch(zone)
        self._move(zone, ZoneAction.WRITE)
        zone.wp += blocks
        if zone.wp == zone.start + self.capacity:
            self._move(zone, ZoneAction.FILL)

    # -- transitions ----------------------------------------------------------------------------------------

    def act(self, zone: Zone, action: ZoneAction) -> None:
        """What Zone Management Send, a format or a failing medium does to a zone. Raises CommandError."""
        self._move(zone, action)
        if action in _FORGETS:
            self._touch(zone)
            zone.wp, zone.extension = zone.start, b""

    def act_on_all(self, states: Iterable[ZoneState], action: ZoneAction) -> list[Zone]:
        """The same for all zones in some states, or with a CommandError for none of them; those that changed."""
        wanted = frozenset(states)
        chosen = [zone for zone in self.zones if zone.state in wanted]
        if action is ZoneAction.OPEN:
            # Only zones that are Closed: they are active, and all of them need to be open.
            others = self.open - len(self._implicit)
            limit = self.config.max_open_resources
            if limit and others + len(chosen) > limit:
                raise CommandError(Status.ZONE_TOO_MANY_OPEN)
        for zone in chosen:
            self.act(zone, action)
        return chosen

    def extend(self, zone: Zone, extension: bytes) -> None:
        """Set Zone Descriptor Extension of an Empty zone. Raises CommandError."""
        self._move(zone, ZoneAction.SET_EXTENSION)
        zone.extension = extension

    def erase(self) -> None:
        """All data is gone: every zone is Empty, but those that are broken."""
        for zone in self.zones:
            if (zone.state, ZoneAction.ERASE) in ZONE_TRANSITIONS:
                self.act(zone, ZoneAction.ERASE)
            else:
                zone.wp, zone.extension = zone.start, b""
        self.settle()

    def break_some(self) -> None:
        """The zones that the configuration has broken. Raises ValueError for one that there is not."""
        for action, numbers in (
            (ZoneAction.BREAK_READ_ONLY, self.config.read_only),
            (ZoneAction.BREAK_OFFLINE, self.config.offline),
        ):
            for number in numbers:
                if number >= len(self.zones):
                    raise ValueError(f"zone {number}: there are {len(self.zones)}")
                self.act(self.zones[number], action)

    def settle(self) -> None:
        """All that is true of the zones now is durable, as the data below their write pointers is."""
        self._unsettled.clear()

    def power_lost(self) -> list[Zone]:
        """Zones are what they were when they last settled; those that were active then are Closed or Empty.

        Those that have gone back, whose media has to be deallocated above the write pointer. A broken zone stays so.
        """
        back = [index for index in self._unsettled if self.zones[index].state not in _BROKEN]
        for index in back:
            zone = self.zones[index]
            zone.state, zone.wp, zone.extension = self._unsettled[index]
        self._count()
        for zone in self.zones:
            if zone.state in ACTIVE:
                self._move(zone, ZoneAction.POWER_LOSS_UNUSED if zone.unused else ZoneAction.POWER_LOSS)
        self.settle()
        return [self.zones[index] for index in back]

    def _touch(self, zone: Zone) -> None:
        self._unsettled.setdefault(zone.index, (zone.state, zone.wp, zone.extension))

    def _count(self) -> None:
        self.active = sum(zone.state in ACTIVE for zone in self.zones)
        self.open = sum(zone.state in OPEN for zone in self.zones)
        self._implicit = {zone.index: None for zone in self.zones if zone.state is ZoneState.IMPLICITLY_OPENED}

    def _move(self, zone: Zone, action: ZoneAction) -> None:
        before = zone.state
        after = ZONE_TRANSITIONS.get((before, action))
        if after is None:
            raise CommandError(Status.ZONE_INVALID_TRANSITION, location=_SLBA)
        if after is before:
            return
        self._check_room(before, after)
        limit = self.config.max_open_resources
        if after in OPEN and before not in OPEN and limit and self.open >= limit:
            self._move(self.zones[next(iter(self._implicit))], ZoneAction.YIELD)
        self.active += (after in ACTIVE) - (before in ACTIVE)
        self.open += (after in OPEN) - (before in OPEN)
        self._touch(zone)
        self._implicit.pop(zone.index, None)
        if after is ZoneState.IMPLICITLY_OPENED:
            self._implicit[zone.index] = None
        zone.state = after

    def _check_room(self, before: ZoneState, after: ZoneState) -> None:
        """Raises CommandError where there is no resource, nor one that the controller can take from another zone."""
        limit = self.config.max_active
        if limit and after in ACTIVE and before not in ACTIVE and self.active >= limit:
            raise CommandError(Status.ZONE_TOO_MANY_ACTIVE)
        limit = self.config.max_open_resources
        if limit and after in OPEN and before not in OPEN and self.open >= limit and not self._implicit:
            raise CommandError(Status.ZONE_TOO_MANY_OPEN)

    # -- what is told of them -------------------------------------------------------------------------------

    def describe(self, zone: Zone) -> ZoneDescriptor:
        """The zone's descriptor."""
        return ZoneDescriptor(
            state=zone.state,
            capacity=self.capacity,
            start=zone.start,
            wp=WP_INVALID if zone.state in WITHOUT_POINTER else zone.wp,
            attributes=_ZDEV if zone.extension else 0,
            extension=zone.extension,
        )

    def unwritten(self) -> list[tuple[int, int]]:
        """(first block, blocks) above the write pointers, neighbours together."""
        found: list[tuple[int, int]] = []
        for zone in self.zones:
            blocks = zone.start + self.size - zone.wp
            if found and sum(found[-1]) == zone.wp:
                found[-1] = found[-1][0], found[-1][1] + blocks
            elif blocks:
                found.append((zone.wp, blocks))
        return found

    # -- what lasts -----------------------------------------------------------------------------------------

    def saved(self) -> dict[str, Any]:
        """What is kept without power, for `restore`."""
        full_at = {zone.index for zone in self.zones if zone.state is ZoneState.FULL}
        pointers = [
            [zone.index, zone.wp - zone.start]
            for zone in self.zones
            if zone.wp - zone.start != (self.capacity if zone.index in full_at else 0)
        ]
        extensions = [[zone.index, zone.extension.hex()] for zone in self.zones if zone.extension]
        return {
            "config": dict(self.config.as_dict()),
            "states": "".join(f"{zone.state:x}" for zone in self.zones),
            "pointers": pointers,
            "extensions": extensions,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Be as saved, after a loss of power. Raises ValueError, KeyError or TypeError for what cannot be."""
        if len(state["states"]) != len(self.zones):
            raise ValueError(f"{len(state['states'])} zones are saved, there are {len(self.zones)}")
        for zone, digit in zip(self.zones, state["states"], strict=True):
            zone.state = ZoneState(int(digit, 16))
            zone.wp = zone.start + (self.capacity if zone.state is ZoneState.FULL else 0)
        for index, written in state["pointers"]:
            if not 0 <= written <= self.capacity:
                raise ValueError(f"the write pointer of zone {index} is at {written}")
            self.zones[index].wp = self.zones[index].start + written
        for index, extension in state["extensions"]:
            self.zones[index].extension = bytes.fromhex(extension)
        self.settle()
        self.power_lost()
