"""Running the jobs of a plan on a machine: start them in order, wait at stonewalls, collect the results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import kworker
from nvme_emu.workload.engine import Control, Job, make_job
from nvme_emu.workload.plan import JobPlan
from nvme_emu.workload.stats import JobStats
from nvme_emu.workload.verify import Mismatch

if TYPE_CHECKING:
    from nvme_emu.machine import Machine

__all__ = ["JobResult", "Jobs", "run_jobs"]


@dataclass(frozen=True, kw_only=True, slots=True)
class JobResult:
    """What came of a job. `failure` is the error that ended it, `mismatches` the first that verify found."""

    plan: JobPlan
    stats: JobStats
    failure: str
    mismatches: tuple[Mismatch, ...]
    mismatch_count: int
    pid: int
    started: bool

    @property
    def ok(self) -> bool:
        return not self.failure and not self.mismatch_count


class Jobs:
    """The jobs of a run, prepared; `run()` does them, `control` can stop them from a signal handler."""

    def __init__(
        self,
        machine: Machine,
        plans: Sequence[JobPlan],
        *,
        control: Control | None = None,
        factory: Callable[..., Job] = make_job,
    ) -> None:
        self.control = control if control is not None else Control()
        self._runtime = machine.runtime
        # A machine that does both lets each job's task say which way its I/O goes.
        self._use = machine.driver.use if machine.config.mode == "mixed" else None
        namespaces = machine.namespaces
        for plan in plans:
            if plan.nsid not in namespaces:
                raise ValueError(f"job {plan.name}: the SSD has no namespace {plan.nsid}")
            end = max(extent.slba + extent.nlb for extent in plan.pattern.extents)
            if end > namespaces[plan.nsid].nlb:
                raise ValueError(f"job {plan.name} ends at block {end}, namespace {plan.nsid} has fewer")
        self.jobs = [factory(plan, namespaces[plan.nsid], machine.runtime, self.control) for plan in plans]

    def run(self) -> list[JobResult]:
        """Run all jobs to their end and return their results in order.

        What the device or the check found is in the results; an exception is a defect or a wrong plan.
        """
        running: list[tuple[Job, kworker.TaskStruct]] = []
        try:
            for job in self.jobs:
                if job.plan.stonewall:
                    self._join(running)
                if self.control.stop:
                    break
                task = kworker.kthread_run(self._body, job, "%s", job.plan.name, runtime=self._runtime)
                if not isinstance(task, kworker.TaskStruct):
                    raise OSError(-task, f"cannot start job {job.plan.name}")
                running.append((job, task))
        except BaseException:
            self.control.stop = True
            raise
        finally:
            self._join(running)
        for job in self.jobs:
            if job.exception is not None:
                raise job.exception
        return [self._result(job) for job in self.jobs]

    def _body(self, job: Job) -> int:
        if self._use is not None:
            self._use(job.plan.mode)
        return job.thread()

    @staticmethod
    def _join(running: list[tuple[Job, kworker.TaskStruct]]) -> None:
        for job, task in running:
            job.finished.wait()
            kworker.kthread_stop(task)
        running.clear()

    @staticmethod
    def _result(job: Job) -> JobResult:
        verifier = job.verifier
        return JobResult(
            plan=job.plan,
            stats=job.stats,
            failure=job.failure,
            mismatches=tuple(verifier.mismatches) if verifier else (),
            mismatch_count=verifier.mismatch_count if verifier else 0,
            pid=job.task.pid if job.task is not None else 0,
            started=job.started,
        )


def run_jobs(
    machine: Machine, plans: Sequence[JobPlan], *, control: Control | None = None
) -> list[JobResult]:
    """Run `plans` on `machine`. See Jobs.run."""
    return Jobs(machine, plans, control=control).run()
