"""QEMU with vfio-user-pci: the machine's own if it is new enough, else Debian's, unpacked into the cache.

The unpacked one is started through its own dynamic loader with its own libraries, so that it runs on an older
Debian (or another distribution) than it was built for.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from .cache import Unavailable, made_once
from .packages import SUITE, fetch, unpack

__all__ = ["Qemu", "find_qemu"]

_LIBRARIES = "usr/lib/x86_64-linux-gnu"
_LOADER = "usr/lib64/ld-linux-x86-64.so.2"
_PROGRAM = "qemu-system-x86_64"


@dataclass(frozen=True)
class Qemu:
    """How to start it: the command's first words, and what to add to the environment."""

    command: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    version: str = ""


def own_loader(root: Path, program: str) -> tuple[str, ...]:
    """The words that start a program of an unpacked Debian root outside of it."""
    return (
        str(root / _LOADER),
        "--library-path",
        f"{root / _LIBRARIES}:{root / _LIBRARIES / 'qemu'}",
        str(root / program),
    )


def _checked(command: tuple[str, ...], environment: dict[str, str]) -> Qemu | None:
    """A Qemu if the command works and knows the device."""
    def ask(*arguments: str) -> str:
        done = subprocess.run(
            [*command, *arguments],
            capture_output=True,
            text=True,
            env={**os.environ, **environment},
            timeout=60,
        )
        return done.stdout if done.returncode == 0 else ""

    try:
        if "socket=" not in ask("-device", "vfio-user-pci,help"):
            return None
        return Qemu(command, environment, ask("--version").split("\n")[0])
    except (OSError, subprocess.TimeoutExpired):
        return None


def find_qemu() -> Qemu:
    """A QEMU that has vfio-user-pci. Raises Unavailable with the reason where there cannot be one."""
    installed = shutil.which(_PROGRAM)
    if installed is not None:
        found = _checked((installed,), {})
        if found is not None:
            return found
    debs = fetch(f"qemu-{SUITE}-debs", ["qemu-system-x86", "seabios"], backports=True)

    def make(directory: Path) -> None:
        unpack(debs, directory)

    root = made_once(f"qemu-{SUITE}", make)
    # Firmware is looked for beside the program's usual place, which is not where it is.
    command = own_loader(root, f"usr/bin/{_PROGRAM}")
    data = [word for name in ("qemu", "seabios") for word in ("-L", str(root / "usr/share" / name))]
    environment = {"QEMU_MODULE_DIR": str(root / _LIBRARIES / "qemu")}
    found = _checked((*command, *data), environment)
    if found is None:
        raise Unavailable("the unpacked QEMU does not start here, or has no vfio-user-pci")
    return found
