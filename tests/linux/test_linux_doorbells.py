"""How Linux rings and is told: INTx where it is to use no messages, and doorbells in its own memory."""

from __future__ import annotations

import pytest
from linuxguest import attached

VERIFY = (
    "fio --name=job --filename=/dev/nvme0n1 --direct=1 --verify=crc32c --verify_fatal=1 --do_verify=1 --randseed=7 "
    "--rw=randwrite --bs=4k --size=8M --ioengine=libaio --iodepth={depth} --output-format=terse >/dev/null"
)


@pytest.mark.parametrize("depth", [1, 32])
def test_linux_without_message_signalled_interrupts_is_told_by_the_pin(buildable: None, depth: int) -> None:
    """Every doorbell is a message here: QEMU lowers the pin's line only when the function is looked at."""
    with attached("--size", "64M", "--doorbells", "trapped", kernel="pci=nomsi") as ssd:
        assert "IO-APIC" in ssd.check("grep nvme0q0 /proc/interrupts")
        ssd.check(VERIFY.format(depth=depth), seconds=120)
        ssd.check("nvme reset /dev/nvme0")
        ssd.check(VERIFY.format(depth=depth), seconds=120)


def test_linux_leaves_its_doorbells_in_memory_where_that_is_offered(buildable: None) -> None:
    rung = {}
    for offered in ("--no-shadow-doorbells", "--shadow-doorbells"):
        with attached("--size", "64M", "--doorbells", "trapped", offered, processors=1) as ssd:
            ssd.check(VERIFY.format(depth=32), seconds=120)
            ssd.check("nvme reset /dev/nvme0")  # the buffers are to be told again
            ssd.check(VERIFY.format(depth=32), seconds=120)
        (device,) = ssd.server.summary["devices"]
        rung[offered] = device["doorbells"]

    assert rung["--shadow-doorbells"] < rung["--no-shadow-doorbells"] / 2
