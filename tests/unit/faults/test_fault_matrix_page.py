"""The table of outcomes in docs/faults.md is what the runs give."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_matrix_of_faults_and_outcomes_is_not_stale() -> None:
    ran = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "make_fault_matrix.py"), "--check"], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
