"""Histograms against exact statistics and fio's layout."""

from __future__ import annotations

import random
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nvme_emu.workload.histogram import BIN_VALUES, BINS, DEFAULT_PERCENTILES, Histogram, bin_of, bin_value


def test_layout_has_fios_size_and_edges() -> None:
    assert BINS == 29 * 64
    # Figures of a real fio's json+ output.
    assert [bin_value(bin_of(ns)) for ns in (5, 127, 1048, 1071, 5984, 47360, 75612, 15152)] == [
        5, 127, 1048, 1064, 5984, 47360, 75264, 15168,
    ]  # fmt: skip


def test_bins_are_named_by_a_value_inside_themselves() -> None:
    assert [bin_of(value) for value in BIN_VALUES] == list(range(BINS))
    assert list(BIN_VALUES) == sorted(set(BIN_VALUES))


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 1 << 34))
def test_bin_value_is_within_a_64th(value: int) -> None:
    assert abs(bin_value(bin_of(value)) - value) <= value / 64


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 1 << 36), min_size=1, max_size=200))
def test_many_equals_one_by_one_and_the_exact_moments(values: list[int]) -> None:
    together, single = Histogram(), Histogram()
    together.add_many(np.array(values))
    for value in values:
        single.add(value)
    assert (together.counts == single.counts).all()
    assert [int(index) for index in np.flatnonzero(together.counts)] == sorted({bin_of(v) for v in values})
    assert (together.n, together.min, together.max) == (len(values), min(values), max(values))
    assert together.mean == pytest.approx(statistics.fmean(values))
    if len(values) > 1:
        assert together.stddev == pytest.approx(statistics.stdev(values), rel=1e-9, abs=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 10**7), min_size=1, max_size=300), st.sampled_from(DEFAULT_PERCENTILES))
def test_percentile_is_the_bin_of_the_exact_order_statistic(values: list[int], percent: float) -> None:
    histogram = Histogram()
    histogram.add_many(values)
    threshold = percent / 100.0 * len(values)
    exact = next(value for rank, value in enumerate(sorted(values), 1) if rank >= threshold)
    assert histogram.percentile(percent) == bin_value(bin_of(exact))


def test_merge_equals_recording_into_one() -> None:
    rng = random.Random(3)
    first, second = ([rng.randrange(10**6) for _ in range(500)] for _ in range(2))
    one, two, both = Histogram(), Histogram(), Histogram()
    one.add_many(first)
    two.add_many(second)
    both.add_many(first + second)
    one.merge(two)
    assert one.to_json(DEFAULT_PERCENTILES, bins=True) == both.to_json(DEFAULT_PERCENTILES, bins=True)


def test_merge_with_an_empty_one_keeps_the_minimum() -> None:
    histogram = Histogram()
    histogram.add_many([7, 9])
    histogram.merge(Histogram())
    assert histogram.min == 7
    empty = Histogram()
    empty.merge(histogram)
    assert (empty.min, empty.max) == (7, 9)


def test_json_round_trip_keeps_bins_and_moments() -> None:
    histogram = Histogram()
    histogram.add_many([100, 2000, 2000, 30_000, 10**9])
    data = histogram.to_json(DEFAULT_PERCENTILES, bins=True)
    again = Histogram.from_json(data).to_json(DEFAULT_PERCENTILES, bins=True)
    for name in ("min", "max", "N", "percentile", "bins"):
        assert again[name] == data[name]
    assert again["mean"] == pytest.approx(data["mean"], rel=1e-6)
    assert again["stddev"] == pytest.approx(data["stddev"], rel=1e-6)


def test_json_of_a_real_fio_gives_its_percentiles() -> None:
    # A job of 20 reads on a tmpfs, fio 3.33: bins and the percentiles that it printed with them.
    fio = {
        "min": 1060, "max": 20298, "mean": 2386.9, "stddev": 4300.0, "N": 20,
        "bins": {"1064": 4, "1112": 6, "1192": 5, "1352": 3, "1848": 1, "20352": 1},
    }  # fmt: skip
    histogram = Histogram.from_json(fio)
    assert histogram.percentiles((20, 50, 75, 90, 95, 99.9)) == [1064, 1112, 1192, 1352, 1848, 20352]


@pytest.mark.parametrize("data", [{}, {"bins": {"1065": 1}}, {"bins": {"x": 1}}, {"bins": {"1064": "many"}}])
def test_json_without_usable_bins_is_a_value_error(data: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"bins|bin of"):
        Histogram.from_json(data)


def test_empty_histogram_reads_as_zeroes() -> None:
    assert Histogram().to_json(DEFAULT_PERCENTILES) == {
        "min": 0,
        "max": 0,
        "mean": 0.0,
        "stddev": 0.0,
        "N": 0,
    }
    assert Histogram().percentile(99) == 0


def test_clear_keeps_the_buffer_that_loops_hold() -> None:
    histogram = Histogram()
    append = histogram.buffer.append
    append(5)
    histogram.clear()
    append(7)
    assert (histogram.n, histogram.min) == (1, 7)


def test_negative_values_count_as_zero() -> None:
    histogram = Histogram()
    histogram.add_many([-5, 3])
    assert (histogram.min, histogram.max, histogram.n) == (0, 3, 2)


def test_large_and_huge_values_do_not_overflow() -> None:
    histogram = Histogram()
    histogram.add_many([(1 << 24) - 1] * 40_000)
    histogram.add_many([1 << 61, 1 << 61])
    assert histogram.n == 40_002 and histogram.max == 1 << 61
    assert histogram.stddev > 0
