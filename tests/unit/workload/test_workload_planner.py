"""From job files to ranges of the SSD."""

from __future__ import annotations

import pytest

from nvme_emu.workload.jobfile import JobFileError, parse_job_text
from nvme_emu.workload.plan import JobPlan, Plan
from nvme_emu.workload.planner import DEFAULT_SIZE, make_plan

MIB = 1 << 20


def plan(text: str, **more: object) -> Plan:
    return make_plan(parse_job_text(text, source="f.fio"), **more)  # type: ignore[arg-type]


def problem(text: str) -> str:
    with pytest.raises(JobFileError) as caught:
        plan(text)
    assert len(caught.value.problems) == 1
    return caught.value.problems[0]


def span(job: JobPlan) -> list[tuple[int, int]]:
    """Start and size of each extent, in bytes."""
    return [(extent.slba * job.lba_size, extent.nlb * job.lba_size) for extent in job.pattern.extents]


def test_jobs_without_filename_get_files_of_their_own_one_after_another() -> None:
    made = plan("[a]\nsize=3m\nnumjobs=2\n[b]\nsize=100k\n[c]\nsize=1m\n")
    assert [span(job) for job in made.jobs] == [
        [(0, 3 * MIB)], [(3 * MIB, 3 * MIB)], [(6 * MIB, 100 << 10)], [(7 * MIB, MIB)],
    ]  # fmt: skip
    assert made.machine.size == 8 * MIB


def test_clones_and_jobs_that_name_a_file_share_it() -> None:
    made = plan("[global]\nfilename=x\n[a]\nsize=1m\nnumjobs=2\n[b]\nsize=2m\n")
    assert [span(job) for job in made.jobs] == [[(0, MIB)], [(0, MIB)], [(0, 2 * MIB)]]


def test_directory_makes_files_distinct_but_not_absolute_names() -> None:
    made = plan(
        "[global]\nsize=1m\n[a]\nfilename=x\ndirectory=/p\n[b]\nfilename=x\ndirectory=/q\n[c]\nfilename=/p/x\n"
    )
    assert [span(job)[0][0] for job in made.jobs] == [0, MIB, 0]


def test_several_files_divide_the_size() -> None:
    (job,) = plan("[a]\nfilename=x:y\nsize=4m\n").jobs
    assert span(job) == [(0, 2 * MIB), (2 * MIB, 2 * MIB)]
    (job,) = plan("[a]\nnrfiles=4\nsize=4m\n").jobs
    assert len(span(job)) == 4 and job.io_bytes == 4 * MIB
    (job,) = plan("[a]\nfilename=x\\:y\nsize=4m\n").jobs
    assert len(span(job)) == 1


def test_device_name_stands_for_the_whole_namespace() -> None:
    made = plan("[a]\nfilename=/dev/nvme0n1\nsize=2m\n[b]\nsize=4m\n[c]\nfilename=/dev/nvme0n1\n")
    assert [span(job) for job in made.jobs] == [[(0, 2 * MIB)], [(0, 4 * MIB)], [(0, 4 * MIB)]]


def test_device_name_of_another_namespace_makes_more_of_them() -> None:
    made = plan("[a]\nfilename=/dev/nvme0n2\nsize=2m\n")
    assert (made.jobs[0].nsid, made.machine.namespaces, made.machine.size) == (2, 2, 4 * MIB)


def test_size_left_out_is_the_files_or_the_default() -> None:
    made = plan("[a]\nfilename=x\nsize=2m\n[b]\nfilename=x\n[c]\nfilename=/dev/XXX\n")
    assert [job.size for job in made.jobs] == [2 * MIB, 2 * MIB, DEFAULT_SIZE]


def test_offset_and_percentages_cut_the_file() -> None:
    made = plan(
        "[a]\nfilename=x\nsize=10m\n[b]\nfilename=x\noffset=2m\n[c]\nfilename=x\nsize=50%\noffset=25%\n"
    )
    assert [span(job) for job in made.jobs[1:]] == [[(2 * MIB, 8 * MIB)], [(5 * MIB // 2, 5 * MIB)]]


def test_offset_increment_moves_each_clone() -> None:
    made = plan("[a]\nfilename=x\nsize=1m\nnumjobs=3\noffset_increment=1m\n")
    assert [span(job) for job in made.jobs] == [[(0, MIB)], [(MIB, MIB)], [(2 * MIB, MIB)]]


def test_io_size_is_independent_of_size() -> None:
    first, second = plan("[a]\nsize=4m\nio_size=1m\n[b]\nsize=4m\nio_size=50%\n").jobs
    assert (first.io_bytes, second.io_bytes) == (MIB, 2 * MIB)


def test_filesize_is_the_size_of_each_file() -> None:
    (job,) = plan("[a]\nnrfiles=2\nfilesize=1m\n").jobs
    assert span(job) == [(0, MIB), (MIB, MIB)]


def test_groups_begin_at_stonewalls_and_new_group() -> None:
    made = plan("[global]\nsize=1m\n[a]\n[b]\n[c]\nstonewall\nnumjobs=2\n[d]\nnew_group\n")
    assert [(job.group, job.stonewall) for job in made.jobs] == [
        (0, False), (0, False), (1, True), (1, False), (2, False),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("engine", "mode", "depth"), [("libaio", "async", 8), ("psync", "sync", 1), ("mmap", "sync", 1)]
)
def test_engine_decides_mode_and_caps_the_depth(engine: str, mode: str, depth: int) -> None:
    made = plan(f"[a]\nsize=1m\nioengine={engine}\niodepth=8\n")
    assert (made.jobs[0].mode, made.machine.mode, made.jobs[0].iodepth) == (mode, mode, depth)
    assert any("the depth is 1" in note for note in made.notes) == (depth == 1)


def test_both_kinds_of_engine_make_a_mixed_machine() -> None:
    made = plan("[a]\nsize=1m\n[b]\nsize=1m\nioengine=io_uring\n")
    assert made.machine.mode == "mixed"
    assert [job.mode for job in made.jobs] == ["sync", "async"]


def test_each_clone_has_a_seed_of_its_own_that_repeats() -> None:
    text = "[a]\nsize=1m\nnumjobs=3\n"
    seeds = [job.pattern.seed for job in plan(text).jobs]
    assert len(set(seeds)) == 3
    assert [job.pattern.seed for job in plan(text).jobs] == seeds
    assert [job.pattern.seed for job in plan(text, seed=1).jobs] != seeds
    assert [job.pattern.seed for job in plan(text.replace("[a]", "[a]\nrandseed=5")).jobs] != seeds


def test_randrepeat_off_takes_fresh_seeds() -> None:
    (job,) = plan("[a]\nsize=1m\nrandrepeat=0\n", entropy=lambda: 42).jobs
    assert job.pattern.seed == 42


def test_bsrange_and_pairs_become_blocks_of_each_direction() -> None:
    first, second = plan("[a]\nsize=1m\nbsrange=4k-16k\n[b]\nsize=1m\nbs=4k,8k\n").jobs
    assert first.pattern.nlb == ((8, 32),) * 3
    assert second.pattern.nlb == ((8, 8), (16, 16), (16, 16))


def test_verify_knows_whether_the_blocks_are_its_own() -> None:
    alone, *_ = plan("[a]\nrw=write\nsize=1m\nverify=crc32c\n").jobs
    shared, *_ = plan("[a]\nrw=write\nsize=1m\nverify=crc32c\nfilename=x\nnumjobs=2\n").jobs
    assert (alone.verify.own_blocks, shared.verify.own_blocks) == (True, False)


def test_verify_pattern_comes_from_either_spelling() -> None:
    first, second = plan(
        "[a]\nsize=1m\nverify=pattern:0xabcd\n[b]\nsize=1m\nverify=pattern\nverify_pattern=0xabcd\n"
    ).jobs
    assert first.verify == second.verify.__class__(
        check="pattern", pattern=b"\xab\xcd", seed=first.verify.seed, job=first.verify.job
    )
    assert second.verify.pattern == b"\xab\xcd"


def test_machine_options_come_from_ours() -> None:
    made = plan(
        "[global]\nnvme_profile=tlc\nnvme_lba_size=4096\nnvme_queues=2\nnvme_queue_depth=64\n[a]\nsize=1m\n"
    )
    assert made.machine.options == {"profile": "tlc", "queues": 2, "depth": 64}
    assert made.machine.lba_size == 4096


def test_metadata_has_room_beside_the_data() -> None:
    made = plan("[global]\nnvme_metadata=ms=64,pi=1\nnvme_lba_size=4096\n[a]\nsize=1m\n")

    assert made.machine.options == {"metadata": "ms=64,pi=1"}
    assert made.machine.size == 256 * (4096 + 64)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[a]\nbs=1000\n",
            "f.fio:2: a block of 1000 bytes is not a multiple of the logical block of 512 bytes",
        ),
        ("[a]\nsize=1k\n", "f.fio:2: the file has 1024 bytes, less than one block of 4096"),
        ("[a]\nfilename=x\nsize=1m\noffset=1000\n", "f.fio:4: offset: 1000 is not a multiple"),
        ("[a]\nverify=pattern\n", "f.fio:2: verify=pattern needs verify_pattern"),
        ("[a]\nverify=md5\nverify_interval=3000\n", "f.fio:3: verify_interval=3000 must divide"),
        ("[a]\nfilename=/dev/nvme0n1:x\n", "f.fio:2: filename: a job's files must lie in one namespace"),
        ("[a]\nfilename=/dev/nvme0n99\n", "f.fio:2: filename: namespaces are 1 to 16"),
        ("[a]\nsize=2p\n", "f.fio:2: a file may have at most 1 PiB"),
        ("[a]\nbs=2g\nsize=4g\n", "f.fio:2: a block of 2147483648 bytes is larger than 1 GiB"),
        ("[a]\nsize=0%\n", "nothing is left to transfer"),
        ("[a]\n[b]\nnvme_lba_size=4096\n", "f.fio:3: nvme_lba_size: all jobs share one SSD"),
        (
            "[a]\niodepth=65536\nbs=1m\nioengine=libaio\n",
            "f.fio:2: iodepth=65536 blocks of 1048576 bytes need",
        ),
    ],
)
def test_job_that_cannot_be_laid_out_is_one_line_with_its_place(text: str, message: str) -> None:
    assert message in problem(text)
