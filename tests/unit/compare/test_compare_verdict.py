"""The verdict's words, from rows made by hand."""

from __future__ import annotations

from synthetic import flip, row

from nvme_emu.workload.compare_flip import search_flip
from nvme_emu.workload.compare_rows import CompareConfig
from nvme_emu.workload.compare_verdict import Verdict, duration, judge, rate

CONFIG = CompareConfig()


def verdict_of(rows, flips=()) -> Verdict:
    found = judge(rows, list(flips), CONFIG)
    assert len(found) == 1
    return found[0]


def test_verdict_async_ahead_from_a_depth_names_it_and_the_gain() -> None:
    verdict = verdict_of(
        [
            row("sync", 10_000, mean_ns=100_000, device_ns=90_000),
            row("async", 9_500, depth=1, mean_ns=105_000, device_ns=90_000, call_ns=1_000),
            row("sync", 39_000, depth=4, callers=4),
            row("async", 38_000, depth=4, call_ns=700),
            row("sync", 250_000, depth=32, callers=32),
            row("async", 280_000, depth=32, call_ns=200),
        ]
    )
    assert verdict.async_wins_from == 4
    assert "async wins from depth 4, with 28 times the IOPS of one sync caller at depth 32" in verdict.headline
    assert "(280k against 10.0k)" in verdict.headline
    assert "At depth 1 async has 5 % fewer IOPS: two hand-offs add 5 µs to 100 µs" in verdict.text
    assert "the device works 90 µs" in verdict.text
    assert "A call holds its caller for 200 ns (depth 32, pump) instead of 100 µs." in verdict.text
    assert "One async caller has 12 % more IOPS than 32 sync callers" in verdict.text
    assert [ratio["vs_one_caller"] for ratio in verdict.ratios] == [0.95, 3.8, 28.0]
    assert [ratio["vs_n_callers"] for ratio in verdict.ratios] == [None, 0.974, 1.12]


def test_verdict_sync_ahead_everywhere_says_so_and_why() -> None:
    verdict = verdict_of(
        [
            row("sync", 500_000, mean_ns=2_000, device_ns=0.0),
            row("async", 150_000, depth=1, mean_ns=7_000, device_ns=0.0, call_ns=1_000),
            row("async", 400_000, depth=4, mean_ns=9_000, device_ns=0.0, call_ns=300),
        ]
    )
    assert verdict.async_wins_from is None
    assert "sync wins at every depth measured" in verdict.headline
    assert "20 % fewer IOPS than one sync caller (depth 4)" in verdict.headline
    assert "the device takes no time that could be used meanwhile" in verdict.text


def test_verdict_rates_within_the_margin_are_called_equal() -> None:
    verdict = verdict_of([row("sync", 10_000), row("async", 10_100)])
    assert verdict.async_wins_from is None
    assert "it equals one sync caller" in verdict.headline


def test_verdict_takes_the_best_worker_of_each_depth() -> None:
    verdict = verdict_of(
        [
            row("sync", 10_000),
            row("async", 20_000, depth=4, worker="pump"),
            row("async", 30_000, depth=4, worker="per-request"),
        ]
    )
    assert verdict.ratios[0]["worker"] == "per-request"
    assert verdict.ratios[0]["vs_one_caller"] == 3.0


def test_verdict_flip_is_told_with_the_cost_assumed() -> None:
    rows = [row("sync", 10_000), row("async", 9_000, depth=1), row("async", 100_000, depth=32)]
    verdict = verdict_of(rows, [flip(1, 1, "sync", 860), flip(32, 1, "async", None)])
    assert (
        "One sync caller beats async at depth 1 only while a hand-off (wake-up + switch) costs more than 860 ns; "
        "2.5 µs is assumed." in verdict.text
    )
    assert "That async at depth 32 beats one sync caller holds at every hand-off cost" in verdict.text
    assert "from 0 to 100 µs" in verdict.text


def test_verdict_flip_that_disagrees_with_the_rows_is_left_out() -> None:
    rows = [row("sync", 10_000), row("async", 9_900, depth=1)]
    assert "hand-off (wake-up" not in verdict_of(rows, [flip(1, 1, "sync", 860)]).text


def test_verdict_without_async_rows_is_none() -> None:
    assert judge([row("sync", 10_000)], [], CONFIG) == []


def test_search_flip_bisects_to_the_cost() -> None:
    winner, at_ns = search_flip(lambda ns: 0.5 - ns / 20_000, 2_500)
    assert winner == "async"
    assert at_ns is not None and abs(at_ns - 9_600) < 400  # 0.5 - 9600 / 20000 is the margin of 2 %


def test_search_flip_downwards_finds_where_sync_stops_winning() -> None:
    winner, at_ns = search_flip(lambda ns: -ns / 50_000, 2_500)
    assert winner == "sync"
    assert at_ns is not None and abs(at_ns - 1_000) < 100


def test_search_flip_never_and_equal() -> None:
    assert search_flip(lambda _ns: 3.0, 2_500) == ("async", None)
    assert search_flip(lambda _ns: 0.01, 2_500) == ("equal", None)


def test_durations_and_rates_have_three_digits() -> None:
    assert [duration(ns) for ns in (0, 58, 999.4, 999.6, 4_365, 90_787, 1_250_000, 2.1e9)] == [
        "0 ns", "58 ns", "999 ns", "1 µs", "4.37 µs", "90.8 µs", "1.25 ms", "2.1 s",
    ]  # fmt: skip
    assert [rate(iops) for iops in (890, 999.7, 11_020, 280_400, 1_152_853)] == [
        "890", "1.00k", "11.0k", "280k", "1.15M",
    ]  # fmt: skip
