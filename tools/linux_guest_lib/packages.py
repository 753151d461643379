"""Debian packages, fetched by apt with a configuration of its own and unpacked without being installed.

Nothing on the machine is changed and root is not needed. Where to fetch from is taken from the machine's own
apt configuration: the site of its Debian packages, its proxies and its keyrings.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from .cache import Unavailable, made_once

__all__ = ["SUITE", "debian_mirror", "fetch", "unpack"]

SUITE = "trixie"
"""The Debian release of the guest, and (with its backports) of QEMU."""

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
MIRROR_VARIABLE = "NVME_EMU_DEBIAN_MIRROR"

_NOT_NEEDED = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "usr/share/bash-completion")


def _run(command: list[str], **options: object) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, **options)  # type: ignore[call-overload]
    except FileNotFoundError as error:
        raise Unavailable(f"{command[0]} is not installed") from error
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stderr.splitlines() if line.startswith("E:")] or error.stderr.splitlines()
        raise Unavailable(f"{' '.join(command[:3])} failed: {' '.join(lines[-3:])}") from error
    return str(done.stdout)


def debian_mirror() -> str:
    """Where this machine gets Debian from: $NVME_EMU_DEBIAN_MIRROR, or its own apt configuration."""
    chosen = os.environ.get(MIRROR_VARIABLE)
    if chosen:
        return chosen
    targets = _run(["apt-get", "indextargets", "--format", "$(SITE) $(ORIGIN) $(CODENAME)", "Created-By: Packages"])
    for line in targets.splitlines():
        site, _, rest = line.partition(" ")
        # Before the first apt-get update the origin is unknown; then the address must do.
        is_debian = rest.startswith("Debian ") or site.rstrip("/").endswith("/debian")
        # Security updates come from elsewhere, and that place has no backports.
        if is_debian and "security" not in rest and "security" not in site:
            return site
    raise Unavailable(
        f"apt's configuration names no Debian mirror (run apt-get update, or set {MIRROR_VARIABLE})"
    )


def _private_apt(directory: Path) -> dict[str, str]:
    """An apt that knows only SUITE and its backports, with all its state in `directory`."""
    mirror = debian_mirror()
    for name in ("state/lists/partial", "cache/archives/partial"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    signed = f"[signed-by={KEYRING}] " if Path(KEYRING).exists() else ""
    lines = [f"deb {signed}{mirror} {suite} main" for suite in (SUITE, f"{SUITE}-backports")]
    (directory / "sources.list").write_text("\n".join(lines) + "\n")
    (directory / "status").touch()
    (directory / "apt.conf").write_text(
        f'Dir::State "{directory}/state";\n'
        f'Dir::State::status "{directory}/status";\n'
        f'Dir::Cache "{directory}/cache";\n'
        f'Dir::Etc::sourcelist "{directory}/sources.list";\n'
        'Dir::Etc::sourceparts "-";\n'
        'APT::Install-Recommends "false";\n'
        'APT::Update::Post-Invoke-Success {};\n'
        'Acquire::Languages "none";\n'
        f'APT::Sandbox::User "{os.environ.get("USER") or "root"}";\n'
    )
    return {**os.environ, "APT_CONFIG": str(directory / "apt.conf")}


def fetch(name: str, packages: Iterable[str], *, backports: bool = False) -> Path:
    """A directory in the cache with these packages and all that they depend on, as .deb files."""

    def make(directory: Path) -> None:
        apt = directory / "apt"
        env = _private_apt(apt)
        _run(["apt-get", "update", "-qq"], env=env)
        target = ["-t", f"{SUITE}-backports"] if backports else []
        _run(["apt-get", "install", "-qq", "-y", "--download-only", *target, *packages], env=env)
        for deb in (apt / "cache/archives").glob("*.deb"):
            shutil.move(deb, directory / deb.name)
        shutil.rmtree(apt)

    return made_once(name, make)


def unpack(debs: Path, root: Path) -> None:
    """Unpack every package of a directory below `root`, without documentation."""
    root.mkdir(parents=True, exist_ok=True)
    # Aliased directories are links in current Debian; packages that still ship /lib must land in /usr/lib.
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / "usr" / name).mkdir(parents=True, exist_ok=True)
        if not (root / name).exists():
            (root / name).symlink_to(f"usr/{name}")
    for deb in sorted(debs.glob("*.deb")):
        _run(["dpkg-deb", "--extract", str(deb), str(root)])
    for name in _NOT_NEEDED:
        shutil.rmtree(root / name, ignore_errors=True)
