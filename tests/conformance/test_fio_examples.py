"""The job files of Debian's fio-examples package run as they are, but for runtime=2s (they ask for 15 minutes)."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

# Name, direction of the I/O, clones: what the files say.
EXAMPLES = {
    "fio-rand-read": ("read", 1),
    "fio-rand-write": ("write", 4),
    "fio-rand-RW": ("rw", 4),
    "fio-seq-read": ("read", 1),
    "fio-seq-write": ("write", 1),
    "fio-seq-RW": ("rw", 4),
    "basic-verify": ("verify", 1),
}


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the unpacked package."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        pytest.skip("apt-get and dpkg-deb are needed to fetch the package fio-examples")
    folder = tmp_path_factory.mktemp("fio-examples")
    fetched = subprocess.run(
        ["apt-get", "download", "fio-examples"], cwd=folder, capture_output=True, text=True, timeout=100
    )
    packages = sorted(folder.glob("fio-examples_*.deb"))
    if not packages:
        pytest.skip(f"apt-get cannot download fio-examples: {fetched.stderr.strip()[-200:]}")
    subprocess.run(["dpkg-deb", "-x", packages[0], folder / "root"], check=True)
    return folder / "root" / "usr" / "share" / "doc" / "fio" / "examples"


@pytest.fixture(scope="module")
def runs(examples: Path) -> Iterator[dict[str, Future[subprocess.CompletedProcess[str]]]]:
    """All files run in processes of their own, two at a time."""

    def start(name: str) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            "-c",
            "from nvme_emu.cli import main; main()",
            "run",
            f"{examples / name}.fio",
        ]
        command += ["--set", "runtime=2s", "--output-format", "json"]
        return subprocess.run(command, capture_output=True, text=True, timeout=110)

    with ThreadPoolExecutor(2) as pool:
        yield {name: pool.submit(start, name) for name in EXAMPLES}


def test_the_package_has_no_further_file_of_these_kinds(examples: Path) -> None:
    files = {path.stem for kind in ("fio-rand-*.fio", "fio-seq-*.fio") for path in examples.glob(kind)}
    assert files | {"basic-verify"} == set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_runs_unmodified(runs: dict[str, Future[Any]], name: str) -> None:
    direction, clones = EXAMPLES[name]
    done = runs[name].result()
    assert done.returncode == 0, done.stderr
    jobs = json.loads(done.stdout)["jobs"]
    assert len(jobs) == clones
    for job in jobs:
        assert job["error"] == 0
        assert (job["read"]["total_ios"] > 0) == (direction in ("read", "rw", "verify"))
        assert (job["write"]["total_ios"] > 0) == (direction in ("write", "rw", "verify"))
        if direction == "verify":
            assert job["read"]["total_ios"] == job["write"]["total_ios"]
            assert job["write"]["runtime"] <= 2500
        else:
            assert 2000 <= max(job["read"]["runtime"], job["write"]["runtime"]) <= 3000
    if direction == "rw":
        reads, writes = (sum(job[kind]["total_ios"] for job in jobs) for kind in ("read", "write"))
        assert 0.5 < reads / (reads + writes) < 0.7
