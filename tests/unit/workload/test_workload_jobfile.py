"""Job files: sections, comments, includes, overrides, and what becomes of every option."""

from __future__ import annotations

from pathlib import Path

import pytest

from nvme_emu.workload.jobfile import JobFileError, parse_job_file, parse_job_text
from nvme_emu.workload.options import OPTIONS, Rule, suggest


def problems(text: str, **more: object) -> tuple[str, ...]:
    with pytest.raises(JobFileError) as caught:
        parse_job_text(text, source="f.fio", **more)  # type: ignore[arg-type]
    return caught.value.problems


def test_global_sections_apply_to_the_jobs_below_them_only() -> None:
    jobs = parse_job_text("[global]\nbs=8k\n[a]\n[global]\niodepth=4\n[b]\nbs=16k\n").jobs
    assert [(job.name, job.get("bs")[0], job.get("iodepth")) for job in jobs] == [
        ("a", 8192, 1),
        ("b", 16384, 4),
    ]


def test_comments_and_blank_lines_are_skipped() -> None:
    text = '; one\n# two\n\n[a]\n  ; three\nbs=4k ; four\nsize=1m# five\nverify_pattern="a;b"\n'
    (job,) = parse_job_text(text).jobs
    assert job.get("bs") == (4096, 4096, 4096)
    assert job.get("size") == 1 << 20
    assert job.get("verify_pattern") == b"a;b"


def test_option_without_a_value_is_a_flag() -> None:
    (job,) = parse_job_text("[a]\ntime_based\nnorandommap\nstonewall\n").jobs
    assert job.get("time_based") and job.get("norandommap") and job.get("stonewall")


def test_option_that_needs_a_value_says_so() -> None:
    assert problems("[a]\nbs\n") == ("f.fio:2: option 'bs' needs a value",)


def test_unknown_option_names_file_line_and_the_closest_name() -> None:
    (line,) = problems("[a]\nrw=read\niodeph=4\n")
    assert line.startswith("f.fio:3: unknown option 'iodeph'") and "iodepth" in line


def test_all_problems_are_reported_at_once() -> None:
    lines = problems("[global]\nbs=x\n[a]\nfoo=1\nsize=1z\n[b]\nrw=up\n")
    assert [line.split(":")[1] for line in lines] == ["2", "4", "5", "7"]


def test_refused_option_is_an_error_unless_it_asks_for_the_default() -> None:
    assert problems("[a]\nbssplit=4k/50:8k/50\n") == (
        "f.fio:2: option 'bssplit=4k/50:8k/50': fio knows it, but it is not supported here",
    )
    parsed = parse_job_text("[a]\nzonemode=none\n", source="f.fio")
    assert parsed.notes == ["f.fio:2: zonemode=none: accepted without effect: this is what happens anyway"]


def test_harmless_option_gives_one_note_with_its_place() -> None:
    parsed = parse_job_text("[global]\ndirect=1\n[a]\n[b]\n", source="f.fio")
    (note,) = parsed.notes
    assert note.startswith("f.fio:2: direct=1: accepted without effect")


def test_override_applies_to_all_jobs_and_wins() -> None:
    jobs = parse_job_text("[a]\nbs=4k\n[b]\n", overrides=["bs=8k", "runtime=2s"]).jobs
    assert [(job.get("bs")[0], job.get("runtime")) for job in jobs] == [(8192, 2_000_000_000)] * 2


def test_override_wrong_is_named_as_set() -> None:
    assert problems("[a]\n", overrides=["runtme=2"])[0].startswith("--set runtme=2: unknown option 'runtme'")
    assert problems("[a]\n", overrides=["bs=zz"])[0].startswith("--set bs=zz: bs: 'zz' is not a number")


def test_bs_and_bsrange_replace_each_other() -> None:
    first, second = parse_job_text("[a]\nbs=4k\nbsrange=1k-8k\n[b]\nbsrange=1k-8k\nbs=4k\n").jobs
    assert first.get("bs") is None and first.get("bsrange")[0] == (1024, 8192)
    assert second.get("bsrange") is None and second.get("bs")[0] == 4096


def test_later_of_rwmixread_and_rwmixwrite_wins() -> None:
    first, second = parse_job_text(
        "[a]\nrwmixread=60\nrwmixwrite=30\n[b]\nrwmixwrite=30\nrwmixread=60\n"
    ).jobs
    assert (first.get("rwmixread"), second.get("rwmixread")) == (70, 60)


def test_kb_base_counts_wherever_it_stands() -> None:
    (job,) = parse_job_text("[a]\nsize=1m\nkb_base=1000\n").jobs
    assert job.get("size") == 1_000_000


def test_variable_unset_is_named_in_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WL_NOT_THERE", raising=False)
    assert "(${WL_NOT_THERE} is not set)" in problems("[a]\nsize=${WL_NOT_THERE}\n")[0]


def test_include_adds_its_options_to_the_section(tmp_path: Path) -> None:
    (tmp_path / "more.fio").write_text("iodepth=8\n")
    main = tmp_path / "main.fio"
    main.write_text("[a]\ninclude more.fio\n[b]\n")
    first, second = parse_job_file(str(main)).jobs
    assert (first.get("iodepth"), second.get("iodepth")) == (8, 1)


@pytest.mark.parametrize(
    ("inner", "message"),
    [("[x]\n", "must not open sections"), ("include more.fio\n", "nested more than"), (None, "no such file")],
)
def test_include_wrong_is_one_line(tmp_path: Path, inner: str | None, message: str) -> None:
    if inner is not None:
        (tmp_path / "more.fio").write_text(inner)
    main = tmp_path / "main.fio"
    main.write_text("[a]\ninclude more.fio\n")
    with pytest.raises(JobFileError, match=message) as caught:
        parse_job_file(str(main))
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bs=4k\n", "stands before the first"),
        ("[a\n", "is not a section"),
        ("[]\n", "is not a section"),
        ("[global]\nbs=4k\n", "defines no job"),
        ("", "defines no job"),
    ],
)
def test_file_malformed_says_what_is_wrong(text: str, message: str) -> None:
    assert message in problems(text)[0]


def test_byte_order_mark_of_a_windows_editor_is_no_part_of_the_job(tmp_path: Path) -> None:
    path, included = tmp_path / "a.fio", tmp_path / "b.fio"
    included.write_text("bs=8k\n", encoding="utf-8-sig")
    path.write_text("[a]\nrw=read\ninclude b.fio\n", encoding="utf-8-sig")
    (job,) = parse_job_file(str(path)).jobs
    assert (job.name, job.get("rw")) == ("a", "read")
    assert job.texts["bs"] == "8k"


@pytest.mark.parametrize("text", ["{}", "[a]\n{}", "[a]\n{}=1", "[{}", "[a]\nexec_prerun={}", "[a]\ninclude {}"])
def test_message_does_not_repeat_a_line_of_megabytes(text: str) -> None:
    (message,) = problems(text.format("x" * 5_000_000))
    assert len(message) < 300


@pytest.mark.parametrize("override", ["{}", "{}=1", "bs={}"])
def test_message_does_not_repeat_an_override_of_megabytes(override: str) -> None:
    assert all(len(line) < 400 for line in problems("[a]\n", overrides=[override.format("x" * 100_000)]))



def test_file_missing_or_binary_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(JobFileError, match="cannot read the job file: No such file"):
        parse_job_file(str(tmp_path / "none.fio"))
    (tmp_path / "bin.fio").write_bytes(b"[a]\n\xff\xfe")
    with pytest.raises(JobFileError, match="is not UTF-8"):
        parse_job_file(str(tmp_path / "bin.fio"))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("rw=randread:8", "modifier"),
        ("rw=trimwrite", "not supported here"),
        ("ioengine=net", "moves no blocks"),
        ("random_distribution=zipf:1", "not 1"),
        ("random_distribution=pareto:2", "between 0 and 1"),
        ("random_distribution=zoned:50/5", "is not one of"),
        ("random_distribution=zipf:1.2:0.5", "centre"),
        ("verify=sha512", "is not one of crc32c"),
        ("nvme_lba_size=520", "is not one of 512, 4096"),
        ("nvme_metadata=ms=9", "must be one of 0, 8, 16, 64"),
        ("iodepth=0", "from 1 to"),
        ("rwmixread=101", "from 0 to 100"),
    ],
)
def test_value_that_cannot_be_run_is_an_error(option: str, message: str) -> None:
    (line,) = problems(f"[a]\n{option}\n")
    assert message in line and line.startswith("f.fio:2: ")


ISSUE_OPTIONS = (
    "rw", "bs", "bsrange", "size", "io_size", "offset", "iodepth", "numjobs", "rwmixread",
    "rwmixwrite", "runtime", "time_based", "ramp_time", "rate_iops", "random_distribution",
    "randseed", "norandommap", "fsync", "verify", "do_verify", "loops", "stonewall", "thinktime",
    "name", "filename", "directory", "group_reporting", "ioengine",
)  # fmt: skip


@pytest.mark.parametrize("name", ISSUE_OPTIONS)
def test_option_of_the_issue_is_honoured(name: str) -> None:
    assert OPTIONS[name].rule is Rule.HONOURED


def test_suggestion_of_a_name_unlike_all_others_is_empty() -> None:
    assert suggest("zzzzqqq") == ""
