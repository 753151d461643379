"""A newer kernel than the guest's own: Debian's backport, which has PCI peer-to-peer memory (CONFIG_PCI_P2PDMA).

Linux uses a Controller Memory Buffer only with it, and Debian's stable kernels lack it. All drivers are modules there,
so that the initramfs loads those of the root file system and of NVMe; the root is the guest's own, whose modules are
of another kernel.
"""

from __future__ import annotations

import lzma
import re
import shutil
import stat
from pathlib import Path

from .cache import Unavailable, made_once
from .images import INIT, Images, cpio_entry, find_images
from .packages import SUITE, fetch, unpack

__all__ = ["find_newer_images"]

PACKAGES = ("linux-image-amd64", "busybox-static")
REVISION = 1
"""Counts changes of this file that make another image."""

_WANTED = ("virtio_blk", "ext4", "crc32c_cryptoapi", "nvme")
"""Modules that are loaded with all that they depend on; one that is built in, or not there, is passed over."""


def _modules(kernel: Path) -> dict[str, bytes]:
    """The wanted modules by name, in an order in which they can be loaded."""
    paths = {path.name.removesuffix(".ko.xz").replace("-", "_"): path for path in kernel.rglob("*.ko.xz")}
    found: dict[str, bytes] = {}

    def add(name: str) -> None:
        if name in found or name not in paths:
            return
        data = lzma.decompress(paths[name].read_bytes())
        depends = re.search(rb"depends=([^\0]*)\0", data)
        for other in depends.group(1).decode().split(",") if depends else ():
            add(other.replace("-", "_"))
        found[name] = data

    for name in _WANTED:
        add(name)
    return found


def _initramfs(root: Path, modules: dict[str, bytes]) -> bytes:
    loads = "".join(f"/bin/busybox insmod /modules/{name}.ko\n" for name in modules)
    files = [
        ("bin/busybox", 0o755, (root / "usr/bin/busybox").read_bytes()),
        ("init", 0o755, INIT.replace("/bin/busybox insmod /virtio_blk.ko\n", loads).encode()),
        *((f"modules/{name}.ko", 0o644, data) for name, data in modules.items()),
    ]
    parts = [(name, stat.S_IFDIR | 0o755, b"") for name in ("bin", "dev", "root", "modules")]
    parts += [(name, stat.S_IFREG | mode, data) for name, mode, data in files]
    archive = b"".join(cpio_entry(name, mode, data, n) for n, (name, mode, data) in enumerate(parts, 1))
    return archive + cpio_entry("TRAILER!!!", 0, b"", 0)


def find_newer_images() -> Images:
    """The guest's root with that kernel, fetched the first time. Raises Unavailable with the reason."""
    debs = fetch(f"guest-{SUITE}-newer-debs-{REVISION}", PACKAGES, backports=True)

    def make(directory: Path) -> None:
        root = directory / "unpacked"
        unpack(debs, root)
        kernels = sorted([*root.glob("boot/vmlinuz-*"), *root.glob("usr/lib/modules/*/vmlinuz")])
        releases = sorted(path.name for path in (root / "usr/lib/modules").iterdir())
        if not kernels or not releases:
            raise Unavailable("no kernel was unpacked")
        shutil.copy(kernels[-1], directory / "vmlinuz")
        (directory / "release").write_text(releases[-1])
        modules = _modules(root / "usr/lib/modules" / releases[-1])
        (directory / "initramfs").write_bytes(_initramfs(root, modules))
        shutil.rmtree(root)

    directory = made_once(f"guest-{SUITE}-newer-{REVISION}", make)
    return Images(
        kernel=directory / "vmlinuz",
        initramfs=directory / "initramfs",
        root=find_images().root,
        release=(directory / "release").read_text(),
    )
