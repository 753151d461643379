#!/usr/bin/env python3
"""Writes docs/tour.md and docs/img/tour.svg from a run; `--check` says whether they are up to date (exit code 1)."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from nvme_emu.workload.tour import make_tour  # noqa: E402
from nvme_emu.workload.tour_page import readme_steps, tour_page  # noqa: E402
from nvme_emu.workload.tour_show import tour_svg  # noqa: E402


def pages() -> dict[Path, str]:
    """What is to be in which file."""
    tour = make_tour()
    return {
        ROOT / "docs" / "tour.md": tour_page(tour),
        ROOT / "docs" / "img" / "tour.svg": tour_svg(readme_steps(tour), len(tour.steps)),
    }


def main() -> int:
    """Write, or check."""
    stale = [path for path, text in pages().items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if "--check" in sys.argv[1:]:
        for path in stale:
            sys.stderr.write(f"{path.relative_to(ROOT)} is stale: run python tools/make_tour.py\n")
        return 1 if stale else 0
    for path, text in pages().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
