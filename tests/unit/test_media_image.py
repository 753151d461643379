"""Image files: creation, what is refused and how it is said, durability, and a file that changes under us."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from nvme_emu.media import ImageMedia, MediaError
from nvme_emu.media import image as image_module
from nvme_emu.media.trailer import TRAILER_BYTES, Trailer, TrailerError

SIZE = 1 << 20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "disk.img"


def create(path: Path, nbytes: int = SIZE, **options: int) -> None:
    ImageMedia(path, nbytes, **options).close()


def refuse(path: Path, nbytes: int | None = None, **options: object) -> MediaError:
    """The error with which the file is refused; its message must name the path."""
    with pytest.raises(MediaError) as caught:
        ImageMedia(path, nbytes, **options)  # type: ignore[arg-type]
    assert str(path) in str(caught.value)
    return caught.value


def test_image_is_raw_data_a_trailer_and_sparse(path: Path) -> None:
    medium = ImageMedia(path, 1 << 30, lba_size=4096)
    medium.write(8192, b"boot sector")
    medium.flush()

    content = os.stat(path)
    with path.open("rb") as file:
        file.seek(8192)
        assert file.read(11) == b"boot sector"
        file.seek(-TRAILER_BYTES, os.SEEK_END)
        trailer = Trailer.parse(file.read())
    assert content.st_size == trailer.file_bytes
    assert all(at % 4096 == 0 for at in (trailer.offset, *trailer.slots))
    assert content.st_blocks * 512 < 1 << 20
    assert trailer == Trailer(1 << 30, 4096, medium.uuid)
    medium.close()


def test_image_opened_again_has_its_data_size_and_identity(path: Path) -> None:
    first = ImageMedia(path, SIZE, lba_size=4096)
    first.write(SIZE - 4, b"last")
    first.close()

    again = ImageMedia(path)

    out = bytearray(4)
    again.read_into(SIZE - 4, memoryview(out))
    assert (out, again.nbytes, again.lba_size, again.uuid) == (b"last", SIZE, 4096, first.uuid)
    assert not again.volatile
    again.close()


def test_image_larger_than_asked_for_keeps_its_size(path: Path) -> None:
    create(path, 2 * SIZE)

    medium = ImageMedia(path, SIZE)

    assert medium.nbytes == 2 * SIZE
    medium.close()


def test_creation_leaves_one_file_and_respects_the_umask(path: Path) -> None:
    old = os.umask(0o027)
    try:
        create(path)
    finally:
        os.umask(old)

    assert os.listdir(path.parent) == ["disk.img"]
    assert os.stat(path).st_mode & 0o777 == 0o640


# -- refused ------------------------------------------------------------------------------------------------


def test_image_too_small_names_both_sizes(path: Path) -> None:
    create(path, SIZE)

    assert f"the image has {SIZE} bytes, {2 * SIZE} were asked for" in str(refuse(path, 2 * SIZE))


def test_image_of_another_block_size_names_both(path: Path) -> None:
    create(path, SIZE)

    assert "blocks of 512 bytes, 4096 were asked for" in str(refuse(path, SIZE, lba_size=4096))


def test_absent_image_without_a_size_or_without_leave_to_create_is_refused(path: Path) -> None:
    assert "no size was given" in str(refuse(path))
    error = refuse(path, SIZE, create=False)
    assert "not to be created" in str(error)
    assert error.errno == errno.ENOENT
    assert not path.exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(b"", "empty", id="empty"),
        pytest.param(b"x" * 100, "foreign or damaged: it has 100 bytes", id="short"),
        pytest.param(bytes(SIZE), "does not end with the trailer", id="raw"),
        pytest.param(b"QFI\xfb" + bytes(SIZE), "qcow2", id="qcow2"),
        pytest.param(b"KDMV" + bytes(SIZE), "VMDK", id="vmdk"),
        pytest.param(bytes(0x8001) + b"CD001" + bytes(SIZE), "ISO 9660", id="iso"),
        pytest.param(bytes(0x40) + b"\x7f\x10\xda\xbe" + bytes(SIZE), "VDI", id="vdi"),
    ],
)
def test_foreign_file_is_refused_by_name_and_not_changed(path: Path, content: bytes, words: str) -> None:
    path.write_bytes(content)

    assert words in str(refuse(path, SIZE))
    assert path.read_bytes() == content


def test_truncated_grown_or_damaged_image_is_refused(path: Path) -> None:
    create(path)
    content = path.read_bytes()

    path.write_bytes(content[:-512])
    assert "does not end with the trailer" in str(refuse(path))
    path.write_bytes(bytes(4096) + content)
    length = len(content)
    assert f"promises {SIZE} bytes of data in a file of {length}, {length + 4096} are there" in str(refuse(path))
    damaged = bytearray(content)
    damaged[length - TRAILER_BYTES + 17] ^= 1
    path.write_bytes(damaged)
    assert "checksum" in str(refuse(path))


def test_image_of_a_later_version_is_refused(path: Path) -> None:
    create(path)
    block = bytearray(path.read_bytes()[-TRAILER_BYTES:])
    block[8] = 3
    with pytest.raises(TrailerError, match="checksum"):
        Trailer.parse(bytes(block))
    block[40:44] = zlib.crc32(bytes(block[:40])).to_bytes(4, "little")

    with pytest.raises(TrailerError, match="version 3, this program knows versions 1 to 2"):
        Trailer.parse(bytes(block))


def test_directory_and_device_and_pipe_are_no_images(path: Path) -> None:
    assert "a directory" in str(refuse(path.parent, SIZE))
    os.mkfifo(path)
    assert "a device, pipe or socket" in str(refuse(path, SIZE))
    assert "a device, pipe or socket" in str(refuse(Path("/dev/null"), SIZE))


def test_path_into_nowhere_is_refused(path: Path) -> None:
    error = refuse(path / "below" / "disk.img", SIZE)

    assert error.errno == errno.ENOENT


@pytest.mark.parametrize(("nbytes", "lba_size"), [(1000, None), (SIZE + 512, 4096), (0, None), (SIZE, 500)])
def test_sizes_that_no_image_can_have_raise_value_error(
    path: Path, nbytes: int, lba_size: int | None
) -> None:
    with pytest.raises(ValueError, match="must"):
        ImageMedia(path, nbytes, lba_size=lba_size)
    assert not path.exists()


def test_open_image_is_locked_for_this_process_and_others_until_it_is_closed(path: Path) -> None:
    medium = ImageMedia(path, SIZE)
    program = (
        "import sys; from nvme_emu.media import ImageMedia, MediaError\n"
        "try: ImageMedia(sys.argv[1])\n"
        "except MediaError as error: print(error.errno, error); sys.exit(3)\n"
    )
    command = [sys.executable, "-c", program, str(path)]

    other = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert other.returncode == 3
    assert "locked" in other.stdout
    assert refuse(path).errno == errno.EBUSY
    medium.close()
    assert subprocess.run(command, timeout=60).returncode == 0


def test_refused_images_leak_no_descriptor(path: Path) -> None:
    path.write_bytes(bytes(SIZE))
    before = os.listdir("/proc/self/fd")
    for _ in range(10):
        refuse(path)
    assert len(os.listdir("/proc/self/fd")) == len(before)


# -- interrupted, full, truncated ---------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["truncate", "pwritev", "fsync", "link"])
def test_creation_that_fails_at_any_step_leaves_no_image(
    path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(image_module.os, step, fail)
        assert refuse(path, SIZE).errno == errno.ENOSPC

    assert os.listdir(path.parent) == []
    create(path)


@pytest.mark.parametrize("step", ["truncate", "pwritev", "fsync", "link"])
def test_creation_that_is_killed_at_any_step_leaves_no_torn_image(path: Path, step: str) -> None:
    program = (
        "import os, signal, sys; from nvme_emu.media import ImageMedia\n"
        "setattr(os, sys.argv[2], lambda *_: os.kill(os.getpid(), signal.SIGKILL))\n"
        "ImageMedia(sys.argv[1], 1 << 20)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path), step], timeout=60)

    assert done.returncode == -signal.SIGKILL
    assert not path.exists()
    create(path)


def test_creation_does_not_replace_an_image_made_in_the_meantime(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_link = os.link

    def overtaken(part: str, name: str) -> None:
        path.write_bytes(b"theirs")
        real_link(part, name)

    monkeypatch.setattr(image_module.os, "link", overtaken)

    assert refuse(path, SIZE).errno == errno.EEXIST
    assert path.read_bytes() == b"theirs"


def test_write_to_a_full_disk_is_an_error_and_reading_goes_on(path: Path) -> None:
    # A limit on the size of files stands for the disk: both fail in the same call, as a hole is filled.
    medium = ImageMedia(path, SIZE)
    medium.write(0, b"before")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
        with pytest.raises(MediaError, match="writing failed") as caught:
            medium.write(8192, b"x" * 4096)
        with pytest.raises(MediaError, match="writing failed"):
            medium.zero(8192, 4096)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, old)

    assert caught.value.filename == str(path)
    assert medium.equal(0, b"before") == -1
    medium.flush()
    medium.close()


def test_image_truncated_while_open_is_an_error_and_no_signal(path: Path) -> None:
    medium = ImageMedia(path, SIZE)
    medium.write(0, b"x" * SIZE)
    os.truncate(path, 8192)

    medium.read_into(4096, memoryview(bytearray(4096)))
    for operation in (
        lambda: medium.read_into(4096, memoryview(bytearray(8192))),
        lambda: medium.equal(65536, b"x"),
        lambda: medium.read_rows(np.array([100]), 4096, np.zeros(4096, np.uint8)),
        medium.flush,
    ):
        with pytest.raises(MediaError, match=f"truncated while it was open: 8192 bytes are left of {SIZE}"):
            operation()
    medium.close()


def test_failed_sync_fails_the_medium_for_good(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    medium = ImageMedia(path, SIZE)

    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(image_module.os, "fdatasync", fail)
        with pytest.raises(MediaError, match="could not be made durable"):
            medium.flush()
    with pytest.raises(MediaError, match="failed for good"):
        medium.flush()
    medium.close()


def test_flush_and_fua_ask_the_system_for_durability(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    real_sync, real_write = os.fdatasync, os.pwritev
    monkeypatch.setattr(image_module.os, "fdatasync", lambda fd: (calls.append("sync"), real_sync(fd)))

    def pwritev(fd: int, buffers: list[bytes], offset: int, flags: int) -> int:
        calls.append(f"write flags {flags}")
        return real_write(fd, buffers, offset, flags)

    medium = ImageMedia(path, 4 << 20)
    monkeypatch.setattr(image_module.os, "pwritev", pwritev)

    medium.write(0, b"x")
    medium.write(0, b"x", fua=True)
    medium.flush()
    medium.write_rows(np.array([1, 2]), 512, np.zeros(1024, np.uint8), fua=True)
    medium.zero(0, 512, fua=True)
    medium.zero(0, 2 << 20, fua=True)

    dsync = f"write flags {os.RWF_DSYNC}"
    plain = "write flags 0"
    assert calls == [plain, dsync, "sync", plain, plain, "sync", dsync, plain, dsync, "sync"]
    medium.close()


def test_short_writes_and_reads_are_continued(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    medium = ImageMedia(path, SIZE)
    real_write, real_read = os.pwritev, os.preadv
    monkeypatch.setattr(
        image_module.os,
        "pwritev",
        lambda fd, buffers, offset, flags: real_write(fd, [memoryview(buffers[0])[:1000]], offset, flags),
    )
    monkeypatch.setattr(
        image_module.os, "preadv", lambda fd, buffers, offset: real_read(fd, [buffers[0][:700]], offset)
    )
    data = bytes(range(256)) * 16

    medium.write(100, data)

    assert medium.equal(100, data) == -1
    medium.close()


def test_discard_without_hole_punching_writes_zeroes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    medium = ImageMedia(path, SIZE)
    medium.write(0, b"x" * SIZE)

    class NoHoles:
        def madvise(self, *_: int) -> None:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")

        def close(self) -> None:
            mapping.close()

    mapping = medium._mapping
    monkeypatch.setattr(medium, "_mapping", NoHoles())
    medium.discard(100, 20000)

    assert medium.equal(0, b"x" * 100 + bytes(20000) + b"x" * 100) == -1
    medium.close()


@pytest.mark.parametrize(("number", "fails_for_good"), [(errno.EIO, True), (errno.EFBIG, False)])
@pytest.mark.parametrize("durable", ["state", "fua"])
def test_failed_sync_of_state_or_fua_fails_the_next_flush_too(
    path: Path, monkeypatch: pytest.MonkeyPatch, durable: str, number: int, fails_for_good: bool
) -> None:
    """The kernel tells of a lost page once, to whoever syncs first: it may have been another one's."""
    medium = ImageMedia(path, SIZE)

    def fail(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(image_module.os, "pwritev", fail)
        with pytest.raises(MediaError, match="failed"):
            medium.store_state(b"x") if durable == "state" else medium.write(0, b"x", fua=True)
    if fails_for_good:
        for operation in (medium.flush, lambda: medium.write(0, b"x", fua=True), lambda: medium.store_state(b"x")):
            with pytest.raises(MediaError, match="failed for good"):
                operation()
    else:
        medium.flush()
    medium.close()


@pytest.mark.parametrize("in_sync", [True, False])
def test_disk_that_is_full_while_syncing_is_told_from_one_that_is_full_while_writing(
    path: Path, monkeypatch: pytest.MonkeyPatch, in_sync: bool
) -> None:
    medium = ImageMedia(path, SIZE)
    real = os.pwritev

    def full(fd: int, buffers: list[bytes], offset: int, flags: int) -> int:
        if flags or not in_sync:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, buffers, offset, flags)

    with monkeypatch.context() as patch:
        patch.setattr(image_module.os, "pwritev", full)
        with pytest.raises(MediaError, match="writing failed"):
            medium.write(0, b"x" * 512, fua=True)
    if in_sync:
        with pytest.raises(MediaError, match="failed for good"):
            medium.flush()
    else:
        medium.flush()
    medium.close()
