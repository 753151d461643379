"""The command line where standard output cannot write every character."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-c", "from nvme_emu.cli import main; main()"]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
@pytest.mark.parametrize(
    "arguments",
    [["compare", "--profile", "instant", "--iodepth", "1", "--ios", "200"], ["top", "--once", "--clock", "virtual"]],
    ids=lambda arguments: arguments[0],
)
def test_output_in_a_narrow_encoding_has_question_marks_and_no_error(encoding: str, arguments: list[str]) -> None:
    environment = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*COMMAND, *arguments], env=environment, capture_output=True, timeout=100, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"?" in done.stdout
