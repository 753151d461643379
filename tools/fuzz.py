"""Throw wrong input at the emulated SSD for as long as you like, and say what broke.

    python tools/fuzz.py controller                  registers, doorbells, entries, data: a minute, seed 0
    python tools/fuzz.py tcp --seconds 3600          the NVMe/TCP target's sessions
    python tools/fuzz.py vfio-user --seed 7          vfio-user messages with descriptors that lie
    python tools/fuzz.py decode                      what explains entries, registers and log pages
    python tools/fuzz.py all --seconds 600 --json result.json
    python tools/fuzz.py tcp --replay fuzz-tcp-1a2b3c4d.bin
    python tools/fuzz.py controller --engine atheris --seconds 600      guided by coverage (pip install atheris)

docs/testing.md tells what is checked and what was found. Exit codes: 0 nothing found; 1 something broke (the
input is in a file, the line that replays it is printed); 2 bad usage; 130 interrupted. The code is in tools/fuzzing/.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent

if __name__ == "__main__":
    sys.path[:0] = [str(HERE), str(HERE.parent)]
    from fuzzing.cli import main

    sys.exit(main())
