"""What a job wrote in a loop, so that its verify phase can read it back."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from nvme_emu.workload.pattern import BATCH, READ, Operation

__all__ = ["WriteLog"]

I64 = NDArray[np.int64]


class WriteLog:
    """Writes in order: first block, number of blocks, generation. 24 bytes and about 0.1 µs each."""

    def __init__(self) -> None:
        self._slbas: array[int] = array("q")
        self._nlbs: array[int] = array("q")
        self._generations: array[int] = array("q")

    def __len__(self) -> int:
        return len(self._slbas)

    def add(self, slba: int, nlb: int, generation: int) -> None:
        self._slbas.append(slba)
        self._nlbs.append(nlb)
        self._generations.append(generation)

    def take(self) -> Iterator[list[Operation]]:
        """Reads of everything that is still whole, in ascending order; the log is empty afterwards.

        A block that was written again counts once, as last written; one that a later write covers in part
        is left out, as fio does with norandommap and several block sizes.
        """
        columns = [
            np.array(column, dtype=np.int64) for column in (self._slbas, self._nlbs, self._generations)
        ]
        for column in (self._slbas, self._nlbs, self._generations):
            del column[:]
        return _reads(*_intact(*columns))


def _intact(slbas: I64, nlbs: I64, generations: I64) -> tuple[I64, I64, I64]:
    # Stable sort on the reversed log: the first of equal addresses is the one written last.
    order = np.argsort(slbas[::-1], kind="stable")
    slbas, nlbs, generations = slbas[::-1][order], nlbs[::-1][order], generations[::-1][order]
    if len(slbas) and (nlbs == nlbs[0]).all():
        last = np.concatenate(([True], slbas[1:] != slbas[:-1]))
        slbas, nlbs, generations = slbas[last], nlbs[last], generations[last]
    if (slbas[:-1] + nlbs[:-1] <= slbas[1:]).all():
        return slbas, nlbs, generations
    return _without_covered(slbas, nlbs, generations)


def _without_covered(slbas: I64, nlbs: I64, generations: I64) -> tuple[I64, I64, I64]:
    """From the newest write to the oldest: what touches nothing newer is whole."""
    covered: set[int] = set()
    keep: list[int] = []
    rows = zip(slbas.tolist(), nlbs.tolist(), generations.tolist(), range(len(slbas)), strict=True)
    for slba, nlb, _, index in sorted(rows, key=lambda row: -row[2]):
        blocks = range(slba, slba + nlb)
        if covered.isdisjoint(blocks):
            keep.append(index)
        covered.update(blocks)
    chosen = np.array(sorted(keep), dtype=np.int64)
    return slbas[chosen], nlbs[chosen], generations[chosen]


def _reads(slbas: I64, nlbs: I64, generations: I64) -> Iterator[list[Operation]]:
    for start in range(0, len(slbas), BATCH):
        part = slice(start, start + BATCH)
        yield [
            (READ, slba, nlb, generation)
            for slba, nlb, generation in zip(
                slbas[part].tolist(), nlbs[part].tolist(), generations[part].tolist(), strict=True
            )
        ]
