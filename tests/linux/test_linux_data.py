"""Data through the real Linux: fio, file systems, discard, several devices, DMA by messages, a killed server."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from linux_guest_lib.guest import Guest, vfio_user_device
from linux_guest_lib.server import Server
from linuxguest import Attached, attached

FIO = "fio --name=job --filename=/dev/nvme0n1 --direct=1 --verify_fatal=1 --randseed=7"


@pytest.fixture(scope="module")
def ssd(buildable: None) -> Iterator[Attached]:
    with attached("--size", "512M", "--doorbells", "mmap") as one:
        yield one


@pytest.fixture(scope="module")
def messages(buildable: None) -> Iterator[Attached]:
    """Two devices, every doorbell a message, and all memory reached by messages."""
    with attached("--size", "256M", "--doorbells", "trapped", devices=2, shared_memory=False) as one:
        yield one


def fio(ssd: Attached, options: str, *, seconds: float = 90) -> None:
    """A job that must end without an error; its output is in the assertion."""
    ssd.check(f"{FIO} {options} >/tmp/fio.log 2>&1 || {{ cat /tmp/fio.log; exit 1; }}", seconds=seconds)


# -- fio ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["libaio", "io_uring"])
@pytest.mark.parametrize("pattern", ["randwrite", "write"])
@pytest.mark.parametrize(
    ("bs", "depth", "size"),
    [("512", 32, "1m"), ("4k", 1, "2m"), ("4k", 128, "16m"), ("64k", 16, "32m"), ("1m", 8, "64m")],
)
def test_fio_verifies_what_it_wrote(ssd: Attached, engine: str, pattern: str, bs: str, depth: int, size: str) -> None:
    fio(ssd, f"--rw={pattern} --bs={bs} --iodepth={depth} --size={size} --ioengine={engine} --verify=crc32c")


def test_fio_with_unaligned_buffers_and_mixed_sizes(ssd: Attached) -> None:
    fio(
        ssd,
        "--rw=randwrite --bsrange=512-256k --bs_unaligned=0 --blockalign=512 --iodepth=16 --size=32m "
        "--ioengine=libaio --verify=crc32c --iomem_align=512",
    )


def test_fio_with_many_jobs_on_both_queues(ssd: Attached) -> None:
    fio(
        ssd,
        "--rw=randwrite --bs=4k --iodepth=32 --size=8m --offset_increment=8m --numjobs=4 --ioengine=libaio "
        "--verify=crc32c",
    )


def test_fio_trims_and_reads_and_writes_at_once(ssd: Attached) -> None:
    fio(ssd, "--rw=randtrimwrite --bs=16k --iodepth=8 --size=16m --ioengine=libaio --time_based --runtime=2")
    fio(ssd, "--rw=randrw --bs=4k --iodepth=16 --size=16m --ioengine=io_uring --time_based --runtime=2")


def test_buffered_writes_survive_dropping_the_cache(ssd: Attached) -> None:
    ssd.check(
        """
        head -c 24M /dev/urandom >/tmp/a
        dd if=/tmp/a of=/dev/nvme0n1 bs=1M conv=fsync status=none
        echo 3 >/proc/sys/vm/drop_caches
        cmp -n 25165824 /tmp/a /dev/nvme0n1
        """
    )


def test_discard_and_zeroing_of_a_whole_device(ssd: Attached) -> None:
    ssd.check(
        """
        head -c 1M /dev/urandom | dd of=/dev/nvme0n1 oflag=direct bs=64k status=none
        blkdiscard -f /dev/nvme0n1
        cmp -n 1048576 /dev/nvme0n1 /dev/zero
        head -c 1M /dev/urandom | dd of=/dev/nvme0n1 oflag=direct bs=64k status=none
        blkdiscard -f -z /dev/nvme0n1
        echo 3 >/proc/sys/vm/drop_caches
        cmp -n 1048576 /dev/nvme0n1 /dev/zero
        """
    )


# -- file systems -------------------------------------------------------------------------------------------

TREE = """
make_tree() {
    mkdir -p $1/a/b/c
    for n in $(seq 40); do head -c $((n * 3001)) /dev/urandom >$1/a/file$n; done
    cp -r /usr/share/bash-completion /usr/share/misc $1/a/b 2>/dev/null || cp -r /etc $1/a/b
    ln -s ../file1 $1/a/b/link; ln $1/a/file2 $1/a/b/c/hard; rm $1/a/file3
    (cd $1/a && find . -type f -exec md5sum {} + | sort) >/tmp/sums
}
same_tree() { (cd $1/a && find . -type f -exec md5sum {} + | sort) | cmp - /tmp/sums; }
"""


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_file_system_keeps_a_tree(ssd: Attached, kind: str) -> None:
    force, fsck = ("-F", "e2fsck -fn") if kind == "ext4" else ("-f", "xfs_repair -n")
    ssd.check(
        f"""{TREE}
        wipefs -aq /dev/nvme0n1
        echo 'label: gpt
        size=400M' | sfdisk -q /dev/nvme0n1
        for i in $(seq 50); do [ -b /dev/nvme0n1p1 ] && break; sleep 0.1; done
        mkfs.{kind} -q {force} /dev/nvme0n1p1
        mkdir -p /mnt/ssd
        mount -o discard /dev/nvme0n1p1 /mnt/ssd
        make_tree /mnt/ssd
        fstrim /mnt/ssd
        umount /mnt/ssd
        {fsck} /dev/nvme0n1p1 >/tmp/fsck.log 2>&1 || {{ cat /tmp/fsck.log; exit 1; }}
        nvme reset /dev/nvme0
        mount /dev/nvme0n1p1 /mnt/ssd
        same_tree /mnt/ssd
        umount /mnt/ssd
        """,
        seconds=120,
    )


def test_file_system_in_use_survives_resets(ssd: Attached) -> None:
    ssd.check(
        f"""{TREE}
        mkfs.ext4 -q -F /dev/nvme0n1
        mkdir -p /mnt/ssd; mount /dev/nvme0n1 /mnt/ssd
        (for n in 1 2 3 4; do sleep 0.3; nvme reset /dev/nvme0; done) &
        make_tree /mnt/ssd
        wait
        umount /mnt/ssd
        e2fsck -fn /dev/nvme0n1 >/tmp/fsck.log 2>&1 || {{ cat /tmp/fsck.log; exit 1; }}
        mount /dev/nvme0n1 /mnt/ssd; same_tree /mnt/ssd; umount /mnt/ssd
        """,
        seconds=120,
    )


def test_kernel_had_nothing_to_complain_about(ssd: Attached) -> None:
    lines = ssd.check("dmesg --notime --level=emerg,alert,crit,err | cat").splitlines()
    assert [line for line in lines if "nvme" in line or "I/O error" in line] == []


# -- without shared memory ----------------------------------------------------------------------------------


def test_two_devices_by_messages_are_two(messages: Attached) -> None:
    messages.check(
        """
        [ -b /dev/nvme0n1 ] && [ -b /dev/nvme1n1 ]
        [ "$(cat /sys/class/nvme/nvme0/serial)" != "$(cat /sys/class/nvme/nvme1/serial)" ]
        head -c 1M /dev/urandom >/tmp/a; head -c 1M /dev/urandom >/tmp/b
        dd if=/tmp/a of=/dev/nvme0n1 bs=64k oflag=direct status=none &
        dd if=/tmp/b of=/dev/nvme1n1 bs=64k oflag=direct status=none
        wait
        cmp -n 1048576 /tmp/a /dev/nvme0n1; cmp -n 1048576 /tmp/b /dev/nvme1n1
        """
    )


def test_fio_verifies_by_messages(messages: Attached) -> None:
    fio(messages, "--rw=randwrite --bs=4k --iodepth=32 --size=4m --ioengine=libaio --verify=crc32c")
    fio(messages, "--rw=write --bs=256k --iodepth=4 --size=16m --ioengine=io_uring --verify=crc32c")


def test_file_system_and_resets_by_messages(messages: Attached) -> None:
    messages.check(
        """
        mkfs.ext4 -q -F /dev/nvme1n1
        mkdir -p /mnt/ssd; mount /dev/nvme1n1 /mnt/ssd
        head -c 3M /dev/urandom >/mnt/ssd/file; md5sum /mnt/ssd/file >/tmp/sum
        nvme reset /dev/nvme1
        head -c 1M /dev/urandom >/mnt/ssd/other
        umount /mnt/ssd
        e2fsck -fn /dev/nvme1n1 >/dev/null 2>&1
        mount /dev/nvme1n1 /mnt/ssd; md5sum -c --quiet /tmp/sum; umount /mnt/ssd
        """
    )


# -- the server dies ----------------------------------------------------------------------------------------


def test_server_killed_and_started_again_has_the_data_that_was_flushed(buildable: None, tmp_path: Path) -> None:
    """QEMU's client does not connect again: Linux lets the dead function go, and the device is plugged in anew."""
    image = str(tmp_path / "ssd.img")
    options = "nvme_core.admin_timeout=3 nvme_core.io_timeout=3"
    with (
        Server("--size", "64M", "--image", image) as server,
        Guest(vfio_user_device(server.sockets[0]), kernel_options=options) as guest,
    ):
        guest.check(
            """
            for n in $(seq 64); do printf 'block %d ' $n; head -c 4000 /dev/zero | tr '\\0' x; done >/tmp/a
            dd if=/tmp/a of=/dev/nvme0n1 bs=1M conv=fsync status=none
            """
        )
        total = guest.check("md5sum </tmp/a; stat -c %s /tmp/a").split()
        server.stop(signal.SIGKILL)
        read = "timeout 30 dd if=/dev/nvme0n1 of=/dev/null bs=4k count=1 iflag=direct"
        after = guest.run(f"{read}; uname", seconds=60)
        assert "Input/output error" in after.output and after.output.rstrip().endswith("Linux")
        guest.check("echo 1 >/sys/class/nvme/nvme0/device/remove", seconds=60)
        server.start()
        where = {"type": "unix", "path": str(server.sockets[0])}
        guest.qmp("device_add", driver="vfio-user-pci", socket=where, bus="spare", id="again")
        guest.check("until [ -b /dev/nvme*n1 ]; do sleep 0.05; done", seconds=60)
        assert guest.check(f"head -c {total[2]} /dev/nvme*n1 | md5sum").split()[0] == total[0]
        guest.check(
            """
            disk=$(echo /dev/nvme*n1)
            dd if=/dev/urandom of=/tmp/b bs=1M count=4 status=none
            dd if=/tmp/b of=$disk bs=1M oflag=direct status=none
            dd if=$disk bs=1M count=4 iflag=direct status=none | cmp - /tmp/b
            """
        )
        assert not any(word in guest.console for word in ("BUG:", "Oops", "Kernel panic"))
        assert server.stop() == 0
