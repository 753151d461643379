"""What lasts of a namespace's zones: a row of `lasting.NAMESPACE_PARTS`.

    {"config": {"zone_size": 16777216, …}, "states": "1e4f…", "pointers": [[zone, blocks written], …],
     "extensions": [[zone, hex], …]}

There is a hexadecimal digit a zone, its state, and a pointer where it is not what the state implies. After power on
zones that were active are Closed or Empty, and what lies above a write pointer is deallocated: nobody was promised it.
"""

from __future__ import annotations

from typing import Any

from nvme_emu.controller.namespace import Namespace
from nvme_emu.controller.zns_config import ZnsConfig

__all__ = ["restore_zones", "save_zones"]


def save_zones(namespace: Namespace) -> dict[str, Any] | None:
    """The value that is kept; None for a namespace that is not zoned."""
    return None if namespace.zones is None else namespace.zones.saved()


def restore_zones(namespace: Namespace, value: dict[str, Any]) -> None:
    """Make it what it was. Raises ValueError, KeyError, TypeError or IndexError for a value that is none."""
    namespace.make_zoned(ZnsConfig(**value["config"]))
    zones = namespace.zones
    assert zones is not None, "it has just been zoned"
    zones.restore(value)
    for start, blocks in zones.unwritten():
        namespace.media.discard(start << namespace.lba_shift, blocks << namespace.lba_shift)
