"""What the guest boots: Debian's cloud kernel, an initramfs with one driver, and a root file system.

The cloud kernel has PCI NVMe, virtio and ext4 built in; only virtio_blk, which the root comes through, is
a module. The root is a file that several guests share: each writes to a snapshot of its own.
"""

from __future__ import annotations

import lzma
import os
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .cache import Unavailable, made_once
from .packages import SUITE, fetch, unpack
from .qemu import own_loader

__all__ = ["INIT", "Images", "cpio_entry", "find_images"]

PACKAGES = [
    *("base-files", "bash", "dash", "coreutils", "findutils", "grep", "sed", "mawk", "tar", "gzip", "diffutils"),
    *("procps", "util-linux", "mount", "fdisk", "kmod", "busybox-static", "pciutils"),
    *("nvme-cli", "fio", "e2fsprogs", "xfsprogs", "python3-minimal", "linux-image-cloud-amd64"),
]

ROOT_BYTES = 768 << 20
PACKAGES_REVISION = 2
"""Counts changes of the list of packages."""
REVISION = 3
"""Counts changes of this file that make other images."""

# Modules that tests may load, below the kernel's own directory.
_MODULES = (
    *("drivers/block/virtio_blk", "fs/xfs", "drivers/nvme/host", "lib", "crypto", "arch/x86/crypto"),
    *("drivers/net/virtio_net", "drivers/net/net_failover", "net/core/failover"),
)

INIT = """#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox insmod /virtio_blk.ko
n=0
while [ ! -b /dev/vda ] && [ $n -lt 100 ]; do /bin/busybox sleep 0.05; n=$((n+1)); done
/bin/busybox mount -t ext4 -o noatime /dev/vda /root || exec /bin/busybox sh
/bin/busybox mount --move /dev /root/dev
exec /bin/busybox switch_root /root /usr/lib/nvme-emu/agent
"""

# Talks with guest.Guest through the virtio port: "token seconds bytes", the script; answers with its
# output and a line "token status".
_AGENT = r"""#!/bin/bash
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t tmpfs tmp /tmp; mount -t tmpfs run /run
mount -t debugfs debug /sys/kernel/debug
mkdir -p /dev/shm /dev/pts /mnt; mount -t tmpfs shm /dev/shm; mount -t devpts pts /dev/pts
ip link set lo up 2>/dev/null
while [ ! -c /dev/vport0p1 ] && [ ! -c /dev/vport1p1 ]; do sleep 0.05; done
for port in /dev/vport*p1; do exec 3<>"$port"; break; done
echo ready >&3
while read -r token seconds bytes <&3; do
    head -c "$bytes" <&3 >/run/job
    timeout -k 3 "$seconds" bash /run/job >&3 2>&1 </dev/null 3>&-
    printf '\n%s %d\n' "$token" $? >&3
done
poweroff -f
"""


@dataclass(frozen=True)
class Images:
    """Paths of what QEMU is given."""

    kernel: Path
    initramfs: Path
    root: Path
    release: str


def cpio_entry(name: str, mode: int, data: bytes, inode: int) -> bytes:
    """One file of a cpio archive in the "newc" format that the kernel unpacks."""
    encoded = name.encode() + b"\0"
    numbers = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
    head = b"070701" + b"".join(b"%08x" % number for number in numbers) + encoded
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)


def _initramfs(root: Path, release: str) -> bytes:
    module = root / "usr/lib/modules" / release / "kernel/drivers/block/virtio_blk.ko.xz"
    files = [
        ("bin/busybox", 0o755, (root / "usr/bin/busybox").read_bytes()),
        ("virtio_blk.ko", 0o644, lzma.decompress(module.read_bytes())),
        ("init", 0o755, INIT.encode()),
    ]
    parts = [(name, stat.S_IFDIR | 0o755, b"") for name in ("bin", "dev", "root")]
    parts += [(name, stat.S_IFREG | mode, data) for name, mode, data in files]
    archive = b"".join(cpio_entry(name, mode, data, n) for n, (name, mode, data) in enumerate(parts, 1))
    return archive + cpio_entry("TRAILER!!!", 0, b"", 0)


def _prepare_root(root: Path, release: str) -> None:
    """What the packages' own installation scripts would have done, as far as it is needed."""
    kernel = root / "usr/lib/modules" / release / "kernel"
    for path in sorted(kernel.rglob("*.ko.xz")):
        if not any(str(path.relative_to(kernel)).startswith(wanted) for wanted in _MODULES):
            path.unlink()
    for link, target in (("awk", "mawk"), ("sh", "dash"), ("python3", "python3.13")):
        if not (root / "usr/bin" / link).exists() and (root / "usr/bin" / target).exists():
            (root / "usr/bin" / link).symlink_to(target)
    for applet in ("poweroff", "ip"):
        if not (root / "usr/sbin" / applet).exists():
            (root / "usr/sbin" / applet).symlink_to("../bin/busybox")
    for name in ("proc", "sys", "dev", "tmp", "run", "mnt", "root", "etc", "boot", "var/tmp"):
        (root / name).mkdir(parents=True, exist_ok=True)
    shutil.rmtree(root / "boot")
    (root / "boot").mkdir()
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534::/:/bin/false\n")
    (root / "etc/group").write_text("root:x:0:\nnogroup:x:65534:\n")
    mtab = root / "etc/mtab"
    if not mtab.is_symlink():
        mtab.symlink_to("/proc/self/mounts")
    (root / "etc/nvme").mkdir(exist_ok=True)
    (root / "etc/nvme/hostnqn").write_text("nqn.2014-08.org.nvmexpress:uuid:6e766d65-2d65-4d75-8000-000000000001\n")
    (root / "etc/nvme/hostid").write_text("6e766d65-2d65-4d75-8000-000000000001\n")
    agent = root / "usr/lib/nvme-emu/agent"
    agent.parent.mkdir(parents=True, exist_ok=True)
    agent.write_text(_AGENT)
    agent.chmod(0o755)


def _checked_run(command: list[str], what: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Unavailable(f"{what} failed: {' '.join((done.stderr or done.stdout).split())[-300:]}")


def find_images() -> Images:
    """The images, built the first time. Raises Unavailable with the reason where that is not possible."""
    debs = fetch(f"guest-{SUITE}-debs-{PACKAGES_REVISION}", PACKAGES)

    def make(directory: Path) -> None:
        root = directory / "unpacked"
        unpack(debs, root)
        kernels = sorted((root / "boot").glob("vmlinuz-*"))
        if not kernels:
            raise Unavailable("no kernel was unpacked")
        release = kernels[-1].name.removeprefix("vmlinuz-")
        shutil.copy(kernels[-1], directory / "vmlinuz")
        (directory / "release").write_text(release)
        (directory / "initramfs").write_bytes(_initramfs(root, release))
        _prepare_root(root, release)
        depmod = [*own_loader(root, "usr/bin/kmod")]
        _checked_run([depmod[0], "--argv0", "depmod", *depmod[1:], "-b", str(root), release], "depmod")
        image = directory / "root.ext4"
        with open(image, "wb") as file:
            os.truncate(file.fileno(), ROOT_BYTES)
        mkfs = own_loader(root, "usr/sbin/mke2fs")
        options = ["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-d", str(root), str(image)]
        _checked_run([*mkfs, *options], "mke2fs")
        shutil.rmtree(root)

    directory = made_once(f"guest-{SUITE}-{REVISION}", make)
    return Images(
        kernel=directory / "vmlinuz",
        initramfs=directory / "initramfs",
        root=directory / "root.ext4",
        release=(directory / "release").read_text(),
    )
