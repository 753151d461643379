"""How the device is: what SMART reports, and the critical warnings that raise events.

NVMe Base 2.1, clause 5.1.12.1.3 (SMART / Health Information), 5.1.25.1.3 (Temperature Threshold).

A warning raises its event once, when it and its bit in feature 0Bh are both there: when the condition begins,
or when the host enables the event while the condition lasts. It is raised again only after the condition or
the bit was gone in between, so that a host may read the log without getting the event back at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from nvme_emu.controller.feature_kinds import (
    TEMPERATURE_CRITICAL_K,
    TEMPERATURE_WARNING_K,
    THRESHOLD_OVER,
    THRESHOLD_UNDER,
)
from nvme_emu.controller.lasting_parts import natural
from nvme_emu.spec.events import AsyncEventType, AsyncImmediateInfo, AsyncSmartInfo
from nvme_emu.spec.logs import CRITICAL_WARNING, Lid

if TYPE_CHECKING:
    from nvme_emu.controller.controller import Controller

__all__ = ["Health"]

_NS_PER_MINUTE: Final = 60_000_000_000
_MINUTES_PER_HOUR: Final = 60
_TEMPERATURE_MAX_K: Final = 0xFFFF
_PERCENTAGE_USED_MAX: Final = 255

_EVENT_OF_WARNING: Final = {
    "ascbt": AsyncSmartInfo.SPARE_BELOW_THRESHOLD,
    "ttc": AsyncSmartInfo.TEMPERATURE_THRESHOLD,
    "ndr": AsyncSmartInfo.SUBSYSTEM_RELIABILITY,
    "amro": AsyncSmartInfo.SUBSYSTEM_RELIABILITY,
    "vmbf": AsyncSmartInfo.SUBSYSTEM_RELIABILITY,
    "pmrro": AsyncSmartInfo.SUBSYSTEM_RELIABILITY,
}


def _in_range(name: str, value: int, high: int) -> int:
    if not 0 <= value <= high:
        raise ValueError(f"{name}={value!r}: must be from 0 to {high} (SMART log page, Base 2.1, 5.1.12.1.3)")
    return value


class Health:
    """Temperature, spare and wear of the device. Temperatures are kelvins, spare and wear percent.

    What a user or a model sets takes effect at once: thresholds are compared and events raised.
    """

    def __init__(self, ctrl: Controller) -> None:
        self._ctrl = ctrl
        self._temperature_k = 310
        self._available_spare = 100
        self._percentage_used = 0
        self._reliability_degraded = False
        self._backup_failed = False
        self._sensors_k: list[int | None] = [None] * ctrl.config.temperature_sensors
        self._beyond: set[tuple[int, int]] = set()
        """The thresholds, as (sensor, kind), beyond which a temperature is, or has not come back far enough."""
        self._raised = 0
        self._seen_ns: int | None = None
        self._on_ns = 0
        self._warning_ns = 0
        self._critical_ns = 0
        self.spare_threshold = 10

    # -- what can be set ------------------------------------------------------------------------------------

    @property
    def temperature_k(self) -> int:
        """Composite Temperature in kelvins."""
        return self._temperature_k

    @temperature_k.setter
    def temperature_k(self, value: int) -> None:
        self.tick()
        before_k = self._temperature_k
        self._temperature_k = _in_range("temperature_k", value, _TEMPERATURE_MAX_K)
        if before_k < TEMPERATURE_WARNING_K <= value:
            over_k = value - TEMPERATURE_WARNING_K
            self._ctrl.subsystem.persistent_events.thermal_excursion(self._ctrl, over_k)
        self.evaluate()
        self._ctrl.power.look_at_temperature()

    @property
    def sensors_k(self) -> list[int]:
        """Temperature Sensors 1 to 8, those that there are, in kelvins; the composite one where none was set."""
        return [self._temperature_k if kelvins is None else kelvins for kelvins in self._sensors_k]

    @sensors_k.setter
    def sensors_k(self, kelvins: list[int]) -> None:
        if len(kelvins) > len(self._sensors_k):
            raise ValueError(f"{len(kelvins)} temperatures: this controller has {len(self._sensors_k)} sensors")
        for number, one in enumerate(kelvins, 1):
            self.set_sensor(number, one)

    def take_sensors(self, other: Health) -> None:
        """What the sensors of another controller of the SSD say; those that were not set go on with the composite."""
        self._sensors_k = list(other._sensors_k)
        self.evaluate()

    def set_sensor(self, number: int, kelvins: int) -> None:
        """Set a sensor, counted from 1. ValueError for one that is not there."""
        if not 1 <= number <= len(self._sensors_k):
            raise ValueError(f"temperature sensor {number}: this controller has {len(self._sensors_k)}")
        self._sensors_k[number - 1] = _in_range("temperature", kelvins, _TEMPERATURE_MAX_K)
        self.evaluate()

    @property
    def available_spare(self) -> int:
        """Available Spare, 100 to 0 percent."""
        return self._available_spare

    @available_spare.setter
    def available_spare(self, value: int) -> None:
        self._available_spare = _in_range("available_spare", value, 100)
        self.evaluate()

    @property
    def percentage_used(self) -> int:
        """Percentage Used: estimate of the life used, 255 for more than 254 percent."""
        return self._percentage_used

    @percentage_used.setter
    def percentage_used(self, value: int) -> None:
        self._percentage_used = _in_range("percentage_used", value, _PERCENTAGE_USED_MAX)

    @property
    def reliability_degraded(self) -> bool:
        """Whether media or internal errors have degraded the subsystem's reliability."""
        return self._reliability_degraded

    @reliability_degraded.setter
    def reliability_degraded(self, value: bool) -> None:
        self._reliability_degraded = value
        self.evaluate()

    @property
    def media_read_only(self) -> bool:
        """Whether all media of the subsystem take no more writes (not the write protection of a namespace)."""
        return self._ctrl.subsystem.media_read_only

    @media_read_only.setter
    def media_read_only(self, value: bool) -> None:
        self._ctrl.subsystem.set_media_read_only(value)

    @property
    def backup_failed(self) -> bool:
        """Whether what keeps volatile memory over a loss of power has failed."""
        return self._backup_failed

    @backup_failed.setter
    def backup_failed(self, value: bool) -> None:
        self._backup_failed = value
        self.evaluate()

    # -- what is reported -----------------------------------------------------------------------------------

    @property
    def critical_warning(self) -> int:
        """The Critical Warning byte as it is now, whatever the host has enabled."""
        self._compare()
        return CRITICAL_WARNING.pack(
            ascbt=int(self._available_spare < self.spare_threshold),
            ttc=int(bool(self._beyond)),
            ndr=int(self._reliability_degraded),
            amro=int(self.media_read_only),
            vmbf=int(self._backup_failed),
            pmrro=int(self._ctrl.buffers.pmr_in_trouble),
        )

    def _compare(self) -> bool:
        """Hold the temperatures against their thresholds; True when one has come back by its hysteresis."""
        recovered = False
        for sensor, kelvins in enumerate((self._temperature_k, *self.sensors_k)):
            for kind, sign in ((THRESHOLD_OVER, 1), (THRESHOLD_UNDER, -1)):
                threshold_k, hysteresis_k = self._ctrl.features.temperature_threshold_k(sensor, kind)
                excess_k = sign * (kelvins - threshold_k)
                if excess_k >= 0:
                    self._beyond.add((sensor, kind))
                elif excess_k <= -hysteresis_k and (sensor, kind) in self._beyond:
                    self._beyond.remove((sensor, kind))
                    recovered = recovered or hysteresis_k > 0
        return recovered

    @property
    def power_on_hours(self) -> int:
        """Hours since the controller first saw the time."""
        return self._on_ns // (_MINUTES_PER_HOUR * _NS_PER_MINUTE)

    @property
    def warning_minutes(self) -> int:
        """Warning Composite Temperature Time: minutes at or above WCTEMP and below CCTEMP."""
        return self._warning_ns // _NS_PER_MINUTE

    @property
    def critical_minutes(self) -> int:
        """Critical Composite Temperature Time: minutes at or above CCTEMP."""
        return self._critical_ns // _NS_PER_MINUTE

    def tick(self) -> None:
        """Account for the time that went by at the present temperature."""
        now_ns = self._ctrl.now_ns
        passed_ns = 0 if self._seen_ns is None else max(0, now_ns - self._seen_ns)
        self._seen_ns = now_ns
        self._on_ns += passed_ns
        if self._temperature_k >= TEMPERATURE_CRITICAL_K:
            self._critical_ns += passed_ns
        elif self._temperature_k >= TEMPERATURE_WARNING_K:
            self._warning_ns += passed_ns

    def evaluate(self) -> None:
        """Raise the event of each warning that is there, enabled, and not raised yet."""
        if self._compare() and not self._beyond:
            recovered = AsyncImmediateInfo.TEMPERATURE_THRESHOLD_HYSTERESIS_RECOVERY
            self._ctrl.events.post(AsyncEventType.IMMEDIATE, recovered, Lid.SMART_HEALTH)
        present = self.critical_warning & self._ctrl.features.smart_events_enabled
        new = present & ~self._raised
        self._raised = present
        for field, info in _EVENT_OF_WARNING.items():
            if new & CRITICAL_WARNING.mask(field):
                self._ctrl.events.post(AsyncEventType.SMART, info, Lid.SMART_HEALTH)
        for ctrl in self._ctrl.subsystem.controllers.values():
            ctrl.endurance.evaluate()

    def saved(self) -> dict[str, int]:
        """What is kept without power: wear, and for how long it was on, and hot."""
        self.tick()
        return {
            "spare": self._available_spare,
            "used": self._percentage_used,
            "on_ns": self._on_ns,
            "warning_ns": self._warning_ns,
            "critical_ns": self._critical_ns,
        }

    def restore(self, state: dict[str, int]) -> None:
        """After power on."""
        self._available_spare = _in_range("available_spare", state["spare"], 100)
        self._percentage_used = _in_range("percentage_used", state["used"], _PERCENTAGE_USED_MAX)
        self._on_ns = natural(state["on_ns"])
        self._warning_ns, self._critical_ns = natural(state["warning_ns"]), natural(state["critical_ns"])

    def reset(self) -> None:
        """Controller Level Reset: how the device is stays, and is told again where 0Bh was saved."""
        self.tick()
        self._raised = 0
        self._beyond.clear()
        self.evaluate()
