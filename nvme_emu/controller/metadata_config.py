"""How namespaces with metadata are made: what a user chooses who makes an SSD, in the words of Format NVM."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from nvme_emu.controller.namespace import LBA_FORMATS
from nvme_emu.spec.protection import PI_BYTES, PiType

if TYPE_CHECKING:
    from nvme_emu.controller.namespace import Namespace

__all__ = ["MetadataConfig"]


@dataclass(frozen=True, kw_only=True, slots=True)
class MetadataConfig:
    """``ms`` bytes of metadata a block; ``pi`` the type of protection information in it (0 for none), at its end or,
    with ``pil`` 1, at its start; ``mset`` 1 makes it part of extended LBAs, 0 gives it a buffer of its own (MPTR).

    Behind a fabric it always is part of extended LBAs.
    """

    ms: int = 8
    pi: int = 0
    pil: int = 0
    mset: int = 0

    def __post_init__(self) -> None:
        sizes = sorted({one.ms for one in LBA_FORMATS})
        for name, allowed in (("ms", sizes), ("pi", sorted(PiType)), ("pil", [0, 1]), ("mset", [0, 1])):
            value = getattr(self, name)
            if isinstance(value, bool) or value not in allowed:
                raise ValueError(f"{name}={value!r}: must be one of {', '.join(str(int(one)) for one in allowed)}")
        if self.pi and self.ms < PI_BYTES:
            raise ValueError(f"pi={self.pi}: needs {PI_BYTES} bytes of metadata, ms={self.ms}")

    @classmethod
    def parse(cls, text: str) -> MetadataConfig:
        """The value of NAME=VALUE,…; "" is all defaults. Raises ValueError."""
        known = [one.name for one in fields(cls)]
        given: dict[str, int] = {}
        for part in filter(None, text.split(",")):
            name, _, value = part.partition("=")
            if name not in known:
                raise ValueError(f"{name!r} is none of {', '.join(known)}")
            if not value.isdecimal():
                raise ValueError(f"{name}={value!r}: a number is needed")
            given[name] = int(value)
        return cls(**given)

    def apply(self, namespace: Namespace) -> None:
        """Give a new namespace such metadata, with blocks of the size that it has. ValueError for a zoned one."""
        if namespace.zones is not None:
            raise ValueError("zoned and metadata: zoned namespaces have no metadata")
        index = next(
            index
            for index, one in enumerate(LBA_FORMATS)
            if (1 << one.lbads, one.ms) == (namespace.lba_size, self.ms)
        )
        pi = PiType(self.pi)
        namespace.set_format(index, pi=pi, first=bool(self.pil), extended=bool(self.mset))
