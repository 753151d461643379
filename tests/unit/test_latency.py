"""Device time: latencies are the sum of their parts, and each resource bounds the rate."""

from __future__ import annotations

import dataclasses
import random
from heapq import heappop, heappush

import pytest

from nvme_emu.controller.latency import LatencyModel, Op
from nvme_emu.controller.profiles import PROFILES, DeviceProfile

# Round figures, so that every expectation can be worked out by hand: 1000 MB/s is a byte a nanosecond.
PLAIN = DeviceProfile(
    name="plain",
    channels=4,
    dies_per_channel=2,
    page_bytes=16384,
    pages_per_block=1 << 40,
    read_ns=(50_000,),
    program_ns=500_000,
    bus_mb_s=1_000,
    command_ns=1_000,
    read_overhead_ns=10_000,
    write_overhead_ns=5_000,
    dram_ns=500,
    buffer_bytes=1 << 20,
    flush_ns=3_000,
    trim_ns=20_000,
    read_link_mb_s=4_000,
    write_link_mb_s=2_000,
)
PAGE = PLAIN.page_bytes


def plain(**overrides: object) -> LatencyModel:
    return LatencyModel(dataclasses.replace(PLAIN, **overrides))  # type: ignore[arg-type]


def closed_loop(model: LatencyModel, op: Op, nbytes: int, depth: int, count: int, stride: int) -> float:
    """Bytes a nanosecond (GB/s) with `depth` commands always outstanding, `stride` bytes apart."""
    outstanding: list[int] = []
    now = 0
    for number in range(count):
        if len(outstanding) == depth:
            now = max(now, heappop(outstanding))
        heappush(outstanding, model.submit(op, number * stride, nbytes, now))
    return count * nbytes / max(outstanding)


# -- one command --------------------------------------------------------------------------------------------


def test_read_alone_takes_the_sum_of_its_parts() -> None:
    assert plain().submit(Op.READ, 0, 4096, 7) == 7 + 1_000 + 10_000 + 50_000 + 4_096 + 1_024


def test_write_alone_takes_the_sum_of_its_parts_up_to_the_buffer() -> None:
    assert plain().submit(Op.WRITE, 0, 4096, 7) == 7 + 1_000 + 5_000 + 2_048 + 500


def test_write_without_a_buffer_takes_the_program_too() -> None:
    model = plain(buffer_bytes=0)

    assert model.submit(Op.WRITE, 0, 4096, 0) == 1_000 + 5_000 + 2_048 + 4_096 + 500_000


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        (Op.VERIFY, 1_000 + 10_000 + 50_000 + 4_096),
        (Op.COMPARE, 1_000 + 10_000 + 2_048 + 50_000 + 4_096),
        (Op.DISCARD, 1_000 + 20_000),
        (Op.WRITE_ZEROES, 1_000 + 20_000),
        (Op.FLUSH, 1_000 + 3_000),
        (Op.ADMIN, 1_000),
    ],
)
def test_other_commands_take_the_sum_of_their_parts(op: Op, expected: int) -> None:
    assert plain().submit(op, 0, 4096, 0) == expected
    assert plain().submit(str(op), 0, 4096, 0) == expected


def test_unknown_operation_raises_value_error() -> None:
    with pytest.raises(ValueError, match="sing"):
        plain().submit("sing", 0, 0, 0)


def test_large_read_takes_its_pages_from_all_channels_at_once() -> None:
    model = plain()

    done = model.submit(Op.READ, 0, 4 * PAGE, 0)

    # Each page waits for its own array and bus; the link takes the four one after another.
    assert 1_000 + 10_000 + 50_000 + PAGE < done <= 1_000 + 10_000 + 50_000 + PAGE + 4 * PAGE // 4
    assert model.counters.channel_busy_ns == [PAGE] * 4


def test_read_across_a_page_boundary_touches_two_dies() -> None:
    model = plain()

    model.submit(Op.READ, PAGE - 512, 1024, 0)

    assert model.counters.die_busy_ns == [50_000, 50_000, 0, 0, 0, 0, 0, 0]
    assert model.counters.channel_busy_ns == [512, 512, 0, 0]


def test_page_types_of_a_die_take_turns() -> None:
    model = plain(read_ns=(10_000, 30_000), command_ns=0)
    stride = 8 * PAGE

    parts = [model.submit(Op.VERIFY, row * stride, 0 + 512, row << 30) - (row << 30) for row in range(4)]

    assert [part - 10_000 - 512 for part in parts] == [10_000, 30_000, 10_000, 30_000]


def test_page_read_again_comes_from_the_register_until_the_die_is_programmed() -> None:
    model = plain()
    full = model.submit(Op.READ, 0, 512, 0)
    again = model.submit(Op.READ, 4096, 512, 1 << 30) - (1 << 30)
    assert full - again == 50_000

    model.submit(Op.WRITE, 0, PAGE, 2 << 30)
    assert model.submit(Op.READ, 0, 512, 3 << 30) - (3 << 30) == full


# -- many commands ------------------------------------------------------------------------------------------


def test_random_reads_saturate_at_the_rate_of_the_dies() -> None:
    model = plain(command_ns=0)

    rate = closed_loop(model, Op.READ, 512, depth=256, count=20_000, stride=PAGE)

    assert rate == pytest.approx(8 * 512 / 50_000, rel=0.02)


def test_reads_of_one_die_queue_behind_each_other() -> None:
    model = plain(command_ns=0)

    rate = closed_loop(model, Op.READ, 512, depth=32, count=2_000, stride=8 * PAGE)

    assert rate == pytest.approx(512 / 50_000, rel=0.02)


def test_sequential_128k_reads_hit_the_link() -> None:
    model = plain(read_link_mb_s=1_000, read_ns=(5_000,))

    rate = closed_loop(model, Op.READ, 131072, depth=32, count=2_000, stride=131072)

    assert rate == pytest.approx(1.0, rel=0.01)


def test_reads_hit_the_buses_where_link_and_dies_are_faster() -> None:
    model = plain(read_link_mb_s=0, read_ns=(5_000,))

    rate = closed_loop(model, Op.READ, 131072, depth=32, count=2_000, stride=131072)

    assert rate == pytest.approx(4.0, rel=0.01)


def test_command_processor_bounds_the_commands_a_second() -> None:
    model = plain(command_ns=10_000, read_ns=(0,))

    rate = closed_loop(model, Op.READ, 512, depth=64, count=5_000, stride=PAGE)

    assert rate == pytest.approx(512 / 10_000, rel=0.01)


def test_command_behind_one_that_waits_for_a_die_is_not_held_up_by_it() -> None:
    model = plain(command_ns=0)
    for row in range(20):
        late = model.submit(Op.READ, row * 8 * PAGE, 4096, 0)  # all on die 0

    free = model.submit(Op.READ, 4 * PAGE, 4096, 0)  # die 4: another die on the same channel and link

    assert late > 1_000_000
    assert free < 10_000 + 50_000 + 21 * (4096 + 1024)


def test_writes_are_fast_until_the_buffer_is_full_and_then_go_at_program_speed() -> None:
    model = plain(command_ns=0, bus_mb_s=0, write_link_mb_s=0)
    latencies = []
    now = 0
    for number in range(2_000):
        done = model.submit(Op.WRITE, number * PAGE, PAGE, now)
        latencies.append(done - now)
        now = done

    in_buffer = PLAIN.buffer_bytes // PAGE
    assert set(latencies[:in_buffer]) == {5_500}
    assert max(latencies[in_buffer : in_buffer + 8]) > 5_500
    drained = 1_900 * PAGE / (now - sum(latencies[:100]))
    assert drained == pytest.approx(8 * PAGE / 500_000, rel=0.02)
    assert model.submit(Op.WRITE, 0, PAGE, now + (1 << 40)) == now + (1 << 40) + 5_500  # empty again


def test_programs_wait_for_the_erase_of_their_block() -> None:
    model = plain(pages_per_block=10, erase_ns=5_000_000, command_ns=0)

    rate = closed_loop(model, Op.WRITE, PAGE, depth=64, count=8_000, stride=PAGE)

    assert rate == pytest.approx(8 * 10 * PAGE / (10 * 500_000 + 5_000_000), rel=0.03)
    assert model.counters.erases == pytest.approx(800, abs=8)


def test_write_larger_than_the_buffer_ends_at_program_speed() -> None:
    done = plain().submit(Op.WRITE, 0, 8 << 20, 0)

    assert done >= (7 << 20) / (8 * PAGE) * 500_000


def test_flush_and_fua_wait_for_the_flash_without_power_loss_protection() -> None:
    model = plain()
    buffered = model.submit(Op.WRITE, 0, 4096, 0)
    flushed = model.submit(Op.FLUSH, 0, 0, buffered)
    assert flushed == buffered + 1_000 + 4_096 + 500_000 + 3_000
    assert model.submit(Op.FLUSH, 0, 0, flushed) == flushed + 1_000 + 3_000
    assert model.counters.media_write_bytes == PAGE  # a whole page for 4 KiB
    assert model.counters.write_amplification == 4.0

    assert plain().submit(Op.WRITE, 0, 4096, 0, fua=True) == 1_000 + 5_000 + 2_048 + 4_096 + 500_000


def test_flush_and_fua_do_not_wait_with_power_loss_protection() -> None:
    model = plain(power_loss_protected=True)

    buffered = model.submit(Op.WRITE, 0, 4096, 0, fua=True)

    assert buffered == 1_000 + 5_000 + 2_048 + 500
    assert model.submit(Op.FLUSH, 0, 0, buffered) == buffered + 1_000 + 3_000


@pytest.mark.parametrize(("suspends", "wait"), [(True, 15_000), (False, 400_000)])
def test_read_of_a_die_that_programs_suspends_it_or_waits_for_its_end(suspends: bool, wait: int) -> None:
    model = plain(program_suspend=suspends, suspend_ns=15_000, command_ns=0, bus_mb_s=0, write_link_mb_s=0)
    model.submit(Op.WRITE, 0, PAGE, 0)  # programs die 0 from 5 000 to 505 000
    now = 105_000 - 10_000

    alone = model.submit(Op.READ, PAGE, 512, now) - now
    behind = model.submit(Op.READ, 0, 512, now) - now

    assert behind - alone == wait


def test_read_waits_for_one_program_and_not_for_all_that_are_planned() -> None:
    model = plain(program_suspend=False, command_ns=0)
    for number in range(64):
        model.submit(Op.WRITE, number * PAGE, PAGE, 0)

    done = model.submit(Op.READ, 0, 512, 1_000_000) - 1_000_000

    assert done < 10_000 + 500_000 + 50_000 + 20_000


def test_write_amplification_slows_sustained_writes_and_is_counted() -> None:
    model = plain(write_amplification_pct=250, command_ns=0)

    rate = closed_loop(model, Op.WRITE, PAGE, depth=64, count=8_000, stride=PAGE)

    assert rate == pytest.approx(8 * PAGE / 500_000 / 2.5, rel=0.03)
    assert model.counters.write_amplification == pytest.approx(2.5, rel=0.01)


def test_busy_dies_never_exceed_the_time_that_passed() -> None:
    model = plain(command_ns=0)
    closed_loop(model, Op.READ, 512, depth=256, count=5_000, stride=PAGE)
    counters = model.counters

    assert counters.host_read_bytes == 5_000 * 512
    assert counters.media_read_bytes == 5_000 * PAGE
    assert counters.die_busy_ns == [625 * 50_000] * 8
    assert counters.channel_busy_ns == [1250 * 512] * 4
    assert counters.read_link_busy_ns == 5_000 * 128
    assert counters.host_write_bytes == counters.media_write_bytes == 0
    assert counters.write_amplification == 0.0


def test_reset_forgets_work_in_flight_and_keeps_the_counters() -> None:
    model = plain()
    first = [model.submit(Op.WRITE, 0, PAGE, 0) for _ in range(500)]
    written = model.counters.host_write_bytes

    model.reset()

    assert [model.submit(Op.WRITE, 0, PAGE, 0) for _ in range(500)] == first
    assert model.counters.host_write_bytes == 2 * written


# -- scatter and profiles -----------------------------------------------------------------------------------


def run_mixed(profile: DeviceProfile, seed: int) -> list[int]:
    model = LatencyModel(profile, random.Random(seed))
    workload = random.Random(1)
    times = []
    now = 0
    for _ in range(3_000):
        op = workload.choice(list(Op))
        now += workload.randrange(20_000)
        times.append(model.submit(op, workload.randrange(1 << 30), workload.randrange(1, 1 << 17), now))
        assert times[-1] >= now
        assert type(times[-1]) is int
    return times


@pytest.mark.parametrize("name", list(PROFILES))
def test_same_seed_gives_the_same_times(name: str) -> None:
    assert run_mixed(PROFILES[name], 5) == run_mixed(PROFILES[name], 5)
    if name != "instant":
        assert run_mixed(PROFILES[name], 5) != run_mixed(PROFILES[name], 6)


def test_jitter_and_retries_stay_in_their_bounds() -> None:
    profile = dataclasses.replace(PLAIN, jitter_ns=1_000, retry_ppm=100_000, retry_ns=70_000, command_ns=0)
    model = LatencyModel(profile, random.Random(1))
    alone = 10_000 + 50_000 + 512 + 128

    extra = [
        model.submit(Op.READ, n * PAGE, 512, n << 20) - (n << 20) - alone for n in range(5_000)
    ]

    retried = [value for value in extra if value >= 70_000]
    assert all(0 <= value < 1_000 or 70_000 <= value < 71_000 for value in extra)
    assert len(retried) == model.counters.retries == pytest.approx(500, rel=0.2)
    assert sum(value % 70_000 for value in extra) / 5_000 == pytest.approx(500, rel=0.05)


def test_scatter_without_a_generator_raises_value_error() -> None:
    with pytest.raises(ValueError, match="random generator"):
        LatencyModel(PROFILES["tlc"])


def test_instant_takes_no_time_and_needs_no_generator() -> None:
    model = LatencyModel(PROFILES["instant"])

    assert model.instant
    for op in Op:
        assert model.submit(op, 1 << 40, 1 << 30, 12_345) == 12_345


@pytest.mark.parametrize(
    ("name", "op", "nbytes", "depth", "low", "high"),
    [
        # (source of the expectation: see profiles.py)
        pytest.param("optane", Op.READ, 4096, 1, 0.10e6, 0.15e6, id="optane QD1"),
        pytest.param("optane", Op.READ, 4096, 16, 0.55e6, 0.60e6, id="optane QD16 550 to 585 k"),
        pytest.param("tlc", Op.READ, 4096, 1, 10e3, 14e3, id="tlc QD1 about 80 us"),
        pytest.param("tlc", Op.WRITE, 131072, 32, 1.7e9 / 131072, 2.1e9 / 131072, id="tlc 1.9 GB/s"),
        pytest.param("qlc", Op.READ, 4096, 256, 0.38e6, 0.43e6, id="qlc 427 k"),
        pytest.param("qlc", Op.WRITE, 131072, 32, 0.9e9 / 131072, 1.2e9 / 131072, id="qlc 1 GB/s"),
    ],
)
def test_profile_reaches_what_its_source_measured(
    name: str, op: Op, nbytes: int, depth: int, low: float, high: float
) -> None:
    model = LatencyModel(PROFILES[name], random.Random(1))
    offsets = random.Random(2)
    outstanding: list[int] = []
    now = 0
    count = 20_000 if nbytes == 4096 else 8_000
    for _ in range(count):
        if len(outstanding) == depth:
            now = max(now, heappop(outstanding))
        offset = offsets.randrange(1 << 18) * 4096
        heappush(outstanding, model.submit(op, offset, nbytes, now))

    assert low < count / max(outstanding) * 1e9 < high
