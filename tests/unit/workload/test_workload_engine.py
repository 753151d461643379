"""The loops on the real machine, on both clocks: limits, pace, phases, figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

import nvme_emu
from nvme_emu.core.errors import NvmeError
from nvme_emu.core.trace import NvmeSetupCmd
from nvme_emu.machine import Machine
from nvme_emu.spec.opcodes import NvmOpcode
from nvme_emu.workload.engine import AsyncJob, Control
from nvme_emu.workload.job import Job
from nvme_emu.workload.jobfile import parse_job_text
from nvme_emu.workload.plan import Plan
from nvme_emu.workload.planner import make_plan
from nvme_emu.workload.runner import JobResult, Jobs, run_jobs

CLOCKS = pytest.mark.parametrize("clock", ["wall", "virtual"])
ENGINES = pytest.mark.parametrize("engine", ["psync", "libaio"])


def open_for(plan: Plan, clock: str, **more: Any) -> Machine:
    return nvme_emu.open(
        size=plan.machine.size,
        mode=plan.machine.mode,
        namespaces=plan.machine.namespaces,
        lba_size=plan.machine.lba_size,
        clock=clock,
        **more,
    )


def go(
    text: str, clock: str = "virtual", before: Callable[[Machine], None] | None = None, **more: Any
) -> list[JobResult]:
    plan = make_plan(parse_job_text(text))
    with open_for(plan, clock, **more) as machine:
        if before is not None:
            before(machine)
        return Jobs(machine, plan.jobs).run()


class Commands:
    """Counts the commands that reach the device, and where they go."""

    def __init__(self, machine: Machine) -> None:
        self.seen: list[tuple[int, int]] = []
        machine.trace.add_sink(self)

    def __call__(self, event: Any) -> None:
        if isinstance(event, NvmeSetupCmd) and event.qid:
            self.seen.append((event.opcode, event.slba))

    def count(self, opcode: int) -> int:
        return sum(kind == opcode for kind, _ in self.seen)


@CLOCKS
@ENGINES
def test_job_reads_its_whole_file_once(clock: str, engine: str) -> None:
    watch: list[Commands] = []
    (result,) = go(
        f"[a]\nrw=randread\nsize=1m\nbs=4k\nioengine={engine}\niodepth=8\n",
        clock,
        before=lambda machine: watch.append(Commands(machine)),
    )
    assert result.ok and (result.stats.read.ios, result.stats.read.nbytes) == (256, 1 << 20)
    assert sorted(slba for _, slba in watch[0].seen) == list(range(0, 2048, 8))


@CLOCKS
@ENGINES
@pytest.mark.parametrize("check", ["crc32c", "md5", "pattern:0xdeadbeef"])
def test_verify_reads_back_everything_that_was_written(clock: str, engine: str, check: str) -> None:
    (result,) = go(f"[v]\nrw=randwrite\nsize=512k\nverify={check}\nioengine={engine}\niodepth=8\n", clock)
    assert result.ok
    assert (result.stats.write.ios, result.stats.read.ios) == (128, 128)


@ENGINES
def test_verify_with_overlapping_sizes_checks_what_is_whole(engine: str) -> None:
    text = f"[v]\nrw=randwrite\nsize=1m\nbsrange=4k-32k\nnorandommap\nverify=crc32c\nioengine={engine}\niodepth=16\n"
    (result,) = go(text)
    assert result.ok and 0 < result.stats.read.ios < result.stats.write.ios


@ENGINES
def test_verify_phase_runs_after_each_loop_and_not_without_do_verify(engine: str) -> None:
    text = f"[v]\nrw=write\nsize=64k\nloops=3\nverify=md5\nioengine={engine}\n"
    (result,) = go(text)
    assert (result.stats.write.ios, result.stats.read.ios) == (48, 48)
    (result,) = go(text + "do_verify=0\n")
    assert (result.stats.write.ios, result.stats.read.ios) == (48, 0)


@CLOCKS
@ENGINES
def test_corrupted_block_is_reported_with_lba_expected_and_found(clock: str, engine: str) -> None:
    def corrupt(machine: Machine) -> None:
        namespace = machine.namespaces[1]
        data = namespace.read(40, 8)
        data[1000] ^= 0xFF
        namespace.write(40, data)

    writing = f"[w]\nrw=write\nsize=64k\nfilename=x\nverify=crc32c\ndo_verify=0\nioengine={engine}\n"
    plan = make_plan(
        parse_job_text(writing + "[r]\nstonewall\nrw=read\nsize=64k\nfilename=x\nverify=crc32c\n")
    )
    with open_for(plan, clock) as machine:
        (written,) = Jobs(machine, plan.jobs[:1]).run()
        corrupt(machine)
        (read,) = Jobs(machine, plan.jobs[1:]).run()
    assert written.ok and not read.ok
    assert (read.mismatch_count, read.stats.error, read.stats.read.ios) == (1, 84, 16)
    assert (read.mismatches[0].lba, read.mismatches[0].byte) == (41, 488)
    assert read.mismatches[0].expected[0] == read.mismatches[0].found[0] ^ 0xFF


def test_verify_fatal_ends_at_the_first_mismatch() -> None:
    text = "[r]\nrw=read\nsize=64k\nverify=crc32c\n"
    (result,) = go(text)
    assert (result.mismatch_count, result.stats.read.ios) == (16, 16)
    (result,) = go(text + "verify_fatal=1\n")
    assert (result.mismatch_count, result.stats.read.ios) == (1, 1)


@ENGINES
def test_fsync_flushes_after_every_nth_write(engine: str) -> None:
    watch: list[Commands] = []
    (result,) = go(
        f"[a]\nrw=randwrite\nsize=128k\nfsync=8\nioengine={engine}\niodepth=4\n",
        before=lambda machine: watch.append(Commands(machine)),
    )
    assert result.stats.sync.n == 4 == watch[0].count(NvmOpcode.FLUSH)
    kinds = [kind for kind, _ in watch[0].seen]
    assert [index for index, kind in enumerate(kinds) if kind == NvmOpcode.FLUSH] == [8, 17, 26, 35]


def test_end_fsync_flushes_once() -> None:
    (result,) = go("[a]\nrw=write\nsize=64k\nend_fsync=1\n")
    assert result.stats.sync.n == 1


@ENGINES
def test_trim_discards_the_range(engine: str) -> None:
    (result,) = go(f"[a]\nrw=trim\nsize=64k\nioengine={engine}\niodepth=2\n")
    assert result.ok and result.stats.trim.ios == 16


@ENGINES
def test_limits_of_io_size_number_ios_and_loops(engine: str) -> None:
    base = f"[a]\nrw=randread\nsize=64k\nioengine={engine}\niodepth=4\n"
    for more, ios in (("io_size=16k\n", 4), ("io_size=256k\n", 64), ("number_ios=5\n", 5), ("loops=3\n", 48)):
        (result,) = go(base + more)
        assert result.stats.read.ios == ios, more


@ENGINES
def test_runtime_in_virtual_time_is_exact(engine: str) -> None:
    text = f"[a]\nrw=randread\nsize=1m\ntime_based\nruntime=5ms\nioengine={engine}\niodepth=4\n"
    (result,) = go(text, profile="tlc")
    assert 5_000_000 <= result.stats.read.runtime_ns < 6_000_000


@ENGINES
def test_runtime_counts_from_the_start_of_the_job_however_late_its_first_io(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = Job._begin

    def late(job: Job) -> None:
        begin(job)
        job.runtime.consume(2_000_000)

    monkeypatch.setattr(Job, "_begin", late)
    text = f"[a]\nrw=randread\nsize=1m\ntime_based\nruntime=5ms\nioengine={engine}\niodepth=4\n"
    (result,) = go(text)
    assert result.stats.read.runtime_ns >= 5_000_000


@ENGINES
def test_rate_iops_paces_the_job(engine: str) -> None:
    text = f"[a]\nrw=randread\nsize=4m\ntime_based\nruntime=100ms\nrate_iops=1000\nioengine={engine}\niodepth=4\n"
    (result,) = go(text)
    assert 98 <= result.stats.read.ios <= 102


@ENGINES
def test_rate_caps_each_direction_on_its_own(engine: str) -> None:
    text = f"[a]\nrw=rw\nsize=4m\ntime_based\nruntime=100ms\nrate=4m,2m\nioengine={engine}\niodepth=4\n"
    (result,) = go(text)
    assert result.stats.read.ios <= 104 and result.stats.write.ios <= 53


@ENGINES
def test_thinktime_pauses_after_so_many_blocks(engine: str) -> None:
    text = f"[a]\nrw=read\nsize=64k\nthinktime=1000\nthinktime_blocks=4\nioengine={engine}\niodepth=8\n"
    (result,) = go(text)
    assert 4_000_000 <= result.stats.runtime_ns < 4_500_000
    assert max(index for index, count in enumerate(result.stats.depth_counts) if count) <= 2


@ENGINES
def test_ramp_time_is_not_measured(engine: str) -> None:
    base = f"[a]\nrw=randread\nsize=1m\ntime_based\nruntime=4ms\nioengine={engine}\n"
    (plain,) = go(base, profile="optane")
    (ramped,) = go(base + "ramp_time=8ms\n", profile="optane")
    assert ramped.stats.read.runtime_ns < 4_500_000
    assert ramped.stats.read.ios == pytest.approx(plain.stats.read.ios, rel=0.1)
    assert ramped.stats.read.clat.n == ramped.stats.read.ios


def test_startdelay_and_stonewall_order_the_jobs() -> None:
    watch: list[Commands] = []
    text = "[global]\nsize=8k\nrw=read\n[late]\nstartdelay=10ms\n[early]\n[last]\nstonewall\n"
    go(text, before=lambda machine: watch.append(Commands(machine)))
    order = [slba // 2048 for _, slba in watch[0].seen]
    assert order == [1, 1, 0, 0, 2, 2]


def test_exitall_ends_the_others_of_the_group() -> None:
    text = "[global]\nsize=1m\ntime_based\n[short]\nruntime=2ms\nexitall\n[long]\nruntime=10s\n"
    text += "[other]\nnew_group\nruntime=4ms\n"
    short, long, other = go(text, profile="optane")
    assert short.stats.runtime_ns < 3_000_000
    assert long.stats.runtime_ns < 1_000_000_000
    assert other.stats.runtime_ns >= 4_000_000


@CLOCKS
def test_depth_stays_at_iodepth(clock: str) -> None:
    (result,) = go("[a]\nrw=randread\nsize=4m\nioengine=libaio\niodepth=16\n", clock, profile="optane")
    counts = result.stats.depth_counts
    assert sum(counts) == 1024 and counts[5] == counts[6] == 0
    assert counts[4] > 0


def test_virtual_runs_of_one_seed_are_equal_and_async_beats_sync_on_flash() -> None:
    text = "[a]\nrw=randread\nsize=1m\nioengine={}\niodepth=32\n"
    runs = [go(text.format("libaio"), profile="tlc", seed=3)[0].stats for _ in range(2)]
    assert (runs[0].read.clat.counts == runs[1].read.clat.counts).all()
    assert runs[0].read.runtime_ns == runs[1].read.runtime_ns
    (sync,) = go(text.format("psync"), profile="tlc", seed=3)
    assert runs[0].read.iops > 4 * sync.stats.read.iops


@CLOCKS
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_refill_in_callback_does_the_same_ios(clock: str, mode: str) -> None:
    plan = make_plan(parse_job_text("[a]\nrw=randread\nsize=1m\nioengine=libaio\niodepth=8\n"))
    plan = replace(plan, machine=replace(plan.machine, mode=mode))

    def factory(*args: Any) -> AsyncJob:
        return AsyncJob(*args, refill_in_callback=True)

    with open_for(plan, clock) as machine:
        (result,) = Jobs(machine, plan.jobs, factory=factory).run()
    assert result.ok and result.stats.read.ios == 256 == result.stats.read.lat.n


@CLOCKS
@ENGINES
def test_failed_io_ends_the_job_with_its_errno(clock: str, engine: str) -> None:
    plan = make_plan(parse_job_text(f"[a]\nrw=read\nsize=1m\nioengine={engine}\niodepth=4\n"))
    with open_for(plan, clock) as machine:
        jobs = Jobs(machine, plan.jobs)
        # The job is told of a larger namespace than the device has, so that its last reads leave it.
        jobs.jobs[0].ns.nlb *= 2
        small = plan.jobs[0].pattern.extents[0]
        beyond = replace(plan.jobs[0].pattern, extents=(replace(small, slba=1024),))
        jobs.jobs[0].plan = replace(plan.jobs[0], pattern=beyond)
        (result,) = jobs.run()
    assert not result.ok and result.stats.error > 0
    assert "LBA" in result.failure or "Range" in result.failure
    assert 0 < result.stats.read.ios <= 128


def test_stop_ends_every_job_and_keeps_its_figures() -> None:
    plan = make_plan(parse_job_text("[a]\nrw=randread\nsize=1m\ntime_based\nruntime=1h\nnumjobs=2\n"))
    with open_for(plan, "virtual") as machine:
        jobs = Jobs(machine, plan.jobs, control=(control := Control()))
        machine.runtime.call_at(machine.runtime.now_ns + 3_000_000, lambda: setattr(control, "stop", True))
        results = jobs.run()
    assert all(result.ok and result.stats.read.ios > 100 for result in results)
    assert all(result.stats.runtime_ns < 10**9 for result in results)


def test_stop_before_the_start_runs_nothing() -> None:
    plan = make_plan(parse_job_text("[a]\nsize=1m\n"))
    with open_for(plan, "virtual") as machine:
        jobs = Jobs(machine, plan.jobs)
        jobs.control.stop = True
        (result,) = jobs.run()
    assert not result.started and result.stats.ios == 0


def test_exception_in_a_job_is_raised_by_run() -> None:
    plan = make_plan(parse_job_text("[a]\nsize=1m\n"))
    with open_for(plan, "virtual") as machine:
        jobs = Jobs(machine, plan.jobs)
        jobs.jobs[0].ns.read = None  # type: ignore[method-assign,assignment]
        with pytest.raises(TypeError):
            jobs.run()


def test_plan_that_does_not_fit_the_machine_is_a_value_error() -> None:
    plan = make_plan(parse_job_text("[a]\nsize=1m\n"))
    with (
        nvme_emu.open(size="512k", clock="virtual") as machine,
        pytest.raises(ValueError, match="ends at block 2048"),
    ):
        Jobs(machine, plan.jobs)
    with (
        nvme_emu.open(size="1m", lba_size=4096, clock="virtual") as machine,
        pytest.raises(ValueError, match=r"ends at block|planned for blocks"),
    ):
        Jobs(machine, plan.jobs)
    away = replace(plan.jobs[0], nsid=2)
    with (
        nvme_emu.open(size="1m", clock="virtual") as machine,
        pytest.raises(ValueError, match="no namespace 2"),
    ):
        Jobs(machine, [away])


def test_job_on_a_second_namespace_leaves_the_first_alone() -> None:
    (result,) = go("[a]\nrw=write\nfilename=/dev/nvme0n2\nsize=64k\nverify=crc32c\n")
    assert result.ok and result.stats.read.ios == 16


def test_mixed_engines_share_the_ssd() -> None:
    results = go("[global]\nrw=randrw\nsize=256k\n[s]\n[a]\nioengine=libaio\niodepth=4\n")
    assert [result.ok and result.stats.ios for result in results] == [64, 64]


def test_accounting_of_a_sync_job_in_virtual_time_shows_it_blocked() -> None:
    (result,) = go("[a]\nrw=randread\nsize=1m\n", profile="tlc")
    stats = result.stats
    assert stats.context_switches >= 256
    assert stats.blocked_ns > stats.runtime_ns / 2
    assert 0 < stats.cpu_ns < stats.runtime_ns


def test_nvme_error_is_an_os_error() -> None:
    assert issubclass(NvmeError, OSError)


@pytest.mark.parametrize("clock", ["wall", "virtual"])
def test_jobs_of_both_kinds_go_their_own_way(clock: str) -> None:
    """The sync job's commands never pass the worker's queue, the async job's only pass that one."""

    plan = make_plan(
        parse_job_text(
            "[global]\nsize=64k\nbs=4k\nrw=read\n[s]\nioengine=psync\n[a]\nioengine=libaio\niodepth=4\n",
            source="mixed.fio",
        )
    )
    with nvme_emu.open(size=plan.machine.size, mode=plan.machine.mode, clock=clock) as ssd:
        queues: dict[bool, set[int]] = {True: set(), False: set()}
        split = plan.jobs[0].pattern.extents[0].nlb

        def see(event: object) -> None:
            if isinstance(event, NvmeSetupCmd) and event.qid:
                queues[event.slba < split].add(event.qid)

        ssd.trace.add_sink(see)
        results = run_jobs(ssd, plan.jobs)
        assert [worker.task.comm for worker in ssd.workers if worker.task] == ["nvme1"]

    assert all(result.ok for result in results)
    assert queues == {True: {2}, False: {1}}
