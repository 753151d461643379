"""How zoned namespaces are divided: frozen, from fields or from text such as zone_size=16M,max_open=4,offline=3:5."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

from nvme_emu.core.units import parse_size
from nvme_emu.spec.zns import ZDES_UNIT

__all__ = ["ZnsConfig"]

_GRANULE: Final = 4096
_ZONES_MAX: Final = 1 << 20
_RESOURCES_MAX: Final = 0xFFFF_FFFE
_SIZES: Final = frozenset({"zone_size", "zone_capacity"})
_LISTS: Final = frozenset({"read_only", "offline"})
_FLAGS: Final = frozenset({"cross_read"})
_TRUE, _FALSE = frozenset({"1", "on", "yes", "true"}), frozenset({"0", "off", "no", "false"})


def _number(text: str, where: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise ValueError(f"{where}: a number is needed") from None


@dataclass(frozen=True, kw_only=True, slots=True)
class ZnsConfig:
    """Zones of ``zone_size`` bytes, of which ``zone_capacity`` can be written (0: all of them).

    At most ``max_open`` zones are open and ``max_active`` open or closed (0: no limit). Each zone has a descriptor
    extension of ``zdes`` bytes. ``cross_read`` lets reads go across zones (OZCS.RAZB). ``zasl`` limits Zone Append, in
    powers of two of the minimum page size (0: as Write). The zones of the numbers in ``read_only`` and ``offline`` are
    broken in a new namespace. Sizes are multiples of 4096 bytes. Raises ValueError.
    """

    zone_size: int = 16 << 20
    zone_capacity: int = 0
    max_open: int = 0
    max_active: int = 0
    zdes: int = 0
    cross_read: bool = False
    zasl: int = 0
    read_only: tuple[int, ...] = ()
    offline: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("zone_size", "zone_capacity", "max_open", "max_active", "zdes", "zasl"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise ValueError(f"{name}={value!r}: must be an integer that is not negative")
        if not self.zone_size or self.zone_size % _GRANULE:
            raise ValueError(f"zone_size={self.zone_size}: must be a multiple of {_GRANULE} bytes")
        if self.zone_capacity % _GRANULE or self.zone_capacity > self.zone_size:
            raise ValueError(f"zone_capacity={self.zone_capacity}: a multiple of {_GRANULE}, at most zone_size")
        for name in ("max_open", "max_active"):
            if getattr(self, name) > _RESOURCES_MAX:
                raise ValueError(f"{name}={getattr(self, name)}: MAR and MOR have 32 bits")
        if self.max_active and self.max_open > self.max_active:
            raise ValueError(f"max_open={self.max_open}: not more than max_active={self.max_active}, as open is active")
        if self.zdes % ZDES_UNIT or self.zdes > 255 * ZDES_UNIT:
            raise ValueError(f"zdes={self.zdes}: a multiple of {ZDES_UNIT} bytes, at most {255 * ZDES_UNIT}")
        for name in _LISTS:
            object.__setattr__(self, name, tuple(getattr(self, name)))
            if any(not isinstance(number, int) or number < 0 for number in getattr(self, name)):
                raise ValueError(f"{name}={getattr(self, name)!r}: numbers of zones")
        if set(self.read_only) & set(self.offline):
            raise ValueError(f"zones {sorted(set(self.read_only) & set(self.offline))} are both read_only and offline")
        if self.zasl > 20:
            raise ValueError(f"zasl={self.zasl}: at most 20 (Zone Append Size Limit)")

    @property
    def capacity(self) -> int:
        """Bytes of a zone that can be written."""
        return self.zone_capacity or self.zone_size

    @property
    def max_open_resources(self) -> int:
        """Open zones at most, 0 for no limit: as many as may be active where that alone is limited."""
        return self.max_open or self.max_active

    def zones_in(self, nbytes: int) -> int:
        """How many zones so many bytes make. Raises ValueError for none, and for too many."""
        count = nbytes // self.zone_size
        if not 0 < count <= _ZONES_MAX:
            raise ValueError(f"{nbytes} bytes make {count} zones of {self.zone_size}: it must be 1 to {_ZONES_MAX}")
        return count

    @classmethod
    def parse(cls, text: str) -> ZnsConfig:
        """The value of NAME=VALUE,…; "" is all defaults. Raises ValueError."""
        known = {one.name for one in fields(cls)}
        given: dict[str, Any] = {}
        for part in filter(None, text.split(",")):
            name, equals, value = part.partition("=")
            if name not in known:
                raise ValueError(f"{name!r} is none of {', '.join(sorted(known))}")
            if name in _FLAGS:
                word = value.lower() if equals else "on"
                if word not in _TRUE | _FALSE:
                    raise ValueError(f"{part}: on or off")
                given[name] = word in _TRUE
            elif name in _SIZES:
                given[name] = parse_size(value)
            elif name in _LISTS:
                given[name] = tuple(_number(one, part) for one in value.split(":"))
            else:
                given[name] = _number(value, part)
        return cls(**given)

    def as_dict(self) -> Mapping[str, Any]:
        """Plain values, for what is kept in an image."""
        return asdict(self)
