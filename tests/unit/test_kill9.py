"""tools/kill9.py: a short run, and proof that it would find something."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"
# A kill leaves the page cache alone, so that the file system does not matter; memory is quicker.
MEMORY = Path("/dev/shm")

BROKEN = """
import sys
sys.path[:0] = [{tools!r}, {root!r}]
from nvme_emu.media import ImageMedia
from durability.runner import LostError, kills
from pathlib import Path
calls, old = [0], ImageMedia.{method}
def sometimes(self, *args):
    calls[0] += 1
    if calls[0] % 5:
        old(self, *args)
ImageMedia.{method} = sometimes
try:
    kills(Path(sys.argv[1]), 30, 3)
except LostError as error:
    print(error)
"""


def _directory(tmp_path: Path) -> Path:
    return MEMORY if os.access(MEMORY, os.W_OK) else tmp_path


def test_nothing_acknowledged_is_lost_in_two_hundred_kills(tmp_path: Path) -> None:
    command = [sys.executable, str(TOOLS / "kill9.py"), "--kills", "200", "--seed", "1", "--json"]
    done = subprocess.run([*command, "--directory", str(_directory(tmp_path))], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["kills"] == 200
    assert min(result["flushes"], result["fua"], result["saved"]) > 200


@pytest.mark.parametrize(("method", "words"), [("write", "block"), ("store_state", "feature 04h's saved value")])
def test_what_is_lost_is_found(tmp_path: Path, method: str, words: str) -> None:
    program = BROKEN.format(tools=str(TOOLS), root=str(TOOLS.parent), method=method)
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "a.img")], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("seed 3, kill ")
    assert words in done.stdout
