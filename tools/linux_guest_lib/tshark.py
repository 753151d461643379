"""Wireshark's tshark: the machine's own, else Debian's, unpacked into the cache (see `qemu`)."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from .cache import Unavailable, made_once
from .packages import SUITE, fetch, unpack
from .qemu import own_loader

__all__ = ["Tshark", "find_tshark"]


class Tshark:
    """A tshark that starts here."""

    def __init__(self, command: tuple[str, ...], environment: dict[str, str]) -> None:
        self.command = command
        self.environment = environment

    def __call__(self, *arguments: str, check: bool = True) -> str:
        """What it prints. CalledProcessError where it fails."""
        done = subprocess.run(
            [*self.command, *arguments],
            capture_output=True,
            text=True,
            check=check,
            env={**os.environ, **self.environment},
            timeout=120,
        )
        return done.stdout


def find_tshark(*, installed: bool = True) -> Tshark:
    """A tshark. Raises Unavailable with the reason where there cannot be one."""
    path = shutil.which("tshark") if installed else None
    if path is not None:
        return Tshark((path,), {})
    debs = fetch(f"tshark-{SUITE}-debs", ["tshark"])

    def make(directory: Path) -> None:
        unpack(debs, directory)

    root = made_once(f"tshark-{SUITE}", make)
    environment = {"WIRESHARK_DATA_DIR": str(root / "usr/share/wireshark")}
    tshark = Tshark(own_loader(root, "usr/bin/tshark"), environment)
    try:
        tshark("--version")
    except (OSError, subprocess.SubprocessError) as error:
        raise Unavailable(f"the unpacked tshark does not start here: {error}") from error
    return tshark
