"""What nvme-cli's zns plugin prints of a zoned namespace: the same keys in the same order (nvme-cli 2.13)."""

from __future__ import annotations

from typing import Any, Final

from nvme_emu.spec.identify import IDENTIFY_NAMESPACE
from nvme_emu.spec.zns import (
    CHANGED_ZONE_LIST,
    CHANGED_ZONES_OVERFLOW,
    IDENTIFY_ZNS_CONTROLLER,
    IDENTIFY_ZNS_NAMESPACE,
    ZA,
    ZT_SEQUENTIAL_WRITE_REQUIRED,
    ZoneDescriptor,
    ZoneState,
)

__all__ = ["STATE_NAMES", "TOO_MANY_CHANGED", "changed_zones", "extension_lines", "id_ctrl", "id_ns", "report_zones"]

_ID_NS: Final = (
    "zoc", "ozcs", "mar", "mor", "rrl", "frl", "rrl1", "rrl2", "rrl3", "frl1", "frl2", "frl3", "numzrwa", "zrwafg",
    "zrwasz", "zrwacap",
)  # fmt: skip
STATE_NAMES: Final = {
    ZoneState.EMPTY: "EMPTY",
    ZoneState.IMPLICITLY_OPENED: "IMP_OPENED",
    ZoneState.EXPLICITLY_OPENED: "EXP_OPENED",
    ZoneState.CLOSED: "CLOSED",
    ZoneState.READ_ONLY: "READONLY",
    ZoneState.FULL: "FULL",
    ZoneState.OFFLINE: "OFFLINE",
}
TOO_MANY_CHANGED: Final = "Too many zones have changed to fit into the log. Use report zones for changes."
_LINE_BYTES: Final = 16


def id_ctrl(data: bytes) -> dict[str, Any]:
    """Identify Controller (CNS 06h, CSI 02h)."""
    return {"zasl": IDENTIFY_ZNS_CONTROLLER.parse(data).zasl}


def id_ns(data: bytes, namespace: bytes) -> dict[str, Any]:
    """Identify Namespace (CNS 05h, CSI 02h); ``namespace`` is CNS 00h, which says how many formats there are."""
    fields = IDENTIFY_ZNS_NAMESPACE.parse(data)
    formats = fields.lbafe[: IDENTIFY_NAMESPACE.parse(namespace).nlbaf_z + 1]
    found: dict[str, Any] = {key: fields[key] for key in _ID_NS}
    found["lbafe"] = [{"zsze": one["zsze"], "zdes": one["zdes"]} for one in formats]
    return found


def extension_lines(extension: bytes) -> list[str]:
    """A descriptor extension as characters, 16 a line."""
    return [
        "".join(chr(byte) if 0x21 <= byte <= 0x7E else "." for byte in extension[at : at + _LINE_BYTES])
        for at in range(0, len(extension), _LINE_BYTES)
    ]


def report_zones(total: int, zones: list[ZoneDescriptor], extended: bool = False) -> dict[str, Any]:
    """A report."""
    return {"nr_zones": total, "zone_list": [_zone(one, extended) for one in zones]}


def _zone(zone: ZoneDescriptor, extended: bool) -> dict[str, Any]:
    found: dict[str, Any] = {
        "slba": zone.start,
        "wp": zone.wp,
        "cap": zone.capacity,
        "state": STATE_NAMES[zone.state],
        "type": "SEQWRITE_REQ" if zone.zone_type == ZT_SEQUENTIAL_WRITE_REQUIRED else "Unknown",
        "attrs": zone.attributes,
        "attrs_info": 0,
    }
    if extended:
        valid = zone.attributes & ZA.mask("zdev")
        found["ext_data"] = extension_lines(zone.extension) if valid else "Not valid"
    return found


def changed_zones(data: bytes) -> dict[str, Any]:
    """Changed Zone List (LID BFh)."""
    fields = CHANGED_ZONE_LIST.parse(data)
    if fields.nrzid == CHANGED_ZONES_OVERFLOW:
        return {"result": TOO_MANY_CHANGED}
    return {"nrzid": fields.nrzid, **{f"zid {number:03}": zid for number, zid in enumerate(fields.zid[: fields.nrzid])}}
