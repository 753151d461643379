"""The pictures of `nvme-emu run`: --html, --png, --svg and --plots."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nvme_emu.machine import Machine
    from nvme_emu.workload.report_run import RunWatch
    from nvme_emu.workload.runner import JobResult

__all__ = ["Pictures"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Pictures:
    """What is to be drawn; ``terminal`` says whether standard output takes plots."""

    html: str | None
    png: str | None
    svg: str | None
    terminal: bool

    @property
    def files(self) -> list[str]:
        """The files to be written."""
        return [path for path in (self.html, self.png, self.svg) if path is not None]

    @contextmanager
    def watch(self, machine: Machine) -> Iterator[RunWatch | None]:
        """Watch the run if there is anything to draw; nobody looks otherwise."""
        if not self.files and not self.terminal:
            yield None
            return
        from nvme_emu.workload.report_run import RunWatch

        with RunWatch(machine) as watching:
            yield watching

    def draw(
        self, results: Sequence[JobResult], watching: RunWatch | None, machine: Machine, job_file: str, output: Any
    ) -> None:
        """Draw what was seen."""
        if watching is None:
            return
        from nvme_emu.workload.report_run import run_page, run_plots, run_sheet

        view = watching.view()
        if self.terminal:
            from nvme_emu.cli.common import printer

            printer(file=output).print(run_plots(results, view))
        if self.html is not None:
            clock = "virtual clock" if machine.runtime.virtual else "wall clock (being watched costs time an I/O)"
            config = machine.config
            under = f"{Path(job_file).name} · {machine.profile.name}, {config.mode}, seed {config.seed}, {clock}"
            Path(self.html).write_text(run_page(results, view, under), encoding="utf-8")
        for path, kind in ((self.png, "png"), (self.svg, "svg")):
            if path is not None:
                Path(path).write_bytes(run_sheet(results, view, kind))
