"""Which blocks a job touches, in which order and direction: an endless stream of operations.

An operation is the tuple (direction, slba, nlb, tag). A *pass* covers the job's whole range once; after
it the next begins, in another order when the job is random. The tag says which write a verifying read
expects, and in a replay when the operation is due (workload.replay). The stream knows nothing of limits,
time or rates: the engine takes from it what the job may do.

Without norandommap a random pass touches every block exactly once, by a permutation that needs no map.
Where block sizes vary, the range is cut into pieces of the drawn sizes first, and the pieces are visited
in random order: full coverage without overlap, where fio truncates blocks to what its map has left.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from nvme_emu.workload.rng import U64, Pareto, Permutation, Stream, Zipf

__all__ = ["FLUSH", "READ", "TRIM", "WRITE", "Extent", "Operation", "PatternSpec", "operations"]

READ, WRITE, TRIM = 0, 1, 2
FLUSH = 3
"""Only a replay has flushes among its operations; patterns leave them to fsync=N."""
BATCH = 1024
"""Operations that are generated at once: large enough that numpy's fixed costs vanish, small enough to
begin at once."""
_TILE_PIECES_MAX = 1 << 20
"""Where block sizes vary, the cut repeats after this many pieces, so that memory stays bounded."""

Operation = tuple[int, int, int, int]
I64 = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Extent:
    """A run of blocks of the job's namespace, in blocks."""

    slba: int
    nlb: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PatternSpec:
    """What a job does. Sizes are in logical blocks; `nlb` is (minimum, maximum) for reads, writes and trims.

    `extents` are used as one range, one after another; each is cut down to a multiple of the block size.
    """

    direction: str = "read"
    """One of read, write, trim, rw."""
    random: bool = False
    extents: tuple[Extent, ...]
    nlb: tuple[tuple[int, int], tuple[int, int], tuple[int, int]] = ((8, 8), (8, 8), (8, 8))
    read_percent: int = 50
    random_map: bool = True
    distribution: tuple[str, float] = ("random", 0.0)
    seed: int = 0x89

    @property
    def directions(self) -> tuple[int, ...]:
        if self.direction != "rw":
            return ({"read": READ, "write": WRITE, "trim": TRIM}[self.direction],)
        # A mix of 0 or 100 per cent is no mix: its one direction takes the whole range.
        return {0: (WRITE,), 100: (READ,)}.get(self.read_percent, (READ, WRITE))

    @property
    def sizes_vary(self) -> bool:
        return len({size for direction in self.directions for size in self.nlb[direction]}) > 1

    @property
    def granule(self) -> int:
        """The smallest block size among the directions used: everything is aligned to it."""
        return min(self.nlb[direction][0] for direction in self.directions)


class _Range:
    """The job's extents as one range [0, nlb), and the way back to addresses of the namespace."""

    def __init__(self, extents: tuple[Extent, ...], multiple: int) -> None:
        usable = [(extent.slba, extent.nlb // multiple * multiple) for extent in extents]
        usable = [(slba, nlb) for slba, nlb in usable if nlb]
        self.nlb = sum(nlb for _, nlb in usable)
        if not usable:
            raise ValueError("the file is smaller than one block of the job")
        starts = np.cumsum([0, *(nlb for _, nlb in usable)], dtype=np.int64)
        self._starts, self._single = starts[:-1], len(usable) == 1
        self._shift = np.array([slba for slba, _ in usable], dtype=np.int64) - self._starts
        self.pieces = [(int(start), nlb) for start, (_, nlb) in zip(self._starts, usable, strict=True)]

    def to_lba(self, offsets: I64) -> I64:
        if self._single:
            shift: I64 = self._shift
        else:
            shift = self._shift[np.searchsorted(self._starts, offsets, side="right") - 1]
        return offsets + shift


def operations(spec: PatternSpec) -> Iterator[list[Operation]]:
    """The endless stream of operations, in lists of up to a thousand or so.

    Raises ValueError when not one block of the job fits into its range.
    """
    if not spec.random:
        return _sequential(spec)
    if spec.random_map and spec.distribution[0] == "random":
        return _random_cut(spec) if spec.sizes_vary else _random_once(spec)
    return _random_free(spec)


def _directions(spec: PatternSpec, stream: Stream, count: int) -> I64:
    used = spec.directions
    if len(used) == 1:
        return np.full(count, used[0], dtype=np.int64)
    return np.where(stream.percent(spec.read_percent, count), READ, WRITE).astype(np.int64)


def _sizes(spec: PatternSpec, stream: Stream, directions: I64) -> I64:
    """A block size for each operation: a multiple of its direction's minimum, drawn evenly."""
    low = np.array([size[0] for size in spec.nlb], dtype=np.int64)
    if all(spec.nlb[direction][0] == spec.nlb[direction][1] for direction in spec.directions):
        return low[directions]
    steps = np.array([high // low for low, high in spec.nlb], dtype=np.int64)
    draws = stream.draw(len(directions)) % steps[directions].astype(np.uint64) + np.uint64(1)
    return draws.astype(np.int64) * low[directions]


def _join(directions: I64, slbas: I64, nlbs: I64) -> list[Operation]:
    return list(zip(directions.tolist(), slbas.tolist(), nlbs.tolist(), repeat(0), strict=False))


def _sequential(spec: PatternSpec) -> Iterator[list[Operation]]:
    """Each direction walks through the range on its own, as in fio, and starts again at the end."""
    space = _Range(spec.extents, spec.granule)
    mix, draw_sizes = Stream(spec.seed, 1), Stream(spec.seed, 2)
    cursors = [0, 0, 0]
    if len(spec.directions) > 1 or spec.sizes_vary:
        while True:
            directions = _directions(spec, mix, BATCH)
            sizes = _sizes(spec, draw_sizes, directions)
            yield _walk(space, directions.tolist(), sizes.tolist(), cursors)
    direction, size = spec.directions[0], spec.granule
    count, position = space.nlb // size, 0
    while True:
        index = (np.arange(position, position + BATCH, dtype=np.int64)) % count
        position = (position + BATCH) % count
        yield _join(np.full(BATCH, direction), space.to_lba(index * size), np.full(BATCH, size))


def _walk(space: _Range, directions: list[int], sizes: list[int], cursors: list[int]) -> list[Operation]:
    """Place operations one after another for each direction; none crosses the end of an extent."""
    batch: list[Operation] = []
    edges = [start + nlb for start, nlb in space.pieces]
    shifts = space._shift.tolist()
    for direction, size in zip(directions, sizes, strict=True):
        cursor = cursors[direction]
        piece = next(k for k, edge in enumerate(edges) if cursor < edge)
        # fio cuts the last block of a file to what is left; so does this.
        size = min(size, edges[piece] - cursor)
        batch.append((direction, cursor + shifts[piece], size, 0))
        cursors[direction] = (cursor + size) % space.nlb
    return batch


def _random_once(spec: PatternSpec) -> Iterator[list[Operation]]:
    """One block size: each pass is a permutation of the blocks."""
    size = spec.granule
    space = _Range(spec.extents, size)
    mix, number = Stream(spec.seed, 1), 0
    while True:
        permutation = Permutation(space.nlb // size, spec.seed, 3, number)
        for start in range(0, permutation.counters, BATCH):
            blocks = permutation.visit(start, min(start + BATCH, permutation.counters))
            if len(blocks):
                directions = _directions(spec, mix, len(blocks))
                slbas = space.to_lba(blocks.astype(np.int64) * size)
                yield _join(directions, slbas, np.full(len(blocks), size))
        number += 1


def _random_cut(spec: PatternSpec) -> Iterator[list[Operation]]:
    """Several block sizes: each pass cuts the range anew and visits the pieces in random order."""
    space = _Range(spec.extents, spec.granule)
    number = 0
    while True:
        cuts = [_Cut(spec, start, nlb, number) for start, nlb in space.pieces]
        firsts = np.cumsum([0, *(cut.count for cut in cuts)], dtype=np.int64)
        permutation = Permutation(int(firsts[-1]), spec.seed, 4, number)
        for start in range(0, permutation.counters, BATCH):
            pieces = permutation.visit(start, min(start + BATCH, permutation.counters)).astype(np.int64)
            owner = np.searchsorted(firsts, pieces, side="right") - 1
            for k, cut in enumerate(cuts):
                chosen = pieces[owner == k] - firsts[k]
                if len(chosen):
                    directions, offsets, sizes = cut.look_up(chosen)
                    yield _join(directions, space.to_lba(offsets), sizes)
        number += 1


class _Cut:
    """A range cut into pieces of random sizes. Beyond a bound the same cut repeats, tile after tile."""

    def __init__(self, spec: PatternSpec, start: int, nlb: int, number: int) -> None:
        tile = min(nlb, spec.granule * _TILE_PIECES_MAX)
        self._start, self._tile = start, tile
        columns = _cut_tile(spec, tile, Stream(spec.seed, 5, number, start))
        self._tiles, rest = divmod(nlb, tile)
        self._each = len(columns[0])
        self.count = self._tiles * self._each
        if rest:
            # The pieces of the shorter, last tile stand behind those of a full one in the same columns.
            more = _cut_tile(spec, rest, Stream(spec.seed, 6, number, start))
            self.count += len(more[0])
            columns = tuple(np.concatenate(pair) for pair in zip(columns, more, strict=True))
        self._columns = columns

    def look_up(self, pieces: I64) -> tuple[I64, I64, I64]:
        """Direction, offset and size of the pieces with these numbers."""
        tile, index = np.divmod(pieces, self._each)
        over = np.maximum(tile - self._tiles, 0)
        last = tile >= self._tiles
        index = np.where(last, index + (over + 1) * self._each, index)
        directions, offsets, sizes = (column[index] for column in self._columns)
        return directions, self._start + np.minimum(tile, self._tiles) * self._tile + offsets, sizes


def _cut_tile(spec: PatternSpec, nlb: int, stream: Stream) -> tuple[I64, ...]:
    """Cut [0, nlb) into pieces: their directions, offsets and sizes; the last one may be short."""
    directions_parts, sizes_parts, total = [], [], 0
    while total < nlb:
        directions = _directions(spec, stream, BATCH)
        sizes = _sizes(spec, stream, directions)
        directions_parts.append(directions)
        sizes_parts.append(sizes)
        total += int(sizes.sum())
    directions, sizes = np.concatenate(directions_parts), np.concatenate(sizes_parts)
    ends = np.cumsum(sizes)
    count = int(np.searchsorted(ends, nlb, side="left")) + 1
    directions, sizes, ends = directions[:count], sizes[:count], ends[:count]
    sizes[-1] -= ends[-1] - nlb
    offsets: I64 = np.cumsum(sizes) - sizes
    return directions, offsets, sizes


def _random_free(spec: PatternSpec) -> Iterator[list[Operation]]:
    """norandommap, or a skewed distribution: every place is drawn anew."""
    granule = spec.granule
    largest = max(spec.nlb[direction][1] for direction in spec.directions)
    space = _Range(spec.extents, granule)
    mix, draw_sizes, draw_places = Stream(spec.seed, 1), Stream(spec.seed, 2), Stream(spec.seed, 7)
    # With several extents a block must not cross from one into the next: `room` is what lies behind a place.
    ends = np.array([start + nlb for start, nlb in space.pieces], dtype=np.int64)
    places = space.nlb // granule
    kind, parameter = spec.distribution
    skewed: Zipf | Pareto | None = None
    if kind == "zipf":
        skewed = Zipf(places, parameter, spec.seed, 8)
    elif kind == "pareto":
        skewed = Pareto(places, parameter, spec.seed, 8)
    # Neighbouring ranks are scattered over the range, so that the hot blocks are not one hot region.
    scatter = Permutation(places, spec.seed, 9)
    while True:
        directions = _directions(spec, mix, BATCH)
        sizes = _sizes(spec, draw_sizes, directions)
        drawn: U64 = scatter.apply(skewed.ranks(BATCH)) if skewed else draw_places.below(places, BATCH)
        offsets = drawn.astype(np.int64) * granule
        if largest > granule:
            minimum = np.array([low for low, _ in spec.nlb], dtype=np.int64)[directions]
            offsets = offsets // minimum * minimum
            room = ends[np.searchsorted(ends, offsets, side="right")] - offsets
            sizes = np.minimum(sizes, room)
        yield _join(directions, space.to_lba(offsets), sizes)
