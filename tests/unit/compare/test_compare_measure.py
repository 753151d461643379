"""What the rows must show, whatever the figures are: small runs of the real machine."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache

import pytest

import kworker
from nvme_emu.driver import NvmeDriver
from nvme_emu.workload.compare import CompareConfig, CompareInterrupted, compare
from nvme_emu.workload.compare_flip import find_flip, flip_pairs
from nvme_emu.workload.compare_measure import measure_row
from nvme_emu.workload.compare_rows import Row, plan_rows

SMALL = CompareConfig(profiles=("tlc",), iodepth=(1, 8), ios=600, flips=False)


@cache
def rows_of(config: CompareConfig) -> dict[tuple[str, str | None, int], Row]:
    return {(row.mode, row.worker, row.iodepth): row for row in compare(config).rows}


def test_compare_twice_gives_the_same_bytes() -> None:
    config = replace(SMALL, profiles=("optane",), flips=True, ios=100, iodepth=(1,))
    assert compare(config).json_text() == compare(config).json_text()


def test_compare_in_processes_gives_the_same_bytes() -> None:
    config = replace(SMALL, ios=100, iodepth=(2,))
    assert compare(config).json_text() == compare(replace(config, processes=2)).json_text()


def test_compare_another_seed_gives_other_figures() -> None:
    config = replace(SMALL, ios=200, iodepth=(2,))
    assert compare(config).json_text() != compare(replace(config, seed=1)).json_text()


def test_compare_json_has_the_keys_of_the_contract() -> None:
    data = json.loads(compare(replace(SMALL, ios=100, iodepth=(2,))).json_text())
    assert list(data) == ["version", "seed", "clock", "assumptions", "rows", "verdict"]
    for row in data["rows"]:
        assert set(row) >= {
            "profile", "mode", "worker", "iodepth", "callers", "bs", "rw", "ios", "iops", "bw_bytes", "lat_ns",
            "caller_blocked", "cpu_ns_per_io", "context_switches", "stages_ns",
        }  # fmt: skip
        assert set(row["lat_ns"]) == {"mean", "p50", "p99", "p99_9", "max"}
        assert set(row["stages_ns"]) == {"worker_list", "submission", "device", "completion", "wakeup"}
        assert 0 <= row["caller_blocked"] <= 1
        assert (row["worker"] is None) == (row["mode"] == "sync")
    assert {key for row in data["rows"] for key in [(row["mode"], row["worker"], row["callers"])]} == {
        ("sync", None, 1), ("sync", None, 2), ("async", "pump", 1), ("async", "per-request", 1),
    }  # fmt: skip
    assert data["assumptions"]["wakeup_ns"] == kworker.SimCosts().wakeup_ns
    assert data["assumptions"]["sources"]["wakeup_ns"]
    assert data["assumptions"]["profiles"]["tlc"]["channels"] == 8
    assert all(verdict["text"] for verdict in data["verdict"])


@pytest.mark.parametrize("profile", ["instant", "optane", "tlc", "qlc"])
def test_stages_add_up_to_the_mean_latency(profile: str) -> None:
    for row in rows_of(replace(SMALL, profiles=(profile,))).values():
        assert sum(row.stages_ns.values()) == pytest.approx(row.lat_ns["mean"], abs=0.5)
        assert min(row.stages_ns.values()) > -0.1, row
        assert row.mode == "async" or row.stages_ns["worker_list"] == 0


def test_one_sync_caller_pays_device_interrupt_wakeup_switch_and_its_own_steps() -> None:
    row = rows_of(SMALL)["sync", None, 1]
    costs, host = SMALL.costs, SMALL.host
    expected = (
        host.submit_ns + host.map_page_ns + host.doorbell_ns
        + row.stages_ns["device"]
        + costs.irq_ns + host.reap_ns + host.doorbell_ns
        + costs.wakeup_ns + costs.switch_ns
    )  # fmt: skip
    assert row.lat_ns["mean"] == pytest.approx(expected, abs=1)
    assert row.context_switches == pytest.approx(1, abs=0.01)
    assert row.call_ns == row.lat_ns["mean"]
    assert row.cpu_ns_per_io == pytest.approx(expected - row.stages_ns["device"] + SMALL.caller_ns, rel=0.01)
    assert row.iops == pytest.approx(1e9 / (row.lat_ns["mean"] + SMALL.caller_ns), rel=0.01)


def test_async_at_depth_1_adds_two_hand_offs() -> None:
    rows = rows_of(SMALL)
    sync, costs = rows["sync", None, 1], SMALL.costs
    for worker in ("pump", "per-request"):
        extra = rows["async", worker, 1].lat_ns["mean"] - sync.lat_ns["mean"]
        assert extra == pytest.approx(2 * (costs.wakeup_ns + costs.switch_ns) + SMALL.host.enqueue_ns, abs=1)
        assert rows["async", worker, 1].context_switches == pytest.approx(3, abs=0.02)


def test_async_deep_beats_one_sync_caller_by_about_its_depth_and_frees_the_caller() -> None:
    rows = rows_of(SMALL)
    one, deep = rows["sync", None, 1], rows["async", "pump", 8]
    assert 5 < deep.iops / one.iops <= 8.1
    assert deep.call_ns < one.call_ns / 50
    assert deep.caller_blocked < one.caller_blocked


def test_pump_rings_fewer_doorbells_than_a_work_per_request() -> None:
    rows = rows_of(replace(SMALL, profiles=("instant",)))
    assert rows["async", "pump", 8].doorbells < 0.5
    assert rows["async", "per-request", 8].doorbells == 1
    assert rows["async", "pump", 8].iops > rows["async", "per-request", 8].iops


def test_instant_device_sync_beats_async_at_depth_1() -> None:
    rows = rows_of(replace(SMALL, profiles=("instant",)))
    assert rows["sync", None, 1].iops > 2 * rows["async", "pump", 1].iops


def test_callers_share_the_cpus_that_there_are() -> None:
    many = replace(SMALL, profiles=("instant",), iodepth=(16,), ios=1600)
    iops = {cpus: rows_of(replace(many, cpus=cpus))["sync", None, 16] for cpus in (1, 4)}
    host = many.host
    busy_ns = many.caller_ns + host.submit_ns + many.costs.irq_ns + host.reap_ns
    for cpus, row in iops.items():
        assert row.iops <= cpus * 1e9 / busy_ns
    assert iops[4].iops > 2.5 * iops[1].iops


def test_hand_offs_that_cost_more_slow_async_at_depth_1_more_than_sync() -> None:
    dear = replace(SMALL, costs=kworker.SimCosts(wakeup_ns=20_000, switch_ns=20_000))
    cheap_rows, dear_rows = rows_of(SMALL), rows_of(dear)

    def behind(rows: dict[tuple[str, str | None, int], Row]) -> float:
        return rows["async", "pump", 1].iops / rows["sync", None, 1].iops

    assert behind(dear_rows) < behind(cheap_rows) < 1


@pytest.mark.parametrize("rw", ["read", "write", "randwrite", "rw", "randrw"])
def test_every_direction_runs_to_its_end(rw: str) -> None:
    rows = rows_of(replace(SMALL, profiles=("optane",), iodepth=(3,), ios=90, rw=rw, bs=("8k",)))
    assert {row.ios for row in rows.values()} == {90}
    assert all(row.bs == 8192 and row.rw == rw and row.iops > 0 for row in rows.values())


def test_flip_search_of_a_real_pair_finds_where_depth_1_stops_being_worse() -> None:
    config = replace(SMALL, workers=("pump",))
    flips = [find_flip(config, pair) for pair in flip_pairs(plan_rows(config))]
    assert [(f.iodepth, f.callers) for f in flips] == [(1, 1), (8, 1), (8, 8)]
    assert flips[0].winner == "sync"
    # Two hand-offs are 2 % of some 90 µs at about 0.9 µs each.
    assert flips[0].at_ns is not None and 500 < flips[0].at_ns < 1_500
    assert (flips[1].winner, flips[1].at_ns) == ("async", None)


def test_wall_clock_measures_the_same_rows_on_threads() -> None:
    config = replace(SMALL, profiles=("instant",), clock="wall", iodepth=(4,), ios=200)
    comparison = compare(config)
    assert [row.key for row in comparison.rows] == [spec.key for spec in plan_rows(config)]
    assert all(row.iops > 0 and row.cpu_ns_per_io > 0 for row in comparison.rows)
    assert "wakeup_ns" not in comparison.assumptions
    assert "wall clock" in comparison.assumptions["origin"]
    for row in comparison.rows:
        assert sum(row.stages_ns.values()) == pytest.approx(row.lat_ns["mean"], abs=0.5)


def test_progress_is_told_from_none_to_all() -> None:
    seen: list[tuple[int, int, str]] = []
    compare(replace(SMALL, ios=10, iodepth=(1,)), progress=lambda *args: seen.append(args))
    assert [done for done, _, _ in seen] == [0, 1, 2, 3]
    assert {total for _, total, _ in seen} == {3}
    assert seen[1][2] == "tlc: sync, 1 caller, depth 1"


def test_interrupt_keeps_the_rows_that_were_measured() -> None:
    def interrupt(done: int, _total: int, _what: str) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(CompareInterrupted) as caught:
        compare(replace(SMALL, ios=10), progress=interrupt)
    assert len(caught.value.partial.rows) == 2
    assert caught.value.partial.verdict == ()


def test_driver_class_is_who_drives_the_device() -> None:
    probed = []

    class MyDriver(NvmeDriver):
        def probe(self) -> None:
            probed.append(self.config.mode)
            super().probe()

    compare(replace(SMALL, ios=10, iodepth=(1,), processes=4), driver_class=MyDriver)
    assert probed == ["sync", "async", "async"]


def test_row_with_a_sink_gets_the_events_of_its_io_only() -> None:
    names = []
    spec = plan_rows(SMALL)[0]
    measure_row(SMALL, spec, ios=5, sink=lambda event: names.append(type(event).name))
    assert names.count("nvme_setup_cmd") == names.count("nvme_complete_rq") == 5


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"clock": "lunar"}, "lunar"),
        ({"rw": "trim"}, "trim"),
        ({"iodepth": (0,)}, "iodepth 0"),
        ({"iodepth": (1, 1)}, "twice"),
        ({"iodepth": ()}, "iodepth"),
        ({"bs": (1000,)}, "1000"),
        ({"bs": ("128M",)}, "128M"),
        ({"workers": ("turbo",)}, "turbo"),
        ({"profiles": ("floppy",)}, "floppy"),
        ({"profiles": ("tlc", "tlc")}, "tlc"),
        ({"ios": 0}, "ios 0"),
        ({"cpus": 0}, "cpus 0"),
        ({"seed": 1.5}, "1.5"),
    ],
)
def test_config_wrong_value_is_named(change: dict, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        replace(SMALL, **change)
