"""Workloads: fio job files, access patterns, verification, the loops that measure, fio's outputs.

Importing this package is cheap: everything is loaded on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nvme_emu.workload.engine import AsyncJob, Control, Job, SyncJob
    from nvme_emu.workload.histogram import Histogram
    from nvme_emu.workload.jobfile import JobFile, JobFileError, parse_job_file, parse_job_text
    from nvme_emu.workload.pattern import Extent, PatternSpec
    from nvme_emu.workload.plan import JobPlan, MachinePlan, Plan
    from nvme_emu.workload.planner import make_plan
    from nvme_emu.workload.runner import JobResult, Jobs, run_jobs
    from nvme_emu.workload.stats import JobStats

_HOMES = {
    "engine": ("AsyncJob", "Control", "Job", "SyncJob"),
    "histogram": ("Histogram",),
    "jobfile": ("JobFile", "JobFileError", "parse_job_file", "parse_job_text"),
    "pattern": ("Extent", "PatternSpec"),
    "plan": ("JobPlan", "MachinePlan", "Plan"),
    "planner": ("make_plan",),
    "runner": ("JobResult", "Jobs", "run_jobs"),
    "stats": ("JobStats",),
}

__all__ = [
    "AsyncJob",
    "Control",
    "Extent",
    "Histogram",
    "Job",
    "JobFile",
    "JobFileError",
    "JobPlan",
    "JobResult",
    "JobStats",
    "Jobs",
    "MachinePlan",
    "PatternSpec",
    "Plan",
    "SyncJob",
    "make_plan",
    "parse_job_file",
    "parse_job_text",
    "run_jobs",
]


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"nvme_emu.workload.{home}"), name)
    raise AttributeError(f"module 'nvme_emu.workload' has no attribute {name!r}")
