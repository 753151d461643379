"""Linux's block integrity layer and nvme-cli on namespaces with metadata and protection information, over PCI."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
from linuxguest import Attached, attached

SIZE = 64 << 20
DISK = "/dev/nvme0n1"
SYSFS = "/sys/block/nvme0n1"


@pytest.fixture(scope="module")
def ssd(buildable: None) -> Iterator[Attached]:
    with attached("--size", str(SIZE), "--metadata", "ms=8,pi=1", "--doorbells", "mmap") as one:
        one.check("head -c 1M /dev/urandom > /tmp/x")
        yield one


def format_nvm(ssd: Attached, lbaf: int, pi: int, sectors: int, *, ms: int = 0, pil: int = 0) -> None:
    """Format, and wait until the driver has seen it."""
    ssd.check(f"nvme format {DISK} --lbaf={lbaf} --pi={pi} --pil={pil} --ms={ms} --force")
    ssd.check(f"for i in $(seq 60); do [ $(cat {SYSFS}/size) = {sectors} ] && exit 0; sleep 0.5; done; exit 1")


def integrity(ssd: Attached) -> list[str]:
    """What the kernel says of the block device's protection."""
    names = ("format", "tag_size", "protection_interval_bytes", "device_is_integrity_capable")
    return ssd.check(f"cd {SYSFS}/integrity && cat {' '.join(names)}").split()


def check_data(ssd: Attached) -> None:
    """A MiB is written and read again."""
    ssd.check(f"dd if=/tmp/x of={DISK} bs=64k oflag=direct 2>&1")
    ssd.check(f"dd if={DISK} bs=64k count=16 iflag=direct 2>/dev/null | cmp - /tmp/x")


def test_integrity_layer_generates_and_verifies(ssd: Attached) -> None:
    assert integrity(ssd) == ["T10-DIF-TYPE1-CRC", "2", "512", "1"]
    assert int(ssd.check(f"cat {SYSFS}/size")) == SIZE // 520
    check_data(ssd)
    fio = f"fio --name=v --filename={DISK} --offset=4M --size=4M --rw=randwrite --bs=4k --direct=1 --verify=crc32c"
    assert "err= 0" in ssd.check(f"{fio} --iodepth=8 --ioengine=libaio")
    ssd.check(f"blkdiscard -z -o 0 -l 65536 {DISK} && dd if={DISK} bs=64k count=1 iflag=direct of=/tmp/z 2>&1")
    ssd.check("cmp -n 65536 /tmp/z /dev/zero")


def test_nvme_cli_reads_and_writes_metadata(ssd: Attached) -> None:
    check_data(ssd)
    blocks = "--block-count=0 --data-size=512 --metadata-size=8"

    ssd.check(
        f"nvme read {DISK} --start-block=5 {blocks} --metadata=/tmp/m --data=/tmp/d"
        " --prinfo=7 --ref-tag=5 --app-tag=0 --app-tag-mask=0xffff"
    )

    found = bytes.fromhex(ssd.check("od -An -v -tx1 /tmp/m").replace(" ", ""))
    assert struct.unpack(">HHI", found)[1:] == (0, 5)
    ssd.check("dd if=/tmp/x bs=512 skip=5 count=1 2>/dev/null | cmp - /tmp/d")
    wrong = f"nvme read {DISK} --start-block=5 {blocks} --metadata=/tmp/m --data=/tmp/d --prinfo=1 --ref-tag=6"
    assert ssd.run(wrong).status != 0
    # Metadata that is not of this data is stored unless a check is asked for; then Linux cannot read the block.
    ssd.check(f"nvme write {DISK} --start-block=6 {blocks} --metadata=/tmp/m --data=/tmp/x")
    ssd.check(f"blockdev --flushbufs {DISK}")
    assert ssd.run(f"dd if={DISK} of=/dev/null bs=512 skip=6 count=1 iflag=direct").status != 0
    assert "protection error" in ssd.check("dmesg --notime | tail -3")
    assert ssd.run(f"nvme verify {DISK} --start-block=6 --block-count=0 --prinfo=4").status != 0


@pytest.mark.parametrize(
    ("lbaf", "pi", "pil", "row", "expected"),
    [(3, 3, 1, 4104, ["T10-DIF-TYPE3-CRC", "6", "4096", "1"]), (4, 2, 0, 528, ["T10-DIF-TYPE1-CRC", "2", "512", "1"])],
)
def test_other_formats_are_protected_too(
    ssd: Attached, lbaf: int, pi: int, pil: int, row: int, expected: list[str]
) -> None:
    blocks = SIZE // row
    format_nvm(ssd, lbaf, pi, blocks * (8 if lbaf == 3 else 1), pil=pil)

    assert integrity(ssd) == expected
    check_data(ssd)


def test_extended_blocks_are_inserted_and_stripped_or_have_no_capacity(ssd: Attached) -> None:
    format_nvm(ssd, 2, 1, SIZE // 520, ms=1)
    check_data(ssd)

    format_nvm(ssd, 4, 0, 0, ms=1)
