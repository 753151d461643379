"""`nvme-emu top` in a real terminal: tmux types the keys and reads the screen."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")

WAIT_S = 90.0


class Terminal:
    """A tmux session of its own server, with one program in it."""

    def __init__(self, socket: Path, command: str, width: int, height: int) -> None:
        self._tmux = ["tmux", "-S", str(socket), "-f", "/dev/null"]
        self._status = socket.with_suffix(".status")
        size = ["-x", str(width), "-y", str(height)]
        command = f"{command}; echo $? >{self._status}"
        subprocess.run([*self._tmux, "new-session", "-d", *size, command], check=True)
        subprocess.run([*self._tmux, "set-option", "-g", "remain-on-exit", "on"], check=True)

    def type(self, *keys: str) -> None:
        """Press keys, by tmux's names."""
        subprocess.run([*self._tmux, "send-keys", *keys], check=True)

    def screen(self) -> str:
        """What is on the screen."""
        return subprocess.run([*self._tmux, "capture-pane", "-p"], check=True, capture_output=True, text=True).stdout

    def end(self) -> str:
        """How the program ended: its exit status; "" while it runs. (tmux has been seen to tell nothing of it.)"""
        return self._status.read_text().strip() if self._status.exists() else ""

    def until(self, condition: Callable[[str], object]) -> str:
        """The screen as soon as the condition holds."""
        end_s = time.monotonic() + WAIT_S
        while not condition(text := self.screen()):
            assert time.monotonic() < end_s, f"it never came; the screen was\n{text}"
            time.sleep(0.05)
        return text

    def resize(self, width: int, height: int) -> None:
        """Another size, as by dragging the window."""
        subprocess.run([*self._tmux, "resize-window", "-x", str(width), "-y", str(height)], check=True)

    def close(self) -> None:
        """End the session and its server."""
        subprocess.run([*self._tmux, "kill-server"], check=False, capture_output=True)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    # COLUMNS and LINES, where somebody has set them, would hide the terminal's own size.
    command = f"env -u COLUMNS -u LINES {sys.executable} -c 'from nvme_emu.cli import main; main()' top --set size=4m"
    made = Terminal(tmp_path / "tmux.sock", command, 80, 24)
    yield made
    made.close()


def clock_ns(text: str) -> int:
    """The machine's time in the first line."""
    found = re.search(r"(\d+)\.(\d{3}) (\d{3}) (\d{3}) s", text.splitlines()[0])
    assert found is not None, text
    return int("".join(found.groups()))


def test_keys_typed_in_a_terminal_steer_the_inspector(terminal: Terminal) -> None:
    first = terminal.until(lambda text: "running" in text and "registers · ready" in text)
    terminal.until(lambda text: "running" in text and clock_ns(text) > clock_ns(first))

    terminal.type("Space")
    terminal.until(lambda text: "paused" in text)
    terminal.type("3")
    terminal.until(lambda text: "under way" in text and "executing" in text)

    before = clock_ns(terminal.screen())

    def stepped(text: str) -> bool:
        terminal.type("s")  # completions that the driver takes together have one time
        return clock_ns(text) != before

    assert "paused" in terminal.until(stepped)

    terminal.type("f")
    terminal.type("write", "Enter")
    filtered = terminal.until(lambda text: "filter: write" in text)
    assert " Read " not in "\n".join(filtered.splitlines()[3:12])
    terminal.type("Escape")
    terminal.until(lambda text: "filter: write" not in text)

    terminal.type("2")
    terminal.until(lambda text: "SQ1" in text and "not configured" in text)
    terminal.type("Enter")
    terminal.until(lambda text: "64 bytes at 0x" in text and "Base 2.1" in text)
    terminal.type("Escape")

    terminal.type("[")
    terminal.until(lambda text: "the past" in text)
    terminal.type("End")
    terminal.until(lambda text: "paused" in text)

    terminal.type("?")
    terminal.until(lambda text: "let one command complete" in text)
    terminal.type("Escape")
    terminal.until(lambda text: "let one command complete" not in text)

    terminal.resize(120, 40)
    terminal.until(lambda text: "8 faults" in text and len(text.splitlines()) >= 39)

    terminal.type("q")
    terminal.until(lambda _: terminal.end())
    assert terminal.end() == "0"
