"""Written content and its check."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from nvme_emu.workload.pattern import READ
from nvme_emu.workload.verify import HEADER, HEADER_BYTES, Content, Verifier, VerifySpec, stamps_of
from nvme_emu.workload.writelog import WriteLog

BLOCK = 4096


def verifier(check: str = "crc32c", **more: object) -> Verifier:
    pattern = {"pattern": b"\xde\xad"} if check == "pattern" else {}
    spec = VerifySpec(check=check, seed=9, **(pattern | more))  # type: ignore[arg-type]
    return Verifier(spec, nsid=1, lba_size=512, block_bytes_max=65536)


def filled(one: Verifier, offset: int, generation: int, nbytes: int = BLOCK) -> np.ndarray:
    block = np.zeros(nbytes, dtype=np.uint8)
    one.fill(block, offset, generation)
    return block


@pytest.mark.parametrize("check", ["crc32c", "md5", "pattern"])
@pytest.mark.parametrize("interval", [0, 512])
def test_block_that_was_written_passes(check: str, interval: int) -> None:
    one = verifier(check, interval=interval)
    assert one.check(filled(one, 8192, 3), 8192, 3)
    assert one.mismatches == []


@pytest.mark.parametrize("check", ["crc32c", "md5", "pattern"])
@pytest.mark.parametrize("position", [0, 5, 60, 511, 600, 4095])
def test_one_wrong_bit_is_found_with_its_lba(check: str, position: int) -> None:
    one = verifier(check)
    block = filled(one, 8192, 3)
    good = block[position]
    block[position] ^= 0x10
    assert not one.check(block, 8192, 3)
    (mismatch,) = one.mismatches
    assert mismatch.lba == (8192 + position) // 512
    assert mismatch.byte == position % 512
    assert (mismatch.expected[0], mismatch.found[0]) == (good, good ^ 0x10)
    text = mismatch.describe()
    assert f"LBA {mismatch.lba}" in text and f"expected {good:02x}" in text


def test_lost_write_is_found_by_its_generation() -> None:
    one = verifier()
    assert not one.check(filled(one, 0, 3), 0, 4)
    assert "write 4 of this job was expected, this is write 3" in one.mismatches[0].describe()


def test_generation_of_a_shared_block_does_not_matter() -> None:
    one = verifier(own_blocks=False)
    assert one.check(filled(one, 0, 3), 0, 4)


def test_block_from_another_place_is_found() -> None:
    one = verifier()
    assert not one.check(filled(one, 4096, 3), 0, 0)
    assert "not the header" in one.mismatches[0].what


def test_block_never_written_is_found_without_knowing_the_writer() -> None:
    one = verifier()
    assert not one.check(np.zeros(BLOCK, dtype=np.uint8), 0, 0)
    assert one.mismatches[0].expected.startswith(b"NvEm")


def test_reader_checks_what_another_job_wrote() -> None:
    writer = verifier(job=3)
    reader = Verifier(VerifySpec(check="crc32c", seed=77), nsid=1, lba_size=512, block_bytes_max=BLOCK)
    block = filled(writer, 4096, 5)
    assert reader.check(block, 4096, 0)
    block[1000] ^= 1
    assert not reader.check(block, 4096, 0)
    assert reader.mismatches[0].lba == (4096 + 1000) // 512


def test_digest_is_the_plain_md5_of_header_and_data() -> None:
    block = filled(verifier("md5"), 0, 1).tobytes()
    digest = hashlib.md5(block[: HEADER.size] + block[HEADER_BYTES:], usedforsecurity=False).digest()
    assert block[HEADER.size : HEADER_BYTES] == digest


def test_mismatches_are_counted_beyond_those_kept() -> None:
    one = verifier()
    for _ in range(50):
        one.check(np.zeros(BLOCK, dtype=np.uint8), 0, 0)
    assert one.mismatch_count == 50 and len(one.mismatches) == 16


def test_content_scrambled_differs_from_write_to_write_in_every_512_bytes() -> None:
    content = Content(refill=False, scramble=True, seed=1)
    blocks = []
    for generation in (1, 2):
        block = np.zeros(BLOCK, dtype=np.uint8)
        content.prepare(block)
        content.fill(block, stamps_of(block), 16, generation)
        blocks.append(block.reshape(8, 512))
    assert all((a != b).any() for a, b in zip(*blocks, strict=True))


def test_content_kinds_are_what_they_say() -> None:
    block = np.ones(BLOCK, dtype=np.uint8)
    Content(zero=True, refill=False, scramble=True, seed=1).prepare(block)
    assert not block.any()
    pattern = Content(pattern=b"ab", refill=True, scramble=True, seed=1)
    pattern.prepare(block)
    assert block.tobytes() == b"ab" * 2048 and not pattern.fills
    random = Content(refill=True, scramble=True, seed=1)
    random.prepare(block)
    before = block.copy()
    random.fill(block, stamps_of(block), 0, 7)
    assert (block != before).mean() > 0.9


def taken(log: WriteLog) -> list[tuple[int, int, int, int]]:
    return [operation for batch in log.take() for operation in batch]


def test_log_of_equal_blocks_gives_the_last_write_of_each_in_order() -> None:
    log = WriteLog()
    for generation, slba in enumerate((16, 0, 8, 0), 1):
        log.add(slba, 8, generation)
    assert taken(log) == [(READ, 0, 8, 4), (READ, 8, 8, 3), (READ, 16, 8, 1)]
    assert len(log) == 0 and taken(log) == []


def test_log_leaves_out_what_a_later_write_covers_in_part() -> None:
    log = WriteLog()
    log.add(0, 16, 1)
    log.add(8, 16, 2)
    log.add(24, 8, 3)
    log.add(0, 4, 4)
    assert taken(log) == [(READ, 0, 4, 4), (READ, 8, 16, 2), (READ, 24, 8, 3)]
