"""How a found failure is told of, by `explore` and `replay`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nvme_emu.testing.campaign import Finding

__all__ = ["SCHEDULE_VERSION", "finding_lines", "read_schedule", "slug_of", "write_schedule"]

SCHEDULE_VERSION = 1


def slug_of(text: str) -> str:
    """A file's name made of a node id."""
    return "".join(char if char.isalnum() or char in "-_" else "-" for char in text).strip("-")[-100:]


def write_schedule(path: Path, test: str, finding: Finding) -> None:
    """Save what replays a failure, for `nvme-emu replay TEST --schedule FILE`."""
    saved = {
        "version": SCHEDULE_VERSION,
        "test": test,
        "seed": finding.seed,
        "slack_ns": finding.slack_ns,
        "schedule": finding.schedule,
        "failure": finding.message,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(saved, indent=2) + "\n", encoding="utf-8")


def read_schedule(path: Path) -> dict[str, Any]:
    """What `write_schedule` saved. ValueError for any other file."""
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except ValueError:
        raise ValueError(f"{path}: not a schedule: no JSON") from None
    wanted = {"version": int, "test": str, "seed": int, "slack_ns": int, "schedule": str}
    if not isinstance(saved, dict) or any(not isinstance(saved.get(name), kind) for name, kind in wanted.items()):
        raise ValueError(f"{path}: not a schedule: it needs {', '.join(wanted)}")
    if saved["version"] != SCHEDULE_VERSION:
        raise ValueError(f"{path}: a schedule of version {saved['version']}; this program knows {SCHEDULE_VERSION}")
    return saved


def finding_lines(test: str, finding: Finding, path: Path | None) -> list[str]:
    """A failure in plain words: what, after how many runs, who ran when, how to see it again."""
    lines = [f"{finding.message}", f"  found in run {finding.run}, seed {finding.seed} ({finding.scheduler})"]
    if finding.seen > 1:
        lines[-1] += f", and in {finding.seen - 1} more"
    if finding.text and finding.text != finding.message:
        lines += ["", *(f"  {line}" for line in finding.text.splitlines())]
    if finding.traceback:
        lines += ["", *(f"  {line}" for line in finding.traceback.rstrip().splitlines())]
    if finding.lines:
        before = f", of {finding.switches_before}" if finding.switches_before != finding.switches else ""
        lines += ["", f"  the schedule, {finding.switches} switch(es) that are needed{before}:"]
        lines += [f"  {line}" for line in finding.lines]
    lines += ["", "  again:"]
    if path is not None:
        lines.append(f'    nvme-emu replay "{test}" --schedule {path}')
    if finding.scheduler != "exhaustive":
        how = "" if finding.scheduler == "random" else f" --scheduler {finding.scheduler}"
        lines.append(f'    nvme-emu replay "{test}" --seed {finding.seed}{how}')
    return lines
