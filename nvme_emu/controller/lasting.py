"""What a subsystem remembers while it has no power: namespaces, saved features, firmware, sanitizing, SMART.

It is kept with the data, by a medium that can keep it (an image file: `load_state` and `store_state`), as JSON; the
medium frames, checks and alternates it, so that a crash leaves the one before. It is stored before the command that
changed it completes. The version of the contents is in them: a newer one than ours is refused.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, Protocol, runtime_checkable

from nvme_emu.controller.capacity import Extent, ExtentMedia
from nvme_emu.controller.holds import Hold, WriteProtection
from nvme_emu.controller.namespace import LBA_FORMATS, Namespace
from nvme_emu.core.errors import MediaError
from nvme_emu.spec.reservations import ReservationType

if TYPE_CHECKING:
    from nvme_emu.controller.namespace import BlockMedia
    from nvme_emu.controller.subsystem import NvmSubsystem

__all__ = ["KeepsState", "restore", "snapshot"]

_VERSION: Final = 1
_MARKED_MAX: Final = 64
"""Ranges of a namespace's unrecoverable blocks that are remembered."""
_COUNTERS: Final = (
    "busy_ns", "media_errors", "power_cycles", "read_bytes", "read_commands", "unsafe_shutdowns", "write_bytes",
    "write_commands",
)  # fmt: skip


@runtime_checkable
class KeepsState(Protocol):
    """A medium that remembers a few bytes besides its data."""

    def load_state(self) -> bytes | None: ...
    def store_state(self, contents: bytes) -> None: ...


def _extents(media: BlockMedia) -> list[list[int]]:
    extents = media.extents if isinstance(media, ExtentMedia) else (Extent(media, 0, media.nbytes),)
    return [[start, nbytes] for _, start, nbytes in extents]


def _namespace(one: Namespace) -> dict[str, Any]:
    state: dict[str, Any] = {
        "id": one.nsid,
        "name": one.identity,
        "at": _extents(one.media),
        "format": one.format_index,
        "blocks": one.nsze,
    }
    if one.shared:
        state["shared"] = 1
    if one.protection in (WriteProtection.PROTECTED, WriteProtection.PERMANENT):
        state["protection"] = one.protection.value
    if one.marked:
        state["marked"] = [list(pair) for pair in one.marked.ranges()][:_MARKED_MAX]
    reservations = one.reservations
    if reservations.ptpl:
        state["reservations"] = {
            "keys": [[host.hex(), key] for host, key in reservations.keys.items()],
            "kind": int(reservations.kind),
            "holder": None if reservations.holder is None else reservations.holder.hex(),
            "generation": reservations.generation,
        }
    return state


def snapshot(subsystem: NvmSubsystem) -> bytes:
    """The state as the medium is to keep it."""
    counters = next((ctrl.counters for ctrl in subsystem.controllers.values()), None)
    state = {
        "version": _VERSION,
        "namespaces": [_namespace(one) for _, one in sorted(subsystem.namespaces.items())],
        "attached": sorted(subsystem.attached_by_default),
        "made": subsystem.namespaces_made,
        "features": [[*key, value] for key, value in sorted(subsystem.saved_features.items())],
        "firmware": subsystem.firmware.state(),
        "sanitize": subsystem.sanitizer.saved(),
        "counters": {} if counters is None else {name: getattr(counters, name) for name in _COUNTERS},
    }
    return json.dumps(state, separators=(",", ":")).encode()


def restore(subsystem: NvmSubsystem, media: BlockMedia, contents: bytes) -> None:
    """Make the subsystem what it was. Its one namespace was all of `media`. Raises MediaError for a foreign state."""
    try:
        state = json.loads(contents)
        version = state["version"]
        if version != _VERSION:
            raise MediaError(22, f"the image's state has version {version}, this program knows version {_VERSION}")
        _restore_namespaces(subsystem, media, state["namespaces"])
        subsystem.attached_by_default = set(state["attached"])
        subsystem.namespaces_made = state["made"]
        subsystem.saved_features.update(((fid, nsid, sel), value) for fid, nsid, sel, value in state["features"])
        subsystem.firmware.restore(state["firmware"])
        subsystem.saved_counters = {name: state["counters"][name] for name in state["counters"] if name in _COUNTERS}
        subsystem.sanitizer.restore(state["sanitize"])
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise MediaError(22, f"the image's state is damaged: {error}") from error


def _restore_namespaces(subsystem: NvmSubsystem, media: BlockMedia, saved: list[dict[str, Any]]) -> None:
    capacity = subsystem.capacity
    subsystem.namespaces.clear()
    capacity.give(media)
    for state in saved:
        extents = [Extent(media, start, nbytes) for start, nbytes in state["at"]]
        capacity.claim(extents)
        whole = len(extents) == 1 and extents[0] == Extent(media, 0, media.nbytes)
        one = Namespace(
            state["id"],
            media if whole else ExtentMedia(extents),
            1 << LBA_FORMATS[state["format"]].lbads,
            identity=state["name"],
            shared=bool(state.get("shared")),
            blocks=state["blocks"],
        )
        one.format_index = state["format"]
        if "protection" in state:
            one.protect(WriteProtection(state["protection"]))
        for slba, nlb in state.get("marked", ()):
            one.marked.add(slba, nlb)
            one.hold(Hold.MARKED)
        reserved = state.get("reservations")
        if reserved:
            _restore_reservations(one, reserved)
        subsystem.namespaces[one.nsid] = one


def _restore_reservations(one: Namespace, state: dict[str, Any]) -> None:
    reservations = one.reservations
    reservations.ptpl = True
    reservations.keys.update((bytes.fromhex(host), key) for host, key in state["keys"])
    reservations.generation = state["generation"]
    kind = ReservationType(state["kind"])
    if kind is not ReservationType.NONE:
        reservations.holder, reservations.kind = bytes.fromhex(state["holder"]), kind
        one.hold(Hold.RESERVED)
