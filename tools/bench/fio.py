"""fio on a tmpfs file: what the kernel's own storage stack does on this machine with data in memory."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench.measure import Row, RowUnavailable, Sample

__all__ = ["HOW_TO_GET_FIO", "Fio", "parse_fio"]

HOW_TO_GET_FIO = "fio is not installed: apt-get install fio, dnf install fio, or https://github.com/axboe/fio"
FILE_BYTES = 1 << 30
FILE_BYTES_MIN = 64 << 20
HEADROOM_BYTES = 64 << 20
TIMEOUT_S = 60
# What fio or the kernel say where an engine is not there or not allowed.
NOT_HERE = ("not permitted", "not implemented", "not supported", "not loadable", "unable to load", "invalid argument")


class Job(NamedTuple):
    """One row: fio's options for it."""

    name: str
    what: str
    engine: str
    rw: str = "randread"
    bs: str = "4k"
    iodepth: int = 1
    batch: int = 0


JOBS = (
    Job("fio_psync_qd1", "fio psync QD1, 4 KiB random read", "psync"),
    Job("fio_mmap_qd1", "fio mmap QD1, 4 KiB random read", "mmap"),
    Job("fio_uring_qd1", "fio io_uring QD1, 4 KiB random read", "io_uring"),
    Job("fio_uring_qd32", "fio io_uring QD32, 4 KiB random read", "io_uring", iodepth=32),
    Job("fio_libaio_qd32", "fio libaio QD32 batch 32, 4 KiB random read", "libaio", iodepth=32, batch=32),
    Job("fio_psync_seq_read", "fio psync QD1, 128 KiB sequential read", "psync", "read", "128k"),
    Job("fio_psync_seq_write", "fio psync QD1, 128 KiB sequential write", "psync", "write", "128k"),
)


class Fio:
    """Runs the jobs on a file in ``folder`` (a tmpfs), which is written once so that all of it is there.

    ``core`` pins fio as the rest is pinned. ``notes`` collects what the reader must know.
    """

    def __init__(self, folder: Path, core: int | None, program: str = "fio") -> None:
        self.program = shutil.which(program)
        self.notes: list[str] = []
        self._folder = folder
        self._core = core
        self._file: Path | None = None
        self._nbytes = 0
        self._uring_refused = ""
        if self.program is None:
            self.notes.append(HOW_TO_GET_FIO)

    def rows(self) -> list[Row]:
        """A row for each job; without fio each says so when it is run."""
        return [
            Row(
                name=job.name,
                group="fio on tmpfs",
                what=job.what,
                unit="IOPS" if job.bs == "4k" else "B/s",
                run=self._runner(job),
            )
            for job in JOBS
        ]

    def _runner(self, job: Job) -> Callable[[float], Sample]:
        def run(seconds: float) -> Sample:
            if self.program is None:
                raise RowUnavailable("fio is not installed")
            self._make_file()
            if job.engine != "io_uring":
                return self._measure(job, seconds)
            if not self._uring_refused:
                try:
                    return self._measure(job, seconds)
                except RowUnavailable as reason:
                    self._uring_refused = str(reason)
                    self.notes.append(
                        f"io_uring cannot be used here ({reason}): the rows called fio_uring_* are libaio "
                        "in its place"
                    )
            return self._measure(job._replace(engine="libaio"), seconds)

        return run

    def _make_file(self) -> None:
        """Write the file: pages that were never written would be read from nowhere."""
        if self._file is not None:
            return
        free = shutil.disk_usage(self._folder).free - HEADROOM_BYTES
        nbytes = min(FILE_BYTES, free & -(1 << 20))
        if nbytes < FILE_BYTES_MIN:
            raise RowUnavailable(f"{self._folder} has no room for a file of {FILE_BYTES_MIN >> 20} MiB")
        if nbytes < FILE_BYTES:
            self.notes.append(
                f"fio's file has only {nbytes >> 20} MiB, there is no more room in {self._folder}: "
                "caches may flatter fio"
            )
        block = np.random.default_rng(1).integers(0, 256, 1 << 20, np.uint8)
        file = self._folder / "fio.bin"
        with file.open("wb") as out:
            for index in range(nbytes >> 20):
                block[:8] = np.frombuffer(index.to_bytes(8, "little"), np.uint8)
                out.write(block)  # type: ignore[arg-type]
        self._file, self._nbytes = file, nbytes

    def _measure(self, job: Job, seconds: float) -> Sample:
        assert self.program is not None
        command = [
            self.program,
            "--name=bench",
            f"--filename={self._file}",
            f"--size={self._nbytes}",
            f"--ioengine={job.engine}",
            f"--rw={job.rw}",
            f"--bs={job.bs}",
            f"--iodepth={job.iodepth}",
            f"--runtime={round(seconds * 1000)}ms",
            "--time_based",
            "--thread",
            "--norandommap",
            "--randrepeat=0",
            "--invalidate=0",
            "--eta=never",
            "--output-format=json",
        ]
        if job.batch:
            command += [
                f"--iodepth_batch_submit={job.batch}",
                f"--iodepth_batch_complete_min={job.batch}",
                f"--iodepth_batch_complete_max={job.batch}",
            ]
        if self._core is not None:
            command.append(f"--cpus_allowed={self._core}")
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S + seconds, cwd=self._folder
        )
        return parse_fio(done.returncode, done.stdout, done.stderr, job)


def parse_fio(code: int, stdout: str, stderr: str, job: Job) -> Sample:
    """fio's figure. RowUnavailable where the engine is not to be had, RuntimeError for any other failure."""
    job_result: dict[str, Any] = {}
    # Warnings may stand before the object.
    if "{" in stdout:
        job_result = json.loads(stdout[stdout.index("{") :])["jobs"][0]
    if code or job_result.get("error", 1):
        lines = (stderr + stdout[: stdout.find("{")]).strip().splitlines()
        # The first line that says what was refused, else the first.
        refused = [line for line in lines if any(text in line.lower() for text in NOT_HERE)]
        if refused and job.engine != "psync":
            raise RowUnavailable(f"{job.engine}: {refused[0].strip()}")
        raise RuntimeError(f"fio {job.engine} failed with exit code {code}: {lines[0] if lines else 'no message'}")
    side = job_result["write" if job.rw == "write" else "read"]
    share = (job_result["usr_cpu"] + job_result["sys_cpu"]) / 100
    return Sample(side["iops"] if job.bs == "4k" else side["bw_bytes"], share)
