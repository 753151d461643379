"""Random numbers of our own: integer streams, permutations and skewed distributions.

numpy's generators may change their streams between versions, so that a seed would mean something else
next year. These are counter-based (splitmix64's finaliser over a Weyl sequence), in wrapping 64-bit
integer arithmetic, which numpy does exactly and the same everywhere. The two skewed distributions need
powers of real numbers; they are computed one by one with the C library's pow and not with numpy's,
whose vector code differs between processors.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Pareto", "Permutation", "Stream", "Zipf", "mix64"]

U64 = NDArray[np.uint64]

_MASK = (1 << 64) - 1
_WEYL = 0x9E37_79B9_7F4A_7C15
_MUL1 = 0xBF58_476D_1CE4_E5B9
_MUL2 = 0x94D0_49BB_1331_11EB


def mix64(value: int) -> int:
    """splitmix64's finaliser on one integer: a bijection of 64-bit values that scatters them well."""
    value &= _MASK
    value = (value ^ (value >> 30)) * _MUL1 & _MASK
    value = (value ^ (value >> 27)) * _MUL2 & _MASK
    return value ^ (value >> 31)


def _mix64_array(values: U64) -> U64:
    values = (values ^ (values >> np.uint64(30))) * np.uint64(_MUL1)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(_MUL2)
    mixed: U64 = values ^ (values >> np.uint64(31))
    return mixed


class Stream:
    """An endless sequence of 64-bit integers, drawn in arrays. The n-th value depends on seed and n only."""

    def __init__(self, *seed: int) -> None:
        state = 0
        for part in seed:
            state = mix64(state + _WEYL ^ part)
        self._state = state
        self._drawn = 0

    def draw(self, count: int) -> U64:
        """The next `count` values, uint64."""
        index = np.arange(self._drawn + 1, self._drawn + 1 + count, dtype=np.uint64)
        self._drawn += count
        return _mix64_array(np.uint64(self._state) + index * np.uint64(_WEYL))

    def below(self, bound: int, count: int) -> U64:
        """`count` integers in [0, bound). The modulo's bias is below bound / 2**64."""
        return self.draw(count) % np.uint64(bound)

    def percent(self, share: int, count: int) -> NDArray[np.bool_]:
        """`count` truth values, each true with `share` in a hundred."""
        chosen: NDArray[np.bool_] = self.below(100, count) < np.uint64(share)
        return chosen


class Permutation:
    """A seeded permutation of [0, size), computed and not stored, so that a TiB costs what a MiB costs.

    Rounds of invertible steps (xor-shift, odd multiplication, addition) permute [0, 2**bits); what falls
    outside `size` is skipped (in order) or walked on (for single values), which leaves a permutation.
    """

    _ROUNDS = 4

    def __init__(self, size: int, *seed: int) -> None:
        if size < 1:
            raise ValueError(f"a permutation needs at least one element, not {size}")
        self.size = size
        self._bits = max(1, (size - 1).bit_length())
        self._mask = np.uint64((1 << self._bits) - 1)
        self._shift = np.uint64(self._bits // 2 + 1)
        keys = Stream(*seed, size).draw(2 * self._ROUNDS)
        self._multipliers = keys[: self._ROUNDS] | np.uint64(1)
        self._addends = keys[self._ROUNDS :]

    def _scramble(self, values: U64) -> U64:
        for multiplier, addend in zip(self._multipliers, self._addends, strict=True):
            values = (values * multiplier + addend) & self._mask
            values ^= values >> self._shift
        return values

    @property
    def counters(self) -> int:
        """How many counter values `visit` goes through for one pass: the next power of two."""
        return 1 << self._bits

    def visit(self, start: int, stop: int) -> U64:
        """What the counters [start, stop) map to; going through all counters visits each element once."""
        values = self._scramble(np.arange(start, stop, dtype=np.uint64))
        return values[values < np.uint64(self.size)]

    def apply(self, values: U64) -> U64:
        """Map each of `values` (all below size) to its own place below size."""
        values = self._scramble(values)
        outside = values >= np.uint64(self.size)
        # Following the cycle of the larger permutation comes back inside, at the latest to where it began.
        while outside.any():
            values[outside] = self._scramble(values[outside])
            outside = values >= np.uint64(self.size)
        return values


_TO_UNIT = 1.0 / (1 << 53)


class Zipf:
    """Ranks 0, 1, … with probability proportional to 1 / (rank + 1) ** theta, theta not 1.

    Gray et al., "Quickly Generating Billion-Record Synthetic Databases" (SIGMOD 1994), section 3.2, the
    method that fio uses too; exact for the two hottest ranks, a close approximation for the others.
    """

    def __init__(self, size: int, theta: float, *seed: int) -> None:
        self._size = size
        self._theta = theta
        self._stream = Stream(*seed)
        self._zeta = _zeta(size, theta)
        self._second = 1.0 + 0.5**theta
        self._alpha = 1.0 / (1.0 - theta)
        tail = 1.0 - _zeta(2, theta) / self._zeta
        self._eta = (1.0 - (2.0 / size) ** (1.0 - theta)) / tail if size > 2 else 0.0

    def ranks(self, count: int) -> U64:
        """`count` ranks below size, uint64."""
        last, zeta, second = self._size - 1, self._zeta, self._second
        ranks: list[int] = []
        for draw in (self._stream.draw(count) >> np.uint64(11)).tolist():
            unit = draw * _TO_UNIT
            if unit * zeta < 1.0:
                rank = 0
            elif unit * zeta < second or self._size <= 2:
                rank = 1
            else:
                rank = int(self._size * (self._eta * unit - self._eta + 1.0) ** self._alpha)
            ranks.append(min(rank, last))
        return np.array(ranks, dtype=np.uint64)


def _zeta(size: int, theta: float) -> float:
    """The sum of k ** -theta for k = 1 … size; beyond a thousand terms by the Euler-Maclaurin formula."""
    head = min(size, 1000)
    total = math.fsum(k**-theta for k in range(1, head + 1))
    if size > head:
        integral = (size ** (1.0 - theta) - head ** (1.0 - theta)) / (1.0 - theta)
        ends = (size**-theta - head**-theta) / 2
        slopes = theta * (head ** (-theta - 1) - size ** (-theta - 1)) / 12
        total += integral + ends + slopes
    return total


class Pareto:
    """Ranks with the 80/20 shape: for h = 0.2, 80 % of the draws fall on the first 20 % of the ranks."""

    def __init__(self, size: int, h: float, *seed: int) -> None:
        self._size = size
        self._power = math.log(h) / math.log(1.0 - h)
        self._stream = Stream(*seed)

    def ranks(self, count: int) -> U64:
        """`count` ranks below size, uint64."""
        draws: list[Any] = (self._stream.draw(count) >> np.uint64(11)).tolist()
        last = self._size - 1
        return np.array([int(last * (draw * _TO_UNIT) ** self._power) for draw in draws], dtype=np.uint64)
