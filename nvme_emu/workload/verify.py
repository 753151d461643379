"""What is written, and how it is recognised when it is read back.

Every written block is a function of (seed, generation): a slice of a pool of random bytes, or a pattern.
With crc32c or md5, each interval of a block begins with a header of 56 bytes (little-endian):

    0  magic        4 bytes  "NvEm"          16  offset      u64  byte address in the namespace
    4  kind         u16      1 crc32c, 2 md5 24  seed        u64  of the writing job
    6  job          u16                      32  generation  u64  number of the write within its job
    8  length       u32      of the interval 40  digest      16 bytes, over bytes 0-39 and 56 to the end
    12 header       u32      56

so that a reader that knows nothing but the place can check it, and one that knows the generation also
finds a write that was lost. `pattern` has no header: the whole block is the pattern. The idea of a header
per interval is fio's, the layout is our own.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from crc32c import crc32c
from numpy.typing import NDArray

from nvme_emu.workload.rng import U64, Stream

__all__ = ["Content", "Mismatch", "VerifySpec", "Verifier", "stamps_of"]

U8 = NDArray[np.uint8]

HEADER = struct.Struct("<4sHHIIQQQ")
DIGEST_BYTES = 16
HEADER_BYTES = HEADER.size + DIGEST_BYTES
MAGIC = b"NvEm"
_KINDS = {"crc32c": 1, "md5": 2}
_POOL_STEP = 64
_POOL_SPREAD = 1 << 20
"""Blocks begin at any multiple of 64 in the first MiB of the pool: 16384 different contents."""
_EXCERPT = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifySpec:
    """How a job fills and checks its blocks. `interval` is in bytes, 0 for one header a block."""

    check: str = "none"
    pattern: bytes = b""
    interval: int = 0
    seed: int = 0
    job: int = 0
    fatal: bool = False
    own_blocks: bool = True
    """Whether nobody else writes this job's blocks, so that an old generation is an error."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Mismatch:
    """A block that does not hold what was written. `expected` and `found` begin at the same byte."""

    nsid: int
    lba: int
    byte: int
    what: str
    expected: bytes
    found: bytes

    def describe(self) -> str:
        """One line: the LBA, what was expected and what was found."""
        return (
            f"namespace {self.nsid} LBA {self.lba} byte {self.byte}: {self.what}: "
            f"expected {self.expected.hex(' ')}, found {self.found.hex(' ')}"
        )


@lru_cache(maxsize=64)
def _pool(seed: int, nbytes: int) -> U8:
    words = Stream(seed, 0x706F6F6C).draw((nbytes + 7) // 8)
    # Stored little-endian, so that the bytes are the same on every machine.
    pool: U8 = words.astype("<u8").view(np.uint8)
    pool.setflags(write=False)
    return pool


@lru_cache(maxsize=64)
def _pattern_block(pattern: bytes, nbytes: int) -> U8:
    block = np.frombuffer(pattern * (nbytes // len(pattern) + 1), dtype=np.uint8, count=nbytes)
    block.setflags(write=False)
    return block


def _pool_start(generation: int) -> int:
    # The top bits of a multiplicative hash: cheap, and neighbours get distant slices.
    return (generation * 0x9E37_79B9 >> 10) % (_POOL_SPREAD // _POOL_STEP) * _POOL_STEP


def stamps_of(view: U8) -> U64:
    """The first eight bytes of every 512 of a buffer, to be overwritten cheaply at each write."""
    stamps: U64 = view.view(np.uint64)[::64]
    return stamps


class Content:
    """Fills write buffers without a check: random, zero or pattern, stamped so that blocks differ."""

    def __init__(
        self, *, pattern: bytes = b"", zero: bool = False, refill: bool, scramble: bool, seed: int
    ) -> None:
        self._pattern = b"\0" if zero else pattern
        self._refill = refill and not self._pattern
        self._scramble = scramble and not self._pattern and not self._refill
        self._seed = seed
        self.fills = self._refill or self._scramble
        """Whether `fill` does anything: when not, the buffer of `prepare` can be written again and again."""

    def prepare(self, buffer: U8) -> None:
        """Give a buffer its first content."""
        if self._pattern:
            buffer[:] = _pattern_block(self._pattern, len(buffer))
        else:
            buffer[:] = _pool(self._seed, _POOL_SPREAD + len(buffer))[: len(buffer)]

    def fill(self, view: U8, stamps: U64, slba: int, generation: int) -> None:
        """Renew the content before a write: all of it, or a stamp in every 512 bytes (`stamps_of(view)`)."""
        if self._scramble:
            stamps.fill((slba ^ (generation << 40)) & 0xFFFF_FFFF_FFFF_FFFF)
        elif self._refill:
            start = _pool_start(generation)
            view[:] = _pool(self._seed, _POOL_SPREAD + len(view))[start : start + len(view)]


class Verifier:
    """Fills blocks so that they can be checked, and checks them."""

    def __init__(self, spec: VerifySpec, *, nsid: int, lba_size: int, block_bytes_max: int) -> None:
        self.spec = spec
        self._nsid = nsid
        self._lba_size = lba_size
        self._interval = spec.interval
        self._kind = _KINDS.get(spec.check, 0)
        self._pool_bytes = _POOL_SPREAD + block_bytes_max
        self._own_pool = _pool(spec.seed, self._pool_bytes)
        self.mismatches: list[Mismatch] = []
        self.mismatch_count = 0

    def fill(self, view: U8, offset: int, generation: int) -> None:
        """Make `view` the block that this job writes at byte `offset` as its write number `generation`."""
        self._fill(view, offset, self.spec.seed, generation, self.spec.job, self._interval or len(view))

    def _fill(self, view: U8, offset: int, seed: int, generation: int, job: int, interval: int) -> None:
        nbytes = len(view)
        if self.spec.pattern:
            view[:] = _pattern_block(self.spec.pattern, nbytes)
        else:
            start = _pool_start(generation)
            pool = self._own_pool if seed == self.spec.seed else _pool(seed, self._pool_bytes)
            view[:] = pool[start : start + nbytes]
        if self._kind:
            for at in range(0, nbytes, interval):
                length = min(interval, nbytes - at)
                part = view[at : at + length].data
                HEADER.pack_into(
                    part, 0, MAGIC, self._kind, job, length, HEADER_BYTES, offset + at, seed, generation
                )
                part[HEADER.size : HEADER_BYTES] = self._digest(part)

    def _digest(self, part: memoryview) -> bytes:
        if self._kind == 1:
            crc = crc32c(part[HEADER_BYTES:], crc32c(part[: HEADER.size]))
            return crc.to_bytes(4, "little") + b"\0" * (DIGEST_BYTES - 4)
        digest = hashlib.md5(part[: HEADER.size], usedforsecurity=False)
        digest.update(part[HEADER_BYTES:])
        return digest.digest()

    def check(self, view: U8, offset: int, generation: int) -> bool:
        """Check a block read from byte `offset`. Generation 0: any write will do. False on a mismatch."""
        if self.spec.check == "pattern":
            expected = _pattern_block(self.spec.pattern, len(view))
            if np.array_equal(view, expected):
                return True
            return self._report(view, expected, offset, "the pattern is not there")
        interval = self._interval or len(view)
        for at in range(0, len(view), interval):
            part = view[at : at + interval]
            if not self._check_part(part, offset + at, offset, len(view), generation):
                return False
        return True

    def _check_part(self, part: U8, at: int, block: int, block_bytes: int, generation: int) -> bool:
        data = part.data
        magic, kind, job, length, header, offset, seed, found_generation = HEADER.unpack_from(data)
        if (magic, kind, length, header, offset) != (MAGIC, self._kind, len(part), HEADER_BYTES, at):
            return self._bad_header(part, at, block, block_bytes, generation)
        if generation and self.spec.own_blocks and (seed, found_generation) != (self.spec.seed, generation):
            what = (
                f"stale block: write {generation} of this job was expected, this is write {found_generation}"
            )
            return self._report(
                part,
                self._rebuild(
                    at,
                    block,
                    block_bytes,
                    seed=self.spec.seed,
                    generation=generation,
                    job=self.spec.job,
                    length=len(part),
                ),
                at,
                what,
            )
        digest = self._digest(data)
        if digest != data[HEADER.size : HEADER_BYTES]:
            size = 4 if self._kind == 1 else DIGEST_BYTES
            stored = bytes(data[HEADER.size : HEADER.size + size])
            what = f"{self.spec.check} of the data is {digest[:size].hex()}, the header says {stored.hex()}"
            expected = self._rebuild(
                at, block, block_bytes, seed=seed, generation=found_generation, job=job, length=length
            )
            return self._report(part, expected, at, what)
        return True

    def _bad_header(self, part: U8, at: int, block: int, block_bytes: int, generation: int) -> bool:
        if generation and self.spec.own_blocks:
            expected = self._rebuild(
                at,
                block,
                block_bytes,
                seed=self.spec.seed,
                generation=generation,
                job=self.spec.job,
                length=len(part),
            )
        else:
            # Who wrote it is not known: only the header's fixed part can be expected.
            head = HEADER.pack(MAGIC, self._kind, 0, len(part), HEADER_BYTES, at, 0, 0)
            expected = part.copy()
            expected[:6] = np.frombuffer(head[:6], dtype=np.uint8)
            expected[8:24] = np.frombuffer(head[8:24], dtype=np.uint8)
        return self._report(part, expected, at, "not the header of a block written here")

    def _rebuild(
        self, at: int, block: int, block_bytes: int, *, seed: int, generation: int, job: int, length: int
    ) -> U8:
        """What the interval at byte `at` held when it was written."""
        whole = np.empty(block_bytes, dtype=np.uint8)
        self._fill(whole, block, seed, generation, job, self._interval or block_bytes)
        return whole[at - block : at - block + length]

    def _report(self, found: U8, expected: U8, offset: int, what: str) -> bool:
        self.mismatch_count += 1
        if len(self.mismatches) < 16:
            different = np.flatnonzero(found != expected)
            first = int(different[0]) if len(different) else 0
            lba, byte = divmod(offset + first, self._lba_size)
            self.mismatches.append(
                Mismatch(
                    nsid=self._nsid,
                    lba=lba,
                    byte=byte,
                    what=what,
                    expected=expected[first : first + _EXCERPT].tobytes(),
                    found=found[first : first + _EXCERPT].tobytes(),
                )
            )
        return False
