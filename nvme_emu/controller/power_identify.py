"""What Identify Controller says of power and temperature (NVMe Base 2.1, clause 5.1.13.2.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from nvme_emu.controller.feature_power import (
    TEMPERATURE_CRITICAL_K,
    TEMPERATURE_HYSTERESIS_MAX_K,
    TEMPERATURE_WARNING_K,
    THERMAL_MAX_K,
    THERMAL_MIN_K,
)
from nvme_emu.spec.identify import CTRATT, POWER_STATE_FLAGS

if TYPE_CHECKING:
    from nvme_emu.controller.config import ControllerConfig
    from nvme_emu.controller.power_states import PowerState

__all__ = ["describe_power"]

_POWER_MAX_CENTIWATTS: Final = 825
_FINE_MAX_MW: Final = 6553
"""The most that 16 bits of 0.0001 W hold."""
_FINE, _COARSE = 1, 2
"""IPS and APS: the idle and active powers are in units of 0.0001 W or 0.01 W."""
_SCALE_SHIFT: Final = 6


def _scaled(milliwatts: int) -> tuple[int, int]:
    """(value, scale) of an idle or active power; a power of 0 is not reported."""
    if not milliwatts:
        return 0, 0
    return (milliwatts * 10, _FINE) if milliwatts <= _FINE_MAX_MW else (milliwatts // 10, _COARSE)


def _descriptor(state: PowerState) -> dict[str, int]:
    fine = state.max_power_mw <= _FINE_MAX_MW and state.max_power_mw % 10 > 0
    idle, idle_scale = _scaled(state.idle_mw)
    active, active_scale = _scaled(state.active_mw)
    return {
        "mp": state.max_power_mw * 10 if fine else state.max_power_mw // 10,
        "flags": POWER_STATE_FLAGS.pack(mxps=int(fine), nops=int(not state.operational)),
        "enlat": state.entry_us,
        "exlat": state.exit_us,
        "rrt": state.rrt,
        "rrl": state.rrl,
        "rwt": state.rwt,
        "rwl": state.rwl,
        "idlp": idle,
        "ips": idle_scale << _SCALE_SHIFT,
        "actp": active,
        "apws": active_scale << _SCALE_SHIFT,
    }


def _descriptors(config: ControllerConfig) -> list[dict[str, int]]:
    if config.power_states:
        return [_descriptor(state) for state in config.power_states]
    # Operational states of falling power; the device is as fast in each of them.
    count = config.npss_z + 1
    return [{"mp": max(1, _POWER_MAX_CENTIWATTS * (count - state) // count)} for state in range(count)]


def describe_power(config: ControllerConfig, fields: dict[str, Any]) -> None:
    """Add to the fields of Identify Controller."""
    idles = config.has_idle_states
    fields |= {
        "npss_z": config.npss_z,
        "psd": _descriptors(config),
        "apsta": int(idles),
        "wctemp": TEMPERATURE_WARNING_K,
        "cctemp": TEMPERATURE_CRITICAL_K,
        "tmpthha": TEMPERATURE_HYSTERESIS_MAX_K,
        "hctma": 1,
        "mntmt": THERMAL_MIN_K,
        "mxtmt": THERMAL_MAX_K,
    }
    if idles and not config.message_based:
        fields["ctratt"] |= CTRATT.mask("nopspm")
