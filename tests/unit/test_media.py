"""What every medium must do, for each of them, and what is particular to memory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nvme_emu.media import ImageMedia, Media, MediaError, RamMedia, SparseMedia, open_media

SIZE = 1 << 20
Make = Callable[[int], Media]


@pytest.fixture(params=["ram", "sparse", "image"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """Makes an empty medium of a size."""
    opened: list[Media] = []

    def make_medium(nbytes: int) -> Media:
        kinds = {"ram": RamMedia, "sparse": SparseMedia}
        path = tmp_path / f"{len(opened)}.img"
        medium = kinds[request.param](nbytes) if request.param in kinds else ImageMedia(path, nbytes)
        opened.append(medium)
        return medium

    request.addfinalizer(lambda: [medium.close() for medium in opened])
    return make_medium


def read(medium: Media, offset: int, nbytes: int) -> bytes:
    out = bytearray(b"\xaa" * nbytes)
    medium.read_into(offset, memoryview(out))
    return bytes(out)


def test_new_medium_reads_as_zeroes(make: Make) -> None:
    medium = make(SIZE)

    assert medium.nbytes == SIZE
    assert read(medium, 0, SIZE) == bytes(SIZE)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_written_bytes_are_read_back_and_neighbours_are_untouched(make: Make, kind: type) -> None:
    medium = make(SIZE)
    medium.write(0, b"\xee" * 32768)

    medium.write(4000, kind(b"\x11" * 9000))

    assert read(medium, 0, 32768) == b"\xee" * 4000 + b"\x11" * 9000 + b"\xee" * (32768 - 13000)


@pytest.mark.parametrize("operation", ["zero", "discard"])
@pytest.mark.parametrize(
    ("offset", "nbytes"), [(0, 4096), (1, 1), (4000, 200), (512, 16384), (0, SIZE), (SIZE - 512, 512)]
)
def test_zeroed_and_discarded_bytes_read_as_zeroes_and_neighbours_stay(
    make: Make, operation: str, offset: int, nbytes: int
) -> None:
    medium = make(SIZE)
    medium.write(0, b"\xee" * SIZE)

    getattr(medium, operation)(offset, nbytes)

    expected = b"\xee" * offset + bytes(nbytes) + b"\xee" * (SIZE - offset - nbytes)
    assert read(medium, 0, SIZE) == expected


@pytest.mark.parametrize(
    ("offset", "nbytes"), [(-1, 1), (SIZE, 1), (SIZE - 1, 2), (0, SIZE + 1), (1 << 70, 1)]
)
def test_range_outside_the_medium_raises_value_error_and_changes_nothing(
    make: Make, offset: int, nbytes: int
) -> None:
    medium = make(SIZE)
    medium.write(0, b"\xee" * SIZE)

    for operation in (
        lambda: read(medium, offset, nbytes),
        lambda: medium.write(offset, b"x" * nbytes),
        lambda: medium.zero(offset, nbytes),
        lambda: medium.discard(offset, nbytes),
        lambda: medium.equal(offset, b"\xee" * nbytes),
    ):
        with pytest.raises(ValueError, match="not inside"):
            operation()
    assert medium.nbytes == SIZE
    assert read(medium, 0, SIZE) == b"\xee" * SIZE


def test_equal_gives_the_first_byte_that_differs(make: Make) -> None:
    medium = make(SIZE)
    medium.write(100, b"abcdefgh")

    assert medium.equal(100, b"abcdefgh") == -1
    assert medium.equal(100, memoryview(b"abcXefgX")) == 3
    assert medium.equal(99, b"\0abcdefgi") == 8
    assert medium.equal(0, b"") == -1


def test_write_fua_and_flush_keep_the_bytes(make: Make) -> None:
    medium = make(SIZE)

    medium.write(512, b"x" * 512, fua=True)
    medium.zero(768, 16, fua=True)
    medium.flush()

    assert read(medium, 512, 512) == b"x" * 256 + bytes(16) + b"x" * 240


def test_discard_gives_storage_back(make: Make) -> None:
    medium = make(8 << 20)
    if isinstance(medium, RamMedia):
        assert medium.allocated_bytes() == medium.nbytes
        return
    empty = medium.allocated_bytes()
    medium.write(1 << 20, b"x" * (1 << 20))
    medium.flush()
    full = medium.allocated_bytes()

    medium.discard(1 << 20, 1 << 20)

    assert empty == 0
    assert full >= 1 << 20
    assert medium.allocated_bytes() == empty


def test_medium_that_is_no_whole_number_of_pages_works_to_its_end(make: Make) -> None:
    size = 3 * 4096 + 512
    medium = make(size)
    medium.write(size - 600, b"x" * 600)

    assert read(medium, size - 601, 601) == b"\0" + b"x" * 600
    medium.discard(size - 600, 600)
    assert read(medium, 0, size) == bytes(size)
    with pytest.raises(ValueError, match="not inside"):
        medium.write(size - 1, b"xx")


def test_close_twice_is_fine_and_then_nothing_is_in_range(make: Make) -> None:
    medium = make(SIZE)

    medium.close()
    medium.close()

    with pytest.raises(ValueError, match="not inside"):
        read(medium, 0, 1)


# -- rows ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row_nbytes", [512, 4096, 8192, 520])
def test_rows_equal_single_reads_and_writes(make: Make, row_nbytes: int) -> None:
    medium, other = make(SIZE), make(SIZE)
    rng = np.random.default_rng(1)
    for count in (1, 3, 64):
        rows = rng.integers(0, SIZE // row_nbytes, count)
        data = rng.integers(0, 256, (count, row_nbytes), np.uint8)
        medium.write_rows(rows, row_nbytes, data, fua=count == 3)
        for row, line in zip(rows.tolist(), data, strict=True):
            other.write(row * row_nbytes, line.tobytes())
        assert read(medium, 0, SIZE) == read(other, 0, SIZE)
        if medium.volatile:  # a file system allocates when it likes
            assert medium.allocated_bytes() == other.allocated_bytes()

        rows = rng.integers(0, SIZE // row_nbytes, count).astype(np.uint32)
        out = np.full((count, row_nbytes), 0xAA, np.uint8)
        medium.read_rows(rows, row_nbytes, out)
        for row, line in zip(rows.tolist(), out, strict=True):
            assert read(medium, row * row_nbytes, row_nbytes) == line.tobytes()


def test_rows_written_twice_in_one_call_keep_the_later(make: Make) -> None:
    medium = make(SIZE)
    data = np.repeat(np.arange(1, 65, dtype=np.uint8), 512).reshape(64, 512)

    medium.write_rows(np.full(64, 7), 512, data)

    assert read(medium, 7 * 512, 512) == bytes([64]) * 512


@pytest.mark.parametrize("rows", [[-1], [SIZE // 512], [0, 1 << 50]])
def test_rows_out_of_range_raise_value_error(make: Make, rows: list[int]) -> None:
    medium = make(SIZE)
    buffer = np.zeros((len(rows), 512), np.uint8)

    with pytest.raises(ValueError, match="not all inside"):
        medium.read_rows(np.array(rows), 512, buffer)
    with pytest.raises(ValueError, match="not all inside"):
        medium.write_rows(np.array(rows), 512, buffer)


def test_rows_with_a_buffer_of_another_size_raise_value_error(make: Make) -> None:
    medium = make(SIZE)

    for buffer in (np.zeros(511, np.uint8), np.zeros((512, 2), np.uint8)[:, 0]):
        with pytest.raises(ValueError, match="contiguous buffer"):
            medium.read_rows(np.array([0]), 512, buffer)
    with pytest.raises(ValueError, match="at least one byte"):
        medium.read_rows(np.array([0]), 0, np.zeros(0, np.uint8))


def test_rows_none_at_all_do_nothing(make: Make) -> None:
    medium = make(SIZE)
    none = np.empty(0, np.int64)

    medium.write_rows(none, 512, np.empty(0, np.uint8))
    medium.read_rows(none, 512, np.empty(0, np.uint8))


# -- memory -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [RamMedia, SparseMedia])
@pytest.mark.parametrize("nbytes", [0, -1])
def test_medium_of_no_bytes_raises_value_error(kind: Make, nbytes: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        kind(nbytes)


def test_ram_array_is_the_medium() -> None:
    medium = RamMedia(SIZE)
    assert medium.array is not None

    medium.array[5] = 9

    assert read(medium, 5, 1) == b"\x09"
    assert medium.volatile


def resident_bytes(key: str = "VmRSS") -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no {key} in /proc/self/status")


def test_sparse_tebibyte_costs_what_was_written_also_after_reads_everywhere() -> None:
    rss, tables = resident_bytes(), resident_bytes("VmPTE")
    medium = SparseMedia(1 << 40)
    out = memoryview(bytearray(4096))
    rows = np.arange(0, 1 << 28, 1 << 15)  # 8192 pages, one every 128 MiB
    gathered = np.empty((len(rows), 4096), np.uint8)
    for offset in range(0, 1 << 40, 1 << 27):
        medium.read_into(offset, out)
    medium.read_rows(rows, 4096, gathered)
    del gathered
    assert medium.allocated_bytes() == 0
    assert resident_bytes() - rss < 8 << 20
    assert resident_bytes("VmPTE") - tables < 4 << 20

    for offset in range(0, 1 << 40, 1 << 30):
        medium.write(offset + (1 << 29) - 1, b"xy")
    assert medium.allocated_bytes() == 1024 * 8192
    assert resident_bytes() - rss < 24 << 20

    medium.discard(0, 1 << 40)
    assert medium.allocated_bytes() == 0
    assert read(medium, (1 << 29) - 1, 2) == b"\0\0"
    assert resident_bytes() - rss < 8 << 20
    medium.close()


def test_sparse_allocated_bytes_count_pages_once() -> None:
    medium = SparseMedia(1 << 30)

    medium.write(4095, b"ab")
    medium.write(0, b"c" * 8192)
    assert medium.allocated_bytes() == 8192
    medium.discard(100, 8000)
    assert medium.allocated_bytes() == 8192
    medium.discard(0, 4096)
    assert medium.allocated_bytes() == 4096
    medium.zero(0, 1 << 30)
    assert medium.allocated_bytes() == 0


def test_sparse_beyond_any_address_space_raises_media_error() -> None:
    with pytest.raises(MediaError, match="no address space"):
        SparseMedia(1 << 62)


# -- open_media ---------------------------------------------------------------------------------------------


def test_open_media_understands_what_users_write(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    cases = [
        (open_media(None, SIZE), RamMedia, SIZE),
        (open_media(None, 8 << 30), SparseMedia, 8 << 30),
        (open_media("ram:64k"), RamMedia, 65536),
        (open_media("sparse:1T"), SparseMedia, 1 << 40),
        (open_media(path, SIZE, lba_size=4096), ImageMedia, SIZE),
    ]
    for medium, kind, nbytes in cases:
        assert type(medium) is kind
        assert medium.nbytes == nbytes
        assert open_media(medium) is medium
        medium.close()
    with contextlib.closing(open_media(f"image:{path}")) as image:
        assert isinstance(image, ImageMedia)
        assert image.lba_size == 4096


@pytest.mark.parametrize("spec", ["ram:lots", "sparse:", "ram:-1", None])
def test_open_media_of_no_size_raises_value_error(spec: str | None) -> None:
    with pytest.raises(ValueError, match="size"):
        open_media(spec)
