"""What a subsystem remembers while it has no power, and how it is written down.

    {"version": 2, "sections": {"namespaces": [1, …], "features": [1, …], …, "controllers": [1, {"0": {…}}]}}

It is JSON and is kept with the data, by a medium that can keep it (an image file: `load_state` and `store_state`); the
medium frames, checks and alternates it, so that a crash leaves the one before. docs/image.md says what is in it.

Whoever has something that lasts adds one row to a table here: `SECTIONS` for what the subsystem has, `NAMESPACE_PARTS`
for what each namespace has, `CONTROLLER_PARTS` for what each controller has. A row has a name, a version of its own, a
bound in bytes, and two functions: one gives a value that JSON can hold (None: there is nothing to say), the other takes
it back after power on. An image that says what no row reads, or in another version, is refused and not half understood.

When it is stored: a command that changes what lasts calls `keep` before it completes, and fails where that fails. What
I/O changes (a block that is good again, a write pointer) is marked: `namespace.unsaved = True`; the next Flush, or that
command's own FUA, keeps it, after the data (`keep_changes`). Logs and counters go along with the next of these.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, runtime_checkable

from nvme_emu.controller import lasting_parts as parts
from nvme_emu.controller.allocation import restore_allocation, save_allocation
from nvme_emu.controller.capacity import Extent, ExtentMedia
from nvme_emu.controller.holds import Hold, WriteProtection
from nvme_emu.controller.metadata import restore_metadata, save_metadata
from nvme_emu.controller.namespace import LBA_FORMATS, Namespace
from nvme_emu.controller.zones_lasting import restore_zones, save_zones
from nvme_emu.core.errors import CommandError, MediaError
from nvme_emu.spec.reservations import ReservationType
from nvme_emu.spec.status import Status

if TYPE_CHECKING:
    from nvme_emu.controller.controller import Controller
    from nvme_emu.controller.namespace import BlockMedia
    from nvme_emu.controller.subsystem import NvmSubsystem

__all__ = [
    "CONTROLLER_PARTS",
    "KEEP_AFTER_NS",
    "NAMESPACE_PARTS",
    "SECTIONS",
    "KeepsState",
    "Part",
    "Snapshot",
    "controller_key",
    "keep",
    "keep_changes",
    "remember",
    "restore",
    "restore_controller",
    "snapshot",
]

_VERSION: Final = 2
_EINVAL: Final = 22
_KIB: Final = 1024
_GO_ALONG: Final = ("events",)
KEEP_AFTER_NS: Final = 60_000_000_000
"""How old the counters in the image may become before a Flush takes them along."""


@runtime_checkable
class KeepsState(Protocol):
    """A medium that remembers a few bytes besides its data."""

    def load_state(self) -> bytes | None: ...
    def store_state(self, contents: bytes) -> None: ...


class Part(NamedTuple):
    """Something that lasts, of whatever `save` and `restore` take first.

    ``save`` gives a value for JSON, None for nothing; ``restore`` takes it, and raises KeyError, TypeError, ValueError
    or IndexError for one that is none. ``bytes_max`` bounds its JSON text: more makes the command fail that changed it.
    """

    name: str
    version: int
    save: Callable[[Any], Any]
    restore: Callable[[Any, Any], None]
    bytes_max: int = 64 * _KIB


# What the subsystem has ------------------------------------------------------------------------------------


def _save_features(subsystem: NvmSubsystem) -> Any:
    return [[*key, value] for key, value in sorted(subsystem.saved_features.items())]


def _restore_features(subsystem: NvmSubsystem, value: Any) -> None:
    subsystem.saved_features.update(((fid, nsid, selector), dword) for fid, nsid, selector, dword in value)


def _restore_power(subsystem: NvmSubsystem, value: Any) -> None:
    subsystem.clean = bool(value["clean"])


SECTIONS: Final[tuple[Part, ...]] = (
    Part("features", 1, _save_features, _restore_features, 256 * _KIB),
    Part("firmware", 1, lambda one: one.firmware.state(), lambda one, value: one.firmware.restore(value)),
    Part("power", 1, lambda one: {"clean": one.clean}, _restore_power),
    Part("sanitize", 1, lambda one: one.sanitizer.saved(), lambda one, value: one.sanitizer.restore(value)),
    Part("events", 1, lambda one: one.persistent_events.saved(), parts.restore_events, 512 * _KIB),
)
"""In the order in which they are restored; the namespaces are there before."""

NAMESPACE_PARTS: Final[tuple[Part, ...]] = (
    Part("metadata", 1, save_metadata, restore_metadata),
    Part("zones", 1, save_zones, restore_zones, 1024 * _KIB),
    Part("unwritten", 1, save_allocation, restore_allocation, 256 * _KIB),
)

CONTROLLER_PARTS: Final[tuple[Part, ...]] = (
    Part("counters", 1, parts.save_counters, parts.restore_counters),
    Part("health", 1, lambda ctrl: ctrl.logs.health.saved(), lambda ctrl, value: ctrl.logs.health.restore(value)),
    Part("errors", 1, parts.save_errors, parts.restore_errors),
    Part("self_test", 1, lambda ctrl: ctrl.self_test.saved(), lambda ctrl, value: ctrl.self_test.restore(value)),
    Part("telemetry", 1, lambda ctrl: ctrl.telemetry.saved(), parts.restore_telemetry, 512 * _KIB),
)


# Writing and reading parts ---------------------------------------------------------------------------------


def _text(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _saved(table: tuple[Part, ...], owner: Any) -> dict[str, list[Any]]:
    """{name: [version, value]} of what there is to say. ValueError beyond a bound."""
    found = {}
    for part in table:
        value = part.save(owner)
        if value is None:
            continue
        nbytes = len(_text(value))
        if nbytes > part.bytes_max:
            raise ValueError(f"{nbytes} bytes of {part.name!r}, at most {part.bytes_max} are kept")
        found[part.name] = [part.version, value]
    return found


def _read(table: tuple[Part, ...], owner: Any, saved: dict[str, Any], what: str) -> None:
    known = {part.name: part for part in table}
    for name, (version, _) in saved.items():
        if name not in known or version != known[name].version:
            knows = f"knows version {known[name].version}" if name in known else "knows none"
            raise MediaError(
                _EINVAL, f"the image's state has {name!r} of {what} in version {version}; this program {knows}"
            )
    for part in table:
        if part.name in saved:
            part.restore(owner, saved[part.name][1])


# Namespaces ------------------------------------------------------------------------------------------------


def _extents(media: Any) -> list[list[int]]:
    while hasattr(media, "medium"):
        media = media.medium  # below the overlays of fault rules
    extents = media.extents if isinstance(media, ExtentMedia) else (Extent(media, 0, media.nbytes),)
    return [[start, nbytes] for _, start, nbytes in extents]


def _save_namespace(one: Namespace) -> dict[str, Any]:
    state: dict[str, Any] = {
        "id": one.nsid,
        "name": one.identity,
        "at": _extents(one.medium),
        "format": one.format_index,
        "blocks": one.nsze,
    }
    if one.shared:
        state["shared"] = 1
    if one.anagrpid:
        state["ana"] = one.anagrpid
    if one.protection in (WriteProtection.PROTECTED, WriteProtection.PERMANENT):
        state["protection"] = one.protection.value
    if one.marked:
        state["marked"] = [list(pair) for pair in one.marked.ranges()]
    reservations = one.reservations
    if reservations.ptpl:
        state["reservations"] = {
            "keys": [[host.hex(), key] for host, key in reservations.keys.items()],
            "kind": int(reservations.kind),
            "holder": None if reservations.holder is None else reservations.holder.hex(),
            "generation": reservations.generation,
        }
    more = _saved(NAMESPACE_PARTS, one)
    if more:
        state["parts"] = more
    return state


def _save_namespaces(subsystem: NvmSubsystem) -> dict[str, Any]:
    return {
        "list": [_save_namespace(one) for _, one in sorted(subsystem.namespaces.items())],
        "attached": sorted(subsystem.attached_by_default),
        "made": subsystem.namespaces_made,
    }


def _restore_namespaces(subsystem: NvmSubsystem, media: BlockMedia, saved: dict[str, Any]) -> None:
    capacity = subsystem.capacity
    subsystem.namespaces.clear()
    capacity.give(media)
    for state in saved["list"]:
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
        if state.get("reservations"):
            _restore_reservations(one, state["reservations"])
        # The device may have been given fewer groups since.
        group = state.get("ana", 0)
        one.anagrpid = group if 0 < group <= subsystem.ana.count else subsystem.ana.default_group(one.nsid)
        subsystem.namespaces[one.nsid] = one
        _read(NAMESPACE_PARTS, one, state.get("parts", {}), f"namespace {one.nsid}")
    subsystem.attached_by_default = set(saved["attached"])
    subsystem.namespaces_made = saved["made"]


def _restore_reservations(one: Namespace, state: dict[str, Any]) -> None:
    reservations = one.reservations
    reservations.ptpl = True
    reservations.keys.update((bytes.fromhex(host), key) for host, key in state["keys"])
    reservations.generation = state["generation"]
    kind = ReservationType(state["kind"])
    if kind is not ReservationType.NONE:
        reservations.holder, reservations.kind = bytes.fromhex(state["holder"]), kind
        one.hold(Hold.RESERVED)


# Controllers -----------------------------------------------------------------------------------------------


def controller_key(ctrl: Controller) -> str:
    """Under which name a controller's parts are kept. Those of a fabric come and go, and share what they count."""
    return "fabric" if ctrl.config.message_based else str(ctrl.config.cntlid)


def remember(ctrl: Controller) -> dict[str, list[Any]]:
    """A controller's parts."""
    return _saved(CONTROLLER_PARTS, ctrl)


def restore_controller(ctrl: Controller, saved: dict[str, Any]) -> None:
    """Give a controller its parts back. MediaError for what is none."""
    try:
        _read(CONTROLLER_PARTS, ctrl, saved, f"controller {ctrl.config.cntlid}")
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise _damaged(error) from error


# All of it -------------------------------------------------------------------------------------------------


def _damaged(error: Exception) -> MediaError:
    return MediaError(_EINVAL, f"the image's state is damaged: {type(error).__name__}: {error}")


class Snapshot(NamedTuple):
    """What is to be kept, and of it the part whose change is worth a write by itself: no clock and no counter."""

    contents: bytes
    essence: str


def snapshot(subsystem: NvmSubsystem) -> Snapshot:
    """The state as the medium is to keep it. ValueError for more than the bounds allow."""
    controllers = dict(subsystem.remembered)
    for _, ctrl in sorted(subsystem.controllers.items(), reverse=True):
        controllers[controller_key(ctrl)] = remember(ctrl)
    sections = {"namespaces": [1, _save_namespaces(subsystem)], **_saved(SECTIONS, subsystem)}
    essence = _text({name: value for name, value in sections.items() if name not in _GO_ALONG})
    sections["controllers"] = [1, controllers]
    return Snapshot(_text({"version": _VERSION, "sections": sections}).encode(), essence)


def restore(subsystem: NvmSubsystem, media: BlockMedia, contents: bytes) -> None:
    """Make the subsystem what it was. Its one namespace was all of `media`. Raises MediaError for a foreign state."""
    try:
        state = json.loads(contents)
        version = state["version"]
        if version not in (1, _VERSION):
            raise MediaError(
                _EINVAL, f"the image's state has version {version}, this program knows versions 1 to {_VERSION}"
            )
        sections = dict(state["sections"]) if version == _VERSION else _sections_of_version_1(state)
        for name in ("namespaces", "controllers"):
            if sections[name][0] != 1:
                found = f"{name!r} in version {sections[name][0]}"
                raise MediaError(_EINVAL, f"the image's state has {found}; this program knows version 1")
        controllers = sections.pop("controllers")[1]
        _restore_namespaces(subsystem, media, sections.pop("namespaces")[1])
        _read(SECTIONS, subsystem, sections, "the subsystem")
        subsystem.remembered = {str(key): dict(value) for key, value in controllers.items()}
        _count_power_on(subsystem)
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise _damaged(error) from error


def _count_power_on(subsystem: NvmSubsystem) -> None:
    for saved in subsystem.remembered.values():
        if "counters" in saved:
            counters = saved["counters"][1]
            counters["power_cycles"] = counters.get("power_cycles", 0) + 1
            counters["unsafe_shutdowns"] = counters.get("unsafe_shutdowns", 0) + (not subsystem.clean)
    subsystem.clean = True


def _sections_of_version_1(state: dict[str, Any]) -> dict[str, Any]:
    return {
        "namespaces": [
            1, {"list": state["namespaces"], "attached": state["attached"], "made": state["made"]},
        ],
        "features": [1, state["features"]],
        "firmware": [1, state["firmware"]],
        "sanitize": [1, state["sanitize"]],
        "controllers": [1, {"0": {"counters": [1, state["counters"]]}}],
    }  # fmt: skip


# When it is stored -----------------------------------------------------------------------------------------


def keep(ctrl: Controller) -> None:
    """Have the medium remember what a command has changed, before it completes.

    Raises CommandError Internal Error where the medium cannot: then the change may be gone with the power.
    """
    try:
        ctrl.subsystem.store()
    except (OSError, ValueError) as error:
        ctrl.counters.media_errors += 1
        raise CommandError(Status.INTERNAL, dnr=False) from error


def keep_changes(ctrl: Controller, *namespaces: Namespace, flush: bool = False) -> None:
    """What I/O has changed of these namespaces is kept now; with ``flush`` of the subsystem too. As `keep`."""
    subsystem = ctrl.subsystem
    if flush and ctrl.now_ns - subsystem.stored_ns >= KEEP_AFTER_NS:
        subsystem.unsaved = True
    if (flush and subsystem.unsaved) or any(one.unsaved for one in namespaces):
        keep(ctrl)
