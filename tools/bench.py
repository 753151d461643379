"""Measure nvme-emu against fio on a tmpfs file and against the memory itself, on this machine, in one run.

    python tools/bench.py                       the table, about a minute
    python tools/bench.py --json result.json    and as JSON (standard output without a file name)
    python tools/bench.py --only 'sync_*' --rounds 7
    python tools/bench.py --sweep --plot sweep.png

docs/performance.md says what each row measures. The code is in tools/bench/, a package that wins over this
file's own name when it is imported.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent

if __name__ == "__main__":
    # The checkout that the benchmark belongs to is what it measures, installed or not.
    sys.path[:0] = [str(HERE), str(HERE.parent)]
    from bench.cli import main

    sys.exit(main())
