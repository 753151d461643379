"""Where things that take a while to make are kept, and how they are made only once."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

__all__ = ["Unavailable", "cache_directory", "made_once"]


class Unavailable(Exception):
    """A guest cannot be had on this machine; the message is the reason, for people and for skipped tests."""


def cache_directory() -> Path:
    """$NVME_EMU_CACHE, or nvme-emu in $XDG_CACHE_HOME or ~/.cache; made if it is not there."""
    chosen = os.environ.get("NVME_EMU_CACHE")
    if chosen:
        path = Path(chosen)
    else:
        path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nvme-emu"
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Unavailable(f"the cache directory cannot be made: {error}") from error
    return path


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def made_once(name: str, make: Callable[[Path], None]) -> Path:
    """The directory `name` in the cache, filled by `make(directory)` the first time.

    `make` fills a directory beside it, which is renamed when it is complete: one that was interrupted
    leaves nothing behind that looks finished. Another process that wants the same waits.
    """
    directory = cache_directory() / name
    if directory.is_dir():
        return directory
    with _locked(directory.with_name(name + ".lock")):
        if directory.is_dir():
            return directory
        unfinished = directory.with_name(name + ".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        make(unfinished)
        unfinished.rename(directory)
    return directory
