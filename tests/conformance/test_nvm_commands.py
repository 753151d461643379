"""The NVM command set beyond Read and Write, over every transport."""

from __future__ import annotations

import struct

import pytest
from nvmehost import SIZE, NvmeHost

from nvme_emu.spec.commands import COPY_CDW12, DSM_AD, DSM_IDR
from nvme_emu.spec.feature_data import HOST_BEHAVIOR
from nvme_emu.spec.features import Fid
from nvme_emu.spec.opcodes import NvmOpcode
from nvme_emu.spec.status import Status

READ, WRITE = NvmOpcode.READ, NvmOpcode.WRITE
BLOCKS = SIZE // 512


def block(number: int) -> bytes:
    return bytes([number & 0xFF, number >> 8]) * 256


def fill(host: NvmeHost, nsid: int = 1, blocks: int = 64) -> None:
    data = b"".join(block(number + 1000 * nsid) for number in range(blocks))
    assert host.io(WRITE, nsid, cdw12=blocks - 1, data=data).status == 0


def read(host: NvmeHost, slba: int, blocks: int = 1, nsid: int = 1) -> bytes:
    answer = host.io(READ, nsid, slba=slba, cdw12=blocks - 1, nbytes=512 * blocks)
    assert answer.status == 0
    return answer.data


def ranges(*sources: tuple[int, ...]) -> bytes:
    """Copy descriptors of format 0h, or 2h where a source names its namespace first."""
    rows = [(0, *source) if len(source) == 2 else source for source in sources]
    return b"".join(struct.pack("<I4xQH14x", nsid, slba, blocks - 1) for nsid, slba, blocks in rows)


def copy(host: NvmeHost, sdlba: int, data: bytes, *, cdfmt: int = 0, nsid: int = 1) -> int:
    cdw12 = COPY_CDW12.pack(nr_z=len(data) // 32 - 1, cdfmt=cdfmt)
    return host.io(NvmOpcode.COPY, nsid, slba=sdlba, cdw12=cdw12, data=data).status


# --- Verify and Write Uncorrectable -------------------------------------------------------------------------


def test_verify_reads_without_data(host: NvmeHost) -> None:
    fill(host)

    assert host.io(NvmOpcode.VERIFY, cdw12=63).status == 0
    assert host.io(NvmOpcode.VERIFY, slba=BLOCKS - 1).status == 0
    assert host.io(NvmOpcode.VERIFY, slba=BLOCKS - 1, cdw12=1).status == Status.LBA_RANGE


def test_write_uncorrectable_makes_blocks_unreadable_until_they_are_written(host: NvmeHost) -> None:
    fill(host)

    assert host.io(NvmOpcode.WRITE_UNCORRECTABLE, slba=8, cdw12=7).status == 0

    for opcode, fields in (
        (READ, {"nbytes": 512}),
        (NvmOpcode.VERIFY, {}),
        (NvmOpcode.COMPARE, {"data": block(1015)}),
    ):
        assert host.io(opcode, slba=15, **fields).status == Status.READ_ERROR
    assert host.io(READ, slba=7, cdw12=1, nbytes=1024).status == Status.READ_ERROR
    assert (read(host, 7), read(host, 16)) == (block(1007), block(1016))
    assert host.io(WRITE, slba=8, cdw12=3, data=block(1) * 4).status == 0
    assert read(host, 8, 4) == block(1) * 4
    assert host.io(READ, slba=12, nbytes=512).status == Status.READ_ERROR
    assert host.io(NvmOpcode.WRITE_ZEROES, slba=12, cdw12=1).status == 0
    assert host.io(NvmOpcode.DATASET_MANAGEMENT, cdw11=DSM_AD, data=struct.pack("<IIQ", 0, 2, 14)).status == 0
    assert read(host, 12, 4) == bytes(2048)
    assert host.io(NvmOpcode.WRITE_UNCORRECTABLE, slba=BLOCKS).status == Status.LBA_RANGE


# --- Copy ---------------------------------------------------------------------------------------------------


def test_copy_puts_ranges_one_after_the_other(host: NvmeHost) -> None:
    fill(host)

    assert copy(host, 100, ranges((10, 2), (40, 3), (0, 1))) == 0

    assert read(host, 100, 6) == b"".join(block(1000 + number) for number in (10, 11, 40, 41, 42, 0))
    assert read(host, 10, 2) == block(1010) + block(1011)


@pytest.mark.parametrize(
    ("sdlba", "sources", "status"),
    [
        (BLOCKS - 1, [(0, 2)], Status.LBA_RANGE),
        (100, [(BLOCKS, 1)], Status.LBA_RANGE),
        (10, [(8, 4)], Status.OVERLAPPING_IO_RANGE),
        (100, [(0, 8193)], Status.CMD_SIZE_LIMIT_EXCEEDED),
        (100, [(0, 1)] * 129, Status.CMD_SIZE_LIMIT_EXCEEDED),
    ],
)
def test_copy_that_cannot_be_changes_nothing(
    host: NvmeHost, sdlba: int, sources: list[tuple[int, int]], status: Status
) -> None:
    fill(host)

    assert copy(host, sdlba, ranges(*sources)) == status

    assert read(host, 0, 64) == b"".join(block(1000 + number) for number in range(64))
    assert read(host, 100) == bytes(512)


def test_copy_of_unreadable_blocks_fails(host: NvmeHost) -> None:
    host.io(NvmOpcode.WRITE_UNCORRECTABLE, slba=5)

    assert copy(host, 100, ranges((0, 10))) == Status.READ_ERROR


def test_copy_between_namespaces_needs_the_hosts_consent(host2: NvmeHost) -> None:
    host = host2
    fill(host, 2)
    assert copy(host, 0, ranges((2, 3, 2)), cdfmt=2) == Status.INVALID_FIELD

    assert host.set_feature(Fid.HOST_BEHAVIOR, data=HOST_BEHAVIOR.build(cdfe=4)).status == 0

    assert copy(host, 0, ranges((2, 3, 2), (1, 50, 1)), cdfmt=2) == 0
    assert read(host, 0, 3) == block(2003) + block(2004) + bytes(512)
    assert copy(host, 0, ranges((7, 3, 2)), cdfmt=2) == Status.INVALID_NS
    for cdfmt in (1, 3, 4):
        assert copy(host, 0, ranges((2, 3, 2)), cdfmt=cdfmt) == Status.INVALID_FIELD
    assert host.set_feature(Fid.HOST_BEHAVIOR, data=HOST_BEHAVIOR.build(cdfe=8)).status == Status.INVALID_FIELD


# --- Dataset Management -------------------------------------------------------------------------------------


def test_dataset_management_deallocates_and_takes_hints(host: NvmeHost) -> None:
    fill(host)
    table = struct.pack("<IIQ", 0, 2, 4) + struct.pack("<IIQ", 0x01, 0, 6) + struct.pack("<IIQ", 0, 1, 9)

    assert host.io(NvmOpcode.DATASET_MANAGEMENT, cdw10=2, cdw11=DSM_IDR, data=table).status == 0
    assert read(host, 4) == block(1004)
    assert host.io(NvmOpcode.DATASET_MANAGEMENT, cdw10=2, cdw11=DSM_AD, data=table).status == 0

    assert read(host, 4, 6) == bytes(1024) + block(1006) + block(1007) + block(1008) + bytes(512)
    beyond = struct.pack("<IIQ", 0, 2, BLOCKS - 1)
    assert host.io(NvmOpcode.DATASET_MANAGEMENT, cdw11=DSM_AD, data=beyond).status == Status.LBA_RANGE
