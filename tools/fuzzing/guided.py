"""The same targets with inputs that are guided by coverage: atheris, which wraps LLVM's libFuzzer for Python."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from fuzzing.runner import CASE_SECONDS, Case

__all__ = ["run_atheris"]

_WORKER = """
import sys
sys.path[:0] = {paths!r}
import atheris
with atheris.instrument_imports(include=["nvme_emu", "fuzzing"]):
    from fuzzing.cli import TARGETS
atheris.Setup(sys.argv, TARGETS[{target!r}])
atheris.Fuzz()
"""


def run_atheris(target: str, targets: Mapping[str, Case], seconds: float, seed: int, console: Console) -> int:
    """Run libFuzzer in a process of its own (it ends the process that it runs in); the exit code."""
    try:
        import atheris  # noqa: F401
    except ImportError:
        console.print("fuzz.py: --engine atheris needs it: pip install atheris")
        return 2
    here = Path(__file__).resolve().parent.parent
    worst = 0
    for name in list(targets) if target == "all" else [target]:
        with tempfile.TemporaryDirectory() as corpus:
            program = _WORKER.format(paths=[str(here), str(here.parent)], target=name)
            options = [
                f"-max_total_time={int(seconds)}", f"-seed={seed + 1}", "-max_len=4096", f"-timeout={CASE_SECONDS}",
                "-print_final_stats=1", f"-artifact_prefix=fuzz-{name}-", "-rss_limit_mb=4096",
            ]  # fmt: skip
            done = subprocess.run(
                [sys.executable, "-c", program, *options, corpus],
                env={**os.environ, "NVME_EMU_PURE": "1"},  # C cannot be seen into
                check=False,
            )
        worst = max(worst, int(done.returncode != 0))
    return worst
