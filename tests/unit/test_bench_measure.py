"""The arithmetic of tools/bench.py: medians, verdicts, selection, rounds, growth, fio's answers."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
from bench.fio import HOW_TO_GET_FIO, JOBS, Fio, parse_fio
from bench.measure import Outcome, Row, RowUnavailable, Sample, Target, judge, run_rounds, select, timed
from bench.report import as_json, disturbed, figure, footnotes
from bench.sweep import Sweep, growth_exponent, run_sweeps

PSYNC = JOBS[0]
URING = next(job for job in JOBS if job.engine == "io_uring")


def make_row(name: str, value: float = 1.0, **fields: object) -> Row:
    defaults: dict[str, object] = {"group": "g", "what": name, "unit": "IOPS", "run": lambda _s: Sample(value)}
    return Row(name=name, **{**defaults, **fields})  # type: ignore[arg-type]


def outcome_of(row: Row, *values: float) -> Outcome:
    return Outcome(row=row, samples=[Sample(value) for value in values])


def test_outcome_value_is_the_median_so_that_one_disturbed_slice_does_not_count() -> None:
    assert outcome_of(make_row("a"), 100.0, 1.0, 102.0).value == 100.0


def test_outcome_of_a_failed_row_has_no_value() -> None:
    failed = outcome_of(make_row("a"), 5.0)
    failed.failed = True
    assert failed.value is None


@pytest.mark.parametrize(("value", "ok"), [(39.0, False), (40.0, True), (80.0, True)])
def test_judge_wants_at_least_the_ratio_of_the_reference(value: float, ok: bool) -> None:
    row = make_row("ours", targets=(Target(ratio=0.4, reference="fio"),))
    outcomes = {"fio": outcome_of(make_row("fio"), 100.0), "ours": outcome_of(row, value)}
    (verdict,) = judge(outcomes["ours"], outcomes)
    assert verdict.ok is ok
    assert verdict.ratio == pytest.approx(value / 100)


def test_judge_wants_at_most_where_less_is_better() -> None:
    row = make_row("start", targets=(Target(ratio=1.5, reference="numpy"),), less_is_better=True)
    outcomes = {"numpy": outcome_of(make_row("numpy"), 0.1), "start": outcome_of(row, 0.16)}
    assert judge(outcomes["start"], outcomes)[0].ok is False


def test_judge_without_reference_takes_the_target_as_an_absolute_figure() -> None:
    row = make_row("virtual", targets=(Target(ratio=100_000.0),))
    assert judge(outcome_of(row, 120_000.0), {})[0].ok is True
    assert judge(outcome_of(row, 99_000.0), {})[0].ok is False


def test_judge_decides_nothing_when_the_reference_is_missing() -> None:
    row = make_row("ours", targets=(Target(ratio=1.0, reference="fio"),))
    (verdict,) = judge(outcome_of(row, 5.0), {})
    assert (verdict.ratio, verdict.ok) == (None, None)


def test_select_brings_the_references_of_what_is_asked_for_and_nothing_else() -> None:
    rows = [
        make_row("fio"),
        make_row("mmap"),
        make_row("other"),
        make_row("ours_1", targets=(Target(ratio=1.0, reference="fio"),), compare_with=("mmap",)),
    ]
    assert [row.name for row in select(rows, ["ours"])] == ["fio", "mmap", "ours_1"]


def test_select_names_the_rows_when_a_pattern_matches_none() -> None:
    with pytest.raises(ValueError, match=r"'nonesuch'.*there are: fio"):
        select([make_row("fio")], ["nonesuch"])


def test_rounds_interleave_the_rows() -> None:
    order: list[str] = []

    def run_as(name: str) -> Row:
        def run(_seconds: float) -> Sample:
            order.append(name)
            return Sample(1.0)

        return make_row(name, run=run)

    run_rounds([run_as("a"), run_as("b")], 2, 0.1)
    assert order == ["a", "b", "a", "b"]


def test_row_whose_check_fails_is_not_measured() -> None:
    def check() -> None:
        raise AssertionError("other bytes")

    (outcome,) = run_rounds([make_row("liar", check=check)], 2, 0.1)
    assert outcome.failed and not outcome.samples
    assert "other bytes" in outcome.note


def test_row_that_is_unavailable_is_no_failure() -> None:
    def run(_seconds: float) -> Sample:
        raise RowUnavailable("no second core")

    (outcome,) = run_rounds([make_row("across", run=run)], 2, 0.1)
    assert outcome.unavailable and not outcome.failed
    assert outcome.note == "no second core"


def test_timed_counts_what_the_chunks_did_after_the_first() -> None:
    calls = 0

    def chunk() -> int:
        nonlocal calls
        calls += 1
        return 10

    sample = timed(chunk, 0.01, scale=2.0)
    # (calls - 1) chunks of 10, in 0.01 s or a bit more, times the scale.
    assert 0 < sample.value <= (calls - 1) * 10 * 2.0 / 0.01


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_growth_exponent_finds_the_power(power: float) -> None:
    points = [1, 2, 4, 8, 16]
    assert growth_exponent(points, [3 * p**power for p in points]) == pytest.approx(power)


def test_sweep_flags_a_blow_up_that_a_flat_beginning_hides() -> None:
    points = [1 << n for n in range(11)]
    costs = [1e-6 * max(p, p * p / 512) for p in points]
    sweep = Sweep(
        name="depth",
        axis="depth",
        per_round_is_n=True,
        points=points,
        iops=[p / c for p, c in zip(points, costs, strict=True)],
    )
    assert sweep.exponent < 1.15 < sweep.steepest[0]
    assert sweep.worse_than_linear


def test_sweep_flags_a_cliff_between_flat_parts_and_says_where() -> None:
    points = [1 << n for n in range(11)]
    costs = [1.0, 1.0, 1.0, 1.0, 1.0, 40.0, 40.0, 40.0, 40.0, 40.0, 40.0]
    sweep = Sweep(name="size", axis="size", per_round_is_n=False, points=points, iops=[1 / c for c in costs])
    assert sweep.exponent < 1.15
    assert sweep.worse_than_linear
    assert 4 <= sweep.steepest[1] <= 16


def _swept(monkeypatch: pytest.MonkeyPatch, rates: list[list[float]]) -> Sweep:
    """A sweep over 1, 2, 4, 8 whose successive measurements give these figures."""
    given = iter(rates)

    def measure(_stage: object, _seconds: float, sweep: Sweep) -> None:
        sweep.points += [1, 2, 4, 8]
        sweep.iops += next(given)

    monkeypatch.setattr("bench.sweep.SWEEPS", {"x": ("x", True, measure)})
    (made,) = run_sweeps(None, 0.0, lambda _text: None)  # type: ignore[arg-type]
    assert not made.failed
    assert next(given, None) is None
    return made


def test_sweep_that_noise_would_flag_is_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made = _swept(monkeypatch, [[8.0, 8.0, 8.0, 4.0], [7.0, 8.0, 5.0, 8.0]])
    assert made.iops == [8.0, 8.0, 8.0, 8.0]
    assert not made.worse_than_linear


def test_sweep_of_what_is_quadratic_is_flagged_both_times(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _swept(monkeypatch, [[8.0, 4.0, 2.0, 1.0], [8.0, 4.0, 2.0, 1.1]]).worse_than_linear


def test_sweep_of_what_is_linear_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not _swept(monkeypatch, [[8.0, 8.0, 8.0, 8.0]]).worse_than_linear


def test_sweep_of_constant_iops_over_depth_is_linear_and_ok() -> None:
    sweep = Sweep(name="d", axis="d", per_round_is_n=True, points=[1, 2, 4, 8], iops=[5e5] * 4)
    assert sweep.exponent == pytest.approx(1.0)
    assert not sweep.worse_than_linear


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (383_000.0, "IOPS", "383 k/s"),
        (2.13e6, "IOPS", "2.13 M/s"),
        (14.8e9, "B/s", "14.8 GB/s"),
        (0.122, "s", "122 ms"),
        (4.2e-6, "s", "4.20 µs"),
        (21.3e6, "B", "21.3 MB"),
        (None, "B", "-"),
    ],
)
def test_figure_has_three_digits_and_a_unit(value: float | None, unit: str, text: str) -> None:
    assert figure(value, unit) == text


def test_footnotes_tell_what_the_hand_off_costs() -> None:
    outcomes = [outcome_of(make_row("sync_qd1"), 500_000.0), outcome_of(make_row("async_qd1"), 100_000.0)]
    assert any("on one core: 8.00 µs" in note for note in footnotes(outcomes))


def test_row_that_had_half_its_core_is_called_disturbed_unless_it_waits_by_design() -> None:
    half = [Sample(1.0, 0.5)]
    assert disturbed(Outcome(row=make_row("fio_psync_qd1"), samples=half))
    assert not disturbed(Outcome(row=make_row("async_qd1"), samples=half))
    assert not disturbed(outcome_of(make_row("fio_psync_qd1"), 1.0))


def test_json_tells_measured_unavailable_and_failed_apart() -> None:
    bad = Outcome(row=make_row("bad"), failed=True, note="why")
    away = Outcome(row=make_row("away"), unavailable=True, note="no fio")
    data = as_json([outcome_of(make_row("good"), 7.0), bad, away], {}, [], [])
    assert [(row["state"], row["value"]) for row in data["rows"]] == [
        ("measured", 7.0),
        ("failed", None),
        ("unavailable", None),
    ]
    json.dumps(data)


def fio_output(iops: float) -> str:
    side = {"iops": iops, "bw_bytes": iops * 4096}
    job = {"error": 0, "usr_cpu": 30.0, "sys_cpu": 65.0, "read": side, "write": {"iops": 0, "bw_bytes": 0}}
    return "fio: a warning comes first\n" + json.dumps({"jobs": [job]})


def test_fio_figure_and_share_of_the_core_are_read_from_its_json() -> None:
    assert parse_fio(0, fio_output(600_000.0), "", PSYNC) == (600_000.0, pytest.approx(0.95))


def test_fio_sequential_jobs_count_bytes() -> None:
    job = next(job for job in JOBS if job.name == "fio_psync_seq_read")
    assert parse_fio(0, fio_output(1000.0), "", job).value == 4_096_000.0


def test_fio_that_fails_otherwise_is_a_failure_with_its_own_words() -> None:
    with pytest.raises(RuntimeError, match="exit code 1: fio: io_u error"):
        parse_fio(1, "", "fio: io_u error on file\n", PSYNC)


def test_fio_missing_says_how_to_get_it_and_leaves_the_rows_out(tmp_path: Path) -> None:
    fio = Fio(tmp_path, None, program="no-such-fio")
    outcomes = run_rounds(fio.rows(), 1, 0.1)
    assert all(outcome.unavailable and not outcome.failed for outcome in outcomes)
    assert fio.notes == [HOW_TO_GET_FIO]


def test_io_uring_that_is_forbidden_is_replaced_by_libaio_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "fio"
    program.write_text(
        "#!/bin/sh\n"
        'case "$*" in\n'
        "*--ioengine=io_uring*) echo 'fio: io_uring_queue_init: Operation not permitted' >&2; exit 1;;\n"
        f"*) cat <<'END'\n{fio_output(300_000.0)}\nEND\n"
        "esac\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    fio = Fio(tmp_path, None)
    monkeypatch.setattr(fio, "_make_file", lambda: None)
    outcomes = {outcome.row.name: outcome for outcome in run_rounds(fio.rows(), 2, 0.1)}
    assert outcomes["fio_uring_qd32"].value == 300_000.0
    assert len(fio.notes) == 1
    assert "Operation not permitted" in fio.notes[0] and "libaio in its place" in fio.notes[0]


def test_io_uring_refusal_is_told_from_a_failure() -> None:
    with pytest.raises(RowUnavailable, match="not permitted"):
        parse_fio(1, "", "fio: io_uring_queue_init: Operation not permitted\n", URING)
