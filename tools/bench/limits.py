"""The physical limit: memcpy over the very memory that our medium lies in, without any NVMe around it.

In C where there is a compiler; else in numpy, whose rows of void items are one memcpy each.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.measure import Row, Sample, timed
from bench.ours import page_aligned

__all__ = ["Limits"]

PAGE = 4096
SEQ_BYTES = 128 << 10
GATHER_ROWS = 256
CHUNK_PAGES = 8192
CHUNK_BLOCKS = 256

Bytes = npt.NDArray[np.uint8]
# dst, dst_rows, places, row_bytes: copies from and to the arrays that it was made for.
Copy = Callable[[Bytes, int, Bytes, npt.NDArray[np.int64], int], None]


class Limits:
    """Rows that copy from and to ``medium`` (flat uint8). ``kind`` says what copies: "C" or "numpy"."""

    def __init__(self, medium: Bytes, places: npt.NDArray[np.int64], workdir: Path) -> None:
        self.medium = medium
        self.places = places
        self.kind, self._copy = _compile(workdir)

    def rows(self) -> list[Row]:
        """4 KiB random gather, 128 KiB sequential copy from and to the medium."""
        by = f"memcpy in {self.kind}"
        group = "memory"
        return [
            Row(
                name="memcpy_gather_4k",
                group=group,
                what=f"{by}: random 4 KiB pages of the medium, gathered",
                unit="IOPS",
                run=self._gather(),
                check=self._check,
            ),
            Row(
                name="memcpy_seq_read",
                group=group,
                what=f"{by}: 128 KiB blocks out of the medium",
                unit="B/s",
                run=self._sequential(out_of_medium=True),
            ),
            Row(
                name="memcpy_seq_write",
                group=group,
                what=f"{by}: 128 KiB blocks into the medium",
                unit="B/s",
                run=self._sequential(out_of_medium=False),
            ),
        ]

    def _check(self) -> None:
        out = page_aligned(64 * PAGE)
        some = np.ascontiguousarray(self.places[:64])
        self._copy(out, 64, self.medium, some, PAGE)
        expected = self.medium.reshape(-1, PAGE)[some]
        assert np.array_equal(out.reshape(-1, PAGE), expected), "the gather gave other bytes than the medium has"

    def _gather(self) -> Callable[[float], Sample]:
        out = page_aligned(GATHER_ROWS * PAGE)
        position = 0

        def chunk() -> int:
            nonlocal position
            some = self.places[position : position + CHUNK_PAGES]
            position = (position + CHUNK_PAGES) % (len(self.places) - CHUNK_PAGES + 1)
            self._copy(out, GATHER_ROWS, self.medium, some, PAGE)
            return len(some)

        return lambda seconds: timed(chunk, seconds)

    def _sequential(self, out_of_medium: bool) -> Callable[[float], Sample]:
        blocks = len(self.medium) // SEQ_BYTES
        count = min(CHUNK_BLOCKS, blocks)
        buffer = page_aligned(SEQ_BYTES)
        position = 0

        def chunk() -> int:
            nonlocal position
            if position + count > blocks:
                position = 0
            if out_of_medium:
                places = np.arange(position, position + count, dtype=np.int64)
                self._copy(buffer, 1, self.medium, places, SEQ_BYTES)
            else:
                window = self.medium[position * SEQ_BYTES : (position + count) * SEQ_BYTES]
                self._copy(window, count, buffer, np.zeros(count, np.int64), SEQ_BYTES)
            position += count
            return count

        def run(seconds: float) -> Sample:
            buffer[:] = 1
            return timed(chunk, seconds, SEQ_BYTES)

        return run


def _compile(workdir: Path) -> tuple[str, Copy]:
    """("C", the compiled gather), or ("numpy", its stand-in) where no compiler works."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    library = workdir / "gather.so"
    if compiler is None:
        return "numpy", _numpy_copy
    source = Path(__file__).with_name("gather.c")
    command = [compiler, "-O2", "-shared", "-fPIC", "-o", str(library), str(source)]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        gather = ctypes.CDLL(str(library)).gather
    except (OSError, subprocess.SubprocessError):
        return "numpy", _numpy_copy
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    gather.argtypes = [pointer, size, pointer, pointer, size, size]
    gather.restype = None

    def copy(dst: Bytes, dst_rows: int, src: Bytes, places: npt.NDArray[np.int64], row_bytes: int) -> None:
        gather(dst.ctypes.data, dst_rows, src.ctypes.data, places.ctypes.data, len(places), row_bytes)

    return "C", copy


def _numpy_copy(
    dst: Bytes, dst_rows: int, src: Bytes, places: npt.NDArray[np.int64], row_bytes: int
) -> None:
    if row_bytes > PAGE:
        # Large blocks: one copy each, for `take` gains nothing there.
        for index, place in enumerate(places.tolist()):
            at = index % dst_rows * row_bytes
            np.copyto(dst[at : at + row_bytes], src[place * row_bytes : (place + 1) * row_bytes])
        return
    kind = np.dtype(f"V{row_bytes}")
    table, out = src.view(kind), dst.view(kind)
    for start in range(0, len(places), dst_rows):
        some = places[start : start + dst_rows]
        # With mode "clip" numpy writes straight into `out`; the places are in range.
        table.take(some, 0, out[: len(some)], "clip")
