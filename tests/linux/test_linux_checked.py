"""Linux's own driver under the checker: fio, a file system, resets, unbinding, removal."""

from __future__ import annotations

from typing import Any

from linux_guest_lib.guest import HOST_ADDRESS
from linuxguest import NQN, attached, over_tcp

KNOWN = {
    # Buffered writes: Linux may change a page of the page cache while it is written back, and writes it again.
    "buffer-changed",
    # An I/O completion queue is cleared between its creation and its first command, not before its creation.
    "cq-phase-init",
    # The firmware that boots the guest asks for no number of queues.
    "queues-unasked",
}


def findings(summary: dict[str, Any]) -> list[str]:
    """What was found and is not known, in words."""
    (report,) = summary["checkers"]
    assert report["internal_error"] is None
    return [f"{one['rule']}: {one['what']}" for one in report["findings"] if one["rule"] not in KNOWN]


def test_linux_keeps_every_rule(buildable: None) -> None:
    options = ("--size", "256M", "--doorbells", "trapped", "--check=warn")
    with attached(*options) as ssd:
        fio = "fio --name=a --filename=/dev/nvme0n1 --direct=1 --ioengine=libaio"
        ssd.check(f"{fio} --rw=randrw --bs=4k --iodepth=32 --size=4m >/tmp/fio.log 2>&1", seconds=90)
        ssd.check(f"{fio} --rw=randwrite --bs=1m --iodepth=4 --size=32m >>/tmp/fio.log 2>&1", seconds=90)
        ssd.check(
            """
            mkfs.ext4 -q /dev/nvme0n1
            mkdir -p /tmp/m
            mount /dev/nvme0n1 /tmp/m
            head -c 8M /dev/urandom >/tmp/m/a
            cp /tmp/m/a /tmp/m/b
            sync
            rm /tmp/m/a
            fstrim /tmp/m
            umount /tmp/m
            nvme reset /dev/nvme0
            sleep 1
            dd if=/dev/nvme0n1 of=/dev/null bs=1M count=8 iflag=direct status=none
            """,
            seconds=120,
        )
        ssd.check(
            """
            slot=$(basename $(readlink -f /sys/class/nvme/nvme0/device))
            echo $slot >/sys/bus/pci/drivers/nvme/unbind
            echo $slot >/sys/bus/pci/drivers/nvme/bind
            sleep 1
            dd if=/dev/nvme0n1 of=/dev/null bs=1M count=8 iflag=direct status=none
            echo 1 >/sys/bus/pci/devices/$slot/remove
            """,
            seconds=90,
        )
    found = findings(ssd.server.summary)
    assert not found, "\n".join(found)


def test_linux_keeps_every_rule_over_tcp(buildable: None) -> None:
    with over_tcp("--size", "256M", "--check=warn", "--tcp-address", HOST_ADDRESS) as ssd:
        ssd.check(f"nvme discover -t tcp -a {HOST_ADDRESS} -s {ssd.server.ports[0]}")
        fio = "fio --name=a --filename=/dev/nvme0n1 --direct=1 --ioengine=libaio"
        for options in ("", "--hdr-digest --data-digest --nr-io-queues=2 --queue-size=16"):
            ssd.connect(options)
            ssd.check(f"{fio} --rw=randrw --bs=4k --iodepth=32 --size=4m >/tmp/fio.log 2>&1", seconds=90)
            ssd.check(f"{fio} --rw=randwrite --bs=1m --iodepth=4 --size=16m >>/tmp/fio.log 2>&1", seconds=90)
            ssd.check(
                """
                mkfs.ext4 -q /dev/nvme0n1
                mount /dev/nvme0n1 /mnt
                head -c 8M /dev/urandom >/mnt/a
                sync
                rm /mnt/a
                fstrim /mnt
                umount /mnt
                nvme reset /dev/nvme0
                sleep 1
                dd if=/dev/nvme0n1 of=/dev/null bs=1M count=8 iflag=direct status=none
                nvme id-ctrl /dev/nvme0 >/dev/null
                nvme smart-log /dev/nvme0 >/dev/null
                nvme write-zeroes /dev/nvme0n1 -s 0 -c 7
                nvme resv-register /dev/nvme0n1 --nrkey=0x22 --rrega=0
                nvme resv-acquire /dev/nvme0n1 --crkey=0x22 --rtype=2 --racqa=0
                nvme resv-release /dev/nvme0n1 --crkey=0x22 --rtype=2 --rrela=0
                nvme resv-register /dev/nvme0n1 --crkey=0x22 --rrega=1
                nvme format /dev/nvme0n1 --lbaf=0 --force
                """,
                seconds=120,
            )
            ssd.check(f"nvme disconnect -n {NQN}")
    found = findings(ssd.server.summary)
    assert not found, "\n".join(found)
