"""Where a controller shows memory of its own: the Controller Memory Buffer and the Persistent Memory Region.

    cmb_bar   the CMB is                                            CMBLOC
    0         in BAR0, behind the doorbells                         BIR 0, OFST behind them
    2         all of BAR2                                           BIR 2, OFST 0
    4         in BAR4, behind the MSI-X table and pending bits      BIR 4, OFST behind them

The PMR is all of BAR2: no property says where in a BAR one begins. Then the CMB is in BAR4 where nothing else is said.
Offsets are multiples of the buffer's size, so that a host may map it with large pages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from nvme_emu.controller.config import ControllerConfig

__all__ = ["CMB_BARS", "PAGE", "PMR_BAR", "bar_bytes", "check_buffers", "cmb_bar", "cmb_offset"]

PAGE: Final = 4096
CMB_BARS: Final = (0, 2, 4)
PMR_BAR: Final = 2
_CMB_BYTES_MAX: Final = 1 << 31
_PMR_BYTES_MAX: Final = 1 << 40
_MSIX_BYTES_MAX: Final = 1 << 16
"""The table of 2048 vectors with their pending bits fits into it."""
_RATE_MAX: Final = (1 << 54) - 1


def _power_of_two(nbytes: int) -> int:
    return 1 << (nbytes - 1).bit_length()


def cmb_bar(config: ControllerConfig) -> int:
    """The BAR that the CMB is in."""
    if config.cmb_bar is not None:
        return config.cmb_bar
    return 4 if config.pmr_bytes else 2


def cmb_offset(config: ControllerConfig) -> int:
    """Where in its BAR the CMB begins."""
    bar = cmb_bar(config)
    if bar == PMR_BAR:
        return 0
    return max(_power_of_two(config.cmb_bytes), config.bar_size if bar == 0 else _MSIX_BYTES_MAX)


def bar_bytes(config: ControllerConfig, bar: int, own: int) -> int:
    """Bytes of a BAR, a power of two, which has ``own`` bytes without these buffers; 0 for no BAR."""
    if config.cmb_bytes and cmb_bar(config) == bar:
        return _power_of_two(cmb_offset(config) + config.cmb_bytes)
    return config.pmr_bytes if config.pmr_bytes and bar == PMR_BAR else own


def check_buffers(config: ControllerConfig) -> None:
    """Raises ValueError for sizes and places that cannot be."""
    for name, size, limit in (
        ("cmb_bytes", config.cmb_bytes, _CMB_BYTES_MAX),
        ("pmr_bytes", config.pmr_bytes, _PMR_BYTES_MAX),
    ):
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= limit or size % PAGE:
            raise ValueError(f"{name}={size!r}: a multiple of {PAGE}, up to {limit}; 0 is none")
    if config.pmr_bytes & (config.pmr_bytes - 1):
        raise ValueError(f"pmr_bytes={config.pmr_bytes}: a power of two, as it is a whole BAR")
    if config.cmb_bar is not None and config.cmb_bar not in CMB_BARS:
        raise ValueError(f"cmb_bar={config.cmb_bar!r}: it is {', '.join(map(str, CMB_BARS))} or None")
    if config.cmb_bytes and config.pmr_bytes and cmb_bar(config) == PMR_BAR:
        raise ValueError(f"cmb_bar={config.cmb_bar}: BAR{PMR_BAR} is the Persistent Memory Region's")
    for name in ("cmb_elasticity_bytes", "cmb_throughput", "pmr_elasticity_bytes", "pmr_throughput"):
        value = getattr(config, name)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _RATE_MAX:
            raise ValueError(f"{name}={value!r}: an integer from 0 to {_RATE_MAX}; 0 is not reported")
