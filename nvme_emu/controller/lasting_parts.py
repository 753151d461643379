"""What lasts of counters, logs and events: the values that `lasting` keeps of them."""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from nvme_emu.controller.controller import Controller
    from nvme_emu.controller.subsystem import NvmSubsystem

__all__ = [
    "natural",
    "pack",
    "restore_counters",
    "restore_errors",
    "restore_events",
    "restore_telemetry",
    "save_counters",
    "save_errors",
    "unpack",
]

_COUNTERS: Final = (
    "busy_ns", "media_errors", "power_cycles", "read_bytes", "read_commands", "unsafe_shutdowns", "write_bytes",
    "write_commands",
)  # fmt: skip
_U64_MAX: Final = (1 << 64) - 1


def natural(value: Any) -> int:
    """A number from 0 to 2**64 - 1. ValueError for anything else: what C keeps in 64 bits must not be given more."""
    if not isinstance(value, int) or not 0 <= value <= _U64_MAX:
        raise ValueError(f"{value!r} is no number of 64 bits")
    return value


def pack(data: bytes) -> str:
    """Bytes as text."""
    return b64encode(data).decode()


def unpack(text: Any) -> bytes:
    """The bytes of such a text. ValueError, TypeError for what is none."""
    return b64decode(text, validate=True)


def save_counters(ctrl: Controller) -> dict[str, int]:
    """What SMART counts."""
    return {name: getattr(ctrl.counters, name) for name in _COUNTERS}


def restore_counters(ctrl: Controller, value: Any) -> None:
    """A counter that the image does not name stays at its beginning."""
    for name in _COUNTERS:
        if name in value:
            setattr(ctrl.counters, name, natural(value[name]))


def save_errors(ctrl: Controller) -> int:
    """Of the error log only the count lasts (Base 2.1, 5.1.12.1.2)."""
    return ctrl.error_log.error_count


def restore_errors(ctrl: Controller, value: Any) -> None:
    """The next error has the next number."""
    ctrl.error_log.error_count = natural(value)


def restore_events(subsystem: NvmSubsystem, value: Any) -> None:
    """The Persistent Event log, oldest first."""
    subsystem.persistent_events.restore([unpack(text) for text in value["list"]], natural(value["generation"]))


def restore_telemetry(ctrl: Controller, value: Any) -> None:
    """What the controller recorded when it failed, and the numbers of the records."""
    areas = unpack(value["area_1"]), unpack(value["area_2"])
    generations = natural(value["own"]), natural(value["host"])
    ctrl.telemetry.restore(areas, unpack(value["reason"]), generations, bool(value["new"]))
