"""The lasting state of a subsystem that works, for a copy of it: as it would be after a normal shutdown.

The copy has one medium, in which those of the subsystem lie one behind the other.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nvme_emu.controller.capacity import Extent, ExtentMedia
from nvme_emu.controller.lasting import snapshot
from nvme_emu.spec.opcodes import AdminOpcode

if TYPE_CHECKING:
    from nvme_emu.controller.namespace import BlockMedia, Namespace
    from nvme_emu.controller.subsystem import NvmSubsystem

__all__ = ["copied_state", "under_way"]


def under_way(subsystem: NvmSubsystem) -> int:
    """How many commands the controllers have been sent and have not completed, and formats that go on.

    Asynchronous event requests are none.
    """
    found = sum(one.formatting is not None for one in subsystem.namespaces.values())
    for ctrl in subsystem.controllers.values():
        found += sum(
            bool(sqid) or cmd.opcode != AdminOpcode.ASYNC_EVENT_REQUEST
            for (sqid, _), cmd in ctrl.outstanding.items()
        )
        found += sum(sq.waiting() for sq in ctrl.rings.sqs.values())
    return found


def copied_state(subsystem: NvmSubsystem, media: Sequence[BlockMedia], bases: Sequence[int]) -> bytes:
    """What the copy's medium has to remember; ``bases`` is where in it each of the subsystem's media begins.

    ValueError for more than the bounds allow.
    """
    state = json.loads(snapshot(subsystem).contents)
    sections = state["sections"]
    sections["power"][1]["clean"] = True
    base_of = {id(one): base for one, base in zip(media, bases, strict=True)}
    for saved in sections["namespaces"][1]["list"]:
        saved["at"] = [
            [base_of[id(extent.media)] + extent.start, extent.nbytes]
            for extent in _extents(subsystem.namespaces[saved["id"]])
        ]
    return json.dumps(state, separators=(",", ":")).encode()


def _extents(namespace: Namespace) -> Sequence[Extent]:
    medium: Any = namespace.medium
    while hasattr(medium, "medium"):
        medium = medium.medium  # below the overlays of fault rules
    return medium.extents if isinstance(medium, ExtentMedia) else (Extent(medium, 0, medium.nbytes),)
