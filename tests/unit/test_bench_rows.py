"""The loops of tools/bench.py on a small medium: they run, and they notice when the bytes are not moved."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from bench import cli
from bench.limits import Limits, _numpy_copy
from bench.measure import run_rounds
from bench.ours import (
    BatchReads,
    BatchWrites,
    Refilled,
    Resubmitted,
    SequentialReads,
    SequentialWrites,
    SingleReads,
    Stage,
    Work,
)
from bench.rows import our_rows
from bench.sweep import Floods, ScatteredReads, SizedReads, SpreadOut, open_on

from nvme_emu.media import SparseMedia

MEDIUM_BYTES = 32 << 20

WORKS: dict[str, Callable[[Stage], Work]] = {
    "sync": lambda s: SingleReads(s.machine(mode="sync"), s.medium, s.places, into=True),
    "sync_new": lambda s: SingleReads(s.machine(mode="sync"), s.medium, s.places, into=False),
    "resubmitted": lambda s: Resubmitted(s.machine(mode="async"), s.medium, s.places, depth=32),
    "refilled": lambda s: Refilled(s.machine(mode="async"), s.medium, s.places, depth=32),
    "read_many": lambda s: BatchReads(s.machine(mode="sync"), s.medium, s.places, batch=32),
    "write_many": lambda s: BatchWrites(s.machine(mode="sync"), s.medium, s.places, batch=32),
    "seq_read": lambda s: SequentialReads(s.machine(mode="sync"), s.medium),
    "seq_write": lambda s: SequentialWrites(s.machine(mode="sync"), s.medium),
    "virtual": lambda s: Resubmitted(
        s.machine(mode="async", clock="virtual", profile="tlc"), s.medium, s.places, depth=32, count=64
    ),
    "sized": lambda s: SizedReads(s.machine(mode="sync"), s, 16384),
    "floods": lambda s: Floods(s.machine(mode="async"), s, 256),
    "spread": lambda s: SpreadOut(s.machine(mode="async", queues=4, depth=64), s, depth=64),
}


@pytest.fixture
def stage() -> Iterator[Stage]:
    made = Stage(MEDIUM_BYTES)
    yield made
    made.close()


@pytest.mark.parametrize("name", WORKS)
def test_work_moves_the_bytes_and_gives_a_figure(stage: Stage, name: str) -> None:
    work = WORKS[name](stage)
    work.check()
    assert work.run(0.01).value > 0


@pytest.mark.parametrize("name", ["sync", "resubmitted", "read_many", "write_many", "seq_read"])
def test_work_notices_that_nothing_was_moved(stage: Stage, name: str) -> None:
    work = WORKS[name](stage)
    # The figure is compared with another medium than the device has: as if it had moved other bytes.
    other = np.full(MEDIUM_BYTES, 0xEE, np.uint8)
    work.medium, work.pages = other, other.reshape(-1, 4096)
    with pytest.raises(AssertionError, match="not those of the medium"):
        work.check()


def test_every_page_of_the_medium_is_different(stage: Stage) -> None:
    assert len(np.unique(stage.medium.view(np.uint64).reshape(-1, 512)[:, 0])) == MEDIUM_BYTES // 4096


def test_scattered_reads_work_on_a_sparse_namespace_of_a_tebibyte() -> None:
    with open_on(SparseMedia(1 << 40), mode="sync") as machine:
        ScatteredReads(machine, 1 << 40).check()


def test_memcpy_rows_run_in_c_or_numpy(stage: Stage, tmp_path: Path) -> None:
    limits = Limits(stage.medium, stage.places[: 4096 * 2], tmp_path)
    limits.places = np.resize(stage.places, 10_000)
    outcomes = run_rounds(limits.rows(), 1, 0.01)
    assert limits.kind in ("C", "numpy")
    assert [outcome.note for outcome in outcomes] == [""] * 3


@pytest.mark.parametrize("row_bytes", [4096, 131072])
def test_numpy_stand_in_gathers_what_the_c_code_does(stage: Stage, tmp_path: Path, row_bytes: int) -> None:
    places = np.array([3, 1, 2, 0, 3], np.int64)
    compiled = Limits(stage.medium, stage.places, tmp_path)
    results = []
    for copy in (compiled._copy, _numpy_copy):
        out = np.zeros(2 * row_bytes, np.uint8)
        copy(out, 2, stage.medium, places, row_bytes)
        results.append(out)
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0][:row_bytes], stage.medium[3 * row_bytes : 4 * row_bytes])


@pytest.mark.parametrize(
    ("name", "pure", "compiled"), [("sync_qd1", None, 3.0), ("read_many_32", 1.5, 4.0), ("write_many_256", 3.5, 5.0)]
)
def test_rows_are_held_to_the_targets_of_the_core_that_is_there(
    stage: Stage, name: str, pure: float | None, compiled: float
) -> None:
    for has_core, wanted in ((False, pure), (True, compiled)):
        (row,) = (row for row in our_rows(stage, has_core) if row.name == name)
        found = [target.ratio for target in row.targets if target.reference == "fio_uring_qd32"]
        assert found == ([] if wanted is None else [wanted])


def test_every_reference_of_our_rows_is_a_row(stage: Stage, tmp_path: Path) -> None:
    from bench.fio import Fio

    rows = [
        *Fio(tmp_path, None).rows(),
        *Limits(stage.medium, stage.places, tmp_path).rows(),
        *our_rows(stage),
    ]
    names = [row.name for row in rows]
    assert len(names) == len(set(names))
    assert {name for row in rows for name in row.references} <= set(names)


def test_command_line_writes_json_to_stdout_and_the_table_to_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "MEDIUM_BYTES", MEDIUM_BYTES)
    assert cli.main(["--quick", "--only", "mem_per_io", "--pin", "none", "--json"]) == 0
    out, err = capsys.readouterr()
    data = json.loads(out)
    assert [row["name"] for row in data["rows"]] == ["mem_per_io", "mem_per_io_rss"]
    assert 0 < data["rows"][0]["value"] < 4096
    assert "outstanding" in err


@pytest.mark.parametrize("wrong", [["--only", "nonesuch"], ["--pin", "first"], ["--rounds", "0"]])
def test_command_line_refuses_bad_usage_with_exit_code_2(
    wrong: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "MEDIUM_BYTES", MEDIUM_BYTES)
    with pytest.raises(SystemExit) as exit_info:
        cli.main([*(["--pin", "none"] if "--pin" not in wrong else []), *wrong])
    assert exit_info.value.code == 2
    assert "usage" in capsys.readouterr().err
