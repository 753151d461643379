"""The features of power and temperature (NVMe Base 2.1, clause 5.1.25.1): what they accept, and their defaults."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nvme_emu.controller.feature_base import DataFeature, Feature, refuse
from nvme_emu.controller.locations import PRP1
from nvme_emu.core.errors import CommandError
from nvme_emu.spec.feature_data import APST_ENTRY, APST_TABLE
from nvme_emu.spec.features import (
    AUTONOMOUS_POWER_STATE_TRANSITION,
    HOST_THERMAL_MANAGEMENT,
    NON_OPERATIONAL_POWER_STATE,
    POWER_MANAGEMENT,
    TEMPERATURE_THRESHOLD,
    Fid,
)
from nvme_emu.spec.status import Status

if TYPE_CHECKING:
    from nvme_emu.controller.config import ControllerConfig
    from nvme_emu.controller.controller import Controller

__all__ = [
    "POWER_FEATURES",
    "TEMPERATURE_CRITICAL_K",
    "TEMPERATURE_HYSTERESIS_MAX_K",
    "TEMPERATURE_WARNING_K",
    "THERMAL_MAX_K",
    "THERMAL_MIN_K",
    "THRESHOLD_OVER",
    "THRESHOLD_UNDER",
    "idle_table",
    "threshold_selector",
]

TEMPERATURE_WARNING_K: Final = 343
"""WCTEMP, and the default over temperature threshold: 70 degrees Celsius, as consumer drives report it."""
TEMPERATURE_CRITICAL_K: Final = 353
"""CCTEMP: 80 degrees Celsius."""
TEMPERATURE_HYSTERESIS_MAX_K: Final = 7
"""TMPTHHA: the largest hysteresis of a threshold."""
THERMAL_MIN_K, THERMAL_MAX_K = 303, TEMPERATURE_CRITICAL_K
"""MNTMT and MXTMT: between which feature 10h may be set."""

THRESHOLD_OVER: Final = 0
THRESHOLD_UNDER: Final = 1
_SENSOR_COMPOSITE: Final = 0x0
_SENSOR_ALL: Final = 0xF
_OVER_NEVER_K: Final = 0xFFFF


def threshold_selector(sensor: int, kind: int) -> int:
    """Which threshold: of the composite temperature (0) or a sensor (1 to 8), over or under."""
    return kind << 4 | sensor


class _PowerManagement(Feature):
    """The state that the controller is in, which it may have chosen itself."""

    layout = POWER_MANAGEMENT

    def accept(self, ctrl: Controller, cdw11: int) -> int:
        if POWER_MANAGEMENT["ps"].extract(cdw11) > ctrl.config.npss_z:
            raise refuse(POWER_MANAGEMENT, "ps")
        return super().accept(ctrl, cdw11)

    def live(self, ctrl: Controller, nsid: int) -> int:
        return POWER_MANAGEMENT.pack(ps=ctrl.power.state, wh=ctrl.power.workload_hint)

    def apply(self, ctrl: Controller, nsid: int, value: int) -> None:
        ctrl.power.set(value)


class _TemperatureThreshold(Feature):
    """Thresholds of the Composite Temperature and of the sensors that there are, with hysteresis."""

    layout = TEMPERATURE_THRESHOLD

    def default(self, config: ControllerConfig, selector: int) -> int:
        kind, sensor = selector >> 4, selector & 0xF
        over_k = _OVER_NEVER_K if sensor else TEMPERATURE_WARNING_K
        return TEMPERATURE_THRESHOLD.pack(tmpth=0 if kind else over_k, tmpsel=sensor, thsel=kind)

    def selector(self, ctrl: Controller, cdw11: int, setting: bool) -> int:
        fields = TEMPERATURE_THRESHOLD.unpack(cdw11)
        every = setting and fields.tmpsel == _SENSOR_ALL
        if fields.tmpsel > ctrl.config.temperature_sensors and not every:
            raise refuse(TEMPERATURE_THRESHOLD, "tmpsel")
        if fields.thsel not in (THRESHOLD_OVER, THRESHOLD_UNDER):
            raise refuse(TEMPERATURE_THRESHOLD, "thsel")
        return threshold_selector(fields.tmpsel, fields.thsel)

    def selectors(self, ctrl: Controller, cdw11: int) -> list[int]:
        asked = self.selector(ctrl, cdw11, True)
        if asked & 0xF != _SENSOR_ALL:
            return [asked]
        return [threshold_selector(sensor, asked >> 4) for sensor in range(ctrl.config.temperature_sensors + 1)]

    def accept(self, ctrl: Controller, cdw11: int) -> int:
        fields = TEMPERATURE_THRESHOLD.unpack(cdw11)
        if fields.tmpthh > TEMPERATURE_HYSTERESIS_MAX_K:
            raise refuse(TEMPERATURE_THRESHOLD, "tmpthh")
        sensor = fields.tmpsel if fields.tmpsel != _SENSOR_ALL else _SENSOR_COMPOSITE
        return TEMPERATURE_THRESHOLD.pack(
            tmpth=fields.tmpth, tmpsel=sensor, thsel=fields.thsel, tmpthh=fields.tmpthh
        )

    def value_of(self, selector: int, value: int) -> int:
        return TEMPERATURE_THRESHOLD.replace(value, tmpsel=selector & 0xF)


def idle_table(value: int) -> list[tuple[int, int]]:
    """(ITPS, ITPT in ms) from each power state, of a value of feature 0Ch."""
    entries = APST_TABLE.parse((value >> 1).to_bytes(APST_TABLE.size, "little")).entries
    fields = map(APST_ENTRY.unpack, entries)
    return [(one.itps, one.itpt) for one in fields]


class _IdleTransitions(DataFeature):
    """Autonomous Power State Transition: kept as the table, and APSTE in bit 0."""

    layout = AUTONOMOUS_POWER_STATE_TRANSITION
    structure = APST_TABLE
    lasting = True

    def offered(self, config: ControllerConfig) -> bool:
        return config.has_idle_states

    def accept_with(self, ctrl: Controller, cdw11: int, data: bytes) -> int:
        states = ctrl.config.power_states
        for number, entry in enumerate(APST_TABLE.parse(data).entries[: len(states)]):
            fields = APST_ENTRY.unpack(entry)
            if fields.itpt and not self._may(ctrl, number, fields.itps):
                raise CommandError(Status.INVALID_FIELD, location=PRP1)
        known = [entry & ~APST_ENTRY.reserved_mask for entry in APST_TABLE.parse(data).entries[: len(states)]]
        table = APST_TABLE.build(entries=known)
        return int.from_bytes(table, "little") << 1 | AUTONOMOUS_POWER_STATE_TRANSITION["apste"].extract(cdw11)

    @staticmethod
    def _may(ctrl: Controller, state: int, target: int) -> bool:
        """Only into a state without I/O; from one of them only into a deeper one."""
        states = ctrl.config.power_states
        if target >= len(states) or states[target].operational:
            return False
        return states[state].operational or target > state

    def dw0(self, value: int | None) -> int:
        return (value or 0) & 1

    def data(self, ctrl: Controller, value: int | None) -> bytes:
        return ((value or 0) >> 1).to_bytes(APST_TABLE.size, "little")

    def default_data(self) -> bytes:
        return bytes(APST_TABLE.size)

    def apply(self, ctrl: Controller, nsid: int, value: int) -> None:
        ctrl.power.configure_idle()


class _NonOperational(Feature):
    """Permissive mode: what the controller does behind the host's back may draw more power for a while. Kept."""

    layout = NON_OPERATIONAL_POWER_STATE

    def offered(self, config: ControllerConfig) -> bool:
        return config.has_idle_states and not config.message_based


class _ThermalManagement(Feature):
    layout = HOST_THERMAL_MANAGEMENT

    def accept(self, ctrl: Controller, cdw11: int) -> int:
        fields = HOST_THERMAL_MANAGEMENT.unpack(cdw11)
        for name in ("tmt1", "tmt2"):
            kelvins = getattr(fields, name)
            if kelvins and not THERMAL_MIN_K <= kelvins <= THERMAL_MAX_K:
                raise refuse(HOST_THERMAL_MANAGEMENT, name)
        if fields.tmt1 and fields.tmt2 and fields.tmt1 >= fields.tmt2:
            raise refuse(HOST_THERMAL_MANAGEMENT, "tmt1")
        return super().accept(ctrl, cdw11)

    def apply(self, ctrl: Controller, nsid: int, value: int) -> None:
        ctrl.power.look_at_temperature()


POWER_FEATURES: Final[dict[int, Feature]] = {
    Fid.POWER_MANAGEMENT: _PowerManagement(),
    Fid.TEMPERATURE_THRESHOLD: _TemperatureThreshold(),
    Fid.AUTONOMOUS_POWER_STATE_TRANSITION: _IdleTransitions(),
    Fid.HOST_CONTROLLED_THERMAL_MANAGEMENT: _ThermalManagement(),
    Fid.NON_OPERATIONAL_POWER_STATE: _NonOperational(),
}
