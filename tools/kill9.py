"""Kill a process at random points of its work on an image, and prove that nothing acknowledged is lost.

    python tools/kill9.py                        300 kills, seed 0
    python tools/kill9.py --kills 5000 --seed 7 [--json]

The process writes, flushes, writes with FUA and saves a feature, through the driver; each kill is SIGKILL. Another one
then opens the image: it must open, every block must be that of a write that may be there, whole, and at least as new as
the last Flush or FUA; the saved value at least as new as the last one that was acknowledged. The page cache outlives a
killed process: what a loss of power does is proved by tests/unit/test_power_loss.py (docs/image.md).

Exit codes: 0 nothing lost; 1 something was; 2 bad usage.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> int:
    """The command line."""
    from durability.runner import LostError, kills

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=300, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--directory", metavar="DIR", help="where the image is made (the system's temporary one)")
    parser.add_argument("--json", action="store_true", help="the result as JSON")
    options = parser.parse_args()
    if options.kills < 1:
        parser.error(f"--kills {options.kills}: at least 1")
    with tempfile.TemporaryDirectory(dir=options.directory) as directory:
        try:
            say = None if options.json else lambda text: sys.stderr.write(f"{text}\n")
            result = kills(Path(directory) / "ssd.img", options.kills, options.seed, say=say)
        except LostError as error:
            sys.stderr.write(f"{error}\n")
            return 1
    told = asdict(result)
    words = ", ".join(f"{value} {name.replace('_', ' ')}" for name, value in told.items())
    sys.stdout.write(f"{json.dumps(told) if options.json else words}\n")
    return 0


if __name__ == "__main__":
    sys.path[:0] = [str(HERE), str(HERE.parent)]
    sys.exit(main())
