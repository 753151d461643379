"""Every medium against a bytearray, in random sequences of operations."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nvme_emu.media import ImageMedia, Media, RamMedia, SparseMedia

SIZE = 10 * 4096 + 1536

RANGES = st.tuples(st.integers(0, SIZE), st.integers(0, SIZE)).map(sorted)
EDGES = st.sampled_from([0, 1, 511, 512, 4095, 4096, 4097, 8192, SIZE - 1, SIZE])
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["write", "write", "fua", "zero", "discard", "discard", "rows", "flush"]),
        RANGES | st.tuples(EDGES, EDGES).map(sorted),
        st.integers(1, 255),
    ),
    max_size=25,
)


def apply(medium: Media, model: bytearray, operation: str, start: int, end: int, fill: int) -> None:
    """One step on the medium and on the model."""
    length = end - start
    if operation in ("write", "fua"):
        data = bytes((fill + at) & 0xFF for at in range(length))
        medium.write(start, data, fua=operation == "fua")
        model[start:end] = data
    elif operation in ("zero", "discard"):
        getattr(medium, operation)(start, length)
        model[start:end] = bytes(length)
    elif operation == "rows":
        rows = np.arange(start // 512, end // 512)[::-1]
        medium.write_rows(rows, 512, np.full((len(rows), 512), fill, np.uint8))
        for row in rows.tolist():
            model[row * 512 : row * 512 + 512] = bytes([fill]) * 512
    else:
        medium.flush()


@pytest.mark.parametrize("kind", ["ram", "sparse", "image"])
@settings(deadline=None, max_examples=60)
@given(steps=STEPS)
def test_medium_equals_a_bytearray_after_any_operations(
    kind: str, steps: list[tuple[str, list[int], int]]
) -> None:
    with tempfile.TemporaryDirectory() as directory:
        if kind == "image":
            medium: Media = ImageMedia(Path(directory) / "disk.img", SIZE)
        else:
            medium = RamMedia(SIZE) if kind == "ram" else SparseMedia(SIZE)
        model = bytearray(SIZE)
        present: set[int] = set()
        for operation, (start, end), fill in steps:
            apply(medium, model, operation, start, end, fill)
            if kind == "sparse":
                track_pages(present, operation, start, end)
                assert medium.allocated_bytes() == min(SIZE, 4096 * len(present))
            out = bytearray(end - start)
            medium.read_into(start, memoryview(out))
            assert out == model[start:end]
        assert medium.equal(0, model) == -1
        rows = np.arange(SIZE // 512)
        out = bytearray(len(rows) * 512)
        medium.read_rows(rows, 512, np.frombuffer(out, np.uint8))
        assert out == model[: len(out)]
        for at, value in enumerate(model[::1111]):
            changed = bytearray(model)
            changed[at * 1111] = value ^ 1
            assert medium.equal(0, changed) == at * 1111
        medium.close()


def track_pages(present: set[int], operation: str, start: int, end: int) -> None:
    """Which pages a sparse medium must have: those stored to since they were last discarded as a whole."""
    if operation == "rows":
        start, end = start // 512 * 512, end // 512 * 512
    if operation in ("write", "fua", "rows") and end > start:
        present.update(range(start // 4096, -(-end // 4096)))
    elif operation in ("zero", "discard"):
        last = -(-end // 4096) if end == SIZE else end // 4096
        present.difference_update(range(-(-start // 4096), last))
