"""Random numbers and access patterns: exactness, coverage, reproducibility."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nvme_emu.workload.pattern import READ, WRITE, Extent, Operation, PatternSpec, operations
from nvme_emu.workload.rng import Pareto, Permutation, Stream, Zipf, mix64


def first(spec: PatternSpec, count: int) -> list[Operation]:
    return list(islice((operation for batch in operations(spec) for operation in batch), count))


def spec(**more: object) -> PatternSpec:
    given = {"extents": (Extent(slba=0, nlb=800),)} | more
    return PatternSpec(**given)  # type: ignore[arg-type]


# --- rng ---


def test_stream_values_never_change() -> None:
    # These are a promise: a seed means the same order in every version.
    assert Stream(1, 2).draw(3).tolist() == [9233991763900458559, 5634180208911690838, 252410410379292119]
    assert mix64(1) == 6238072747940578789


def test_stream_in_pieces_equals_stream_at_once() -> None:
    pieces, whole = Stream(7), Stream(7)
    assert np.concatenate([pieces.draw(3), pieces.draw(5)]).tolist() == whole.draw(8).tolist()


def test_stream_equals_its_definition_in_plain_integers() -> None:
    weyl, mask = 0x9E37_79B9_7F4A_7C15, (1 << 64) - 1
    state = mix64(0 + weyl ^ 5)
    assert Stream(5).draw(4).tolist() == [mix64(state + index * weyl & mask) for index in range(1, 5)]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5000), st.integers(0, 1 << 64))
def test_permutation_visits_each_element_once(size: int, seed: int) -> None:
    permutation = Permutation(size, seed)
    assert sorted(permutation.visit(0, permutation.counters).tolist()) == list(range(size))
    assert sorted(permutation.apply(np.arange(size, dtype=np.uint64)).tolist()) == list(range(size))


def test_permutation_is_not_the_order_itself() -> None:
    order = Permutation(4096, 1).visit(0, 4096).astype(np.int64)
    steps = np.diff(order)
    assert len(set(steps.tolist())) > 2000
    assert abs(float(np.corrcoef(order, np.arange(4096))[0, 1])) < 0.1


def test_permutation_of_nothing_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="at least one element"):
        Permutation(0)


@pytest.mark.parametrize("theta", [0.5, 0.9, 1.2, 2.0])
def test_zipf_first_ranks_have_their_probabilities(theta: float) -> None:
    size, draws = 10_000, 40_000
    ranks = Counter(Zipf(size, theta, 3).ranks(draws).tolist())
    zeta = sum(k**-theta for k in range(1, size + 1))
    for rank in (0, 1):
        expected = draws * (rank + 1) ** -theta / zeta
        assert abs(ranks[rank] - expected) < 6 * expected**0.5 + 3
    assert max(ranks) < size


def test_pareto_gives_the_eighty_twenty_rule() -> None:
    ranks = Pareto(1000, 0.2, 1).ranks(20_000)
    assert 0.78 < float((ranks < 200).mean()) < 0.82


@pytest.mark.parametrize("size", [1, 2, 3])
def test_skewed_ranks_stay_inside_tiny_ranges(size: int) -> None:
    assert int(Zipf(size, 1.2, 1).ranks(500).max()) < size
    assert int(Pareto(size, 0.3, 1).ranks(500).max()) < size


# --- patterns ---


def test_sequential_walks_and_starts_again() -> None:
    ops = first(spec(extents=(Extent(slba=100, nlb=24),)), 5)
    assert ops == [
        (READ, 100, 8, 0),
        (READ, 108, 8, 0),
        (READ, 116, 8, 0),
        (READ, 100, 8, 0),
        (READ, 108, 8, 0),
    ]


def test_sequential_mix_walks_each_direction_on_its_own() -> None:
    ops = first(spec(direction="rw"), 60)
    for direction in (READ, WRITE):
        own = [slba for kind, slba, _, _ in ops if kind == direction]
        assert own == list(range(0, 8 * len(own), 8))


@pytest.mark.parametrize("share", [0, 30, 100])
def test_mix_has_the_asked_share_of_reads(share: int) -> None:
    ops = first(spec(direction="rw", random=True, read_percent=share), 5000)
    reads = sum(kind == READ for kind, *_ in ops) / 50
    assert abs(reads - share) < 3 if 0 < share < 100 else reads == share


def test_random_covers_every_block_once_a_pass_in_another_order_each() -> None:
    ops = [slba for _, slba, _, _ in first(spec(random=True), 300)]
    passes = [ops[k : k + 100] for k in (0, 100, 200)]
    assert all(sorted(one) == list(range(0, 800, 8)) for one in passes)
    assert passes[0] != passes[1] != passes[2]


def test_random_without_map_repeats_blocks() -> None:
    ops = [slba for _, slba, _, _ in first(spec(random=True, random_map=False), 100)]
    assert len(set(ops)) < 90 and all(slba % 8 == 0 and 0 <= slba < 800 for slba in ops)


def test_same_seed_gives_the_same_order_and_another_seed_another() -> None:
    for more in (
        {"random": True},
        {"random": True, "random_map": False},
        {"nlb": ((8, 64),) * 3, "random": True},
    ):
        assert first(spec(seed=4, **more), 2000) == first(spec(seed=4, **more), 2000)
        assert first(spec(seed=4, **more), 50) != first(spec(seed=5, **more), 50)


def test_zipf_hits_few_blocks_and_scatters_them() -> None:
    big = spec(extents=(Extent(slba=0, nlb=80_000),), random=True, distribution=("zipf", 1.2))
    hits = Counter(slba for _, slba, _, _ in first(big, 5000))
    hottest = [slba for slba, _ in hits.most_common(5)]
    assert hits[hottest[0]] > 500
    assert max(hottest) - min(hottest) > 8000


def _touched(ops: list[Operation], limit: int) -> tuple[list[int], int]:
    blocks: list[int] = []
    for count, (_, slba, nlb, _) in enumerate(ops, 1):
        blocks += range(slba, slba + nlb)
        if len(blocks) >= limit:
            return blocks, count
    raise AssertionError("the stream ended")


SIZES = st.tuples(st.sampled_from([1, 2, 8]), st.integers(1, 4)).map(
    lambda pair: (pair[0], pair[0] * pair[1])
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(16, 700), min_size=1, max_size=3),
    st.tuples(SIZES, SIZES, SIZES),
    st.sampled_from(["read", "write", "trim", "rw"]),
    st.integers(0, 99),
)
def test_random_with_varying_sizes_covers_all_without_overlap(
    lengths: list[int], nlb: tuple[tuple[int, int], ...], direction: str, seed: int
) -> None:
    extents = tuple(Extent(slba=1000 * k, nlb=length) for k, length in enumerate(lengths))
    one = spec(extents=extents, nlb=nlb, direction=direction, random=True, seed=seed)
    usable = {
        block for extent in extents
        for block in range(extent.slba, extent.slba + extent.nlb // one.granule * one.granule)
    }  # fmt: skip
    blocks, _ = _touched(first(one, 3000), len(usable))
    assert len(blocks) == len(usable) and set(blocks) == usable


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(16, 700), min_size=1, max_size=3),
    st.tuples(SIZES, SIZES, SIZES),
    st.sampled_from(["read", "write", "rw"]),
    st.booleans(),
    st.sampled_from([("random", 0.0), ("zipf", 1.3), ("pareto", 0.2)]),
)
def test_no_operation_leaves_its_extent(
    lengths: list[int],
    nlb: tuple[tuple[int, int], ...],
    direction: str,
    sequential: bool,
    distribution: tuple[str, float],
) -> None:
    extents = tuple(Extent(slba=1000 * k, nlb=length) for k, length in enumerate(lengths))
    one = spec(extents=extents, nlb=nlb, direction=direction, random=not sequential, random_map=False,
               distribution=distribution)  # fmt: skip
    for _, slba, count, _ in first(one, 500):
        extent = extents[slba // 1000]
        assert count >= 1 and extent.slba <= slba and slba + count <= extent.slba + extent.nlb


def test_range_smaller_than_a_block_is_a_value_error() -> None:
    for random in (False, True):
        with pytest.raises(ValueError, match="smaller than one block"):
            next(operations(spec(extents=(Extent(slba=0, nlb=7),), random=random)))
