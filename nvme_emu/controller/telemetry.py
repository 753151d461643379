"""Telemetry: a record of the device's inside, made when the host asks or when the device failed.

NVMe Base 2.1, clauses 5.1.12.1.8, 5.1.12.1.9 and 8.1.26. The specification leaves the contents to the vendor: here data
area 1 is JSON (how the device is), area 2 the newest entries of the error log, area 3 is empty.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from nvme_emu.controller.lasting_parts import pack
from nvme_emu.spec.events import AsyncEventType, AsyncNoticeInfo
from nvme_emu.spec.logs import TELEMETRY_BLOCK, TELEMETRY_CONTROLLER, TELEMETRY_HOST, Lid

if TYPE_CHECKING:
    from nvme_emu.controller.controller import Controller

__all__ = ["Telemetry"]

_GENERATIONS: Final = 256
_AREA_2_ENTRIES: Final = 8
_SCOPE_CONTROLLER: Final = 1
_HEADER: Final = TELEMETRY_BLOCK


def _blocks(data: bytes) -> bytes:
    """Filled up to whole telemetry data blocks."""
    return data.ljust(-(-len(data) // TELEMETRY_BLOCK) * TELEMETRY_BLOCK, b"\0")


class Telemetry:
    """What was recorded last, for the host and by the controller itself; both outlive a reset."""

    def __init__(self, ctrl: Controller) -> None:
        self._ctrl = ctrl
        self._host: tuple[bytes, bytes] = b"", b""
        self._host_generation = 0
        self._own: tuple[bytes, bytes] = b"", b""
        self._own_generation = 0
        self._own_reason = b""
        self.available = False
        """Telemetry Controller-Initiated Data Available: recorded, and not read to its end of retaining yet."""

    def _record(self) -> tuple[bytes, bytes]:
        ctrl = self._ctrl
        told: dict[str, Any] = {
            "state": ctrl.state.value,
            "time_ns": ctrl.now_ns,
            "counters": ctrl.counters.as_dict(),
            "in_flight": len(ctrl.outstanding),
            "queues": {"submission": sorted(ctrl.rings.sqs), "completion": sorted(ctrl.rings.cqs)},
            "temperature_k": ctrl.temperature_k,
            "subsystem": ctrl.subsystem.describe(),
        }
        area_1 = json.dumps(told, sort_keys=True).encode()
        area_2 = ctrl.error_log.page()[: 64 * _AREA_2_ENTRIES]
        return _blocks(area_1), _blocks(area_2)

    def failed(self, reason: str) -> None:
        """Something went wrong inside: record it and tell the host."""
        self._own = self._record()
        self._own_generation = (self._own_generation + 1) % _GENERATIONS
        self._own_reason = reason.encode("ascii", "replace")[:128]
        self.available = True
        self._ctrl.events.post(
            AsyncEventType.NOTICE, AsyncNoticeInfo.TELEMETRY_LOG_CHANGED, Lid.TELEMETRY_CONTROLLER
        )

    def saved(self) -> dict[str, Any] | None:
        """What is kept without power: the controller's own record, and the numbers of both; None before the first."""
        if not (self._own_generation or self._host_generation):
            return None
        return {
            "area_1": pack(self._own[0]),
            "area_2": pack(self._own[1]),
            "reason": pack(self._own_reason),
            "own": self._own_generation,
            "host": self._host_generation,
            "new": self.available,
        }

    def restore(self, areas: tuple[bytes, bytes], reason: bytes, generations: tuple[int, int], new: bool) -> None:
        """After power on; the generations are those of the controller's own record and of the host's."""
        self._own, self._own_reason, self.available = (_blocks(areas[0]), _blocks(areas[1])), reason[:128], new
        self._own_generation, self._host_generation = (one % _GENERATIONS for one in generations)

    def host_page(self, create: bool) -> bytes:
        """Log page 07h; ``create`` records anew (LSP bit 0)."""
        if create:
            self._host = self._record()
            self._host_generation = (self._host_generation + 1) % _GENERATIONS
        return self._page(TELEMETRY_HOST, Lid.TELEMETRY_HOST, self._host, b"")

    def own_page(self) -> bytes:
        """Log page 08h."""
        return self._page(TELEMETRY_CONTROLLER, Lid.TELEMETRY_CONTROLLER, self._own, self._own_reason)

    def acknowledged(self) -> None:
        """The host has read log page 08h without retaining its event."""
        self.available = False

    def _page(self, structure: Any, lid: int, areas: tuple[bytes, bytes], reason: bytes) -> bytes:
        first, second = areas
        last_1 = len(first) // TELEMETRY_BLOCK
        last_2 = last_1 + len(second) // TELEMETRY_BLOCK
        fields: dict[str, Any] = {
            "lid": lid,
            "ieee": self._ctrl.config.ieee_oui,
            "da1lb": last_1,
            "da2lb": last_2,
            "da3lb": last_2,
            "tcda": int(self.available),
            "tcdgn": self._own_generation,
            "rid": reason,
        }
        if lid == Lid.TELEMETRY_HOST:
            fields |= {"this": _SCOPE_CONTROLLER, "thdgn": self._host_generation}
        else:
            fields |= {"tcis": _SCOPE_CONTROLLER}
        header: bytes = structure.build(**fields)
        return header + first + second
