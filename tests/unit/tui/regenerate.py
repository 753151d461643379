"""Make the fixtures anew: `python tests/unit/tui/regenerate.py [--frame]`, then look at the difference.

Without --frame only the pages are drawn again from the frame that is there. With it the frame itself is made
by a simulated machine with fault rules, half way through something.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from tui_pages import FIXTURES, FRAME_FILE, PAGES, page_file, page_text

from nvme_emu.cli.top import DEFAULT_JOB, Options, Workload, _plan
from nvme_emu.observe.state import to_json
from nvme_emu.observe.tui.frame import FindingState, Frame

FAULTS = """
version = 1
[[rules]]
id = "bad-block"
match = { lba = [18000, 18431], opcode = "read" }
then.status = { code = "Unrecovered Read Error", dnr = true }
[[rules]]
id = "slow-write"
armed = false
match = { opcode = "write" }
when = { every = 100 }
then.delay = { ns = "2ms" }
"""

IN_DOCS = r"<!-- page ([\w-]+) -->\n```\n.*?```\n<!-- end -->"

JOBS = DEFAULT_JOB.replace("size=256m", "size=8m") + """
[doomed]
ioengine=psync
rw=randread
size=1m
"""


def make_frame() -> Frame:
    """Two jobs on tlc, one of which hits a bad block, 4 ms after their start."""
    with tempfile.TemporaryDirectory() as folder:
        rules, jobs = Path(folder, "rules.toml"), Path(folder, "jobs.fio")
        rules.write_text(FAULTS, encoding="utf-8")
        jobs.write_text(JOBS, encoding="utf-8")
        options = Options(
            job_file=str(jobs), attach=None, replay=None, once=True, json_file=None, view="overview", after_ms=4.0,
            overrides=(), clock="virtual", profile="tlc", seed=7, faults=str(rules), trace=None,
        )  # fmt: skip
        workload = Workload(options, _plan(options))
        with workload.running():
            frame = workload.after(4_000_000)
    found = FindingState(
        severity="error",
        rule="cq-doorbell-beyond-tail",
        clause="Base 2.1 §3.1.4.19",
        words="CQ1 head doorbell 17 lies beyond the tail 12",
        count=3,
        ts_ns=3_912_004,
    )
    return replace(frame, title="a small workload · tlc", events=frame.events[-80:], findings=(found,))


def main() -> None:
    if "--frame" in sys.argv:
        text = json.dumps(to_json(make_frame()), indent=None, separators=(",", ":"))
        FRAME_FILE.write_text(text + "\n", encoding="utf-8")
    for page in PAGES:
        page_file(page).write_text(page_text(page), encoding="utf-8")
    docs = Path(__file__).resolve().parents[3] / "docs" / "top.md"
    docs.write_text(re.sub(IN_DOCS, _page, docs.read_text(encoding="utf-8"), flags=re.DOTALL), encoding="utf-8")


def _page(found: re.Match[str]) -> str:
    text = (FIXTURES / f"{found[1]}.txt").read_text(encoding="utf-8")
    return f"<!-- page {found[1]} -->\n```\n{text}```\n<!-- end -->"


if __name__ == "__main__":
    main()
