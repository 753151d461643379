"""`nvme-emu serve` as a process beside the guest."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

__all__ = ["Server", "program"]

CHECKOUT = Path(__file__).resolve().parents[2]
START_SECONDS = 20.0


def program() -> list[str]:
    """The words that start nvme-emu: $NVME_EMU, the checkout's own, or what is on the path."""
    chosen = os.environ.get("NVME_EMU")
    if chosen:
        return [chosen]
    own = CHECKOUT / ".venv/bin/nvme-emu"
    if own.exists():
        return [str(own)]
    found = shutil.which("nvme-emu")
    return [found] if found else [sys.executable, "-m", "nvme_emu.cli"]


class Server:
    """Serves SSDs at `sockets` until it is closed; then `summary` is what it said about itself."""

    def __init__(self, *arguments: str, devices: int = 1) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="nvme-emu-serve-"))
        self.sockets = [self.directory / f"ssd{number}.sock" for number in range(1, devices + 1)]
        self.log_path = self.directory / "log"
        self.summary: dict[str, Any] = {}
        where = [word for path in self.sockets for word in ("--vfio-user", str(path))]
        self._summary_path = self.directory / "summary.json"
        self._command = [*program(), "serve", *where, *arguments, f"--json={self._summary_path}"]
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start it, the first time or again. RuntimeError with its log if it does not listen."""
        with open(self.log_path, "ab") as log:
            self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + START_SECONDS
        for path in self.sockets:
            while not _listens(path):
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"nvme-emu serve does not listen: {self.log}")
                time.sleep(0.02)

    @property
    def log(self) -> str:
        """Its standard error so far."""
        return self.log_path.read_text(errors="replace")

    @property
    def pid(self) -> int:
        """The process."""
        assert self._process is not None
        return self._process.pid

    def stop(self, number: int = signal.SIGTERM) -> int:
        """End it by a signal; its exit code."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(number)
        code = self._process.wait(timeout=30)
        with contextlib.suppress(FileNotFoundError, ValueError):
            self.summary = json.loads(self._summary_path.read_text())
        return code

    def close(self) -> None:
        """End it and remove its files. A second call does nothing."""
        if self._process is not None and self._process.poll() is None:
            self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _listens(path: Path) -> bool:
    """Whether somebody would accept a connection there, without making one that it sees."""
    if not path.exists():
        return False
    with open("/proc/net/unix") as table:
        # Flags 00010000 is a socket that listens (__SO_ACCEPTCON).
        return any(line.split()[3] == "00010000" and line.rstrip().endswith(str(path)) for line in table)
