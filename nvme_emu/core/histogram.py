"""Latency histograms in the layout of fio's json+ bins, filled by numpy.

The layout (fio's stat.h, FIO_IO_U_PLAT_*): 29 groups of 64 bins. Values below 128 have a bin each; above,
a value's highest seven bits choose the bin, so that a bin is never wider than 1/64 of its value. The last
bin holds everything that is larger. A bin is named by its middle, rounded down.

Percentile p is, as in fio, the name of the first bin at which the running count reaches p per cent of all
values: no interpolation, so it differs from the exact order statistic by less than 1/64 of it. Minimum,
maximum, mean and standard deviation are exact (sums of Python integers, which do not overflow).
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["DEFAULT_PERCENTILES", "Histogram", "bin_of", "bin_value"]

GROUP_BITS = 6
VALUES = 1 << GROUP_BITS
GROUPS = 29
BINS = VALUES * GROUPS

DEFAULT_PERCENTILES = (
    1.0, 5.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 95.0, 99.0, 99.5, 99.9, 99.95, 99.99,
)  # fmt: skip

FLUSH_COUNT = 4096
"""Values that `Histogram.buffer` may hold before the owner should flush it."""

I64 = NDArray[np.int64]


def bin_of(value: int) -> int:
    """The number of the bin that a value in nanoseconds (0 or more) falls into."""
    error_bits = max(0, value.bit_length() - GROUP_BITS - 1)
    return min((error_bits << GROUP_BITS) + (value >> error_bits), BINS - 1)


def bin_value(index: int) -> int:
    """The value that names a bin: itself below 128, else the bin's middle, rounded down."""
    if index < 2 * VALUES:
        return index
    error_bits = (index >> GROUP_BITS) - 1
    return ((VALUES + index % VALUES) << error_bits) + (1 << error_bits >> 1)


BIN_VALUES: tuple[int, ...] = tuple(bin_value(index) for index in range(BINS))
_BIN_OF_VALUE = {value: index for index, value in enumerate(BIN_VALUES)}


class Histogram:
    """Counts of latencies, with exact moments.

    `add_many(array)` records an array. In a loop, append to `buffer` (an `array('q')`, about 30 ns) and call
    `flush()` when it holds FLUSH_COUNT values; every reading method flushes by itself.
    """

    __slots__ = ("_counts", "_max", "_min", "_n", "_sum", "_sum_squares", "buffer")

    def __init__(self) -> None:
        self._counts: I64 = np.zeros(BINS, dtype=np.int64)
        self.buffer: array[int] = array("q")
        self._n = 0
        self._sum = 0
        self._sum_squares = 0
        self._min = 0
        self._max = 0

    # --- recording ---

    def add(self, value_ns: int) -> None:
        """Record one value; negative values (a clock that stepped) count as 0."""
        self.buffer.append(value_ns)
        if len(self.buffer) >= FLUSH_COUNT:
            self.flush()

    def flush(self) -> None:
        """Move the buffered values into the bins."""
        if self.buffer:
            values = np.array(self.buffer, dtype=np.int64)
            del self.buffer[:]
            self._record(values)

    def add_many(self, values_ns: NDArray[Any] | Sequence[int]) -> None:
        """Record an array of integers (ns)."""
        values = np.asarray(values_ns, dtype=np.int64).ravel()
        if len(values):
            self._record(values)

    def _record(self, values: I64) -> None:
        values = np.maximum(values, 0)
        # frexp gives the exact bit length below 2**53 ns (104 days); rounding above that would only touch
        # values that end in the last bin anyway.
        bits = np.frexp(values.astype(np.float64))[1].astype(np.int64)
        error_bits = np.maximum(bits - (GROUP_BITS + 1), 0)
        index = np.minimum((error_bits << GROUP_BITS) + (values >> error_bits), BINS - 1)
        self._counts += np.bincount(index, minlength=BINS)
        low, high = int(values.min()), int(values.max())
        self._min = low if self._n == 0 else min(self._min, low)
        self._max = max(self._max, high)
        self._n += len(values)
        self._sum += int(values.sum())
        if high < 1 << 24:
            # 2**24 squared times 2**15 values stays inside 63 bits; a batch is never larger than that here.
            parts = (
                values.reshape(1, -1) if len(values) <= 1 << 15 else np.array_split(values, len(values) >> 14)
            )
            self._sum_squares += sum(int(np.dot(part, part)) for part in parts)
        else:
            self._sum_squares += sum(value * value for value in values.tolist())

    def merge(self, other: Histogram) -> None:
        """Add everything that another histogram holds."""
        self.flush()
        other.flush()
        if other._n:
            self._min = other._min if self._n == 0 else min(self._min, other._min)
            self._max = max(self._max, other._max)
        self._counts += other._counts
        self._n += other._n
        self._sum += other._sum
        self._sum_squares += other._sum_squares

    def clear(self) -> None:
        """Forget everything; `buffer` stays the same object, so that loops may keep its `append`."""
        del self.buffer[:]
        self._counts[:] = 0
        self._n = self._sum = self._sum_squares = self._min = self._max = 0

    # --- reading ---

    @property
    def n(self) -> int:
        """How many values were recorded."""
        self.flush()
        return self._n

    @property
    def sum(self) -> int:
        self.flush()
        return self._sum

    @property
    def min(self) -> int:
        """The smallest value, 0 if there is none."""
        self.flush()
        return self._min

    @property
    def max(self) -> int:
        """The largest value, 0 if there is none."""
        self.flush()
        return self._max

    @property
    def mean(self) -> float:
        """The exact mean, 0.0 if there is no value."""
        self.flush()
        return self._sum / self._n if self._n else 0.0

    @property
    def stddev(self) -> float:
        """The sample standard deviation (n - 1 in the denominator, as in fio); 0.0 below two values."""
        self.flush()
        if self._n < 2:
            return 0.0
        # In integers until the last division: the difference of two huge, close numbers stays exact.
        spread = self._n * self._sum_squares - self._sum * self._sum
        return math.sqrt(spread / (self._n * (self._n - 1)))

    @property
    def counts(self) -> I64:
        """The bins, int64[1856]; a copy."""
        self.flush()
        return self._counts.copy()

    def percentile(self, percent: float) -> int:
        """One percentile in ns, 0 if there is no value."""
        return self.percentiles((percent,))[0]

    def percentiles(self, percents: Iterable[float] = DEFAULT_PERCENTILES) -> list[int]:
        """The bins' values at which the running count reaches each percentage, in the given order."""
        self.flush()
        wanted = list(percents)
        if not self._n:
            return [0] * len(wanted)
        running = np.cumsum(self._counts)
        thresholds = [percent / 100.0 * self._n for percent in wanted]
        found = np.searchsorted(running, thresholds, side="left")
        # A threshold of 0 is reached by bin 0, also when it is empty; the first filled bin is meant.
        first = int(np.flatnonzero(self._counts)[0])
        return [BIN_VALUES[min(max(int(index), first), BINS - 1)] for index in found]

    # --- JSON ---

    def bins(self) -> dict[str, int]:
        """The filled bins as fio's json+ writes them: value → count, ascending."""
        self.flush()
        return {str(BIN_VALUES[index]): int(self._counts[index]) for index in np.flatnonzero(self._counts)}

    def to_json(self, percents: Iterable[float] | None = None, *, bins: bool = False) -> dict[str, Any]:
        """fio's object: min, max, mean, stddev, N; with percentiles and with bins where asked for."""
        result: dict[str, Any] = {
            "min": self.min,
            "max": self.max,
            "mean": round(self.mean, 6),
            "stddev": round(self.stddev, 6),
            "N": self.n,
        }
        if percents is not None and self._n:
            wanted = list(percents)
            result["percentile"] = {
                f"{percent:.6f}": value
                for percent, value in zip(wanted, self.percentiles(wanted), strict=True)
            }
            if bins:
                result["bins"] = self.bins()
        return result

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Histogram:
        """Read back an object with `bins`, ours or fio's.

        Bins, n, min and max are restored exactly; the sums as nearly as mean and stddev were written.
        Raises ValueError when the object has no bins, or a bin that this layout does not have.
        """
        bins = data.get("bins")
        if not isinstance(bins, Mapping):
            raise ValueError("this latency object has no bins: they are in fio's json+ output only")
        histogram = cls()
        for name, count in bins.items():
            try:
                histogram._counts[_BIN_OF_VALUE[int(name)]] += int(count)
            except (KeyError, ValueError, TypeError, OverflowError):
                raise ValueError(f"'{name}': {count!r} is not a bin of a json+ histogram") from None
        n = int(histogram._counts.sum())
        if n:
            filled = np.flatnonzero(histogram._counts)
            middle = sum(BIN_VALUES[index] * int(histogram._counts[index]) for index in filled) / n
            mean = float(data.get("mean", middle))
            deviation = float(data.get("stddev", 0.0))
            histogram._n = n
            histogram._sum = round(mean * n)
            histogram._sum_squares = round(deviation**2 * (n - 1) + mean**2 * n)
            histogram._min = int(data.get("min", BIN_VALUES[filled[0]]))
            histogram._max = int(data.get("max", BIN_VALUES[filled[-1]]))
        return histogram
