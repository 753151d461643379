"""What ``@pytest.mark.nvme(...)`` may say: the options of `nvme_emu.open`, and a few of the plugin's own.

    size, image, profile, mode, clock, worker, queues, depth, lba_size, namespaces, cpus, faults …   nvme_emu.open
    runs        how often the test is run, each time with the next seed (--nvme-runs)
    scheduler   who runs next: "random", "pct", "exhaustive" or "run-to-block"
    events      how many of the last events a failure report shows; 0 records none
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from nvme_emu.controller.profiles import load_profile
from nvme_emu.core.faults.values import nearest
from nvme_emu.driver import NvmeDriver
from nvme_emu.machine import Machine, MachineConfig

__all__ = ["EVENTS_DEFAULT", "SCHEDULERS", "SIZE_DEFAULT", "Settings", "settings_of"]

SIZE_DEFAULT = "16M"
EVENTS_DEFAULT = 32
SCHEDULERS = ("random", "pct", "exhaustive", "run-to-block")
_OPEN = frozenset(one.name for one in dataclasses.fields(MachineConfig))
_OWN = ("runs", "scheduler", "events")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The sum of a test's markers: ``options`` for `nvme_emu.open`, and None where nothing was said."""

    options: Mapping[str, Any]
    runs: int | None = None
    scheduler: str | None = None
    events: int = EVENTS_DEFAULT

    def opened(self, **more: Any) -> Machine:
        """A machine with these options, the defaults of tests, and ``more``, which wins."""
        return Machine(MachineConfig(**{"size": SIZE_DEFAULT, "clock": "virtual", **self.options, **more}))


def settings_of(marks: Iterable[Any]) -> Settings:
    """The settings of markers, the closest first (`item.iter_markers("nvme")`).

    Raises ValueError that names an unknown option, the closest known one, or the value that is wrong.
    """
    merged: dict[str, Any] = {}
    for mark in marks:
        if mark.args:
            raise ValueError(f"takes options by name only (size='64M'), not {mark.args[0]!r}")
        for name, value in mark.kwargs.items():
            if name not in _OPEN and name not in _OWN:
                raise ValueError(f"unknown option {name!r}{nearest(name, sorted({*_OPEN, *_OWN}))}")
            merged.setdefault(name, value)
    own = {name: merged.pop(name) for name in _OWN if name in merged}
    runs, events = own.get("runs"), own.get("events", EVENTS_DEFAULT)
    if runs is not None and (not isinstance(runs, int) or runs < 1):
        raise ValueError(f"runs={runs!r}: a number of at least 1")
    if not isinstance(events, int) or events < 0:
        raise ValueError(f"events={events!r}: a number, 0 for none")
    if own.get("scheduler") not in (None, *SCHEDULERS):
        raise ValueError(f"scheduler={own['scheduler']!r}{nearest(str(own['scheduler']), SCHEDULERS)}")
    driver_class = merged.get("driver_class", NvmeDriver)
    if not (isinstance(driver_class, type) and issubclass(driver_class, NvmeDriver)):
        raise ValueError(f"driver_class={driver_class!r}: a subclass of nvme_emu.driver.NvmeDriver")
    if isinstance(merged.get("profile"), str):
        load_profile(merged["profile"])
    MachineConfig(**merged)
    return Settings(options=merged, **own)
