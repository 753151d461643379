"""Where a field is in a submission queue entry, as the error log wants it: (byte, bit).

NVMe Base 2.1, clause 5.1.12.1.2, "Parameter Error Location": the byte and the bit within it of the first
parameter of the command that is wrong.
"""

from __future__ import annotations

from typing import Final

from nvme_emu.spec.bits import BitLayout

__all__ = ["NSID", "PRP1", "location"]

_CDW0_BYTES: Final = 4

NSID: Final = (4, 0)
PRP1: Final = (24, 0)


def location(cdw: int, layout: BitLayout, field: str) -> tuple[int, int]:
    """(byte, bit) of a field of command dword ``cdw``; LayoutError for a field that the layout has not."""
    byte, bit = divmod(layout[field].lsb, 8)
    return _CDW0_BYTES * cdw + byte, bit
