"""`nvme-emu serve` as a process beside the guest."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

__all__ = ["Server", "free_port", "program"]

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
    return [found] if found else [sys.executable, "-m", "nvme_emu"]


class Server:
    """Serves SSDs at `sockets` until it is closed; then `summary` is what it said about itself.

    `devices` of them over vfio-user, then one at each of `ports` of the loopback interface over NVMe/TCP.
    """

    def __init__(self, *arguments: str, devices: int = 1, ports: Sequence[int] = ()) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="nvme-emu-serve-"))
        self.sockets = [self.directory / f"ssd{number}.sock" for number in range(1, devices + 1)]
        self.log_path = self.directory / "log"
        self.summary: dict[str, Any] = {}
        self.ports = tuple(ports)
        where = [word for path in self.sockets for word in ("--vfio-user", str(path))]
        where += [word for port in self.ports for word in ("--tcp", f"127.0.0.1:{port}")]
        self._summary_path = self.directory / "summary.json"
        self._command = [*program(), "serve", *where, *arguments, f"--json={self._summary_path}"]
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start it, the first time or again. RuntimeError with its log if it does not listen."""
        with open(self.log_path, "ab") as log:
            self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + START_SECONDS
        awaited = [*(partial(_listens, path) for path in self.sockets), *(partial(_serves, p) for p in self.ports)]
        for ready in awaited:
            while not ready():
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


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _serves(port: int) -> bool:
    """Whether somebody listens on a port, without a connection that it sees."""
    with open("/proc/net/tcp") as table:
        # 0100007F is 127.0.0.1, state 0A is LISTEN.
        return any(line.split()[1:4:2] == [f"0100007F:{port:04X}", "0A"] for line in table)


def _listens(path: Path) -> bool:
    """Whether somebody would accept a connection there, without making one that it sees."""
    if not path.exists():
        return False
    with open("/proc/net/unix") as table:
        # Flags 00010000 is a socket that listens (__SO_ACCEPTCON).
        return any(line.split()[3] == "00010000" and line.rstrip().endswith(str(path)) for line in table)
