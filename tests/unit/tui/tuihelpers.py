"""A source whose frames are fixed, and workloads on the virtual clock."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from tui_pages import fixed_frame

from nvme_emu.cli.top import Options, Workload, _plan
from nvme_emu.observe.tui.frame import Frame, PlayState
from nvme_emu.observe.tui.source import Source

JOB = "[mixed]\nioengine=libaio\nrw=randrw\nbs=4k\niodepth=8\nsize=4m\n"


class FixedSource(Source):
    """Always the same frame; what it was told is in ``told``."""

    def __init__(self, frame: Frame | None = None, barred: dict[str, str] | None = None) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.barred = barred or {}
        play = PlayState(mode="running", barred=self.barred)
        self._frame = replace(frame or fixed_frame(), play=play)

    def frame(self) -> Frame:
        return self._frame

    def toggle_pause(self) -> None:
        self.told.append(("pause",))

    def step(self, what: str) -> None:
        if "step" in self.barred:
            super().step(what)
        self.told.append(("step", what))

    def slow(self, change: int) -> None:
        self.told.append(("slow", change))

    def travel(self, events: int) -> None:
        self.told.append(("travel", events))

    def travel_to(self, end: str) -> None:
        self.told.append(("travel_to", end))

    def arm(self, rule: str, armed: bool) -> None:
        self.told.append(("arm", rule, armed))


@pytest.fixture
def source() -> FixedSource:
    return FixedSource()


def options(tmp_path: Any, job: str = JOB, **changes: Any) -> Options:
    """`nvme-emu top` with a job of its own."""
    path = tmp_path / "job.fio"
    path.write_text(job, encoding="utf-8")
    chosen: dict[str, Any] = {
        "job_file": str(path), "attach": None, "replay": None, "once": True, "json_file": None,
        "view": "overview", "after_ms": 1.0, "overrides": (), "clock": "virtual", "profile": "tlc", "seed": 3,
        "faults": None, "trace": None,
    }  # fmt: skip
    return Options(**{**chosen, **changes})


@pytest.fixture
def workload(tmp_path: Any) -> Iterator[Workload]:
    """A simulated machine whose jobs wait for `source`."""
    made = Workload(opts := options(tmp_path), _plan(opts))
    with made.running():
        yield made
