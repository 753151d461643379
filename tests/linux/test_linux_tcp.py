"""Linux's nvme-tcp as the host: connecting, data under digests and load, resets, and a server that comes back."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from linux_guest_lib.guest import HOST_ADDRESS
from linuxchurn import churn
from linuxguest import NQN, OverTcp, over_tcp

from nvme_emu.core.dhchap import Secret
from nvme_emu.spec.dhchap import DhHash

OTHER_HOST = "nqn.2024-01.org.example:other-host"
OTHER_ID = "6e766d65-2d65-4d75-8000-0000000000ff"
pytestmark = pytest.mark.usefixtures("buildable")


@pytest.fixture(scope="module")
def linux() -> Iterator[OverTcp]:
    # mkfs.xfs wants 300 MiB at least.
    with over_tcp("--size", "512M", "--tcp-address", HOST_ADDRESS) as one:
        yield one


@pytest.fixture
def disk(linux: OverTcp) -> Iterator[OverTcp]:
    """Connected, and disconnected afterwards."""
    linux.connect()
    yield linux
    linux.check(f"nvme disconnect -n {NQN}")


VERIFY = "--filename=/dev/nvme0n1 --direct=1 --verify=crc32c --verify_fatal=1 --do_verify=1 --output-format=json"


def fio(linux: OverTcp, options: str, seconds: float = 150) -> None:
    out = linux.check(f"fio --name=job {VERIFY} {options}", seconds=seconds)
    (job,) = json.loads(out[out.index("{") :])["jobs"]
    assert job["error"] == 0
    assert job["write"]["io_bytes"] > 0


def test_discovery_finds_the_subsystem_and_connect_brings_its_disk(disk: OverTcp) -> None:
    port = disk.server.ports[0]
    log = json.loads(disk.check(f"nvme discover -t tcp -a {HOST_ADDRESS} -s {port} -o json"))
    (record,) = log["records"]
    listed = disk.check("nvme list-subsys")

    assert (record["subnqn"], record["trtype"], record["trsvcid"]) == (NQN, "tcp", str(port))
    # Not the address that the server sees the guest come to.
    assert record["traddr"] == HOST_ADDRESS
    assert NQN in listed
    assert "live" in listed
    assert int(disk.check("blockdev --getsize64 /dev/nvme0n1")) == 512 << 20


def test_connect_all_follows_the_discovery_log(linux: OverTcp) -> None:
    # The discovery controller is nvme0 at that time, so the disk is another one's.
    linux.check(f"nvme connect-all -t tcp -a {HOST_ADDRESS} -s {linux.server.ports[0]}")
    linux.check("for n in $(seq 100); do [ -b /dev/nvme?n1 ] && exit 0; sleep 0.1; done; exit 1")
    linux.check(f"dd if=$(echo /dev/nvme?n1) of=/dev/null bs=64k count=4 iflag=direct; nvme disconnect -n {NQN}")


def wait_for_blocks(disk: OverTcp, lba_size: int) -> None:
    is_it = f"grep -qx {lba_size} /sys/block/nvme0n1/queue/logical_block_size"
    disk.check(f"for n in $(seq 60); do {is_it} && exit 0; sleep 0.5; done; exit 1")


def test_disk_is_formatted_reserved_and_sanitized_over_tcp(disk: OverTcp) -> None:
    disk.check("nvme format /dev/nvme0n1 --lbaf=1 --force")
    wait_for_blocks(disk, 4096)
    disk.check("nvme resv-register /dev/nvme0n1 --nrkey=0x22 --rrega=0")
    disk.check("nvme resv-acquire /dev/nvme0n1 --crkey=0x22 --rtype=2 --racqa=0")
    assert json.loads(disk.check("nvme resv-report /dev/nvme0n1 --eds -o json"))["rtype"] == 2
    disk.check("nvme resv-release /dev/nvme0n1 --crkey=0x22 --rtype=2 --rrela=0")
    disk.check("nvme resv-register /dev/nvme0n1 --crkey=0x22 --rrega=1")
    disk.check("nvme sanitize /dev/nvme0 --sanact=4")
    done = "nvme sanitize-log /dev/nvme0 | grep -q 'SPROG.*65535'"
    disk.check(f"for n in $(seq 60); do {done} && exit 0; sleep 0.5; done; exit 1")
    disk.check("nvme format /dev/nvme0n1 --lbaf=0 --force")
    wait_for_blocks(disk, 512)


def test_kernel_connects_without_a_complaint(linux: OverTcp) -> None:
    linux.new_kernel_lines()
    linux.connect()
    linux.check(f"nvme disconnect -n {NQN}")

    lines = linux.new_kernel_lines()

    allowed = ("creating", "mapped", "new ctrl", "Removing ctrl", "queue_size", "new ctrl")
    assert [line for line in lines if "nvme" in line and not any(one in line for one in allowed)] == []


def test_show_regs_reads_the_properties(disk: OverTcp) -> None:
    lines = disk.check("nvme show-regs /dev/nvme0").replace(" ", "").splitlines()
    registers = dict(line.split(":", 1) for line in lines if ":" in line)

    assert int(registers["version"], 16) == 0x0002_0100
    assert int(registers["csts"], 16) & 1 == 1


@pytest.mark.parametrize("digests", ["", "--hdr-digest", "--data-digest", "--hdr-digest --data-digest"])
def test_written_data_is_read_with_every_digest(linux: OverTcp, digests: str) -> None:
    linux.connect(digests)
    try:
        fio(linux, "--rw=randwrite --bsrange=512-128k --blockalign=512 --size=16M --iodepth=8 --ioengine=libaio")
    finally:
        linux.check(f"nvme disconnect -n {NQN}")


@pytest.mark.parametrize(
    ("block", "depth", "engine"),
    [
        ("512", 1, "psync"),
        ("512", 32, "io_uring"),
        ("4k", 128, "libaio"),
        ("4k", 32, "io_uring"),
        ("4k", 128, "io_uring"),
        ("64k", 16, "io_uring"),
        ("1M", 8, "libaio"),
        ("1M", 8, "io_uring"),
    ],
)
def test_fio_verifies_what_it_wrote(disk: OverTcp, block: str, depth: int, engine: str) -> None:
    size = "512k" if block == "512" else "32M"
    fio(disk, f"--rw=randwrite --bs={block} --size={size} --iodepth={depth} --ioengine={engine}")


@pytest.mark.parametrize(("block", "depth"), [("512", 32), ("64k", 8), ("1M", 4)])
def test_fio_trims_what_it_wrote_and_it_reads_as_zeroes(disk: OverTcp, block: str, depth: int) -> None:
    size = "512k" if block == "512" else "32M"
    job = f"fio --name=job --filename=/dev/nvme0n1 --direct=1 --ioengine=io_uring --bs={block} --size={size}"
    before = disk.discards()

    disk.check(
        f"""
        for pattern in write randtrim; do
            {job} --iodepth={depth} --rw=$pattern >/tmp/fio.log 2>&1 || {{ cat /tmp/fio.log; exit 1; }}
        done
        echo 3 >/proc/sys/vm/drop_caches
        cmp -n $(numfmt --from=iec {size.upper()}) /dev/nvme0n1 /dev/zero
        {job} --iodepth={depth} --rw=randtrimwrite >/tmp/fio.log 2>&1 || {{ cat /tmp/fio.log; exit 1; }}
        """
    )

    assert disk.discards() > before


def test_discard_and_zeroing_of_the_whole_disk(disk: OverTcp) -> None:
    disk.check(
        """
        for how in '' -z; do
            for at in 0 300; do
                head -c 1M /dev/urandom | dd of=/dev/nvme0n1 bs=64k seek=${at}M oflag=seek_bytes,direct status=none
            done
            blkdiscard -f $how /dev/nvme0n1
            echo 3 >/proc/sys/vm/drop_caches
            for at in 0 300; do
                dd if=/dev/nvme0n1 bs=1M count=1 skip=$at status=none | cmp -n 1048576 - /dev/zero
            done
        done
        """
    )


def test_xfs_keeps_a_tree_and_trims_its_free_space(linux: OverTcp) -> None:
    """Written, trimmed, taken apart over one connection; checked and compared over another."""
    linux.connect()
    before = linux.discards()
    linux.check(
        "wipefs -aq /dev/nvme0n1; mkfs.xfs -q -f -K /dev/nvme0n1; mount /dev/nvme0n1 /mnt"
        "; cp -r /usr/sbin /mnt/; sync; rm -r /mnt/sbin; cp -r /usr/sbin /mnt/; fstrim /mnt; umount /mnt"
        "; xfs_repair -n /dev/nvme0n1 2>&1"
    )
    assert linux.discards() > before
    linux.check(f"nvme disconnect -n {NQN}")
    linux.connect("--hdr-digest", "--data-digest")
    out = linux.check(
        "xfs_repair -n /dev/nvme0n1 2>&1; mount /dev/nvme0n1 /mnt"
        "; diff -r --no-dereference /usr/sbin /mnt/sbin; umount /mnt"
        f"; nvme disconnect -n {NQN} >/dev/null; echo same"
    )

    assert out.endswith("same\n")


def test_file_system_survives_disconnect_and_connect(linux: OverTcp) -> None:
    linux.connect()
    linux.check("mkfs.ext4 -q -F /dev/nvme0n1 && mount /dev/nvme0n1 /mnt && cp -r /usr/sbin /mnt/ && umount /mnt")
    linux.check(f"nvme disconnect -n {NQN}")
    linux.connect("--data-digest", "--nr-io-queues=1", "--queue-size=16")
    out = linux.check(
        "fsck.ext4 -f -n /dev/nvme0n1 && mount /dev/nvme0n1 /mnt"
        " && diff -r --no-dereference /usr/sbin /mnt/sbin && umount /mnt"
        f" && nvme disconnect -n {NQN} && echo same",
        seconds=120,
    )

    assert out.endswith("same\n")


def test_commands_of_nvme_cli_reach_the_device(disk: OverTcp) -> None:
    disk.check(
        "head -c 4096 /dev/urandom >/tmp/in; nvme write /dev/nvme0n1 -s 8 -c 7 -z 4096 -d /tmp/in;"
        "nvme read /dev/nvme0n1 -s 8 -c 7 -z 4096 -d /tmp/out; cmp /tmp/in /tmp/out;"
        "nvme compare /dev/nvme0n1 -s 8 -c 7 -z 4096 -d /tmp/in; nvme flush /dev/nvme0n1 -n 1;"
        "nvme write-zeroes /dev/nvme0n1 -s 8 -c 3; nvme dsm /dev/nvme0n1 -d -s 0 -b 8;"
        "nvme smart-log /dev/nvme0; nvme error-log /dev/nvme0 -e 2; nvme fw-log /dev/nvme0;"
        "nvme effects-log /dev/nvme0 -c 0;"
        "nvme get-feature /dev/nvme0 -f 0xf; nvme list-ns /dev/nvme0; nvme ns-descs /dev/nvme0n1"
    )
    bad = disk.run("nvme read /dev/nvme0n1 -s 99999999 -c 0 -z 512 -d /tmp/out 2>&1")

    assert bad.status != 0
    assert "LBA Out of Range" in bad.output
    assert disk.run("nvme compare /dev/nvme0n1 -s 8 -c 7 -z 4096 -d /tmp/in").status != 0


def test_second_namespace_comes_and_goes_while_the_first_is_verified(disk: OverTcp) -> None:
    out = disk.check(churn((512 << 20) // 512))

    assert int(out.splitlines()[-1]) >= 1


def test_reset_under_load_loses_nothing(disk: OverTcp) -> None:
    out = disk.check(
        f"fio --name=job {VERIFY} --rw=randwrite --bs=4k --size=8M --iodepth=8 --ioengine=libaio >/tmp/fio.json &\n"
        "for n in 1 2 3; do sleep 0.7; nvme reset /dev/nvme0; done\nwait %1\ncat /tmp/fio.json",
        seconds=150,
    )
    (job,) = json.loads(out[out.index("{") :])["jobs"]

    assert job["error"] == 0


def test_second_host_is_a_second_path_to_the_same_namespace(disk: OverTcp) -> None:
    """Linux knows a subsystem by its name: two controllers of it are paths of one multipath disk."""
    where = f"-t tcp -a {HOST_ADDRESS} -s {disk.server.ports[0]} -n {NQN}"
    disk.check("head -c 65536 /dev/urandom >/tmp/in; dd if=/tmp/in of=/dev/nvme0n1 bs=64k oflag=direct")
    disk.check(f"nvme connect {where} --hostnqn {OTHER_HOST} --hostid {OTHER_ID}")
    disk.check("for n in $(seq 100); do [ $(nvme list-subsys | grep -c live) = 2 ] && exit 0; sleep 0.1; done; exit 1")

    disk.check("nvme disconnect -d nvme0; dd if=/dev/nvme0n1 of=/tmp/out bs=64k count=1 iflag=direct")
    disk.check("cmp /tmp/in /tmp/out")


def test_server_that_is_killed_and_comes_back_is_reconnected_with_its_data(tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    with over_tcp("--size", "64M", "--image", str(image)) as linux:
        linux.connect("--reconnect-delay=1", "--keep-alive-tmo=2")
        linux.check("head -c 1M /dev/urandom >/tmp/in; dd if=/tmp/in of=/dev/nvme0n1 bs=64k oflag=direct conv=fsync")

        linux.server.stop(signal.SIGKILL)
        linux.server.start()

        linux.check(
            "dd if=/dev/nvme0n1 of=/tmp/out bs=64k count=16 iflag=direct; cmp /tmp/in /tmp/out", seconds=90
        )
        fio(linux, "--rw=randwrite --bs=4k --size=2M --iodepth=4 --ioengine=libaio")
        linux.check(f"nvme disconnect -n {NQN}")


def test_host_that_is_not_allowed_cannot_connect() -> None:
    with over_tcp("--size", "16M", "--allow-host", OTHER_HOST) as linux:
        where = f"-t tcp -a {HOST_ADDRESS} -s {linux.server.ports[0]} -n {NQN}"
        refused = linux.run(f"nvme connect {where} 2>&1; dmesg | tail -3")
        found = linux.check(f"nvme discover -t tcp -a {HOST_ADDRESS} -s {linux.server.ports[0]}")

        linux.check(f"nvme connect {where} --hostnqn {OTHER_HOST} --hostid {OTHER_ID}; nvme disconnect -n {NQN}")

    assert "host" in refused.output
    assert NQN not in found


def test_linux_and_the_target_authenticate_each_other() -> None:
    """With the kernel's own choice (no Diffie-Hellman), and with a group and a hash that we insist on."""
    kinds = [
        (Secret(bytes(range(32))), []),
        (Secret(bytes(range(48)), DhHash.SHA384), ["--dhchap-dhgroup=ffdhe3072", "--dhchap-hash=hmac(sha512)"]),
    ]
    ctrl_secret = Secret(bytes(range(64, 128)), DhHash.SHA512)
    for host_secret, insisted in kinds:
        options = ["--dhchap-secret", str(host_secret), "--dhchap-ctrl-secret", str(ctrl_secret), *insisted]
        with over_tcp("--size", "16M", *options) as linux:
            where = f"-t tcp -a {HOST_ADDRESS} -s {linux.server.ports[0]} -n {NQN}"
            keys = f"--dhchap-secret '{host_secret}'"
            assert linux.run(f"nvme connect {where}").status != 0
            assert linux.run(f"nvme connect {where} --dhchap-secret '{Secret(bytes(32))}'").status != 0
            assert linux.run(f"nvme connect {where} {keys} --dhchap-ctrl-secret '{host_secret}'").status != 0

            for more in ("", f" --dhchap-ctrl-secret '{ctrl_secret}'"):
                linux.connect(keys + more)
                linux.check(
                    "head -c 64k /dev/urandom >/tmp/in; dd if=/tmp/in of=/dev/nvme0n1 bs=4k oflag=direct"
                    " && dd if=/dev/nvme0n1 of=/tmp/out bs=64k count=1 iflag=direct && cmp /tmp/in /tmp/out"
                )
                linux.check(f"nvme disconnect -n {NQN}")
