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
from nvme_emu.spec.events import AsyncEventType, AsyncSmartInfo
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
        self._temperature_k = _in_range("temperature_k", value, _TEMPERATURE_MAX_K)
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

    # -- what is reported -----------------------------------------------------------------------------------

    @property
    def critical_warning(self) -> int:
        """The Critical Warning byte as it is now, whatever the host has enabled."""
        threshold_k = self._ctrl.features.temperature_threshold_k
        over, under = threshold_k(THRESHOLD_OVER), threshold_k(THRESHOLD_UNDER)
        outside = self._temperature_k >= over or self._temperature_k <= under
        return CRITICAL_WARNING.pack(
            ascbt=int(self._available_spare < self.spare_threshold),
            ttc=int(outside),
            ndr=int(self._reliability_degraded),
        )

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
        self.evaluate()
